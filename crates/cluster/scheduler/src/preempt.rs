//! Making room: which pods of lower priority go so that one fits.
//!
//! For each node that pods, not the node itself, keep the pod from: all lower
//! pods are thought away; if it fits then, as many as possible are thought
//! back, those that budgets protect first, then those of greater priority.
//! What stays away are the victims. The node whose victims matter least is
//! chosen.

use std::cmp::Reverse;
use std::sync::Arc;

use dhow_selector::LabelSelector;

use crate::decide::judge;
use crate::pod::{PodFacts, get};
use crate::snapshot::{NodeState, Snapshot};
use crate::topology::Topology;

/// A disruption budget: how many more of these pods may be sent away.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Which pods it protects.
    pub selector: LabelSelector,
    /// How many may go.
    pub allowed: i32,
}

/// Where room is made, and by whom.
#[derive(Debug, Clone)]
pub struct Preemption {
    /// The node's name.
    pub node: Arc<str>,
    /// The pods that go.
    pub victims: Vec<Arc<PodFacts>>,
}

/// Chooses a node and victims, or finds that no node can be made to fit.
pub fn preempt(pod: &PodFacts, snapshot: &Snapshot, budgets: &[Budget]) -> Option<Preemption> {
    if !pod.preempts {
        return None;
    }
    // Victims of an earlier time are still on their way out: room will be.
    if let Some((node, _)) = pod
        .nominated
        .as_deref()
        .and_then(|name| snapshot.node(name))
        && node
            .pods
            .iter()
            .any(|other| other.is_going && other.priority < pod.priority)
    {
        return None;
    }
    let mut trial = snapshot.clone();
    let topology = Topology::gather(pod, snapshot);
    let hopeful: Vec<Arc<str>> = snapshot
        .nodes()
        .filter(|(node, facts)| {
            let reasons = judge(pod, node, facts, &topology);
            let has_lower = node.pods.iter().any(|other| other.priority < pod.priority);
            has_lower && reasons.iter().all(crate::filter::Reason::is_about_pods)
        })
        .map(|(node, _)| Arc::clone(&node.name))
        .collect();
    let mut best: Option<(Cost, Preemption)> = None;
    for name in hopeful {
        let Some((victims, violations)) = victims(pod, &mut trial, &name, budgets) else {
            continue;
        };
        let cost = cost(&victims, violations, &name);
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            let node = name;
            best = Some((cost, Preemption { node, victims }));
        }
    }
    best.map(|(_, preemption)| preemption)
}

/// Less is better: budgets broken, greatest priority, sum of priorities,
/// victims, then the node on which the most important victim is youngest.
type Cost = (usize, i32, i64, usize, Reverse<i64>, Arc<str>);

fn cost(victims: &[Arc<PodFacts>], violations: usize, name: &Arc<str>) -> Cost {
    let greatest = victims.iter().map(|pod| pod.priority).max().unwrap_or(0);
    let sum = victims.iter().map(|pod| i64::from(pod.priority)).sum();
    let youngest = victims
        .iter()
        .filter(|pod| pod.priority == greatest)
        .map(|pod| pod.created)
        .min()
        .unwrap_or(0);
    (
        violations,
        greatest,
        sum,
        victims.len(),
        Reverse(youngest),
        Arc::clone(name),
    )
}

/// The victims on one node and how many of them budgets protect; the trial is
/// left as it was.
fn victims(
    pod: &PodFacts,
    trial: &mut Snapshot,
    name: &str,
    budgets: &[Budget],
) -> Option<(Vec<Arc<PodFacts>>, usize)> {
    let (node, _) = trial.node(name)?;
    let mut lower = lower(pod, node);
    for victim in &lower {
        trial.remove_pod(&victim.uid);
    }
    let fits = |trial: &Snapshot| {
        let topology = Topology::gather(pod, trial);
        trial
            .node(name)
            .is_some_and(|(node, facts)| judge(pod, node, facts, &topology).is_empty())
    };
    if !fits(trial) {
        for victim in &lower {
            trial.put_pod(victim, name);
        }
        return None;
    }
    // The more important first, the older before the younger.
    lower.sort_by_key(|other| (Reverse(other.priority), other.created));
    let (protected, free) = split(&lower, budgets);
    let n_protected = protected.len();
    let mut victims = Vec::new();
    let mut violations = 0;
    for (number, candidate) in protected.into_iter().chain(free).enumerate() {
        trial.put_pod(&candidate, name);
        if !fits(trial) {
            trial.remove_pod(&candidate.uid);
            violations += usize::from(number < n_protected);
            victims.push(candidate);
        }
    }
    for victim in &victims {
        trial.put_pod(victim, name);
    }
    (!victims.is_empty()).then_some((victims, violations))
}

fn lower(pod: &PodFacts, node: &NodeState) -> Vec<Arc<PodFacts>> {
    node.pods
        .iter()
        .filter(|other| other.priority < pod.priority)
        .cloned()
        .collect()
}

/// Those whose going would break a budget, and the others.
fn split(pods: &[Arc<PodFacts>], budgets: &[Budget]) -> (Vec<Arc<PodFacts>>, Vec<Arc<PodFacts>>) {
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.iter().cloned().partition(|pod| {
        let mut breaks = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            let covers = *budget.namespace == *pod.namespace
                && !budget.selector.is_empty()
                && budget.selector.matches(|key| get(&pod.labels, key));
            if covers {
                *left -= 1;
                breaks |= *left < 0;
            }
        }
        breaks
    })
}
