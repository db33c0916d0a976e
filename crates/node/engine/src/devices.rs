//! Devices of containers: the nodes that are made, and which may be used.
//!
//! A privileged container has all that the host has.

use std::path::{Path, PathBuf};

use dhow_runtime::spec::{Device, DeviceKind, DeviceRule};
use rustix::fs::{FileType, Stat};

use crate::error::{Error, Result};
use crate::spec::{DeviceMapping, HostConfig};

/// What is not the host's in a container: its terminals, shared memory, descriptors
/// and message queues.
const OWN: [&str; 6] = ["console", "fd", "mqueue", "ptmx", "pts", "shm"];

/// The nodes of a container, besides those that every container has.
pub(crate) fn nodes(host: &HostConfig) -> Result<Vec<Device>> {
    let mut nodes = Vec::new();
    if host.privileged {
        below(Path::new("/dev"), &OWN, &mut nodes);
    }
    for mapping in &host.devices {
        let known = |node: &Device| nodes.iter().all(|other| other.path != node.path);
        let more: Vec<Device> = mapped(mapping)?.into_iter().filter(known).collect();
        nodes.extend(more);
    }
    Ok(nodes)
}

/// The nodes that a mapping means: one, or all below a folder.
fn mapped(mapping: &DeviceMapping) -> Result<Vec<Device>> {
    let refuse = |problem: &dyn std::fmt::Display| {
        Error::Invalid(format!(
            "error gathering device information while adding custom device {:?}: {problem}",
            mapping.path_on_host
        ))
    };
    let outside = Path::new(&mapping.path_on_host);
    let inside = match mapping.path_in_container.as_str() {
        "" => outside,
        path => Path::new(path),
    };
    let stat = rustix::fs::stat(outside).map_err(|error| refuse(&error))?;
    let mut nodes: Vec<Device> = node(inside.into(), &stat).into_iter().collect();
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        below(outside, &[], &mut nodes);
        for node in &mut nodes {
            if let Ok(rest) = node.path.strip_prefix(outside) {
                node.path = inside.join(rest);
            }
        }
    }
    if nodes.is_empty() {
        return Err(refuse(&"not a device node"));
    }
    Ok(nodes)
}

/// Adds the nodes below a folder of the host, but for these names in it. What goes
/// while it is looked at is not there.
fn below(folder: &Path, but: &[&str], nodes: &mut Vec<Device>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        if but.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let path = entry.path();
        let Ok(stat) = rustix::fs::lstat(&path) else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            below(&path, &[], nodes);
        } else {
            nodes.extend(node(path, &stat));
        }
    }
}

/// The node of that number and these permissions at a path.
fn node(path: PathBuf, stat: &Stat) -> Option<Device> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => DeviceKind::Character,
        FileType::BlockDevice => DeviceKind::Block,
        _ => return None,
    };
    Some(Device {
        kind,
        path,
        major: rustix::fs::major(stat.st_rdev).into(),
        minor: rustix::fs::minor(stat.st_rdev).into(),
        file_mode: Some(stat.st_mode & 0o7777),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    })
}

/// Which devices a container may use.
pub(crate) fn rules(host: &HostConfig) -> Result<Vec<DeviceRule>> {
    let rule = |kind, major: Option<i64>, minor: Option<i64>, access: &str| DeviceRule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access: Some(access.into()),
    };
    if host.privileged {
        return Ok(vec![rule(DeviceKind::All, None, None, "rwm")]);
    }
    let character = DeviceKind::Character;
    let mut rules = vec![
        DeviceRule {
            allow: false,
            kind: None,
            major: None,
            minor: None,
            access: Some("rwm".into()),
        },
        rule(character, None, None, "m"),
        rule(DeviceKind::Block, None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, pts.
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        rules.push(rule(character, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(character, Some(136), None, "rwm"));
    for mapping in &host.devices {
        let access = match mapping.cgroup_permissions.as_str() {
            "" => "rwm",
            access => access,
        };
        let mapped = mapped(mapping)?;
        rules.extend(
            mapped
                .iter()
                .map(|device| rule(device.kind, Some(device.major), Some(device.minor), access)),
        );
    }
    for text in &host.device_cgroup_rules {
        rules.push(parse(text).ok_or_else(|| {
            Error::Invalid(format!("invalid device cgroup rule format: '{text}'"))
        })?);
    }
    Ok(rules)
}

/// `c 1:3 mr`, with `*` for any number.
fn parse(text: &str) -> Option<DeviceRule> {
    let mut words = text.split_whitespace();
    let kind = match words.next()? {
        "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" => DeviceKind::Character,
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |text: &str| -> Option<Option<i64>> {
        if text == "*" {
            Some(None)
        } else {
            text.parse::<u32>().ok().map(|n| Some(n.into()))
        }
    };
    let access = words.next()?;
    let known = !access.is_empty() && access.bytes().all(|letter| b"rwm".contains(&letter));
    (known && words.next().is_none()).then_some(DeviceRule {
        allow: true,
        kind: Some(kind),
        major: number(major)?,
        minor: number(minor)?,
        access: Some(access.into()),
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, makedev, mknodat};

    use super::*;

    #[test]
    fn a_folder_means_the_nodes_below_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let deeper = folder.path().join("deeper");
        std::fs::create_dir(&deeper).expect("a folder");
        std::fs::write(folder.path().join("file"), "").expect("a file");
        let node = deeper.join("null");
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(1, 3)).expect("root may");
        let mut mapping = DeviceMapping {
            path_on_host: folder.path().display().to_string(),
            path_in_container: "/dev/mine".into(),
            cgroup_permissions: "r".into(),
        };
        let mut host = HostConfig {
            devices: vec![mapping.clone()],
            ..HostConfig::default()
        };
        let found = nodes(&host).expect("there is one");
        let [null] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(null.path, Path::new("/dev/mine/deeper/null"));
        assert_eq!(
            (null.major, null.minor, null.file_mode),
            (1, 3, Some(0o600))
        );
        let last = rules(&host).expect("they are well").pop().expect("one");
        assert_eq!((last.major, last.access.as_deref()), (Some(1), Some("r")));
        // A folder without any is none.
        std::fs::remove_file(&node).expect("it is there");
        let error = nodes(&host).expect_err("nothing is there").to_string();
        assert!(error.ends_with("not a device node"), "{error}");
        // A privileged container has the host's, and each path once.
        host.privileged = true;
        mapping.path_on_host = "/dev/null".into();
        mapping.path_in_container = String::new();
        host.devices = vec![mapping];
        let all = nodes(&host).expect("the host has some");
        let count = |path: &str| all.iter().filter(|one| one.path == Path::new(path)).count();
        assert_eq!(
            (
                count("/dev/null"),
                count("/dev/console"),
                count("/dev/ptmx")
            ),
            (1, 0, 0)
        );
    }

    #[test]
    fn rules_are_parsed_strictly() {
        assert!(parse("c 1:* rwm").is_some());
        for bad in [
            "",
            "c",
            "c 1:3",
            "x 1:3 r",
            "c 1-3 r",
            "c 1:3 q",
            "c 1:3 r r",
            "c -1:3 r",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
