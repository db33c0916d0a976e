//! What a container is: the configuration it was created with.
//!
//! The fields, their names and their units are those of the Docker Engine API
//! (`ContainerConfig`, `HostConfig`, `EndpointSettings`), so that what was
//! asked for can be shown again as it was. What this platform has no use for
//! (Windows, swarm) is left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use dhow_oci::{Empty, Healthcheck};

/// How the process of a container runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    /// Host name; empty means the first twelve digits of the id.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    pub user: String,
    /// Whether the client meant to attach to standard input.
    pub attach_stdin: bool,
    /// Whether the client meant to attach to standard output.
    pub attach_stdout: bool,
    /// Whether the client meant to attach to standard error.
    pub attach_stderr: bool,
    /// `port/protocol` of the ports it listens on.
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub open_stdin: bool,
    /// Whether its standard input ends with the first client that attached.
    pub stdin_once: bool,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// What is executed, or the arguments to the entry point.
    #[serde(with = "words")]
    pub cmd: Option<Vec<String>>,
    /// How health is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The image, as it was asked for.
    pub image: String,
    /// Paths that hold data of their own.
    pub volumes: BTreeMap<String, Empty>,
    /// Where the process starts; empty means `/`.
    pub working_dir: String,
    /// What is always executed.
    #[serde(with = "words")]
    pub entrypoint: Option<Vec<String>>,
    /// Hardware address on the network of its mode; older clients say it here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    /// No network at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub network_disabled: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to stop; empty means `SIGTERM`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds between the stop signal and the kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// The shell of the shell form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// What a container gets of its host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    /// Bind mounts and volumes, `source:target[:options]`.
    pub binds: Vec<String>,
    /// File that the client wrote the id to.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Where the output goes.
    pub log_config: LogConfig,
    /// `bridge`, `host`, `none`, `container:ID` or a network's name; empty and
    /// `default` mean `bridge`.
    pub network_mode: String,
    /// Published ports by `port/protocol`.
    pub port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// When it is started again.
    pub restart_policy: RestartPolicy,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// Driver of volumes made for it.
    pub volume_driver: String,
    /// Containers whose volumes it gets as well, `ID[:ro]`.
    pub volumes_from: Vec<String>,
    /// Mounts in their long form.
    pub mounts: Vec<MountSpec>,
    /// Rows and columns of the first terminal.
    pub console_size: Option<[u16; 2]>,
    /// Free-form labels for the runtime.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Capabilities above the default ones.
    pub cap_add: Vec<String>,
    /// Default capabilities it goes without.
    pub cap_drop: Vec<String>,
    /// `private` or `host`.
    pub cgroupns_mode: String,
    /// Name servers.
    pub dns: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
    /// Search domains of the resolver.
    pub dns_search: Vec<String>,
    /// Further lines of `/etc/hosts`, `name:address`.
    pub extra_hosts: Vec<String>,
    /// Further groups, by name or number.
    pub group_add: Vec<String>,
    /// `private`, `shareable`, `host`, `none` or `container:ID`.
    pub ipc_mode: String,
    /// Empty or `default`: other systems have others.
    pub isolation: String,
    /// Names for other containers, `container:alias`.
    pub links: Vec<String>,
    /// Score by which the kernel chooses whom to kill for want of memory.
    pub oom_score_adj: i32,
    /// Empty for its own, `host` or `container:ID`.
    pub pid_mode: String,
    /// Everything is allowed.
    pub privileged: bool,
    /// Whether all exposed ports are published at free host ports.
    pub publish_all_ports: bool,
    /// Whether the root filesystem is read-only.
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `no-new-privileges`, `apparmor=…`, `label=…`,
    /// `systempaths=unconfined`.
    pub security_opt: Vec<String>,
    /// Options of the storage driver.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_opt: BTreeMap<String, String>,
    /// In-memory filesystems by path, with mount options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, String>,
    /// Empty for its own, or `host`.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// Empty or `host`.
    pub userns_mode: String,
    /// Size of `/dev/shm` in bytes; zero means 64 MiB.
    pub shm_size: i64,
    /// Kernel parameters of its namespaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// OCI runtime; only ours.
    pub runtime: String,
    /// Relative weight of processor time.
    pub cpu_shares: i64,
    /// Memory limit in bytes; zero is none.
    pub memory: i64,
    /// Bytes of kernel memory: no kernel has that limit any more.
    #[serde(skip_serializing_if = "is_zero")]
    pub kernel_memory: i64,
    /// Bytes of TCP buffers; zero is no limit.
    #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
    pub kernel_memory_tcp: i64,
    /// Billionths of a processor; zero is no limit.
    pub nano_cpus: i64,
    /// Parent control group.
    pub cgroup_parent: String,
    /// Relative weight of block I/O.
    pub blkio_weight: u16,
    /// Weights for single devices.
    pub blkio_weight_device: Vec<WeightDevice>,
    /// Bytes read per second from a device.
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    /// Bytes written per second to a device.
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    /// Reads per second from a device.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    /// Writes per second to a device.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
    /// Microseconds of a scheduling period.
    pub cpu_period: i64,
    /// Microseconds of processor time in a period; zero is no limit.
    pub cpu_quota: i64,
    /// Microseconds of a real-time period.
    pub cpu_realtime_period: i64,
    /// Microseconds of real-time scheduling in a period.
    pub cpu_realtime_runtime: i64,
    /// Processors, such as `0-3,6`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
    /// Devices of the host.
    pub devices: Vec<DeviceMapping>,
    /// Device rules, such as `c 1:3 mr`.
    pub device_cgroup_rules: Vec<String>,
    /// Requests to device drivers (GPUs): always refused.
    pub device_requests: Vec<serde_json::Value>,
    /// Soft memory limit in bytes.
    pub memory_reservation: i64,
    /// Limit of memory and swap in bytes; -1 is none, zero twice the memory.
    pub memory_swap: i64,
    /// 0 to 100; none leaves the kernel's.
    pub memory_swappiness: Option<i64>,
    /// Whether its processes wait instead of being killed.
    pub oom_kill_disable: Option<bool>,
    /// Limit of processes; none, zero or -1 is no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// Permission bits that new files of its processes go without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Whether an init of ours is its first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Paths made unreadable; none means the default ones.
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; none means the default ones.
    pub readonly_paths: Option<Vec<String>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct LogConfig {
    /// `local`, `json-file`, `journald` or `none`; empty means the daemon's.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Options of the driver.
    pub config: BTreeMap<String, String>,
}

