//! What is mounted into a container: parsed from what clients ask for.
//!
//! Parsing is pure; [`crate::create`] makes the volumes that are missing.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{HostConfig, MountSpec};

/// A volume or bind mount of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountPoint {
    /// What it is.
    pub kind: MountKind,
    /// Name of the volume, where empty asks for an anonymous one; of an image the
    /// name it was asked for by.
    pub name: String,
    /// Path on the host, once it is known; of an image its id.
    pub source: String,
    /// Absolute path in the container.
    pub destination: String,
    /// Options as they were given.
    pub mode: String,
    /// Whether it can be written.
    pub writable: bool,
    /// Propagation; empty means `rprivate`.
    pub propagation: String,
    /// A new volume does not get what the image has at its path.
    pub no_copy: bool,
    /// A missing source of a bind mount is made.
    pub make_source: bool,
    /// Mounts below the source stay out.
    pub non_recursive: bool,
    /// Folder in the volume or image.
    pub subpath: String,
    /// Options of an in-memory filesystem.
    pub tmpfs_options: Vec<String>,
    /// Of a read-only mount, what is mounted below it stays writable.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shallow_read_only: bool,
    /// Labels of a volume that is made.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volume_labels: BTreeMap<String, String>,
    /// Driver options of a volume that is made.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volume_options: BTreeMap<String, String>,
}

/// Kinds of mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    #[default]
    Bind,
    /// A volume.
    Volume,
    /// An in-memory filesystem.
    Tmpfs,
    /// The files of an image.
    Image,
}

/// The mode that asks for a label of SELinux by which all containers may use it.
pub(crate) const SHARED_LABEL: &str = "z";
/// The mode that asks for one by which only this container may.
pub(crate) const OWN_LABEL: &str = "Z";

/// How mounts are passed on; empty means `rprivate`.
const PROPAGATIONS: [&str; 7] = [
    "", "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// Everything `host` asks for, without the image's own volumes.
pub(crate) fn parse(host: &HostConfig) -> Result<Vec<MountPoint>> {
    let mut mounts = Vec::new();
    for bind in &host.binds {
        mounts.push(parse_bind(bind)?);
    }
    for mount in &host.mounts {
        mounts.push(parse_mount(mount)?);
    }
    for mount in &mut mounts {
        // Every container may have what is in a volume.
        if mount.kind == MountKind::Volume && mount.mode.is_empty() {
            mount.mode = SHARED_LABEL.to_owned();
        }
    }
    for (destination, options) in &host.tmpfs {
        check_destination(destination)?;
        check_tmpfs(options)?;
        mounts.push(MountPoint {
            kind: MountKind::Tmpfs,
            destination: destination.clone(),
            mode: options.clone(),
            writable: !options.split(',').any(|option| option == "ro"),
            tmpfs_options: options
                .split(',')
                .filter(|option| !option.is_empty())
                .map(str::to_owned)
                .collect(),
            ..MountPoint::default()
        });
    }
    let mut destinations: Vec<&str> = mounts
        .iter()
        .map(|mount| mount.destination.trim_end_matches('/'))
        .collect();
    destinations.sort_unstable();
    if let Some(pair) = destinations.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::Invalid(format!(
            "Duplicate mount point: {}",
            pair[0]
        )));
    }
    Ok(mounts)
}

/// Options of mounts that `--tmpfs` takes.
const TMPFS_FLAGS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "private",
    "rbind",
    "relatime",
    "remount",
    "ro",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "sync",
    "unbindable",
];
/// Those of tmpfs itself, which have a value.
const TMPFS_VALUES: &[&str] = &[
    "gid",
    "huge",
    "mode",
    "mpol",
    "nr_blocks",
    "nr_inodes",
    "size",
    "uid",
];

/// Refuses options of a tmpfs that nobody knows; values are for the kernel to judge.
fn check_tmpfs(options: &str) -> Result<()> {
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (is_known, shown) = match option.split_once('=') {
            Some((name, value)) => (
                TMPFS_VALUES.contains(&name),
                format!("[{name:?} {value:?}]"),
            ),
            None => (TMPFS_FLAGS.contains(&option), format!("[{option:?}]")),
        };
        if !is_known {
            return Err(Error::Invalid(format!("invalid tmpfs option {shown}")));
        }
    }
    Ok(())
}

