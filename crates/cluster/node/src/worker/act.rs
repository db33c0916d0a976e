//! From actions to tasks, and from tasks' ends to memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::task::{Id, JoinError};

use super::Worker;
use super::start::{StartError, Starter};
use crate::agent::Shared;
use crate::env::Place;
use crate::events::Tone;
use crate::lifecycle::{Action, Failure, Step, Verdict, View, retry_delay};
use crate::runtime::{ContainerState, RuntimeError, Sandbox};
use crate::volumes::{Subscription, Tools, VolumeError, Volumes, set_up};

/// Waits after a volume or sandbox that failed: the first and the longest.
const SOON: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));
/// Waits between tries at something that must succeed in the end.
const INSIST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A container gets at least so long after its hook.
const AFTER_HOOK: Duration = Duration::from_secs(2);

/// What a task is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doing {
    Volumes,
    Sandbox,
    Start(String),
    Stop(String),
    Remove(String),
    CleanUp,
    Delete,
}

/// How a task has ended.
pub(super) enum Outcome {
    Volumes(Result<Volumes, VolumeError>, Vec<Subscription>),
    Sandbox(Result<Sandbox, RuntimeError>),
    Started(String, Result<(), StartError>),
    Stopped(String),
    Removed(String),
    CleanedUp(Result<(), crate::error::Error>),
    Deleted(Result<(), kube::Error>),
}

impl Worker {
    /// Begins what is to be done; whether nothing is left to do for good.
    pub(super) fn carry_out(&mut self, actions: Vec<Action>, view: &View) -> bool {
        for action in actions {
            tracing::debug!(uid = self.uid, ?action, "next");
            match action {
                Action::SetUpVolumes => self.set_up_volumes(view),
                Action::RunSandbox { attempt } => self.run_sandbox(attempt),
                Action::Start {
                    name,
                    attempt,
                    level,
                } => {
                    let task = Starter::new(self, view, &name).map(|starter| {
                        let observer = Arc::clone(&self.shared.observer);
                        let name = name.clone();
                        async move {
                            let result = starter.start(attempt, level).await;
                            observer.refresh().await;
                            Outcome::Started(name, result)
                        }
                    });
                    if let Some(task) = task {
                        self.memory.starting = Some(name.clone());
                        self.spawn(Doing::Start(name), task);
                    }
                }
                Action::Resume { name, id } => {
                    let task = Starter::new(self, view, &name).map(|starter| {
                        let observer = Arc::clone(&self.shared.observer);
                        let name = name.clone();
                        async move {
                            let result = starter.run(&id).await;
                            observer.refresh().await;
                            Outcome::Started(name, result)
                        }
                    });
                    if let Some(task) = task {
                        self.memory.starting = Some(name.clone());
                        self.spawn(Doing::Start(name), task);
                    }
                }
                Action::Cancel => {
                    self.abort(|doing| {
                        matches!(doing, Doing::Volumes | Doing::Sandbox | Doing::Start(_))
                    });
                }
                Action::Stop {
                    name,
                    id,
                    deadline,
                    message,
                } => self.stop(&name, id, deadline, message, view),
                Action::StopSandbox(id) => {
                    let shared = Arc::clone(&self.shared);
                    self.remove(id.clone(), async move {
                        insist(|| shared.runtime.stop_sandbox(&id)).await;
                    });
                }
                Action::RemoveContainer(id) => {
                    let shared = Arc::clone(&self.shared);
                    self.remove(id.clone(), async move {
                        insist(|| shared.runtime.remove_container(&id)).await;
                    });
                }
                Action::RemoveSandbox(id) => {
                    let shared = Arc::clone(&self.shared);
                    self.remove(id.clone(), async move {
                        insist(|| shared.runtime.remove_sandbox(&id)).await;
                    });
                }
                Action::Expire => self.expire(),
                Action::CleanUp => {
                    // Who writes files ends before they are removed.
                    if self.is_doing(&Doing::Volumes) {
                        self.abort(|doing| *doing == Doing::Volumes);
                        continue;
                    }
                    self.memory.cleaned = Step::Busy;
                    self.subscriptions.clear();
                    let folder = self.folder.clone();
                    self.spawn(Doing::CleanUp, async move {
                        let removal = tokio::task::spawn_blocking(move || folder.remove());
                        Outcome::CleanedUp(removal.await.unwrap_or(Ok(())))
                    });
                }
                Action::Delete => {
                    self.memory.deleted = Step::Busy;
                    let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
                    self.spawn(Doing::Delete, async move {
                        Outcome::Deleted(delete(&shared, &pod).await)
                    });
                }
                Action::Forget => return true,
            }
        }
        false
    }

