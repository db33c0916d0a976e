//! Everyday use of `docker` and `dhow` against the daemon.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use dhow_testkit::{Daemon, Dockerd, at_dockerd, at_ours};

/// How long the reference may take to write down what it was told.
const PATIENCE: Duration = Duration::from_secs(10);

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.busybox();
    daemon
}

#[test]
fn dockerd_does_the_same() {
    at_dockerd(&[
        images,
        networks_and_volumes,
        programs,
        lives,
        ports_and_names,
        ports_in_lists,
        restarts,
        logs,
        confinement,
        health,
        health_of_images,
        copies,
        use_and_limits,
        an_init,
    ]);
}

#[test]
fn images_are_listed_named_saved_and_removed() {
    at_ours(images);
}

fn images(daemon: &dyn Dockerd) {
    daemon
        .docker(&["tag", "busybox", "example.test/team/tool:1.2"])
        .ok();
    let listed = daemon
        .docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .ok();
    assert!(listed.contains("busybox:latest") && listed.contains("example.test/team/tool:1.2"));
    let archive = daemon
        .host()
        .folder()
        .join("saved.tar")
        .display()
        .to_string();
    daemon.docker(&["save", "-o", &archive, "busybox"]).ok();
    daemon
        .docker(&["rmi", "busybox", "example.test/team/tool:1.2"])
        .ok();
    assert_eq!(daemon.docker(&["images", "-q"]).ok(), "");
    assert!(
        daemon
            .docker(&["load", "-i", &archive])
            .ok()
            .contains("busybox:latest")
    );
    assert_eq!(daemon.dhow(&["images", "-q"]).ok().lines().count(), 1);
    let error = daemon.docker(&["rmi", "nothing"]).fails(1);
    assert!(error.contains("No such image: nothing"), "{error}");
    let error = daemon.docker(&["tag", "busybox", "Bad/Name"]).fails(1);
    assert!(error.contains("must be lowercase"), "{error}");
}

#[test]
fn networks_and_volumes_come_and_go() {
    at_ours(networks_and_volumes);
}

fn networks_and_volumes(daemon: &dyn Dockerd) {
    daemon
        .docker(&["network", "create", "--subnet", "10.77.0.0/24", "front"])
        .ok();
    let subnet = daemon
        .docker(&[
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Subnet}}",
            "front",
        ])
        .ok();
    assert_eq!(subnet, "10.77.0.0/24");
    let error = daemon.docker(&["network", "create", "front"]).fails(1);
    assert!(
        error.contains("network with name front already exists"),
        "{error}"
    );
    let error = daemon
        .docker(&["network", "create", "--subnet", "10.77.0.9/24", "x"])
        .fails(1);
    // The reference takes it for the network that it lies in.
    let part = match daemon.is_reference() {
        true => "Pool overlaps with other one on this address space",
        false => "invalid subnet",
    };
    assert!(error.contains(part), "{error}");
    let error = daemon.docker(&["network", "rm", "bridge"]).fails(1);
    assert!(
        error.contains("is a pre-defined network and cannot be removed"),
        "{error}"
    );
    daemon
        .docker(&["volume", "create", "--label", "a=b", "data"])
        .ok();
    assert_eq!(daemon.dhow(&["volume", "ls", "-q"]).ok(), "data");
    let error = daemon.docker(&["volume", "create", "../x"]).fails(1);
    assert!(error.contains("includes invalid characters"), "{error}");
    daemon.docker(&["volume", "rm", "data"]).ok();
    daemon.docker(&["network", "rm", "front"]).ok();
}

#[test]
fn programs_run_print_and_end() {
    at_ours(programs);
}

