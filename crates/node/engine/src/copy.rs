//! Files in and out of a container, as archives (`docker cp`).
//!
//! Every path is resolved by the kernel below a descriptor of the container's
//! root, so that no link, however it changes meanwhile, leads out of it
//! (CVE-2018-15664). The root of a running container is its program's own, with
//! everything mounted there; that of another is its filesystem alone.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dhow_image::Rootfs;
use dhow_image::archive::{
    self, Devices, Ownership, PackOptions, Replace, UnpackOptions, Whiteouts,
};
use dhow_image::tar::{Archive, Entry, Kind, Writer};
use dhow_sys::FileOwner;
use dhow_sys::idmap::IdMaps;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};

use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::record::Record;
use crate::{accounts, files, owners, users};

/// What is at a path in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Last component of the path.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Type and permission bits, as `stat` has them.
    pub mode: u32,
    /// When it was last changed.
    pub modified: SystemTime,
    /// Where a symbolic link leads; empty for anything else.
    pub link_target: String,
}

/// The root of a container.
struct Root {
    file: OwnedFd,
    /// How its owners' numbers are to be read, if they are not the container's.
    maps: Option<IdMaps>,
}

/// How files are put into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyIn {
    /// What may be replaced.
    pub replace: Replace,
    /// Whose they are then.
    pub owner: CopyOwner,
}

/// Whose files are that were put into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyOwner {
    /// As the archive says.
    Recorded,
    /// The user the container runs as; root's without one.
    User,
}

/// A path taken apart: where it lies, and what it is called there.
struct Place {
    directory: OwnedFd,
    /// `.` for a directory itself.
    base: Vec<u8>,
    /// What it is called in archives.
    shown: Vec<u8>,
}

impl Engine {
    /// Says what is at a path. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFile`].
    pub fn copy_stat(&self, name: &str, path: &str) -> Result<PathStat> {
        let root = self.open_root(name)?.file;
        let missing = || Error::NoSuchFile {
            container: name.to_owned(),
            path: path.to_owned(),
        };
        let place = find(&root, path).map_err(|_| missing())?;
        let stat = rustix::fs::statat(
            &place.directory,
            place.base.as_slice(),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|_| missing())?;
        let link_target = if FileType::from_raw_mode(stat.st_mode).is_symlink() {
            rustix::fs::readlinkat(&place.directory, place.base.as_slice(), Vec::new())
                .map(|target| target.to_string_lossy().into_owned())
                .unwrap_or_default()
        } else {
            String::new()
        };
        let modified = u64::try_from(stat.st_mtime).unwrap_or(0);
        Ok(PathStat {
            name: String::from_utf8_lossy(&place.shown).into_owned(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode,
            modified: SystemTime::UNIX_EPOCH
                + Duration::new(modified, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            link_target,
        })
    }

    /// Writes what is at a path as a tar, below its last component's name.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFile`]; [`Error::File`] when it cannot be read to its end.
    pub fn copy_out(&self, name: &str, path: &str, output: &mut dyn Write) -> Result<()> {
        let Root { file: root, maps } = self.open_root(name)?;
        let place = find(&root, path).map_err(|_| Error::NoSuchFile {
            container: name.to_owned(),
            path: path.to_owned(),
        })?;
        let mut writer = Writer::new(output);
        let edit = |entry: &mut Entry| {
            if let Some(maps) = &maps {
                owners::inwards(entry, maps);
            }
        };
        let packed = if place.base == b"." {
            pack_contents(&place, &mut writer, &edit)
        } else {
            let within = |candidate: &[u8]| {
                candidate
                    .strip_prefix(place.base.as_slice())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            };
            archive::pack(
                &place.directory,
                &mut writer,
                &PackOptions {
                    filter: &within,
                    edit: &edit,
                    ..PackOptions::default()
                },
            )
            .map(drop)
        };
        packed
            .and_then(|()| writer.finish().map(drop))
            .map_err(at("read", path))
    }

    /// Unpacks a tar, compressed or not, into a directory. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFile`]; [`Error::Invalid`] for a path that is no
    /// directory, an archive that is none, a kind that may not be replaced, or
    /// a user that the container does not know; [`Error::ReadOnly`].
    pub fn copy_in(
        &self,
        name: &str,
        path: &str,
        input: impl Read + Send,
        how: CopyIn,
    ) -> Result<()> {
        let record = self.get(name)?;
        if record.host.readonly_rootfs && !is_in_volume(&record, path) {
            return Err(Error::ReadOnly);
        }
        let Root { file: root, maps } = self.open_root(name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = archive::open_in(&root, path.as_bytes(), flags).map_err(|error| {
            if error.kind() == io::ErrorKind::NotADirectory {
                Error::Invalid("extraction point is not a directory".into())
            } else {
                Error::NoSuchFile {
                    container: name.to_owned(),
                    path: path.to_owned(),
                }
            }
        })?;
        let ownership = match how.owner {
            CopyOwner::User if !record.config.user.is_empty() => {
                user_of(&record, &self.images().rootfs(&record.id)?)?
            }
            CopyOwner::User | CopyOwner::Recorded => Ownership::Recorded,
        };
        let unpacked = (|| {
            let input = archive::Decompressor::new(input)?;
            let mut archive = Archive::new(input, self.images().read_limits());
            let options = UnpackOptions {
                whiteouts: Whiteouts::Literal,
                ownership,
                devices: Devices::Create,
                replace: how.replace,
            };
            let Some(maps) = &maps else {
                return archive::unpack(&mut archive, &directory, options);
            };
            // Files can be made only as somebody the container knows.
            let (uid, gid) = maps.outside(0, 0).unwrap_or_default();
            let _owner = FileOwner::assume(uid, gid)?;
            let edit = |entry: &mut Entry| owners::outwards(entry, maps);
            archive::unpack_edited(&mut archive, &directory, options, &edit)
        })();
        match unpacked {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    Err(Error::Invalid(error.to_string()))
                }
                _ => Err(at("unpack into", path)(error)),
            },
        }
    }

    /// The root as the container sees it.
    fn open_root(&self, name: &str) -> Result<Root> {
        let container = self.find(name)?;
        let record = container.record();
        if record.state.status.is_alive() {
            let path = format!("/proc/{}/root", record.state.pid);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, &path, flags, Mode::empty());
            let maps = users::maps_inside(record.state.pid);
            // The number may have become another's only if it has ended.
            let now = container.record();
            if let (Ok(file), Ok(maps)) = (opened, maps)
                && now.state.status.is_alive()
                && now.state.pid == record.state.pid
            {
                return Ok(Root { file, maps });
            }
        }
        let file = self.images().open_rootfs(&record.id)?;
        Ok(Root { file, maps: None })
    }
}