    fn spawn(&mut self, doing: Doing, task: impl Future<Output = Outcome> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.doing.insert(handle.id(), (doing, handle));
    }

    /// Gives tasks up; they are settled when they have ended.
    fn abort(&self, which: impl Fn(&Doing) -> bool) {
        for (doing, handle) in self.doing.values() {
            if which(doing) {
                handle.abort();
            }
        }
    }

    fn remove(&mut self, id: String, task: impl Future<Output = ()> + Send + 'static) {
        self.memory.removing.insert(id.clone());
        let observer = Arc::clone(&self.shared.observer);
        let doing = Doing::Remove(id.clone());
        self.spawn(doing, async move {
            task.await;
            observer.refresh().await;
            Outcome::Removed(id)
        });
    }

    fn set_up_volumes(&mut self, view: &View) {
        let is_first = self.memory.volumes != Step::Done;
        if is_first {
            self.memory.volumes = Step::Busy;
        }
        self.memory.stale_volumes = false;
        self.memory.refresh_volumes = None;
        if !is_first && self.is_doing(&Doing::Volumes) {
            // What is at it may have read what was before.
            self.memory.stale_volumes = true;
            return;
        }
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        let (folder, tokens) = (self.folder.clone(), Arc::clone(&self.tokens));
        let mut subscriptions = std::mem::take(&mut self.subscriptions);
        let mut sandboxes = view.sandboxes.iter();
        let ready = sandboxes.rfind(|sandbox| sandbox.is_ready);
        let addresses = ready.map(|sandbox| sandbox.addresses.clone());
        let addresses = addresses.unwrap_or_default();
        self.spawn(Doing::Volumes, async move {
            let tools = Tools {
                objects: &shared.objects,
                tokens: &tokens,
                folder: &folder,
                place: Place {
                    pod: &pod,
                    addresses: &addresses,
                    config: &shared.config,
                },
            };
            let result = set_up(&tools, &mut subscriptions).await;
            Outcome::Volumes(result, subscriptions)
        });
    }

    fn is_doing(&self, what: &Doing) -> bool {
        self.doing.values().any(|(doing, _)| doing == what)
    }

