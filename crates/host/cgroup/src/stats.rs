//! What a control group says of the use of resources.

use std::collections::BTreeMap;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::{Group, oom, tree};

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

impl Stats {
    /// Reads what the group's files say.
    pub(crate) fn of(group: &Group) -> Result<Self> {
        let mut stats = Self::default();
        let v2 = group.v2();
        let v2 = |controller: &str| v2.as_deref().filter(|_| group.layout().has_v2(controller));
        match (group.v1("memory"), v2("memory")) {
            (Some(directory), _) => stats.memory = memory_v1(&directory)?,
            (None, Some(directory)) => stats.memory = memory_v2(directory)?,
            (None, None) => {}
        }
        match (group.v1("cpuacct"), group.v2()) {
            (Some(directory), _) => cpuacct_v1(&directory, &mut stats.cpu)?,
            (None, Some(directory)) => cpu_v2(&directory, &mut stats.cpu)?,
            (None, None) => {}
        }
        if let Some(directory) = group.v1("cpu") {
            throttling_v1(&directory, &mut stats.cpu)?;
        }
        let pids = group.v1("pids").or_else(|| v2("pids").map(Path::to_owned));
        if let Some(directory) = pids {
            stats.pids.current = number(&directory.join("pids.current"))?.unwrap_or_default();
            stats.pids.limit = number(&directory.join("pids.max"))?;
        }
        match (group.v1("blkio"), v2("io")) {
            (Some(directory), _) => stats.io = io_v1(&directory)?,
            (None, Some(directory)) => stats.io = io_v2(directory)?,
            (None, None) => {}
        }
        Ok(stats)
    }
}

/// A file with one number; none for `max`, and if it is not there.
fn number(path: &Path) -> Result<Option<u64>> {
    Ok(tree::read(path)?.and_then(|text| text.trim().parse().ok()))
}

/// A file of lines with a name and a number.
fn table(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = tree::read(path)?.unwrap_or_default();
    let row = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(row).collect())
}

fn memory_v1(directory: &Path) -> Result<MemoryStats> {
    // Without a limit the kernel shows the largest multiple of a page.
    const NO_LIMIT: u64 = i64::MAX as u64 - 0xffff;
    Ok(MemoryStats {
        usage: number(&directory.join("memory.usage_in_bytes"))?.unwrap_or_default(),
        max_usage: number(&directory.join("memory.max_usage_in_bytes"))?.unwrap_or_default(),
        limit: number(&directory.join("memory.limit_in_bytes"))?.filter(|limit| *limit < NO_LIMIT),
        swap: number(&directory.join("memory.memsw.usage_in_bytes"))?.unwrap_or_default(),
        n_failures: number(&directory.join("memory.failcnt"))?.unwrap_or_default(),
        n_oom_kills: oom::n_kills(&directory.join("memory.oom_control"))?,
        details: table(&directory.join("memory.stat"))?,
    })
}

fn memory_v2(directory: &Path) -> Result<MemoryStats> {
    let events = table(&directory.join("memory.events"))?;
    Ok(MemoryStats {
        usage: number(&directory.join("memory.current"))?.unwrap_or_default(),
        max_usage: number(&directory.join("memory.peak"))?.unwrap_or_default(),
        limit: number(&directory.join("memory.max"))?,
        swap: number(&directory.join("memory.swap.current"))?.unwrap_or_default(),
        n_failures: events.get("max").copied().unwrap_or_default(),
        n_oom_kills: events.get("oom_kill").copied().unwrap_or_default(),
        details: table(&directory.join("memory.stat"))?,
    })
}

/// Nanoseconds of a clock tick, as the kernel counts them for programs.
const TICK: u64 = 10_000_000;

