//! From strangers' JSON to an object of a type: duplicate keys, unknown fields,
//! wrong types, and the normal form (no nulls, canonical quantities and times).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::path::Path;
use crate::types::{Field, Presence, Shape, Types};

/// A tree and the keys that were given twice in it (the last one counts).
#[derive(Debug)]
pub struct Parsed {
    /// The tree.
    pub value: Value,
    /// Paths of the keys that came again, at most [`MOST_FINDINGS`].
    pub duplicates: Vec<String>,
}

/// No more findings of one kind than this are gathered for one object.
pub const MOST_FINDINGS: usize = 64;

/// Parses JSON; nesting is bounded at 127 by the parser.
///
/// # Errors
/// When the bytes are no JSON, or nest too deep.
pub fn parse(bytes: &[u8]) -> Result<Parsed, serde_json::Error> {
    let mut context = Context::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Tree(&mut context).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Parsed {
        value,
        duplicates: context.duplicates,
    })
}

#[derive(Default)]
struct Context {
    path: String,
    duplicates: Vec<String>,
}

struct Tree<'c>(&'c mut Context);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let length = self.0.path.len();
        loop {
            self.0.path.push_str(&format!("[{}]", list.len()));
            let item = items.next_element_seed(Tree(self.0))?;
            self.0.path.truncate(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let length = self.0.path.len();
        while let Some(key) = entries.next_key::<String>()? {
            if length > 0 {
                self.0.path.push('.');
            }
            self.0.path.push_str(&key);
            let value = entries.next_value_seed(Tree(self.0))?;
            if map.insert(key, value).is_some() && self.0.duplicates.len() < MOST_FINDINGS {
                let path = self.0.path.clone();
                self.0.duplicates.push(path);
            }
            self.0.path.truncate(length);
        }
        Ok(Value::Object(map))
    }
}

/// A value that its type cannot hold, in the words of Go's decoder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// JSON of another kind.
    #[error(
        "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}"
    )]
    Kind {
        /// What stands there.
        found: String,
        /// The innermost type's name.
        owner: String,
        /// The names down to it.
        path: String,
        /// The Go type.
        expected: String,
    },
    /// The object itself is of another kind.
    #[error("json: cannot unmarshal {found} into Go value of type {expected}")]
    Whole {
        /// What was given.
        found: String,
        /// The Go type.
        expected: String,
    },
    /// A text that is not in its format.
    #[error("{0}")]
    Format(String),
}

/// A tree that conforms to its type, and the fields that had no place in it.
#[derive(Debug)]
pub struct Conformed {
    /// The tree in normal form.
    pub value: Value,
    /// Paths of the fields that were dropped, at most [`MOST_FINDINGS`].
    pub unknown: Vec<String>,
}

/// Drops what the type does not know and brings the rest to normal form.
///
/// # Errors
/// At the first value its type cannot hold.
pub fn conform(types: &Types, shape: &Shape, value: Value) -> Result<Conformed, Mismatch> {
    let mut walk = Walk {
        types,
        unknown: Vec::new(),
    };
    let owner = types.of(shape).map_or("", |ty| ty.short_name());
    let value = walk
        .value(shape, value, &Path::ROOT, owner)?
        .unwrap_or_else(|| Value::Object(Map::new()));
    Ok(Conformed {
        value,
        unknown: walk.unknown,
    })
}

struct Walk<'t> {
    types: &'t Types,
    unknown: Vec<String>,
}

impl Walk<'_> {
    /// `None` for what normal form leaves out.
    fn value(
        &mut self,
        shape: &Shape,
        value: Value,
        path: &Path<'_>,
        owner: &str,
    ) -> Result<Option<Value>, Mismatch> {
        if matches!(shape, Shape::Any) {
            return Ok(Some(value));
        }
        let mismatch = |value: &Value| Err(self.mismatch(shape, value, path, owner));
        Ok(Some(match (shape, value) {
            (_, Value::Null) => return Ok(None),
            (Shape::Bool, value @ Value::Bool(_)) => value,
            (Shape::String, value @ Value::String(_)) => value,
            (Shape::Int32, value @ Value::Number(_)) => match value.as_i64() {
                Some(n) if i32::try_from(n).is_ok() => value,
                _ => return mismatch(&value),
            },
            (Shape::Int64, value @ Value::Number(_)) => match value.as_i64() {
                Some(_) => value,
                None => return mismatch(&value),
            },
            (Shape::Double, value @ Value::Number(_)) => value,
            (Shape::IntOrString, value @ Value::String(_)) => value,
            (Shape::IntOrString, value @ Value::Number(_)) => match value.as_i64() {
                Some(n) if i32::try_from(n).is_ok() => value,
                _ => return mismatch(&value),
            },
            (Shape::Quantity, Value::String(text)) => quantity(&text)?,
            (Shape::Quantity, Value::Number(number)) => quantity(&number.to_string())?,
            (Shape::Bytes, Value::String(text)) => bytes(text)?,
            (Shape::Time, Value::String(text)) => time(&text, false)?,
            (Shape::MicroTime, Value::String(text)) => time(&text, true)?,
            (Shape::Duration, value @ Value::String(_)) => value,
            (Shape::Fields, value @ Value::Object(_)) => value,
            (Shape::List(item), Value::Array(items)) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, value) in items.into_iter().enumerate() {
                    let place = path.index(index);
                    let value = self.value(item, value, &place, owner)?;
                    list.push(value.unwrap_or_else(|| crate::types::zero(item)));
                }
                Value::Array(list)
            }
            (Shape::Map(item), Value::Object(entries)) => {
                let mut map = Map::with_capacity(entries.len());
                for (key, value) in entries {
                    let value = self.value(item, value, &path.key(&key), owner)?;
                    map.insert(key, value.unwrap_or_else(|| crate::types::zero(item)));
                }
                Value::Object(map)
            }
            (Shape::Struct(id), Value::Object(entries)) => {
                self.entries(self.types.get(*id), entries, path)?
            }
            (_, value) => return mismatch(&value),
        }))
    }

    fn entries(
        &mut self,
        ty: &crate::Type,
        entries: Map<String, Value>,
        path: &Path<'_>,
    ) -> Result<Value, Mismatch> {
        let mut map = Map::with_capacity(entries.len());
        for (name, value) in entries {
            if let Some(field) = ty.field(&name) {
                let place = path.field(&name);
                let value = self.value(&field.shape, value, &place, ty.short_name())?;
                if let Some(value) = value.filter(|value| keeps(field, value)) {
                    map.insert(name, value);
                }
            } else if ty.open || ty.is_kind && matches!(&*name, "kind" | "apiVersion") {
                map.insert(name, value);
            } else if self.unknown.len() < MOST_FINDINGS {
                self.unknown.push(path.field(&name).to_string());
            }
        }
        Ok(Value::Object(map))
    }

    fn mismatch(&self, shape: &Shape, value: &Value, path: &Path<'_>, owner: &str) -> Mismatch {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if matches!(shape, Shape::Int32 | Shape::Int64) => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let expected = go_type(self.types, shape);
        let path = path.names();
        if path.is_empty() {
            return Mismatch::Whole { found, expected };
        }
        Mismatch::Kind {
            found,
            owner: owner.to_owned(),
            path,
            expected,
        }
    }
}

