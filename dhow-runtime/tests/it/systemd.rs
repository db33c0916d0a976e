//! Control groups that systemd keeps: `--systemd-cgroup`.
//!
//! Most of it needs a machine that systemd has started, with dbus-daemon: the
//! second machine of `make vm-test`, where these tests are not ignored.

mod engines;

use std::path::{Path, PathBuf};
use std::process::Command;

use dhow_runtime::spec::{Hook, Resources};

use crate::bundle::{Bundle, words};

/// Where the version 2 hierarchy is, or version 1's of memory.
fn hierarchy() -> PathBuf {
    let layout = dhow_cgroup::Layout::detect().unwrap();
    match layout.v1("memory") {
        Some(hierarchy) => hierarchy.mount.clone(),
        None => layout.v2.unwrap(),
    }
}

fn is_pure_v2() -> bool {
    dhow_cgroup::Layout::detect().unwrap().is_pure_v2()
}

#[track_caller]
fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A property of a unit.
#[track_caller]
fn property(unit: &str, name: &str) -> String {
    let mut show = Command::new("systemctl");
    show.args(["show", "--value", "--property", name, unit]);
    ok(&mut show).trim().to_owned()
}

/// A bundle that sleeps, in a scope of its own.
struct Scope {
    bundle: Bundle,
    unit: String,
}

impl Scope {
    fn new(name: &str, slice: &str, resources: &str) -> Self {
        let mut bundle = Bundle::new(name, "exec sleep 1000");
        let path = format!("{slice}:test:{}", bundle.id);
        let unit = format!("test-{}.scope", bundle.id);
        bundle.linux().cgroups_path = Some(path);
        bundle.linux().resources = Some(serde_json::from_str(resources).unwrap());
        Self { bundle, unit }
    }

    fn command(&self, words: &[&str]) -> Command {
        let words = [&["--systemd-cgroup"], words].concat();
        self.bundle.command(&words)
    }

    #[track_caller]
    fn run(&self) {
        self.bundle.write();
        let bundle = self.bundle.path().to_str().unwrap();
        let run = ["run", "--detach", "--bundle", bundle, &self.bundle.id];
        let streams = std::process::Stdio::null;
        let mut command = self.command(&run);
        command.stdin(streams()).stdout(streams()).stderr(streams());
        let status = command.status().unwrap();
        assert!(status.success(), "{}", refused(&mut self.command(&run)));
    }

    fn group(&self) -> PathBuf {
        let path = property(&self.unit, "ControlGroup");
        hierarchy().join(path.trim_start_matches('/'))
    }

    /// A file of its group.
    #[track_caller]
    fn file(&self, name: &str) -> String {
        let path = self.group().join(name);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    /// Deletes by force; nothing is left.
    #[track_caller]
    fn delete(&self) {
        ok(&mut self.command(&["delete", "--force", &self.bundle.id]));
        self.audit();
    }

    #[track_caller]
    fn audit(&self) {
        let mut list = Command::new("systemctl");
        list.args(["list-units", "--all", "--no-legend", "--plain", "test-*"]);
        let units = ok(&mut list);
        assert!(!units.contains(&self.unit), "a unit is left: {units}");
        let mut left = Vec::new();
        let layout = dhow_cgroup::Layout::detect().unwrap();
        let old = layout.v1.iter().map(|hierarchy| &hierarchy.mount);
        for mount in old.chain(&layout.v2) {
            find(mount, &self.unit, &mut left);
        }
        assert!(left.is_empty(), "a control group is left: {left:?}");
        let state = std::fs::read_dir(self.bundle.runtime_root());
        assert_eq!(state.map_or(0, Iterator::count), 0, "state is left");
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let mut stop = Command::new("systemctl");
        stop.args(["stop", &self.unit]);
        // A test that went well has left nothing to stop.
        let _ = stop.output();
    }
}

fn find(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name() == *name {
                found.push(entry.path());
            }
            if let Ok(_readable) = std::fs::read_dir(entry.path()) {
                find(&entry.path(), name, found);
            }
        }
    }
}

/// A machine that has systemd seems to have none where its folder is covered.
#[test]
fn a_machine_without_systemd_says_so() {
    let bundle = Bundle::new("no-systemd", "true");
    bundle.write();
    let script = "mount -t tmpfs none /run && exec \"$@\"";
    let mut run = Command::new("unshare");
    run.args(["--mount", "sh", "-c", script, "sh"])
        .arg(crate::bundle::EXECUTABLE)
        .arg("--root")
        .arg(bundle.runtime_root())
        .args(["--systemd-cgroup", "run", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id);
    let errors = refused(&mut run);
    assert!(
        errors.contains("systemd not running on this host, cannot use systemd cgroups manager"),
        "{errors}"
    );
    // What asks systemd for nothing works all the same.
    ok(&mut bundle.command(&["--systemd-cgroup", "list"]));
    bundle.audit();
}

const RESOURCES: &str = r#"{
    "memory": { "limit": 67108864, "swap": 100663296, "reservation": 33554432 },
    "cpu": { "shares": 512, "quota": 50500, "period": 100000, "cpus": "0" },
    "pids": { "limit": 40 },
    "devices": [
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" }
    ]
}"#;

