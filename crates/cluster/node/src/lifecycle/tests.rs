//! Properties of the pure core, on a machine of a few lines: whatever happens
//! in whatever order, and however often the agent forgets everything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container as Spec, ContainerStatus, Pod, PodStatus};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::back_off::restart_delay;
use super::memory::{Condemned, Failure, Health, Memory, Step};
use super::model::{Input, Kind, Model, View};
use super::next::{Action, next};
use super::status::status;
use crate::labels;
use crate::runtime::{Container, ContainerState, PodMetadata, Sandbox};
use crate::time;

/// Looks in a row without an end are a loop.
const N_LOOKS: usize = 60;

struct World {
    pod: Pod,
    ephemerals: Vec<Spec>,
    view: View,
    memory: Memory,
    now: SystemTime,
    tasks: Vec<Action>,
    number: u32,
    wake: Option<SystemTime>,
    restarts: BTreeMap<String, i32>,
    is_forgotten: bool,
}

impl World {
    fn new(policy: &str, inits: &[bool], n_mains: usize) -> Self {
        let inits: Vec<Value> = inits
            .iter()
            .enumerate()
            .map(|(index, is_sidecar)| {
                let mut init = json!({"name": format!("i{index}"), "image": "x:1"});
                if *is_sidecar {
                    init["restartPolicy"] = "Always".into();
                }
                init
            })
            .collect();
        let mains: Vec<Value> = (0..n_mains)
            .map(|index| json!({"name": format!("m{index}"), "image": "x:1"}))
            .collect();
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"restartPolicy": policy, "initContainers": inits, "containers": mains}});
        Self {
            pod: serde_json::from_value(pod).expect("a pod"),
            ephemerals: Vec::new(),
            view: View::default(),
            memory: Memory::default(),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
            tasks: Vec::new(),
            number: 0,
            wake: None,
            restarts: BTreeMap::new(),
            is_forgotten: false,
        }
    }

    fn input(&self) -> Input<'_> {
        Input {
            pod: &self.pod,
            ephemerals: &self.ephemerals,
            view: &self.view,
            memory: &self.memory,
            now: self.now,
        }
    }

    /// Looks and begins what is to be done until there is nothing to begin.
    fn settle(&mut self) {
        for _ in 0..N_LOOKS {
            if self.is_forgotten {
                return;
            }
            let decision = next(self.input());
            self.wake = decision.wake;
            self.report();
            self.check();
            let ended = self.pod.metadata.deletion_timestamp.is_some()
                && self.view.containers.iter().all(|one| !Model::lives(one))
                && self.view.sandboxes.iter().all(|one| !one.is_ready)
                && self.memory.starting.is_none();
            if ended && !self.memory.final_status {
                self.memory.final_status = true;
                continue;
            }
            if decision.actions.is_empty() {
                return;
            }
            for action in decision.actions {
                self.begin(action);
            }
        }
        panic!("it goes on and on");
    }

    fn begin(&mut self, action: Action) {
        match &action {
            Action::SetUpVolumes => {
                self.memory.volumes = Step::Busy;
                self.memory.stale_volumes = false;
            }
            Action::RunSandbox { .. } => self.memory.sandbox = Step::Busy,
            Action::Start { name, level, .. } => {
                self.may_start(name, *level);
                assert_eq!(self.memory.starting, None, "one at a time");
                self.memory.starting = Some(name.clone());
            }
            Action::Resume { name, .. } => self.memory.starting = Some(name.clone()),
            Action::Cancel => {
                let is_setup = |task: &Action| {
                    matches!(
                        task,
                        Action::SetUpVolumes
                            | Action::RunSandbox { .. }
                            | Action::Start { .. }
                            | Action::Resume { .. }
                    )
                };
                let (given_up, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.tasks)
                    .into_iter()
                    .partition(is_setup);
                assert!(!given_up.is_empty(), "there is something to give up");
                self.tasks = kept;
                for task in given_up {
                    match task {
                        Action::SetUpVolumes => self.memory.volumes = Step::Open,
                        Action::RunSandbox { .. } => self.memory.sandbox = Step::Open,
                        _ => self.memory.starting = None,
                    }
                }
                return;
            }
            Action::Stop { id, deadline, .. } => {
                self.tasks
                    .retain(|task| !matches!(task, Action::Stop { id: known, .. } if known == id));
                self.memory.stopping.insert(id.clone(), *deadline);
            }
            Action::StopSandbox(id) | Action::RemoveContainer(id) | Action::RemoveSandbox(id) => {
                self.may_end(id);
                assert!(self.memory.removing.insert(id.clone()), "once at a time");
            }
            Action::Expire => unreachable!("no pod has a deadline here"),
            Action::CleanUp => self.memory.cleaned = Step::Busy,
            Action::Delete => self.memory.deleted = Step::Busy,
            Action::Forget => {
                assert_eq!(self.view, View::default(), "nothing is left");
                self.is_forgotten = true;
                return;
            }
        }
        self.tasks.push(action);
    }

    /// What must hold when a container is started.
    fn may_start(&self, name: &str, level: u32) {
        let model = Model::new(self.input());
        // Init containers that have succeeded run again in a new sandbox.
        let is_rerun = |last: &Container| model.kind(name) == Kind::Init && last.exit_code == 0;
        if let Some(last) = model.latest(name)
            && last.state == ContainerState::Exited
            && !is_rerun(last)
        {
            let finished = last.finished.expect("it has ended");
            let of_last = super::model::level(last);
            assert!(finished + restart_delay(of_last) <= self.now, "it waits");
            assert!(level <= of_last + 1);
        }
        if model.kind(name) == Kind::Ephemeral {
            assert!(model.latest(name).is_none(), "it starts once");
        }
        if model.kind(name) == Kind::Main {
            assert!(model.is_initialized(), "init containers come first");
        }
        assert!(model.sandbox().is_some());
    }

    /// What must hold when a sandbox is stopped, or something is removed:
    /// nothing lives in it, unless its namespaces are gone anyway.
    fn may_end(&self, id: &str) {
        let mut ready = self.view.sandboxes.iter().filter(|one| one.is_ready);
        let works = ready.any(|sandbox| sandbox.id == id);
        for container in &self.view.containers {
            let is_in_it = container.id == id || (works && container.sandbox == id);
            assert!(!is_in_it || !Model::lives(container), "it is stopped first");
        }
    }

    /// A task ends, well or not.
    fn complete(&mut self, index: usize, good: bool) {
        if self.tasks.is_empty() {
            return;
        }
        let task = self.tasks.remove(index % self.tasks.len());
        match task {
            Action::SetUpVolumes => self.memory.volumes = Step::Done,
            Action::RunSandbox { attempt } => {
                self.number += 1;
                self.view.sandboxes.push(Sandbox {
                    id: format!("s{}", self.number),
                    metadata: PodMetadata {
                        attempt,
                        ..PodMetadata::default()
                    },
                    is_ready: true,
                    created: self.now,
                    addresses: Vec::new(),
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                });
                self.memory.sandbox = Step::Done;
            }
            Action::Start {
                name,
                attempt,
                level,
            } => {
                self.memory.starting = None;
                if good {
                    self.memory.failures.remove(&name);
                    self.make(&name, attempt, level, ContainerState::Running);
                } else {
                    let count = self.memory.failures.get(&name).map_or(1, |f| f.count + 1);
                    let failure = Failure {
                        reason: "ErrImagePull".to_owned(),
                        message: "no".to_owned(),
                        count,
                        at: self.now,
                        until: self.now + super::retry_delay(count),
                    };
                    self.memory.failures.insert(name, failure);
                }
            }
            Action::Resume { name, id } => {
                self.memory.starting = None;
                self.memory.failures.remove(&name);
                for container in &mut self.view.containers {
                    if container.id == id && container.state == ContainerState::Created {
                        container.state = ContainerState::Running;
                        container.started = Some(self.now);
                    }
                }
            }
            Action::Stop { id, .. } => {
                self.exit(&id, 143);
                self.memory.stopping.remove(&id);
            }
            Action::StopSandbox(id) => {
                self.lose(&id);
                self.memory.removing.remove(&id);
            }
            Action::RemoveContainer(id) => {
                self.view.containers.retain(|container| container.id != id);
                self.memory.removing.remove(&id);
            }
            Action::RemoveSandbox(id) => {
                self.view.sandboxes.retain(|sandbox| sandbox.id != id);
                self.view
                    .containers
                    .retain(|container| container.sandbox != id);
                self.memory.removing.remove(&id);
            }
            Action::CleanUp => self.memory.cleaned = Step::Done,
            Action::Delete => self.memory.deleted = Step::Done,
            Action::Cancel | Action::Expire | Action::Forget => unreachable!("no tasks"),
        }
    }

    fn make(&mut self, name: &str, attempt: u32, level: u32, state: ContainerState) {
        let sandbox = self.view.sandboxes.iter().rfind(|one| one.is_ready);
        let Some(sandbox) = sandbox.map(|sandbox| sandbox.id.clone()) else {
            // The sandbox was lost meanwhile: the runtime refuses.
            return;
        };
        self.number += 1;
        let model = Model::new(self.input());
        let image = model.wanted(name).and_then(|spec| spec.image.clone());
        let annotations = BTreeMap::from([
            (labels::BACK_OFF.to_owned(), level.to_string()),
            (labels::IMAGE.to_owned(), image.unwrap_or_default()),
        ]);
        self.view.containers.push(Container {
            id: format!("c{}", self.number),
            sandbox,
            name: name.to_owned(),
            attempt,
            state,
            created: self.now,
            started: (state == ContainerState::Running).then_some(self.now),
            finished: None,
            exit_code: 0,
            oom_killed: false,
            message: String::new(),
            image: String::new(),
            labels: BTreeMap::new(),
            annotations,
        });
    }

    fn exit(&mut self, id: &str, code: i32) {
        for container in &mut self.view.containers {
            if container.id == id && Model::lives(container) {
                container.state = ContainerState::Exited;
                container.exit_code = code;
                container.finished = Some(self.now);
            }
        }
    }

    fn lose(&mut self, sandbox: &str) {
        for one in &mut self.view.sandboxes {
            if one.id == sandbox {
                one.is_ready = false;
            }
        }
        let all = self.view.containers.iter();
        let own = all.filter(|container| container.sandbox == sandbox);
        let own: Vec<String> = own.map(|container| container.id.clone()).collect();
        for id in own {
            self.exit(&id, 137);
        }
    }

    fn running(&self, index: usize) -> Option<String> {
        let all = self.view.containers.iter();
        let running: Vec<&Container> = all
            .filter(|container| container.state == ContainerState::Running)
            .collect();
        let container = running.get(index.checked_rem(running.len())?)?;
        Some(container.id.clone())
    }

    fn happen(&mut self, what: u8, which: u8) {
        let index = usize::from(which);
        match what % 13 {
            0..=4 => self.complete(index, true),
            5 => self.complete(index, false),
            6 => {
                if let Some(id) = self.running(index) {
                    self.exit(&id, i32::from(which % 2));
                }
            }
            7 => self.now += Duration::from_secs(u64::from(which) * 3),
            8 => {
                // The agent is killed, maybe between creating and starting.
                let starting = self.memory.starting.take();
                let tasks = std::mem::take(&mut self.tasks);
                for task in tasks {
                    if let Action::Start {
                        name,
                        attempt,
                        level,
                    } = task
                        && which.is_multiple_of(2)
                        && starting.as_ref() == Some(&name)
                    {
                        self.make(&name, attempt, level, ContainerState::Created);
                    }
                }
                let is_gone = self.memory.is_gone;
                self.memory = Memory {
                    is_gone,
                    ..Memory::default()
                };
            }
            9 => {
                let sandbox = self.view.sandboxes.last().map(|one| one.id.clone());
                if let Some(id) = sandbox {
                    self.lose(&id);
                }
            }
            10 => {
                if let Some(id) = self.running(index) {
                    let health = Health {
                        condemned: Some(Condemned {
                            grace: None,
                            message: "dead".to_owned(),
                        }),
                        ..Health::default()
                    };
                    self.memory.health.insert(id, health);
                }
            }
            11 => {
                if self.ephemerals.len() < 2 {
                    self.ephemerals.push(Spec {
                        name: format!("e{}", self.ephemerals.len()),
                        image: Some("x:1".to_owned()),
                        ..Spec::default()
                    });
                }
            }
            _ => {
                let spec = self.pod.spec.as_mut().expect("a spec");
                spec.containers[0].image = Some(format!("x:{which}"));
            }
        }
    }

    /// Writes the status, as the worker does.
    fn report(&mut self) {
        if self.memory.final_status || self.memory.is_gone {
            return;
        }
        let new = status(self.input());
        self.compare(&new);
        self.pod.status = Some(new);
    }

    fn compare(&mut self, new: &PodStatus) {
        let old = self.pod.status.clone().unwrap_or_default();
        if let Some(phase @ ("Failed" | "Succeeded")) = old.phase.as_deref() {
            assert_eq!(new.phase.as_deref(), Some(phase), "an end is an end");
        }
        if old.phase.as_deref() == Some("Running") {
            assert_ne!(new.phase.as_deref(), Some("Pending"));
        }
        let inits = new.init_container_statuses.iter().flatten();
        let all: Vec<&ContainerStatus> = inits
            .chain(new.container_statuses.iter().flatten())
            .chain(new.ephemeral_container_statuses.iter().flatten())
            .collect();
        for container in all {
            let known = self.restarts.entry(container.name.clone()).or_insert(0);
            assert!(*known <= container.restart_count, "restarts never fall");
            *known = container.restart_count;
            let state = container.state.as_ref().expect("a state");
            let n_states = [
                state.running.is_some(),
                state.terminated.is_some(),
                state.waiting.is_some(),
            ];
            assert_eq!(n_states.into_iter().filter(|one| *one).count(), 1);
            assert!(!container.ready || state.waiting.is_none());
        }
    }

    /// What must hold at all times.
    fn check(&self) {
        let mut alive = BTreeSet::new();
        let mut tries = BTreeSet::new();
        for container in &self.view.containers {
            if Model::lives(container) {
                let is_first = alive.insert(&container.name);
                assert!(is_first, "two of {} live", container.name);
            }
            let is_first = tries.insert((&container.name, container.attempt));
            assert!(is_first, "tries are told apart");
        }
    }

    /// Lets all tasks end and time pass until nothing is to be done.
    fn play_out(&mut self, is_enough: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            self.settle();
            if is_enough(self) {
                return;
            }
            if self.tasks.is_empty() {
                let wake = self.wake.expect("something to wait for");
                assert!(wake > self.now, "time is waited for once");
                let longest = Duration::from_secs(301);
                assert!(wake <= self.now + longest, "waits are bounded");
                self.now = wake;
            } else {
                self.complete(0, true);
            }
        }
        panic!("it does not come to an end");
    }

    fn delete(&mut self) {
        let deadline = self.now + Duration::from_secs(30);
        self.pod.metadata.deletion_timestamp = Some(time::api(deadline));
        self.memory.ending_since = Some(self.now);
    }
}

