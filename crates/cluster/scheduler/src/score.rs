//! Which of the nodes that fit is the best.
//!
//! Each rule gives every node 0 to 100; the sum is weighted as upstream
//! weighs it. All of it is arithmetic on whole numbers, so that the same
//! cluster always gives the same result.

use std::collections::HashMap;

use crate::filter::{is_tolerated, term_holds};
use crate::pod::{PodFacts, get};
use crate::snapshot::{NodeFacts, NodeState, Snapshot};
use crate::topology;

const MOST: i64 = 100;
/// Images smaller than this do not matter, larger than that matter no more.
const SMALL_IMAGE: i64 = 23 * 1024 * 1024;
const LARGE_IMAGE: i64 = 1000 * 1024 * 1024;
/// What a required affinity of a pod that is there weighs.
const REQUIRED_WEIGHT: i64 = 1;
const ZONE: &str = "topology.kubernetes.io/zone";

/// A node that fits.
pub(crate) type Candidate<'s> = (&'s NodeState, &'s NodeFacts);

/// Scores the candidates, in their order.
pub(crate) fn score(pod: &PodFacts, candidates: &[Candidate<'_>], snapshot: &Snapshot) -> Vec<i64> {
    let mut total = vec![0; candidates.len()];
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (total, score) in total.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    let each = |rule: &dyn Fn(Candidate<'_>) -> i64| -> Vec<i64> {
        candidates.iter().map(|node| rule(*node)).collect()
    };
    add(1, each(&|node| least_allocated(pod, node)));
    add(1, each(&|node| balanced(pod, node)));
    if !pod.preferred_nodes.is_empty() {
        let liked = each(&|(node, facts)| {
            pod.preferred_nodes
                .iter()
                .filter(|(_, term)| term_holds(term, &node.name, facts))
                .map(|(weight, _)| weight)
                .sum()
        });
        add(2, stretch(liked));
    }
    let disliked = each(&|(_, facts)| {
        let taints = facts
            .taints
            .iter()
            .filter(|taint| taint.effect == "PreferNoSchedule" && !is_tolerated(pod, taint));
        i64::try_from(taints.count()).unwrap_or(MOST)
    });
    add(3, invert(disliked));
    if let Some(near) = nearness(pod, candidates, snapshot) {
        add(2, stretch_signed(near));
    }
    if pod.preferred_spread.is_empty() {
        if let Some(controller) = &pod.controller {
            let (by_node, by_zone) = siblings(controller, candidates, snapshot);
            add(2, invert(by_node));
            add(1, invert(by_zone));
        }
    } else {
        add(2, invert(crowd(pod, candidates, snapshot)));
    }
    add(1, each(&|node| image_locality(pod, node, snapshot)));
    total
}

/// Stretches scores so that the greatest is 100.
fn stretch(mut scores: Vec<i64>) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        *score = if most > 0 { *score * MOST / most } else { 0 };
    }
    scores
}

/// Stretches scores, the least to 100 and the greatest to 0; all get 100 if
/// there is nothing to tell them apart.
fn invert(mut scores: Vec<i64>) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        *score = if most > 0 {
            MOST - *score * MOST / most
        } else {
            MOST
        };
    }
    scores
}

/// Stretches scores that may be negative to 0 and 100.
fn stretch_signed(mut scores: Vec<i64>) -> Vec<i64> {
    let (least, most) = (
        scores.iter().copied().min().unwrap_or(0),
        scores.iter().copied().max().unwrap_or(0),
    );
    for score in &mut scores {
        *score = if most > least {
            (*score - least) * MOST / (most - least)
        } else {
            0
        };
    }
    scores
}

/// The more is left of processor and memory, the better.
fn least_allocated(pod: &PodFacts, (node, facts): Candidate<'_>) -> i64 {
    let left = |capacity: i64, used: i64, asked: i64| {
        let used = used + asked;
        if capacity <= 0 || used > capacity {
            0
        } else {
            (capacity - used) * MOST / capacity
        }
    };
    let (felt, asked) = (&node.felt, &pod.demand.felt);
    let capacity = &facts.capacity;
    (left(capacity.milli_cpu, felt.milli_cpu, asked.milli_cpu)
        + left(capacity.memory, felt.memory, asked.memory))
        / 2
}

