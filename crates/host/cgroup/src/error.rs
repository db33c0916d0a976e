//! What goes wrong with control groups.

use std::io;
use std::path::{Path, PathBuf};

/// A failed operation on a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or directory of a group failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A limit was refused.
    #[error("set {} to {value:?}", path.display())]
    Limit {
        /// The file it is set by.
        path: PathBuf,
        /// The value.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// A path that is no path of a group: it must have names only, at least one.
    #[error("{} is no path of a control group", .0.display())]
    Path(PathBuf),
    /// The machine has no control groups mounted.
    #[error("no control groups are mounted at /sys/fs/cgroup or elsewhere")]
    None,
    /// What is asked for needs a controller the machine does not have.
    #[error("this machine has no {controller} controller, which {limit} needs")]
    Missing {
        /// The controller.
        controller: &'static str,
        /// What was asked for.
        limit: &'static str,
    },
    /// A limit of memory and swap together that version 2, where swap has a limit of
    /// its own, has no word for.
    #[error("{0}")]
    Swap(&'static str),
    /// Processes are still in a group that is to be removed.
    #[error("processes are still in {}", .0.display())]
    Busy(PathBuf),
}

impl CgroupError {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Result of an operation on a control group.
pub(crate) type Result<T> = std::result::Result<T, CgroupError>;
