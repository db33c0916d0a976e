//! One container in memory: its record, its shim while it has one, and those
//! who wait for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dhow_shim::client::Shim;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use crate::attach::{AttachOptions, Attached};
use crate::error::Result;
use crate::exec::Exec;
use crate::keep::Keeper;
use crate::record::Record;

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// That it does not run; returns at once if so.
    NotRunning,
    /// The end of the run that goes on or comes next.
    NextExit,
    /// Its removal.
    Removed,
}

/// How a wait ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// Exit code of the container's program.
    pub exit_code: i32,
    /// Why it could not be started; empty if it could.
    pub error: String,
}

/// How often a container's program has ended, and how it did last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends {
    pub(crate) count: u64,
    pub(crate) last: Ended,
    pub(crate) removed: bool,
}

/// A client that attached before the container was started.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) options: AttachOptions,
    pub(crate) answer: oneshot::Sender<Result<Attached>>,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// `DATA/containers/ID`.
    pub(crate) folder: PathBuf,
    /// `RUN/containers/ID`.
    pub(crate) run: PathBuf,
    /// Held while somebody starts, stops or removes it.
    pub(crate) operation: tokio::sync::Mutex<()>,
    record: watch::Sender<Arc<Record>>,
    pub(crate) keeper: Keeper,
    pub(crate) ends: watch::Sender<Ends>,
    pub(crate) shim: Mutex<Option<Shim>>,
    pub(crate) waiting: Mutex<Vec<Waiting>>,
    pub(crate) execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    /// Wakes a restart that waits out its back-off.
    pub(crate) restart_now: Notify,
}

impl Container {
    pub(crate) fn new(record: Record, folder: PathBuf, run: PathBuf) -> Self {
        Self {
            id: record.id.clone(),
            keeper: Keeper::new(folder.clone()),
            folder,
            run,
            operation: tokio::sync::Mutex::default(),
            record: watch::Sender::new(Arc::new(record)),
            ends: watch::Sender::default(),
            shim: Mutex::default(),
            waiting: Mutex::default(),
            execs: Mutex::default(),
            restart_now: Notify::new(),
        }
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.borrow())
    }

    /// Told of each change of the record.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Record>> {
        self.record.subscribe()
    }

    /// Changes the record, on disk first; not at all if nothing is other than
    /// before, or if it cannot be written.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Record)) -> Result<Arc<Record>> {
        self.alter(change, false).map(|()| self.record())
    }

    /// Notes what has happened already, or must happen though the disk is full: in
    /// memory in any case. If it cannot be written, that is logged; a crash of the
    /// daemon forgets it then.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Record)) -> Arc<Record> {
        if let Err(error) = self.alter(change, true) {
            tracing::warn!(container = self.id, %error, "what happened is not recorded");
        }
        self.record()
    }

    fn alter(&self, change: impl FnOnce(&mut Record), in_any_case: bool) -> Result<()> {
        let mut written = Ok(());
        self.record.send_modify(|record| {
            let mut changed = Record::clone(record);
            change(&mut changed);
            if changed == **record {
                return;
            }
            written = self.keeper.write(&changed);
            if written.is_ok() || in_any_case {
                *record = Arc::new(changed);
            }
        });
        written
    }

    /// Writes down what the record is about to become, for whoever reads it after a
    /// crash; in memory it stays as it is.
    pub(crate) fn foretell(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut written = Ok(());
        self.record.send_if_modified(|record| {
            let mut changed = Record::clone(record);
            change(&mut changed);
            written = self.keeper.write(&changed);
            false
        });
        written
    }

    /// Changes the record in memory alone, as long as the daemon lives.
    pub(crate) fn change_in_memory(&self, change: impl FnOnce(&mut Record)) -> Arc<Record> {
        self.record
            .send_modify(|record| change(Arc::make_mut(record)));
        self.record()
    }

    /// The shim, while there is one.
    pub(crate) fn shim(&self) -> Option<Shim> {
        self.shim.lock().clone()
    }
}
