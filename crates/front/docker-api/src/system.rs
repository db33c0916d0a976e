//! The daemon itself: ping, version, info, events, disk usage, logins.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use dhow_engine::{Event, Machine, Status};
use dhow_image::RegistryAuth;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::containers::{Listing, Parameters, blocking};
use crate::error::{Answer, Failure};
use crate::filters::Filters;
use crate::{API_VERSION, Door, MIN_API_VERSION, volumes};

pub(crate) async fn ping() -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
            (header::PRAGMA, "no-cache"),
        ],
        [("builder-version", "1"), ("swarm", "inactive")],
        "OK",
    )
}

pub(crate) async fn version(State(door): State<Door>) -> Answer {
    let system = rustix::system::uname();
    let kernel = system.release().to_string_lossy().into_owned();
    let details = json!({
        "ApiVersion": API_VERSION,
        "Arch": architecture(),
        "KernelVersion": kernel,
        "MinAPIVersion": MIN_API_VERSION,
        "Os": "linux",
    });
    Ok(Json(json!({
        "Platform": { "Name": "Dhow" },
        "Components": [{ "Name": "Engine", "Version": door.about.version, "Details": details }],
        "Version": door.about.version,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "BuildTime": "",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
    }))
    .into_response())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) async fn info(State(door): State<Door>) -> Answer {
    let system = rustix::system::uname();
    let records = door.engine.list();
    let count = |status: Status| {
        records
            .iter()
            .filter(|record| record.state.status == status)
            .count()
    };
    let (running, paused) = (count(Status::Running), count(Status::Paused));
    let memory = rustix::system::sysinfo();
    let machine = Machine::here();
    let cgroup_version = if machine.has_pure_v2 { "2" } else { "1" };
    Ok(Json(json!({
        "ID": door.about.id,
        "Containers": records.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": records.len() - running - paused,
        "Images": door.engine.images().list().len(),
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "host"], ["Supports d_type", "true"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": dhow_engine::LOG_DRIVERS,
        },
        "MemoryLimit": machine.memory,
        "SwapLimit": machine.swap,
        "CpuCfsPeriod": machine.cpu,
        "CpuCfsQuota": machine.cpu,
        "CPUShares": machine.cpu,
        "CPUSet": machine.cpuset,
        "PidsLimit": machine.pids,
        "IPv4Forwarding": true,
        "OomKillDisable": machine.oom_kill_disable,
        "Debug": false,
        "NFd": 0,
        "NGoroutines": 0,
        "SystemTime": dhow_engine::Moment::now().to_string(),
        "LoggingDriver": door.engine.config().log.kind,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroup_version,
        "NEventsListener": 0,
        "KernelVersion": system.release().to_string_lossy(),
        "OperatingSystem": operating_system(),
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": system.machine().to_string_lossy(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": { "IndexConfigs": { "docker.io": { "Name": "docker.io", "Mirrors": [], "Secure": true, "Official": true } }, "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"], "Mirrors": null },
        "NCPU": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "MemTotal": memory.totalram * u64::from(memory.mem_unit),
        "DockerRootDir": door.about.root,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": system.nodename().to_string_lossy(),
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": door.about.version,
        // Clients that ask for runc get what stands for it.
        "Runtimes": { "dhow": { "path": "dhow-runtime" }, "runc": { "path": "dhow-runtime" } },
        "DefaultRuntime": "dhow",
        "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "dhow-runtime",
        "ContainerdCommit": { "ID": "", "Expected": "" },
        "RuncCommit": { "ID": "", "Expected": "" },
        "InitCommit": { "ID": "", "Expected": "" },
        "GenericResources": null,
        "SecurityOptions": security_options(&door, machine),
        "Warnings": null,
    }))
    .into_response())
}

fn security_options(door: &Door, machine: Machine) -> Vec<&'static str> {
    let mut options = Vec::new();
    if machine.apparmor {
        options.push("name=apparmor");
    }
    options.push("name=seccomp,profile=builtin");
    if door.engine.config().remap.is_some() {
        options.push("name=userns");
    }
    options.push("name=cgroupns");
    options
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".into(), |name| name.trim_matches('"').into())
}

