//! What goes wrong with systemd.

use std::io;
use std::path::PathBuf;

/// A failed conversation with systemd.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The machine was not started by systemd.
    #[error(
        "systemd not running on this host, cannot use systemd cgroups manager; \
         leave --systemd-cgroup out, or choose the cgroupfs driver"
    )]
    Absent,
    /// Neither systemd's socket nor the system bus takes us.
    #[error("connect to systemd at {}", path.display())]
    Connect {
        /// The last socket that was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("speak to systemd")]
    Io(#[from] io::Error),
    /// What came is no message of D-Bus, or not the one expected.
    #[error("systemd's answer makes no sense: {0}")]
    Garbled(&'static str),
    /// Systemd refused.
    #[error("systemd refuses {call}: {message} ({name})")]
    Refused {
        /// The method.
        call: &'static str,
        /// The error's name.
        name: String,
        /// Systemd's reason.
        message: String,
    },
    /// A job of systemd ended otherwise than well.
    #[error("systemd's job for unit {unit} ended with {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// `failed`, `canceled`, `timeout`, `dependency` or `skipped`.
        result: String,
    },
    /// A job of systemd did not end in time.
    #[error("systemd's job for unit {0} does not end")]
    Stuck(String),
    /// No name of a slice.
    #[error("{0:?} is no name of a slice: it ends with .slice and has single dashes between words")]
    Slice(String),
}

impl SystemdError {
    /// Whether systemd said this error, by the end of its name.
    pub(crate) fn is_named(&self, end: &str) -> bool {
        matches!(self, Self::Refused { name, .. }
            if name.rsplit('.').next() == Some(end))
    }
}

/// Result of a conversation with systemd.
pub(crate) type Result<T> = std::result::Result<T, SystemdError>;
