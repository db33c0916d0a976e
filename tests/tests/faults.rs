//! SIGKILL at any moment, two hundred times: of the daemon, of shims, of
//! containers' first processes, under load. After each, what the daemon says
//! must be what there is; in the end nothing must be left.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use dhow_testkit::{Chance, Daemon};
use serde_json::Value;

const ROUNDS: u64 = 200;
/// How long it may take until everything agrees.
const PATIENCE: Duration = Duration::from_secs(10);
/// Containers that are kept at most.
const MAX_CONTAINERS: usize = 6;

/// A container as the daemon tells of it.
struct Told {
    id: String,
    name: String,
    is_running: bool,
    pid: i32,
    exit_code: i32,
    addresses: BTreeSet<String>,
    /// Ports of the host, of IPv4.
    ports: BTreeSet<u64>,
}

/// What the daemon's API answers.
fn get(daemon: &Daemon, path: &str) -> Value {
    let mut stream = UnixStream::connect(daemon.socket()).expect("it serves");
    let question = format!("GET {path} HTTP/1.0\r\nHost: daemon\r\n\r\n");
    stream.write_all(question.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).expect("JSON")
}

fn told(daemon: &Daemon) -> Vec<Told> {
    let list = get(daemon, "/containers/json?all=1");
    let ids = list.as_array().into_iter().flatten();
    // One that goes meanwhile (a restart, an auto-remove) is told of as missing.
    let all: Vec<Value> = ids
        .filter_map(|one| one["Id"].as_str())
        .map(|id| get(daemon, &format!("/containers/{id}/json")))
        .filter(|one| one["Id"].is_string())
        .collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_i64().and_then(|one| one.try_into().ok());
    let read = |one: &Value| {
        let state = &one["State"];
        let networks = one["NetworkSettings"]["Networks"].as_object();
        let addresses = networks.into_iter().flatten().flat_map(|(_, joined)| {
            ["IPAddress", "GlobalIPv6Address"].map(|family| text(&joined[family]))
        });
        let ports = one["NetworkSettings"]["Ports"].as_object();
        let bindings = ports
            .into_iter()
            .flatten()
            .filter_map(|(_, list)| list.as_array());
        Told {
            id: text(&one["Id"]),
            name: text(&one["Name"]).trim_start_matches('/').to_owned(),
            is_running: state["Running"] == true && state["Restarting"] == false,
            pid: number(&state["Pid"]).unwrap_or_default(),
            exit_code: number(&state["ExitCode"]).unwrap_or_default(),
            addresses: addresses.filter(|address| !address.is_empty()).collect(),
            ports: bindings
                .flatten()
                .filter(|binding| binding["HostIp"] == "0.0.0.0")
                .filter_map(|binding| text(&binding["HostPort"]).parse().ok())
                .collect(),
        }
    };
    all.iter().map(read).collect()
}

/// The processes whose command line names a path, with that command line.
fn processes(below: &Path) -> Vec<(i32, String)> {
    let below = below.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("mounted").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&below) {
            found.push((pid, command));
        }
    }
    found
}

/// The identifiers of containers that have a shim.
fn supervised(daemon: &Daemon) -> BTreeSet<String> {
    let run = daemon.host().folder().join("run/containers");
    processes(&run)
        .into_iter()
        .filter(|(_, command)| command.contains("shim --dir"))
        .filter_map(|(_, command)| {
            let (_, rest) = command.split_once("run/containers/")?;
            Some(rest.split('/').next()?.to_owned())
        })
        .collect()
}

fn names_in(folder: PathBuf) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// What is compared, besides what always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// No link of a container that runs is missing.
    Enough,
    /// And none is left, which takes a moment: removing them is put off.
    Exactly,
}

/// Fails unless records, processes, control groups, mounts and networks come to
/// tell the same. A daemon that was just started may still be removing what ended
/// meanwhile, so it is asked until they do.
#[track_caller]
fn agree(daemon: &Daemon, round: u64, links: Links) {
    let began = Instant::now();
    while let Err(difference) = compare(daemon, links) {
        assert!(began.elapsed() < PATIENCE, "round {round}: {difference}");
    }
}

