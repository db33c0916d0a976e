//! Paths below a root that strangers may have filled.
//!
//! Every function resolves inside the root given as a descriptor, whatever the
//! symbolic links below it say, and allocates nothing.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat_raw, statat};

use crate::{Errno, Result};

/// Longest path, in bytes, that is resolved.
const PATH_MAX: usize = 4096;
/// Most symbolic links followed in one path, as the kernel has it.
const N_LINKS: usize = 40;

/// Whether symbolic links below the root are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Followed, without ever leaving the root.
    Follow,
    /// A symbolic link anywhere in the path is an error (`ELOOP`).
    Refuse,
}

/// What stands at the end of a path that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// Opens what a path names below a root, for use as a place (`O_PATH`).
///
/// # Errors
///
/// What openat2(2) says.
pub fn open(root: BorrowedFd<'_>, path: &CStr, links: Links) -> Result<OwnedFd> {
    open_with(root, path, OFlags::PATH | OFlags::CLOEXEC, links)
}

/// Opens what a path names below a root with the flags given.
///
/// # Errors
///
/// What openat2(2) says.
pub fn open_with(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    links: Links,
) -> Result<OwnedFd> {
    let path = if path.is_empty() { c"." } else { path };
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            // The kernel asks to try again when a rename raced with "..".
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens what a path names below a root, making it and its parents if absent.
/// Dangling symbolic links are made good inside the root.
///
/// # Errors
///
/// What the file calls say; `ELOOP` for a symbolic link where they are refused
/// and for too many of them, `ENAMETOOLONG` for paths over 4095 bytes.
pub fn make(root: BorrowedFd<'_>, path: &CStr, kind: Kind, links: Links) -> Result<OwnedFd> {
    match open(root, path, links) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let mut walk = Walk::new(root, path.to_bytes())?;
    while walk.step(kind, links)? {}
    let Walk { at, .. } = walk;
    match at {
        Some(at) => Ok(at),
        None => open(root, c".", links),
    }
}

/// A resolution under way: `rest` is still to go, `done` is where it stands.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// What is still to be resolved lies at the end of the buffer.
    rest: [u8; PATH_MAX],
    start: usize,
    /// Path without links of the place reached, with a zero behind it.
    done: [u8; PATH_MAX],
    n_done: usize,
    at: Option<OwnedFd>,
    n_links: usize,
}

impl<'a> Walk<'a> {
    fn new(root: BorrowedFd<'a>, path: &[u8]) -> Result<Self> {
        let mut walk = Self {
            root,
            rest: [0; PATH_MAX],
            start: PATH_MAX,
            done: [0; PATH_MAX],
            n_done: 0,
            at: None,
            n_links: 0,
        };
        walk.prepend(path)?;
        Ok(walk)
    }

    fn prepend(&mut self, path: &[u8]) -> Result<()> {
        let start = self
            .start
            .checked_sub(path.len() + 1)
            .ok_or(Errno::NAMETOOLONG)?;
        self.rest[start..start + path.len()].copy_from_slice(path);
        self.rest[start + path.len()] = b'/';
        self.start = start;
        Ok(())
    }

    /// Takes the next component; whether there is more to do.
    fn step(&mut self, kind: Kind, links: Links) -> Result<bool> {
        while self.start < PATH_MAX && self.rest[self.start] == b'/' {
            self.start += 1;
        }
        if self.start == PATH_MAX {
            return Ok(false);
        }
        let length = self.rest[self.start..]
            .iter()
            .position(|byte| *byte == b'/')
            .unwrap_or(PATH_MAX - self.start);
        let mut buffer = [0_u8; 256];
        if length > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        buffer[..length].copy_from_slice(&self.rest[self.start..self.start + length]);
        let name = CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::INVAL)?;
        self.start += length;
        let last = self.rest[self.start..].iter().all(|byte| *byte == b'/');
        match name.to_bytes() {
            b"." => Ok(true),
            b".." => self.up().map(|()| true),
            _ => self.down(name, kind, links, last).map(|()| true),
        }
    }

    fn up(&mut self) -> Result<()> {
        while self.n_done > 0 && self.done[self.n_done - 1] != b'/' {
            self.n_done -= 1;
        }
        self.n_done = self.n_done.saturating_sub(1);
        self.done[self.n_done] = 0;
        self.at = None;
        if self.n_done > 0 {
            let done = CStr::from_bytes_until_nul(&self.done).map_err(|_| Errno::INVAL)?;
            self.at = Some(open(self.root, done, Links::Refuse)?);
        }
        Ok(())
    }

    fn down(&mut self, name: &CStr, kind: Kind, links: Links, last: bool) -> Result<()> {
        let place = self.at.as_ref().map_or(self.root, AsFd::as_fd);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(place, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                if last && kind == Kind::File {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made = openat(place, name, flags | OFlags::WRONLY, Mode::from(0o644));
                    made.map(drop).or_else(exists)?;
                } else {
                    mkdirat(place, name, Mode::from(0o755)).or_else(exists)?;
                }
                openat(place, name, flags, Mode::empty())?
            }
            result => result?,
        };
        let stat = statat(&found, c"", AtFlags::EMPTY_PATH)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if links == Links::Refuse => Err(Errno::LOOP),
            FileType::Symlink => self.follow(&found),
            FileType::Directory => self.enter(name, found),
            _ if last => self.enter(name, found),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn enter(&mut self, name: &CStr, found: OwnedFd) -> Result<()> {
        let name = name.to_bytes();
        let slash = usize::from(self.n_done > 0);
        let end = self.n_done + slash + name.len();
        if end >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if slash == 1 {
            self.done[self.n_done] = b'/';
        }
        self.done[self.n_done + slash..end].copy_from_slice(name);
        self.done[end] = 0;
        self.n_done = end;
        self.at = Some(found);
        Ok(())
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        self.n_links += 1;
        if self.n_links > N_LINKS {
            return Err(Errno::LOOP);
        }
        let mut buffer = [0_u8; PATH_MAX];
        let length = readlinkat_raw(link, c"", &mut buffer[..])?;
        if length == 0 || length == PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let target = &buffer[..length];
        self.prepend(target)?;
        if target[0] == b'/' {
            self.n_done = 0;
            self.done[0] = 0;
            self.at = None;
        }
        Ok(())
    }
}

