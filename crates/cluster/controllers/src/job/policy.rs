//! What a Job's pod failure policy says of a failed pod. No I/O.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// What follows from a pod's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It counts towards the limit.
    Count,
    /// It is replaced and does not count.
    Ignore,
    /// The Job fails, for this reason.
    FailJob(String),
}

/// The verdict of the first rule that matches; without one it counts.
///
/// `FailIndex` needs limits for each index, which are not there; it counts.
pub(crate) fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec
        .pod_failure_policy
        .iter()
        .flat_map(|policy| &policy.rules);
    for (number, rule) in rules.enumerate() {
        let of_codes = rule
            .on_exit_codes
            .as_ref()
            .and_then(|wanted| exit_code(wanted, pod));
        let matching = of_codes.or_else(|| {
            rule.on_pod_conditions
                .iter()
                .flatten()
                .find_map(|wanted| condition(wanted, pod))
        });
        let Some(what) = matching else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailJob" => {
                Verdict::FailJob(format!("{what} matching FailJob rule at index {number}"))
            }
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// The container whose exit code is meant, as a sentence.
fn exit_code(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .filter(|container| {
            wanted
                .container_name
                .as_ref()
                .is_none_or(|name| *name == container.name)
        })
        .find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            let is_listed = wanted.values.contains(&code);
            let is_meant = match wanted.operator.as_str() {
                "In" => is_listed,
                "NotIn" => !is_listed,
                _ => false,
            };
            // Success is never a failure's reason.
            (code != 0 && is_meant).then(|| {
                format!(
                    "Container {} for pod {}/{} failed with exit code {code}",
                    container.name,
                    pod.namespace().unwrap_or_default(),
                    pod.name_any()
                )
            })
        })
}

/// The condition that is meant, as a sentence.
fn condition(wanted: &PodFailurePolicyOnPodConditionsPattern, pod: &Pod) -> Option<String> {
    let status = wanted.status.as_deref().unwrap_or("True");
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    conditions
        .filter(|condition| condition.type_ == wanted.type_ && condition.status == status)
        .map(|condition| {
            format!(
                "Pod {}/{} has condition {}",
                pod.namespace().unwrap_or_default(),
                pod.name_any(),
                condition.type_
            )
        })
        .next()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verdict(rules: Value, status: Value) -> Verdict {
        let spec: JobSpec = serde_json::from_value(json!({
            "template": {}, "podFailurePolicy": { "rules": rules },
        }))
        .expect("a spec");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n" }, "status": status,
        }))
        .expect("a pod");
        judge(&spec, &pod)
    }

    fn ended(code: i32) -> Value {
        json!({ "phase": "Failed", "containerStatuses": [{ "name": "c", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": code } } }] })
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = json!([
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            { "action": "FailJob", "onExitCodes": { "containerName": "c", "operator": "In", "values": [42] } },
            { "action": "Ignore", "onExitCodes": { "operator": "NotIn", "values": [1] } },
        ]);
        assert_eq!(
            verdict(rules.clone(), ended(42)),
            Verdict::FailJob(
                "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 1"
                    .into()
            )
        );
        assert_eq!(verdict(rules.clone(), ended(1)), Verdict::Count);
        assert_eq!(verdict(rules.clone(), ended(2)), Verdict::Ignore);
        assert_eq!(verdict(rules.clone(), ended(0)), Verdict::Count);
        let mut disrupted = ended(42);
        disrupted["conditions"] = json!([{ "type": "DisruptionTarget", "status": "True" }]);
        assert_eq!(verdict(rules, disrupted), Verdict::Ignore);
    }
}
