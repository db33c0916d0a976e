//! A thread that makes files as somebody else, with all its own rights.
//!
//! On an identity-mapped mount only those can make files who are mapped, and the
//! superuser outside is not: who works for the one inside makes files as that one.

use std::marker::PhantomData;

use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use crate::{Errno, Result};

/// While this lives, files that this thread makes belong to a user and a group.
#[derive(Debug)]
pub struct FileOwner {
    uid: libc::uid_t,
    gid: libc::gid_t,
    before: CapabilitySets,
    /// It is about this thread and no other.
    here: PhantomData<*const ()>,
}

impl FileOwner {
    /// Makes files as this user and group from now on.
    ///
    /// # Errors
    ///
    /// `EPERM` without the rights of the superuser; nothing is changed then.
    pub fn assume(uid: u32, gid: u32) -> Result<Self> {
        let before = capabilities(None)?;
        let owner = Self {
            gid: set_group(gid),
            uid: set_user(uid),
            before,
            here: PhantomData,
        };
        // Whoever gives up root for files gives up its rights over them, too.
        set_capabilities(None, owner.before)?;
        // The calls tell nothing; asking again does.
        if set_user(uid) != uid || set_group(gid) != gid {
            return Err(Errno::PERM);
        }
        Ok(owner)
    }
}

impl Drop for FileOwner {
    fn drop(&mut self) {
        set_user(self.uid);
        set_group(self.gid);
        // Going back never takes more than it gives; nobody could be told.
        let _ = set_capabilities(None, self.before);
    }
}

/// Sets the user of this thread's files; who it was before.
fn set_user(uid: u32) -> libc::uid_t {
    // SAFETY: a plain number; it changes this thread only. The result is the
    // user from before, whatever its sign.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) as libc::uid_t }
}

/// Sets the group of this thread's files; which it was before.
fn set_group(gid: u32) -> libc::gid_t {
    // SAFETY: as in `set_user`.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) as libc::gid_t }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_are_theirs_and_rights_stay() {
        let directory = tempfile::tempdir().unwrap();
        let owned = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            let seen = path.metadata().unwrap();
            (seen.uid(), seen.gid())
        };
        {
            let _owner = FileOwner::assume(1234, 1235).unwrap();
            // The directory is root's, and nobody else's.
            assert_eq!(owned("a"), (1234, 1235));
            std::os::unix::fs::chown(directory.path().join("a"), Some(7), Some(8)).unwrap();
        }
        assert_eq!(owned("b"), (0, 0));
    }
}