fn compare(daemon: &Daemon, links: Links) -> Result<(), String> {
    let containers = told(daemon);
    let running: Vec<&Told> = containers.iter().filter(|one| one.is_running).collect();
    for container in &running {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid));
        if !groups.is_ok_and(|groups| groups.contains(&container.id)) {
            return Err(format!("{} does not run", container.name));
        }
    }
    for container in containers.iter().filter(|one| !one.is_running) {
        // Not started, by itself, by SIGKILL; or its shim was killed while it
        // was started, or with the code untold, which nobody knows then.
        if container.name.starts_with("quick")
            && ![0, 7, 128, 137, 255].contains(&container.exit_code)
        {
            return Err(format!(
                "{} ended with {}",
                container.name, container.exit_code
            ));
        }
    }
    let ids =
        |list: &[&Told]| -> BTreeSet<String> { list.iter().map(|one| one.id.clone()).collect() };
    let alive = ids(&running);
    let known = ids(&containers.iter().collect::<Vec<_>>());
    let folder = daemon.host().folder();
    let (leases, ports) = leases(&folder.join("run/network/endpoints"));
    let addresses = running.iter().flat_map(|one| {
        let with_id = |address: &String| format!("{} {address}", one.id);
        one.addresses.iter().map(with_id)
    });
    for (what, found, wanted) in [
        ("shims", supervised(daemon), &alive),
        ("control groups", groups(daemon), &alive),
        ("records", names_in(folder.join("data/containers")), &known),
        (
            "pins of namespaces",
            names_in(folder.join("run/network/netns")),
            &alive,
        ),
        // A container has none in the host's own namespace.
        ("mounts", mounted(folder), &BTreeSet::new()),
        ("addresses", leases, &addresses.collect()),
        (
            "published ports",
            published(daemon),
            &running
                .iter()
                .flat_map(|one| one.ports.iter().map(u64::to_string))
                .collect(),
        ),
    ] {
        if found != *wanted {
            return Err(format!(
                "{what}: {found:#?}, and the daemon tells {wanted:#?}"
            ));
        }
    }
    let there: BTreeSet<String> = daemon.host().links_of("veth").into_iter().collect();
    let is_right = match links {
        Links::Enough => ports.is_subset(&there),
        Links::Exactly => ports == there,
    };
    if !is_right {
        return Err(format!("links: {there:#?}, and endpoints have {ports:#?}"));
    }
    Ok(())
}

/// Addresses of endpoints behind their container's identifier, and the links of
/// the bridge that lead to them, as they are written down.
fn leases(folder: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut leases, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for name in names_in(folder.to_owned()) {
        // One may go while it is looked at.
        let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let all: Value = serde_json::from_str(&text).unwrap_or_default();
        for endpoint in all.as_array().into_iter().flatten() {
            let sandbox = endpoint["sandbox"].as_str().unwrap_or_default();
            let addresses = endpoint["addresses"].as_array().into_iter().flatten();
            let addresses = addresses.filter_map(Value::as_str);
            leases.extend(addresses.map(|address| format!("{sandbox} {address}")));
            ports.extend(endpoint["port_link"].as_str().map(str::to_owned));
        }
    }
    (leases, ports)
}

/// The identifiers below the instance's control group, in whatever hierarchy.
fn groups(daemon: &Daemon) -> BTreeSet<String> {
    let group = format!("dhow-{}", daemon.host().instance());
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = names_in(root.clone())
        .into_iter()
        .map(|name| root.join(name));
    hierarchies
        .map(|hierarchy| hierarchy.join(&group))
        .chain([root.join(&group)])
        .flat_map(names_in)
        .filter(|name| name.len() == 64)
        .collect()
}

