//! Strategic merge patch: merge patch that knows which lists merge by key.

use serde_json::{Map, Value};

use super::PatchError;
use crate::types::{Field, Merge, Shape, Types};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch to an object of a type.
///
/// # Errors
/// When a directive is malformed, an item lacks its merge key, or the patch is
/// no object.
pub fn strategic(
    types: &Types,
    shape: &Shape,
    target: &mut Value,
    patch: Value,
) -> Result<(), PatchError> {
    match (&mut *target, patch) {
        (Value::Object(fields), Value::Object(patch)) => map(types, shape, fields, patch),
        _ => malformed("a strategic merge patch is an object".to_owned()),
    }
}

fn malformed<T>(why: String) -> Result<T, PatchError> {
    Err(PatchError::Malformed(why))
}

fn map(
    types: &Types,
    shape: &Shape,
    target: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<(), PatchError> {
    match patch.shift_remove(DIRECTIVE).as_ref().map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *target = patch;
            return Ok(());
        }
        Some(Some("delete")) => {
            target.clear();
            return Ok(());
        }
        Some(other) => {
            return malformed(format!("unknown patch type found: {other:?}"));
        }
    }
    if let Some(retained) = patch.shift_remove(RETAIN) {
        let Value::Array(retained) = retained else {
            return malformed("$retainKeys must be a list of field names".to_owned());
        };
        for key in patch.keys().filter(|key| !key.starts_with('$')) {
            if !retained.iter().any(|name| name == key) {
                return malformed(format!(
                    "{key} is in the patch but not in its $retainKeys list"
                ));
            }
        }
        target.retain(|key, _| retained.iter().any(|name| name == key));
    }
    let mut orders = Map::new();
    let mut deletions = Map::new();
    patch.retain(|key, value| {
        let list = match (key.strip_prefix(ORDER), key.strip_prefix(DELETE)) {
            (Some(name), _) => (&mut orders, name),
            (_, Some(name)) => (&mut deletions, name),
            _ => return true,
        };
        list.0.insert(list.1.to_owned(), value.take());
        false
    });
    for (key, deleted) in deletions {
        if let (Some(Value::Array(items)), Value::Array(deleted)) = (target.get_mut(&key), deleted)
        {
            items.retain(|item| !deleted.contains(item));
        }
    }
    for (key, value) in patch {
        let (field, inner) = child(types, shape, &key);
        let order = orders.shift_remove(&key);
        if value.is_null() {
            target.shift_remove(&key);
            continue;
        }
        let replaces = field
            .and_then(|field| field.patch.as_ref())
            .is_some_and(|patch| patch.merge == Merge::Replace && !patch.retain_keys);
        match value {
            Value::Object(entries) => {
                let slot = target.entry(key).or_insert(Value::Null);
                if replaces || !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(fields) = slot {
                    map(types, &inner, fields, entries)?;
                }
            }
            Value::Array(items) if field.is_some_and(merges) => {
                let field = field.expect("just looked at");
                let slot = target.entry(key).or_insert(Value::Null);
                if !slot.is_array() {
                    *slot = Value::Array(Vec::new());
                }
                if let Value::Array(live) = slot {
                    list(types, field, live, items, order)?;
                }
            }
            value => {
                target.insert(key, value);
            }
        }
    }
    // An order without items still orders.
    for (key, order) in orders {
        let (field, _) = child(types, shape, &key);
        if let (Some(field), Some(Value::Array(live)), Value::Array(order)) =
            (field, target.get_mut(&key), order)
        {
            let server = live.clone();
            *live = ordered(key_of(field), std::mem::take(live), &order, &server);
        }
    }
    Ok(())
}

fn merges(field: &Field) -> bool {
    field
        .patch
        .as_ref()
        .is_some_and(|patch| patch.merge == Merge::Items)
}

fn key_of(field: &Field) -> Option<&str> {
    field.patch.as_ref().and_then(|patch| patch.key.as_deref())
}

/// The field of a name and the shape of its value.
fn child<'t>(types: &'t Types, shape: &Shape, key: &str) -> (Option<&'t Field>, Shape) {
    match shape {
        Shape::Struct(id) => match types.get(*id).field(key) {
            Some(field) => (Some(field), field.shape.clone()),
            None => (None, Shape::Any),
        },
        Shape::Map(inner) => (None, (**inner).clone()),
        _ => (None, Shape::Any),
    }
}

