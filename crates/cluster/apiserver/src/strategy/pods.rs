//! Pods and pod templates.

use std::collections::HashSet;

use dhow_quantity::Quantity;
use dhow_schema::path::Path;
use dhow_schema::validate::{FieldError, Problem};
use serde_json::{Value, json};

use super::rules::{self, duplicate, invalid, required};
use crate::tree;

/// Fields of a pod's spec that hold containers.
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

pub(super) fn defaults(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else {
        return;
    };
    spec_defaults(spec);
    tree::set_missing(spec, &["enableServiceLinks"], true);
    let host_network = tree::flag(spec, &["hostNetwork"]);
    for container in containers_mut(spec) {
        let limits = tree::at(container, &["resources", "limits"]).cloned();
        if let Some(Value::Object(limits)) = limits {
            for (name, limit) in limits {
                tree::set_missing(container, &["resources", "requests", &name], limit);
            }
        }
        if host_network
            && let Some(ports) = container.get_mut("ports").and_then(Value::as_array_mut)
        {
            for port in ports {
                let number = tree::int(port, &["containerPort"]).unwrap_or(0);
                tree::set_missing(port, &["hostPort"], number);
            }
        }
    }
}

fn containers_mut(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    spec.as_object_mut()
        .into_iter()
        .flat_map(|fields| fields.iter_mut())
        .filter(|(name, _)| CONTAINERS.contains(&name.as_str()))
        .filter_map(|(_, containers)| containers.as_array_mut())
        .flatten()
}

/// Defaults of a pod's spec wherever it stands.
pub(super) fn spec_defaults(spec: &mut Value) {
    for container in containers_mut(spec) {
        let policy = pull_policy(tree::text(container, &["image"]));
        tree::set_missing(container, &["imagePullPolicy"], policy);
    }
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        for volume in volumes {
            let fields = tree::object(volume);
            if fields.keys().all(|key| key == "name") {
                fields.insert("emptyDir".to_owned(), json!({}));
            }
        }
    }
    // The deprecated name of the account is kept in step.
    let account = tree::text(spec, &["serviceAccountName"]).to_owned();
    let old = tree::text(spec, &["serviceAccount"]).to_owned();
    if !account.is_empty() {
        tree::set(spec, &["serviceAccount"], account);
    } else if !old.is_empty() {
        tree::set(spec, &["serviceAccountName"], old);
    }
}

fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit_once('/').map_or(image, |(_, last)| last);
    if last.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

pub(super) fn prepare_create(pod: &mut Value) {
    let class = qos_class(pod);
    tree::set(
        pod,
        &["status"],
        json!({"phase": "Pending", "qosClass": class}),
    );
}

pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    if let Some(class) = tree::at(old, &["status", "qosClass"]) {
        tree::set_missing(new, &["status", "qosClass"], class.clone());
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    for container in CONTAINERS
        .iter()
        .flat_map(|field| tree::list(spec, &[field]))
    {
        let resources = container.get("resources").unwrap_or(&Value::Null);
        let amount = |class: &str, name: &str| {
            tree::text(resources, &[class, name])
                .parse::<Quantity>()
                .ok()
                .filter(|quantity| !quantity.is_zero())
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", name), amount("limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

pub(super) fn validate(pod: &Value, errors: &mut Vec<FieldError>) {
    if let Some(spec) = pod.get("spec") {
        validate_spec(spec, &Path::ROOT.field("spec"), errors);
    }
}

/// Rules for a pod's spec wherever it stands.
pub(super) fn validate_spec(spec: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let volumes = validate_volumes(spec, path, errors);
    let mut names = HashSet::new();
    for field in CONTAINERS {
        let list = path.field(field);
        for (index, container) in tree::list(spec, &[field]).iter().enumerate() {
            let path = list.index(index);
            let name = tree::text(container, &["name"]);
            if !name.is_empty() {
                if !rules::is_label(name) || name.len() > 63 {
                    errors.push(invalid(&path.field("name"), name.into(), rules::LABEL_RULE));
                }
                if !names.insert(name) {
                    errors.push(duplicate(&path.field("name"), name));
                }
            }
            validate_container(container, &path, &volumes, errors);
        }
    }
    if tree::int(spec, &["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        errors.push(invalid(
            &path.field("terminationGracePeriodSeconds"),
            spec["terminationGracePeriodSeconds"].clone(),
            "must be greater than or equal to 0",
        ));
    }
    if tree::int(spec, &["activeDeadlineSeconds"]).is_some_and(|seconds| seconds < 1) {
        errors.push(invalid(
            &path.field("activeDeadlineSeconds"),
            spec["activeDeadlineSeconds"].clone(),
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    if let Some(selector) = spec.get("nodeSelector") {
        rules::labels(selector, &path.field("nodeSelector"), errors);
    }
    let hostname = tree::text(spec, &["hostname"]);
    if !hostname.is_empty() && !rules::is_label(hostname) {
        errors.push(invalid(
            &path.field("hostname"),
            hostname.into(),
            rules::LABEL_RULE,
        ));
    }
}

fn validate_volumes<'v>(
    spec: &'v Value,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> HashSet<&'v str> {
    let mut names = HashSet::new();
    let list = path.field("volumes");
    for (index, volume) in tree::list(spec, &["volumes"]).iter().enumerate() {
        let path = list.index(index);
        let name = tree::text(volume, &["name"]);
        if !name.is_empty() && (!rules::is_label(name) || name.len() > 63) {
            errors.push(invalid(&path.field("name"), name.into(), rules::LABEL_RULE));
        }
        if !names.insert(name) {
            errors.push(duplicate(&path.field("name"), name));
        }
        let sources: Vec<&str> = tree::entries(volume, &[])
            .map(|(key, _)| key)
            .filter(|key| *key != "name")
            .collect();
        for extra in sources.iter().skip(1) {
            errors.push(FieldError::new(
                path.field(extra),
                Problem::Forbidden("may not specify more than 1 volume type".to_owned()),
            ));
        }
        let host_path = tree::text(volume, &["hostPath", "path"]);
        if host_path.split('/').any(|part| part == "..") {
            let path = path.field("hostPath");
            errors.push(invalid(
                &path.field("path"),
                host_path.into(),
                "must not contain '..'",
            ));
        }
    }
    names
}

fn validate_container(
    container: &Value,
    path: &Path<'_>,
    volumes: &HashSet<&str>,
    errors: &mut Vec<FieldError>,
) {
    let image = tree::text(container, &["image"]);
    if image.is_empty() {
        errors.push(required(&path.field("image")));
    } else if image != image.trim() {
        errors.push(invalid(
            &path.field("image"),
            image.into(),
            "must not have leading or trailing whitespace",
        ));
    }
    let mut port_names = HashSet::new();
    let ports = path.field("ports");
    for (index, port) in tree::list(container, &["ports"]).iter().enumerate() {
        let path = ports.index(index);
        rules::port(
            tree::int(port, &["containerPort"]),
            &path.field("containerPort"),
            errors,
        );
        if let Some(number @ 1..) = tree::int(port, &["hostPort"]) {
            rules::port(Some(number), &path.field("hostPort"), errors);
        }
        let name = tree::text(port, &["name"]);
        if name.is_empty() {
            continue;
        }
        if let Some(rule) = port_name_rule(name) {
            errors.push(invalid(&path.field("name"), name.into(), rule));
        }
        if !port_names.insert(name) {
            errors.push(duplicate(&path.field("name"), name));
        }
    }
    let mounts = path.field("volumeMounts");
    let mut mount_paths = HashSet::new();
    for (index, mount) in tree::list(container, &["volumeMounts"]).iter().enumerate() {
        let path = mounts.index(index);
        let name = tree::text(mount, &["name"]);
        if !name.is_empty() && !volumes.contains(name) {
            errors.push(FieldError::new(
                path.field("name"),
                Problem::NotFound(name.into()),
            ));
        }
        let mount_path = tree::text(mount, &["mountPath"]);
        if !mount_path.is_empty() && !mount_paths.insert(mount_path) {
            errors.push(invalid(
                &path.field("mountPath"),
                mount_path.into(),
                "must be unique",
            ));
        }
        for field in ["subPath", "subPathExpr"] {
            let sub = tree::text(mount, &[field]);
            if sub.starts_with('/') {
                errors.push(invalid(
                    &path.field(field),
                    sub.into(),
                    "must be a relative path",
                ));
            }
            if sub.split('/').any(|part| part == "..") {
                errors.push(invalid(
                    &path.field(field),
                    sub.into(),
                    "must not contain '..'",
                ));
            }
        }
    }
    let env = path.field("env");
    for (index, variable) in tree::list(container, &["env"]).iter().enumerate() {
        let path = env.index(index);
        let name = tree::text(variable, &["name"]);
        if name.contains('=') {
            errors.push(invalid(
                &path.field("name"),
                name.into(),
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            ));
        }
        if !tree::text(variable, &["value"]).is_empty() && variable.get("valueFrom").is_some() {
            errors.push(invalid(
                &path.field("valueFrom"),
                "".into(),
                "may not be specified when `value` is not empty",
            ));
        }
    }
    validate_resources(container, &path.field("resources"), errors);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = container.get(probe) {
            validate_probe(value, &path.field(probe), errors);
        }
    }
}

fn port_name_rule(name: &str) -> Option<&'static str> {
    if name.len() > 15 {
        Some("must be no more than 15 bytes")
    } else if !rules::is_label(name) || name.contains("--") {
        Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    } else if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)")
    } else {
        None
    }
}

fn validate_probe(probe: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    let n_handlers = handlers
        .iter()
        .filter(|handler| probe.get(handler).is_some())
        .count();
    if n_handlers == 0 {
        errors.push(FieldError::new(
            path,
            Problem::Required("must specify a handler type".to_owned()),
        ));
    } else if n_handlers > 1 {
        errors.push(FieldError::new(
            path,
            Problem::Forbidden("may not specify more than 1 handler type".to_owned()),
        ));
    }
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if let Some(number @ ..0) = tree::int(probe, &[field]) {
            errors.push(invalid(
                &path.field(field),
                number.into(),
                "must be greater than or equal to 0",
            ));
        }
    }
}

