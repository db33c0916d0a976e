//! The daemon's side of a shim's socket, for tokio.
//!
//! A [`Shim`] is a handle on one supervised container: cheap to clone, usable
//! from many tasks at once. Every method is cancel-safe in the sense that the
//! connection stays in order; whether a cancelled request took effect is told
//! by [`Shim::state`]. Not here: what to do about events; that is the engine's.

mod connection;
mod input;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use dhow_cgroup::Stats;
use dhow_runtime::spec::Resources;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::Moment;
use crate::wire::{
    Answer, Attach, COMPLAINTS, Event, ExecSpec, ExitRecord, Failure, Reach, Request, Running,
    SOCKET, SPEC, ShimSpec, State, Target, VERSION,
};
use connection::Connection;
pub use input::Input;

/// What goes wrong between a daemon and a shim.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim answered that it could not or would not.
    #[error("shim refused")]
    Refused(#[from] Failure),
    /// The shim is gone: it ended, or closed the connection.
    #[error("shim is gone{}", .complaint.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Gone {
        /// The last line it wrote to its complaints, if any.
        complaint: Option<String>,
    },
    /// The shim speaks another version of the protocol.
    #[error("shim speaks version {theirs} of the protocol, this is {VERSION}")]
    Version {
        /// What it speaks.
        theirs: u32,
    },
    /// The shim answered something else than the request has for an answer.
    #[error("shim answered out of turn")]
    Protocol,
    /// Files or sockets failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ShimError {
    /// The shim's own answer, if it was one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure),
            _ => None,
        }
    }
}

/// The executable that supervises containers, as it was when it was opened: a
/// new version on disk is for the next daemon.
#[derive(Debug)]
pub struct Executable {
    path: PathBuf,
    /// The same on a read-only mount of its own, from which a shim need not
    /// start itself over. Kept, since the kernel takes its time to end a mount.
    protected: Option<OwnedFd>,
}

impl Executable {
    /// Opens the `dhow-runtime` executable at `path`.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            protected: dhow_sys::protect::read_only(path).ok(),
        }
    }

    /// By what path it is started.
    fn program(&self) -> PathBuf {
        match &self.protected {
            Some(file) => dhow_sys::resolve::descriptor_path(file.as_fd()),
            None => self.path.clone(),
        }
    }
}

/// A handle on the shim of one container.
#[derive(Debug, Clone)]
pub struct Shim {
    connection: Arc<Connection>,
    dir: PathBuf,
    pid: i32,
}

/// Events of one shim, in order. Whoever holds it must read it: the shim drops
/// a connection that does not keep up.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event; none when the shim has ended or the connection broke.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

