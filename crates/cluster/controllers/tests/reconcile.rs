//! The controllers against a real API server in this process.
//!
//! No scheduler and no node runs: the test plays the kubelet by writing pods'
//! statuses.

use std::time::Duration;

use dhow_apiserver::{ApiServer, Config, UserInfo};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    _directory: tempfile::TempDir,
    _server: ApiServer,
    client: Client,
    controllers: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = ApiServer::open(Config::new(directory.path().into()))
            .await
            .expect("the server opens");
        let client = Client::new(server.service(UserInfo::admin()), "default");
        // The controllers may do what their role lets them, and no more.
        let user = UserInfo::new("system:kube-controller-manager", &[]);
        let controllers = tokio::spawn(dhow_controllers::run(
            Client::new(server.service(user), "default"),
            "a root".into(),
        ));
        Self {
            _directory: directory,
            _server: server,
            client,
            controllers,
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::default_namespaced(self.client.clone())
    }

    /// Looks again whenever an object of this kind changes, until `done`.
    async fn until<K, T>(&self, done: impl Fn(&[K]) -> Option<T>) -> T
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + 'static,
    {
        let api: Api<K> = self.api();
        // Every event counts, the end of the watch's own list as well: what
        // changed before it is told by nothing else.
        let changes = watcher(api.clone(), watcher::Config::default());
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

    /// Plays the kubelet: every pod gets an address and is ready.
    fn play_kubelet(&self) -> tokio::task::JoinHandle<()> {
        let pods: Api<Pod> = self.api();
        tokio::spawn(async move {
            let changes = watcher(pods.clone(), watcher::Config::default()).applied_objects();
            let mut changes = std::pin::pin!(changes);
            let mut number = 1;
            while let Ok(Some(pod)) = changes.try_next().await {
                let is_new = pod
                    .status
                    .as_ref()
                    .is_none_or(|status| status.pod_ip.is_none());
                if !is_new {
                    continue;
                }
                number += 1;
                let status = json!({ "status": {
                    "phase": "Running",
                    "podIP": format!("10.1.0.{number}"),
                    "conditions": [{ "type": "Ready", "status": "True" }],
                }});
                // A pod that is gone meanwhile needs no status.
                let _ = pods
                    .patch_status(
                        &pod.name_any(),
                        &PatchParams::default(),
                        &Patch::Merge(status),
                    )
                    .await;
            }
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.controllers.abort();
    }
}

fn deployment(image: &str, replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "web", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            },
        },
    }))
    .expect("a deployment")
}

fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas;
    let status = deployment.status.clone().unwrap_or_default();
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == wanted
        && status.available_replicas == wanted
        && status.replicas == wanted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_heals_and_moves_on() {
    let cluster = Cluster::new().await;
    cluster
        .until(|accounts: &[ServiceAccount]| (!accounts.is_empty()).then_some(()))
        .await;
    let kubelet = cluster.play_kubelet();
    let deployments: Api<Deployment> = cluster.api();
    deployments
        .create(&PostParams::default(), &deployment("one", 3))
        .await
        .expect("created");
    let rolled_out = |all: &[Deployment]| all.first().filter(|one| is_rolled_out(one)).cloned();
    let first = cluster.until(rolled_out).await;
    let conditions = first
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    assert!(conditions.iter().any(|c| c.type_.as_deref() == Some("Available") && c.status.as_deref() == Some("True")));
    assert!(
        conditions
            .iter()
            .any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"))
    );

    // A pod that is taken away comes back.
    let pods: Api<Pod> = cluster.api();
    let list = pods.list(&ListParams::default()).await.expect("pods").items;
    assert_eq!(list.len(), 3);
    let doomed = list[0].name_any();
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    pods.delete(&doomed, &now).await.expect("deleted");
    cluster
        .until(|pods: &[Pod]| {
            let others = pods.iter().filter(|pod| pod.name_any() != doomed).count();
            (others == 3).then_some(())
        })
        .await;
    cluster.until(rolled_out).await;

    // Scaled, then moved to another image: never too many, never too few.
    let patch = json!({ "spec": { "replicas": 6 } });
    deployments
        .patch("web", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .expect("scaled");
    cluster.until(rolled_out).await;
    let patch = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "web", "image": "two" }] } } } });
    deployments
        .patch("web", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .expect("moved on");
    let second = cluster.until(rolled_out).await;
    assert_eq!(
        second.annotations()["deployment.kubernetes.io/revision"],
        "2"
    );
    let sets: Api<ReplicaSet> = cluster.api();
    let sets = sets.list(&ListParams::default()).await.expect("sets").items;
    let wanted: Vec<Option<i32>> = sets.iter().map(|set| set.spec.replicas).collect();
    assert_eq!(sets.len(), 2, "the old one is kept for going back");
    assert!(
        wanted.contains(&Some(0)) && wanted.contains(&Some(6)),
        "{wanted:?}"
    );
    kubelet.abort();
}