/// The last parts of what is mounted below a folder, but the host itself.
fn mounted(folder: &Path) -> BTreeSet<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places
        .filter_map(|place| Path::new(place).strip_prefix(folder).ok())
        .filter(|place| *place != Path::new("host"))
        .map(|place| {
            place
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

/// The ports of IPv4 that the packet filter leads to containers.
fn published(daemon: &Daemon) -> BTreeSet<String> {
    let table = format!("dhow-{}", daemon.host().instance());
    let words = ["-j", "list", "map", "ip", &table, "published"];
    let text = daemon.host().run("nft", &words).stdout;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    let maps = answer["nftables"].as_array().into_iter().flatten();
    maps.filter_map(|one| one["map"]["elem"].as_array())
        .flatten()
        .filter_map(|element| Some(element[0]["concat"][1].as_u64()?.to_string()))
        .collect()
}

/// Something that a user does, begun and not waited for. Containers whose names
/// begin with `keep` are left alone.
fn begin(daemon: &Daemon, containers: &[Told], chance: &mut Chance, number: u64) -> Child {
    let ids: Vec<&str> = containers
        .iter()
        .filter(|container| !container.name.starts_with("keep"))
        .map(|container| container.id.as_str())
        .collect();
    let some = chance.of(&ids).copied();
    let name = format!("quick{number}");
    let arguments: Vec<&str> = match (chance.below(10), some) {
        (0, Some(id)) => vec!["rm", "-f", id],
        (1, Some(id)) => vec!["stop", "-t", "0", id],
        (2, Some(id)) => vec!["start", id],
        (3, Some(id)) => vec!["restart", "-t", "0", id],
        (4, Some(id)) => vec!["exec", id, "true"],
        (_, Some(id)) if ids.len() >= MAX_CONTAINERS => vec!["rm", "-f", id],
        (5, _) => vec!["run", "--rm", "busybox", "true"],
        (6, _) => vec![
            "run", "-d", "--name", &name, "busybox", "sh", "-c", "exit 7",
        ],
        (7 | 8, _) => vec![
            "run",
            "-d",
            "--network=front",
            "-p",
            "80",
            "busybox",
            "sleep",
            "3600",
        ],
        _ => vec![
            "run", "-d", "-p", "80", "-v", "/data", "busybox", "sleep", "3600",
        ],
    };
    daemon
        .docker_command(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker starts")
}

/// Counts, a line each, until it is told to end.
const COUNTER: &str = "trap 'exit 7' TERM; n=0; while :; do n=$((n+1)); echo $n; usleep 5000; done";

/// The numbers that a counter has logged.
fn counted(daemon: &Daemon, name: &str) -> Vec<u64> {
    let said = daemon.docker(&["logs", name]).ok();
    let number = |line: &str| {
        line.parse()
            .unwrap_or_else(|_| panic!("{name} logged {line:?}"))
    };
    said.lines().map(number).collect()
}

fn kill(pid: i32) {
    // One that is gone already needs no signal.
    let _ = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

/// Whom SIGKILL meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Daemon,
    Shim,
    Init,
}

/// The processes of a kind, but those of one container.
fn victims(daemon: &Daemon, kind: Victim, untouched: &str) -> Vec<i32> {
    match kind {
        Victim::Daemon => Vec::new(),
        Victim::Shim => processes(&daemon.host().folder().join("run/containers"))
            .into_iter()
            .filter(|(_, command)| command.contains("shim --dir"))
            .filter(|(_, command)| !command.contains(untouched))
            .map(|(pid, _)| pid)
            .collect(),
        Victim::Init => told(daemon)
            .iter()
            .filter(|container| container.id != untouched && container.pid > 0)
            .map(|container| container.pid)
            .collect(),
    }
}

#[test]
fn two_hundred_kills_leave_everything_in_agreement() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    daemon.docker(&["network", "create", "front"]).ok();
    // One that nobody touches, one that is started again, both counting.
    for (name, options) in [("keep-on", &[][..]), ("keep-up", &["--restart=always"])] {
        let words = [&["run", "-d", "--name", name, "--network=front"], options].concat();
        let words = [&words[..], &["busybox", "sh", "-c", COUNTER]].concat();
        daemon.docker(&words).ok();
    }
    let untouched = daemon.inspect("keep-on", "{{.Id}}");
    let began = daemon.inspect("keep-on", "{{.State.StartedAt}}");
    let mut chance = Chance::new();
    let mut killed: BTreeMap<Victim, u64> = BTreeMap::new();
    let mut number = 0;
    for round in 0..ROUNDS {
        let containers = told(&daemon);
        let mut clients: Vec<Child> = (0..3)
            .map(|_| {
                number += 1;
                begin(&daemon, &containers, &mut chance, number)
            })
            .collect();
        // Not to wait for anything: this is how the moment is chosen.
        std::thread::sleep(Duration::from_micros(chance.below(60_000)));
        let wanted = [Victim::Shim, Victim::Init, Victim::Daemon][(round % 3) as usize];
        let mut pids = victims(&daemon, wanted, &untouched);
        if wanted != Victim::Daemon && pids.is_empty() {
            daemon
                .docker(&["run", "-d", "busybox", "sleep", "3600"])
                .ok();
            pids = victims(&daemon, wanted, &untouched);
        }
        let victim = chance.of(&pids).copied();
        match victim {
            Some(pid) => {
                kill(pid);
                *killed.entry(wanted).or_default() += 1;
            }
            None => {
                daemon.kill();
                daemon.start_again();
                *killed.entry(Victim::Daemon).or_default() += 1;
            }
        }
        for client in &mut clients {
            client.wait().expect("it ended");
        }
        let links = if round % 10 == 9 {
            Links::Exactly
        } else {
            Links::Enough
        };
        // The daemon that lives settles it; one that starts again would, too.
        agree(&daemon, round, links);
        if victim.is_some() && chance.below(3) == 0 {
            daemon.kill();
            daemon.start_again();
            *killed.entry(Victim::Daemon).or_default() += 1;
            agree(&daemon, round, links);
        }
    }
    eprintln!("killed {killed:?}");
    for victim in [Victim::Daemon, Victim::Shim, Victim::Init] {
        let count = killed.get(&victim).copied().unwrap_or_default();
        assert!(count >= ROUNDS / 5, "{victim:?} was killed {count} times");
    }
    // Not a line is lost or written twice, whoever was killed meanwhile.
    assert_eq!(daemon.inspect("keep-on", "{{.State.StartedAt}}"), began);
    daemon.docker(&["stop", "keep-on"]).ok();
    assert_eq!(daemon.inspect("keep-on", "{{.State.ExitCode}}"), "7");
    let numbers = counted(&daemon, "keep-on");
    assert!(numbers.len() > ROUNDS as usize, "{} lines", numbers.len());
    let gap = (1..)
        .zip(&numbers)
        .find(|(expected, found)| expected != *found);
    assert_eq!(gap, None, "of {} lines", numbers.len());
    // The other began anew after each of its ends, and never in the middle.
    let numbers = counted(&daemon, "keep-up");
    let starts = numbers.iter().filter(|number| **number == 1).count();
    assert!(starts > 1, "it was never started again");
    for pair in numbers.windows(2) {
        assert!(pair[1] == pair[0] + 1 || pair[1] == 1, "{pair:?}");
    }
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "front"]).ok();
    // Removals without -v leave anonymous volumes, as they do with Docker.
    daemon.docker(&["volume", "prune", "-f"]).ok();
    agree(&daemon, ROUNDS, Links::Exactly);
    let volumes = daemon.host().folder().join("data/volumes");
    assert_eq!(names_in(volumes), BTreeSet::new());
    daemon.finish();
}

