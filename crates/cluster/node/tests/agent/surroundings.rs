//! What containers find around them: variables, volumes, tokens, images.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use rustix::fs::inotify;
use serde_json::json;
use tokio::sync::oneshot;

use crate::{Cluster, one};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_come_from_everywhere() {
    let cluster = Cluster::new().await;
    let map = json!({"metadata": {"name": "map"}, "data": {"KEY": "of map", "OTHER": "2"}});
    cluster.create::<ConfigMap>(map).await;
    let secret = json!({"metadata": {"name": "secret"}, "stringData": {"KEY": "of secret"}});
    cluster.create::<Secret>(secret).await;
    let mut spec = one(&["run", "$(FROM_MAP)", "$(ABSENT)"]);
    let container = &mut spec["containers"][0];
    container["envFrom"] = json!([{"prefix": "P_", "configMapRef": {"name": "map"}},
        {"secretRef": {"name": "absent", "optional": true}}]);
    container["resources"] = json!({"limits": {"memory": "64Mi"}});
    container["env"] = json!([
        {"name": "PLAIN", "value": "1"},
        {"name": "EXPANDED", "value": "$(PLAIN)-$(P_OTHER)-$$(PLAIN)"},
        {"name": "FROM_MAP", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "KEY"}}},
        {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "KEY"}}},
        {"name": "SKIPPED", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "NO", "optional": true}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
    ]);
    cluster.pod(spec).await;
    cluster.ready("pod").await;
    let (_, config) = cluster.machine.container("c").expect("a container");
    assert_eq!(config.command, ["run", "of map", "$(ABSENT)"]);
    let env: BTreeMap<String, String> = config.env.into_iter().collect();
    for (name, value) in [
        ("P_KEY", "of map"),
        ("EXPANDED", "1-2-$(PLAIN)"),
        ("FROM_SECRET", "of secret"),
        ("IP", "127.0.0.1"),
        ("NODE", "one"),
        ("LABEL", "b"),
        ("MEMORY", "64"),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    assert!(!env.contains_key("SKIPPED"));
    assert_eq!(config.resources.memory_limit, 64 << 20);
}

/// Tells when something in a folder gets a new name.
fn renamed(folder: &Path) -> oneshot::Receiver<()> {
    let descriptor = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify");
    inotify::add_watch(&descriptor, folder, inotify::WatchFlags::MOVED_TO).expect("watched");
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = [0_u8; 4096];
        rustix::io::read(&descriptor, &mut buffer).expect("an event");
        // A test that has failed does not wait for it.
        let _ = sender.send(());
    });
    receiver
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_follow_their_objects() {
    let cluster = Cluster::new().await;
    let mut spec = one(&[]);
    spec["volumes"] = json!([
        {"name": "map", "configMap": {"name": "map", "items": [{"key": "k", "path": "deep/file", "mode": 256}]}},
        {"name": "labels", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "empty", "emptyDir": {"medium": "Memory"}},
    ]);
    spec["containers"][0]["volumeMounts"] = json!([
        {"name": "map", "mountPath": "/map"},
        {"name": "labels", "mountPath": "/labels"},
        {"name": "empty", "mountPath": "/empty"},
        {"name": "empty", "mountPath": "/part", "subPath": "a/b"},
    ]);
    cluster.pod(spec).await;
    // Nothing starts before the map is there.
    let message = cluster.event("FailedMount").await;
    assert_eq!(
        message,
        "MountVolume.SetUp failed for volume \"map\" : configmap \"map\" not found"
    );
    let map = json!({"metadata": {"name": "map"}, "data": {"k": "1"}});
    cluster.create::<ConfigMap>(map).await;
    cluster.ready("pod").await;
    let mount = |path: &str| cluster.machine.mount("c", path).expect("mounted");
    let file = mount("/map").join("deep/file");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "1");
    let mode = std::fs::metadata(&file).expect("a file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o400);
    let labels = mount("/labels").join("labels");
    let text = std::fs::read_to_string(&labels).expect("a file");
    assert_eq!(text, "a=\"b\"");
    assert_eq!(mount("/part"), mount("/empty").join("a/b"));
    let mode = std::fs::metadata(mount("/empty")).expect("a folder");
    assert_eq!(mode.permissions().mode() & 0o777, 0o777);
    let message = cluster.event("VolumeOnDisk").await;
    assert!(message.contains("\"empty\""), "{message}");
    // A change is written, all at once.
    let link = mount("/map").join("..data");
    let before = std::fs::read_link(&link).expect("a link");
    let swapped = renamed(&mount("/map"));
    let maps: Api<ConfigMap> = cluster.api();
    let patch = Patch::Merge(json!({"data": {"k": "2"}}));
    maps.patch("map", &PatchParams::default(), &patch)
        .await
        .expect("patched");
    tokio::time::timeout(crate::PATIENCE, swapped)
        .await
        .expect("in time")
        .expect("the link is swapped");
    assert_ne!(std::fs::read_link(&link).expect("a link"), before);
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "2");
    cluster.delete("pod").await;
    cluster.gone("pod").await;
    let folder = cluster.directory.path().join("node/pods");
    assert_eq!(std::fs::read_dir(folder).expect("a folder").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_its_accounts_token() {
    let cluster = Cluster::new().await;
    let pod = cluster.pod(one(&[])).await;
    cluster.ready("pod").await;
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    let folder = cluster.machine.mount("c", path).expect("mounted");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file");
    assert_eq!(read("ca.crt"), "a root");
    assert_eq!(read("namespace"), "default");
    let token = read("token");
    let claims = token.split('.').nth(1).expect("claims");
    let claims = base64_url(claims);
    let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(
        claims["kubernetes.io"]["pod"]["uid"],
        json!(pod.metadata.uid)
    );
}

fn base64_url(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    engine.decode(text).expect("base64")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_images_are_pulled_with_a_secret() {
    let cluster = Cluster::new().await;
    let config = json!({"auths": {"private.test": {"auth": "dXNlcjpwYXNz"}}}).to_string();
    let secret = json!({"metadata": {"name": "pull"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config}});
    cluster.create::<Secret>(secret).await;
    let spec = json!({"imagePullSecrets": [{"name": "pull"}, {"name": "absent"}],
        "containers": [{"name": "c", "image": "private.test/image:1"}]});
    cluster.pod(spec).await;
    cluster.ready("pod").await;
    let pulls = cluster.machine.pulls();
    let credentials = pulls[0].1.as_ref().expect("a name");
    assert_eq!(credentials.username, "user");
    assert_eq!(credentials.password, "pass");
    let message = cluster.event("Pulled").await;
    assert!(message.starts_with("Successfully pulled image \"private.test/image:1\" in "));
    cluster.event("FailedToRetrieveImagePullSecret").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_on_the_hosts_network_has_its_address() {
    let cluster = Cluster::new().await;
    let mut spec = one(&[]);
    spec["hostNetwork"] = true.into();
    cluster.pod(spec).await;
    let status = cluster.ready("pod").await;
    assert_eq!(status["podIP"], "192.0.2.1");
    let (_, sandbox) = cluster.machine.sandbox().expect("a sandbox");
    assert!(sandbox.host.network);
    assert_eq!(sandbox.hostname, "");
    let labels = &sandbox.labels;
    assert_eq!(labels["io.kubernetes.pod.name"], "pod");
    assert_eq!(labels["a"], "b");
}
