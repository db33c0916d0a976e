//! Rules about where other pods are: affinity, anti-affinity, even spread.
//!
//! What they need to know is gathered once for a decision, by value of node
//! label; then each node is a few look-ups.

use std::collections::{HashMap, HashSet};

use crate::filter::{Reason, affinity_holds, tolerates_all};
use crate::pod::{PodFacts, Spread, get};
use crate::snapshot::{NodeFacts, Snapshot};

/// What one decision knows of where pods are.
#[derive(Debug, Default)]
pub(crate) struct Topology<'s> {
    /// Per term of `near`: values of its label that have a pod of the set.
    near: Vec<HashSet<&'s str>>,
    /// Whether it is the first of its set, and so may begin anywhere.
    begins: bool,
    /// Per term of `away`: values that have a pod of the set.
    away: Vec<HashSet<&'s str>>,
    /// Labels and values at which a pod stands that must be away from it.
    unwelcome: HashSet<(&'s str, &'s str)>,
    spread: Vec<Counts<'s>>,
}

/// How many pods count at each value of a label.
#[derive(Debug, Default)]
pub(crate) struct Counts<'s> {
    pub(crate) by_value: HashMap<&'s str, i64>,
    least: i64,
}

impl<'s> Topology<'s> {
    pub(crate) fn gather(pod: &PodFacts, snapshot: &'s Snapshot) -> Self {
        let mut gathered = Self {
            near: vec![HashSet::new(); pod.near.len()],
            away: vec![HashSet::new(); pod.away.len()],
            ..Self::default()
        };
        let own_namespace = snapshot.namespace(&pod.namespace);
        let mut any_near = false;
        for (node, facts) in snapshot.nodes() {
            for other in &node.with_terms {
                for term in &other.away {
                    if let Some((key, value)) = facts.labels.get_key_value(&*term.topology)
                        && term.holds(pod, own_namespace)
                    {
                        gathered.unwelcome.insert((key, value));
                    }
                }
            }
            if pod.near.is_empty() && pod.away.is_empty() {
                continue;
            }
            for other in &node.pods {
                let namespace = snapshot.namespace(&other.namespace);
                let is_near = !pod.near.is_empty()
                    && pod.near.iter().all(|term| term.holds(other, namespace));
                if is_near {
                    for (term, values) in pod.near.iter().zip(&mut gathered.near) {
                        if let Some(value) = get(&facts.labels, &term.topology) {
                            values.insert(value);
                            any_near = true;
                        }
                    }
                }
                for (term, values) in pod.away.iter().zip(&mut gathered.away) {
                    if let Some(value) = get(&facts.labels, &term.topology)
                        && term.holds(other, namespace)
                    {
                        values.insert(value);
                    }
                }
            }
        }
        gathered.begins = !any_near && pod.near.iter().all(|term| term.holds(pod, own_namespace));
        gathered.spread = pod
            .spread
            .iter()
            .map(|constraint| count(pod, constraint, &pod.spread, snapshot))
            .collect();
        gathered
    }

    /// Why the pod may not run on this node because of where pods are.
    pub(crate) fn refusal(&self, pod: &PodFacts, facts: &NodeFacts) -> Option<Reason> {
        for (constraint, counts) in pod.spread.iter().zip(&self.spread) {
            let Some(value) = get(&facts.labels, &constraint.topology) else {
                return Some(Reason::SpreadLabel);
            };
            let here = counts.by_value.get(value).copied().unwrap_or(0);
            let itself = i64::from(constraint.counts(&pod.labels));
            if here + itself - counts.least > constraint.max_skew {
                return Some(Reason::Spread);
            }
        }
        for (term, values) in pod.near.iter().zip(&self.near) {
            let Some(value) = get(&facts.labels, &term.topology) else {
                return Some(Reason::PodAffinity);
            };
            if !self.begins && !values.contains(value) {
                return Some(Reason::PodAffinity);
            }
        }
        for (term, values) in pod.away.iter().zip(&self.away) {
            if get(&facts.labels, &term.topology).is_some_and(|value| values.contains(value)) {
                return Some(Reason::PodAntiAffinity);
            }
        }
        let is_unwelcome = self
            .unwelcome
            .iter()
            .any(|(key, value)| get(&facts.labels, key) == Some(value));
        is_unwelcome.then_some(Reason::ExistingAntiAffinity)
    }
}

/// Counts pods of a constraint at each value of its label, over the nodes
/// that count: those with the labels of all constraints beside it.
pub(crate) fn count<'s>(
    pod: &PodFacts,
    constraint: &Spread,
    all: &[Spread],
    snapshot: &'s Snapshot,
) -> Counts<'s> {
    let mut by_value: HashMap<&str, i64> = HashMap::new();
    for (node, facts) in snapshot.nodes() {
        let counts = all
            .iter()
            .all(|other| facts.labels.contains_key(&*other.topology))
            && (!constraint.honors_affinity || affinity_holds(pod, &node.name, facts))
            && (!constraint.honors_taints || tolerates_all(pod, facts));
        let Some(value) = get(&facts.labels, &constraint.topology).filter(|_| counts) else {
            continue;
        };
        let here = node
            .pods
            .iter()
            .filter(|other| {
                other.namespace == pod.namespace
                    && !other.is_going
                    && constraint.counts(&other.labels)
            })
            .count();
        *by_value.entry(value).or_insert(0) += i64::try_from(here).unwrap_or(i64::MAX);
    }
    let n_values = i64::try_from(by_value.len()).unwrap_or(i64::MAX);
    let least = if n_values < constraint.min_domains {
        0
    } else {
        by_value.values().copied().min().unwrap_or(0)
    };
    Counts { by_value, least }
}