/// The daemon dies while a running container is joined to networks and taken off
/// them; others live on, and in the end all tell the same.
#[test]
fn joining_and_leaving_are_cut_at_any_moment() {
    const CUTS: u64 = 40;
    let mut daemon = Daemon::start();
    daemon.busybox();
    for name in ["one", "two"] {
        daemon.docker(&["network", "create", name]).ok();
    }
    daemon.sleeper("box", &["--network=one", "-p", "80"]);
    for name in ["near", "far"] {
        daemon.sleeper(name, &["--network=one", "-p", "80"]);
        daemon.docker(&["network", "connect", "two", name]).ok();
    }
    let lives = |daemon: &Daemon| {
        let places = daemon.inspect(
            "far",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
        );
        for address in places.split_whitespace() {
            daemon.within("near", &format!("ping -c 1 -W 5 {address}"));
        }
    };
    let mut chance = Chance::new();
    let mut joined = 0;
    for round in 0..CUTS {
        let verb = ["connect", "disconnect"][(round % 2) as usize];
        let mut client = daemon
            .docker_command(&["network", verb, "two", "box"])
            .stderr(Stdio::null())
            .spawn()
            .expect("docker starts");
        // Not to wait for anything: this is how the moment is chosen.
        std::thread::sleep(Duration::from_micros(chance.below(40_000)));
        daemon.kill();
        daemon.start_again();
        client.wait().expect("it ended");
        let links = if round % 10 == 9 {
            Links::Exactly
        } else {
            Links::Enough
        };
        agree(&daemon, round, links);
        // Inside is what is told, whichever way it went.
        let told = told(&daemon);
        let told = told.iter().find(|one| one.name == "box").expect("it runs");
        let seen = daemon.within("box", "ip -o addr show scope global");
        let seen: BTreeSet<String> = seen
            .split_whitespace()
            .filter_map(|word| word.split_once('/'))
            .map(|(address, _)| address.to_owned())
            .collect();
        assert_eq!(seen, told.addresses, "round {round}");
        let lines = daemon.within("box", "grep $(hostname) /etc/hosts");
        let names: BTreeSet<String> = lines
            .lines()
            .filter_map(|line| Some(line.split_once('\t')?.0.to_owned()))
            .collect();
        assert_eq!(names, told.addresses, "round {round}: {lines}");
        joined += u64::from(told.addresses.len() > 2);
        if round % 5 == 0 {
            lives(&daemon);
        }
    }
    eprintln!("joined after {joined} of {CUTS} cuts");
    lives(&daemon);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "one", "two"]).ok();
    daemon.finish();
}

