//! The patch types that need no knowledge of owners: JSON patch (RFC 6902),
//! JSON merge patch (RFC 7396) and Kubernetes' strategic merge patch.

mod strategic;

use serde_json::{Map, Value};

pub use strategic::strategic;

/// A JSON patch of more operations than this is refused.
pub const MOST_OPERATIONS: usize = 10_000;

/// Why a patch does not apply.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch is no patch of its type.
    #[error("{0}")]
    Malformed(String),
    /// A JSON patch operation fails on this object.
    #[error("{0}")]
    Failed(String),
    /// Too many operations.
    #[error("The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {0}")]
    TooMany(usize),
}

/// Applies a JSON patch.
///
/// # Errors
/// When the patch is malformed, too long, or an operation fails; the target is
/// then unusable.
pub fn json(target: &mut Value, patch: Value) -> Result<(), PatchError> {
    if let Value::Array(operations) = &patch
        && operations.len() > MOST_OPERATIONS
    {
        return Err(PatchError::TooMany(operations.len()));
    }
    let patch: json_patch::Patch =
        serde_json::from_value(patch).map_err(|error| PatchError::Malformed(error.to_string()))?;
    json_patch::patch_unsafe(target, &patch).map_err(|error| PatchError::Failed(error.to_string()))
}

/// Applies a JSON merge patch: objects merge, null removes, all else replaces.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(entries) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else {
        return;
    };
    for (key, value) in entries {
        if value.is_null() {
            fields.shift_remove(&key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn merge_follows_the_rfc() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "d": [1], "e": 1});
        merge(
            &mut target,
            json!({"a": {"b": null, "x": {"y": null}}, "d": [2, 3], "e": {"f": 1}}),
        );
        assert_eq!(
            target,
            json!({"a": {"c": 2, "x": {}}, "d": [2, 3], "e": {"f": 1}})
        );
    }

    #[test]
    fn json_patch_tests_and_moves() {
        let mut target = json!({"a": 1, "l": [1, 2]});
        let patch = json!([
            {"op": "test", "path": "/a", "value": 1},
            {"op": "add", "path": "/l/-", "value": 3},
            {"op": "remove", "path": "/a"},
        ]);
        json(&mut target, patch).expect("applies");
        assert_eq!(target, json!({"l": [1, 2, 3]}));
        assert!(json(&mut target, json!([{"op": "remove", "path": "/nowhere"}])).is_err());
        assert!(json(&mut target, json!({"op": "remove"})).is_err());
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (0..9i64).prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_twice_changes_nothing_more(target in tree(), patch in tree()) {
            let mut once = target;
            merge(&mut once, patch.clone());
            let mut twice = once.clone();
            merge(&mut twice, patch);
            prop_assert_eq!(once, twice);
        }
    }
}