/// Empty lists and maps are left out, as Go's `omitempty` does.
fn keeps(field: &Field, value: &Value) -> bool {
    let empty = match (&field.shape, value) {
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(_), Value::Object(entries)) => entries.is_empty(),
        _ => false,
    };
    !empty || field.presence != Presence::Optional
}

fn go_type(types: &Types, shape: &Shape) -> String {
    match shape {
        Shape::Bool => "bool".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Double => "float64".to_owned(),
        Shape::String | Shape::Time | Shape::MicroTime | Shape::Duration => "string".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::Fields => "v1.FieldsV1".to_owned(),
        Shape::Any => "interface {}".to_owned(),
        Shape::List(item) => format!("[]{}", go_type(types, item)),
        Shape::Map(item) => format!("map[string]{}", go_type(types, item)),
        Shape::Struct(id) => types.get(*id).go_name().to_owned(),
    }
}

fn quantity(text: &str) -> Result<Value, Mismatch> {
    match text.trim().parse::<dhow_quantity::Quantity>() {
        Ok(quantity) => Ok(Value::String(quantity.to_string())),
        Err(error) => Err(Mismatch::Format(error.to_string())),
    }
}

fn bytes(text: String) -> Result<Value, Mismatch> {
    match STANDARD.decode(&text) {
        Ok(_) => Ok(Value::String(text)),
        Err(error) => Err(Mismatch::Format(format!("illegal base64 data: {error}"))),
    }
}

fn time(text: &str, micros: bool) -> Result<Value, Mismatch> {
    let Ok(time) = text.parse::<jiff::Timestamp>() else {
        return Err(Mismatch::Format(format!(
            "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as \"2006\""
        )));
    };
    Ok(Value::String(if micros {
        print_micros(time)
    } else {
        print_seconds(time)
    }))
}

/// The form of a time: whole seconds, UTC.
pub fn print_seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The form of a micro time: six decimals, UTC.
pub fn print_micros(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use serde_json::json;

    fn conformed(kind: &str, value: Value) -> Result<Conformed, Mismatch> {
        conform(builtin(), &builtin().shape(kind), value)
    }

    #[test]
    fn duplicates_are_named() {
        let parsed = parse(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#).expect("JSON");
        assert_eq!(parsed.duplicates, ["b[0].c", "a"]);
        assert_eq!(parsed.value, json!({"a": 3, "b": [{"c": 2}]}));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let pod = json!({
            "kind": "Pod", "apiVersion": "v1",
            "spec": {"containers": [{"name": "a", "imag": "b"}], "foo": 1},
        });
        let conformed = conformed("core/v1.Pod", pod).expect("well typed");
        assert_eq!(conformed.unknown, ["spec.containers[0].imag", "spec.foo"]);
        assert_eq!(
            conformed.value,
            json!({"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [{"name": "a"}]}})
        );
    }

    #[test]
    fn normal_form() {
        let pod = json!({
            "metadata": {"labels": {}, "creationTimestamp": null, "annotations": {"a": null},
                "deletionTimestamp": "2026-01-01T01:00:00.5+01:00"},
            "spec": {"volumes": [], "containers": [
                {"name": "c", "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}}]},
        });
        assert_eq!(
            conformed("core/v1.Pod", pod).expect("well typed").value,
            json!({
                "metadata": {"annotations": {"a": ""}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"containers": [
                    {"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]},
            })
        );
    }

    #[test]
    fn wrong_types_are_told_in_gos_words() {
        let error = conformed("apps/v1.Deployment", json!({"spec": {"replicas": "3"}}))
            .expect_err("a text is no number");
        assert_eq!(
            error.to_string(),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        let error = conformed("core/v1.Pod", json!({"spec": {"containers": "x"}}))
            .expect_err("a text is no list");
        assert_eq!(
            error.to_string(),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"
        );
        assert!(conformed("core/v1.Pod", json!([])).is_err());
        assert!(conformed("core/v1.Secret", json!({"data": {"a": "?"}})).is_err());
    }
}