/// A maker of a container that is killed before it has shown its record leaves a
/// folder, and perhaps a process, that are no container yet.
#[test]
fn what_is_no_container_yet_is_removed_too() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    daemon.sleeper("box", &[]);
    let id = daemon.inspect("box", "{{.Id}}");
    let pid = daemon.inspect("box", "{{.State.Pid}}");
    let left = daemon.host().folder().join("run/runtime").join(&id);
    daemon.kill();
    let run = daemon.host().folder().join("run/containers");
    for (shim, command) in processes(&run) {
        if command.contains("shim --dir") {
            kill(shim);
        }
    }
    std::fs::rename(left.join("state.json"), left.join("state.json.new")).expect("it was there");
    daemon.start_again();
    assert!(!left.exists(), "{} is left", left.display());
    let began = Instant::now();
    while Path::new("/proc").join(&pid).exists() {
        assert!(began.elapsed() < PATIENCE, "process {pid} is left");
    }
    // The same of a start that fails before it gets so far.
    daemon.docker(&["network", "create", "net"]).ok();
    daemon
        .docker(&["create", "--name", "other", "--network=net", "busybox"])
        .ok();
    daemon.docker(&["network", "rm", "net"]).ok();
    let id = daemon.inspect("other", "{{.Id}}");
    let left = daemon.host().folder().join("run/runtime").join(&id);
    std::fs::create_dir_all(&left).expect("a folder");
    std::fs::write(left.join("start"), "").expect("written");
    let error = daemon.docker(&["start", "other"]).fails(1);
    assert!(error.contains("network net not found"), "{error}");
    assert!(!left.exists(), "{} is left", left.display());
    daemon.remove_containers();
    daemon.finish();
}

