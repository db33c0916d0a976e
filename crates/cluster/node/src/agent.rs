//! The agent: one watch of the pods of this node, one worker per pod.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::admission::{Needs, Refusal, admit};
use crate::config::Config;
use crate::error::Error;
use crate::events::{self, Events, Recorder, Tone};
use crate::images::Images;
use crate::labels;
use crate::lifecycle::View;
use crate::observer::{Observer, Requests};
use crate::register::Registration;
use crate::runtime::{Container, PodRuntime, Sandbox};
use crate::volumes::Objects;
use crate::worker::{Wanted, Worker};

/// All pods are listed again so often.
const REPAIR: Duration = Duration::from_secs(300);

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn PodRuntime>,
    pub(crate) config: Config,
    pub(crate) observer: Arc<Observer>,
    pub(crate) events: Events,
    pub(crate) images: Images,
    pub(crate) objects: Objects,
    pub(crate) services: reflector::Store<Service>,
}

/// The node agent: keeps the pods of one node running.
///
/// Pods go on when it stops; the next one finds them again.
pub struct Agent {
    shared: Arc<Shared>,
    pods: Mutex<HashMap<String, Handle>>,
    parts: Mutex<Option<Parts>>,
}

/// What only a running agent has.
struct Parts {
    requests: Requests,
    recorder: Recorder,
    services: reflector::store::Writer<Service>,
}

/// Workers that run.
#[derive(Default)]
struct Workers {
    tasks: JoinSet<()>,
    uids: HashMap<Id, String>,
}

impl Workers {
    fn spawn(&mut self, uid: &str, worker: Worker) {
        let id = self.tasks.spawn(worker.run()).id();
        self.uids.insert(id, uid.to_owned());
    }

    /// The pod of a worker that has ended; none while there is no worker.
    async fn ended(&mut self) -> Option<String> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(%error, "a pod's worker has failed");
                error.id()
            }
        };
        self.uids.remove(&id)
    }
}

/// A worker from outside.
struct Handle {
    wanted: watch::Sender<Wanted>,
    view: watch::Receiver<Arc<View>>,
    needs: Needs,
    /// The pod takes nothing any more.
    is_over: Arc<AtomicBool>,
}

/// A pod as the agent knows it, for those who serve its logs and streams.
#[derive(Debug, Clone)]
pub struct RunningPod {
    /// Its object.
    pub pod: Arc<Pod>,
    /// Its sandbox, if there is one that works.
    pub sandbox: Option<Sandbox>,
    /// Its containers, the newest first; also those that have ended.
    pub containers: Vec<Container>,
}

impl RunningPod {
    /// The newest container of a name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|one| one.name == name)
    }

    /// The one before it.
    pub fn previous(&self, name: &str) -> Option<&Container> {
        let mut all = self.containers.iter().filter(|one| one.name == name);
        all.nth(1)
    }
}

impl Agent {
    /// An agent that does nothing until [`Agent::run`]. The client acts as
    /// `system:node:NAME`.
    pub fn new(client: Client, runtime: Arc<dyn PodRuntime>, config: Config) -> Self {
        let (observer, requests) = Observer::new(Arc::clone(&runtime));
        let (events, recorder) = events::channel(client.clone(), config.name.clone());
        let (services, writer) = reflector::store();
        let images = Images::new(Arc::clone(&runtime), client.clone(), events.clone());
        let objects = Objects::new(client.clone());
        let shared = Shared {
            client,
            runtime,
            config,
            observer,
            events,
            images,
            objects,
            services,
        };
        Self {
            shared: Arc::new(shared),
            pods: Mutex::default(),
            parts: Mutex::new(Some(Parts {
                requests,
                recorder,
                services: writer,
            })),
        }
    }

