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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::amount::{Amounts, Demand};
    use crate::decide::decide;
    use crate::snapshot::NodeFacts;

    fn pod(name: &str, priority: i32, milli_cpu: i64) -> Arc<PodFacts> {
        let amounts = Amounts {
            milli_cpu,
            ..Amounts::default()
        };
        Arc::new(PodFacts {
            uid: name.into(),
            name: name.into(),
            namespace: "n".into(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            priority,
            preempts: true,
            demand: Demand {
                exact: amounts.clone(),
                felt: amounts,
            },
            ..PodFacts::default()
        })
    }

    fn cluster(nodes: &[(&str, i64)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, milli_cpu) in nodes {
            let facts = NodeFacts {
                capacity: Amounts {
                    milli_cpu: *milli_cpu,
                    ..Amounts::default()
                },
                most_pods: 110,
                ..NodeFacts::default()
            };
            snapshot.set_node(name, facts);
        }
        snapshot
    }

    fn victims(found: Option<Preemption>) -> (String, Vec<String>) {
        let found = found.expect("room can be made");
        let mut victims: Vec<String> = found
            .victims
            .iter()
            .map(|pod| pod.name.to_string())
            .collect();
        victims.sort();
        (found.node.to_string(), victims)
    }

    #[test]
    fn as_few_and_as_low_as_possible_go() {
        let mut snapshot = cluster(&[("a", 1000), ("b", 1000)]);
        snapshot.put_pod(&pod("low", 1, 500), "a");
        snapshot.put_pod(&pod("lower", 0, 500), "a");
        snapshot.put_pod(&pod("middle", 5, 1000), "b");
        let (node, gone) = victims(preempt(&pod("p", 10, 500), &snapshot, &[]));
        assert_eq!((node.as_str(), gone), ("a", vec!["lower".to_owned()]));
        // What must not be sent away is asked last.
        let budget = Budget {
            namespace: "n".into(),
            selector: LabelSelector::exact([("app", "lower")]),
            allowed: 0,
        };
        let (node, gone) = victims(preempt(&pod("p", 10, 500), &snapshot, &[budget]));
        assert_eq!((node.as_str(), gone), ("a", vec!["low".to_owned()]));
    }

    #[test]
    fn equals_are_not_sent_away_and_the_polite_send_nobody() {
        let mut snapshot = cluster(&[("a", 1000)]);
        snapshot.put_pod(&pod("equal", 10, 1000), "a");
        assert!(preempt(&pod("p", 10, 500), &snapshot, &[]).is_none());
        let polite = PodFacts {
            preempts: false,
            ..PodFacts::clone(&pod("p", 20, 500))
        };
        assert!(preempt(&polite, &snapshot, &[]).is_none());
        assert!(preempt(&pod("p", 20, 2000), &snapshot, &[]).is_none());
        assert!(preempt(&pod("p", 20, 500), &snapshot, &[]).is_some());
    }

    #[test]
    fn room_that_was_made_is_kept() {
        let mut snapshot = cluster(&[("a", 1000)]);
        let high = PodFacts {
            nominated: Some("a".into()),
            ..PodFacts::clone(&pod("high", 10, 800))
        };
        let high = Arc::new(high);
        snapshot.nominate(&high, Some("a"));
        assert!(decide(&pod("low", 0, 500), &snapshot, |_| 0).is_err());
        assert!(decide(&pod("higher", 11, 500), &snapshot, |_| 0).is_ok());
        assert!(decide(&high, &snapshot, |_| 0).is_ok());
    }

    proptest! {
        /// When the victims are gone the pod fits; all of them are lower; and
        /// none of them could have stayed.
        #[test]
        fn victims_are_lower_needed_and_enough(
            capacity in prop::collection::vec(500i64..2000, 1..4),
            placed in prop::collection::vec((any::<prop::sample::Index>(), 0i32..5, 50i64..600), 0..12),
            priority in 0i32..6,
            asked in 100i64..1500,
        ) {
            let names = ["a", "b", "c", "d"];
            let nodes: Vec<(&str, i64)> = names.into_iter().zip(capacity.iter().copied()).collect();
            let mut snapshot = cluster(&nodes);
            for (number, (at, priority, milli_cpu)) in placed.iter().enumerate() {
                let other = pod(&number.to_string(), *priority, *milli_cpu);
                let node = nodes[at.index(nodes.len())].0;
                let (state, facts) = snapshot.node(node).expect("it is there");
                if state.used.milli_cpu + milli_cpu <= facts.capacity.milli_cpu {
                    snapshot.put_pod(&other, node);
                }
            }
            let pod = pod("p", priority, asked);
            if decide(&pod, &snapshot, |_| 0).is_ok() {
                return Ok(());
            }
            let Some(found) = preempt(&pod, &snapshot, &[]) else {
                for (node, facts) in snapshot.nodes() {
                    let kept: i64 = node
                        .pods
                        .iter()
                        .filter(|other| other.priority >= priority)
                        .map(|other| other.demand.exact.milli_cpu)
                        .sum();
                    prop_assert!(kept + asked > facts.capacity.milli_cpu);
                }
                return Ok(());
            };
            let mut after = snapshot.clone();
            for victim in &found.victims {
                prop_assert!(victim.priority < priority);
                after.remove_pod(&victim.uid);
            }
            let (state, facts) = after.node(&found.node).expect("it is there");
            let left = facts.capacity.milli_cpu - state.used.milli_cpu;
            prop_assert!(left >= asked);
            for victim in &found.victims {
                prop_assert!(left - victim.demand.exact.milli_cpu < asked);
            }
        }
    }
}
