//! What to do next for a pod.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Container as Spec;

use super::memory::{Failure, Step};
use super::model::{Fate, Input, Kind, Model, Standing, is_sidecar};
use crate::labels;
use crate::runtime::{Container, ContainerState};

/// A container's stop is not asked for again for less than this.
const SOONER: Duration = Duration::from_secs(1);
/// Tries at a container that are kept: the newest, and one for its log.
const N_KEPT: usize = 2;

/// Something to do. The worker does it in a task and looks again after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make volumes and files, or bring them up to date.
    SetUpVolumes,
    /// Make a sandbox.
    RunSandbox {
        /// How often one was made before.
        attempt: u32,
    },
    /// Pull a container's image, create and start it.
    Start {
        /// The container.
        name: String,
        /// How often it was started before.
        attempt: u32,
        /// How many short lives in a row came before.
        level: u32,
    },
    /// Start what was created but never started.
    Resume {
        /// The container.
        name: String,
        /// Its identifier.
        id: String,
    },
    /// Give up what is being made.
    Cancel,
    /// Stop a container.
    Stop {
        /// The container.
        name: String,
        /// Its identifier.
        id: String,
        /// When it must have ended.
        deadline: SystemTime,
        /// For the event.
        message: String,
    },
    /// Stop a sandbox: its containers by force, its network.
    StopSandbox(String),
    /// Remove a container that has ended.
    RemoveContainer(String),
    /// Remove a sandbox with all its containers.
    RemoveSandbox(String),
    /// The pod has been active for too long.
    Expire,
    /// Remove volumes and files.
    CleanUp,
    /// Delete the pod's object.
    Delete,
    /// Nothing is left: end the worker.
    Forget,
}

/// What to do, and when to look again at the latest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// To be done at once and together.
    pub(crate) actions: Vec<Action>,
    /// When time alone changes the answer.
    pub(crate) wake: Option<SystemTime>,
}

impl Decision {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake_at(&mut self, time: SystemTime) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }
}

/// What to do next for a pod.
pub(crate) fn next(input: Input<'_>) -> Decision {
    let model = Model::new(input);
    let mut decision = Decision::default();
    match model.fate() {
        Fate::Live => live(&model, &mut decision),
        Fate::Finished(deadline) => {
            if end(&model, deadline, &mut decision) {
                prune(&model, &mut decision);
            }
        }
        Fate::Leaving(deadline) => {
            if end(&model, deadline, &mut decision) {
                leave(&model, &mut decision);
            }
        }
    }
    decision
}

/// Stops everything in order; whether all has ended.
fn end(model: &Model<'_>, deadline: SystemTime, decision: &mut Decision) -> bool {
    let memory = model.input.memory;
    if memory.starting.is_some() || memory.sandbox == Step::Busy || memory.volumes == Step::Busy {
        decision.push(Action::Cancel);
        return false;
    }
    let living = || {
        let all = model.input.view.containers.iter();
        all.filter(|container| Model::lives(container))
    };
    let (sidecars, others): (Vec<_>, Vec<_>) =
        living().partition(|container| model.kind(&container.name) == Kind::Sidecar);
    if others.is_empty() {
        // The one that was started last ends first.
        let order = |container: &&&Container| {
            let inits = model.inits().iter();
            inits.clone().position(|spec| spec.name == container.name)
        };
        if let Some(last) = sidecars.iter().max_by_key(order) {
            stop(model, last, deadline, None, decision);
        }
    }
    for container in others {
        stop(model, container, deadline, None, decision);
    }
    if living().next().is_some() {
        return false;
    }
    let ready = model.input.view.sandboxes.iter().filter(|s| s.is_ready);
    let mut all_stopped = true;
    for sandbox in ready {
        all_stopped = false;
        if !memory.removing.contains(&sandbox.id) {
            decision.push(Action::StopSandbox(sandbox.id.clone()));
        }
    }
    all_stopped
}

fn stop(
    model: &Model<'_>,
    container: &Container,
    deadline: SystemTime,
    message: Option<&str>,
    decision: &mut Decision,
) {
    let is_asked = model
        .input
        .memory
        .stopping
        .get(&container.id)
        .is_some_and(|asked| deadline + SOONER >= *asked);
    if !is_asked {
        decision.push(Action::Stop {
            name: container.name.clone(),
            id: container.id.clone(),
            deadline,
            message: message.map_or_else(
                || format!("Stopping container {}", container.name),
                str::to_owned,
            ),
        });
    }
}

