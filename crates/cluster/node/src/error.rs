//! Why the agent could not do something.

use crate::runtime::RuntimeError;

/// Why the agent could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("kubernetes API")]
    Api(#[from] kube::Error),
    /// The containers' side refused.
    #[error("pod runtime")]
    Runtime(#[from] RuntimeError),
    /// An agent runs once.
    #[error("the agent was run before")]
    Twice,
    /// A file of a pod could not be made.
    #[error("{0}")]
    File(String, #[source] std::io::Error),
}
