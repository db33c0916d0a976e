//! What is known of nodes and the pods on them, and what follows. No I/O, and
//! time is handed in.
//!
//! A node is alive while its Lease or its own heartbeat changes; when the
//! change was seen counts, not what the node's clock says. Everything else is
//! a function of what is seen: taints of the conditions, evictions of the
//! taints.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// A node that was alive is given so long.
    pub grace: Duration,
    /// One that never told its condition so long.
    pub startup: Duration,
    /// Pods of a node that is gone are left alone so long.
    pub quarantine: Duration,
}

impl Timing {
    /// Upstream's.
    pub(crate) const USUAL: Self = Self {
        grace: Duration::from_secs(40),
        startup: Duration::from_secs(60),
        quarantine: Duration::from_secs(40),
    };
}

/// What time it is, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub instant: Instant,
    pub wall: Timestamp,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self {
            instant: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// Taints that follow from a condition: its type, its status, the key.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that a silent node's are unknown.
const TOLD_BY_NODE: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Where a pod is to be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodName {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Write these conditions into the node's status.
    Doubt {
        node: String,
        conditions: Vec<NodeCondition>,
    },
    /// Replace the node's taints, if it is still at this version.
    Taint {
        node: String,
        version: Option<String>,
        taints: Vec<Taint>,
    },
    /// The pod's node cannot be trusted to say that it is ready.
    Unready { pod: PodName },
    /// Delete the pod, as its node's taints ask for.
    Evict { pod: PodName },
    /// Remove the pod by force if its node really is gone.
    Remove { pod: PodName, node: String },
}

struct Known {
    node: Node,
    heartbeat: (Option<Time>, Option<MicroTime>),
    /// When the heartbeat was last seen to change.
    alive: Instant,
    /// Whether pods were marked since it became unready.
    has_marked: bool,
}

struct Placed {
    node: String,
    tolerations: Vec<Toleration>,
    is_ready: bool,
    is_going: bool,
    /// Only finalizers hold it any more.
    is_forced: bool,
}

/// All that is known.
pub(crate) struct Monitor {
    timing: Timing,
    nodes: BTreeMap<String, Known>,
    leases: HashMap<String, MicroTime>,
    pods: BTreeMap<PodName, Placed>,
    /// Pods by node.
    places: HashMap<String, BTreeSet<PodName>>,
    /// When a node with pods was first found missing.
    missing: HashMap<String, Instant>,
}

fn condition<'n>(node: &'n Node, type_: &str) -> Option<&'n NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_)
}

fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|condition| condition.status.as_str())
}

fn version(node: &Node) -> Option<u64> {
    node.metadata.resource_version.as_ref()?.parse().ok()
}

