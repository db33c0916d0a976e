//! What the scheduler knows and what it does next: watch events and outcomes
//! in, bindings and refusals out. No I/O, and no clock of its own.
//!
//! A pod that was given a node is *assumed* to be there from that moment, so
//! that the next decision counts it; a watch event confirms it, a failed
//! binding takes it back.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use tokio::time::Instant;

use crate::decide::{Refusal, decide};
use crate::filter::{Reason, refusals};
use crate::pod::PodFacts;
use crate::preempt::{Budget, Preemption, preempt};
use crate::queue::Queue;
use crate::snapshot::{NodeFacts, Snapshot};

/// The scheduler whose pods these are.
const SCHEDULER: &str = "default-scheduler";

/// What is to be done for a pod.
#[derive(Debug, Clone)]
pub enum Action {
    /// Bind it to the node; tell how it went with [`Cache::bind_failed`] or
    /// let the watch tell.
    Bind {
        /// The pod.
        pod: Arc<PodFacts>,
        /// The node's name.
        node: Arc<str>,
    },
    /// Tell that no node takes it.
    Refuse {
        /// The pod.
        pod: Arc<PodFacts>,
        /// Why not.
        refusal: Refusal,
        /// Pods that go so that it has a place.
        preemption: Option<Preemption>,
    },
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Cache {
    snapshot: Snapshot,
    queue: Queue,
    /// Uids of pods whose binding is under way or not yet seen.
    assumed: HashSet<Arc<str>>,
    budgets: Vec<Budget>,
}

impl Cache {
    /// The nodes and the pods on them.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether a decision is due.
    pub fn has_due(&self, now: Instant) -> bool {
        self.queue.has_due(now)
    }

    /// When a decision will be due if nothing happens.
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    /// Makes the next decision; `tie` is that of [`decide`].
    pub fn next(&mut self, now: Instant, tie: impl FnMut(usize) -> usize) -> Option<Action> {
        let pod = self.queue.pop(now)?;
        match decide(&pod, &self.snapshot, tie) {
            Ok(node) => {
                self.snapshot.put_pod(&pod, &node);
                self.assumed.insert(Arc::clone(&pod.uid));
                Some(Action::Bind { pod, node })
            }
            Err(refusal) => {
                let preemption = preempt(&pod, &self.snapshot, &self.budgets);
                if let Some(preemption) = &preemption {
                    let mut nominated = PodFacts::clone(&pod);
                    nominated.nominated = Some(Arc::clone(&preemption.node));
                    let nominated = Arc::new(nominated);
                    self.snapshot.nominate(&nominated, Some(&preemption.node));
                    self.queue.upsert(nominated, now);
                }
                self.queue.park(&pod.uid, refusal.reasons.clone(), now);
                Some(Action::Refuse {
                    pod,
                    refusal,
                    preemption,
                })
            }
        }
    }

    /// A binding did not succeed: the pod is no longer assumed on its node.
    pub fn bind_failed(&mut self, uid: &str, now: Instant) {
        if !self.assumed.remove(uid) {
            return;
        }
        self.queue.back_off(uid, now);
        self.take_off(uid, now);
    }

    /// A node is there or changed.
    pub fn node_applied(&mut self, node: &Node, now: Instant) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if self.snapshot.set_node(name, NodeFacts::of(node)) {
            self.room_on(name, now);
        }
    }

    /// A node is gone.
    pub fn node_deleted(&mut self, name: &str) {
        self.snapshot.remove_node(name);
    }

    /// These are all nodes that are there.
    pub fn only_nodes(&mut self, names: &HashSet<String>) {
        let gone: Vec<Arc<str>> = self
            .snapshot
            .nodes()
            .map(|(node, _)| Arc::clone(&node.name))
            .filter(|name| !names.contains(&**name))
            .collect();
        for name in gone {
            self.snapshot.remove_node(&name);
        }
    }

    /// A namespace is there or changed.
    pub fn namespace_applied(&mut self, namespace: &Namespace, now: Instant) {
        let metadata = &namespace.metadata;
        let name = metadata.name.as_deref().unwrap_or_default();
        let labels = metadata.labels.clone().unwrap_or_default();
        if *self.snapshot.namespace(name) != labels {
            self.snapshot.set_namespace(name, labels);
            self.pods_moved(now);
        }
    }

    /// A namespace is gone.
    pub fn namespace_deleted(&mut self, name: &str) {
        self.snapshot.remove_namespace(name);
    }

    /// Sets the disruption budgets that preemption respects.
    pub fn set_budgets(&mut self, budgets: Vec<Budget>) {
        self.budgets = budgets;
    }

