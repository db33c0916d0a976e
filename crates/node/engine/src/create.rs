//! Creating a container: everything is checked, then things are made, and
//! unmade in reverse when a later step fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dhow_image::Image;
use dhow_shim::Moment;

use crate::bundle;
use crate::container::Container;
use crate::endpoints::{self, link_parts};
use crate::engine::{Engine, Table};
use crate::error::{Error, Result, at};
use crate::logs;
use crate::machine::Machine;
use crate::mounts::{self, MountKind, MountPoint};
use crate::names;
use crate::record::{Record, SharedSandbox, State};
use crate::spec::{Config, EndpointSettings, Healthcheck, HostConfig};
use crate::users;
use crate::validate;
use crate::volumes;

/// Why a root filesystem cannot have a size; Docker's words, and where they would
/// be no more than half of it.
const NO_QUOTAS: &str = "--storage-opt is supported only for overlay over xfs with 'pquota' mount \
     option, or over ext4 with project quotas ('prjquota'): the data folder is on neither";

/// A container as asked for.
#[derive(Debug, Clone, Default)]
pub struct Creation {
    /// Name; none chooses one.
    pub name: Option<String>,
    /// How its process runs.
    pub config: Config,
    /// What it gets of its host.
    pub host: HostConfig,
    /// The networks it is to be joined to, besides the one of its mode.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// A sandbox that others share, instead of networks of its own.
    pub sandbox: Option<SharedSandbox>,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The container as it is now.
    pub record: Arc<Record>,
    /// What was asked for in vain, in words for people.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Creates a container and returns its record. Blocks for a few system
    /// calls, longer when a volume is filled from the image.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] when there is no such image, [`Error::Conflict`] when
    /// the name is taken, [`Error::Invalid`] when the request makes no sense.
    pub async fn create(&self, creation: Creation) -> Result<Accepted> {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || engine.create_blocking(creation))
            .await
            .expect("creation does not panic")
    }

    fn create_blocking(&self, mut creation: Creation) -> Result<Accepted> {
        let image = self.images().resolve(&creation.config.image)?;
        let mut warnings = Machine::here().adapt(&mut creation.host)?;
        if creation.host.network_mode == "host" && !creation.host.port_bindings.is_empty() {
            warnings.push("Published ports are discarded when using host network mode".into());
        }
        let mut record = self.plan(creation, &image)?;
        let name = record.name.clone();
        self.reserve(&mut record)?;
        let made = self.make(record, &image);
        if made.is_err() {
            self.inner.table.lock().by_name.remove(&name);
        }
        let record = made?;
        self.announce(&record, "create");
        Ok(Accepted { record, warnings })
    }

    /// Checks the request and fills in what it leaves open.
    fn plan(&self, creation: Creation, image: &Image) -> Result<Record> {
        let Creation {
            name,
            mut config,
            mut host,
            mut networks,
            sandbox,
        } = creation;
        if let Some(name) = &name {
            let bare = name.strip_prefix('/').unwrap_or(name);
            if !names::is_name(bare) {
                return Err(Error::Invalid(format!(
                    "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
                )));
            }
        }
        // What the image adds (ports, a health check) is checked as well, but
        // does not get in the way of a shared network.
        validate::network_mode(&config, &host)?;
        validate::variables(&config.env)?;
        validate::ends(&config)?;
        if host.publish_all_ports {
            endpoints::check_exposed(&config)?;
        }
        merge(&mut config, image);
        validate::config(&config)?;
        validate::host(&host, Machine::here())?;
        self.size_of(&host)?;
        let args: Vec<String> = config
            .entrypoint
            .iter()
            .chain(config.cmd.iter())
            .flatten()
            .cloned()
            .collect();
        if args.is_empty() || args[0].is_empty() {
            return Err(Error::Invalid("no command specified".into()));
        }
        let defaults = &self.inner.config.log;
        if host.log_config.kind.is_empty() {
            host.log_config.kind.clone_from(&defaults.kind);
        }
        if host.log_config.kind == defaults.kind {
            for (name, value) in &defaults.config {
                let option = host.log_config.config.entry(name.clone());
                option.or_insert_with(|| value.clone());
            }
        }
        logs::check(&host.log_config, &self.inner.config.journal)?;
        if host.network_mode.is_empty() || host.network_mode == "default" {
            host.network_mode = "bridge".into();
        }
        if host.shm_size == 0 {
            host.shm_size = 64 << 20;
        }
        if host.ipc_mode.is_empty() {
            host.ipc_mode = "private".into();
        }
        if host.cgroupns_mode.is_empty() {
            host.cgroupns_mode = if host.privileged { "host" } else { "private" }.into();
        }
        if config.network_disabled {
            host.network_mode = "none".into();
        }
        let is_own =
            |mode: &str| !matches!(mode, "none" | "host") && !mode.starts_with("container:");
        if sandbox.is_some() || !is_own(&host.network_mode) {
            networks.clear();
        } else {
            // A network that is missing is told at the start, as Docker does.
            if let Some(settings) = networks.remove("default") {
                networks.insert("bridge".into(), settings);
            }
            networks.entry(host.network_mode.clone()).or_default();
        }
        // Whatever makes no sense is told now rather than at the start.
        bundle::capabilities(&host)?;
        bundle::resources(&host)?;
        host.security_opt.extend(self.implied_labels(&host)?);
        let labels = self.labels(&host, sandbox.as_ref())?;
        self.inner.config.groups.check_parent(&host.cgroup_parent)?;
        endpoints::check(&config, &host, &networks)?;
        if self.inner.config.remap.is_some() && host.userns_mode != "host" && sandbox.is_none() {
            users::check_mapped(&host)?;
        }

        let mut points = mounts::parse(&host)?;
        for point in &mut points {
            if point.kind == MountKind::Image {
                // A client that hears of a missing image pulls the container's.
                let image = self.images().resolve(&point.name).map_err(|error| {
                    Error::Invalid(format!("invalid mount config for type \"image\": {error}"))
                })?;
                point.source = image.id.to_string();
            }
        }
        for link in &mut host.links {
            if link.matches(':').count() > 1 {
                return Err(Error::Invalid(format!("bad format for links: {link}")));
            }
            let (target, alias) = link_parts(link);
            let other = self.get(target).map_err(|error| {
                Error::Invalid(format!("could not get container for {target}: {error}"))
            })?;
            // Whatever it will be called.
            *link = format!("{}:{alias}", other.id);
        }
        for source in &host.volumes_from {
            points.extend(self.volumes_of(source, &points)?);
        }
        for destination in config.volumes.keys() {
            mounts::check_destination(destination).map_err(|error| {
                Error::Invalid(format!(
                    "invalid volume specification: '{destination}': {error}"
                ))
            })?;
            let same = |point: &MountPoint| {
                point.destination.trim_end_matches('/') == destination.trim_end_matches('/')
            };
            if !points.iter().any(same) {
                points.push(MountPoint {
                    kind: MountKind::Volume,
                    destination: destination.clone(),
                    writable: true,
                    ..MountPoint::default()
                });
            }
        }
        if let Some(memory) = sandbox
            .as_ref()
            .map(|sandbox| self.sandbox_memory(sandbox))
            .transpose()?
            .flatten()
            .filter(|memory| {
                !points
                    .iter()
                    .any(|point| point.destination == memory.destination)
            })
        {
            points.push(memory);
        }
        Ok(Record {
            id: names::identifier(),
            name: name.unwrap_or_default().trim_start_matches('/').to_owned(),
            created: Moment::now(),
            image: image.id.to_string(),
            args,
            config,
            host,
            networks,
            mounts: points,
            sandbox,
            process_label: labels.process,
            mount_label: labels.mount,
            state: State::default(),
            restart_count: 0,
            stopped_by_hand: false,
        })
    }

    /// Bytes that may be written to the root filesystem of a container.
    fn size_of(&self, host: &HostConfig) -> Result<Option<u64>> {
        let size = validate::size(host)?;
        if size.is_some() && !self.images().has_quotas() {
            return Err(Error::Invalid(NO_QUOTAS.to_owned()));
        }
        Ok(size.or(self.inner.config.size))
    }

    /// Takes the name, choosing one if there is none.
    fn reserve(&self, record: &mut Record) -> Result<()> {
        let mut table = self.inner.table.lock();
        let Table { by_id, by_name } = &mut *table;
        if record.name.is_empty() {
            while record.name.is_empty() || by_name.contains_key(&record.name) {
                record.name = names::suggestion();
                if by_id.len() > 400 {
                    record.name = format!("{}_{}", record.name, &names::identifier()[..6]);
                }
            }
        } else if let Some(other) = by_name.get(&record.name) {
            return Err(Error::Conflict(format!(
                "Conflict. The container name \"/{}\" is already in use by container \"{other}\". You have to remove (or rename) that container to be able to reuse that name.",
                record.name
            )));
        }
        by_name.insert(record.name.clone(), record.id.clone());
        Ok(())
    }

    fn make(&self, mut record: Record, image: &Image) -> Result<Arc<Record>> {
        let folder = self.inner.config.data.join("containers").join(&record.id);
        let run = self.inner.config.run.join("containers").join(&record.id);
        let id = record.id.clone();
        let mut new_volumes = Vec::new();
        let made = (|| {
            let size = self.size_of(&record.host)?;
            self.images().prepare_sized(image, &id, size)?;
            self.make_mounts(&mut record, &mut new_volumes)?;
            std::fs::create_dir_all(&folder).map_err(at("make", &folder))?;
            let container = Arc::new(Container::new(record, folder.clone(), run));
            container.keeper.write(&container.record())?;
            Ok::<_, Error>(container)
        })();
        let container = made.inspect_err(|_| {
            let _ = self.images().release(&id);
            for volume in new_volumes {
                let _ = self.inner.volumes.remove(&volume);
            }
            let _ = std::fs::remove_dir_all(&folder);
        })?;
        let record = container.record();
        self.inner.table.lock().by_id.insert(id, container);
        Ok(record)
    }

    /// Makes the volumes and folders that the record's mounts need.
    fn make_mounts(&self, record: &mut Record, new_volumes: &mut Vec<String>) -> Result<()> {
        let id = record.id.clone();
        for point in &mut record.mounts {
            match point.kind {
                MountKind::Tmpfs | MountKind::Image => {}
                MountKind::Bind => {
                    let path = Path::new(&point.source);
                    if !path.exists() {
                        if !point.make_source {
                            return Err(Error::Invalid(format!(
                                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                                point.source
                            )));
                        }
                        std::fs::create_dir_all(path).map_err(at("make", path))?;
                    }
                }
                MountKind::Volume => {
                    let is_anonymous = point.name.is_empty();
                    if is_anonymous {
                        point.name = names::identifier();
                    }
                    let (volume, is_new) = self.volume_of(point, is_anonymous)?;
                    if is_new {
                        new_volumes.push(volume.name.clone());
                    }
                    let data = self.inner.volumes.data(&volume.name);
                    if !point.no_copy && point.subpath.is_empty() {
                        self.inner.volumes.mount(&volume.name)?;
                        self.inner.volumes.fill(&volume.name, |folder| {
                            volumes::copy_from_image(self.images(), &id, &point.destination, folder)
                        })?;
                    }
                    point.source = data.display().to_string();
                }
            }
        }
        Ok(())
    }

    /// The mounts of another container, for `--volumes-from ID[:ro]`.
    fn volumes_of(&self, source: &str, already: &[MountPoint]) -> Result<Vec<MountPoint>> {
        let (name, mode) = source.split_once(':').unwrap_or((source, "rw"));
        let options: Vec<&str> = mode.split(',').collect();
        if !options
            .iter()
            .all(|one| ["rw", "ro", "z", "Z"].contains(one))
        {
            return Err(Error::Invalid(format!("invalid mode: {mode}")));
        }
        // A client that hears of something missing pulls the container's image.
        let record = self
            .get(name)
            .map_err(|error| Error::Invalid(error.to_string()))?;
        let free = |point: &&MountPoint| {
            !already
                .iter()
                .any(|other| other.destination == point.destination)
        };
        Ok(record
            .mounts
            .iter()
            .filter(|point| point.kind != MountKind::Tmpfs)
            .filter(free)
            .map(|point| MountPoint {
                writable: point.writable && !options.contains(&"ro"),
                ..point.clone()
            })
            .collect())
    }
}

