//! Limits in the words of version 2.

use std::path::Path;

use crate::error::{CgroupError, Result};
use crate::limits::{Limits, ThrottleKind};
use crate::tree::{read, write, write_if_there};

/// Hands the controllers down from the root to a group.
pub(crate) fn delegate(mount: &Path, group: &Path, controllers: &[String]) -> Result<()> {
    if controllers.is_empty() {
        return Ok(());
    }
    let mut above: Vec<&Path> = group
        .ancestors()
        .skip(1)
        .take_while(|path| path.starts_with(mount))
        .collect();
    above.reverse();
    for path in above {
        let file = path.join("cgroup.subtree_control");
        let now = read(&file)?.unwrap_or_default();
        let missing = controllers
            .iter()
            .filter(|controller| !now.split_whitespace().any(|known| known == *controller));
        let missing: Vec<&String> = missing.collect();
        if missing.is_empty() {
            continue;
        }
        // Where processes are, handing on would keep others out: the group would
        // become one of threads.
        if path != mount && read(&path.join("cgroup.procs"))?.is_some_and(|procs| !procs.is_empty())
        {
            return Ok(());
        }
        for controller in missing {
            // One that cannot be handed down is missed only if a limit needs it.
            let _ = write(&file, &format!("+{controller}"));
        }
    }
    Ok(())
}

/// A limit as version 2 writes it.
fn bound(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

/// Weight of 1 to 10000 for shares of 2 to 262144, so that the usual of the one is
/// the usual of the other (1024 and 100). It is the curve that runc and crun agreed
/// on: ten to the power of a parabola through the three points.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let doublings = (shares as f64).log2();
            let power = doublings * (doublings + 125.0) / 612.0 - 7.0 / 34.0;
            10_f64.powf(power).ceil() as u64
        }
    }
}

/// Weight of 1 to 10000 for one of 10 to 1000.
fn weight_of_io(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

impl Limits {
    /// Bytes of swap alone, as version 2 limits it, for memory and swap together;
    /// negative is no limit, none is as it was. `now` is the limit of memory in
    /// force, if there is one and it is known.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Swap`] if memory has no limit, or one above the sum.
    pub fn swap_alone(&self, now: Option<i64>) -> Result<Option<i64>> {
        let given = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
        let memory = given(self.memory);
        match (given(self.memory_and_swap), memory.or(now)) {
            // Without any limit of memory there is none of both, as on version 1.
            (None, _) if memory.is_some_and(|memory| memory < 0) => Ok(Some(-1)),
            (None, _) => Ok(None),
            (Some(sum), _) if sum < 0 => Ok(Some(-1)),
            (Some(sum), Some(memory)) if memory > sum => Err(CgroupError::Swap(
                "memory+swap limit should be >= memory limit",
            )),
            (Some(sum), Some(memory)) if memory >= 0 => Ok(Some(sum - memory)),
            (Some(_), _) => Err(CgroupError::Swap(
                "unable to set swap limit without memory limit",
            )),
        }
    }

    /// Weight of 1 to 10000, as version 2 has it, for shares.
    #[must_use]
    pub fn cpu_weight(&self) -> Option<u64> {
        let shares = self.cpu_shares.filter(|shares| *shares != 0)?;
        Some(weight_of_shares(shares))
    }
}

/// Sets limits; only those whose controller is version 2's come here.
pub(crate) fn apply(group: &Path, limits: &Limits, has: impl Fn(&str) -> bool) -> Result<()> {
    if has("memory") {
        memory(group, limits)?;
    }
    if has("cpu") {
        cpu(group, limits)?;
    }
    if has("cpuset") {
        for (file, list) in [("cpuset.cpus", &limits.cpus), ("cpuset.mems", &limits.mems)] {
            if !list.is_empty() {
                write(&group.join(file), list)?;
            }
        }
    }
    if let Some(limit) = limits.pids.filter(|_| has("pids")) {
        write(
            &group.join("pids.max"),
            &bound(if limit > 0 { limit } else { -1 }),
        )?;
    }
    if has("io") {
        io(group, limits)?;
    }
    if has("hugetlb") {
        for (size, limit) in &limits.huge_pages {
            let limit = limit.to_string();
            write(&group.join(format!("hugetlb.{size}.max")), &limit)?;
            // Also of what is set aside and not used yet, since Linux 5.7.
            write_if_there(&group.join(format!("hugetlb.{size}.rsvd.max")), &limit)?;
        }
    }
    if has("rdma") {
        for limit in &limits.rdma {
            write(&group.join("rdma.max"), &limit.to_string())?;
        }
    }
    for (file, value) in &limits.unified {
        if file.contains('/') {
            return Err(CgroupError::Path(file.into()));
        }
        for line in value.lines() {
            write(&group.join(file), line)?;
        }
    }
    Ok(())
}

fn memory(group: &Path, limits: &Limits) -> Result<()> {
    let memory = limits.memory.filter(|limit| *limit != 0);
    let now = read(&group.join("memory.max"))?;
    let now = now.and_then(|text| text.trim().parse().ok());
    if let Some(swap) = limits.swap_alone(now)? {
        write_if_there(&group.join("memory.swap.max"), &bound(swap))?;
    }
    if let Some(limit) = memory {
        write(&group.join("memory.max"), &bound(limit))?;
    }
    if let Some(limit) = limits.memory_reservation.filter(|limit| *limit != 0) {
        write(&group.join("memory.low"), &bound(limit))?;
    }
    Ok(())
}

fn cpu(group: &Path, limits: &Limits) -> Result<()> {
    if let Some(idle) = limits.cpu_idle {
        write(&group.join("cpu.idle"), &idle.to_string())?;
    }
    if let Some(weight) = limits.cpu_weight() {
        write(&group.join("cpu.weight"), &weight.to_string())?;
    }
    let quota = limits.cpu_quota.filter(|quota| *quota != 0);
    let period = limits.cpu_period.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let file = group.join("cpu.max");
        let now = read(&file)?.unwrap_or_default();
        let mut now = now.split_whitespace();
        let (now_quota, now_period) = (now.next().unwrap_or("max"), now.next().unwrap_or("100000"));
        let quota = quota.map_or_else(|| now_quota.to_owned(), bound);
        let period = period.map_or_else(|| now_period.to_owned(), |period| period.to_string());
        write(&file, &format!("{quota} {period}"))?;
    }
    if let Some(burst) = limits.cpu_burst {
        write(&group.join("cpu.max.burst"), &burst.to_string())?;
    }
    Ok(())
}