fn of_web(slice: &EndpointSlice) -> bool {
    slice
        .labels()
        .get("kubernetes.io/service-name")
        .is_some_and(|name| name == "web")
}

fn is_p(endpoint: &Endpoint) -> bool {
    endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.name.as_deref())
        == Some("p")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_knows_its_pods() {
    let cluster = Cluster::new().await;
    cluster
        .until(|accounts: &[ServiceAccount]| (!accounts.is_empty()).then_some(()))
        .await;
    cluster
        .until(|maps: &[ConfigMap]| {
            let map = maps
                .iter()
                .find(|map| map.name_any() == "kube-root-ca.crt")?;
            (map.data.as_ref()?.get("ca.crt")? == "a root").then_some(())
        })
        .await;
    let kubelet = cluster.play_kubelet();
    let services: Api<Service> = cluster.api();
    let service = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
    }))
    .expect("a service");
    services
        .create(&PostParams::default(), &service)
        .await
        .expect("created");
    let deployments: Api<Deployment> = cluster.api();
    deployments
        .create(&PostParams::default(), &deployment("one", 2))
        .await
        .expect("created");
    let slice = cluster
        .until(|slices: &[EndpointSlice]| {
            let slice = slices.iter().find(|slice| of_web(slice))?;
            let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
                endpoint
                    .conditions
                    .as_ref()
                    .and_then(|conditions| conditions.ready)
                    == Some(true)
            });
            (ready.count() == 2).then(|| slice.clone())
        })
        .await;
    assert_eq!(
        slice.ports.as_ref().expect("ports")[0].port,
        Some(8080),
        "by its name"
    );
    let addresses = |all: &[Endpoints]| {
        let endpoints = all.iter().find(|one| one.name_any() == "web")?;
        let subset = endpoints.subsets.as_ref()?.first()?.clone();
        (subset.addresses.as_ref()?.len() == 2).then_some(subset)
    };
    let subset = cluster.until(addresses).await;
    assert_eq!(subset.ports.expect("ports")[0].port, 8080);
    let patch = json!({ "spec": { "replicas": 0 } });
    deployments
        .patch("web", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .expect("scaled");
    cluster
        .until(|slices: &[EndpointSlice]| {
            let ready = slices
                .iter()
                .filter(|slice| of_web(slice))
                .flat_map(|slice| slice.endpoints.iter().flatten())
                .any(|endpoint| {
                    endpoint
                        .conditions
                        .as_ref()
                        .and_then(|conditions| conditions.ready)
                        == Some(true)
                });
            (!ready).then_some(())
        })
        .await;
    let none = |all: &[Endpoints]| {
        let endpoints = all.iter().find(|one| one.name_any() == "web")?;
        endpoints.subsets.is_none().then_some(())
    };
    cluster.until(none).await;

    // A pod that no longer has the labels no longer stands behind it.
    let pods: Api<Pod> = cluster.api();
    let pod = serde_json::from_value(json!({
        "metadata": { "name": "p", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    }))
    .expect("a pod");
    pods.create(&PostParams::default(), &pod)
        .await
        .expect("created");
    cluster
        .until(|slices: &[EndpointSlice]| {
            let mut endpoints = slices
                .iter()
                .flat_map(|slice| slice.endpoints.iter().flatten());
            endpoints.any(is_p).then_some(())
        })
        .await;
    let patch = json!({ "metadata": { "labels": { "app": "other" } } });
    pods.patch("p", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .expect("relabeled");
    cluster
        .until(|slices: &[EndpointSlice]| {
            let mut endpoints = slices
                .iter()
                .flat_map(|slice| slice.endpoints.iter().flatten());
            (!endpoints.any(is_p)).then_some(())
        })
        .await;

    // All of it goes with the Service.
    services
        .delete("web", &DeleteParams::default())
        .await
        .expect("deleted");
    cluster
        .until(|slices: &[EndpointSlice]| (!slices.iter().any(of_web)).then_some(()))
        .await;
    let endpoints: Api<Endpoints> = cluster.api();
    gone(endpoints, "web").await;
    kubelet.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_when_its_pods_are_gone() {
    let cluster = Cluster::new().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace =
        serde_json::from_value(json!({ "metadata": { "name": "away" } })).expect("a namespace");
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .expect("created");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "away");
    let map = serde_json::from_value(json!({ "metadata": { "name": "a" } })).expect("a map");
    maps.create(&PostParams::default(), &map)
        .await
        .expect("created");
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "away");
    tokio::time::timeout(
        PATIENCE,
        kube::runtime::wait::await_condition(accounts, "default", |a: Option<&ServiceAccount>| {
            a.is_some()
        }),
    )
    .await
    .expect("in time")
    .expect("an account");
    // A pod on a node goes with grace: it is the kubelet that ends it.
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "away");
    let pod = serde_json::from_value(json!({
        "metadata": { "name": "p" },
        "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "i" }] },
    }))
    .expect("a pod");
    pods.create(&PostParams::default(), &pod)
        .await
        .expect("created");
    namespaces
        .delete("away", &DeleteParams::default())
        .await
        .expect("deleted");
    let remains = |namespace: Option<&Namespace>| {
        namespace
            .and_then(|namespace| namespace.status.as_ref()?.conditions.as_ref())
            .is_some_and(|conditions| {
                conditions.iter().any(|condition| {
                    condition.type_ == "NamespaceContentRemaining"
                        && condition.status == "True"
                        && condition.message.as_deref()
                            == Some("Some resources are remaining: pods. has 1 resource instances")
                })
            })
    };
    tokio::time::timeout(
        PATIENCE,
        kube::runtime::wait::await_condition(namespaces.clone(), "away", remains),
    )
    .await
    .expect("in time")
    .expect("it waits for the pod");
    assert!(
        maps.get_opt("a").await.expect("asked").is_some(),
        "pods go first"
    );
    let refused = maps
        .create(
            &PostParams::default(),
            &serde_json::from_value(json!({ "metadata": { "name": "b" } })).expect("a map"),
        )
        .await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    let uid = namespaces.get("away").await.expect("there").uid();
    pods.delete(
        "p",
        &DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        },
    )
    .await
    .expect("ended");
    tokio::time::timeout(
        PATIENCE,
        kube::runtime::wait::await_condition(
            namespaces,
            "away",
            kube::runtime::conditions::is_deleted(&uid.expect("a uid")),
        ),
    )
    .await
    .expect("in time")
    .expect("gone");
    assert!(maps.get_opt("a").await.expect("asked").is_none());
}

