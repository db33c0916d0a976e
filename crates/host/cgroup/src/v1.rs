//! Limits in the words of version 1.

use std::path::Path;

use crate::DeviceRule;
use crate::error::{CgroupError, Result};
use crate::limits::{Limits, ThrottleKind};
use crate::tree::{Control, read, write, write_if_there};

/// Sets what one controller is responsible for.
pub(crate) fn apply(controller: &str, group: &Path, limits: &Limits) -> Result<()> {
    match controller {
        "memory" => memory(group, limits),
        "cpu" => cpu(group, limits),
        "cpuset" => cpuset(group, limits),
        "pids" => pids(group, limits),
        "blkio" => blkio(group, limits),
        "hugetlb" => limits.huge_pages.iter().try_for_each(|(size, limit)| {
            let limit = limit.to_string();
            write(
                &group.join(format!("hugetlb.{size}.limit_in_bytes")),
                &limit,
            )?;
            // Also of what is set aside and not used yet, since Linux 5.7.
            let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
            write_if_there(&group.join(reserved), &limit).map(drop)
        }),
        "devices" => devices(group, &limits.devices),
        "net_prio" => limits
            .interface_priorities
            .iter()
            .try_for_each(|(name, priority)| {
                write(
                    &group.join("net_prio.ifpriomap"),
                    &format!("{name} {priority}"),
                )
            }),
        "rdma" => limits
            .rdma
            .iter()
            .try_for_each(|limit| write(&group.join("rdma.max"), &limit.to_string())),
        "net_cls" => number(group, "net_cls.classid", limits.network_class),
        _ => Ok(()),
    }
}

fn number(group: &Path, file: &str, value: Option<impl ToString>) -> Result<()> {
    value.map_or(Ok(()), |value| write(&group.join(file), &value.to_string()))
}

fn memory(group: &Path, limits: &Limits) -> Result<()> {
    let both = "memory.memsw.limit_in_bytes";
    // The sum must never be below the memory alone, whichever way they move.
    let sum_first = match (limits.memory, limits.memory_and_swap) {
        (Some(memory), Some(_)) => {
            let now = read(&group.join(both))?;
            let now = now.and_then(|text| text.trim().parse::<i64>().ok());
            memory < 0 || now.is_some_and(|now| memory > now)
        }
        _ => false,
    };
    let sum = || match limits.memory_and_swap.filter(|sum| *sum != 0) {
        // Without swap accounting in the kernel the file is not there.
        Some(sum) => write_if_there(&group.join(both), &sum.to_string()).map(drop),
        None => Ok(()),
    };
    if sum_first {
        sum()?;
    }
    number(
        group,
        "memory.limit_in_bytes",
        limits.memory.filter(|limit| *limit != 0),
    )?;
    if !sum_first {
        sum()?;
    }
    let reservation = limits.memory_reservation.filter(|limit| *limit != 0);
    number(group, "memory.soft_limit_in_bytes", reservation)?;
    number(group, "memory.swappiness", limits.swappiness)?;
    number(
        group,
        "memory.kmem.tcp.limit_in_bytes",
        limits.kernel_tcp.filter(|limit| *limit != 0),
    )?;
    number(
        group,
        "memory.oom_control",
        limits.oom_kill_disabled.map(u8::from),
    )
}

fn cpu(group: &Path, limits: &Limits) -> Result<()> {
    number(
        group,
        "cpu.shares",
        limits.cpu_shares.filter(|shares| *shares != 0),
    )?;
    number(
        group,
        "cpu.rt_period_us",
        limits.realtime_period.filter(|period| *period != 0),
    )?;
    number(
        group,
        "cpu.rt_runtime_us",
        limits.realtime_runtime.filter(|time| *time != 0),
    )?;
    // A quota must fit its period at every moment: first none, then both.
    let quota = limits.cpu_quota.filter(|quota| *quota != 0);
    if let Some(period) = limits.cpu_period.filter(|period| *period != 0) {
        if quota.is_some() {
            write(&group.join("cpu.cfs_quota_us"), "-1")?;
        }
        number(group, "cpu.cfs_period_us", Some(period))?;
    }
    number(group, "cpu.cfs_quota_us", quota.map(|quota| quota.max(-1)))?;
    number(group, "cpu.cfs_burst_us", limits.cpu_burst)?;
    number(group, "cpu.idle", limits.cpu_idle)
}

