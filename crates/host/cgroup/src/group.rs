//! One group in every hierarchy.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{CgroupError, Result};
use crate::oom::{self, OomWatch};
use crate::{Layout, Limits, Stats, device_program, tree, v1, v2};

/// One group, at the same path in every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    layout: Layout,
    path: PathBuf,
}

/// What a process needs to enter a group without a race.
#[derive(Debug)]
pub struct Doors {
    /// `tasks` of the version 1 groups, open for writing: a process of one thread
    /// that writes `0` enters. Moving a thread that is the writer itself is the one
    /// way that does not wait for an RCU grace period (some 10 ms), as moving a
    /// process through `cgroup.procs` does.
    pub v1: Vec<OwnedFd>,
    /// Directory of the version 2 group, for `CLONE_INTO_CGROUP`.
    pub v2: Option<OwnedFd>,
}

/// Processor time per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Microseconds; none is no limit.
    pub quota: Option<u64>,
    /// Microseconds of a period.
    pub period: u64,
}

impl Group {
    /// The group at a path, whether it exists or not.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Path`] unless the path has names only, and at least one.
    pub fn at(layout: Layout, path: &Path) -> Result<Self> {
        Ok(Self {
            layout,
            path: tree::relative(path)?,
        })
    }

    /// A group below this one, whether it exists or not.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Path`] unless the path has names only, and at least one.
    pub fn below(&self, path: &Path) -> Result<Self> {
        Ok(Self {
            layout: self.layout.clone(),
            path: self.path.join(tree::relative(path)?),
        })
    }

