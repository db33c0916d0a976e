//! What goes wrong between a bundle and a process.
//!
//! The texts of what callers of runc look for (`container does not exist` and
//! the like) are kept word by word.

use std::io;
use std::path::{Path, PathBuf};

use dhow_cgroup::CgroupError;
use dhow_sys::Errno;
use dhow_systemd::SystemdError;

use crate::Status;
use crate::seccomp::SeccompError;

/// A failed operation of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The configuration asks for something that cannot be.
    #[error("invalid configuration: {field}: {problem}")]
    Spec {
        /// Where in `config.json`.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// `config.json` is no JSON of the right shape.
    #[error("parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A file or directory failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{action}")]
    Sys {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// A control group failed.
    #[error("control group")]
    Cgroup(#[from] CgroupError),
    /// Systemd does not keep the control group.
    #[error("control group")]
    Systemd(#[from] SystemdError),
    /// The system-call filter cannot be made.
    #[error("seccomp")]
    Seccomp(#[from] SeccompError),
    /// The child failed to carry out a step of the plan.
    #[error("unable to start container process: {step}")]
    Step {
        /// What it was about to do.
        step: String,
        /// What the kernel said.
        source: Errno,
    },
    /// The program cannot be executed.
    #[error("unable to start container process: exec: \"{name}\": {}", reason(name, *.errno))]
    Program {
        /// The program as it was named.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// A network device cannot be moved.
    #[error("move network device {device}")]
    NetDevice {
        /// Its name outside.
        device: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A hook failed.
    #[error("error running hook {}: {problem}", path.display())]
    Hook {
        /// The program.
        path: PathBuf,
        /// How it ended.
        problem: String,
    },
    /// The child ended without saying why.
    #[error("container process died before it was ready ({0})")]
    Died(String),
    /// The identifier is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// No container of that identifier.
    #[error("container does not exist")]
    NotFound,
    /// Not an identifier.
    #[error("invalid container ID format: letters, digits and _+-. up to 1024, not {0:?}")]
    Id(String),
    /// There is no process any more.
    #[error("container not running")]
    NotRunning,
    /// Not in the state the container is in.
    #[error("cannot {action} a container that is {status}")]
    State {
        /// What was asked for.
        action: &'static str,
        /// How it stands.
        status: Status,
    },
}

fn reason(name: &str, error: Errno) -> String {
    match error {
        Errno::NOENT if !name.contains('/') => "executable file not found in $PATH".to_owned(),
        Errno::NOENT => format!("stat {name}: no such file or directory"),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::ISDIR => "is a directory: permission denied".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        error => error.to_string(),
    }
}

/// Result of an operation of the runtime.
pub type Result<T> = std::result::Result<T, RuntimeError>;

impl RuntimeError {
    pub(crate) fn spec(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Spec {
            field: field.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// For `map_err` after a system call.
    pub(crate) fn sys(action: &'static str) -> impl Fn(Errno) -> Self {
        move |source| Self::Sys { action, source }
    }

    /// Whether the program was not found, as a shell's code 127 says.
    #[must_use]
    pub fn is_command_not_found(&self) -> bool {
        matches!(
            self,
            Self::Program {
                errno: Errno::NOENT | Errno::NOTDIR,
                ..
            }
        )
    }

    /// Whether the program cannot be executed, as a shell's code 126 says.
    #[must_use]
    pub fn is_command_not_executable(&self) -> bool {
        matches!(self, Self::Program { .. }) && !self.is_command_not_found()
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some errors speak for their cause already.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
