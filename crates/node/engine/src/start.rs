//! Starting a container: sandbox, bundle, shim, program; undone in reverse
//! when a step fails.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dhow_runtime::RootSource;
use dhow_runtime::spec::{Namespace, NamespaceKind};
use dhow_shim::Moment;
use dhow_shim::client::{Shim, ShimError};
use dhow_shim::wire::{FailureKind, Running, ShimSpec, Stdin, VERSION};
use tokio::task::spawn_blocking;

use crate::accounts;
use crate::bundle::{self, Surroundings};
use crate::container::Container;
use crate::endpoints;
use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::files;
use crate::health;
use crate::links;
use crate::logs;
use crate::mounts::MountKind;
use crate::name_files;
use crate::propagation;
use crate::record::{Record, Status};
use crate::spec::Config;

/// First wait before a restart; doubles each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest wait before a restart.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run of at least this length starts the back-off anew.
const GOOD_RUN: Duration = Duration::from_secs(10);

impl Engine {
    /// Starts a container.
    ///
    /// # Errors
    ///
    /// [`Error::Already`] when it runs, [`Error::Command`] when its program
    /// cannot be executed, and whatever its networks and mounts say.
    pub async fn start(&self, name: &str) -> Result<()> {
        let (engine, container) = (self.clone(), self.find(name)?);
        whole(async move { engine.start_whole(&container).await }).await
    }

    async fn start_whole(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        match container.record().state.status {
            Status::Running => return Err(Error::Already("started")),
            Status::Paused => {
                return Err(Error::Conflict(
                    "cannot start a paused container, try unpause instead".into(),
                ));
            }
            Status::Removing | Status::Dead => {
                return Err(Error::Conflict(
                    "container is marked for removal and cannot be started".into(),
                ));
            }
            _ => {}
        }
        let begun = container.change(|record| {
            record.stopped_by_hand = false;
            record.restart_count = 0;
        });
        self.go_on_starting(container, begun.map(drop)).await
    }

    /// Starts a container whose operation lock the caller holds.
    pub(crate) async fn start_locked(&self, container: &Arc<Container>) -> Result<()> {
        self.go_on_starting(container, Ok(())).await
    }

    /// Starts a container unless that has failed already; whoever waits
    /// for it goes empty-handed when it does.
    async fn go_on_starting(&self, container: &Arc<Container>, begun: Result<()>) -> Result<()> {
        let started = match begun {
            Ok(()) => self.run_program(container).await,
            Err(error) => Err(error),
        };
        let Err(error) = started else { return Ok(()) };
        let why = crate::words(&error);
        // They get no streams.
        container.waiting.lock().clear();
        let exit_code = match &error {
            Error::Command { code, .. } => *code,
            _ => 128,
        };
        container.note(|record| {
            record.state.status = if record.state.started.is_some() {
                Status::Exited
            } else {
                Status::Created
            };
            record.state.exit_code = exit_code;
            record.state.error.clone_from(&why);
            record.state.pid = 0;
        });
        container.ends.send_modify(|ends| {
            ends.count += 1;
            ends.last = crate::Ended {
                exit_code,
                error: why,
            };
        });
        if container.record().host.auto_remove {
            let (engine, id) = (self.clone(), container.id.clone());
            tokio::spawn(async move { engine.remove(&id, true, true).await });
        }
        Err(error)
    }

    async fn run_program(&self, container: &Arc<Container>) -> Result<()> {
        let record = container.record();
        let bundle = container.run.join("bundle");
        let log = logs::spec(&container.folder, &record, &self.inner.config.journal)?;
        let prepared = {
            let (engine, container) = (self.clone(), Arc::clone(container));
            spawn_blocking(move || engine.prepare(&container))
                .await
                .expect("it does not panic")
        };
        let launched = match prepared {
            Err(error) => Err(error),
            Ok(root) => {
                let spec = ShimSpec {
                    version: VERSION,
                    id: container.id.clone(),
                    bundle,
                    runtime_root: self.inner.config.run.join("runtime"),
                    dir: container.run.join("shim"),
                    root,
                    stdin: match (record.config.open_stdin, record.config.stdin_once) {
                        (false, _) => Stdin::Closed,
                        (true, false) => Stdin::Open,
                        (true, true) => Stdin::Once,
                    },
                    log,
                    groups: self.inner.config.groups.driver(),
                };
                self.launch(container, &spec).await
            }
        };
        if launched.is_err() {
            let (engine, container) = (self.clone(), Arc::clone(container));
            let _ = spawn_blocking(move || engine.clean_up(&container)).await;
        }
        launched
    }

