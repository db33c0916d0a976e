//! What crosses a shim's socket: frames, requests, replies, events.
//!
//! A frame is its length (big endian, 32 bits, at most [`MAX_FRAME`]) and that
//! much JSON. The first request of a connection is [`Request::Hello`]. After the
//! reply to [`Request::Attach`] the connection carries no frames any more but
//! the streams themselves (`docs/design/shim.md`, "Attach").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dhow_cgroup::Stats;
use dhow_runtime::spec::{Process, Resources};
use dhow_runtime::{Groups, RootSource};
use serde::{Deserialize, Serialize};

use crate::Moment;

/// Version of the protocol and of the files in the shim's directory.
pub const VERSION: u32 = 2;

/// Longest body of a frame, in bytes.
pub const MAX_FRAME: usize = 4 << 20;

/// Name of the socket in the shim's directory.
pub const SOCKET: &str = "shim.sock";

/// Name of the file with the [`ShimSpec`] in the shim's directory.
pub const SPEC: &str = "shim.json";

/// Name of the file with the [`ExitRecord`] in the shim's directory.
pub const EXIT: &str = "exit.json";

/// Name of the file that takes the shim's own complaints.
pub const COMPLAINTS: &str = "shim.log";

/// Everything a shim needs to know about its container.
///
/// The bundle's `config.json` says the rest; `process.terminal` of it decides
/// whether the container has a terminal, `linux.cgroupsPath` its control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimSpec {
    /// Always [`VERSION`].
    pub version: u32,
    /// Container identifier.
    pub id: String,
    /// Directory with `config.json`.
    pub bundle: PathBuf,
    /// Directory below which the runtime keeps its state.
    pub runtime_root: PathBuf,
    /// The shim's own directory (socket, exit record); one per container.
    pub dir: PathBuf,
    /// Where the root filesystem comes from.
    pub root: RootSource,
    /// What becomes of the standard input.
    pub stdin: Stdin,
    /// Where the output goes, besides those who attach.
    pub log: LogSpec,
    /// Who makes the container's control group; the runtime, where nothing is said.
    #[serde(default)]
    pub groups: Groups,
}

/// What becomes of a standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// Nothing to read: `/dev/null`.
    #[default]
    Closed,
    /// Open as long as the process lives.
    Open,
    /// Open until the first client that attached to it says that there is no more.
    Once,
}

/// Where a container's output is kept, besides going to those who attach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogSpec {
    /// A file that can be read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<LogFileSpec>,
    /// The system's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalSpec>,
}

/// A log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogFileSpec {
    /// The newest file; older ones get `.1`, `.2` and so on behind it, and
    /// `.gz` when they are compressed.
    pub path: PathBuf,
    /// What stands in it.
    pub form: LogForm,
    /// Bytes after which a file is rotated; absent is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// How many files are kept, the newest included; at least 1.
    pub max_files: u32,
    /// Whether older files are compressed.
    #[serde(default)]
    pub compress: bool,
    /// Attributes written into every line (`attrs`), in the form `json-file`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// What stands in a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogForm {
    /// Entries of [`crate::entry`]: exact bytes.
    Local,
    /// Lines of `{"log":…,"stream":…,"time":…}`, as Docker's driver of that name.
    JsonFile,
}

/// The system's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalSpec {
    /// Its socket for datagrams.
    pub socket: PathBuf,
    /// Fields that every line carries.
    pub fields: BTreeMap<String, String>,
}

/// A further program in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecSpec {
    /// Identifier, unique among the container's execs.
    pub id: String,
    /// The program. Capabilities are exactly those named here.
    pub process: Process,
    /// Whether it gets a standard input; it ends when the client that attached says so.
    pub stdin: bool,
}

/// Whom a request is about: the container's first program or one of the execs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Option<String>", into = "Option<String>")]
pub enum Target {
    /// The container's first program.
    Container,
    /// The exec of that identifier.
    Exec(String),
}

impl From<Option<String>> for Target {
    fn from(exec: Option<String>) -> Self {
        exec.map_or(Self::Container, Self::Exec)
    }
}

impl From<Target> for Option<String> {
    fn from(target: Target) -> Self {
        match target {
            Target::Container => None,
            Target::Exec(exec) => Some(exec),
        }
    }
}

/// A request with the number its reply will carry.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Chosen by the client; unique among the requests under way.
    pub id: u64,
    /// The request.
    pub request: Request,
}

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum Request {
    /// First of each connection. Answered with [`Answer::Hello`].
    Hello {
        /// The client's [`VERSION`].
        version: u32,
        /// Whether this connection is sent events.
        events: bool,
    },
    /// Makes the container, up to but without its program. [`Answer::Pid`].
    Create,
    /// Lets the program run. [`Answer::Done`].
    Start,
    /// [`Answer::State`].
    State,
    /// Sends a signal. [`Answer::Done`].
    Signal {
        /// To whom.
        target: Target,
        /// Signal number.
        signal: i32,
        /// Whether every process of the container gets it.
        reach: Reach,
    },
    /// Sets the size of a terminal. [`Answer::Done`].
    Resize {
        /// Whose terminal.
        target: Target,
        /// Rows, in characters.
        rows: u16,
        /// Columns, in characters.
        columns: u16,
    },
    /// Prepares an exec, so that clients can attach before it runs. [`Answer::Done`].
    Exec(Box<ExecSpec>),
    /// Runs a prepared exec. [`Answer::Pid`].
    ExecStart {
        /// Its identifier.
        exec: String,
    },
    /// Forgets an exec that is not running. [`Answer::Done`].
    ExecDelete {
        /// Its identifier.
        exec: String,
    },
    /// Turns the connection into the streams of a process. [`Answer::Attached`], then streams.
    Attach(Attach),
    /// Answered with [`Answer::Exit`] when the target has ended.
    Wait {
        /// Whom to wait for.
        target: Target,
    },
    /// [`Answer::Stats`].
    Stats,
    /// Every process of the container. [`Answer::Processes`].
    Processes,
    /// Freezes the container. [`Answer::Done`].
    Pause,
    /// Thaws the container. [`Answer::Done`].
    Resume,
    /// Changes the limits. [`Answer::Done`].
    Update {
        /// Only what is present is changed.
        resources: Box<Resources>,
    },
    /// Removes a stopped container and ends the shim. [`Answer::Exit`] or [`Answer::Done`].
    Delete {
        /// What to do with a container that still runs.
        running: Running,
    },
}

