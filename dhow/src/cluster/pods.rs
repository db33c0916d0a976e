//! The engine as a pod runtime: translates the node agent's words to the
//! engine's, and keeps nothing of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use dhow_engine::spec::{Config, HostConfig, LogConfig, MountSpec};
use dhow_engine::{Creation, Engine, Error, Protocol, Record, SandboxSpec, Status};
use dhow_image::{ProgressSender, PullOptions, RegistryAuth, Removal};
use dhow_node::runtime::{
    Container, ContainerConfig, ContainerState, Credentials, Event, EventKind, Exec, Image,
    LogLine, LogOptions, Mount, PodMetadata, PodRuntime, PortMapping, PortStream, Propagation,
    Result, RuntimeError, Sandbox, SandboxConfig, Seccomp, Session, Stats,
};
use dhow_oci::Reference;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast::error::RecvError;

use super::streams;

/// Labels and annotations that only this file reads.
const NAME: &str = "io.dhow.pod.name";
const NAMESPACE: &str = "io.dhow.pod.namespace";
const UID: &str = "io.dhow.pod.uid";
const ATTEMPT: &str = "io.dhow.attempt";
const CONTAINER: &str = "io.dhow.container.name";
/// A container's log at most: three files of ten megabytes, as the kubelet has.
const LOG_SIZE: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "3")];

/// Pods in an engine.
#[derive(Debug, Clone)]
pub(crate) struct Pods {
    engine: Engine,
    /// The network that pods are joined to.
    network: String,
}

impl Pods {
    pub(crate) fn new(engine: Engine, network: String) -> Self {
        Self { engine, network }
    }
}

#[async_trait]
impl PodRuntime for Pods {
    fn version(&self) -> String {
        concat!("dhow://", env!("CARGO_PKG_VERSION")).into()
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        if config.host.share_pid {
            return Err(RuntimeError::Invalid(
                "shareProcessNamespace is not supported: leave it out, or use one container".into(),
            ));
        }
        let pod = &config.metadata;
        let mut annotations = config.annotations.clone();
        for (name, value) in [
            (NAME, pod.name.clone()),
            (NAMESPACE, pod.namespace.clone()),
            (UID, pod.uid.clone()),
            (ATTEMPT, pod.attempt.to_string()),
        ] {
            annotations.insert(name.into(), value);
        }
        let spec = SandboxSpec {
            name: format!("{}.{}", pod.name, pod.namespace),
            hostname: config.hostname.clone(),
            network: (!config.host.network).then(|| self.network.clone()),
            ports: ports(&config.port_mappings)?,
            resolv_conf: resolv_conf(&config),
            host_ipc: config.host.ipc,
            host_pid: config.host.pid,
            sysctls: config.sysctls.clone(),
            labels: config.labels,
            annotations,
        };
        let made = self.engine.sandbox_create(spec).await.map_err(told)?;
        Ok(sandbox(&made))
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.engine.sandbox_stop(id).await.map_err(told)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.engine.sandbox_remove(id).await.map_err(told)
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let all = self.engine.sandboxes();
        Ok(all.iter().map(|one| sandbox(one)).collect())
    }

    async fn create_container(&self, id: &str, config: ContainerConfig) -> Result<String> {
        let sandbox = self.engine.sandbox(id).map_err(told)?;
        let creation = creation(&sandbox, config)?;
        let created = self.engine.create(creation).await.map_err(told)?;
        Ok(created.record.id.clone())
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        match self.engine.start(id).await {
            Ok(()) | Err(Error::Already(_)) => Ok(()),
            Err(error) => Err(told(error)),
        }
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let stopped = if grace.is_zero() {
            // Also while somebody else waits for it to stop by itself.
            match self.engine.kill(id, "KILL").await {
                Ok(()) => self
                    .engine
                    .wait(id, dhow_engine::WaitFor::NotRunning)
                    .await
                    .map(drop),
                Err(error) => Err(error),
            }
        } else {
            self.engine.stop(id, None, Some(seconds)).await
        };
        match stopped {
            Ok(()) | Err(Error::Already(_) | Error::NoSuchContainer(_) | Error::Conflict(_)) => {
                Ok(())
            }
            Err(error) => Err(told(error)),
        }
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        match self.engine.remove(id, true, true).await {
            Ok(()) | Err(Error::NoSuchContainer(_)) => Ok(()),
            Err(error) => Err(told(error)),
        }
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        let records = self.engine.list();
        Ok(records.iter().filter_map(container).collect())
    }

