//! What people see of the scheduler: events, and the pod's condition.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::decide::Refusal;
use crate::pod::PodFacts;
use crate::preempt::Preemption;

const COMPONENT: &str = "default-scheduler";

/// The last event about a pod's refusal, which is counted on when it repeats.
#[derive(Debug, Clone)]
struct Told {
    event: String,
    message: String,
    count: i32,
}

/// Tells.
pub(crate) struct Teller {
    client: Client,
    /// By uid; forgotten when the pod is placed or gone.
    told: Mutex<HashMap<Arc<str>, Told>>,
}

impl Teller {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            told: Mutex::default(),
        }
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.told().remove(uid);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod was bound.
    pub(crate) async fn scheduled(&self, pod: &PodFacts, node: &str) {
        self.forget(&pod.uid);
        let message = format!(
            "Successfully assigned {}/{} to {node}",
            pod.namespace, pod.name
        );
        self.event(pod, "Normal", "Scheduled", &message).await;
    }

    /// No node takes the pod: condition, event, and its way to room.
    pub(crate) async fn refused(
        &self,
        pod: &PodFacts,
        refusal: &Refusal,
        preemption: Option<&Preemption>,
    ) {
        let message = if preemption.is_some() || refusal.n_nodes == 0 {
            refusal.to_string()
        } else {
            format!("{refusal} {}", refusal.no_victims())
        };
        let known = self.told().get(&pod.uid).cloned();
        let repeats = known.filter(|known| known.message == message);
        if repeats.is_none() || preemption.is_some() {
            self.condition(pod, &message, preemption).await;
        }
        if let Some(preemption) = preemption {
            self.send_away(pod, preemption).await;
        }
        let told = match repeats {
            Some(known) => {
                let events: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
                let count = known.count + 1;
                let patch = json!({ "count": count, "lastTimestamp": Time(Timestamp::now()) });
                let patched = events
                    .patch(&known.event, &PatchParams::default(), &Patch::Merge(patch))
                    .await;
                match patched {
                    Ok(_) => Some(Told { count, ..known }),
                    Err(_) => None,
                }
            }
            None => self
                .event(pod, "Warning", "FailedScheduling", &message)
                .await
                .map(|event| Told {
                    event,
                    message,
                    count: 1,
                }),
        };
        let mut all = self.told();
        match told {
            Some(told) => {
                all.insert(Arc::clone(&pod.uid), told);
            }
            None => {
                all.remove(&pod.uid);
            }
        }
    }

    async fn condition(&self, pod: &PodFacts, message: &str, preemption: Option<&Preemption>) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let mut status = json!({ "conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": Time(Timestamp::now()),
        }] });
        if let Some(preemption) = preemption {
            status["nominatedNodeName"] = json!(&*preemption.node);
        }
        let patch = Patch::Strategic(json!({ "metadata": { "uid": &*pod.uid }, "status": status }));
        let patched = pods
            .patch_status(&pod.name, &PatchParams::default(), &patch)
            .await;
        note(patched.map(|_| ()), pod, "its condition is not told");
    }

    async fn send_away(&self, pod: &PodFacts, preemption: &Preemption) {
        for victim in &preemption.victims {
            if victim.is_going {
                continue;
            }
            let message = format!("Preempted by pod {} on node {}", pod.uid, preemption.node);
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &victim.namespace);
            let patch = Patch::Strategic(json!({
                "metadata": { "uid": &*victim.uid },
                "status": { "conditions": [{
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "PreemptionByScheduler",
                    "message": format!("{COMPONENT}: preempting to accommodate a higher priority pod"),
                    "lastProbeTime": null,
                    "lastTransitionTime": Time(Timestamp::now()),
                }] },
            }));
            let patched = pods
                .patch_status(&victim.name, &PatchParams::default(), &patch)
                .await;
            note(patched.map(|_| ()), victim, "its going is not told");
            let parameters = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: Some(victim.uid.to_string()),
                    ..Preconditions::default()
                }),
                ..DeleteParams::default()
            };
            let deleted = pods.delete(&victim.name, &parameters).await;
            note(deleted.map(|_| ()), victim, "it is not sent away");
            self.event(victim, "Normal", "Preempted", &message).await;
        }
    }

    /// Makes an event; its name.
    async fn event(
        &self,
        pod: &PodFacts,
        type_: &str,
        reason: &str,
        message: &str,
    ) -> Option<String> {
        let now = Timestamp::now();
        let events: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        let suffix: u64 = rand::random();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{suffix:016x}", pod.name)),
                namespace: Some(pod.namespace.to_string()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(pod.namespace.to_string()),
                name: Some(pod.name.to_string()),
                uid: Some(pod.uid.to_string()),
                ..ObjectReference::default()
            },
            type_: Some(type_.into()),
            reason: Some(reason.into()),
            message: Some(message.into()),
            source: Some(EventSource {
                component: Some(COMPONENT.into()),
                ..EventSource::default()
            }),
            reporting_component: Some(COMPONENT.into()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        match events.create(&PostParams::default(), &event).await {
            Ok(made) => made.metadata.name,
            Err(error) => {
                note(Err(error), pod, "an event is not told");
                None
            }
        }
    }
}

/// What is told is for people: a failure is noted and nothing more.
fn note(outcome: Result<(), kube::Error>, pod: &PodFacts, what: &str) {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => tracing::info!(%error, pod = &*pod.name, "{what}"),
        Ok(()) => {}
    }
}
