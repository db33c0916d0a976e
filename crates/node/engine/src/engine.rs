//! The engine: its containers, and what they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dhow_image::Images;
use dhow_network::Networks;
use dhow_shim::Moment;
use dhow_shim::client::{Executable, Shim, ShimError};
use dhow_shim::wire::{self, ExitRecord};
use dhow_sys::idmap::IdMaps;
use dhow_volume::Volumes;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::container::{Container, Ended, WaitFor};
use crate::error::{Error, Result, at};
use crate::events::Events;
use crate::exec::Exec;
use crate::groups::ControlGroups;
use crate::keep;
use crate::logs;
use crate::machine::Machine;
use crate::mounts::MountPoint;
use crate::record::{Record, Status};
use crate::sandbox::Sandboxes;
use crate::security::SecurityOptions;
use crate::selinux::Selinux;
use crate::skeleton;
use crate::spec::LogConfig;
use crate::users;

/// Why there cannot be a size for all.
const NO_DEFAULT_SIZE: &str = "Storage option overlay2.size is only supported on xfs mounted with \
     'pquota' and on ext4 with project quotas ('prjquota'): the data folder is on neither";

/// Where an engine keeps its containers and what it starts them with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for what survives a reboot.
    pub data: PathBuf,
    /// Folder for what does not.
    pub run: PathBuf,
    /// The `dhow-runtime` executable.
    pub runtime: PathBuf,
    /// Who makes the control groups of containers, and where.
    pub groups: ControlGroups,
    /// The host's name servers, for containers that share its resolver.
    pub resolv_conf: PathBuf,
    /// How the output of containers is kept that say nothing of it.
    pub log: LogConfig,
    /// Bytes that may be written to the root filesystem of a container that says
    /// nothing of it; none is no limit.
    pub size: Option<u64>,
    /// How many files a container's process may have open, softly and hard,
    /// where nothing is said of it.
    pub descriptors: (u64, u64),
    /// Socket of the system's journal.
    pub journal: PathBuf,
    /// AppArmor profile of containers that name none, which is loaded.
    pub apparmor: Option<String>,
    /// What labels of SELinux begin with; none gives no labels.
    pub selinux: Option<Selinux>,
    /// Who the users of containers are on the host; none means themselves.
    pub remap: Option<IdMaps>,
}

/// All containers of one instance. Clones share them.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    /// What supervises containers.
    pub(crate) supervisor: Executable,
    pub(crate) images: Images,
    pub(crate) networks: Arc<Networks>,
    pub(crate) volumes: Volumes,
    pub(crate) events: Events,
    pub(crate) table: Mutex<Table>,
    pub(crate) execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    pub(crate) sandboxes: Sandboxes,
}

/// The containers, by id and by name.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) by_id: BTreeMap<String, Arc<Container>>,
    pub(crate) by_name: BTreeMap<String, String>,
}

impl Engine {
    /// Opens the engine: reads the containers, finds the shims of those that
    /// run, settles what happened meanwhile, and removes what nobody owns.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the folders cannot be used.
    pub async fn open(
        config: Config,
        images: Images,
        networks: Arc<Networks>,
        volumes: Volumes,
    ) -> Result<Self> {
        logs::check(&config.log, &config.journal)?;
        config.groups.check()?;
        if config.size.is_some() && !images.has_quotas() {
            return Err(Error::Invalid(NO_DEFAULT_SIZE.to_owned()));
        }
        if let Some(maps) = &config.remap {
            users::check_filesystem(&config.data, maps)?;
        }
        let (data, run) = (
            config.data.join("containers"),
            config.run.join("containers"),
        );
        for folder in [&data, &run] {
            std::fs::create_dir_all(folder).map_err(at("make", folder))?;
        }
        skeleton::make(&config.data)?;
        let supervisor = Executable::open(&config.runtime);
        let engine = Self {
            inner: Arc::new(Inner {
                config,
                supervisor,
                images,
                networks,
                volumes,
                events: Events::default(),
                table: Mutex::default(),
                execs: Mutex::default(),
                sandboxes: Sandboxes::default(),
            }),
        };
        engine.read_sandboxes()?;
        let unreadable = engine.read_containers(&data, &run)?;
        engine.tell_of_lost_sizes();
        engine.take_up_again().await;
        engine.end_steps().await;
        engine.remove_orphans(&unreadable);
        Ok(engine)
    }

