//! The engine's control groups where systemd makes them: limits, use, freezing,
//! and that nothing is left, whoever is killed.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use dhow_testkit::Daemon;

use super::{inspect, remove, sleeper, within};

const DRIVER: [&str; 2] = ["--exec-opt", "native.cgroupdriver=systemd"];

fn start() -> Daemon {
    let daemon = Daemon::start_with(|_| DRIVER.map(str::to_owned).to_vec());
    daemon.busybox_by_dhow();
    daemon
}

#[track_caller]
fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output();
    let output = output.expect("systemd is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

/// The unit of a container.
#[track_caller]
fn unit(daemon: &Daemon, name: &str) -> String {
    let id = inspect(daemon, name, "{{.Id}}");
    format!("dhow-{}-{id}.scope", daemon.host().instance())
}

/// Waits until a container has ended; systemd has no unit of it then.
#[track_caller]
fn ended(daemon: &Daemon, name: &str) {
    let unit = unit(daemon, name);
    daemon.dhow(&["wait", name]).ok();
    assert_eq!(property(&unit, "LoadState"), "not-found");
}

fn pid(daemon: &Daemon, name: &str) -> String {
    inspect(daemon, name, "{{.State.Pid}}")
}

/// The parent of a process: of a container's first, its shim.
#[track_caller]
fn parent(pid: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.expect("it has a parent").trim().to_owned()
}

/// Kills the shim whose folder this is, and waits until it is gone.
#[track_caller]
fn kill_shim_in(daemon: &Daemon, folder: &Path, shim: &str) {
    // Addresses of sockets are short.
    let folder = std::fs::File::open(folder).expect("it is there");
    let socket = format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd());
    let mut connection = UnixStream::connect(socket).expect("the shim listens");
    daemon.host().run("kill", &["-KILL", shim]).ok();
    let n = connection.read(&mut [0]).expect("it ends");
    assert_eq!(n, 0, "the shim says nothing unasked");
}

#[track_caller]
fn kill_shim(daemon: &Daemon, name: &str) {
    let id = inspect(daemon, name, "{{.Id}}");
    let shim = parent(&pid(daemon, name));
    let run = daemon.host().folder().join("run/containers");
    kill_shim_in(daemon, &run.join(id).join("shim"), &shim);
}

fn is_pure_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Where the version 2 hierarchy is, or version 1's of memory.
fn hierarchy() -> &'static Path {
    Path::new(if is_pure_v2() {
        "/sys/fs/cgroup"
    } else {
        "/sys/fs/cgroup/memory"
    })
}

#[test]
#[ignore = "needs systemd: make vm-test"]
fn a_scope_is_all_a_container_needs() {
    let daemon = start();
    let info = daemon.dhow(&["info"]).ok();
    assert!(info.contains("Cgroup Driver: systemd"), "{info}");
    let options = "--network none -m 64m --memory-swap 64m --cpus 0.5 --pids-limit 50";
    let options: Vec<&str> = options.split_whitespace().collect();
    sleeper(&daemon, "box", &options);
    let unit = unit(&daemon, "box");
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", "system.slice"),
        ("TasksMax", "50"),
        ("CPUQuotaPerSecUSec", "500ms"),
        (
            if is_pure_v2() {
                "MemoryMax"
            } else {
                "MemoryLimit"
            },
            "67108864",
        ),
    ] {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    assert_eq!(
        property(&unit, "ControlGroup"),
        format!("/system.slice/{unit}")
    );
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid(&daemon, "box")));
    assert!(groups.expect("it runs").contains(&unit));

    // What the group tells, and what is asked of it.
    let stats = daemon.dhow(&["stats", "--no-stream", "box"]).ok();
    assert!(stats.contains("/ 64MiB"), "{stats}");
    let top = daemon.dhow(&["top", "box", "-o", "pid,args"]).ok();
    assert!(top.contains("sleep 3600"), "{top}");
    daemon.dhow(&["exec", "-d", "box", "sleep", "77"]).ok();
    let group = hierarchy().join("system.slice").join(&unit);
    let members = std::fs::read_to_string(group.join("cgroup.procs")).expect("it is there");
    let command = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(
        members.lines().any(|pid| command(pid) == b"sleep\x0077\0"),
        "{members}"
    );
    daemon.dhow(&["pause", "box"]).ok();
    assert_eq!(inspect(&daemon, "box", "{{.State.Status}}"), "paused");
    daemon.dhow(&["unpause", "box"]).ok();
    assert_eq!(within(&daemon, "box", "echo goes on").ok(), "goes on");
    let update = "update -m 128m --memory-swap 128m --pids-limit 40 box";
    let update: Vec<&str> = update.split_whitespace().collect();
    daemon.dhow(&update).ok();
    assert_eq!(property(&unit, "TasksMax"), "40");
    systemctl(&["daemon-reload"]);
    let stats = daemon.dhow(&["stats", "--no-stream", "box"]).ok();
    assert!(stats.contains("/ 128MiB"), "{stats}");
    let bomb = "i=0; while [ $i -lt 60 ]; do sleep 60 & i=$((i+1)); done";
    let bomb = within(&daemon, "box", bomb);
    assert!(bomb.stderr.contains("can't fork"), "{bomb:?}");

    // Who wants too much memory is told of.
    let hog = "run --name hog --network none -m 16m --memory-swap 16m busybox tail /dev/zero";
    let hog: Vec<&str> = hog.split_whitespace().collect();
    let hog = daemon.dhow(&hog);
    assert_eq!(hog.code, 137, "{hog:?}");
    assert_eq!(inspect(&daemon, "hog", "{{.State.OOMKilled}}"), "true");

    // Its end is the unit's, and the next start makes another.
    daemon.dhow(&["stop", "-t", "0", "box"]).ok();
    ended(&daemon, "box");
    daemon.dhow(&["start", "box"]).ok();
    assert_eq!(property(&unit, "ActiveState"), "active");
    remove(&daemon, &["box", "hog"]);
    daemon.finish();
}