#[test]
#[ignore = "needs systemd: make vm-test"]
fn systemd_keeps_a_scope_from_run_to_delete() {
    let scope = Scope::new("scope", "dhowtest-a.slice", RESOURCES);
    scope.run();
    let id = scope.bundle.id.as_str();
    let group = property(&scope.unit, "ControlGroup");
    assert_eq!(
        group,
        format!("/dhowtest.slice/dhowtest-a.slice/{}", scope.unit)
    );
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", "dhowtest-a.slice"),
        ("Delegate", "yes"),
        ("TasksMax", "40"),
        ("CPUQuotaPerSecUSec", "510ms"),
        ("DevicePolicy", "strict"),
    ] {
        assert_eq!(property(&scope.unit, name), value, "{name}");
    }
    let files: &[(&str, &str)] = if is_pure_v2() {
        assert_eq!(property(&scope.unit, "MemoryMax"), "67108864");
        assert_eq!(property(&scope.unit, "MemoryLow"), "33554432");
        assert_eq!(property(&scope.unit, "CPUWeight"), "59");
        assert_eq!(property(&scope.unit, "AllowedCPUs"), "0");
        &[
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("memory.swap.max", "33554432"),
            ("cpu.max", "50500 100000"),
            ("cpu.weight", "59"),
            ("cpuset.cpus", "0"),
            ("pids.max", "40"),
        ]
    } else {
        assert_eq!(property(&scope.unit, "MemoryLimit"), "67108864");
        &[("memory.limit_in_bytes", "67108864")]
    };
    for (name, value) in files {
        assert_eq!(scope.file(name), *value, "{name}");
    }

    // Who execs is in the scope, and under its rules.
    let inside = |script: &str| scope.command(&["exec", id, "sh", "-c", script]);
    let processes = ok(&mut inside("echo $$; cat /proc/self/cgroup"));
    assert!(processes.lines().count() > 1, "{processes}");
    // Whether there is a device is another matter than whether it may be used.
    let devices = || {
        let script = "for n in 229 200; do [ -e /dev/$n ] || mknod /dev/$n c 10 $n; \
                      head -c 0 /dev/$n 2>&1 | grep -c 'not permitted'; done; true";
        ok(&mut inside(script))
    };
    assert_eq!(devices(), "0\n1\n");

    ok(&mut scope.command(&["pause", id]));
    let state = ok(&mut scope.command(&["state", id]));
    assert!(state.contains("\"paused\""), "{state}");
    ok(&mut scope.command(&["resume", id]));

    let update =
        "update --memory 134217728 --memory-swap 134217728 --cpu-quota 25000 --pids-limit 30";
    let mut update = words(update);
    update.push(id.to_owned());
    let update: Vec<&str> = update.iter().map(String::as_str).collect();
    ok(&mut scope.command(&update));
    assert_eq!(property(&scope.unit, "TasksMax"), "30");
    assert_eq!(property(&scope.unit, "CPUQuotaPerSecUSec"), "250ms");
    if is_pure_v2() {
        assert_eq!(property(&scope.unit, "MemoryMax"), "134217728");
        assert_eq!(scope.file("memory.max"), "134217728");
        assert_eq!(scope.file("cpu.max"), "25000 100000");
    } else {
        assert_eq!(property(&scope.unit, "MemoryLimit"), "134217728");
        assert_eq!(scope.file("memory.limit_in_bytes"), "134217728");
    }
    let mut reload = Command::new("systemctl");
    ok(reload.arg("daemon-reload"));
    assert_eq!(property(&scope.unit, "TasksMax"), "30");
    // Devices are what they were, before systemd and after it.
    assert_eq!(devices(), "0\n1\n");

    // A second of that name is refused, and the first goes on.
    let mut other = Bundle::new("scope-other", "true");
    other.linux().cgroups_path = scope.bundle.spec.linux.clone().unwrap().cgroups_path;
    other.write();
    let path = other.path().to_str().unwrap();
    let run = ["--systemd-cgroup", "run", "--bundle", path, &other.id];
    let errors = refused(&mut other.command(&run));
    assert!(errors.contains("choose another path"), "{errors}");
    assert_eq!(property(&scope.unit, "ActiveState"), "active");

    ok(&mut scope.command(&["kill", id, "KILL"]));
    scope.delete();
    let mut stop = Command::new("systemctl");
    ok(stop.args(["stop", "dhowtest.slice"]));
}

