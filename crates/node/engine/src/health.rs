//! Health checks: a program that is run in the container from time to time.
//!
//! ```text
//! starting ──success──▶ healthy ◀──success── unhealthy
//!     └──────── `retries` failures in a row ─────▲
//! ```
//!
//! What a result makes of the health is the pure function [`after`]. Failures
//! during the start period do not count. One task follows each running
//! container that has a check, and ends with its run.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dhow_oci::Healthcheck;
use dhow_shim::Moment;
use dhow_shim::wire::{Reach, Target};
use tokio::time::Instant;

use crate::attach::{AttachOptions, next_frame};
use crate::container::Container;
use crate::engine::Engine;
use crate::exec::ExecOptions;
use crate::record::{Health, Probe, Record};
use crate::validate::MIN_INTERVAL;

/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a probe's output that are kept.
const OUTPUT: usize = 4096;
const SIGKILL: i32 = 9;
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A check as it is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    /// The check of a container; `None` if it has none.
    fn of(record: &Record) -> Option<Self> {
        let check: &Healthcheck = record.config.healthcheck.as_ref()?;
        let args = match check.test.first()?.as_str() {
            "CMD" => check.test[1..].to_vec(),
            "CMD-SHELL" => {
                let shell = record
                    .config
                    .shell
                    .clone()
                    .filter(|shell| !shell.is_empty());
                let mut args = shell.unwrap_or_else(|| SHELL.map(str::to_owned).to_vec());
                args.extend(check.test.get(1).cloned());
                args
            }
            _ => return None,
        };
        // Images say what they like.
        let or = |nanoseconds: i64, default| match u64::try_from(nanoseconds) {
            Ok(sound) if nanoseconds >= MIN_INTERVAL => Duration::from_nanos(sound),
            _ => default,
        };
        Some(Self {
            args,
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            start_period: or(check.start_period, Duration::ZERO),
            start_interval: or(check.start_interval, START_INTERVAL),
            retries: u32::try_from(if check.retries > 0 {
                check.retries
            } else {
                RETRIES
            })
            .unwrap_or(u32::MAX),
        })
        .filter(|check| !check.args.is_empty())
    }
}

/// What a container with a check begins with.
pub(crate) fn at_start(record: &Record) -> Option<Health> {
    Check::of(record).map(|_| Health {
        status: "starting".into(),
        ..Health::default()
    })
}

/// What a result makes of the health. `counts` is false for what fails during
/// the start period.
fn after(health: &Health, probe: Probe, retries: u32, counts: Failures) -> Health {
    let mut next = health.clone();
    if probe.exit_code == 0 {
        next.failing_streak = 0;
        next.status = "healthy".into();
    } else if counts == Failures::Count || health.status == "healthy" {
        next.failing_streak = health.failing_streak.saturating_add(1);
        if next.failing_streak >= retries {
            next.status = "unhealthy".into();
        }
    }
    next.log.push(probe);
    let surplus = next.log.len().saturating_sub(KEPT);
    next.log.drain(..surplus);
    next
}

/// Whether a container is started again when it is unhealthy.
fn wants_restart(record: &Record) -> bool {
    let annotations = &record.host.annotations;
    annotations
        .get(RESTART_UNHEALTHY)
        .is_some_and(|value| value == "true")
}

/// Whether failures count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failures {
    Count,
    /// The container is still starting.
    AreForgiven,
}

/// Annotation of containers that are started again when they are unhealthy.
const RESTART_UNHEALTHY: &str = "dhow.restart-unhealthy";

