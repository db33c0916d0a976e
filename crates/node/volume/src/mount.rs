//! Volumes that stand for a filesystem elsewhere: what the driver options
//! `type`, `device` and `o` mean, and the mount they ask for.
//!
//! Such a volume is mounted over its data folder while a running container has
//! it, as the volumes of Docker's `local` driver are.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// Options that are flags of the mount: their names, and whether they set it.
const FLAGS: [(&str, MountFlags, bool); 21] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("bind", MountFlags::BIND, true),
    ("rbind", MountFlags::BIND.union(MountFlags::REC), true),
];

/// Options that change how mounts are passed on.
const PROPAGATIONS: [(&str, MountPropagationFlags); 6] = [
    ("private", MountPropagationFlags::PRIVATE),
    (
        "rprivate",
        MountPropagationFlags::PRIVATE.union(MountPropagationFlags::REC),
    ),
    ("shared", MountPropagationFlags::SHARED),
    (
        "rshared",
        MountPropagationFlags::SHARED.union(MountPropagationFlags::REC),
    ),
    ("slave", MountPropagationFlags::DOWNSTREAM),
    (
        "rslave",
        MountPropagationFlags::DOWNSTREAM.union(MountPropagationFlags::REC),
    ),
];

/// Why driver options make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The driver has no such option.
    #[error("invalid option: {0:?}; the local driver has type, device and o")]
    Unknown(String),
    /// One option asks for another.
    #[error("missing required option: {0:?}")]
    Missing(&'static str),
    /// Sizes need quotas.
    #[error(
        "quota size requested but no quota support; use type=tmpfs with o=size=… for a bounded volume"
    )]
    Size,
}

/// Checks driver options.
///
/// # Errors
///
/// [`OptionError`].
pub fn check_options(options: &BTreeMap<String, String>) -> Result<(), OptionError> {
    for name in options.keys() {
        match name.as_str() {
            "type" | "device" | "o" => {}
            "size" => return Err(OptionError::Size),
            _ => return Err(OptionError::Unknown(name.clone())),
        }
    }
    match (options.contains_key("type"), options.contains_key("device")) {
        (true, false) => Err(OptionError::Missing("device")),
        (false, true) => Err(OptionError::Missing("type")),
        (false, false) if options.contains_key("o") => Err(OptionError::Missing("device")),
        _ => Ok(()),
    }
}

/// What is mounted over a volume's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filesystem {
    kind: String,
    device: String,
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    data: String,
}

impl Filesystem {
    /// What checked options ask for; none when the folder itself is the volume.
    pub(crate) fn of(options: &BTreeMap<String, String>) -> Option<Self> {
        let device = options.get("device")?.clone();
        let mut asked = Self {
            kind: options.get("type").cloned().unwrap_or_default(),
            device,
            flags: MountFlags::empty(),
            propagation: None,
            data: String::new(),
        };
        let mut data = Vec::new();
        let words = options.get("o").map_or("", String::as_str).split(',');
        for word in words.filter(|word| !word.is_empty() && *word != "defaults") {
            if let Some((_, flag, sets)) = FLAGS.iter().find(|(name, ..)| *name == word) {
                asked.flags.set(*flag, *sets);
            } else if let Some((_, how)) = PROPAGATIONS.iter().find(|(name, _)| *name == word) {
                asked.propagation = Some(*how);
            } else {
                data.push(word);
            }
        }
        asked.data = data.join(",");
        Some(asked)
    }

