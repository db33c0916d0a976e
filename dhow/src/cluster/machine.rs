//! This machine as a node: what it is and how much it has to give.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dhow_node::{Capacity, Config, System};

use super::settings::Settings;

/// Pods of one node, as the kubelet has it.
const PODS: i64 = 110;

/// What the node agent is told.
pub(super) fn node_config(
    settings: &Settings,
    directory: PathBuf,
    address: IpAddr,
    resolv_conf: &Path,
    domain: &str,
) -> Result<Config> {
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("make folder {}", directory.display()))?;
    let capacity = capacity(&directory)?;
    Ok(Config {
        name: settings.node.clone(),
        directory,
        addresses: vec![address],
        pod_cidr: Some(settings.pods()?),
        cluster_domain: domain.into(),
        cluster_dns: vec![settings.dns()?],
        resolv_conf: resolv_conf.into(),
        capacity,
        system: system(),
        ..Config::default()
    })
}

fn capacity(directory: &Path) -> Result<Capacity> {
    let processors = std::thread::available_parallelism().context("count the processors")?;
    let processors = i64::try_from(processors.get()).unwrap_or(i64::MAX);
    let memory = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kilobytes: i64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    let disk = rustix::fs::statvfs(directory)
        .with_context(|| format!("look at the disk of {}", directory.display()))?;
    let disk = disk.f_blocks.saturating_mul(disk.f_frsize);
    Ok(Capacity {
        cpu: processors.saturating_mul(1000),
        memory: kilobytes.saturating_mul(1024),
        ephemeral_storage: i64::try_from(disk).unwrap_or(i64::MAX),
        pods: PODS,
    })
}

fn system() -> System {
    let names = rustix::system::uname();
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    let release = read("/etc/os-release");
    let os_image = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches('"')
        .to_owned();
    System {
        kernel: names.release().to_string_lossy().into_owned(),
        os_image,
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .into(),
        machine_id: read("/etc/machine-id"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        version: concat!("v1.37.0+dhow-", env!("CARGO_PKG_VERSION")).into(),
    }
}
