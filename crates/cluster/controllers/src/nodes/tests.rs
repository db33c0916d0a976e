//! The monitor with hands on its clocks, and the whole against an API server
//! with little patience.

use std::time::Duration;

use dhow_apiserver::{ApiServer, Config, UserInfo};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::monitor::{Action, Monitor, Now, Timing};
use super::run_with;

/// A clock that moves when it is told to.
struct Clock(Now);

impl Clock {
    fn new() -> Self {
        let wall = Timestamp::from_second(1_000_000).expect("a time");
        Self(Now {
            instant: Instant::now(),
            wall,
        })
    }

    fn pass(&mut self, seconds: u64) {
        self.0.instant += Duration::from_secs(seconds);
        self.0.wall += SignedDuration::from_secs(i64::try_from(seconds).expect("small"));
    }
}

fn node(name: &str, conditions: Value, spec: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": name, "uid": name },
        "spec": spec,
        "status": { "conditions": conditions },
    }))
    .expect("a node")
}

fn is_ready(status: &str) -> Value {
    json!([{ "type": "Ready", "status": status }])
}

fn lease(name: &str, second: i64) -> Lease {
    let time = Timestamp::from_second(second).expect("a time");
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "renewTime": format!("{time:.6}") },
    }))
    .expect("a lease")
}

fn pod(name: &str, node: &str, tolerations: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "n", "uid": name },
        "spec": { "nodeName": node, "containers": [], "tolerations": tolerations },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    }))
    .expect("a pod")
}

fn names(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|action| match action {
            Action::Doubt { node, .. } => format!("doubt {node}"),
            Action::Taint { node, taints, .. } => {
                let mut keys: Vec<String> = taints
                    .iter()
                    .map(|taint| {
                        let key = taint.key.rsplit('/').next().unwrap_or_default();
                        format!("{key}:{}", taint.effect)
                    })
                    .collect();
                keys.sort();
                format!("taint {node} {}", keys.join(" "))
            }
            Action::Unready { pod } => format!("unready {}", pod.name),
            Action::Evict { pod } => format!("evict {}", pod.name),
            Action::Remove { pod, .. } => format!("remove {}", pod.name),
        })
        .collect()
}

#[test]
fn a_node_that_is_silent_is_doubted_after_its_grace() {
    let mut clock = Clock::new();
    let mut monitor = Monitor::new(Timing::USUAL);
    monitor.node_applied(node("a", is_ready("True"), json!({})), clock.0);
    monitor.lease_applied(&lease("a", 1), clock.0);
    let (actions, due) = monitor.plan(clock.0);
    assert!(actions.is_empty());
    assert_eq!(due, Some(clock.0.instant + Duration::from_secs(40)));
    // A renewal gives it another grace; the same Lease again does not.
    clock.pass(30);
    monitor.lease_applied(&lease("a", 2), clock.0);
    clock.pass(20);
    monitor.lease_applied(&lease("a", 2), clock.0);
    assert!(monitor.plan(clock.0).0.is_empty());
    clock.pass(20);
    let (actions, _) = monitor.plan(clock.0);
    assert_eq!(names(&actions), ["doubt a"]);
    let Action::Doubt { conditions, .. } = &actions[0] else {
        panic!("{actions:?}");
    };
    assert_eq!(conditions.len(), 4);
    let ready = &conditions[0];
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("Unknown", Some("NodeStatusUnknown"))
    );
}