fn cpuacct_v1(directory: &Path, cpu: &mut CpuStats) -> Result<()> {
    cpu.total = number(&directory.join("cpuacct.usage"))?.unwrap_or_default();
    let per_cpu = tree::read(&directory.join("cpuacct.usage_percpu"))?.unwrap_or_default();
    cpu.per_cpu = per_cpu
        .split_whitespace()
        .filter_map(|time| time.parse().ok())
        .collect();
    match (
        number(&directory.join("cpuacct.usage_user"))?,
        number(&directory.join("cpuacct.usage_sys"))?,
    ) {
        (Some(user), Some(system)) => (cpu.user, cpu.system) = (user, system),
        _ => {
            let ticks = table(&directory.join("cpuacct.stat"))?;
            cpu.user = ticks.get("user").copied().unwrap_or_default() * TICK;
            cpu.system = ticks.get("system").copied().unwrap_or_default() * TICK;
        }
    }
    Ok(())
}

fn throttling_v1(directory: &Path, cpu: &mut CpuStats) -> Result<()> {
    let stat = table(&directory.join("cpu.stat"))?;
    let value = |name: &str| stat.get(name).copied().unwrap_or_default();
    cpu.n_periods = value("nr_periods");
    cpu.n_throttled = value("nr_throttled");
    cpu.throttled = value("throttled_time");
    Ok(())
}

fn cpu_v2(directory: &Path, cpu: &mut CpuStats) -> Result<()> {
    let stat = table(&directory.join("cpu.stat"))?;
    let value = |name: &str| stat.get(name).copied().unwrap_or_default();
    cpu.total = value("usage_usec") * 1000;
    cpu.user = value("user_usec") * 1000;
    cpu.system = value("system_usec") * 1000;
    cpu.n_periods = value("nr_periods");
    cpu.n_throttled = value("nr_throttled");
    cpu.throttled = value("throttled_usec") * 1000;
    Ok(())
}

/// Lines of `MAJOR:MINOR NAME VALUE`, and a total at the end.
fn io_v1(directory: &Path) -> Result<Vec<IoDevice>> {
    let mut devices = BTreeMap::new();
    for (file, reads, writes) in [
        (
            "blkio.throttle.io_service_bytes_recursive",
            IoField::ReadBytes,
            IoField::WrittenBytes,
        ),
        (
            "blkio.throttle.io_serviced_recursive",
            IoField::Reads,
            IoField::Writes,
        ),
    ] {
        let text = tree::read(&directory.join(file))?.unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(device), Some(name), Some(value)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(value) = value.parse() else { continue };
            match name {
                "Read" => note(&mut devices, device, reads, value),
                "Write" => note(&mut devices, device, writes, value),
                _ => {}
            }
        }
    }
    Ok(devices.into_values().collect())
}

/// Lines of `MAJOR:MINOR name=value …`.
fn io_v2(directory: &Path) -> Result<Vec<IoDevice>> {
    let mut devices = BTreeMap::new();
    let text = tree::read(&directory.join("io.stat"))?.unwrap_or_default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next() else { continue };
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                continue;
            };
            let Ok(value) = value.parse() else { continue };
            match name {
                "rbytes" => note(&mut devices, device, IoField::ReadBytes, value),
                "wbytes" => note(&mut devices, device, IoField::WrittenBytes, value),
                "rios" => note(&mut devices, device, IoField::Reads, value),
                "wios" => note(&mut devices, device, IoField::Writes, value),
                _ => {}
            }
        }
    }
    Ok(devices.into_values().collect())
}

#[derive(Debug, Clone, Copy)]
enum IoField {
    ReadBytes,
    WrittenBytes,
    Reads,
    Writes,
}

fn note(devices: &mut BTreeMap<(u64, u64), IoDevice>, device: &str, field: IoField, value: u64) {
    let Some((major, minor)) = device.split_once(':') else {
        return;
    };
    let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
        return;
    };
    let device = devices.entry((major, minor)).or_insert_with(|| IoDevice {
        major,
        minor,
        ..IoDevice::default()
    });
    match field {
        IoField::ReadBytes => device.read_bytes = value,
        IoField::WrittenBytes => device.written_bytes = value,
        IoField::Reads => device.n_reads = value,
        IoField::Writes => device.n_writes = value,
    }
}