/// One host address and port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortBinding {
    /// Host address; empty means all.
    pub host_ip: String,
    /// Host port or range; empty means a free one.
    pub host_port: String,
}

/// When a container is started again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped` or `on-failure`; empty means `no`.
    pub name: String,
    /// How often at most, for `on-failure`; zero is no limit.
    pub maximum_retry_count: i64,
}

/// A mount in its long form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MountSpec {
    /// `bind`, `volume`, `tmpfs` or `image`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Path on the host, or name of the volume or image.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Options of bind mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// Options of volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// Options of in-memory filesystems.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// Options of images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
}

/// Options of images that are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageOptions {
    /// Folder in the image.
    pub subpath: String,
}

/// Options of bind mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BindOptions {
    /// `rprivate` and so on; empty means `rprivate`.
    pub propagation: String,
    /// Mounts below the source stay out.
    pub non_recursive: bool,
    /// A source that is missing is made.
    pub create_mountpoint: bool,
    /// Of a read-only mount, mounts below the source stay writable.
    pub read_only_non_recursive: bool,
    /// A read-only mount fails where mounts below it cannot be read-only.
    pub read_only_force_recursive: bool,
}

/// Options of volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeOptions {
    /// A new volume does not get what the image has at its path.
    pub no_copy: bool,
    /// Labels of a volume that is made.
    pub labels: BTreeMap<String, String>,
    /// Folder in the volume.
    pub subpath: String,
    /// Driver of a volume that is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<VolumeDriver>,
}

/// Driver of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeDriver {
    /// `local`, or empty for it.
    pub name: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// Options of in-memory filesystems.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TmpfsOptions {
    /// Size in bytes.
    pub size_bytes: i64,
    /// Permission bits.
    pub mode: u32,
    /// Further mount options, each a name or a name and its value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Vec<String>>,
}

/// A device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceMapping {
    /// Path on the host.
    pub path_on_host: String,
    /// Path in the container.
    pub path_in_container: String,
    /// Letters of `rwm`.
    pub cgroup_permissions: String,
}

/// The weight of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WeightDevice {
    /// Path on the host.
    pub path: String,
    /// Relative weight, 10 to 1000.
    pub weight: u16,
}

/// The rate of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ThrottleDevice {
    /// Path on the host.
    pub path: String,
    /// Bytes or operations per second.
    pub rate: u64,
}

/// A resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ulimit {
    /// Name without `RLIMIT_`, in small letters.
    pub name: String,
    /// Soft limit; -1 is none.
    pub soft: i64,
    /// Hard limit; -1 is none.
    pub hard: i64,
}

/// How a container is joined to one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointSettings {
    /// Addresses asked for.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpam>,
    /// Names that only this container resolves, `container:alias`.
    pub links: Option<Vec<String>>,
    /// Further names by which it is found.
    pub aliases: Option<Vec<String>>,
    /// Hardware address.
    pub mac_address: String,
    /// Options of the driver.
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// The network with the highest has the default route.
    pub gw_priority: i32,
}

/// Addresses asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointIpam {
    /// IPv4 address.
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    pub ipv4_address: String,
    /// IPv6 address.
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    pub ipv6_address: String,
    /// Link-local addresses to have besides.
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<String>,
}

/// Command lines: a list of words, or one string that is a list of one.
mod words {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(
        words: &Option<Vec<String>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        words.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Vec<String>>, D::Error> {
        Ok(
            Option::<Words>::deserialize(from)?.map(|words| match words {
                Words::One(word) => vec![word],
                Words::Many(words) => words,
            }),
        )
    }
}