    /// Mounts it at `place`. Blocks; resolves the server's name where it has one.
    pub(crate) fn mount(&self, place: &Path) -> Result<(), String> {
        let data = self.resolved()?;
        let failed = |error: Errno| {
            format!(
                "failed to mount local volume: mount {}:{}, flags: {:#x}, data: {data}: {}",
                self.device,
                place.display(),
                self.flags.bits(),
                std::io::Error::from(error)
            )
        };
        let text = std::ffi::CString::new(data.clone()).map_err(|error| error.to_string())?;
        if self.flags.contains(MountFlags::BIND) {
            if self.flags.contains(MountFlags::REC) {
                rustix::mount::mount_bind_recursive(self.device.as_str(), place).map_err(failed)?;
            } else {
                rustix::mount::mount_bind(self.device.as_str(), place).map_err(failed)?;
            }
            // A bind mount takes its other flags only afterwards.
            let rest = self.flags - (MountFlags::BIND | MountFlags::REC);
            if !rest.is_empty() {
                let flags = rest | MountFlags::BIND;
                if let Err(error) = rustix::mount::mount_remount(place, flags, text.as_c_str()) {
                    let _ = unmount(place);
                    return Err(failed(error));
                }
            }
        } else {
            let source = self.device.as_str();
            let data = (!text.is_empty()).then_some(text.as_c_str());
            rustix::mount::mount(source, place, self.kind.as_str(), self.flags, data)
                .map_err(failed)?;
        }
        if let Some(how) = self.propagation
            && let Err(error) = rustix::mount::mount_change(place, how)
        {
            let _ = unmount(place);
            return Err(failed(error));
        }
        Ok(())
    }

    /// The data with the name behind `addr=` resolved: the kernel takes numbers.
    fn resolved(&self) -> Result<String, String> {
        let is_remote = self.kind.starts_with("nfs") || self.kind == "cifs";
        let address = self
            .data
            .split(',')
            .find_map(|word| word.strip_prefix("addr="));
        match address {
            Some(name) if is_remote && name.parse::<IpAddr>().is_err() => {
                let found = (name, 0)
                    .to_socket_addrs()
                    .map_err(|error| {
                        format!("error resolving passed in network volume address {name}: {error}")
                    })?
                    .next()
                    .ok_or_else(|| format!("network volume address {name} has no address"))?;
                Ok(self
                    .data
                    .replace(&format!("addr={name}"), &format!("addr={}", found.ip())))
            }
            _ => Ok(self.data.clone()),
        }
    }
}

/// Whether something is mounted at a folder.
pub(crate) fn is_mounted(folder: &Path) -> std::io::Result<bool> {
    let Some(parent) = folder.parent() else {
        return Ok(true);
    };
    let id = |path: &Path| -> std::io::Result<u64> {
        let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
        Ok(stat.stx_mnt_id)
    };
    Ok(id(folder)? != id(parent)?)
}

/// Takes away what is mounted at a folder, and what is mounted over it.
pub(crate) fn unmount(folder: &Path) -> std::io::Result<()> {
    while is_mounted(folder)? {
        rustix::mount::unmount(folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (pairs, error) in [
            (&[("what", "x")][..], OptionError::Unknown("what".into())),
            (&[("type", "nfs")], OptionError::Missing("device")),
            (&[("device", "/x")], OptionError::Missing("type")),
            (&[("o", "ro")], OptionError::Missing("device")),
            (&[("size", "1g")], OptionError::Size),
        ] {
            assert_eq!(check_options(&options(pairs)), Err(error));
        }
        check_options(&options(&[])).expect("none");
        check_options(&options(&[("type", "tmpfs"), ("device", "tmpfs")])).expect("good");
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let asked = Filesystem::of(&options(&[
            ("type", "nfs"),
            ("device", ":/export"),
            ("o", "addr=127.0.0.1,ro,nolock,noexec,rslave"),
        ]))
        .expect("a filesystem");
        assert_eq!(asked.flags, MountFlags::RDONLY | MountFlags::NOEXEC);
        assert_eq!(asked.data, "addr=127.0.0.1,nolock");
        assert!(asked.propagation.is_some());
        assert_eq!(asked.resolved().expect("numbers"), asked.data);
        assert_eq!(Filesystem::of(&options(&[])), None);
    }

    #[test]
    fn names_of_servers_are_resolved() {
        let asked = Filesystem::of(&options(&[
            ("type", "nfs4"),
            ("device", ":/"),
            ("o", "addr=localhost,soft"),
        ]))
        .expect("a filesystem");
        let data = asked.resolved().expect("resolved");
        assert!(
            data.starts_with("addr=127.0.0.1") || data.starts_with("addr=::1"),
            "{data}"
        );
    }
}
