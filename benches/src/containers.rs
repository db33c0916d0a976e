//! Engines: a container started and removed, exec, fifty at once, memory.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use dhow_testkit::Daemon;

use crate::peers::{Dockerd, Podman};
use crate::report::Report;
use crate::turns::{Contender, Row, in_turns, median, ratio, row, run};

/// Containers that run at once.
const MANY: usize = 50;
/// Rounds of measurements that take long.
const FEW: usize = 3;

/// An engine: its name and how a command of it is made.
type Client<'a> = (&'static str, Box<dyn Fn(&[&str]) -> Command + 'a>);

pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    report.part("Engines");
    let mut daemon = Daemon::start_as_installed();
    let begun = resident(&[daemon.pid()]);
    report.figure("our daemon as it starts, resident", begun, "MiB");
    report.target("daemon at rest, resident", begun, 20.0, "MiB");
    daemon.busybox();
    let host = daemon.host();
    let archive = host.folder().join("busybox.tar").display().to_string();
    let dockerd = Dockerd::start(host)
        .inspect_err(|error| report.missing(&format!("dockerd ({error})")))
        .ok();
    let podman = Podman::find();
    if podman.is_none() {
        report.missing("podman");
    }
    let mut clients: Vec<Client<'_>> = vec![
        ("dhow", Box::new(|words| daemon.dhow_command(words))),
        (
            "docker at our daemon",
            Box::new(|words| daemon.docker_command(words)),
        ),
    ];
    if let Some(dockerd) = &dockerd {
        run(&mut dockerd.docker(host, &["import", &archive, "busybox"]))?;
        clients.push((
            "docker at dockerd",
            Box::new(|words| dockerd.docker(host, words)),
        ));
    }
    if let Some(podman) = &podman {
        run(&mut podman.command(host, &["import", &archive, "busybox"]))?;
        clients.push(("podman", Box::new(|words| podman.command(host, words))));
    }

    let without = ["run", "--rm", "--network", "none", "busybox", "true"];
    let rows = each(&clients, &without, rounds)?;
    report.times("run --rm --network none … true", &rows);
    hold_runs(report, &rows, "without network", 30.0)?;
    // Podman's bridge needs plugins that are not always there.
    let has_bridge = |name: &str| name != "podman";
    let bridged: Vec<&Client<'_>> = clients.iter().filter(|one| has_bridge(one.0)).collect();
    let with = ["run", "--rm", "busybox", "true"];
    let rows = each(bridged.iter().copied(), &with, rounds)?;
    report.times("run --rm … true, on the bridge", &rows);
    hold_runs(report, &rows, "on the bridge", 40.0)?;

    let mut sleeping = vec!["run", "-d", "--name", "sleeper"];
    sleeping.extend(["--network", "none", "busybox", "sleep", "3600"]);
    for (name, client) in clients.iter().filter(|one| one.0 != "docker at our daemon") {
        run(&mut client(&sleeping)).context(*name)?;
    }
    let rows = each(&clients, &["exec", "sleeper", "true"], rounds)?;
    report.times("exec … true", &rows);
    report.target("`dhow exec`", median(&rows, "dhow")?, 12.0, "ms");
    for (name, client) in clients.iter().filter(|one| one.0 != "docker at our daemon") {
        run(&mut client(&["rm", "-f", "-t", "0", "sleeper"]))
            .or_else(|_| run(&mut client(&["rm", "-f", "sleeper"])))
            .context(*name)?;
    }

    let at_rest = resident(&[daemon.pid()]);
    report.figure("our daemon at rest after these, resident", at_rest, "MiB");
    if let Some(dockerd) = &dockerd {
        let both = resident(&dockerd.pids());
        report.figure("dockerd and containerd at rest, resident", both, "MiB");
    }
    let (mut starting, mut removing) = (Vec::new(), Vec::new());
    for (name, client) in bridged {
        let (mut starts, mut removals) = (Vec::new(), Vec::new());
        for _ in 0..FEW {
            let began = Instant::now();
            for number in 0..MANY {
                let name = format!("many{number}");
                run(&mut client(&[
                    "run", "-d", "--name", &name, "busybox", "sleep", "3600",
                ]))?;
            }
            starts.push(began.elapsed().as_secs_f64() * 1000.0 / MANY as f64);
            if *name == "dhow" && starts.len() == FEW {
                let shims = shims(host.folder())?;
                let proportional = shims.iter().map(|pid| pss(*pid)).sum::<f64>();
                let average = proportional / shims.len().max(1) as f64;
                report.figure(
                    "our supervisor, proportional, each of fifty",
                    average,
                    "KiB",
                );
                let megabytes = average * 1024.0 / 1e6;
                report.target("a supervisor, proportional", megabytes, 0.3, "MB");
            }
            let names: Vec<String> = (0..MANY).map(|number| format!("many{number}")).collect();
            let mut words = vec!["rm", "-f"];
            words.extend(names.iter().map(String::as_str));
            let began = Instant::now();
            run(&mut client(&words))?;
            removals.push(began.elapsed().as_secs_f64() * 1000.0 / MANY as f64);
        }
        starting.push(row(name, starts));
        removing.push(row(name, removals));
    }
    report.times("fifty detached on the bridge, each", &starting);
    report.times("fifty removed by force, each", &removing);
    let each = median(&starting, "dhow")?;
    report.target("fifty detached on the bridge, each", each, 20.0, "ms");
    let each = median(&removing, "dhow")?;
    report.target("fifty removed, each", each, 8.0, "ms");
    drop(clients);
    drop(dockerd);
    if let Some(podman) = &podman {
        let _ = run(&mut podman.command(host, &["system", "reset", "--force"]));
    }
    daemon.remove_containers();
    // What a peer left on the throw-away host goes with it.
    daemon.stop();
    Ok(())
}

/// What `run --rm` is to be at most.
fn hold_runs(report: &mut Report, rows: &[Row], how: &str, at_most: f64) -> Result<()> {
    let ours = median(rows, "dhow")?;
    report.target(&format!("`dhow run --rm` {how}"), ours, at_most, "ms");
    if let Ok(of_theirs) = ratio(rows, "docker at our daemon", "docker at dockerd") {
        let name = format!("`docker run --rm` {how}, of dockerd's");
        report.target(&name, of_theirs, 0.12, "×");
    }
    Ok(())
}

/// One command of every client, in turns.
fn each<'a>(
    clients: impl IntoIterator<Item = &'a Client<'a>>,
    words: &[&str],
    rounds: usize,
) -> Result<Vec<Row>> {
    let contenders = clients
        .into_iter()
        .map(|(name, client)| Contender::command(name, move || client(words)))
        .collect();
    in_turns(rounds, contenders)
}

/// Resident memory of processes, in MiB.
pub fn resident(pids: &[u32]) -> f64 {
    pids.iter()
        .map(|pid| {
            let path = format!("/proc/{pid}/status");
            let status = std::fs::read_to_string(path).unwrap_or_default();
            kilobytes(&status, "VmRSS:") / 1024.0
        })
        .sum()
}

/// Proportional memory of a process, in KiB.
pub fn pss(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    kilobytes(&std::fs::read_to_string(path).unwrap_or_default(), "Pss:")
}

fn kilobytes(text: &str, name: &str) -> f64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// Our supervisors below a folder.
pub fn shims(folder: &std::path::Path) -> Result<Vec<u32>> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(" shim") && command.contains(&folder) {
            found.push(pid);
        }
    }
    Ok(found)
}
