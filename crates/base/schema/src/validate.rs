//! Validation that a table can say: required fields and enums; and the form of
//! every field error.

use std::fmt;

use serde_json::Value;

use crate::path::Path;
use crate::types::{Presence, Shape, Types};

/// What is wrong with a field, in upstream's classes.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// It is missing.
    Required(String),
    /// It has an illegal value.
    Invalid(Value, String),
    /// It has an illegal value, shown in this text instead of as JSON.
    Shown(String, String),
    /// It is not one of the legal values.
    NotSupported(Value, Vec<String>),
    /// It may not be set, or not be changed.
    Forbidden(String),
    /// Another item has the same value.
    Duplicate(Value),
    /// It names something that is not there.
    NotFound(Value),
    /// It is longer than so many bytes.
    TooLong(usize),
    /// It has more items than so many.
    TooMany(usize, usize),
}

/// One field's problem.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path in the object.
    pub field: String,
    /// What is wrong.
    pub problem: Problem,
}

impl FieldError {
    /// An error at a path.
    pub fn new(field: impl fmt::Display, problem: Problem) -> Self {
        Self {
            field: field.to_string(),
            problem,
        }
    }

    /// `FieldValueRequired` and so on: the reason of a Status cause.
    pub fn reason(&self) -> &'static str {
        match self.problem {
            Problem::Required(_) => "FieldValueRequired",
            Problem::Invalid(..) | Problem::Shown(..) => "FieldValueInvalid",
            Problem::NotSupported(..) => "FieldValueNotSupported",
            Problem::Forbidden(_) => "FieldValueForbidden",
            Problem::Duplicate(_) => "FieldValueDuplicate",
            Problem::NotFound(_) => "FieldValueNotFound",
            Problem::TooLong(_) => "FieldValueTooLong",
            Problem::TooMany(..) => "FieldValueTooMany",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = |f: &mut fmt::Formatter<'_>, detail: &str| {
            if detail.is_empty() {
                Ok(())
            } else {
                write!(f, ": {detail}")
            }
        };
        match self {
            Self::Required(why) => {
                f.write_str("Required value")?;
                detail(f, why)
            }
            Self::Invalid(value, why) => {
                write!(f, "Invalid value: {value}")?;
                detail(f, why)
            }
            Self::Shown(shown, why) => {
                write!(f, "Invalid value: {shown}")?;
                detail(f, why)
            }
            Self::NotSupported(value, legal) => {
                write!(f, "Unsupported value: {value}")?;
                for (n, legal) in legal.iter().enumerate() {
                    let lead = if n == 0 { ": supported values: " } else { ", " };
                    write!(f, "{lead}{legal:?}")?;
                }
                Ok(())
            }
            Self::Forbidden(why) => {
                f.write_str("Forbidden")?;
                detail(f, why)
            }
            Self::Duplicate(value) => write!(f, "Duplicate value: {value}"),
            Self::NotFound(value) => write!(f, "Not found: {value}"),
            Self::TooLong(most) => write!(f, "Too long: may not be more than {most} bytes"),
            Self::TooMany(found, most) => {
                write!(f, "Too many: {found}: must have at most {most} items")
            }
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// No more errors than this are told of one object.
const MOST_ERRORS: usize = 100;

/// Checks required fields and enums; top-level `status` and `metadata` are not
/// looked at, the first belongs to components, the second to the API server.
pub fn check(types: &Types, shape: &Shape, value: &Value) -> Vec<FieldError> {
    let mut walk = Walk {
        types,
        errors: Vec::new(),
    };
    if let (Some(ty), Value::Object(entries)) = (types.of(shape), value) {
        for field in &ty.fields {
            if !matches!(&*field.name, "metadata" | "status") {
                walk.field(field, entries.get(&*field.name), &Path::ROOT);
            }
        }
    }
    walk.errors
}

struct Walk<'t> {
    types: &'t Types,
    errors: Vec<FieldError>,
}

impl Walk<'_> {
    fn push(&mut self, path: &Path<'_>, problem: Problem) {
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(FieldError::new(path, problem));
        }
    }

    fn field(&mut self, field: &crate::Field, value: Option<&Value>, parent: &Path<'_>) {
        let path = parent.field(&field.name);
        let missing = match (&field.shape, value) {
            (_, None) => true,
            (Shape::Struct(id), Some(Value::Object(entries))) => {
                // An empty struct lacks what it requires, and says that better.
                entries.is_empty() && !self.requires(*id) && !self.types.get(*id).atomic
            }
            (_, Some(Value::String(text))) => text.is_empty(),
            (_, Some(Value::Array(items))) => items.is_empty(),
            (_, Some(Value::Object(entries))) => entries.is_empty(),
            _ => false,
        };
        if missing && field.presence == Presence::Required {
            match &field.shape {
                Shape::Struct(id) if self.requires(*id) => {
                    let empty = Value::Object(serde_json::Map::new());
                    self.value(&field.shape, &empty, &path);
                }
                _ => self.push(&path, Problem::Required(String::new())),
            }
            return;
        }
        let Some(value) = value else { return };
        if !field.one_of.is_empty() {
            self.one_of(field, value, &path);
        }
        self.value(&field.shape, value, &path);
    }

    fn one_of(&mut self, field: &crate::Field, value: &Value, path: &Path<'_>) {
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.one_of(field, item, &path.index(index));
                }
            }
            Value::String(text) => {
                let legal = field.one_of.iter().any(|legal| **legal == **text);
                // An empty optional enum counts as not set.
                let unset = text.is_empty() && field.presence != Presence::Required;
                if !legal && !unset {
                    let mut legal: Vec<String> =
                        field.one_of.iter().map(|legal| legal.to_string()).collect();
                    legal.sort_unstable();
                    self.push(path, Problem::NotSupported(value.clone(), legal));
                }
            }
            _ => {}
        }
    }

    /// Whether an empty value of the type has something missing.
    fn requires(&self, id: crate::TypeId) -> bool {
        self.types
            .get(id)
            .fields
            .iter()
            .any(|field| field.presence == Presence::Required && &*field.name != "metadata")
    }

    fn value(&mut self, shape: &Shape, value: &Value, path: &Path<'_>) {
        match (shape, value) {
            (Shape::Struct(id), Value::Object(entries)) => {
                let types = self.types;
                for field in &types.get(*id).fields {
                    if &*field.name != "metadata" {
                        self.field(field, entries.get(&*field.name), path);
                    }
                }
            }
            (Shape::List(item), Value::Array(items)) => {
                for (index, value) in items.iter().enumerate() {
                    self.value(item, value, &path.index(index));
                }
            }
            (Shape::Map(item), Value::Object(entries)) => {
                for (key, value) in entries {
                    self.value(item, value, &path.key(key));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use serde_json::json;

    fn errors(kind: &str, value: &Value) -> Vec<String> {
        check(builtin(), &builtin().shape(kind), value)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn missing_fields_are_told_with_their_path() {
        assert_eq!(
            errors(
                "core/v1.Pod",
                &json!({"spec": {"containers": [{"image": "a"}]}})
            ),
            ["spec.containers[0].name: Required value"]
        );
        assert_eq!(
            errors("core/v1.Pod", &json!({})),
            ["spec.containers: Required value"]
        );
        assert_eq!(
            errors("apps/v1.Deployment", &json!({"spec": {}})),
            [
                "spec.selector: Required value",
                "spec.template.spec.containers: Required value"
            ]
        );
    }

    #[test]
    fn enums_list_what_is_legal() {
        let pod = json!({"spec": {"restartPolicy": "Never again", "containers": [{"name": "a"}]}});
        assert_eq!(
            errors("core/v1.Pod", &pod),
            [
                "spec.restartPolicy: Unsupported value: \"Never again\": supported values: \"Always\", \"Never\", \"OnFailure\""
            ]
        );
    }

    #[test]
    fn metadata_and_status_are_not_looked_at() {
        let pod = json!({"status": {"conditions": [{}]}, "spec": {"containers": [{"name": "a"}]}});
        assert!(errors("core/v1.Pod", &pod).is_empty());
    }
}