impl Engine {
    /// Follows the health of a container that was just started or found again.
    pub(crate) fn follow_health(&self, container: &Arc<Container>) {
        let record = container.record();
        let Some(check) = Check::of(&record) else {
            return;
        };
        let (engine, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let started = record.state.started;
            let mut changes = container.changes();
            let over = async {
                // Another run has a task of its own.
                let ended = |now: &Arc<Record>| {
                    !now.state.status.is_alive() || now.state.started != started
                };
                let _ = changes.wait_for(ended).await;
            };
            tokio::select! {
                () = over => {}
                () = engine.probe_for_ever(&container, &check, started) => {}
            }
        });
    }

    async fn probe_for_ever(
        &self,
        container: &Arc<Container>,
        check: &Check,
        started: Option<Moment>,
    ) {
        let age = started
            .and_then(|started| SystemTime::now().duration_since(started.into()).ok())
            .unwrap_or_default();
        let starting_ends = Instant::now() + check.start_period.saturating_sub(age);
        loop {
            let record = container.record();
            let is_starting = Instant::now() < starting_ends
                && record
                    .state
                    .health
                    .as_ref()
                    .is_some_and(|health| health.status == "starting");
            let wait = if is_starting {
                check.start_interval.min(check.interval)
            } else {
                check.interval
            };
            tokio::time::sleep(wait).await;
            if container.record().state.status == crate::Status::Paused {
                continue;
            }
            let counts = if Instant::now() < starting_ends {
                Failures::AreForgiven
            } else {
                Failures::Count
            };
            let probe = self.probe(container, check).await;
            let mut before = String::new();
            let record = container.note(|record| {
                // One whose end is settled meanwhile has no health any more.
                if record.state.started == started && record.state.status.is_alive() {
                    let health = record.state.health.clone().unwrap_or_default();
                    before.clone_from(&health.status);
                    record.state.health = Some(after(&health, probe, check.retries, counts));
                }
            });
            if let Some(health) = &record.state.health
                && health.status != before
            {
                self.announce(&record, format!("health_status: {}", health.status));
                if health.status == "unhealthy" && wants_restart(&record) {
                    let (engine, id) = (self.clone(), record.id.clone());
                    tokio::spawn(async move {
                        if let Err(error) = engine.restart(&id, None, None).await {
                            tracing::warn!(container = id, %error, "unhealthy, and not started again");
                        }
                    });
                    return;
                }
            }
        }
    }

    /// Runs a check once.
    async fn probe(&self, container: &Arc<Container>, check: &Check) -> Probe {
        let start = Moment::now();
        let mut output = Vec::new();
        let running = self.run_check(container, check, &mut output);
        let ended = running.await;
        let (exit_code, text) = match ended {
            Ok(Some(code)) => (code, String::from_utf8_lossy(&output).into_owned()),
            Ok(None) => (
                -1,
                format!(
                    "Health check exceeded timeout ({}): {}",
                    seconds(check.timeout),
                    String::from_utf8_lossy(&output)
                ),
            ),
            Err(error) => (-1, error.to_string()),
        };
        Probe {
            start,
            end: Moment::now(),
            exit_code,
            output: text.chars().take(OUTPUT).collect(),
        }
    }

    /// The exit code; none when it took too long and was ended.
    async fn run_check(
        &self,
        container: &Arc<Container>,
        check: &Check,
        output: &mut Vec<u8>,
    ) -> crate::Result<Option<i32>> {
        let exec = self.exec_create(
            &container.id,
            ExecOptions {
                args: check.args.clone(),
                streams: AttachOptions {
                    stdin: false,
                    stdout: true,
                    stderr: true,
                },
                ..ExecOptions::default()
            },
        )?;
        let attached = self.exec_start(&exec, false, None).await?;
        let reading = async {
            if let Some(mut attached) = attached {
                while let Some(text) = next_frame(&mut attached.output).await {
                    let room = OUTPUT.saturating_sub(output.len());
                    output.extend(text.iter().take(room));
                }
            }
            self.exec_wait(&exec).await
        };
        match tokio::time::timeout(check.timeout, reading).await {
            Ok(code) => code.map(Some),
            Err(_) => {
                if let Some(shim) = container.shim() {
                    // One that ends just now needs no signal.
                    let target = Target::Exec(exec.clone());
                    let _ = shim.signal(target, SIGKILL, Reach::Process).await;
                }
                Ok(None)
            }
        }
    }
}

/// A duration as Go prints it.
fn seconds(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(exit_code: i32) -> Probe {
        Probe {
            start: Moment::now(),
            end: Moment::now(),
            exit_code,
            output: String::new(),
        }
    }

    fn run(codes: &[i32], counts: Failures) -> Health {
        let start = Health {
            status: "starting".into(),
            ..Health::default()
        };
        codes.iter().fold(start, |health, code| {
            after(&health, probe(*code), 3, counts)
        })
    }

    #[test]
    fn three_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        assert_eq!(run(&[1, 1], Failures::Count).status, "starting");
        assert_eq!(run(&[1, 1, 1], Failures::Count).status, "unhealthy");
        assert_eq!(run(&[1, 1, 1, 0], Failures::Count).status, "healthy");
        assert_eq!(run(&[0, 1, 1], Failures::Count).status, "healthy");
        assert_eq!(run(&[0, 1, 0, 1, 1], Failures::Count).failing_streak, 2);
        assert_eq!(run(&[0; 9], Failures::Count).log.len(), KEPT);
    }

    #[test]
    fn failures_while_it_starts_do_not_count_until_it_was_healthy() {
        assert_eq!(run(&[1; 9], Failures::AreForgiven).status, "starting");
        assert_eq!(run(&[1; 9], Failures::AreForgiven).failing_streak, 0);
        assert_eq!(
            run(&[0, 1, 1, 1], Failures::AreForgiven).status,
            "unhealthy"
        );
    }

    #[test]
    fn checks_are_read_with_their_defaults() {
        let mut record: Record = serde_json::from_value(serde_json::json!({
            "id": "0", "name": "x", "created": Moment::now().to_string(), "image": "",
            "args": [], "config": {}, "host": {}, "networks": {}, "mounts": [],
            "state": {}, "restart_count": 0, "stopped_by_hand": false,
        }))
        .expect("a record");
        let mut with = |test: &[&str]| {
            record.config.healthcheck = Some(Healthcheck {
                test: test.iter().map(|word| (*word).to_owned()).collect(),
                ..Healthcheck::default()
            });
            Check::of(&record)
        };
        assert_eq!(with(&["NONE"]), None);
        assert_eq!(with(&[]), None);
        assert_eq!(with(&["CMD"]), None);
        let check = with(&["CMD-SHELL", "true"]).expect("a check");
        assert_eq!(check.args, ["/bin/sh", "-c", "true"]);
        assert_eq!((check.interval, check.retries), (INTERVAL, 3));
    }
}
