//! `state`, `list`, `ps`, `features`: looking without touching.

use std::ffi::{OsStr, OsString};
use std::process::Command;

use anyhow::{Context, anyhow, ensure};
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
            let table = table(&parsed.words[1..])?;
            for line in own_lines(&table, &pids)? {
                println!("{line}");
            }
        }
        Some(other) => return Err(unknown_format(other).into()),
    }
    Ok(0)
}

/// What ps(1) says of all processes, with the options it was given.
fn table(options: &[OsString]) -> anyhow::Result<String> {
    let mut ps = Command::new("ps");
    match options {
        [] => ps.arg("-ef"),
        options => ps.args(options),
    };
    let output = ps.output().context("run ps")?;
    ensure!(
        output.status.success(),
        "ps: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The head of a table of processes, and the lines of some of them.
fn own_lines<'a>(table: &'a str, pids: &[i32]) -> anyhow::Result<Vec<&'a str>> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head
        .split_whitespace()
        .position(|name| name == "PID")
        .context("ps shows no column PID; it is needed to tell the container's processes")?;
    let is_own = |line: &&str| {
        let pid = line.split_whitespace().nth(column);
        pid.and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    Ok([head].into_iter().chain(lines.filter(is_own)).collect())
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

#[cfg(test)]
mod tests {
    use super::own_lines;

    #[test]
    fn lines_are_told_by_their_column() {
        let table =
            "UID   PID  PPID CMD\nroot    7     1 sh 8\nroot    8     7 cat\nroot   78     1 x";
        let own = own_lines(table, &[8, 78]).unwrap();
        assert_eq!(
            own,
            [
                "UID   PID  PPID CMD",
                "root    8     7 cat",
                "root   78     1 x"
            ]
        );
        let error = own_lines("USER CMD\nroot sh", &[8])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no column PID"), "{error}");
        assert!(own_lines("", &[8]).is_err());
    }
}
