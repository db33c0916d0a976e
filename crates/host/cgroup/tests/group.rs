//! Real groups on this machine: made, filled, limited, frozen, killed, removed.

#![allow(clippy::unwrap_used, reason = "a test stops at what fails")]

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use dhow_cgroup::{DeviceKind, DeviceRule, Group, Layout, Limits};

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

#[test]
fn processes_are_counted_frozen_and_killed() {
    let scratch = Scratch::new("life");
    let mut child = scratch.shell();
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(scratch.0.processes().unwrap(), [pid]);
    assert_eq!(scratch.0.stats().unwrap().pids.current, 1);
    assert!(scratch.0.stats().unwrap().cpu.total > 0);

    scratch.0.freeze().unwrap();
    assert!(scratch.0.is_frozen().unwrap());
    scratch.0.thaw().unwrap();
    assert!(!scratch.0.is_frozen().unwrap());
    ask(&mut child, "echo on", "on\n");

    scratch.0.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(!scratch.0.is_populated().unwrap());
}

#[test]
fn the_end_of_memory_is_noticed() {
    let scratch = Scratch::new("oom");
    let memory = Some(8 << 20);
    let limits = Limits {
        memory,
        memory_and_swap: memory,
        ..Limits::default()
    };
    scratch.0.apply(&limits).unwrap();
    let watch = scratch.0.watch_oom().unwrap();
    assert_eq!(watch.n_kills().unwrap(), 0);
    let mut child = scratch.shell();
    let hog = "x=x; while :; do x=$x$x; done";
    writeln!(child.stdin.as_mut().unwrap(), "{hog}").unwrap();
    let mut wait = [rustix::event::PollFd::new(
        &watch,
        rustix::event::PollFlags::IN,
    )];
    let patience = rustix::event::Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut wait, Some(&patience)), Ok(1));
    assert!(!child.wait().unwrap().success());
    assert_eq!(watch.n_kills().unwrap(), 1);
    assert_eq!(scratch.0.n_oom_kills().unwrap(), 1);
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
