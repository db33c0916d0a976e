//! The worker of one pod: it asks what to do, has it done, and asks again.
//!
//! It wakes by a change of the pod, of what the runtime has, of an object in
//! the pod's volumes, by the end of something it has begun, and by the time
//! that the answer named. It never waits for one thing while another happens.

mod act;
mod hooks;
mod learn;
mod report;
mod start;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::select_all;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::admission::Refusal;
use crate::agent::Shared;
use crate::error::Error;
use crate::host::PodFolder;
use crate::lifecycle::{Input, Memory, Verdict, View, next, status};
use crate::probe::{Finding, Prober};
use crate::volumes::{Subscription, Tokens, Volumes};
use act::{Doing, Outcome};
use report::Reporter;

/// What is wanted of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The pod's object, or the last that was seen of it.
    pub(crate) pod: Arc<Pod>,
    /// It is gone from the API.
    pub(crate) is_gone: bool,
}

/// The worker of one pod.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    uid: String,
    wanted: watch::Receiver<Wanted>,
    view: watch::Receiver<Arc<View>>,
    /// The pod as the API has it, but with our newest status.
    pod: Arc<Pod>,
    /// Its ephemeral containers, as containers.
    ephemerals: Vec<Spec>,
    /// The status that was last handed over to be written.
    sent: Option<PodStatus>,
    memory: Memory,
    folder: PodFolder,
    volumes: Arc<Volumes>,
    subscriptions: Vec<Subscription>,
    tokens: Arc<Tokens>,
    tasks: JoinSet<Outcome>,
    doing: HashMap<Id, (Doing, AbortHandle)>,
    reporter: Reporter,
    is_over: Arc<AtomicBool>,
    /// Who probes containers, by identifier, and what they find.
    probers: HashMap<String, Prober>,
    findings: mpsc::Receiver<Finding>,
    finding: mpsc::Sender<Finding>,
    /// Containers whose hook before the stop was begun.
    hooked: HashSet<String>,
    /// Sandboxes and volumes that failed in a row.
    sandbox_failures: u32,
    volume_failures: u32,
    /// Memory has changed without anything to wait for.
    look_again: bool,
}

impl Worker {
    /// A worker that does nothing until [`Worker::run`].
    pub(crate) fn new(
        shared: Arc<Shared>,
        uid: &str,
        wanted: watch::Receiver<Wanted>,
        is_over: Arc<AtomicBool>,
        refusal: Option<Refusal>,
    ) -> Result<Self, Error> {
        let pod = Arc::clone(&wanted.borrow().pod);
        let folder = PodFolder::new(&shared.config.directory, uid)?;
        let memory = Memory {
            verdict: refusal.map(|Refusal { reason, message }| Verdict {
                reason: reason.to_owned(),
                message,
                at: SystemTime::now(),
            }),
            ..Memory::default()
        };
        let (finding, findings) = mpsc::channel(N_FINDINGS);
        Ok(Self {
            probers: HashMap::new(),
            findings,
            finding,
            hooked: HashSet::new(),
            view: shared.observer.follow(uid),
            reporter: Reporter::new(shared.client.clone(), &pod),
            tokens: Arc::new(Tokens::new(shared.client.clone())),
            uid: uid.to_owned(),
            shared,
            wanted,
            pod,
            ephemerals: Vec::new(),
            sent: None,
            memory,
            folder,
            volumes: Arc::default(),
            subscriptions: Vec::new(),
            tasks: JoinSet::new(),
            doing: HashMap::new(),
            is_over,
            sandbox_failures: 0,
            volume_failures: 0,
            look_again: false,
        })
    }

    /// Keeps the pod as it should be until nothing is left of it.
    pub(crate) async fn run(mut self) {
        self.absorb();
        loop {
            let view = Arc::clone(&self.view.borrow_and_update());
            self.learn(&view).await;
            let now = SystemTime::now();
            let decision = next(self.input(&view, now));
            let is_end = self.carry_out(decision.actions, &view);
            if is_end {
                tracing::debug!(uid = self.uid, "nothing is left of the pod");
                return;
            }
            self.report(&view, now);
            if self.has_ended(&view) && !self.memory.final_status && self.reporter.is_settled() {
                self.memory.final_status = true;
                continue;
            }
            if std::mem::take(&mut self.look_again) {
                continue;
            }
            self.wait(decision.wake, now).await;
        }
    }

    fn input<'a>(&'a self, view: &'a View, now: SystemTime) -> Input<'a> {
        Input {
            pod: &self.pod,
            ephemerals: &self.ephemerals,
            view,
            memory: &self.memory,
            now,
        }
    }

    /// Whether the pod is to go and everything of it has stopped.
    fn has_ended(&self, view: &View) -> bool {
        let is_leaving = self.pod.metadata.deletion_timestamp.is_some();
        let any_alive = view
            .containers
            .iter()
            .any(|container| container.state != crate::runtime::ContainerState::Exited)
            || view.sandboxes.iter().any(|sandbox| sandbox.is_ready);
        is_leaving && !any_alive && self.memory.starting.is_none()
    }