/// The more alike the shares of processor and memory in use, the better.
fn balanced(pod: &PodFacts, (node, facts): Candidate<'_>) -> i64 {
    const PARTS: i64 = 10_000;
    let share = |capacity: i64, used: i64, asked: i64| {
        if capacity <= 0 {
            PARTS
        } else {
            let share = i128::from(used + asked) * i128::from(PARTS) / i128::from(capacity);
            i64::try_from(share).map_or(PARTS, |share| share.clamp(0, PARTS))
        }
    };
    let (used, asked, capacity) = (&node.used, &pod.demand.exact, &facts.capacity);
    let processor = share(capacity.milli_cpu, used.milli_cpu, asked.milli_cpu);
    let memory = share(capacity.memory, used.memory, asked.memory);
    // Half the distance is the deviation of two numbers from their mean.
    (PARTS - (processor - memory).abs() / 2) * MOST / PARTS
}

/// Sums of weights of pods it would like to be near to or away from, and of
/// pods that say so of it; `None` if nobody says anything.
fn nearness(pod: &PodFacts, candidates: &[Candidate<'_>], snapshot: &Snapshot) -> Option<Vec<i64>> {
    let mut weights: HashMap<(&str, &str), i64> = HashMap::new();
    let own_namespace = snapshot.namespace(&pod.namespace);
    for (node, facts) in snapshot.nodes() {
        for other in &node.with_terms {
            let required = other.near.iter().map(|term| (REQUIRED_WEIGHT, term));
            let preferred = other
                .preferred_pods
                .iter()
                .map(|(weight, term)| (*weight, term));
            for (weight, term) in required.chain(preferred) {
                if let Some((key, value)) = facts.labels.get_key_value(&*term.topology)
                    && term.holds(pod, own_namespace)
                {
                    *weights.entry((key, value)).or_insert(0) += weight;
                }
            }
        }
        if pod.preferred_pods.is_empty() {
            continue;
        }
        for other in &node.pods {
            let namespace = snapshot.namespace(&other.namespace);
            for (weight, term) in &pod.preferred_pods {
                if let Some((key, value)) = facts.labels.get_key_value(&*term.topology)
                    && term.holds(other, namespace)
                {
                    *weights.entry((key, value)).or_insert(0) += weight;
                }
            }
        }
    }
    if weights.is_empty() {
        return None;
    }
    let score = |(_, facts): &Candidate<'_>| {
        weights
            .iter()
            .filter(|((key, value), _)| get(&facts.labels, key) == Some(value))
            .map(|(_, weight)| weight)
            .sum()
    };
    Some(candidates.iter().map(score).collect())
}

