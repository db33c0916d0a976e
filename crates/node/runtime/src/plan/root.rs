//! The root filesystem: opened once, as a detached mount.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use dhow_sys::mount::{self, Attributes, Depth, Propagation};
use rustix::fs::{CWD, FileType};

use super::{labels, mounts, options, text};
use crate::RootSource;
use crate::error::{Result, RuntimeError};
use crate::spec::{Linux, Spec};

/// Directory of the bundle's root.
fn directory(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let root = spec
        .root
        .as_ref()
        .filter(|root| !root.path.as_os_str().is_empty());
    let root = root.ok_or_else(|| RuntimeError::spec("root.path", "is absent"))?;
    Ok(bundle.join(&root.path))
}

/// Makes the detached mount that becomes the root. `user` is the container's user
/// namespace, if that is there already.
pub(super) fn open(
    spec: &Spec,
    bundle: &Path,
    source: &RootSource,
    user: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    match source {
        RootSource::Bundle => {
            let directory = directory(spec, bundle)?;
            let failed = |error| RuntimeError::io("open root filesystem", &directory, error);
            let path = text("root.path", &directory)?;
            let root = mount::copy(CWD, &path, Depth::Tree).map_err(failed)?;
            let stat = rustix::fs::fstat(&root).map_err(failed)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(RuntimeError::spec(
                    "root.path",
                    format!("{} is no directory", directory.display()),
                ));
            }
            // What is mounted on the host later may come in if asked for; what
            // is mounted inside never goes out.
            let spec_propagation = spec
                .linux
                .as_ref()
                .map(|linux| linux.rootfs_propagation.as_str());
            let inwards = spec_propagation
                .is_some_and(|name| matches!(name, "shared" | "rshared" | "slave" | "rslave"));
            let kind = if inwards {
                Propagation::Slave
            } else {
                Propagation::Private
            };
            mount::change(
                root.as_fd(),
                c"",
                Depth::Tree,
                Attributes::default(),
                Some(kind),
            )
            .map_err(failed)?;
            Ok(root)
        }
        RootSource::Overlay {
            lower,
            upper,
            work,
            mapped,
        } => {
            let Some(first) = lower.first() else {
                return Err(RuntimeError::spec(
                    "root",
                    "an overlay needs a lower directory",
                ));
            };
            let texts = lower
                .iter()
                .map(|directory| text("root.lower", directory))
                .collect::<Result<Vec<CString>>>()?;
            let lower: Vec<_> = texts.iter().map(CString::as_c_str).collect();
            let (upper, work) = (text("root.upper", upper)?, text("root.work", work)?);
            let nothing = Linux::default();
            let linux = spec.linux.as_ref().unwrap_or(&nothing);
            let label = labels::of_mounts(linux)?;
            let label = label.as_deref();
            let overlay = if *mapped {
                let made;
                let user = match user {
                    Some(there) => there,
                    None => {
                        made = mounts::user_namespace("root", &linux.id_maps())?;
                        &made
                    }
                };
                mount::overlay_mapped(&lower, &upper, &work, user.as_fd(), label)
            } else {
                mount::overlay(&lower, &upper, &work, label)
            };
            overlay.map_err(|error| RuntimeError::io("mount the overlay on", first, error))
        }
    }
}

/// Directory of the host the root is put on, inside the container's own mount
/// namespace: pivot_root(2) wants a mount point.
pub(super) fn place(
    spec: &Spec,
    bundle: &Path,
    source: &RootSource,
    state_dir: &Path,
) -> Result<CString> {
    match source {
        RootSource::Bundle => text("root.path", directory(spec, bundle)?),
        RootSource::Overlay { .. } => text("root", state_dir),
    }
}

/// Propagation of the root in the end; none leaves what it was opened with.
pub(super) fn propagation(linux: &Linux) -> Result<Option<(Propagation, Depth)>> {
    match linux.rootfs_propagation.as_str() {
        "" => Ok(None),
        name => options::propagation(name).map(Some).ok_or_else(|| {
            RuntimeError::spec("linux.rootfsPropagation", format!("{name:?} is not known"))
        }),
    }
}
