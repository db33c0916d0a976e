//! Why an operation of the engine failed, in the words Docker users know.

use std::io;
use std::path::PathBuf;

/// Why an operation failed. What it had begun is undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this name or id.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// No exec has this id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// No sandbox has this id.
    #[error("No such sandbox: {0}")]
    NoSuchSandbox(String),
    /// There is nothing at a path in a container.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile {
        /// The container, as it was named.
        container: String,
        /// The path.
        path: String,
    },
    /// A container's root filesystem cannot be written.
    #[error("container rootfs is marked read-only")]
    ReadOnly,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The request does not fit the state that things are in.
    #[error("{0}")]
    Conflict(String),
    /// The container is in the state asked for already.
    #[error("container is already {0}")]
    Already(&'static str),
    /// The program was not found, or cannot be executed; `code` is what a
    /// shell would say: 127 or 126.
    #[error("failed to create task for container: {message}")]
    Command {
        /// 126 or 127.
        code: i32,
        /// What the runtime says.
        message: String,
    },
    /// The runtime refused.
    #[error("failed to create task for container: {0}")]
    Runtime(String),
    /// The shim could not be reached.
    #[error("the container's supervisor does not answer: {0}")]
    Shim(String),
    /// An image could not be used.
    #[error(transparent)]
    Image(#[from] dhow_image::Error),
    /// A network could not be used.
    #[error(transparent)]
    Network(#[from] dhow_network::Error),
    /// A volume could not be used.
    #[error(transparent)]
    Volume(#[from] dhow_volume::Error),
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What operations of the engine return.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds the action and the path to an I/O error.
pub(crate) fn at(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File {
        action,
        path,
        source,
    }
}
