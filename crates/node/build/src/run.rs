//! The seam to whoever runs commands: RUN needs a container, and the builder
//! has none.

use bytes::Bytes;
use dhow_image::Rootfs;
use tokio::sync::mpsc;

/// A command to be run in a root filesystem, to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRequest {
    /// Name of the root filesystem in the image store; fit for a container's
    /// name as well.
    pub name: String,
    /// Its parts. Whatever is written goes to the upper directory.
    pub rootfs: Rootfs,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, complete but for what every container has.
    pub env: Vec<String>,
    /// Absolute path of the working directory; exists.
    pub cwd: String,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty is root.
    pub user: String,
    /// `default`, `none` or `host`.
    pub network: String,
    /// What the command reads; closed after it.
    pub stdin: Option<Bytes>,
}

/// Runs commands for the builder.
#[async_trait::async_trait]
pub trait RunStep: Send + Sync {
    /// Runs the command to its end and returns its exit code (128 + signal if
    /// it was killed). Output goes to `output` as it comes; nothing of the
    /// container is left but what it wrote to its upper directory, also when
    /// the future is dropped.
    ///
    /// # Errors
    /// A text for the user, if it could not be started.
    async fn run(&self, request: RunRequest, output: mpsc::Sender<Bytes>) -> Result<i32, String>;
}
