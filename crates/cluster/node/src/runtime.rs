//! What the node agent asks of containers: the operations and states of the
//! Kubernetes Container Runtime Interface (CRI), as a trait.
//!
//! A *sandbox* is a pod's surroundings: its network, IPC and UTS namespaces and
//! its control group. Containers are created in a sandbox. Every operation that
//! ends something is idempotent: what is gone already is no error.
//!
//! Where CRI polls (its pod lifecycle event generator), [`PodRuntime::events`]
//! tells; where it hands out a file of log lines, [`PodRuntime::logs`] does;
//! where it hands out a URL for streams, the streams themselves are given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// What a pod runtime answers.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// Why a pod runtime did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such sandbox, container or image.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense; trying again will not help.
    #[error("{0}")]
    Invalid(String),
    /// The image is not there and cannot be had.
    #[error("{0}")]
    Image(String),
    /// The program cannot be executed: missing, or not executable.
    #[error("{0}")]
    Command(String),
    /// Anything else, which may be different next time.
    #[error("{0}")]
    Failed(String),
}

/// A pod's surroundings, as asked for (CRI `PodSandboxConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Whose they are.
    pub metadata: PodMetadata,
    /// Host name of all its containers; empty on the host's network.
    pub hostname: String,
    /// Name service.
    pub dns: DnsConfig,
    /// Ports of the host that lead into the pod.
    pub port_mappings: Vec<PortMapping>,
    /// Labels to find it by.
    pub labels: BTreeMap<String, String>,
    /// Whatever its maker wants to keep with it.
    pub annotations: BTreeMap<String, String>,
    /// Which namespaces are the host's.
    pub host: HostNamespaces,
    /// Settings of the kernel in the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
}

/// Which pod, and which try at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodMetadata {
    /// Name of the pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its unique identifier.
    pub uid: String,
    /// How often a sandbox was made for it before.
    pub attempt: u32,
}

/// Contents of `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers; empty leaves the file to the runtime.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options, such as `ndots:5`.
    pub options: Vec<String>,
}

/// A port of the host that leads into a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port in the pod.
    pub container_port: u16,
    /// Port of the host.
    pub host_port: u16,
    /// Address of the host; none means all.
    pub host_ip: Option<IpAddr>,
}

/// Which namespaces are the host's rather than the pod's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostNamespaces {
    /// Network, and with it the host name.
    pub network: bool,
    /// Processes.
    pub pid: bool,
    /// Inter-process communication.
    pub ipc: bool,
    /// Containers of the pod see each other's processes.
    pub share_pid: bool,
}

/// A sandbox as it is (CRI `PodSandboxStatus`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Identifier.
    pub id: String,
    /// Whose it is.
    pub metadata: PodMetadata,
    /// Whether its namespaces are there; false once it was stopped.
    pub is_ready: bool,
    /// When it was made.
    pub created: SystemTime,
    /// Addresses of the pod, the primary one first; empty on the host's network.
    pub addresses: Vec<IpAddr>,
    /// As asked for.
    pub labels: BTreeMap<String, String>,
    /// As asked for.
    pub annotations: BTreeMap<String, String>,
}

/// A container, as asked for (CRI `ContainerConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Name in its pod.
    pub name: String,
    /// How often a container of this name was created in the pod before.
    pub attempt: u32,
    /// Identifier of its image, as [`PodRuntime::pull_image`] or
    /// [`PodRuntime::image`] returned it.
    pub image: String,
    /// Replaces the image's entry point; empty keeps it.
    pub command: Vec<String>,
    /// Replaces the image's arguments; empty keeps them unless there is a
    /// command.
    pub args: Vec<String>,
    /// Where it starts; empty keeps the image's.
    pub working_dir: String,
    /// Variables, in order.
    pub env: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Labels to find it by.
    pub labels: BTreeMap<String, String>,
    /// Whatever its maker wants to keep with it.
    pub annotations: BTreeMap<String, String>,
    /// Whether its standard input is open.
    pub stdin: bool,
    /// Whether that ends with the first client that attached.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// What it may.
    pub security: Security,
    /// Signal that asks it to stop; empty keeps the image's.
    pub stop_signal: String,
}

/// A folder or file of the host in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Path in the container.
    pub container_path: String,
    /// Path on the host; it must exist.
    pub host_path: PathBuf,
    /// Whether the container may not write.
    pub readonly: bool,
    /// Whether mounts come and go with the host's, and the other way round.
    pub propagation: Propagation,
}

/// Which way mounts below a mount are passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Neither way.
    #[default]
    None,
    /// The host's appear in the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// Limits of a container (CRI `LinuxContainerResources`); zero is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Weight of processor time, 2 to 262144.
    pub cpu_shares: u64,
    /// Microseconds of processor time in a period.
    pub cpu_quota: i64,
    /// The period, in microseconds.
    pub cpu_period: u64,
    /// Bytes of memory.
    pub memory_limit: i64,
    /// How willingly the kernel ends it for want of memory, -1000 to 1000.
    pub oom_score_adj: i32,
}