pub(crate) async fn events(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let known = [
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "label!",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    ];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let nanoseconds = |name: &str| -> Answer<Option<i64>> {
        let moment = crate::containers::moment(&query, name)?;
        Ok(moment.map(|moment| {
            let time: std::time::SystemTime = moment.into();
            let since = time
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        }))
    };
    let since = nanoseconds("since")?;
    // Zero is how clients say that there is no end.
    let until = nanoseconds("until")?.filter(|until| *until != 0);
    let (past, future) = door.engine.events().listen(since);
    let deadline = until.map(|until| {
        let now: std::time::SystemTime = dhow_engine::Moment::now().into();
        let now = now
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let until = std::time::Duration::from_nanos(until.try_into().unwrap_or(0));
        tokio::time::Instant::now() + until.saturating_sub(now)
    });
    let past = past
        .into_iter()
        .filter(move |event| until.is_none_or(|until| event.time <= until));
    let future = stream::unfold(future, move |mut receiver| async move {
        loop {
            let received = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, receiver.recv())
                    .await
                    .ok()?,
                None => receiver.recv().await,
            };
            match received {
                Ok(event) => return Some((event, receiver)),
                // A listener that fell behind goes on with what is left.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    use futures_util::StreamExt;
    let body = stream::iter(past).chain(future).filter_map(move |event| {
        let line = wanted(&filters, &event).then(|| Bytes::from(format!("{}\n", view(&event))));
        std::future::ready(line.map(Ok::<_, Infallible>))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(body),
    )
        .into_response())
}

fn wanted(filters: &Filters, event: &Event) -> bool {
    let named = |name: &str| {
        event.id.starts_with(name)
            || event
                .attributes
                .get("name")
                .is_some_and(|known| known == name)
    };
    let about = |kind: &str| {
        filters.get(kind).is_empty() || (event.kind == kind && filters.any(kind, named))
    };
    filters.any("type", |kind| event.kind == kind)
        && filters.any("event", |action| {
            event.action == action || event.action.split(':').next() == Some(action)
        })
        && ["container", "image", "volume", "network"]
            .into_iter()
            .all(about)
        && filters.labels(&event.attributes)
}

fn view(event: &Event) -> Value {
    let mut shown = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time / 1_000_000_000,
        "timeNano": event.time,
    });
    // Fields of old, for containers and images.
    if matches!(event.kind, "container" | "image") {
        shown["status"] = json!(event.action);
        shown["id"] = json!(event.id);
        if let Some(image) = event.attributes.get("image") {
            shown["from"] = json!(image);
        }
    }
    shown
}

pub(crate) async fn auth(State(door): State<Door>, body: Bytes) -> Answer {
    let auth: RegistryAuth = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad(format!("invalid JSON: {error}")))?;
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let registry = value["serveraddress"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    match door.engine.images().login(&registry, &auth).await {
        Ok(token) => Ok(Json(json!({
            "Status": "Login Succeeded",
            "IdentityToken": token.unwrap_or_default(),
        }))
        .into_response()),
        Err(dhow_image::Error::Denied(message)) => {
            Err(Failure::new(StatusCode::UNAUTHORIZED, message))
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn disk_usage(State(door): State<Door>) -> Answer {
    let shown = blocking(move || -> Result<Value, Failure> {
        let usage = door.engine.images().disk_usage();
        let images: Vec<Value> = door
            .engine
            .images()
            .list()
            .iter()
            .map(|listed| {
                let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                let n_users = door.engine.image_users(&listed.image.id).len();
                crate::images::summary(listed, count(listed.shared_size), count(n_users as u64))
            })
            .collect();
        let mut listing = Listing::new(&door);
        let containers: Vec<Value> = door
            .engine
            .list()
            .iter()
            .map(|record| json!(listing.entry(record, true)))
            .collect();
        let volumes: Vec<Value> = door
            .engine
            .volumes()
            .iter()
            .map(|volume| {
                let mut shown = volumes::view(&door, volume);
                shown["UsageData"] = json!({
                    "Size": volumes::size_below(&door.engine.volume_path(&volume.name)),
                    "RefCount": door.engine.volume_users(&volume.name).len(),
                });
                shown
            })
            .collect();
        Ok(json!({
            "LayersSize": usage.layers,
            "Images": images,
            "Containers": containers,
            "Volumes": volumes,
            "BuildCache": [{ "ID": "steps", "Type": "regular", "Description": "layers of build steps", "InUse": false, "Shared": false, "Size": usage.build_cache, "CreatedAt": "1970-01-01T00:00:00Z", "UsageCount": 0 }],
        }))
    })
    .await??;
    Ok(Json(shown).into_response())
}
