//! A pod's state in the API's words.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, PodCondition, PodStatus,
};

use super::memory::Verdict;
use super::model::{Fate, Input, Kind, Model, Standing, is_sidecar, level};
use crate::labels;
use crate::runtime::{Container, ContainerState};
use crate::time;

/// A failed pull is called `ErrImagePull` for so long, then `ImagePullBackOff`.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// The state of a pod, with its former transition times where nothing changed.
///
/// Addresses of the host are the caller's to fill in.
pub(crate) fn status(input: Input<'_>) -> PodStatus {
    let model = Model::new(input);
    let reported = model.reported();
    let of = |specs: &[Spec]| -> Vec<ContainerStatus> {
        specs.iter().map(|spec| container(&model, spec)).collect()
    };
    let (inits, mains) = (of(model.inits()), of(model.mains()));
    let ephemerals = of(model.ephemerals());
    let verdict = input.memory.verdict.as_ref();
    let phase = phase(&model, verdict);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        qos_class: reported.qos_class.clone(),
        observed_generation: input.pod.metadata.generation,
        start_time: reported.start_time.clone(),
        reason: reported.reason.clone(),
        message: reported.message.clone(),
        ..PodStatus::default()
    };
    if let Some(Verdict {
        reason, message, ..
    }) = verdict
    {
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
    }
    if status.start_time.is_none() {
        status.start_time = Some(time::api(input.now));
    }
    // A pod that was refused has never had containers.
    let is_refused = verdict.is_some() && input.view.sandboxes.is_empty();
    if is_refused && reported.container_statuses.is_none() {
        return status;
    }
    status.conditions = Some(conditions(&model, phase, &inits, &mains));
    if let Some(sandbox) = model.sandbox() {
        let addresses = sandbox.addresses.iter().map(ToString::to_string);
        let addresses: Vec<String> = addresses.collect();
        status.pod_ip = addresses.first().cloned();
        let list = addresses.into_iter();
        let list: Vec<_> = list
            .map(|ip| k8s_openapi::api::core::v1::PodIP { ip })
            .collect();
        status.pod_ips = (!list.is_empty()).then_some(list);
    } else {
        status.pod_ip = reported.pod_ip.clone();
        status.pod_ips = reported.pod_ips.clone();
    }
    if !inits.is_empty() {
        status.init_container_statuses = Some(inits);
    }
    status.container_statuses = Some(mains);
    if !ephemerals.is_empty() {
        status.ephemeral_container_statuses = Some(ephemerals);
    }
    status
}

