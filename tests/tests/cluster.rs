//! A one-node cluster, driven with a real kubectl on a host of its own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use dhow_testkit::{Daemon, Host};

/// A Deployment whose pods say their name, with its Service and a ConfigMap.
const WEB: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: web
data:
  greeting: hello
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector:
    matchLabels: { app: web }
  template:
    metadata:
      labels: { app: web }
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: httpd
          image: busybox
          imagePullPolicy: Never
          command: ["sh", "-c", "mkdir -p /tmp/www; echo \"$(cat /config/greeting) from $(hostname)\" > /tmp/www/index.html; echo serving; exec httpd -f -p 80 -h /tmp/www"]
          ports: [{ containerPort: 80, name: http }]
          readinessProbe:
            httpGet: { path: /, port: http }
            periodSeconds: 1
          volumeMounts:
            - { name: config, mountPath: /config }
      volumes:
        - name: config
          configMap: { name: web }
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: { app: web }
  ports: [{ port: 80, targetPort: http }]
"#;

fn cluster() -> Daemon {
    let daemon = Daemon::start();
    daemon.busybox();
    daemon.up();
    daemon
}

/// A pod that runs a shell command once, or for ever.
fn pod(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  containers:\n    - name: main\n      image: busybox\n      imagePullPolicy: Never\n      command: [sh, -c, {script:?}]\n"
    )
}

fn apply(daemon: &Daemon, objects: &str) {
    daemon.kubectl_with(&["apply", "-f", "-"], objects).ok();
}

fn rolled_out(daemon: &Daemon) {
    daemon
        .kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])
        .ok();
}

fn field(daemon: &Daemon, what: &str, path: &str) -> String {
    let path = format!("jsonpath={path}");
    daemon.kubectl(&["get", what, "-o", &path]).ok()
}

/// What the Service says to somebody on the host; curl asks again while nobody
/// listens there, since a Service follows its pods.
fn ask(daemon: &Daemon, address: &str) -> String {
    let url = format!("http://{address}/");
    daemon
        .host()
        .run(
            "curl",
            &[
                "-sS",
                "--fail",
                "--max-time",
                "10",
                "--retry",
                "10",
                "--retry-connrefused",
                &url,
            ],
        )
        .ok()
}

fn finish(daemon: Daemon) {
    daemon.dhow(&["down", "--forget"]).ok();
    daemon.finish();
}

#[test]
fn a_deployment_serves_heals_scales_and_rolls() {
    let daemon = cluster();
    apply(&daemon, WEB);
    rolled_out(&daemon);
    let service = field(&daemon, "service/web", "{.spec.clusterIP}");
    // The kernel hears of the last replica a moment after its Deployment.
    let mut told = BTreeSet::new();
    for _ in 0..500 {
        told.insert(ask(&daemon, &service));
        if told.len() == 3 {
            break;
        }
    }
    assert_eq!(told.len(), 3, "each replica answers: {told:?}");
    assert!(
        told.iter().all(|text| text.starts_with("hello from web-")),
        "{told:?}"
    );

    let pod = field(&daemon, "pods", "{.items[0].metadata.name}");
    let exec = |words: &[&str]| daemon.kubectl(&[&["exec", &pod, "--"], words].concat());
    for name in ["web", "web.default.svc.cluster.local"] {
        let found = exec(&["wget", "-qO-", &format!("http://{name}/")]).ok();
        assert!(found.starts_with("hello from web-"), "{found}");
    }
    exec(&["sh", "-c", "exit 7"]).fails(7);
    assert_eq!(daemon.kubectl(&["logs", &pod]).ok(), "serving");

    // A container that is killed is replaced in its pod.
    let id = field(
        &daemon,
        &format!("pod/{pod}"),
        "{.status.containerStatuses[0].containerID}",
    );
    let id = id.strip_prefix("dhow://").expect("it is ours");
    daemon.docker(&["kill", id]).ok();
    let restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
    let pod_name = format!("pod/{pod}");
    daemon
        .kubectl(&["wait", &pod_name, restarted, "--timeout=60s"])
        .ok();
    daemon
        .kubectl(&["wait", &pod_name, "--for=condition=Ready", "--timeout=60s"])
        .ok();

    // A pod that is deleted is replaced by another.
    daemon.kubectl(&["delete", &pod_name, "--timeout=60s"]).ok();
    rolled_out(&daemon);
    daemon
        .kubectl(&["scale", "deployment/web", "--replicas=6"])
        .ok();
    rolled_out(&daemon);
    assert_eq!(
        field(&daemon, "deployment/web", "{.status.readyReplicas}"),
        "6"
    );

    daemon
        .kubectl(&["set", "env", "deployment/web", "VERSION=2"])
        .ok();
    rolled_out(&daemon);
    assert_eq!(
        field(&daemon, "deployment/web", "{.status.updatedReplicas}"),
        "6"
    );
    assert!(ask(&daemon, &service).starts_with("hello from web-"));

    daemon
        .kubectl_with(&["delete", "-f", "-", "--timeout=60s"], WEB)
        .ok();
    daemon
        .kubectl(&[
            "wait",
            "--for=delete",
            "pod",
            "-l",
            "app=web",
            "--timeout=60s",
        ])
        .ok();
    assert_eq!(
        daemon.docker(&["ps", "-aq"]).ok(),
        "",
        "no container is left"
    );
    finish(daemon);
}

