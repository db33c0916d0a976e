//! Lives of containers: what restart policies make of ends that nobody saw, and
//! how lives are told.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use dhow_testkit::{Daemon, Host, Ran, Reference};

/// A daemon's events, as they come.
struct Events {
    client: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Events {
    /// Those of an action, from the beginning on.
    fn of(daemon: &Daemon, action: &str) -> Self {
        let filter = format!("event={action}");
        let words = ["events", "--since=1", "--filter", &filter, "--format"];
        let mut client = daemon
            .docker_command(&[&words[..], &["{{.Actor.Attributes.name}}"]].concat())
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker starts");
        let lines = BufReader::new(client.stdout.take().expect("it was piped")).lines();
        Self { client, lines }
    }

    /// Waits until each of these was told, in whatever order.
    fn await_all(mut self, names: &[&str]) {
        let mut missing = names.to_vec();
        while !missing.is_empty() {
            let name = self.lines.next().expect("events go on").expect("a line");
            missing.retain(|missing| *missing != name);
        }
        self.client.kill().expect("it runs");
        self.client.wait().expect("it ends");
    }
}

fn is_running(daemon: &Daemon, name: &str) -> bool {
    daemon.inspect(name, "{{.State.Running}}") == "true"
}

#[test]
fn restart_policies_catch_up() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    // What happens while no daemon runs, and what is to be after it has come back.
    let ends_badly = [
        ("no", false),
        ("on-failure", true),
        ("on-failure:3", true),
        ("always", true),
        ("unless-stopped", true),
    ];
    let stopped = [
        ("no", false),
        ("on-failure", false),
        ("always", true),
        ("unless-stopped", false),
    ];
    let mut expected = Vec::new();
    let mut pids = Vec::new();
    for (policy, again) in ends_badly {
        let name = format!("killed-{}", policy.replace(':', "-"));
        daemon.sleeper(&name, &[&format!("--restart={policy}")]);
        pids.push(daemon.inspect(&name, "{{.State.Pid}}"));
        expected.push((name, again));
    }
    for (policy, again) in [("on-failure", false), ("always", true)] {
        let name = format!("done-{policy}");
        let restart = format!("--restart={policy}");
        let ends_well = "trap 'exit 0' TERM; echo ready; while :; do sleep 1 & wait; done";
        let words = [
            "run", "-d", "--name", &name, &restart, "busybox", "sh", "-c",
        ];
        daemon.docker(&[&words[..], &[ends_well]].concat()).ok();
        while daemon.docker(&["logs", &name]).ok() != "ready" {}
        expected.push((name, again));
    }
    for (policy, again) in stopped {
        let name = format!("stopped-{policy}");
        daemon.sleeper(&name, &[&format!("--restart={policy}")]);
        daemon.docker(&["stop", "-t", "0", &name]).ok();
        expected.push((name, again));
    }
    let create = ["create", "--name=created", "--restart=always", "busybox"];
    daemon
        .docker(&[&create[..], &["sleep", "60"]].concat())
        .ok();
    expected.push(("created".to_owned(), false));
    let done: Vec<String> = ["done-on-failure", "done-always"]
        .map(|name| daemon.inspect(name, "{{.State.Pid}}"))
        .to_vec();

    daemon.kill();
    let signal = |signal: &str, pids: &[String]| {
        let mut words = vec![signal];
        words.extend(pids.iter().map(String::as_str));
        daemon.host().run("kill", &words).ok();
    };
    signal("-KILL", &pids);
    signal("-TERM", &done);
    await_ends(daemon.host(), &[pids, done].concat());
    daemon.start_again();

    let again: Vec<&str> = expected
        .iter()
        .filter(|(_, again)| *again)
        .map(|(name, _)| name.as_str())
        .collect();
    // Each was started once before the daemon died, which nobody tells of any more.
    Events::of(&daemon, "start").await_all(&again);
    for (name, again) in &expected {
        assert_eq!(is_running(&daemon, name), *again, "{name}");
    }
    let code = |name: &str| daemon.inspect(name, "{{.State.Status}} {{.State.ExitCode}}");
    assert_eq!(code("killed-no"), "exited 137");
    assert_eq!(code("done-on-failure"), "exited 0");
    assert_eq!(code("created"), "created 0");
    daemon.remove_containers();
    daemon.finish();
}