/// `source:target[:options]`, `target` alone for an anonymous volume.
fn parse_bind(text: &str) -> Result<MountPoint> {
    let invalid = || Error::Invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match parts[..] {
        [destination] => ("", destination, ""),
        [source, destination] => (source, destination, ""),
        [source, destination, options] => (source, destination, options),
        _ => return Err(invalid()),
    };
    let is_path = source.starts_with('/');
    check_destination(destination).map_err(|why| {
        let kind = if is_path { "bind" } else { "volume" };
        Error::Invalid(format!(
            "{}: invalid mount config for type {kind:?}: {why}",
            invalid()
        ))
    })?;
    if !source.is_empty() && !is_path {
        dhow_volume::check_name(source)?;
    }
    let mut mount = MountPoint {
        kind: if is_path {
            MountKind::Bind
        } else {
            MountKind::Volume
        },
        name: if is_path {
            String::new()
        } else {
            source.into()
        },
        source: if is_path {
            source.into()
        } else {
            String::new()
        },
        destination: destination.into(),
        mode: options.into(),
        writable: true,
        make_source: is_path,
        ..MountPoint::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.writable = false,
            "rw" | SHARED_LABEL | OWN_LABEL | "cached" | "delegated" | "consistent" => {}
            "nocopy" => mount.no_copy = true,
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if is_path => {
                mount.propagation = option.into();
            }
            "bind-nonrecursive" => mount.non_recursive = true,
            _ => return Err(Error::Invalid(format!("invalid mode: {options}"))),
        }
    }
    Ok(mount)
}

fn parse_mount(spec: &MountSpec) -> Result<MountPoint> {
    let invalid = |why: &str| {
        Error::Invalid(format!(
            "invalid mount config for type {:?}: {why}",
            spec.kind
        ))
    };
    if spec.target.is_empty() {
        return Err(invalid("field Target must not be empty"));
    }
    check_destination(&spec.target).map_err(|error| invalid(&error.to_string()))?;
    let mut mount = MountPoint {
        destination: spec.target.clone(),
        writable: !spec.read_only,
        ..MountPoint::default()
    };
    match spec.kind.as_str() {
        "bind" => {
            if spec.volume_options.is_some() || spec.tmpfs_options.is_some() {
                return Err(invalid(
                    "field VolumeOptions and TmpfsOptions must not be specified",
                ));
            }
            if spec.source.is_empty() {
                return Err(invalid("field Source must not be empty"));
            }
            if !spec.source.starts_with('/') {
                return Err(invalid(&format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    spec.source
                )));
            }
            let options = spec.bind_options.clone().unwrap_or_default();
            mount.source.clone_from(&spec.source);
            mount.propagation = options.propagation;
            mount.make_source = options.create_mountpoint;
            mount.non_recursive = options.non_recursive;
            if !PROPAGATIONS.contains(&mount.propagation.as_str()) {
                return Err(invalid(&format!(
                    "invalid propagation mode: {}",
                    mount.propagation
                )));
            }
            if options.read_only_non_recursive && options.read_only_force_recursive {
                return Err(invalid(
                    "ReadOnlyNonRecursive and ReadOnlyForceRecursive are mutually exclusive",
                ));
            }
            if (options.read_only_non_recursive || options.read_only_force_recursive)
                && !spec.read_only
            {
                return Err(invalid(
                    "read-only options only make sense for a read-only mount",
                ));
            }
            mount.shallow_read_only = options.read_only_non_recursive;
        }
        "volume" => {
            if spec.bind_options.is_some() {
                return Err(invalid("field BindOptions must not be specified"));
            }
            if !spec.source.is_empty() {
                dhow_volume::check_name(&spec.source)?;
            } else if spec.read_only {
                return Err(invalid(
                    "must not set ReadOnly mode when using anonymous volumes",
                ));
            }
            let options = spec.volume_options.clone().unwrap_or_default();
            if !is_subpath(&options.subpath) {
                return Err(invalid("subpath must be a relative path within the volume"));
            }
            mount.kind = MountKind::Volume;
            mount.name.clone_from(&spec.source);
            mount.no_copy = options.no_copy;
            mount.subpath = options.subpath;
            mount.volume_labels = options.labels;
            if let Some(driver) = options.driver_config {
                if !matches!(driver.name.as_str(), "" | "local") {
                    return Err(invalid(&format!(
                        "no volume driver {}; there is only local",
                        driver.name
                    )));
                }
                dhow_volume::check_options(&driver.options)
                    .map_err(|error| invalid(&error.to_string()))?;
                mount.volume_options = driver.options;
            }
        }
        "tmpfs" => {
            if !spec.source.is_empty() {
                return Err(invalid("field Source must not be specified"));
            }
            let options = spec.tmpfs_options.clone().unwrap_or_default();
            mount.kind = MountKind::Tmpfs;
            mount.tmpfs_options = ["nosuid", "nodev", "noexec"].map(str::to_owned).into();
            if options.size_bytes > 0 {
                mount
                    .tmpfs_options
                    .push(format!("size={}", options.size_bytes));
            }
            if options.mode > 0 {
                mount.tmpfs_options.push(format!("mode={:o}", options.mode));
            }
            mount
                .tmpfs_options
                .extend(options.options.iter().map(|words| words.join("=")));
            if spec.read_only {
                mount.tmpfs_options.push("ro".into());
            }
        }
        "image" => {
            if spec.source.is_empty() {
                return Err(invalid("field Source must not be empty"));
            }
            if spec.bind_options.is_some()
                || spec.volume_options.is_some()
                || spec.tmpfs_options.is_some()
            {
                return Err(invalid(
                    "field BindOptions, VolumeOptions and TmpfsOptions must not be specified",
                ));
            }
            let options = spec.image_options.clone().unwrap_or_default();
            if !is_subpath(&options.subpath) {
                return Err(invalid("subpath must be a relative path within the image"));
            }
            mount.kind = MountKind::Image;
            mount.name.clone_from(&spec.source);
            mount.subpath = options.subpath;
            // An image is not written to, whatever is asked for.
            mount.writable = false;
        }
        "cluster" | "npipe" => {
            return Err(invalid(
                "mounts of this type are not supported; use bind, volume, tmpfs or image",
            ));
        }
        _ => return Err(invalid("mount type unknown")),
    }
    Ok(mount)
}

