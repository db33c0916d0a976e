//! Namespaces of every kind: pinned to files, joined by descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use crate::{Errno, Result, check};

/// Kinds of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Users, groups, capabilities.
    User,
    /// View of the control groups.
    Cgroup,
    /// System V IPC and message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Network.
    Network,
    /// Process identifiers.
    Pid,
    /// Clocks.
    Time,
    /// Mounts.
    Mount,
}

impl Kind {
    /// Every kind, in the order in which they are joined: the user namespace
    /// first, since it gives the right to join the others; mounts last, since
    /// the files of the others are seen through them.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Cgroup,
        Self::Ipc,
        Self::Uts,
        Self::Network,
        Self::Pid,
        Self::Time,
        Self::Mount,
    ];

    /// The kernel's `CLONE_NEW*` flag.
    #[must_use]
    pub fn flag(self) -> u64 {
        let flag = match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Network => libc::CLONE_NEWNET,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Time => libc::CLONE_NEWTIME,
            Self::Mount => libc::CLONE_NEWNS,
        };
        // The flags are bits 7 to 30 of a signed number.
        u64::from(flag.unsigned_abs())
    }

    /// Name of the file in `/proc/PID/ns`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Network => "net",
            Self::Pid => "pid",
            Self::Time => "time",
            Self::Mount => "mnt",
        }
    }
}

/// Opens a namespace file and makes sure that it is one, of that kind.
///
/// # Errors
///
/// What open(2) says; `EINVAL` if the file is no namespace of that kind.
pub fn open(path: &Path, kind: Kind) -> Result<OwnedFd> {
    // Opening a FIFO or a device in its place must have no effect.
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    let magic = rustix::fs::fstatfs(&place)?.f_type;
    if magic != NSFS_MAGIC {
        return Err(Errno::INVAL);
    }
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if kind_of(file.as_fd())? != kind.flag() {
        return Err(Errno::INVAL);
    }
    Ok(file)
}

fn kind_of(file: BorrowedFd<'_>) -> Result<u64> {
    use std::os::fd::AsRawFd;
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument; any other file answers with an error.
    let kind = check(unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) }.into())?;
    u64::try_from(kind).map_err(|_| Errno::INVAL)
}

/// Puts this thread into a namespace. Allocates nothing.
///
/// For [`Kind::Pid`] it is the children made from now on that are in it.
///
/// # Errors
///
/// What setns(2) says.
pub(crate) fn join(file: BorrowedFd<'_>, flags: u64) -> Result<()> {
    use std::os::fd::AsRawFd;
    let flags = i32::try_from(flags).map_err(|_| Errno::INVAL)?;
    // SAFETY: plain numbers; the descriptor is borrowed.
    check(unsafe { libc::setns(file.as_raw_fd(), flags) }.into()).map(drop)
}

/// Puts this thread into fresh namespaces. Allocates nothing.
///
/// # Errors
///
/// What unshare(2) says.
pub(crate) fn leave(flags: u64) -> Result<()> {
    let flags = i32::try_from(flags).map_err(|_| Errno::INVAL)?;
    // SAFETY: only `CLONE_NEW*` flags come here; descriptors are not unshared.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Makes new namespaces and pins each to a file, which is made and must not exist.
/// They live until [`unpin`]. Kinds whose making needs more than a thread
/// (user, PID, mount, time) are refused.
///
/// # Errors
///
/// `EINVAL` for those kinds, `EEXIST` if a file is there, else what unshare(2)
/// and mount(2) say; nothing is left behind then.
pub fn pin_new(pins: &[(Kind, &Path)]) -> Result<()> {
    let mut flags = 0;
    for (kind, _) in pins {
        match kind {
            Kind::Network | Kind::Ipc | Kind::Uts | Kind::Cgroup => flags |= kind.flag(),
            Kind::User | Kind::Pid | Kind::Time | Kind::Mount => return Err(Errno::INVAL),
        }
    }
    let made = std::thread::scope(|scope| {
        // The thread takes its namespaces with it; only what is pinned stays.
        let thread = scope.spawn(|| {
            leave(flags)?;
            for (n_pinned, (kind, path)) in pins.iter().enumerate() {
                if let Err(error) = pin(*kind, path) {
                    for (_, path) in &pins[..n_pinned] {
                        // The first error is the one to tell.
                        let _ = unpin(path);
                    }
                    return Err(error);
                }
            }
            Ok(())
        });
        thread.join()
    });
    made.unwrap_or(Err(Errno::IO))
}

fn pin(kind: Kind, path: &Path) -> Result<()> {
    bind(
        format!("/proc/thread-self/ns/{}", kind.name()).as_ref(),
        path,
    )
}

/// Pins a namespace that is open to a file, which is made and must not exist. It
/// lives until [`unpin`].
///
/// # Errors
///
/// `EEXIST` if a file is there, else what mount(2) says; nothing is left behind
/// then.
pub fn pin_open(namespace: BorrowedFd<'_>, path: &Path) -> Result<()> {
    bind(&crate::resolve::descriptor_path(namespace), path)
}

fn bind(source: &Path, path: &Path) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::open(path, flags, Mode::empty())?);
    rustix::mount::mount_bind(source, path).inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

/// Lets a pinned namespace go and removes its file. One that is not there is well.
///
/// # Errors
///
/// What umount(2) and unlink(2) say.
pub fn unpin(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        // Not a mount point: a crash came between the file and the mount.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::unlink(path)
}

/// Brings the loopback device of this thread's network namespace up.
///
/// # Errors
///
/// What ioctl(2) says.
pub(crate) fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    use std::os::fd::AsRawFd;
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes are a valid ifreq; the name ends with a zero, and both
    // requests read and write this structure only.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        let file = socket.as_raw_fd();
        check(libc::ioctl(file, libc::SIOCGIFFLAGS, &raw mut request).into())?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(file, libc::SIOCSIFFLAGS, &raw mut request).into())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_namespaces_are_new_and_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let (ipc, uts) = (directory.path().join("ipc"), directory.path().join("uts"));
        pin_new(&[(Kind::Ipc, &ipc), (Kind::Uts, &uts)]).unwrap();
        let inode = |path: &Path| rustix::fs::stat(path).unwrap().st_ino;
        assert_ne!(inode(&ipc), inode(Path::new("/proc/self/ns/ipc")));
        open(&uts, Kind::Uts).unwrap();
        assert_eq!(open(&uts, Kind::Ipc).unwrap_err(), Errno::INVAL);
        assert_eq!(pin_new(&[(Kind::Ipc, &ipc)]), Err(Errno::EXIST));
        unpin(&ipc).unwrap();
        unpin(&uts).unwrap();
        unpin(&uts).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_plain_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(open(file.path(), Kind::Network).unwrap_err(), Errno::INVAL);
        assert_eq!(pin_new(&[(Kind::Pid, file.path())]), Err(Errno::INVAL));
    }
}