    /// Reads all records. Returns the names of folders whose record nobody here
    /// understands, perhaps one of a later version: what belongs to those is let be.
    fn read_containers(&self, data: &Path, run: &Path) -> Result<BTreeSet<String>> {
        let mut table = self.inner.table.lock();
        let mut unreadable = BTreeSet::new();
        for entry in std::fs::read_dir(data).map_err(at("read", data))? {
            let entry = entry.map_err(at("read", data))?;
            let folder = entry.path();
            let record = match keep::read(&folder, |id| self.images().rootfs(id).is_ok()) {
                Ok(Some(record)) => record,
                Ok(None) => {
                    // A crash in the middle of a creation or removal.
                    tracing::warn!(folder = %folder.display(), "not a container; removed");
                    std::fs::remove_dir_all(&folder).map_err(at("remove", &folder))?;
                    continue;
                }
                Err(error) => {
                    tracing::error!(
                        folder = %folder.display(),
                        error = &error as &dyn std::error::Error,
                        "a container that cannot be read is left alone"
                    );
                    unreadable.insert(entry.file_name().to_string_lossy().into_owned());
                    continue;
                }
            };
            let run = run.join(&record.id);
            table.by_name.insert(record.name.clone(), record.id.clone());
            let container = Container::new(record, folder, run);
            if let Err(error) = container.keeper.catch_up(&container.record()) {
                tracing::warn!(container = container.id, %error, "its record is not kept");
            }
            table
                .by_id
                .insert(container.id.clone(), Arc::new(container));
        }
        Ok(unreadable)
    }

    /// Says of which containers the size is not kept, since the file system is not
    /// what it was when they were created.
    fn tell_of_lost_sizes(&self) {
        if self.inner.images.has_quotas() {
            return;
        }
        for container in self.containers() {
            if !container.record().host.storage_opt.is_empty() {
                tracing::warn!(
                    container = container.id,
                    "nobody keeps it within its size: mount the data folder with prjquota"
                );
            }
        }
    }

