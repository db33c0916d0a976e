//! What a group may use, in words of neither version.

use std::collections::BTreeMap;
use std::fmt;

use crate::DeviceRule;

/// Limits of a group. What is absent or empty stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory; negative is no limit.
    pub memory: Option<i64>,
    /// Bytes of memory kept for the group when memory is short; negative is none.
    pub memory_reservation: Option<i64>,
    /// Bytes of memory and swap together; negative is no limit.
    pub memory_and_swap: Option<i64>,
    /// 0 to 100; version 1 only.
    pub swappiness: Option<u64>,
    /// Whether processes wait instead of being killed; version 1 only.
    pub oom_kill_disabled: Option<bool>,
    /// Bytes of TCP buffers; version 1 only.
    pub kernel_tcp: Option<i64>,
    /// Relative weight, 2 to 262144; 1024 is the usual. Zero leaves it.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time per period; zero or negative is no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds of a period; zero leaves it.
    pub cpu_period: Option<u64>,
    /// Microseconds that may be saved up.
    pub cpu_burst: Option<u64>,
    /// 1 runs only when nothing else does.
    pub cpu_idle: Option<i64>,
    /// Microseconds of real-time scheduling per real-time period; version 1 only.
    pub realtime_runtime: Option<i64>,
    /// Microseconds of a real-time period; version 1 only.
    pub realtime_period: Option<u64>,
    /// List of processors, such as `0-3,6`; empty leaves it.
    pub cpus: String,
    /// List of memory nodes; empty leaves it.
    pub mems: String,
    /// Number of processes; zero or negative is no limit.
    pub pids: Option<i64>,
    /// Relative weight, 10 to 1000. Zero leaves it.
    pub io_weight: Option<u16>,
    /// Relative weight against the groups below, 10 to 1000; version 1 only. Zero
    /// leaves it.
    pub io_leaf_weight: Option<u16>,
    /// Weights for single devices.
    pub io_weights: Vec<Weight>,
    /// Rates for single devices.
    pub throttles: Vec<Throttle>,
    /// Bytes of huge pages, by size such as `2MB`.
    pub huge_pages: Vec<(String, u64)>,
    /// Class identifier of packets; version 1 only.
    pub network_class: Option<u32>,
    /// Priorities of packets by interface; version 1 only.
    pub interface_priorities: Vec<(String, u32)>,
    /// Remote direct memory access, by device.
    pub rdma: Vec<Rdma>,
    /// Device access, in order; a later rule wins.
    pub devices: Vec<DeviceRule>,
    /// Files of the version 2 group, written as they are.
    pub unified: BTreeMap<String, String>,
}

/// Relative weight for one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// 10 to 1000.
    pub weight: Option<u16>,
    /// The same against the groups below; version 1 only.
    pub leaf_weight: Option<u16>,
}

/// Limits of one device for remote direct memory access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rdma {
    /// Its name.
    pub device: String,
    /// How many handles.
    pub handles: Option<u32>,
    /// How many objects.
    pub objects: Option<u32>,
}

impl fmt::Display for Rdma {
    /// The form `rdma.max` takes.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.device)?;
        for (name, limit) in [("hca_handle", self.handles), ("hca_object", self.objects)] {
            if let Some(limit) = limit {
                write!(formatter, " {name}={limit}")?;
            }
        }
        Ok(())
    }
}

/// Rate for one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// What is counted.
    pub kind: ThrottleKind,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Bytes or operations per second.
    pub rate: u64,
}

/// What a throttle counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleKind {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WrittenBytes,
    /// Read operations.
    Reads,
    /// Write operations.
    Writes,
}
