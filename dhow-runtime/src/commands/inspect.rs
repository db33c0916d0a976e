//! `state`, `list`, `ps`, `features`: looking without touching.

use std::ffi::{OsStr, OsString};

use anyhow::anyhow;
use dhow_runtime::{Container, Moment, Runtime, Status};
use serde::Serialize;

use super::{Outcome, told, with_id};
use crate::arguments::{Parsed, flag, value};

/// A container as runc shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: Status,
    bundle: &'a std::path::Path,
    rootfs: &'a std::path::Path,
    created: Moment,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
    owner: String,
}

impl<'a> Shown<'a> {
    fn of(container: &'a Container) -> Result<Self, dhow_runtime::RuntimeError> {
        let state = container.state()?;
        Ok(Self {
            oci_version: dhow_runtime::OCI_VERSION,
            id: container.id(),
            pid: state.pid,
            status: state.status,
            bundle: container.bundle(),
            rootfs: container.rootfs(),
            created: container.created(),
            annotations: state.annotations,
            owner: container.owner(),
        })
    }
}

pub fn state(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (_, id) = with_id(words, &[])?;
    let container = runtime.open(&id).map_err(told)?;
    let shown = Shown::of(&container).map_err(told)?;
    println!("{}", serde_json::to_string_pretty(&shown)?);
    Ok(0)
}

pub fn list(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let parsed = Parsed::parse(words, &[value("format", 'f'), flag("quiet", 'q')])?;
    let containers = runtime.list().map_err(told)?;
    // One that is removed at this moment is passed over.
    let shown: Vec<_> = containers
        .iter()
        .filter_map(|container| Shown::of(container).ok())
        .collect();
    if parsed.has("quiet") {
        shown.iter().for_each(|shown| println!("{}", shown.id));
        return Ok(0);
    }
    match parsed.get("format").and_then(OsStr::to_str) {
        None | Some("table") => {
            let width = shown
                .iter()
                .map(|shown| shown.id.len())
                .max()
                .unwrap_or(0)
                .max(2);
            let bundles = shown
                .iter()
                .map(|shown| shown.bundle.as_os_str().len())
                .max()
                .unwrap_or(0)
                .max(6);
            println!(
                "{:width$}  {:8}  {:8}  {:bundles$}  {:30}  OWNER",
                "ID", "PID", "STATUS", "BUNDLE", "CREATED"
            );
            for Shown {
                id,
                pid,
                status,
                created,
                bundle,
                owner,
                ..
            } in &shown
            {
                let (status, bundle) = (status.to_string(), bundle.display().to_string());
                println!(
                    "{id:width$}  {pid:<8}  {status:8}  {bundle:bundles$}  {created:30}  {owner}"
                );
            }
        }
        Some("json") => println!("{}", serde_json::to_string(&shown)?),
        Some(other) => return Err(unknown_format(other).into()),
    }
    Ok(0)
}

pub fn ps(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (parsed, id) = with_id(words, &[value("format", 'f')])?;
    let container = runtime.open(&id).map_err(told)?;
    let pids = container.processes().map_err(told)?;
    match parsed.get("format").and_then(OsStr::to_str) {
        Some("json") => println!("{}", serde_json::to_string(&pids)?),
        None | Some("table") => {
            println!("{:8}  {:8}  COMMAND", "PID", "PPID");
            for pid in pids {
                let read =
                    |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let stat = read("stat");
                let stat = String::from_utf8_lossy(&stat);
                // The name may hold brackets; the parent is the second field after the last.
                let parent = stat
                    .rsplit(')')
                    .next()
                    .and_then(|rest| rest.split_whitespace().nth(1));
                let command = read("cmdline");
                let command: Vec<_> = command
                    .split(|byte| *byte == 0)
                    .map(String::from_utf8_lossy)
                    .collect();
                println!(
                    "{pid:<8}  {:8}  {}",
                    parent.unwrap_or("-"),
                    command.join(" ").trim_end()
                );
            }
        }
        Some(other) => return Err(unknown_format(other).into()),
    }
    Ok(0)
}

fn unknown_format(format: &str) -> anyhow::Error {
    anyhow!("unknown format {format:?}; use table or json")
}

/// What the runtime can do (features.md).
pub fn features() -> Outcome {
    let features = serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": dhow_runtime::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap",
            "lazytime", "mand", "noatime", "nodev", "nodiratime", "noexec", "nolazytime", "nomand",
            "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind",
            "rdev", "rdiratime", "relatime", "remount", "rexec", "ridmap", "rnoatime", "rnodev",
            "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow",
            "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime",
            "rsuid", "rsymfollow", "runbindable", "rw", "shared", "slave", "strictatime", "suid",
            "symfollow", "sync", "tmpcopyup", "unbindable"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": dhow_sys::capability::names(),
            "cgroup": {
                "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true
            },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE",
                    "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"
                ],
                "archs": if cfg!(target_arch = "x86_64") {
                    ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
                } else {
                    ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
                },
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
                ],
                "supportedFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
                ]
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "memoryPolicy": {
                "modes": [
                    "MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL",
                    "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"
                ],
                "flags": [
                    "MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"
                ]
            },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true }
        },
        "annotations": {}
    });
    println!("{}", serde_json::to_string_pretty(&features)?);
    Ok(0)
}
