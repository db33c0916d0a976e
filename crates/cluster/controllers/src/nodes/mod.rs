//! Nodes that are not heard any more, and the pods on them.
//!
//! A node whose Lease was not renewed for 40 s is no longer trusted: its
//! conditions become `Unknown`, it gets taints, its pods are marked not ready
//! and go when their tolerations are over. Taints follow conditions both
//! ways, so that a node that is back is free of them. Pods of nodes that are
//! gone altogether are removed by force.
//!
//! What is to be done is decided by [`monitor`]; here it is done. Not here:
//! upstream's slower eviction when many nodes of a zone fail at once.

mod monitor;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::error::Error;
use monitor::{Action, Monitor, Now, PodName, Timing, pod_name};

const LEASES: &str = "kube-node-lease";
/// Requests under way at a time.
const AT_ONCE: usize = 16;
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) async fn run(client: Client) {
    run_with(client, Timing::USUAL).await;
}

/// One event of one of the watches.
enum Told {
    Node(Box<Event<Node>>),
    Lease(Box<Event<Lease>>),
    Pod(Box<Event<Pod>>),
}

type Events = Pin<Box<dyn Stream<Item = Told> + Send>>;

fn follow<K>(api: Api<K>, told: impl Fn(Box<Event<K>>) -> Told + Send + 'static) -> Events
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(|event| std::future::ready(event.ok()))
        .map(move |event| told(Box::new(event)))
        .boxed()
}

async fn run_with(client: Client, timing: Timing) {
    let leases = Api::namespaced(client.clone(), LEASES);
    let mut events = stream::select_all([
        follow(Api::all(client.clone()), Told::Node),
        follow(leases, Told::Lease),
        follow(Api::all(client.clone()), Told::Pod),
    ])
    .ready_chunks(256);
    let mut keeper = Keeper {
        client,
        monitor: Monitor::new(timing),
        nodes: Listing::default(),
        pods: Listing::default(),
        retry: None,
    };
    loop {
        let due = keeper.work().await;
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(told) = events.next() => {
                let now = Now::read();
                for told in told {
                    keeper.hear(told, now);
                }
            }
            () = sleep => {}
        }
    }
}

/// What a list has told so far.
#[derive(Default)]
struct Listing {
    keys: HashSet<String>,
    is_synced: bool,
}

struct Keeper {
    client: Client,
    monitor: Monitor,
    nodes: Listing,
    pods: Listing,
    /// Nothing is done before, after something failed.
    retry: Option<Instant>,
}

/// What became of an action.
enum Outcome {
    Node(Box<Node>),
    Pod(Box<Pod>),
    PodGone(PodName),
    /// The pod's node is there after all.
    NodeFound(String),
}

impl Keeper {
    fn hear(&mut self, told: Told, now: Now) {
        match told {
            Told::Node(event) => self.hear_node(*event, now),
            Told::Pod(event) => self.hear_pod(*event),
            Told::Lease(event) => match *event {
                Event::Apply(lease) | Event::InitApply(lease) => {
                    self.monitor.lease_applied(&lease, now);
                }
                Event::Delete(lease) => self.monitor.lease_deleted(&lease.name_any()),
                Event::Init | Event::InitDone => {}
            },
        }
    }

    fn hear_node(&mut self, event: Event<Node>, now: Now) {
        match event {
            Event::Apply(node) => self.monitor.node_applied(node, now),
            Event::Delete(node) => self.monitor.node_deleted(&node.name_any()),
            Event::Init => self.nodes.keys.clear(),
            Event::InitApply(node) => {
                self.nodes.keys.insert(node.name_any());
                self.monitor.node_applied(node, now);
            }
            Event::InitDone => {
                self.monitor.only_nodes(&self.nodes.keys);
                self.nodes.is_synced = true;
            }
        }
    }

