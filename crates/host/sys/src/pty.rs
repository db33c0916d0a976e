//! Pseudoterminals of a devpts instance reached through a root descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::resolve::{self, Links};
use crate::{Errno, Result, check};

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The side of whoever drives it.
    pub master: OwnedFd,
    /// The side of the programs.
    pub slave: OwnedFd,
}

/// Opens a new terminal of the devpts instance mounted at `dev/pts` below a root.
/// Allocates nothing.
///
/// # Errors
///
/// What the file calls say; `ENODEV` if something else than devpts is there.
pub fn open(root: BorrowedFd<'_>) -> Result<Terminal> {
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    let path: &CStr = c"/dev/pts/ptmx";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = resolve::open_with(root, path, flags, Links::Follow)?;
    if rustix::fs::fstatfs(&master)?.f_type != DEVPTS_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok(Terminal { master, slave })
}

/// Sets the size of a terminal, in characters.
///
/// # Errors
///
/// What ioctl(2) says; `ENOTTY` if it is no terminal.
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// Makes a terminal the controlling one of this session.
///
/// # Errors
///
/// What ioctl(2) says.
pub(crate) fn take_control(slave: &OwnedFd) -> Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}
