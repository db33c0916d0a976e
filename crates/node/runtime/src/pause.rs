//! `pause` and `resume`: a container stands still and goes on.

use crate::Container;
use crate::error::{Result, RuntimeError};
use crate::state::Status;

impl Container {
    /// Stops every process until [`Self::resume`].
    ///
    /// # Errors
    ///
    /// [`RuntimeError::State`] unless it runs, or what the control group says.
    pub fn pause(&self) -> Result<()> {
        match self.status()? {
            Status::Running | Status::Created => {}
            status => {
                return Err(RuntimeError::State {
                    action: "pause",
                    status,
                });
            }
        }
        match self.group()? {
            Some(group) => Ok(group.freeze()?),
            None => Err(RuntimeError::Cgroup(dhow_cgroup::CgroupError::None)),
        }
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::State`] unless it is paused, or what the control group says.
    pub fn resume(&self) -> Result<()> {
        let group = self.group()?;
        match group {
            Some(group) if group.is_frozen()? => Ok(group.thaw()?),
            _ => Err(RuntimeError::State {
                action: "resume",
                status: self.status()?,
            }),
        }
    }
}
