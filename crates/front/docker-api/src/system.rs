//! The daemon itself: ping, version, info, events, disk usage, logins.

mod events;
mod usage;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use dhow_engine::{Machine, Status};
use dhow_image::{RegistryAuth, RegistryOptions};
use serde_json::{Value, json};

use crate::body::Document;
use crate::error::{Answer, Failure};
use crate::version::Version;
use crate::{API_VERSION, Door, MIN_API_VERSION};

pub(crate) use events::events;
pub(crate) use usage::disk_usage;

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

pub(crate) async fn info(State(door): State<Door>, version: Version) -> Answer {
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
    let mut shown = json!({
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
            "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
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
        "CgroupDriver": door.engine.config().groups.driver_name(),
        "CgroupVersion": cgroup_version,
        "NEventsListener": 0,
        "KernelVersion": system.release().to_string_lossy(),
        "OperatingSystem": operating_system(),
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": system.machine().to_string_lossy(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registries(&door.engine.images().options().registries),
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
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "GenericResources": null,
        "SecurityOptions": security_options(&door, machine),
        "Warnings": null,
    });
    by_version(&mut shown, version);
    Ok(Json(shown).into_response())
}

/// Adds what only some versions show.
fn by_version(info: &mut Value, version: Version) {
    if version.since(44) {
        info["CDISpecDirs"] = json!([]);
    }
    if version.before(47) {
        for field in [
            "AllowNondistributableArtifactsCIDRs",
            "AllowNondistributableArtifactsHostnames",
        ] {
            info["RegistryConfig"][field] = Value::Null;
        }
    }
    if version.since(49) {
        info["FirewallBackend"] = json!({ "Driver": "nftables" });
    } else {
        for field in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            info[field]["Expected"] = json!("");
        }
    }
    if version.before(50) {
        info["BridgeNfIptables"] = json!(false);
        info["BridgeNfIp6tables"] = json!(false);
    }
}

/// Whom the daemon trusts among registries, and whom it asks before Docker Hub.
fn registries(options: &RegistryOptions) -> Value {
    let ended = |mirror: &String| format!("{}/", mirror.trim_end_matches('/'));
    let mirrors: Vec<String> = options.mirrors.iter().map(ended).collect();
    let hub = json!({ "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true });
    let mut indexes = json!({ "docker.io": hub });
    let mut ranges = vec!["127.0.0.0/8", "::1/128"];
    for insecure in &options.insecure {
        if insecure.contains('/') {
            ranges.push(insecure);
        } else {
            indexes[insecure] =
                json!({ "Name": insecure, "Mirrors": [], "Secure": false, "Official": false });
        }
    }
    let mirrors = (!mirrors.is_empty()).then_some(mirrors);
    json!({ "IndexConfigs": indexes, "InsecureRegistryCIDRs": ranges, "Mirrors": mirrors })
}

fn security_options(door: &Door, machine: Machine) -> Vec<&'static str> {
    let mut options = Vec::new();
    if machine.apparmor {
        options.push("name=apparmor");
    }
    options.push("name=seccomp,profile=builtin");
    if door.engine.config().selinux.is_some() {
        options.push("name=selinux");
    }
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

/// `GET /plugins`: there are none.
pub(crate) async fn plugins() -> Json<Value> {
    Json(json!([]))
}

pub(crate) async fn auth(State(door): State<Door>, Document(body): Document) -> Answer {
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
