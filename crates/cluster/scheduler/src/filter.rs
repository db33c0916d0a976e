//! Which nodes a pod may run on, looking at one node at a time.
//!
//! Not here: rules about other nodes' pods ([`crate::topology`]).

use std::fmt;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::pod::{NodeTerm, PodFacts, get};
use crate::snapshot::{NodeFacts, NodeState};

/// Why a pod may not run on a node; Display is upstream's wording.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The node takes no new pods.
    Closed,
    /// The pod names another node.
    NodeName,
    /// The node has a taint that the pod does not tolerate.
    Taints,
    /// The node's labels are not those the pod asks for.
    NodeAffinity,
    /// A port is taken.
    Ports,
    /// The node has as many pods as it takes.
    TooManyPods,
    /// There is not enough left of a resource.
    Insufficient(Box<str>),
    /// The pods it must be near to are elsewhere.
    PodAffinity,
    /// A pod it must be away from is near.
    PodAntiAffinity,
    /// A pod that must be away from it is near.
    ExistingAntiAffinity,
    /// It would be too many here and too few elsewhere.
    Spread,
    /// The node lacks the label by which pods are spread.
    SpreadLabel,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "node(s) were unschedulable",
            Self::NodeName => "node(s) didn't match the requested node name",
            Self::Taints => "node(s) had untolerated taint(s)",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => {
                "node(s) didn't satisfy existing pods anti-affinity rules"
            }
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
        })
    }
}

impl Reason {
    /// Whether it could go away when pods do.
    pub fn is_about_pods(&self) -> bool {
        match self {
            Self::Closed
            | Self::NodeName
            | Self::Taints
            | Self::NodeAffinity
            | Self::PodAffinity
            | Self::SpreadLabel => false,
            Self::Ports
            | Self::TooManyPods
            | Self::Insufficient(_)
            | Self::PodAntiAffinity
            | Self::ExistingAntiAffinity
            | Self::Spread => true,
        }
    }
}

/// Whether a toleration is meant for a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
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

pub(crate) fn is_tolerated(pod: &PodFacts, taint: &Taint) -> bool {
    pod.tolerations
        .iter()
        .any(|toleration| tolerates(toleration, taint))
}

/// Whether the pod tolerates every taint that keeps pods away.
pub(crate) fn tolerates_all(pod: &PodFacts, facts: &NodeFacts) -> bool {
    facts
        .taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .all(|taint| is_tolerated(pod, taint))
}

pub(crate) fn term_holds(term: &NodeTerm, name: &str, facts: &NodeFacts) -> bool {
    term.labels.matches(|key| get(&facts.labels, key))
        && term
            .names
            .matches(|field| (field == "metadata.name").then_some(name))
}

/// Whether the node has the labels that the pod requires.
pub(crate) fn affinity_holds(pod: &PodFacts, name: &str, facts: &NodeFacts) -> bool {
    pod.node_selector.matches(|key| get(&facts.labels, key))
        && pod
            .node_terms
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term_holds(term, name, facts)))
}

/// Why the pod may not run on this node, whatever is on others; empty if it
/// may. As upstream, the first rule that is broken speaks, though of
/// resources all that lack are named.
pub fn refusals(pod: &PodFacts, node: &NodeState, facts: &NodeFacts) -> Vec<Reason> {
    if let Some(reason) = never(pod, node, facts) {
        return vec![reason];
    }
    // Room is kept for those that were told to come here and matter as much.
    let expected: Vec<_> = node
        .nominated
        .iter()
        .filter(|other| other.priority >= pod.priority && other.uid != pod.uid)
        .collect();
    let taken = |port| {
        node.pods
            .iter()
            .chain(expected.iter().copied())
            .flat_map(|other| &other.host_ports)
            .any(|other| other.clashes(port))
    };
    if pod.host_ports.iter().any(taken) {
        return vec![Reason::Ports];
    }
    let mut reasons = Vec::new();
    let n_pods = i64::try_from(node.pods.len() + expected.len()).unwrap_or(i64::MAX);
    if n_pods >= facts.most_pods {
        reasons.push(Reason::TooManyPods);
    }
    let lacking = if expected.is_empty() {
        facts.capacity.lacking(&node.used, &pod.demand.exact)
    } else {
        let mut used = node.used.clone();
        for other in expected {
            used.add(&other.demand.exact);
        }
        facts.capacity.lacking(&used, &pod.demand.exact)
    };
    reasons.extend(lacking.into_iter().map(Reason::Insufficient));
    reasons
}

/// Rules that no change of pods can satisfy.
fn never(pod: &PodFacts, node: &NodeState, facts: &NodeFacts) -> Option<Reason> {
    if facts.is_closed {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if !is_tolerated(pod, &taint) {
            return Some(Reason::Closed);
        }
    }
    if pod
        .node_name
        .as_deref()
        .is_some_and(|name| *name != *node.name)
    {
        return Some(Reason::NodeName);
    }
    if !tolerates_all(pod, facts) {
        return Some(Reason::Taints);
    }
    (!affinity_holds(pod, &node.name, facts)).then_some(Reason::NodeAffinity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint {
            key: key.into(),
            value: Some(value.into()),
            effect: effect.into(),
            ..Taint::default()
        }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration {
            key: text(key),
            operator: text(operator),
            value: text(value),
            effect: text(effect),
            ..Toleration::default()
        }
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        let taint = taint("a", "1", "NoSchedule");
        assert!(tolerates(&toleration("a", "", "1", ""), &taint));
        assert!(tolerates(
            &toleration("a", "Exists", "", "NoSchedule"),
            &taint
        ));
        assert!(tolerates(&toleration("", "Exists", "", ""), &taint));
        assert!(!tolerates(&toleration("a", "Equal", "2", ""), &taint));
        assert!(!tolerates(
            &toleration("a", "Exists", "", "NoExecute"),
            &taint
        ));
        assert!(!tolerates(&toleration("b", "Exists", "", ""), &taint));
        assert!(!tolerates(&toleration("", "Equal", "", ""), &taint));
    }
}
