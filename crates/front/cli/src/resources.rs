//! What a container may use, as `run`, `create` and `update` say it.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::amounts::{bytes, bytes_or_all, nano_cpus};

// Limits that can be changed while a container runs.
#[derive(Debug, Default, Args)]
pub struct Resources {
    /// Limit of memory (such as 512m).
    #[arg(short, long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<i64>,
    /// Limit of memory and swap together (-1: no limit).
    #[arg(long, value_name = "BYTES", value_parser = bytes_or_all)]
    memory_swap: Option<i64>,
    /// Soft limit of memory.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_reservation: Option<i64>,
    /// Limit of the kernel's memory; kernels have none any more.
    #[arg(long, value_name = "BYTES", value_parser = bytes, hide = true)]
    kernel_memory: Option<i64>,
    /// Number of processors (such as 1.5).
    #[arg(long, value_name = "NUMBER", value_parser = nano_cpus)]
    cpus: Option<i64>,
    /// Relative weight of processor time.
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<i64>,
    /// Microseconds of a scheduling period.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Microseconds of processor time in a period.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,
    /// Microseconds of a real-time period.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<i64>,
    /// Microseconds of real-time scheduling in a period.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_runtime: Option<i64>,
    /// Processors it may use (such as 0-3).
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use (such as 0-1).
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Relative weight of block I/O (10 to 1000).
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Limit of processes (-1: no limit).
    #[arg(long, value_name = "NUMBER")]
    pids_limit: Option<i64>,
}

impl Resources {
    /// The fields that were given, as the API has them.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        [
            ("Memory", self.memory.map(Value::from)),
            ("MemorySwap", self.memory_swap.map(Value::from)),
            (
                "MemoryReservation",
                self.memory_reservation.map(Value::from),
            ),
            ("NanoCpus", self.cpus.map(Value::from)),
            ("CpuShares", self.cpu_shares.map(Value::from)),
            ("CpuPeriod", self.cpu_period.map(Value::from)),
            ("CpuQuota", self.cpu_quota.map(Value::from)),
            ("CpuRealtimePeriod", self.cpu_rt_period.map(Value::from)),
            ("CpuRealtimeRuntime", self.cpu_rt_runtime.map(Value::from)),
            ("CpusetCpus", self.cpuset_cpus.as_deref().map(Value::from)),
            ("CpusetMems", self.cpuset_mems.as_deref().map(Value::from)),
            ("BlkioWeight", self.blkio_weight.map(Value::from)),
            ("PidsLimit", self.pids_limit.map(Value::from)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }

    /// What `--kernel-memory` says, which only `update` sends.
    pub(crate) fn kernel_memory(&self) -> Option<i64> {
        self.kernel_memory
    }
}

/// When a container is started again, as the API has it.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn restart(text: &str) -> Result<Value, String> {
    let (name, retries) = match text.split_once(':') {
        Some((name, count)) => {
            let retries = count.parse::<i64>().map_err(
                |_| "invalid restart policy format: maximum retry count must be an integer",
            )?;
            (name, retries)
        }
        None => (text, 0),
    };
    if name.is_empty() && text.contains(':') {
        return Err("invalid restart policy format: no policy provided before colon".into());
    }
    Ok(json!({ "Name": name, "MaximumRetryCount": retries }))
}
