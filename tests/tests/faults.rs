//! SIGKILL at any moment, two hundred times: of the daemon, of shims, of
//! containers' first processes, under load. After each, what the daemon says
//! must be what there is; in the end nothing must be left.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use dhow_testkit::Daemon;

const ROUNDS: u64 = 200;
/// How long it may take until everything agrees.
const PATIENCE: Duration = Duration::from_secs(10);
/// Containers that are kept at most.
const MAX_CONTAINERS: usize = 6;

/// A generator of numbers that a failure can be repeated with.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let at = self.below(items.len().max(1) as u64);
        items.get(at as usize)
    }
}

/// A container as the daemon tells of it.
struct Told {
    id: String,
    is_running: bool,
    pid: i32,
}

fn told(daemon: &Daemon) -> Vec<Told> {
    let ids = daemon.docker(&["ps", "-aq", "--no-trunc"]).ok();
    let mut arguments = vec!["inspect", "-f", "{{.Id}} {{.State.Running}} {{.State.Pid}}"];
    arguments.extend(ids.lines());
    if arguments.len() == 3 {
        return Vec::new();
    }
    // One that goes meanwhile (a restart, an auto-remove) is told on stderr.
    let lines = daemon.docker(&arguments).stdout;
    let read = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(Told {
            id: (*words.first()?).to_owned(),
            is_running: words.get(1) == Some(&"true"),
            pid: words.get(2)?.parse().ok()?,
        })
    };
    lines.lines().filter_map(read).collect()
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

/// Fails unless records, processes and control groups come to tell the same. A
/// daemon that was just started may still be removing what ended meanwhile, so
/// it is asked until they do.
#[track_caller]
fn agree(daemon: &Daemon, round: u64) {
    let began = Instant::now();
    while let Err(difference) = compare(daemon) {
        assert!(began.elapsed() < PATIENCE, "round {round}: {difference}");
    }
}

fn compare(daemon: &Daemon) -> Result<(), String> {
    let containers = told(daemon);
    let running: BTreeSet<String> = containers
        .iter()
        .filter(|container| container.is_running)
        .map(|container| container.id.clone())
        .collect();
    for container in containers.iter().filter(|container| container.is_running) {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid));
        if !groups.is_ok_and(|groups| groups.contains(&container.id)) {
            return Err(format!("{} does not run", container.id));
        }
    }
    let known: BTreeSet<String> = containers
        .into_iter()
        .map(|container| container.id)
        .collect();
    let group = format!("/sys/fs/cgroup/memory/dhow-{}", daemon.host().instance());
    let groups: BTreeSet<String> = names_in(group.into())
        .into_iter()
        .filter(|name| name.len() == 64)
        .collect();
    let records = names_in(daemon.host().folder().join("data/containers"));
    for (what, found, wanted) in [
        ("shims", supervised(daemon), &running),
        ("control groups", groups, &running),
        ("records", records, &known),
    ] {
        if found != *wanted {
            return Err(format!(
                "{what}: {found:#?}, and the daemon tells {wanted:#?}"
            ));
        }
    }
    Ok(())
}

/// Something that a user does, begun and not waited for.
fn begin(daemon: &Daemon, chance: &mut Chance) -> Child {
    let containers = told(daemon);
    let ids: Vec<&str> = containers
        .iter()
        .map(|container| container.id.as_str())
        .collect();
    let some = chance.of(&ids).copied();
    let arguments: Vec<&str> = match (chance.below(8), some) {
        (0, Some(id)) => vec!["rm", "-f", id],
        (1, Some(id)) => vec!["stop", "-t", "0", id],
        (2, Some(id)) => vec!["start", id],
        (3, Some(id)) => vec!["restart", "-t", "0", id],
        (4, Some(id)) => vec!["exec", id, "true"],
        (_, Some(id)) if ids.len() >= MAX_CONTAINERS => vec!["rm", "-f", id],
        (5, _) => vec!["run", "--rm", "busybox", "true"],
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

fn kill(pid: i32) {
    // One that is gone already needs no signal.
    let _ = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

#[test]
fn two_hundred_kills_leave_everything_in_agreement() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    let seed = u64::from(std::process::id()) | 1 << 40;
    eprintln!("seed {seed}");
    let mut chance = Chance(seed);
    for round in 0..ROUNDS {
        let mut clients: Vec<Child> = (0..3).map(|_| begin(&daemon, &mut chance)).collect();
        // Not to wait for anything: this is how the moment is chosen.
        std::thread::sleep(Duration::from_micros(chance.below(60_000)));
        let run = daemon.host().folder().join("run/containers");
        let victim = match chance.below(4) {
            0 => {
                let shims = processes(&run);
                chance.of(&shims).map(|(pid, _)| *pid)
            }
            1 => {
                let containers = told(&daemon);
                let pids: Vec<i32> = containers
                    .iter()
                    .map(|container| container.pid)
                    .filter(|pid| *pid > 0)
                    .collect();
                chance.of(&pids).copied()
            }
            _ => None,
        };
        match victim {
            Some(pid) => kill(pid),
            None => {
                daemon.kill();
                daemon.start_again();
            }
        }
        for client in &mut clients {
            client.wait().expect("it ended");
        }
        // A daemon that starts again settles what it finds before it serves; what
        // a shim's or an init's end brings about is settled with the next one.
        if victim.is_some() {
            daemon.kill();
            daemon.start_again();
        }
        agree(&daemon, round);
    }
    daemon.remove_containers();
    // Removals without -v leave anonymous volumes, as they do with Docker.
    daemon.docker(&["volume", "prune", "-f"]).ok();
    agree(&daemon, ROUNDS);
    for left in ["data/containers", "run/containers", "data/volumes"] {
        assert_eq!(
            names_in(daemon.host().folder().join(left)),
            BTreeSet::new(),
            "{left}"
        );
    }
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
