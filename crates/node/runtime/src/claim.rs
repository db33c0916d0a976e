//! Claims on identifiers: a container's directory, locked by whoever makes the
//! container, for as long as that takes. The kernel lets go of the lock of one
//! that dies, so that what it left is known as nobody's.

use std::os::fd::OwnedFd;
use std::path::Path;

use dhow_sys::Errno;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::Runtime;
use crate::error::{Result, RuntimeError};

impl Runtime {
    /// Makes the directory of a container and locks it. What a maker that died
    /// left under the same identifier is removed first.
    /// The lock is held until the descriptor and all copies of it are closed.
    pub(crate) fn claim(&self, id: &str, dir: &Path) -> Result<OwnedFd> {
        if make(dir)? {
            return lock(dir);
        }
        let _left = lock(dir)?;
        self.delete_unfinished(id)?;
        if make(dir)? {
            lock(dir)
        } else {
            Err(RuntimeError::Exists)
        }
    }
}

/// Makes a directory; false if it is there.
fn make(dir: &Path) -> Result<bool> {
    match rustix::fs::mkdir(dir, Mode::from(0o700)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(RuntimeError::io("make directory", dir, error)),
    }
}

/// Locks a directory; somebody else's lock, or the directory's going at this
/// moment, means that somebody else has the identifier.
fn lock(dir: &Path) -> Result<OwnedFd> {
    let failed = |error| match error {
        Errno::AGAIN | Errno::NOENT => RuntimeError::Exists,
        error => RuntimeError::io("lock", dir, error),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(failed)?;
    // It may have been removed, and made anew, between the two calls.
    let (locked, now) = (rustix::fs::fstat(&file), rustix::fs::stat(dir));
    let (locked, now) = (locked.map_err(failed)?, now.map_err(failed)?);
    if (locked.st_dev, locked.st_ino) == (now.st_dev, now.st_ino) {
        Ok(file)
    } else {
        Err(RuntimeError::Exists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claims_and_the_dead_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(directory.path());
        let dir = directory.path().join("dhow-claim-test");
        let claim = || runtime.claim("dhow-claim-test", &dir);
        let first = claim().unwrap();
        assert!(matches!(claim(), Err(RuntimeError::Exists)));
        std::fs::write(dir.join("start"), "").unwrap();
        drop(first);
        // Nobody's, and not finished.
        let second = claim().unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        drop(second);
    }
}