    /// Path below each hierarchy's root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the machine has.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Directory in the version 1 hierarchy of a controller.
    #[must_use]
    pub fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.layout
            .v1(controller)
            .map(|hierarchy| hierarchy.mount.join(&self.path))
    }

    /// Directory in the version 2 hierarchy.
    #[must_use]
    pub fn v2(&self) -> Option<PathBuf> {
        self.layout.v2.as_ref().map(|mount| mount.join(&self.path))
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let v1 = self
            .layout
            .v1
            .iter()
            .map(|hierarchy| hierarchy.mount.join(&self.path));
        v1.chain(self.v2())
    }

    /// Makes the group in every hierarchy; whether it was not there before.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`]; what was made stays, [`Self::remove`] takes it away.
    pub fn create(&self) -> Result<bool> {
        let mut fresh = true;
        for hierarchy in &self.layout.v1 {
            let directory = hierarchy.mount.join(&self.path);
            fresh &= tree::make(&directory)?;
            if hierarchy.has("cpuset") {
                v1::inherit_cpuset(&hierarchy.mount, &directory)?;
            }
        }
        if let (Some(mount), Some(directory)) = (&self.layout.v2, self.v2()) {
            fresh &= tree::make(&directory)?;
            v2::delegate(mount, &directory, &self.layout.v2_controllers)?;
        }
        Ok(fresh)
    }

    /// Whether the group exists in some hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories().any(|directory| directory.exists())
    }

    /// Names of the groups right below it, in whichever hierarchy.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`].
    pub fn children(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for directory in self.directories() {
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(CgroupError::io("read", &directory, error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| CgroupError::io("read", &directory, error))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        Ok(names)
    }

    /// Whether a process is in the group or below it.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`].
    pub fn is_populated(&self) -> Result<bool> {
        Ok(!self.processes()?.is_empty())
    }

    /// Sets limits.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Limit`] with the kernel's refusal, [`CgroupError::Missing`]
    /// if there is no controller for a limit that was asked for.
    pub fn apply(&self, limits: &Limits) -> Result<()> {
        self.check(limits)?;
        for hierarchy in &self.layout.v1 {
            let directory = hierarchy.mount.join(&self.path);
            for controller in &hierarchy.controllers {
                v1::apply(controller, &directory, limits)?;
            }
        }
        let Some(directory) = self.v2() else {
            return Ok(());
        };
        if !limits.devices.is_empty() && self.layout.v1("devices").is_none() {
            device_program::apply(&directory, &limits.devices)?;
        }
        v2::apply(&directory, limits, |name| self.layout.has_v2(name))
    }

    /// The processor time it has now; none without such a limit in the kernel.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`].
    pub fn bandwidth(&self) -> Result<Option<Bandwidth>> {
        let text = match (self.v1("cpu"), self.v2()) {
            (Some(directory), _) => {
                let read = |name| tree::read(&directory.join(name));
                let quota = read("cpu.cfs_quota_us")?.unwrap_or_default();
                quota + " " + &read("cpu.cfs_period_us")?.unwrap_or_default()
            }
            (None, Some(directory)) => tree::read(&directory.join("cpu.max"))?.unwrap_or_default(),
            (None, None) => return Ok(None),
        };
        let mut words = text.split_whitespace();
        // "max" and negative numbers are no limit.
        let quota = words.next().and_then(|word| word.parse().ok());
        let period = words.next().and_then(|word| word.parse().ok());
        Ok(period.map(|period| Bandwidth { quota, period }))
    }

    /// Refuses limits nobody would enforce.
    fn check(&self, limits: &Limits) -> Result<()> {
        let bounded = |limit: Option<i64>| limit.is_some_and(|limit| limit > 0);
        let wanted = [
            ("memory", "memory", bounded(limits.memory), "a memory limit"),
            ("cpu", "cpu", bounded(limits.cpu_quota), "a processor quota"),
            (
                "cpuset",
                "cpuset",
                !limits.cpus.is_empty(),
                "a list of processors",
            ),
            ("pids", "pids", bounded(limits.pids), "a limit of processes"),
            ("blkio", "io", !limits.throttles.is_empty(), "an I/O rate"),
            (
                "hugetlb",
                "hugetlb",
                !limits.huge_pages.is_empty(),
                "a limit of huge pages",
            ),
            (
                "rdma",
                "rdma",
                !limits.rdma.is_empty(),
                "a limit of remote memory access",
            ),
        ];
        // What version 2 has no word for.
        let leaf = |weight: &crate::Weight| weight.leaf_weight.is_some();
        let gone = [
            (
                "memory",
                limits.swappiness.is_some(),
                "swappiness (version 1 only)",
            ),
            (
                "memory",
                limits.oom_kill_disabled == Some(true),
                "disabling the out-of-memory killer (version 1 only)",
            ),
            (
                "memory",
                limits.kernel_tcp.is_some_and(|limit| limit != 0),
                "a limit of TCP buffers (version 1 only)",
            ),
            (
                "cpu",
                limits.realtime_runtime.is_some_and(|time| time != 0)
                    || limits.realtime_period.is_some_and(|time| time != 0),
                "real-time scheduling (version 1 only)",
            ),
            (
                "blkio",
                limits.io_leaf_weight.is_some_and(|weight| weight != 0)
                    || limits.io_weights.iter().any(leaf),
                "a leaf weight (version 1 only)",
            ),
            (
                "net_cls",
                limits.network_class.is_some_and(|class| class != 0),
                "a class of packets",
            ),
            (
                "net_prio",
                !limits.interface_priorities.is_empty(),
                "priorities of packets",
            ),
        ];
        for (controller, needed, limit) in gone {
            if needed && self.layout.v1(controller).is_none() {
                return Err(CgroupError::Missing { controller, limit });
            }
        }
        for (old, new, needed, limit) in wanted {
            if needed && self.layout.v1(old).is_none() && !self.layout.has_v2(new) {
                return Err(CgroupError::Missing {
                    controller: new,
                    limit,
                });
            }
        }
        if !limits.unified.is_empty() && self.layout.v2_controllers.is_empty() {
            return Err(CgroupError::Missing {
                controller: "version 2",
                limit: "the resources named unified",
            });
        }
        Ok(())
    }

    /// Opens what a process needs to enter.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`] if the group does not exist.
    pub fn doors(&self) -> Result<Doors> {
        let open = |path: &Path, flags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| CgroupError::io("open", path, error))
        };
        let v1 = self.layout.v1.iter().map(|hierarchy| {
            open(
                &hierarchy.mount.join(&self.path).join("tasks"),
                OFlags::WRONLY,
            )
        });
        Ok(Doors {
            v1: v1.collect::<Result<_>>()?,
            v2: match self.v2() {
                Some(directory) => Some(open(&directory, OFlags::RDONLY | OFlags::DIRECTORY)?),
                None => None,
            },
        })
    }

    /// Identifiers of the processes in the group and below it, in this PID namespace.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`].
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        let directory = self.v2().or_else(|| self.directories().next());
        if let Some(directory) = directory {
            tree::processes(&directory, &mut pids)?;
        }
        Ok(pids)
    }

    /// Stops every process in the group until [`Self::thaw`]; returns when they stand still.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`]; [`CgroupError::Missing`] if nothing can freeze.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(Freezer::Frozen)
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    ///
    /// As [`Self::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(Freezer::Thawed)
    }

    fn set_frozen(&self, wanted: Freezer) -> Result<()> {
        if let Some(directory) = self.v2() {
            let value = if wanted == Freezer::Frozen { "1" } else { "0" };
            if tree::tell(&directory.join("cgroup.freeze"), value)? {
                return wait_frozen(&directory.join("cgroup.events"), wanted);
            }
        }
        let Some(directory) = self.v1("freezer") else {
            return Err(CgroupError::Missing {
                controller: "freezer",
                limit: "freezing",
            });
        };
        let file = directory.join("freezer.state");
        let value = if wanted == Freezer::Frozen {
            "FROZEN"
        } else {
            "THAWED"
        };
        // Processes that fork meanwhile are caught by asking again.
        for _ in 0..1000 {
            tree::write(&file, value)?;
            if tree::read(&file)?.is_none_or(|state| state.trim() == value) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(CgroupError::Busy(directory))
    }

    /// Whether the group is frozen.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`].
    pub fn is_frozen(&self) -> Result<bool> {
        if let Some(directory) = self.v2()
            && let Some(text) = tree::read(&directory.join("cgroup.freeze"))?
        {
            return Ok(text.trim() == "1");
        }
        match self.v1("freezer") {
            Some(directory) => {
                let state = tree::read(&directory.join("freezer.state"))?;
                Ok(state.is_some_and(|state| state.trim() != "THAWED"))
            }
            None => Ok(false),
        }
    }

    /// Kills every process in the group, those that fork meanwhile included.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`]; [`CgroupError::Busy`] if they keep coming.
    pub fn kill(&self) -> Result<()> {
        if let Some(directory) = self.v2()
            && tree::tell(&directory.join("cgroup.kill"), "1")?
        {
            return Ok(());
        }
        for _ in 0..100 {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
                // One that has ended meanwhile is well.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(CgroupError::Busy(self.path.clone()))
    }

    /// Use of resources.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`].
    pub fn stats(&self) -> Result<Stats> {
        Stats::of(self)
    }

    /// Watches for the kernel killing for want of memory.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`]; [`CgroupError::Missing`] without a memory controller.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        match (self.v1("memory"), self.v2()) {
            (Some(directory), _) => OomWatch::v1(&directory),
            (None, Some(directory)) if self.layout.has_v2("memory") => OomWatch::v2(&directory),
            _ => Err(CgroupError::Missing {
                controller: "memory",
                limit: "watching for its end",
            }),
        }
    }

    /// How many processes the kernel has killed here for want of memory.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Io`].
    pub fn n_oom_kills(&self) -> Result<u64> {
        match (self.v1("memory"), self.v2()) {
            (Some(directory), _) => oom::n_kills(&directory.join("memory.oom_control")),
            (None, Some(directory)) => oom::n_kills(&directory.join("memory.events")),
            (None, None) => Ok(0),
        }
    }

    /// Removes the group and the groups below it from every hierarchy; one that
    /// is not there is well. Waits some seconds for processes that are dying.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Busy`] if processes stay, [`CgroupError::Io`]. Every
    /// hierarchy is tried; the first error is told.
    pub fn remove(&self) -> Result<()> {
        let mut result = Ok(());
        for directory in self.directories() {
            let removed = tree::remove(&directory);
            if result.is_ok() {
                result = removed;
            }
        }
        result
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freezer {
    Frozen,
    Thawed,
}

/// Waits until `cgroup.events` says so; the kernel tells of each change.
fn wait_frozen(events: &Path, wanted: Freezer) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let line = if wanted == Freezer::Frozen {
        "frozen 1"
    } else {
        "frozen 0"
    };
    let file =
        std::fs::File::open(events).map_err(|error| CgroupError::io("open", events, error))?;
    let patience = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    loop {
        let mut buffer = [0_u8; 256];
        let length = rustix::io::pread(&file, &mut buffer, 0)
            .map_err(|error| CgroupError::io("read", events, error))?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        if text.lines().any(|known| known == line) {
            return Ok(());
        }
        let mut wait = [PollFd::new(&file, PollFlags::PRI)];
        match poll(&mut wait, Some(&patience)) {
            Ok(0) => return Err(CgroupError::Busy(events.to_owned())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(CgroupError::io("wait for", events, error)),
        }
    }
}