#[test]
#[ignore = "needs systemd: make vm-test"]
fn parents_are_slices() {
    let mut daemon = start();
    let slice = ["--network", "none", "--cgroup-parent", "dhowtest-b.slice"];
    sleeper(&daemon, "chosen", &slice);
    assert_eq!(
        property(&unit(&daemon, "chosen"), "ControlGroup"),
        format!(
            "/dhowtest.slice/dhowtest-b.slice/{}",
            unit(&daemon, "chosen")
        )
    );
    for wrong in ["/some/group", "some", "a--b.slice", ".slice"] {
        let create = ["create", "--cgroup-parent", wrong, "busybox", "true"];
        let refused = daemon.dhow(&create);
        let why = "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"";
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
    daemon.stop();
    let options = [&DRIVER[..], &["--cgroup-parent", "dhowtest-c.slice"]].concat();
    daemon.start_again_with(&options);
    sleeper(&daemon, "usual", &["--network", "none"]);
    assert_eq!(
        property(&unit(&daemon, "usual"), "Slice"),
        "dhowtest-c.slice"
    );
    assert_eq!(
        property(&unit(&daemon, "chosen"), "Slice"),
        "dhowtest-b.slice"
    );
    remove(&daemon, &["chosen", "usual"]);
    daemon.finish();
    // They are the administrator's, and stay.
    systemctl(&["stop", "dhowtest.slice"]);
}

#[test]
#[ignore = "needs systemd: make vm-test"]
fn whoever_is_killed_leaves_no_unit() {
    let mut daemon = start();
    let none = &["--network", "none"][..];
    for name in ["one", "two", "three", "four"] {
        sleeper(&daemon, name, none);
    }
    kill_shim(&daemon, "one");
    ended(&daemon, "one");

    // The daemon: the container goes on in its scope, under the next one's hand.
    daemon.kill();
    daemon.start_again_with(&DRIVER);
    assert_eq!(property(&unit(&daemon, "two"), "ActiveState"), "active");
    assert_eq!(within(&daemon, "two", "echo goes on").ok(), "goes on");

    // Both, and what nobody knows of any more but systemd.
    let left = ["three", "four"].map(|name| {
        let id = inspect(&daemon, name, "{{.Id}}");
        (id, parent(&pid(&daemon, name)))
    });
    let [three, four] = ["three", "four"].map(|name| unit(&daemon, name));
    let folder = daemon.host().folder().to_owned();
    daemon.kill();
    for (id, shim) in &left {
        let run = folder.join("run/containers").join(id);
        kill_shim_in(&daemon, &run.join("shim"), shim);
    }
    for place in ["data/containers", "run/containers", "run/runtime"] {
        std::fs::remove_dir_all(folder.join(place).join(&left[1].0)).expect("it is there");
    }
    for unit in [&three, &four] {
        assert_eq!(property(unit, "ActiveState"), "active");
    }
    daemon.start_again_with(&DRIVER);
    for unit in [&three, &four] {
        assert_eq!(property(unit, "LoadState"), "not-found");
    }

    // A daemon with the other driver has the same containers.
    daemon.stop();
    daemon.start_again();
    let stats = daemon.dhow(&["stats", "--no-stream", "two"]).ok();
    assert!(!stats.contains("--"), "{stats}");
    kill_shim(&daemon, "two");
    ended(&daemon, "two");
    sleeper(&daemon, "plain", none);
    remove(&daemon, &["one", "two", "three", "plain"]);
    daemon.finish();
}

/// Steps of builds have scopes, and those of a daemon and a shim that were killed
/// are ended.
#[test]
#[ignore = "needs systemd: make vm-test"]
fn steps_of_builds_leave_no_unit() {
    let mut daemon = start();
    let folder = daemon.host().folder().to_owned();
    let context = folder.join("context");
    std::fs::create_dir(&context).expect("a folder");
    let file = context.join("Dockerfile");
    let context = context.display().to_string();
    let build = ["build", "--network", "none", "-t", "built", &context];
    std::fs::write(&file, "FROM busybox\nRUN echo built >/built\n").expect("written");
    daemon.dhow(&build).ok();
    let run = ["run", "--rm", "--network", "none", "built", "cat", "/built"];
    assert_eq!(daemon.dhow(&run).ok(), "built");

    let endless = "FROM busybox\nRUN echo begun; sleep 3600\n";
    std::fs::write(&file, endless).expect("written");
    let mut building = daemon
        .dhow_command(&build)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let said = BufReader::new(building.stdout.take().expect("it was piped"));
    let begun = |line: std::io::Result<String>| line.expect("it is text") == "begun";
    assert!(said.lines().any(begun), "the step runs");
    let steps = std::fs::read_dir(folder.join("run/steps")).expect("it is there");
    let step = steps.last().expect("one").expect("readable").path();
    let name = step.file_name().expect("a name").to_string_lossy();
    let unit = format!("dhow-{}-{name}.scope", daemon.host().instance());
    assert_eq!(property(&unit, "ActiveState"), "active");
    let group = hierarchy().join("system.slice").join(&unit);
    let members = std::fs::read_to_string(group.join("cgroup.procs")).expect("it is there");
    let first = members.lines().next().expect("somebody runs");
    let shim = parent(first);
    daemon.kill();
    building.wait().expect("it ends");
    kill_shim_in(&daemon, &step.join("shim"), &shim);
    daemon.start_again_with(&DRIVER);
    assert_eq!(property(&unit, "LoadState"), "not-found");
    daemon.finish();
}
