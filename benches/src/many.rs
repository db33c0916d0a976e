//! A thousand containers on one machine: whether the last starts as fast as the
//! first, what they cost, how long lists take, and how quiet it all is at rest.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use dhow_testkit::{Daemon, Recorder};

use crate::containers::{pss, resident, shims};
use crate::report::Report;
use crate::turns::{Contender, Row, in_turns, median, ratio, row, run};

/// How many run in the end.
const ALL: usize = 1000;
/// At how many the daemon's memory is looked at in between.
const HALF: usize = 500;
/// Containers that are measured at each end.
const SAMPLE: usize = 21;
/// Containers that are started or removed by one command.
const BATCH: usize = 50;
/// How long the machine is watched at rest.
const REST: Duration = Duration::from_secs(10);
/// Events whose way is measured.
const N_EVENTS: usize = 51;

/// The list of all as our daemon answered it.
static LIST: OnceLock<String> = OnceLock::new();

pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    report.part("A thousand containers");
    let mut daemon = Daemon::start_as_installed();
    daemon.busybox();
    let free = available()?;
    let first = starts(&daemon, 0)?;
    let first_exec = execs(&daemon, 0, "in the first", rounds)?;
    for number in SAMPLE..ALL {
        start(&daemon, number)?;
        if number + 1 == HALF {
            let name = format!("our daemon with {HALF} running, resident");
            let resident = resident(&[daemon.pid()]);
            report.figure(&name, resident, "MiB");
            report.target(
                "daemon with 500 containers, resident",
                resident,
                50.0,
                "MiB",
            );
        }
    }
    let each = (free - available()?) / ALL as f64;
    report.figure(
        "what the machine has less for each of a thousand, its program included",
        each,
        "MB",
    );
    report.target("memory of a container with network", each, 0.8, "MB");
    let running = daemon
        .docker(&["ps", "-q", "--filter", "status=running"])
        .ok();
    ensure!(running.lines().count() == ALL, "not all of them run");
    let name = format!("our daemon with {ALL} running, resident");
    report.figure(&name, resident(&[daemon.pid()]), "MiB");
    let shims = shims(daemon.host().folder())?;
    ensure!(shims.len() == ALL, "{} of {ALL} run", shims.len());
    let each = shims.iter().map(|pid| pss(*pid)).sum::<f64>() / shims.len() as f64;
    report.figure(
        "our supervisor, proportional, each of a thousand",
        each,
        "KiB",
    );

    let last = starts(&daemon, ALL)?;
    let last_exec = execs(&daemon, ALL - 1, "in the thousandth", rounds)?;
    let starts = [
        row("with a thousand running", last),
        row("the first", first),
    ];
    report.times("run -d on the bridge", &starts);
    let of_first = ratio(&starts, "with a thousand running", "the first")?;
    report.target(
        "start with a thousand running, of the first",
        of_first,
        1.5,
        "×",
    );
    let execs = [last_exec, first_exec];
    report.times("exec … true", &execs);
    let of_first = ratio(&execs, "in the thousandth", "in the first")?;
    report.target(
        "exec with a thousand running, of the first",
        of_first,
        1.5,
        "×",
    );
    let socket = daemon.socket().display().to_string();
    let ask = || {
        let mut command = daemon.host().command("curl");
        command.args(["-sf", "--unix-socket", &socket]);
        command.arg("http://dhow/v1.47/containers/json");
        command
    };
    // The same answer by one who need not think: what the client takes for itself.
    let answer = ask().output().context("the list")?.stdout;
    let answer = String::from_utf8(answer).context("the list")?;
    ensure!(LIST.set(answer).is_ok(), "the list is measured once");
    let parrot = Recorder::start(|_, _| LIST.get().cloned().unwrap_or_default());
    let by_heart = format!("unix://{}", parrot.socket().display());
    let lists = in_turns(
        rounds,
        vec![
            Contender::command("dhow ps -q", || daemon.dhow_command(&["ps", "-q"])),
            Contender::command("dhow ps", || daemon.dhow_command(&["ps"])),
            Contender::command("docker ps", || daemon.docker_command(&["ps"])),
            Contender::command("docker version, for comparison", || {
                daemon.docker_command(&["version"])
            }),
            Contender::command("docker ps, the same answer out of memory", || {
                daemon.docker_command(&["-H", &by_heart, "ps"])
            }),
            Contender::command("curl, our daemon's answer alone", ask),
        ],
    )?;
    report.times("a list of a thousand", &lists);
    let list = median(&lists, "docker ps")?;
    report.target("`docker ps` of a thousand", list, 30.0, "ms");
    let way = [row("events", events(&daemon.socket())?)];
    report.times("from an event to its listener", &way);
    report.target("an event's way", way[0].median, 5.0, "ms");

    let before = [wakeups(&[daemon.pid()]), wakeups(&shims)];
    std::thread::sleep(REST);
    let after = [wakeups(&[daemon.pid()]), wakeups(&shims)];
    let each_second = |which: usize| since(&before[which], &after[which]) / REST.as_secs_f64();
    report.figure("our daemon at rest, wake-ups a second", each_second(0), "");
    let name = "a thousand supervisors at rest, wake-ups a second";
    report.figure(name, each_second(1), "");

    let names: Vec<String> = (0..ALL + SAMPLE).map(name_of).collect();
    let began = Instant::now();
    for batch in names.chunks(BATCH) {
        let mut words = vec!["rm", "-f"];
        words.extend(batch.iter().map(String::as_str));
        run(&mut daemon.dhow_command(&words))?;
    }
    let removal = began.elapsed().as_secs_f64() * 1000.0 / names.len() as f64;
    report.figure("removed by force, each", removal, "ms");
    daemon.stop();
    Ok(())
}

