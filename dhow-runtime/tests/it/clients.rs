//! Real engines with this runtime: dockerd, containerd and podman run, execute,
//! limit, pause, kill and remove containers with it as they do with runc.
//!
//! Each engine has a folder of its own for everything it keeps, and ends with the
//! test. Needs Debian's `docker.io`, `containerd` and `podman`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::bundle::{Bundle, EXECUTABLE};

/// A program that counts until it is told to end, and ends with 5.
pub(crate) const LASTING: &str = "trap 'exit 5' TERM; while :; do sleep 0.1; done";

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) errors: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output();
        let Output {
            status,
            stdout,
            stderr,
        } = output.expect("tests need docker, ctr and podman: apt-get install docker.io podman");
        Self {
            code: status.code(),
            out: String::from_utf8(stdout).unwrap().trim().to_owned(),
            errors: String::from_utf8(stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.errors);
        self.out
    }
}

/// A server that ends with the test.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it and waits until its log says that it serves.
    pub(crate) fn start(command: &mut Command, serves: &str) -> Self {
        use std::io::{BufRead, BufReader};
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tests need dockerd and containerd: apt-get install docker.io containerd");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = String::new();
        loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("it ended before it served:\n{said}");
            };
            if line.contains(serves) {
                break;
            }
            said.push_str(&line);
            said.push('\n');
        }
        // What it says later is nobody's business, but must be read.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self(process)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(process) = dhow_sys::process::Process::find(self.0.id().cast_signed()) {
            // It may have ended by itself.
            let _ = process.signal(libc::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// A folder with a root filesystem and a control group, for one engine.
struct Place {
    bundle: Bundle,
    /// The group above its containers'.
    group: dhow_cgroup::Group,
}

impl Place {
    fn new(name: &str) -> Self {
        let bundle = Bundle::new(name, "");
        for program in ["cut", "ip", "ping", "tr"] {
            std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin").join(program))
                .unwrap();
        }
        let path = format!("/dhow-{}", bundle.id);
        let layout = dhow_cgroup::Layout::detect().unwrap();
        let group = dhow_cgroup::Group::at(layout, path.as_ref()).unwrap();
        group.create().unwrap();
        Self { bundle, group }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bundle.path().join(name)
    }

    fn parent(&self) -> String {
        format!("/{}", self.group.path().display())
    }

    /// Nothing is left of the engine, and of its containers nothing but the empty
    /// groups above them, as with runc.
    #[track_caller]
    fn audit(self) {
        assert_eq!(self.group.processes().unwrap(), [] as [i32; 0]);
        self.group.remove().unwrap();
        self.bundle.audit();
    }
}

impl Drop for Place {
    /// What a failed test left goes.
    fn drop(&mut self) {
        let _ = self.group.kill();
        let _ = self.group.remove();
    }
}

/// Runs a command line in a terminal of its own.
fn in_terminal(command: &Command) -> Ran {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()));
    let line = words.collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    for (name, value) in command.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    Ran::of(&mut script)
}

pub(crate) fn option(name: &str, value: &Path) -> String {
    format!("--{name}={}", value.display())
}