/// Somebody else made it meanwhile: what it is will be looked at next.
fn exists(error: Errno) -> Result<()> {
    if error == Errno::EXIST {
        Ok(())
    } else {
        Err(error)
    }
}

/// Whether a descriptor lies on procfs.
///
/// # Errors
///
/// What fstatfs(2) says.
pub fn is_on_procfs(place: BorrowedFd<'_>) -> Result<bool> {
    Ok(rustix::fs::fstatfs(place)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Opens `/proc` and makes sure that it is the real thing: procfs, and its root.
///
/// # Errors
///
/// What the file calls say; `EXDEV` if it is something else.
pub fn open_proc() -> Result<OwnedFd> {
    const PROC_ROOT_INODE: u64 = 1;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags, Mode::empty())?;
    let real = is_on_procfs(proc.as_fd())? && rustix::fs::fstat(&proc)?.st_ino == PROC_ROOT_INODE;
    if real { Ok(proc) } else { Err(Errno::XDEV) }
}

/// Opens a file of procfs below a handle made by [`open_proc`]: no links out of
/// it, no mounts on top of it.
///
/// # Errors
///
/// What openat2(2) says; `EXDEV` if something is mounted over it.
pub fn open_in_proc(proc: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    openat2(proc, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Writes a file of procfs below a handle made by [`open_proc`], in one call.
///
/// # Errors
///
/// As [`open_in_proc`], and what write(2) says; `EIO` if not all was taken.
pub fn write_in_proc(proc: BorrowedFd<'_>, path: &CStr, bytes: &[u8]) -> Result<()> {
    let file = open_in_proc(proc, path, OFlags::WRONLY)?;
    loop {
        match rustix::io::write(&file, bytes) {
            Err(Errno::INTR) => {}
            Ok(length) if length < bytes.len() => return Err(Errno::IO),
            result => return result.map(drop),
        }
    }
}

/// Makes sure that a descriptor is the null device, not a file in its place.
///
/// # Errors
///
/// `ENODEV` if it is not.
pub fn check_null(file: BorrowedFd<'_>) -> Result<()> {
    let stat = rustix::fs::fstat(file)?;
    let null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if null { Ok(()) } else { Err(Errno::NODEV) }
}

/// Path by which a descriptor of this process can be named while `/proc` is there.
#[must_use]
pub fn descriptor_path(file: BorrowedFd<'_>) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn root(directory: &Path) -> OwnedFd {
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn makes_what_is_missing_and_stays_inside() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("root");
        std::fs::create_dir_all(inside.join("etc")).unwrap();
        symlink(
            "../../../run/resolv/stub.conf",
            inside.join("etc/resolv.conf"),
        )
        .unwrap();
        symlink("/deep/er", inside.join("link")).unwrap();
        symlink("../..", inside.join("up")).unwrap();
        let root = root(&inside);
        let make = |path: &CStr, kind| make(root.as_fd(), path, kind, Links::Follow);

        drop(make(c"/etc/resolv.conf", Kind::File).unwrap());
        assert!(inside.join("run/resolv/stub.conf").is_file());
        drop(make(c"link/a//./b", Kind::Directory).unwrap());
        assert!(inside.join("deep/er/a/b").is_dir());
        drop(make(c"up/up/../../here/../there", Kind::Directory).unwrap());
        assert!(inside.join("there").is_dir());
        assert!(!outside.path().join("there").exists());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn loops_and_files_in_the_way_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        symlink("nowhere", directory.path().join("dangling")).unwrap();
        let root = root(directory.path());
        let make = |path: &CStr, links| make(root.as_fd(), path, Kind::Directory, links);
        assert_eq!(make(c"a/x", Links::Follow).unwrap_err(), Errno::LOOP);
        assert_eq!(make(c"file/x", Links::Follow).unwrap_err(), Errno::NOTDIR);
        assert_eq!(make(c"dangling", Links::Refuse).unwrap_err(), Errno::LOOP);
        let long = std::ffi::CString::new("x/".repeat(2048)).unwrap();
        assert_eq!(make(&long, Links::Follow).unwrap_err(), Errno::NAMETOOLONG);
    }

    #[test]
    fn proc_is_real_and_null_is_null() {
        let proc = open_proc().unwrap();
        open_in_proc(proc.as_fd(), c"self/stat", OFlags::RDONLY).unwrap();
        assert!(
            open_in_proc(proc.as_fd(), c"self/root/etc", OFlags::PATH).is_err(),
            "a magic link"
        );
        open_in_proc(proc.as_fd(), c"sys/kernel/osrelease", OFlags::RDONLY).unwrap();
        check_null(std::fs::File::open("/dev/null").unwrap().as_fd()).unwrap();
        assert_eq!(
            check_null(std::fs::File::open("/dev/zero").unwrap().as_fd()),
            Err(Errno::NODEV)
        );
    }
}
