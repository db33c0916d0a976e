//! Names of what the agent keeps with sandboxes and containers in the runtime.
//!
//! The labels are the kubelet's. The annotations are how a restarted agent
//! knows what its predecessor meant.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Name of the pod.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Namespace of the pod.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Unique identifier of the pod.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// Name of the container.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Seconds a pod gets to end, for when its object is gone.
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// How often a container of this name was started before.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// The image as the pod's spec names it.
pub(crate) const IMAGE: &str = "dhow.io/container.image";
/// How many short lives in a row came before this one.
pub(crate) const BACK_OFF: &str = "dhow.io/container.backOff";
/// File of the host that holds the termination message.
pub(crate) const MESSAGE_FILE: &str = "dhow.io/container.terminationMessageFile";
/// `File` or `FallbackToLogsOnError`.
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";

/// Labels of a pod's sandbox and, with one more, of its containers.
pub(crate) fn of_pod(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.labels().clone();
    labels.insert(POD_NAME.to_owned(), pod.name_any());
    labels.insert(
        POD_NAMESPACE.to_owned(),
        pod.namespace().unwrap_or_default(),
    );
    labels.insert(POD_UID.to_owned(), pod.uid().unwrap_or_default());
    labels
}
