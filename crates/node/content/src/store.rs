//! The store itself: opening, reading, deleting, sweeping.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dhow_oci::{Algorithm, Digest, VerifyError};

use crate::{Ingest, Lease};

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("content store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// There is no such blob.
    #[error("blob {0} not found")]
    Missing(Digest),
    /// Somebody else writes under this key; its name is shown.
    #[error("ingest {0:?} is being written already")]
    Busy(String),
    /// What was written is not what was announced.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A blob is larger than the reader is willing to hold in memory.
    #[error("blob {digest} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The reader's limit.
        limit: u64,
    },
}

/// How names of ingests begin that nobody can resume.
const ANEW: &str = "anew-";
/// The end of an interrupted ingest that is not trusted is its last block, and that
/// of this size at least: where a block is on disk already, the kernel may tell the
/// disk of a new end in it before it writes what is there.
const BLOCK: u64 = 4096;

/// What store operations return.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds the action and the path to an I/O error.
pub(crate) fn at<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// A store of blobs under one directory. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    root: PathBuf,
    /// Held for as long as the store is open.
    _lock: File,
    /// How many leases hold each digest. Locked throughout a sweep, so that
    /// nothing is leased or committed while the dead are being told from the
    /// living.
    pub(crate) held: Mutex<HashMap<Digest, usize>>,
    /// File names of the ingests that are open in this process.
    pub(crate) writing: Mutex<HashSet<String>>,
    /// Counts [`Store::ingest_anew`], to give each a key of its own.
    n_anew: AtomicU64,
}

/// An open blob.
#[derive(Debug)]
pub struct Blob {
    /// The file, at its beginning.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs removed.
    pub n_blobs: u64,
    /// Abandoned ingests removed.
    pub n_ingests: u64,
    /// Bytes freed.
    pub bytes: u64,
}

impl Store {
    /// Opens the store under `root`, creating it if there is none.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it open; [`Error::Io`].
    pub fn open(root: &Path) -> Result<Store> {
        for directory in ["blobs/sha256", "blobs/sha512", "ingest"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        let path = root.join("lock");
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(at("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked(root.to_owned())),
            Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
        }
        let is_other_boot = note_boot(&mut lock).map_err(at("write", &path))?;
        settle(root, is_other_boot)?;
        Ok(Store {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                _lock: lock,
                held: Mutex::default(),
                writing: Mutex::default(),
                n_anew: AtomicU64::new(0),
            }),
        })
    }