fn programs(daemon: &dyn Dockerd) {
    for client in ["docker", "dhow"] {
        let run = |arguments: &[&str]| {
            let all = [&["run", "--rm"], arguments].concat();
            if client == "docker" {
                daemon.docker(&all)
            } else {
                daemon.dhow(&all)
            }
        };
        assert_eq!(run(&["busybox", "echo", "hello"]).ok(), "hello");
        assert_eq!(
            run(&["busybox", "sh", "-c", "echo oops >&2; exit 7"]).fails(7),
            "oops"
        );
        assert_eq!(
            run(&["-e", "A=1", "busybox", "sh", "-c", "echo $A"]).ok(),
            "1"
        );
        assert_eq!(run(&["-w", "/tmp", "busybox", "pwd"]).ok(), "/tmp");
        assert_eq!(run(&["-u", "web", "busybox", "id", "-u"]).ok(), "33");
        assert_eq!(run(&["-h", "box", "busybox", "hostname"]).ok(), "box");
        let failed = run(&["busybox", "no-such-program"]);
        assert_eq!(failed.stdout, "", "it is the program's");
        let error = failed.fails(127);
        assert!(error.contains("no-such-program"), "{error}");
        let error = run(&["busybox", "/etc/passwd"]).fails(126);
        assert!(error.contains("permission denied"), "{error}");
        let error = run(&["-u", "nobody-here", "busybox", "true"]).fails(125);
        assert!(
            error.contains("no matching entries in passwd file"),
            "{error}"
        );
        let error = run(&["-m", "1m", "busybox", "true"]).fails(125);
        assert!(
            error.contains("Minimum memory limit allowed is 6MB"),
            "{error}"
        );
    }
    assert_eq!(daemon.docker(&["ps", "-aq"]).ok(), "", "--rm leaves none");
}

#[test]
fn a_container_lives_and_is_looked_into() {
    at_ours(lives);
}

fn lives(daemon: &dyn Dockerd) {
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "-m",
            "64m",
            "busybox",
            "sh",
            "-c",
            "echo started; exec sleep 1000",
        ])
        .ok();
    assert_eq!(daemon.docker(&["ps", "--format", "{{.Names}}"]).ok(), "box");
    assert_eq!(
        daemon.docker(&["exec", "box", "cat", "/proc/1/comm"]).ok(),
        "sleep"
    );
    assert_eq!(
        daemon
            .dhow(&["exec", "-e", "X=y", "box", "sh", "-c", "echo $X"])
            .ok(),
        "y"
    );
    daemon
        .docker(&["exec", "box", "sh", "-c", "exit 9"])
        .fails(9);
    // Newer ones say what a shell would say.
    let code = if daemon.is_reference() { 126 } else { 127 };
    daemon.docker(&["exec", "box", "nothing-here"]).fails(code);
    let limit = daemon
        .docker(&[
            "exec",
            "box",
            "cat",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ])
        .ok();
    assert_eq!(limit, (64 << 20).to_string());
    assert_eq!(daemon.docker(&["logs", "box"]).ok(), "started");
    assert_eq!(daemon.dhow(&["logs", "-n", "1", "box"]).ok(), "started");
    daemon.docker(&["pause", "box"]).ok();
    let error = daemon.docker(&["exec", "box", "true"]).fails(1);
    assert!(error.contains("is paused"), "{error}");
    daemon.docker(&["unpause", "box"]).ok();
    daemon.docker(&["stop", "-t", "0", "box"]).ok();
    assert_eq!(
        daemon
            .docker(&["inspect", "-f", "{{.State.ExitCode}}", "box"])
            .ok(),
        "137"
    );
    daemon.docker(&["start", "box"]).ok();
    daemon.docker(&["restart", "-t", "0", "box"]).ok();
    let error = daemon.docker(&["rm", "box"]).fails(1);
    assert!(error.contains("or force remove"), "{error}");
    daemon.docker(&["rm", "-f", "box"]).ok();
}

#[test]
fn ports_volumes_and_names() {
    at_ours(ports_and_names);
}

