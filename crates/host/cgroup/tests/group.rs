//! Real groups on this machine: made, filled, limited, frozen, killed, removed.

#![allow(clippy::unwrap_used, reason = "a test stops at what fails")]

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use dhow_cgroup::{DeviceKind, DeviceRule, Group, Layout, Limits};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A group that is gone after the test, whatever became of it.
struct Scratch(Group);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = format!("/dhow-test-{}-{name}", std::process::id());
        let group = Group::at(Layout::detect().unwrap(), path.as_ref()).unwrap();
        assert!(group.create().unwrap());
        Self(group)
    }

    /// A shell in the group that waits for lines to execute.
    fn shell(&self) -> Child {
        let mut child = Command::new("/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for hierarchy in &self.0.layout().v1 {
            let file = hierarchy.mount.join(self.0.path()).join("cgroup.procs");
            std::fs::write(file, child.id().to_string()).unwrap();
        }
        if let Some(directory) = self.0.v2() {
            std::fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        ask(&mut child, "echo ready", "ready\n");
        child
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.exists() {
            self.0.thaw().unwrap();
        }
        self.0.kill().unwrap();
        self.0.remove().unwrap();
        assert!(!self.0.exists());
    }
}

fn ask(child: &mut Child, line: &str, answer: &str) {
    writeln!(child.stdin.as_mut().unwrap(), "{line}").unwrap();
    let mut read = vec![0; answer.len()];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut read)
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&read), answer);
}

#[test]
fn limits_are_the_kernels() {
    let scratch = Scratch::new("limits");
    let limits = Limits {
        memory: Some(64 << 20),
        memory_and_swap: Some(64 << 20),
        memory_reservation: Some(32 << 20),
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(200_000),
        cpus: "0".to_owned(),
        pids: Some(7),
        ..Limits::default()
    };
    scratch.0.apply(&limits).unwrap();
    let stats = scratch.0.stats().unwrap();
    assert_eq!(stats.memory.limit, Some(64 << 20));
    assert_eq!(stats.pids.limit, Some(7));
    // Up and down again, the sum in step.
    for memory in [256 << 20, 16 << 20] {
        let limits = Limits {
            memory: Some(memory),
            memory_and_swap: Some(memory),
            pids: Some(0),
            cpu_quota: Some(-1),
            ..Limits::default()
        };
        scratch.0.apply(&limits).unwrap();
        assert_eq!(
            scratch.0.stats().unwrap().memory.limit,
            Some(memory.unsigned_abs())
        );
    }
    assert_eq!(scratch.0.stats().unwrap().pids.limit, None);
    let nonsense = Limits {
        cpus: "4095".to_owned(),
        ..Limits::default()
    };
    let error = scratch.0.apply(&nonsense).unwrap_err().to_string();
    assert!(error.contains("cpuset.cpus"), "{error}");
}

