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
    /// Whether version 1 has told of it, to which the kernel's answer is to kill.
    has_run_out: bool,
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
            has_run_out: false,
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
            has_run_out: false,
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
    /// kernel has killed in the group so far. Once the group is gone that is what
    /// was known of it: version 1 tells of the want before it counts the kill, so
    /// whoever asked in between knows of one.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`] if the counter cannot be read.
    pub fn n_kills(&mut self) -> Result<u64> {
        let mut buffer = [0_u8; 4096];
        let mut was_told = false;
        while rustix::io::read(&self.file, &mut buffer).is_ok_and(|length| length > 0) {
            was_told = true;
        }
        let Some(text) = tree::read(&self.counter)? else {
            return Ok(self
                .n_before
                .max((self.is_exact && self.has_run_out).into()));
        };
        let waits = text.lines().any(|line| line == "oom_kill_disable 1");
        self.has_run_out |= was_told && !waits;
        self.n_before = n_in(&text);
        Ok(self.n_before)
    }
}

/// How many a counter says; none if it is not there.
pub(crate) fn n_kills(counter: &Path) -> Result<u64> {
    Ok(tree::read(counter)?.map_or(0, |text| n_in(&text)))
}

/// The `oom_kill` line of `memory.oom_control` or `memory.events`.
fn n_in(text: &str) -> u64 {
    let mut lines = text.lines();
    let number = lines.find_map(|line| line.strip_prefix("oom_kill "));
    number
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}