    /// A pod is there or changed.
    pub fn pod_applied(&mut self, pod: &Pod, now: Instant) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            self.pod_deleted(uid, now);
            return;
        }
        let spec = pod.spec.as_ref();
        let node = spec
            .and_then(|spec| spec.node_name.as_deref())
            .filter(|node| !node.is_empty());
        match node {
            Some(node) => self.pod_placed(Arc::new(PodFacts::of(pod)), node, now),
            // Its binding is under way; what the watch tells is older, and
            // matters only if the binding fails.
            None if self.assumed.contains(uid) => {
                self.queue.upsert(Arc::new(PodFacts::of(pod)), now);
            }
            None => {
                let is_ours = spec.is_some_and(|spec| {
                    let scheduler = spec.scheduler_name.as_deref().unwrap_or(SCHEDULER);
                    let gates = spec.scheduling_gates.as_ref();
                    scheduler == SCHEDULER && gates.is_none_or(Vec::is_empty)
                });
                if is_ours && pod.metadata.deletion_timestamp.is_none() {
                    let facts = Arc::new(PodFacts::of(pod));
                    self.snapshot.nominate(&facts, facts.nominated.as_deref());
                    self.queue.upsert(facts, now);
                } else {
                    self.pod_deleted(uid, now);
                }
            }
        }
    }

    fn pod_placed(&mut self, pod: Arc<PodFacts>, node: &str, now: Instant) {
        let was_assumed = self.assumed.remove(&pod.uid);
        self.queue.remove(&pod.uid);
        let before = self.snapshot.remove_pod(&pod.uid);
        self.snapshot.put_pod(&pod, node);
        match before {
            Some((place, known)) => {
                if *place != *node || known.demand != pod.demand {
                    self.room_on(&place, now);
                }
                let moved = *place != *node
                    || was_assumed
                    || known.labels != pod.labels
                    || known.is_going != pod.is_going;
                if moved {
                    self.pods_moved(now);
                }
            }
            None => self.pods_moved(now),
        }
    }

    /// A pod is gone.
    pub fn pod_deleted(&mut self, uid: &str, now: Instant) {
        self.queue.remove(uid);
        self.assumed.remove(uid);
        let facts = Arc::new(PodFacts {
            uid: uid.into(),
            ..PodFacts::default()
        });
        self.snapshot.nominate(&facts, None);
        self.take_off(uid, now);
    }

    /// These are all pods that are there.
    pub fn only_pods(&mut self, uids: &HashSet<String>, now: Instant) {
        let known = self.queue.uids().chain(self.snapshot.uids());
        let gone: Vec<Arc<str>> = known
            .filter(|uid| !uids.contains(&***uid))
            .cloned()
            .collect();
        for uid in gone {
            self.pod_deleted(&uid, now);
        }
    }

    fn take_off(&mut self, uid: &str, now: Instant) {
        if let Some((node, _)) = self.snapshot.remove_pod(uid) {
            self.room_on(&node, now);
            self.pods_moved(now);
        }
    }

    /// Wakes pods that this node would take now.
    fn room_on(&mut self, name: &str, now: Instant) {
        if let Some((node, facts)) = self.snapshot.node(name) {
            self.queue
                .wake(now, |pod, _| refusals(pod, node, facts).is_empty());
        }
    }

    /// Wakes pods that were refused because of where others were.
    fn pods_moved(&mut self, now: Instant) {
        self.queue.wake(now, |pod, reasons| {
            (pod.depends_on_pods() || reasons.contains_key(&Reason::ExistingAntiAffinity))
                && reasons.keys().any(|reason| {
                    matches!(
                        reason,
                        Reason::PodAffinity
                            | Reason::PodAntiAffinity
                            | Reason::ExistingAntiAffinity
                            | Reason::Spread
                    )
                })
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(name: &str, cpu: usize) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "status": { "allocatable": { "cpu": cpu.to_string(), "memory": "8Gi", "pods": "110" } },
        }))
        .expect("a node")
    }

    fn pod(uid: &str, cpu: usize, node: Option<&str>) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": uid, "namespace": "n", "uid": uid },
            "spec": { "nodeName": node, "containers": [{ "name": "c",
                "resources": { "requests": { "cpu": cpu.to_string() } } }] },
        }))
        .expect("a pod")
    }

    fn bound(action: Option<Action>) -> Option<(String, String)> {
        match action? {
            Action::Bind { pod, node } => Some((pod.uid.to_string(), node.to_string())),
            Action::Refuse { .. } => None,
        }
    }

    #[test]
    fn what_is_assumed_counts_until_it_fails() {
        let mut now = Instant::now();
        let mut cache = Cache::default();
        cache.node_applied(&node("a", 1), now);
        cache.pod_applied(&pod("1", 1, None), now);
        cache.pod_applied(&pod("2", 1, None), now);
        assert_eq!(
            bound(cache.next(now, |_| 0)),
            Some(("1".into(), "a".into()))
        );
        // What the watch still tells of it changes nothing.
        cache.pod_applied(&pod("1", 1, None), now);
        assert!(bound(cache.next(now, |_| 0)).is_none(), "no room for two");
        assert!(!cache.has_due(now));
        // Its binding fails: it backs off, and the other has its place.
        now += Duration::from_secs(2);
        cache.bind_failed("1", now);
        assert_eq!(
            bound(cache.next(now, |_| 0)),
            Some(("2".into(), "a".into()))
        );
        cache.pod_applied(&pod("2", 1, Some("a")), now);
        now += Duration::from_secs(1);
        assert!(bound(cache.next(now, |_| 0)).is_none());
        cache.pod_deleted("2", now);
        now += Duration::from_secs(10);
        assert_eq!(
            bound(cache.next(now, |_| 0)),
            Some(("1".into(), "a".into()))
        );
    }

    #[test]
    fn only_what_helps_wakes_a_pod() {
        let mut now = Instant::now();
        let mut cache = Cache::default();
        cache.node_applied(&node("a", 1), now);
        cache.pod_applied(&pod("big", 4, None), now);
        assert!(bound(cache.next(now, |_| 0)).is_none());
        now += Duration::from_secs(60);
        cache.node_applied(&node("b", 2), now);
        cache.pod_applied(&pod("other", 1, Some("b")), now);
        cache.pod_deleted("other", now);
        assert!(!cache.has_due(now), "none of it made room for four");
        cache.node_applied(&node("c", 4), now);
        assert_eq!(
            bound(cache.next(now, |_| 0)),
            Some(("big".into(), "c".into()))
        );
    }

    proptest! {
        /// Whatever happens in whatever order: no node is given more than it
        /// has, nothing is forgotten, and who could run is not left waiting.
        #[test]
        fn nobody_is_forgotten(
            events in prop::collection::vec((0usize..7, 0usize..10, 1usize..4), 0..80),
        ) {
            let mut now = Instant::now();
            let mut cache = Cache::default();
            // What the API server has: pods with their demand and place.
            let mut pods: BTreeMap<usize, (usize, Option<String>)> = BTreeMap::new();
            let mut nodes: BTreeMap<usize, usize> = BTreeMap::new();
            let mut binding: Vec<(usize, String)> = Vec::new();
            for (kind, number, size) in events {
                now += Duration::from_millis(700);
                let uid = number.to_string();
                match kind {
                    0 => {
                        nodes.insert(number % 3, size * 2);
                        cache.node_applied(&node(&format!("n{}", number % 3), size * 2), now);
                    }
                    1 | 2 if !pods.contains_key(&number) => {
                        pods.insert(number, (size, None));
                        cache.pod_applied(&pod(&uid, size, None), now);
                    }
                    3 => {
                        pods.remove(&number);
                        binding.retain(|(other, _)| *other != number);
                        cache.pod_deleted(&uid, now);
                    }
                    4 => if let Some((other, place)) = binding.pop() {
                        let entry = pods.get_mut(&other).expect("it is there");
                        entry.1 = Some(place.clone());
                        let told = pod(&other.to_string(), entry.0, Some(&place));
                        cache.pod_applied(&told, now);
                    },
                    5 => if let Some((other, _)) = binding.pop() {
                        cache.bind_failed(&other.to_string(), now);
                    },
                    _ => if let Some((uid, place)) = bound(cache.next(now, |_| 0)) {
                        binding.push((uid.parse().expect("a number"), place));
                    },
                }
            }
            // All that is under way ends well, and all back-off passes.
            for _ in 0..60 {
                now += Duration::from_secs(11);
                for (number, place) in std::mem::take(&mut binding) {
                    let entry = pods.get_mut(&number).expect("it is there");
                    entry.1 = Some(place.clone());
                    cache.pod_applied(&pod(&number.to_string(), entry.0, Some(&place)), now);
                }
                while cache.has_due(now) {
                    let Some(action) = cache.next(now, |_| 0) else { break };
                    if let Some((uid, place)) = bound(Some(action)) {
                        binding.push((uid.parse().expect("a number"), place));
                    }
                }
                if binding.is_empty() {
                    break;
                }
            }
            for (number, (size, place)) in &pods {
                let known = cache.snapshot().place(&number.to_string()).map(ToString::to_string);
                prop_assert_eq!(&known, place);
                if place.is_none() {
                    for (state, facts) in cache.snapshot().nodes() {
                        let left = facts.capacity.milli_cpu - state.used.milli_cpu;
                        let asked = i64::try_from(*size).expect("small") * 1000;
                        prop_assert!(left < asked, "{number} waits though {} has room", state.name);
                    }
                }
            }
            let counted = cache.snapshot().uids().count();
            let placed = pods.values().filter(|(_, place)| place.is_some()).count();
            prop_assert_eq!(counted, placed);
        }
    }
}