impl Shim {
    /// Writes the specification into the shim's directory (made if absent, mode
    /// 0700) and starts `executable shim --dir DIR` there.
    ///
    /// # Errors
    ///
    /// [`ShimError::Io`] if files or the program cannot be used,
    /// [`ShimError::Gone`] if the shim gave up at once.
    pub async fn launch(
        executable: &Executable,
        spec: &ShimSpec,
    ) -> Result<(Self, Events), ShimError> {
        let dir = &spec.dir;
        make_dir(dir).map_err(|source| io_error("make directory", dir, source))?;
        let path = dir.join(SPEC);
        let text =
            serde_json::to_vec(spec).map_err(|error| io_error("write", &path, error.into()))?;
        std::fs::write(&path, text).map_err(|source| io_error("write", &path, source))?;
        let complaints = dir.join(COMPLAINTS);
        let stderr = std::fs::File::create(&complaints)
            .map_err(|source| io_error("create", &complaints, source))?;

        let pair = || -> io::Result<(UnixStream, OwnedFd)> {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs.into()))
        };
        let (ours, theirs) = pair().map_err(|source| io_error("make a socket for", dir, source))?;
        // Nothing here that keeps the child from sharing the daemon's memory
        // until it executes: copying page tables takes longer than the rest.
        let mut child = Command::new(executable.program())
            .arg0(&executable.path)
            .arg("shim")
            .arg("--dir")
            .arg(dir)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(stderr))
            .spawn()
            .map_err(|source| io_error("start", &executable.path, source))?;
        // Somebody has to collect it; after a restart of the daemon that is init.
        tokio::spawn(async move { child.wait().await });
        Self::greet(ours, dir).await
    }

    /// Connects to the shim that serves a directory.
    ///
    /// # Errors
    ///
    /// [`ShimError::Gone`] if no shim serves there (any more).
    pub async fn connect(dir: &Path) -> Result<(Self, Events), ShimError> {
        let stream = dial(dir).await?;
        Self::greet(stream, dir).await
    }

    async fn greet(stream: UnixStream, dir: &Path) -> Result<(Self, Events), ShimError> {
        let (connection, receiver) = Connection::open(stream, dir.to_owned());
        let hello = Request::Hello {
            version: VERSION,
            events: true,
        };
        match connection.ask(hello).await? {
            Answer::Hello {
                version: VERSION,
                pid,
            } => Ok((
                Self {
                    connection: Arc::new(connection),
                    dir: dir.to_owned(),
                    pid,
                },
                Events { receiver },
            )),
            Answer::Hello {
                version: theirs, ..
            } => Err(ShimError::Version { theirs }),
            _ => Err(ShimError::Protocol),
        }
    }

    /// The shim's own process identifier.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The shim's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    async fn done(&self, request: Request) -> Result<(), ShimError> {
        match self.connection.ask(request).await? {
            Answer::Done => Ok(()),
            _ => Err(ShimError::Protocol),
        }
    }

    async fn started(&self, request: Request) -> Result<i32, ShimError> {
        match self.connection.ask(request).await? {
            Answer::Pid { pid } => Ok(pid),
            _ => Err(ShimError::Protocol),
        }
    }

    /// Makes the container, up to but without its program; returns the process
    /// identifier the program will have. Network namespaces exist from here on.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] with the runtime's reason.
    pub async fn create(&self) -> Result<i32, ShimError> {
        self.started(Request::Create).await
    }

    /// Lets the program run.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] with the runtime's reason, of kind `CommandNotFound`
    /// or `CommandNotExecutable` if it is the program's fault.
    pub async fn start(&self) -> Result<(), ShimError> {
        self.done(Request::Start).await
    }

    /// How things stand.
    ///
    /// # Errors
    ///
    /// [`ShimError::Gone`] if the shim is.
    pub async fn state(&self) -> Result<State, ShimError> {
        match self.connection.ask(Request::State).await? {
            Answer::State(state) => Ok(*state),
            _ => Err(ShimError::Protocol),
        }
    }

    /// Sends a signal to the target, or to everyone in the container.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `State` if the target does not run.
    pub async fn signal(&self, target: Target, signal: i32, reach: Reach) -> Result<(), ShimError> {
        self.done(Request::Signal {
            target,
            signal,
            reach,
        })
        .await
    }

    /// Sets the size of a terminal, in characters.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] if the target has no terminal.
    pub async fn resize(&self, target: Target, rows: u16, columns: u16) -> Result<(), ShimError> {
        self.done(Request::Resize {
            target,
            rows,
            columns,
        })
        .await
    }

    /// Prepares an exec. Attach to it before [`Self::exec_start`] and no output is lost.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `Exists`, `State` or `Invalid`.
    pub async fn exec(&self, spec: ExecSpec) -> Result<(), ShimError> {
        self.done(Request::Exec(Box::new(spec))).await
    }

    /// Runs a prepared exec; returns its process identifier.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub async fn exec_start(&self, exec: &str) -> Result<i32, ShimError> {
        self.started(Request::ExecStart {
            exec: exec.to_owned(),
        })
        .await
    }

    /// Forgets an exec that does not run.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `NotFound` or `State`.
    pub async fn exec_delete(&self, exec: &str) -> Result<(), ShimError> {
        self.done(Request::ExecDelete {
            exec: exec.to_owned(),
        })
        .await
    }

    /// Opens a connection that carries the streams of a process.
    ///
    /// The output is Docker's multiplexed stream (eight bytes of header before
    /// each piece) without a terminal, and the bare bytes with one. Its end comes when the target has ended and everything it
    /// wrote was sent. A client that does not read stops the container's output.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `NotFound` or `State`.
    pub async fn attach(&self, attach: Attach) -> Result<Streams, ShimError> {
        let stream = dial(&self.dir).await?;
        connection::attach(stream, attach, &self.dir).await
    }

    /// Waits until the target has ended.
    ///
    /// # Errors
    ///
    /// [`ShimError::Gone`] if the shim ends first.
    pub async fn wait(&self, target: Target) -> Result<ExitRecord, ShimError> {
        match self.connection.ask(Request::Wait { target }).await? {
            Answer::Exit(exit) => Ok(exit),
            _ => Err(ShimError::Protocol),
        }
    }

    /// Use of resources.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `State` if there is no container.
    pub async fn stats(&self) -> Result<Stats, ShimError> {
        match self.connection.ask(Request::Stats).await? {
            Answer::Stats(stats) => Ok(*stats),
            _ => Err(ShimError::Protocol),
        }
    }

    /// Process identifiers of everything in the container, as seen from the shim.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `State` if there is no container.
    pub async fn processes(&self) -> Result<Vec<i32>, ShimError> {
        match self.connection.ask(Request::Processes).await? {
            Answer::Processes { pids } => Ok(pids),
            _ => Err(ShimError::Protocol),
        }
    }

    /// Freezes the container.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `State` if it does not run.
    pub async fn pause(&self) -> Result<(), ShimError> {
        self.done(Request::Pause).await
    }

    /// Thaws the container.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `State` if it is not frozen.
    pub async fn resume(&self) -> Result<(), ShimError> {
        self.done(Request::Resume).await
    }

    /// Changes the limits that are present.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] with the kernel's reason.
    pub async fn update(&self, resources: Resources) -> Result<(), ShimError> {
        self.done(Request::Update {
            resources: Box::new(resources),
        })
        .await
    }

    /// Removes the container: its control group, the runtime's state and the
    /// shim's directory with everything in it. The shim ends.
    ///
    /// # Errors
    ///
    /// [`ShimError::Refused`] of kind `State` if it runs and is not to be killed.
    pub async fn delete(&self, running: Running) -> Result<Option<ExitRecord>, ShimError> {
        match self.connection.ask(Request::Delete { running }).await? {
            Answer::Exit(exit) => Ok(Some(exit)),
            Answer::Done => Ok(None),
            _ => Err(ShimError::Protocol),
        }
    }
}

/// The streams of a process.
#[derive(Debug)]
pub struct Streams {
    /// What the process writes; nothing of it was read ahead.
    pub output: OwnedReadHalf,
    /// What it reads.
    pub input: Input,
    /// Whether it carries bare bytes (a terminal) or Docker's frames.
    pub terminal: bool,
    /// What was logged until then is not in the streams.
    pub since: Option<Moment>,
}

fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> ShimError {
    ShimError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Connects to a directory's socket. The path goes through a descriptor, since
/// a socket's address has room for 107 bytes only.
async fn dial(dir: &Path) -> Result<UnixStream, ShimError> {
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ShimError::Gone {
            complaint: connection::complaint(dir),
        },
        _ => io_error("connect to the shim of", dir, error),
    };
    let directory = std::fs::File::open(dir).map_err(gone)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_fd().as_raw_fd());
    UnixStream::connect(path).await.map_err(gone)
}