fn phase(model: &Model<'_>, verdict: Option<&Verdict>) -> &'static str {
    match model.reported().phase.as_deref() {
        Some("Failed") => return "Failed",
        Some("Succeeded") => return "Succeeded",
        _ => {}
    }
    if verdict.is_some() {
        return "Failed";
    }
    let containers = &model.input.view.containers;
    let mut decisive = containers
        .iter()
        .filter(|one| model.kind(&one.name) != Kind::Ephemeral);
    let any_alive = decisive.any(Model::lives);
    let is_leaving = matches!(model.fate(), Fate::Leaving(_));
    let outcomes = model.mains().iter().map(|spec| {
        let last = model.latest(&spec.name);
        last.map(|last| last.state == ContainerState::Exited && last.exit_code == 0)
    });
    if (model.is_over() || is_leaving) && !any_alive {
        let was_started = !containers.is_empty();
        if !is_leaving || was_started {
            let failed = model.init_failed() || outcomes.clone().any(|good| good != Some(true));
            return if failed { "Failed" } else { "Succeeded" };
        }
    }
    // Pending until each container was started once.
    let all_started = outcomes.clone().all(|outcome| outcome.is_some());
    let is_started = |spec: &Spec| {
        model
            .latest(&spec.name)
            .is_some_and(|last| last.state != ContainerState::Created)
    };
    if all_started && model.mains().iter().all(is_started) {
        "Running"
    } else if model.reported().phase.as_deref() == Some("Running") {
        // It never goes back.
        "Running"
    } else {
        "Pending"
    }
}

fn container(model: &Model<'_>, spec: &Spec) -> ContainerStatus {
    let memory = model.input.memory;
    let tries = model.tries(&spec.name);
    let image = spec.image.clone().unwrap_or_default();
    let reported = model.reported_container(&spec.name);
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image,
        ..ContainerStatus::default()
    };
    let kind = model.kind(&spec.name);
    let Some(last) = tries.first() else {
        if let Some(reported) = reported.filter(|status| status.container_id.is_some()) {
            // The runtime has forgotten what the API still knows.
            status.restart_count = reported.restart_count;
            status.last_state = reported.state.clone().filter(|s| s.terminated.is_some());
        }
        status.state = Some(waiting(model, spec));
        status.started = Some(false);
        return status;
    };
    status.restart_count = i32::try_from(last.attempt).unwrap_or(i32::MAX);
    if let Some(reported) = reported {
        status.restart_count = status.restart_count.max(reported.restart_count);
    }
    status.container_id = Some(format!("dhow://{}", last.id));
    status.image_id.clone_from(&last.image);
    if let Some(image) = last.annotations.get(labels::IMAGE) {
        status.image.clone_from(image);
    }
    let previous = tries.get(1).map(|previous| terminated(model, previous));
    match last.state {
        ContainerState::Running | ContainerState::Unknown => {
            let health = memory.health(&last.id);
            // Its hook is part of the start.
            let hook = spec.lifecycle.as_ref();
            let hook = hook.and_then(|lifecycle| lifecycle.post_start.as_ref());
            let is_at_hook = hook.is_some() && memory.starting.as_ref() == Some(&spec.name);
            let is_started = health.is_started && !is_at_hook;
            status.started = Some(is_started);
            let may_be = matches!(kind, Kind::Main | Kind::Sidecar);
            status.ready = may_be && is_started && health.is_ready;
            status.state = Some(running(last));
            status.last_state = previous;
        }
        ContainerState::Created => {
            status.started = Some(false);
            status.state = Some(waiting(model, spec));
            status.last_state = previous;
        }
        ContainerState::Exited => {
            status.started = Some(false);
            let is_live = model.fate() == Fate::Live && !model.is_over();
            let comes_again = matches!(model.standing(spec), Standing::Again(_) | Standing::Absent);
            if is_live && comes_again {
                status.state = Some(waiting(model, spec));
                status.last_state = Some(terminated(model, last));
            } else {
                status.state = Some(terminated(model, last));
                status.last_state = previous;
                status.ready = kind == Kind::Init && last.exit_code == 0;
            }
        }
    }
    if status.last_state.is_none() {
        status.last_state = Some(State::default());
    }
    status
}

fn running(container: &Container) -> State {
    State {
        running: Some(ContainerStateRunning {
            started_at: Some(time::api(container.started.unwrap_or(container.created))),
        }),
        ..State::default()
    }
}

fn terminated(model: &Model<'_>, container: &Container) -> State {
    let reason = if container.oom_killed {
        "OOMKilled"
    } else if !container.message.is_empty() {
        "StartError"
    } else if container.exit_code == 0 {
        "Completed"
    } else {
        "Error"
    };
    let message = match model.input.memory.messages.get(&container.id) {
        Some(message) if !message.is_empty() => Some(message.clone()),
        _ => Some(container.message.clone()).filter(|message| !message.is_empty()),
    };
    State {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(format!("dhow://{}", container.id)),
            exit_code: container.exit_code,
            reason: Some(reason.to_owned()),
            message,
            started_at: Some(time::api(
                container.started.unwrap_or(SystemTime::UNIX_EPOCH),
            )),
            finished_at: Some(time::api(container.finished.unwrap_or(container.created))),
            signal: None,
        }),
        ..State::default()
    }
}

fn waiting(model: &Model<'_>, spec: &Spec) -> State {
    let (reason, message) = waiting_for(model, spec);
    State {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason),
            message,
        }),
        ..State::default()
    }
}

