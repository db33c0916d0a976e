//! What is done to pods beside changing them: `binding` and `eviction`.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body;
use super::delete::Deletion;
use super::modify::{Scope, Write};
use crate::api::{Api, Body, Context, json_response};
use crate::error::ApiError;
use crate::managed::Manager;
use crate::show::serialize;
use crate::strategy;
use crate::tree;

fn success() -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Success", "code": 201});
    json_response(StatusCode::CREATED, serialize(&status))
}

impl Api {
    /// Assigns a pod to a node.
    pub(crate) async fn bind(
        &self,
        context: &Context,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let binding = body::parse(context, self.types, &bytes)?.value;
        let pods = self.registry.known("", "pods");
        let name = match &*context.target.resource {
            "bindings" => tree::text(&binding, &["metadata", "name"]).to_owned(),
            _ => context.target.name.clone(),
        };
        let node = tree::text(&binding, &["target", "name"]).to_owned();
        if node.is_empty() {
            return Err(ApiError::unprocessable(format!(
                "Binding {name:?} is invalid: target.name: Required value"
            )));
        }
        let mut write = Write::by(context, Scope::Internal)?;
        write.manager = Manager::Server;
        let time = self.time();
        let version = tree::text(&binding, &["metadata", "resourceVersion"]).to_owned();
        let uid = tree::text(&binding, &["metadata", "uid"]).to_owned();
        let namespace = &*context.target.namespace;
        self.modify(pods, namespace, &name, &write, |pod| {
            let refuse = |why: String| {
                let mut error = ApiError::conflict(pods, &name, &why);
                error.message = error.message.replacen("on pods ", "on pods/binding ", 1);
                error
            };
            let assigned = tree::text(pod, &["spec", "nodeName"]);
            if !tree::text(pod, &["metadata", "deletionTimestamp"]).is_empty() {
                return Err(refuse(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            if !assigned.is_empty() {
                return Err(refuse(format!(
                    "pod {name} is already assigned to node {assigned:?}"
                )));
            }
            if !tree::list(pod, &["spec", "schedulingGates"]).is_empty() {
                return Err(refuse(format!(
                    "pod {name} has non-empty .spec.schedulingGates"
                )));
            }
            let mut pod = pod.clone();
            for (field, given) in [("resourceVersion", &version), ("uid", &uid)] {
                if !given.is_empty() {
                    tree::set(&mut pod, &["metadata", field], given.as_str());
                }
            }
            for kind in ["annotations", "labels"] {
                for (key, value) in tree::entries(&binding, &["metadata", kind]) {
                    tree::set(&mut pod, &["metadata", kind, key], value.clone());
                }
            }
            tree::set(&mut pod, &["spec", "nodeName"], node.as_str());
            let conditions = tree::object_at(&mut pod, &["status"])
                .entry("conditions")
                .or_insert_with(|| json!([]));
            if let Value::Array(conditions) = conditions {
                conditions.retain(|condition| tree::text(condition, &["type"]) != "PodScheduled");
                conditions.push(json!({"type": "PodScheduled", "status": "True",
                    "lastProbeTime": null, "lastTransitionTime": time}));
            }
            Ok(pod)
        })
        .await?;
        Ok(success())
    }

    /// Deletes a pod unless a disruption budget forbids it.
    pub(super) async fn evict(
        &self,
        context: &Context,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let eviction = body::parse(context, self.types, &bytes)?.value;
        let options = eviction.get("deleteOptions").cloned().unwrap_or_default();
        let deletion = Deletion::parse(context, &options)?;
        let pods = self.registry.known("", "pods");
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let Some(pod) = self.find(pods, namespace, name).await? else {
            return Err(ApiError::not_found(pods, name));
        };
        let value = pod.tree();
        let phase = tree::text(&value, &["status", "phase"]);
        let going = !tree::text(&value, &["metadata", "deletionTimestamp"]).is_empty();
        if !matches!(phase, "Pending" | "Succeeded" | "Failed") && !going {
            self.spend_budget(context, namespace, name, &value).await?;
        }
        self.delete_object(pods, namespace, name, &deletion).await?;
        Ok(success())
    }

    /// Takes one disruption from every budget that covers a pod.
    async fn spend_budget(
        &self,
        context: &Context,
        namespace: &str,
        name: &str,
        pod: &Value,
    ) -> Result<(), ApiError> {
        let budgets = self.registry.known("policy", "poddisruptionbudgets");
        let (objects, _) = self.caches.of(budgets).list(&format!("{namespace}/"));
        let covering: Vec<_> = objects
            .into_iter()
            .filter(|budget| {
                let value = budget.tree();
                let selector = tree::at(&value, &["spec", "selector"]);
                selector
                    .and_then(strategy::selector_of)
                    .is_some_and(|selector| {
                        selector.matches(|key| {
                            tree::at(pod, &["metadata", "labels", key]).and_then(Value::as_str)
                        })
                    })
            })
            .collect();
        if covering.len() > 1 {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let Some(budget) = covering.first() else {
            return Ok(());
        };
        let mut write = Write::by(context, Scope::Status)?;
        write.manager = Manager::Server;
        let time = self.time();
        self.modify(budgets, namespace, &budget.name, &write, |budget| {
            let allowed = tree::int(budget, &["status", "disruptionsAllowed"]).unwrap_or(0);
            if allowed < 1 {
                return Err(ApiError::too_many_requests(
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    10,
                )
                .with_cause(
                    "DisruptionBudget",
                    "The disruption budget does not allow another disruption now.",
                    "",
                ));
            }
            let mut budget = budget.clone();
            tree::set(&mut budget, &["status", "disruptionsAllowed"], allowed - 1);
            tree::set(
                &mut budget,
                &["status", "disruptedPods", name],
                time.as_str(),
            );
            Ok(budget)
        })
        .await?;
        Ok(())
    }
}
