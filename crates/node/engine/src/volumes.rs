//! Volumes as containers use them: made, filled, removed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use dhow_image::Images;
use dhow_shim::Moment;
use dhow_volume::Volume;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::mounts::{MountKind, MountPoint};
use crate::names;
use crate::record::Record;

/// The label of volumes that nobody gave a name.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Folders within folders that are copied into a volume at most.
const MAX_DEPTH: usize = 256;

impl Engine {
    /// Makes a volume, or returns the one of that name. An empty name asks for
    /// an anonymous one.
    ///
    /// # Errors
    ///
    /// [`Error::Volume`].
    pub fn volume_create(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Volume> {
        let is_anonymous = name.is_empty();
        let labels = labelled(labels, is_anonymous);
        let name = if is_anonymous {
            names::identifier()
        } else {
            name.to_owned()
        };
        let created = Moment::now().to_string();
        let volume = Volume {
            name,
            created,
            labels,
            options,
            is_anonymous,
        };
        let (volume, is_new) = self.inner.volumes.create(volume)?;
        if is_new {
            self.announce_volume(&volume.name, "create");
        }
        Ok(volume)
    }

    /// Makes the volume that a mount asks for, if there is none.
    pub(crate) fn volume_of(
        &self,
        point: &MountPoint,
        is_anonymous: bool,
    ) -> Result<(Volume, bool)> {
        let (volume, is_new) = self.inner.volumes.create(Volume {
            name: point.name.clone(),
            created: Moment::now().to_string(),
            labels: labelled(point.volume_labels.clone(), is_anonymous),
            options: point.volume_options.clone(),
            is_anonymous,
        })?;
        if is_new {
            self.announce_volume(&volume.name, "create");
        }
        Ok((volume, is_new))
    }

    /// Mounts what the volumes of a container stand for, where they have a
    /// filesystem of their own.
    pub(crate) fn mount_volumes(&self, record: &Record) -> Result<()> {
        for point in volumes_in(record) {
            self.inner.volumes.mount(&point.name)?;
        }
        Ok(())
    }

    /// Announces that a container that starts has its volumes.
    pub(crate) fn announce_mounts(&self, record: &Record) {
        for point in volumes_in(record) {
            let told = [
                ("container", record.id.as_str()),
                ("destination", &point.destination),
                ("driver", "local"),
                ("propagation", &point.propagation),
                ("read/write", if point.writable { "true" } else { "false" }),
            ];
            self.tell_of_volume(&point.name, "mount", &told);
        }
    }

    /// Announces that a container that ended has no volumes any more.
    pub(crate) fn announce_unmounts(&self, record: &Record) {
        for point in volumes_in(record) {
            let told = [("container", record.id.as_str()), ("driver", "local")];
            self.tell_of_volume(&point.name, "unmount", &told);
        }
    }

    /// Unmounts the volumes of a container that nobody else has running.
    pub(crate) fn unmount_volumes(&self, record: &Record) {
        for point in volumes_in(record) {
            let is_used = self.list().iter().any(|other| {
                other.id != record.id
                    && other.state.status.is_alive()
                    && volumes_in(other).any(|mount| mount.name == point.name)
            });
            if !is_used && let Err(error) = self.inner.volumes.unmount(&point.name) {
                tracing::warn!(volume = point.name, %error, "volume stays mounted");
            }
        }
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<Volume> {
        self.inner.volumes.list()
    }

    /// A volume by name.
    ///
    /// # Errors
    ///
    /// [`Error::Volume`] when there is none.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        Ok(self.inner.volumes.get(name)?)
    }

    /// The folder that holds a volume's data.
    pub fn volume_path(&self, name: &str) -> PathBuf {
        self.inner.volumes.data(name)
    }

    /// The ids of the containers that use a volume.
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        self.list()
            .iter()
            .filter(|record| {
                record
                    .mounts
                    .iter()
                    .any(|point| point.kind == MountKind::Volume && point.name == name)
            })
            .map(|record| record.id.clone())
            .collect()
    }

