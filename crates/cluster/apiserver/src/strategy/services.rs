//! Services; their addresses and node ports are given by admission.

use std::collections::HashSet;

use dhow_schema::path::Path;
use dhow_schema::validate::{FieldError, Problem};
use serde_json::{Value, json};

use super::rules;
use crate::tree;

pub(super) fn defaults(service: &mut Value) {
    let Some(spec) = service.get_mut("spec") else {
        return;
    };
    let kind = tree::text(spec, &["type"]).to_owned();
    if let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) {
        for port in ports {
            let number = tree::int(port, &["port"]).unwrap_or(0);
            let target = port.get("targetPort");
            if target.is_none_or(|target| target == 0 || target == "") {
                tree::set(port, &["targetPort"], number);
            }
        }
    }
    if tree::text(spec, &["sessionAffinity"]) == "ClientIP" {
        let path = ["sessionAffinityConfig", "clientIP", "timeoutSeconds"];
        tree::set_missing(spec, &path, 10_800);
    } else {
        tree::remove(spec, &["sessionAffinityConfig"]);
    }
    if kind != "ExternalName" {
        tree::set_missing(spec, &["internalTrafficPolicy"], "Cluster");
    }
    if matches!(&*kind, "NodePort" | "LoadBalancer") {
        tree::set_missing(spec, &["externalTrafficPolicy"], "Cluster");
    } else {
        tree::remove(spec, &["externalTrafficPolicy"]);
    }
    if kind == "LoadBalancer" {
        tree::set_missing(spec, &["allocateLoadBalancerNodePorts"], true);
    } else {
        tree::remove(spec, &["allocateLoadBalancerNodePorts"]);
    }
}

pub(super) fn prepare_create(service: &mut Value) {
    tree::set(service, &["status"], json!({"loadBalancer": {}}));
}

pub(super) fn validate(service: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::ROOT.field("spec");
    let Some(spec) = service.get("spec") else {
        errors.push(rules::required(&path.field("ports")));
        return;
    };
    let kind = tree::text(spec, &["type"]);
    let ports = tree::list(spec, &["ports"]);
    let ports_path = path.field("ports");
    let headless = tree::text(spec, &["clusterIP"]) == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(rules::required(&ports_path));
    }
    let mut names = HashSet::new();
    let mut numbers = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = ports_path.index(index);
        let name = tree::text(port, &["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.push(rules::required(&path.field("name")));
        } else if !name.is_empty() {
            if !rules::is_label(name) {
                errors.push(rules::invalid(
                    &path.field("name"),
                    name.into(),
                    rules::LABEL_RULE,
                ));
            }
            if !names.insert(name) {
                errors.push(rules::duplicate(&path.field("name"), name));
            }
        }
        let number = tree::int(port, &["port"]);
        rules::port(number, &path.field("port"), errors);
        if let Some(target) = tree::int(port, &["targetPort"]) {
            rules::port(Some(target), &path.field("targetPort"), errors);
        }
        if !numbers.insert((number, tree::text(port, &["protocol"]))) {
            errors.push(FieldError::new(
                path,
                Problem::Duplicate(json!({"port": number, "protocol": port["protocol"]})),
            ));
        }
        if kind == "ClusterIP" && tree::int(port, &["nodePort"]).unwrap_or(0) != 0 {
            errors.push(FieldError::new(
                path.field("nodePort"),
                Problem::Forbidden("may not be used when `type` is 'ClusterIP'".to_owned()),
            ));
        }
    }
    if let Some(selector) = spec.get("selector") {
        rules::labels(selector, &path.field("selector"), errors);
    }
    let external = tree::text(spec, &["externalName"]);
    if kind == "ExternalName" && external.is_empty() {
        errors.push(rules::required(&path.field("externalName")));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.push(rules::invalid(
            &path.field("clusterIP"),
            "None".into(),
            &why,
        ));
    }
}

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let ip = |object| tree::text(object, &["spec", "clusterIP"]);
    let external = |object| tree::text(object, &["spec", "type"]) == "ExternalName";
    if !external(new) && !external(old) && !ip(old).is_empty() && ip(new) != ip(old) {
        for field in ["clusterIPs[0]", "clusterIP"] {
            errors.push(FieldError::new(
                format!("spec.{field}"),
                Problem::Invalid(
                    if field == "clusterIP" {
                        ip(new).into()
                    } else {
                        json!([ip(new)])
                    },
                    "may not change once set".to_owned(),
                ),
            ));
        }
    }
}