    /// Everything that is needed before there is a process.
    fn prepare(&self, container: &Arc<Container>) -> Result<RootSource> {
        let record = container.record();
        let rootfs = self.images().rootfs(&container.id)?;
        let bundle = container.run.join("bundle");
        std::fs::create_dir_all(&bundle).map_err(at("make", &bundle))?;

        let passwd = files::read_in_layers(&rootfs, Path::new("etc/passwd"));
        let group = files::read_in_layers(&rootfs, Path::new("etc/group"));
        let mut identity =
            accounts::identify(&record.config.user, &record.host.group_add, &passwd, &group)?;
        identity.user.umask = record.host.umask;

        propagation::check(&record.mounts)?;
        self.mount_volumes(&record)?;
        self.label_mounts(&record)?;
        let mut users = self.make_users(&record, &container.run)?;
        let own = users.as_mut().and_then(|users| users.network.take());
        let network = self.network_namespace(&record, own)?;
        let shares_names = record.host.network_mode.starts_with("container:");
        if !shares_names || record.sandbox.is_some() {
            name_files::write_to(self, &container.folder, &record)?;
        }
        let names = name_files::folder(self, &record)?;
        let hostname = name_files::hostname(self, &record)?;
        let mut variables = record.config.env.clone();
        variables.splice(0..0, links::environment(self, &record)?);
        let record = Record {
            config: Config {
                env: variables,
                ..record.config.clone()
            },
            ..Record::clone(&record)
        };
        let memory = self.shared_memory(&record, &container.run)?;
        let spec = bundle::compose(
            &record,
            &Surroundings {
                identity: &identity,
                network,
                images: self.mounted_images(&record)?,
                users: users.as_ref(),
                joined: self.joined_namespaces(&record)?,
                memory: memory.as_deref(),
                hostname: &hostname,
                files: Some(&names),
                groups: &self.inner.config.groups,
                apparmor: self.inner.config.apparmor.as_deref(),
                descriptors: self.inner.config.descriptors,
                init: (record.host.init == Some(true))
                    .then_some(self.inner.config.runtime.as_path()),
            },
        )?;
        let path = bundle.join("config.json");
        let bytes = serde_json::to_vec(&spec).expect("a configuration is plain values");
        std::fs::write(&path, bytes).map_err(at("write", path))?;
        Ok(self.root_source(rootfs, users.is_some()))
    }

    /// The layers of the images that a container mounts, by image.
    fn mounted_images(&self, record: &Record) -> Result<BTreeMap<String, Vec<PathBuf>>> {
        let mut layers = BTreeMap::new();
        for point in &record.mounts {
            if point.kind == MountKind::Image {
                let image = self.images().resolve(&point.source)?;
                layers.insert(point.source.clone(), self.images().view_paths(&image)?);
            }
        }
        Ok(layers)
    }

    /// Makes the container's sandbox and joins it to its networks; returns
    /// where its network namespace is, none for the host's. `own` is one that was
    /// made for it.
    fn network_namespace(&self, record: &Record, own: Option<OwnedFd>) -> Result<Option<PathBuf>> {
        if let Some(sandbox) = &record.sandbox {
            return Ok((!sandbox.host_network).then(|| self.networks().sandbox_path(&sandbox.id)));
        }
        let mode = record.host.network_mode.as_str();
        if mode == "host" {
            return Ok(None);
        }
        if let Some(other) = mode.strip_prefix("container:") {
            let pid = self.running_pid(other, NamespaceKind::Network)?;
            return Ok(Some(format!("/proc/{pid}/ns/net").into()));
        }
        // A sandbox of that name can only be what a crash left.
        self.networks().remove_sandbox(&record.id)?;
        let path = match own {
            Some(namespace) => self.networks().adopt_sandbox(&record.id, namespace)?,
            None => self.networks().create_sandbox(&record.id)?,
        };
        for (network, spec) in self.endpoint_specs(record)? {
            let name = spec.name.clone();
            self.networks()
                .join(&network, &record.id, spec)
                .map_err(|error| endpoints::told(error, &name, &record.id))?;
        }
        links::follow(self, record);
        Ok(Some(path))
    }

    fn joined_namespaces(&self, record: &Record) -> Result<Vec<Namespace>> {
        let mut joined = match &record.sandbox {
            Some(sandbox) => self.sandbox_namespaces(sandbox)?,
            None => Vec::new(),
        };
        for (kind, mode, file) in [
            (NamespaceKind::Pid, &record.host.pid_mode, "pid"),
            (NamespaceKind::Ipc, &record.host.ipc_mode, "ipc"),
        ] {
            if let Some(other) = mode.strip_prefix("container:") {
                let pid = self.running_pid(other, kind)?;
                let path = format!("/proc/{pid}/ns/{file}").into();
                joined.push(Namespace {
                    kind,
                    path: Some(path),
                });
            }
        }
        Ok(joined)
    }

