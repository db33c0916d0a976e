//! Rules that many kinds share: names, labels, and how illegal values are shown.

use dhow_schema::path::Path;
use dhow_schema::validate::{FieldError, Problem};
use serde_json::Value;

use crate::tree;

pub(crate) const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
pub(crate) const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
pub(crate) const LABEL_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const NAME_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

pub(crate) fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

pub(crate) fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_name_part(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// What is wrong with a qualified name such as `example.com/name`.
pub(crate) fn qualified_name(name: &str) -> Option<&'static str> {
    let part = match name.split_once('/') {
        Some((prefix, part)) => {
            if prefix.is_empty() {
                return Some("prefix part must be non-empty");
            }
            if !is_subdomain(prefix) || prefix.len() > 253 {
                return Some(SUBDOMAIN_RULE);
            }
            part
        }
        None => name,
    };
    if part.is_empty() {
        Some("name part must be non-empty")
    } else if part.len() > 63 {
        Some("name part must be no more than 63 bytes")
    } else if !is_name_part(part) {
        Some(NAME_RULE)
    } else {
        None
    }
}

/// What is wrong with a label's value.
pub(crate) fn label_value(value: &str) -> Option<&'static str> {
    if value.len() > 63 {
        Some("must be no more than 63 bytes")
    } else if !value.is_empty() && !is_name_part(value) {
        Some(VALUE_RULE)
    } else {
        None
    }
}

/// Checks a map of labels.
pub(crate) fn labels(labels: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (key, value) in tree::entries(labels, &[]) {
        if let Some(rule) = qualified_name(key) {
            errors.push(invalid(path, key.into(), rule));
        }
        let value = value.as_str().unwrap_or("");
        if let Some(rule) = label_value(value) {
            errors.push(invalid(path, value.into(), rule));
        }
    }
}

/// An illegal value at a path.
pub(crate) fn invalid(path: &Path<'_>, value: Value, why: &str) -> FieldError {
    FieldError::new(path, Problem::Invalid(value, why.to_owned()))
}

/// A missing value at a path.
pub(crate) fn required(path: &Path<'_>) -> FieldError {
    FieldError::new(path, Problem::Required(String::new()))
}

/// A duplicate value at a path.
pub(crate) fn duplicate(path: &Path<'_>, value: &str) -> FieldError {
    FieldError::new(path, Problem::Duplicate(value.into()))
}

/// Checks that a number is a port.
pub(crate) fn port(number: Option<i64>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let number = number.unwrap_or(0);
    if !(1..=65535).contains(&number) {
        errors.push(invalid(
            path,
            number.into(),
            "must be between 1 and 65535, inclusive",
        ));
    }
}

/// A map of texts in Go's notation, sorted by key as Go prints it.
pub(crate) fn go_map(map: &Value) -> String {
    let mut pairs: Vec<String> = tree::entries(map, &[])
        .map(|(key, value)| format!("{key:?}:{:?}", value.as_str().unwrap_or("")))
        .collect();
    if pairs.is_empty() {
        return "map[string]string(nil)".to_owned();
    }
    pairs.sort_unstable();
    format!("map[string]string{{{}}}", pairs.join(", "))
}

/// A label selector in Go's notation.
pub(crate) fn go_selector(selector: &Value) -> String {
    let labels = go_map(selector.get("matchLabels").unwrap_or(&Value::Null));
    let expressions: Vec<String> = tree::list(selector, &["matchExpressions"])
        .iter()
        .map(|expression| {
            let values: Vec<String> = tree::list(expression, &["values"])
                .iter()
                .map(|value| format!("{:?}", value.as_str().unwrap_or("")))
                .collect();
            format!(
                "v1.LabelSelectorRequirement{{Key:{:?}, Operator:{:?}, Values:[]string{{{}}}}}",
                tree::text(expression, &["key"]),
                tree::text(expression, &["operator"]),
                values.join(", ")
            )
        })
        .collect();
    let expressions = if expressions.is_empty() {
        "[]v1.LabelSelectorRequirement(nil)".to_owned()
    } else {
        format!(
            "[]v1.LabelSelectorRequirement{{{}}}",
            expressions.join(", ")
        )
    };
    format!("v1.LabelSelector{{MatchLabels:{labels}, MatchExpressions:{expressions}}}")
}

/// A LabelSelector as requirements; `None` if an operator is unknown.
pub(crate) fn selector_of(selector: &Value) -> Option<dhow_selector::LabelSelector> {
    use dhow_selector::{LabelSelector, Operator, Requirement};
    let mut requirements = LabelSelector::exact(
        tree::entries(selector, &["matchLabels"])
            .map(|(key, value)| (key, value.as_str().unwrap_or(""))),
    )
    .requirements;
    for expression in tree::list(selector, &["matchExpressions"]) {
        requirements.push(Requirement {
            key: tree::text(expression, &["key"]).to_owned(),
            operator: match tree::text(expression, &["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return None,
            },
            values: tree::list(expression, &["values"])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        });
    }
    Some(LabelSelector { requirements })
}