fn name_of(number: usize) -> String {
    format!("one{number}")
}

/// Starts one; milliseconds that it took.
fn start(daemon: &Daemon, number: usize) -> Result<f64> {
    let name = name_of(number);
    let words = ["run", "-d", "--name", &name, "busybox", "sleep", "36000"];
    let began = Instant::now();
    run(&mut daemon.dhow_command(&words))?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn starts(daemon: &Daemon, from: usize) -> Result<Vec<f64>> {
    (from..from + SAMPLE)
        .map(|number| start(daemon, number))
        .collect()
}

fn execs(daemon: &Daemon, number: usize, when: &str, rounds: usize) -> Result<Row> {
    let name = name_of(number);
    let words = ["exec", &name, "true"];
    let contender = Contender::command(when, || daemon.dhow_command(&words));
    let mut rows = in_turns(rounds, vec![contender])?;
    rows.pop().context("one contender has one row")
}

/// Memory that the machine has to give, in MB.
fn available() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let kilobytes: f64 = number.context("MemAvailable")?.parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// Milliseconds between the time an event carries and its arrival.
fn events(socket: &Path) -> Result<Vec<f64>> {
    let ask = |request: &str| -> Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: dhow\r\n\r\n").as_bytes())?;
        Ok(BufReader::new(stream))
    };
    let mut listening = ask("GET /events?filters=%7B%22event%22%3A%5B%22rename%22%5D%7D")?;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        listening.read_line(&mut line)?;
    }
    let mut way = Vec::new();
    for number in 0..N_EVENTS {
        let (old, new) = match number % 2 {
            0 => ("one0", "other0"),
            _ => ("other0", "one0"),
        };
        let mut answer = ask(&format!("POST /containers/{old}/rename?name={new}"))?;
        loop {
            line.clear();
            listening.read_line(&mut line)?;
            if line.starts_with('{') {
                break;
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as f64;
        let (_, rest) = line.split_once("\"timeNano\":").context("its time")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        way.push((now - digits.parse::<f64>()?) / 1e6);
        line.clear();
        answer.read_line(&mut line)?;
        ensure!(line.contains("204"), "renaming {old}: {line}");
    }
    // An odd number of renames: the name is put back.
    if N_EVENTS % 2 == 1 {
        let mut answer = ask("POST /containers/other0/rename?name=one0")?;
        answer.read_line(&mut line)?;
    }
    Ok(way)
}

/// How often each thread of these processes went to sleep so far.
fn wakeups(pids: &[u32]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for pid in pids {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let count = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .and_then(|count| count.trim().parse().ok());
            if let Some(count) = count {
                counts.insert(task.path().display().to_string(), count);
            }
        }
    }
    counts
}

/// How often threads woke up that are there before and after.
fn since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> f64 {
    let woken = after
        .iter()
        .filter_map(|(thread, count)| Some(count.saturating_sub(*before.get(thread)?)));
    woken.sum::<u64>() as f64
}
