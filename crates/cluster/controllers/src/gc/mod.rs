//! Garbage collection: what is owned goes when its last owner has gone.
//!
//! Every kind that discovery lists is watched, metadata only. The [`graph`]
//! says who owns whom and what follows; nothing is deleted before a look at
//! the API itself has shown that the owners are gone. Background, foreground
//! and orphaning deletion work as upstream has them, by finalizers.
//!
//! Guarantee: an object with an owner that is there and stays is never
//! deleted. Assumption: uids are never used twice. Caveat: an owner of a kind
//! that is not known counts as there.

mod graph;
#[cfg(test)]
mod world;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::resources::{Kind, Metadata, discover};
use graph::{Answer, Graph, GroupKind, Owner, Policy, Question, Reference, Seen, Step, Uid};

/// Objects thought about at a time.
const AT_ONCE: usize = 16;
/// Events that may wait for the graph.
const EVENTS: usize = 1024;
/// Kinds are discovered anew this often, and when one is defined.
const REDISCOVER: Duration = Duration::from_secs(30);
const AFTER_CONFLICT: Duration = Duration::from_millis(50);
const AFTER_FAILURE: Duration = Duration::from_secs(2);

pub(crate) async fn run(client: Client) {
    let (events, received) = mpsc::channel(EVENTS);
    Collector {
        client,
        graph: Graph::default(),
        kinds: Arc::default(),
        watches: HashMap::new(),
        unsynced: HashSet::new(),
        events,
        received,
        in_hand: HashSet::new(),
        work: JoinSet::new(),
        later: BTreeSet::new(),
        paused: HashSet::new(),
    }
    .run()
    .await;
}

type Kinds = HashMap<GroupKind, Kind>;

/// What a watch tells.
enum Told {
    Applied(Seen),
    Gone(Uid),
    /// After a list: of this kind only these are there.
    Only(GroupKind, HashSet<Uid>),
}

/// What became of work on an object.
enum Report {
    Looked(Uid, Answer, Vec<(Uid, Answer)>),
    Done(Uid),
    Failed(Uid, kube::Error),
}

struct Collector {
    client: Client,
    graph: Graph,
    kinds: Arc<Kinds>,
    /// Ended when they are dropped.
    watches: HashMap<GroupKind, JoinSet<()>>,
    /// Kinds of the first discovery that have not been listed yet.
    unsynced: HashSet<GroupKind>,
    events: mpsc::Sender<Told>,
    received: mpsc::Receiver<Told>,
    in_hand: HashSet<Uid>,
    work: JoinSet<Report>,
    later: BTreeSet<(Instant, Uid)>,
    /// What failed is left alone until its time comes.
    paused: HashSet<Uid>,
}

impl Collector {
    async fn run(mut self) {
        let mut rediscover = Instant::now();
        let mut is_first = true;
        loop {
            if Instant::now() >= rediscover {
                let known = self.discover(is_first).await;
                is_first &= !known;
                let pause = if known { REDISCOVER } else { AFTER_FAILURE };
                rediscover = Instant::now() + pause;
            }
            while let Ok(told) = self.received.try_recv() {
                if self.hear(told) {
                    rediscover = Instant::now();
                }
            }
            if !is_first && self.unsynced.is_empty() {
                self.take_work();
            }
            let due = self.later.first().map_or(rediscover, |(at, _)| *at);
            tokio::select! {
                biased;
                Some(told) = self.received.recv() => {
                    if self.hear(told) {
                        rediscover = Instant::now();
                    }
                }
                Some(report) = self.work.join_next() => match report {
                    Ok(report) => self.conclude(report),
                    Err(error) => tracing::error!(%error, "garbage collection broke"),
                },
                () = tokio::time::sleep_until(due.min(rediscover)) => {
                    let now = Instant::now();
                    while let Some((at, uid)) = self.later.first().cloned() {
                        if at > now {
                            break;
                        }
                        self.later.remove(&(at, Arc::clone(&uid)));
                        self.paused.remove(&uid);
                        self.graph.again(&uid);
                    }
                }
            }
        }
    }

