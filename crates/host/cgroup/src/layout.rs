//! Which hierarchies the machine has, and where.

use std::path::{Path, PathBuf};

use crate::error::{CgroupError, Result};
use crate::tree;

/// The hierarchies of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Version 1 hierarchies.
    pub v1: Vec<Hierarchy>,
    /// Where the version 2 hierarchy is mounted.
    pub v2: Option<PathBuf>,
    /// Controllers of the version 2 hierarchy.
    pub v2_controllers: Vec<String>,
}

/// One version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, or `name=NAME` for one without.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl Layout {
    /// Looks at what is mounted.
    ///
    /// # Errors
    ///
    /// [`CgroupError::None`] if nothing is, [`CgroupError::Io`] if that cannot be told.
    pub fn detect() -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let text = tree::whole(path).map_err(|error| CgroupError::io("read", path, error))?;
        let mut layout = Self::parse(&text);
        if let Some(mount) = &layout.v2 {
            let path = mount.join("cgroup.controllers");
            let text = tree::whole(&path).map_err(|error| CgroupError::io("read", &path, error))?;
            layout.v2_controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(CgroupError::None);
        }
        Ok(layout)
    }

    fn parse(mountinfo: &str) -> Self {
        let mut layout = Self::default();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let mut after = after.split(' ');
            let kind = after.next().unwrap_or_default();
            if kind != "cgroup" && kind != "cgroup2" {
                continue;
            }
            let Some(mount) = before.split(' ').nth(4).map(unescape) else {
                continue;
            };
            if kind == "cgroup2" {
                layout.v2.get_or_insert(mount);
                continue;
            }
            // Of the superblock's options, flags are not controllers.
            let options = after.nth(1).unwrap_or_default();
            let controllers: Vec<String> = options
                .split(',')
                .filter(|option| option.starts_with("name=") || CONTROLLERS.contains(option))
                .map(str::to_owned)
                .collect();
            let known = layout
                .v1
                .iter()
                .any(|hierarchy| hierarchy.controllers == controllers);
            if !controllers.is_empty() && !known {
                layout.v1.push(Hierarchy { controllers, mount });
            }
        }
        layout
    }

    /// The version 1 hierarchy of a controller.
    #[must_use]
    pub fn v1(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|hierarchy| hierarchy.has(controller))
    }

    /// Whether a controller is version 2's on this machine.
    #[must_use]
    pub fn has_v2(&self, controller: &str) -> bool {
        self.v2_controllers.iter().any(|known| known == controller)
    }

    /// Whether everything is version 2's.
    #[must_use]
    pub fn is_pure_v2(&self) -> bool {
        self.v1.is_empty()
    }
}

impl Hierarchy {
    /// Whether a controller is on it.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    /// Name of its directory as it is usual: the controllers with commas
    /// between, or the bare name of one without.
    #[must_use]
    pub fn usual_name(&self) -> String {
        let names = self
            .controllers
            .iter()
            .map(|name| name.strip_prefix("name=").unwrap_or(name));
        names.collect::<Vec<_>>().join(",")
    }
}

/// Controllers version 1 may have, by their names among the mount options.
const CONTROLLERS: [&str; 15] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// A path as `mountinfo` writes it (proc_pid_mountinfo(5)): blanks and the like as
/// octal numbers.
#[must_use]
pub fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let value = octal.and_then(|digits| {
            digits.iter().try_fold(0_u32, |value, digit| {
                matches!(digit, b'0'..=b'7').then(|| value * 8 + u32::from(digit - b'0'))
            })
        });
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid() {
        let layout = Layout::parse(
            "26 23 0:23 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             27 26 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             28 26 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             29 26 0:26 / /sys/fs/cgroup/uni\\040fied rw shared:9 - cgroup2 cgroup2 rw\n\
             30 26 0:24 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n",
        );
        assert_eq!(layout.v1.len(), 2);
        assert_eq!(
            layout.v1("cpuacct").unwrap().mount,
            Path::new("/sys/fs/cgroup/cpu,cpuacct")
        );
        assert_eq!(layout.v1("cpuacct").unwrap().usual_name(), "cpu,cpuacct");
        assert_eq!(layout.v1[1].usual_name(), "systemd");
        assert_eq!(
            layout.v2.as_deref(),
            Some(Path::new("/sys/fs/cgroup/uni fied"))
        );
        assert!(!layout.is_pure_v2());
    }

    #[test]
    fn pure() {
        let layout =
            Layout::parse("29 26 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(layout.is_pure_v2());
        assert_eq!(
            Layout::parse("1 2 0:1 / / rw - ext4 /dev/vda rw\n"),
            Layout::default()
        );
    }
}
