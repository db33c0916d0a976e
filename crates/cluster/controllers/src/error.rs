//! Why a reconciliation failed; it is tried again.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or could not be reached.
    #[error("the API server refused")]
    Api(#[from] kube::Error),
    /// The object lacks what the API promises.
    #[error("{0} is incomplete: it has no {1}")]
    Incomplete(&'static str, &'static str),
}

impl Error {
    /// Whether somebody else wrote first: to be expected, and cured by looking
    /// again.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Error::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// When a failed reconciliation is tried again.
pub(crate) fn again<K, C>(_object: Arc<K>, error: &Error, _context: Arc<C>) -> Action {
    if error.is_conflict() {
        Action::requeue(Duration::from_millis(50))
    } else {
        tracing::warn!(%error, cause = ?std::error::Error::source(error), "reconciliation failed");
        Action::requeue(Duration::from_secs(2))
    }
}