/// What a container may (CRI `LinuxContainerSecurityContext`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// `uid`, `name`, `uid:gid`; empty keeps the image's.
    pub user: String,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// Everything the host may.
    pub privileged: bool,
    /// Whether its root filesystem cannot be written.
    pub readonly_rootfs: bool,
    /// Whether it can never gain rights by executing a file.
    pub no_new_privileges: bool,
    /// Capabilities beyond the default ones, without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken away; `ALL` takes all.
    pub drop_capabilities: Vec<String>,
    /// System calls.
    pub seccomp: Seccomp,
    /// Whether no path of `/proc` is masked or read-only.
    pub unmasked_proc: bool,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The runtime's own list.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
    /// As a profile (a file of the host) says.
    Localhost(PathBuf),
}

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Created, not started.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Exited,
    /// Nobody knows.
    Unknown,
}

/// A container as it is (CRI `ContainerStatus`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Identifier.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// Name in its pod.
    pub name: String,
    /// How often a container of this name was created in the pod before.
    pub attempt: u32,
    /// Where in its life it is.
    pub state: ContainerState,
    /// When it was created.
    pub created: SystemTime,
    /// When its program was started.
    pub started: Option<SystemTime>,
    /// When its program ended.
    pub finished: Option<SystemTime>,
    /// Exit code of a program that has ended; 128 and the signal's number for
    /// one that a signal ended.
    pub exit_code: i32,
    /// Whether it ended for want of memory.
    pub oom_killed: bool,
    /// Why it could not be started; empty when it could.
    pub message: String,
    /// Identifier of its image.
    pub image: String,
    /// As asked for.
    pub labels: BTreeMap<String, String>,
    /// As asked for.
    pub annotations: BTreeMap<String, String>,
}

/// Something happened to a container or sandbox: look at it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unique identifier of the pod.
    pub pod_uid: String,
    /// The container; none when it is the sandbox.
    pub container: Option<String>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Created,
    /// Its program was started.
    Started,
    /// Its program ended, or the sandbox was stopped.
    Stopped,
    /// It was removed.
    Removed,
    /// Events were lost: look at everything again.
    Lost,
}

/// An image as it is (CRI `Image`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Identifier: the digest of its configuration.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// User of its configuration; empty means root.
    pub user: String,
}

/// Who pulls an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name; empty when there is a token or nobody needs to be told.
    pub username: String,
    /// Password.
    pub password: String,
    /// Token that stands for both, from an identity provider.
    pub identity_token: String,
}

/// A program to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether its standard input is open.
    pub stdin: bool,
    /// Whether it has a terminal; then standard error is part of the output.
    pub tty: bool,
}

/// The streams of a program or container.
pub struct Session {
    /// What is written here is its standard input; shut down to end it.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output, in order.
    pub output: BoxStream<'static, Output>,
    /// New sizes of its terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Exit code, when it has ended and all of its output was handed over;
    /// dropped unanswered when nobody knows. Never for an attached container.
    pub exit: Option<oneshot::Receiver<i32>>,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Standard output, or the terminal's.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// Which lines of a log are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only so many of the last ones; none means all.
    pub tail: Option<usize>,
    /// None before this time.
    pub since: Option<SystemTime>,
    /// Go on until the container ends.
    pub follow: bool,
}

/// One line of a log, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written, RFC 3339 with nanoseconds.
    pub time: String,
    /// The text, with its line feed if it has one, and whence it came.
    pub text: Output,
}

/// What a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// The container.
    pub id: String,
    /// Processor time since it was started.
    pub cpu: Duration,
    /// Bytes of memory that cannot be given back.
    pub memory_working_set: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// A connection to a port of a pod.
pub trait PortStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PortStream for T {}

/// Runs pods' containers. All operations are cancel-safe in that a dropped
/// future leaves nothing half done that a repetition would not finish.
#[async_trait]
pub trait PodRuntime: Send + Sync + 'static {
    /// Name and version of the runtime, as `dhow://0.1.0`.
    fn version(&self) -> String;

    /// Makes a sandbox with its network; returns what became of it.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox>;
    /// Ends all its containers by force and takes its network away.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    /// Removes it with all its containers.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    /// All sandboxes.
    async fn sandboxes(&self) -> Result<Vec<Sandbox>>;

    /// Creates a container in a sandbox; returns its identifier.
    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<String>;
    /// Starts a container's program.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Asks a container to stop, and ends it by force after `grace`; returns
    /// when it has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes a container, by force if it runs.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// All containers of all sandboxes.
    async fn containers(&self) -> Result<Vec<Container>>;

    /// What happens from now on.
    fn events(&self) -> BoxStream<'static, Event>;

    /// Runs a program in a container.
    ///
    /// Dropping the session ends neither the program nor the container.
    async fn exec(&self, id: &str, exec: Exec) -> Result<Session>;
    /// Attaches to a container's own streams.
    async fn attach(&self, id: &str, stdin: bool) -> Result<Session>;
    /// Connects to a TCP port of a pod, at its loopback address.
    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<Box<dyn PortStream>>;
    /// Reads a container's log; also of one that has ended.
    async fn logs(&self, id: &str, options: LogOptions) -> Result<BoxStream<'static, LogLine>>;
    /// What all running containers use.
    async fn stats(&self) -> Result<Vec<Stats>>;

    /// Pulls an image; returns what became of it.
    async fn pull_image(&self, image: &str, credentials: Option<Credentials>) -> Result<Image>;
    /// An image that is there.
    async fn image(&self, image: &str) -> Result<Option<Image>>;
    /// All images.
    async fn images(&self) -> Result<Vec<Image>>;
    /// Removes an image.
    async fn remove_image(&self, image: &str) -> Result<()>;
}
