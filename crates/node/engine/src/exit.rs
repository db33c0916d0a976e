//! What happens to a container by itself: its shim's events, above all the end
//! of its program. Everything else (restart, removal, those who wait) follows
//! from that one event.

use std::sync::Arc;

use dhow_shim::Moment;
use dhow_shim::client::Events;
use dhow_shim::wire::{self, Event, ExitRecord, Running};
use tokio::task::spawn_blocking;

use crate::container::{Container, Ended};
use crate::engine::Engine;
use crate::record::{Record, Status};
use crate::shm;
use crate::start::has_own_sandbox;
use crate::users;

impl Engine {
    /// Follows a shim's events until its program ends.
    pub(crate) fn watch(&self, container: Arc<Container>, mut events: Events) {
        let engine = self.clone();
        tokio::spawn(async move {
            let exit = loop {
                match events.next().await {
                    Some(Event::Exited { exit }) => break exit,
                    Some(event) => engine.note(&container, event),
                    None => {
                        // The shim is gone; what it wrote before is all there is.
                        let dir = container.run.join("shim");
                        let record = spawn_blocking(move || wire::read_exit(&dir)).await;
                        break match record {
                            Ok(Ok(Some(exit))) => exit,
                            _ => ExitRecord {
                                version: wire::VERSION,
                                pid: container.record().state.pid,
                                code: 137,
                                signal: Some(9),
                                oom: false,
                                started_at: None,
                                finished_at: Moment::now(),
                            },
                        };
                    }
                }
            };
            engine.settle_exit(&container, &exit).await;
        });
    }

    fn note(&self, container: &Arc<Container>, event: Event) {
        match event {
            Event::Oom => self.announce(&container.record(), "oom"),
            Event::ExecExited { exec, exit } => self.exec_ended(container, &exec, &exit),
            Event::Started { .. }
            | Event::Exited { .. }
            | Event::ExecStarted { .. }
            | Event::Paused
            | Event::Resumed => {}
        }
    }

    /// Removes what a run had besides its shim: processes that are left, the
    /// network sandbox, the run's folder. Blocks.
    pub(crate) fn clean_up(&self, container: &Container) {
        self.end_processes(container);
        self.clean_up_ended(container);
    }

    /// The same for a run whose processes are known to be gone. Blocks.
    fn clean_up_ended(&self, container: &Container) {
        if has_own_sandbox(&container.record())
            && let Err(error) = self.networks().remove_sandbox(&container.id)
        {
            tracing::warn!(container = container.id, %error, "network is not cleaned up");
        }
        self.unmount_volumes(&container.record());
        users::let_go(&container.run);
        if let Err(error) = shm::remove(&container.run) {
            tracing::warn!(container = container.id, %error, "shared memory stays mounted");
        }
        let _ = std::fs::remove_dir_all(&container.run);
    }

    /// Records the end of a container's program and cleans up after it.
    pub(crate) async fn settle_exit(&self, container: &Arc<Container>, exit: &ExitRecord) {
        let end = |record: &mut Record| {
            record.state.exit_code = exit.code;
            record.state.oom_killed = exit.oom;
            record.state.finished = Some(exit.finished_at);
            record.state.pid = 0;
            record.state.status = if record.wants_restart(exit.code) {
                Status::Restarting
            } else {
                Status::Exited
            };
        };
        // What is to be removed at once is not written down: after a crash it is
        // found without a shim, and ends and goes once more.
        let is_last = {
            let record = container.record();
            record.host.auto_remove && !record.wants_restart(exit.code)
        };
        // The shim takes its own account of the end with it. Until all is cleaned
        // up, nobody else is told.
        if !is_last
            && let Err(error) = container.foretell(|record| {
                end(record);
                record.state.status = Status::Exited;
            })
        {
            tracing::error!(container = container.id, %error, "its end is not recorded");
        }
        let shim = container.shim.lock().take();
        let is_deleted = match shim {
            Some(shim) => shim.delete(Running::Kill).await.is_ok(),
            None => false,
        };
        let (engine, cleaned) = (self.clone(), Arc::clone(container));
        let _ = spawn_blocking(move || match is_deleted {
            true => engine.clean_up_ended(&cleaned),
            false => engine.clean_up(&cleaned),
        })
        .await;
        for exec in std::mem::take(&mut *container.execs.lock()).into_values() {
            exec.lost(exit.code);
            self.inner.execs.lock().remove(&exec.id);
        }

        let record = match is_last {
            true => container.change_in_memory(end),
            false => container.note(end),
        };
        let mut attributes = record.attributes();
        attributes.insert("exitCode".into(), exit.code.to_string());
        self.events()
            .announce("container", "die", &record.id, attributes);
        self.announce_networks(&record, "disconnect");
        self.announce_unmounts(&record);
        container.ends.send_modify(|ends| {
            ends.count += 1;
            ends.last = Ended {
                exit_code: exit.code,
                error: String::new(),
            };
        });
        if record.state.status == Status::Restarting {
            self.restart_later(Arc::clone(container));
        } else if record.host.auto_remove {
            let (engine, id) = (self.clone(), container.id.clone());
            tokio::spawn(async move {
                if let Err(error) = engine.remove(&id, true, true).await {
                    tracing::warn!(container = id, %error, "is not removed");
                }
            });
        }
    }
}