fn ports_and_names(daemon: &dyn Dockerd) {
    daemon.docker(&["network", "create", "front"]).ok();
    let serve = "echo $(hostname) > /data/index.html; exec httpd -f -p 80 -h /data";
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "web",
            "-h",
            "web",
            "--network",
            "front",
            "-p",
            "8080:80",
            "-v",
            "pages:/data",
            "busybox",
            "sh",
            "-c",
            serve,
        ])
        .ok();
    // A volume gets what the image has at its path.
    let greeting = daemon
        .docker(&["exec", "web", "cat", "/data/greeting"])
        .ok();
    assert_eq!(greeting, "from the image");
    let ask =
        "for n in 1 2 3 4 5 6 7 8 9; do wget -qO- http://web/ && exit; usleep 100000; done; exit 1";
    let seen = daemon
        .docker(&[
            "run",
            "--rm",
            "--network",
            "front",
            "busybox",
            "sh",
            "-c",
            ask,
        ])
        .ok();
    assert_eq!(seen, "web");
    let from_host = daemon
        .host()
        .run("busybox", &["wget", "-qO-", "http://127.0.0.1:8080/"])
        .ok();
    assert_eq!(from_host, "web");
    let error = daemon
        .docker(&["run", "-d", "-p", "8080:80", "busybox", "sleep", "9"])
        .fails(125);
    assert!(error.contains("port is already allocated"), "{error}");
    daemon.remove_containers();
    daemon.docker(&["volume", "rm", "pages"]).ok();
    daemon.docker(&["network", "rm", "front"]).ok();
}

/// Returns when a container has printed its first line.
fn wait_for_line(daemon: &Daemon, name: &str) {
    let mut follower = daemon
        .docker_command(&["logs", "-f", name])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let mut printed = BufReader::new(follower.stdout.take().expect("piped"));
    let mut line = String::new();
    printed.read_line(&mut line).expect("text");
    assert!(
        line.ends_with('\n'),
        "{name} ended before it printed a line: {line:?}"
    );
    follower.kill().expect("it follows");
    follower.wait().expect("it ends");
}

#[test]
fn a_killed_daemon_finds_its_containers_again() {
    let mut daemon = daemon();
    let count = "n=0; while :; do echo line $n; n=$((n+1)); usleep 2000; done";
    daemon
        .docker(&["run", "-d", "--name", "count", "busybox", "sh", "-c", count])
        .ok();
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "short",
            "busybox",
            "sh",
            "-c",
            "mkfifo /data/gate; echo ready; read x < /data/gate; exit 3",
        ])
        .ok();
    wait_for_line(&daemon, "short");
    let pid = daemon
        .docker(&["inspect", "-f", "{{.State.Pid}}", "short"])
        .ok();
    daemon.kill();
    // One ends while nobody looks.
    let open_gate = format!("echo > /proc/{pid}/root/data/gate");
    daemon.host().run("sh", &["-c", &open_gate]).ok();
    daemon.start_again();
    assert_eq!(daemon.docker(&["wait", "short"]).ok(), "3");
    assert_eq!(
        daemon.docker(&["exec", "count", "echo", "here"]).ok(),
        "here"
    );
    daemon.docker(&["stop", "-t", "0", "count"]).ok();
    let log = daemon.docker(&["logs", "count"]).ok();
    for (number, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {number}"), "no line is lost or doubled");
    }
    assert!(log.lines().count() > 10);
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn a_killed_shim_ends_its_container() {
    let daemon = daemon();
    daemon
        .docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    let pid = daemon
        .docker(&["inspect", "-f", "{{.State.Pid}}", "box"])
        .ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .expect("it has a parent")
        .trim()
        .to_owned();
    daemon.host().run("kill", &["-KILL", &parent]).ok();
    assert_ne!(daemon.docker(&["wait", "box"]).ok(), "0");
    daemon.docker(&["start", "box"]).ok();
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn a_restart_policy_brings_it_back() {
    at_ours(restarts);
}

fn restarts(daemon: &dyn Dockerd) {
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            "echo run; exit 1",
        ])
        .ok();
    assert_eq!(daemon.docker(&["wait", "box"]).ok(), "1");
    let count = daemon
        .docker(&["inspect", "-f", "{{.RestartCount}}", "box"])
        .ok();
    assert_eq!(count, "2");
    let logs = || daemon.docker(&["logs", "box"]).ok();
    // Dockerd tells of an end before the last line is in its log.
    let began = Instant::now();
    while daemon.is_reference() && logs() != "run\nrun\nrun" && began.elapsed() < PATIENCE {}
    assert_eq!(logs(), "run\nrun\nrun");
    daemon.remove_containers();
}

#[test]
fn a_log_is_followed_to_its_end() {
    at_ours(logs);
}