    /// Waits until something has changed, and takes it in.
    async fn wait(&mut self, wake: Option<SystemTime>, now: SystemTime) {
        let time = async {
            match wake {
                Some(wake) => {
                    let left = wake.duration_since(now).unwrap_or_default();
                    // A clock that was set back must not stop a pod for long.
                    tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.wanted.changed() => match changed {
                Ok(()) => self.absorb(),
                // The agent is ending, and this worker with it.
                Err(_) => std::future::pending().await,
            },
            _ = self.view.changed() => {}
            Some(done) = self.tasks.join_next_with_id() => self.settle(done).await,
            Some((id, health)) = self.findings.recv() => {
                self.memory.health.insert(id, health);
            }
            () = any_change(&mut self.subscriptions) => self.spoil_volumes(),
            () = self.reporter.written() => {}
            () = time => {}
        }
    }

    /// Takes in what the API has of the pod.
    fn absorb(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        let is_gone = wanted.is_gone;
        let former = std::mem::replace(&mut self.pod, wanted.pod);
        let (old, new) = (&former.metadata, &self.pod.metadata);
        if old.labels != new.labels || old.annotations != new.annotations {
            self.spoil_volumes();
        }
        if former.spec != self.pod.spec {
            // What did not work may work now.
            self.memory.failures.clear();
        }
        self.ephemerals = ephemerals(&self.pod);
        self.memory.is_gone |= is_gone;
        self.overlay();
        let is_ending = is_gone || self.pod.metadata.deletion_timestamp.is_some();
        let phase = self.pod.status.as_ref();
        let phase = phase.and_then(|status| status.phase.as_deref());
        let is_over = matches!(phase, Some("Failed" | "Succeeded"));
        if (is_ending || is_over) && self.memory.ending_since.is_none() {
            self.memory.ending_since = Some(SystemTime::now());
        }
    }

    /// Puts our newest status in the place of the API's, which may be older.
    fn overlay(&mut self) {
        let Some(sent) = &self.sent else {
            return;
        };
        let api = self.pod.status.clone().unwrap_or_default();
        let mut status = sent.clone();
        // Others end pods, too.
        if matches!(api.phase.as_deref(), Some("Failed" | "Succeeded")) {
            status.phase = api.phase;
            status.reason = status.reason.or(api.reason);
            status.message = status.message.or(api.message);
        }
        let own = status.conditions.get_or_insert_default();
        for condition in api.conditions.into_iter().flatten() {
            if !own.iter().any(|known| known.type_ == condition.type_) {
                own.push(condition);
            }
        }
        status.qos_class = status.qos_class.or(api.qos_class);
        Arc::make_mut(&mut self.pod).status = Some(status);
    }

    fn spoil_volumes(&mut self) {
        self.memory.stale_volumes = true;
        if matches!(self.memory.volumes, crate::lifecycle::Step::Failed(_)) {
            self.memory.volumes = crate::lifecycle::Step::Open;
        }
    }

    /// Hands the status over to be written if it has changed.
    fn report(&mut self, view: &View, now: SystemTime) {
        if self.memory.is_gone || self.memory.final_status {
            return;
        }
        let reported = self.pod.status.as_ref();
        let phase = reported.and_then(|status| status.phase.as_deref());
        let is_over = matches!(phase, Some("Failed" | "Succeeded"));
        if is_over && view.containers.is_empty() {
            // The API knows more than is left here.
            return;
        }
        let mut new = status(self.input(view, now));
        self.fill_addresses(&mut new);
        let is_over = matches!(new.phase.as_deref(), Some("Failed" | "Succeeded"));
        self.is_over.store(is_over, Ordering::Relaxed);
        let known = self.sent.as_ref().or(self.pod.status.as_ref());
        if known.is_some_and(|known| report::is_same(known, &new)) {
            return;
        }
        self.tell_changes(&new);
        self.reporter.send(&new);
        self.sent = Some(new);
        self.overlay();
    }

    fn fill_addresses(&self, status: &mut PodStatus) {
        let addresses = &self.shared.config.addresses;
        let texts = || addresses.iter().map(ToString::to_string);
        status.host_ip = texts().next();
        let ips = texts().map(|ip| k8s_openapi::api::core::v1::HostIP { ip });
        status.host_ips = Some(ips.collect());
        let spec = self.pod.spec.as_ref();
        let on_host = spec.is_some_and(|spec| spec.host_network == Some(true));
        if on_host && status.conditions.is_some() {
            status.pod_ip = texts().next();
            let ips = texts().map(|ip| k8s_openapi::api::core::v1::PodIP { ip });
            status.pod_ips = Some(ips.collect());
        }
    }
}

/// A pod's ephemeral containers as containers: they have fewer fields.
fn ephemerals(pod: &Pod) -> Vec<Spec> {
    let list = pod.spec.iter();
    let list = list.flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    list.filter_map(|one| serde_json::from_value(serde_json::json!(one)).ok())
        .collect()
}

/// Findings of probes that may wait.
const N_FINDINGS: usize = 64;
/// A worker looks again after this even if it waits for longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

async fn any_change(subscriptions: &mut [Subscription]) {
    if subscriptions.is_empty() {
        std::future::pending::<()>().await;
    }
    let all = subscriptions
        .iter_mut()
        .map(|subscription| Box::pin(subscription.changed()));
    select_all(all).await;
}