/// Removes all traces, the object last.
fn leave(model: &Model<'_>, decision: &mut Decision) {
    let memory = model.input.memory;
    if !memory.is_gone && !memory.final_status {
        // The worker sees to it and looks again.
        return;
    }
    if !model.input.view.sandboxes.is_empty() {
        for sandbox in &model.input.view.sandboxes {
            if !memory.removing.contains(&sandbox.id) {
                decision.push(Action::RemoveSandbox(sandbox.id.clone()));
            }
        }
        return;
    }
    if !model.input.view.containers.is_empty() {
        for container in &model.input.view.containers {
            if !memory.removing.contains(&container.id) {
                decision.push(Action::RemoveContainer(container.id.clone()));
            }
        }
        return;
    }
    if !is_done(model, &memory.cleaned, Action::CleanUp, decision) {
        return;
    }
    if memory.is_gone || is_done(model, &memory.deleted, Action::Delete, decision) {
        decision.push(Action::Forget);
    }
}

/// Whether a step is done; if not, it is begun when it can be.
fn is_done(model: &Model<'_>, step: &Step, action: Action, decision: &mut Decision) -> bool {
    match step {
        Step::Done => return true,
        Step::Busy => {}
        Step::Failed(failure) if failure.until > model.input.now => {
            decision.wake_at(failure.until);
        }
        Step::Open | Step::Failed(_) => decision.push(action),
    }
    false
}

fn live(model: &Model<'_>, decision: &mut Decision) {
    let Input { memory, now, .. } = model.input;
    if let Some(deadline) = model.deadline() {
        if deadline <= now {
            decision.push(Action::Expire);
            return;
        }
        decision.wake_at(deadline);
    }
    if model.is_over() {
        // Sidecars have nobody left to serve.
        if end(model, now + model.grace(), decision) {
            prune(model, decision);
        }
        return;
    }
    let Some(sandbox) = model.sandbox() else {
        lost(model, decision);
        return;
    };
    refresh(model, decision);
    replace(model, decision);
    for old in &model.input.view.sandboxes {
        let is_old = old.id != sandbox.id;
        if is_old && old.is_ready && !memory.removing.contains(&old.id) {
            decision.push(Action::StopSandbox(old.id.clone()));
        }
    }
    prune(model, decision);
    if memory.volumes != Step::Done || memory.starting.is_some() {
        return;
    }
    start(model, decision);
}

/// There is no sandbox that works: everything begins again.
fn lost(model: &Model<'_>, decision: &mut Decision) {
    let memory = model.input.memory;
    let mut is_clear = memory.starting.is_none();
    for container in &model.input.view.containers {
        if Model::lives(container) {
            is_clear = false;
            // Its namespaces are gone; whatever is left of it ends by force.
            if !memory.removing.contains(&container.sandbox) {
                let action = Action::StopSandbox(container.sandbox.clone());
                if !decision.actions.contains(&action) {
                    decision.push(action);
                }
            }
        }
    }
    if !is_clear {
        return;
    }
    is_done(model, &memory.volumes, Action::SetUpVolumes, decision);
    if matches!(memory.volumes, Step::Failed(_)) {
        return;
    }
    let attempt = model.next_sandbox();
    // A sandbox that was made and is not there any more is made again.
    let step = match &memory.sandbox {
        Step::Done => &Step::Open,
        step => step,
    };
    is_done(model, step, Action::RunSandbox { attempt }, decision);
}

/// Brings volumes up to date.
fn refresh(model: &Model<'_>, decision: &mut Decision) {
    let Input { memory, now, .. } = model.input;
    if memory.volumes == Step::Done {
        let is_due = memory.refresh_volumes.is_some_and(|at| at <= now);
        if is_due || memory.stale_volumes {
            decision.push(Action::SetUpVolumes);
        } else if let Some(at) = memory.refresh_volumes {
            decision.wake_at(at);
        }
    } else {
        is_done(model, &memory.volumes, Action::SetUpVolumes, decision);
    }
}

