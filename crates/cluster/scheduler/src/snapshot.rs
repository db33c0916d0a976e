//! The cluster as the scheduler believes it to be: nodes and the pods on them.
//!
//! Kept up to date change by change, never made anew. A pod may stand on a
//! node that is not (yet, or any more) there; such a node takes no pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dhow_quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::amount::Amounts;
use crate::pod::{Labels, PodFacts};

/// What scheduling needs to know of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFacts {
    /// Its labels.
    pub labels: Labels,
    /// What it keeps pods away with.
    pub taints: Vec<Taint>,
    /// Whether it takes no new pods.
    pub is_closed: bool,
    /// What it has for pods.
    pub capacity: Amounts,
    /// How many pods it takes.
    pub most_pods: i64,
    /// Sizes of the images it has, in bytes, by each of their names.
    pub images: BTreeMap<Box<str>, i64>,
}

impl NodeFacts {
    /// Digests a node.
    pub fn of(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let most_pods = status
            .allocatable
            .as_ref()
            .and_then(|amounts| amounts.get("pods"))
            .and_then(|text| text.0.parse::<Quantity>().ok())
            .map_or(0, |quantity| quantity.value());
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            is_closed: spec.unschedulable == Some(true),
            capacity: Amounts::read(status.allocatable.as_ref()),
            most_pods,
            images: status
                .images
                .iter()
                .flatten()
                .flat_map(|image| {
                    let size = image.size_bytes.unwrap_or(0);
                    let names = image.names.iter().flatten();
                    names.map(move |name| (name.as_str().into(), size))
                })
                .collect(),
        }
    }
}

/// A node and what is on it.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// Its name.
    pub name: Arc<str>,
    /// `None` while only pods speak of it.
    pub facts: Option<Arc<NodeFacts>>,
    /// The pods on it.
    pub pods: Vec<Arc<PodFacts>>,
    /// Those of them that have terms about other pods.
    pub with_terms: Vec<Arc<PodFacts>>,
    /// What they ask for together, exactly.
    pub used: Amounts,
    /// The same as it is taken for in scores.
    pub felt: Amounts,
    /// Pods that are meant to come here once others have left.
    pub nominated: Vec<Arc<PodFacts>>,
}

impl NodeState {
    fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            ..Self::default()
        }
    }

    fn is_empty(&self) -> bool {
        self.facts.is_none() && self.pods.is_empty() && self.nominated.is_empty()
    }

    pub(crate) fn add(&mut self, pod: &Arc<PodFacts>) {
        self.used.add(&pod.demand.exact);
        self.felt.add(&pod.demand.felt);
        if pod.has_terms() {
            self.with_terms.push(Arc::clone(pod));
        }
        self.pods.push(Arc::clone(pod));
    }

    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<PodFacts>> {
        let at = self.pods.iter().position(|pod| &*pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.with_terms.retain(|other| &*other.uid != uid);
        self.used.subtract(&pod.demand.exact);
        self.felt.subtract(&pod.demand.felt);
        Some(pod)
    }
}

/// All nodes.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: BTreeMap<Arc<str>, NodeState>,
    namespaces: HashMap<Arc<str>, Arc<Labels>>,
    /// How many nodes have an image.
    images: HashMap<Box<str>, usize>,
    /// Where each pod stands.
    places: HashMap<Arc<str>, Arc<str>>,
    /// Where pods are meant to go.
    nominations: HashMap<Arc<str>, Arc<str>>,
    present: usize,
    no_labels: Arc<Labels>,
}

impl Snapshot {
    /// The nodes that are there.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeState, &NodeFacts)> {
        self.nodes
            .values()
            .filter_map(|node| Some((node, node.facts.as_deref()?)))
    }

    /// How many nodes are there.
    pub fn n_nodes(&self) -> usize {
        self.present
    }

    /// A node that is there.
    pub fn node(&self, name: &str) -> Option<(&NodeState, &NodeFacts)> {
        let node = self.nodes.get(name)?;
        Some((node, node.facts.as_deref()?))
    }

    /// On how many nodes an image is.
    pub fn n_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// The labels of a namespace; none if it is not known.
    pub fn namespace(&self, name: &str) -> &Labels {
        self.namespaces.get(name).unwrap_or(&self.no_labels)
    }

    /// Sets a namespace's labels.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        self.namespaces.insert(name.into(), Arc::new(labels));
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Where a pod stands.
    pub fn place(&self, uid: &str) -> Option<&Arc<str>> {
        self.places.get(uid)
    }

    /// Uids of all pods that stand somewhere.
    pub fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.places.keys()
    }

    /// Sets what is known of a node; whether anything changed.
    pub fn set_node(&mut self, name: &str, facts: NodeFacts) -> bool {
        let known = self.nodes.get(name).and_then(|node| node.facts.as_deref());
        if known == Some(&facts) {
            return false;
        }
        self.forget_facts(name);
        for image in facts.images.keys() {
            *self.images.entry(image.clone()).or_insert(0) += 1;
        }
        self.present += 1;
        self.entry(name).facts = Some(Arc::new(facts));
        true
    }

    /// Takes a node away; its pods are remembered.
    pub fn remove_node(&mut self, name: &str) {
        self.forget_facts(name);
        self.drop_if_empty(name);
    }

    fn forget_facts(&mut self, name: &str) {
        let Some(facts) = self.nodes.get_mut(name).and_then(|node| node.facts.take()) else {
            return;
        };
        self.present -= 1;
        for image in facts.images.keys() {
            if let Some(count) = self.images.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(image);
                }
            }
        }
    }

    fn entry(&mut self, name: &str) -> &mut NodeState {
        if !self.nodes.contains_key(name) {
            let name: Arc<str> = name.into();
            self.nodes.insert(Arc::clone(&name), NodeState::new(&name));
        }
        self.nodes.get_mut(name).expect("it was put there")
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(NodeState::is_empty) {
            self.nodes.remove(name);
        }
    }

    /// Puts a pod on a node, wherever it was before.
    pub fn put_pod(&mut self, pod: &Arc<PodFacts>, node: &str) {
        self.remove_pod(&pod.uid);
        self.nominate(pod, None);
        let state = self.entry(node);
        state.add(pod);
        let name = Arc::clone(&state.name);
        self.places.insert(Arc::clone(&pod.uid), name);
    }

    /// Takes a pod off its node; the node's name and the pod as it was known.
    pub fn remove_pod(&mut self, uid: &str) -> Option<(Arc<str>, Arc<PodFacts>)> {
        let place = self.places.remove(uid)?;
        let pod = self.nodes.get_mut(&place)?.remove(uid)?;
        self.drop_if_empty(&place);
        Some((place, pod))
    }

    /// Notes where a pod is meant to go, or that it is meant to go nowhere.
    pub fn nominate(&mut self, pod: &Arc<PodFacts>, node: Option<&str>) {
        if let Some(before) = self.nominations.remove(&pod.uid) {
            if let Some(state) = self.nodes.get_mut(&before) {
                state.nominated.retain(|other| other.uid != pod.uid);
            }
            self.drop_if_empty(&before);
        }
        if let Some(node) = node {
            let state = self.entry(node);
            state.nominated.push(Arc::clone(pod));
            let name = Arc::clone(&state.name);
            self.nominations.insert(Arc::clone(&pod.uid), name);
        }
    }
}
