//! Volumes of pods: folders on this machine, filled from the API or left to
//! the containers.
//!
//! [`set_up`] makes what is missing and brings up to date what has changed; it
//! may be repeated at any time. Not here: file systems that must be mounted.

mod local;
mod mounts;
mod objects;
mod payload;
mod tokens;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Pod, Volume};

pub(crate) use mounts::{MountError, mounts};
pub(crate) use objects::{Objects, Subscription};
pub(crate) use tokens::Tokens;

use crate::env::Place;
use crate::host::PodFolder;
use payload::Sources;

/// Volumes of a pod, ready to be mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Volumes {
    /// By name.
    pub(crate) by_name: BTreeMap<String, Ready>,
    /// Something in them ends then.
    pub(crate) refresh: Option<SystemTime>,
    /// What of them is not as it was wished, for people.
    pub(crate) notes: Vec<String>,
}

/// A volume that is ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Whether containers may not write to it in any case.
    pub(crate) readonly: bool,
}

/// Why a volume is not ready.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub(crate) struct VolumeError {
    /// Its name.
    pub(crate) volume: String,
    /// What went wrong.
    pub(crate) why: String,
}

/// What the making of volumes needs besides the pod.
pub(crate) struct Tools<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) tokens: &'a Tokens,
    pub(crate) folder: &'a PodFolder,
    pub(crate) place: Place<'a>,
}

/// Makes a pod's volumes. The subscriptions tell when one of the objects that
/// they are made of changes; they are given back even when something failed.
pub(crate) async fn set_up(
    tools: &Tools<'_>,
    subscriptions: &mut Vec<Subscription>,
) -> Result<Volumes, VolumeError> {
    let pod = tools.place.pod;
    let mut made = Volumes::default();
    // Nobody but root looks into it from outside.
    tools.folder.make().map_err(|error| VolumeError {
        volume: String::new(),
        why: full(&error),
    })?;
    let spec = pod.spec.as_ref();
    let mut sources = Sources {
        tools,
        subscriptions,
        refresh: None,
        notes: Vec::new(),
    };
    for volume in spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let ready = one(&mut sources, volume).await;
        let ready = ready.map_err(|why| VolumeError {
            volume: volume.name.clone(),
            why,
        })?;
        made.by_name.insert(volume.name.clone(), ready);
    }
    made.refresh = sources.refresh;
    made.notes = sources.notes;
    Ok(made)
}

async fn one(sources: &mut Sources<'_, '_>, volume: &Volume) -> Result<Ready, String> {
    let tools = sources.tools;
    let pod = tools.place.pod;
    let words = |error: crate::error::Error| full(&error);
    if let Some(host_path) = &volume.host_path {
        let path = local::host_path(host_path)?;
        return Ok(Ready {
            path,
            readonly: false,
        });
    }
    if let Some(empty) = &volume.empty_dir {
        let path = tools.folder.volume("empty-dir", &volume.name);
        let path = path.map_err(words)?;
        let is_new = !path.is_dir();
        local::empty_dir(&path, empty, fs_group(pod)).map_err(words)?;
        if is_new && empty.medium.as_deref() == Some("Memory") {
            let name = &volume.name;
            sources.notes.push(format!(
                "emptyDir volume \"{name}\" asks for memory and is kept on disk"
            ));
        }
        return Ok(Ready {
            path,
            readonly: false,
        });
    }
    let (kind, payload) = sources.of_volume(volume).await?;
    let path = tools.folder.volume(kind, &volume.name).map_err(words)?;
    writer::write(&path, &payload, fs_group(pod)).map_err(words)?;
    Ok(Ready {
        path,
        readonly: true,
    })
}

/// Group that owns a pod's volumes.
fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// An error with its causes in one line.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
