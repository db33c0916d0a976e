//! Rules for `metadata` of every kind.

use dhow_schema::path::Path;
use dhow_schema::validate::{FieldError, Problem};
use serde_json::Value;

use super::rules;
use crate::resource::{Names, Resource};
use crate::tree;

/// All annotations of an object together take at most so many bytes.
const MOST_ANNOTATION_BYTES: usize = 256 * 1024;

/// What is wrong with a name.
pub(crate) fn name_rule(names: Names, name: &str) -> Option<&'static str> {
    match names {
        Names::Subdomain if name.len() > 253 => Some("must be no more than 253 bytes"),
        Names::Subdomain if !rules::is_subdomain(name) => Some(rules::SUBDOMAIN_RULE),
        Names::Label | Names::Label1035 if name.len() > 63 => Some("must be no more than 63 bytes"),
        Names::Label if !rules::is_label(name) => Some(rules::LABEL_RULE),
        Names::Label1035
            if !rules::is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) =>
        {
            Some(rules::LABEL_1035_RULE)
        }
        Names::Segment if matches!(name, "." | "..") => Some("may not be '.' or '..'"),
        Names::Segment if name.contains('/') => Some("may not contain '/'"),
        Names::Segment if name.contains('%') => Some("may not contain '%'"),
        _ => None,
    }
}

/// Checks the metadata of a new or changed object.
pub(crate) fn validate(resource: &Resource, object: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::ROOT.field("metadata");
    let name = tree::text(object, &["metadata", "name"]);
    if name.is_empty() {
        errors.push(FieldError::new(
            path.field("name"),
            Problem::Required("name or generateName is required".to_owned()),
        ));
    } else if let Some(rule) = name_rule(resource.strategy.names, name) {
        errors.push(rules::invalid(&path.field("name"), name.into(), rule));
    }
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    if let Some(labels) = metadata.get("labels") {
        rules::labels(labels, &path.field("labels"), errors);
    }
    let annotations = path.field("annotations");
    let mut size = 0;
    for (key, value) in tree::entries(metadata, &["annotations"]) {
        if let Some(rule) = rules::qualified_name(&key.to_lowercase()) {
            errors.push(rules::invalid(&annotations, key.into(), rule));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MOST_ANNOTATION_BYTES {
        errors.push(FieldError::new(
            annotations,
            Problem::TooLong(MOST_ANNOTATION_BYTES),
        ));
    }
    let finalizers = path.field("finalizers");
    for finalizer in tree::list(metadata, &["finalizers"]) {
        let text = finalizer.as_str().unwrap_or("");
        if let Some(rule) = rules::qualified_name(text) {
            errors.push(rules::invalid(&finalizers, text.into(), rule));
        }
    }
    owners(metadata, &path.field("ownerReferences"), errors);
}

fn owners(metadata: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut n_controllers = 0;
    for (index, owner) in tree::list(metadata, &["ownerReferences"])
        .iter()
        .enumerate()
    {
        let path = path.index(index);
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if tree::text(owner, &[field]).is_empty() {
                errors.push(rules::invalid(&path.field(field), "".into(), why));
            }
        }
        n_controllers += usize::from(tree::flag(owner, &["controller"]));
    }
    if n_controllers > 1 {
        errors.push(FieldError::new(
            path,
            Problem::Invalid(
                metadata["ownerReferences"].clone(),
                "Only one reference can have Controller set to true".to_owned(),
            ),
        ));
    }
}