impl Monitor {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            timing,
            nodes: BTreeMap::new(),
            leases: HashMap::new(),
            pods: BTreeMap::new(),
            places: HashMap::new(),
            missing: HashMap::new(),
        }
    }

    /// A node is there or changed.
    pub(crate) fn node_applied(&mut self, node: Node, now: Now) {
        let name = node.name_any();
        let heartbeat = (
            condition(&node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone()),
            self.leases.get(&name).cloned(),
        );
        match self.nodes.get_mut(&name) {
            // What a watch tells late of a change that was made here.
            Some(known)
                if known.node.metadata.uid == node.metadata.uid
                    && version(&known.node) > version(&node) => {}
            Some(known) if known.node.metadata.uid == node.metadata.uid => {
                // Who tells something new of itself is alive as well.
                let told = ready(&node) != Some("Unknown") && ready(&node) != ready(&known.node);
                if told || known.heartbeat != heartbeat {
                    known.heartbeat = heartbeat;
                    known.alive = now.instant;
                }
                if ready(&node) == Some("True") {
                    known.has_marked = false;
                }
                known.node = node;
            }
            _ => {
                let known = Known {
                    // One that is only unready may be heard again at any
                    // moment; its pods are marked when that changes.
                    has_marked: ready(&node) == Some("False"),
                    node,
                    heartbeat,
                    alive: now.instant,
                };
                self.nodes.insert(name, known);
            }
        }
    }

    /// A node is gone.
    pub(crate) fn node_deleted(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// These are all nodes that are there.
    pub(crate) fn only_nodes(&mut self, names: &HashSet<String>) {
        self.nodes.retain(|name, _| names.contains(name));
    }

    /// A node's Lease is there or changed.
    pub(crate) fn lease_applied(&mut self, lease: &Lease, now: Now) {
        let Some(time) = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()) else {
            return;
        };
        let name = lease.name_any();
        if let Some(known) = self.nodes.get_mut(&name)
            && known.heartbeat.1.as_ref() != Some(&time)
        {
            known.heartbeat.1 = Some(time.clone());
            known.alive = now.instant;
        }
        self.leases.insert(name, time);
    }

    /// A Lease is gone.
    pub(crate) fn lease_deleted(&mut self, name: &str) {
        self.leases.remove(name);
    }

    /// A pod is there or changed.
    pub(crate) fn pod_applied(&mut self, pod: &Pod) {
        let name = pod_name(pod);
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .filter(|node| !node.is_empty());
        self.pod_deleted(&name);
        let Some(node) = node else { return };
        self.places
            .entry(node.clone())
            .or_default()
            .insert(name.clone());
        self.pods.insert(
            name,
            Placed {
                node,
                tolerations: pod
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.tolerations.clone())
                    .unwrap_or_default(),
                is_ready: crate::owner::ready_since(pod).is_some(),
                // One that is over holds nothing that could be evicted.
                is_going: pod.metadata.deletion_timestamp.is_some()
                    || matches!(phase, Some("Succeeded" | "Failed")),
                is_forced: pod.metadata.deletion_timestamp.is_some()
                    && pod.metadata.deletion_grace_period_seconds == Some(0),
            },
        );
    }

    /// A pod is gone.
    pub(crate) fn pod_deleted(&mut self, name: &PodName) {
        if let Some(placed) = self.pods.remove(name)
            && let Some(pods) = self.places.get_mut(&placed.node)
        {
            pods.remove(name);
            if pods.is_empty() {
                self.places.remove(&placed.node);
            }
        }
    }

    /// These are all pods that are there, by uid.
    pub(crate) fn only_pods(&mut self, uids: &HashSet<String>) {
        let gone: Vec<PodName> = self
            .pods
            .keys()
            .filter(|name| !uids.contains(&name.uid))
            .cloned()
            .collect();
        for name in gone {
            self.pod_deleted(&name);
        }
    }

    /// A pod of a node that is gone was found to have its node after all, or
    /// could not be removed: it is left alone for another while.
    pub(crate) fn node_found(&mut self, node: &str) {
        self.missing.remove(node);
    }

    /// What is to be done now, and when to look again.
    pub(crate) fn plan(&mut self, now: Now) -> (Vec<Action>, Option<Instant>) {
        let mut actions = Vec::new();
        let mut due: Option<Instant> = None;
        let mut wake = |at: Instant| due = Some(due.map_or(at, |least| least.min(at)));
        for (name, known) in &mut self.nodes {
            let node = &known.node;
            let is_unknown = ready(node) == Some("Unknown");
            let patience = match ready(node) {
                None => self.timing.startup,
                Some(_) => self.timing.grace,
            };
            if !is_unknown {
                let end = known.alive + patience;
                if end <= now.instant {
                    actions.push(Action::Doubt {
                        node: name.clone(),
                        conditions: doubts(node, now.wall),
                    });
                    // The rest follows when that is written.
                    continue;
                }
                wake(end);
            }
            let pods = self.places.get(name);
            if matches!(ready(node), Some("False" | "Unknown")) && !known.has_marked {
                known.has_marked = true;
                for pod in pods.into_iter().flatten() {
                    if self.pods.get(pod).is_some_and(|placed| placed.is_ready) {
                        actions.push(Action::Unready { pod: pod.clone() });
                    }
                }
            }
            let current = node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default();
            let wanted = taints(node, &current, now.wall);
            if wanted != current {
                actions.push(Action::Taint {
                    node: name.clone(),
                    version: node.metadata.resource_version.clone(),
                    taints: wanted,
                });
                continue;
            }
            let expelling: Vec<&Taint> = current
                .iter()
                .filter(|taint| taint.effect == "NoExecute")
                .collect();
            if expelling.is_empty() {
                continue;
            }
            for pod in pods.into_iter().flatten() {
                let Some(placed) = self.pods.get(pod).filter(|placed| !placed.is_going) else {
                    continue;
                };
                match stay(&expelling, &placed.tolerations, now.wall) {
                    Stay::Forever => {}
                    Stay::For(left) if !left.is_zero() => wake(now.instant + left),
                    Stay::For(_) => actions.push(Action::Evict { pod: pod.clone() }),
                }
            }
        }
        self.missing
            .retain(|node, _| self.places.contains_key(node) && !self.nodes.contains_key(node));
        for (node, pods) in &self.places {
            if self.nodes.contains_key(node) {
                continue;
            }
            let since = *self.missing.entry(node.clone()).or_insert(now.instant);
            let end = since + self.timing.quarantine;
            if end > now.instant {
                wake(end);
                continue;
            }
            let left = pods
                .iter()
                .filter(|pod| self.pods.get(*pod).is_some_and(|placed| !placed.is_forced));
            actions.extend(left.map(|pod| Action::Remove {
                pod: pod.clone(),
                node: node.clone(),
            }));
        }
        (actions, due)
    }
}

