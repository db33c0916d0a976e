//! A pod as the scheduler sees it: digested once, then only compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use dhow_selector::{LabelSelector, Operator, Requirement};
use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;

use crate::amount::{Demand, demand};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What scheduling needs to know of a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodFacts {
    /// The object's uid.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// The uid of the object that controls it.
    pub controller: Option<Box<str>>,
    /// Greater goes first.
    pub priority: i32,
    /// Whether lower pods may be sent away for it.
    pub preempts: bool,
    /// Seconds since the epoch.
    pub created: i64,
    /// Whether it is being deleted.
    pub is_going: bool,
    /// What it asks for.
    pub demand: Demand,
    /// The only node it may run on, by name.
    pub node_name: Option<Box<str>>,
    /// Where it would go once others have left.
    pub nominated: Option<Arc<str>>,
    /// What it puts up with.
    pub tolerations: Vec<Toleration>,
    /// Labels a node must have.
    pub node_selector: LabelSelector,
    /// Of these terms one must hold, if there are any.
    pub node_terms: Option<Vec<NodeTerm>>,
    /// Nodes it would like, with weights.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// Ports it takes from its node.
    pub host_ports: Vec<HostPort>,
    /// Pods it must be near to.
    pub near: Vec<PodTerm>,
    /// Pods it must be away from.
    pub away: Vec<PodTerm>,
    /// Pods it would like to be near to (weight above zero) or away from.
    pub preferred_pods: Vec<(i64, PodTerm)>,
    /// How even it must be spread.
    pub spread: Vec<Spread>,
    /// How even it would like to be spread.
    pub preferred_spread: Vec<Spread>,
    /// Its images, with tags.
    pub images: Vec<Box<str>>,
}

/// A condition on nodes; all of it must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeTerm {
    /// On labels.
    pub labels: LabelSelector,
    /// On `metadata.name`.
    pub names: LabelSelector,
}

/// A port of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The address; `0.0.0.0` stands for all.
    pub address: Box<str>,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn clashes(&self, other: &Self) -> bool {
        let any = |port: &Self| &*port.address == "0.0.0.0" || &*port.address == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(self) || any(other) || self.address == other.address)
    }
}

/// A set of pods, and the key of the labels by which nodes are near each other.
#[derive(Debug, Clone, PartialEq)]
pub struct PodTerm {
    selector: Option<LabelSelector>,
    namespaces: Vec<String>,
    namespace_selector: Option<LabelSelector>,
    /// The node label.
    pub topology: Box<str>,
}

impl PodTerm {
    /// Whether the pod is in the set; `namespace` has its namespace's labels.
    pub fn holds(&self, pod: &PodFacts, namespace: &Labels) -> bool {
        let in_namespace = self.namespaces.iter().any(|name| **name == *pod.namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|selector| selector.matches(|key| get(namespace, key)));
        in_namespace
            && self
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(|key| get(&pod.labels, key)))
    }
}

/// How even pods are spread over the values of a node label.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// The node label.
    pub topology: Box<str>,
    /// The most by which a value may have more pods than the least one.
    pub max_skew: i64,
    /// With fewer values than this the least counts as none.
    pub min_domains: i64,
    /// Which pods count.
    pub selector: Option<LabelSelector>,
    /// Whether only nodes that the pod's node affinity allows count.
    pub honors_affinity: bool,
    /// Whether only nodes whose taints the pod tolerates count.
    pub honors_taints: bool,
}

impl Spread {
    /// Whether a pod with these labels counts.
    pub fn counts(&self, labels: &Labels) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selector.matches(|key| get(labels, key)))
    }
}

pub(crate) fn get<'l>(labels: &'l Labels, key: &str) -> Option<&'l str> {
    labels.get(key).map(String::as_str)
}

impl PodFacts {
    /// Digests a pod.
    pub fn of(pod: &Pod) -> Self {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let metadata = &pod.metadata;
        let labels = metadata.labels.clone().unwrap_or_default();
        let namespace: Arc<str> = metadata.namespace.as_deref().unwrap_or_default().into();
        let affinity = spec.affinity.clone().unwrap_or_default();
        let nodes = affinity.node_affinity.unwrap_or_default();
        let near = affinity.pod_affinity.unwrap_or_default();
        let away = affinity.pod_anti_affinity.unwrap_or_default();
        let term = |term: &PodAffinityTerm| pod_term(term, &namespace, &labels);
        let terms = |list: Option<Vec<PodAffinityTerm>>| -> Vec<PodTerm> {
            list.iter().flatten().map(term).collect()
        };
        let weighted = |list: Option<Vec<_>>, sign: i64| -> Vec<(i64, PodTerm)> {
            let list: Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm> =
                list.unwrap_or_default();
            list.iter()
                .map(|weighted| {
                    (
                        sign * i64::from(weighted.weight),
                        term(&weighted.pod_affinity_term),
                    )
                })
                .collect()
        };
        let mut preferred_pods =
            weighted(near.preferred_during_scheduling_ignored_during_execution, 1);
        preferred_pods.extend(weighted(
            away.preferred_during_scheduling_ignored_during_execution,
            -1,
        ));
        let (spread, preferred_spread): (Vec<_>, Vec<_>) = spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .partition(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
        let spread_of = |list: Vec<&TopologySpreadConstraint>| -> Vec<Spread> {
            list.into_iter()
                .map(|constraint| spread_constraint(constraint, &labels))
                .collect()
        };
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            name: metadata.name.as_deref().unwrap_or_default().into(),
            controller: metadata
                .owner_references
                .iter()
                .flatten()
                .find(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.as_str().into()),
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            created: metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
            is_going: metadata.deletion_timestamp.is_some(),
            demand: demand(spec),
            node_name: spec.node_name.as_deref().map(Into::into),
            nominated: pod
                .status
                .as_ref()
                .and_then(|status| status.nominated_node_name.as_deref())
                .filter(|name| !name.is_empty())
                .map(Into::into),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: LabelSelector::exact(
                spec.node_selector
                    .iter()
                    .flatten()
                    .map(|(key, value)| (key.as_str(), value.as_str())),
            ),
            node_terms: nodes
                .required_during_scheduling_ignored_during_execution
                .map(|required| {
                    required
                        .node_selector_terms
                        .iter()
                        .filter_map(node_term)
                        .collect()
                }),
            preferred_nodes: nodes
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
                .filter_map(|preferred| {
                    Some((
                        i64::from(preferred.weight),
                        node_term(&preferred.preference)?,
                    ))
                })
                .collect(),
            host_ports: host_ports(spec),
            near: terms(near.required_during_scheduling_ignored_during_execution),
            away: terms(away.required_during_scheduling_ignored_during_execution),
            preferred_pods,
            spread: spread_of(spread),
            preferred_spread: spread_of(preferred_spread),
            images: spec
                .containers
                .iter()
                .filter_map(|container| container.image.as_deref())
                .map(with_tag)
                .collect(),
            namespace,
            labels,
        }
    }