fn io(group: &Path, limits: &Limits) -> Result<()> {
    let missing = || CgroupError::Missing {
        controller: "io (weights)",
        limit: "an I/O weight",
    };
    let set = |value: &str, bfq: &str| -> Result<()> {
        if write_if_there(&group.join("io.weight"), value)?
            || write_if_there(&group.join("io.bfq.weight"), bfq)?
        {
            return Ok(());
        }
        Err(missing())
    };
    if let Some(weight) = limits.io_weight.filter(|weight| *weight != 0) {
        set(
            &format!("default {}", weight_of_io(weight)),
            &weight.to_string(),
        )?;
    }
    for device in &limits.io_weights {
        let Some(weight) = device.weight else {
            continue;
        };
        let device = format!("{}:{}", device.major, device.minor);
        set(
            &format!("{device} {}", weight_of_io(weight)),
            &format!("{device} {weight}"),
        )?;
    }
    for throttle in &limits.throttles {
        let key = match throttle.kind {
            ThrottleKind::ReadBytes => "rbps",
            ThrottleKind::WrittenBytes => "wbps",
            ThrottleKind::Reads => "riops",
            ThrottleKind::Writes => "wiops",
        };
        let value = format!(
            "{}:{} {key}={}",
            throttle.major, throttle.minor, throttle.rate
        );
        write(&group.join("io.max"), &value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_ends_and_order() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert_eq!((weight_of_io(10), weight_of_io(1000)), (1, 10_000));
        assert!(
            (2..263_000).all(|shares| weight_of_shares(shares) <= weight_of_shares(shares + 1))
        );
    }

    #[test]
    fn swap_is_what_is_left_of_the_sum() {
        let swap = |memory, sum, now| {
            let limits = Limits {
                memory,
                memory_and_swap: sum,
                ..Limits::default()
            };
            limits.swap_alone(now).map_err(|error| error.to_string())
        };
        assert_eq!(swap(Some(64), Some(96), None), Ok(Some(32)));
        assert_eq!(swap(Some(64), Some(64), None), Ok(Some(0)));
        assert_eq!(swap(Some(64), Some(-1), None), Ok(Some(-1)));
        assert_eq!(swap(Some(64), None, None), Ok(None));
        assert_eq!(swap(Some(64), Some(0), None), Ok(None));
        assert_eq!(swap(Some(-1), None, None), Ok(Some(-1)));
        assert_eq!(swap(None, None, Some(64)), Ok(None));
        // What is in force counts where nothing else is asked for.
        assert_eq!(swap(None, Some(96), Some(64)), Ok(Some(32)));
        assert_eq!(swap(Some(32), Some(96), Some(64)), Ok(Some(64)));
        let without = Err("unable to set swap limit without memory limit".to_owned());
        assert_eq!(swap(None, Some(96), None), without);
        assert_eq!(swap(Some(-1), Some(96), Some(64)), without);
        let below = Err("memory+swap limit should be >= memory limit".to_owned());
        assert_eq!(swap(Some(64), Some(32), None), below);
    }
}