    /// The first process of a container of which a namespace is to be joined.
    pub(crate) fn running_pid(&self, name: &str, kind: NamespaceKind) -> Result<i32> {
        let record = self.get(name)?;
        if record.state.status.is_alive() {
            return Ok(record.state.pid);
        }
        let id = &record.id;
        Err(Error::Conflict(match kind {
            NamespaceKind::Network => {
                format!("cannot join network namespace of a non running container: {id}")
            }
            NamespaceKind::Ipc => {
                format!("can't join IPC of container {id}: container {id} is not running")
            }
            NamespaceKind::Pid => {
                format!("cannot join PID namespace: container {id} is not running")
            }
            _ => format!("cannot join a namespace: container {id} is not running"),
        }))
    }

    /// Starts the shim and the program, and watches both from then on.
    async fn launch(&self, container: &Arc<Container>, spec: &ShimSpec) -> Result<()> {
        // Whatever an earlier run left of its shim is history.
        let _ = std::fs::remove_dir_all(&spec.dir);
        let (shim, events) = Shim::launch(&self.inner.supervisor, spec)
            .await
            .map_err(told)?;
        let begun = async {
            let pid = shim.create().await.map_err(told)?;
            if has_own_sandbox(&container.record()) {
                // Before the record says that it runs: who reads that must find both.
                self.networks()
                    .hand_over_sandbox(&container.id, pid.unsigned_abs())?;
            }
            self.attach_waiting(container, &shim).await;
            // What it writes and syncs must not go for want of a record.
            container.keeper.kept().await;
            shim.start().await.map_err(told)?;
            Ok(pid)
        };
        let pid = match begun.await {
            Ok(pid) => pid,
            Err(error) => {
                let _ = shim.delete(Running::Kill).await;
                return Err(error);
            }
        };
        *container.shim.lock() = Some(shim.clone());
        let running = container.change(|record| {
            record.state.status = Status::Running;
            record.state.pid = pid;
            record.state.exit_code = 0;
            record.state.oom_killed = false;
            record.state.error = String::new();
            record.state.started = Some(Moment::now());
            record.state.health = health::at_start(record);
        });
        let record = match running {
            Ok(record) => record,
            Err(error) => {
                *container.shim.lock() = None;
                let _ = shim.delete(Running::Kill).await;
                return Err(error);
            }
        };
        // Whoever attached after the program was let go, but before the state
        // said so.
        self.attach_waiting(container, &shim).await;
        self.announce_networks(&record, "connect");
        self.announce_mounts(&record);
        self.announce(&record, "start");
        self.watch(Arc::clone(container), events);
        self.follow_health(container);
        Ok(())
    }

    /// Starts a container again after its back-off, unless somebody changes
    /// their mind.
    pub(crate) fn restart_later(&self, container: Arc<Container>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let delay = delay_after(&container.record());
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = container.restart_now.notified() => {}
            }
            let _operation = container.operation.lock().await;
            let record = container.record();
            let waits = matches!(record.state.status, Status::Restarting | Status::Exited);
            if !waits || record.stopped_by_hand {
                return;
            }
            container.note(|record| record.restart_count += 1);
            if let Err(error) = engine.start_locked(&container).await {
                tracing::warn!(container = container.id, %error, "restart failed");
                if container.record().wants_restart(1) {
                    container.note(|record| record.state.status = Status::Restarting);
                    engine.restart_later(Arc::clone(&container));
                }
            }
        });
    }
}

/// Runs an operation to its end, also when its caller goes away: one that is
/// left in the middle leaves something behind.
pub(crate) async fn whole<T: Send + 'static>(
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(operation).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Conflict("the daemon is stopping".into())),
        },
    }
}

/// How long a container waits before it is started again.
fn delay_after(record: &Record) -> Duration {
    let (Some(started), Some(finished)) = (record.state.started, record.state.finished) else {
        return FIRST_DELAY;
    };
    let (started, finished): (std::time::SystemTime, std::time::SystemTime) =
        (started.into(), finished.into());
    if finished.duration_since(started).unwrap_or_default() >= GOOD_RUN {
        return FIRST_DELAY;
    }
    FIRST_DELAY
        .saturating_mul(1 << record.restart_count.min(16))
        .min(LONGEST_DELAY)
}

/// Whether the container has a network sandbox of its own.
pub(crate) fn has_own_sandbox(record: &Record) -> bool {
    record.sandbox.is_none()
        && record.host.network_mode != "host"
        && !record.host.network_mode.starts_with("container:")
}

/// What a shim's failure means to whoever asked for a start.
pub(crate) fn told(error: ShimError) -> Error {
    match error.failure() {
        Some(failure) => {
            let message = failure.message.clone();
            match failure.kind {
                FailureKind::CommandNotFound => Error::Command { code: 127, message },
                FailureKind::CommandNotExecutable => Error::Command { code: 126, message },
                FailureKind::Invalid => Error::Invalid(message),
                FailureKind::NotFound => Error::NoSuchExec(message),
                FailureKind::Exists | FailureKind::State => Error::Conflict(message),
                FailureKind::Runtime => Error::Runtime(message),
            }
        }
        None => {
            let cause = std::error::Error::source(&error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            Error::Shim(format!("{error}{cause}"))
        }
    }
}
