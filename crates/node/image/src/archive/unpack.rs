//! Applying an archive to a directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::archive::{OPAQUE, WHITEOUT, WHITEOUT_OPAQUE, open_in, remove_tree};
use crate::tar::{Archive, Entry, Kind};

/// What names that begin with `.wh.` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// Nothing: they are files.
    Literal,
    /// Deletions, to be spelt as overlayfs does.
    Overlay,
}

/// Who owns what is unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// As the archive says.
    Recorded,
    /// This user and group, whatever the archive says.
    Fixed {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// Whether device nodes may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// They are made.
    Create,
    /// They are an error.
    Refuse,
}

/// What may take the place of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Anything.
    Anything,
    /// A directory only a directory, anything else only something else.
    SameKind,
}

/// How to unpack.
#[derive(Clone, Copy, Debug)]
pub struct UnpackOptions {
    /// What `.wh.` names mean.
    pub whiteouts: Whiteouts,
    /// Who owns the result.
    pub ownership: Ownership,
    /// Whether device nodes may be made.
    pub devices: Devices,
    /// What may take the place of what is there.
    pub replace: Replace,
}

/// What has been unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of all files.
    pub bytes: u64,
    /// Entries applied.
    pub n_entries: u64,
    /// Directories that no entry mentions but that entries lie in, parents
    /// first. They belong to root with mode 0755 for now.
    pub implied: BTreeSet<Vec<u8>>,
}

/// Bytes of directories' paths that are remembered until the end, to set their
/// times when nothing changes them any more; a million directories or so.
const MAX_REMEMBERED: usize = 64 << 20;

/// Applies every entry of `archive` to the directory `root`. Later entries
/// replace earlier ones and what was there before; directories are merged.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with a text that names the entry, for what
/// is malformed, beyond a limit or hostile; the kernel's errors otherwise.
pub fn unpack<R: Read>(
    archive: &mut Archive<R>,
    root: impl AsFd,
    options: UnpackOptions,
) -> io::Result<Unpacked> {
    unpack_edited(archive, root, options, &|_| Ok(()))
}

/// Does the same with entries that `edit` may change, or refuse, before they are
/// applied.
///
/// # Errors
/// As [`unpack`], and what `edit` says.
pub fn unpack_edited<R: Read>(
    archive: &mut Archive<R>,
    root: impl AsFd,
    options: UnpackOptions,
    edit: &dyn Fn(&mut Entry) -> io::Result<()>,
) -> io::Result<Unpacked> {
    let mut unpacker = Unpacker {
        root: root.as_fd(),
        options,
        parent: None,
        times: Vec::new(),
        n_remembered: 0,
        unpacked: Unpacked::default(),
        buffer: vec![0; 256 << 10],
    };
    while let Some(mut entry) = archive.next_entry()? {
        let applied = edit(&mut entry).and_then(|()| unpacker.apply(&entry, archive));
        applied.map_err(|error| {
            // What is wrong with the stream is not about this entry.
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted
            ) {
                return error;
            }
            let path = String::from_utf8_lossy(&entry.path);
            io::Error::new(error.kind(), format!("archive entry {path:?}: {error}"))
        })?;
        unpacker.unpacked.n_entries += 1;
    }
    unpacker.finish()
}

