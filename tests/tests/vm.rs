//! What only some machines have: control groups of version 2 alone, systemd, its
//! journal, AppArmor, SELinux, project quotas, a file server, disks that lose power.
//! These tests are ignored elsewhere; `make vm-test` runs them on machines that have it,
//! and no `docker`.

#[path = "vm/power.rs"]
mod power;
#[path = "vm/selinux.rs"]
mod selinux;
#[path = "vm/services.rs"]
mod services;
#[path = "vm/systemd.rs"]
mod systemd;

use std::path::{Path, PathBuf};
use std::process::Command;

use dhow_quota::{Quotas, Usage};
use dhow_testkit::{Daemon, Ran};

/// A running container that sleeps.
#[track_caller]
fn sleeper(daemon: &Daemon, name: &str, options: &[&str]) {
    let words = [
        &["run", "-d", "--name", name][..],
        options,
        &["busybox", "sleep", "3600"],
    ];
    daemon.dhow(&words.concat()).ok();
}

fn within(daemon: &Daemon, name: &str, script: &str) -> Ran {
    daemon.dhow(&["exec", name, "sh", "-c", script])
}

#[track_caller]
fn inspect(daemon: &Daemon, name: &str, template: &str) -> String {
    daemon.dhow(&["inspect", "--format", template, name]).ok()
}

#[track_caller]
fn remove(daemon: &Daemon, names: &[&str]) {
    daemon.dhow(&[&["rm", "-f"], names].concat()).ok();
}

#[test]
#[ignore = "needs cgroup v2 alone: make vm-test"]
fn limits_are_version_2s() {
    let daemon = Daemon::start();
    daemon.busybox_by_dhow();
    let info = daemon.dhow(&["info"]).ok();
    assert!(info.contains("Cgroup Version: 2"), "{info}");
    let options = "--network none -m 64m --memory-swap 96m --memory-reservation 32m --cpus 0.5 \
        --cpu-shares 512 --cpuset-cpus 0 --pids-limit 50";
    let options: Vec<&str> = options.split_whitespace().collect();
    sleeper(&daemon, "box", &options);
    let file = |name: &str| within(&daemon, "box", &format!("cat /sys/fs/cgroup/{name}")).ok();
    for (name, value) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "59"),
        ("cpuset.cpus", "0"),
        ("pids.max", "50"),
        ("cgroup.freeze", "0"),
    ] {
        assert_eq!(file(name), value, "{name}");
    }
    let stats = daemon.dhow(&["stats", "--no-stream", "box"]).ok();
    assert!(stats.contains("/ 64MiB"), "{stats}");

    daemon.dhow(&["pause", "box"]).ok();
    assert_eq!(inspect(&daemon, "box", "{{.State.Status}}"), "paused");
    daemon.dhow(&["unpause", "box"]).ok();
    let update = [
        "update",
        "-m",
        "128m",
        "--memory-swap",
        "128m",
        "--pids-limit",
        "40",
        "box",
    ];
    daemon.dhow(&update).ok();
    assert_eq!(file("memory.max"), "134217728");
    assert_eq!(file("memory.swap.max"), "0");
    assert_eq!(file("pids.max"), "40");

    // Fork bombs and memory hogs meet their limits, and the second is told.
    let bomb = "i=0; while [ $i -lt 60 ]; do sleep 60 & i=$((i+1)); done";
    let bomb = within(&daemon, "box", bomb);
    assert!(bomb.stderr.contains("can't fork"), "{bomb:?}");
    let hog = [
        "run",
        "--name",
        "hog",
        "--network",
        "none",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "tail",
        "/dev/zero",
    ];
    let hog = daemon.dhow(&hog);
    assert_eq!(hog.code, 137, "{hog:?}");
    assert_eq!(inspect(&daemon, "hog", "{{.State.OOMKilled}}"), "true");
    assert_eq!(inspect(&daemon, "box", "{{.State.OOMKilled}}"), "false");
    remove(&daemon, &["box", "hog"]);
    daemon.finish();
}