#[test]
fn a_cluster_survives_its_daemon_being_killed() {
    let mut daemon = cluster();
    apply(&daemon, WEB);
    rolled_out(&daemon);
    let service = field(&daemon, "service/web", "{.spec.clusterIP}");
    let ids = "{.items[*].status.containerStatuses[0].containerID}";
    let before = field(&daemon, "pods", ids);
    daemon.kill();
    assert!(
        ask(&daemon, &service).starts_with("hello from web-"),
        "the Service works without its daemon"
    );
    daemon.start_again();
    daemon.up();
    rolled_out(&daemon);
    assert_eq!(
        field(&daemon, "pods", ids),
        before,
        "the same containers run on"
    );
    daemon
        .kubectl(&["scale", "deployment/web", "--replicas=4"])
        .ok();
    rolled_out(&daemon);

    // What ended meanwhile is replaced when the daemon is back.
    let victim = before.split(' ').next().expect("there are three");
    let victim = victim
        .strip_prefix("dhow://")
        .expect("it is ours")
        .to_owned();
    let pid = daemon
        .docker(&["inspect", "-f", "{{.State.Pid}}", &victim])
        .ok();
    daemon.kill();
    daemon.host().run("kill", &["-KILL", &pid]).ok();
    daemon.start_again();
    daemon.up();
    daemon
        .kubectl(&[
            "wait",
            "pod",
            "-l",
            "app=web",
            "--for=condition=Ready",
            "--timeout=60s",
        ])
        .ok();
    let after = field(&daemon, "pods", ids);
    assert!(!after.contains(&victim), "{after}");
    finish(daemon);
}

#[test]
fn pods_get_what_they_ask_for() {
    let daemon = cluster();
    apply(
        &daemon,
        r#"
apiVersion: v1
kind: Secret
metadata: { name: door }
stringData: { key: opened }
---
apiVersion: v1
kind: Pod
metadata: { name: one, labels: { color: blue } }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers:
    - name: first
      image: busybox
      imagePullPolicy: Never
      command: [sh, -c, "echo prepared > /work/state"]
      volumeMounts: [{ name: work, mountPath: /work }]
  containers:
    - name: main
      image: busybox
      imagePullPolicy: Never
      env:
        - { name: KEY, valueFrom: { secretKeyRef: { name: door, key: key } } }
        - { name: POD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
        - { name: TEXT, value: "$(POD) $(KEY)" }
      command:
        - sh
        - -c
        - |
          echo "$TEXT"
          cat /work/state
          cat /labels/labels; echo
          test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token
          hostname
          grep -c cluster.local /etc/resolv.conf
          cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max
          exit 3
      resources: { limits: { memory: 32Mi } }
      volumeMounts:
        - { name: work, mountPath: /work }
        - { name: labels, mountPath: /labels }
  volumes:
    - { name: work, emptyDir: {} }
    - name: labels
      downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] }
"#,
    );
    let failed = "--for=jsonpath={.status.phase}=Failed";
    daemon
        .kubectl(&["wait", "pod/one", failed, "--timeout=60s"])
        .ok();
    let said = daemon.kubectl(&["logs", "one"]).ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "one opened",
            "prepared",
            "color=\"blue\"",
            "token",
            "one",
            "1",
            "33554432"
        ]
    );
    let code = "{.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(field(&daemon, "pod/one", code), "3");
    daemon.kubectl(&["delete", "pod/one", "--timeout=60s"]).ok();
    finish(daemon);
}

