//! The cluster: up to Ready, a pod to Running, a container and a pod replaced,
//! objects created, memory at rest.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dhow_testkit::Daemon;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::containers::resident;
use crate::report::Report;
use crate::turns::{Contender, in_turns, row, run};

/// Rounds of measurements that take seconds.
const FEW: usize = 5;
/// Objects that are created.
const OBJECTS: usize = 2000;
/// Requests under way at a time.
const AT_ONCE: usize = 32;
/// Whatever is awaited happens within this time, or the run fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    report.part("Cluster");
    let daemon = Daemon::start();
    daemon.busybox();
    report.figure(
        "daemon without a cluster, resident",
        resident(&[daemon.pid()]),
        "MiB",
    );
    let contender = Contender::new("dhow up", || {
        run(&mut daemon.dhow_command(&["down", "--forget"]))?;
        run(&mut daemon.dhow_command(&["up", "--node-name", "node"]))
    });
    report.times(
        "dhow up, from nothing to a node that is Ready",
        &in_turns(FEW, vec![contender])?,
    );
    report.figure(
        "daemon with an idle cluster, resident",
        resident(&[daemon.pid()]),
        "MiB",
    );

    let kubeconfig = daemon.host().folder().join("data/cluster/kubeconfig");
    daemon.host().inside(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(with_client(report, rounds, &kubeconfig, |id| {
            daemon.docker_command(&["kill", id])
        }))
    })?;
    report.figure(
        "daemon after all of that, resident",
        resident(&[daemon.pid()]),
        "MiB",
    );
    run(&mut daemon.dhow_command(&["down", "--forget"]))?;
    daemon.finish();
    Ok(())
}

async fn with_client(
    report: &mut Report,
    rounds: usize,
    kubeconfig: &Path,
    kill: impl Fn(&str) -> Command,
) -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    // The first pod of a namespace waits for its service account.
    create_and_wait(&pods, "first").await?;

    let mut times = Vec::new();
    for number in 0..rounds {
        times.push(create_and_wait(&pods, &format!("timed-{number}")).await?);
    }
    report.times(
        "a pod, from POST to Running as a watcher sees it",
        &[row("pod", times)],
    );

    let mut times = Vec::new();
    for _ in 0..FEW {
        let pod = pods.get("first").await?;
        let before = restarts(&pod);
        let id = container_id(&pod).context("a container that runs has an id")?;
        let began = Instant::now();
        run(&mut kill(&id))?;
        until(&pods, "first", |pod| {
            restarts(pod) > before && is_running(pod)
        })
        .await?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        // The next restart would wait for its back-off: take a fresh pod.
        pods.delete("first", &DeleteParams::default().grace_period(0))
            .await?;
        until_gone(&pods, "first").await?;
        create_and_wait(&pods, "first").await?;
    }
    report.times(
        "a container killed, to its replacement running",
        &[row("container", times)],
    );

    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let began = Instant::now();
    stream::iter(0..OBJECTS)
        .map(|number| {
            let maps = maps.clone();
            async move {
                let map: ConfigMap = serde_json::from_value(json!({
                    "metadata": { "name": format!("map-{number}") },
                    "data": { "key": "value" },
                }))?;
                maps.create(&PostParams::default(), &map).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let rate = OBJECTS as f64 / began.elapsed().as_secs_f64();
    report.figure(
        "ConfigMaps created, 32 at a time, durable",
        rate,
        "a second",
    );
    Ok(())
}

/// Creates a pod; returns the milliseconds until it runs.
async fn create_and_wait(pods: &Api<Pod>, name: &str) -> Result<f64> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main",
                "image": "busybox",
                "imagePullPolicy": "Never",
                "command": ["sleep", "3600"],
            }],
        },
    }))?;
    let began = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    until(pods, name, is_running).await?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

async fn until(pods: &Api<Pod>, name: &str, done: impl Fn(&Pod) -> bool) -> Result<()> {
    let changes = watcher(pods.clone(), by_name(name)).applied_objects();
    let mut changes = std::pin::pin!(changes);
    let looking = async {
        while let Some(pod) = changes.try_next().await? {
            if done(&pod) {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the watch ended")
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .with_context(|| format!("pod {name} does not come to where it should be"))?
}

async fn until_gone(pods: &Api<Pod>, name: &str) -> Result<()> {
    let changes = watcher(pods.clone(), by_name(name)).touched_objects();
    let mut changes = std::pin::pin!(changes);
    let looking = async {
        while pods.get_opt(name).await?.is_some() {
            changes.try_next().await?.context("the watch ended")?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .with_context(|| format!("pod {name} does not go"))?
}

fn by_name(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

fn is_running(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && container(pod).is_some_and(|status| {
            status
                .state
                .as_ref()
                .is_some_and(|state| state.running.is_some())
        })
}

fn restarts(pod: &Pod) -> i32 {
    container(pod).map_or(0, |status| status.restart_count)
}

fn container_id(pod: &Pod) -> Option<String> {
    let id = container(pod)?.container_id.as_deref()?;
    Some(id.split_once("://")?.1.to_owned())
}

fn container(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}
