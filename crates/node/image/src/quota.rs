//! Sizes of root filesystems: each that has one is a project of its own, where
//! the filesystem counts projects.
//!
//! Which project a root filesystem has is written in its directory's inode and
//! nowhere else. Numbers come from a range that is chosen by the store's own
//! inode, so that stores on one filesystem keep out of each other's way; and
//! one that the filesystem has a record of, whoever's it is, is passed over.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use dhow_quota::Quotas;

/// Numbers of one store.
const RANGE: u32 = 1 << 20;
/// Ranges there are, after the first, which is for people's own numbers.
const N_RANGES: u64 = (1 << 12) - 2;

/// The projects of one store.
#[derive(Debug)]
pub(crate) struct Sizes {
    quotas: Quotas,
    first: u32,
    /// Projects that are given out.
    used: Mutex<BTreeSet<u32>>,
}

impl Sizes {
    /// Those of a store at `root`; none if its filesystem does not count
    /// projects. `kept` has the directories that have some.
    pub(crate) fn open(root: &Path, kept: &Path) -> io::Result<Option<Self>> {
        let Some(quotas) = Quotas::of(root)? else {
            return Ok(None);
        };
        let mut used = BTreeSet::new();
        for entry in fs::read_dir(kept)? {
            match dhow_quota::project(&entry?.path()) {
                Ok(0) | Err(_) => {}
                Ok(project) => {
                    used.insert(project);
                }
            }
        }
        let inode = fs::metadata(root)?.ino();
        // Neighbouring inodes get ranges far from each other.
        let range = inode.wrapping_mul(0x9e37_79b9_7f4a_7c15) % N_RANGES + 1;
        let first = u32::try_from(range).unwrap_or(1) * RANGE;
        Ok(Some(Self {
            quotas,
            first,
            used: Mutex::new(used),
        }))
    }

    /// Takes away limits of projects of this store that nobody has any more.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from = self.first;
        while let Some((project, usage)) = self.quotas.next(from)? {
            // The kernel goes on from the start when it is at the end.
            if project < from || project - self.first >= RANGE {
                break;
            }
            // What is used is somebody's, if only until it is removed.
            let is_ours = !used.contains(&project) && usage.inodes == 0;
            if is_ours && usage.limit != 0 {
                self.quotas.limit(project, 0)?;
            }
            from = project + 1;
        }
        Ok(())
    }

    /// Makes an empty directory, and what will be made in it, a project of so
    /// many bytes at most.
    pub(crate) fn assign(&self, directory: &Path, bytes: u64) -> io::Result<()> {
        let project = self.take()?;
        // In this order: the directory tells of the limit, whatever happens.
        let assigned =
            dhow_quota::assign(directory, project).and_then(|()| self.quotas.limit(project, bytes));
        if assigned.is_err() {
            self.give_back(project);
        }
        assigned
    }

    fn take(&self) -> io::Result<u32> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        for project in self.first..self.first + RANGE {
            if !used.contains(&project) && self.quotas.usage(project)?.is_nothing() {
                used.insert(project);
                return Ok(project);
            }
        }
        Err(io::Error::other("no project number is free"))
    }

    /// The project of a directory that is about to be removed; none if it has
    /// none of ours.
    pub(crate) fn of(&self, directory: &Path) -> Option<u32> {
        let project = dhow_quota::project(directory).ok()?;
        let is_ours = project.checked_sub(self.first)? < RANGE;
        is_ours.then_some(project)
    }

    /// Takes a limit away, after the project's files are gone.
    pub(crate) fn give_back(&self, project: u32) {
        if let Err(error) = self.quotas.limit(project, 0) {
            // The next start takes it away.
            tracing::warn!(project, %error, "quota is not given back");
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&project);
    }
}
