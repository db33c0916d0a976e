//! Directories and files of one hierarchy.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{CgroupError, Result};

/// How long processes that were killed may take to leave a group.
const PATIENCE: Duration = Duration::from_secs(5);

/// A path of a group below a hierarchy's root: names only.
pub(crate) fn relative(path: &Path) -> Result<PathBuf> {
    let refused = || CgroupError::Path(path.to_owned());
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => relative.push(name),
            _ => return Err(refused()),
        }
    }
    if relative.as_os_str().is_empty() {
        Err(refused())
    } else {
        Ok(relative)
    }
}

/// Makes a directory and what lies above it; whether the last was not there before.
pub(crate) fn make(path: &Path) -> Result<bool> {
    loop {
        match std::fs::create_dir(path) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = path
                    .parent()
                    .ok_or_else(|| CgroupError::Path(path.to_owned()))?;
                // Whoever removes an empty parent at this moment makes it go round again.
                make(above)?;
            }
            Err(error) => return Err(CgroupError::io("make", path, error)),
        }
    }
}

/// Removes a group and the groups below it; one that is not there is well.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(100);
    loop {
        let result = std::fs::remove_dir(path);
        let Err(error) = result else { return Ok(()) };
        match error.raw_os_error() {
            _ if is_gone(&error) => return Ok(()),
            Some(libc_numbers::EBUSY) => {}
            _ => return Err(CgroupError::io("remove", path, error)),
        }
        let mut below = 0;
        if let Ok(entries) = std::fs::read_dir(path) {
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    below += 1;
                    remove(&entry.path())?;
                }
            }
        }
        if below > 0 {
            continue;
        }
        if Instant::now() > deadline {
            return Err(CgroupError::Busy(path.to_owned()));
        }
        // A process that is dying leaves its groups a moment after it was
        // collected, and version 1 has no event for it.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Error numbers by name, without a dependency for four of them.
pub(crate) mod libc_numbers {
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EBUSY: i32 = 16;
    pub(crate) const ENODEV: i32 = 19;
}

/// A file of a group that takes several values, one after the other.
pub(crate) struct Control {
    path: PathBuf,
    file: rustix::fd::OwnedFd,
}

impl Control {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        match open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(CgroupError::io("open", &path, error)),
        }
    }

    /// Writes a value in one call, as the kernel wants it.
    pub(crate) fn write(&self, value: &str) -> Result<()> {
        let refused = |error: rustix::io::Errno| CgroupError::Limit {
            path: self.path.clone(),
            value: value.to_owned(),
            source: error.into(),
        };
        rustix::io::write(&self.file, value.as_bytes())
            .map(drop)
            .map_err(refused)
    }
}

fn open(path: &Path) -> rustix::io::Result<rustix::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Writes a file of a group in one call, as the kernel wants it.
pub(crate) fn write(path: &Path, value: &str) -> Result<()> {
    put(path, value).map_err(|source| CgroupError::Limit {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// As [`write`]; that the file is not there is answered with false.
pub(crate) fn write_if_there(path: &Path, value: &str) -> Result<bool> {
    match put(path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(CgroupError::Limit {
            path: path.to_owned(),
            value: value.to_owned(),
            source,
        }),
    }
}

/// As [`write_if_there`], of what says nothing of devices: a group that somebody
/// removes at this moment is not there either.
pub(crate) fn tell(path: &Path, value: &str) -> Result<bool> {
    match write_if_there(path, value) {
        Err(CgroupError::Limit { source, .. }) if is_gone(&source) => Ok(false),
        result => result,
    }
}

/// Whether the group was not there, or was removed after its file was opened.
fn is_gone(error: &io::Error) -> bool {
    let gone = [libc_numbers::ENOENT, libc_numbers::ENODEV];
    error
        .raw_os_error()
        .is_some_and(|code| gone.contains(&code))
}

fn put(path: &Path, value: &str) -> io::Result<()> {
    rustix::io::write(open(path)?, value.as_bytes())?;
    Ok(())
}

/// Reads a file of a group; none if it is not there (any more).
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    match whole(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(CgroupError::io("read", path, error)),
    }
}

/// The text of a file the kernel makes: it has no size to be asked for, and is
/// read in as few calls as it takes.
pub(crate) fn whole(path: &Path) -> io::Result<String> {
    use std::io::Read;
    const USUAL: usize = 4 << 10;
    const MOST: u64 = 64 << 20;
    let mut text = Vec::with_capacity(USUAL);
    std::fs::File::open(path)?
        .take(MOST)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8(text)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Process identifiers in a group and the groups below it.
pub(crate) fn processes(path: &Path, pids: &mut Vec<i32>) -> Result<()> {
    if let Some(text) = read(&path.join("cgroup.procs"))? {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), pids)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_names_only() {
        assert_eq!(relative("/a//b/".as_ref()).unwrap(), Path::new("a/b"));
        assert_eq!(relative("a/./b".as_ref()).unwrap(), Path::new("a/b"));
        for path in ["", "/", ".", "../a", "a/../../b"] {
            assert!(relative(path.as_ref()).is_err(), "{path}");
        }
    }

    /// Systemd removes the group of a scope that nobody is in when it likes.
    #[test]
    fn a_group_that_goes_away_meanwhile_is_gone() {
        let layout = crate::Layout::detect().unwrap();
        let mounts = layout.v1.iter().map(|hierarchy| &hierarchy.mount);
        let mount = layout.v2.iter().chain(mounts).next().unwrap();
        let group = mount.join(format!("dhow-test-gone-{}", std::process::id()));
        make(&group).unwrap();
        let file = open(&group.join("cgroup.procs")).unwrap();
        std::fs::remove_dir(&group).unwrap();
        let refused = rustix::io::write(&file, b"0").unwrap_err();
        assert_eq!(refused.raw_os_error(), libc_numbers::ENODEV);
        assert!(is_gone(&refused.into()));
        assert!(!tell(&group.join("cgroup.procs"), "0").unwrap());
    }
}
