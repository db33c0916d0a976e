//! COPY and ADD: finding the sources, naming their content, writing them into
//! a root filesystem.
//!
//! Sources travel as a tar from a thread that reads to one that writes: both
//! ends are the ones that are safe with strangers' trees.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dhow_image::archive::{
    Decompressor, Devices, Ownership, PackOptions, Replace, UnpackOptions, Unpacked, Whiteouts,
    attributes, clean, names, open_in, pack, unpack,
};
use dhow_image::tar::{Archive, Entry, Kind, ReadLimits, Writer};
use dhow_oci::{Algorithm, Digest, Digester};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::ignore::{Ignore, is_pattern, matches};

/// A tree to copy from.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) ignore: &'a Ignore,
}

/// One thing to copy.
#[derive(Debug)]
pub(crate) enum Source {
    /// The content of a directory.
    Directory(Vec<u8>),
    /// A file under this path, called by this name.
    File { path: Vec<u8>, name: Vec<u8> },
    /// A file whose content is known.
    Inline { name: Vec<u8>, content: Vec<u8> },
    /// A file outside of the tree.
    Outside { file: File, name: Vec<u8> },
}

/// Where sources go and what they become.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Clean path of the directory, or of the file.
    pub(crate) path: Vec<u8>,
    pub(crate) shape: Shape,
    pub(crate) owner: (u32, u32),
    pub(crate) mode: Option<u32>,
}

/// What the target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A directory to copy into.
    Directory,
    /// The new name of the one file.
    File,
}

