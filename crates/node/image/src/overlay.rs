//! Detached overlay mounts: a merged view that no mount table sees and that
//! ends with its descriptor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::{Error, Result};

/// The kernel takes no longer text as one mount parameter.
const MAX_PARAMETER: usize = 255;

/// The writable part of an overlay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writable<'a> {
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
}

/// Mounts the layers of `lower`, topmost first, and returns the merged root.
/// Without a writable part there must be two layers or more.
pub(crate) fn mount(lower: &[PathBuf], writable: Option<Writable<'_>>) -> Result<OwnedFd> {
    attempt(lower, writable).map_err(|source| Error::Overlay {
        layers: lower.len(),
        source: source.into(),
    })
}

fn attempt(lower: &[PathBuf], writable: Option<Writable<'_>>) -> rustix::io::Result<OwnedFd> {
    // Keeps the descriptors that parameters name.
    let mut open = Vec::new();
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    // What is written must read as a layer by itself.
    for option in ["redirect_dir", "metacopy", "index"] {
        match fsconfig_set_string(context, option, "off") {
            // A kernel built without it has it off.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let mut each = Ok(());
    for layer in lower {
        each = fsconfig_set_string(context, "lowerdir+", parameter(layer, &mut open)?);
        if each.is_err() {
            break;
        }
    }
    match each {
        // Kernels before 6.5 take them all at once.
        Err(Errno::INVAL) => {
            let names: rustix::io::Result<Vec<String>> = lower
                .iter()
                .map(|layer| through_descriptor(layer, &mut open))
                .collect();
            fsconfig_set_string(context, "lowerdir", names?.join(":"))?;
        }
        other => other?,
    }
    let attributes = match writable {
        Some(Writable { upper, work }) => {
            fsconfig_set_string(context, "upperdir", parameter(upper, &mut open)?)?;
            fsconfig_set_string(context, "workdir", parameter(work, &mut open)?)?;
            MountAttrFlags::empty()
        }
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    fsconfig_create(context)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A path as a mount parameter.
fn parameter(path: &Path, open: &mut Vec<OwnedFd>) -> rustix::io::Result<String> {
    match path.to_str() {
        Some(text) if text.len() <= MAX_PARAMETER => Ok(text.to_owned()),
        _ => through_descriptor(path, open),
    }
}

fn through_descriptor(path: &Path, open: &mut Vec<OwnedFd>) -> rustix::io::Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
    open.push(directory);
    Ok(name)
}
