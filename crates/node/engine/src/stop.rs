//! Ending a container: signals, stopping, pausing, restarting, removing.

use std::sync::Arc;
use std::time::Duration;

use dhow_shim::client::Shim;
use dhow_shim::wire::{Reach, Target};
use tokio::task::spawn_blocking;

use crate::container::{Container, WaitFor};
use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::record::{Record, Status};
use crate::start::{told, whole};

/// Seconds between the stop signal and the kill unless told otherwise.
const STOP_TIMEOUT: i64 = 10;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

impl Engine {
    /// Sends a signal; empty means `SIGKILL`.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it does not run, [`Error::Invalid`] for what is
    /// no signal.
    pub async fn kill(&self, name: &str, signal: &str) -> Result<()> {
        let container = self.find(name)?;
        let number = if signal.is_empty() {
            SIGKILL
        } else {
            parse_signal(signal)?
        };
        let record = container.record();
        if record.state.status == Status::Restarting {
            container.note(|record| record.stopped_by_hand = true);
            return self.stop_restarting(&container);
        }
        let shim = live(&container, &record, "kill")?;
        if number == SIGKILL || number == stop_signal(&record) {
            container.note(|record| record.stopped_by_hand = true);
        }
        if number == SIGKILL && record.state.status == Status::Paused {
            let _ = shim.resume().await;
        }
        // What it leads to is told after it.
        self.announce_kill(&record, number);
        shim.signal(Target::Container, number, Reach::Process)
            .await
            .map_err(told)?;
        Ok(())
    }

    fn announce_kill(&self, record: &Record, signal: i32) {
        let mut attributes = record.attributes();
        attributes.insert("signal".into(), signal.to_string());
        self.events()
            .announce("container", "kill", &record.id, attributes);
    }

    /// Stops a container: the stop signal, and `SIGKILL` when it has not ended
    /// after `timeout` seconds (none takes the container's own; negative waits
    /// for ever).
    ///
    /// # Errors
    ///
    /// [`Error::Already`] when it does not run.
    pub async fn stop(&self, name: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        let (engine, container) = (self.clone(), self.find(name)?);
        let signal = signal.map(str::to_owned);
        whole(async move {
            let _operation = container.operation.lock().await;
            let signal = signal.as_deref();
            engine.stop_locked(&container, signal, timeout).await
        })
        .await
    }

    async fn stop_locked(
        &self,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let is_alive = container.record().state.status.is_alive();
        self.end_locked(container, signal, timeout).await?;
        if is_alive {
            self.announce(&container.record(), "stop");
        }
        Ok(())
    }

    /// Ends the program of a container whose operation lock the caller holds.
    async fn end_locked(
        &self,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let record = container.record();
        let signal = match signal.filter(|signal| !signal.is_empty()) {
            Some(signal) => parse_signal(signal)?,
            None => stop_signal(&record),
        };
        if record.state.status == Status::Restarting {
            container.note(|record| record.stopped_by_hand = true);
            return self.stop_restarting(container);
        }
        if !record.state.status.is_alive() {
            return Err(Error::Already("stopped"));
        }
        container.note(|record| record.stopped_by_hand = true);
        let ended = self.waiter(&container.id, WaitFor::NotRunning)?;
        tokio::pin!(ended);
        let Some(shim) = container.shim() else {
            // It has ended by itself, and that is being settled.
            ended.await?;
            return Ok(());
        };
        if record.state.status == Status::Paused {
            let _ = shim.resume().await;
        }
        // A shim that is gone ends the wait all the same.
        if signal != SIGKILL {
            self.announce_kill(&record, signal);
            let _ = shim.signal(Target::Container, signal, Reach::Process).await;
            let timeout = timeout
                .or(record.config.stop_timeout)
                .unwrap_or(STOP_TIMEOUT);
            let patience = u64::try_from(timeout).map_or(Duration::MAX, Duration::from_secs);
            if let Ok(ended) = tokio::time::timeout(patience, &mut ended).await {
                return ended.map(drop);
            }
        }
        self.announce_kill(&record, SIGKILL);
        let _ = shim
            .signal(Target::Container, SIGKILL, Reach::Everyone)
            .await;
        ended.await.map(drop)
    }

    fn stop_restarting(&self, container: &Arc<Container>) -> Result<()> {
        container.note(|record| record.state.status = Status::Exited);
        container.restart_now.notify_waiters();
        Ok(())
    }

    /// Stops a container if it runs, and starts it.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::stop`] and [`Engine::start`].
    pub async fn restart(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let (engine, container) = (self.clone(), self.find(name)?);
        let signal = signal.map(str::to_owned);
        whole(async move {
            let _operation = container.operation.lock().await;
            let signal = signal.as_deref();
            match engine.stop_locked(&container, signal, timeout).await {
                Ok(()) | Err(Error::Already(_)) => {}
                Err(error) => return Err(error),
            }
            container.note(|record| {
                record.stopped_by_hand = false;
                record.restart_count = 0;
            });
            engine.start_locked(&container).await?;
            engine.announce(&container.record(), "restart");
            Ok(())
        })
        .await
    }