#[test]
fn dockerd_drives_it() {
    let place = Place::new("dockerd");
    let socket = place.path("docker.sock");
    // Its mounts must be shared, and are nobody else's; nor is its network.
    let server = Server::start(
        Command::new("unshare")
            .args(["-m", "-n", "--propagation", "shared", "dockerd"])
            .arg(option("data-root", &place.path("data")))
            .arg(option("exec-root", &place.path("run")))
            .arg(option("pidfile", &place.path("pid")))
            .arg(format!("--host=unix://{}", socket.display()))
            .args(["--iptables=false", "--ip-forward=false"])
            .args([
                "--exec-opt=native.cgroupdriver=cgroupfs",
                "--storage-driver=overlay2",
            ])
            .arg(format!("--cgroup-parent={}", place.parent()))
            .arg(format!("--add-runtime=dhow={EXECUTABLE}"))
            .arg("--default-runtime=dhow"),
        "API listen on",
    );
    let command = |arguments: &[&str]| {
        let mut docker = Command::new("docker");
        docker
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("DOCKER_CONFIG", place.path("config"))
            .args(arguments);
        docker
    };
    let docker = |arguments: &[&str]| Ran::of(&mut command(arguments));
    let tar = place.path("root.tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(place.bundle.rootfs())
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    docker(&["import", tar.to_str().unwrap(), "box"]).ok();
    let run = |options: &[&str], program: &[&str]| {
        let words = [
            &["run", "--rm", "--network=none"],
            options,
            &["box"],
            program,
        ];
        docker(&words.concat())
    };

    assert_eq!(run(&[], &["echo", "in"]).ok(), "in");
    let script = "grep -E 'Cap|Seccomp:|NoNew' /proc/self/status | cut -f2 | tr '\\n' ' '";
    let ours = run(&[], &["sh", "-c", script]).ok();
    let theirs = run(&["--runtime=runc"], &["sh", "-c", script]).ok();
    assert_eq!(ours, theirs, "runc shows the same");
    let options = [
        "--user=33:44",
        "--workdir=/tmp",
        "--env=A=b",
        "--read-only",
        "--tmpfs=/x",
    ];
    let script = "id; pwd; echo $A; touch /a 2>&1; touch /x/a && echo fine; exit 9";
    let ran = run(&options, &["sh", "-c", script]);
    assert_eq!(ran.code, Some(9));
    let expected = "uid=33 gid=44 groups=44\n/tmp\nb\ntouch: /a: Read-only file system\nfine";
    assert_eq!(ran.out, expected);
    for (program, code, why) in [
        ("nothing", 127, "executable file not found in $PATH"),
        ("/etc/passwd", 126, "permission denied"),
    ] {
        let ran = run(&[], &[program]);
        assert_eq!(ran.code, Some(code), "{}", ran.errors);
        assert!(ran.errors.contains(why), "{}", ran.errors);
    }
    assert_eq!(run(&["--privileged"], &["echo", "all"]).ok(), "all");
    let script = ["sh", "-c", "tty; test -c /dev/console && exit 4"];
    let typed = [
        &["run", "-it", "--rm", "--network=none", "box"],
        &script[..],
    ];
    let ran = in_terminal(&command(&typed.concat()));
    assert_eq!(ran.code, Some(4), "{}", ran.out);
    assert!(ran.out.contains("/dev/pts/0"), "{}", ran.out);
    let init = run(&["--init"], &["sh", "-c", "cat /proc/1/comm; exit 6"]);
    assert_eq!((init.code, init.out.as_str()), (Some(6), "docker-init"));
    // A hook of dockerd's own puts the container on the bridge.
    let script = "ip -o -4 addr show eth0 | grep -c inet; \
        ping -c 1 -W 10 $(ip route | grep default | cut -d ' ' -f 3) > /dev/null && echo reached";
    let words = ["run", "--rm", "box", "sh", "-c", script];
    assert_eq!(docker(&words).ok(), "1\nreached");
    let hog = ["--memory=8m", "--memory-swap=8m"];
    assert_eq!(run(&hog, &["tail", "/dev/zero"]).code, Some(137));

    let options = [
        "--network=none",
        "--memory=64m",
        "--pids-limit=40",
        "--cpus=.5",
    ];
    let start = [
        &["run", "--detach", "--name=lasting"],
        &options[..],
        &["box", "sh", "-c", LASTING],
    ];
    docker(&start.concat()).ok();
    let limits =
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us";
    let exec = docker(&["exec", "lasting", "sh", "-c", limits]).ok();
    assert_eq!(exec, "67108864\n40\n50000");
    let exec = docker(&[
        "exec",
        "-u",
        "1",
        "-w",
        "/tmp",
        "lasting",
        "sh",
        "-c",
        "id -u; pwd; exit 7",
    ]);
    assert_eq!((exec.code, exec.out.as_str()), (Some(7), "1\n/tmp"));
    docker(&["pause", "lasting"]).ok();
    let status = ["inspect", "--format={{.State.Status}}", "lasting"];
    assert_eq!(docker(&status).ok(), "paused");
    docker(&["unpause", "lasting"]).ok();
    assert!(docker(&["top", "lasting"]).ok().contains("trap"));
    docker(&["update", "--memory=80m", "--memory-swap=80m", "lasting"]).ok();
    let exec = docker(&["exec", "lasting", "sh", "-c", limits]).ok();
    assert!(exec.starts_with("83886080\n"), "{exec}");
    docker(&["kill", "--signal=TERM", "lasting"]).ok();
    assert_eq!(docker(&["wait", "lasting"]).ok(), "5");
    docker(&["start", "lasting"]).ok();
    docker(&["rm", "--force", "lasting"]).ok();
    assert_eq!(docker(&["ps", "--all", "--quiet"]).ok(), "");

    drop(server);
    place.audit();
}

#[test]
fn containerd_drives_it() {
    let place = Place::new("containerd");
    let id = place.bundle.id.clone();
    let config = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {:?}\n",
        place.path("root"),
        place.path("run"),
        place.path("sock"),
    );
    std::fs::write(place.path("config.toml"), config).unwrap();
    let server = Server::start(
        Command::new("containerd")
            .arg("--config")
            .arg(place.path("config.toml")),
        "containerd successfully booted",
    );
    let ctr = |arguments: &[&str]| {
        Ran::of(
            Command::new("ctr")
                .arg("--address")
                .arg(place.path("sock"))
                .args(arguments),
        )
    };
    let rootfs = place.bundle.rootfs();
    let group = format!("{}/one", place.parent());
    let run = |options: &[&str], program: &[&str]| {
        let words = [
            &[
                "run",
                "--runtime=io.containerd.runc.v2",
                "--runc-binary",
                EXECUTABLE,
                "--cgroup",
                &group,
            ],
            options,
            &["--rootfs", rootfs.to_str().unwrap(), &id],
            program,
        ];
        ctr(&words.concat())
    };
    assert_eq!(run(&["--rm"], &["echo", "in"]).ok(), "in");
    let ran = run(
        &["--rm", "--seccomp", "--env=A=b"],
        &[
            "sh",
            "-c",
            "mount -t tmpfs none /tmp 2>/dev/null && echo mounted; echo $A; exit 9",
        ],
    );
    assert_eq!((ran.code, ran.out.as_str()), (Some(9), "b"));
    let ran = run(&["--rm"], &["nothing"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.errors.contains("executable file not found in $PATH"),
        "{}",
        ran.errors
    );
    // A container that could not be made stays in containerd's book.
    ctr(&["containers", "rm", &id]);

    run(
        &["--detach", "--memory-limit=67108864"],
        &["sh", "-c", LASTING],
    )
    .ok();
    let exec = [
        "tasks",
        "exec",
        "--exec-id=one",
        &id,
        "sh",
        "-c",
        "hostname; exit 3",
    ];
    assert_eq!(ctr(&exec).code, Some(3));
    let status = |expected: &str| {
        let list = ctr(&["tasks", "ls"]).ok();
        let line = list.lines().find(|line| line.starts_with(&id)).unwrap();
        assert!(line.contains(expected), "{line}");
    };
    ctr(&["tasks", "pause", &id]).ok();
    status("PAUSED");
    ctr(&["tasks", "resume", &id]).ok();
    status("RUNNING");
    assert!(ctr(&["tasks", "ps", &id]).ok().lines().count() >= 2);
    assert!(ctr(&["tasks", "metrics", &id]).ok().contains("67108864"));
    ctr(&["tasks", "kill", "--signal=SIGTERM", &id]).ok();
    // One that has not ended yet is not removed; then its code is told.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !ctr(&["tasks", "rm", &id]).errors.contains("exit code 5") {
        assert!(std::time::Instant::now() < deadline, "it does not end");
    }
    ctr(&["containers", "rm", &id]).ok();
    assert!(!ctr(&["containers", "ls"]).ok().contains(&id));
    drop(server);
    place.audit();
}