fn logs(daemon: &dyn Dockerd) {
    let count = "for n in 1 2 3 4 5; do echo $n; usleep 20000; done";
    daemon
        .docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", count])
        .ok();
    let mut follower = daemon
        .docker_command(&["logs", "-f", "box"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let mut printed = String::new();
    follower
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut printed)
        .expect("text");
    assert!(follower.wait().expect("it ends").success());
    assert_eq!(printed, "1\n2\n3\n4\n5\n");
    daemon.remove_containers();
}

#[test]
fn a_default_container_is_confined() {
    at_ours(confinement);
}

fn confinement(daemon: &dyn Dockerd) {
    let status = daemon
        .docker(&["run", "--rm", "busybox", "cat", "/proc/self/status"])
        .ok();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect(name);
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(
        field("CapEff"),
        "00000000a80425fb",
        "Docker's default capabilities"
    );
    assert_eq!(field("CapInh"), "0000000000000000");
    assert_eq!(field("Seccomp"), "2", "a filter is in place");
    // Each says so if it works; what comes of the masked file is nothing.
    let tries = [
        "[ $(wc -c < /proc/keys) -gt 0 ]",
        "(echo 1 > /proc/sys/kernel/domainname)",
        "mount -t tmpfs x /tmp",
        "{ mknod /tmp/d b 1 1 && cat /tmp/d; }",
        "unshare -U true",
    ];
    let say = |attempt: &&str| format!("{attempt} > /dev/null && echo '{attempt}'; ");
    let script: String = tries.iter().map(say).collect();
    let tried = daemon
        .docker(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            &(script + "echo done"),
        ])
        .ok();
    assert_eq!(tried, "done", "nothing of it works");
}

/// Lists of containers by the ports that they have, here or on the host.
#[test]
fn ports_are_found() {
    at_ours(ports_in_lists);
}

fn ports_in_lists(daemon: &dyn Dockerd) {
    daemon.sleeper("shown", &["-p", "18080:80", "-p", "18053:53/udp"]);
    daemon.sleeper("open", &["--expose", "90"]);
    for (filter, expected) in [
        ("publish=18080", "shown"),
        ("publish=18000-18100/udp", "shown"),
        ("publish=18000-18100", "shown"),
        ("publish=80", ""),
        ("publish=18080/udp", ""),
        ("expose=80", "shown"),
        ("expose=80/tcp", "shown"),
        ("expose=53", ""),
        ("expose=53/udp", "shown"),
        ("expose=85-95", "open"),
        ("expose=91", ""),
    ] {
        let filter = ["ps", "--format={{.Names}}", "--filter", filter];
        assert_eq!(daemon.docker(&filter).ok(), expected, "{filter:?}");
    }
    daemon.remove_containers();
}

/// What a request leaves open of a health check is as the image has it.
#[test]
fn health_checks_of_images_are_added_to() {
    at_ours(health_of_images);
}

fn health_of_images(daemon: &dyn Dockerd) {
    let create = ["create", "--name", "one", "busybox"];
    daemon.docker(&create).ok();
    let check = "HEALTHCHECK --interval=7s --retries=5 CMD test -e /well";
    daemon
        .docker(&["commit", "-c", check, "one", "checked"])
        .ok();
    let test = "[CMD-SHELL test -e /well]";
    for (option, expected) in [
        ("--health-interval=2s", format!("{test} 2s 0s 5")),
        ("--health-timeout=3s", format!("{test} 7s 3s 5")),
        ("--health-cmd=true", "[CMD-SHELL true] 7s 0s 5".to_owned()),
        ("--no-healthcheck", "[NONE] 7s 0s 5".to_owned()),
    ] {
        daemon
            .docker(&["create", "--name", "two", option, "checked"])
            .ok();
        let template =
            "{{with .Config.Healthcheck}}{{.Test}} {{.Interval}} {{.Timeout}} {{.Retries}}{{end}}";
        assert_eq!(daemon.inspect("two", template), expected, "{option}");
        daemon.docker(&["rm", "two"]).ok();
    }
    daemon.remove_containers();
    daemon.docker(&["rmi", "checked"]).ok();
}

#[test]
fn health_is_probed_and_told() {
    at_ours(health);
}

