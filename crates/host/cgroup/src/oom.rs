//! The kernel's killing for want of memory, noticed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use crate::error::{CgroupError, Result};
use crate::tree;

/// A descriptor that becomes readable when a group runs out of memory.
#[derive(Debug)]
pub struct OomWatch {
    file: OwnedFd,
    /// What says how many were killed.
    counter: PathBuf,
    /// Whether the descriptor is readable for this reason only (version 1).
    is_exact: bool,
    /// How many had been killed when it was last asked.
    n_before: u64,
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl OomWatch {
    /// Through version 1's `memory.oom_control`.
    pub(crate) fn v1(group: &Path) -> Result<Self> {
        let control = group.join("memory.oom_control");
        let failed = |error: rustix::io::Errno| CgroupError::io("watch", &control, error);
        let file = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let watched = std::fs::File::open(&control)
            .map_err(|error| CgroupError::io("open", &control, error))?;
        let request = format!("{} {}", file.as_raw_fd(), watched.as_raw_fd());
        tree::write(&group.join("cgroup.event_control"), &request)?;
        Ok(Self {
            file,
            n_before: n_kills(&control)?,
            counter: control,
            is_exact: true,
        })
    }

    /// Through version 2's `memory.events`.
    pub(crate) fn v2(group: &Path) -> Result<Self> {
        let events = group.join("memory.events");
        let failed = |error: rustix::io::Errno| CgroupError::io("watch", &events, error);
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let file = inotify::init(flags).map_err(failed)?;
        inotify::add_watch(&file, &events, inotify::WatchFlags::MODIFY).map_err(failed)?;
        Ok(Self {
            file,
            n_before: n_kills(&events)?,
            counter: events,
            is_exact: false,
        })
    }

    /// Takes what made the descriptor readable, and says whether the group has run
    /// out of memory since it was last asked. The kernel may count the kill only
    /// later.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`] if the counter cannot be read.
    pub fn has_run_out(&mut self) -> Result<bool> {
        let mut buffer = [0_u8; 4096];
        let mut was_readable = false;
        while rustix::io::read(&self.file, &mut buffer).is_ok_and(|length| length > 0) {
            was_readable = true;
        }
        if self.is_exact {
            // It also is when the group goes.
            return Ok(was_readable && self.counter.exists());
        }
        let n_kills = n_kills(&self.counter)?;
        Ok(n_kills > std::mem::replace(&mut self.n_before, n_kills))
    }

    /// Takes what made the descriptor readable, and says how many processes the
    /// kernel has killed in the group so far; zero once the group is gone.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`] if the counter cannot be read.
    pub fn n_kills(&self) -> Result<u64> {
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(&self.file, &mut buffer).is_ok_and(|length| length > 0) {}
        n_kills(&self.counter)
    }
}

/// The `oom_kill` line of `memory.oom_control` or `memory.events`.
pub(crate) fn n_kills(counter: &Path) -> Result<u64> {
    let text = tree::read(counter)?.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(line
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0))
}