    /// Where a blob is, whether it exists or not.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.inner.root.join("blobs");
        path.push(digest.algorithm().name());
        path.push(digest.hex());
        path
    }

    /// The size of a blob in bytes, or nothing if there is no such blob.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("look at", &path)(error)),
        }
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none.
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing(digest.clone()),
            _ => at("open", &path)(error),
        })?;
        let size = file.metadata().map_err(at("look at", &path))?.len();
        Ok(Blob { file, size })
    }

    /// Reads a whole blob of at most `limit` bytes, and verifies it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::TooLarge`], [`Error::Verify`] if the disk
    /// has rotted.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let Blob { mut file, size } = self.open_blob(digest)?;
        if size > limit {
            return Err(Error::TooLarge {
                digest: digest.clone(),
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.read_to_end(&mut bytes)
            .map_err(at("read", &self.blob_path(digest)))?;
        let mut verifier = dhow_oci::Verifier::new(digest.clone(), Some(size));
        verifier.update(&bytes)?;
        verifier.finish()?;
        Ok(bytes)
    }

    /// Stores bytes under `lease` and returns their SHA-256 digest.
    pub fn put(&self, lease: &Lease, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        lease.hold(&digest);
        if self.size(&digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut ingest = self.ingest_anew(Algorithm::Sha256)?;
        ingest
            .write_all(bytes)
            .map_err(at("write", ingest.path()))?;
        ingest.commit(lease, &digest, Some(bytes.len() as u64))
    }

    /// An empty ingest under a key of its own, which nobody can resume: it is
    /// removed if it is dropped before it is committed.
    pub fn ingest_anew(&self, algorithm: Algorithm) -> Result<Ingest> {
        let turn = self.inner.n_anew.fetch_add(1, Ordering::Relaxed);
        let mut ingest = Ingest::open(self.clone(), format!("{ANEW}{turn}"), algorithm)?;
        ingest.discard_on_drop();
        Ok(ingest)
    }

    /// Opens the ingest of this key for appending; what an earlier attempt
    /// left behind is kept and hashed again, see [`Ingest::offset`].
    ///
    /// # Errors
    /// [`Error::Busy`] if the key is being written.
    pub fn ingest(&self, key: &str, algorithm: Algorithm) -> Result<Ingest> {
        Ingest::open(self.clone(), ingest_name(key), algorithm)
    }

    /// Bytes that an interrupted ingest of this key has on disk.
    pub fn ingested(&self, key: &str) -> Result<Option<u64>> {
        let path = self.ingest_path(&ingest_name(key));
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("look at", &path)(error)),
        }
    }

    /// Removes a blob, whether somebody needs it or not. Returns whether there
    /// was one.
    pub fn delete(&self, digest: &Digest) -> Result<bool> {
        remove(&self.blob_path(digest))
    }

    /// The digests of all blobs, in no order.
    pub fn digests(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let path = self.inner.root.join("blobs").join(algorithm.name());
            for entry in fs::read_dir(&path).map_err(at("list", &path))? {
                let name = entry.map_err(at("list", &path))?.file_name();
                let text = format!("{}:{}", algorithm.name(), name.to_string_lossy());
                digests.extend(text.parse::<Digest>());
            }
        }
        Ok(digests)
    }

    /// An empty lease.
    pub fn lease(&self) -> Lease {
        Lease::new(self.clone())
    }

    /// Removes what came under a lease whose work has failed: every blob that it holds
    /// and that is neither held by another lease nor in the set that `mark` returns,
    /// which is as for [`Store::sweep`]. Ingests stay, to be resumed.
    ///
    /// # Errors
    /// Whatever `mark` returns, then nothing has been removed; [`Error::Io`].
    pub fn undo<E: From<Error>>(
        &self,
        lease: &Lease,
        mark: impl FnOnce() -> std::result::Result<HashSet<Digest>, E>,
    ) -> std::result::Result<(), E> {
        let held = lock(&self.inner.held);
        let live = mark()?;
        for digest in lease.digests() {
            let is_held = held.get(&digest).is_some_and(|n_leases| *n_leases > 1);
            if !is_held && !live.contains(&digest) {
                self.delete(&digest)?;
            }
        }
        Ok(())
    }

    /// Removes every blob that is neither leased nor in the set that `mark`
    /// returns, and every ingest nobody writes and last touched before
    /// `abandoned`.
    ///
    /// `mark` runs while leases and commits wait, so it sees every reference
    /// that a finished lease left behind; it must not lease or commit itself.
    ///
    /// # Errors
    /// Whatever `mark` returns, then nothing has been removed; [`Error::Io`].
    pub fn sweep<E: From<Error>>(
        &self,
        abandoned: SystemTime,
        mark: impl FnOnce() -> std::result::Result<HashSet<Digest>, E>,
    ) -> std::result::Result<Swept, E> {
        self.sweep_if(abandoned, |_| true, mark)
    }

    /// The same, but spares blobs that came after `abandoned`: whoever fetched them
    /// may come back.
    ///
    /// # Errors
    /// As [`Store::sweep`].
    pub fn sweep_abandoned<E: From<Error>>(
        &self,
        abandoned: SystemTime,
        mark: impl FnOnce() -> std::result::Result<HashSet<Digest>, E>,
    ) -> std::result::Result<Swept, E> {
        let is_old = |blob: &fs::Metadata| blob.modified().is_ok_and(|at| at < abandoned);
        self.sweep_if(abandoned, is_old, mark)
    }

    fn sweep_if<E: From<Error>>(
        &self,
        abandoned: SystemTime,
        goes: impl Fn(&fs::Metadata) -> bool,
        mark: impl FnOnce() -> std::result::Result<HashSet<Digest>, E>,
    ) -> std::result::Result<Swept, E> {
        let held = lock(&self.inner.held);
        let live = mark()?;
        let mut swept = Swept::default();
        for digest in self.digests()? {
            if live.contains(&digest) || held.contains_key(&digest) {
                continue;
            }
            let path = self.blob_path(&digest);
            let metadata = fs::metadata(&path).map_err(at("look at", &path))?;
            if goes(&metadata) && self.delete(&digest)? {
                swept.n_blobs += 1;
                swept.bytes += metadata.len();
            }
        }
        let writing = lock(&self.inner.writing);
        let directory = self.inner.root.join("ingest");
        for entry in fs::read_dir(&directory).map_err(at("list", &directory))? {
            let entry = entry.map_err(at("list", &directory))?;
            let path = entry.path();
            if writing.contains(&*entry.file_name().to_string_lossy()) {
                continue;
            }
            let metadata = entry.metadata().map_err(at("look at", &path))?;
            let touched = metadata.modified().map_err(at("look at", &path))?;
            if touched < abandoned && remove(&path)? {
                swept.n_ingests += 1;
                swept.bytes += metadata.len();
            }
        }
        Ok(swept)
    }

    pub(crate) fn ingest_path(&self, name: &str) -> PathBuf {
        self.inner.root.join("ingest").join(name)
    }
}

/// Writes into the file in which boot of the machine it is; whether that was another
/// one until now.
fn note_boot(file: &mut File) -> io::Result<bool> {
    let now = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut before = Vec::new();
    file.read_to_end(&mut before)?;
    if before == now && !now.is_empty() {
        return Ok(false);
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&now)?;
    Ok(true)
}

/// Prepares what an earlier process left for this one: ingests that nobody can resume
/// go, others lose the end that a loss of power may have spoilt, and what was renamed
/// last, perhaps right before that process was killed, is made durable like the rest.
fn settle(root: &Path, is_other_boot: bool) -> Result<()> {
    let directory = root.join("ingest");
    for entry in fs::read_dir(&directory).map_err(at("list", &directory))? {
        let entry = entry.map_err(at("list", &directory))?;
        let path = entry.path();
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(ANEW.as_bytes()) {
            remove(&path)?;
        } else if is_other_boot {
            cut_end(&path).map_err(at("truncate", &path))?;
        }
    }
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let path = root.join("blobs").join(algorithm.name());
        File::open(&path)
            .and_then(|directory| directory.sync_all())
            .map_err(at("sync", &path))?;
    }
    Ok(())
}

/// Takes away the block that a file ends in.
fn cut_end(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let metadata = file.metadata()?;
    let block = metadata.blksize().max(BLOCK);
    file.set_len(metadata.len().saturating_sub(1) / block * block)?;
    // Its age is what it is swept by.
    file.set_modified(metadata.modified()?)
}

/// The file name of an ingest: keys are free text, so their hash.
pub(crate) fn ingest_name(key: &str) -> String {
    Digest::of(key.as_bytes()).hex().to_owned()
}

/// Locks, also after a panic elsewhere: every guarded value here is changed in
/// one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a file; whether there was one.
pub(crate) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at("remove", path)(error)),
    }
}
