//! Writing a pod's status: the newest only, in order, until it is written.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// First and longest wait after a write that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Writes a pod's status in a task of its own.
pub(super) struct Reporter {
    uid: String,
    newest: watch::Sender<(u64, Value)>,
    written: watch::Receiver<u64>,
    task: AbortHandle,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reporter {
    pub(super) fn new(client: Client, pod: &Pod) -> Self {
        let (newest, receiver) = watch::channel((0, Value::Null));
        let (sender, written) = watch::channel(0);
        let api = Api::namespaced(client, &pod.namespace().unwrap_or_default());
        let task = tokio::spawn(keep_writing(api, pod.name_any(), receiver, sender));
        Self {
            uid: pod.uid().unwrap_or_default(),
            newest,
            written,
            task: task.abort_handle(),
        }
    }

    /// Has a status written instead of all that were not written yet.
    pub(super) fn send(&self, status: &PodStatus) {
        let patch = patch(&self.uid, status);
        self.newest
            .send_modify(|newest| *newest = (newest.0 + 1, patch));
    }

    /// Whether the newest status is written.
    pub(super) fn is_settled(&self) -> bool {
        *self.written.borrow() == self.newest.borrow().0
    }

    /// Returns when one more is written.
    ///
    /// Cancel-safe.
    pub(super) async fn written(&mut self) {
        if self.written.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn keep_writing(
    pods: Api<Pod>,
    name: String,
    mut newest: watch::Receiver<(u64, Value)>,
    written: watch::Sender<u64>,
) {
    let mut wait = RETRY.0;
    while newest.changed().await.is_ok() {
        loop {
            let (number, status) = newest.borrow_and_update().clone();
            let patch = Patch::Strategic(&status);
            match pods
                .patch_status(&name, &PatchParams::default(), &patch)
                .await
            {
                // The pod is gone or another one has its name: nobody asks.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => {
                    tracing::warn!(%error, pod = name, "a pod's status was not written");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                    continue;
                }
                Ok(_) => {}
            }
            wait = RETRY.0;
            // It fails only when the worker has ended.
            let _ = written.send(number);
            break;
        }
    }
}

/// A strategic merge patch that makes the API's status this one, but for the
/// conditions of others; it is refused for another pod of the same name.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut new = json!(status);
    for field in ["podIPs", "hostIPs"] {
        if let Some(list) = new.get_mut(field).and_then(Value::as_array_mut) {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    // What a condition says no more is taken away by name, whatever of what
    // was said before has come to be written.
    let conditions = new.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    json!({ "metadata": { "uid": uid }, "status": new })
}

/// Whether two statuses say the same of what the agent answers for.
pub(super) fn is_same(known: &PodStatus, new: &PodStatus) -> bool {
    let conditions = new.conditions.iter().flatten().all(|condition| {
        let mut conditions = known.conditions.iter().flatten();
        conditions.any(|known| known == condition)
    });
    conditions
        && known.phase == new.phase
        && known.reason == new.reason
        && known.message == new.message
        && known.start_time == new.start_time
        && known.host_ip == new.host_ip
        && known.host_ips == new.host_ips
        && known.pod_ip == new.pod_ip
        && known.pod_ips == new.pod_ips
        && known.container_statuses == new.container_statuses
        && known.init_container_statuses == new.init_container_statuses
        && known.ephemeral_container_statuses == new.ephemeral_container_statuses
        && known.observed_generation == new.observed_generation
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;

    #[test]
    fn what_is_said_no_more_is_taken_away() {
        let status = PodStatus {
            conditions: Some(vec![PodCondition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                message: Some("words".to_owned()),
                ..PodCondition::default()
            }]),
            pod_ips: Some(vec![k8s_openapi::api::core::v1::PodIP {
                ip: "10.0.0.1".to_owned(),
            }]),
            ..PodStatus::default()
        };
        let patch = patch("u", &status);
        let condition = patch["status"]["conditions"][0].as_object();
        let condition = condition.expect("a condition");
        assert_eq!(condition.get("reason"), Some(&Value::Null));
        assert_eq!(condition["message"], "words");
        assert_eq!(patch["status"]["podIPs"][0]["$patch"], "replace");
        assert_eq!(patch["metadata"]["uid"], "u");
    }
}
