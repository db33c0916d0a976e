//! `spec`: a configuration to start from.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, ensure};
use dhow_runtime::spec::{
    Capabilities, DeviceRule, IdMapping, Linux, Mount, Namespace, NamespaceKind, Process,
    Resources, Rlimit, Root, Spec,
};

use super::Outcome;
use crate::arguments::{Parsed, flag, value};

/// Destination, type, source, options.
const MOUNTS: [(&str, &str, &str, &str); 7] = [
    ("/proc", "proc", "proc", ""),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        "nosuid,strictatime,mode=755,size=65536k",
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
    ),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        "nosuid,noexec,nodev,mode=1777,size=65536k",
    ),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    (
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        "nosuid,noexec,nodev,relatime,ro",
    ),
];

const MASKED: &str = "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys \
    /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/scsi \
    /sys/devices/virtual/powercap /sys/firmware";

const READ_ONLY: &str = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger";

pub fn spec(words: impl Iterator<Item = OsString>) -> Outcome {
    let parsed = Parsed::parse(words, &[value("bundle", 'b'), flag("rootless", '\0')])?;
    let path = parsed
        .path("bundle")
        .unwrap_or_else(|| ".".into())
        .join("config.json");
    let write = || -> anyhow::Result<()> {
        ensure!(
            !path.exists(),
            "file {} exists; remove it first",
            path.display()
        );
        let mut spec = template();
        if parsed.has("rootless") {
            make_rootless(&mut spec);
        }
        let text = serde_json::to_string_pretty(&spec)?;
        std::fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))
    };
    write()?;
    Ok(0)
}

/// What a user without privileges may make: a user namespace in which they are
/// root and nobody else is there, on the host's network, without limits.
fn make_rootless(spec: &mut Spec) {
    let own = |host_id| {
        vec![IdMapping {
            container_id: 0,
            host_id,
            size: 1,
        }]
    };
    let linux = spec.linux.get_or_insert_default();
    linux.resources = None;
    linux
        .namespaces
        .retain(|namespace| namespace.kind != NamespaceKind::Network);
    linux.namespaces.push(Namespace {
        kind: NamespaceKind::User,
        path: None,
    });
    linux.uid_mappings = own(rustix::process::geteuid().as_raw());
    linux.gid_mappings = own(rustix::process::getegid().as_raw());
    for mount in &mut spec.mounts {
        // A new one would need a network namespace.
        if mount.destination == Path::new("/sys") {
            mount.kind = Some("none".to_owned());
            mount.source = Some("/sys".to_owned());
            mount.options.insert(0, "rbind".to_owned());
        }
        // There are no other users and groups.
        mount
            .options
            .retain(|option| !option.starts_with("uid=") && !option.starts_with("gid="));
    }
}

fn template() -> Spec {
    let list = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let capabilities = list("CAP_AUDIT_WRITE CAP_KILL CAP_NET_BIND_SERVICE");
    let mount = |(destination, kind, source, options): (&str, &str, &str, &str)| Mount {
        destination: destination.into(),
        kind: Some(kind.to_owned()),
        source: Some(source.to_owned()),
        options: options
            .split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect(),
        ..Mount::default()
    };
    let namespace = |kind| Namespace { kind, path: None };
    Spec {
        oci_version: dhow_runtime::OCI_VERSION.to_owned(),
        process: Some(Process {
            terminal: true,
            args: list("sh"),
            env: list(
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=xterm",
            ),
            capabilities: Some(Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
                ..Capabilities::default()
            }),
            rlimits: vec![Rlimit {
                kind: "RLIMIT_NOFILE".to_owned(),
                hard: 1024,
                soft: 1024,
            }],
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(Root {
            path: "rootfs".into(),
            readonly: true,
        }),
        hostname: "dhow".to_owned(),
        mounts: MOUNTS.into_iter().map(mount).collect(),
        linux: Some(Linux {
            namespaces: [
                NamespaceKind::Pid,
                NamespaceKind::Network,
                NamespaceKind::Ipc,
                NamespaceKind::Uts,
                NamespaceKind::Mount,
                NamespaceKind::Cgroup,
            ]
            .map(namespace)
            .into(),
            resources: Some(Resources {
                devices: vec![DeviceRule {
                    allow: false,
                    kind: None,
                    major: None,
                    minor: None,
                    access: Some("rwm".to_owned()),
                }],
                ..Resources::default()
            }),
            masked_paths: list(MASKED),
            readonly_paths: list(READ_ONLY),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}
