//! The configuration's resources in the control groups' words.

use dhow_cgroup::{DeviceKind, DeviceRule, Limits, Rdma, Throttle, ThrottleKind, Weight};

use crate::error::{Result, RuntimeError};
use crate::spec::{self, Resources, ThrottleDevice};

/// Devices every container may use: making any node (the node is of no use by
/// itself), the standard ones, and terminals.
fn standard() -> impl Iterator<Item = DeviceRule> {
    let rule = |kind, major, minor, mknod_only: bool| DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        read: !mknod_only,
        write: !mknod_only,
        mknod: true,
    };
    let any = [DeviceKind::Character, DeviceKind::Block].map(|kind| rule(kind, None, None, true));
    let nodes = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    let nodes =
        nodes.map(|(major, minor)| rule(DeviceKind::Character, Some(major), Some(minor), false));
    let terminals = rule(DeviceKind::Character, Some(136), None, false);
    any.into_iter().chain(nodes).chain([terminals])
}

/// Translates.
pub(crate) fn of(resources: &Resources) -> Result<Limits> {
    let memory = resources.memory.clone().unwrap_or_default();
    let cpu = resources.cpu.clone().unwrap_or_default();
    let io = resources.block_io.clone().unwrap_or_default();
    let throttles = [
        (ThrottleKind::ReadBytes, &io.throttle_read_bps_device),
        (ThrottleKind::WrittenBytes, &io.throttle_write_bps_device),
        (ThrottleKind::Reads, &io.throttle_read_iops_device),
        (ThrottleKind::Writes, &io.throttle_write_iops_device),
    ];
    let throttle = |kind: ThrottleKind, device: &ThrottleDevice| Throttle {
        kind,
        major: device.major,
        minor: device.minor,
        rate: device.rate,
    };
    let mut devices = resources
        .devices
        .iter()
        .map(device)
        .collect::<Result<Vec<_>>>()?;
    if !devices.is_empty() {
        devices.extend(standard());
    }
    Ok(Limits {
        memory: memory.limit,
        memory_reservation: memory.reservation,
        memory_and_swap: memory.swap,
        swappiness: memory.swappiness,
        oom_kill_disabled: memory.disable_oom_killer.filter(|disabled| *disabled),
        kernel_tcp: memory.kernel_tcp,
        cpu_shares: cpu.shares,
        cpu_quota: cpu.quota,
        cpu_period: cpu.period,
        cpu_burst: cpu.burst,
        cpu_idle: cpu.idle,
        realtime_runtime: cpu.realtime_runtime,
        realtime_period: cpu.realtime_period,
        cpus: cpu.cpus.unwrap_or_default(),
        mems: cpu.mems.unwrap_or_default(),
        pids: resources.pids.as_ref().map(|pids| pids.limit),
        io_weight: io.weight,
        io_leaf_weight: io.leaf_weight,
        io_weights: io
            .weight_device
            .iter()
            .map(|device| Weight {
                major: device.major,
                minor: device.minor,
                weight: device.weight,
                leaf_weight: device.leaf_weight,
            })
            .collect(),
        throttles: throttles
            .into_iter()
            .flat_map(|(kind, devices)| devices.iter().map(move |device| throttle(kind, device)))
            .collect(),
        huge_pages: resources
            .hugepage_limits
            .iter()
            .map(|limit| (limit.page_size.clone(), limit.limit))
            .collect(),
        network_class: resources
            .network
            .as_ref()
            .and_then(|network| network.class_id),
        interface_priorities: resources.network.as_ref().map_or_else(Vec::new, |network| {
            let named = |one: &spec::InterfacePriority| (one.name.clone(), one.priority);
            network.priorities.iter().map(named).collect()
        }),
        rdma: resources
            .rdma
            .iter()
            .map(|(device, limit)| Rdma {
                device: device.clone(),
                handles: limit.hca_handles,
                objects: limit.hca_objects,
            })
            .collect(),
        devices,
        unified: resources.unified.clone(),
    })
}

fn device(rule: &spec::DeviceRule) -> Result<DeviceRule> {
    let wrong = |problem: String| RuntimeError::spec("linux.resources.devices", problem);
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => u32::try_from(number)
            .map(Some)
            .map_err(|_| wrong(format!("no number: {number}"))),
        _ => Ok(None),
    };
    let access = rule.access.as_deref().unwrap_or("rwm");
    if let Some(letter) = access.chars().find(|letter| !"rwm".contains(*letter)) {
        return Err(wrong(format!("no access: {letter:?}; use r, w and m")));
    }
    let (major, minor) = (number(rule.major)?, number(rule.minor)?);
    let kind = match rule.kind.unwrap_or(spec::DeviceKind::All) {
        spec::DeviceKind::Character => DeviceKind::Character,
        spec::DeviceKind::Block => DeviceKind::Block,
        spec::DeviceKind::All if major.is_none() && minor.is_none() => DeviceKind::All,
        spec::DeviceKind::All => {
            return Err(wrong(
                "a rule for every type cannot have numbers".to_owned(),
            ));
        }
        spec::DeviceKind::Fifo => return Err(wrong("type p is for nodes only".to_owned())),
    };
    Ok(DeviceRule {
        allow: rule.allow,
        kind,
        major,
        minor,
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
    })
}
