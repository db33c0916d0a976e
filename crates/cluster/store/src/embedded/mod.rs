//! The store on one machine: an append-only log of revisions, an index over it
//! in memory, one thread that commits.
//!
//! ```text
//! submit -> queue -> writer thread: evaluate, append, sync once for all
//!                                   -> index, watchers, callers
//! ```
//! Readers look into the index and read values from the segments, never
//! through the writer. Compaction rewrites sealed segments beside the writer.

mod compaction;
mod index;
mod log;
mod watching;
mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, RwLock};

use self::index::{Index, Version};
use self::log::{Manifest, Place};
use self::watching::{Hub, Watcher};
use self::writer::Queue;
use crate::{Done, KeyValue, Listing, Range, Store, StoreError, Txn, Watch};

/// How the store uses its directory and memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// A segment is sealed when it has this many bytes.
    pub segment_bytes: u64,
    /// So many bytes of garbage are tolerated beside the live ones.
    pub slack_bytes: u64,
    /// So many recent changes are kept in memory for watchers.
    pub recent_events: usize,
    /// So many bytes of values are kept with them.
    pub recent_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            slack_bytes: 32 << 20,
            recent_events: 16_384,
            recent_bytes: 32 << 20,
        }
    }
}

/// After a crash revisions go on this much later, so that none is given twice
/// even if relaxed writes were lost; more unsynced writes than this never stand.
const CRASH_GAP: u64 = 1024;

/// The embedded store; dropping it commits what is queued and closes the files.
pub struct Embedded {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    compactor: Option<JoinHandle<()>>,
    /// Held while the store is open; watchers may outlive it.
    _lock: File,
}

struct Shared {
    directory: PathBuf,
    options: Options,
    index: RwLock<Index>,
    files: RwLock<HashMap<u32, Arc<File>>>,
    manifest: Mutex<Manifest>,
    /// The number of the next new segment; numbers need not rise with age.
    next_segment: AtomicU32,
    queue: Mutex<Queue>,
    queued: Condvar,
    hub: Hub,
    compaction: Mutex<compaction::Request>,
    compact_asked: Condvar,
}

impl Embedded {
    /// Opens the store in a directory, or makes one there.
    ///
    /// # Errors
    /// When another process has it open, the disk fails, or a sealed part of
    /// it is damaged. A torn end of the newest segment is no damage: those
    /// writes were never confirmed.
    pub fn open(directory: &Path, options: Options) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory).map_err(log::io_error("make its directory"))?;
        let lock = lock(directory)?;
        let mut index = Index::default();
        let mut files = HashMap::new();
        let mut manifest = match Manifest::load(directory)? {
            Some(manifest) => manifest,
            None => {
                let manifest = Manifest {
                    segments: vec![1],
                    clean: Some(1),
                    ..Manifest::default()
                };
                log::create_segment(directory, 1)?;
                manifest.save(directory)?;
                manifest
            }
        };
        remove_leftovers(directory, &manifest)?;
        let mut end = 0;
        for (n, &segment) in manifest.segments.iter().enumerate() {
            let is_last = n + 1 == manifest.segments.len();
            let (file, length) = load_segment(directory, segment, is_last, &mut index)?;
            files.insert(segment, Arc::new(file));
            end = length;
        }
        let compacted = manifest.compacted;
        index.compact(compacted);
        index.revision = match manifest.clean {
            Some(clean) => index.revision.max(clean),
            None => index.revision.max(1) + CRASH_GAP,
        };
        manifest.clean = None;
        manifest.save(directory)?;
        let active = *manifest
            .segments
            .last()
            .ok_or_else(|| StoreError::Damaged("its manifest lists no segment".to_owned()))?;
        let revision = index.revision;
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            hub: Hub::new(revision, options.recent_events, options.recent_bytes),
            options,
            index: RwLock::new(index),
            files: RwLock::new(files),
            next_segment: AtomicU32::new(manifest.segments.iter().max().map_or(1, |n| n + 1)),
            manifest: Mutex::new(manifest),
            queue: Mutex::new(Queue::default()),
            queued: Condvar::new(),
            compaction: Mutex::default(),
            compact_asked: Condvar::new(),
        });
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(body)
                .map_err(log::io_error("start a thread"))
        };
        let for_writer = shared.clone();
        let writer = spawn(
            "store-writer",
            Box::new(move || writer::run(&for_writer, active, end)),
        )?;
        let for_compactor = shared.clone();
        let compactor = spawn(
            "store-compactor",
            Box::new(move || compaction::run(&for_compactor)),
        )?;
        Ok(Self {
            shared,
            writer: Some(writer),
            compactor: Some(compactor),
            _lock: lock,
        })
    }

    /// Bytes of the store's segments on disk.
    ///
    /// # Errors
    /// When the files cannot be measured.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.shared.disk_bytes()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.queued.notify_all();
        self.shared.compaction.lock().closing = true;
        self.shared.compact_asked.notify_all();
        for thread in [self.writer.take(), self.compactor.take()]
            .into_iter()
            .flatten()
        {
            let _ = thread.join();
        }
        self.shared.hub.close();
    }
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join("LOCK"))
        .map_err(log::io_error("open its lock"))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(directory.to_owned())),
        Err(error) => Err(log::io_error("lock its directory")(error.into())),
    }
}

