//! The plan of a Job against pods that end in any order, with runs that are
//! cut off anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Counts, FINALIZER, plan};
use super::{new_pod, plan::index};

fn job(spec: Value) -> Job {
    let mut job: Job = serde_json::from_value(json!({
        "metadata": { "name": "j", "namespace": "n", "uid": "u" },
        "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c" }] } } },
    }))
    .expect("a job");
    let mut whole = serde_json::to_value(&job).expect("a value");
    for (key, value) in spec.as_object().expect("fields") {
        whole["spec"][key] = value.clone();
    }
    job.spec = serde_json::from_value(whole["spec"].clone()).expect("a spec");
    job
}

/// A Job and its pods, as an API server and a kubelet would have them.
struct World {
    job: Job,
    pods: BTreeMap<String, Pod>,
    /// How pods really ended.
    succeeded: usize,
    failed: usize,
    n_made: usize,
    now: i64,
    wake: Option<Duration>,
}

impl World {
    fn new(spec: Value) -> Self {
        Self {
            job: job(spec),
            pods: BTreeMap::new(),
            succeeded: 0,
            failed: 0,
            n_made: 0,
            now: 1_000_000,
            wake: None,
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now).expect("a time")
    }

    /// One run, cut off after so many effects; whether it had any.
    fn run(&mut self, mut budget: usize) -> bool {
        let pods: Vec<Pod> = self.pods.values().cloned().collect();
        let plan = plan(&self.job, &pods, self.time());
        self.wake = plan.wake;
        let mut changed = false;
        let mut spend = |changed: &mut bool| {
            let may = budget > 0;
            budget = budget.saturating_sub(1);
            *changed |= may;
            may
        };
        if self.job.status.as_ref() != Some(&plan.status) {
            if !spend(&mut changed) {
                return changed;
            }
            self.job.status = Some(plan.status);
        }
        for name in plan.release {
            if !spend(&mut changed) {
                return changed;
            }
            let pod = self.pods.get_mut(&name).expect("it is there");
            pod.metadata.finalizers = None;
            self.drop_if_gone(&name);
        }
        for doomed in plan.delete {
            if !spend(&mut changed) {
                return changed;
            }
            let time = Time(self.time());
            let pod = self.pods.get_mut(&doomed.name).expect("it is there");
            if doomed.counts == Counts::Not {
                pod.metadata.finalizers = None;
            } else {
                self.failed += 1;
            }
            pod.metadata.deletion_timestamp = Some(time);
            // The kubelet is quick here.
            pod.status.get_or_insert_default().phase = Some("Failed".into());
            self.drop_if_gone(&doomed.name);
        }
        for index in plan.create {
            if !spend(&mut changed) {
                return changed;
            }
            let mut pod = new_pod(&self.job, index).expect("a pod");
            self.n_made += 1;
            let name = format!("p{}", self.n_made);
            pod.metadata.name = Some(name.clone());
            pod.metadata.uid = Some(name.clone());
            pod.metadata.creation_timestamp = Some(Time(self.time()));
            self.pods.insert(name, pod);
        }
        changed
    }

    fn drop_if_gone(&mut self, name: &str) {
        let pod = &self.pods[name];
        if pod.metadata.deletion_timestamp.is_some() && pod.finalizers().is_empty() {
            self.pods.remove(name);
        }
    }

    fn active(&self) -> Vec<String> {
        self.pods
            .values()
            .filter(|pod| pod.status.is_none() && pod.metadata.deletion_timestamp.is_none())
            .map(ResourceExt::name_any)
            .collect()
    }

    fn finish(&mut self, name: &str, phase: &str) {
        let pod = self.pods.get_mut(name).expect("it is there");
        pod.status.get_or_insert_default().phase = Some(phase.into());
        pod.metadata.creation_timestamp =
            Some(Time(Timestamp::from_second(self.now).expect("a time")));
        if phase == "Succeeded" {
            self.succeeded += 1;
        } else {
            self.failed += 1;
        }
    }

    fn rest(&mut self) {
        for _ in 0..200 {
            if !self.run(usize::MAX) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn condition(&self, type_: &str) -> Option<String> {
        let status = self.job.status.as_ref()?;
        let condition = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == type_ && condition.status == "True")?;
        condition.reason.clone()
    }

    fn counts(&self) -> (i32, i32, i32) {
        let status = self.job.status.clone().unwrap_or_default();
        (
            status.active.unwrap_or(0),
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0),
        )
    }
}

#[test]
fn a_job_completes() {
    let mut world = World::new(json!({ "completions": 3, "parallelism": 2 }));
    world.rest();
    assert_eq!(world.active().len(), 2);
    for round in 0..3 {
        let pod = world.active()[0].clone();
        world.finish(&pod, "Succeeded");
        world.rest();
        let left = 2 - round.min(2);
        assert_eq!(world.counts(), (left.min(2 - round), round + 1, 0));
    }
    assert_eq!(
        world.condition("Complete").as_deref(),
        Some("CompletionsReached")
    );
    assert!(world.pods.values().all(|pod| pod.finalizers().is_empty()));
}

#[test]
fn failures_are_replaced_later_and_later_until_the_limit() {
    let mut world = World::new(json!({ "completions": 1, "parallelism": 1, "backoffLimit": 2 }));
    world.rest();
    for pause in [10, 20] {
        let pod = world.active()[0].clone();
        world.finish(&pod, "Failed");
        world.rest();
        assert!(world.active().is_empty());
        assert_eq!(world.wake, Some(Duration::from_secs(pause)));
        world.now += i64::try_from(pause).expect("small");
        world.rest();
        assert_eq!(world.active().len(), 1);
    }
    let pod = world.active()[0].clone();
    world.finish(&pod, "Failed");
    world.rest();
    assert_eq!(
        world.condition("Failed").as_deref(),
        Some("BackoffLimitExceeded")
    );
    assert_eq!(world.counts(), (0, 0, 3));
}

