//! Giving files on the host another label of SELinux, with all that is below them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

const NAME: &CStr = c"security.selinux";
/// Folders within folders that are labelled at most.
const MAX_DEPTH: usize = 512;

/// What is the host's as a whole: under another label it would work no more.
const NEVER: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Labels a file, or a folder and everything in it, without following links below it.
/// Where the filesystem has no labels, nothing happens. Blocks.
///
/// # Errors
///
/// Of what is the host's as a whole, by whatever name, and the kernel's refusal.
pub(crate) fn relabel(path: &Path, label: &str) -> io::Result<()> {
    let real = path.canonicalize()?;
    let is_whole = NEVER.iter().any(|never| {
        // The links of a host with a merged /usr lead to what is meant.
        let never = Path::new(never);
        real == never || never.canonicalize().is_ok_and(|never| real == never)
    });
    if is_whole {
        return Err(io::Error::other(format!(
            "SELinux relabeling of {} is not allowed",
            path.display()
        )));
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, &real, flags, Mode::empty())?;
    let is_folder = FileType::from_raw_mode(rustix::fs::fstat(&top)?.st_mode);
    let set = match is_folder {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&top, ".", flags, Mode::empty())?;
            below(folder.as_fd(), label, MAX_DEPTH)
        }
        _ => set(format!("/proc/self/fd/{}", top.as_raw_fd()), label, true),
    };
    match set {
        Err(Errno::OPNOTSUPP) => Ok(()),
        set => Ok(set?),
    }
}

/// Labels a folder after what is in it.
fn below(folder: BorrowedFd<'_>, label: &str, depth: usize) -> Result<(), Errno> {
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    let own = format!("/proc/self/fd/{}", folder.as_raw_fd());
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let done = (|| {
            let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner: OwnedFd = rustix::fs::openat(folder, name, flags, Mode::empty())?;
                below(inner.as_fd(), label, depth - 1)
            } else {
                let name = [own.as_bytes(), b"/", name.to_bytes()].concat();
                set(name, label, false)
            }
        })();
        match done {
            // Somebody removed it meanwhile.
            Err(Errno::NOENT) => {}
            done => done?,
        }
    }
    set(own, label, true)
}

fn set(path: impl rustix::path::Arg + Clone, label: &str, follow: bool) -> Result<(), Errno> {
    let flags = XattrFlags::empty();
    match follow {
        true => rustix::fs::setxattr(path, NAME, label.as_bytes(), flags),
        false => rustix::fs::lsetxattr(path, NAME, label.as_bytes(), flags),
    }
}