/// Removes segments that no manifest lists: an interrupted compaction's.
fn remove_leftovers(directory: &Path, manifest: &Manifest) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(directory).map_err(log::io_error("list its directory"))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse::<u32>().ok());
        if path.extension().is_some_and(|extension| extension == "log")
            && number.is_some_and(|number| !manifest.segments.contains(&number))
        {
            std::fs::remove_file(&path).map_err(log::io_error("remove a leftover"))?;
        }
    }
    Ok(())
}

/// Reads a segment into the index; returns it with the length of its good part.
fn load_segment(
    directory: &Path,
    segment: u32,
    is_last: bool,
    index: &mut Index,
) -> Result<(File, u64), StoreError> {
    let path = log::segment_path(directory, segment);
    let file = match File::options().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) => return Err(log::io_error("open a segment")(error)),
    };
    let scanned = log::scan(&file, |record| {
        for (entry, offset) in record.entries {
            let place = Place {
                segment,
                offset,
                length: entry.value.as_ref().map_or(0, |value| value.len() as u32),
            };
            let version = Version {
                mod_revision: record.revision,
                create_revision: entry.create_revision,
                version: entry.version,
                place,
            };
            index.insert(entry.key, version);
        }
        Ok(())
    })?;
    if scanned.good < scanned.length || scanned.good == 0 {
        if !is_last {
            return Err(StoreError::Damaged(format!(
                "{} is broken at byte {}",
                path.display(),
                scanned.good
            )));
        }
        tracing::warn!(
            segment,
            good = scanned.good,
            length = scanned.length,
            "cut the torn end of the log"
        );
        if scanned.good == 0 {
            let file = log::create_segment(directory, segment)?;
            return Ok((file, log::MAGIC.len() as u64));
        }
        file.set_len(scanned.good)
            .and_then(|()| file.sync_all())
            .map_err(log::io_error("cut the torn end of the log"))?;
    }
    Ok((file, scanned.good))
}

impl Shared {
    fn read(&self, key: Arc<str>, version: Version) -> Result<KeyValue, StoreError> {
        let file = self.files.read().get(&version.place.segment).cloned();
        let Some(file) = file else {
            // A compaction moved the value since the index was read.
            let (moved, compacted) = {
                let index = self.index.read();
                (index.at(&key, version.mod_revision), index.compacted)
            };
            return match moved.filter(|moved| moved.place != version.place) {
                Some(moved) => self.read(key, moved),
                None => Err(StoreError::Compacted { compacted }),
            };
        };
        let value = log::read(&file, version.place)?;
        Ok(KeyValue {
            key,
            value,
            create_revision: version.create_revision,
            mod_revision: version.mod_revision,
            version: version.version,
        })
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        let files = self.files.read();
        let mut bytes = 0;
        for file in files.values() {
            bytes += file
                .metadata()
                .map_err(log::io_error("measure a segment"))?
                .len();
        }
        Ok(bytes)
    }
}

impl Store for Embedded {
    fn revision(&self) -> u64 {
        self.shared.index.read().revision
    }

    fn get(&self, key: &str, revision: Option<u64>) -> Result<Option<KeyValue>, StoreError> {
        let found = {
            let index = self.shared.index.read();
            let revision = index.readable(revision)?;
            index.at(key, revision)
        };
        match found {
            Some(version) => Ok(Some(self.shared.read(key.into(), version)?)),
            None => Ok(None),
        }
    }

    fn range(&self, range: &Range) -> Result<Listing, StoreError> {
        let (found, count, revision) = {
            let index = self.shared.index.read();
            let revision = index.readable(range.revision)?;
            let (found, count) = index.range(range, revision);
            let newest = range.revision.unwrap_or(revision);
            (found, count, newest)
        };
        let more = found.len() < count;
        let mut kvs = Vec::with_capacity(found.len());
        for (key, version) in found {
            kvs.push(self.shared.read(key, version)?);
        }
        Ok(Listing {
            kvs,
            more,
            count,
            revision,
        })
    }

    fn submit(&self, txn: Txn, done: Done) {
        let mut queue = self.shared.queue.lock();
        if queue.closing {
            drop(queue);
            done(Err(StoreError::Closed));
            return;
        }
        queue.jobs.push_back((txn, done));
        drop(queue);
        self.shared.queued.notify_one();
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(Watcher::new(self.shared.clone(), prefix, from)?))
    }

    fn compact(&self, revision: u64) -> Result<(), StoreError> {
        let mut index = self.shared.index.write();
        if revision > index.revision {
            return Err(StoreError::Future {
                asked: revision,
                newest: index.revision,
            });
        }
        if revision <= index.compacted {
            return Err(StoreError::Compacted {
                compacted: index.compacted,
            });
        }
        index.compact(revision);
        let live = index.live;
        drop(index);
        let mut manifest = self.shared.manifest.lock();
        manifest.compacted = manifest.compacted.max(revision);
        manifest.save(&self.shared.directory)?;
        drop(manifest);
        if self.disk_bytes()? > live * 2 + self.shared.options.slack_bytes {
            self.shared.compaction.lock().asked = true;
            self.shared.compact_asked.notify_one();
        }
        Ok(())
    }
}
