//! The API through `kube`, in one process, without a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dhow_apiserver::{ApiServer, Config, UserInfo};
use dhow_store::{
    Batch, Done, Embedded, KeyValue, Listing, Options, Range, Store, StoreError, Txn, Watch,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Api, Client};
use serde_json::json;

struct Fixture {
    _directory: tempfile::TempDir,
    server: ApiServer,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = ApiServer::open(Config::new(directory.path().to_owned()))
            .await
            .expect("the server opens");
        Self {
            _directory: directory,
            server,
        }
    }

    fn client(&self) -> Client {
        Client::new(self.server.service(UserInfo::admin()), "default")
    }
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"n": name}},
        "data": {"a": "1"}}))
    .expect("a config map")
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("it happens within ten seconds")
}

#[tokio::test]
async fn objects_come_and_go() {
    let fixture = Fixture::new().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let created = maps
        .create(&PostParams::default(), &config_map("a"))
        .await
        .expect("created");
    assert!(created.metadata.uid.is_some());
    let again = maps.create(&PostParams::default(), &config_map("a")).await;
    let Err(kube::Error::Api(status)) = again else {
        panic!("a name is taken once: {again:?}");
    };
    assert_eq!(status.message, "configmaps \"a\" already exists");
    assert_eq!((status.code, &*status.reason), (409, "AlreadyExists"));

    let mut stale = created.clone();
    let patch = json!({"data": {"b": "2"}});
    let patched = maps
        .patch("a", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .expect("patched");
    assert_eq!(patched.data.as_ref().map(|data| data.len()), Some(2));
    stale.data = None;
    let Err(kube::Error::Api(status)) = maps.replace("a", &PostParams::default(), &stale).await
    else {
        panic!("a stale version is refused");
    };
    assert_eq!(
        status.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let list = maps
        .list(&ListParams::default().labels("n=a"))
        .await
        .expect("listed");
    assert_eq!(list.items.len(), 1);
    maps.delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    assert!(maps.get_opt("a").await.expect("asked").is_none());
}

#[tokio::test]
async fn watches_tell_every_change() {
    let fixture = Fixture::new().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let start = maps.list(&ListParams::default()).await.expect("listed");
    let version = start.metadata.resource_version.expect("lists have one");
    let mut watch = maps
        .watch(&WatchParams::default().labels("n=a"), &version)
        .await
        .expect("watching")
        .boxed();
    let parameters = PostParams::default();
    maps.create(&parameters, &config_map("b"))
        .await
        .expect("created");
    maps.create(&parameters, &config_map("a"))
        .await
        .expect("created");
    let patch = Patch::Merge(json!({"data": {"a": "2"}}));
    maps.patch("a", &PatchParams::default(), &patch)
        .await
        .expect("patched");
    let leave = Patch::Merge(json!({"metadata": {"labels": {"n": "z"}}}));
    maps.patch("a", &PatchParams::default(), &leave)
        .await
        .expect("patched");
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        let event = soon(watch.try_next()).await.expect("a line").expect("more");
        kinds.push(match event {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            other => panic!("unexpected {other:?}"),
        });
    }
    assert_eq!(kinds, ["added", "modified", "deleted"]);
}

#[tokio::test]
async fn lists_come_in_pages_of_one_moment() {
    let fixture = Fixture::new().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    for n in 0..5 {
        let map = config_map(&format!("m{n}"));
        maps.create(&PostParams::default(), &map)
            .await
            .expect("created");
    }
    let first = maps
        .list(&ListParams::default().limit(2))
        .await
        .expect("listed");
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    // What happens between the pages is not in them.
    maps.delete("m4", &DeleteParams::default())
        .await
        .expect("deleted");
    let mut names: Vec<String> = first
        .items
        .iter()
        .filter_map(|map| map.metadata.name.clone())
        .collect();
    let mut token = first.metadata.continue_;
    while let Some(next) = token.filter(|token| !token.is_empty()) {
        let page = maps
            .list(&ListParams::default().limit(2).continue_token(&next))
            .await
            .expect("listed");
        names.extend(
            page.items
                .iter()
                .filter_map(|map| map.metadata.name.clone()),
        );
        token = page.metadata.continue_;
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn objects_get_defaults_and_are_checked() {
    let fixture = Fixture::new().await;
    let client = fixture.client();
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}}))
    .expect("a deployment");
    let created = deployments
        .create(&PostParams::default(), &deployment)
        .await
        .expect("created");
    let spec = created.spec;
    assert_eq!(spec.replicas, Some(1));
    assert_eq!(created.metadata.generation, Some(1));

    let mut wrong = deployment.clone();
    wrong.metadata.name = Some("wrong".to_owned());
    wrong.spec.template.metadata = None;
    let Err(kube::Error::Api(status)) = deployments.create(&PostParams::default(), &wrong).await
    else {
        panic!("labels must match");
    };
    assert_eq!(
        status.message,
        "Deployment.apps \"wrong\" is invalid: spec.template.metadata.labels: Invalid value: map[string]string(nil): `selector` does not match template `labels`"
    );

    let pods: Api<Pod> = Api::namespaced(client.clone(), "nowhere");
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}))
    .expect("a pod");
    let Err(kube::Error::Api(status)) = pods.create(&PostParams::default(), &pod).await else {
        panic!("there is no such namespace");
    };
    assert_eq!(status.message, "namespaces \"nowhere\" not found");
}

