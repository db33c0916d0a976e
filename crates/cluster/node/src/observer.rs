//! What the runtime has, pod by pod: one listing for everybody.
//!
//! Guarantee: [`Observer::refresh`] returns after a listing that began after
//! it was called. Requests and events of a moment share one listing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::lifecycle::View;
use crate::runtime::{PodRuntime, RuntimeError, Sandbox};

/// A listing is made so often even if nothing happens.
const REPAIR: Duration = Duration::from_secs(300);
/// A listing that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Requests that may wait at a time.
const N_REQUESTS: usize = 256;

/// What the runtime has, pod by pod.
pub(crate) struct Observer {
    runtime: Arc<dyn PodRuntime>,
    pods: Mutex<HashMap<String, watch::Sender<Arc<View>>>>,
    requests: mpsc::Sender<oneshot::Sender<()>>,
}

/// The receiving end of the requests, for [`Observer::run`].
pub(crate) type Requests = mpsc::Receiver<oneshot::Sender<()>>;

impl Observer {
    pub(crate) fn new(runtime: Arc<dyn PodRuntime>) -> (Arc<Self>, Requests) {
        let (requests, receiver) = mpsc::channel(N_REQUESTS);
        let observer = Self {
            runtime,
            pods: Mutex::default(),
            requests,
        };
        (Arc::new(observer), receiver)
    }

    /// Follows a pod by its unique identifier.
    pub(crate) fn follow(&self, uid: &str) -> watch::Receiver<Arc<View>> {
        let mut pods = self.pods.lock();
        pods.entry(uid.to_owned()).or_default().subscribe()
    }

    /// Nobody follows this pod any more.
    pub(crate) fn forget(&self, uid: &str) {
        let mut pods = self.pods.lock();
        let is_empty = |view: &View| view.sandboxes.is_empty() && view.containers.is_empty();
        if pods.get(uid).is_some_and(|pod| is_empty(&pod.borrow())) {
            pods.remove(uid);
        }
    }

    /// The newest sandbox of each pod that the runtime has.
    pub(crate) fn sandboxes(&self) -> Vec<Sandbox> {
        let pods = self.pods.lock();
        let newest = |pod: &watch::Sender<Arc<View>>| pod.borrow().sandboxes.last().cloned();
        pods.values().filter_map(newest).collect()
    }

    /// Returns when what is there now is known.
    pub(crate) async fn refresh(&self) {
        let (done, answer) = oneshot::channel();
        if self.requests.send(done).await.is_ok() {
            // It fails only when the agent is ending.
            let _ = answer.await;
        }
    }

    /// Lists whenever something happens or somebody asks.
    pub(crate) async fn run(&self, mut requests: Requests) {
        let mut events = self.runtime.events();
        let mut repair = interval(REPAIR);
        repair.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => waiting.push(request),
                    None => return,
                },
                event = events.next() => if event.is_none() {
                    // The runtime's stream ended: only a new one tells more.
                    sleep(RETRY).await;
                    events = self.runtime.events();
                },
                _ = repair.tick() => {}
            }
            while let Ok(request) = requests.try_recv() {
                waiting.push(request);
            }
            while let Err(error) = self.list().await {
                tracing::warn!(%error, "cannot list sandboxes and containers");
                sleep(RETRY).await;
            }
            for request in waiting {
                // Who has asked may have been cancelled.
                let _ = request.send(());
            }
        }
    }

    async fn list(&self) -> Result<(), RuntimeError> {
        let sandboxes = self.runtime.sandboxes().await?;
        let containers = self.runtime.containers().await?;
        let pod_of: HashMap<String, String> = sandboxes
            .iter()
            .map(|sandbox| (sandbox.id.clone(), sandbox.metadata.uid.clone()))
            .collect();
        let mut views: BTreeMap<String, View> = BTreeMap::new();
        for sandbox in sandboxes {
            let view = views.entry(sandbox.metadata.uid.clone()).or_default();
            view.sandboxes.push(sandbox);
        }
        for container in containers {
            let label = container.labels.get(crate::labels::POD_UID);
            let Some(uid) = pod_of.get(&container.sandbox).or(label) else {
                continue;
            };
            let view = views.entry(uid.clone()).or_default();
            view.containers.push(container);
        }
        let mut pods = self.pods.lock();
        for (uid, pod) in pods.iter() {
            let mut view = views.remove(uid).unwrap_or_default();
            sort(&mut view);
            pod.send_if_modified(|known| {
                let is_new = **known != view;
                if is_new {
                    *known = Arc::new(view);
                }
                is_new
            });
        }
        for (uid, mut view) in views {
            sort(&mut view);
            pods.insert(uid, watch::Sender::new(Arc::new(view)));
        }
        Ok(())
    }
}

fn sort(view: &mut View) {
    view.sandboxes
        .sort_by_key(|sandbox| sandbox.metadata.attempt);
    view.containers
        .sort_by(|one, other| (one.attempt, &one.name).cmp(&(other.attempt, &other.name)));
}
