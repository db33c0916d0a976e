//! A piece of disk set aside, so that a daemon whose disk is full can start
//! and make room: tables are repaired after a crash, and that takes space.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Bytes set aside; repairing and changing the tables takes far less.
const SIZE: u64 = 4 << 20;

/// The file that keeps the space.
pub(crate) struct Reserve(PathBuf);

impl Reserve {
    /// Lets the space in `folder` go if there is hardly any other.
    pub(crate) fn open(folder: &Path) -> Self {
        let reserve = Self(folder.join("reserve"));
        if reserve.free() < SIZE && std::fs::remove_file(&reserve.0).is_ok() {
            tracing::warn!(
                folder = %folder.display(),
                "the disk is full; starting with what was set aside, remove what is not needed"
            );
        }
        reserve
    }

    /// Sets space aside again, unless that would take what others need.
    pub(crate) fn keep(&self) {
        if self.0.exists() || self.free() < 2 * SIZE {
            return;
        }
        let made = File::create(&self.0)
            .and_then(|file| Ok(fallocate(file, FallocateFlags::empty(), 0, SIZE)?));
        if let Err(error) = made {
            tracing::debug!(%error, "no space is set aside");
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Bytes that are free where the file is; all there could be when nobody
    /// says.
    fn free(&self) -> u64 {
        let folder = self.0.parent().unwrap_or(Path::new("/"));
        statvfs(folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}
