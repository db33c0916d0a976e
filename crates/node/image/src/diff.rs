//! What a container changed: `docker diff`, `docker ps --size`, export.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::Result;
use crate::archive::{PackOptions, attributes, is_opaque, names, pack};
use crate::error::at;
use crate::images::Images;
use crate::tar::Writer;
use crate::types::{Change, ChangeKind};

impl Images {
    /// What has been written, as `docker diff` shows it, sorted. Blocks.
    pub fn changes(&self, container: &str) -> Result<Vec<Change>> {
        let (rootfs, _) = self.inner.snapshots.rootfs(container)?;
        let lower = self.inner.snapshots.mount(&rootfs.lower)?;
        let upper = File::open(&rootfs.upper).map_err(at("open", &rootfs.upper))?;
        let mut changes = Vec::new();
        compare(
            upper.as_fd(),
            Some(lower.as_fd()),
            &mut Vec::new(),
            &mut changes,
        )
        .map_err(at("compare", &rootfs.upper))?;
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(changes)
    }

    /// Bytes written on top of the image: Docker's `SizeRw`. Blocks.
    pub fn written(&self, container: &str) -> Result<u64> {
        let (rootfs, _) = self.inner.snapshots.rootfs(container)?;
        let upper = File::open(&rootfs.upper).map_err(at("open", &rootfs.upper))?;
        let mut seen = HashSet::new();
        sum(upper.as_fd(), &mut seen).map_err(at("measure", &rootfs.upper))
    }

    /// Writes the merged root as a tar. Works beside a running container.
    /// Blocks.
    pub fn export(&self, container: &str, output: &mut dyn Write) -> Result<()> {
        let (rootfs, _) = self.inner.snapshots.rootfs(container)?;
        // The writable layer as one more read-only one: the container may run.
        let mut layers = vec![rootfs.upper.clone()];
        layers.extend(rootfs.lower);
        let root = self.inner.snapshots.mount(&layers)?;
        let mut writer = Writer::new(output);
        pack(&root, &mut writer, &PackOptions::default())
            .and_then(|_| writer.finish().map(drop))
            .map_err(at("export", &rootfs.upper))
    }
}

/// Compares a directory of the writable layer with the merged one below.
fn compare(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    path: &mut Vec<u8>,
    changes: &mut Vec<Change>,
) -> io::Result<()> {
    let mut own = HashSet::new();
    for name in names(upper)? {
        let Some(stat) = look(upper, &name)? else {
            continue;
        };
        let below = match lower {
            Some(lower) => look(lower, &name)?,
            None => None,
        };
        let length = path.len();
        path.push(b'/');
        path.extend_from_slice(&name);
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        if is_whiteout {
            if below.is_some() {
                changes.push(change(path, ChangeKind::Deleted));
            }
        } else if kind == FileType::Directory {
            let inner = enter(upper, &name)?;
            let below_kind = below
                .as_ref()
                .map(|stat| FileType::from_raw_mode(stat.st_mode));
            let lower_inner = match (below_kind, lower) {
                (Some(FileType::Directory), Some(lower)) => Some(enter(lower, &name)?),
                _ => None,
            };
            let at_entry = changes.len();
            compare(
                inner.as_fd(),
                lower_inner.as_ref().map(|fd| fd.as_fd()),
                path,
                changes,
            )?;
            match &below {
                None => changes.push(change(path, ChangeKind::Added)),
                Some(below) => {
                    let differs = (below.st_mode, below.st_uid, below.st_gid)
                        != (stat.st_mode, stat.st_uid, stat.st_gid);
                    // A directory counts as changed if something in it did.
                    if differs || changes.len() > at_entry {
                        changes.push(change(path, ChangeKind::Modified));
                    }
                }
            }
        } else {
            match &below {
                None => changes.push(change(path, ChangeKind::Added)),
                Some(below) if differs(upper, lower, &name, &stat, below)? => {
                    changes.push(change(path, ChangeKind::Modified));
                }
                // Copied up and left as it was.
                Some(_) => {}
            }
        }
        path.truncate(length);
        own.insert(name);
    }
    // An opaque directory hides whatever it does not repeat.
    if let Some(lower) = lower
        && !path.is_empty()
        && is_opaque(upper)?
    {
        for name in names(lower)? {
            if !own.contains(&name) {
                let length = path.len();
                path.push(b'/');
                path.extend_from_slice(&name);
                changes.push(change(path, ChangeKind::Deleted));
                path.truncate(length);
            }
        }
    }
    Ok(())
}

fn differs(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    name: &[u8],
    ours: &Stat,
    below: &Stat,
) -> io::Result<bool> {
    let identity = |stat: &Stat| {
        (
            stat.st_mode,
            stat.st_uid,
            stat.st_gid,
            stat.st_rdev,
            stat.st_size,
            stat.st_mtime,
        )
    };
    if identity(ours) != identity(below) || ours.st_mtime_nsec != below.st_mtime_nsec {
        return Ok(true);
    }
    let (Some(lower), FileType::RegularFile) = (lower, FileType::from_raw_mode(ours.st_mode))
    else {
        return Ok(false);
    };
    let read = |directory: BorrowedFd<'_>| -> io::Result<_> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        attributes(file.as_fd())
    };
    Ok(read(upper)? != read(lower)?)
}

fn sum(directory: BorrowedFd<'_>, seen: &mut HashSet<(u64, u64)>) -> io::Result<u64> {
    let mut bytes = 0;
    for name in names(directory)? {
        let Some(stat) = look(directory, &name)? else {
            continue;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => match enter(directory, &name) {
                Ok(inner) => bytes += sum(inner.as_fd(), seen)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
            _ if stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) => {}
            _ => bytes += stat.st_size as u64,
        }
    }
    Ok(bytes)
}

fn change(path: &[u8], kind: ChangeKind) -> Change {
    Change {
        path: OsString::from_vec(path.to_vec()).into(),
        kind,
    }
}

fn look(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn enter(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}
