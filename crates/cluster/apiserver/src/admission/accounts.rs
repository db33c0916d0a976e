//! Pods act as a service account and find its token in a volume.

use serde_json::{Value, json};

use crate::api::Api;
use crate::error::ApiError;
use crate::tree;
use crate::verb::generated_name;

/// Where containers find their token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Pods mirrored from a node's files have no account.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Api {
    pub(super) async fn admit_account(&self, pod: &mut Value) -> Result<(), ApiError> {
        if tree::at(pod, &["metadata", "annotations", MIRROR]).is_some() {
            return Ok(());
        }
        let spec = tree::object_at(pod, &["spec"]);
        let account = match spec.get("serviceAccountName").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => "default".to_owned(),
        };
        spec.insert("serviceAccountName".to_owned(), account.as_str().into());
        spec.insert("serviceAccount".to_owned(), account.as_str().into());
        let accounts = self.registry.known("", "serviceaccounts");
        let namespace = tree::text(pod, &["metadata", "namespace"]).to_owned();
        let Some(found) = self.find(accounts, &namespace, &account).await? else {
            let name = tree::text(pod, &["metadata", "name"]);
            let why = format!(
                "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
            );
            return Err(ApiError::forbidden(
                self.registry.known("", "pods"),
                name,
                &why,
            ));
        };
        let found = found.tree();
        if tree::list(pod, &["spec", "imagePullSecrets"]).is_empty()
            && let Some(secrets) = found.get("imagePullSecrets")
        {
            tree::set(pod, &["spec", "imagePullSecrets"], secrets.clone());
        }
        let wanted =
            |object: &Value, path: &[&str]| tree::at(object, path).and_then(Value::as_bool);
        let mounts = wanted(pod, &["spec", "automountServiceAccountToken"])
            .or_else(|| wanted(&found, &["automountServiceAccountToken"]))
            .unwrap_or(true);
        if mounts {
            mount_token(pod);
        }
        Ok(())
    }
}

/// The projected volume with token, certificate authority and namespace.
fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt",
            "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn mount_token(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else {
        return;
    };
    let existing = tree::list(spec, &["volumes"])
        .iter()
        .map(|volume| tree::text(volume, &["name"]))
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let name = existing
        .clone()
        .unwrap_or_else(|| generated_name("kube-api-access-"));
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(field).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers {
            let mounts = tree::object(container)
                .entry("volumeMounts")
                .or_insert_with(|| json!([]));
            if let Value::Array(mounts) = mounts
                && !mounts
                    .iter()
                    .any(|mount| tree::text(mount, &["mountPath"]) == MOUNT)
            {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
                mounted = true;
            }
        }
    }
    if mounted && existing.is_none() {
        let volumes = tree::object(spec)
            .entry("volumes")
            .or_insert_with(|| json!([]));
        if let Value::Array(volumes) = volumes {
            volumes.push(token_volume(&name));
        }
    }
}
