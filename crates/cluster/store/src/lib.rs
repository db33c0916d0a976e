//! The cluster's state in etcd's words: revisions, ranges, transactions that
//! compare mod revisions, watches, compaction.
//!
//! [`Store`] is the seam; [`Embedded`] keeps it on one machine's disk. Nothing
//! here knows Kubernetes but the durability classes; keys and values are the
//! API server's.

mod embedded;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

pub use embedded::{Embedded, Options};

/// A key with its newest value at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, for example `/registry/pods/default/a`.
    pub key: Arc<str>,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that wrote this value.
    pub mod_revision: u64,
    /// How often the key was written since it was created.
    pub version: u64,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put(KeyValue),
    /// The key was deleted at a revision.
    Delete {
        /// The key.
        key: Arc<str>,
        /// The revision of the deletion.
        mod_revision: u64,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// Which keys to read, and as of when.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// The first key.
    pub start: String,
    /// The key after the last one; empty means only `start`.
    pub end: String,
    /// As of this revision; `None` means now.
    pub revision: Option<u64>,
    /// At most so many keys; `None` means all.
    pub limit: Option<usize>,
}

impl Range {
    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self {
            start: prefix.to_owned(),
            end: prefix_end(prefix),
            ..Self::default()
        }
    }
}

/// The first key after all that begin with `prefix`.
pub fn prefix_end(prefix: &str) -> String {
    // A key is text; the largest code point follows every other.
    format!("{prefix}\u{10ffff}")
}

/// What a range found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut it off.
    pub more: bool,
    /// How many keys the whole range has.
    pub count: usize,
    /// The revision it was read at.
    pub revision: u64,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a key.
    Put {
        /// The key.
        key: Arc<str>,
        /// Its value.
        value: Bytes,
    },
    /// Delete a key, if it is there.
    Delete {
        /// The key.
        key: Arc<str>,
    },
    /// Read a key.
    Get {
        /// The key.
        key: Arc<str>,
    },
}

/// When a writer is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once the write survives a power failure.
    #[default]
    Synced,
    /// Once it survives a crash of the process; it rides on the next commit.
    Relaxed,
}

/// Compare mod revisions, then do one list of steps or the other.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Keys and the mod revision each must have; 0 means there is no such key.
    pub compares: Vec<(Arc<str>, u64)>,
    /// Done when all compares hold. A key may be written once.
    pub then: Vec<Op>,
    /// Done otherwise.
    pub otherwise: Vec<Op>,
    /// When the writer is told.
    pub durability: Durability,
}

/// What one step of a transaction found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The key was written.
    Put,
    /// So many keys were deleted.
    Deleted(usize),
    /// The key as read.
    Got(Option<KeyValue>),
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: u64,
    /// One response a step.
    pub responses: Vec<Response>,
}

/// Told when a transaction is over; runs on the store's thread and must not block.
pub type Done = Box<dyn FnOnce(Result<Outcome, StoreError>) + Send>;

/// Why the store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision was compacted away.
    #[error("mvcc: required revision has been compacted (compacted up to {compacted})")]
    Compacted {
        /// Everything before this revision is gone.
        compacted: u64,
    },
    /// The revision has not happened yet.
    #[error("mvcc: required revision {asked} is a future revision, the newest is {newest}")]
    Future {
        /// What was asked.
        asked: u64,
        /// The newest there is.
        newest: u64,
    },
    /// A transaction writes a key twice, or is too large.
    #[error("bad transaction: {0}")]
    BadTransaction(&'static str),
    /// The files of the store cannot be read or written.
    #[error("store {what}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The files are not a store of ours, or damaged.
    #[error("store is damaged: {0}; restore it from a copy")]
    Damaged(String),
    /// Another process has the store open.
    #[error("store {0} is in use by another process")]
    Locked(std::path::PathBuf),
    /// An earlier write failed; what is on disk is known again after a restart.
    #[error("store has failed and takes no more writes; restart the server")]
    Failed,
    /// The store is shutting down.
    #[error("store is closed")]
    Closed,
}

/// What happened since a watch was last asked.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Changes in order of revision.
    pub events: Vec<Arc<Event>>,
    /// Everything up to this revision has been told.
    pub revision: u64,
}

/// A cursor over the changes of a prefix.
pub trait Watch: Send {
    /// Waits at most `timeout` for changes; an empty batch means there were none.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the cursor fell behind what is kept,
    /// [`StoreError::Closed`] when the store goes.
    fn next(&mut self, timeout: Duration) -> Result<Batch, StoreError>;
}

/// A versioned map of keys, as etcd is one.
pub trait Store: Send + Sync {
    /// The newest revision.
    fn revision(&self) -> u64;

    /// Reads one key, now or as of a revision.
    ///
    /// # Errors
    /// When the revision is compacted or in the future, or the disk fails.
    fn get(&self, key: &str, revision: Option<u64>) -> Result<Option<KeyValue>, StoreError>;

    /// Reads a range of keys.
    ///
    /// # Errors
    /// As for [`Store::get`].
    fn range(&self, range: &Range) -> Result<Listing, StoreError>;

    /// Hands in a transaction; `done` is told its outcome.
    fn submit(&self, txn: Txn, done: Done);

    /// Runs a transaction and waits for its outcome.
    ///
    /// # Errors
    /// When the transaction is malformed or the store has failed.
    fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(
            txn,
            Box::new(move |outcome| {
                let _ = sender.send(outcome);
            }),
        );
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Watches keys that begin with `prefix`, from a revision on (0: from now on).
    ///
    /// # Errors
    /// When the revision is compacted.
    fn watch(&self, prefix: &str, from: u64) -> Result<Box<dyn Watch>, StoreError>;

    /// Forgets superseded values before a revision.
    ///
    /// # Errors
    /// When the revision is compacted already or in the future, or the disk fails.
    fn compact(&self, revision: u64) -> Result<(), StoreError>;
}