/// The components of an archive's path, joined by `/`: neither absolute nor
/// with `.` or `..`; empty for the root itself.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if `..` leads above the root.
pub fn clean(path: &[u8]) -> io::Result<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() {
                    return Err(refused("path leads out of the archive"));
                }
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    options: UnpackOptions,
    /// The directory of the last entry: most of the next ones lie there, too.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Times of directories, set when nothing changes them any more.
    times: Vec<(Vec<u8>, (i64, u32))>,
    /// Bytes of paths in `times` and among the implied.
    n_remembered: usize,
    unpacked: Unpacked,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn apply<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> io::Result<()> {
        let path = clean(&entry.path)?;
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(refused("the root is a directory"));
            }
            let root = open_in(self.root, b"", OFlags::RDONLY | OFlags::DIRECTORY)?;
            self.attributes(root.as_fd(), entry)?;
            return self.remember(&path, entry.mtime);
        }
        let (directory, name) = split(&path);
        let parent = self.enter(directory)?;
        let parent = parent.as_fd();
        if self.options.whiteouts == Whiteouts::Overlay && name.starts_with(WHITEOUT) {
            return self.whiteout(parent, directory, name);
        }
        match entry.kind {
            Kind::Directory => self.directory(parent, name, &path, entry),
            Kind::File => self.file(parent, name, entry, archive),
            Kind::HardLink => self.hard_link(parent, name, entry),
            Kind::Symlink => self.symlink(parent, name, entry),
            Kind::Character | Kind::Block | Kind::Fifo => self.node(parent, name, entry),
        }
    }

    /// Opens the directory an entry lies in, making what is missing. A copy of
    /// the descriptor is returned so that the cache may change meanwhile.
    fn enter(&mut self, directory: &[u8]) -> io::Result<OwnedFd> {
        if let Some((path, parent)) = &self.parent
            && path == directory
        {
            return parent.try_clone();
        }
        let parent = self.make(directory)?;
        self.parent = Some((directory.to_vec(), parent.try_clone()?));
        Ok(parent)
    }

    fn make(&mut self, directory: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match open_in(self.root, directory, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.is_empty() => {}
            other => return other,
        }
        let (above, name) = split(directory);
        let parent = self.make(above)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                // A symbolic link to nowhere, or out of the root.
                return Err(refused("path leads through a dangling symbolic link"));
            }
            Err(error) => return Err(error.into()),
        }
        let made = open_in(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
        if let Ownership::Fixed { uid, gid } = self.options.ownership {
            chown(made.as_fd(), uid, gid)?;
        }
        self.count(directory)?;
        self.unpacked.implied.insert(directory.to_vec());
        open_in(self.root, directory, flags)
    }

    fn whiteout(
        &mut self,
        parent: BorrowedFd<'_>,
        directory: &[u8],
        name: &[u8],
    ) -> io::Result<()> {
        if name == WHITEOUT_OPAQUE {
            let parent = reopen(parent)?;
            return Ok(rustix::fs::fsetxattr(
                &parent,
                OPAQUE,
                b"y",
                XattrFlags::empty(),
            )?);
        }
        let target = &name[WHITEOUT.len()..];
        if target.starts_with(WHITEOUT) {
            // Housekeeping of aufs.
            return Ok(());
        }
        if matches!(target, b"" | b"." | b"..") {
            return Err(refused("whiteout of nothing"));
        }
        match rustix::fs::mknodat(parent, target, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                // This layer has the name itself; only what lies below is gone.
                let there = rustix::fs::statat(parent, target, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    let mut path = directory.to_vec();
                    path.push(b'/');
                    path.extend_from_slice(target);
                    let made = open_in(self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    rustix::fs::fsetxattr(&made, OPAQUE, b"y", XattrFlags::empty())?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        entry: &Entry,
    ) -> io::Result<()> {
        let mut hides = false;
        let made = rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
        if made == Err(Errno::EXIST) {
            let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(there.st_mode);
            if kind != FileType::Directory {
                // A whiteout and then a directory: the old one stays hidden.
                if self.options.replace == Replace::SameKind {
                    return Err(refused("cannot overwrite non-directory with directory"));
                }
                hides = self.options.whiteouts == Whiteouts::Overlay
                    && kind == FileType::CharacterDevice
                    && there.st_rdev == 0;
                self.clear(parent, name)?;
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
            }
        } else {
            made?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        self.attributes(directory.as_fd(), entry)?;
        if hides {
            rustix::fs::fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty())?;
        }
        self.unpacked.implied.remove(path);
        self.remember(path, entry.mtime)
    }

    fn file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = self.replacing(parent, name, || {
            rustix::fs::openat(parent, name, flags, mode)
        })?;
        let mut file = File::from(file);
        match &entry.sparse {
            None => loop {
                let n_read = archive.read(&mut self.buffer)?;
                if n_read == 0 {
                    break;
                }
                file.write_all(&self.buffer[..n_read])?;
            },
            Some(extents) => {
                file.set_len(entry.size)?;
                for extent in extents {
                    let (mut at, end) = (extent.offset, extent.offset + extent.length);
                    while at < end {
                        let wanted = self.buffer.len().min((end - at) as usize);
                        archive.read_exact(&mut self.buffer[..wanted])?;
                        file.write_all_at(&self.buffer[..wanted], at)?;
                        at += wanted as u64;
                    }
                }
            }
        }
        self.unpacked.bytes += entry.size;
        self.attributes(file.as_fd(), entry)?;
        Ok(rustix::fs::futimens(&file, &timestamps(entry.mtime))?)
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> io::Result<()> {
        let target = clean(&entry.link)?;
        if target.is_empty() {
            return Err(refused("hard link to the root"));
        }
        let missing = |error: io::Error| {
            let link = String::from_utf8_lossy(&entry.link);
            match error.kind() {
                io::ErrorKind::NotFound => refused(format!(
                    "hard link to {link:?}, which the archive does not contain"
                )),
                _ => error,
            }
        };
        let (directory, target_name) = split(&target);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let from = open_in(self.root, directory, flags).map_err(missing)?;
        let there = rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| missing(error.into()))?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return Err(refused("hard link to a directory"));
        }
        // Replacing a file by a link to itself would lose it.
        if let Ok(here) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
        }
        self.replacing(parent, name, || {
            rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty())
        })
    }

    fn symlink(&mut self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> io::Result<()> {
        if entry.link.is_empty() {
            return Err(refused("symbolic link to nothing"));
        }
        self.replacing(parent, name, || {
            rustix::fs::symlinkat(&entry.link[..], parent, name)
        })?;
        let (uid, gid) = self.owner(entry);
        rustix::fs::chownat(
            parent,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let times = timestamps(entry.mtime);
        Ok(rustix::fs::utimensat(
            parent,
            name,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    fn node(&mut self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> io::Result<()> {
        let kind = match entry.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if kind != FileType::Fifo && self.options.devices == Devices::Refuse {
            return Err(refused("device nodes are not allowed here"));
        }
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(0o600);
        self.replacing(parent, name, || {
            rustix::fs::mknodat(parent, name, kind, mode, device)
        })?;
        let (uid, gid) = self.owner(entry);
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(parent, name, Some(user), Some(group), no_follow)?;
        // Devices are not opened, that would wake drivers: their descriptor
        // only names them, and the mode goes through its name in /proc.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let name_of = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&node));
        rustix::fs::chmod(name_of, Mode::from_raw_mode(entry.mode))?;
        Ok(rustix::fs::utimensat(
            parent,
            name,
            &timestamps(entry.mtime),
            no_follow,
        )?)
    }

    /// Makes something, after removing what is in its place if need be.
    fn replacing<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                if self.options.replace == Replace::SameKind {
                    let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    if FileType::from_raw_mode(there.st_mode).is_dir() {
                        return Err(refused("cannot overwrite directory with non-directory"));
                    }
                }
                self.clear(parent, name)?;
                Ok(make()?)
            }
            other => Ok(other?),
        }
    }

    fn clear(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        remove_tree(parent, name)?;
        // The cached directory may have been in there.
        self.parent = None;
        Ok(())
    }

    /// Owner, then mode (which a change of owner would strip of set-id bits),
    /// then attributes (capabilities are stripped likewise).
    fn attributes(&self, file: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner(entry);
        chown(file, uid, gid)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
        for (name, value) in &entry.xattrs {
            let (Ok(text), true) = (std::str::from_utf8(name), is_allowed(name)) else {
                continue;
            };
            match rustix::fs::fsetxattr(file, text, value, XattrFlags::empty()) {
                // Not every file system has every kind.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => {
                    let error = io::Error::from(error);
                    return Err(io::Error::new(
                        error.kind(),
                        format!("attribute {text}: {error}"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn owner(&self, entry: &Entry) -> (u32, u32) {
        match self.options.ownership {
            Ownership::Recorded => (entry.uid, entry.gid),
            Ownership::Fixed { uid, gid } => (uid, gid),
        }
    }

    fn remember(&mut self, path: &[u8], mtime: (i64, u32)) -> io::Result<()> {
        self.count(path)?;
        self.times.push((path.to_vec(), mtime));
        Ok(())
    }

    /// Bounds the memory that directories take.
    fn count(&mut self, path: &[u8]) -> io::Result<()> {
        // Each has a price beyond its name.
        self.n_remembered += path.len() + size_of::<(Vec<u8>, (i64, u32))>();
        if self.n_remembered > MAX_REMEMBERED {
            return Err(refused(format!(
                "too many directories: their paths take more than {MAX_REMEMBERED} bytes"
            )));
        }
        Ok(())
    }

    /// Sets the times of directories, innermost first.
    fn finish(mut self) -> io::Result<Unpacked> {
        self.parent = None;
        while let Some((path, mtime)) = self.times.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match open_in(self.root, &path, flags) {
                Ok(directory) => rustix::fs::futimens(&directory, &timestamps(mtime))?,
                // A later entry replaced it.
                Err(error) if was_replaced(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.unpacked)
    }
}

/// Whether a stranger may set this attribute. Overlayfs's own would redirect
/// lookups.
fn is_allowed(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn chown(file: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(
        file,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
    )?)
}

/// A readable descriptor from one that only names a directory.
fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open_in(directory, b"", OFlags::RDONLY | OFlags::DIRECTORY)
}

fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanoseconds) as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Whether a directory is not to be found, or no directory any more.
fn was_replaced(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    matches!(error, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Directory and last component of a clean path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn refused(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}
