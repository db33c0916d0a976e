//! Events: what happened to pods and to the node, in words for people.
//!
//! Bounded at both ends: what does not fit in the queue is dropped, the same
//! words about the same thing raise a count instead of making an object, and
//! an object that has much to tell is heard less and less often.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

use crate::time;

/// Events that may wait.
const N_WAITING: usize = 512;
/// Different events that are remembered to be counted.
const N_REMEMBERED: usize = 1024;
/// Objects whose events are counted to be fewer.
const N_TALKERS: usize = 1024;
/// Events of one object that are written at once, and the time after which
/// there may be one more.
const BURST: (f64, Duration) = (25.0, Duration::from_secs(300));
/// Longest message, in bytes.
const LONGEST: usize = 1024;

/// Whether an event is bad news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tone {
    Normal,
    Warning,
}

/// Something that happened.
#[derive(Debug, Clone)]
struct Note {
    about: ObjectReference,
    tone: Tone,
    reason: String,
    message: String,
    time: SystemTime,
}

/// Takes events; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    notes: mpsc::Sender<Note>,
}

/// Writes events to the API.
pub(crate) struct Recorder {
    client: Client,
    node: String,
    notes: mpsc::Receiver<Note>,
    known: HashMap<Key, Known>,
    order: VecDeque<Key>,
    talkers: HashMap<String, Allowance>,
}

/// What an object may still tell.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: f64,
    at: SystemTime,
}

impl Allowance {
    fn full(now: SystemTime) -> Self {
        Self {
            left: BURST.0,
            at: now,
        }
    }

    /// Whether one more may be told now.
    fn take(&mut self, now: SystemTime) -> bool {
        let passed = now.duration_since(self.at).unwrap_or_default();
        self.left = (self.left + passed.div_duration_f64(BURST.1)).min(BURST.0);
        self.at = now;
        let is_allowed = self.left >= 1.0;
        if is_allowed {
            self.left -= 1.0;
        }
        is_allowed
    }
}

type Key = Arc<(String, String, Tone, String, String)>;

struct Known {
    namespace: String,
    name: String,
    count: i32,
}

/// Both ends.
pub(crate) fn channel(client: Client, node: String) -> (Events, Recorder) {
    let (sender, notes) = mpsc::channel(N_WAITING);
    let recorder = Recorder {
        client,
        node,
        notes,
        known: HashMap::new(),
        order: VecDeque::new(),
        talkers: HashMap::new(),
    };
    (Events { notes: sender }, recorder)
}

impl Events {
    /// Something happened to a pod.
    pub(crate) fn pod(&self, pod: &Pod, tone: Tone, reason: &str, message: impl Into<String>) {
        self.send(reference(pod), tone, reason, message.into());
    }

    /// Something happened to a container of a pod.
    pub(crate) fn container(
        &self,
        pod: &Pod,
        name: &str,
        tone: Tone,
        reason: &str,
        message: impl Into<String>,
    ) {
        let spec = pod.spec.as_ref();
        let mut inits = spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        let mut ephemerals = spec
            .iter()
            .flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let field = if inits.any(|init| init.name == name) {
            "initContainers"
        } else if ephemerals.any(|one| one.name == name) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        let about = ObjectReference {
            field_path: Some(format!("spec.{field}{{{name}}}")),
            ..reference(pod)
        };
        self.send(about, tone, reason, message.into());
    }

    /// Something happened to the node.
    pub(crate) fn node(&self, node: &Node, tone: Tone, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.name_any()),
            uid: Some(node.uid().unwrap_or_else(|| node.name_any())),
            ..ObjectReference::default()
        };
        self.send(about, tone, reason, message.into());
    }

    fn send(&self, about: ObjectReference, tone: Tone, reason: &str, mut message: String) {
        let mut end = LONGEST.min(message.len());
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        let note = Note {
            about,
            tone,
            reason: reason.to_owned(),
            message,
            time: SystemTime::now(),
        };
        if self.notes.try_send(note).is_err() {
            tracing::debug!(reason, "an event was dropped");
        }
    }
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.namespace(),
        name: Some(pod.name_any()),
        uid: pod.uid(),
        resource_version: pod.resource_version(),
        field_path: None,
    }
}

/// A pod in the words of back-off messages: `name_namespace(uid)`.
pub(crate) fn pod_words(pod: &Pod) -> String {
    format!(
        "{}_{}({})",
        pod.name_any(),
        pod.namespace().unwrap_or_default(),
        pod.uid().unwrap_or_default()
    )
}

impl Recorder {
    /// Writes events as they come, in order.
    pub(crate) async fn run(mut self) {
        while let Some(note) = self.notes.recv().await {
            if !self.is_heard(&note) {
                continue;
            }
            if let Err(error) = self.write(&note).await {
                // A namespace that is going away takes no events.
                tracing::debug!(%error, reason = note.reason, "an event was not written");
            }
        }
    }

    fn is_heard(&mut self, note: &Note) -> bool {
        let uid = note.about.uid.clone().unwrap_or_default();
        if self.talkers.len() >= N_TALKERS && !self.talkers.contains_key(&uid) {
            self.talkers.clear();
        }
        let allowance = self.talkers.entry(uid);
        let allowance = allowance.or_insert_with(|| Allowance::full(note.time));
        allowance.take(note.time)
    }

    async fn write(&mut self, note: &Note) -> Result<(), kube::Error> {
        let key = Arc::new((
            note.about.uid.clone().unwrap_or_default(),
            note.about.field_path.clone().unwrap_or_default(),
            note.tone,
            note.reason.clone(),
            note.message.clone(),
        ));
        if let Some(known) = self.known.get_mut(&key) {
            known.count = known.count.saturating_add(1);
            let events: Api<Event> = Api::namespaced(self.client.clone(), &known.namespace);
            let patch = json!({"count": known.count, "lastTimestamp": time::api(note.time)});
            let patch = Patch::Merge(patch);
            match events
                .patch(&known.name, &PatchParams::default(), &patch)
                .await
            {
                // Events do not live forever; then it is a new one.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(|_| ()),
            }
        }
        let namespace = note.about.namespace.as_deref().unwrap_or("default");
        let nanos = note.time.duration_since(SystemTime::UNIX_EPOCH);
        let nanos = nanos.map_or(0, |since| since.as_nanos());
        let name = note.about.name.as_deref().unwrap_or_default();
        let name = format!("{name}.{nanos:x}");
        let tone = match note.tone {
            Tone::Normal => "Normal",
            Tone::Warning => "Warning",
        };
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: note.about.clone(),
            type_: Some(tone.to_owned()),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            count: Some(1),
            first_timestamp: Some(time::api(note.time)),
            last_timestamp: Some(time::api(note.time)),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        events.create(&PostParams::default(), &event).await?;
        let known = Known {
            namespace: namespace.to_owned(),
            name,
            count: 1,
        };
        if self.known.insert(Arc::clone(&key), known).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > N_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_talks_much_is_heard_less() {
        let mut now = SystemTime::UNIX_EPOCH;
        let mut allowance = Allowance::full(now);
        let heard = (0..100).filter(|_| allowance.take(now)).count();
        assert_eq!(heard, 25);
        now += BURST.1;
        assert!(allowance.take(now));
        assert!(!allowance.take(now));
    }
}
