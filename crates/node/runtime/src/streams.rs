//! The standard streams of a program.

use std::os::fd::OwnedFd;

use dhow_sys::Errno;
use dhow_sys::idmap::IdMaps;
use rustix::fs::{FileType, Uid};

use crate::error::{Result, RuntimeError};
use crate::spec::User;

/// The standard streams of a program.
#[derive(Debug, Default)]
pub struct Streams {
    files: [Option<OwnedFd>; 3],
    terminal: Option<OwnedFd>,
}

impl Streams {
    /// Those of this process.
    #[must_use]
    pub fn inherited() -> Self {
        Self::default()
    }

    /// These; what is absent is this process's.
    #[must_use]
    pub fn files(stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> Self {
        Self {
            files: [stdin, stdout, stderr],
            terminal: None,
        }
    }

    /// A new terminal, whose master is sent over a connected Unix socket.
    #[must_use]
    pub fn terminal(socket: OwnedFd) -> Self {
        Self {
            files: [None, None, None],
            terminal: Some(socket),
        }
    }

    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    pub(crate) fn into_files(self) -> [Option<OwnedFd>; 3] {
        self.files
    }

    /// As [`give`].
    pub(crate) fn give(&self, user: &User, pid: i32) -> Result<()> {
        give(&self.files, user, pid)
    }
}

/// Gives the pipes among a program's streams to its user in the user namespace of
/// a process, so that they can be opened again by path. The child does the same
/// where it may: where it is the superuser of the host.
pub(crate) fn give(files: &[Option<OwnedFd>; 3], user: &User, pid: i32) -> Result<()> {
    let maps = IdMaps::of(pid).map_err(RuntimeError::sys("read the maps of a user namespace"))?;
    // Who is not mapped is told of when the identity is taken.
    let Some((uid, _)) = maps.outside(user.uid, user.gid) else {
        return Ok(());
    };
    let failed = |error| RuntimeError::sys("give a stream to its user")(error);
    for file in files.iter().flatten() {
        let stat = rustix::fs::fstat(file).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::Fifo | FileType::Socket) || stat.st_uid == uid {
            continue;
        }
        match rustix::fs::fchown(file, Some(Uid::from_raw(uid)), None) {
            // Of a kind that has no owner, or a maker without rights.
            Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::ROFS) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
