//! Project quotas: how many bytes the files of a project may take of their
//! filesystem.
//!
//! A project is a number that inodes carry. A directory can hand its number
//! down to all that is made in it, and XFS (mounted with `prjquota`) and ext4
//! (with the features `quota` and `project`, mounted with `prjquota`) count what
//! the inodes of a number take and refuse more. Both are asked in the same way:
//! by a descriptor of any file there (quotactl_fd(2), Linux 5.14), so no path of
//! a block device is needed. Who may have which number is not decided here.

mod call;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// A filesystem that counts projects and keeps them within their limits.
#[derive(Debug)]
pub struct Quotas {
    /// Some directory on it.
    directory: File,
}

/// What a project takes and may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, counted in blocks.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Bytes it may take; zero is no limit.
    pub limit: u64,
}

impl Usage {
    /// Whether nobody has anything to do with the project.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Quotas {
    /// The filesystem a directory is on; none if it does not keep projects
    /// within limits.
    ///
    /// # Errors
    ///
    /// If the directory cannot be opened.
    pub fn of(directory: &Path) -> io::Result<Option<Self>> {
        let directory = open(directory)?;
        // Filesystems and kernels that know nothing of it say so in many ways.
        let enforced = call::are_projects_limited(directory.as_fd()).unwrap_or(false);
        Ok(enforced.then_some(Self { directory }))
    }

    /// Sets how many bytes a project may take; zero takes the limit away.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn limit(&self, project: u32, bytes: u64) -> io::Result<()> {
        Ok(call::set_limit(self.directory.as_fd(), project, bytes)?)
    }

    /// What a project takes.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn usage(&self, project: u32) -> io::Result<Usage> {
        match call::usage(self.directory.as_fd(), project) {
            // Nobody has ever spoken of it.
            Err(Errno::NOENT) => Ok(Usage::default()),
            result => Ok(result?),
        }
    }

    /// The first project from this number on that the filesystem has a record
    /// of; none if there is none.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn next(&self, from: u32) -> io::Result<Option<(u32, Usage)>> {
        match call::next(self.directory.as_fd(), from) {
            Err(Errno::NOENT | Errno::SRCH) => Ok(None),
            result => Ok(Some(result?)),
        }
    }
}

/// The project of a directory; zero is none.
///
/// # Errors
///
/// What the kernel says, [`Errno::NOTTY`] where there are no projects.
pub fn project(directory: &Path) -> io::Result<u32> {
    Ok(call::project(open(directory)?.as_fd())?)
}

/// Gives an empty directory a project, which all that is made in it will have.
///
/// # Errors
///
/// What the kernel says, [`Errno::NOTTY`] where there are no projects.
pub fn assign(directory: &Path, project: u32) -> io::Result<()> {
    Ok(call::assign(open(directory)?.as_fd(), project)?)
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Filesystems that can are part of `make vm-test`; here it is known that
    /// this one cannot.
    #[test]
    fn a_filesystem_without_projects_says_so() {
        assert!(
            Quotas::of(Path::new("/proc"))
                .expect("it is there")
                .is_none()
        );
        assert!(Quotas::of(Path::new("/nowhere")).is_err());
        assert!(project(Path::new("/proc")).is_err());
        assert!(assign(Path::new("/proc"), 7).is_err());
    }
}