/// A new cpuset has no processors and lets nobody in: what is not asked for is
/// taken from the group above.
pub(crate) fn inherit_cpuset(mount: &Path, group: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = group.join(file);
        if read(&path)?.is_some_and(|text| !text.trim().is_empty()) {
            continue;
        }
        let Some(above) = group.parent().filter(|above| above.starts_with(mount)) else {
            return Ok(());
        };
        let mut value = read(&above.join(file))?.unwrap_or_default();
        if value.trim().is_empty() {
            inherit_cpuset(mount, above)?;
            value = read(&above.join(file))?.unwrap_or_default();
        }
        write(&path, value.trim())?;
    }
    Ok(())
}

fn cpuset(group: &Path, limits: &Limits) -> Result<()> {
    number(
        group,
        "cpuset.cpus",
        Some(&limits.cpus).filter(|list| !list.is_empty()),
    )?;
    number(
        group,
        "cpuset.mems",
        Some(&limits.mems).filter(|list| !list.is_empty()),
    )
}

fn pids(group: &Path, limits: &Limits) -> Result<()> {
    let limit = limits.pids.map(|limit| {
        if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        }
    });
    number(group, "pids.max", limit)
}

fn blkio(group: &Path, limits: &Limits) -> Result<()> {
    const WEIGHT: [&str; 2] = ["blkio.weight", "blkio.bfq.weight"];
    const DEVICE: [&str; 2] = ["blkio.weight_device", "blkio.bfq.weight_device"];
    const LEAF: [&str; 1] = ["blkio.leaf_weight"];
    const LEAF_DEVICE: [&str; 1] = ["blkio.leaf_weight_device"];
    // Which file there is depends on the scheduler.
    let set = |files: &[&str], value: &str| -> Result<()> {
        for file in files {
            if write_if_there(&group.join(file), value)? {
                return Ok(());
            }
        }
        Err(CgroupError::Missing {
            controller: "blkio (weights)",
            limit: "an I/O weight",
        })
    };
    if let Some(weight) = limits.io_weight.filter(|weight| *weight != 0) {
        set(&WEIGHT, &weight.to_string())?;
    }
    if let Some(weight) = limits.io_leaf_weight.filter(|weight| *weight != 0) {
        set(&LEAF, &weight.to_string())?;
    }
    for device in &limits.io_weights {
        let value = |weight| format!("{}:{} {weight}", device.major, device.minor);
        if let Some(weight) = device.weight {
            set(&DEVICE, &value(weight))?;
        }
        if let Some(weight) = device.leaf_weight {
            set(&LEAF_DEVICE, &value(weight))?;
        }
    }
    for throttle in &limits.throttles {
        let file = match throttle.kind {
            ThrottleKind::ReadBytes => "blkio.throttle.read_bps_device",
            ThrottleKind::WrittenBytes => "blkio.throttle.write_bps_device",
            ThrottleKind::Reads => "blkio.throttle.read_iops_device",
            ThrottleKind::Writes => "blkio.throttle.write_iops_device",
        };
        let value = format!("{}:{} {}", throttle.major, throttle.minor, throttle.rate);
        write(&group.join(file), &value)?;
    }
    Ok(())
}

fn devices(group: &Path, rules: &[DeviceRule]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let allow = Control::open(group.join("devices.allow"))?;
    let deny = Control::open(group.join("devices.deny"))?;
    for rule in rules {
        let file = if rule.allow { &allow } else { &deny };
        file.write(&rule.to_string())?;
    }
    Ok(())
}