/// How far a signal reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// The target alone.
    #[default]
    Process,
    /// Every process in the container.
    Everyone,
}

/// What a removal does with a container that still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Running {
    /// The removal is refused.
    #[default]
    Refuse,
    /// The container is killed.
    Kill,
}

/// Which streams a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Whose streams.
    pub target: Target,
    /// Whether what the client sends becomes standard input.
    pub stdin: bool,
    /// Whether the client gets the standard output (of a terminal: everything).
    pub stdout: bool,
    /// Whether the client gets the standard error.
    pub stderr: bool,
}

/// What a shim sends on a connection for requests.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", untagged)]
pub enum Message {
    /// The answer to a request.
    Answer {
        /// Number of the request.
        id: u64,
        /// The answer.
        ok: Answer,
    },
    /// The request failed.
    Failure {
        /// Number of the request.
        id: u64,
        /// Why.
        error: Failure,
    },
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
}

/// Answers to requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// Done.
    Done,
    /// The shim speaks this version.
    Hello {
        /// The shim's [`VERSION`].
        version: u32,
        /// Process identifier of the shim.
        pid: i32,
    },
    /// A process was made.
    Pid {
        /// Its identifier in the shim's PID namespace.
        pid: i32,
    },
    /// How things stand.
    State(Box<State>),
    /// The streams follow.
    Attached {
        /// Raw bytes if the target has a terminal, Docker's frames if not.
        terminal: bool,
        /// When: what was logged until then is not in the streams.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Moment>,
    },
    /// The target has ended.
    Exit(ExitRecord),
    /// Use of resources.
    Stats(Box<Stats>),
    /// Processes of the container, in the shim's PID namespace.
    Processes {
        /// Their identifiers.
        pids: Vec<i32>,
    },
}

/// A refused or failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What sort of failure.
    pub kind: FailureKind,
    /// What, why, and the way out, in one line.
    pub message: String,
}

/// Sorts of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request itself is wrong.
    Invalid,
    /// No exec of that identifier.
    NotFound,
    /// The identifier is taken.
    Exists,
    /// Not in the state the container or exec is in.
    State,
    /// The program was not found (a shell would say 127).
    CommandNotFound,
    /// The program cannot be executed (a shell would say 126).
    CommandNotExecutable,
    /// The kernel or the configuration does not allow it.
    Runtime,
}

/// What is announced to connections that asked for events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Event {
    /// The container's program runs.
    Started {
        /// Its process identifier.
        pid: i32,
    },
    /// The container's program has ended, its output is in the log, and the record is on disk.
    Exited {
        /// How.
        exit: ExitRecord,
    },
    /// An exec's program runs.
    ExecStarted {
        /// Its identifier.
        exec: String,
        /// Its process identifier.
        pid: i32,
    },
    /// An exec's program has ended.
    ExecExited {
        /// Its identifier.
        exec: String,
        /// How.
        exit: ExitRecord,
    },
    /// The kernel killed a process of the container for want of memory.
    Oom,
    /// The container was frozen.
    Paused,
    /// The container was thawed.
    Resumed,
}

/// How a process ended; the form on disk as well (`docs/design/shim.md`, "exit.json").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// Always [`VERSION`].
    pub version: u32,
    /// Process identifier it had.
    pub pid: i32,
    /// Exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom: bool,
    /// When the program was started; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Moment>,
    /// When the end was noticed.
    pub finished_at: Moment,
}

/// How a container stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Where in its life it is.
    pub status: Status,
    /// Process identifier of the first program, while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// When the program was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Moment>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
    /// Its execs, running and ended.
    pub execs: Vec<ExecState>,
}

/// Places in a container's life, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The shim runs, nothing else.
    Empty,
    /// Made, the program not yet started.
    Created,
    /// The program runs.
    Running,
    /// Frozen.
    Paused,
    /// The program has ended.
    Stopped,
}

/// How an exec stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecState {
    /// Its identifier.
    pub id: String,
    /// Its process identifier; absent before it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// How it ended; absent before it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}

/// The exit record a shim left in its directory, if the container has ended.
///
/// # Errors
///
/// What reading the file says, or `InvalidData` if it is not a record of this version.
pub fn read_exit(dir: &Path) -> std::io::Result<Option<ExitRecord>> {
    let text = match std::fs::read(dir.join(EXIT)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record: ExitRecord = serde_json::from_slice(&text)?;
    if record.version != VERSION {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!(
                "exit record of version {}, this is {VERSION}",
                record.version
            ),
        ));
    }
    Ok(Some(record))
}