    fn hear_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Apply(pod) => self.monitor.pod_applied(&pod),
            Event::Delete(pod) => self.monitor.pod_deleted(&pod_name(&pod)),
            Event::Init => self.pods.keys.clear(),
            Event::InitApply(pod) => {
                self.pods.keys.insert(pod.uid().unwrap_or_default());
                self.monitor.pod_applied(&pod);
            }
            Event::InitDone => {
                self.monitor.only_pods(&self.pods.keys);
                self.pods.is_synced = true;
            }
        }
    }

    /// Does what is to be done; when to look again.
    async fn work(&mut self) -> Option<Instant> {
        if !self.nodes.is_synced || !self.pods.is_synced {
            return None;
        }
        loop {
            let now = Now::read();
            if let Some(retry) = self.retry.filter(|retry| *retry > now.instant) {
                return Some(retry);
            }
            self.retry = None;
            let (actions, due) = self.monitor.plan(now);
            if actions.is_empty() {
                return due;
            }
            let outcomes: Vec<Result<Outcome, Error>> = stream::iter(actions)
                .map(|action| perform(&self.client, action))
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            let now = Now::read();
            for outcome in outcomes {
                match outcome {
                    Ok(Outcome::Node(node)) => self.monitor.node_applied(*node, now),
                    Ok(Outcome::Pod(pod)) => self.monitor.pod_applied(&pod),
                    Ok(Outcome::PodGone(name)) => self.monitor.pod_deleted(&name),
                    Ok(Outcome::NodeFound(node)) => self.monitor.node_found(&node),
                    Err(error) => {
                        if !error.is_conflict() {
                            tracing::warn!(%error, "a node's state is not acted on");
                        }
                        self.retry = Some(now.instant + RETRY);
                    }
                }
            }
            // What the watches tell meanwhile comes before what is next.
            if self.retry.is_some() {
                return self.retry;
            }
        }
    }
}

async fn perform(client: &Client, action: Action) -> Result<Outcome, Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let parameters = PatchParams::default();
    match action {
        Action::Doubt { node, conditions } => {
            tracing::info!(node, "the node is not heard any more");
            let patch = Patch::Strategic(json!({ "status": { "conditions": conditions } }));
            let node = nodes.patch_status(&node, &parameters, &patch).await?;
            Ok(Outcome::Node(Box::new(node)))
        }
        Action::Taint {
            node,
            version,
            taints,
        } => {
            let patch = Patch::Merge(json!({
                "metadata": { "resourceVersion": version },
                "spec": { "taints": taints },
            }));
            let node = nodes.patch(&node, &parameters, &patch).await?;
            Ok(Outcome::Node(Box::new(node)))
        }
        Action::Unready { pod } => {
            let told = json!({ "type": "Ready", "status": "False", "reason": "NodeNotReady",
                "message": "Node is not ready", "lastTransitionTime": Time(Timestamp::now()) });
            tell(client, pod, told).await
        }
        Action::Evict { pod } => {
            let told = json!({ "type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": Time(Timestamp::now()) });
            if let Outcome::PodGone(name) = tell(client, pod.clone(), told).await? {
                return Ok(Outcome::PodGone(name));
            }
            delete(client, pod, DeleteParams::default()).await
        }
        Action::Remove { pod, node } => {
            if nodes.get_metadata_opt(&node).await?.is_some() {
                return Ok(Outcome::NodeFound(node));
            }
            let told = json!({ "type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": Time(Timestamp::now()) });
            if let Outcome::PodGone(name) = tell(client, pod.clone(), told).await? {
                return Ok(Outcome::PodGone(name));
            }
            let by_force = DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            delete(client, pod, by_force).await
        }
    }
}

/// Writes a condition into a pod's status.
async fn tell(
    client: &Client,
    name: PodName,
    condition: serde_json::Value,
) -> Result<Outcome, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    let patch = Patch::Strategic(json!({
        "metadata": { "uid": name.uid },
        "status": { "conditions": [condition] },
    }));
    let outcome = pods
        .patch_status(&name.name, &PatchParams::default(), &patch)
        .await;
    match outcome {
        Ok(pod) => Ok(Outcome::Pod(Box::new(pod))),
        // Gone, or another has its name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            Ok(Outcome::PodGone(name))
        }
        Err(error) => Err(error.into()),
    }
}

async fn delete(
    client: &Client,
    name: PodName,
    parameters: DeleteParams,
) -> Result<Outcome, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(name.uid.clone()),
            ..Preconditions::default()
        }),
        ..parameters
    };
    match pods.delete(&name.name, &parameters).await {
        Ok(outcome) => Ok(match outcome.left() {
            Some(pod) if pod.metadata.deletion_timestamp.is_some() => Outcome::Pod(Box::new(pod)),
            _ => Outcome::PodGone(name),
        }),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            Ok(Outcome::PodGone(name))
        }
        Err(error) => Err(error.into()),
    }
}
