//! The scheduler's effects: watches in, requests out.
//!
//! One task owns the cache and decides; requests run beside it, so many at a
//! time, and report back. Dropping the future stops everything; what was
//! assumed is found again by the watches of the next start.

use std::collections::HashSet;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use dhow_selector::LabelSelector;
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cache::{Action, Cache};
use crate::pod::{PodFacts, selector};
use crate::preempt::Budget;
use crate::tell::Teller;

/// Requests under way at a time.
const AT_ONCE: usize = 64;

type Events<K> = Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>>;

fn watched<K>(api: Api<K>, config: watcher::Config) -> Events<K>
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    watch(api, config).default_backoff().boxed()
}

/// How a request ended.
enum Outcome {
    /// Nothing is to be done.
    Done,
    /// The pod with this uid was not bound.
    NotBound(Arc<str>),
}

/// Runs the scheduler until it is dropped, as the user of the client
/// (`system:kube-scheduler`).
pub async fn run(client: Client) {
    let unfinished =
        watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut pods = Listed::new(watched(Api::<Pod>::all(client.clone()), unfinished));
    let all = watcher::Config::default;
    let mut nodes = Listed::new(watched(Api::<Node>::all(client.clone()), all()));
    let mut namespaces = Listed::new(watched(Api::<Namespace>::all(client.clone()), all()));
    let budgets: Api<PodDisruptionBudget> = Api::all(client.clone());
    let mut budgets = Listed::new(watched(budgets, all()));
    let mut known_budgets: Vec<PodDisruptionBudget> = Vec::new();

    let mut cache = Cache::default();
    let teller = Arc::new(Teller::new(client.clone()));
    let mut requests: JoinSet<Outcome> = JoinSet::new();
    loop {
        let now = Instant::now();
        let is_ready = pods.is_synced && nodes.is_synced && namespaces.is_synced;
        let may_decide = is_ready && requests.len() < AT_ONCE;
        let due = cache
            .next_due()
            .unwrap_or(now + std::time::Duration::from_secs(3600));
        tokio::select! {
            biased;
            Some(ended) = requests.join_next() => match ended {
                Ok(Outcome::Done) => {}
                Ok(Outcome::NotBound(uid)) => cache.bind_failed(&uid, Instant::now()),
                Err(error) => tracing::error!(%error, "a request of the scheduler broke"),
            },
            Some(event) = nodes.events.next() => match nodes.take(event, |node| name(&node.metadata)) {
                Change::Applied(node) => cache.node_applied(&node, now),
                Change::Deleted(node) => cache.node_deleted(&name(&node.metadata)),
                Change::Only(names) => cache.only_nodes(&names),
                Change::None => {}
            },
            Some(event) = namespaces.events.next() => {
                match namespaces.take(event, |namespace| name(&namespace.metadata)) {
                    Change::Applied(namespace) => cache.namespace_applied(&namespace, now),
                    Change::Deleted(namespace) => {
                        cache.namespace_deleted(&name(&namespace.metadata));
                    }
                    Change::Only(_) | Change::None => {}
                }
            }
            Some(event) = budgets.events.next() => {
                match budgets.take(event, |budget| uid(&budget.metadata)) {
                    Change::Applied(budget) => {
                        known_budgets.retain(|known| uid(&known.metadata) != uid(&budget.metadata));
                        known_budgets.push(*budget);
                    }
                    Change::Deleted(budget) => {
                        known_budgets.retain(|known| uid(&known.metadata) != uid(&budget.metadata));
                    }
                    Change::Only(uids) => {
                        known_budgets.retain(|known| uids.contains(&uid(&known.metadata)));
                    }
                    Change::None => continue,
                }
                cache.set_budgets(known_budgets.iter().map(digest).collect());
            }
            Some(event) = pods.events.next() => match pods.take(event, |pod| uid(&pod.metadata)) {
                Change::Applied(pod) => cache.pod_applied(&pod, now),
                Change::Deleted(pod) => {
                    let uid = uid(&pod.metadata);
                    teller.forget(&uid);
                    cache.pod_deleted(&uid, now);
                }
                Change::Only(uids) => cache.only_pods(&uids, now),
                Change::None => {}
            },
            () = ready(()), if may_decide && cache.has_due(now) => {
                let tie = |n| rand::rng().random_range(0..n);
                let Some(action) = cache.next(now, tie) else { continue };
                act(&client, &teller, action, &mut requests);
                // Others on this thread get their turn between decisions.
                tokio::task::yield_now().await;
            }
            () = tokio::time::sleep_until(due), if may_decide => {}
        }
    }
}

