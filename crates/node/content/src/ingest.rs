//! Writing a blob: append, verify, make durable, rename.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dhow_oci::{Algorithm, Digest, Digester, VerifyError};

use crate::follow::{Fate, Growth};
use crate::store::{Error, Result, Store, at, lock, remove};
use crate::{Follower, Lease};

/// A blob being written. Dropping it keeps what was written for a later
/// attempt; [`Ingest::discard`] does not.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    name: String,
    path: PathBuf,
    file: File,
    algorithm: Algorithm,
    digester: Digester,
    offset: u64,
    growth: Arc<Growth>,
    left: Left,
}

/// What becomes of the file when the ingest is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It stays, to be resumed.
    Kept,
    /// It goes.
    Removed,
    /// It is a blob now, or gone already.
    Nothing,
}

impl Ingest {
    /// Opens the ingest whose file has this name.
    pub(crate) fn open(store: Store, name: String, algorithm: Algorithm) -> Result<Ingest> {
        if !lock(&store.inner.writing).insert(name.clone()) {
            return Err(Error::Busy(name));
        }
        let opened = Self::load(&store, &name, algorithm);
        match opened {
            Ok((path, file, digester, offset)) => Ok(Ingest {
                store,
                name,
                path,
                file,
                algorithm,
                digester,
                offset,
                growth: Growth::at(offset),
                left: Left::Kept,
            }),
            Err(error) => {
                lock(&store.inner.writing).remove(&name);
                Err(error)
            }
        }
    }

    fn load(
        store: &Store,
        name: &str,
        algorithm: Algorithm,
    ) -> Result<(PathBuf, File, Digester, u64)> {
        let path = store.ingest_path(name);
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(at("open", &path))?;
        let mut digester = algorithm.digester();
        let mut offset = 0;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n_read = file.read(&mut buffer).map_err(at("read", &path))?;
            if n_read == 0 {
                break;
            }
            digester.update(&buffer[..n_read]);
            offset += n_read as u64;
        }
        Ok((path, file, digester, offset))
    }

    /// Bytes written so far, those of earlier attempts included.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The file being written, for error messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts over with an empty file. Followers fail.
    pub fn restart(&mut self) -> Result<()> {
        self.growth.end(Fate::Abandoned);
        self.file.set_len(0).map_err(at("truncate", &self.path))?;
        self.digester = self.algorithm.digester();
        self.offset = 0;
        self.growth = Growth::at(0);
        Ok(())
    }

    /// A reader of what has been and will be written, which waits for more
    /// until the ingest is committed (then it ends) or dropped (then it
    /// fails).
    pub fn follow(&self) -> Result<Follower> {
        let file = File::open(&self.path).map_err(at("open", &self.path))?;
        Ok(Follower::new(file, Arc::clone(&self.growth)))
    }

    /// Verifies digest and, where given, size; makes the blob durable and
    /// visible. What fails verification is removed, not kept for resuming.
    ///
    /// # Errors
    /// [`Error::Verify`], [`Error::Io`].
    pub fn commit(mut self, lease: &Lease, expected: &Digest, size: Option<u64>) -> Result<Digest> {
        let actual = self.hash();
        let verdict = match size {
            Some(size) if size != self.offset => Err(VerifyError::Size {
                expected: size,
                actual: self.offset,
            }),
            _ if actual != *expected => Err(VerifyError::Digest {
                expected: expected.clone(),
                actual,
            }),
            _ => Ok(()),
        };
        if let Err(error) = verdict {
            self.discard()?;
            return Err(error.into());
        }
        self.publish(lease, expected)
    }

    /// Makes the blob durable and visible under whatever digest it has.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit_any(mut self, lease: &Lease) -> Result<Digest> {
        let digest = self.hash();
        self.publish(lease, &digest)
    }

    /// Removes what was written.
    pub fn discard(mut self) -> Result<()> {
        self.left = Left::Nothing;
        remove(&self.path).map(|_| ())
    }

    /// Nobody will resume it.
    pub(crate) fn discard_on_drop(&mut self) {
        self.left = Left::Removed;
    }

    fn hash(&mut self) -> Digest {
        std::mem::replace(&mut self.digester, self.algorithm.digester()).finish()
    }

    fn publish(mut self, lease: &Lease, digest: &Digest) -> Result<Digest> {
        self.growth.end(Fate::Complete);
        self.file.sync_data().map_err(at("sync", &self.path))?;
        let target = self.store.blob_path(digest);
        lease.hold(digest);
        fs::rename(&self.path, &target).map_err(at("rename", &self.path))?;
        self.left = Left::Nothing;
        let directory = target.parent().expect("a blob lies in a directory");
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(at("sync", directory))?;
        Ok(digest.clone())
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.file.write(bytes)?;
        self.digester.update(&bytes[..n_written]);
        self.offset += n_written as u64;
        self.growth.grow(self.offset);
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.growth.end(Fate::Abandoned);
        if self.left == Left::Removed {
            // What stays behind all the same is swept by age.
            let _ = remove(&self.path);
        }
        lock(&self.store.inner.writing).remove(&self.name);
    }
}
