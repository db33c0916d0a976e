//! Kinds that make pods from a template.

use dhow_schema::path::Path;
use dhow_schema::validate::{FieldError, Problem};
use serde_json::{Value, json};

use super::{pods, rules};
use crate::tree;

pub(super) fn template_defaults(object: &mut Value) {
    if let Some(spec) = object
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("template"))
        .and_then(|template| template.get_mut("spec"))
    {
        pods::spec_defaults(spec);
    }
}

pub(super) fn deployment_defaults(object: &mut Value) {
    template_defaults(object);
    if tree::text(object, &["spec", "strategy", "type"]) == "RollingUpdate" {
        for field in ["maxUnavailable", "maxSurge"] {
            tree::set_missing(object, &["spec", "strategy", "rollingUpdate", field], "25%");
        }
    }
}

pub(super) fn daemon_set_defaults(object: &mut Value) {
    template_defaults(object);
    if tree::text(object, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        for (field, value) in [("maxUnavailable", 1), ("maxSurge", 0)] {
            let path = ["spec", "updateStrategy", "rollingUpdate", field];
            tree::set_missing(object, &path, value);
        }
    }
}

pub(super) fn stateful_set_defaults(object: &mut Value) {
    template_defaults(object);
    if tree::text(object, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        let path = ["spec", "updateStrategy", "rollingUpdate", "partition"];
        tree::set_missing(object, &path, 0);
    }
}

