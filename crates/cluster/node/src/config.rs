//! What the agent is told when it is made. Nothing here is read from the machine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// What the agent is told when it is made.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Name of the Node object.
    pub name: String,
    /// Where pods' volumes, tokens and hosts files live; survives a reboot.
    pub directory: PathBuf,
    /// Addresses of this machine, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Labels of the Node object besides host name, system and architecture.
    pub labels: BTreeMap<String, String>,
    /// Range of the addresses that pods get here.
    pub pod_cidr: Option<String>,
    /// Domain of the cluster's names, as `cluster.local`.
    pub cluster_domain: String,
    /// Name servers of the cluster; none leaves pods with the host's.
    pub cluster_dns: Vec<IpAddr>,
    /// The host's `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// How much there is to give.
    pub capacity: Capacity,
    /// What this machine is.
    pub system: System,
    /// Port of the agent's own HTTP server, for the Node object; 0 is none.
    pub port: u16,
}

/// How much a machine has to give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Processor time, in thousandths of a core.
    pub cpu: i64,
    /// Memory, in bytes.
    pub memory: i64,
    /// Disk for images, logs and volumes, in bytes.
    pub ephemeral_storage: i64,
    /// Number of pods.
    pub pods: i64,
}

/// What a machine is, for `kubectl get nodes -o wide`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct System {
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the distribution.
    pub os_image: String,
    /// Architecture in Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// Contents of `/etc/machine-id`.
    pub machine_id: String,
    /// Identifier of this boot.
    pub boot_id: String,
    /// Version the agent reports as the kubelet's, as `v1.37.0`.
    pub version: String,
}
