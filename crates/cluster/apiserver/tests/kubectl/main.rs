//! The API through an unmodified `kubectl`, over TLS.

mod cluster;
mod streams;

use cluster::{Cluster, PATIENCE};
use dhow_apiserver::{ApiServer, Config, UserInfo};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const DEPLOYMENT: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nginx:1.25
        ports: [{containerPort: 80}]
        env: [{name: A, value: a}]
";

#[tokio::test(flavor = "multi_thread")]
async fn apply_creates_changes_and_leaves_alone() {
    let cluster = Cluster::new().await;
    let apply = &["apply", "-f", "-"];
    let created = cluster.ok_with(apply, DEPLOYMENT).await;
    assert_eq!(created, "deployment.apps/web created\n");
    let again = cluster.ok_with(apply, DEPLOYMENT).await;
    assert_eq!(again, "deployment.apps/web unchanged\n");
    let changed = DEPLOYMENT
        .replace("1.25", "1.26")
        .replace("{name: A, value: a}", "{name: B, value: b}");
    let difference = cluster.run(&["diff", "-f", "-"], &changed).await;
    assert!(
        difference.out.contains("+        image: nginx:1.26"),
        "{}{}",
        difference.out,
        difference.err
    );
    assert_eq!(
        cluster.ok_with(apply, &changed).await,
        "deployment.apps/web configured\n"
    );
    let env = "jsonpath={.spec.template.spec.containers[0].env[*].name} {.metadata.generation}";
    assert_eq!(
        cluster.ok(&["get", "deploy", "web", "-o", env]).await,
        "B 2"
    );
    let wide = cluster.ok(&["get", "deploy", "-o", "wide"]).await;
    let columns: Vec<&str> = wide
        .lines()
        .next()
        .expect("a header")
        .split_whitespace()
        .collect();
    assert_eq!(
        columns,
        [
            "NAME",
            "READY",
            "UP-TO-DATE",
            "AVAILABLE",
            "AGE",
            "CONTAINERS",
            "IMAGES",
            "SELECTOR"
        ]
    );
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_knows_owners() {
    let cluster = Cluster::new().await;
    let apply = &["apply", "--server-side", "-f", "-"];
    assert_eq!(
        cluster.ok_with(apply, DEPLOYMENT).await,
        "deployment.apps/web serverside-applied\n"
    );
    let version = &[
        "get",
        "deploy",
        "web",
        "-o",
        "jsonpath={.metadata.resourceVersion}",
    ];
    let before = cluster.ok(version).await;
    cluster.ok_with(apply, DEPLOYMENT).await;
    assert_eq!(
        cluster.ok(version).await,
        before,
        "applying again changes nothing"
    );

    let other = &["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let three = DEPLOYMENT.replace("replicas: 2", "replicas: 3");
    let refused = cluster.fails(other, &three).await;
    assert!(
        refused.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas"),
        "{refused}"
    );
    let forced = &[
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=other",
        "-f",
        "-",
    ];
    cluster.ok_with(forced, &three).await;
    let replicas = &["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(cluster.ok(replicas).await, "3");
    // The first owner gave replicas up, so it may leave them out.
    let without = DEPLOYMENT
        .replace("  replicas: 2\n", "")
        .replace("        env: [{name: A, value: a}]\n", "");
    cluster.ok_with(apply, &without).await;
    assert_eq!(cluster.ok(replicas).await, "3");
    // The environment is still the other's.
    let env = &[
        "get",
        "deploy",
        "web",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].env[*].name}",
    ];
    assert_eq!(cluster.ok(env).await, "A");
    let minimal =
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 3}";
    cluster.ok_with(other, minimal).await;
    assert_eq!(cluster.ok(env).await, "", "nobody owns it any more");
    let managed = cluster
        .ok(&[
            "get",
            "deploy",
            "web",
            "-o",
            "yaml",
            "--show-managed-fields",
        ])
        .await;
    assert!(managed.contains("f:replicas: {}"), "{managed}");
    assert!(managed.contains("k:{\"name\":\"web\"}:"), "{managed}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_patch() {
    let cluster = Cluster::new().await;
    cluster.ok_with(&["apply", "-f", "-"], DEPLOYMENT).await;
    for (kind, patch) in [
        ("merge", r#"{"spec":{"replicas":4}}"#),
        (
            "json",
            r#"[{"op":"replace","path":"/spec/replicas","value":5}]"#,
        ),
        (
            "strategic",
            r#"{"spec":{"replicas":6,"template":{"spec":{"containers":[{"name":"web","image":"new"}]}}}}"#,
        ),
    ] {
        cluster
            .ok(&["patch", "deploy", "web", "--type", kind, "-p", patch])
            .await;
    }
    let seen = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[0].name}";
    assert_eq!(
        cluster.ok(&["get", "deploy", "web", "-o", seen]).await,
        "6 new A"
    );
    cluster
        .ok(&["scale", "deploy", "web", "--replicas=1"])
        .await;
    cluster
        .ok(&["set", "image", "deploy/web", "web=newer"])
        .await;
    cluster.ok(&["label", "deploy", "web", "tier=front"]).await;
    cluster.ok(&["annotate", "deploy", "web", "note=x"]).await;
    assert_eq!(
        cluster.ok(&["get", "deploy", "web", "-o", seen]).await,
        "1 newer A"
    );
    let listed = cluster
        .ok(&[
            "get",
            "deploy",
            "-l",
            "tier=front,app in (web)",
            "-o",
            "name",
        ])
        .await;
    assert_eq!(listed, "deployment.apps/web\n");
    let status =
        r#"{"status":{"replicas":1,"readyReplicas":1,"availableReplicas":1,"updatedReplicas":1}}"#;
    cluster
        .ok(&[
            "patch",
            "deploy",
            "web",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ])
        .await;
    let line = cluster.ok(&["get", "deploy", "web", "--no-headers"]).await;
    assert!(line.contains("1/1"), "{line}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_in_upstreams_words() {
    let cluster = Cluster::new().await;
    let typo = DEPLOYMENT.replace("image:", "imag:");
    let error = cluster.fails(&["apply", "-f", "-"], &typo).await;
    assert!(
        error.contains("Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.template.spec.containers[0].imag\""),
        "{error}"
    );
    let error = cluster
        .fails(&["create", "-f", "-", "--validate=ignore"], &typo)
        .await;
    assert!(
        error.contains("The Deployment \"web\" is invalid: spec.template.spec.containers[0].image: Required value"),
        "{error}"
    );
    let warned = cluster
        .run(
            &["create", "-f", "-", "--validate=warn", "--dry-run=server"],
            &DEPLOYMENT.replace("replicas:", "replica:"),
        )
        .await;
    assert!(
        warned.ok
            && warned
                .err
                .contains("Warning: unknown field \"spec.replica\""),
        "{}",
        warned.err
    );
    assert_eq!(
        cluster.fails(&["get", "deploy", "web"], "").await,
        "Error from server (NotFound): deployments.apps \"web\" not found\n"
    );
    let error = cluster.fails(&["create", "ns", "A_b"], "").await;
    assert!(
        error.contains(
            "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 label must consist of"
        ),
        "{error}"
    );
    let error = cluster
        .fails(&["create", "deploy", "x", "--image=a", "-n", "none"], "")
        .await;
    assert!(error.contains("namespaces \"none\" not found"), "{error}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses() {
    let cluster = Cluster::new().await;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: NodePort, selector: {a: b}, ports: [{port: 80}]}";
    cluster.ok_with(&["apply", "-f", "-"], service).await;
    let fields = "jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort} {.spec.ports[0].targetPort}";
    let given = cluster.ok(&["get", "svc", "s", "-o", fields]).await;
    let parts: Vec<&str> = given.split(' ').collect();
    assert!(parts[0].starts_with("10.96."), "{given}");
    assert!(
        (30_000..=32_767).contains(&parts[1].parse::<u32>().expect("a port")),
        "{given}"
    );
    assert_eq!(parts[2], "80");
    assert_eq!(
        cluster.ok_with(&["apply", "-f", "-"], service).await,
        "service/s unchanged\n"
    );
    let same = service
        .replace("name: s}", "name: t}")
        .replace("type: NodePort", &format!("clusterIP: {}", parts[0]));
    let error = cluster.fails(&["create", "-f", "-"], &same).await;
    assert!(
        error.contains("provided IP is already allocated"),
        "{error}"
    );
    cluster.ok(&["delete", "svc", "s"]).await;
    cluster.ok_with(&["create", "-f", "-"], &same).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_what_roles_say() {
    let cluster = Cluster::new().await;
    assert_eq!(
        cluster.fails(&["get", "pods", "--as", "bob"], "").await,
        "Error from server (Forbidden): pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"\n"
    );
    cluster
        .ok(&[
            "create",
            "role",
            "reader",
            "--verb=get,list",
            "--resource=pods,deployments.apps",
        ])
        .await;
    cluster
        .ok(&[
            "create",
            "rolebinding",
            "bob",
            "--role=reader",
            "--user=bob",
        ])
        .await;
    cluster.ok(&["get", "pods", "--as", "bob"]).await;
    assert_eq!(
        cluster
            .ok(&["auth", "can-i", "list", "deploy", "--as", "bob"])
            .await,
        "yes\n"
    );
    let no = cluster
        .run(&["auth", "can-i", "delete", "pods", "--as", "bob"], "")
        .await;
    assert_eq!(no.out, "no\n");
    assert!(
        cluster
            .ok(&["auth", "whoami"])
            .await
            .contains("kubernetes-admin")
    );
    let rules = cluster
        .ok(&["auth", "can-i", "--list", "--as", "bob"])
        .await;
    assert!(rules.contains("deployments.apps"), "{rules}");
    cluster
        .ok(&[
            "create",
            "clusterrolebinding",
            "v",
            "--clusterrole=view",
            "--serviceaccount=default:default",
        ])
        .await;
    let token = cluster
        .ok(&["create", "token", "default", "--duration=1h"])
        .await;
    let config = cluster
        .ok(&["config", "view", "--raw", "--minify", "-o", "json"])
        .await;
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    let path = cluster.directory.path().join("token-config");
    std::fs::write(&path, config.to_string()).expect("written");
    let path = path.to_str().expect("text");
    cluster.ok(&["--kubeconfig", path, "get", "pods"]).await;
    let error = cluster
        .fails(&["--kubeconfig", path, "get", "secrets"], "")
        .await;
    assert!(
        error.contains(
            "User \"system:serviceaccount:default:default\" cannot list resource \"secrets\""
        ),
        "{error}"
    );
    cluster.ok(&["delete", "sa", "default"]).await;
    let error = cluster
        .fails(&["--kubeconfig", path, "get", "pods"], "")
        .await;
    assert!(
        error.contains("Unauthorized") || error.contains("logged in"),
        "{error}"
    );
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explanations_and_descriptions() {
    let cluster = Cluster::new().await;
    cluster.ok_with(&["apply", "-f", "-"], DEPLOYMENT).await;
    let explained = cluster
        .ok(&["explain", "pod.spec.containers.livenessProbe"])
        .await;
    assert!(
        explained.contains("FIELD: livenessProbe <Probe>"),
        "{explained}"
    );
    assert!(
        explained.contains("periodSeconds\t<integer>"),
        "{explained}"
    );
    let explained = cluster.ok(&["explain", "deployment", "--recursive"]).await;
    assert!(
        explained.contains("matchLabels\t<map[string]string>"),
        "{explained}"
    );
    let described = cluster.ok(&["describe", "deploy", "web"]).await;
    assert!(described.contains("Image:      nginx:1.25"), "{described}");
    let resources = cluster.ok(&["api-resources", "--no-headers"]).await;
    assert!(resources.lines().count() > 40, "{resources}");
    assert!(
        cluster
            .ok(&["get", "all", "-A"])
            .await
            .contains("service/kubernetes")
    );
    for kind in [
        "pods",
        "nodes",
        "events",
        "leases",
        "jobs",
        "cronjobs",
        "endpointslices",
        "roles",
        "ingress",
        "netpol",
        "pdb",
        "hpa",
        "sc",
        "pv",
        "pvc",
        "rs",
        "sts",
        "ds",
        "cm",
        "sa",
    ] {
        cluster.ok(&["get", kind, "-A", "-o", "wide"]).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_and_waiting() {
    let cluster = Cluster::new().await;
    let mut watch = cluster
        .command(&["get", "cm", "-w", "--no-headers"])
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    cluster
        .ok(&["create", "cm", "a", "--from-literal=x=y"])
        .await;
    let line = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .expect("in time")
        .expect("text")
        .expect("a line");
    assert!(line.starts_with('a') && line.contains('1'), "{line}");
    watch.kill().await.expect("it ends");

    let waiting = cluster
        .command(&["wait", "--for=delete", "cm/a", "--timeout=30s"])
        .spawn()
        .expect("kubectl runs");
    cluster.ok(&["delete", "cm", "a"]).await;
    let waited = tokio::time::timeout(PATIENCE, waiting.wait_with_output())
        .await
        .expect("in time")
        .expect("ran");
    assert!(waited.status.success());
    cluster.ok_with(&["apply", "-f", "-"], DEPLOYMENT).await;
    let status = r#"{"status":{"conditions":[{"type":"Available","status":"True"}]}}"#;
    cluster
        .ok(&[
            "patch",
            "deploy",
            "web",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ])
        .await;
    cluster
        .ok(&[
            "wait",
            "--for=condition=Available",
            "deploy/web",
            "--timeout=30s",
        ])
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_has_its_ways() {
    let cluster = Cluster::new().await;
    for name in ["a", "b", "c"] {
        cluster.ok(&["create", "cm", name]).await;
    }
    cluster.ok(&["delete", "cm", "--all"]).await;
    assert_eq!(cluster.ok(&["get", "cm", "-o", "name"]).await, "");
    cluster.ok_with(&["apply", "-f", "-"], DEPLOYMENT).await;
    // Without a garbage collector an orphaning deletion waits for its finalizer.
    cluster
        .ok(&[
            "delete",
            "deploy",
            "web",
            "--cascade=orphan",
            "--wait=false",
        ])
        .await;
    let finalizers = &[
        "get",
        "deploy",
        "web",
        "-o",
        "jsonpath={.metadata.finalizers}",
    ];
    assert_eq!(cluster.ok(finalizers).await, "[\"orphan\"]");
    cluster
        .ok(&[
            "patch",
            "deploy",
            "web",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":[]}}"#,
        ])
        .await;
    cluster.fails(&["get", "deploy", "web"], "").await;
    cluster.ok(&["create", "ns", "gone"]).await;
    cluster.ok(&["delete", "ns", "gone", "--wait=false"]).await;
    assert!(
        cluster
            .ok(&["get", "ns", "gone", "--no-headers"])
            .await
            .contains("Terminating")
    );
    let body = r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"gone"},"spec":{"finalizers":[]}}"#;
    cluster
        .ok_with(
            &[
                "replace",
                "--raw",
                "/api/v1/namespaces/gone/finalize",
                "-f",
                "-",
            ],
            body,
        )
        .await;
    cluster.fails(&["get", "ns", "gone"], "").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_outlives_its_server() {
    let cluster = Cluster::new().await;
    cluster.ok_with(&["apply", "-f", "-"], DEPLOYMENT).await;
    let uid = &["get", "deploy", "web", "-o", "jsonpath={.metadata.uid}"];
    let before = cluster.ok(uid).await;
    let path = cluster.directory.path().join("cluster");
    let kept = tempfile::tempdir().expect("a directory");
    let copy = kept.path().join("cluster");
    // What a power failure leaves: the files of a server that never stopped.
    copy_tree(&path, &copy);
    let revived = ApiServer::open(Config::new(copy)).await.expect("it opens");
    let client = kube::Client::new(revived.service(UserInfo::admin()), "default");
    let deployments: kube::Api<k8s_openapi::api::apps::v1::Deployment> =
        kube::Api::default_namespaced(client);
    let found = deployments.get("web").await.expect("still there");
    assert_eq!(found.metadata.uid.as_deref(), Some(&*before));
    assert!(
        cluster
            .server
            .authority()
            .certificate()
            .contains("BEGIN CERTIFICATE")
    );
    cluster.end().await;
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