fn list(
    types: &Types,
    field: &Field,
    live: &mut Vec<Value>,
    mut patch: Vec<Value>,
    order: Option<Value>,
) -> Result<(), PatchError> {
    let server = live.clone();
    let Shape::List(item_shape) = &field.shape else {
        return malformed(format!("{} is no list", field.name));
    };
    match key_of(field) {
        Some(key) => {
            let replace = |item: &Value| item.get(DIRECTIVE).is_some_and(|word| word == "replace");
            if patch.iter().any(replace) {
                patch.retain(|item| !replace(item));
                *live = patch;
                return Ok(());
            }
            for item in patch {
                let Value::Object(mut entries) = item else {
                    return malformed(format!("{} holds objects", field.name));
                };
                let Some(name) = entries.get(key).cloned() else {
                    return malformed(format!(
                        "map: {} does not contain declared merge key: {key}",
                        Value::Object(entries)
                    ));
                };
                let at = live.iter().position(|item| item.get(key) == Some(&name));
                if entries.get(DIRECTIVE).is_some_and(|word| word == "delete") {
                    live.retain(|item| item.get(key) != Some(&name));
                } else if let Some(Value::Object(fields)) = at.map(|at| &mut live[at]) {
                    map(types, item_shape, fields, entries)?;
                } else {
                    entries.shift_remove(DIRECTIVE);
                    let mut fields = Map::new();
                    map(types, item_shape, &mut fields, entries)?;
                    live.push(Value::Object(fields));
                }
            }
        }
        None => {
            for item in patch {
                if !live.contains(&item) {
                    live.push(item);
                }
            }
        }
    }
    if let Some(Value::Array(order)) = order {
        *live = ordered(key_of(field), std::mem::take(live), &order, &server);
    }
    Ok(())
}

/// Brings listed items into the given order; items the order does not list keep
/// their order, each before the first listed item that stood after it.
fn ordered(key: Option<&str>, items: Vec<Value>, order: &[Value], server: &[Value]) -> Vec<Value> {
    let same = |a: &Value, b: &Value| match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    };
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item));
    let (mut listed, mut others): (Vec<Value>, Vec<Value>) = items
        .into_iter()
        .partition(|item| place(order, item).is_some());
    listed.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(server, item));
    let mut result = Vec::with_capacity(listed.len() + others.len());
    let mut listed = listed.into_iter().peekable();
    for other in others {
        let own = place(server, &other);
        while let Some(next) = listed.peek() {
            let theirs = place(server, next);
            if let (Some(own), Some(theirs)) = (own, theirs)
                && own < theirs
            {
                break;
            }
            result.extend(listed.next());
        }
        result.push(other);
    }
    result.extend(listed);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use serde_json::json;

    fn patched(kind: &str, mut target: Value, patch: Value) -> Value {
        strategic(builtin(), &builtin().shape(kind), &mut target, patch).expect("applies");
        target
    }

    #[test]
    fn containers_merge_by_name() {
        let live = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "y"}]},
            {"name": "b", "$patch": "delete"}, {"name": "c"}]}});
        assert_eq!(
            patched("core/v1.Pod", live, patch),
            json!({"spec": {"containers": [
                {"name": "a", "image": "2", "env": [{"name": "X", "value": "y"}]}, {"name": "c"}]}})
        );
    }

    #[test]
    fn order_is_set() {
        let live = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "s"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}],
            "containers": [{"name": "n"}]}});
        let result = patched("core/v1.Pod", live, patch);
        let names: Vec<&Value> = result["spec"]["containers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|item| &item["name"])
            .collect();
        assert_eq!(names, ["b", "n", "a", "s"]);
    }

    #[test]
    fn primitive_lists_lose_and_gain() {
        let live = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}});
        assert_eq!(
            patched("core/v1.Pod", live, patch),
            json!({"metadata": {"finalizers": ["b", "c"]}})
        );
    }

    #[test]
    fn retained_keys_clear_the_rest() {
        let live = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            patched("apps/v1.Deployment", live, patch),
            json!({"spec": {"strategy": {"type": "Recreate"}}})
        );
    }

    #[test]
    fn directives_replace_and_atomic_lists_are_replaced() {
        let live = json!({"spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "a", "args": ["1"]}]}});
        let patch = json!({"spec": {"nodeSelector": {"$patch": "replace", "c": "d"},
            "containers": [{"name": "a", "args": ["2", "3"]}]}});
        assert_eq!(
            patched("core/v1.Pod", live, patch),
            json!({"spec": {"nodeSelector": {"c": "d"}, "containers": [{"name": "a", "args": ["2", "3"]}]}})
        );
    }

    #[test]
    fn malformed_patches_are_refused() {
        let shape = builtin().shape("core/v1.Pod");
        for patch in [
            json!([]),
            json!({"spec": {"containers": [{"image": "x"}]}}),
            json!({"spec": {"$patch": "wobble"}}),
            json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
        ] {
            assert!(strategic(builtin(), &shape, &mut json!({}), patch).is_err());
        }
    }
}