fn waiting_for(model: &Model<'_>, spec: &Spec) -> (String, Option<String>) {
    let Input { memory, now, .. } = model.input;
    let is_at_it = memory.starting.as_ref() == Some(&spec.name);
    if let Some(failure) = memory.failures.get(&spec.name)
        && !is_at_it
    {
        if failure.reason == "ErrImagePull" && failure.at + FRESH <= now {
            let image = spec.image.as_deref().unwrap_or_default();
            let message = format!(
                "Back-off pulling image \"{image}\": ErrImagePull: {}",
                failure.message
            );
            return ("ImagePullBackOff".to_owned(), Some(message));
        }
        return (failure.reason.clone(), Some(failure.message.clone()));
    }
    let last = model
        .latest(&spec.name)
        .filter(|last| last.state == ContainerState::Exited);
    if let (Some(last), Standing::Again(at)) = (last, model.standing(spec))
        && at > now
    {
        let container = level(last);
        let delay = super::back_off::restart_delay(container);
        let message = format!(
            "back-off {} restarting failed container={} pod={}",
            duration(delay),
            spec.name,
            crate::events::pod_words(model.input.pod),
        );
        return ("CrashLoopBackOff".to_owned(), Some(message));
    }
    if let Some(last) = last.filter(|last| !last.message.is_empty()) {
        return ("RunContainerError".to_owned(), Some(last.message.clone()));
    }
    let kind = model.kind(&spec.name);
    let is_blocked = !model.inits().is_empty() && !model.is_initialized();
    let is_init = matches!(kind, Kind::Init | Kind::Sidecar);
    let reason = if is_init || (is_blocked && kind == Kind::Main) {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    (reason.to_owned(), None)
}

/// A duration in Go's words: `10s`, `2m40s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// The pod's conditions that the agent answers for; those of others are kept
/// by the API's merge.
fn conditions(
    model: &Model<'_>,
    phase: &str,
    inits: &[ContainerStatus],
    mains: &[ContainerStatus],
) -> Vec<PodCondition> {
    let mut list = Vec::new();
    let has_sandbox = model.sandbox().is_some();
    let answer = |holds: bool, reason: &str, message: String| {
        if holds {
            (true, None, None)
        } else {
            let message = Some(message).filter(|message| !message.is_empty());
            (false, Some(reason.to_owned()), message)
        }
    };
    list.push((
        "PodReadyToStartContainers",
        answer(has_sandbox, "", String::new()),
    ));
    let waiting: Vec<&str> = inits
        .iter()
        .zip(model.inits())
        .filter(|(status, spec)| {
            if is_sidecar(spec) {
                status.started != Some(true)
            } else {
                !status.ready
            }
        })
        .map(|(status, _)| status.name.as_str())
        .collect();
    let is_initialized = waiting.is_empty() || model.is_initialized() || phase == "Succeeded";
    let words = format!("containers with incomplete status: [{}]", waiting.join(" "));
    list.push((
        "Initialized",
        answer(is_initialized, "ContainersNotInitialized", words),
    ));
    let sidecars = inits.iter().zip(model.inits());
    let sidecars = sidecars
        .filter(|(_, spec)| is_sidecar(spec))
        .map(|(status, _)| status);
    let unready: Vec<&str> = sidecars
        .chain(mains)
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    let words = format!("containers with unready status: [{}]", unready.join(" "));
    let containers = match phase {
        "Succeeded" => answer(false, "PodCompleted", String::new()),
        "Failed" => answer(false, "PodFailed", String::new()),
        _ => answer(unready.is_empty(), "ContainersNotReady", words),
    };
    let gates = model.spec().readiness_gates.iter().flatten();
    let closed: Vec<String> = gates
        .filter(|gate| {
            let mut reported = model.reported().conditions.iter().flatten();
            !reported.any(|c| c.type_ == gate.condition_type && c.status == "True")
        })
        .map(|gate| {
            format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist or is not True.",
                gate.condition_type
            )
        })
        .collect();
    let ready = if containers.0 && !closed.is_empty() {
        answer(false, "ReadinessGatesNotReady", closed.join(", "))
    } else {
        containers.clone()
    };
    list.push(("Ready", ready));
    list.push(("ContainersReady", containers));
    list.push(("PodScheduled", (true, None, None)));
    list.into_iter()
        .map(|(name, (holds, reason, message))| condition(model, name, holds, reason, message))
        .collect()
}

fn condition(
    model: &Model<'_>,
    name: &str,
    holds: bool,
    reason: Option<String>,
    message: Option<String>,
) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let former = model.reported().conditions.iter().flatten();
    let former = former
        .filter(|former| former.type_ == name && former.status == status)
        .find_map(|former| former.last_transition_time.clone());
    PodCondition {
        type_: name.to_owned(),
        status: status.to_owned(),
        // Empty rather than none: a merge must take the former ones away.
        reason: reason.filter(|reason| !reason.is_empty()),
        message,
        last_probe_time: None,
        last_transition_time: Some(former.unwrap_or_else(|| time::api(model.input.now))),
        observed_generation: model.input.pod.metadata.generation,
    }
}
