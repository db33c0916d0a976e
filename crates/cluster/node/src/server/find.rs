//! Containers and sandboxes of a pod, found by the kubelet's labels.

use std::cmp::Reverse;

use http::StatusCode;

use super::StreamServer;
use super::status::Refusal;
use crate::labels::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use crate::runtime::{Container, ContainerState};

impl StreamServer {
    /// All tries at a container, the newest first.
    pub(super) async fn attempts(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Vec<Container>, Refusal> {
        let mut found = self.runtime.containers().await?;
        found.retain(|candidate| {
            let is = |label: &str, value: &str| {
                candidate.labels.get(label).is_some_and(|own| own == value)
            };
            is(POD_NAMESPACE, namespace) && is(POD_NAME, pod) && is(CONTAINER_NAME, container)
        });
        found.sort_by_key(|candidate| Reverse((candidate.created, candidate.attempt)));
        // Containers of a pod that was there before under this name are not tries
        // of this one.
        let uid = found
            .first()
            .and_then(|newest| newest.labels.get(POD_UID).cloned());
        found.retain(|candidate| candidate.labels.get(POD_UID) == uid.as_ref());
        Ok(found)
    }

    /// The identifier of the container, which must run.
    pub(super) async fn running(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<String, Refusal> {
        let attempts = self.attempts(namespace, pod, container).await?;
        attempts
            .into_iter()
            .find(|candidate| candidate.state == ContainerState::Running)
            .map(|candidate| candidate.id)
            .ok_or_else(|| {
                // The code that upstream's kubelet has for it.
                Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("container not found (\"{container}\")"),
                )
            })
    }

    /// The identifier of the pod's sandbox, which must be ready.
    pub(super) async fn sandbox(&self, namespace: &str, pod: &str) -> Result<String, Refusal> {
        let sandboxes = self.runtime.sandboxes().await?;
        sandboxes
            .into_iter()
            .filter(|sandbox| sandbox.is_ready)
            .filter(|sandbox| {
                sandbox.metadata.namespace == namespace && sandbox.metadata.name == pod
            })
            .max_by_key(|sandbox| (sandbox.created, sandbox.metadata.attempt))
            .map(|sandbox| sandbox.id)
            .ok_or_else(|| {
                Refusal::new(
                    StatusCode::NOT_FOUND,
                    format!("pod {pod}_{namespace} does not run on this node"),
                )
            })
    }
}