    /// Joins the shims that are still there; settles the ends of the others.
    async fn take_up_again(&self) {
        let mut tasks = JoinSet::new();
        for container in self.containers() {
            let engine = self.clone();
            tasks.spawn(async move { engine.reconnect(container).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn reconnect(&self, container: Arc<Container>) {
        let record = container.record();
        match record.state.status {
            Status::Running | Status::Paused => {}
            Status::Restarting => {
                // Its last start may have been cut off, too.
                self.clear_unrecorded(&container).await;
                return self.restart_later(container);
            }
            Status::Removing => {
                let _ = self.remove(&container.id, true, false).await;
                return;
            }
            _ => {
                self.clear_unrecorded(&container).await;
                if record.state.status == Status::Exited && record.wants_start_with_daemon() {
                    container.change_in_memory(|record| record.stopped_by_hand = false);
                    self.restart_later(container);
                }
                return;
            }
        }
        let dir = container.run.join("shim");
        match Shim::connect(&dir).await {
            Ok((shim, events)) => {
                *container.shim.lock() = Some(shim.clone());
                match shim.state().await {
                    Ok(state) if state.exit.is_none() => {
                        if let Some(pid) = state.pid {
                            container.note(|record| record.state.pid = pid);
                        }
                        self.settle_networks(&container).await;
                        self.watch(Arc::clone(&container), events);
                        self.follow_health(&container);
                    }
                    Ok(wire::State {
                        exit: Some(exit), ..
                    }) => {
                        self.settle_exit(&container, &exit).await;
                    }
                    _ => self.settle_exit(&container, &lost()).await,
                }
            }
            Err(error) => {
                if !matches!(error, ShimError::Gone { .. }) {
                    tracing::warn!(container = container.id, %error, "shim does not answer");
                }
                let exit = wire::read_exit(&dir).ok().flatten().unwrap_or_else(lost);
                self.settle_exit(&container, &exit).await;
            }
        }
    }

    /// Takes away what a start left that was cut off before it was recorded.
    async fn clear_unrecorded(&self, container: &Arc<Container>) {
        if !container.run.exists() {
            return;
        }
        tracing::warn!(container = container.id, "what its run left is cleaned up");
        if let Ok((shim, _)) = Shim::connect(&container.run.join("shim")).await {
            let _ = shim.delete(wire::Running::Kill).await;
        }
        let (engine, container) = (self.clone(), Arc::clone(container));
        let _ = tokio::task::spawn_blocking(move || engine.clean_up(&container)).await;
    }

    /// Removes sandboxes, control groups and root filesystems that no container
    /// owns, and unmounts volumes that none uses; not what belongs to containers that
    /// are `unreadable`.
    fn remove_orphans(&self, unreadable: &BTreeSet<String>) {
        let table = self.inner.table.lock();
        for sandbox in self.inner.networks.sandboxes().unwrap_or_default() {
            let is_container = sandbox.len() == 64;
            let is_owned = self.sandbox(&sandbox).is_ok()
                || unreadable.contains(&sandbox)
                || table
                    .by_id
                    .get(&sandbox)
                    .is_some_and(|container| container.record().state.status.is_alive());
            if is_container && !is_owned {
                let _ = self.inner.networks.remove_sandbox(&sandbox);
            }
        }
        let others = self.inner.config.groups.are_ours();
        self.remove_stray_groups(|id| match table.by_id.get(id) {
            Some(container) => !container.record().state.status.is_alive(),
            None => others && !unreadable.contains(id),
        });
        for volume in self.inner.volumes.list() {
            let is_used = table.by_id.values().any(|container| {
                let record = container.record();
                let has = |point: &MountPoint| point.name == volume.name;
                record.state.status.is_alive() && record.mounts.iter().any(has)
            });
            if !is_used && let Err(error) = self.inner.volumes.unmount(&volume.name) {
                tracing::warn!(volume = volume.name, %error, "volume stays mounted");
            }
        }
        for rootfs in self.inner.images.rootfs_names().unwrap_or_default() {
            let is_owned = table.by_id.contains_key(&rootfs) || unreadable.contains(&rootfs);
            if rootfs.len() == 64 && !is_owned {
                let _ = self.inner.images.release(&rootfs);
            }
        }
    }

    /// The images that containers are made of.
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// The networks that containers are joined to.
    pub fn networks(&self) -> &Arc<Networks> {
        &self.inner.networks
    }

    /// What happens, to listen to and to add to.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// The AppArmor profile of a container's programs: `unconfined` if they have
    /// none, nothing where the kernel has no AppArmor.
    pub fn apparmor(&self, record: &Record) -> String {
        let options = SecurityOptions::parse(&record.host.security_opt).unwrap_or_default();
        let default = self.inner.config.apparmor.as_deref();
        options.apparmor(&record.host, default, Machine::here())
    }

    /// Where things are.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The records of all containers, newest first.
    pub fn list(&self) -> Vec<Arc<Record>> {
        let mut records: Vec<Arc<Record>> = self
            .containers()
            .iter()
            .map(|container| container.record())
            .collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        records
    }

    /// The record of the container with this name, id, or start of an id.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`], or [`Error::Invalid`] for an ambiguous id.
    pub fn get(&self, name: &str) -> Result<Arc<Record>> {
        self.find(name).map(|container| container.record())
    }

    /// Waits until `condition` holds. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`].
    pub async fn wait(&self, name: &str, condition: WaitFor) -> Result<Ended> {
        self.waiter(name, condition)?.await
    }

    /// Like [`Engine::wait`], but everything that happens from the call on
    /// counts, even before the returned future is polled.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`].
    pub fn waiter(
        &self,
        name: &str,
        condition: WaitFor,
    ) -> Result<impl Future<Output = Result<Ended>> + Send + use<>> {
        let container = self.find(name)?;
        let mut ends = container.ends.subscribe();
        let mut changes = container.changes();
        let first = ends.borrow().count;
        Ok(async move {
            let gone = || Error::NoSuchContainer(container.id.clone());
            if condition == WaitFor::NotRunning {
                let not_running = |record: &Arc<Record>| {
                    !record.state.status.is_alive() && record.state.status != Status::Restarting
                };
                let record = changes.wait_for(not_running).await.map_err(|_| gone())?;
                return Ok(Ended {
                    exit_code: record.state.exit_code,
                    error: record.state.error.clone(),
                });
            }
            let ended = ends
                .wait_for(|ends| match condition {
                    WaitFor::Removed => ends.removed,
                    _ => ends.count > first || ends.removed,
                })
                .await
                .map_err(|_| gone())?;
            // Why a start failed is told to whoever asked for it.
            Ok(Ended {
                error: String::new(),
                ..ended.last
            })
        })
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.inner.table.lock().by_id.values().cloned().collect()
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>> {
        let table = self.inner.table.lock();
        let name = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) = table.by_id.get(name) {
            return Ok(Arc::clone(container));
        }
        if let Some(container) = table.by_name.get(name).and_then(|id| table.by_id.get(id)) {
            return Ok(Arc::clone(container));
        }
        let mut matching = table
            .by_id
            .range(name.to_owned()..)
            .take_while(|(id, _)| !name.is_empty() && id.starts_with(name));
        match (matching.next(), matching.next()) {
            (Some((_, container)), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(Error::Invalid(format!(
                "Multiple IDs found with provided prefix: {name}"
            ))),
            (None, _) if name.is_empty() => {
                Err(Error::Invalid("invalid name or ID supplied: \"\"".into()))
            }
            (None, _) => Err(Error::NoSuchContainer(name.into())),
        }
    }

    /// Announces an event of a container.
    pub(crate) fn announce(&self, record: &Record, action: impl Into<String>) {
        self.inner
            .events
            .announce("container", action, &record.id, record.attributes());
    }
}

/// The end of a container of which nobody saw the end.
fn lost() -> ExitRecord {
    ExitRecord {
        version: wire::VERSION,
        pid: 0,
        code: 255,
        signal: None,
        oom: false,
        started_at: None,
        finished_at: Moment::now(),
    }
}