pub(super) fn replication_controller_defaults(object: &mut Value) {
    template_defaults(object);
    tree::set_missing(object, &["spec", "replicas"], 1);
    let labels = tree::at(object, &["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels {
        tree::set_missing(object, &["spec", "selector"], labels.clone());
        tree::set_missing(object, &["metadata", "labels"], labels);
    }
}

pub(super) fn job_defaults(object: &mut Value) {
    template_defaults(object);
    let parallelism = tree::at(object, &["spec", "parallelism"]).is_some();
    if tree::at(object, &["spec", "completions"]).is_none() && !parallelism {
        tree::set(object, &["spec", "completions"], 1);
    }
    tree::set_missing(object, &["spec", "parallelism"], 1);
    let policy = if tree::at(object, &["spec", "podFailurePolicy"]).is_some() {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    tree::set_missing(object, &["spec", "podReplacementPolicy"], policy);
}

/// A job finds its pods by its uid unless it says otherwise.
pub(super) fn job_prepare(object: &mut Value) {
    if tree::flag(object, &["spec", "manualSelector"]) {
        return;
    }
    let uid = tree::text(object, &["metadata", "uid"]).to_owned();
    let name = tree::text(object, &["metadata", "name"]).to_owned();
    let labels = tree::object_at(object, &["spec", "template", "metadata", "labels"]);
    for (key, value) in [
        ("controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels.insert(key.to_owned(), value.as_str().into());
    }
    tree::set(
        object,
        &["spec", "selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
    );
}

pub(super) fn cron_job_defaults(object: &mut Value) {
    if let Some(spec) = object
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("jobTemplate"))
        .and_then(|template| template.get_mut("spec"))
        .and_then(|spec| spec.get_mut("template"))
        .and_then(|template| template.get_mut("spec"))
    {
        pods::spec_defaults(spec);
    }
}

/// Selector and template of a kind whose pods restart always.
pub(super) fn validate_template_owner(object: &Value, errors: &mut Vec<FieldError>) {
    let spec_path = Path::ROOT.field("spec");
    let Some(spec) = object.get("spec") else {
        return;
    };
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        if let Some(number @ ..0) = tree::int(spec, &[field]) {
            errors.push(rules::invalid(
                &spec_path.field(field),
                number.into(),
                "must be greater than or equal to 0",
            ));
        }
    }
    if let Some(selector) = spec.get("selector") {
        validate_selector(spec, selector, &spec_path, errors);
    }
    let template_path = spec_path.field("template");
    validate_template(spec, &template_path, errors);
    let policy = tree::text(spec, &["template", "spec", "restartPolicy"]);
    if !matches!(policy, "" | "Always") {
        let path = template_path.field("spec");
        errors.push(FieldError::new(
            path.field("restartPolicy"),
            Problem::NotSupported(policy.into(), vec!["Always".to_owned()]),
        ));
    }
}

fn validate_template(spec: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(labels) = tree::at(spec, &["template", "metadata", "labels"]) {
        rules::labels(labels, &path.field("labels"), errors);
    }
    if let Some(pod) = tree::at(spec, &["template", "spec"]) {
        pods::validate_spec(pod, &path.field("spec"), errors);
    }
}

fn validate_selector(
    spec: &Value,
    selector: &Value,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let selector_path = path.field("selector");
    let Some(requirements) = rules::selector_of(selector) else {
        errors.push(FieldError::new(
            selector_path,
            Problem::Shown(
                rules::go_selector(selector),
                "not a valid label selector operator".to_owned(),
            ),
        ));
        return;
    };
    if requirements.is_empty() {
        errors.push(FieldError::new(
            selector_path,
            Problem::Shown(
                rules::go_selector(selector),
                "empty selector is invalid for deployment".to_owned(),
            ),
        ));
        return;
    }
    let empty = Value::Null;
    let labels = tree::at(spec, &["template", "metadata", "labels"]).unwrap_or(&empty);
    if !requirements.matches(|key| labels.get(key).and_then(Value::as_str)) {
        let template = path.field("template");
        let metadata = template.field("metadata");
        errors.push(FieldError::new(
            metadata.field("labels"),
            Problem::Shown(
                rules::go_map(labels),
                "`selector` does not match template `labels`".to_owned(),
            ),
        ));
    }
}

pub(super) fn validate_deployment(object: &Value, errors: &mut Vec<FieldError>) {
    validate_template_owner(object, errors);
    let spec = Path::ROOT.field("spec");
    let strategy = spec.field("strategy");
    let kind = tree::text(object, &["spec", "strategy", "type"]);
    let rolling = tree::at(object, &["spec", "strategy", "rollingUpdate"]);
    let path = strategy.field("rollingUpdate");
    match (kind, rolling) {
        ("Recreate", Some(_)) => errors.push(FieldError::new(
            path,
            Problem::Forbidden(
                "may not be specified when strategy `type` is 'Recreate'".to_owned(),
            ),
        )),
        ("RollingUpdate", Some(rolling)) => {
            let zero = |field: &str| matches!(rolling.get(field), Some(value) if value == 0 || value == "0%");
            if zero("maxUnavailable") && zero("maxSurge") {
                errors.push(rules::invalid(
                    &path.field("maxUnavailable"),
                    rolling["maxUnavailable"].clone(),
                    "may not be 0 when `maxSurge` is 0",
                ));
            }
        }
        _ => {}
    }
    if let (Some(deadline), ready) = (
        tree::int(object, &["spec", "progressDeadlineSeconds"]),
        tree::int(object, &["spec", "minReadySeconds"]).unwrap_or(0),
    ) && deadline <= ready
    {
        errors.push(rules::invalid(
            &spec.field("progressDeadlineSeconds"),
            deadline.into(),
            "must be greater than minReadySeconds",
        ));
    }
}

pub(super) fn selector_is_immutable(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let selector = |object: &Value| {
        tree::at(object, &["spec", "selector"])
            .cloned()
            .unwrap_or(Value::Null)
    };
    if selector(new) != selector(old) {
        errors.push(FieldError::new(
            "spec.selector",
            Problem::Shown(
                rules::go_selector(&selector(new)),
                "field is immutable".to_owned(),
            ),
        ));
    }
}

const STATEFUL_RULE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

pub(super) fn stateful_set_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let fixed = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
        for field in [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ] {
            tree::remove(&mut spec, &[field]);
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.push(FieldError::new(
            "spec",
            Problem::Forbidden(STATEFUL_RULE.to_owned()),
        ));
    }
}

pub(super) fn validate_job(object: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::ROOT.field("spec");
    let Some(spec) = object.get("spec") else {
        return;
    };
    validate_job_spec(spec, &path, errors);
}

fn validate_job_spec(spec: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for field in [
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ] {
        if let Some(number @ ..0) = tree::int(spec, &[field]) {
            errors.push(rules::invalid(
                &path.field(field),
                number.into(),
                "must be greater than or equal to 0",
            ));
        }
    }
    let template = path.field("template");
    validate_template(spec, &template, errors);
    let policy = tree::text(spec, &["template", "spec", "restartPolicy"]);
    if !matches!(policy, "OnFailure" | "Never") {
        let spec = template.field("spec");
        errors.push(FieldError::new(
            spec.field("restartPolicy"),
            Problem::Required("valid values: \"OnFailure\", \"Never\"".to_owned()),
        ));
    }
    if tree::text(spec, &["completionMode"]) == "Indexed" && spec.get("completions").is_none() {
        errors.push(FieldError::new(
            path.field("completions"),
            Problem::Required("when completion mode is Indexed".to_owned()),
        ));
    }
}

pub(super) fn job_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    selector_is_immutable(new, old, errors);
    for field in ["template", "completionMode"] {
        let value = |object: &Value| {
            tree::at(object, &["spec", field])
                .cloned()
                .unwrap_or(Value::Null)
        };
        if value(new) != value(old) {
            let spec = Path::ROOT.field("spec");
            errors.push(rules::invalid(
                &spec.field(field),
                value(new),
                "field is immutable",
            ));
        }
    }
}

pub(super) fn validate_cron_job(object: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::ROOT.field("spec");
    let schedule = tree::text(object, &["spec", "schedule"]);
    let fields = schedule.split_whitespace().count();
    if !schedule.is_empty() && !schedule.starts_with('@') && fields != 5 {
        let why = format!("expected exactly 5 fields, found {fields}: {schedule:?}");
        errors.push(rules::invalid(
            &path.field("schedule"),
            schedule.into(),
            &why,
        ));
    }
    if let Some(spec) = tree::at(object, &["spec", "jobTemplate", "spec"]) {
        let template = path.field("jobTemplate");
        validate_job_spec(spec, &template.field("spec"), errors);
    }
}
