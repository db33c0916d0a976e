//! `delete`: nothing is left of a container.

use std::os::fd::AsFd;

use dhow_cgroup::{Group, Layout};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::container::{Container, Runtime};
use crate::error::{Result, RuntimeError};
use crate::group::{self, own_paths};
use crate::hooks;
use crate::state::{Record, Status};

/// What to do with a container that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    /// One whose program runs is not deleted.
    Refuse,
    /// It is killed.
    Kill,
}

/// Seconds a process may take to end after it was killed.
const PATIENCE: i64 = 10;

impl Runtime {
    /// Removes what a maker that died left of a container it did not finish: its
    /// process, if it has one, its control group, its directory. Whether there was
    /// anything. A container that is being made at this moment does not survive it.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Exists`] for a container that was finished.
    pub fn delete_unfinished(&self, id: &str) -> Result<bool> {
        let dir = self.dir(id)?;
        if !dir.exists() {
            return Ok(false);
        }
        match Record::read(&dir) {
            Err(RuntimeError::NotFound) => {}
            _ => return Err(RuntimeError::Exists),
        }
        if let Ok(record) = Record::read_prepared(&dir) {
            let container = Container::of(dir, record);
            // Whoever asks wants it gone; what hooks said of it is for nobody.
            container.delete(Alive::Kill)?;
            return Ok(true);
        }
        // It had no process yet, and a group only where nobody chose another.
        if let Ok(layout) = Layout::detect() {
            for path in own_paths(id)? {
                let group = Group::at(layout.clone(), &path)?;
                group.kill()?;
                group.remove()?;
            }
        }
        std::fs::remove_dir_all(&dir).map_err(|error| RuntimeError::io("remove", &dir, error))?;
        Ok(true)
    }
}

impl Container {
    /// Removes the control group, with every process left in it, and the state.
    /// A container that waits for its start is killed in any case. Then the
    /// `poststop` hooks run; those that fail are told, and keep neither the others
    /// nor the removal from being done (runtime-spec, "Lifecycle", 13).
    ///
    /// # Errors
    ///
    /// [`RuntimeError::State`] if its program runs and it is not to be killed.
    pub fn delete(&self, alive: Alive) -> Result<Vec<String>> {
        match self.status()? {
            Status::Stopped => {}
            status @ (Status::Running | Status::Paused) if alive == Alive::Refuse => {
                return Err(RuntimeError::State {
                    action: "delete",
                    status,
                });
            }
            _ => self.end()?,
        }
        // Without a PID namespace of its own, others may have outlived the first.
        if let Some(group) = self.group()? {
            group::remove(group, self.record.unit.as_deref())?;
        }
        // Somebody else may delete it at this very moment.
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RuntimeError::io("remove", &self.dir, error));
            }
            _ => {}
        }
        let poststop = &self.record.hooks.poststop;
        if poststop.is_empty() {
            return Ok(Vec::new());
        }
        let state = hooks::state(&self.state_as(Status::Stopped));
        Ok(hooks::run_all(poststop, &state))
    }

    /// Kills the first process and waits for its end.
    fn end(&self) -> Result<()> {
        let process = match self.process() {
            Ok(process) => process,
            Err(RuntimeError::NotRunning) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.kill(libc::SIGKILL, crate::Reach::First) {
            Ok(()) | Err(RuntimeError::NotRunning) => {}
            Err(error) => return Err(error),
        }
        let fd = process.pidfd.as_fd();
        let patience = Timespec {
            tv_sec: PATIENCE,
            tv_nsec: 0,
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)) {
            Ok(0) => Err(RuntimeError::State {
                action: "end",
                status: self.status()?,
            }),
            Ok(_) => {
                // If it is a child of this process it is collected; else somebody else does.
                let _ = process.try_wait();
                Ok(())
            }
            Err(error) => Err(RuntimeError::sys("wait for the container's process")(error)),
        }
    }
}
