//! The agent against a real API server in this process and a machine in
//! memory.

mod machine;
mod pods;
mod surroundings;

use std::sync::Arc;
use std::time::Duration;

use dhow_apiserver::{ApiServer, UserInfo};
use dhow_node::{Agent, Capacity, Config};
use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use machine::Machine;

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    directory: tempfile::TempDir,
    _server: ApiServer,
    /// The administrator's.
    client: Client,
    nodes: Client,
    machine: Arc<Machine>,
    agent: Option<(Arc<Agent>, oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Cluster {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = dhow_apiserver::Config::new(directory.path().join("api"));
        let server = ApiServer::open(config).await.expect("the server opens");
        let client = Client::new(server.service(UserInfo::admin()), "default");
        let user = UserInfo::new("system:node:one", &["system:nodes", "system:authenticated"]);
        let nodes = Client::new(server.service(user), "default");
        let mut cluster = Self {
            directory,
            _server: server,
            client,
            nodes,
            machine: Arc::new(Machine::new()),
            agent: None,
        };
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("an account");
        let accounts: Api<ServiceAccount> = cluster.api();
        accounts
            .create(&PostParams::default(), &account)
            .await
            .expect("created");
        let root = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "a root"}});
        cluster.create::<ConfigMap>(root).await;
        cluster.start_agent();
        cluster
    }

    fn start_agent(&mut self) {
        let config = Config {
            name: "one".to_owned(),
            directory: self.directory.path().join("node"),
            addresses: vec!["192.0.2.1".parse().expect("an address")],
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
            capacity: Capacity {
                cpu: 2000,
                memory: 1 << 30,
                ephemeral_storage: 1 << 30,
                pods: 20,
            },
            ..Config::default()
        };
        let runtime = Arc::clone(&self.machine);
        let agent = Arc::new(Agent::new(self.nodes.clone(), runtime, config));
        let (stop, stopped) = oneshot::channel::<()>();
        let running = Arc::clone(&agent);
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            running.run(shutdown).await.expect("it runs once");
        });
        self.agent = Some((agent, stop, task));
    }

    async fn stop_agent(&mut self) {
        let (_, stop, task) = self.agent.take().expect("an agent");
        stop.send(()).expect("it runs");
        task.await.expect("it stops");
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::default_namespaced(self.client.clone())
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let object = serde_json::from_value(object).expect("an object");
        let api: Api<K> = self.api();
        api.create(&PostParams::default(), &object)
            .await
            .expect("created")
    }

    async fn pod(&self, spec: Value) -> Pod {
        self.named_pod("pod", spec).await
    }

    async fn named_pod(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = "one".into();
        let pod = json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": spec});
        self.create(pod).await
    }

    /// Looks again whenever an object of this kind changes, until `done`.
    async fn until<K, T>(&self, api: Api<K>, done: impl Fn(&[K]) -> Option<T>) -> T
    where
        K: Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + 'static,
    {
        let changes = watcher(api.clone(), watcher::Config::default()).touched_objects();
        let mut changes = std::pin::pin!(changes);
        let mut last = Vec::new();
        let looking = async {
            loop {
                last = api
                    .list(&ListParams::default())
                    .await
                    .expect("listed")
                    .items;
                if let Some(found) = done(&last) {
                    return found;
                }
                changes
                    .next()
                    .await
                    .expect("the watch goes on")
                    .expect("the watch works");
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(found) => found,
            Err(_) => panic!("it did not happen; last seen: {last:#?}"),
        }
    }

    /// Waits for a pod's status, as JSON, to be so.
    async fn status(&self, name: &str, done: impl Fn(&Value) -> bool) -> Value {
        self.until(self.api::<Pod>(), |pods| {
            let pod = pods.iter().find(|pod| pod.name_any() == name)?;
            let status = json!(pod.status);
            done(&status).then_some(status)
        })
        .await
    }

    async fn ready(&self, name: &str) -> Value {
        self.status(name, |status| {
            condition(status, "Ready").is_some_and(|ready| ready["status"] == "True")
        })
        .await
    }

    async fn event(&self, reason: &str) -> String {
        self.until(self.api::<Event>(), |events| {
            let mut events = events.iter();
            let event = events.find(|event| event.reason.as_deref() == Some(reason))?;
            event.message.clone()
        })
        .await
    }

    async fn delete(&self, name: &str) {
        let pods: Api<Pod> = self.api();
        pods.delete(name, &DeleteParams::default())
            .await
            .expect("deleted");
    }

    async fn gone(&self, name: &str) {
        self.until(self.api::<Pod>(), |pods| {
            let any = pods.iter().any(|pod| pod.name_any() == name);
            (!any).then_some(())
        })
        .await;
    }
}