/// Stops what must be started anew: changed in the spec, or found dead.
fn replace(model: &Model<'_>, decision: &mut Decision) {
    let Input { memory, now, .. } = model.input;
    for spec in model.inits().iter().chain(model.mains()) {
        let Some(container) = model.present(&spec.name) else {
            continue;
        };
        let is_busy = memory.starting.as_ref() == Some(&spec.name);
        let is_stopping = memory.stopping.contains_key(&container.id);
        if is_busy || is_stopping {
            continue;
        }
        if container.state == ContainerState::Unknown {
            let message = format!(
                "Container {} is in unknown state, try killing it before restarting",
                spec.name
            );
            let deadline = now + model.grace();
            stop(model, container, deadline, Some(&message), decision);
        }
        if container.state != ContainerState::Running {
            continue;
        }
        if let Some(condemned) = memory.health(&container.id).condemned {
            let grace = condemned.grace.unwrap_or_else(|| model.grace());
            let message = Some(condemned.message.as_str());
            stop(model, container, now + grace, message, decision);
        } else if is_changed(spec, container) && model.kind(&spec.name) != Kind::Init {
            let message = format!(
                "Container {} definition changed, will be restarted",
                spec.name
            );
            stop(
                model,
                container,
                now + model.grace(),
                Some(&message),
                decision,
            );
        }
    }
}

fn is_changed(spec: &Spec, container: &Container) -> bool {
    let made_of = container.annotations.get(labels::IMAGE);
    made_of.is_some_and(|image| Some(image) != spec.image.as_ref())
}

/// Starts the next container, one at a time and in the order of the spec.
fn start(model: &Model<'_>, decision: &mut Decision) {
    for spec in model.ephemerals() {
        if try_start(model, spec, decision) {
            return;
        }
    }
    let is_initialized = model.is_initialized();
    for spec in model.inits() {
        let is_past = model.is_past(spec);
        // Sidecars are kept running at all times, the others only in turn.
        if (is_sidecar(spec) || !is_initialized) && !is_past && try_start(model, spec, decision) {
            return;
        }
        if !is_initialized && !is_past {
            return;
        }
    }
    for spec in model.mains() {
        if try_start(model, spec, decision) {
            return;
        }
    }
}

/// Starts a container if it should and can be; whether that keeps the others
/// from being started now.
fn try_start(model: &Model<'_>, spec: &Spec, decision: &mut Decision) -> bool {
    let Input { memory, now, .. } = model.input;
    let name = &spec.name;
    match model.standing(spec) {
        Standing::Succeeded | Standing::Failed => return false,
        Standing::Alive => {
            let Some(container) = model.present(name) else {
                return false;
            };
            // Its maker was stopped between creating and starting it.
            if container.state != ContainerState::Created
                || memory.removing.contains(&container.id)
                || is_waiting(memory.failures.get(name), now, decision)
            {
                return false;
            }
            decision.push(Action::Resume {
                name: name.clone(),
                id: container.id.clone(),
            });
            return true;
        }
        Standing::Again(at) if at > now => {
            decision.wake_at(at);
            return false;
        }
        Standing::Again(_) | Standing::Absent => {}
    }
    if is_waiting(memory.failures.get(name), now, decision) {
        return false;
    }
    decision.push(Action::Start {
        name: name.clone(),
        attempt: model.next_attempt(name),
        level: model.next_level(name),
    });
    true
}

fn is_waiting(failure: Option<&Failure>, now: SystemTime, decision: &mut Decision) -> bool {
    let Some(failure) = failure.filter(|failure| failure.until > now) else {
        return false;
    };
    decision.wake_at(failure.until);
    // The words for it change once.
    let turn = failure.at + super::status::FRESH;
    if turn > now {
        decision.wake_at(turn);
    }
    true
}

/// Removes tries at containers that nobody will ask for, and sandboxes that
/// have none left.
fn prune(model: &Model<'_>, decision: &mut Decision) {
    let memory = model.input.memory;
    let containers = &model.input.view.containers;
    for container in containers {
        let n_newer = containers
            .iter()
            .filter(|other| other.name == container.name && other.attempt > container.attempt)
            .count();
        if n_newer >= N_KEPT && !Model::lives(container) && !memory.removing.contains(&container.id)
        {
            decision.push(Action::RemoveContainer(container.id.clone()));
        }
    }
    let current = model.sandbox().map(|sandbox| sandbox.id.as_str());
    for sandbox in &model.input.view.sandboxes {
        let is_empty = !containers.iter().any(|c| c.sandbox == sandbox.id);
        let is_newest = sandbox.metadata.attempt + 1 == model.next_sandbox();
        if is_empty
            && !is_newest
            && !sandbox.is_ready
            && current != Some(&sandbox.id)
            && !memory.removing.contains(&sandbox.id)
        {
            decision.push(Action::RemoveSandbox(sandbox.id.clone()));
        }
    }
}