#[test]
fn a_job_fails_when_it_takes_too_long() {
    let mut world = World::new(
        json!({ "completions": 2, "parallelism": 2, "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 5 }),
    );
    world.rest();
    assert_eq!(world.wake, Some(Duration::from_secs(60)));
    world.now += 60;
    world.rest();
    assert_eq!(
        world.condition("Failed").as_deref(),
        Some("DeadlineExceeded")
    );
    assert_eq!(world.counts(), (0, 0, 2));
    assert_eq!(world.wake, Some(Duration::from_secs(5)));
    world.now += 5;
    assert!(plan(&world.job, &[], world.time()).expires);
}

#[test]
fn a_suspended_job_has_no_pods_and_no_failures() {
    let mut world = World::new(json!({ "completions": 2, "parallelism": 2, "suspend": true }));
    world.rest();
    assert!(world.pods.is_empty());
    assert_eq!(world.job.status.as_ref().expect("one").start_time, None);
    world.job.spec.as_mut().expect("one").suspend = Some(false);
    world.rest();
    assert_eq!(world.active().len(), 2);
    world.job.spec.as_mut().expect("one").suspend = Some(true);
    world.rest();
    assert!(world.pods.is_empty());
    assert_eq!(world.counts(), (0, 0, 0));
    assert_eq!(
        world.condition("Suspended").as_deref(),
        Some("JobSuspended")
    );
}

#[test]
fn containers_started_again_count_towards_the_limit() {
    let mut world = World::new(json!({ "completions": 1, "parallelism": 1, "backoffLimit": 3 }));
    let spec = world.job.spec.as_mut().expect("one");
    spec.template.spec.as_mut().expect("one").restart_policy = Some("OnFailure".into());
    world.rest();
    let pod = world.active()[0].clone();
    world.pods.get_mut(&pod).expect("there").status = serde_json::from_value(json!({
        "phase": "Running",
        "containerStatuses": [{ "name": "c", "restartCount": 3, "ready": true, "image": "", "imageID": "" }],
    }))
    .expect("a status");
    world.rest();
    assert_eq!(
        world.condition("Failed").as_deref(),
        Some("BackoffLimitExceeded")
    );
}

#[test]
fn a_policy_ignores_some_failures_and_fails_at_others() {
    let mut world = World::new(
        json!({ "completions": 1, "parallelism": 1, "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": { "rules": [
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [42] } },
        ] } }),
    );
    world.rest();
    let pod = world.active()[0].clone();
    world.pods.get_mut(&pod).expect("there").status = serde_json::from_value(
        json!({ "conditions": [{ "type": "DisruptionTarget", "status": "True" }] }),
    )
    .expect("a status");
    world.finish(&pod, "Failed");
    world.rest();
    world.now += 600;
    world.rest();
    assert_eq!(world.counts(), (1, 0, 0), "ignored, and replaced");
    let pod = world.active()[0].clone();
    world.pods.get_mut(&pod).expect("there").status = serde_json::from_value(json!({
        "containerStatuses": [{ "name": "c", "restartCount": 0, "ready": false, "image": "",
            "imageID": "", "state": { "terminated": { "exitCode": 42 } } }],
    }))
    .expect("a status");
    world.finish(&pod, "Failed");
    world.rest();
    assert_eq!(
        world.condition("Failed").as_deref(),
        Some("PodFailurePolicy")
    );
    assert_eq!(world.counts(), (0, 0, 1));
}

proptest! {
    /// Whatever order pods end in, wherever runs are cut off: the numbers are
    /// what happened, there are never too many pods, and the Job ends.
    #[test]
    fn every_pod_is_counted_once(
        completions in 1i32..6,
        parallelism in 1i32..5,
        is_indexed in any::<bool>(),
        events in prop::collection::vec((0usize..4, any::<prop::sample::Index>(), 0usize..6), 0..60),
    ) {
        let mode = if is_indexed { "Indexed" } else { "NonIndexed" };
        let mut world = World::new(json!({
            "completions": completions, "parallelism": parallelism,
            "completionMode": mode, "backoffLimit": 1000,
        }));
        for (kind, pick, budget) in events {
            let active = world.active();
            match kind {
                0 | 1 if !active.is_empty() => {
                    let pod = active[pick.index(active.len())].clone();
                    let phase = if kind == 0 { "Succeeded" } else { "Failed" };
                    world.finish(&pod, phase);
                }
                2 => world.now += 700,
                _ => { world.run(budget); }
            }
            prop_assert!(world.active().len() <= usize::try_from(parallelism).expect("small"));
        }
        for _ in 0..100 {
            world.now += 700;
            world.rest();
            let Some(pod) = world.active().first().cloned() else { break };
            world.finish(&pod, "Succeeded");
        }
        prop_assert!(world.condition("Complete").is_some(), "{:?}", world.job.status);
        let (active, succeeded, failed) = world.counts();
        prop_assert_eq!(active, 0);
        prop_assert_eq!(failed, i32::try_from(world.failed).expect("small"));
        prop_assert_eq!(succeeded, completions);
        if is_indexed {
            let indexes = world.job.status.as_ref().and_then(|status| status.completed_indexes.clone());
            let all: std::collections::BTreeSet<i32> = (0..completions).collect();
            prop_assert_eq!(indexes, Some(super::indexes::print(&all)));
        } else {
            prop_assert_eq!(world.succeeded, usize::try_from(completions).expect("small"));
        }
        prop_assert!(world.pods.values().all(|pod| !pod.finalizers().iter().any(|one| one == FINALIZER)));
        let _ = world.pods.values().map(index).count();
    }
}
