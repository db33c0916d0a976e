//! The questions that both the next steps and the status ask of a pod.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container as Spec, ContainerStatus, Pod, PodSpec, PodStatus};

use super::back_off::{LONG_LIFE, restart_delay};
use super::memory::Memory;
use crate::labels;
use crate::runtime::{Container, ContainerState, Sandbox};
use crate::time;

/// What the runtime has of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Sandboxes, the newest last.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Containers of all sandboxes, the newest last.
    pub(crate) containers: Vec<Container>,
}

/// Everything that decides about a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    /// What is wanted.
    pub(crate) pod: &'a Pod,
    /// Its ephemeral containers, as containers.
    pub(crate) ephemerals: &'a [Spec],
    /// What is there.
    pub(crate) view: &'a View,
    /// What is remembered.
    pub(crate) memory: &'a Memory,
    /// When.
    pub(crate) now: SystemTime,
}

/// The part a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs to its end before the next one starts.
    Init,
    /// Is started in the order of init containers and stays.
    Sidecar,
    /// What the pod is for.
    Main,
    /// Was added to look into the pod: starts once, whatever the others do.
    Ephemeral,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Containers are kept running.
    Live,
    /// It is over: whatever runs ends by the time given, the object stays.
    Finished(SystemTime),
    /// Likewise, and the object and all that is here go.
    Leaving(SystemTime),
}

/// Whether a container will be started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was never started here.
    Absent,
    /// It runs, or was created and is about to.
    Alive,
    /// It has ended and will be started again at the time given.
    Again(SystemTime),
    /// It has ended well and stays so.
    Succeeded,
    /// It has ended badly and stays so.
    Failed,
}

/// A pod with everything about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model<'a> {
    pub(crate) input: Input<'a>,
}

static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
static NO_STATUS: std::sync::LazyLock<PodStatus> = std::sync::LazyLock::new(PodStatus::default);

impl<'a> Model<'a> {
    pub(crate) fn new(input: Input<'a>) -> Self {
        Self { input }
    }

