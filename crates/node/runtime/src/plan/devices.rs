//! Device nodes and the links beside them, as steps.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use dhow_sys::child::{DeviceNode, MountSource, MountStep, ProcAllowed, Step};
use dhow_sys::mount::{self, Attributes, Depth, Propagation};
use dhow_sys::namespace::Kind as NamespaceKind;
use dhow_sys::resolve::{Kind, Links};
use rustix::fs::CWD;

use super::namespaces::Namespaces;
use super::{mounts, text};
use crate::error::{Result, RuntimeError};
use crate::spec::{Device, DeviceKind, Linux, Spec};

/// Devices every container has (config-linux.md, "Default Devices").
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links every container has (runtime-linux.md, "Dev symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Adds the steps; none if the host's `/dev` is used.
pub(super) fn compile(
    spec: &Spec,
    linux: &Linux,
    namespaces: &Namespaces,
    add: &mut impl FnMut(Step),
) -> Result<()> {
    let foreign = |mount: &crate::spec::Mount| {
        mount.destination == Path::new("/dev") && mounts::is_bind(mount)
    };
    if spec.mounts.iter().any(foreign) {
        return Ok(());
    }
    let nodes = |path: PathBuf| !linux.devices.iter().any(|device| device.path == path);
    for (path, major, minor) in DEFAULT {
        if nodes(path.into()) {
            add(make(
                namespaces,
                path.as_ref(),
                libc::S_IFCHR | 0o666,
                (major, minor),
                (0, 0),
            )?);
        }
    }
    for device in &linux.devices {
        let (mode, number) = numbers(device)?;
        let owner = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
        add(make(namespaces, &device.path, mode, number, owner)?);
    }
    for (path, target) in LINKS {
        add(Step::Symlink {
            path: text("dev", path)?,
            target: text("dev", target)?,
        });
    }
    if Path::new("/proc/kcore").exists() {
        add(Step::Symlink {
            path: c"/dev/core".into(),
            target: c"/proc/kcore".into(),
        });
    }
    Ok(())
}

fn numbers(device: &Device) -> Result<(u32, (u32, u32))> {
    let field = || format!("linux.devices ({})", device.path.display());
    if !device.path.is_absolute() {
        return Err(RuntimeError::spec(field(), "the path is not absolute"));
    }
    let kind = match device.kind {
        DeviceKind::Character => libc::S_IFCHR,
        DeviceKind::Block => libc::S_IFBLK,
        DeviceKind::Fifo => libc::S_IFIFO,
        DeviceKind::All => return Err(RuntimeError::spec(field(), "type a is for rules only")),
    };
    let number = |value: i64| {
        u32::try_from(value).map_err(|_| RuntimeError::spec(field(), format!("no number: {value}")))
    };
    let mode = kind | device.file_mode.unwrap_or(0o666) & 0o7777;
    if device.kind == DeviceKind::Fifo {
        return Ok((mode, (0, 0)));
    }
    Ok((mode, (number(device.major)?, number(device.minor)?)))
}

fn make(
    namespaces: &Namespaces,
    path: &Path,
    mode: u32,
    (major, minor): (u32, u32),
    (uid, gid): (u32, u32),
) -> Result<Step> {
    let name = text("linux.devices", path)?;
    let is_fifo = mode & libc::S_IFMT == libc::S_IFIFO;
    if is_fifo || !namespaces.has(NamespaceKind::User) {
        return Ok(Step::Device(DeviceNode {
            path: name,
            mode,
            major,
            minor,
            uid,
            gid,
        }));
    }
    // Nodes cannot be made in a user namespace: the host's are bound.
    let failed = |error| RuntimeError::io("bind mount device", path, error);
    let tree = mount::copy(CWD, &name, Depth::One).map_err(failed)?;
    let stat = rustix::fs::fstat(&tree).map_err(failed)?;
    let same = stat.st_mode & libc::S_IFMT == mode & libc::S_IFMT
        && stat.st_rdev == rustix::fs::makedev(major, minor);
    if !same {
        return Err(RuntimeError::spec(
            format!("linux.devices ({})", path.display()),
            format!(
                "the host's is not device {major}:{minor}, and a user namespace cannot make it"
            ),
        ));
    }
    mount::change(
        tree.as_fd(),
        c"",
        Depth::One,
        Attributes::default(),
        Some(Propagation::Private),
    )
    .map_err(failed)?;
    Ok(Step::Mount(MountStep {
        path: name,
        kind: Kind::File,
        links: Links::Refuse,
        proc: ProcAllowed::No,
        source: MountSource::Detached(tree),
        attributes: Attributes::default(),
        tree_attributes: Attributes::default(),
        propagation: Vec::new(),
    }))
}
