//! The scheduler against a real API server in this process, with nodes that
//! are objects only.

use std::time::Duration;

use dhow_apiserver::{ApiServer, Config, UserInfo};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    _directory: tempfile::TempDir,
    _server: ApiServer,
    client: Client,
    scheduler: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = ApiServer::open(Config::new(directory.path().into()))
            .await
            .expect("the server opens");
        let client = Client::new(server.service(UserInfo::admin()), "default");
        // Pods need an account, and no controller runs here.
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::default_namespaced(client.clone());
        let account = serde_json::from_value(json!({ "metadata": { "name": "default" } }))
            .expect("an account");
        accounts
            .create(&PostParams::default(), &account)
            .await
            .expect("an account");
        let user = UserInfo::new("system:kube-scheduler", &[]);
        let scheduler = tokio::spawn(dhow_scheduler::run(Client::new(
            server.service(user),
            "default",
        )));
        Self {
            _directory: directory,
            _server: server,
            client,
            scheduler,
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    async fn node(&self, name: &str, cpu: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a node");
        nodes
            .create(&PostParams::default(), &node)
            .await
            .expect("created");
        let status =
            json!({ "status": { "allocatable": { "cpu": cpu, "memory": "4Gi", "pods": "10" } } });
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("it has room");
    }

    async fn pod(&self, name: &str, cpu: &str, more: Value) {
        let mut spec = json!({ "containers": [{ "name": "c", "image": "i", "resources": { "requests": { "cpu": cpu } } }] });
        for (key, value) in more.as_object().expect("fields") {
            spec[key] = value.clone();
        }
        let pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec }))
            .expect("a pod");
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .expect("created");
    }

    /// Looks again whenever a pod or an event changes, until `done`.
    async fn until<T>(&self, done: impl Fn(&[Pod], &[Event]) -> Option<T>) -> T {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let all = watcher::Config::default;
        let mut changes = futures_util::stream::select(
            // The end of a watch's own list counts as well: what changed
            // before it is told by nothing else.
            watcher(self.pods(), all()).map(|_| ()).boxed(),
            watcher(events.clone(), all()).map(|_| ()).boxed(),
        );
        let mut last = Vec::new();
        let looking = async {
            loop {
                let everything = ListParams::default();
                last = self.pods().list(&everything).await.expect("listed").items;
                let told = events.list(&everything).await.expect("listed").items;
                if let Some(found) = done(&last, &told) {
                    return found;
                }
                changes.next().await.expect("the watch goes on");
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(found) => found,
            Err(_) => panic!("it did not happen; last seen: {last:#?}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.scheduler.abort();
    }
}

fn place(pods: &[Pod], name: &str) -> Option<String> {
    pods.iter()
        .find(|pod| pod.name_any() == name)?
        .spec
        .as_ref()?
        .node_name
        .clone()
}

fn told(events: &[Event], reason: &str) -> Vec<String> {
    events
        .iter()
        .filter(|event| event.reason.as_deref() == Some(reason))
        .filter_map(|event| event.message.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_bound_and_told_of() {
    let cluster = Cluster::new().await;
    cluster.node("a", "1").await;
    cluster.node("b", "1").await;
    for name in ["one", "two"] {
        cluster.pod(name, "600m", json!({})).await;
    }
    let mut places = cluster
        .until(|pods, _| Some([place(pods, "one")?, place(pods, "two")?]))
        .await;
    places.sort();
    assert_eq!(places, ["a", "b"], "each has room for one");
    let messages = cluster
        .until(|_, events| {
            let messages = told(events, "Scheduled");
            (messages.len() == 2).then_some(messages)
        })
        .await;
    assert!(
        messages.contains(&"Successfully assigned default/one to a".to_owned())
            || messages.contains(&"Successfully assigned default/one to b".to_owned())
    );

    // A third one has no room, which is told; a new node takes it.
    cluster.pod("three", "600m", json!({})).await;
    let condition = cluster
        .until(|pods, events| {
            let pod = pods.iter().find(|pod| pod.name_any() == "three")?;
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            let condition = conditions.iter().find(|one| one.type_ == "PodScheduled")?;
            let messages = told(events, "FailedScheduling");
            (messages.first() == condition.message.as_ref()).then(|| condition.clone())
        })
        .await;
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_deref()),
        ("False", Some("Unschedulable"))
    );
    assert_eq!(
        condition.message.as_deref(),
        Some(
            "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
        )
    );
    cluster.node("c", "1").await;
    let at = cluster.until(|pods, _| place(pods, "three")).await;
    assert_eq!(at, "c");

    // One that is gone makes room as well.
    cluster.pod("four", "600m", json!({})).await;
    cluster
        .until(|_, events| (told(events, "FailedScheduling").len() >= 2).then_some(()))
        .await;
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    cluster.pods().delete("three", &now).await.expect("deleted");
    let at = cluster.until(|pods, _| place(pods, "four")).await;
    assert_eq!(at, "c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_and_other_schedulers_are_respected() {
    let cluster = Cluster::new().await;
    cluster.node("a", "4").await;
    cluster
        .pod(
            "gated",
            "1",
            json!({ "schedulingGates": [{ "name": "wait" }] }),
        )
        .await;
    cluster
        .pod("foreign", "1", json!({ "schedulerName": "other" }))
        .await;
    cluster.pod("plain", "1", json!({})).await;
    cluster.until(|pods, _| place(pods, "plain")).await;
    let pods = cluster
        .pods()
        .list(&ListParams::default())
        .await
        .expect("listed")
        .items;
    assert_eq!(place(&pods, "gated"), None);
    assert_eq!(place(&pods, "foreign"), None);
    let open = json!({ "spec": { "schedulingGates": null } });
    cluster
        .pods()
        .patch("gated", &PatchParams::default(), &Patch::Merge(open))
        .await
        .expect("opened");
    cluster.until(|pods, _| place(pods, "gated")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_higher_pod_sends_a_lower_one_away() {
    let cluster = Cluster::new().await;
    cluster.node("a", "1").await;
    let classes: Api<PriorityClass> = Api::all(cluster.client.clone());
    let class = json!({ "metadata": { "name": "high" }, "value": 10 });
    let class = serde_json::from_value(class).expect("a class");
    classes
        .create(&PostParams::default(), &class)
        .await
        .expect("created");
    cluster.pod("low", "800m", json!({})).await;
    cluster.until(|pods, _| place(pods, "low")).await;
    cluster
        .pod("high", "800m", json!({ "priorityClassName": "high" }))
        .await;
    let low = cluster
        .until(|pods, _| {
            let low = pods.iter().find(|pod| pod.name_any() == "low")?;
            low.metadata.deletion_timestamp.as_ref()?;
            let high = pods.iter().find(|pod| pod.name_any() == "high")?;
            let nominated = high.status.as_ref()?.nominated_node_name.as_deref();
            (nominated == Some("a")).then(|| low.clone())
        })
        .await;
    let conditions = low.status.and_then(|status| status.conditions);
    assert!(
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "DisruptionTarget")
    );
    // The kubelet ends it.
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    cluster.pods().delete("low", &now).await.expect("ended");
    let at = cluster.until(|pods, _| place(pods, "high")).await;
    assert_eq!(at, "a");
    let preempted = cluster
        .until(|_, events| told(events, "Preempted").first().cloned())
        .await;
    assert!(preempted.starts_with("Preempted by pod "), "{preempted}");
}
