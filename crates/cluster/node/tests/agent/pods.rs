//! Pods' lives: restarts, ends, probes, hooks, and agents that are restarted.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::{Cluster, condition, one};

fn waits_for(status: &Value, reason: &str) -> bool {
    status["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_keeps_its_last_words() {
    let cluster = Cluster::new().await;
    let mut spec = one(&["say", "3", "farewell"]);
    spec["restartPolicy"] = "Never".into();
    cluster.pod(spec).await;
    let status = cluster
        .status("pod", |status| status["phase"] == "Failed")
        .await;
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["exitCode"], 3);
    assert_eq!(ended["reason"], "Error");
    assert_eq!(ended["message"], "farewell");
    let ready = condition(&status, "Ready").expect("a condition");
    assert_eq!(ready["reason"], "PodFailed");
    // Its address is given back, its log is kept.
    cluster
        .machine
        .until(|machine| {
            let (sandbox, _) = machine.sandbox()?;
            (!sandbox.is_ready).then_some(())
        })
        .await;
    assert_eq!(cluster.machine.n_containers(), 1);
    // What has ended is deleted without asking, and cleared away after that.
    cluster.delete("pod").await;
    cluster
        .machine
        .until(|machine| (machine.n_sandboxes() == 0).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_ends_is_started_again() {
    let cluster = Cluster::new().await;
    cluster.pod(one(&[])).await;
    cluster.ready("pod").await;
    cluster.machine.exit("c", 1);
    let status = cluster
        .status("pod", |status| {
            let container = &status["containerStatuses"][0];
            container["restartCount"] == 1 && container["ready"] == true
        })
        .await;
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 1);
    cluster.machine.exit("c", 1);
    cluster
        .status("pod", |status| waits_for(status, "CrashLoopBackOff"))
        .await;
    let message = cluster.event("BackOff").await;
    assert!(
        message.starts_with("Back-off restarting failed container c in pod pod_default("),
        "{message}"
    );
    assert_eq!(cluster.machine.most_running(), 1);
    // It does not keep the pod from going.
    cluster.delete("pod").await;
    cluster.gone("pod").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_says_why() {
    let cluster = Cluster::new().await;
    let named = |image: &str, policy: &str| {
        let container = json!({"name": "c", "image": image, "imagePullPolicy": policy});
        json!({ "containers": [container] })
    };
    cluster
        .named_pod("pull", named("absent:1", "IfNotPresent"))
        .await;
    cluster.named_pod("never", named("image:2", "Never")).await;
    let mut missing = one(&[]);
    missing["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "nowhere"}}]);
    cluster.named_pod("config", missing).await;
    let mut root = one(&[]);
    root["securityContext"] = json!({"runAsNonRoot": true});
    cluster.named_pod("root", root).await;
    cluster.named_pod("program", one(&["absent"])).await;
    let waits = |reason: &'static str| move |status: &Value| waits_for(status, reason);
    cluster.status("pull", waits("ImagePullBackOff")).await;
    cluster.status("never", waits("ErrImageNeverPull")).await;
    let status = cluster
        .status("config", waits("CreateContainerConfigError"))
        .await;
    let message = &status["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "configmap \"nowhere\" not found");
    cluster
        .status("root", waits("CreateContainerConfigError"))
        .await;
    let status = cluster.status("program", waits("CrashLoopBackOff")).await;
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["reason"], "StartError");
    assert_eq!(last["message"], "no such program");
    for name in ["pull", "never", "config", "root", "program"] {
        cluster.delete(name).await;
        cluster.gone(name).await;
    }
    assert_eq!(cluster.machine.n_sandboxes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_restarted_finds_its_pods() {
    let mut cluster = Cluster::new().await;
    cluster.pod(one(&[])).await;
    cluster.ready("pod").await;
    cluster.named_pod("doomed", one(&[])).await;
    cluster.ready("doomed").await;
    let mut job = one(&["exit", "0"]);
    job["restartPolicy"] = "Never".into();
    cluster.named_pod("job", job).await;
    let job = cluster
        .status("job", |status| {
            let condition = condition(status, "PodReadyToStartContainers");
            status["phase"] == "Succeeded" && condition.is_some_and(|one| one["status"] == "False")
        })
        .await;
    let before = cluster.ready("pod").await;
    cluster.stop_agent().await;
    assert_eq!(cluster.machine.n_sandboxes(), 3, "pods go on");
    let pods: Api<Pod> = cluster.api();
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    pods.delete("doomed", &now).await.expect("deleted");
    cluster.start_agent();
    // What nobody wants any more goes, the others are left alone.
    cluster
        .machine
        .until(|machine| (machine.n_sandboxes() == 2).then_some(()))
        .await;
    let after = cluster.ready("pod").await;
    assert_eq!(before, after, "nothing has changed");
    let ended = cluster.status("job", |_| true).await;
    assert_eq!(job, ended);
    cluster.delete("pod").await;
    cluster.gone("pod").await;
    cluster.delete("job").await;
    cluster
        .machine
        .until(|machine| (machine.n_sandboxes() == 0).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_failure_is_survived() {
    let mut cluster = Cluster::new().await;
    cluster.pod(one(&[])).await;
    let before = cluster.ready("pod").await;
    cluster.stop_agent().await;
    cluster.machine.power_fails();
    cluster.start_agent();
    let after = cluster
        .status("pod", |status| {
            let container = &status["containerStatuses"][0];
            container["restartCount"] == 1 && container["ready"] == true
        })
        .await;
    assert_eq!(before["startTime"], after["startTime"]);
    let last = &after["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 255);
    assert_eq!(cluster.machine.most_running(), 1);
    cluster.delete("pod").await;
    cluster.gone("pod").await;
    assert_eq!(cluster.machine.n_sandboxes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_and_sidecars_take_turns() {
    let cluster = Cluster::new().await;
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [
            {"name": "first", "image": "image:1"},
            {"name": "side", "image": "image:1", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "image:1"}]});
    cluster.pod(spec).await;
    cluster
        .status("pod", |status| {
            status["initContainerStatuses"][0]["state"]["running"].is_object()
                && waits_for(status, "PodInitializing")
        })
        .await;
    assert!(cluster.machine.container("side").is_none());
    cluster.machine.exit("first", 0);
    cluster.ready("pod").await;
    cluster.machine.exit("c", 0);
    let status = cluster
        .status("pod", |status| status["phase"] == "Succeeded")
        .await;
    let side = &status["initContainerStatuses"][1]["state"];
    assert!(side["terminated"].is_object(), "{side}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_about_containers() {
    let cluster = Cluster::new().await;
    let probe = |word: &str| json!({"exec": {"command": [word]}, "periodSeconds": 1, "failureThreshold": 2});
    let mut spec = one(&[]);
    let container = &mut spec["containers"][0];
    container["startupProbe"] = probe("started");
    container["startupProbe"]["failureThreshold"] = 100.into();
    container["readinessProbe"] = probe("ready");
    container["livenessProbe"] = probe("alive");
    cluster.machine.set_code("started", 1);
    cluster.machine.set_code("ready", 1);
    cluster.pod(spec).await;
    let started = |status: &Value| status["containerStatuses"][0]["started"] == true;
    let status = cluster
        .status("pod", |status| {
            status["containerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert!(!started(&status));
    cluster.event("Unhealthy").await;
    let asked = |word: &'static str| {
        move |machine: &crate::machine::Machine| {
            machine
                .execs()
                .contains(&vec![word.to_owned()])
                .then_some(())
        }
    };
    assert!(
        asked("ready")(&cluster.machine).is_none(),
        "not before it has started"
    );
    cluster.machine.set_code("started", 0);
    let status = cluster.status("pod", started).await;
    assert_eq!(status["containerStatuses"][0]["ready"], false);
    cluster.machine.until(asked("ready")).await;
    cluster.machine.set_code("ready", 0);
    cluster.ready("pod").await;
    cluster.machine.set_code("ready", 1);
    cluster
        .status("pod", |status| {
            let ready = condition(status, "Ready").expect("a condition");
            ready["status"] == "False" && ready["reason"] == "ContainersNotReady"
        })
        .await;
    cluster.machine.set_code("ready", 0);
    cluster.machine.set_code("alive", 1);
    cluster
        .status("pod", |status| {
            status["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    let message = cluster.event("Killing").await;
    assert_eq!(
        message,
        "Container c failed liveness probe, will be restarted"
    );
    cluster.machine.set_code("alive", 0);
    cluster.ready("pod").await;
    assert_eq!(cluster.machine.most_running(), 1);
}

/// Answers each request with the status of the moment.
async fn serve(listener: TcpListener, status: tokio::sync::watch::Receiver<u16>) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut bytes = [0; 1024];
        let n_bytes = stream.read(&mut bytes).await.expect("a request");
        let request = String::from_utf8_lossy(&bytes[..n_bytes]).into_owned();
        if request.is_empty() {
            continue;
        }
        assert!(request.contains("user-agent: kube-probe/"), "{request}");
        let code = *status.borrow();
        let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.expect("answered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_connect_to_the_pod() {
    let cluster = Cluster::new().await;
    let listener = TcpListener::bind((crate::machine::ADDRESS, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (code, codes) = tokio::sync::watch::channel(503);
    let server = tokio::spawn(serve(listener, codes));
    let mut spec = one(&[]);
    let container = &mut spec["containers"][0];
    container["ports"] = json!([{"name": "web", "containerPort": port}]);
    container["readinessProbe"] =
        json!({"httpGet": {"path": "/ok", "port": "web"}, "periodSeconds": 1});
    container["livenessProbe"] = json!({"tcpSocket": {"port": port}, "periodSeconds": 1});
    cluster.pod(spec).await;
    let message = cluster.event("Unhealthy").await;
    assert_eq!(
        message,
        "Readiness probe failed: HTTP probe failed with statuscode: 503"
    );
    code.send(204).expect("the server is there");
    let status = cluster.ready("pod").await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_run_after_the_start_and_before_the_stop() {
    let cluster = Cluster::new().await;
    let mut spec = one(&[]);
    spec["containers"][0]["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["after"]}},
        "preStop": {"exec": {"command": ["before"]}}});
    cluster.pod(spec.clone()).await;
    cluster.ready("pod").await;
    assert_eq!(cluster.machine.execs(), [["after"]]);
    cluster.delete("pod").await;
    cluster.gone("pod").await;
    assert_eq!(cluster.machine.execs(), [["after"], ["before"]]);
    // A hook that fails ends the container.
    cluster.machine.set_code("after", 1);
    cluster.named_pod("hooked", spec).await;
    cluster.event("FailedPostStartHook").await;
    cluster
        .status("hooked", |status| waits_for(status, "CrashLoopBackOff"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused() {
    let cluster = Cluster::new().await;
    let mut spec = one(&[]);
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "1500m"}});
    cluster.named_pod("fits", spec.clone()).await;
    cluster.ready("fits").await;
    cluster.named_pod("much", spec).await;
    let status = cluster
        .status("much", |status| status["phase"] == "Failed")
        .await;
    assert_eq!(status["reason"], "OutOfcpu");
    let message = status["message"].as_str().expect("a message");
    assert!(
        message.contains("requested: 1500, used: 1500, capacity: 2000"),
        "{message}"
    );
    assert_eq!(cluster.machine.n_sandboxes(), 1);
    cluster.delete("much").await;
    cluster.gone("much").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_takes_too_long_is_ended() {
    let cluster = Cluster::new().await;
    let mut spec = one(&[]);
    spec["activeDeadlineSeconds"] = 1.into();
    cluster.pod(spec).await;
    let status = cluster
        .status("pod", |status| {
            // On a busy machine it may not even have come to run.
            let state = &status["containerStatuses"][0]["state"];
            status["phase"] == "Failed" && !state["running"].is_object()
        })
        .await;
    assert_eq!(status["reason"], "DeadlineExceeded");
    cluster
        .machine
        .until(|machine| {
            let works = machine.sandbox().is_some_and(|(one, _)| one.is_ready);
            (!works).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_restarts_its_container() {
    let cluster = Cluster::new().await;
    cluster.pod(one(&[])).await;
    cluster.ready("pod").await;
    let pods: Api<Pod> = cluster.api();
    let patch = json!({"spec": {"containers": [{"name": "c", "image": "image:2"}]}});
    let patched = pods
        .patch("pod", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .expect("patched");
    let status = cluster
        .status("pod", |status| {
            let container = &status["containerStatuses"][0];
            container["image"] == "image:2" && container["ready"] == true
        })
        .await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(
        status["observedGeneration"],
        json!(patched.metadata.generation)
    );
    assert_eq!(cluster.machine.most_running(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_of_others_keeps_a_pod_from_being_ready() {
    let cluster = Cluster::new().await;
    let mut spec = one(&[]);
    spec["readinessGates"] = json!([{"conditionType": "example.test/open"}]);
    cluster.pod(spec).await;
    let status = cluster
        .status("pod", |status| {
            condition(status, "ContainersReady").is_some_and(|ready| ready["status"] == "True")
        })
        .await;
    let ready = condition(&status, "Ready").expect("a condition");
    assert_eq!(ready["reason"], "ReadinessGatesNotReady");
    let pods: Api<Pod> = cluster.api();
    let open = json!({"status": {"conditions": [{"type": "example.test/open", "status": "True"}]}});
    let pod = pods
        .patch_status("pod", &PatchParams::default(), &Patch::Strategic(open))
        .await
        .expect("patched");
    assert_eq!(pod.name_any(), "pod");
    let status = cluster.ready("pod").await;
    assert!(
        condition(&status, "example.test/open").is_some(),
        "others' are kept"
    );
    let ready = condition(&status, "Ready").expect("a condition");
    assert!(
        ready["reason"].is_null() && ready["message"].is_null(),
        "{ready}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_pod_of_the_same_name_is_another_pod() {
    let cluster = Cluster::new().await;
    let old = cluster.pod(one(&[])).await;
    let before = cluster.ready("pod").await;
    let pods: Api<Pod> = cluster.api();
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    pods.delete("pod", &now).await.expect("deleted");
    let new = cluster.pod(one(&[])).await;
    assert_ne!(old.uid(), new.uid());
    let after = cluster.ready("pod").await;
    let id = |status: &Value| status["containerStatuses"][0]["containerID"].clone();
    assert_ne!(id(&before), id(&after));
    assert_eq!(after["containerStatuses"][0]["restartCount"], 0);
    cluster
        .machine
        .until(|machine| (machine.n_sandboxes() == 1).then_some(()))
        .await;
    let (agent, ..) = cluster.agent.as_ref().expect("an agent");
    let known = agent.pod("default", "pod").expect("it is known");
    assert_eq!(known.pod.uid(), new.uid());
    cluster.delete("pod").await;
    cluster.gone("pod").await;
    assert_eq!(cluster.machine.n_sandboxes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_container_looks_into_a_pod() {
    let cluster = Cluster::new().await;
    cluster.pod(one(&[])).await;
    cluster.ready("pod").await;
    let pods: Api<Pod> = cluster.api();
    let debug = json!({"spec": {"ephemeralContainers": [
        {"name": "debug", "image": "image:2", "targetContainerName": "c"}]}});
    pods.patch_ephemeral_containers("pod", &PatchParams::default(), &Patch::Strategic(debug))
        .await
        .expect("patched");
    let of = |status: &Value| status["ephemeralContainerStatuses"][0]["state"].clone();
    cluster
        .status("pod", |status| of(status)["running"].is_object())
        .await;
    // It ends and stays so; the pod goes on.
    cluster.machine.exit("debug", 1);
    let status = cluster
        .status("pod", |status| of(status)["terminated"].is_object())
        .await;
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    cluster.delete("pod").await;
    cluster.gone("pod").await;
    assert_eq!(cluster.machine.n_containers(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_grace_replaces_a_longer_one() {
    let cluster = Cluster::new().await;
    let mut spec = one(&["stubborn"]);
    spec["terminationGracePeriodSeconds"] = 300.into();
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["before"]}}});
    cluster.pod(spec).await;
    cluster.ready("pod").await;
    cluster.delete("pod").await;
    let stops = |n: usize| {
        move |machine: &crate::machine::Machine| {
            let stops = machine.stops();
            (stops.len() == n).then_some(stops)
        }
    };
    let first = cluster.machine.until(stops(1)).await;
    assert!((290..=300).contains(&first[0].as_secs()), "{first:?}");
    let pods: Api<Pod> = cluster.api();
    let soon = DeleteParams {
        grace_period_seconds: Some(1),
        ..DeleteParams::default()
    };
    pods.delete("pod", &soon).await.expect("deleted");
    let second = cluster.machine.until(stops(2)).await;
    assert!(second[1].as_secs() <= 2, "{second:?}");
    cluster.gone("pod").await;
    assert_eq!(cluster.machine.execs(), [["before"]], "the hook runs once");
    assert_eq!(cluster.machine.n_sandboxes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_still_pulling_can_go() {
    let cluster = Cluster::new().await;
    let slow = json!({"containers": [{"name": "c", "image": "slow:1"}]});
    cluster.pod(slow).await;
    cluster.event("Pulling").await;
    cluster.delete("pod").await;
    cluster.gone("pod").await;
    assert_eq!(cluster.machine.n_sandboxes(), 0);
    assert!(cluster.machine.container("c").is_none());
}
