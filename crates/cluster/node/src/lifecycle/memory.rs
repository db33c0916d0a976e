//! What a worker remembers of its pod between two looks.
//!
//! All of it may be forgotten: a restarted agent begins with an empty memory
//! and comes to the same end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

/// Where a piece of work is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Step {
    /// Not done.
    #[default]
    Open,
    /// A task is at it.
    Busy,
    /// Done.
    Done,
    /// It failed; to be tried again.
    Failed(Failure),
}

/// Something that did not work and will be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Reason in the status, as `ErrImagePull`.
    pub(crate) reason: String,
    /// What went wrong.
    pub(crate) message: String,
    /// How often in a row.
    pub(crate) count: u32,
    /// When.
    pub(crate) at: SystemTime,
    /// Not before then again.
    pub(crate) until: SystemTime,
}

/// The pod is over before its containers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Reason in the status, as `DeadlineExceeded`.
    pub(crate) reason: String,
    /// In words.
    pub(crate) message: String,
    /// When it was decided.
    pub(crate) at: SystemTime,
}

/// A running container that must be restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condemned {
    /// Time it gets, when the probe has its own idea of it.
    pub(crate) grace: Option<Duration>,
    /// For the event.
    pub(crate) message: String,
}

/// What probes say of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Its startup probe has succeeded, or it has none.
    pub(crate) is_started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub(crate) is_ready: bool,
    /// Its liveness or startup probe has failed for good.
    pub(crate) condemned: Option<Condemned>,
}

/// What a worker remembers of its pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// The pod's object is gone from the API.
    pub(crate) is_gone: bool,
    /// When that, or its deletion, was first seen.
    pub(crate) ending_since: Option<SystemTime>,
    /// The pod was refused or ran out of time.
    pub(crate) verdict: Option<Verdict>,
    /// Volumes and files.
    pub(crate) volumes: Step,
    /// What is in the volumes is out of date.
    pub(crate) stale_volumes: bool,
    /// Something in the volumes ends then (tokens).
    pub(crate) refresh_volumes: Option<SystemTime>,
    /// The making of a sandbox.
    pub(crate) sandbox: Step,
    /// The container that is being started.
    pub(crate) starting: Option<String>,
    /// Starts that failed, by name of the container.
    pub(crate) failures: BTreeMap<String, Failure>,
    /// Containers that are being stopped, by identifier, and when they will
    /// have been.
    pub(crate) stopping: BTreeMap<String, SystemTime>,
    /// Sandboxes and containers that are being stopped or removed otherwise.
    pub(crate) removing: BTreeSet<String>,
    /// What probes say, by identifier.
    pub(crate) health: BTreeMap<String, Health>,
    /// Last words, by identifier.
    pub(crate) messages: BTreeMap<String, String>,
    /// The status after the last container had ended is in the API.
    pub(crate) final_status: bool,
    /// The pod's files are gone.
    pub(crate) cleaned: Step,
    /// The pod's object is gone by our deletion.
    pub(crate) deleted: Step,
}

impl Memory {
    /// What probes say of a container; one without probes is well.
    pub(crate) fn health(&self, id: &str) -> Health {
        self.health.get(id).cloned().unwrap_or(Health {
            is_started: true,
            is_ready: true,
            condemned: None,
        })
    }
}