    /// Finds the kinds there are and watches each; whether that succeeded.
    async fn discover(&mut self, is_first: bool) -> bool {
        let found = match discover(&self.client).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "garbage collection cannot discover what there is");
                return false;
            }
        };
        let kinds: Kinds = found
            .into_iter()
            // Events own nothing, and there are many.
            .filter(|kind| kind.full_name() != "events")
            .map(|kind| (group_kind(&kind), kind))
            .collect();
        let gone: Vec<GroupKind> = self
            .watches
            .keys()
            .filter(|known| !kinds.contains_key(known))
            .cloned()
            .collect();
        for kind in gone {
            self.watches.remove(&kind);
            self.unsynced.remove(&kind);
            self.graph.only(&kind, &HashSet::new());
        }
        let mut is_news = false;
        for (name, kind) in &kinds {
            if self.watches.contains_key(name) {
                continue;
            }
            is_news = true;
            let mut watch = JoinSet::new();
            watch.spawn(follow(
                self.client.clone(),
                name.clone(),
                kind.clone(),
                self.events.clone(),
            ));
            self.watches.insert(name.clone(), watch);
            if is_first {
                self.unsynced.insert(name.clone());
            }
        }
        self.kinds = Arc::new(kinds);
        if is_news {
            self.graph.doubt();
        }
        true
    }

    /// Takes note of what a watch tells; whether kinds may have changed.
    fn hear(&mut self, told: Told) -> bool {
        match told {
            Told::Applied(seen) => {
                let is_definition = &*seen.at.kind.kind == "CustomResourceDefinition";
                self.graph.apply(seen);
                return is_definition;
            }
            Told::Gone(uid) => self.graph.gone(&uid),
            Told::Only(kind, uids) => {
                self.graph.only(&kind, &uids);
                self.unsynced.remove(&kind);
            }
        }
        false
    }

    fn take_work(&mut self) {
        while self.in_hand.len() < AT_ONCE {
            let is_busy = |uid: &Uid| self.in_hand.contains(uid) || self.paused.contains(uid);
            let Some(question) = self.graph.take(is_busy) else {
                break;
            };
            self.in_hand.insert(Arc::clone(&question.item.uid));
            self.work
                .spawn(look(self.client.clone(), Arc::clone(&self.kinds), question));
        }
    }

    fn conclude(&mut self, report: Report) {
        match report {
            Report::Looked(uid, item, owners) => match self.graph.plan(&uid, item, &owners) {
                Step::Nothing => {
                    self.in_hand.remove(&uid);
                }
                step => {
                    tracing::debug!(?step, "garbage collection");
                    let (client, kinds) = (self.client.clone(), Arc::clone(&self.kinds));
                    self.work.spawn(async move {
                        match perform(&client, &kinds, step).await {
                            Ok(()) => Report::Done(uid),
                            Err(error) => Report::Failed(uid, error),
                        }
                    });
                }
            },
            Report::Done(uid) => {
                self.in_hand.remove(&uid);
            }
            Report::Failed(uid, error) => {
                self.in_hand.remove(&uid);
                let pause = match &error {
                    kube::Error::Api(status) if matches!(status.code, 404 | 409) => AFTER_CONFLICT,
                    _ => {
                        tracing::warn!(%error, %uid, "garbage collection failed");
                        AFTER_FAILURE
                    }
                };
                self.paused.insert(Arc::clone(&uid));
                self.later.insert((Instant::now() + pause, uid));
            }
        }
    }
}

fn group_kind(kind: &Kind) -> GroupKind {
    GroupKind {
        group: kind.resource.group.as_str().into(),
        kind: kind.resource.kind.as_str().into(),
    }
}

/// Tells what happens to objects of a kind.
async fn follow(client: Client, name: GroupKind, kind: Kind, events: mpsc::Sender<Told>) {
    let api = kind.metadata(&client, "");
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed = HashSet::new();
    while let Some(event) = stream.next().await {
        let told = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                let seen = seen(&name, object);
                listed.insert(Arc::clone(&seen.at.uid));
                Told::Applied(seen)
            }
            Ok(Event::InitDone) => Told::Only(name.clone(), std::mem::take(&mut listed)),
            Ok(Event::Apply(object)) => Told::Applied(seen(&name, object)),
            Ok(Event::Delete(object)) => {
                Told::Gone(object.metadata.uid.unwrap_or_default().as_str().into())
            }
            Err(error) => {
                tracing::debug!(%error, kind = kind.full_name(), "a watch is interrupted");
                continue;
            }
        };
        if events.send(told).await.is_err() {
            return;
        }
    }
}

fn seen(kind: &GroupKind, object: Metadata) -> Seen {
    let metadata = object.metadata;
    let text = |text: Option<String>| text.unwrap_or_default().as_str().into();
    Seen {
        owners: metadata
            .owner_references
            .into_iter()
            .flatten()
            .map(|owner| Owner {
                kind: GroupKind {
                    group: owner
                        .api_version
                        .split_once('/')
                        .map_or("", |(group, _)| group)
                        .into(),
                    kind: owner.kind.as_str().into(),
                },
                name: owner.name.as_str().into(),
                uid: owner.uid.as_str().into(),
                blocks: owner.block_owner_deletion == Some(true),
            })
            .collect(),
        at: Reference {
            kind: kind.clone(),
            namespace: text(metadata.namespace),
            name: text(metadata.name),
            uid: text(metadata.uid),
        },
        is_going: metadata.deletion_timestamp.is_some(),
        finalizers: metadata.finalizers.unwrap_or_default(),
        version: metadata.resource_version.unwrap_or_default(),
    }
}

