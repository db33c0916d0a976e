//! Probes: asking containers whether they have started, live, and are ready.
//!
//! A [`Prober`] is one task per running container. It asks, counts, and hands
//! over the container's [`Health`] when that changes; what follows from it is
//! the lifecycle's business.

mod check;
mod grpc;
mod http;
mod tally;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container as Spec, Pod, Probe};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use check::Answer;
pub(crate) use check::Target;
pub(crate) use http::get;
use tally::Tally;

use crate::agent::Shared;
use crate::events::Tone;
use crate::lifecycle::{Condemned, Health};

/// A container's health, by its identifier.
pub(crate) type Finding = (String, Health);

/// Probes one container until it is dropped.
pub(crate) struct Prober {
    task: AbortHandle,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A container to be probed.
pub(crate) struct Patient {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) spec: Spec,
    pub(crate) id: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) started: SystemTime,
}

/// Whether a container has any probe.
pub(crate) fn is_probed(spec: &Spec) -> bool {
    spec.startup_probe.is_some() || spec.liveness_probe.is_some() || spec.readiness_probe.is_some()
}

/// What is thought of a container before the first answer.
pub(crate) fn first_health(spec: &Spec) -> Health {
    Health {
        is_started: spec.startup_probe.is_none(),
        is_ready: spec.readiness_probe.is_none(),
        condemned: None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Startup,
    Liveness,
    Readiness,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

impl Prober {
    /// Begins to probe; `health` is what is thought of the container now.
    pub(crate) fn new(patient: Patient, health: Health, findings: mpsc::Sender<Finding>) -> Self {
        let task = tokio::spawn(watch_over(patient, health, findings));
        Self {
            task: task.abort_handle(),
        }
    }
}

async fn watch_over(patient: Patient, mut health: Health, findings: mpsc::Sender<Finding>) {
    let spec = patient.spec.clone();
    if let Some(probe) = &spec.startup_probe
        && !health.is_started
    {
        let mut asking = Asking::new(&patient, probe, Purpose::Startup);
        if asking.next().await {
            health.is_started = true;
        } else {
            health.condemned = Some(asking.sentence());
        }
        if tell(&patient, &health, &findings).await.is_none() || health.condemned.is_some() {
            return;
        }
    }
    let mut liveness = spec
        .liveness_probe
        .as_ref()
        .map(|probe| Asking::new(&patient, probe, Purpose::Liveness));
    let mut readiness = spec
        .readiness_probe
        .as_ref()
        .map(|probe| Asking::new(&patient, probe, Purpose::Readiness));
    if let Some(asking) = &mut readiness {
        asking.tally.assume(health.is_ready);
    }
    if let Some(asking) = &mut liveness {
        asking.tally.assume(true);
    }
    loop {
        tokio::select! {
            lives = next(&mut liveness) => if !lives {
                let asking = liveness.as_ref().expect("it has just answered");
                health.condemned = Some(asking.sentence());
                tell(&patient, &health, &findings).await;
                return;
            },
            is_ready = next(&mut readiness) => {
                health.is_ready = is_ready;
                if tell(&patient, &health, &findings).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn next(asking: &mut Option<Asking<'_>>) -> bool {
    match asking {
        Some(asking) => asking.next().await,
        None => std::future::pending().await,
    }
}

/// Hands the health over; none when nobody takes it any more.
async fn tell(patient: &Patient, health: &Health, findings: &mpsc::Sender<Finding>) -> Option<()> {
    let finding = (patient.id.clone(), health.clone());
    findings.send(finding).await.ok()
}

/// One probe of a container.
struct Asking<'a> {
    patient: &'a Patient,
    probe: &'a Probe,
    purpose: Purpose,
    ticks: tokio::time::Interval,
    tally: Tally,
}

impl<'a> Asking<'a> {
    fn new(patient: &'a Patient, probe: &'a Probe, purpose: Purpose) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            let value = value.and_then(|value| u64::try_from(value).ok());
            Duration::from_secs(value.filter(|value| *value > 0).unwrap_or(default))
        };
        let delay = seconds(probe.initial_delay_seconds, 0);
        let age = patient.started.elapsed().unwrap_or_default();
        let first = Instant::now() + delay.saturating_sub(age);
        let mut ticks = interval_at(first, seconds(probe.period_seconds, 10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let count = |value: Option<i32>, default: u32| {
            let value = value.and_then(|value| u32::try_from(value).ok());
            value.filter(|value| *value > 0).unwrap_or(default)
        };
        let tally = Tally::new(
            count(probe.success_threshold, 1),
            count(probe.failure_threshold, 3),
        );
        Self {
            patient,
            probe,
            purpose,
            ticks,
            tally,
        }
    }

    /// Asks until the answer is another one than before.
    ///
    /// Cancel-safe: an answer that is cut off is asked for again.
    async fn next(&mut self) -> bool {
        loop {
            self.ticks.tick().await;
            let answer = self.ask().await;
            self.tell(&answer);
            let good = match answer {
                Answer::Success => true,
                Answer::Failure(_) => false,
                // Whether it is well is not known.
                Answer::Unknown(_) => continue,
            };
            if let Some(turn) = self.tally.count(good) {
                return turn;
            }
        }
    }

    async fn ask(&self) -> Answer {
        let patience = self.probe.timeout_seconds.unwrap_or(1).max(1);
        let patience = Duration::from_secs(u64::from(patience.unsigned_abs()));
        let target = Target {
            shared: &self.patient.shared,
            spec: &self.patient.spec,
            id: &self.patient.id,
            addresses: &self.patient.addresses,
        };
        let asking = check::ask(&target, self.probe);
        match tokio::time::timeout(patience, asking).await {
            Ok(answer) => answer,
            Err(_) if self.probe.exec.is_some() => Answer::Failure(format!(
                "command timed out: {:?} timed out after {}s",
                command(self.probe),
                patience.as_secs()
            )),
            Err(_) => Answer::Failure(
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                    .to_owned(),
            ),
        }
    }

    fn tell(&self, answer: &Answer) {
        let message = match answer {
            Answer::Success => return,
            Answer::Failure(why) => format!("{} probe failed: {why}", self.purpose.name()),
            Answer::Unknown(why) => format!("{} probe errored: {why}", self.purpose.name()),
        };
        let Patient {
            shared, pod, spec, ..
        } = self.patient;
        shared
            .events
            .container(pod, &spec.name, Tone::Warning, "Unhealthy", message);
    }

    fn sentence(&self) -> Condemned {
        let seconds = self.probe.termination_grace_period_seconds;
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Condemned {
            grace: seconds.map(Duration::from_secs),
            message: format!(
                "Container {} failed {} probe, will be restarted",
                self.patient.spec.name,
                self.purpose.name().to_lowercase()
            ),
        }
    }
}

fn command(probe: &Probe) -> String {
    let exec = probe.exec.as_ref();
    let words = exec.and_then(|exec| exec.command.clone());
    words.unwrap_or_default().join(" ")
}