#[tokio::test]
async fn pods_go_with_grace() {
    let fixture = Fixture::new().await;
    let client = fixture.client();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    let account =
        serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("an account");
    accounts
        .create(&PostParams::default(), &account)
        .await
        .expect("created");
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod: Pod = serde_json::from_value(json!({"metadata": {"generateName": "p-"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}))
    .expect("a pod");
    let pod = pods
        .create(&PostParams::default(), &pod)
        .await
        .expect("created");
    let name = pod.metadata.name.expect("a name is generated");
    assert!(name.starts_with("p-") && name.len() == 7, "{name}");
    let spec = pod.spec.expect("a spec");
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert_eq!(spec.tolerations.map(|t| t.len()), Some(2));
    pods.delete(&name, &DeleteParams::default())
        .await
        .expect("deleted");
    let going = pods.get(&name).await.expect("still there");
    assert_eq!(going.metadata.deletion_grace_period_seconds, Some(30));
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    pods.delete(&name, &now).await.expect("deleted");
    assert!(pods.get_opt(&name).await.expect("asked").is_none());
}

#[tokio::test]
async fn finalizers_hold_objects() {
    let fixture = Fixture::new().await;
    let client = fixture.client();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut map = config_map("held");
    map.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    maps.create(&PostParams::default(), &map)
        .await
        .expect("created");
    maps.delete("held", &DeleteParams::default())
        .await
        .expect("marked");
    let held = maps.get("held").await.expect("held");
    assert!(held.metadata.deletion_timestamp.is_some());
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &PatchParams::default(), &release)
        .await
        .expect("released");
    assert!(maps.get_opt("held").await.expect("asked").is_none());

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let space =
        serde_json::from_value(json!({"metadata": {"name": "going"}})).expect("a namespace");
    namespaces
        .create(&PostParams::default(), &space)
        .await
        .expect("created");
    namespaces
        .delete("going", &DeleteParams::default())
        .await
        .expect("marked");
    let maps: Api<ConfigMap> = Api::namespaced(client, "going");
    let Err(kube::Error::Api(status)) = maps
        .create(&PostParams::default(), &config_map("late"))
        .await
    else {
        panic!("nothing new in a namespace on its way out");
    };
    assert_eq!(
        status.message,
        "configmaps \"late\" is forbidden: unable to create new content in namespace going because it is being terminated"
    );
}

/// A Service that waits for a finalizer goes by a change, not by the deletion;
/// its address is free again all the same.
#[tokio::test]
async fn a_service_gives_its_address_back_when_its_last_finalizer_goes() {
    let fixture = Fixture::new().await;
    let services: Api<k8s_openapi::api::core::v1::Service> =
        Api::default_namespaced(fixture.client());
    let service = |name: &str, address: Option<&str>| {
        serde_json::from_value(json!({
            "metadata": { "name": name, "finalizers": ["example.com/hold"] },
            "spec": { "clusterIP": address, "ports": [{ "port": 80 }] },
        }))
        .expect("a service")
    };
    let made = services
        .create(&PostParams::default(), &service("a", None))
        .await
        .expect("created");
    let address = made.spec.and_then(|spec| spec.cluster_ip).expect("one");
    services
        .delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    services
        .patch("a", &PatchParams::default(), &release)
        .await
        .expect("released");
    services
        .create(&PostParams::default(), &service("b", Some(&address)))
        .await
        .expect("the address is free");
}

/// A store whose watches fall behind when they are told to.
struct Forgetful {
    store: Embedded,
    falls_behind: Arc<AtomicBool>,
}