fn validate_resources(container: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for class in ["limits", "requests"] {
        let class_path = path.field(class);
        for (name, text) in tree::entries(container, &["resources", class]) {
            let quantity = text.as_str().and_then(|text| text.parse::<Quantity>().ok());
            if quantity.is_some_and(|quantity| quantity.sign() < 0) {
                errors.push(invalid(
                    &class_path.key(name),
                    text.clone(),
                    "must be greater than or equal to 0",
                ));
            }
            if class == "requests" {
                let limit_text = tree::text(container, &["resources", "limits", name]);
                let limit = limit_text.parse::<Quantity>().ok();
                if let (Some(request), Some(limit)) = (quantity, limit)
                    && request > limit
                {
                    let why = format!("must be less than or equal to {name} limit of {limit}");
                    errors.push(invalid(&class_path, text.clone(), &why));
                }
            }
        }
    }
}

const UPDATE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let fixed = |pod: &Value| {
        let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
        for container in containers_mut(&mut spec) {
            tree::remove(container, &["image"]);
            // The policy follows the image's tag only when it is defaulted.
            tree::remove(container, &["resources"]);
        }
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "schedulingGates",
            "ephemeralContainers",
        ] {
            tree::remove(&mut spec, &[field]);
        }
        if tree::text(&spec, &["nodeName"]).is_empty() {
            tree::remove(&mut spec, &["nodeName"]);
        }
        spec
    };
    let kept = |field: &str| {
        tree::list(old, &["spec", field])
            .iter()
            .all(|item| tree::list(new, &["spec", field]).contains(item))
    };
    if fixed(new) != fixed(old) || !kept("tolerations") {
        errors.push(FieldError::new(
            "spec",
            Problem::Forbidden(UPDATE_RULE.to_owned()),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn quality_of_service() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(
            qos_class(&pod(json!({"requests": {"cpu": "1"}}))),
            "Burstable"
        );
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"limits": both}))), "Guaranteed");
        assert_eq!(
            qos_class(&pod(json!({"limits": both, "requests": {"cpu": "500m"}}))),
            "Burstable"
        );
    }

    #[test]
    fn rules_between_fields() {
        let pod = json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/a/../b"}}],
            "containers": [
                {"name": "a", "image": "i", "volumeMounts": [{"name": "w", "mountPath": "/w"}],
                 "ports": [{"containerPort": 0}],
                 "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}},
                {"name": "a"}]}});
        let mut errors = Vec::new();
        validate(&pod, &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.containers[0].ports[0].containerPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "spec.containers[1].name: Duplicate value: \"a\"",
                "spec.containers[1].image: Required value",
            ]
        );
    }
}