    /// Freezes a container.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it does not run.
    pub async fn pause(&self, name: &str) -> Result<()> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        if record.state.status == Status::Paused {
            return Err(Error::Conflict(format!(
                "Container {} is already paused",
                record.id
            )));
        }
        let shim = live(&container, &record, "pause")?;
        shim.pause().await.map_err(told)?;
        let record = match container.change(|record| record.state.status = Status::Paused) {
            Ok(record) => record,
            Err(error) => {
                let _ = shim.resume().await;
                return Err(error);
            }
        };
        self.announce(&record, "pause");
        Ok(())
    }

    /// Thaws a container.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it is not frozen.
    pub async fn unpause(&self, name: &str) -> Result<()> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        if record.state.status != Status::Paused {
            return Err(Error::Conflict(format!(
                "Container {} is not paused",
                record.id
            )));
        }
        let shim = live(&container, &record, "unpause")?;
        shim.resume().await.map_err(told)?;
        let record = container.note(|record| record.state.status = Status::Running);
        self.announce(&record, "unpause");
        Ok(())
    }

    /// Gives a container another name.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the name is taken, [`Error::Invalid`] when it is
    /// none, or its own.
    pub fn rename(&self, name: &str, new: &str) -> Result<()> {
        let container = self.find(name)?;
        let new = new.trim_start_matches('/');
        if !crate::names::is_name(new) {
            return Err(Error::Invalid(format!(
                "Error when allocating new name: Invalid container name (/{new}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        let mut table = self.inner.table.lock();
        if let Some(other) = table.by_name.get(new) {
            if *other == container.id {
                return Err(Error::Invalid(
                    "Renaming a container with the same name as its current name".into(),
                ));
            }
            return Err(Error::Conflict(format!(
                "Error when allocating new name: Conflict. The container name \"/{new}\" is already in use by container \"{other}\". You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        let old = container.record().name.clone();
        let record = container.change(|record| record.name = new.into())?;
        table.by_name.remove(&old);
        table.by_name.insert(new.into(), container.id.clone());
        drop(table);
        self.networks().rename_sandbox(&container.id, new)?;
        let mut attributes = record.attributes();
        attributes.insert("oldName".into(), format!("/{old}"));
        self.events()
            .announce("container", "rename", &record.id, attributes);
        Ok(())
    }

    /// Removes a container; `force` kills it first if it runs, `with_volumes`
    /// removes its anonymous volumes.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it runs and `force` is not given.
    pub async fn remove(&self, name: &str, force: bool, with_volumes: bool) -> Result<()> {
        let (engine, container) = (self.clone(), self.find(name)?);
        whole(async move { engine.remove_whole(&container, force, with_volumes).await }).await
    }

    async fn remove_whole(
        &self,
        container: &Arc<Container>,
        force: bool,
        with_volumes: bool,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        let record = container.record();
        if container.ends.borrow().removed {
            return Err(Error::NoSuchContainer(container.id.clone()));
        }
        if record.state.status == Status::Restarting {
            if !force {
                return Err(Error::Conflict(format!(
                    "cannot remove container \"/{}\": container is restarting: stop the container before removing or force remove",
                    record.name
                )));
            }
            container.note(|record| record.stopped_by_hand = true);
            self.stop_restarting(container)?;
        }
        if record.state.status.is_alive() {
            if !force {
                let first = match record.state.status {
                    Status::Paused => "unpause and then ",
                    _ => "",
                };
                return Err(Error::Conflict(format!(
                    "cannot remove container \"/{}\": container is {}: {first}stop the container before removing or force remove",
                    record.name,
                    record.state.status.word()
                )));
            }
            match self.end_locked(container, Some("KILL"), None).await {
                Ok(()) | Err(Error::Already(_)) => {}
                Err(error) => return Err(error),
            }
        }
        // A disk that is full must not keep anybody from making room; without
        // the word, a crash from here on leaves a container to be removed again.
        // One that goes by itself after its end will do so again.
        container.keeper.end();
        let removing = |record: &mut Record| record.state.status = Status::Removing;
        let ends_anew =
            record.host.auto_remove && container.record().state.status == Status::Exited;
        match ends_anew {
            true => container.change_in_memory(removing),
            false => container.note(removing),
        };
        let (engine, id, folder) = (self.clone(), container.id.clone(), container.folder.clone());
        spawn_blocking(move || {
            engine.images().release(&id)?;
            std::fs::remove_dir_all(&folder).map_err(at("remove", &folder))
        })
        .await
        .expect("removal does not panic")?;
        {
            let mut table = self.inner.table.lock();
            table.by_id.remove(&container.id);
            table.by_name.remove(&record.name);
        }
        if with_volumes {
            self.remove_anonymous_volumes(&record);
        }
        self.announce(&record, "destroy");
        container.ends.send_modify(|ends| ends.removed = true);
        Ok(())
    }
}

/// The shim of a container that runs.
pub(crate) fn live(container: &Container, record: &Record, doing: &str) -> Result<Shim> {
    container
        .shim()
        .filter(|_| record.state.status.is_alive())
        .ok_or_else(|| {
            Error::Conflict(format!(
                "cannot {doing} container: {}: container {} is not running",
                record.name, record.id
            ))
        })
}

fn stop_signal(record: &Record) -> i32 {
    parse_signal(&record.config.stop_signal).unwrap_or(SIGTERM)
}

/// A signal by name, with or without `SIG`, or by number.
pub(crate) fn parse_signal(text: &str) -> Result<i32> {
    let invalid = || Error::Invalid(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((from, offset)) = name.split_once(['+', '-']) {
        let offset: i32 = offset.parse().map_err(|_| invalid())?;
        return match (from, offset) {
            ("RTMIN", 0..=30) => Ok(34 + offset),
            ("RTMAX", 0..=30) => Ok(64 - offset),
            _ => Err(invalid()),
        };
    }
    SIGNALS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
        .ok_or_else(invalid)
}

/// Signals of Linux on x86-64 and arm64.
const SIGNALS: [(&str, i32); 37] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, number) in [
            ("9", 9),
            ("kill", 9),
            ("SIGTERM", 15),
            ("RTMIN+3", 37),
            ("sigrtmax-1", 63),
        ] {
            assert_eq!(parse_signal(text).expect(text), number);
        }
        for bad in ["", "0", "65", "-9", "SIG", "TERMINATE", "RTMIN+40"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