/// Fills in from the image what the request leaves open.
fn merge(config: &mut Config, image: &Image) {
    let defaults = &image.config.config;
    if config.user.is_empty() {
        config.user.clone_from(&defaults.user);
    }
    for port in defaults.exposed_ports.keys() {
        config.exposed_ports.entry(port.clone()).or_default();
    }
    for volume in defaults.volumes.keys() {
        config.volumes.entry(volume.clone()).or_default();
    }
    for (label, value) in &defaults.labels {
        config
            .labels
            .entry(label.clone())
            .or_insert_with(|| value.clone());
    }
    let mut env = defaults.env.clone();
    bundle::replace_variables(&mut env, &config.env);
    config.env = env;
    // A new entry point comes without the image's arguments; an empty one
    // takes the image's away.
    if config.entrypoint.is_none() {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&defaults.cmd);
        }
        config.entrypoint.clone_from(&defaults.entrypoint);
    }
    if config
        .entrypoint
        .as_ref()
        .is_some_and(|words| words.iter().all(String::is_empty))
    {
        config.entrypoint = None;
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&defaults.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&defaults.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = defaults.stop_timeout;
    }
    match (&mut config.healthcheck, &defaults.healthcheck) {
        (Some(check), Some(other)) => inherit(check, other),
        (check, other) => *check = check.take().or_else(|| other.clone()),
    }
    if config.shell.is_none() {
        config.shell.clone_from(&defaults.shell);
    }
}

/// Fills in from an image's health check what a request leaves open.
fn inherit(check: &mut Healthcheck, other: &Healthcheck) {
    if check.test.is_empty() {
        check.test.clone_from(&other.test);
    }
    for (own, theirs) in [
        (&mut check.interval, other.interval),
        (&mut check.timeout, other.timeout),
        (&mut check.start_period, other.start_period),
        (&mut check.start_interval, other.start_interval),
        (&mut check.retries, other.retries),
    ] {
        if *own == 0 {
            *own = theirs;
        }
    }
}