pub(crate) fn pod_name(pod: &Pod) -> PodName {
    PodName {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
    }
}

/// Conditions of a node that is no longer heard.
fn doubts(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    TOLD_BY_NODE
        .iter()
        .filter_map(|type_| {
            let known = condition(node, type_);
            if known.is_some_and(|known| known.status == "Unknown") {
                return None;
            }
            let (reason, message) = if known.is_some() {
                ("NodeStatusUnknown", "Kubelet stopped posting node status.")
            } else {
                (
                    "NodeStatusNeverUpdated",
                    "Kubelet never posted node status.",
                )
            };
            Some(NodeCondition {
                type_: (*type_).to_owned(),
                status: "Unknown".into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                // Not a heartbeat: when it was last heard stays.
                last_heartbeat_time: known.and_then(|known| known.last_heartbeat_time.clone()),
                last_transition_time: Some(Time(now)),
            })
        })
        .collect()
}

/// The taints a node should have: those of others, and those of its state.
fn taints(node: &Node, current: &[Taint], now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (type_, status, key) in BY_CONDITION {
        if condition(node, type_).is_some_and(|condition| condition.status == status) {
            wanted.push((key, "NoSchedule"));
            if type_ == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is_ours = |taint: &Taint| {
        taint.key == UNSCHEDULABLE && taint.effect == "NoSchedule"
            || BY_CONDITION.iter().any(|(type_, _, key)| {
                taint.key == *key
                    && (taint.effect == "NoSchedule"
                        || (*type_ == "Ready" && taint.effect == "NoExecute"))
            })
    };
    let mut kept: Vec<Taint> = current
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.contains(&(&taint.key, &taint.effect)))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if kept
            .iter()
            .all(|taint| taint.key != key || taint.effect != effect)
        {
            kept.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    kept
}

/// How long a pod may stay.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    For(Duration),
}

/// How long taints let a pod stay: not at all if one is not tolerated, else
/// as long as the shortest toleration, from the moment its taint came.
fn stay(taints: &[&Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut least: Option<i64> = None;
    for taint in taints {
        let matching: Vec<&Toleration> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        if matching.is_empty() {
            return Stay::For(Duration::ZERO);
        }
        let added = taint.time_added.as_ref().map_or(now, |time| time.0);
        let seconds = matching
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
            .min();
        if let Some(seconds) = seconds {
            // To the millisecond, so that the end is not met too early.
            let end = added
                .as_millisecond()
                .saturating_add(seconds.max(0).saturating_mul(1000));
            let left = end - now.as_millisecond();
            least = Some(least.map_or(left, |least| least.min(left)));
        }
    }
    match least {
        None => Stay::Forever,
        Some(left) => Stay::For(Duration::from_millis(u64::try_from(left).unwrap_or(0))),
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => key.is_empty() || key == taint.key,
        "" | "Equal" => {
            key == taint.key
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}