#[test]
fn jobs_run_to_completion_and_namespaces_are_emptied() {
    let daemon = cluster();
    daemon.kubectl(&["create", "namespace", "work"]).ok();
    apply(
        &daemon,
        r#"
apiVersion: batch/v1
kind: Job
metadata: { name: count, namespace: work }
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers:
        - { name: main, image: busybox, imagePullPolicy: Never, command: [echo, done] }
"#,
    );
    daemon
        .kubectl(&[
            "-n",
            "work",
            "wait",
            "job/count",
            "--for=condition=Complete",
            "--timeout=60s",
        ])
        .ok();
    let job = [
        "-n",
        "work",
        "get",
        "job/count",
        "-o",
        "jsonpath={.status.succeeded}",
    ];
    assert_eq!(daemon.kubectl(&job).ok(), "3");
    daemon
        .kubectl(&["delete", "namespace", "work", "--timeout=60s"])
        .ok();
    assert_eq!(daemon.docker(&["ps", "-aq"]).ok(), "");
    finish(daemon);
}

#[test]
fn a_port_is_forwarded_and_a_log_followed() {
    let daemon = cluster();
    let script = "mkdir /tmp/www; echo here > /tmp/www/index.html; echo started; httpd -f -p 8080 -h /tmp/www";
    apply(&daemon, &pod("web", script));
    daemon
        .kubectl(&["wait", "pod/web", "--for=condition=Ready", "--timeout=60s"])
        .ok();
    let mut logs = daemon
        .kubectl_command(&["logs", "-f", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut lines = BufReader::new(logs.stdout.take().expect("it was piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "started");

    let mut forward = daemon
        .kubectl_command(&["port-forward", "pod/web", "18080:8080"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut said = BufReader::new(forward.stdout.take().expect("it was piped")).lines();
    let ready = said.next().expect("a line").expect("text");
    assert!(
        ready.starts_with("Forwarding from 127.0.0.1:18080"),
        "{ready}"
    );
    assert_eq!(ask(&daemon, "127.0.0.1:18080"), "here");
    forward.kill().expect("it runs");
    forward.wait().expect("it ends");

    daemon.kubectl(&["delete", "pod/web", "--timeout=60s"]).ok();
    assert!(lines.next().is_none(), "the log ends with its container");
    logs.wait().expect("it ends");
    finish(daemon);
}

#[test]
fn bad_input_is_refused_with_a_way_out() {
    let daemon = Daemon::start();
    daemon.busybox();
    let refused = |words: &[&str], part: &str| {
        let error = daemon.dhow(words).fails(1);
        assert!(error.contains(part), "{error}");
    };
    refused(&["up", "--node-name", "Bad_Name"], "small letters");
    refused(&["up", "--pod-cidr", "10.0.0.0/30"], "/24 or larger");
    refused(&["up", "--service-cidr", "10.244.0.0/16"], "overlap");
    daemon.up();
    refused(&["up", "--port", "7777"], "run `dhow down` first");
    let error = daemon
        .kubectl_with(
            &["apply", "-f", "-"],
            "apiVersion: v1\nkind: Pod\nmetadata: { name: x }\nspec: { container: [] }\n",
        )
        .fails(1);
    assert!(error.contains("unknown field"), "{error}");
    apply(
        &daemon,
        &pod("absent", "true").replace("busybox", "nowhere.invalid/x"),
    );
    let waiting =
        "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull";
    daemon
        .kubectl(&["wait", "pod/absent", waiting, "--timeout=60s"])
        .ok();
    let error = daemon.kubectl(&["logs", "absent"]).fails(1);
    assert!(error.contains("waiting to start"), "{error}");
    daemon
        .kubectl(&["delete", "pod/absent", "--timeout=60s"])
        .ok();
    daemon.dhow(&["down", "--forget"]).ok();
    daemon.dhow(&["down"]).ok();
    daemon.finish();
}

#[test]
fn up_starts_a_daemon_where_none_runs() {
    let host = Host::new();
    let folder = host.folder();
    let dhow = |arguments: &[&str]| {
        let output = host
            .command(dhow_testkit::dhow())
            .env("DHOW_INSTANCE", host.instance())
            .env("DHOW_DATA_ROOT", folder.join("data"))
            .env("DHOW_RUN_ROOT", folder.join("run"))
            .env("DHOW_HOST", folder.join("run/dhow.sock"))
            .args(arguments)
            .output()
            .expect("dhow starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    };
    let said = dhow(&["up", "--node-name", "node"]);
    let pid = said
        .split_once("(process ")
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(pid, _)| pid.to_owned())
        .expect("it says which process it started");
    let said = dhow(&["up"]);
    assert_eq!(said, "", "the daemon is there, and the cluster is up");
    dhow(&["down", "--forget"]);
    host.run("kill", &[&pid]).ok();
    let pid = format!("--pid={pid}");
    host.run("tail", &[&pid, "-f", "/dev/null"]).ok();
    host.audit();
}

/// Keeps from coming back: a port that is taken left a network behind.
#[test]
fn a_cluster_that_cannot_come_up_leaves_nothing() {
    let daemon = Daemon::start();
    let taken = daemon
        .host()
        .inside(|| std::net::TcpListener::bind("127.0.0.1:6443").expect("a free port"));
    let error = daemon.dhow(&["up", "--node-name", "node"]).fails(1);
    assert!(error.contains("give another --port"), "{error}");
    let networks = daemon
        .docker(&["network", "ls", "--format", "{{.Name}}"])
        .ok();
    assert_eq!(networks, "bridge\nhost\nnone");
    drop(taken);
    daemon.up();
    finish(daemon);
}

#[test]
fn a_cluster_comes_back_after_the_machine_went_down() {
    let mut daemon = cluster();
    apply(&daemon, WEB);
    rolled_out(&daemon);
    let service = field(&daemon, "service/web", "{.spec.clusterIP}");
    let ids = daemon.docker(&["ps", "-q", "--no-trunc"]).ok();
    let mut pids: Vec<String> = ids
        .lines()
        .map(|id| daemon.docker(&["inspect", "-f", "{{.State.Pid}}", id]).ok())
        .collect();
    // Shims first, so that none of them notes an end.
    pids.splice(0..0, shims(&daemon));
    daemon.kill();
    for pid in &pids {
        daemon.host().run("kill", &["-KILL", pid]);
    }
    let host = daemon.host();
    host.run("nft", &["flush", "ruleset"]).ok();
    let links = host
        .run("ip", &["-o", "link", "show", "type", "bridge"])
        .ok();
    for line in links.lines() {
        let name = line.split(": ").nth(1).expect("a name");
        host.run("ip", &["link", "delete", name]).ok();
    }
    let run = host.folder().join("run");
    let run_text = run.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    for mount in mounts.lines().rev() {
        let target = mount.split_whitespace().nth(4).expect("a target");
        if target.starts_with(&run_text) {
            host.run("umount", &["--lazy", target]).ok();
        }
    }
    std::fs::remove_dir_all(&run).expect("removed");
    let groups = format!("dhow-{}", host.instance());
    host.run(
        "find",
        &[
            "/sys/fs/cgroup",
            "-depth",
            "-type",
            "d",
            "-path",
            &format!("*/{groups}*"),
            "-exec",
            "rmdir",
            "{}",
            ";",
        ],
    )
    .ok();

    daemon.start_again();
    daemon.up();
    // What the API said before the machine went down says nothing.
    let again = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
    let pods = ["wait", "pod", "-l", "app=web", again, "--timeout=60s"];
    daemon.kubectl(&pods).ok();
    rolled_out(&daemon);
    assert!(ask(&daemon, &service).starts_with("hello from web-"));
    let now = daemon.docker(&["ps", "-q", "--no-trunc"]).ok();
    assert_eq!(now.lines().count(), 3);
    assert!(now.lines().all(|id| !ids.contains(id)), "they are new");
    finish(daemon);
}

/// The supervisors of a daemon's containers.
fn shims(daemon: &Daemon) -> Vec<String> {
    let folder = daemon.host().folder().display().to_string();
    let processes = std::fs::read_dir("/proc")
        .expect("proc is mounted")
        .flatten();
    processes
        .filter(|process| {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            command.contains(" shim ") && command.contains(&folder)
        })
        .map(|process| process.file_name().to_string_lossy().into_owned())
        .collect()
}
