//! `kill`: signals to a container.

use crate::Container;
use crate::error::{Result, RuntimeError};

/// How far a signal reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// The first process alone.
    #[default]
    First,
    /// Every process in the container.
    Everyone,
}

impl Container {
    /// Sends a signal by number.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotRunning`] if the first process has ended;
    /// [`RuntimeError::Sys`] for no such signal.
    pub fn kill(&self, signal: i32, reach: Reach) -> Result<()> {
        match reach {
            Reach::First => {
                let process = self.process()?;
                let failed = RuntimeError::sys("send the signal");
                process.signal(signal).map_err(failed)?;
                // One that is frozen would get even this one only when thawed.
                if signal == libc::SIGKILL
                    && let Some(group) = self.group()?
                    && group.is_frozen()?
                {
                    group.thaw()?;
                }
                Ok(())
            }
            Reach::Everyone => {
                let Some(group) = self.group()? else {
                    return self.kill(signal, Reach::First);
                };
                if signal == libc::SIGKILL {
                    return Ok(group.kill()?);
                }
                let pids = group.processes()?;
                if pids.is_empty() {
                    return Err(RuntimeError::NotRunning);
                }
                for pid in pids {
                    // Those that end meanwhile are well.
                    let _ = dhow_sys::process::Process::find(pid)
                        .and_then(|process| process.signal(signal));
                }
                Ok(())
            }
        }
    }
}
