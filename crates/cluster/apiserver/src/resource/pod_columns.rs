//! The columns of a pod: what its many conditions come to in one word.

use jiff::Timestamp;
use serde_json::Value;

use super::columns::{AGE, Column, NAME, age, column, or_none, wide};
use crate::tree;

pub(super) const POD: &[Column] = &[
    NAME,
    column("Ready", |pod, _| {
        let summary = summary(pod);
        format!("{}/{}", summary.n_ready, summary.n_containers).into()
    }),
    column("Status", |pod, _| summary(pod).status.into()),
    column("Restarts", |pod, now| restarts(pod, now).into()),
    AGE,
    wide("IP", |pod, _| {
        or_none(tree::text(pod, &["status", "podIP"]).to_owned())
    }),
    wide("Node", |pod, _| {
        or_none(tree::text(pod, &["spec", "nodeName"]).to_owned())
    }),
    wide("Nominated Node", |pod, _| {
        or_none(tree::text(pod, &["status", "nominatedNodeName"]).to_owned())
    }),
    wide("Readiness Gates", |pod, _| readiness_gates(pod)),
];

struct Summary {
    status: String,
    n_ready: usize,
    n_containers: usize,
    n_restarts: i64,
    last_restart: String,
}

/// A restartable init container: a sidecar.
fn is_sidecar(pod: &Value, name: &str) -> bool {
    tree::list(pod, &["spec", "initContainers"])
        .iter()
        .any(|container| {
            tree::text(container, &["name"]) == name
                && tree::text(container, &["restartPolicy"]) == "Always"
        })
}

fn terminated(state: &Value, prefix: &str) -> Option<String> {
    let terminated = state.get("terminated")?;
    let reason = tree::text(terminated, &["reason"]);
    let signal = tree::int(terminated, &["signal"]).unwrap_or(0);
    let code = tree::int(terminated, &["exitCode"]).unwrap_or(0);
    Some(if !reason.is_empty() {
        format!("{prefix}{reason}")
    } else if signal != 0 {
        format!("{prefix}Signal:{signal}")
    } else {
        format!("{prefix}ExitCode:{code}")
    })
}

fn condition(pod: &Value, kind: &str) -> bool {
    tree::list(pod, &["status", "conditions"])
        .iter()
        .any(|c| tree::text(c, &["type"]) == kind && tree::text(c, &["status"]) == "True")
}

fn summary(pod: &Value) -> Summary {
    let sidecars = tree::list(pod, &["spec", "initContainers"])
        .iter()
        .filter(|container| tree::text(container, &["restartPolicy"]) == "Always")
        .count();
    let n_containers = tree::list(pod, &["spec", "containers"]).len() + sidecars;
    let phase = tree::text(pod, &["status", "phase"]);
    let mut status = match tree::text(pod, &["status", "reason"]) {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    for c in tree::list(pod, &["status", "conditions"]) {
        if tree::text(c, &["type"]) == "PodScheduled"
            && tree::text(c, &["reason"]) == "SchedulingGated"
        {
            "SchedulingGated".clone_into(&mut status);
        }
    }
    let mut n_ready = 0;
    let mut n_restarts = 0;
    let mut init_restarts = 0;
    let mut last_restart = String::new();
    let mut initializing = false;
    let n_init = tree::list(pod, &["spec", "initContainers"]).len();
    let mut restarted = |container: &Value| {
        let finished = tree::text(container, &["lastState", "terminated", "finishedAt"]);
        if finished > &*last_restart {
            finished.clone_into(&mut last_restart);
        }
    };
    for (n, container) in tree::list(pod, &["status", "initContainerStatuses"])
        .iter()
        .enumerate()
    {
        let count = tree::int(container, &["restartCount"]).unwrap_or(0);
        init_restarts += count;
        restarted(container);
        let sidecar = is_sidecar(pod, tree::text(container, &["name"]));
        if sidecar {
            n_restarts += count;
        }
        let state = container.get("state").unwrap_or(&Value::Null);
        if tree::int(state, &["terminated", "exitCode"]) == Some(0) {
            continue;
        }
        if sidecar && tree::flag(container, &["started"]) {
            if tree::flag(container, &["ready"]) {
                n_ready += 1;
            }
            continue;
        }
        if let Some(word) = terminated(state, "Init:") {
            status = word;
        } else {
            let waiting = tree::text(state, &["waiting", "reason"]);
            status = if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{n}/{n_init}")
            };
        }
        initializing = true;
        break;
    }
    if initializing && !condition(pod, "Initialized") {
        n_restarts = init_restarts;
    } else {
        if initializing {
            initializing = false;
        }
        let mut running = false;
        for container in tree::list(pod, &["status", "containerStatuses"])
            .iter()
            .rev()
        {
            n_restarts += tree::int(container, &["restartCount"]).unwrap_or(0);
            restarted(container);
            let state = container.get("state").unwrap_or(&Value::Null);
            let waiting = tree::text(state, &["waiting", "reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut status);
            } else if let Some(word) = terminated(state, "") {
                status = word;
            } else if tree::flag(container, &["ready"]) && state.get("running").is_some() {
                running = true;
                n_ready += 1;
            }
        }
        if status == "Completed" && running {
            status = if condition(pod, "Ready") {
                "Running"
            } else {
                "NotReady"
            }
            .to_owned();
        }
    }
    if !tree::text(pod, &["metadata", "deletionTimestamp"]).is_empty() {
        if tree::text(pod, &["status", "reason"]) == "NodeLost" {
            "Unknown".clone_into(&mut status);
        } else if initializing || !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut status);
        }
    }
    Summary {
        status,
        n_ready,
        n_containers,
        n_restarts,
        last_restart,
    }
}

fn restarts(pod: &Value, now: Timestamp) -> String {
    let summary = summary(pod);
    if summary.n_restarts > 0 && !summary.last_restart.is_empty() {
        let ago = age(&summary.last_restart, now);
        format!("{} ({ago} ago)", summary.n_restarts)
    } else {
        summary.n_restarts.to_string()
    }
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = tree::list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates
        .iter()
        .filter(|gate| condition(pod, tree::text(gate, &["conditionType"])))
        .count();
    format!("{met}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_word_for_each_state() {
        let pod = |status: Value| {
            json!({"metadata": {}, "spec": {"containers": [{"name": "a"}],
                "initContainers": [{"name": "i"}]}, "status": status})
        };
        for (status, word) in [
            (json!({"phase": "Pending"}), "Pending"),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
            (
                json!({"phase": "Pending", "initContainerStatuses": [
                    {"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                "Init:0/1",
            ),
            (
                json!({"phase": "Pending", "containerStatuses": [
                    {"state": {"waiting": {"reason": "ContainerCreating"}}}]}),
                "ContainerCreating",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [
                    {"ready": true, "state": {"running": {}}}]}),
                "Running",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [
                    {"state": {"terminated": {"exitCode": 3}}}]}),
                "ExitCode:3",
            ),
        ] {
            assert_eq!(summary(&pod(status)).status, word);
        }
        let mut going = pod(json!({"phase": "Running"}));
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(summary(&going).status, "Terminating");
    }
}
