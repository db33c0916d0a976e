//! Short ways into JSON trees.

use serde_json::{Map, Value};

/// The value at a path of field names.
pub(crate) fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

/// The text at a path; empty if there is none.
pub(crate) fn text<'v>(value: &'v Value, path: &[&str]) -> &'v str {
    at(value, path).and_then(Value::as_str).unwrap_or("")
}

/// The integer at a path.
pub(crate) fn int(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// Whether `true` stands at a path.
pub(crate) fn flag(value: &Value, path: &[&str]) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The items of the list at a path.
pub(crate) fn list<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    at(value, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The entries of the map at a path.
pub(crate) fn entries<'v>(
    value: &'v Value,
    path: &[&str],
) -> impl Iterator<Item = (&'v str, &'v Value)> + use<'v> {
    at(value, path)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (&**key, value))
}

/// The fields of a value, which becomes an object if it is none.
pub(crate) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("it was just made an object"),
    }
}

/// The fields of the struct at a path, made on the way.
pub(crate) fn object_at<'v>(value: &'v mut Value, path: &[&str]) -> &'v mut Map<String, Value> {
    let mut fields = object(value);
    for name in path {
        fields = object(fields.entry(*name).or_insert(Value::Null));
    }
    fields
}

/// Sets the value at a path, making the structs on the way.
pub(crate) fn set(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    if let Some((last, parents)) = path.split_last() {
        object_at(value, parents).insert((*last).to_owned(), new.into());
    }
}

/// Sets the value at a path unless one stands there.
pub(crate) fn set_missing(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    if at(value, path).is_none() {
        set(value, path, new);
    }
}

/// Removes the value at a path.
pub(crate) fn remove(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut value = value;
    for name in parents {
        value = value.get_mut(name)?;
    }
    value.as_object_mut()?.shift_remove(*last)
}