#[test]
#[ignore = "needs systemd: make vm-test"]
fn what_nobody_chose_is_in_the_system_slice() {
    let mut scope = Scope::new("scope-own", "", "{}");
    scope.bundle.linux().cgroups_path = None;
    scope.unit = format!("dhow-{}.scope", scope.bundle.id);
    let annotation = "org.systemd.property.TimeoutStopSec".to_owned();
    let annotations = &mut scope.bundle.spec.annotations;
    annotations.insert(annotation, "uint64 7".to_owned());
    scope.run();
    let group = property(&scope.unit, "ControlGroup");
    assert_eq!(group, format!("/system.slice/{}", scope.unit));
    assert_eq!(property(&scope.unit, "TimeoutStopUSec"), "7s");
    assert_eq!(property(&scope.unit, "DevicePolicy"), "auto");
    scope.delete();
}

#[test]
#[ignore = "needs systemd: make vm-test"]
fn one_process_is_enough() {
    let scope = Scope::new("scope-tight", "", r#"{ "pids": { "limit": 1 } }"#);
    scope.run();
    assert_eq!(property(&scope.unit, "TasksMax"), "1");
    let file = if is_pure_v2() {
        "pids.current"
    } else {
        "tasks"
    };
    assert_eq!(scope.file(file).lines().count(), 1);
    scope.delete();
}

/// In the foreground, to the end; where systemd's own socket does not take us,
/// over the bus.
#[test]
#[ignore = "needs systemd: make vm-test"]
fn the_bus_is_the_other_way() {
    let mut scope = Scope::new("scope-bus", "", r#"{ "pids": { "limit": 40 } }"#);
    scope.bundle.process().args = words("cat /proc/self/cgroup");
    scope
        .bundle
        .linux()
        .namespaces
        .retain(|namespace| namespace.kind != dhow_runtime::spec::NamespaceKind::Cgroup);
    scope.bundle.write();
    let script = "mount --bind /dev/null /run/systemd/private && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]);
    command.arg(crate::bundle::EXECUTABLE);
    command.arg("--root").arg(scope.bundle.runtime_root());
    command.args(["--systemd-cgroup", "run", "--bundle"]);
    command.arg(scope.bundle.path()).arg(&scope.bundle.id);
    let groups = ok(&mut command);
    assert!(groups.contains(&scope.unit), "{groups}");
    scope.audit();
}

#[test]
#[ignore = "needs systemd: make vm-test"]
fn what_systemd_refuses_leaves_nothing() {
    let refuse = |change: &dyn Fn(&mut Scope), expected: &str| {
        let mut scope = Scope::new("scope-refused", "", "{}");
        change(&mut scope);
        scope.bundle.write();
        let path = scope.bundle.path().to_str().unwrap();
        let run = ["run", "--bundle", path, &scope.bundle.id];
        let errors = refused(&mut scope.command(&run));
        assert!(errors.contains(expected), "{errors}");
        scope.audit();
    };
    let path = |path: &'static str| {
        move |scope: &mut Scope| scope.bundle.linux().cgroups_path = Some(path.to_owned())
    };
    refuse(&path("/a/b"), "of format \"slice:prefix:name\"");
    refuse(&path("a--b.slice:test:x"), "no name of a slice");
    let annotate = |scope: &mut Scope| {
        let key = "org.systemd.property.NoSuchThing".to_owned();
        scope.bundle.spec.annotations.insert(key, "true".to_owned());
    };
    refuse(&annotate, "systemd refuses StartTransientUnit");
    // The unit is there already when this fails.
    let program = |scope: &mut Scope| scope.bundle.process().args = words("no-such-program");
    refuse(&program, "executable file not found in $PATH");
    let rule = |scope: &mut Scope| {
        let rule = r#"{ "devices": [{ "allow": true, "access": "x" }] }"#;
        let resources: Resources = serde_json::from_str(rule).unwrap();
        scope.bundle.linux().resources = Some(resources);
    };
    refuse(&rule, "no access");
}

/// A runtime that is killed in the middle leaves what `delete --force` removes.
#[test]
#[ignore = "needs systemd: make vm-test"]
fn a_killed_runtime_leaves_nothing_that_cannot_be_removed() {
    let mut scope = Scope::new("scope-killed", "", "{}");
    scope.bundle.spec.hooks.create_runtime = vec![Hook {
        path: "/bin/sh".into(),
        args: vec!["sh".into(), "-c".into(), "kill -KILL $PPID".into()],
        ..Hook::default()
    }];
    scope.bundle.write();
    let path = scope.bundle.path().to_str().unwrap();
    refused(&mut scope.command(&["run", "--bundle", path, &scope.bundle.id]));
    ok(&mut scope.command(&["delete", "--force", &scope.bundle.id]));
    scope.audit();
}