/// How many pods of the same controller are on each candidate, and in its zone.
fn siblings(
    controller: &str,
    candidates: &[Candidate<'_>],
    snapshot: &Snapshot,
) -> (Vec<i64>, Vec<i64>) {
    let count = |node: &NodeState| {
        let siblings = node
            .pods
            .iter()
            .filter(|other| !other.is_going && other.controller.as_deref() == Some(controller));
        i64::try_from(siblings.count()).unwrap_or(i64::MAX)
    };
    let mut zones: HashMap<&str, i64> = HashMap::new();
    for (node, facts) in snapshot.nodes() {
        if let Some(zone) = get(&facts.labels, ZONE) {
            *zones.entry(zone).or_insert(0) += count(node);
        }
    }
    let by_zone = |facts: &NodeFacts| {
        get(&facts.labels, ZONE)
            .and_then(|zone| zones.get(zone))
            .copied()
            .unwrap_or(0)
    };
    (
        candidates.iter().map(|(node, _)| count(node)).collect(),
        candidates.iter().map(|(_, facts)| by_zone(facts)).collect(),
    )
}

/// How many pods are where it would like to be spread.
fn crowd(pod: &PodFacts, candidates: &[Candidate<'_>], snapshot: &Snapshot) -> Vec<i64> {
    let mut crowd = vec![0; candidates.len()];
    for constraint in &pod.preferred_spread {
        let counts = topology::count(pod, constraint, &[], snapshot);
        let worst = counts.by_value.values().copied().max().unwrap_or(0);
        for (total, (_, facts)) in crowd.iter_mut().zip(candidates) {
            *total += match get(&facts.labels, &constraint.topology) {
                Some(value) => counts.by_value.get(value).copied().unwrap_or(0),
                // A node outside of the topology is as bad as the worst in it.
                None => worst + 1,
            };
        }
    }
    crowd
}

/// The more of its images are there, the better; an image that few nodes have
/// counts less, or all pods would follow the first.
fn image_locality(pod: &PodFacts, (_, facts): Candidate<'_>, snapshot: &Snapshot) -> i64 {
    let n_images = i64::try_from(pod.images.len()).unwrap_or(1);
    let n_nodes = i64::try_from(snapshot.n_nodes().max(1)).unwrap_or(1);
    let there: i64 = pod
        .images
        .iter()
        .filter_map(|image| {
            let size = facts.images.get(image)?;
            let n_with = i64::try_from(snapshot.n_with_image(image)).unwrap_or(0);
            Some(size.saturating_mul(n_with) / n_nodes)
        })
        .sum();
    let (least, most) = (SMALL_IMAGE, LARGE_IMAGE * n_images);
    if n_images == 0 || most <= least {
        return 0;
    }
    (there.clamp(least, most) - least) * MOST / (most - least)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use super::*;
    use crate::decide;

    fn cluster(nodes: &[(&str, Value, Value, Value)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, labels, spec, images) in nodes {
            let node: Node = serde_json::from_value(json!({
                "metadata": { "name": name, "labels": labels },
                "spec": spec,
                "status": { "images": images,
                    "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "110" } },
            }))
            .expect("a node");
            snapshot.set_node(name, NodeFacts::of(&node));
        }
        snapshot
    }

    fn pod(name: &str, mut spec: Value) -> Arc<PodFacts> {
        spec["containers"] = json!([{ "name": "c", "image": "app" }]);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "n", "uid": name, "labels": { "app": name } },
            "spec": spec,
        }))
        .expect("a pod");
        Arc::new(PodFacts::of(&pod))
    }

    /// The best node, whichever equal one a tie would give.
    fn best(pod: &PodFacts, snapshot: &Snapshot) -> String {
        let first = decide(pod, snapshot, |_| 0).expect("a node");
        let last = decide(pod, snapshot, |n| n - 1).expect("a node");
        assert_eq!(first, last, "one is better than the other");
        first.to_string()
    }

    #[test]
    fn what_is_preferred_is_chosen() {
        let none = || json!({});
        let snapshot = cluster(&[
            ("a", json!({ "disk": "ssd" }), none(), json!([])),
            ("b", none(), none(), json!([])),
        ]);
        let likes = pod(
            "p",
            json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
                { "weight": 1, "preference": { "matchExpressions": [{ "key": "disk", "operator": "DoesNotExist" }] } },
            ] } } }),
        );
        assert_eq!(best(&likes, &snapshot), "b");

        let taints = json!({ "taints": [{ "key": "k", "effect": "PreferNoSchedule" }] });
        let snapshot = cluster(&[
            ("a", none(), taints, json!([])),
            ("b", none(), none(), json!([])),
        ]);
        assert_eq!(best(&pod("p", none()), &snapshot), "b");

        let image = json!([{ "names": ["app:latest"], "sizeBytes": 900_000_000 }]);
        let snapshot = cluster(&[
            ("a", none(), none(), json!([])),
            ("b", none(), none(), image),
        ]);
        assert_eq!(best(&pod("p", none()), &snapshot), "b");
    }

    #[test]
    fn pods_like_and_dislike_each_other() {
        let host = |name: &str| json!({ "host": name });
        let mut snapshot = cluster(&[
            ("a", host("a"), json!({}), json!([])),
            ("b", host("b"), json!({}), json!([])),
        ]);
        let weighted = |kind: &str, app: &str| {
            json!({ "affinity": { kind: { "preferredDuringSchedulingIgnoredDuringExecution": [
                { "weight": 100, "podAffinityTerm": { "topologyKey": "host",
                    "labelSelector": { "matchLabels": { "app": app } } } },
            ] } } })
        };
        snapshot.put_pod(&pod("db", weighted("podAntiAffinity", "noise")), "a");
        let near = pod("near", weighted("podAffinity", "db"));
        assert_eq!(best(&near, &snapshot), "a");
        let away = pod("away", weighted("podAntiAffinity", "db"));
        assert_eq!(best(&away, &snapshot), "b");
        assert_eq!(
            best(&pod("noise", json!({})), &snapshot),
            "b",
            "it is not liked"
        );

        let evenly = pod(
            "db2",
            json!({ "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "host",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": { "app": "db" } } }] }),
        );
        assert_eq!(best(&evenly, &snapshot), "b");
    }
}