/// The user the container runs as, by its image's accounts or its own.
fn user_of(record: &Record, rootfs: &Rootfs) -> Result<Ownership> {
    let passwd = files::read_in_layers(rootfs, Path::new("etc/passwd"));
    let group = files::read_in_layers(rootfs, Path::new("etc/group"));
    let user = accounts::identify(&record.config.user, &[], &passwd, &group)?.user;
    Ok(Ownership::Fixed {
        uid: user.uid,
        gid: user.gid,
    })
}

/// Finds a path: links on the way are followed inside the root, one at its end
/// only if the path says that it means a directory.
fn find(root: &OwnedFd, path: &str) -> io::Result<Place> {
    let is_directory = path.ends_with('/') || path.ends_with("/.") || path == ".";
    let trimmed = path.trim_end_matches("/.").trim_end_matches('/');
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    if is_directory || trimmed.is_empty() {
        let directory = archive::open_in(root, trimmed.as_bytes(), flags)?;
        let base = trimmed.rsplit('/').next().unwrap_or_default();
        let shown = match base {
            _ if path.ends_with('.') => ".",
            "" => "/",
            base => base,
        };
        return Ok(Place {
            directory,
            base: b".".to_vec(),
            shown: shown.into(),
        });
    }
    let (parent, base) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    if base == ".." {
        let directory = archive::open_in(root, trimmed.as_bytes(), flags)?;
        return Ok(Place {
            directory,
            base: b".".to_vec(),
            shown: b".".to_vec(),
        });
    }
    let directory = archive::open_in(root, parent.as_bytes(), flags)?;
    rustix::fs::statat(&directory, base, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Place {
        directory,
        base: base.into(),
        shown: base.into(),
    })
}

/// A directory and what is in it, below the name it is shown by.
fn pack_contents<W: Write>(
    place: &Place,
    writer: &mut Writer<W>,
    edit: &dyn Fn(&mut Entry),
) -> io::Result<()> {
    let shown: &[u8] = if place.shown == b"/" {
        b"."
    } else {
        &place.shown
    };
    let mut prefix = shown.to_vec();
    prefix.push(b'/');
    let stat = rustix::fs::fstat(&place.directory)?;
    let mut entry = Entry::new(Kind::Directory, prefix.clone());
    entry.mode = stat.st_mode & 0o7777;
    (entry.uid, entry.gid) = (stat.st_uid, stat.st_gid);
    entry.mtime = (stat.st_mtime, 0);
    edit(&mut entry);
    writer.append(&entry, &mut io::empty())?;
    let options = PackOptions {
        prefix: &prefix,
        edit,
        ..PackOptions::default()
    };
    archive::pack(&place.directory, writer, &options).map(drop)
}

fn is_in_volume(record: &crate::Record, path: &str) -> bool {
    let path = std::path::Path::new("/").join(path);
    record
        .mounts
        .iter()
        .any(|mount| mount.writable && path.starts_with(&mount.destination))
}