fn health(daemon: &dyn Dockerd) {
    let mut events = daemon
        .docker_command(&["events", "--filter", "event=health_status"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let mut lines = BufReader::new(events.stdout.take().expect("it was piped")).lines();
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "patient",
            "--health-cmd",
            "test -e /tmp/well && echo well",
            "--health-interval",
            "200ms",
            "--health-retries",
            "2",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    let mut until = |word: &str| {
        let line = lines.next().expect("an event").expect("text");
        assert!(line.contains(word), "{line}");
    };
    until("health_status: unhealthy");
    daemon
        .docker(&["exec", "patient", "touch", "/tmp/well"])
        .ok();
    until("health_status: healthy");
    let inspect = |field: &str| daemon.docker(&["inspect", "-f", field, "patient"]).ok();
    assert_eq!(inspect("{{.State.Health.Status}}"), "healthy");
    let log = inspect("{{range .State.Health.Log}}{{.ExitCode}} {{end}}");
    assert!(log.ends_with('0') && log.contains('1'), "{log}");
    let shown = daemon.docker(&["ps", "--format", "{{.Status}}"]).ok();
    assert!(shown.ends_with("(healthy)"), "{shown}");
    events.kill().expect("it runs");
    events.wait().expect("it ends");
    daemon.remove_containers();
}

#[test]
fn files_are_copied_in_and_out_and_nowhere_else() {
    at_ours(copies);
}

fn copies(daemon: &dyn Dockerd) {
    let folder = daemon.host().folder().join("files");
    std::fs::create_dir_all(folder.join("tree/below")).expect("folders");
    std::fs::write(folder.join("tree/below/file"), "deep\n").expect("written");
    std::fs::write(folder.join("note"), "short\n").expect("written");
    let local = |path: &str| folder.join(path).display().to_string();
    daemon
        .docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"])
        .ok();
    daemon
        .docker(&["create", "--name", "still", "busybox", "true"])
        .ok();
    for (number, name) in ["box", "still"].into_iter().enumerate() {
        let cp = |from: &str, to: &str| {
            if number == 0 {
                daemon.docker(&["cp", from, to])
            } else {
                daemon.dhow(&["cp", from, to])
            }
        };
        let inside = |path: &str| format!("{name}:{path}");
        cp(&local("note"), &inside("/data/renamed")).ok();
        cp(&local("tree"), &inside("/data")).ok();
        cp(&format!("{}/.", local("tree")), &inside("/tmp")).ok();
        for (path, text) in [
            ("/data/renamed", "short\n"),
            ("/data/tree/below/file", "deep\n"),
            ("/tmp/below/file", "deep\n"),
            ("/data/greeting", "from the image\n"),
        ] {
            let back = local("back");
            cp(&inside(path), &back).ok();
            assert_eq!(std::fs::read_to_string(&back).expect(path), text);
            std::fs::remove_file(back).expect("removed");
        }
        let back = local(&format!("tree-{name}"));
        cp(&inside("/data/tree"), &back).ok();
        let deep = std::fs::read_to_string(format!("{back}/below/file"));
        assert_eq!(deep.expect("copied"), "deep\n");
        let error = cp(&inside("/nothing"), &local("x")).fails(1);
        assert!(error.contains("Could not find the file"), "{error}");
    }
    // A link inside leads inside: the host's file is out of reach.
    daemon
        .docker(&["exec", "box", "ln", "-s", &local("note"), "/data/link"])
        .ok();
    daemon
        .docker(&["exec", "box", "ln", "-s", &local(""), "/data/folder"])
        .ok();
    daemon
        .docker(&["cp", &local("note"), "box:/data/folder/x"])
        .fails(1);
    daemon
        .docker(&["cp", "-L", "box:/data/link", &local("out")])
        .fails(1);
    assert!(!folder.join("x").exists());
    daemon.remove_containers();
}

#[test]
fn use_is_shown_and_limits_change() {
    at_ours(use_and_limits);
}

fn use_and_limits(daemon: &dyn Dockerd) {
    daemon
        .docker(&[
            "run", "-d", "--name", "busy", "-m", "64m", "busybox", "sleep", "600",
        ])
        .ok();
    for ran in [
        daemon.docker(&["top", "busy"]),
        daemon.dhow(&["top", "busy"]),
        daemon.docker(&["top", "busy", "-o", "pid,args"]),
    ] {
        let shown = ran.ok();
        assert!(
            shown.lines().count() == 2 && shown.contains("sleep 600"),
            "{shown}"
        );
    }
    let format = "{{.Name}} {{.MemUsage}} {{.PIDs}}";
    let words = ["stats", "--no-stream", "--format", format, "busy"];
    let shown = daemon.docker(&words).ok();
    assert!(
        shown.starts_with("busy ") && shown.ends_with("/ 64MiB 1"),
        "{shown}"
    );
    let shown = daemon.dhow(&words).ok();
    assert!(shown.ends_with("/ 64MiB 1"), "{shown}");

    let update = ["update", "-m", "32m", "--memory-swap", "32m", "busy"];
    daemon.docker(&update).ok();
    let limit = daemon
        .docker(&["inspect", "-f", "{{.HostConfig.Memory}}", "busy"])
        .ok();
    assert_eq!(limit, "33554432");
    let shown = daemon.docker(&words).ok();
    assert!(shown.ends_with("/ 32MiB 1"), "{shown}");
    daemon.dhow(&["update", "--restart", "always", "busy"]).ok();
    let policy = "{{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(
        daemon.docker(&["inspect", "-f", policy, "busy"]).ok(),
        "always"
    );
    let error = daemon.docker(&["update", "-m", "1m", "busy"]).fails(1);
    assert!(error.contains("Minimum memory limit"), "{error}");
    daemon.remove_containers();
}

#[test]
fn an_init_hands_signals_on_and_reaps() {
    at_ours(an_init);
}

fn an_init(daemon: &dyn Dockerd) {
    for ran in [
        daemon.docker(&["run", "--rm", "--init", "busybox", "sh", "-c", "exit 7"]),
        daemon.dhow(&["run", "--rm", "--init", "busybox", "sh", "-c", "exit 7"]),
    ] {
        ran.fails(7);
    }
    let error = daemon
        .docker(&["run", "--rm", "--init", "busybox", "no-such-program"])
        .fails(127);
    assert!(error.contains("no-such-program"), "{error}");
    // The program leaves an orphan that ends at once, and waits for a signal.
    let script =
        "trap 'exit 5' TERM; (sh -c 'exit 0' &) ; cat /proc/1/comm; read x < /tmp/pipe & wait";
    let script = format!("mkfifo /tmp/pipe; {script}");
    daemon
        .docker(&[
            "run", "-d", "--init", "--name", "first", "busybox", "sh", "-c", &script,
        ])
        .ok();
    let mut logs = daemon
        .docker_command(&["logs", "-f", "first"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let mut lines = BufReader::new(logs.stdout.take().expect("it was piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "docker-init");
    let states = "cat /proc/[0-9]*/stat | cut -d' ' -f3";
    let states = daemon.docker(&["exec", "first", "sh", "-c", states]).ok();
    assert!(!states.contains('Z'), "nobody is a zombie: {states}");
    daemon.docker(&["stop", "-t", "20", "first"]).ok();
    let code = daemon
        .docker(&["inspect", "-f", "{{.State.ExitCode}}", "first"])
        .ok();
    assert_eq!(code, "5");
    logs.wait().expect("it ends");
    daemon.remove_containers();
}

/// Keeps from coming back: a start that was cut off left its supervisor.
#[test]
fn a_daemon_killed_while_it_starts_containers_leaves_none_behind() {
    let mut daemon = daemon();
    let names = ["one", "two", "three"];
    for round in 0..7 {
        // From the beginning, so that none is missed.
        let mut events = daemon
            .docker_command(&["events", "--since", "1", "--filter", "type=container"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker starts");
        let mut lines = BufReader::new(events.stdout.take().expect("it was piped")).lines();
        let mut starting: Vec<_> = names
            .iter()
            .map(|name| {
                let words = ["run", "-d", "--name", name, "busybox", "sleep", "600"];
                daemon
                    .docker_command(&words)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("docker starts")
            })
            .collect();
        // At another moment each round.
        for _ in 0..round {
            lines.next();
        }
        daemon.kill();
        for client in &mut starting {
            client.wait().expect("it ends");
        }
        // It may have ended with its daemon.
        let _ = events.kill();
        events.wait().expect("it ends");
        daemon.start_again();
        daemon.remove_containers();
    }
    daemon.finish();
}
