//! What a Job needs next: its status and pods in, steps out. No I/O.
//!
//! Every pod is counted once. A pod carries a finalizer until it has been
//! counted: its uid is first written to `uncountedTerminatedPods`, then the
//! finalizer is taken off, then the uid moves into the number. Wherever this
//! is cut off, the next run goes on. Completion indexes are a set, which
//! counting twice does not change.
//!
//! ```text
//! active --+-- enough succeeded --> SuccessCriteriaMet --+-- pods gone,   --> Complete
//!          |                                             |   all counted
//!          +-- failed too often, --> FailureTarget ------+--------------- --> Failed
//!              too long
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::indexes;
use super::policy::{Verdict, judge};
use crate::owner::ready_since;

pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// A failed pod is replaced after so long, then twice as long each time.
const FIRST_BACK_OFF: i64 = 10;
const LONGEST_BACK_OFF: i64 = 600;
/// Uids that may wait to be counted, so that the status stays small.
const MAX_UNCOUNTED: usize = 500;

/// A pod that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub name: String,
    pub uid: String,
    pub counts: Counts,
}

/// Whether a pod that the controller deletes counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// The Job fails, and the pod with it.
    AsFailed,
    /// There were more pods than wanted.
    Not,
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// To be written first, if it differs.
    pub status: JobStatus,
    /// Names of pods whose finalizer is taken off once the status is written.
    pub release: Vec<String>,
    pub delete: Vec<Doomed>,
    /// Pods to be made, each with its index if the Job has indexes.
    pub create: Vec<Option<i32>>,
    /// When to look again if nothing happens.
    pub wake: Option<Duration>,
    /// Whether the Job itself has lived long enough.
    pub expires: bool,
}

/// The Job's pods by what they are.
struct Sorted<'p> {
    active: Vec<&'p Pod>,
    n_terminating: usize,
    /// Finished and not yet counted: whether it succeeded.
    finished: Vec<(&'p Pod, bool)>,
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|one| one == FINALIZER)
}

/// A pod's completion index.
pub(crate) fn index(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

fn sort<'p>(job: &Job, pods: &'p [Pod]) -> Sorted<'p> {
    let waits_for_end = job.spec.as_ref().is_some_and(|spec| {
        spec.pod_replacement_policy.as_deref() == Some("Failed")
            || spec.pod_failure_policy.is_some()
    });
    let mut sorted = Sorted {
        active: Vec::new(),
        n_terminating: 0,
        finished: Vec::new(),
    };
    for pod in pods {
        let is_going = pod.metadata.deletion_timestamp.is_some();
        let phase = phase(pod);
        let is_over = matches!(phase, "Succeeded" | "Failed");
        if is_going && !is_over {
            sorted.n_terminating += 1;
        }
        let has_failed = phase == "Failed" || (is_going && !is_over && !waits_for_end);
        if phase == "Succeeded" || has_failed {
            if is_tracked(pod) {
                sorted.finished.push((pod, phase == "Succeeded"));
            }
        } else if !is_going {
            sorted.active.push(pod);
        }
    }
    sorted
}

/// What the Job needs next.
pub(crate) fn plan(job: &Job, pods: &[Pod], now: Timestamp) -> Plan {
    let Some(spec) = &job.spec else {
        return Plan::default();
    };
    let known = job.status.clone().unwrap_or_default();
    if let Some(finished) = finish_time(&known) {
        return after_the_end(job, known, pods, finished, now);
    }
    let sorted = sort(job, pods);
    let mut run = Run {
        is_indexed: spec.completion_mode.as_deref() == Some("Indexed"),
        completions: spec.completions,
        parallelism: spec.parallelism.unwrap_or(1).max(0),
        status: known,
        done: BTreeSet::new(),
        now,
    };
    run.done = indexes::parse(
        run.status.completed_indexes.as_deref().unwrap_or_default(),
        spec.completions.unwrap_or(0),
    );
    let release = run.count(spec, &sorted, pods);
    let mut plan = run.advance(job, &sorted, pods);
    plan.release = release;
    plan.status = run.status;
    plan
}

struct Run {
    is_indexed: bool,
    completions: Option<i32>,
    parallelism: i32,
    status: JobStatus,
    done: BTreeSet<i32>,
    now: Timestamp,
}