fn policies() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, a deleted pod ends with nothing left.
    #[test]
    fn a_deleted_pod_leaves_nothing(
        policy in policies(),
        inits in prop::collection::vec(any::<bool>(), 0..3),
        n_mains in 1..3_usize,
        happenings in prop::collection::vec(any::<(u8, u8)>(), 0..60),
        is_gone: bool,
    ) {
        let mut world = World::new(policy, &inits, n_mains);
        world.settle();
        for (what, which) in happenings {
            world.happen(what, which);
            world.settle();
        }
        if is_gone {
            world.memory.is_gone = true;
            world.memory.ending_since = Some(world.now);
        } else {
            world.delete();
        }
        world.play_out(|world| world.is_forgotten);
        prop_assert_eq!(&world.view, &View::default());
    }

    /// Left alone, a pod comes to run, or to its end.
    #[test]
    fn a_pod_left_alone_comes_to_rest(
        policy in policies(),
        inits in prop::collection::vec(any::<bool>(), 0..3),
        n_mains in 1..3_usize,
        happenings in prop::collection::vec(any::<(u8, u8)>(), 0..60),
    ) {
        let mut world = World::new(policy, &inits, n_mains);
        world.settle();
        for (what, which) in happenings {
            world.happen(what, which);
            world.settle();
        }
        world.play_out(|world| {
            // Init containers end by themselves; what else runs may stay.
            let model = Model::new(world.input());
            let all_run = model.mains().iter().all(|spec| {
                let running = model.present(&spec.name).is_some_and(Model::lives);
                running || matches!(
                    model.standing(spec),
                    super::model::Standing::Succeeded | super::model::Standing::Failed
                )
            });
            let runs_init = world.view.containers.iter().any(|container| {
                model.kind(&container.name) == Kind::Init && Model::lives(container)
            });
            (all_run && world.tasks.is_empty()) || runs_init || model.is_over()
        });
    }
}