    /// Whether it has terms about other pods, of any kind.
    pub(crate) fn has_terms(&self) -> bool {
        !self.near.is_empty() || !self.away.is_empty() || !self.preferred_pods.is_empty()
    }

    /// Whether where other pods are decides where it may go.
    pub(crate) fn depends_on_pods(&self) -> bool {
        !self.near.is_empty() || !self.away.is_empty() || !self.spread.is_empty()
    }
}

/// The image's name as nodes report it.
fn with_tag(image: &str) -> Box<str> {
    let last = image.rsplit_once('/').map_or(image, |(_, last)| last);
    if last.contains([':', '@']) {
        image.into()
    } else {
        format!("{image}:latest").into()
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                port: port.host_port.filter(|number| *number > 0)?,
                protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                address: port
                    .host_ip
                    .as_deref()
                    .filter(|address| !address.is_empty())
                    .unwrap_or("0.0.0.0")
                    .into(),
            })
        })
        .collect()
}

fn requirement(key: &str, operator: &str, values: Option<&Vec<String>>) -> Requirement {
    Requirement {
        key: key.to_owned(),
        operator: match operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            // One that nothing meets: the API server lets none through.
            _ => Operator::In,
        },
        values: values.cloned().unwrap_or_default(),
    }
}

/// A term without conditions holds for no node.
fn node_term(term: &NodeSelectorTerm) -> Option<NodeTerm> {
    let read =
        |list: &Option<Vec<k8s_openapi::api::core::v1::NodeSelectorRequirement>>| LabelSelector {
            requirements: list
                .iter()
                .flatten()
                .map(|one| requirement(&one.key, &one.operator, one.values.as_ref()))
                .collect(),
        };
    let (labels, names) = (read(&term.match_expressions), read(&term.match_fields));
    (!labels.is_empty() || !names.is_empty()).then_some(NodeTerm { labels, names })
}

pub(crate) fn selector(selector: &Selector) -> LabelSelector {
    let mut read = LabelSelector::exact(
        selector
            .match_labels
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    );
    read.requirements.extend(
        selector
            .match_expressions
            .iter()
            .flatten()
            .map(|one| requirement(&one.key, &one.operator, one.values.as_ref())),
    );
    read
}

/// Adds conditions on keys whose values are the pod's own.
fn with_own(
    selector: &mut Option<LabelSelector>,
    keys: Option<&Vec<String>>,
    operator: Operator,
    labels: &Labels,
) {
    let Some(selector) = selector else { return };
    for key in keys.into_iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.requirements.push(Requirement {
                key: key.clone(),
                operator,
                values: vec![value.clone()],
            });
        }
    }
}

fn pod_term(term: &PodAffinityTerm, own_namespace: &str, labels: &Labels) -> PodTerm {
    let mut wanted = term.label_selector.as_ref().map(selector);
    with_own(
        &mut wanted,
        term.match_label_keys.as_ref(),
        Operator::In,
        labels,
    );
    with_own(
        &mut wanted,
        term.mismatch_label_keys.as_ref(),
        Operator::NotIn,
        labels,
    );
    let mut namespaces = term.namespaces.clone().unwrap_or_default();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(own_namespace.to_owned());
    }
    PodTerm {
        selector: wanted,
        namespaces,
        namespace_selector: term.namespace_selector.as_ref().map(selector),
        topology: term.topology_key.as_str().into(),
    }
}

fn spread_constraint(constraint: &TopologySpreadConstraint, labels: &Labels) -> Spread {
    let mut counted = constraint.label_selector.as_ref().map(selector);
    with_own(
        &mut counted,
        constraint.match_label_keys.as_ref(),
        Operator::In,
        labels,
    );
    Spread {
        topology: constraint.topology_key.as_str().into(),
        max_skew: i64::from(constraint.max_skew),
        min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
        selector: counted,
        honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}