impl Run {
    /// Moves pods one step further in being counted; names of those whose
    /// finalizer may go.
    fn count(&mut self, spec: &JobSpec, sorted: &Sorted<'_>, pods: &[Pod]) -> Vec<String> {
        let tracked: BTreeMap<&str, &Pod> = pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| Some((pod.metadata.uid.as_deref()?, pod)))
            .collect();
        let uncounted = self.status.uncounted_terminated_pods.take();
        let uncounted = uncounted.unwrap_or_default();
        let (mut succeeded, mut failed) = (
            uncounted.succeeded.unwrap_or_default(),
            uncounted.failed.unwrap_or_default(),
        );
        let settle = |uids: &mut Vec<String>| {
            let before = uids.len();
            uids.retain(|uid| tracked.contains_key(uid.as_str()));
            i32::try_from(before - uids.len()).unwrap_or(i32::MAX)
        };
        add(&mut self.status.succeeded, settle(&mut succeeded));
        add(&mut self.status.failed, settle(&mut failed));
        let mut release = Vec::new();
        let mut fails = None;
        for (pod, has_succeeded) in &sorted.finished {
            let uid = pod.uid().unwrap_or_default();
            if succeeded.len() + failed.len() >= MAX_UNCOUNTED
                && !succeeded.contains(&uid)
                && !failed.contains(&uid)
            {
                continue;
            }
            release.push(pod.name_any());
            if *has_succeeded && self.is_indexed {
                // An index counts once, however many pods had it.
                let completions = self.completions.unwrap_or(0);
                self.done
                    .extend(index(pod).filter(|index| *index < completions));
            } else if *has_succeeded {
                if !succeeded.contains(&uid) {
                    succeeded.push(uid);
                }
            } else if !failed.contains(&uid) {
                match judge(spec, pod) {
                    Verdict::Ignore => {}
                    Verdict::Count => failed.push(uid),
                    Verdict::FailJob(why) => {
                        failed.push(uid);
                        fails.get_or_insert(why);
                    }
                }
            }
        }
        if self.is_indexed {
            let done = indexes::print(&self.done);
            self.status.completed_indexes = (!done.is_empty()).then_some(done);
            let count = i32::try_from(self.done.len()).unwrap_or(i32::MAX);
            self.status.succeeded = (count > 0).then_some(count);
        }
        let some = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: some(succeeded),
            failed: some(failed),
        });
        let ends =
            holds(&self.status, "FailureTarget") || holds(&self.status, "SuccessCriteriaMet");
        if let Some(why) = fails.filter(|_| !ends) {
            self.set("FailureTarget", "True", "PodFailurePolicy", &why);
        }
        release
    }

    fn n_uncounted(&self) -> (i32, i32) {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let count = |uids: Option<&Vec<String>>| {
            i32::try_from(uids.map_or(0, Vec::len)).unwrap_or(i32::MAX)
        };
        (
            count(uncounted.and_then(|uncounted| uncounted.succeeded.as_ref())),
            count(uncounted.and_then(|uncounted| uncounted.failed.as_ref())),
        )
    }

    fn advance(&mut self, job: &Job, sorted: &Sorted<'_>, pods: &[Pod]) -> Plan {
        let mut plan = Plan::default();
        let spec = job.spec.as_ref().expect("plan() looked");
        let is_suspended = spec.suspend == Some(true);
        if self.status.start_time.is_none() && !is_suspended {
            self.status.start_time = Some(Time(self.now));
        }
        let (new_succeeded, new_failed) = self.n_uncounted();
        let succeeded = self.status.succeeded.unwrap_or(0) + new_succeeded;
        let failed = self.status.failed.unwrap_or(0) + new_failed;
        let n_active = i32::try_from(sorted.active.len()).unwrap_or(i32::MAX);

        if !holds(&self.status, "FailureTarget") && !holds(&self.status, "SuccessCriteriaMet") {
            let enough = match self.completions {
                Some(completions) => succeeded >= completions,
                None => succeeded > 0 && n_active == 0,
            };
            if enough {
                self.set(
                    "SuccessCriteriaMet",
                    "True",
                    "CompletionsReached",
                    "Reached expected number of succeeded pods",
                );
            } else if failed > spec.backoff_limit.unwrap_or(6)
                || restarts_too_often(job, &sorted.active)
            {
                self.set(
                    "FailureTarget",
                    "True",
                    "BackoffLimitExceeded",
                    "Job has reached the specified backoff limit",
                );
            } else if let Some(left) = self.time_left(job) {
                if left.is_zero() {
                    self.set(
                        "FailureTarget",
                        "True",
                        "DeadlineExceeded",
                        "Job was active longer than specified deadline",
                    );
                } else {
                    plan.wake = Some(left);
                }
            }
        }
        let ends =
            holds(&self.status, "FailureTarget") || holds(&self.status, "SuccessCriteriaMet");
        if ends {
            plan.delete = doom(&sorted.active, Counts::AsFailed);
        } else if is_suspended {
            self.set("Suspended", "True", "JobSuspended", "Job suspended");
            self.status.start_time = None;
            plan.delete = doom(&sorted.active, Counts::Not);
        } else {
            if holds(&self.status, "Suspended") {
                self.set("Suspended", "False", "JobResumed", "Job resumed");
                self.status.start_time = Some(Time(self.now));
            }
            self.scale(&mut plan, job, sorted, pods, succeeded);
        }
        let n_left = n_active - i32::try_from(plan.delete.len()).unwrap_or(0);
        let n_shown = if ends || is_suspended { 0 } else { n_left };
        self.status.active = Some(n_shown).filter(|count| *count > 0);
        let ready = sorted
            .active
            .iter()
            .filter(|pod| ready_since(pod).is_some());
        self.status.ready = Some(if n_shown == 0 {
            0
        } else {
            i32::try_from(ready.count()).unwrap_or(i32::MAX)
        });
        self.status.terminating = Some(i32::try_from(sorted.n_terminating).unwrap_or(i32::MAX));
        let is_quiet = sorted.active.is_empty()
            && sorted.n_terminating == 0
            && sorted.finished.is_empty()
            && self.n_uncounted() == (0, 0);
        if ends && is_quiet {
            self.end();
        }
        plan
    }

    /// Everybody is gone and counted.
    fn end(&mut self) {
        let targets = [
            ("FailureTarget", "Failed"),
            ("SuccessCriteriaMet", "Complete"),
        ];
        for (target, end) in targets {
            let told = condition(&self.status, target)
                .filter(|condition| condition.status == "True")
                .map(|condition| (condition.reason.clone(), condition.message.clone()));
            if let Some((reason, message)) = told {
                let (reason, message) = (reason.unwrap_or_default(), message.unwrap_or_default());
                self.set(end, "True", &reason, &message);
                if end == "Complete" {
                    self.status.completion_time = Some(Time(self.now));
                }
                break;
            }
        }
    }

    /// How long the Job may still be active, if there is an end to it.
    fn time_left(&self, job: &Job) -> Option<Duration> {
        let deadline = job.spec.as_ref()?.active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?.0;
        let left = start.as_second() + deadline - self.now.as_second();
        Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    /// Makes or takes away pods.
    fn scale(
        &mut self,
        plan: &mut Plan,
        job: &Job,
        sorted: &Sorted<'_>,
        pods: &[Pod],
        succeeded: i32,
    ) {
        let n_active = i32::try_from(sorted.active.len()).unwrap_or(i32::MAX);
        let mut wanted = match self.completions {
            Some(completions) => (completions - succeeded).min(self.parallelism),
            // After the first success the others only finish.
            None if succeeded > 0 => n_active.min(self.parallelism),
            None => self.parallelism,
        };
        let replaces_late = job
            .spec
            .as_ref()
            .is_some_and(|spec| spec.pod_replacement_policy.as_deref() == Some("Failed"));
        if replaces_late {
            let terminating = i32::try_from(sorted.n_terminating).unwrap_or(i32::MAX);
            wanted = wanted.saturating_sub(terminating).max(0);
        }
        let mut active = sorted.active.clone();
        if self.is_indexed {
            let twice = twice(&active, &self.done, self.completions.unwrap_or(0));
            active.retain(|pod| !twice.iter().any(|other| std::ptr::eq(*other, *pod)));
            plan.delete = doom(&twice, Counts::Not);
        }
        let n_active = i32::try_from(active.len()).unwrap_or(i32::MAX);
        if n_active > wanted {
            // The least is lost with those that have done the least.
            active.sort_by_key(|pod| {
                (
                    ready_since(pod).is_some(),
                    phase(pod) == "Running",
                    std::cmp::Reverse(pod.creation_timestamp().map(|time| time.0)),
                )
            });
            let surplus = usize::try_from(n_active - wanted).unwrap_or(0);
            plan.delete.extend(doom(&active[..surplus], Counts::Not));
        } else if n_active < wanted {
            if let Some(pause) = self.back_off(pods) {
                plan.wake = Some(plan.wake.map_or(pause, |wake| wake.min(pause)));
                return;
            }
            let missing = usize::try_from(wanted - n_active).unwrap_or(0);
            plan.create = if self.is_indexed {
                let busy: BTreeSet<i32> = active.iter().filter_map(|pod| index(pod)).collect();
                (0..self.completions.unwrap_or(0))
                    .filter(|index| !self.done.contains(index) && !busy.contains(index))
                    .take(missing)
                    .map(Some)
                    .collect()
            } else {
                vec![None; missing]
            };
        }
    }

    /// How long to wait before a failed pod is replaced: by the number of
    /// failures since the last success.
    fn back_off(&self, pods: &[Pod]) -> Option<Duration> {
        let last_success = pods
            .iter()
            .filter(|pod| phase(pod) == "Succeeded")
            .map(end_of)
            .max();
        let failures: Vec<i64> = pods
            .iter()
            .filter(|pod| phase(pod) == "Failed")
            .map(end_of)
            .filter(|end| last_success.is_none_or(|success| *end > success))
            .collect();
        let last = failures.iter().max()?;
        let doublings = u32::try_from(failures.len() - 1)
            .unwrap_or(u32::MAX)
            .min(10);
        let pause = (FIRST_BACK_OFF << doublings).min(LONGEST_BACK_OFF);
        let left = last + pause - self.now.as_second();
        u64::try_from(left)
            .ok()
            .filter(|left| *left > 0)
            .map(Duration::from_secs)
    }

    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        let new = JobCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        match conditions.iter_mut().find(|known| known.type_ == type_) {
            Some(known) if known.status == status => {}
            Some(known) => *known = new,
            None => conditions.push(new),
        }
    }
}

