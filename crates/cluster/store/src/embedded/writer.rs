//! The thread that commits: takes everything queued, evaluates it in order,
//! appends it with one write and makes it durable with one sync.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::index::Version;
use super::log::{self, Entry, Place};
use crate::{Done, Durability, Event, KeyValue, Op, Outcome, Response, StoreError, Txn};

/// What waits for the writer.
#[derive(Default)]
pub(crate) struct Queue {
    pub jobs: VecDeque<(Txn, Done)>,
    /// A compaction wants the active segment sealed; it is told the new one.
    pub seal: Option<std::sync::mpsc::SyncSender<u32>>,
    pub closing: bool,
}

/// One commit takes at most so many transactions.
const MOST_IN_COMMIT: usize = 1024;
/// Relaxed writes are synced after at most this long.
const RELAXED_SYNC: Duration = Duration::from_secs(1);
/// And after at most so many of them.
const RELAXED_MOST: u64 = super::CRASH_GAP / 2;

struct Writer<'s> {
    shared: &'s Shared,
    segment: u32,
    file: Arc<File>,
    end: u64,
    unsynced: u64,
    unsynced_since: Option<Instant>,
    failed: bool,
}

/// A write of the commit in hand.
struct Pending {
    version: Version,
    value: Option<bytes::Bytes>,
}

struct Commit {
    buffer: Vec<u8>,
    revision: u64,
    /// The newest state of every key the commit touches.
    state: HashMap<Arc<str>, Pending>,
    /// All versions it makes, in order.
    versions: Vec<(Arc<str>, Version)>,
    events: Vec<Arc<Event>>,
    synced: bool,
    n_writes: u64,
}

pub(crate) fn run(shared: &Shared, segment: u32, end: u64) {
    let file = shared.files.read()[&segment].clone();
    let mut writer = Writer {
        shared,
        segment,
        file,
        end,
        unsynced: 0,
        unsynced_since: None,
        failed: false,
    };
    loop {
        let (jobs, seal, closing) = writer.wait();
        if !jobs.is_empty() {
            writer.commit(jobs);
        } else if writer.unsynced > 0 && !closing {
            writer.sync_relaxed();
        }
        if let Some(told) = seal {
            if let Err(error) = writer.roll() {
                writer.fail(&error);
            }
            let _ = told.send(writer.segment);
        } else if writer.end > shared.options.segment_bytes
            && let Err(error) = writer.roll()
        {
            writer.fail(&error);
        }
        if closing && shared.queue.lock().jobs.is_empty() {
            writer.close();
            return;
        }
    }
}

