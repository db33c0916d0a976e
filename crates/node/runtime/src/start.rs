//! `start`: lets a created container's program run.

use rustix::fs::{Mode, OFlags};

use dhow_sys::Errno;

use crate::error::{Result, RuntimeError};
use crate::state::{START, Status};
use crate::{Alive, Container, hooks};

impl Container {
    /// Lets the program run. Whether it could be executed is known to whoever
    /// made the container ([`crate::Created::start`]).
    ///
    /// # Errors
    ///
    /// [`RuntimeError::State`] unless it waits for its start,
    /// [`RuntimeError::NotRunning`] if its process has died waiting,
    /// [`RuntimeError::Hook`] if a `poststart` hook has failed: the container was
    /// killed and deleted then (runtime-spec, "Lifecycle", 9).
    pub fn start(&self) -> Result<()> {
        let path = self.dir.join(START);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fifo) => fifo,
            Err(Errno::NOENT) => {
                return Err(RuntimeError::State {
                    action: "start",
                    status: self.status()?,
                });
            }
            // Nobody reads: the process is gone.
            Err(Errno::NXIO) => return Err(RuntimeError::NotRunning),
            Err(error) => return Err(RuntimeError::io("open", &path, error)),
        };
        // Whoever removes it is the one who starts; the others find nothing.
        match rustix::fs::unlink(&path) {
            Err(Errno::NOENT) => {
                return Err(RuntimeError::State {
                    action: "start",
                    status: self.status()?,
                });
            }
            result => result.map_err(|error| RuntimeError::io("remove", &path, error))?,
        }
        rustix::io::write(&fifo, b"s").map_err(|error| RuntimeError::io("write", &path, error))?;
        let outcome = self.after_start();
        if outcome.is_err() {
            // The first error is the one to tell.
            let _ = self.delete(Alive::Kill);
        }
        outcome
    }

    /// Runs the hooks that follow the start.
    pub(crate) fn after_start(&self) -> Result<()> {
        let poststart = &self.record.hooks.poststart;
        if poststart.is_empty() {
            return Ok(());
        }
        hooks::run(poststart, &hooks::state(&self.state_as(Status::Running)))
    }
}
