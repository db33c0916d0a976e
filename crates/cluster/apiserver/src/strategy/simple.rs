//! Kinds with few rules.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dhow_schema::path::Path;
use dhow_schema::validate::{FieldError, Problem};
use serde_json::{Map, Value, json};

use super::rules;
use crate::tree;

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn namespace_defaults(namespace: &mut Value) {
    let name = tree::text(namespace, &["metadata", "name"]).to_owned();
    if !name.is_empty() {
        let labels = tree::object_at(namespace, &["metadata", "labels"]);
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

pub(super) fn namespace_prepare(namespace: &mut Value) {
    namespace_defaults(namespace);
    tree::set(namespace, &["status"], json!({"phase": "Active"}));
    let finalizers = tree::object_at(namespace, &["spec"])
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    if let Value::Array(finalizers) = finalizers
        && !finalizers.iter().any(|finalizer| finalizer == "kubernetes")
    {
        finalizers.push("kubernetes".into());
    }
}

pub(super) fn pending_prepare(object: &mut Value) {
    tree::set(object, &["status"], json!({"phase": "Pending"}));
}

/// `stringData` is written, never read: it becomes `data`.
pub(super) fn secret_defaults(secret: &mut Value) {
    if let Some(Value::Object(texts)) = tree::remove(secret, &["stringData"]) {
        let data = tree::object_at(secret, &["data"]);
        for (key, text) in texts {
            let encoded = STANDARD.encode(text.as_str().unwrap_or(""));
            data.insert(key, encoded.into());
        }
    }
}

/// A Secret or ConfigMap holds at most so many bytes.
const MOST_DATA: usize = 1024 * 1024;

fn data_keys(object: &Value, fields: &[&str], errors: &mut Vec<FieldError>) -> usize {
    let mut total = 0;
    for field in fields {
        let path = Path::ROOT.field(field);
        for (key, value) in tree::entries(object, &[field]) {
            let legal = key.len() <= 253
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if !legal || key == "." || key == ".." || key.starts_with("..") {
                errors.push(rules::invalid(
                    &path.key(key),
                    key.into(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ));
            }
            total += value.as_str().map_or(0, str::len);
        }
    }
    total
}

pub(super) fn validate_secret(secret: &Value, errors: &mut Vec<FieldError>) {
    let total = data_keys(secret, &["data"], errors) / 4 * 3;
    if total > MOST_DATA {
        errors.push(FieldError::new("data", Problem::TooLong(MOST_DATA)));
    }
    let needed = match tree::text(secret, &["type"]) {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"][..],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"][..],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"][..],
        _ => &[],
    };
    let path = Path::ROOT.field("data");
    for key in needed {
        if tree::at(secret, &["data", key]).is_none() {
            errors.push(rules::required(&path.key(key)));
        }
    }
}

pub(super) fn validate_config_map(map: &Value, errors: &mut Vec<FieldError>) {
    let total = data_keys(map, &["data", "binaryData"], errors);
    if total > MOST_DATA {
        errors.push(FieldError::new("", Problem::TooLong(MOST_DATA)));
    }
}

fn immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if !tree::flag(old, &["immutable"]) {
        return;
    }
    let forbid = |field: &str| {
        FieldError::new(
            field,
            Problem::Forbidden("field is immutable when `immutable` is set".to_owned()),
        )
    };
    if !tree::flag(new, &["immutable"]) {
        errors.push(forbid("immutable"));
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            errors.push(forbid(field));
        }
    }
}

pub(super) fn secret_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if new.get("type") != old.get("type") {
        errors.push(rules::invalid(
            &Path::ROOT.field("type"),
            new.get("type").cloned().unwrap_or(Value::Null),
            "field is immutable",
        ));
    }
    immutable(new, old, &["data"], errors);
}

pub(super) fn config_map_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    immutable(new, old, &["data", "binaryData"], errors);
}

pub(super) fn endpoint_slice_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if new.get("addressType") != old.get("addressType") {
        errors.push(rules::invalid(
            &Path::ROOT.field("addressType"),
            new["addressType"].clone(),
            "field is immutable",
        ));
    }
}

pub(super) fn network_policy_defaults(policy: &mut Value) {
    let mut types = vec!["Ingress"];
    if tree::at(policy, &["spec", "egress"]).is_some() {
        types.push("Egress");
    }
    if policy.get("spec").is_some() {
        tree::set_missing(policy, &["spec", "policyTypes"], json!(types));
    }
}

pub(super) fn role_binding_defaults(binding: &mut Value) {
    if binding.get("roleRef").is_some() && tree::text(binding, &["roleRef", "apiGroup"]).is_empty()
    {
        tree::set(binding, &["roleRef", "apiGroup"], RBAC);
    }
    if let Some(subjects) = binding.get_mut("subjects").and_then(Value::as_array_mut) {
        for subject in subjects {
            if matches!(tree::text(subject, &["kind"]), "User" | "Group") {
                tree::set_missing(subject, &["apiGroup"], RBAC);
            }
        }
    }
}

pub(super) fn validate_role_binding(binding: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::ROOT.field("roleRef");
    let kind = tree::text(binding, &["roleRef", "kind"]);
    if !matches!(kind, "" | "Role" | "ClusterRole") {
        errors.push(FieldError::new(
            path.field("kind"),
            Problem::NotSupported(
                kind.into(),
                vec!["Role".to_owned(), "ClusterRole".to_owned()],
            ),
        ));
    }
    let subjects = Path::ROOT.field("subjects");
    for (index, subject) in tree::list(binding, &["subjects"]).iter().enumerate() {
        let path = subjects.index(index);
        let kind = tree::text(subject, &["kind"]);
        if kind == "ServiceAccount" && tree::text(subject, &["namespace"]).is_empty() {
            errors.push(rules::required(&path.field("namespace")));
        }
        if !matches!(kind, "" | "User" | "Group" | "ServiceAccount") {
            errors.push(FieldError::new(
                path.field("kind"),
                Problem::NotSupported(
                    kind.into(),
                    ["Group", "ServiceAccount", "User"]
                        .map(str::to_owned)
                        .to_vec(),
                ),
            ));
        }
    }
}

pub(super) fn role_binding_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if new.get("roleRef") != old.get("roleRef") {
        errors.push(rules::invalid(
            &Path::ROOT.field("roleRef"),
            new["roleRef"].clone(),
            "cannot change roleRef",
        ));
    }
}

/// Names of an event's fields in `events.k8s.io` and in the core group.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn renamed(event: &mut Value, rename: impl Fn(&str) -> Option<&'static str>) {
    let fields = std::mem::take(tree::object(event));
    let fields: Map<String, Value> = fields
        .into_iter()
        .map(|(key, value)| (rename(&key).map_or(key, str::to_owned), value))
        .collect();
    *event = Value::Object(fields);
}

pub(super) fn event_to_core(event: &mut Value) {
    renamed(event, |key| {
        EVENT_FIELDS
            .iter()
            .find(|(new, _)| *new == key)
            .map(|(_, core)| *core)
    });
    tree::set(event, &["apiVersion"], "v1");
}

pub(super) fn event_from_core(event: &mut Value) {
    renamed(event, |key| {
        EVENT_FIELDS
            .iter()
            .find(|(_, core)| *core == key)
            .map(|(new, _)| *new)
    });
    tree::set(event, &["apiVersion"], "events.k8s.io/v1");
}
