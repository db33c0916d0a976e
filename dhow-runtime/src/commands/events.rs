//! `events`: what a container uses, and when the kernel kills in it for want of
//! memory, one JSON object a line, in runc's form.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::AsFd;

use anyhow::{Context, bail};
use dhow_cgroup::{IoDevice, Stats};
use dhow_runtime::{Container, Runtime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::{Outcome, told, with_id};
use crate::arguments::{flag, value};

pub fn events(runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (parsed, id) = with_id(words, &[value("interval", '\0'), flag("stats", '\0')])?;
    let interval = interval(
        parsed
            .get("interval")
            .and_then(OsStr::to_str)
            .unwrap_or("5s"),
    )?;
    let container = runtime.open(&id).map_err(told)?;
    if parsed.has("stats") {
        tell("stats", &id, Some(stats(&container)?))?;
        return Ok(0);
    }
    let process = container.process().map_err(told)?;
    // Without a memory controller nobody is killed for want of memory.
    let mut watch = container
        .group()
        .map_err(told)?
        .and_then(|group| group.watch_oom().ok());
    loop {
        let mut files = vec![PollFd::new(&process.pidfd, PollFlags::IN)];
        if let Some(watch) = &watch {
            files.push(PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN));
        }
        let n_ready = match poll(&mut files, Some(&interval)) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let ended = !files[0].revents().is_empty();
        drop(files);
        if n_ready > 0
            && let Some(watch) = &mut watch
            && watch.has_run_out()?
        {
            tell("oom", &id, None)?;
        }
        if ended {
            return Ok(0);
        }
        if n_ready == 0 {
            tell("stats", &id, Some(stats(&container)?))?;
        }
    }
}

/// A duration as Go writes it, of one unit: `500ms`, `5s`, `1m`.
fn interval(text: &str) -> anyhow::Result<Timespec> {
    let split = text.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let number: i64 = number
        .parse()
        .with_context(|| format!("no duration: {text:?}; use 500ms, 5s or 1m"))?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    match milliseconds.filter(|milliseconds| *milliseconds > 0) {
        Some(milliseconds) => Ok(Timespec {
            tv_sec: milliseconds / 1000,
            tv_nsec: milliseconds % 1000 * 1_000_000,
        }),
        None => bail!("no duration: {text:?}; use 500ms, 5s or 1m"),
    }
}

fn tell(kind: &str, id: &str, data: Option<Value>) -> anyhow::Result<()> {
    let mut event = json!({ "type": kind, "id": id });
    if let Some(data) = data {
        event["data"] = data;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{event}")?;
    Ok(out.flush()?)
}

fn stats(container: &Container) -> anyhow::Result<Value> {
    let Stats {
        memory,
        cpu,
        pids,
        io,
    } = container.stats().map_err(told)?;
    // A limit that is none is the greatest there is.
    let limit = memory.limit.unwrap_or(i64::MAX.unsigned_abs());
    let entries = |read: fn(&IoDevice) -> u64, written: fn(&IoDevice) -> u64| -> Vec<Value> {
        let entry = |device: &IoDevice, op, value| json!({ "major": device.major, "minor": device.minor, "op": op, "value": value });
        io.iter()
            .flat_map(|device| {
                [
                    entry(device, "Read", read(device)),
                    entry(device, "Write", written(device)),
                ]
            })
            .collect()
    };
    Ok(json!({
        "cpu": {
            "usage": {
                "total": cpu.total,
                "percpu": cpu.per_cpu,
                "kernel": cpu.system,
                "user": cpu.user,
            },
            "throttling": {
                "periods": cpu.n_periods,
                "throttledPeriods": cpu.n_throttled,
                "throttledTime": cpu.throttled,
            },
        },
        "memory": {
            "cache": memory.details.get("cache").or(memory.details.get("file")).copied().unwrap_or(0),
            "usage": {
                "limit": limit,
                "usage": memory.usage,
                "max": memory.max_usage,
                "failcnt": memory.n_failures,
            },
            "swap": { "limit": 0, "usage": memory.swap, "failcnt": 0 },
            "kernel": { "limit": 0, "failcnt": 0 },
            "kernelTCP": { "limit": 0, "failcnt": 0 },
            "raw": memory.details,
        },
        "pids": { "current": pids.current, "limit": pids.limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": entries(|device| device.read_bytes, |device| device.written_bytes),
            "ioServicedRecursive": entries(|device| device.n_reads, |device| device.n_writes),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_go_writes_them() {
        let read = |text| interval(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(read("5s").unwrap(), (5, 0));
        assert_eq!(read("1500ms").unwrap(), (1, 500_000_000));
        assert_eq!(read("2m").unwrap(), (120, 0));
        for text in ["", "5", "s", "-1s", "0s", "1x", "99999999999999999999h"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
