//! From a container's wish for volumes to mounts.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dhow_sys::Errno;
use dhow_sys::resolve::{self, Kind, Links};
use k8s_openapi::api::core::v1::{Container as Spec, VolumeMount};
use rustix::fs::{Mode, OFlags};

use super::{Ready, Volumes, local};
use crate::env::expand;
use crate::runtime::{Mount, Propagation};

/// Why a volume cannot be mounted in a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// The pod has no volume of this name.
    #[error("cannot find volume \"{0}\" to mount into container \"{1}\"")]
    NoVolume(String, String),
    /// A part of a volume cannot be found or made.
    #[error("failed to prepare subPath for volumeMount \"{0}\" of container \"{1}\"")]
    SubPath(String, String, #[source] std::io::Error),
}

/// Mounts of a container's volumes.
pub(crate) fn mounts(
    spec: &Spec,
    volumes: &Volumes,
    env: &[(String, String)],
) -> Result<Vec<Mount>, MountError> {
    let wishes = spec.volume_mounts.iter().flatten();
    wishes.map(|wish| mount(spec, wish, volumes, env)).collect()
}

fn mount(
    spec: &Spec,
    wish: &VolumeMount,
    volumes: &Volumes,
    env: &[(String, String)],
) -> Result<Mount, MountError> {
    let names = || (wish.name.clone(), spec.name.clone());
    let Some(volume) = volumes.by_name.get(&wish.name) else {
        let (volume, container) = names();
        return Err(MountError::NoVolume(volume, container));
    };
    let known = |name: &str| {
        let found = env.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    };
    let part = match (&wish.sub_path_expr, &wish.sub_path) {
        (Some(text), _) if !text.is_empty() => expand(text, known),
        (_, Some(text)) => text.clone(),
        _ => String::new(),
    };
    let host_path = if part.is_empty() {
        volume.path.clone()
    } else {
        sub_path(volume, &part).map_err(|error| {
            let (volume, container) = names();
            MountError::SubPath(volume, container, error)
        })?
    };
    Ok(Mount {
        container_path: absolute(&wish.mount_path),
        host_path,
        readonly: volume.readonly || wish.read_only == Some(true),
        propagation: match wish.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        },
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Where a part of a volume is, made as a folder if it is not there.
///
/// Links that containers have put into the volume are followed inside it only.
/// The answer is a path without links, good until somebody changes the volume.
fn sub_path(volume: &Ready, part: &str) -> std::io::Result<PathBuf> {
    let is_inside = Path::new(part).components().all(|part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    if !is_inside {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&volume.path, flags, Mode::empty())?;
    let name = CString::new(part)?;
    let (place, is_new) = match resolve::open(root.as_fd(), &name, Links::Follow) {
        Err(Errno::NOENT) if !volume.readonly => (
            resolve::make(root.as_fd(), &name, Kind::Directory, Links::Follow)?,
            true,
        ),
        result => (result?, false),
    };
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    if is_new {
        // Whoever may write to the volume may write to its part.
        let mode = local::mode(&volume.path);
        std::fs::set_permissions(&link, std::fs::Permissions::from_mode(mode))?;
    }
    std::fs::read_link(link)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_of_volumes_stay_inside() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("v");
        std::fs::create_dir(&root).expect("made");
        std::os::unix::fs::symlink("/etc", root.join("out")).expect("linked");
        std::fs::write(root.join("file"), "x").expect("written");
        let volume = Ready {
            path: root.clone(),
            readonly: false,
        };
        let root = root.canonicalize().expect("a path");
        assert_eq!(sub_path(&volume, "a/b").expect("made"), root.join("a/b"));
        assert_eq!(sub_path(&volume, "file").expect("found"), root.join("file"));
        let outside = sub_path(&volume, "out").expect("made inside");
        assert!(outside.starts_with(&root), "{}", outside.display());
        assert!(sub_path(&volume, "../x").is_err());
        let fixed = Ready {
            readonly: true,
            ..volume
        };
        assert!(sub_path(&fixed, "absent").is_err());
    }

    #[test]
    fn wishes_become_mounts() {
        let spec: Spec = serde_json::from_value(json!({"name": "c", "volumeMounts": [
            {"name": "v", "mountPath": "data", "readOnly": true, "mountPropagation": "HostToContainer"},
        ]}))
        .expect("a container");
        let ready = Ready {
            path: "/x".into(),
            readonly: false,
        };
        let mut volumes = Volumes::default();
        assert!(matches!(
            mounts(&spec, &volumes, &[]),
            Err(MountError::NoVolume(..))
        ));
        volumes.by_name.insert("v".to_owned(), ready);
        let made = mounts(&spec, &volumes, &[]).expect("made");
        assert_eq!(made[0].container_path, "/data");
        assert!(made[0].readonly);
        assert_eq!(made[0].propagation, Propagation::HostToContainer);
    }
}