/// Plays a pod until all of its tasks have ended.
fn rest(world: &mut World) {
    for _ in 0..100 {
        world.settle();
        if world.tasks.is_empty() {
            return;
        }
        world.complete(0, true);
    }
    panic!("tasks without end");
}

fn shown(world: &World, name: &str) -> Value {
    let status = json!(world.pod.status);
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists.iter().filter_map(|list| status[list].as_array());
    let mut all = all.flatten();
    let found = all.find(|container| container["name"] == name);
    found.expect("a status").clone()
}

#[test]
fn init_containers_come_first_and_sidecars_stay() {
    let mut world = World::new("Never", &[false, true], 1);
    rest(&mut world);
    assert_eq!(
        shown(&world, "m0")["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    assert!(shown(&world, "i0")["state"]["running"].is_object());
    let id = world.running(0).expect("the first init container");
    world.exit(&id, 0);
    rest(&mut world);
    assert!(shown(&world, "i1")["state"]["running"].is_object());
    assert!(shown(&world, "m0")["state"]["running"].is_object());
    let main = world.view.containers.last().expect("the last").id.clone();
    world.exit(&main, 0);
    rest(&mut world);
    let status = json!(world.pod.status);
    assert_eq!(status["phase"], "Succeeded");
    assert_eq!(
        shown(&world, "m0")["state"]["terminated"]["reason"],
        "Completed"
    );
    assert!(
        shown(&world, "i1")["state"]["terminated"].is_object(),
        "it was stopped"
    );
}

#[test]
fn a_container_that_fails_waits_longer_each_time() {
    let mut world = World::new("Always", &[], 1);
    rest(&mut world);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let id = world.running(0).expect("it runs");
        world.exit(&id, 1);
        let ended = world.now;
        rest(&mut world);
        while world.running(0).is_none() {
            let waiting = shown(&world, "m0")["state"]["waiting"].clone();
            assert_eq!(waiting["reason"], "CrashLoopBackOff");
            world.now = world.wake.expect("a time");
            rest(&mut world);
        }
        let waited = world.now.duration_since(ended).expect("it goes on");
        waits.push(waited.as_secs());
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(shown(&world, "m0")["restartCount"], 8);
    assert_eq!(
        shown(&world, "m0")["lastState"]["terminated"]["exitCode"],
        1
    );
    assert_eq!(world.view.containers.len(), 2, "one is kept for its log");
    // A long life starts over.
    world.now += super::back_off::LONG_LIFE;
    let id = world.running(0).expect("it runs");
    world.exit(&id, 1);
    rest(&mut world);
    assert!(world.running(0).is_some(), "at once");
}

#[test]
fn an_image_that_cannot_be_had_is_waited_for() {
    let mut world = World::new("Always", &[], 1);
    world.settle();
    world.complete(0, true);
    world.settle();
    world.complete(0, true);
    world.settle();
    world.complete(0, false);
    world.settle();
    let reason = |world: &World| shown(world, "m0")["state"]["waiting"]["reason"].clone();
    assert_eq!(reason(&world), "ErrImagePull");
    world.now = world.wake.expect("a time");
    world.settle();
    assert_eq!(reason(&world), "ImagePullBackOff");
    world.now = world.wake.expect("a time");
    world.settle();
    assert_eq!(world.tasks.len(), 1, "it is tried again");
}
