//! Built-in admission: namespaces must live, pods get their account, priority
//! and tolerations, Services their addresses.

mod accounts;
mod addresses;
mod priority;

use serde_json::Value;

use crate::api::Api;
use crate::error::ApiError;
use crate::resource::Resource;
use crate::tree;

pub(crate) use addresses::{Addresses, Claim};
pub(crate) use priority::classes;

impl Api {
    /// Admits a new object, or says why not.
    pub(crate) async fn admit_create(
        &self,
        resource: &Resource,
        value: &mut Value,
    ) -> Result<(), ApiError> {
        if resource.namespaced {
            self.admit_namespace(resource, value).await?;
        }
        if resource.prefix == "pods" {
            self.admit_account(value).await?;
            self.admit_priority(value).await?;
            tolerate(value);
        }
        Ok(())
    }

    async fn admit_namespace(&self, resource: &Resource, value: &Value) -> Result<(), ApiError> {
        let namespaces = self.registry.known("", "namespaces");
        let namespace = tree::text(value, &["metadata", "namespace"]);
        let Some(found) = self.find(namespaces, "", namespace).await? else {
            return Err(ApiError::not_found(namespaces, namespace));
        };
        if found.field(namespaces, "status.phase") == Some("Terminating") {
            let name = tree::text(value, &["metadata", "name"]);
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let cause = format!("namespace {namespace} is being terminated");
            return Err(ApiError::forbidden(resource, name, &why).with_cause(
                "NamespaceTerminating",
                &cause,
                "metadata.namespace",
            ));
        }
        Ok(())
    }
}

/// Pods stay on a failing node for five minutes unless they say otherwise.
fn tolerate(pod: &mut Value) {
    let mut tolerations = tree::list(pod, &["spec", "tolerations"]).to_vec();
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = tolerations.iter().any(|toleration| {
            let theirs = tree::text(toleration, &["key"]);
            let effect = tree::text(toleration, &["effect"]);
            let all = theirs.is_empty() && tree::text(toleration, &["operator"]) == "Exists";
            (theirs == key || all) && matches!(effect, "" | "NoExecute")
        });
        if !tolerated {
            tolerations.push(serde_json::json!({"key": key, "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    tree::set(pod, &["spec", "tolerations"], tolerations);
}