/// A limit, and where the kernel shows it.
struct Shown {
    limits: Limits,
    /// Controller, file and value of version 1; the first file that is there counts.
    v1: Option<(&'static str, &'static [&'static str], String)>,
    /// The same of version 2.
    v2: Option<(&'static str, &'static [&'static str], String)>,
}

/// The number of a block device, if there is one, as the kernel writes it.
fn block_device() -> Option<(i64, i64)> {
    let devices = std::fs::read_dir("/sys/block").ok()?;
    let numbers = devices
        .flatten()
        .filter_map(|device| std::fs::read_to_string(device.path().join("dev")).ok());
    let number = numbers.min()?;
    let (major, minor) = number.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The sizes of huge pages, in the words of the files.
fn huge_pages() -> Option<&'static str> {
    let there = |kilobytes: &str| {
        std::path::Path::new("/sys/kernel/mm/hugepages")
            .join(format!("hugepages-{kilobytes}kB"))
            .exists()
    };
    there("2048").then_some("2MB")
}

fn shown() -> Vec<Shown> {
    let nothing = Limits::default;
    let mut all = Vec::new();
    let mut add = |limits: Limits,
                   v1: Option<(&'static str, &'static [&'static str], &str)>,
                   v2: Option<(&'static str, &'static [&'static str], &str)>| {
        let own = |(controller, files, value): (_, _, &str)| (controller, files, value.to_owned());
        all.push(Shown {
            limits,
            v1: v1.map(own),
            v2: v2.map(own),
        });
    };
    add(
        Limits {
            cpu_quota: Some(100_000),
            cpu_period: Some(100_000),
            cpu_burst: Some(50_000),
            ..nothing()
        },
        Some(("cpu", &["cpu.cfs_burst_us"], "50000")),
        Some(("cpu", &["cpu.max.burst"], "50000")),
    );
    add(
        Limits {
            cpu_idle: Some(1),
            ..nothing()
        },
        Some(("cpu", &["cpu.idle"], "1")),
        Some(("cpu", &["cpu.idle"], "1")),
    );
    add(
        Limits {
            mems: "0".to_owned(),
            ..nothing()
        },
        Some(("cpuset", &["cpuset.mems"], "0")),
        Some(("cpuset", &["cpuset.mems"], "0")),
    );
    add(
        Limits {
            swappiness: Some(37),
            ..nothing()
        },
        Some(("memory", &["memory.swappiness"], "37")),
        None,
    );
    add(
        Limits {
            memory_reservation: Some(32 << 20),
            ..nothing()
        },
        Some(("memory", &["memory.soft_limit_in_bytes"], "33554432")),
        Some(("memory", &["memory.low"], "33554432")),
    );
    add(
        Limits {
            kernel_tcp: Some(32 << 20),
            ..nothing()
        },
        Some(("memory", &["memory.kmem.tcp.limit_in_bytes"], "33554432")),
        None,
    );
    add(
        Limits {
            oom_kill_disabled: Some(true),
            ..nothing()
        },
        Some(("memory", &["memory.oom_control"], "oom_kill_disable 1")),
        None,
    );
    add(
        Limits {
            realtime_runtime: Some(1000),
            realtime_period: Some(500_000),
            ..nothing()
        },
        Some(("cpu", &["cpu.rt_runtime_us"], "1000")),
        None,
    );
    add(
        Limits {
            io_weight: Some(500),
            ..nothing()
        },
        Some(("blkio", &["blkio.weight", "blkio.bfq.weight"], "500")),
        Some(("io", &["io.weight"], "default 4950")),
    );
    add(
        Limits {
            unified: [("memory.high".to_owned(), "50331648".to_owned())].into(),
            ..nothing()
        },
        None,
        Some(("memory", &["memory.high"], "50331648")),
    );
    all
}

/// Each limit is found where the kernel shows it; one the kernel has no file for is
/// refused.
#[test]
fn every_limit_is_shown_or_refused() {
    let scratch = Scratch::new("shown");
    let layout = scratch.0.layout().clone();
    let v1 = |controller: &str| {
        let hierarchy = layout.v1(controller)?;
        Some(hierarchy.mount.join(scratch.0.path()))
    };
    let mut n_shown = 0;
    for Shown {
        limits,
        v1: old,
        v2: new,
    } in shown()
    {
        let place = match (&old, &new) {
            (Some((controller, files, value)), _) if layout.v1(controller).is_some() => {
                v1(controller).map(|directory| (directory, *files, value))
            }
            (_, Some((controller, files, value))) if layout.has_v2(controller) => {
                scratch.0.v2().map(|directory| (directory, *files, value))
            }
            _ => None,
        };
        let file = place.and_then(|(directory, files, value)| {
            let mut paths = files.iter().map(|file| directory.join(file));
            Some((paths.find(|path| path.exists())?, value))
        });
        let outcome = scratch.0.apply(&limits);
        match file {
            Some((path, value)) => {
                outcome.unwrap_or_else(|error| panic!("{limits:?}: {error}"));
                let text = std::fs::read_to_string(&path).unwrap();
                let is_there = text.lines().any(|line| line.trim() == value);
                assert!(is_there, "{}: {text}, not {value}", path.display());
                n_shown += 1;
            }
            None => {
                outcome.expect_err(&format!("nobody enforces {limits:?}"));
            }
        }
    }
    assert!(n_shown >= 5, "{n_shown} of them");
}

#[test]
fn rates_and_weights_of_devices_are_the_kernels() {
    use dhow_cgroup::{Throttle, ThrottleKind, Weight};
    let scratch = Scratch::new("devices-io");
    let layout = scratch.0.layout().clone();
    // A number nobody has is refused by the kernel.
    let (major, minor) = block_device().unwrap_or((4094, 0));
    let rate = |kind, rate| Throttle {
        kind,
        major,
        minor,
        rate,
    };
    let limits = Limits {
        throttles: vec![
            rate(ThrottleKind::ReadBytes, 1 << 20),
            rate(ThrottleKind::WrittenBytes, 2 << 20),
            rate(ThrottleKind::Reads, 300),
            rate(ThrottleKind::Writes, 400),
        ],
        ..Limits::default()
    };
    let outcome = scratch.0.apply(&limits);
    if block_device().is_none() {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("4094:0"), "{error}");
        return;
    }
    outcome.unwrap();
    let device = format!("{major}:{minor}");
    match layout.v1("blkio") {
        Some(hierarchy) => {
            for (file, value) in [
                ("read_bps_device", 1 << 20),
                ("write_bps_device", 2 << 20),
                ("read_iops_device", 300),
                ("write_iops_device", 400),
            ] {
                let path = hierarchy.mount.join(scratch.0.path());
                let path = path.join(format!("blkio.throttle.{file}"));
                let text = std::fs::read_to_string(&path).unwrap();
                assert_eq!(text, format!("{device} {value}\n"), "{file}");
            }
        }
        None => {
            let path = scratch.0.v2().unwrap().join("io.max");
            let expected = format!("{device} rbps=1048576 wbps=2097152 riops=300 wiops=400\n");
            assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
        }
    }
    let limits = Limits {
        io_weights: vec![Weight {
            major,
            minor,
            weight: Some(700),
            leaf_weight: None,
        }],
        ..Limits::default()
    };
    let directory = match layout.v1("blkio") {
        Some(hierarchy) => hierarchy.mount.join(scratch.0.path()),
        None => scratch.0.v2().unwrap(),
    };
    let files = [
        "blkio.weight_device",
        "blkio.bfq.weight_device",
        "io.weight",
        "io.bfq.weight",
    ];
    let file = files.map(|file| directory.join(file));
    let file = file.iter().find(|path| path.exists());
    match (scratch.0.apply(&limits), file) {
        (Ok(()), Some(path)) => {
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.lines().any(|line| line.starts_with(&device)), "{text}");
        }
        // Without a scheduler that weighs, the device takes none.
        (Err(error), file) => {
            let error = error.to_string();
            let expected = if file.is_some() {
                "weight"
            } else {
                "I/O weight"
            };
            assert!(error.contains(expected), "{error}");
        }
        (Ok(()), None) => panic!("nobody enforces it"),
    }
}

#[test]
fn huge_pages_are_bounded_used_and_reserved() {
    let scratch = Scratch::new("huge");
    let layout = scratch.0.layout().clone();
    let limits = |size: &str| Limits {
        huge_pages: vec![(size.to_owned(), 4 << 20)],
        ..Limits::default()
    };
    let (directory, files) = match (layout.v1("hugetlb"), layout.has_v2("hugetlb")) {
        (Some(hierarchy), _) => (
            hierarchy.mount.join(scratch.0.path()),
            ["limit_in_bytes", "rsvd.limit_in_bytes"],
        ),
        (None, true) => (scratch.0.v2().unwrap(), ["max", "rsvd.max"]),
        (None, false) => {
            let error = scratch.0.apply(&limits("2MB")).unwrap_err().to_string();
            assert!(error.contains("no hugetlb controller"), "{error}");
            return;
        }
    };
    // A size the machine has not is refused.
    let error = scratch.0.apply(&limits("3MB")).unwrap_err().to_string();
    assert!(error.contains("hugetlb.3MB."), "{error}");
    let Some(size) = huge_pages() else { return };
    scratch.0.apply(&limits(size)).unwrap();
    for file in files {
        let path = directory.join(format!("hugetlb.{size}.{file}"));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.trim(), "4194304", "{file}");
    }
}

#[test]
fn processes_are_counted_frozen_and_killed() {
    let scratch = Scratch::new("life");
    let mut child = scratch.shell();
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(scratch.0.processes().unwrap(), [pid]);
    assert_eq!(scratch.0.stats().unwrap().pids.current, 1);
    // What it has used is counted when the kernel gets round to it.
    let began = std::time::Instant::now();
    while scratch.0.stats().unwrap().cpu.total == 0 {
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
        std::thread::yield_now();
    }

    scratch.0.freeze().unwrap();
    assert!(scratch.0.is_frozen().unwrap());
    scratch.0.thaw().unwrap();
    assert!(!scratch.0.is_frozen().unwrap());
    ask(&mut child, "echo on", "on\n");

    scratch.0.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(!scratch.0.is_populated().unwrap());
}

/// A group, a watch over it, and the end of a shell in it for want of memory.
fn starved(name: &str) -> (Scratch, dhow_cgroup::OomWatch) {
    let scratch = Scratch::new(name);
    let memory = Some(8 << 20);
    let limits = Limits {
        memory,
        memory_and_swap: memory,
        ..Limits::default()
    };
    scratch.0.apply(&limits).unwrap();
    let mut watch = scratch.0.watch_oom().unwrap();
    assert_eq!(watch.n_kills().unwrap(), 0);
    let mut child = scratch.shell();
    let hog = "x=x; while :; do x=$x$x; done";
    writeln!(child.stdin.as_mut().unwrap(), "{hog}").unwrap();
    let patience = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    let told = |watch: &dhow_cgroup::OomWatch| {
        let mut wait = [PollFd::new(watch, PollFlags::IN)];
        assert_eq!(poll(&mut wait, Some(&patience)), Ok(1));
    };
    told(&watch);
    // Version 2 tells of each step, the limit that is met first.
    while scratch.0.layout().is_pure_v2() && watch.n_kills().unwrap() == 0 {
        told(&watch);
    }
    // Version 1 may not have counted it yet.
    assert!(watch.n_kills().unwrap() <= 1);
    assert!(!child.wait().unwrap().success());
    (scratch, watch)
}

#[test]
fn the_end_of_memory_is_noticed() {
    let (scratch, mut watch) = starved("oom");
    assert_eq!(watch.n_kills().unwrap(), 1);
    assert_eq!(scratch.0.n_oom_kills().unwrap(), 1);
    // What was known stays known.
    scratch.0.remove().unwrap();
    assert_eq!(watch.n_kills().unwrap(), 1);
}

/// Systemd removes a group as soon as nobody is in it, before anybody has read how
/// it ended.
#[test]
fn the_end_of_memory_is_known_when_the_group_is_gone() {
    let (scratch, mut watch) = starved("oom-gone");
    scratch.0.remove().unwrap();
    assert_eq!(watch.n_kills().unwrap(), 1);
    // That a group goes is no such end.
    let scratch = Scratch::new("oom-none");
    let mut watch = scratch.0.watch_oom().unwrap();
    scratch.0.remove().unwrap();
    assert_eq!(watch.n_kills().unwrap(), 0);
}

#[test]
fn groups_below_go_with_it() {
    let scratch = Scratch::new("below");
    for hierarchy in &scratch.0.layout().v1 {
        std::fs::create_dir_all(hierarchy.mount.join(scratch.0.path()).join("a/b")).unwrap();
    }
    scratch.0.remove().unwrap();
    assert!(!scratch.0.exists());
    scratch.0.remove().unwrap();
}

/// Device rules hold in version 2 too, where the kernel has no file for them. On
/// a machine of both versions the program is attached all the same.
#[test]
fn devices_are_allowed_by_rules() {
    let scratch = Scratch::new("devices");
    let rule = |allow, minor, read| DeviceRule {
        allow,
        kind: if minor == 0 {
            DeviceKind::All
        } else {
            DeviceKind::Character
        },
        major: Some(1).filter(|_| minor != 0),
        minor: Some(minor).filter(|minor| *minor != 0),
        read,
        write: true,
        mknod: true,
    };
    // Nothing but writing to the null device, and everything about zeroes.
    let rules = |null_is_read| Limits {
        devices: vec![
            rule(false, 0, true),
            rule(true, 3, null_is_read),
            rule(true, 5, true),
        ],
        ..Limits::default()
    };
    // As on a machine that has version 2 alone.
    let v2_alone = Layout {
        v1: Vec::new(),
        ..scratch.0.layout().clone()
    };
    let group = Group::at(v2_alone, scratch.0.path()).unwrap();
    let mut shell = scratch.shell();
    group.apply(&rules(false)).unwrap();
    ask(
        &mut shell,
        "echo x > /dev/null && echo written",
        "written\n",
    );
    ask(&mut shell, "head -c 3 /dev/zero | wc -c", "3\n");
    ask(
        &mut shell,
        "(: < /dev/null) 2>/dev/null || echo refused",
        "refused\n",
    );
    ask(
        &mut shell,
        "(: < /dev/full) 2>/dev/null || echo refused",
        "refused\n",
    );
    // New rules take the place of the old ones.
    group.apply(&rules(true)).unwrap();
    ask(&mut shell, ": < /dev/null && echo read", "read\n");
    ask(
        &mut shell,
        "(: < /dev/full) 2>/dev/null || echo refused",
        "refused\n",
    );
    drop(shell.stdin.take());
    shell.wait().unwrap();
}