/// Waits until an object of this name is gone.
async fn gone<K>(api: Api<K>, name: &str)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let condition =
        kube::runtime::wait::await_condition(api, name, |object: Option<&K>| object.is_none());
    tokio::time::timeout(PATIENCE, condition)
        .await
        .unwrap_or_else(|_| panic!("{name} does not go"))
        .expect("watched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_owned_follows_its_owner() {
    let cluster = Cluster::new().await;
    cluster
        .until(|accounts: &[ServiceAccount]| (!accounts.is_empty()).then_some(()))
        .await;
    let deployments: Api<Deployment> = cluster.api();
    let made = |pods: &[Pod]| (pods.len() == 2).then_some(());
    let empty = |pods: &[Pod]| pods.is_empty().then_some(());

    // In the background: the owner at once, the others after it.
    deployments
        .create(&PostParams::default(), &deployment("one", 2))
        .await
        .expect("created");
    cluster.until(made).await;
    deployments
        .delete("web", &DeleteParams::background())
        .await
        .expect("deleted");
    cluster.until(empty).await;
    cluster
        .until(|sets: &[ReplicaSet]| sets.is_empty().then_some(()))
        .await;

    // In the foreground: the owner after the others.
    deployments
        .create(&PostParams::default(), &deployment("one", 2))
        .await
        .expect("created");
    cluster.until(made).await;
    deployments
        .delete("web", &DeleteParams::foreground())
        .await
        .expect("deleted");
    gone(deployments.clone(), "web").await;
    // Dependents that the collector had not heard of yet go after it.
    cluster.until(empty).await;
    cluster
        .until(|sets: &[ReplicaSet]| sets.is_empty().then_some(()))
        .await;

    // Orphans stay, without an owner.
    deployments
        .create(&PostParams::default(), &deployment("one", 2))
        .await
        .expect("created");
    cluster.until(made).await;
    deployments
        .delete("web", &DeleteParams::orphan())
        .await
        .expect("deleted");
    gone(deployments, "web").await;
    let set = cluster
        .until(|sets: &[ReplicaSet]| sets.first().cloned())
        .await;
    assert!(set.owner_references().is_empty());

    // An owner that never was, and one whose uid is another's.
    let maps: Api<ConfigMap> = cluster.api();
    for (name, kind, version, owner, uid) in [
        ("a", "ConfigMap", "v1", "nobody", "0-0"),
        ("b", "ReplicaSet", "apps/v1", set.name_any().as_str(), "1-1"),
    ] {
        let map = serde_json::from_value(json!({ "metadata": {
            "name": name,
            "ownerReferences": [{ "apiVersion": version, "kind": kind, "name": owner, "uid": uid }],
        } }))
        .expect("a map");
        maps.create(&PostParams::default(), &map)
            .await
            .expect("created");
        gone(maps.clone(), name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end_and_leaves_nothing() {
    let cluster = Cluster::new().await;
    cluster
        .until(|accounts: &[ServiceAccount]| (!accounts.is_empty()).then_some(()))
        .await;
    let jobs: Api<Job> = cluster.api();
    let pods: Api<Pod> = cluster.api();
    let job = |name: &str| -> Job {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": {
                "completions": 3, "parallelism": 2, "completionMode": "Indexed",
                "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] } },
            },
        }))
        .expect("a job")
    };
    jobs.create(&PostParams::default(), &job("j"))
        .await
        .expect("created");
    for number in 0..3 {
        let next = cluster
            .until(|pods: &[Pod]| {
                let is_new = |pod: &&Pod| {
                    pod.status
                        .as_ref()
                        .and_then(|status| status.phase.as_deref())
                        == Some("Pending")
                };
                pods.iter().find(is_new).cloned()
            })
            .await;
        assert_eq!(
            next.labels()["batch.kubernetes.io/job-name"],
            "j",
            "{number}"
        );
        let status = json!({ "status": { "phase": "Succeeded" } });
        pods.patch_status(
            &next.name_any(),
            &PatchParams::default(),
            &Patch::Merge(status),
        )
        .await
        .expect("it succeeds");
    }
    let status = cluster
        .until(|jobs: &[Job]| {
            let status = jobs.first()?.status.clone()?;
            let complete = status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Complete" && condition.status == "True");
            complete.then_some(status)
        })
        .await;
    assert_eq!(
        (status.succeeded, status.failed, status.active),
        (Some(3), None, None)
    );
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));
    assert!(status.start_time.is_some() && status.completion_time.is_some());

    // Deleted in the background, its pods go, though they had been counted by
    // nobody yet.
    jobs.create(&PostParams::default(), &job("k"))
        .await
        .expect("created");
    cluster
        .until(|pods: &[Pod]| (pods.len() == 5).then_some(()))
        .await;
    for name in ["j", "k"] {
        jobs.delete(name, &DeleteParams::background())
            .await
            .expect("deleted");
    }
    cluster
        .until(|pods: &[Pod]| pods.is_empty().then_some(()))
        .await;
}
