//! What a control group says of the use of resources.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Use of resources by all processes of a group, since it was made.
///
/// What the kernel does not tell (a controller that is not there) is zero or absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    /// Memory.
    pub memory: MemoryStats,
    /// Processors.
    pub cpu: CpuStats,
    /// Processes.
    pub pids: PidsStats,
    /// Block devices, each once.
    pub io: Vec<IoDevice>,
}

/// Use of memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryStats {
    /// Memory in use, page cache included.
    pub usage: u64,
    /// Highest use seen; zero where the kernel does not keep it.
    pub max_usage: u64,
    /// Hard limit; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Memory and swap in use (v1) or swap alone (v2).
    pub swap: u64,
    /// How often the limit was hit.
    pub n_failures: u64,
    /// How often the kernel killed a process for want of memory.
    pub n_oom_kills: u64,
    /// `memory.stat`, as the kernel names it.
    pub details: BTreeMap<String, u64>,
}

/// Use of processors, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CpuStats {
    /// Processor time.
    pub total: u64,
    /// Of it in user mode.
    pub user: u64,
    /// Of it in the kernel.
    pub system: u64,
    /// Processor time by processor; empty where the kernel does not keep it (v2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_cpu: Vec<u64>,
    /// Periods of the quota that have passed.
    pub n_periods: u64,
    /// Periods in which the quota was used up.
    pub n_throttled: u64,
    /// Time spent waiting for the next period.
    pub throttled: u64,
}

/// Number of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PidsStats {
    /// Processes and threads there are.
    pub current: u64,
    /// How many there may be; absent if there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Use of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IoDevice {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub n_reads: u64,
    /// Write operations.
    pub n_writes: u64,
}
