//! Pods get the number that their priority class stands for.

use serde_json::{Value, json};

use crate::api::Api;
use crate::error::ApiError;
use crate::tree;

/// The classes that every cluster has.
pub(crate) fn classes() -> [Value; 2] {
    let class = |name: &str, value: i64, description: &str| {
        json!({"kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1",
            "metadata": {"name": name}, "value": value, "description": description})
    };
    [
        class(
            "system-cluster-critical",
            2_000_000_000,
            "For pods that the cluster cannot do without, on whatever node they run.",
        ),
        class(
            "system-node-critical",
            2_000_001_000,
            "For pods that a node cannot do without.",
        ),
    ]
}

impl Api {
    /// Sets a pod's priority and preemption policy from its class, or from the
    /// default class if it names none.
    pub(super) async fn admit_priority(&self, pod: &mut Value) -> Result<(), ApiError> {
        let classes = self.registry.known("scheduling.k8s.io", "priorityclasses");
        let named = tree::text(pod, &["spec", "priorityClassName"]).to_owned();
        let class = if named.is_empty() {
            // The least of the defaults, should there be several.
            let (all, _) = self.caches.of(classes).list("");
            all.iter()
                .map(|class| class.tree())
                .filter(|class| tree::flag(class, &["globalDefault"]))
                .min_by_key(|class| tree::int(class, &["value"]))
        } else {
            let Some(found) = self.find(classes, "", &named).await? else {
                let why = format!("no PriorityClass with name {named} was found");
                return Err(self.refuse_pod(pod, &why));
            };
            Some(found.tree())
        };
        let (name, value, policy) = match &class {
            Some(class) => (
                tree::text(class, &["metadata", "name"]).to_owned(),
                tree::int(class, &["value"]).unwrap_or(0),
                tree::text(class, &["preemptionPolicy"]).to_owned(),
            ),
            None => (String::new(), 0, String::new()),
        };
        if let Some(given) = tree::int(pod, &["spec", "priority"])
            && given != value
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(self.refuse_pod(pod, &why));
        }
        let policy = if policy.is_empty() {
            "PreemptLowerPriority"
        } else {
            &policy
        };
        let given = tree::text(pod, &["spec", "preemptionPolicy"]);
        if !given.is_empty() && given != policy {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(self.refuse_pod(pod, &why));
        }
        if !name.is_empty() {
            tree::set(pod, &["spec", "priorityClassName"], name);
        }
        tree::set(pod, &["spec", "priority"], value);
        tree::set(pod, &["spec", "preemptionPolicy"], policy);
        Ok(())
    }

    fn refuse_pod(&self, pod: &Value, why: &str) -> ApiError {
        let name = tree::text(pod, &["metadata", "name"]);
        ApiError::forbidden(self.registry.known("", "pods"), name, why)
    }
}
