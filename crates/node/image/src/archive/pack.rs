//! Packing a directory up, in an order and form that depend on nothing but
//! its content.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::archive::{OPAQUE, WHITEOUT, WHITEOUT_OPAQUE, Whiteouts};
use crate::tar::{Entry, Kind, Writer};

/// Paths longer than this no system call would take again.
const MAX_PATH: usize = 4096;

/// How to pack.
pub struct PackOptions<'a> {
    /// Whether overlayfs's whiteouts and opaque directories are spelt as
    /// layers do, or whiteouts are devices like others.
    pub whiteouts: Whiteouts,
    /// What every path begins with; empty, or ends with `/`.
    pub prefix: &'a [u8],
    /// Which paths (without the prefix) go in; a directory that does not go in
    /// is not entered.
    pub filter: &'a dyn Fn(&[u8]) -> bool,
    /// What is changed about each entry before it is written.
    pub edit: &'a dyn Fn(&mut Entry),
}

impl Default for PackOptions<'_> {
    fn default() -> Self {
        PackOptions {
            whiteouts: Whiteouts::Literal,
            prefix: b"",
            filter: &|_| true,
            edit: &|_| {},
        }
    }
}

/// What has been packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of all files, each counted once.
    pub bytes: u64,
    /// Entries written.
    pub n_entries: u64,
}

/// Writes everything in `root` (not the root itself) to `writer`, sorted by
/// name within each directory; sockets are left out. Follows no symbolic link.
///
/// # Errors
/// The kernel's, with the path; the writer's.
pub fn pack<W: Write>(
    root: impl AsFd,
    writer: &mut Writer<W>,
    options: &PackOptions<'_>,
) -> io::Result<Packed> {
    let mut packer = Packer {
        writer,
        options,
        links: HashMap::new(),
        packed: Packed::default(),
    };
    let root = open(root.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    packer.directory(root, &mut Vec::new())?;
    Ok(packer.packed)
}

struct Packer<'a, W> {
    writer: &'a mut Writer<W>,
    options: &'a PackOptions<'a>,
    /// First path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
}

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, directory: OwnedFd, path: &mut Vec<u8>) -> io::Result<()> {
        let overlay = self.options.whiteouts == Whiteouts::Overlay;
        if overlay && !path.is_empty() && is_opaque(directory.as_fd())? {
            self.empty_file(path, WHITEOUT_OPAQUE)?;
        }
        for name in names(directory.as_fd())? {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if path.len() > MAX_PATH {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "path too long"));
            }
            if (self.options.filter)(path) {
                self.entry(directory.as_fd(), &name, path, length)
                    .map_err(|error| {
                        let shown = String::from_utf8_lossy(path);
                        io::Error::new(error.kind(), format!("{shown}: {error}"))
                    })?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &mut Vec<u8>,
        parent_length: usize,
    ) -> io::Result<()> {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It went while we looked: a container may be running.
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(()),
        };
        let overlay = self.options.whiteouts == Whiteouts::Overlay;
        if overlay && kind == Kind::Character && stat.st_rdev == 0 {
            let parent = path[..parent_length].to_vec();
            return self.empty_file(&parent, &[WHITEOUT, name].concat());
        }
        let mut entry = self.describe(kind, path, &stat);
        if kind != Kind::Directory && stat.st_nlink > 1 {
            let file = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&file) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                return self.append(&entry, &mut io::empty());
            }
            self.links.insert(file, entry.path.clone());
        }
        match kind {
            Kind::Directory => {
                let inner = open(directory, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                entry.xattrs = attributes(inner.as_fd())?;
                self.append(&entry, &mut io::empty())?;
                self.directory(inner, path)
            }
            Kind::File => {
                // Never wait for a pipe that took the file's place.
                let file = open(directory, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
                entry.xattrs = attributes(file.as_fd())?;
                entry.size = stat.st_size as u64;
                self.packed.bytes += entry.size;
                self.append(&entry, &mut File::from(file))
            }
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                entry.link = target.into_bytes();
                self.append(&entry, &mut io::empty())
            }
            _ => {
                entry.device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                self.append(&entry, &mut io::empty())
            }
        }
    }

    fn describe(&self, kind: Kind, path: &[u8], stat: &Stat) -> Entry {
        let mut entry = Entry::new(kind, [self.options.prefix, path].concat());
        entry.mode = stat.st_mode & 0o7777;
        (entry.uid, entry.gid) = (stat.st_uid, stat.st_gid);
        // Whole seconds, as every builder writes layers.
        entry.mtime = (stat.st_mtime, 0);
        entry
    }

    fn empty_file(&mut self, directory: &[u8], name: &[u8]) -> io::Result<()> {
        let mut path = self.options.prefix.to_vec();
        path.extend_from_slice(directory);
        if !directory.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let mut entry = Entry::new(Kind::File, path);
        entry.mode = 0;
        self.append(&entry, &mut io::empty())
    }

    fn append(&mut self, entry: &Entry, data: &mut dyn io::Read) -> io::Result<()> {
        self.packed.n_entries += 1;
        let mut entry = entry.clone();
        (self.options.edit)(&mut entry);
        self.writer.append(&entry, data)
    }
}

/// The names in a directory, sorted.
///
/// # Errors
/// The kernel's.
pub fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut entries = Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a directory hides the one below it.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let mut value = [0; 2];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The extended attributes that belong into an archive, sorted.
///
/// # Errors
/// The kernel's.
pub fn attributes(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 1024];
    let length = loop {
        match rustix::fs::flistxattr(file, &mut list[..]) {
            Ok(length) => break length,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if list.len() < 64 << 10 => list.resize(list.len() * 4, 0),
            Err(error) => return Err(error.into()),
        }
    };
    let mut attributes = Vec::new();
    for name in list[..length].split(|byte| *byte == 0) {
        let belongs = name == b"security.capability"
            || name.starts_with(b"system.posix_acl_")
            || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
        let (true, Ok(text)) = (belongs, std::str::from_utf8(name)) else {
            continue;
        };
        let mut value = vec![0; 64 << 10];
        match rustix::fs::fgetxattr(file, text, &mut value[..]) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        attributes.push((name.to_vec(), value));
    }
    attributes.sort_unstable();
    Ok(attributes)
}

fn open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}