    fn events(&self) -> BoxStream<'static, Event> {
        let (_, receiver) = self.engine.events().listen(None);
        stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => {
                        if let Some(event) = told_event(&event) {
                            return Some((event, receiver));
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        let lost = Event {
                            pod_uid: String::new(),
                            container: None,
                            kind: EventKind::Lost,
                        };
                        return Some((lost, receiver));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }

    async fn exec(&self, id: &str, exec: Exec) -> Result<Session> {
        streams::exec(&self.engine, id, exec).await
    }

    async fn attach(&self, id: &str, stdin: bool) -> Result<Session> {
        streams::attach(&self.engine, id, stdin).await
    }

    async fn port_forward(&self, id: &str, port: u16) -> Result<Box<dyn PortStream>> {
        let sandbox = self.engine.sandbox(id).map_err(told)?;
        if !sandbox.is_ready {
            return Err(RuntimeError::NotFound(format!("sandbox {id} is stopped")));
        }
        let namespace = sandbox
            .spec
            .network
            .as_ref()
            .map(|_| self.engine.networks().sandbox_path(id));
        streams::connect(namespace, port).await
    }

    async fn logs(&self, id: &str, options: LogOptions) -> Result<BoxStream<'static, LogLine>> {
        streams::logs(&self.engine, id, &options)
    }

    async fn stats(&self) -> Result<Vec<Stats>> {
        let engine = self.engine.clone();
        let read = move || {
            let running = engine
                .list()
                .into_iter()
                .filter(|record| record.sandbox.is_some() && record.state.status.is_alive());
            running
                // One that ends meanwhile uses nothing.
                .filter_map(|record| Some((engine.usage(&record.id).ok()?, record)))
                .map(|(usage, record)| Stats {
                    id: record.id.clone(),
                    cpu: Duration::from_nanos(usage.cpu.total),
                    memory_working_set: working_set(&usage.memory),
                    pids: usage.pids.current,
                })
                .collect()
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| RuntimeError::Failed(error.to_string()))
    }

    async fn pull_image(&self, name: &str, credentials: Option<Credentials>) -> Result<Image> {
        let reference = Reference::parse(name)
            .map_err(|error| RuntimeError::Invalid(format!("image {name:?}: {error}")))?
            .or_latest();
        let options = PullOptions {
            auth: credentials.map(|who| RegistryAuth {
                username: who.username,
                password: who.password,
                identity_token: who.identity_token,
                ..RegistryAuth::default()
            }),
            platform: None,
        };
        // Nobody looks at the progress of a pod's pull.
        let silent = ProgressSender::silent();
        let pulled = self.engine.image_pull(&reference, options, silent).await;
        let pulled = pulled.map_err(|error| RuntimeError::Image(chain(&error)))?;
        Ok(self.describe(&pulled.image))
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        let found = self.engine.images().resolve(name);
        Ok(found.ok().map(|image| self.describe(&image)))
    }

    async fn images(&self) -> Result<Vec<Image>> {
        let listed = self.engine.images().list();
        Ok(listed.iter().map(|one| self.describe(&one.image)).collect())
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        let (engine, name) = (self.engine.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || engine.image_remove(&name, Removal::Careful))
            .await
            .map_err(|error| RuntimeError::Failed(error.to_string()))?
            .map(drop)
            .map_err(told)
    }
}

impl Pods {
    fn describe(&self, image: &dhow_image::Image) -> Image {
        let names = self.engine.images().names(&image.id);
        let text = |names: &[Reference]| names.iter().map(ToString::to_string).collect();
        Image {
            id: image.id.to_string(),
            tags: text(&names.tags),
            digests: text(&names.digests),
            size: image.size(),
            user: image.config.config.user.clone(),
        }
    }
}