    fn run_sandbox(&mut self, attempt: u32) {
        // A sandbox is new: what failed in the old one may work.
        if self.memory.sandbox == Step::Done {
            self.memory.failures.clear();
        }
        let count = failures(&self.memory.sandbox);
        self.memory.sandbox = Step::Busy;
        if attempt > 0 && count == 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.shared
                .events
                .pod(&self.pod, Tone::Normal, "SandboxChanged", message);
        }
        let host_dns = std::fs::read_to_string(&self.shared.config.resolv_conf);
        let host_dns = crate::sandbox::parse_resolv_conf(&host_dns.unwrap_or_default());
        let config = crate::sandbox::config(&self.pod, attempt, &self.shared.config, &host_dns);
        let shared = Arc::clone(&self.shared);
        self.sandbox_failures = count;
        self.spawn(Doing::Sandbox, async move {
            let result = shared.runtime.run_sandbox(config).await;
            shared.observer.refresh().await;
            Outcome::Sandbox(result)
        });
    }

    fn stop(&mut self, name: &str, id: String, deadline: SystemTime, message: String, view: &View) {
        // An earlier end replaces a later one.
        let doing = Doing::Stop(id.clone());
        let mut is_asked = false;
        for (what, handle) in self.doing.values() {
            if *what == doing {
                handle.abort();
                is_asked = true;
            }
        }
        self.memory.stopping.insert(id.clone(), deadline);
        let is_running = view
            .containers
            .iter()
            .any(|one| one.id == id && one.state == ContainerState::Running);
        if !is_asked && is_running {
            self.shared
                .events
                .container(&self.pod, name, Tone::Normal, "Killing", message);
        }
        let shared = Arc::clone(&self.shared);
        // The hook runs once, however often the end is moved.
        let is_first = is_running && self.hooked.insert(id.clone());
        let hook =
            Starter::new(self, view, name).filter(|starter| is_first && starter.has_pre_stop());
        self.spawn(doing, async move {
            let mut least = Duration::ZERO;
            if let Some(hook) = hook {
                hook.before_stop(&id, left(deadline)).await;
                least = AFTER_HOOK;
            }
            insist(|| {
                let grace = left(deadline).max(least);
                shared.runtime.stop_container(&id, grace)
            })
            .await;
            shared.observer.refresh().await;
            Outcome::Stopped(id)
        });
    }

    fn expire(&mut self) {
        let message = "Pod was active on the node longer than the specified deadline";
        self.memory.verdict = Some(Verdict {
            reason: "DeadlineExceeded".to_owned(),
            message: message.to_owned(),
            at: SystemTime::now(),
        });
        self.shared
            .events
            .pod(&self.pod, Tone::Normal, "DeadlineExceeded", message);
        self.look_again = true;
    }

    /// Takes in how a task has ended.
    pub(super) async fn settle(&mut self, done: Result<(Id, Outcome), JoinError>) {
        match done {
            Ok((id, outcome)) => {
                self.doing.remove(&id);
                self.take_in(outcome);
            }
            Err(error) => {
                let Some((doing, _)) = self.doing.remove(&error.id()) else {
                    return;
                };
                if error.is_panic() {
                    tracing::error!(%error, uid = self.uid, ?doing, "a task of a pod has failed");
                }
                // It may have come far: only a new look tells.
                self.shared.observer.refresh().await;
                self.undo(doing);
            }
        }
    }

    /// A task was given up.
    fn undo(&mut self, doing: Doing) {
        match doing {
            Doing::Volumes => self.memory.volumes = Step::Open,
            Doing::Sandbox => self.memory.sandbox = Step::Open,
            Doing::Start(_) => self.memory.starting = None,
            Doing::Stop(id) => {
                // Another one may have taken its place.
                if !self.is_doing(&Doing::Stop(id.clone())) {
                    self.memory.stopping.remove(&id);
                }
            }
            Doing::Remove(id) => {
                self.memory.removing.remove(&id);
            }
            Doing::CleanUp => self.memory.cleaned = Step::Open,
            Doing::Delete => self.memory.deleted = Step::Open,
        }
    }

    fn take_in(&mut self, outcome: Outcome) {
        let now = SystemTime::now();
        match outcome {
            Outcome::Volumes(Ok(volumes), subscriptions) => {
                self.subscriptions = subscriptions;
                self.memory.refresh_volumes = volumes.refresh;
                for note in &volumes.notes {
                    self.shared
                        .events
                        .pod(&self.pod, Tone::Warning, "VolumeOnDisk", note.clone());
                }
                self.volumes = Arc::new(volumes);
                self.memory.volumes = Step::Done;
                self.volume_failures = 0;
            }
            Outcome::Volumes(Err(error), subscriptions) => {
                self.subscriptions = subscriptions;
                let message = error.to_string();
                self.shared
                    .events
                    .pod(&self.pod, Tone::Warning, "FailedMount", message.clone());
                self.volume_failures += 1;
                let count = self.volume_failures;
                let wait = doubled(SOON, count);
                if self.memory.volumes == Step::Done {
                    // What is there stays good until it can be renewed.
                    self.memory.refresh_volumes = Some(now + wait);
                } else {
                    self.memory.volumes = Step::Failed(Failure {
                        reason: "FailedMount".to_owned(),
                        message,
                        count,
                        at: now,
                        until: now + wait,
                    });
                }
            }
            Outcome::Sandbox(Ok(_)) => self.memory.sandbox = Step::Done,
            Outcome::Sandbox(Err(error)) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.shared.events.pod(
                    &self.pod,
                    Tone::Warning,
                    "FailedCreatePodSandBox",
                    message.clone(),
                );
                let count = self.sandbox_failures + 1;
                self.memory.sandbox = Step::Failed(Failure {
                    reason: "FailedCreatePodSandBox".to_owned(),
                    message,
                    count,
                    at: now,
                    until: now + doubled(SOON, count),
                });
            }
            Outcome::Started(name, result) => {
                self.memory.starting = None;
                match result {
                    Ok(()) => {
                        self.memory.failures.remove(&name);
                    }
                    Err(error) => self.start_failed(name, error, now),
                }
            }
            Outcome::Stopped(id) => {
                self.memory.stopping.remove(&id);
            }
            Outcome::Removed(id) => {
                self.memory.removing.remove(&id);
            }
            Outcome::CleanedUp(Ok(())) => self.memory.cleaned = Step::Done,
            Outcome::CleanedUp(Err(error)) => {
                tracing::warn!(%error, uid = self.uid, "a pod's files were not removed");
                self.memory.cleaned = Step::Failed(again(&self.memory.cleaned, now));
            }
            Outcome::Deleted(Ok(())) => self.memory.deleted = Step::Done,
            Outcome::Deleted(Err(error)) => {
                tracing::warn!(%error, uid = self.uid, "a pod was not deleted");
                self.memory.deleted = Step::Failed(again(&self.memory.deleted, now));
            }
        }
    }

    fn start_failed(&mut self, name: String, error: StartError, now: SystemTime) {
        let reason = error.reason();
        let message = error.to_string();
        if let StartError::Image(image) = &error {
            let words = format!("Failed to pull image: {image}");
            self.warn(&name, words);
            self.warn(&name, format!("Error: {reason}"));
        } else {
            self.warn(&name, format!("Error: {message}"));
        }
        // A container that has ended has its own back-off.
        let view = self.view.borrow();
        let latest = view.containers.iter().filter(|one| one.name == name);
        let latest = latest.max_by_key(|one| one.attempt);
        let has_ended = latest.is_some_and(|one| one.state == ContainerState::Exited);
        if has_ended && matches!(error, StartError::Run(_) | StartError::Hook(_)) {
            self.memory.failures.remove(&name);
            return;
        }
        drop(view);
        let count = self.memory.failures.get(&name);
        let count = count.map_or(1, |failure| failure.count.saturating_add(1));
        let wait = match error {
            StartError::Config(_) => retry_delay(1),
            _ => retry_delay(count),
        };
        let failure = Failure {
            reason: reason.to_owned(),
            message,
            count,
            at: now,
            until: now + wait,
        };
        self.memory.failures.insert(name, failure);
    }

    fn warn(&self, name: &str, message: String) {
        self.shared
            .events
            .container(&self.pod, name, Tone::Warning, "Failed", message);
    }
}