#[test]
fn podman_drives_it() {
    let place = Place::new("podman");
    let id = place.bundle.id.clone();
    let hooks = place.path("hooks");
    std::fs::create_dir(&hooks).unwrap();
    let command = |arguments: &[&str]| {
        let mut podman = Command::new("podman");
        podman
            .arg(option("root", &place.path("root")))
            .arg(option("hooks-dir", &hooks))
            .arg(option("runroot", &place.path("run")))
            .arg(option("tmpdir", &place.path("tmp")))
            .args([
                "--storage-driver=vfs",
                "--cgroup-manager=cgroupfs",
                "--events-backend=none",
            ])
            .arg(format!("--runtime={EXECUTABLE}"))
            .args(arguments);
        podman
    };
    let podman = |arguments: &[&str]| Ran::of(&mut command(arguments));
    let rootfs = place.bundle.rootfs();
    let rootfs = rootfs.to_str().unwrap();
    let parent = place.parent();
    let run = |options: &[&str], program: &[&str]| {
        let words = [
            &["run", "--network=none", "--cgroup-parent", &parent],
            options,
            &["--rootfs", rootfs],
            program,
        ];
        podman(&words.concat())
    };
    assert_eq!(run(&["--rm"], &["echo", "in"]).ok(), "in");
    let ran = run(
        &["--rm", "--user=33:44", "--env=A=b"],
        &["sh", "-c", "id -u; echo $A; exit 9"],
    );
    assert_eq!((ran.code, ran.out.as_str()), (Some(9), "33\nb"));
    let ran = run(&["--rm"], &["nothing"]);
    assert_eq!(ran.code, Some(127), "{}", ran.errors);
    let maps = ["--rm", "--uidmap=0:100000:1000", "--gidmap=0:100000:1000"];
    let map = run(&maps, &["cat", "/proc/self/uid_map"]).ok();
    assert_eq!(crate::bundle::words(&map), ["0", "100000", "1000"]);
    assert_eq!(run(&["--rm", "--privileged"], &["echo", "all"]).ok(), "all");

    // Podman attaches while the program runs: one that ends at once may go unheard.
    let typed = [
        "run",
        "-it",
        "--rm",
        "--network=none",
        "--cgroup-parent",
        &parent,
    ];
    let script = ["sh", "-c", "tty; sleep 1; exit 4"];
    let typed = [&typed[..], &["--rootfs", rootfs], &script].concat();
    let ran = in_terminal(&command(&typed));
    assert_eq!(ran.code, Some(4), "{}", ran.out);
    assert!(ran.out.contains("/dev/pts/0"), "{}", ran.out);
    let init = ["--rm", "--init", "--init-path=/usr/bin/docker-init"];
    let ran = run(
        &init,
        &["sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; exit 6"],
    );
    assert_eq!(ran.code, Some(6), "{}", ran.errors);
    assert!(ran.out.contains("init"), "{}", ran.out);
    // Hooks that the administrator has podman add.
    for stage in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        let file = place.path(stage);
        let hook = serde_json::json!({
            "version": "1.0.0",
            "hook": { "path": "/bin/sh", "args": ["sh", "-c", format!("cat > {}", file.display())] },
            "when": { "always": true },
            "stages": [stage],
        });
        let name = hooks.join(format!("{stage}.json"));
        std::fs::write(name, serde_json::to_vec(&hook).unwrap()).unwrap();
    }
    run(&["--rm"], &["true"]).ok();
    for stage in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        let state = std::fs::read(place.path(stage)).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        assert!(state["id"].is_string(), "{stage}: {state}");
        std::fs::remove_file(hooks.join(format!("{stage}.json"))).unwrap();
    }

    let name = format!("--name={id}");
    let limits = ["--detach", &name, "--memory=64m", "--pids-limit=50"];
    run(&limits, &["sh", "-c", LASTING]).ok();
    let files = [
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/pids/pids.max",
    ];
    let exec = podman(&[&["exec", &id, "cat"], &files[..]].concat());
    assert_eq!(exec.errors, "", "warnings are not the program's");
    assert_eq!(exec.ok(), "67108864\n50");
    let exec = podman(&[
        "exec",
        "-u",
        "1",
        "-w",
        "/tmp",
        &id,
        "sh",
        "-c",
        "id -u; pwd; exit 7",
    ]);
    assert_eq!((exec.code, exec.out.as_str()), (Some(7), "1\n/tmp"));
    podman(&["pause", &id]).ok();
    let status = ["inspect", "--format={{.State.Status}}", &id];
    assert_eq!(podman(&status).ok(), "paused");
    podman(&["unpause", &id]).ok();
    podman(&["update", "--memory=80m", &id]).ok();
    let exec = podman(&["exec", &id, "cat", files[0]]).ok();
    assert_eq!(exec, "83886080");
    assert!(podman(&["top", &id]).ok().contains("trap"));
    podman(&["kill", "--signal=TERM", &id]).ok();
    assert_eq!(podman(&["wait", &id]).ok(), "5");
    podman(&["rm", "--force", "--time=0", &id]).ok();
    assert_eq!(podman(&["ps", "--all", "--quiet"]).ok(), "");
    place.audit();
}