impl Writer<'_> {
    /// Waits for work, or for the time to sync relaxed writes.
    fn wait(
        &mut self,
    ) -> (
        Vec<(Txn, Done)>,
        Option<std::sync::mpsc::SyncSender<u32>>,
        bool,
    ) {
        let mut queue = self.shared.queue.lock();
        while queue.jobs.is_empty() && queue.seal.is_none() && !queue.closing {
            match self.unsynced_since {
                None => self.shared.queued.wait(&mut queue),
                Some(since) => {
                    let due = since + RELAXED_SYNC;
                    if self.shared.queued.wait_until(&mut queue, due).timed_out() {
                        break;
                    }
                }
            }
        }
        let n_jobs = queue.jobs.len().min(MOST_IN_COMMIT);
        let jobs = queue.jobs.drain(..n_jobs).collect();
        (jobs, queue.seal.take(), queue.closing)
    }

    fn commit(&mut self, jobs: Vec<(Txn, Done)>) {
        let mut commit = Commit {
            buffer: Vec::new(),
            revision: self.shared.index.read().revision,
            state: HashMap::new(),
            versions: Vec::new(),
            events: Vec::new(),
            synced: false,
            n_writes: 0,
        };
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (txn, done) in jobs {
            let outcome = if self.failed {
                Err(StoreError::Failed)
            } else {
                self.evaluate(txn, &mut commit)
            };
            outcomes.push((outcome, done));
        }
        let written = self.write(&commit);
        match written {
            Ok(()) => self.publish(commit),
            Err(error) => {
                self.fail(&error);
                for (outcome, _) in &mut outcomes {
                    *outcome = Err(error.clone());
                }
            }
        }
        for (outcome, done) in outcomes {
            done(outcome);
        }
    }

    fn current(&self, key: &str, commit: &Commit) -> Option<Version> {
        match commit.state.get(key) {
            Some(pending) => (!pending.version.is_deletion()).then_some(pending.version),
            None => self.shared.index.read().at(key, u64::MAX),
        }
    }

    fn evaluate(&self, txn: Txn, commit: &mut Commit) -> Result<Outcome, StoreError> {
        let succeeded = txn.compares.iter().all(|(key, revision)| {
            self.current(key, commit)
                .map_or(0, |version| version.mod_revision)
                == *revision
        });
        let ops = if succeeded { txn.then } else { txn.otherwise };
        let mut written = HashSet::new();
        let revision = commit.revision + 1;
        let mut entries = Vec::new();
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Get { key } => responses.push(Response::Got(self.get(key, commit)?)),
                Op::Put { key, value } => {
                    if !written.insert(key.clone()) {
                        return Err(StoreError::BadTransaction("it writes a key twice"));
                    }
                    let current = self.current(&key, commit);
                    entries.push(Entry {
                        key,
                        value: Some(value),
                        create_revision: current.map_or(revision, |v| v.create_revision),
                        version: current.map_or(1, |v| v.version + 1),
                    });
                    responses.push(Response::Put);
                }
                Op::Delete { key } => {
                    if !written.insert(key.clone()) {
                        return Err(StoreError::BadTransaction("it writes a key twice"));
                    }
                    let current = self.current(&key, commit);
                    responses.push(Response::Deleted(usize::from(current.is_some())));
                    if let Some(current) = current {
                        entries.push(Entry {
                            key,
                            value: None,
                            create_revision: current.create_revision,
                            version: 0,
                        });
                    }
                }
            }
        }
        if !entries.is_empty() {
            if log::encoded_len(&entries) > log::LONGEST_RECORD {
                return Err(StoreError::BadTransaction("it is too large"));
            }
            commit.revision = revision;
            commit.n_writes += 1;
            commit.synced |= txn.durability == Durability::Synced;
            self.append(revision, entries, commit);
        }
        Ok(Outcome {
            succeeded,
            revision: commit.revision,
            responses,
        })
    }

    fn append(&self, revision: u64, entries: Vec<Entry>, commit: &mut Commit) {
        let places = log::encode(&mut commit.buffer, revision, &entries);
        for (entry, at) in entries.into_iter().zip(places) {
            let version = Version {
                mod_revision: revision,
                create_revision: entry.create_revision,
                version: entry.version,
                place: Place {
                    segment: self.segment,
                    offset: self.end + at as u64,
                    length: entry.value.as_ref().map_or(0, |value| value.len() as u32),
                },
            };
            commit.versions.push((entry.key.clone(), version));
            commit.events.push(Arc::new(match &entry.value {
                Some(value) => Event::Put(KeyValue {
                    key: entry.key.clone(),
                    value: value.clone(),
                    create_revision: entry.create_revision,
                    mod_revision: revision,
                    version: entry.version,
                }),
                None => Event::Delete {
                    key: entry.key.clone(),
                    mod_revision: revision,
                },
            }));
            commit.state.insert(
                entry.key,
                Pending {
                    version,
                    value: entry.value,
                },
            );
        }
    }

    fn get(&self, key: Arc<str>, commit: &Commit) -> Result<Option<KeyValue>, StoreError> {
        match commit.state.get(&key) {
            Some(Pending {
                version,
                value: Some(value),
            }) => Ok(Some(KeyValue {
                key,
                value: value.clone(),
                create_revision: version.create_revision,
                mod_revision: version.mod_revision,
                version: version.version,
            })),
            Some(_) => Ok(None),
            None => {
                let found = self.shared.index.read().at(&key, u64::MAX);
                found
                    .map(|version| self.shared.read(key, version))
                    .transpose()
            }
        }
    }

    fn write(&mut self, commit: &Commit) -> Result<(), StoreError> {
        if commit.buffer.is_empty() {
            return Ok(());
        }
        self.file
            .write_all_at(&commit.buffer, self.end)
            .map_err(log::io_error("append to the log"))?;
        self.end += commit.buffer.len() as u64;
        self.unsynced += commit.n_writes;
        if commit.synced || self.unsynced > RELAXED_MOST {
            self.sync()?;
        } else {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(log::io_error("make the log durable"))?;
        self.unsynced = 0;
        self.unsynced_since = None;
        Ok(())
    }

    fn sync_relaxed(&mut self) {
        if let Err(error) = self.sync() {
            self.fail(&error);
        }
    }

    fn publish(&self, commit: Commit) {
        if commit.versions.is_empty() {
            return;
        }
        let mut index = self.shared.index.write();
        for (key, version) in commit.versions {
            index.insert(key, version);
        }
        drop(index);
        self.shared.hub.publish(commit.events, commit.revision);
    }

    /// After a failed write nobody knows what is on disk; take no more.
    fn fail(&mut self, error: &StoreError) {
        tracing::error!(%error, "the store takes no more writes");
        self.failed = true;
        self.unsynced = 0;
        self.unsynced_since = None;
    }

    /// Seals the active segment and begins another.
    fn roll(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        self.sync()?;
        let mut manifest = self.shared.manifest.lock();
        let next = self.shared.next_segment.fetch_add(1, Ordering::Relaxed);
        let file = Arc::new(log::create_segment(&self.shared.directory, next)?);
        self.shared.files.write().insert(next, file.clone());
        manifest.segments.push(next);
        manifest.save(&self.shared.directory)?;
        self.segment = next;
        self.file = file;
        self.end = log::MAGIC.len() as u64;
        Ok(())
    }

    fn close(&mut self) {
        if self.failed {
            return;
        }
        let mut manifest = self.shared.manifest.lock();
        let clean = self.shared.index.read().revision;
        let closed = self.sync().and_then(|()| {
            manifest.clean = Some(clean);
            manifest.save(&self.shared.directory)
        });
        if let Err(error) = closed {
            tracing::error!(%error, "the store was not closed in order");
        }
    }
}