#[test]
fn taints_follow_conditions_and_pods_follow_taints() {
    let mut clock = Clock::new();
    let mut monitor = Monitor::new(Timing::USUAL);
    let patient =
        json!([{ "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }]);
    monitor.pod_applied(&pod("patient", "a", patient));
    monitor.pod_applied(&pod("hasty", "a", json!([])));
    monitor.pod_applied(&pod("rock", "a", json!([{ "operator": "Exists" }])));
    let others = json!([{ "key": "mine", "effect": "NoSchedule" }]);
    monitor.node_applied(
        node("a", is_ready("Unknown"), json!({ "taints": others })),
        clock.0,
    );
    let (actions, _) = monitor.plan(clock.0);
    assert_eq!(
        names(&actions),
        [
            "unready hasty",
            "unready patient",
            "unready rock",
            "taint a mine:NoSchedule unreachable:NoExecute unreachable:NoSchedule"
        ]
    );
    let Some(Action::Taint { taints, .. }) = actions.last() else {
        panic!("{actions:?}");
    };
    let spec = json!({ "taints": taints });
    monitor.node_applied(node("a", is_ready("Unknown"), spec.clone()), clock.0);
    let (actions, due) = monitor.plan(clock.0);
    assert_eq!(names(&actions), ["evict hasty"]);
    assert_eq!(due, Some(clock.0.instant + Duration::from_secs(300)));
    let mut going = pod("hasty", "a", json!([]));
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        clock.0.wall,
    ));
    monitor.pod_applied(&going);
    clock.pass(299);
    assert!(monitor.plan(clock.0).0.is_empty());
    clock.pass(1);
    assert_eq!(names(&monitor.plan(clock.0).0), ["evict patient"]);

    // It is back: its taints go, and nobody else does.
    monitor.node_applied(node("a", is_ready("True"), spec), clock.0);
    assert_eq!(names(&monitor.plan(clock.0).0), ["taint a mine:NoSchedule"]);
    let pressed = json!([
        { "type": "Ready", "status": "True" },
        { "type": "MemoryPressure", "status": "True" },
    ]);
    monitor.node_applied(
        node("a", pressed, json!({ "unschedulable": true })),
        clock.0,
    );
    assert_eq!(
        names(&monitor.plan(clock.0).0),
        ["taint a memory-pressure:NoSchedule unschedulable:NoSchedule"]
    );
}

#[test]
fn pods_of_a_node_that_is_gone_are_removed_after_a_while() {
    let mut clock = Clock::new();
    let mut monitor = Monitor::new(Timing::USUAL);
    monitor.pod_applied(&pod("p", "ghost", json!([])));
    assert!(monitor.plan(clock.0).0.is_empty());
    clock.pass(39);
    assert!(monitor.plan(clock.0).0.is_empty());
    clock.pass(1);
    assert_eq!(names(&monitor.plan(clock.0).0), ["remove p"]);
    monitor.node_found("ghost");
    assert!(monitor.plan(clock.0).0.is_empty());
    monitor.node_applied(node("ghost", is_ready("True"), json!({})), clock.0);
    clock.pass(39);
    assert!(monitor.plan(clock.0).0.is_empty());
}

async fn soon<K>(
    what: impl Future<Output = Result<Option<K>, kube::runtime::wait::Error>>,
) -> Option<K> {
    match tokio::time::timeout(Duration::from_secs(20), what).await {
        Ok(outcome) => outcome.expect("watched"),
        Err(_) => panic!("it did not happen"),
    }
}

/// What a node and its pods go through when nobody renews the Lease: here in
/// fractions of seconds, all of it through the API.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_loses_its_pods() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = ApiServer::open(Config::new(directory.path().into()))
        .await
        .expect("the server opens");
    let client = Client::new(server.service(UserInfo::admin()), "default");
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    let account = serde_json::from_value(json!({ "metadata": { "name": "default" } }));
    let parameters = PostParams::default();
    accounts
        .create(&parameters, &account.expect("an account"))
        .await
        .expect("an account");
    let nodes: Api<Node> = Api::all(client.clone());
    let new: Node = serde_json::from_value(json!({ "metadata": { "name": "a" } })).expect("a node");
    nodes.create(&parameters, &new).await.expect("a node");
    let status = Patch::Merge(json!({ "status": { "conditions": is_ready("True") } }));
    nodes
        .patch_status("a", &PatchParams::default(), &status)
        .await
        .expect("it is ready");
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for (name, node, seconds) in [
        ("hasty", "a", 0),
        ("patient", "a", 3600),
        ("lost", "b", 3600),
    ] {
        let tolerations: Vec<Value> = ["unreachable", "not-ready"]
            .iter()
            .map(|key| {
                json!({ "key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
                    "effect": "NoExecute", "tolerationSeconds": seconds })
            })
            .collect();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "tolerations": tolerations,
                "containers": [{ "name": "c", "image": "i" }] },
        }))
        .expect("a pod");
        pods.create(&parameters, &pod).await.expect("a pod");
        let status = Patch::Merge(json!({ "status": { "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }] } }));
        pods.patch_status(name, &PatchParams::default(), &status)
            .await
            .expect("it runs");
    }
    let little = Duration::from_millis(200);
    let running = tokio::spawn(run_with(
        client.clone(),
        Timing {
            grace: little,
            startup: little,
            quarantine: little,
        },
    ));
    let keys = |node: &Node| -> Vec<String> {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        let taints = taints.into_iter().flatten();
        taints
            .map(|taint| format!("{}:{}", taint.key, taint.effect))
            .collect()
    };
    let is_tainted = |node: Option<&Node>| {
        node.is_some_and(|node| {
            keys(node)
                == [
                    "node.kubernetes.io/unreachable:NoSchedule",
                    "node.kubernetes.io/unreachable:NoExecute",
                ]
        })
    };
    soon(await_condition(nodes.clone(), "a", is_tainted)).await;
    let going =
        |pod: Option<&Pod>| pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
    let hasty = soon(await_condition(pods.clone(), "hasty", going)).await;
    let conditions = hasty.and_then(|pod| pod.status?.conditions).expect("some");
    assert!(conditions.iter().any(|one| one.type_ == "DisruptionTarget"));
    assert!(
        conditions
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "False")
    );
    let is_gone = |pod: Option<&Pod>| pod.is_none();
    soon(await_condition(pods.clone(), "lost", is_gone)).await;
    let patient = pods.get("patient").await.expect("it stays");
    assert!(patient.metadata.deletion_timestamp.is_none());
    running.abort();
}