/// A network namespace, and what podman keeps of networks there.
struct PodmanNetwork {
    namespace: PathBuf,
    name: String,
}

impl PodmanNetwork {
    fn new(place: &Place) -> Self {
        let namespace = place.path("namespace");
        std::fs::write(&namespace, "").unwrap();
        let made = Command::new("unshare")
            .arg(option("net", &namespace))
            .args(["ip", "link", "set", "lo", "up"])
            .status();
        assert!(made.unwrap().success());
        Self {
            namespace,
            name: place.bundle.id.clone(),
        }
    }
}

impl Drop for PodmanNetwork {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.namespace).status();
        // The plugin that gives addresses remembers the last one for ever.
        let _ = std::fs::remove_dir_all(Path::new("/var/lib/cni/networks").join(&self.name));
    }
}

#[test]
fn podman_has_networks_and_pods_with_it() {
    let place = Place::new("podman-net");
    let network = PodmanNetwork::new(&place);
    let name = network.name.as_str();
    let folder = place.path("networks");
    std::fs::create_dir(&folder).unwrap();
    let settings = place.path("containers.conf");
    let text = format!(
        "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"/usr/lib/cni\"]\nnetwork_config_dir = \"{}\"\n",
        folder.display()
    );
    std::fs::write(&settings, text).unwrap();
    let within = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command
            .arg(option("net", &network.namespace))
            .arg("--")
            .args(words);
        Ran::of(&mut command)
    };
    let settings = format!("CONTAINERS_CONF={}", settings.display());
    let [root, run, tmp] = ["root", "run", "tmp"].map(|part| place.path(part));
    let folders = [
        option("root", &root),
        option("runroot", &run),
        option("tmpdir", &tmp),
    ];
    let runtime = format!("--runtime={EXECUTABLE}");
    let podman = |arguments: &[&str]| {
        let all = [
            &["env", &settings, "podman"],
            &folders.each_ref().map(String::as_str)[..],
            &[
                "--storage-driver=vfs",
                "--cgroup-manager=cgroupfs",
                "--events-backend=none",
                &runtime,
            ],
            arguments,
        ];
        within(&all.concat())
    };
    let archive = place.path("image.tar");
    let (archive, rootfs) = (archive.to_str().unwrap(), place.bundle.rootfs());
    within(&["tar", "-cf", archive, "-C", rootfs.to_str().unwrap(), "."]).ok();
    podman(&["import", "--quiet", archive, "localhost/image:1"]).ok();
    let parent = place.parent();
    let run = |options: &[&str], script: &str| {
        let words = [
            &["run", "--cgroup-parent", &parent],
            options,
            &["localhost/image:1", "sh", "-c", script],
        ];
        podman(&words.concat())
    };
    // The host's network, which is the namespace's here.
    let space = "readlink /proc/self/ns/net";
    let own = within(&["readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(run(&["--rm", "--network=host"], space).ok(), own);

    // A bridge of podman's: addresses, a way to others, a port of the host.
    podman(&["network", "create", "--subnet=10.97.0.0/24", name]).ok();
    let serving = "echo hello | nc -l -p 80; exec sleep 3600";
    let on = format!("--network={name}");
    let server = [
        "--detach",
        "--name=server",
        &on,
        "--publish=127.0.0.1:8080:80",
    ];
    run(&server, serving).ok();
    let asked = "for n in 1 2 3 4 5 6 7 8 9; do nc -w 5 127.0.0.1 8080 < /dev/null && break; sleep 0.1; done";
    assert_eq!(within(&["busybox", "sh", "-c", asked]).ok(), "hello");
    let ping = "ping -c1 -w5 10.97.0.2 > /dev/null && ip route | grep -c default";
    assert_eq!(run(&["--rm", &on], ping).ok(), "1");
    // Namespaces of another.
    let shared = [
        "--rm",
        "--network=container:server",
        "--pid=container:server",
        "--ipc=container:server",
    ];
    let seen = run(
        &shared,
        "ip addr show eth0 | grep -c 10.97.0.2; tr '\\0' ' ' < /proc/1/cmdline",
    );
    let seen = seen.ok();
    assert!(seen.starts_with("1\nsleep 3600"), "{seen}");
    podman(&["restart", "--time=0", "server"]).ok();
    assert_eq!(within(&["busybox", "sh", "-c", asked]).ok(), "hello");
    podman(&["rm", "--force", "--time=0", "server"]).ok();

    // A pod: its first container holds the namespaces, the others join them.
    podman(&[
        "pod",
        "create",
        "--name=pod",
        &on,
        "--cgroup-parent",
        &parent,
        "--share=net,ipc,uts,pid",
        "--hostname=of-all",
        "--infra-image=localhost/image:1",
        "--infra-command=sleep 3600",
    ])
    .ok();
    let member = |options: &[&str], script: &str| {
        let words = [
            &["run", "--pod=pod"],
            options,
            &["localhost/image:1", "sh", "-c", script],
        ];
        podman(&words.concat())
    };
    member(
        &["--detach", "--name=one"],
        "echo shared > /dev/shm/file; exec sleep 3601",
    )
    .ok();
    let script =
        "hostname; cat /dev/shm/file; tr '\\0' ' ' < /proc/1/cmdline; readlink /proc/self/ns/net";
    let seen = member(&["--rm"], script).ok();
    let of_one = podman(&["exec", "one", "readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(seen, format!("of-all\nshared\nsleep 3600 {of_one}"));
    let status = ["pod", "ps", "--format={{.Status}}"];
    podman(&["pod", "pause", "pod"]).ok();
    assert_eq!(podman(&status).ok(), "Paused");
    podman(&["pod", "unpause", "pod"]).ok();
    podman(&["pod", "restart", "pod"]).ok();
    assert_eq!(podman(&status).ok(), "Running");
    podman(&["pod", "rm", "--force", "--time=0", "pod"]).ok();
    podman(&["network", "rm", name]).ok();
    assert_eq!(podman(&["ps", "--all", "--quiet"]).ok(), "");
    let links = within(&["ip", "-brief", "link"]).ok();
    assert_eq!(links.lines().count(), 1, "{links}");
    drop(network);
    place.audit();
}
