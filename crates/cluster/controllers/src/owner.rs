//! Owner references and readiness, as several controllers need them.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::error::Error;

/// The reference by which `owner` controls what it makes, and waits for it
/// when it is deleted in the foreground.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(
    owner: &K,
) -> Result<OwnerReference, Error> {
    let reference = owner
        .controller_owner_ref(&())
        .ok_or(Error::Incomplete("the owner", "name and uid"))?;
    Ok(OwnerReference {
        block_owner_deletion: Some(true),
        ..reference
    })
}

/// Whether the object with this uid controls the one described.
pub(crate) fn is_controlled_by(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|reference| reference.controller == Some(true) && reference.uid == uid)
}

/// Whether a pod is neither finished nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Since when a pod is ready, in seconds since the epoch; `None` if it is not.
pub(crate) fn ready_since(pod: &Pod) -> Option<i64> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")?;
    (ready.status == "True").then(|| {
        ready
            .last_transition_time
            .as_ref()
            .map_or(0, |time| time.0.as_second())
    })
}