/// Memory that the kernel could not take back without harm.
fn working_set(memory: &dhow_engine::MemoryStats) -> u64 {
    let idle = ["total_inactive_file", "inactive_file"]
        .into_iter()
        .find_map(|name| memory.details.get(name));
    memory.usage.saturating_sub(idle.copied().unwrap_or(0))
}

fn ports(asked: &[PortMapping]) -> Result<Vec<dhow_engine::PortMapping>> {
    asked
        .iter()
        .map(|port| {
            let protocol = match port.protocol.as_str() {
                "" | "TCP" => Protocol::Tcp,
                "UDP" => Protocol::Udp,
                "SCTP" => Protocol::Sctp,
                other => {
                    let text = format!("protocol {other:?}: use TCP, UDP or SCTP");
                    return Err(RuntimeError::Invalid(text));
                }
            };
            Ok(dhow_engine::PortMapping {
                protocol,
                container_port: port.container_port,
                host_address: port
                    .host_ip
                    .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
                host_port: port.host_port,
            })
        })
        .collect()
}

fn resolv_conf(config: &SandboxConfig) -> String {
    let dns = &config.dns;
    let mut text = String::new();
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (word, values) in [("search", &dns.searches), ("options", &dns.options)] {
        if !values.is_empty() && !dns.servers.is_empty() {
            text.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    text
}

fn sandbox(made: &dhow_engine::Sandbox) -> Sandbox {
    let mut annotations = made.spec.annotations.clone();
    let mut taken = |name: &str| annotations.remove(name).unwrap_or_default();
    let metadata = PodMetadata {
        name: taken(NAME),
        namespace: taken(NAMESPACE),
        uid: taken(UID),
        attempt: taken(ATTEMPT).parse().unwrap_or(0),
    };
    Sandbox {
        id: made.id.clone(),
        metadata,
        is_ready: made.is_ready,
        created: made.created.into(),
        addresses: made.addresses.clone(),
        labels: made.spec.labels.clone(),
        annotations,
    }
}

fn creation(sandbox: &dhow_engine::Sandbox, asked: ContainerConfig) -> Result<Creation> {
    let pod = |name: &str| {
        let found = sandbox.spec.annotations.get(name);
        found.cloned().unwrap_or_default()
    };
    let name = format!(
        "k8s_{}_{}_{}_{}_{}",
        asked.name,
        pod(NAME),
        pod(NAMESPACE),
        pod(UID),
        asked.attempt
    );
    let mut labels = asked.labels;
    labels.insert(UID.into(), pod(UID));
    labels.insert(CONTAINER.into(), asked.name);
    labels.insert(ATTEMPT.into(), asked.attempt.to_string());
    let some = |words: Vec<String>| (!words.is_empty()).then_some(words);
    let env = asked.env.into_iter();
    let config = Config {
        user: asked.security.user.clone(),
        open_stdin: asked.stdin,
        stdin_once: asked.stdin_once,
        tty: asked.tty,
        env: env.map(|(name, value)| format!("{name}={value}")).collect(),
        cmd: some(asked.args),
        entrypoint: some(asked.command),
        image: asked.image,
        working_dir: asked.working_dir,
        stop_signal: asked.stop_signal,
        labels,
        ..Config::default()
    };
    let security = asked.security;
    let mut security_opt = Vec::new();
    if security.no_new_privileges {
        security_opt.push("no-new-privileges".to_owned());
    }
    if security.unmasked_proc {
        security_opt.push("systempaths=unconfined".to_owned());
    }
    match security.seccomp {
        Seccomp::RuntimeDefault => {}
        Seccomp::Unconfined => security_opt.push("seccomp=unconfined".to_owned()),
        Seccomp::Localhost(path) => {
            let profile = std::fs::read_to_string(&path).map_err(|error| {
                RuntimeError::Invalid(format!("seccomp profile {}: {error}", path.display()))
            })?;
            security_opt.push(format!("seccomp={profile}"));
        }
    }
    let limits = asked.resources;
    let groups = security.supplemental_groups.iter();
    let host = HostConfig {
        annotations: asked.annotations,
        mounts: asked.mounts.iter().map(mount).collect(),
        log_config: LogConfig {
            kind: "local".into(),
            config: LOG_SIZE
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
        },
        cap_add: security.add_capabilities,
        cap_drop: security.drop_capabilities,
        group_add: groups.map(u32::to_string).collect(),
        privileged: security.privileged,
        readonly_rootfs: security.readonly_rootfs,
        security_opt,
        ipc_mode: if sandbox.spec.host_ipc { "host" } else { "" }.into(),
        pid_mode: if sandbox.spec.host_pid { "host" } else { "" }.into(),
        sysctls: sandbox.spec.sysctls.clone(),
        cpu_shares: i64::try_from(limits.cpu_shares).unwrap_or(i64::MAX),
        cpu_quota: limits.cpu_quota,
        cpu_period: i64::try_from(limits.cpu_period).unwrap_or(i64::MAX),
        memory: limits.memory_limit,
        // No swap beyond the limit, as Kubernetes has it.
        memory_swap: limits.memory_limit,
        oom_score_adj: limits.oom_score_adj,
        ..HostConfig::default()
    };
    Ok(Creation {
        name: Some(name),
        config,
        host,
        networks: BTreeMap::new(),
        sandbox: Some(sandbox.share()),
    })
}

fn mount(mount: &Mount) -> MountSpec {
    let propagation = match mount.propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    MountSpec {
        kind: "bind".into(),
        source: mount.host_path.display().to_string(),
        target: mount.container_path.clone(),
        read_only: mount.readonly,
        bind_options: Some(dhow_engine::spec::BindOptions {
            propagation: propagation.into(),
            ..Default::default()
        }),
        ..MountSpec::default()
    }
}

/// A container of a pod; `None` for any other.
fn container(record: &Arc<Record>) -> Option<Container> {
    let sandbox = record.sandbox.as_ref()?;
    let mut labels = record.config.labels.clone();
    labels.remove(UID);
    let name = labels.remove(CONTAINER)?;
    let attempt = labels.remove(ATTEMPT)?.parse().ok()?;
    let state = &record.state;
    let time = |moment: Option<dhow_engine::Moment>| moment.map(SystemTime::from);
    Some(Container {
        id: record.id.clone(),
        sandbox: sandbox.id.clone(),
        name,
        attempt,
        state: match state.status {
            // It was started, and could not be.
            Status::Created if !state.error.is_empty() => ContainerState::Exited,
            Status::Created => ContainerState::Created,
            Status::Running | Status::Paused => ContainerState::Running,
            Status::Restarting | Status::Removing | Status::Exited | Status::Dead => {
                ContainerState::Exited
            }
        },
        created: record.created.into(),
        started: time(state.started),
        finished: time(state.finished),
        exit_code: state.exit_code,
        oom_killed: state.oom_killed,
        message: state.error.clone(),
        image: record.image.clone(),
        labels,
        annotations: record.host.annotations.clone(),
    })
}

fn told_event(event: &dhow_engine::Event) -> Option<Event> {
    if event.kind != "container" {
        return None;
    }
    let kind = match event.action.as_str() {
        "create" => EventKind::Created,
        "start" => EventKind::Started,
        "die" => EventKind::Stopped,
        "destroy" => EventKind::Removed,
        _ => return None,
    };
    Some(Event {
        pod_uid: event.attributes.get(UID)?.clone(),
        container: Some(event.id.clone()),
        kind,
    })
}

pub(super) fn told(error: Error) -> RuntimeError {
    let text = chain(&error);
    match error {
        Error::NoSuchContainer(_) | Error::NoSuchExec(_) | Error::NoSuchSandbox(_) => {
            RuntimeError::NotFound(text)
        }
        Error::Invalid(_) => RuntimeError::Invalid(text),
        Error::Command { .. } | Error::Exec { .. } => RuntimeError::Command(text),
        Error::Image(_) => RuntimeError::Image(text),
        _ => RuntimeError::Failed(text),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