    /// Removes a volume that nobody uses. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when a container uses it, [`Error::Volume`].
    pub fn volume_remove(&self, name: &str) -> Result<()> {
        self.inner.volumes.get(name)?;
        let users = self.volume_users(name);
        if !users.is_empty() {
            return Err(Error::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        self.inner.volumes.remove(name)?;
        self.announce_volume(name, "destroy");
        Ok(())
    }

    /// Removes the anonymous volumes of a container that is gone.
    pub(crate) fn remove_anonymous_volumes(&self, record: &Record) {
        for point in record
            .mounts
            .iter()
            .filter(|point| point.kind == MountKind::Volume)
        {
            let is_anonymous = self
                .inner
                .volumes
                .get(&point.name)
                .is_ok_and(|volume| volume.is_anonymous);
            // One that another container uses as well stays.
            if is_anonymous && let Err(error) = self.volume_remove(&point.name) {
                tracing::debug!(volume = point.name, %error, "anonymous volume stays");
            }
        }
    }

    fn announce_volume(&self, name: &str, action: &str) {
        self.tell_of_volume(name, action, &[("driver", "local")]);
    }

    fn tell_of_volume(&self, name: &str, action: &str, told: &[(&str, &str)]) {
        let attributes = told
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.events().announce("volume", action, name, attributes);
    }
}

fn volumes_in(record: &Record) -> impl Iterator<Item = &MountPoint> {
    let mounts = record.mounts.iter();
    mounts.filter(|point| point.kind == MountKind::Volume)
}

/// Copies what the image has at `destination` into a folder, and gives it that one's
/// owner, mode and times. Where the image has nothing there, or no folder, nothing
/// changes.
pub(crate) fn copy_from_image(
    images: &Images,
    container: &str,
    destination: &str,
    data: &Path,
) -> io::Result<()> {
    let root = images.open_rootfs(container).map_err(io::Error::other)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let relative = destination.trim_start_matches('/');
    let source = match rustix::fs::openat2(&root, relative, flags, Mode::empty(), resolve) {
        Ok(source) => source,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let target = rustix::fs::openat(CWD, data, flags, Mode::empty())?;
    copy_folder(source.as_fd(), target.as_fd(), MAX_DEPTH)
}

fn copy_folder(source: BorrowedFd<'_>, target: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("folders lie too deep in each other"));
    }
    for entry in Dir::read_from(source)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        let nofollow = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(target, name, Mode::RWXU)?;
                let open = |parent: BorrowedFd<'_>| {
                    rustix::fs::openat(parent, name, nofollow | OFlags::DIRECTORY, Mode::empty())
                };
                copy_folder(open(source)?.as_fd(), open(target)?.as_fd(), depth - 1)?;
                continue;
            }
            FileType::RegularFile => {
                let from: OwnedFd = rustix::fs::openat(source, name, nofollow, Mode::empty())?;
                let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let to: OwnedFd = rustix::fs::openat(target, name, create, Mode::RUSR)?;
                io::copy(&mut std::fs::File::from(from), &mut std::fs::File::from(to))?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(&link, target, name)?;
            }
            kind => rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?,
        }
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(target, name, Some(owner.0), Some(owner.1), nofollow)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // After the owner, whose change clears set-id bits.
            rustix::fs::chmodat(target, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(target, name, &times(&stat), nofollow)?;
    }
    let stat = rustix::fs::fstat(source)?;
    rustix::fs::fchown(
        target,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode))?;
    rustix::fs::futimens(target, &times(&stat))?;
    Ok(())
}

fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let time = |seconds, nanoseconds| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Labels of a volume, with the one by which those without a name are known.
fn labelled(mut labels: BTreeMap<String, String>, is_anonymous: bool) -> BTreeMap<String, String> {
    if is_anonymous {
        labels.insert(ANONYMOUS.into(), String::new());
    }
    labels
}