fn add(count: &mut Option<i32>, more: i32) {
    if more > 0 {
        *count = Some(count.unwrap_or(0) + more);
    }
}

fn doom(pods: &[&Pod], counts: Counts) -> Vec<Doomed> {
    pods.iter()
        .map(|pod| Doomed {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            counts,
        })
        .collect()
}

/// Active pods whose index is done, out of range or another's as well.
fn twice<'p>(active: &[&'p Pod], done: &BTreeSet<i32>, completions: i32) -> Vec<&'p Pod> {
    let mut seen = BTreeSet::new();
    active
        .iter()
        .filter(|pod| match index(pod) {
            Some(index) if index < completions && !done.contains(&index) => !seen.insert(index),
            _ => true,
        })
        .copied()
        .collect()
}

/// When a pod's last container ended, in seconds since the epoch.
fn end_of(pod: &Pod) -> i64 {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref())
        .filter_map(|terminated| Some(terminated.finished_at.as_ref()?.0.as_second()))
        .max()
        .or_else(|| {
            let going = pod.metadata.deletion_timestamp.as_ref();
            going
                .or(pod.metadata.creation_timestamp.as_ref())
                .map(|time| time.0.as_second())
        })
        .unwrap_or(0)
}

/// Containers that are started again in their pod count towards the limit.
fn restarts_too_often(job: &Job, active: &[&Pod]) -> bool {
    let Some(spec) = &job.spec else { return false };
    let policy = spec
        .template
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts: i32 = active
        .iter()
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            init.chain(status.container_statuses.iter().flatten())
        })
        .map(|container| container.restart_count)
        .sum();
    match spec.backoff_limit.unwrap_or(6) {
        0 => restarts > 0,
        limit => restarts >= limit,
    }
}

fn condition<'s>(status: &'s JobStatus, type_: &str) -> Option<&'s JobCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_)
}

fn holds(status: &JobStatus, type_: &str) -> bool {
    condition(status, type_).is_some_and(|condition| condition.status == "True")
}

/// When the Job ended, if it has.
fn finish_time(status: &JobStatus) -> Option<Timestamp> {
    ["Complete", "Failed"]
        .into_iter()
        .filter_map(|end| condition(status, end))
        .find(|condition| condition.status == "True")
        .map(|condition| {
            condition
                .last_transition_time
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
        })
}

fn after_the_end(
    job: &Job,
    status: JobStatus,
    pods: &[Pod],
    finished: Timestamp,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan {
        status,
        release: pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .map(ResourceExt::name_any)
            .collect(),
        ..Plan::default()
    };
    let ttl = job
        .spec
        .as_ref()
        .and_then(|spec| spec.ttl_seconds_after_finished);
    if let Some(ttl) = ttl {
        let left = finished.as_second() + i64::from(ttl) - now.as_second();
        match u64::try_from(left).ok().filter(|left| *left > 0) {
            Some(left) => plan.wake = Some(Duration::from_secs(left)),
            None => plan.expires = true,
        }
    }
    plan
}