/// Looks up what a question asks.
async fn look(client: Client, kinds: Arc<Kinds>, question: Question) -> Report {
    let uid = Arc::clone(&question.item.uid);
    let item = match look_at(&client, &kinds, &question.item).await {
        Ok(answer) => answer,
        Err(error) => return Report::Failed(uid, error),
    };
    let mut owners = Vec::with_capacity(question.owners.len());
    for owner in &question.owners {
        match look_at(&client, &kinds, owner).await {
            Ok(answer) => owners.push((Arc::clone(&owner.uid), answer)),
            Err(error) => return Report::Failed(uid, error),
        }
    }
    Report::Looked(uid, item, owners)
}

async fn look_at(client: &Client, kinds: &Kinds, at: &Reference) -> Result<Answer, kube::Error> {
    let Some(kind) = kinds.get(&at.kind) else {
        return Ok(Answer::Unknown);
    };
    // An object of the cluster cannot be owned by one of a namespace.
    if kind.is_namespaced && at.namespace.is_empty() {
        return Ok(Answer::Unknown);
    }
    let found = kind
        .metadata(client, &at.namespace)
        .get_opt(&at.name)
        .await?;
    Ok(match found {
        Some(object) if object.uid().as_deref() == Some(&*at.uid) => {
            Answer::There(seen(&at.kind, object))
        }
        _ => Answer::Absent,
    })
}

async fn perform(client: &Client, kinds: &Kinds, step: Step) -> Result<(), kube::Error> {
    match step {
        Step::Nothing => Ok(()),
        Step::Delete { item, policy } => {
            let Some(kind) = kinds.get(&item.at.kind) else {
                return Ok(());
            };
            let parameters = DeleteParams {
                propagation_policy: Some(match policy {
                    Policy::Background => PropagationPolicy::Background,
                    Policy::Foreground => PropagationPolicy::Foreground,
                    Policy::Orphan => PropagationPolicy::Orphan,
                }),
                preconditions: Some(Preconditions {
                    uid: Some(item.at.uid.to_string()),
                    resource_version: Some(item.version),
                }),
                ..DeleteParams::default()
            };
            let api = kind.metadata(client, &item.at.namespace);
            match api.delete(&item.at.name, &parameters).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(|_| ()),
            }
        }
        Step::Disown { item, owners } => {
            change(client, kinds, &item.at, |metadata| {
                let mut kept = metadata.owner_references.clone().unwrap_or_default();
                kept.retain(|owner| !owners.iter().any(|gone| **gone == *owner.uid));
                json!({ "ownerReferences": kept })
            })
            .await
        }
        Step::Unblock { item } => {
            change(client, kinds, &item.at, |metadata| {
                let mut owners = metadata.owner_references.clone().unwrap_or_default();
                for owner in &mut owners {
                    owner.block_owner_deletion = Some(false);
                }
                json!({ "ownerReferences": owners })
            })
            .await
        }
        Step::Finish {
            item,
            finalizer,
            disown,
        } => {
            for dependent in disown {
                change(client, kinds, &dependent, |metadata| {
                    let mut kept = metadata.owner_references.clone().unwrap_or_default();
                    kept.retain(|owner| *owner.uid != *item.at.uid);
                    json!({ "ownerReferences": kept })
                })
                .await?;
            }
            change(client, kinds, &item.at, |metadata| {
                let mut kept = metadata.finalizers.clone().unwrap_or_default();
                kept.retain(|one| one != finalizer);
                json!({ "finalizers": kept })
            })
            .await
        }
    }
}

/// Changes an object's metadata unless it is gone.
async fn change(
    client: &Client,
    kinds: &Kinds,
    at: &Reference,
    wished: impl Fn(&ObjectMeta) -> serde_json::Value,
) -> Result<(), kube::Error> {
    let Some(kind) = kinds.get(&at.kind) else {
        return Ok(());
    };
    let api = kind.metadata(client, &at.namespace);
    let Some(live) = api.get_opt(&at.name).await? else {
        return Ok(());
    };
    if live.uid().as_deref() != Some(&*at.uid) {
        return Ok(());
    }
    let mut metadata = wished(&live.metadata);
    metadata["resourceVersion"] = json!(live.metadata.resource_version);
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    match api.patch(&at.name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}