    /// Keeps the node's pods running until `shutdown`.
    ///
    /// # Errors
    ///
    /// [`Error::Twice`] when it was run before. Everything else is tried again
    /// until it works.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let parts = self.parts.lock().take().ok_or(Error::Twice)?;
        // All of these end when the set is dropped.
        let mut background = JoinSet::new();
        let observer = Arc::clone(&self.shared.observer);
        background.spawn(async move { observer.run(parts.requests).await });
        background.spawn(parts.recorder.run());
        background.spawn(keep_services(self.shared.client.clone(), parts.services));
        let shared = Arc::clone(&self.shared);
        background.spawn(async move {
            let registration = Registration {
                client: &shared.client,
                config: &shared.config,
                runtime: &*shared.runtime,
                events: &shared.events,
            };
            registration.run().await;
        });
        tokio::select! {
            () = shutdown => {}
            () = self.follow() => {}
        }
        self.pods.lock().clear();
        Ok(())
    }

    /// A pod of this node by its name; the newest, should there be several.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<RunningPod> {
        let pods = self.pods.lock();
        let named = pods.values().filter_map(|handle| {
            let wanted = handle.wanted.borrow();
            let pod = &wanted.pod;
            let is_it = pod.metadata.name.as_deref() == Some(name)
                && pod.metadata.namespace.as_deref() == Some(namespace);
            is_it.then(|| (!wanted.is_gone, Arc::clone(pod), handle))
        });
        // One that is gone from the API may still be on its way out here.
        let (_, pod, handle) = named.max_by_key(|(is_there, pod, _)| (*is_there, version(pod)))?;
        let view = handle.view.borrow();
        let mut containers = view.containers.clone();
        containers.sort_by_key(|container| std::cmp::Reverse(container.attempt));
        let mut sandboxes = view.sandboxes.iter();
        let ready = sandboxes.rfind(|sandbox| sandbox.is_ready);
        Some(RunningPod {
            pod,
            sandbox: ready.cloned(),
            containers,
        })
    }

    /// Hands every change of a pod to its worker.
    async fn follow(&self) {
        let api: Api<Pod> = Api::all(self.shared.client.clone());
        let field = format!("spec.nodeName={}", self.shared.config.name);
        let config = watcher::Config::default().fields(&field);
        let changes = watcher(api.clone(), config).default_backoff();
        let mut changes = std::pin::pin!(changes);
        let mut workers = Workers::default();
        let mut repair = interval(REPAIR);
        repair.set_missed_tick_behavior(MissedTickBehavior::Delay);
        repair.tick().await;
        self.shared.observer.refresh().await;
        let mut initial = Vec::new();
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(watcher::Event::Init)) => initial.clear(),
                    Some(Ok(watcher::Event::InitApply(pod))) => initial.push(pod),
                    Some(Ok(watcher::Event::InitDone)) => {
                        self.replace(std::mem::take(&mut initial), &mut workers);
                    }
                    Some(Ok(watcher::Event::Apply(pod))) => self.apply(pod, &mut workers),
                    Some(Ok(watcher::Event::Delete(pod))) => self.gone(&pod.uid().unwrap_or_default()),
                    Some(Err(error)) => tracing::warn!(%error, "the watch of pods was interrupted"),
                    None => return,
                },
                Some(uid) = workers.ended() => {
                    self.pods.lock().remove(&uid);
                    self.shared.observer.forget(&uid);
                }
                _ = repair.tick() => match api.list(&ListParams::default().fields(&field)).await {
                    Ok(list) => self.replace(list.items, &mut workers),
                    Err(error) => tracing::warn!(%error, "pods were not listed"),
                },
            }
        }
    }

    /// These and no others are this node's pods.
    fn replace(&self, mut list: Vec<Pod>, workers: &mut Workers) {
        let present: HashSet<String> = list.iter().filter_map(ResourceExt::uid).collect();
        // Who is here already comes first when it is checked what fits.
        list.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (!is_running(pod), created)
        });
        for pod in list {
            self.apply(pod, workers);
        }
        let known: Vec<String> = self.pods.lock().keys().cloned().collect();
        for uid in known.iter().filter(|uid| !present.contains(*uid)) {
            self.gone(uid);
        }
        // What a predecessor has left of pods that do not exist any more.
        for sandbox in self.shared.observer.sandboxes() {
            let uid = sandbox.metadata.uid.clone();
            if !self.pods.lock().contains_key(&uid) {
                let wanted = Wanted {
                    pod: Arc::new(remembered(&sandbox)),
                    is_gone: true,
                };
                self.begin(&uid, wanted, Needs::default(), None, workers);
            }
        }
    }

    fn apply(&self, pod: Pod, workers: &mut Workers) {
        let Some(uid) = pod.uid() else {
            return;
        };
        if let Some(handle) = self.pods.lock().get(&uid) {
            handle.wanted.send_if_modified(|wanted| {
                let is_newer = version(&pod) > version(&wanted.pod);
                if is_newer {
                    wanted.pod = Arc::new(pod);
                }
                is_newer
            });
            return;
        }
        let needs = Needs::of(&pod);
        let refusal = self.refusal(&pod, &needs);
        if let Some(Refusal { reason, message }) = &refusal {
            self.shared
                .events
                .pod(&pod, Tone::Warning, reason, message.clone());
        }
        let wanted = Wanted {
            pod: Arc::new(pod),
            is_gone: false,
        };
        self.begin(&uid, wanted, needs, refusal, workers);
    }

    fn refusal(&self, pod: &Pod, needs: &Needs) -> Option<Refusal> {
        let is_leaving = pod.metadata.deletion_timestamp.is_some();
        if is_leaving || is_over(pod) || is_running(pod) {
            return None;
        }
        let pods = self.pods.lock();
        let others = pods.values();
        let others = others.filter(|handle| !handle.is_over.load(Ordering::Relaxed));
        let others = others.map(|handle| &handle.needs);
        admit(&self.shared.config.capacity, others, needs).err()
    }

    fn begin(
        &self,
        uid: &str,
        wanted: Wanted,
        needs: Needs,
        refusal: Option<Refusal>,
        workers: &mut Workers,
    ) {
        let over = is_over(&wanted.pod) || refusal.is_some();
        let is_over = Arc::new(AtomicBool::new(over));
        let (sender, receiver) = watch::channel(wanted);
        let worker = Worker::new(
            Arc::clone(&self.shared),
            uid,
            receiver,
            Arc::clone(&is_over),
            refusal,
        );
        let worker = match worker {
            Ok(worker) => worker,
            Err(error) => {
                tracing::error!(%error, uid, "a pod is refused");
                return;
            }
        };
        let handle = Handle {
            wanted: sender,
            view: self.shared.observer.follow(uid),
            needs,
            is_over,
        };
        self.pods.lock().insert(uid.to_owned(), handle);
        workers.spawn(uid, worker);
    }

    fn gone(&self, uid: &str) {
        if let Some(handle) = self.pods.lock().get(uid) {
            handle.wanted.send_modify(|wanted| wanted.is_gone = true);
        }
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref();
    let phase = phase.and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Whether a pod was admitted before.
fn is_running(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|status| status.start_time.is_some()) && !is_over(pod)
}

fn version(pod: &Pod) -> u64 {
    let version = pod.metadata.resource_version.as_deref();
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What is known of a pod whose object is gone.
fn remembered(sandbox: &Sandbox) -> Pod {
    let grace = sandbox.annotations.get(labels::GRACE);
    let spec = k8s_openapi::api::core::v1::PodSpec {
        termination_grace_period_seconds: grace.and_then(|grace| grace.parse().ok()),
        ..Default::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(sandbox.metadata.name.clone()),
            namespace: Some(sandbox.metadata.namespace.clone()),
            uid: Some(sandbox.metadata.uid.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// Keeps all services known, for the variables that tell of them.
async fn keep_services(client: Client, writer: reflector::store::Writer<Service>) {
    let api: Api<Service> = Api::all(client);
    let changes = watcher(api, watcher::Config::default()).default_backoff();
    let mut changes = std::pin::pin!(reflector(writer, changes));
    while let Some(change) = changes.next().await {
        if let Err(error) = change {
            tracing::warn!(%error, "the watch of services was interrupted");
        }
    }
}