fn act(client: &Client, teller: &Arc<Teller>, action: Action, requests: &mut JoinSet<Outcome>) {
    let (client, teller) = (client.clone(), Arc::clone(teller));
    match action {
        Action::Bind { pod, node } => {
            requests.spawn(async move {
                match bind(&client, &pod, &node).await {
                    Ok(()) => {
                        teller.scheduled(&pod, &node).await;
                        Outcome::Done
                    }
                    Err(error) => {
                        tracing::info!(%error, pod = &*pod.name, node = &*node, "not bound");
                        Outcome::NotBound(Arc::clone(&pod.uid))
                    }
                }
            });
        }
        Action::Refuse {
            pod,
            refusal,
            preemption,
        } => {
            requests.spawn(async move {
                teller.refused(&pod, &refusal, preemption.as_ref()).await;
                Outcome::Done
            });
        }
    }
}

/// Binds by uid, so that another pod of the same name is left alone.
async fn bind(client: &Client, pod: &PodFacts, node: &str) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.to_string()),
            namespace: Some(pod.namespace.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.into()),
            ..ObjectReference::default()
        },
    };
    let parameters = PostParams::default();
    let _: serde_json::Value = pods
        .create_subresource("binding", &pod.name, &parameters, &binding)
        .await?;
    Ok(())
}

fn digest(budget: &PodDisruptionBudget) -> Budget {
    let spec = budget.spec.clone().unwrap_or_default();
    Budget {
        namespace: budget
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default()
            .into(),
        selector: spec
            .selector
            .as_ref()
            .map_or_else(LabelSelector::default, selector),
        allowed: budget
            .status
            .as_ref()
            .and_then(|status| status.disruptions_allowed)
            .unwrap_or(0),
    }
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

fn uid(metadata: &ObjectMeta) -> String {
    metadata.uid.clone().unwrap_or_default()
}

/// What an event of a watch means.
enum Change<K> {
    Applied(Box<K>),
    Deleted(Box<K>),
    /// After a list: only these are there.
    Only(HashSet<String>),
    None,
}

/// A watch whose lists are told as changes.
struct Listed<K> {
    events: Events<K>,
    listing: HashSet<String>,
    is_synced: bool,
}

impl<K> Listed<K> {
    fn new(events: Events<K>) -> Self {
        Self {
            events,
            listing: HashSet::new(),
            is_synced: false,
        }
    }

    fn take(
        &mut self,
        event: Result<Event<K>, watcher::Error>,
        key: impl Fn(&K) -> String,
    ) -> Change<K> {
        match event {
            Ok(Event::Apply(object)) => Change::Applied(Box::new(object)),
            Ok(Event::Delete(object)) => Change::Deleted(Box::new(object)),
            Ok(Event::Init) => {
                self.listing.clear();
                Change::None
            }
            Ok(Event::InitApply(object)) => {
                self.listing.insert(key(&object));
                Change::Applied(Box::new(object))
            }
            Ok(Event::InitDone) => {
                self.is_synced = true;
                Change::Only(std::mem::take(&mut self.listing))
            }
            Err(error) => {
                tracing::warn!(%error, "a watch of the scheduler is interrupted");
                Change::None
            }
        }
    }
}