#[test]
#[ignore = "needs cgroup v2 alone: make vm-test"]
fn devices_are_ruled_by_programs() {
    let daemon = Daemon::start();
    daemon.busybox_by_dhow();
    let script = "mknod /dev/log c 1 11 && head -n 1 /dev/log >/dev/null";
    let run = |options: &[&str]| {
        let words = [
            &["run", "--rm", "--network", "none"][..],
            options,
            &["busybox", "sh", "-c", script],
        ];
        daemon.dhow(&words.concat())
    };
    let refused = run(&["--cap-add", "SYSLOG"]);
    assert!(
        refused.stderr.contains("Operation not permitted"),
        "{refused:?}"
    );
    // The kernel's own log asks for more than the device's rules.
    run(&["--device-cgroup-rule", "c 1:11 rw", "--cap-add", "SYSLOG"]).ok();
    run(&["--privileged"]).ok();
    let script = "[ -b /dev/own ] && head -c 0 /dev/own && ! sh -c ': >/dev/own' 2>/dev/null";
    let mapped = [
        "run",
        "--rm",
        "--network",
        "none",
        "--device",
        "/dev/vda:/dev/own:r",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    daemon.dhow(&mapped).ok();
    daemon.finish();
}

#[test]
#[ignore = "needs cgroup v2 alone: make vm-test"]
fn what_version_2_cannot_express_is_told() {
    let daemon = Daemon::start();
    daemon.busybox_by_dhow();
    let run = [
        "run",
        "--name",
        "odd",
        "--network",
        "none",
        "-m",
        "64m",
        "--memory-swappiness",
        "10",
        "--oom-kill-disable",
        "busybox",
        "echo",
        "ran",
    ];
    let ran = daemon.dhow(&run);
    assert_eq!((ran.code, ran.stdout.trim()), (0, "ran"), "{ran:?}");
    for warning in ["Memory swappiness discarded.", "OomKillDisable discarded."] {
        assert!(ran.stderr.contains(warning), "{ran:?}");
    }
    let run = [
        "run",
        "--network",
        "none",
        "--cpu-rt-runtime",
        "1000",
        "busybox",
        "true",
    ];
    let refused = daemon.dhow(&run);
    assert!(
        refused.stderr.contains("CPU real-time scheduler"),
        "{refused:?}"
    );
    remove(&daemon, &["odd"]);
    daemon.finish();
}

#[test]
#[ignore = "needs the kernel of make vm-test"]
fn containers_on_a_bridge_reach_their_host() {
    let daemon = Daemon::start();
    daemon.busybox_by_dhow();
    let script = "ping -c 1 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')";
    daemon
        .dhow(&["run", "--rm", "busybox", "sh", "-c", script])
        .ok();
    daemon.finish();
}

/// A profile, loaded until the test is over.
struct Profile(PathBuf);

impl Profile {
    fn load(name: &str, rules: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}.apparmor"));
        let flags = "flags=(attach_disconnected,mediate_deleted)";
        let text = format!("profile {name} {flags} {{\n{rules}\n}}\n");
        std::fs::write(&path, text).expect("written");
        let profile = Self(path);
        profile.parse("--replace");
        profile
    }

    fn parse(&self, action: &str) {
        let status = Command::new("apparmor_parser")
            .args(["--skip-cache", action])
            .arg(&self.0)
            .status()
            .expect("apparmor_parser is there: the Debian package apparmor");
        assert!(status.success());
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parse("--remove");
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
#[ignore = "needs AppArmor: make vm-test"]
fn programs_are_confined_by_apparmor() {
    let rules = "  file,\n  capability,\n  network,\n  signal,\n  deny /data/greeting r,";
    let _profile = Profile::load("dhow-test", rules);
    let daemon = Daemon::start();
    daemon.busybox_by_dhow();
    let option = "apparmor=dhow-test";
    sleeper(
        &daemon,
        "confined",
        &["--network", "none", "--security-opt", option],
    );
    let unconfined = ["--network", "none", "--security-opt", "apparmor=unconfined"];
    sleeper(&daemon, "free", &unconfined);
    for (name, profile) in [("confined", "dhow-test"), ("free", "unconfined")] {
        assert_eq!(inspect(&daemon, name, "{{.AppArmorProfile}}"), profile);
    }
    let label = |name: &str, of: &str| {
        let script = format!("cat /proc/{of}/attr/current");
        within(&daemon, name, &script).ok()
    };
    for of in ["1", "self"] {
        assert_eq!(label("confined", of), "dhow-test (enforce)");
        assert_eq!(label("free", of), "unconfined");
    }
    let read = "cat /data/greeting";
    let refused = within(&daemon, "confined", read);
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    assert_eq!(within(&daemon, "free", read).ok(), "from the image");
    let privileged = [
        "exec",
        "--privileged",
        "confined",
        "cat",
        "/proc/self/attr/current",
    ];
    assert_eq!(daemon.dhow(&privileged).ok(), "unconfined");

    // A profile that nobody has loaded is no reason to run without one.
    let unknown = [
        "run",
        "--name",
        "lost",
        "--network",
        "none",
        "--security-opt",
        "apparmor=dhow-unknown",
        "busybox",
        "true",
    ];
    let unknown = daemon.dhow(&unknown);
    assert_ne!(unknown.code, 0);
    assert!(
        unknown
            .stderr
            .contains("apply AppArmor profile \"dhow-unknown\", which must be loaded"),
        "{unknown:?}"
    );
    remove(&daemon, &["confined", "free", "lost"]);
    daemon.finish();
}

/// Who names no profile has ours, under the name that clients know.
#[test]
#[ignore = "needs AppArmor: make vm-test"]
fn the_default_profile_keeps_the_host_from_containers() {
    // Docker's of that name may be there.
    drop(Profile::load("docker-default", ""));
    let mut daemon = Daemon::start();
    daemon.busybox_by_dhow();
    let none = ["--network", "none"];
    sleeper(&daemon, "usual", &none);
    let free = ["--security-opt", "apparmor=unconfined"];
    sleeper(&daemon, "free", &[&none[..], &free].concat());
    sleeper(
        &daemon,
        "privileged",
        &[&none[..], &["--privileged"]].concat(),
    );
    for (name, profile, label) in [
        ("usual", "docker-default", "docker-default (enforce)"),
        ("free", "unconfined", "unconfined"),
        ("privileged", "unconfined", "unconfined"),
    ] {
        assert_eq!(inspect(&daemon, name, "{{.AppArmorProfile}}"), profile);
        for of in ["1", "self"] {
            let script = format!("cat /proc/{of}/attr/current");
            assert_eq!(within(&daemon, name, &script).ok(), label, "{name}");
        }
    }
    remove(&daemon, &["usual", "free", "privileged"]);

    // One of the host's, and one of the container's, with all the rights there are
    // beside a profile.
    let mut host = Command::new("sleep")
        .arg("3600")
        .spawn()
        .expect("it starts");
    let host_pid = host.id();
    let run = |profile: &[&str], script: &str| {
        let options = "--rm --network none --pid host --cap-add ALL -v /sys:/sys \
            --security-opt systempaths=unconfined --security-opt seccomp=unconfined";
        let words: Vec<&str> = ["run"]
            .into_iter()
            .chain(options.split_whitespace())
            .chain(profile.iter().copied())
            .chain(["busybox", "sh", "-c", script])
            .collect();
        daemon.dhow(&words)
    };
    let scripts = [
        "mkdir /m && mount -t tmpfs none /m".to_owned(),
        "mkdir /m && mount --bind /etc /m".to_owned(),
        format!("kill -CONT {host_pid}"),
        format!("cat /proc/{host_pid}/environ >/dev/null"),
        "n=$(cat /proc/sys/vm/swappiness) && echo $n >/proc/sys/vm/swappiness".to_owned(),
        "n=$(cat /proc/sys/kernel/panic) && echo $n >/proc/sys/kernel/panic".to_owned(),
        "n=$(cat /proc/sys/kernel/sysrq) && echo $n >/proc/sys/kernel/sysrq".to_owned(),
        "echo h >/proc/sysrq-trigger".to_owned(),
        "head -c 1 /proc/kcore >/dev/null".to_owned(),
        "n=/sys/module/printk/parameters/time; cat $n >/n && cat /n >$n".to_owned(),
        "head -c 1 /sys/kernel/security/apparmor/profiles".to_owned(),
    ];
    let mut wrong = Vec::new();
    for script in &scripts {
        let refused = run(&[], script);
        let said = ["ermission denied", "not permitted"];
        let is_denied = said.iter().any(|word| refused.stderr.contains(word));
        let allowed = run(&free, script);
        if !(refused.code != 0 && is_denied && allowed.code == 0) {
            wrong.push((refused, allowed));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What stays: its own processes, its shared memory, its files, unmounting.
    for script in [
        "sleep 60 & kill -TERM $! && ! wait $!",
        "sleep 60 & cat /proc/$!/environ >/dev/null && kill $!",
        "n=$(cat /proc/sys/kernel/shmmax) && echo $n >/proc/sys/kernel/shmmax",
        "echo 10 >/proc/self/oom_score_adj",
        "echo one >/file && mkfifo /fifo && mknod /null c 1 3 && echo two >/null",
        "umount /dev/shm",
        &format!("kill -0 {host_pid}"),
    ] {
        let ran = run(&[], script);
        if ran.code != 0 {
            wrong.push((ran, run(&free, script)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    host.kill().expect("it runs");
    host.wait().expect("it ends");

    // The next daemon finds it loaded; and a stopped program is stopped as ever.
    daemon.stop();
    daemon.start_again();
    sleeper(&daemon, "usual", &none);
    daemon.dhow(&["stop", "-t", "1", "usual"]).ok();
    assert_eq!(inspect(&daemon, "usual", "{{.State.ExitCode}}"), "137");
    remove(&daemon, &["usual"]);

    // Where nobody can load it, containers go without.
    daemon.stop();
    drop(Profile::load("docker-default", ""));
    let parser = "/usr/sbin/apparmor_parser";
    let host = daemon.host();
    host.run("mount", &["--bind", "/dev/null", parser]).ok();
    daemon.start_again();
    sleeper(&daemon, "without", &none);
    daemon.host().run("umount", &[parser]).ok();
    let profile = inspect(&daemon, "without", "{{.AppArmorProfile}}");
    assert_eq!(profile, "unconfined");
    let label = within(&daemon, "without", "cat /proc/self/attr/current");
    assert_eq!(label.ok(), "unconfined");
    remove(&daemon, &["without"]);
    daemon.finish();
}

/// Where a filesystem with project quotas is mounted.
fn mounted(kind: &str) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("proc is mounted");
    let found = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[2] == kind && words[3].contains("prjquota")).then(|| words[1].into())
    });
    found.unwrap_or_else(|| panic!("no {kind} with project quotas is mounted"))
}

/// What projects take and may take on a filesystem, but for people's own numbers.
fn projects(mounted: &Path) -> Vec<Usage> {
    let quotas = Quotas::of(mounted).expect("it is there");
    let quotas = quotas.expect("it has project quotas");
    let mut projects = Vec::new();
    let mut from = 1 << 20;
    while let Some((project, usage)) = quotas.next(from).expect("it answers") {
        if project < from {
            break;
        }
        projects.push(usage);
        from = project + 1;
    }
    projects
}

/// Limits that are in force.
fn limits(mounted: &Path) -> Vec<u64> {
    let projects = projects(mounted);
    let limits = projects.iter().map(|usage| usage.limit);
    let mut limits: Vec<u64> = limits.filter(|limit| *limit != 0).collect();
    limits.sort_unstable();
    limits
}

/// Fails unless all projects have come down to nothing.
#[track_caller]
fn nothing_is_counted(mounted: &Path) {
    // What is still to be written is, before it freezes.
    for action in ["--freeze", "--unfreeze"] {
        let mut freeze = Command::new("fsfreeze");
        let status = freeze.arg(action).arg(mounted).status();
        assert!(status.expect("it starts").success(), "{action}");
    }
    let left = projects(mounted);
    assert!(left.iter().all(Usage::is_nothing), "{left:?}");
}

const MEGABYTE: u64 = 1 << 20;

/// Writes this much; the megabytes there are then, and what was said.
fn write(daemon: &Daemon, name: &str, megabytes: u32) -> (u64, String) {
    let script = format!("dd if=/dev/zero of=/big bs=1M count={megabytes}; stat -c %b /big");
    let ran = within(daemon, name, &script);
    let blocks: u64 = ran
        .stdout
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{ran:?}"));
    (blocks * 512 / MEGABYTE, ran.stderr)
}

#[track_caller]
fn is_full(written: (u64, String), megabytes: u64) {
    let (size, said) = written;
    assert!(
        (megabytes - 2..=megabytes).contains(&size),
        "{size} of {megabytes}: {said}"
    );
    assert!(
        said.contains("No space left on device") || said.contains("Disk quota exceeded"),
        "{said}"
    );
}

/// The life of containers with sizes, on one kind of filesystem.
fn sizes(kind: &str) {
    let disk = mounted(kind);
    assert_eq!(
        limits(&disk),
        [] as [u64; 0],
        "something is left of another test"
    );
    let mut daemon = Daemon::start_on(&disk);
    daemon.busybox_by_dhow();
    let none = &["--network", "none"][..];
    let sized = |size: &'static str| [none, &["--storage-opt", size]].concat();
    sleeper(&daemon, "small", &sized("size=10m"));
    sleeper(&daemon, "large", &sized("size=30m"));
    sleeper(&daemon, "free", none);
    assert_eq!(limits(&disk), [10 * MEGABYTE, 30 * MEGABYTE]);

    // One that is full hurts itself.
    is_full(write(&daemon, "small", 40), 10);
    assert_eq!(write(&daemon, "large", 20).0, 20);
    assert_eq!(write(&daemon, "free", 40).0, 40);
    within(&daemon, "small", "rm /big && echo fits >/small").ok();
    is_full(write(&daemon, "large", 40), 30);

    // It stays what it is when the container is started again, and when the
    // daemon was killed.
    daemon.dhow(&["restart", "-t", "0", "small"]).ok();
    assert_eq!(within(&daemon, "small", "cat /small").ok(), "fits");
    daemon.kill();
    daemon.start_again();
    sleeper(&daemon, "later", &sized("size=12m"));
    is_full(write(&daemon, "later", 40), 12);
    is_full(write(&daemon, "small", 40), 10);
    assert_eq!(limits(&disk), [10 * MEGABYTE, 12 * MEGABYTE, 30 * MEGABYTE]);

    // What is written to it can become an image, without the size.
    within(&daemon, "small", "rm /big").ok();
    daemon.dhow(&["commit", "small", "kept"]).ok();
    let run = ["run", "--rm", "--network", "none", "kept", "cat", "/small"];
    assert_eq!(daemon.dhow(&run).ok(), "fits");

    remove(&daemon, &["small", "large", "later"]);
    assert_eq!(limits(&disk), [] as [u64; 0]);

    // What went wrong is taken back.
    for (option, reason) in [
        ("size=many", "invalid size: 'many'"),
        ("inodes=5", "Unknown option inodes"),
    ] {
        let refused = daemon.dhow(&["create", "--storage-opt", option, "busybox", "true"]);
        assert!(refused.stderr.contains(reason), "{refused:?}");
    }
    let taken = [
        "create",
        "--name",
        "free",
        "--storage-opt",
        "size=10m",
        "busybox",
        "true",
    ];
    assert_ne!(daemon.dhow(&taken).code, 0);
    assert_eq!(limits(&disk), [] as [u64; 0]);

    // A size for all that say nothing of it.
    daemon.stop();
    daemon.start_again_with(&["--storage-opt", "overlay2.size=15m"]);
    sleeper(&daemon, "usual", none);
    sleeper(&daemon, "special", &sized("size=25m"));
    is_full(write(&daemon, "usual", 40), 15);
    is_full(write(&daemon, "special", 40), 25);

    // A container that a crash took half away: its size is given back.
    let id = inspect(&daemon, "special", "{{.Id}}");
    daemon.dhow(&["stop", "-t", "0", "special"]).ok();
    daemon.kill();
    let data = daemon.host().folder().join("data");
    std::fs::rename(
        data.join("image/rootfs").join(&id),
        data.join("image/doomed/crash"),
    )
    .expect("it is there");
    std::fs::remove_dir_all(data.join("containers").join(&id)).expect("it is there");
    daemon.start_again();
    assert_eq!(limits(&disk), [15 * MEGABYTE]);
    remove(&daemon, &["usual", "free"]);
    if kind == "ext4" {
        nothing_is_counted(&disk);
    } else {
        // XFS counts what was removed until it gets round to it.
        assert_eq!(limits(&disk), [] as [u64; 0]);
    }
    daemon.finish();
}

#[test]
#[ignore = "needs XFS with project quotas: make vm-test"]
fn root_filesystems_on_xfs_have_sizes() {
    sizes("xfs");
}

#[test]
#[ignore = "needs ext4 with project quotas: make vm-test"]
fn root_filesystems_on_ext4_have_sizes() {
    sizes("ext4");
}

#[test]
fn sizes_are_refused_where_nobody_counts() {
    let mut daemon = Daemon::start_on_disk_of("64m");
    daemon.busybox_by_dhow();
    let create = ["create", "--storage-opt", "size=10m", "busybox", "true"];
    let refused = daemon.dhow(&create);
    let reason = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";
    assert!(refused.stderr.contains(reason), "{refused:?}");
    assert_eq!(daemon.dhow(&["ps", "-aq"]).ok(), "");
    daemon.stop();
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        daemon.start_again_with(&["--storage-opt", "overlay2.size=10m"]);
    }));
    let said = started.expect_err("it does not start");
    let said = said.downcast_ref::<String>().expect("it says why");
    assert!(said.contains("Storage option overlay2.size"), "{said}");
    daemon.start_again();
    daemon.finish();
}
