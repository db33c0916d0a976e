//! ConfigMaps and Secrets that volumes are made of: one watch per object that
//! somebody uses, shared by all pods that use it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// Objects that somebody uses.
pub(crate) struct Objects {
    client: Client,
    config_maps: Topics<ConfigMap>,
    secrets: Topics<Secret>,
}

type Topics<K> = Mutex<HashMap<(String, String), Weak<Topic<K>>>>;

/// What is known of an object: nothing yet, or that it is or is not there.
type Known<K> = Option<Option<Arc<K>>>;

struct Topic<K> {
    known: watch::Sender<Known<K>>,
    task: Mutex<Option<tokio::task::AbortHandle>>,
}

impl<K> Drop for Topic<K> {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

/// Keeps an object watched, and tells when it changes.
pub(crate) enum Subscription {
    ConfigMap(Follower<ConfigMap>),
    Secret(Follower<Secret>),
}

/// One user of an object.
pub(crate) struct Follower<K> {
    name: (String, String),
    _topic: Arc<Topic<K>>,
    known: watch::Receiver<Known<K>>,
}

impl Subscription {
    /// Returns when the object has changed since it was last read.
    ///
    /// Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        let changed = match self {
            Self::ConfigMap(follower) => follower.known.changed().await,
            Self::Secret(follower) => follower.known.changed().await,
        };
        if changed.is_err() {
            // The watch has ended with the agent.
            std::future::pending::<()>().await;
        }
    }
}

impl Objects {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    /// A ConfigMap as it is; the subscription is added if it is new.
    pub(crate) async fn config_map(
        &self,
        subscriptions: &mut Vec<Subscription>,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<ConfigMap>> {
        let key = (namespace.to_owned(), name.to_owned());
        let known = subscriptions.iter_mut().find_map(|one| match one {
            Subscription::ConfigMap(follower) if follower.name == key => Some(follower),
            _ => None,
        });
        if let Some(follower) = known {
            return follower.read().await;
        }
        let mut follower = follow(&self.client, &self.config_maps, key);
        let found = follower.read().await;
        subscriptions.push(Subscription::ConfigMap(follower));
        found
    }

    /// A Secret likewise.
    pub(crate) async fn secret(
        &self,
        subscriptions: &mut Vec<Subscription>,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Secret>> {
        let key = (namespace.to_owned(), name.to_owned());
        let known = subscriptions.iter_mut().find_map(|one| match one {
            Subscription::Secret(follower) if follower.name == key => Some(follower),
            _ => None,
        });
        if let Some(follower) = known {
            return follower.read().await;
        }
        let mut follower = follow(&self.client, &self.secrets, key);
        let found = follower.read().await;
        subscriptions.push(Subscription::Secret(follower));
        found
    }
}

impl<K> Follower<K> {
    /// The object, when it is known.
    async fn read(&mut self) -> Option<Arc<K>> {
        match self.known.wait_for(Option::is_some).await {
            Ok(known) => known.clone().flatten(),
            Err(_) => None,
        }
    }
}

fn follow<K>(client: &Client, topics: &Topics<K>, name: (String, String)) -> Follower<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let mut topics = topics.lock();
    topics.retain(|_, topic| topic.strong_count() > 0);
    let topic = match topics.get(&name).and_then(Weak::upgrade) {
        Some(topic) => topic,
        None => {
            let topic = Arc::new(Topic {
                known: watch::Sender::new(None),
                task: Mutex::new(None),
            });
            let api = Api::namespaced(client.clone(), &name.0);
            let task = tokio::spawn(keep(api, name.1.clone(), Arc::downgrade(&topic)));
            *topic.task.lock() = Some(task.abort_handle());
            topics.insert(name.clone(), Arc::downgrade(&topic));
            topic
        }
    };
    Follower {
        name,
        known: topic.known.subscribe(),
        _topic: topic,
    }
}

/// Keeps what is known of one object up to date.
async fn keep<K>(api: Api<K>, name: String, topic: Weak<Topic<K>>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher(api, one).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listed = None;
    while let Some(event) = events.next().await {
        let Some(topic) = topic.upgrade() else {
            return;
        };
        let tell = |object: Option<Arc<K>>| {
            topic.known.send_if_modified(|known| {
                let version = |object: &Option<Arc<K>>| {
                    let object = object.as_ref();
                    object.and_then(|object| object.meta().resource_version.clone())
                };
                let is_new = known
                    .as_ref()
                    .is_none_or(|known| version(known) != version(&object));
                *known = Some(object);
                is_new
            });
        };
        match event {
            Ok(watcher::Event::Init) => listed = None,
            Ok(watcher::Event::InitApply(object)) => listed = Some(Arc::new(object)),
            Ok(watcher::Event::InitDone) => tell(listed.take()),
            Ok(watcher::Event::Apply(object)) => tell(Some(Arc::new(object))),
            Ok(watcher::Event::Delete(_)) => tell(None),
            Err(error) => tracing::warn!(%error, name, "an object's watch was interrupted"),
        }
    }
}