struct FallingBehind {
    watch: Box<dyn Watch>,
    falls_behind: Arc<AtomicBool>,
}

impl Watch for FallingBehind {
    fn next(&mut self, timeout: Duration) -> Result<Batch, StoreError> {
        let batch = self.watch.next(timeout)?;
        // What was just read is lost with the watch.
        if !batch.events.is_empty() && self.falls_behind.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Compacted {
                compacted: batch.revision,
            });
        }
        Ok(batch)
    }
}

impl Store for Forgetful {
    fn revision(&self) -> u64 {
        self.store.revision()
    }
    fn get(&self, key: &str, revision: Option<u64>) -> Result<Option<KeyValue>, StoreError> {
        self.store.get(key, revision)
    }
    fn range(&self, range: &Range) -> Result<Listing, StoreError> {
        self.store.range(range)
    }
    fn submit(&self, txn: Txn, done: Done) {
        self.store.submit(txn, done);
    }
    fn watch(&self, prefix: &str, from: u64) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(FallingBehind {
            watch: self.store.watch(prefix, from)?,
            falls_behind: self.falls_behind.clone(),
        }))
    }
    fn compact(&self, revision: u64) -> Result<(), StoreError> {
        self.store.compact(revision)
    }
}

/// Keeps from coming back: a cache that lost the store's watch stood still.
#[tokio::test]
async fn a_cache_that_lost_the_store_reads_it_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let falls_behind = Arc::new(AtomicBool::new(false));
    let store = Forgetful {
        store: Embedded::open(&directory.path().join("store"), Options::default())
            .expect("the store opens"),
        falls_behind: falls_behind.clone(),
    };
    let config = Config::new(directory.path().to_owned());
    let server = ApiServer::with_store(config, Arc::new(store))
        .await
        .expect("the server opens");
    let client = Client::new(server.service(UserInfo::admin()), "default");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let before = maps
        .create(&PostParams::default(), &config_map("before"))
        .await
        .expect("created");
    maps.get("before").await.expect("read");
    let version = before.metadata.resource_version.expect("it has one");
    let watch = maps
        .watch(&WatchParams::default(), &version)
        .await
        .expect("watched");
    let mut watch = std::pin::pin!(watch);

    falls_behind.store(true, Ordering::SeqCst);
    maps.create(&PostParams::default(), &config_map("lost"))
        .await
        .expect("created");
    soon(maps.get("lost")).await.expect("a consistent read");
    assert!(
        !falls_behind.load(Ordering::SeqCst),
        "the watch fell behind"
    );
    // Who watched across the gap must list again.
    let told = soon(watch.try_next()).await.expect("the watch works");
    assert!(
        matches!(&told, Some(WatchEvent::Error(status)) if status.code == 410),
        "{told:?}"
    );
    maps.delete("before", &DeleteParams::default())
        .await
        .expect("deleted");
    assert!(soon(maps.get_opt("before")).await.expect("read").is_none());
}

#[tokio::test]
async fn a_pods_priority_is_its_classs() {
    let fixture = Fixture::new().await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(fixture.client());
    let parameters = PostParams::default();
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}}));
    accounts
        .create(&parameters, &account.expect("an account"))
        .await
        .expect("created");
    let pods: Api<Pod> = Api::default_namespaced(fixture.client());
    let pod = |name: &str, class: Option<&str>, priority: Option<i32>| -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
            "priorityClassName": class, "priority": priority,
            "containers": [{"name": "c", "image": "i"}]}}))
        .expect("a pod")
    };
    let plain = pods
        .create(&parameters, &pod("a", None, None))
        .await
        .expect("created");
    let spec = plain.spec.expect("a spec");
    assert_eq!(spec.priority, Some(0));
    assert_eq!(
        spec.preemption_policy.as_deref(),
        Some("PreemptLowerPriority")
    );
    let critical = pod("b", Some("system-node-critical"), None);
    let critical = pods.create(&parameters, &critical).await.expect("created");
    assert_eq!(critical.spec.expect("a spec").priority, Some(2_000_001_000));
    for (refused, why) in [
        (
            pod("c", Some("none"), None),
            "pods \"c\" is forbidden: no PriorityClass with name none was found",
        ),
        (
            pod("d", None, Some(7)),
            "pods \"d\" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name",
        ),
    ] {
        let Err(kube::Error::Api(status)) = pods.create(&parameters, &refused).await else {
            panic!("refused");
        };
        assert_eq!((status.code, status.message.as_str()), (403, why));
    }
}
