//! One decision: a pod and the cluster in, a node or the reasons out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::filter::{Reason, refusals};
use crate::pod::PodFacts;
use crate::score::{Candidate, score};
use crate::snapshot::{NodeFacts, NodeState, Snapshot};
use crate::topology::Topology;

/// Why no node takes a pod; Display is upstream's sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// How many nodes there are.
    pub n_nodes: usize,
    /// How many nodes say so.
    pub reasons: BTreeMap<Reason, usize>,
    /// How many nodes would refuse it even if pods left.
    pub n_hopeless: usize,
}

impl Refusal {
    /// Upstream's sentence about pods that could not be sent away for it.
    pub fn no_victims(&self) -> String {
        let n_nodes = self.n_nodes;
        let mut reasons = Vec::new();
        if self.n_hopeless < n_nodes {
            reasons.push(format!(
                "{} No preemption victims found for incoming pod",
                n_nodes - self.n_hopeless
            ));
        }
        if self.n_hopeless > 0 {
            reasons.push(format!(
                "{} Preemption is not helpful for scheduling",
                self.n_hopeless
            ));
        }
        reasons.sort();
        format!(
            "preemption: 0/{n_nodes} nodes are available: {}.",
            reasons.join(", ")
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.n_nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        reasons.sort();
        let n_nodes = self.n_nodes;
        write!(
            f,
            "0/{n_nodes} nodes are available: {}.",
            reasons.join(", ")
        )
    }
}

/// Chooses the node for a pod.
///
/// `tie` chooses one of so many equally good nodes, which come in the order of
/// their names; it must return less than it is given.
///
/// # Errors
/// When no node takes the pod.
pub fn decide(
    pod: &PodFacts,
    snapshot: &Snapshot,
    mut tie: impl FnMut(usize) -> usize,
) -> Result<Arc<str>, Refusal> {
    let topology = Topology::gather(pod, snapshot);
    let mut refusal = Refusal {
        n_nodes: snapshot.n_nodes(),
        ..Refusal::default()
    };
    // Room was made for it there, if the node still takes it.
    if let Some((node, facts)) = pod
        .nominated
        .as_deref()
        .and_then(|name| snapshot.node(name))
        && judge(pod, node, facts, &topology).is_empty()
    {
        return Ok(Arc::clone(&node.name));
    }
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for (node, facts) in snapshot.nodes() {
        let reasons = judge(pod, node, facts, &topology);
        if reasons.is_empty() {
            candidates.push((node, facts));
        }
        refusal.n_hopeless += usize::from(!reasons.iter().all(Reason::is_about_pods));
        for reason in reasons {
            *refusal.reasons.entry(reason).or_insert(0) += 1;
        }
    }
    if candidates.len() <= 1 {
        return match candidates.first() {
            Some((node, _)) => Ok(Arc::clone(&node.name)),
            None => Err(refusal),
        };
    }
    let scores = score(pod, &candidates, snapshot);
    let best = scores.iter().copied().max().unwrap_or(0);
    let equals: Vec<&Candidate<'_>> = candidates
        .iter()
        .zip(&scores)
        .filter(|(_, score)| **score == best)
        .map(|(candidate, _)| candidate)
        .collect();
    let chosen = tie(equals.len()).min(equals.len() - 1);
    Ok(Arc::clone(&equals[chosen].0.name))
}

/// All that is against a pod on a node.
pub(crate) fn judge(
    pod: &PodFacts,
    node: &NodeState,
    facts: &NodeFacts,
    topology: &Topology<'_>,
) -> Vec<Reason> {
    let mut reasons = refusals(pod, node, facts);
    if reasons.is_empty() {
        reasons.extend(topology.refusal(pod, facts));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use k8s_openapi::api::core::v1::{Node, Pod};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::amount::Amounts;

    fn node(name: &str, cpu: &str, labels: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": labels },
            "status": { "allocatable": { "cpu": cpu, "memory": "8Gi", "pods": "110" } },
        }))
        .expect("a node")
    }

    fn pod(name: &str, spec: Value) -> Arc<PodFacts> {
        labeled(name, json!({ "app": name }), spec)
    }

    fn labeled(name: &str, labels: Value, mut spec: Value) -> Arc<PodFacts> {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{ "name": "c", "image": "i" }]);
        }
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "labels": labels },
            "spec": spec,
        }))
        .expect("a pod");
        Arc::new(PodFacts::of(&pod))
    }

    fn asking(cpu: &str) -> Value {
        json!({ "containers": [{ "name": "c", "image": "i", "resources": { "requests": { "cpu": cpu } } }] })
    }

    fn cluster(nodes: &[Node]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in nodes {
            let name = node.metadata.name.as_deref().expect("a name");
            snapshot.set_node(name, NodeFacts::of(node));
        }
        snapshot
    }

    fn three() -> Snapshot {
        cluster(&[
            node("a", "2", json!({ "zone": "x", "host": "a" })),
            node("b", "2", json!({ "zone": "x", "host": "b" })),
            node("c", "2", json!({ "zone": "y", "host": "c" })),
        ])
    }

    fn first(pod: &PodFacts, snapshot: &Snapshot) -> Result<Arc<str>, Refusal> {
        decide(pod, snapshot, |_| 0)
    }

    fn chosen(pod: &PodFacts, snapshot: &Snapshot) -> String {
        first(pod, snapshot).expect("a node").to_string()
    }

    #[test]
    fn a_refusal_names_every_reason() {
        let mut snapshot = cluster(&[node("a", "1", json!({}))]);
        for name in ["b", "c"] {
            let mut tainted = node(name, "1", json!({}));
            tainted.spec = Some(
                serde_json::from_value(
                    json!({ "taints": [{ "key": "k", "effect": "NoSchedule" }] }),
                )
                .expect("a spec"),
            );
            snapshot.set_node(name, NodeFacts::of(&tainted));
        }
        let refusal = first(&pod("p", asking("3")), &snapshot).expect_err("too much");
        assert_eq!(
            refusal.to_string(),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s)."
        );
        assert_eq!(
            refusal.no_victims(),
            "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
        );
        let refusal = first(&pod("p", json!({})), &Snapshot::default()).expect_err("no node");
        assert_eq!(refusal.to_string(), "no nodes available to schedule pods");
    }

    #[test]
    fn node_affinity_has_all_operators() {
        let snapshot = cluster(&[
            node("a", "2", json!({ "cores": "4", "disk": "ssd" })),
            node("b", "2", json!({ "cores": "16" })),
        ]);
        let wanting = |expression: Value| {
            pod(
                "p",
                json!({ "affinity": { "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{ "matchExpressions": [expression] }] },
                } } }),
            )
        };
        let term = |key: &str, operator: &str, values: Value| {
            wanting(json!({ "key": key, "operator": operator, "values": values }))
        };
        assert_eq!(chosen(&term("cores", "Gt", json!(["8"])), &snapshot), "b");
        assert_eq!(chosen(&term("cores", "Lt", json!(["8"])), &snapshot), "a");
        assert_eq!(chosen(&term("disk", "Exists", json!(null)), &snapshot), "a");
        assert_eq!(
            chosen(&term("disk", "DoesNotExist", json!(null)), &snapshot),
            "b"
        );
        assert_eq!(
            chosen(&term("disk", "NotIn", json!(["ssd"])), &snapshot),
            "b"
        );
        assert_eq!(chosen(&term("disk", "In", json!(["ssd"])), &snapshot), "a");
        let by_name = pod(
            "p",
            json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                    {}, { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["b"] }] },
                ] },
            } } }),
        );
        assert_eq!(
            chosen(&by_name, &snapshot),
            "b",
            "an empty term holds for none"
        );
        let nowhere = pod("p", json!({ "nodeSelector": { "disk": "none" } }));
        assert_eq!(
            first(&nowhere, &snapshot).expect_err("none").to_string(),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
        );
    }

    fn pod_affinity(kind: &str, app: &str, topology: &str) -> Value {
        json!({ "affinity": { kind: { "requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": { "matchLabels": { "app": app } }, "topologyKey": topology,
        }] } } })
    }

    #[test]
    fn pods_are_near_and_away_from_each_other() {
        let mut snapshot = three();
        let near = pod("near", pod_affinity("podAffinity", "db", "zone"));
        assert!(
            first(&near, &snapshot).is_err(),
            "nobody to be near to, and not of the set itself"
        );
        let begins = pod("db", pod_affinity("podAffinity", "db", "zone"));
        assert!(
            first(&begins, &snapshot).is_ok(),
            "the first of its set begins"
        );
        snapshot.put_pod(&pod("db", json!({})), "c");
        assert_eq!(chosen(&near, &snapshot), "c");
        let away = pod("away", pod_affinity("podAntiAffinity", "db", "zone"));
        assert_ne!(chosen(&away, &snapshot), "c");
        // Those that are there have a say as well.
        snapshot.put_pod(&away, "a");
        let late = labeled("late", json!({ "app": "db" }), json!({}));
        assert_eq!(chosen(&late, &snapshot), "c");
        let pinned = labeled(
            "late",
            json!({ "app": "db" }),
            json!({ "nodeSelector": { "host": "b" } }),
        );
        let refusal = first(&pinned, &snapshot).expect_err("unwelcome");
        assert_eq!(refusal.reasons.get(&Reason::ExistingAntiAffinity), Some(&1));
    }

    #[test]
    fn pods_are_spread_no_more_than_the_skew() {
        let mut snapshot = three();
        let spread = |name: &str| {
            labeled(
                name,
                json!({ "app": "web" }),
                json!({ "topologySpreadConstraints": [{
                    "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": { "matchLabels": { "app": "web" } },
                }] }),
            )
        };
        snapshot.put_pod(&spread("1"), "a");
        for (name, at) in [("2", "c"), ("3", "")] {
            let next = spread(name);
            let node = chosen(&next, &snapshot);
            assert!(at.is_empty() || node == at, "{node}");
            snapshot.put_pod(&next, &node);
        }
        let unlabeled = cluster(&[node("d", "2", json!({}))]);
        let refusal = first(&spread("4"), &unlabeled).expect_err("no label");
        assert_eq!(
            refusal.to_string(),
            "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."
        );
    }

    #[test]
    fn a_port_of_the_node_is_taken_once() {
        let mut snapshot = cluster(&[node("a", "2", json!({})), node("b", "2", json!({}))]);
        let with_port = |name: &str| {
            pod(
                name,
                json!({ "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 80, "hostPort": 80 }] }] }),
            )
        };
        for name in ["1", "2"] {
            let next = with_port(name);
            let node = chosen(&next, &snapshot);
            snapshot.put_pod(&next, &node);
        }
        let refusal = first(&with_port("3"), &snapshot).expect_err("all taken");
        assert_eq!(
            refusal.to_string(),
            "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports."
        );
    }

    #[test]
    fn a_sets_pods_are_spread_over_nodes() {
        let mut snapshot = three();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for number in 0..6 {
            let mut next = PodFacts::clone(&pod(&number.to_string(), asking("10m")));
            next.controller = Some("set".into());
            let next = Arc::new(next);
            let node = chosen(&next, &snapshot);
            snapshot.put_pod(&next, &node);
            *places.entry(node).or_insert(0) += 1;
        }
        assert_eq!(places.into_values().collect::<Vec<_>>(), [2, 2, 2]);
    }

    /// The promise of the design notes: a thousand pods on a hundred nodes in
    /// well under a second.
    #[test]
    fn a_thousand_pods_find_their_nodes_quickly() {
        let nodes: Vec<Node> = (0..100)
            .map(|n| {
                node(
                    &format!("n{n}"),
                    "16",
                    json!({ "topology.kubernetes.io/zone": format!("z{}", n % 3) }),
                )
            })
            .collect();
        let mut snapshot = cluster(&nodes);
        let pods: Vec<Arc<PodFacts>> = (0..1000)
            .map(|n| {
                let mut pod = PodFacts::clone(&pod(&format!("p{n}"), asking("100m")));
                pod.controller = Some(format!("set{}", n % 20).into());
                Arc::new(pod)
            })
            .collect();
        let start = Instant::now();
        for pod in &pods {
            let node = first(pod, &snapshot).expect("a node");
            snapshot.put_pod(pod, &node);
        }
        let took = start.elapsed();
        println!("1,000 pods on 100 nodes: {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    fn amounts(cpu: i64, memory: i64) -> Amounts {
        Amounts {
            milli_cpu: cpu,
            memory,
            ..Amounts::default()
        }
    }

    proptest! {
        /// Whatever is asked for, no node is promised more than it has; and
        /// who is refused fits nowhere.
        #[test]
        fn no_node_is_promised_more_than_it_has(
            nodes in prop::collection::vec((0i64..8000, 0i64..8000, 0i64..20), 0..8),
            pods in prop::collection::vec((0i64..3000, 0i64..3000), 0..60),
            luck in any::<u64>(),
        ) {
            let mut snapshot = Snapshot::default();
            for (number, (cpu, memory, most_pods)) in nodes.iter().enumerate() {
                let facts = NodeFacts {
                    capacity: amounts(*cpu, *memory),
                    most_pods: *most_pods,
                    ..NodeFacts::default()
                };
                snapshot.set_node(&number.to_string(), facts);
            }
            for (number, (cpu, memory)) in pods.iter().enumerate() {
                let mut pod = PodFacts { uid: number.to_string().into(), ..PodFacts::default() };
                pod.demand.exact = amounts(*cpu, *memory);
                let pod = Arc::new(pod);
                let tie = |n: usize| usize::try_from(luck % n as u64).expect("small");
                match decide(&pod, &snapshot, tie) {
                    Ok(node) => snapshot.put_pod(&pod, &node),
                    Err(_) => {
                        for (node, facts) in snapshot.nodes() {
                            prop_assert!(
                                node.pods.len() as i64 >= facts.most_pods
                                    || *cpu > facts.capacity.milli_cpu - node.used.milli_cpu
                                    || *memory > facts.capacity.memory - node.used.memory
                            );
                        }
                    }
                }
            }
            for (node, facts) in snapshot.nodes() {
                prop_assert!(node.used.milli_cpu <= facts.capacity.milli_cpu);
                prop_assert!(node.used.memory <= facts.capacity.memory);
                prop_assert!(node.pods.len() as i64 <= facts.most_pods);
                let sum: i64 = node.pods.iter().map(|pod| pod.demand.exact.milli_cpu).sum();
                prop_assert_eq!(sum, node.used.milli_cpu, "what is counted is what is there");
            }
        }

        /// The order in which nodes became known does not matter.
        #[test]
        fn the_order_of_nodes_does_not_matter(
            nodes in prop::collection::vec((1000i64..8000, 1000i64..8000), 1..8)
                .prop_shuffle(),
            order in Just((0..8).collect::<Vec<usize>>()).prop_shuffle(),
        ) {
            let facts = |(cpu, memory): &(i64, i64)| NodeFacts {
                capacity: amounts(*cpu, *memory),
                most_pods: 110,
                ..NodeFacts::default()
            };
            let mut straight = Snapshot::default();
            for (number, node) in nodes.iter().enumerate() {
                straight.set_node(&number.to_string(), facts(node));
            }
            let mut shuffled = Snapshot::default();
            for number in order {
                if let Some(node) = nodes.get(number) {
                    shuffled.set_node(&number.to_string(), facts(node));
                }
            }
            for number in 0..10 {
                let pod = Arc::new(PodFacts {
                    uid: number.to_string().into(),
                    demand: crate::Demand { exact: amounts(500, 300), felt: amounts(500, 300) },
                    ..PodFacts::default()
                });
                let one = decide(&pod, &straight, |_| 0);
                let other = decide(&pod, &shuffled, |_| 0);
                prop_assert_eq!(&one, &other);
                if let Ok(node) = one {
                    straight.put_pod(&pod, &node);
                    shuffled.put_pod(&pod, &node);
                }
            }
        }
    }
}