fn condition<'v>(status: &'v Value, name: &str) -> Option<&'v Value> {
    let mut conditions = status["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == name)
}

fn one(command: &[&str]) -> Value {
    json!({"containers": [{"name": "c", "image": "image:1", "command": command}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_registers_and_comes_back() {
    let cluster = Cluster::new().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let ready = |nodes: &[Node]| {
        let node = nodes.first()?;
        let status = json!(node.status);
        let ready = condition(&status, "Ready")?;
        (ready["status"] == "True").then(|| (node.clone(), status.clone()))
    };
    let (node, status) = cluster.until(nodes.clone(), ready).await;
    assert_eq!(node.labels()["kubernetes.io/hostname"], "one");
    assert_eq!(status["capacity"]["cpu"], "2");
    assert_eq!(status["addresses"][0]["address"], "192.0.2.1");
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = cluster
        .until(leases, |leases| leases.first().cloned())
        .await;
    let spec = lease.spec.as_ref().expect("a spec");
    assert_eq!(spec.lease_duration_seconds, Some(40));
    assert_eq!(lease.owner_references()[0].kind, "Node");
    nodes
        .delete("one", &DeleteParams::default())
        .await
        .expect("deleted");
    let (again, _) = cluster
        .until(nodes, |nodes| {
            ready(nodes).filter(|(new, _)| new.uid() != node.uid())
        })
        .await;
    assert_ne!(again.uid(), node.uid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_and_leaves_nothing() {
    let cluster = Cluster::new().await;
    let pod = cluster.pod(one(&[])).await;
    let status = cluster.ready("pod").await;
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "127.0.0.1");
    assert_eq!(status["hostIP"], "192.0.2.1");
    let container = &status["containerStatuses"][0];
    assert_eq!(container["restartCount"], 0);
    assert_eq!(container["imageID"], "sha256:image:1");
    assert!(
        container["containerID"]
            .as_str()
            .expect("text")
            .starts_with("dhow://")
    );
    let (agent, ..) = cluster.agent.as_ref().expect("an agent");
    let known = agent.pod("default", "pod").expect("it is known");
    assert_eq!(known.pod.uid(), pod.uid());
    assert!(known.container("c").is_some() && known.previous("c").is_none());
    let (_, config) = cluster.machine.container("c").expect("a container");
    let env: std::collections::BTreeMap<_, _> = config.env.into_iter().collect();
    assert!(env.contains_key("KUBERNETES_SERVICE_HOST"), "{env:?}");
    let hosts = cluster.machine.mount("c", "/etc/hosts").expect("mounted");
    let hosts = std::fs::read_to_string(hosts).expect("a file");
    assert!(hosts.contains("127.0.0.1\tpod\n"), "{hosts}");
    cluster.delete("pod").await;
    cluster.gone("pod").await;
    assert_eq!(cluster.machine.n_sandboxes(), 0);
    assert_eq!(cluster.machine.n_containers(), 0);
    let folder = cluster.directory.path().join("node/pods");
    assert_eq!(std::fs::read_dir(folder).expect("a folder").count(), 0);
    cluster.event("Killing").await;
}