impl Tree<'_> {
    /// Everything a source pattern means, sorted.
    pub(crate) fn find(&self, pattern: &str) -> io::Result<Vec<Source>> {
        let cleaned = clean(pattern.as_bytes())?;
        let pattern = String::from_utf8_lossy(&cleaned).into_owned();
        let mut paths = Vec::new();
        if is_pattern(&pattern) {
            let parts: Vec<&str> = pattern.split('/').collect();
            self.glob(&mut Vec::new(), &parts, &mut paths)?;
        } else {
            paths.push(cleaned);
        }
        let mut sources = Vec::new();
        for path in paths {
            sources.extend(self.source(path)?);
        }
        Ok(sources)
    }

    fn glob(&self, path: &mut Vec<u8>, parts: &[&str], found: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let [first, rest @ ..] = parts else {
            found.push(path.clone());
            return Ok(());
        };
        let directory = match open_in(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            // A file where the pattern wants a directory.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for name in names(directory.as_fd())? {
            if !matches(first, &name) {
                continue;
            }
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.glob(path, rest, found)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn source(&self, path: Vec<u8>) -> io::Result<Option<Source>> {
        let named = match open_in(self.root, &path, OFlags::PATH) {
            Ok(named) => named,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let ignored = !path.is_empty() && self.ignore.is_ignored(&path);
        match FileType::from_raw_mode(rustix::fs::fstat(&named)?.st_mode) {
            FileType::Directory if ignored && !self.ignore.has_exceptions() => Ok(None),
            FileType::Directory => Ok(Some(Source::Directory(path))),
            _ if ignored => Ok(None),
            FileType::RegularFile => {
                let start = path
                    .iter()
                    .rposition(|byte| *byte == b'/')
                    .map_or(0, |n| n + 1);
                let name = path[start..].to_vec();
                Ok(Some(Source::File { path, name }))
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} is neither a file nor a directory",
                    String::from_utf8_lossy(&path)
                ),
            )),
        }
    }

    /// The digest of what the sources contain: names, modes, data; not owners
    /// and times, which copying sets or does not care for.
    pub(crate) fn digest(&self, sources: &[Source]) -> io::Result<Digest> {
        let hashing = Hashing(Algorithm::Sha256.digester());
        let mut writer = Writer::new(BufWriter::with_capacity(64 << 10, hashing));
        let edit = |entry: &mut Entry| {
            (entry.uid, entry.gid) = (0, 0);
            entry.mtime = (0, 0);
        };
        self.write(sources, b"", Shape::Directory, &edit, &mut writer)?;
        let hashing = writer.finish()?.into_inner().map_err(io::Error::from)?;
        Ok(hashing.0.finish())
    }

    /// Copies the sources into a root filesystem.
    pub(crate) fn copy(
        &self,
        sources: &[Source],
        rootfs: BorrowedFd<'_>,
        target: &Target,
        limits: ReadLimits,
    ) -> io::Result<()> {
        if target.shape == Shape::Directory {
            make_directories(rootfs, &target.path, target.owner)?;
        }
        let edit = |entry: &mut Entry| {
            if let Some(mode) = target.mode
                && entry.kind != Kind::Symlink
            {
                entry.mode = mode;
            }
        };
        let (reader, writer) = io::pipe()?;
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let mut writer = Writer::new(BufWriter::with_capacity(64 << 10, writer));
                self.write(sources, &target.path, target.shape, &edit, &mut writer)?;
                writer.finish().map(drop)
            });
            let (uid, gid) = target.owner;
            let options = UnpackOptions {
                whiteouts: Whiteouts::Literal,
                ownership: Ownership::Fixed { uid, gid },
                devices: Devices::Create,
                replace: Replace::Anything,
            };
            let mut archive = Archive::new(reader, limits);
            let unpacked = unpack(&mut archive, rootfs, options);
            // Ends the pipe, so that the sender does, too.
            let finished = if unpacked.is_ok() {
                archive.finish()
            } else {
                drop(archive);
                Ok(())
            };
            let sent = sending
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // What the receiver says explains why the sender's pipe broke.
            unpacked?;
            finished?;
            sent
        })
    }

    fn write<W: Write>(
        &self,
        sources: &[Source],
        target: &[u8],
        shape: Shape,
        edit: &dyn Fn(&mut Entry),
        writer: &mut Writer<W>,
    ) -> io::Result<()> {
        let mut prefix = target.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let named = |name: &[u8]| match shape {
            Shape::Directory => [&prefix[..], name].concat(),
            Shape::File => target.to_vec(),
        };
        let mut file = |name: &[u8], file: File| -> io::Result<()> {
            let mut entry = Entry::new(Kind::File, named(name));
            let stat = rustix::fs::fstat(&file)?;
            entry.mode = stat.st_mode & 0o7777;
            entry.mtime = (stat.st_mtime, 0);
            entry.size = u64::try_from(stat.st_size).unwrap_or(0);
            entry.xattrs = attributes(file.as_fd())?;
            edit(&mut entry);
            writer.append(&entry, &mut &file)
        };
        for source in sources {
            match source {
                Source::File { path, name } => {
                    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                    file(name, open_in(self.root, path, flags)?.into())?;
                }
                Source::Outside {
                    file: outside,
                    name,
                } => {
                    let mut again = outside.try_clone()?;
                    io::Seek::rewind(&mut again)?;
                    file(name, again)?;
                }
                Source::Inline { .. } | Source::Directory(_) => {}
            }
        }
        for source in sources {
            match source {
                Source::Inline { name, content } => {
                    let mut entry = Entry::new(Kind::File, named(name));
                    entry.size = content.len() as u64;
                    edit(&mut entry);
                    writer.append(&entry, &mut &content[..])?;
                }
                Source::Directory(path) => {
                    let directory = open_in(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    let whole = |inner: &[u8]| match path.is_empty() {
                        true => inner.to_vec(),
                        false => [&path[..], b"/", inner].concat(),
                    };
                    let filter = |inner: &[u8]| self.takes(&directory, inner, &whole(inner));
                    let options = PackOptions {
                        whiteouts: Whiteouts::Literal,
                        prefix: &prefix,
                        filter: &filter,
                        edit,
                    };
                    pack(&directory, writer, &options)?;
                }
                Source::File { .. } | Source::Outside { .. } => {}
            }
        }
        Ok(())
    }

    fn takes(&self, directory: &OwnedFd, inner: &[u8], whole: &[u8]) -> bool {
        if !self.ignore.is_ignored(whole) {
            return true;
        }
        // Something below an ignored directory may be taken back.
        self.ignore.has_exceptions()
            && rustix::fs::statat(directory, inner, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }
}

/// Whether a path of a root filesystem is a directory (links followed).
pub(crate) fn is_directory(rootfs: BorrowedFd<'_>, path: &[u8]) -> bool {
    open_in(rootfs, path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
}

/// Makes a directory and those it lies in, as far as they are missing.
pub(crate) fn make_directories(
    rootfs: BorrowedFd<'_>,
    path: &[u8],
    (uid, gid): (u32, u32),
) -> io::Result<()> {
    for end in (1..=path.len()).filter(|end| *end == path.len() || path[*end] == b'/') {
        let path = &path[..end];
        if is_directory(rootfs, path) {
            continue;
        }
        let start = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |n| n + 1);
        let above = &path[..start.saturating_sub(1)];
        let parent = open_in(rootfs, above, OFlags::PATH | OFlags::DIRECTORY)?;
        match rustix::fs::mkdirat(&parent, &path[start..], Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let shown = String::from_utf8_lossy(path);
                return Err(io::Error::new(
                    io::ErrorKind::NotADirectory,
                    format!("/{shown} exists and is not a directory"),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        let made = open_in(&parent, &path[start..], OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
        rustix::fs::fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

/// Whether a file is a tar, compressed or not.
pub(crate) fn is_archive(mut file: &File) -> io::Result<bool> {
    let limits = ReadLimits {
        bytes: 1 << 20,
        entries: 1,
    };
    io::Seek::rewind(&mut file)?;
    let first = Decompressor::new(file).and_then(|plain| Archive::new(plain, limits).next_entry());
    io::Seek::rewind(&mut file)?;
    // Whatever is wrong with it as an archive, it is a file.
    Ok(matches!(first, Ok(Some(_))))
}

/// Unpacks a tar into a directory of a root filesystem.
pub(crate) fn extract(
    file: &File,
    rootfs: BorrowedFd<'_>,
    path: &[u8],
    owner: Option<(u32, u32)>,
    limits: ReadLimits,
) -> io::Result<Unpacked> {
    make_directories(rootfs, path, owner.unwrap_or((0, 0)))?;
    let target = open_in(rootfs, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut archive = Archive::new(Decompressor::new(file)?, limits);
    let options = UnpackOptions {
        whiteouts: Whiteouts::Literal,
        ownership: match owner {
            Some((uid, gid)) => Ownership::Fixed { uid, gid },
            None => Ownership::Recorded,
        },
        devices: Devices::Create,
        replace: Replace::Anything,
    };
    unpack(&mut archive, &target, options)
}

/// User and group of `--chown`, by number or by the names the root filesystem
/// knows.
pub(crate) fn owner(rootfs: BorrowedFd<'_>, text: &str) -> Result<(u32, u32), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let find = |file: &str, what: &str, name: &str| -> Result<u32, String> {
        if let Ok(number) = name.parse() {
            return Ok(number);
        }
        let mut content = String::new();
        if let Ok(file) = open_in(rootfs, file.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
            // What is unreadable knows nobody.
            let _ = File::from(file).take(4 << 20).read_to_string(&mut content);
        }
        content
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name))
            .and_then(|fields| fields.get(2)?.parse().ok())
            .ok_or_else(|| format!("unable to find {what} {name}: no matching entries in {file}"))
    };
    let uid = find("etc/passwd", "user", user)?;
    let gid = match group {
        Some(group) => find("etc/group", "group", group)?,
        None => uid,
    };
    Ok((uid, gid))
}

/// Hashes what is written to it.
struct Hashing(Digester);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