/// Whether a path stays within what it is in; an empty one is all of it.
fn is_subpath(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Refuses what cannot be mounted on.
///
/// # Errors
///
/// [`Error::Invalid`] for a path that is not absolute, and for the root.
pub(crate) fn check_destination(path: &str) -> Result<()> {
    if !path.starts_with('/') {
        return Err(Error::Invalid(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    let depth = Path::new(path)
        .components()
        .fold(0_usize, |depth, part| match part {
            Component::Normal(_) => depth + 1,
            Component::ParentDir => depth.saturating_sub(1),
            _ => depth,
        });
    if depth == 0 {
        return Err(Error::Invalid(
            "invalid specification: destination can't be '/'".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(binds: &[&str]) -> HostConfig {
        HostConfig {
            binds: binds.iter().map(|bind| (*bind).into()).collect(),
            ..HostConfig::default()
        }
    }

    #[test]
    fn short_forms() {
        let mounts = parse(&host(&["/a:/b:ro,rslave", "data:/c:nocopy", "/d"])).expect("good");
        assert_eq!(mounts[0].kind, MountKind::Bind);
        assert_eq!(
            (mounts[0].writable, mounts[0].propagation.as_str()),
            (false, "rslave")
        );
        assert_eq!((mounts[1].name.as_str(), mounts[1].no_copy), ("data", true));
        assert_eq!(
            (mounts[2].kind, mounts[2].name.as_str()),
            (MountKind::Volume, "")
        );
    }

    #[test]
    fn images_are_mounted_to_be_read() {
        let mount = |source: &str, subpath: &str| {
            let spec = MountSpec {
                kind: "image".into(),
                source: source.into(),
                target: "/x".into(),
                image_options: Some(crate::spec::ImageOptions {
                    subpath: subpath.into(),
                }),
                ..MountSpec::default()
            };
            parse_mount(&spec)
        };
        let point = mount("tools:1", "usr/lib").expect("good");
        assert_eq!((point.kind, point.writable), (MountKind::Image, false));
        assert_eq!(
            (point.name.as_str(), point.subpath.as_str()),
            ("tools:1", "usr/lib")
        );
        for (source, subpath) in [("", ""), ("a", "/etc"), ("a", "b/../../c"), ("a", "..")] {
            mount(source, subpath).expect_err("bad");
        }
    }

    #[test]
    fn strangers_words_are_refused_with_a_reason() {
        for (binds, part) in [
            (&["a:b"][..], "invalid volume specification: 'a:b'"),
            (&["/a:/"][..], "destination can't be '/'"),
            (&["/a:/b:what"][..], "invalid mode: what"),
            (&["/a:/b:ro:x"][..], "invalid volume specification"),
            (
                &["../x:/b"][..],
                "includes invalid characters for a local volume name",
            ),
            (&["/a:/b", "/c:/b/"][..], "Duplicate mount point: /b"),
        ] {
            let error = parse(&host(binds)).expect_err("bad").to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