    pub(crate) fn spec(&self) -> &'a PodSpec {
        self.input.pod.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    pub(crate) fn reported(&self) -> &'a PodStatus {
        self.input.pod.status.as_ref().unwrap_or(&NO_STATUS)
    }

    /// The sandbox that works, if there is one.
    pub(crate) fn sandbox(&self) -> Option<&'a Sandbox> {
        let ready = self.input.view.sandboxes.iter().filter(|s| s.is_ready);
        ready.max_by_key(|sandbox| sandbox.metadata.attempt)
    }

    /// How often sandboxes were made before the next one.
    pub(crate) fn next_sandbox(&self) -> u32 {
        let attempts = self.input.view.sandboxes.iter();
        let attempts = attempts.map(|sandbox| sandbox.metadata.attempt);
        attempts.max().map_or(0, |attempt| attempt + 1)
    }

    pub(super) fn inits(&self) -> &'a [Spec] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }

    pub(super) fn mains(&self) -> &'a [Spec] {
        &self.spec().containers
    }

    pub(super) fn ephemerals(&self) -> &'a [Spec] {
        self.input.ephemerals
    }

    pub(crate) fn kind(&self, name: &str) -> Kind {
        match self.inits().iter().find(|spec| spec.name == name) {
            Some(spec) if is_sidecar(spec) => Kind::Sidecar,
            Some(_) => Kind::Init,
            None if self.ephemerals().iter().any(|spec| spec.name == name) => Kind::Ephemeral,
            None => Kind::Main,
        }
    }

    /// A container's wish by its name.
    pub(crate) fn wanted(&self, name: &str) -> Option<&'a Spec> {
        self.inits()
            .iter()
            .chain(self.mains())
            .chain(self.ephemerals())
            .find(|spec| spec.name == name)
    }

    /// All tries at a container, the newest first.
    pub(crate) fn tries(&self, name: &str) -> Vec<&'a Container> {
        let all = self.input.view.containers.iter();
        let mut tries: Vec<&Container> = all.filter(|c| c.name == name).collect();
        tries.sort_by_key(|container| std::cmp::Reverse(container.attempt));
        tries
    }

    /// The newest try at a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&'a Container> {
        self.tries(name).first().copied()
    }

    /// The newest try, if it is in the sandbox that works.
    pub(super) fn present(&self, name: &str) -> Option<&'a Container> {
        let sandbox = self.sandbox()?;
        self.latest(name)
            .filter(|container| container.sandbox == sandbox.id)
    }

    /// How often a container was started before the next try.
    pub(crate) fn next_attempt(&self, name: &str) -> u32 {
        let tried = self.latest(name).map_or(0, |last| last.attempt + 1);
        let reported = self.reported_container(name).map_or(0, |status| {
            let restarts = u32::try_from(status.restart_count).unwrap_or(0);
            restarts + u32::from(status.container_id.is_some())
        });
        // What the API has counts when the runtime has forgotten.
        if tried == 0 {
            reported
        } else {
            tried.max(reported.saturating_sub(1))
        }
    }

    pub(super) fn reported_container(&self, name: &str) -> Option<&'a ContainerStatus> {
        let status = self.reported();
        let inits = status.init_container_statuses.iter().flatten();
        let mains = status.container_statuses.iter().flatten();
        let ephemerals = status.ephemeral_container_statuses.iter().flatten();
        let mut all = inits.chain(mains).chain(ephemerals);
        all.find(|status| status.name == name)
    }

    fn policy(&self, spec: &Spec) -> Policy {
        if self.kind(&spec.name) == Kind::Ephemeral {
            return Policy::Never;
        }
        if is_sidecar(spec) && self.kind(&spec.name) == Kind::Sidecar {
            return Policy::Always;
        }
        let own = spec.restart_policy.as_deref();
        match own.or(self.spec().restart_policy.as_deref()) {
            Some("Never") => Policy::Never,
            Some("OnFailure") => Policy::OnFailure,
            // An init container that has succeeded is done.
            _ if self.kind(&spec.name) == Kind::Init => Policy::OnFailure,
            _ => Policy::Always,
        }
    }

    /// Whether a container that has ended is started again.
    pub(super) fn standing(&self, spec: &Spec) -> Standing {
        let is_ephemeral = self.kind(&spec.name) == Kind::Ephemeral;
        let Some(last) = self.latest(&spec.name) else {
            // What the runtime has forgotten does not start a second time.
            let reported = self.reported_container(&spec.name);
            let was_there = reported.is_some_and(|status| status.container_id.is_some());
            return if is_ephemeral && was_there {
                Standing::Failed
            } else {
                Standing::Absent
            };
        };
        if last.state != ContainerState::Exited {
            // What was in a sandbox that is gone is gone too.
            let is_present = self.present(&spec.name).is_some();
            if is_present {
                return Standing::Alive;
            }
        }
        let succeeded = last.state == ContainerState::Exited && last.exit_code == 0;
        match (self.policy(spec), succeeded) {
            (Policy::Never | Policy::OnFailure, true) if self.kind(&spec.name) == Kind::Init => {
                // All of them run again in a new sandbox.
                if self.present(&spec.name).is_some() || self.sandbox().is_none() {
                    Standing::Succeeded
                } else {
                    Standing::Absent
                }
            }
            (Policy::Never | Policy::OnFailure, true) => Standing::Succeeded,
            (Policy::Never, false) => Standing::Failed,
            _ => Standing::Again(self.restart_at(last)),
        }
    }

    /// When a container that has ended may be started again.
    fn restart_at(&self, last: &Container) -> SystemTime {
        let finished = last.finished.unwrap_or(last.created);
        finished + restart_delay(level(last))
    }

    /// How many short lives in a row come before the next try.
    pub(crate) fn next_level(&self, name: &str) -> u32 {
        self.latest(name)
            .map_or(0, |last| level(last).saturating_add(1))
    }

    /// Whether all init containers have done their part.
    pub(super) fn is_initialized(&self) -> bool {
        let any_main = self
            .mains()
            .iter()
            .any(|spec| self.present(&spec.name).is_some());
        any_main || self.inits().iter().all(|spec| self.is_past(spec))
    }

    /// Whether what comes after this init container may start.
    pub(super) fn is_past(&self, spec: &Spec) -> bool {
        if is_sidecar(spec) {
            return self.present(&spec.name).is_some_and(|container| {
                container.state == ContainerState::Running
                    && self.input.memory.health(&container.id).is_started
            });
        }
        self.standing(spec) == Standing::Succeeded
    }

    /// Whether an init container has failed for good.
    pub(super) fn init_failed(&self) -> bool {
        !self.is_initialized()
            && self
                .inits()
                .iter()
                .any(|spec| self.standing(spec) == Standing::Failed)
    }

    /// Whether nothing of the pod will run any more by itself.
    pub(super) fn is_over(&self) -> bool {
        let mains = || self.mains().iter().map(|spec| self.standing(spec));
        self.init_failed()
            || mains().all(|standing| matches!(standing, Standing::Succeeded | Standing::Failed))
    }

    /// Whether a container is there that may still do something.
    pub(super) fn lives(container: &Container) -> bool {
        container.state != ContainerState::Exited
    }

    pub(super) fn grace(&self) -> Duration {
        let seconds = self.spec().termination_grace_period_seconds.unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
    }

    pub(super) fn fate(&self) -> Fate {
        let Input {
            pod, memory, now, ..
        } = self.input;
        let since = memory.ending_since.unwrap_or(now);
        if memory.is_gone {
            return Fate::Leaving(since + self.grace());
        }
        if let Some(at) = &pod.metadata.deletion_timestamp {
            // The API's time has no fractions: the grace may be cut by a second.
            let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
            let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            return Fate::Leaving(time::system(at).max(since + grace));
        }
        if let Some(verdict) = &memory.verdict {
            return Fate::Finished(verdict.at + self.grace());
        }
        match self.reported().phase.as_deref() {
            Some("Failed" | "Succeeded") => Fate::Finished(since + self.grace()),
            _ => Fate::Live,
        }
    }

    /// When the pod has been active for as long as it may.
    pub(super) fn deadline(&self) -> Option<SystemTime> {
        let seconds = u64::try_from(self.spec().active_deadline_seconds?).ok()?;
        let start = time::system(self.reported().start_time.as_ref()?);
        Some(start + Duration::from_secs(seconds))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    OnFailure,
    Never,
}

pub(super) fn is_sidecar(spec: &Spec) -> bool {
    spec.restart_policy.as_deref() == Some("Always")
}

/// How many short lives in a row came before this container's, its own not
/// counted; none when its own was long.
pub(super) fn level(container: &Container) -> u32 {
    let ran = container
        .finished
        .zip(container.started)
        .and_then(|(finished, started)| finished.duration_since(started).ok());
    if ran.is_some_and(|ran| ran >= LONG_LIFE) {
        return 0;
    }
    let level = container.annotations.get(labels::BACK_OFF);
    level.and_then(|level| level.parse().ok()).unwrap_or(0)
}
