//! The Rust client `bollard`, as it is: what it sends and how it reads answers.
//! Its models are generated from Docker's own description of the API, so that
//! a field of the wrong kind fails here.

use std::path::Path;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, HostConfig, NetworkConnectRequest, NetworkCreateRequest,
    VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptions, WaitContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use dhow_testkit::{Daemon, Reference};
use futures_util::{StreamExt as _, TryStreamExt as _};

/// Everyday use of a container, its networks and volumes.
async fn use_it(socket: &Path) -> Result<(), Error> {
    let path = socket.display().to_string();
    let docker = Docker::connect_with_socket(&path, 60, API_DEFAULT_VERSION)?
        .negotiate_version()
        .await?;
    docker.info().await?;
    docker.version().await?;
    docker.df(None).await?;
    let volume = VolumeCreateRequest {
        name: Some("rust-data".into()),
        ..VolumeCreateRequest::default()
    };
    docker.create_volume(volume).await?;
    let network = NetworkCreateRequest {
        name: "rust-net".into(),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(network).await?;
    let body = ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: Some(
            ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]
                .map(str::to_owned)
                .into(),
        ),
        labels: Some([("by".to_owned(), "rust".to_owned())].into()),
        host_config: Some(HostConfig {
            binds: Some(vec!["rust-data:/data".into()]),
            memory: Some(64 << 20),
            init: Some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::new().name("rust").build();
    let made = docker.create_container(Some(options), body).await?;
    docker.start_container(&made.id, None).await?;

    let shown = docker
        .inspect_container("rust", None::<InspectContainerOptions>)
        .await?;
    let state = shown.state.expect("a state");
    assert_eq!(
        (state.running, shown.id.as_deref()),
        (Some(true), Some(&*made.id))
    );
    let listed = docker
        .list_containers(Some(
            ListContainersOptionsBuilder::new()
                .all(true)
                .size(true)
                .build(),
        ))
        .await?;
    assert_eq!(listed.len(), 1);

    let logs = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .follow(true)
        .build();
    let mut lines = docker.logs("rust", Some(logs));
    let mut texts = Vec::new();
    while texts.len() < 2 {
        let line = lines.next().await.expect("it goes on")?;
        texts.push(match line {
            LogOutput::StdOut { message } => ("out", message),
            LogOutput::StdErr { message } => ("err", message),
            other => panic!("{other:?}"),
        });
    }
    texts.sort();
    assert_eq!(texts, [("err", "err\n".into()), ("out", "out\n".into())]);

    let exec = docker
        .create_exec(
            "rust",
            CreateExecOptions {
                attach_stdout: Some(true),
                cmd: Some(vec!["sh", "-c", "echo within; exit 4"]),
                ..CreateExecOptions::default()
            },
        )
        .await?;
    let StartExecResults::Attached { output, .. } = docker.start_exec(&exec.id, None).await? else {
        panic!("it is attached");
    };
    let output: Vec<LogOutput> = output.try_collect().await?;
    assert_eq!(output[0].to_string(), "within\n");
    assert_eq!(docker.inspect_exec(&exec.id).await?.exit_code, Some(4));

    let join = NetworkConnectRequest {
        container: "rust".into(),
        ..NetworkConnectRequest::default()
    };
    docker.connect_network("rust-net", join).await?;
    docker.inspect_network("rust-net", None).await?;
    docker.top_processes("rust", None).await?;
    docker.stats("rust", None).next().await.expect("a sample")?;
    docker.pause_container("rust").await?;
    docker.unpause_container("rust").await?;
    docker.kill_container("rust", None).await?;
    let waited: Result<Vec<_>, _> = docker
        .wait_container("rust", None::<WaitContainerOptions>)
        .try_collect()
        .await;
    // bollard makes an error of a code that is not zero.
    match waited {
        Err(Error::DockerContainerWaitError { code: 137, .. }) => {}
        other => panic!("{other:?}"),
    }
    docker.container_changes("rust").await?;
    let removal = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    docker.remove_container("rust", Some(removal)).await?;
    docker.remove_network("rust-net").await?;
    docker
        .remove_volume("rust-data", None::<RemoveVolumeOptions>)
        .await?;

    let events = EventsOptionsBuilder::new()
        .since("0")
        .until("9999999999")
        .build();
    let mut seen = Vec::new();
    let mut events = docker.events(Some(events));
    while let Some(event) = events.next().await {
        let action = event?.action.unwrap_or_default();
        seen.push(action.clone());
        if action == "destroy" && seen.iter().any(|one| one == "die") && seen.len() > 8 {
            break;
        }
    }
    assert!(seen.iter().any(|action| action == "exec_die"), "{seen:?}");
    match docker.remove_container("rust", None).await {
        Err(Error::DockerResponseServerError {
            status_code: 404,
            message,
        }) => {
            assert!(message.contains("No such container: rust"), "{message}");
            Ok(())
        }
        other => panic!("{other:?}"),
    }
}

fn run(socket: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime
        .block_on(use_it(socket))
        .expect("every call is answered as it is described");
}

#[test]
fn bollard_reads_every_answer() {
    let daemon = Daemon::start();
    daemon.busybox();
    run(&daemon.socket());
    daemon.finish();
}

#[test]
fn dockerd_gives_bollard_the_same() {
    let reference = Reference::start();
    reference.busybox();
    run(&reference.socket());
}
