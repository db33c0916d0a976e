//! Containers of one runtime directory, found by their identifier.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dhow_cgroup::{Group, Layout, Stats};
use dhow_sys::process::{self, Process};

use crate::error::{Result, RuntimeError};
use crate::spec::Spec;
use crate::state::{OciState, Record, START, Status, check_id};

/// A runtime: a directory with one directory for each container.
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
}

/// A container that exists on disk.
#[derive(Debug, Clone)]
pub struct Container {
    pub(crate) dir: PathBuf,
    pub(crate) record: Record,
    /// Its control group, once it was asked for.
    pub(crate) group: OnceLock<Group>,
}

impl Runtime {
    /// The runtime of a directory, which is made when it is needed.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn dir(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(self.root.join(id))
    }

    /// Finds a container.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotFound`], [`RuntimeError::Id`], or what reading its record says.
    pub fn open(&self, id: &str) -> Result<Container> {
        let dir = self.dir(id)?;
        let record = Record::read(&dir)?;
        Ok(Container::of(dir, record))
    }

    /// Every container, by identifier.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Io`] if the directory cannot be read. Containers that are
    /// being made or removed at this moment are passed over.
    pub fn list(&self) -> Result<Vec<Container>> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RuntimeError::io("list", &self.root, error)),
        };
        let mut containers: Vec<Container> = entries
            .flatten()
            .filter_map(|entry| self.open(entry.file_name().to_str()?).ok())
            .collect();
        containers.sort_by(|one, other| one.record.id.cmp(&other.record.id));
        Ok(containers)
    }
}

impl Container {
    pub(crate) fn of(dir: PathBuf, record: Record) -> Self {
        Self {
            dir,
            record,
            group: OnceLock::new(),
        }
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Process identifier of its first process, which may have ended.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// Directory of its bundle.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        &self.record.bundle
    }

    /// Directory of its root filesystem, as the bundle names it.
    #[must_use]
    pub fn rootfs(&self) -> &Path {
        &self.record.rootfs
    }

    /// When it was made.
    #[must_use]
    pub fn created(&self) -> crate::Moment {
        self.record.created
    }

    /// Who made it: `root`, or a user's number with `#` before.
    #[must_use]
    pub fn owner(&self) -> String {
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata(&self.dir).map(|metadata| metadata.uid()) {
            Ok(0) => "root".to_owned(),
            Ok(uid) => format!("#{uid}"),
            Err(_) => String::new(),
        }
    }

    /// Whether its first process is there, that very one.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        process::is_running(self.record.pid, self.record.start_time)
    }

    /// Its first process.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotRunning`] if it has ended.
    pub fn process(&self) -> Result<Process> {
        let process = Process::find(self.record.pid).map_err(|_| RuntimeError::NotRunning)?;
        // The descriptor is of the process that had the number when it was
        // opened; if the right one is still there, it was the right one.
        if self.is_alive() {
            Ok(process)
        } else {
            Err(RuntimeError::NotRunning)
        }
    }

    /// Where it stands.
    ///
    /// # Errors
    ///
    /// What the control group says.
    pub fn status(&self) -> Result<Status> {
        if !self.is_alive() {
            return Ok(Status::Stopped);
        }
        if self.dir.join(START).exists() {
            return Ok(Status::Created);
        }
        match self.group()? {
            Some(group) if group.is_frozen()? => Ok(Status::Paused),
            _ => Ok(Status::Running),
        }
    }

    /// Its state as the specification has it.
    ///
    /// # Errors
    ///
    /// As [`Self::status`].
    pub fn state(&self) -> Result<OciState> {
        let status = self.status()?;
        Ok(self.state_as(status))
    }

    pub(crate) fn state_as(&self, status: Status) -> OciState {
        OciState {
            oci_version: crate::OCI_VERSION.to_owned(),
            id: self.record.id.clone(),
            status,
            pid: if status == Status::Stopped {
                0
            } else {
                self.record.pid
            },
            bundle: self.record.bundle.clone(),
            annotations: self.record.annotations.clone(),
        }
    }

    /// The configuration it was made from.
    ///
    /// # Errors
    ///
    /// What reading the copy of it says.
    pub fn spec(&self) -> Result<Spec> {
        Record::read_spec(&self.dir)
    }

    /// Its control group; none if the machine has none.
    ///
    /// # Errors
    ///
    /// What looking at the machine's hierarchies says.
    pub fn group(&self) -> Result<Option<&Group>> {
        let Some(path) = &self.record.cgroup else {
            return Ok(None);
        };
        if let Some(group) = self.group.get() {
            return Ok(Some(group));
        }
        let group = Group::at(Layout::detect()?, path)?;
        Ok(Some(self.group.get_or_init(|| group)))
    }

    fn some_group(&self) -> Result<&Group> {
        self.group()?
            .ok_or(RuntimeError::Cgroup(dhow_cgroup::CgroupError::None))
    }

    /// Identifiers of all its processes, in this PID namespace.
    ///
    /// # Errors
    ///
    /// What the control group says.
    pub fn processes(&self) -> Result<Vec<i32>> {
        Ok(self.some_group()?.processes()?)
    }

    /// Use of resources.
    ///
    /// # Errors
    ///
    /// What the control group says.
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.some_group()?.stats()?)
    }

    /// Changes the limits that are present.
    ///
    /// # Errors
    ///
    /// What the control group says.
    pub fn update(&self, resources: &crate::spec::Resources) -> Result<()> {
        let limits = crate::limits::of(resources)?;
        let group = self.some_group()?;
        let memory = resources.memory.clone().unwrap_or_default();
        if memory.check_before_update == Some(true)
            && let Some(limit) = memory.limit.and_then(|limit| u64::try_from(limit).ok())
            && limit != 0
        {
            let usage = group.stats()?.memory.usage;
            if limit < usage {
                return Err(RuntimeError::spec(
                    "memory.limit",
                    format!("{limit} bytes are below the {usage} in use"),
                ));
            }
        }
        let unit = self.record.unit.as_deref();
        crate::group::update(group, unit, &limits, || self.spec())
    }
}