/// Waits until processes are gone.
fn await_ends(host: &Host, pids: &[String]) {
    let mut words = vec!["--pid"];
    let list = pids.join(",");
    words.push(&list);
    while host.run("ps", &words).code == 0 {}
}

#[test]
fn the_unhealthy_are_restarted_where_that_is_asked_for() {
    let daemon = Daemon::start();
    daemon.busybox();
    let check = [
        "--health-cmd=test ! -e /sick",
        "--health-interval=100ms",
        "--health-retries=1",
        "--stop-signal=KILL",
        "--restart=always",
    ];
    let asked = [&check[..], &["--annotation=dhow.restart-unhealthy=true"]].concat();
    daemon.sleeper("asked", &asked);
    daemon.sleeper("unasked", &check);
    let started = |name: &str| daemon.inspect(name, "{{.State.StartedAt}}");
    let before = [started("asked"), started("unasked")];
    for name in ["unasked", "asked"] {
        daemon.within(name, "touch /sick");
    }
    Events::of(&daemon, "die").await_all(&["asked"]);
    Events::of(&daemon, "health_status: unhealthy").await_all(&["unasked"]);
    assert_eq!(started("unasked"), before[1], "nobody asked for that");
    daemon.remove_containers();
    daemon.finish();
}

/// What is told of one life: kinds, actions, and what else is said.
fn story(host: &Host, docker: impl Fn(&[&str]) -> Ran) -> Vec<String> {
    docker(&["network", "create", "--subnet=10.213.77.0/24", "net"]).ok();
    docker(&["volume", "create", "data"]).ok();
    let words = [
        "run",
        "-d",
        "--name=one",
        "--network=net",
        "-v=data:/data:ro",
    ];
    let program = ["--stop-timeout=0", "busybox", "sleep", "60"];
    docker(&[&words[..], &program].concat()).ok();
    docker(&["pause", "one"]).ok();
    docker(&["unpause", "one"]).ok();
    docker(&["exec", "one", "true"]).ok();
    docker(&["rename", "one", "two"]).ok();
    docker(&["network", "disconnect", "net", "two"]).ok();
    docker(&["network", "connect", "net", "two"]).ok();
    docker(&["restart", "two"]).ok();
    docker(&["stop", "two"]).ok();
    docker(&["start", "two"]).ok();
    docker(&["commit", "-m", "a note", "two", "made"]).ok();
    docker(&["rm", "-f", "two"]).ok();
    let archive = host.folder().join("made.tar").display().to_string();
    docker(&["save", "-o", &archive, "made"]).ok();
    docker(&["rmi", "made"]).ok();
    docker(&["volume", "rm", "data"]).ok();
    docker(&["network", "rm", "net"]).ok();
    let until = format!("--until={}", seconds_now() + 1);
    let told = docker(&["events", "--since=1", &until, "--format={{json .}}"]).ok();
    let mut lines = Vec::new();
    for line in told.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = |pointer: &str| event.pointer(pointer).and_then(|value| value.as_str());
        let kind = text("/Type").expect("a kind");
        if !["container", "image", "network", "volume"].contains(&kind) {
            continue;
        }
        let action = text("/Action").expect("an action");
        let name = text("/Actor/Attributes/name").unwrap_or_default();
        if action == "import" || (action == "tag" && name.starts_with("busybox")) {
            // How the life begins is each test's own.
            continue;
        }
        let said = event["Actor"]["Attributes"].as_object().expect("a map");
        let said: Vec<String> = said
            .iter()
            .map(|(name, value)| match name.as_str() {
                // Of one life or engine alone.
                "container" | "execID" | "execDuration" | "imageID" => name.clone(),
                "name" if kind == "image" && action != "tag" => name.clone(),
                _ => format!("{name}={}", value.as_str().unwrap_or_default()),
            })
            .collect();
        lines.push(format!("{kind} {action} ({})", said.join(", ")));
    }
    // The reference tells some things twice (a volume that was there already, an
    // endpoint that was left).
    lines.dedup();
    lines
}

fn seconds_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("it is later").as_secs()
}

#[test]
fn a_life_is_told_as_dockerd_tells_it() {
    let reference = Reference::start();
    reference.busybox();
    let theirs = story(reference.host(), |words| reference.docker(words));
    drop(reference);
    let daemon = Daemon::start();
    daemon.busybox();
    let ours = story(daemon.host(), |words| daemon.docker(words));
    assert_eq!(ours.join("\n"), theirs.join("\n"));
    daemon.remove_containers();
    daemon.finish();
}
