//! Defaulting: the table's constant defaults, filled into a tree.
//!
//! Defaults that depend on other fields are the API server's.

use serde_json::Value;

use crate::types::{Presence, Shape, Type, Types, zero};

/// Fills every missing field that has a default, and the zero values of
/// scalars that are always written.
pub fn fill(types: &Types, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(id), Value::Object(entries)) => {
            let ty: &Type = types.get(*id);
            for field in &ty.fields {
                if !entries.contains_key(&*field.name) {
                    let missing = match (&field.default, field.presence) {
                        (Some(default), _) => default.clone(),
                        (None, Presence::Written) if is_scalar(&field.shape) => zero(&field.shape),
                        _ => continue,
                    };
                    entries.insert(field.name.to_string(), missing);
                }
                if let Some(value) = entries.get_mut(&*field.name) {
                    fill(types, &field.shape, value);
                }
            }
        }
        (Shape::List(item), Value::Array(items)) if !is_scalar(item) => {
            for value in items {
                fill(types, item, value);
            }
        }
        (Shape::Map(item), Value::Object(entries)) if !is_scalar(item) => {
            for (_, value) in entries.iter_mut() {
                fill(types, item, value);
            }
        }
        _ => {}
    }
}

fn is_scalar(shape: &Shape) -> bool {
    matches!(
        shape,
        Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double | Shape::String
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use serde_json::json;

    #[test]
    fn a_pod_gets_its_defaults() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 1}}}]}});
        fill(builtin(), &builtin().shape("core/v1.Pod"), &mut pod);
        let spec = &pod["spec"];
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        assert_eq!(spec["securityContext"], json!({}));
        let container = &spec["containers"][0];
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["livenessProbe"]["periodSeconds"], 10);
        assert_eq!(container["livenessProbe"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    }

    #[test]
    fn filling_twice_changes_nothing() {
        let mut deployment = json!({"spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "a"}]}}}});
        let shape = builtin().shape("apps/v1.Deployment");
        fill(builtin(), &shape, &mut deployment);
        let once = deployment.clone();
        fill(builtin(), &shape, &mut deployment);
        assert_eq!(deployment, once);
        assert_eq!(once["spec"]["strategy"]["type"], "RollingUpdate");
    }
}