fn failures(step: &Step) -> u32 {
    match step {
        Step::Failed(failure) => failure.count,
        _ => 0,
    }
}

fn again(step: &Step, now: SystemTime) -> Failure {
    let count = failures(step) + 1;
    Failure {
        reason: String::new(),
        message: String::new(),
        count,
        at: now,
        until: now + doubled(INSIST, count),
    }
}

fn doubled((first, longest): (Duration, Duration), count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(16);
    (first * (1 << doublings)).min(longest)
}

/// The time that is left, in whole seconds: a runtime may know no others, and
/// must not make none of one.
fn left(deadline: SystemTime) -> Duration {
    let left = deadline.duration_since(SystemTime::now());
    let left = left.unwrap_or_default();
    let rest = u64::from(left.subsec_nanos() > 0);
    Duration::from_secs(left.as_secs() + rest)
}

/// Does something until it works. What is not there any more is done.
async fn insist<F>(mut attempt: impl FnMut() -> F)
where
    F: Future<Output = Result<(), RuntimeError>>,
{
    let mut count = 0;
    loop {
        match attempt().await {
            Ok(()) | Err(RuntimeError::NotFound(_)) => return,
            Err(error) => {
                count += 1;
                tracing::warn!(%error, "tried again");
                tokio::time::sleep(doubled(INSIST, count)).await;
            }
        }
    }
}

async fn delete(shared: &Shared, pod: &Pod) -> Result<(), kube::Error> {
    let pods: Api<Pod> =
        Api::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    match pods.delete(&pod.name_any(), &parameters).await {
        // It is gone, or another one has its name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(|_| ()),
    }
}