/// Regression: a daemon that was killed while it started a container anew left a
/// shim that the next start ran into, and that stayed.
#[test]
fn a_restart_that_was_cut_off_is_taken_up_again() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    daemon.sleeper("box", &["--restart=always"]);
    let id = daemon.inspect("box", "{{.Id}}");
    let first = daemon.inspect("box", "{{.State.Pid}}");
    daemon.kill();
    // What the record says until the program runs.
    let folder = daemon.host().folder().join("data/containers").join(&id);
    let path = folder.join("container.json");
    let text = std::fs::read(&path).expect("a record");
    let mut record: Value = serde_json::from_slice(&text).expect("JSON");
    record["state"]["status"] = "restarting".into();
    std::fs::write(&path, record.to_string()).expect("written");
    daemon.start_again();
    let began = Instant::now();
    while daemon.inspect("box", "{{.State.Status}}") != "running" {
        assert!(began.elapsed() < PATIENCE, "it is not started again");
    }
    assert_ne!(daemon.inspect("box", "{{.State.Pid}}"), first);
    assert_eq!(daemon.inspect("box", "{{.State.Error}}"), "");
    agree(&daemon, 0, Links::Exactly);
    daemon.remove_containers();
    daemon.finish();
}

/// A program with its two ends at hand.
struct Talk {
    client: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Talk {
    fn begin(daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut client = daemon
            .docker_command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker starts");
        Self {
            input: client.stdin.take(),
            output: BufReader::new(client.stdout.take().expect("it was piped")),
            client,
        }
    }

    /// What comes back of a line.
    fn say(&mut self, line: &str) -> String {
        let input = self.input.as_mut().expect("it was piped");
        writeln!(input, "{line}").expect("it is read");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("a line");
        answer.trim_end().to_owned()
    }

    /// Ends the input, and tells how the client ends.
    fn end(mut self) -> Option<i32> {
        drop(self.input.take());
        self.client.wait().expect("it ended").code()
    }
}

/// Regression: programs saw the end of their input when the daemon was killed.
#[test]
fn input_goes_on_under_the_next_daemon() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    let mut run = Talk::begin(&daemon, &["run", "-i", "--name", "box", "busybox", "cat"]);
    assert_eq!(run.say("before"), "before");
    let mut exec = Talk::begin(&daemon, &["exec", "-i", "box", "cat"]);
    assert_eq!(exec.say("before"), "before");
    daemon.kill();
    assert_ne!(run.end(), Some(0));
    assert_ne!(exec.end(), Some(0));
    daemon.start_again();

    let mut attach = Talk::begin(&daemon, &["attach", "box"]);
    assert_eq!(attach.say("after"), "after");
    let processes = daemon.docker(&["top", "box", "-o", "pid,args"]).ok();
    assert_eq!(processes.matches("cat").count(), 2, "{processes}");
    // And an end that a client means is one.
    assert_eq!(attach.end(), Some(0));
    let ended = "{{.State.Status}} {{.State.ExitCode}}";
    assert_eq!(daemon.inspect("box", ended), "exited 0");
    daemon.remove_containers();
    daemon.finish();
}

/// A step of a build outlives a daemon that is killed, and nobody waits for it.
#[test]
fn a_build_ends_with_its_daemon() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    let context = daemon.host().folder().join("context");
    std::fs::create_dir(&context).expect("a folder");
    let recipe = "FROM busybox\nRUN echo begun && exec sleep 1000\n";
    std::fs::write(context.join("Dockerfile"), recipe).expect("written");
    let context = context.display().to_string();
    let mut build = daemon
        .docker_command(&["build", &context])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let said = BufReader::new(build.stdout.take().expect("it was piped"));
    let begun = said
        .lines()
        .any(|line| line.is_ok_and(|line| line == "begun"));
    assert!(begun, "the step runs");
    daemon.kill();
    let _ = build.wait();
    let steps = daemon.host().folder().join("run/steps");
    assert_eq!(names_in(steps.clone()).len(), 1);
    daemon.start_again();
    assert!(names_in(steps).is_empty());
    // The audit looks for its process, namespaces and control group.
    daemon.finish();
}
