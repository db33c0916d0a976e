//! Real engines that have systemd keep the groups of their containers: dockerd and
//! podman with this runtime.

use std::process::Command;

use super::{hierarchy, is_pure_v2, property};
use crate::bundle::{Bundle, EXECUTABLE};
use crate::clients::{LASTING, Ran, Server, option};

/// The name of a unit's property with the limit of memory.
fn memory() -> &'static str {
    if is_pure_v2() {
        "MemoryMax"
    } else {
        "MemoryLimit"
    }
}

/// What a container's scope says of it, from its start to its end; `engine` runs a
/// command of the engine's.
fn lives_in(unit: &str, slice: &str, name: &str, engine: &dyn Fn(&[&str]) -> Ran) {
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", slice),
        ("Delegate", "yes"),
        ("TasksMax", "40"),
        ("CPUQuotaPerSecUSec", "500ms"),
        (memory(), "67108864"),
    ] {
        assert_eq!(property(unit, name), value, "{name}");
    }
    let exec = ["exec", "-u", "1", name, "sh", "-c", "id -u; exit 7"];
    let exec = engine(&exec);
    assert_eq!((exec.code, exec.out.as_str()), (Some(7), "1"), "{exec:?}");
    engine(&["pause", name]).ok();
    let status = ["inspect", "--format={{.State.Status}}", name];
    assert_eq!(engine(&status).ok(), "paused");
    engine(&["unpause", name]).ok();
    engine(&["update", "--memory=80m", "--memory-swap=80m", name]).ok();
    assert_eq!(property(unit, memory()), "83886080");
    let group = property(unit, "ControlGroup");
    let file = hierarchy().join(group.trim_start_matches('/'));
    let file = file.join(if is_pure_v2() {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    });
    assert_eq!(std::fs::read_to_string(file).unwrap().trim(), "83886080");
    assert!(engine(&["top", name]).ok().contains("trap"));
    engine(&["kill", "--signal=TERM", name]).ok();
    assert_eq!(engine(&["wait", name]).ok(), "5");
    engine(&["rm", "--force", name]).ok();
    assert_eq!(property(unit, "LoadState"), "not-found");
}

const LIMITS: [&str; 5] = [
    "--network=none",
    "--memory=64m",
    "--memory-swap=64m",
    "--pids-limit=40",
    "--cpus=.5",
];

#[test]
#[ignore = "needs systemd: make vm-test"]
fn dockerd_has_scopes_from_it() {
    let bundle = Bundle::new("dockerd", "");
    let path = |name: &str| bundle.path().join(name);
    let socket = format!("unix://{}", path("docker.sock").display());
    let server = Server::start(
        Command::new("dockerd")
            .arg(option("data-root", &path("data")))
            .arg(option("exec-root", &path("run")))
            .arg(option("pidfile", &path("pid")))
            .arg(format!("--host={socket}"))
            .args(["--iptables=false", "--ip-forward=false", "--bridge=none"])
            .args([
                "--exec-opt=native.cgroupdriver=systemd",
                "--storage-driver=overlay2",
            ])
            .arg(format!("--add-runtime=dhow={EXECUTABLE}"))
            .arg("--default-runtime=dhow"),
        "API listen on",
    );
    let docker = |arguments: &[&str]| {
        let mut docker = Command::new("docker");
        docker
            .env("DOCKER_HOST", &socket)
            .env("DOCKER_CONFIG", path("config"))
            .args(arguments);
        Ran::of(&mut docker)
    };
    let tar = path("root.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(bundle.rootfs()).arg("-cf").arg(&tar);
    assert!(pack.arg(".").status().unwrap().success());
    docker(&["import", tar.to_str().unwrap(), "box"]).ok();
    let info = ["info", "--format={{.CgroupDriver}}"];
    assert_eq!(docker(&info).ok(), "systemd");

    let start = [&["run", "--detach", "--name=lasting"], &LIMITS[..]].concat();
    let id = docker(&[&start[..], &["box", "sh", "-c", LASTING]].concat()).ok();
    let unit = format!("docker-{id}.scope");
    lives_in(&unit, "system.slice", "lasting", &docker);

    let run = ["run", "--rm", "--network=none"];
    let other = ["--cgroup-parent=dhowtest-d.slice", "box", "echo", "in"];
    assert_eq!(docker(&[&run[..], &other].concat()).ok(), "in");
    let hog = [
        "--memory=8m",
        "--memory-swap=8m",
        "box",
        "tail",
        "/dev/zero",
    ];
    assert_eq!(docker(&[&run[..], &hog].concat()).code, Some(137));
    assert_eq!(docker(&["ps", "--all", "--quiet"]).ok(), "");
    drop(server);
    bundle.audit();
    super::ok(Command::new("systemctl").args(["stop", "dhowtest.slice"]));
}

#[test]
#[ignore = "needs systemd: make vm-test"]
fn podman_has_scopes_from_it() {
    let bundle = Bundle::new("podman", "");
    let path = |name: &str| bundle.path().join(name);
    let podman = |arguments: &[&str]| {
        let mut podman = Command::new("podman");
        podman
            .arg(option("root", &path("root")))
            .arg(option("runroot", &path("run")))
            .arg(option("tmpdir", &path("tmp")))
            .args([
                "--storage-driver=vfs",
                "--cgroup-manager=systemd",
                "--events-backend=none",
            ])
            .arg(format!("--runtime={EXECUTABLE}"))
            .args(arguments);
        Ran::of(&mut podman)
    };
    let rootfs = bundle.rootfs();
    let start = [&["run", "--detach", "--name=lasting"], &LIMITS[..]].concat();
    let program = ["--rootfs", rootfs.to_str().unwrap(), "sh", "-c", LASTING];
    let id = podman(&[&start[..], &program].concat()).ok();
    let unit = format!("libpod-{id}.scope");
    lives_in(&unit, "machine.slice", "lasting", &podman);
    assert_eq!(podman(&["ps", "--all", "--quiet"]).ok(), "");
    bundle.audit();
}
