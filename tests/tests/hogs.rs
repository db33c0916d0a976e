//! Containers that take all they can: processes, memory, descriptors, log,
//! disk. Neighbours and the daemon must not feel it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use dhow_testkit::{Daemon, compile};

/// A neighbour that says something, and what it is then.
fn neighbour(daemon: &Daemon) -> String {
    let script = "echo here; exec sleep 3600";
    let words = [
        "run",
        "-d",
        "--name=neighbour",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    daemon.docker(&words).ok();
    daemon.inspect("neighbour", STATE)
}

const STATE: &str = "{{.State.Status}} {{.State.Pid}} {{.State.StartedAt}} {{.State.OOMKilled}}";

/// A neighbour answers and a new container runs, both at once as before.
#[track_caller]
fn others_are_well(daemon: &Daemon, during: &str) {
    let began = Instant::now();
    assert_eq!(daemon.docker(&["logs", "neighbour"]).ok(), "here");
    assert_eq!(
        daemon.docker(&["exec", "neighbour", "echo", "well"]).ok(),
        "well"
    );
    assert_eq!(
        daemon
            .docker(&["run", "--rm", "busybox", "echo", "new"])
            .ok(),
        "new"
    );
    let took = began.elapsed();
    assert!(took.as_secs() < 20, "{during}: it took {took:?}");
}

#[test]
fn hogs_harm_nobody_else() {
    let daemon = Daemon::start();
    daemon.busybox();
    let well = neighbour(&daemon);

    // A fork bomb meets its limit.
    let bomb = "b() { b | b & }; b; sleep 3600";
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "bomb",
            "--pids-limit",
            "64",
            "--cpus",
            "0.5",
            "busybox",
            "sh",
            "-c",
            bomb,
        ])
        .ok();
    others_are_well(&daemon, "fork bomb");
    let pids = daemon.docker(&["top", "bomb"]).ok().lines().count();
    assert!(pids <= 65, "{pids} processes");
    let stats = ["stats", "--no-stream", "--format", "{{.PIDs}}", "bomb"];
    let pids: u32 = daemon.docker(&stats).ok().parse().expect("a number");
    assert!((2..=64).contains(&pids), "{pids} processes");
    let began = Instant::now();
    daemon.docker(&["rm", "-f", "bomb"]).ok();
    let took = began.elapsed();
    assert!(took < LONG, "a fork bomb took {took:?} to be removed");

    // A memory hog is killed, and that is told.
    let hog = daemon.docker(&[
        "run",
        "--name",
        "hog",
        "-m",
        "32m",
        "--memory-swap",
        "32m",
        "busybox",
        "sh",
        "-c",
        "tail /dev/zero",
    ]);
    assert_eq!(hog.code, 137, "{hog:?}");
    assert_eq!(
        daemon
            .docker(&["inspect", "-f", "{{.State.OOMKilled}}", "hog"])
            .ok(),
        "true"
    );
    others_are_well(&daemon, "memory hog");

    // So is one among others in its container, which goes on.
    daemon.sleeper("wide", &["-m", "32m", "--memory-swap", "32m"]);
    let hog = daemon.docker(&["exec", "wide", "tail", "/dev/zero"]);
    assert_eq!(hog.code, 137, "{hog:?}");
    assert_eq!(daemon.inspect("wide", "{{.State.Status}}"), "running");
    daemon.docker(&["rm", "-f", "wide"]).ok();

    // Descriptors end at the limit.
    let files = "i=0; while [ $i -lt 400 ]; do eval \"exec $((i+10))</dev/null\" || exit 9; i=$((i+1)); done";
    let files = daemon.docker(&[
        "run",
        "--rm",
        "--ulimit",
        "nofile=256",
        "busybox",
        "sh",
        "-c",
        files,
    ]);
    assert_ne!(files.code, 0, "{files:?}");

    // A flood of output is bounded on disk, and the newest of it is there.
    let flood =
        "i=0; while [ $i -lt 20000 ]; do echo line $i is as long as lines are; i=$((i+1)); done";
    daemon
        .docker(&[
            "run",
            "--name",
            "flood",
            "--log-opt",
            "max-size=64k",
            "--log-opt",
            "max-file=3",
            "busybox",
            "sh",
            "-c",
            flood,
        ])
        .ok();
    let id = daemon.docker(&["inspect", "-f", "{{.Id}}", "flood"]).ok();
    let folder = daemon.host().folder().join("data/containers").join(id);
    let logged: u64 = std::fs::read_dir(folder)
        .expect("its folder")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("log"))
        .map(|entry| entry.metadata().expect("there").len())
        .sum();
    assert!(logged <= 3 * (64 << 10), "{logged} bytes of log");
    let last = daemon.docker(&["logs", "--tail", "1", "flood"]).ok();
    assert_eq!(last, "line 19999 is as long as lines are");

    // One that nobody reads stands still, and nobody else with it.
    let mut unread = daemon
        .docker_command(&["run", "--rm", "--name", "unread", "busybox", "yes"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    others_are_well(&daemon, "unread output");
    daemon.docker(&["rm", "-f", "unread"]).ok();
    drop(unread.stdout.take());
    unread.wait().expect("it ended");

    assert_eq!(daemon.inspect("neighbour", STATE), well);
    daemon.remove_containers();
    daemon.finish();
}

/// How long it may take to end or to answer, on a machine that is busy.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn descriptors_and_memory_of_files_have_an_end() {
    let daemon = Daemon::start();
    daemon.busybox();
    let well = neighbour(&daemon);
    // Sixteen processes with four thousand files each, kept.
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/probe/hog.c");
    let program = compile(daemon.host(), Path::new(source));
    let program = format!("{}:/hog:ro", program.display());
    let limit = "--ulimit=nofile=4096";
    let words = [
        "run",
        "--name=files",
        "-v",
        &program,
        limit,
        "busybox",
        "/hog",
        "16",
    ];
    let mut hog = daemon
        .docker_command(&words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let told = BufReader::new(hog.stdout.take().expect("it was piped")).lines();
    let told: Vec<String> = told.map_while(Result::ok).take(16).collect();
    assert_eq!(told, ["4096 EMFILE"; 16]);
    others_are_well(&daemon, "open files");
    daemon.docker(&["rm", "-f", "files"]).ok();
    hog.wait().expect("it ended");

    // Files in memory end at their size, or at the container's.
    let script = "for at in /dev/shm /t; do
        dd if=/dev/zero of=$at/big bs=64k count=640 2>&1 | grep -o 'No space left on device'
        stat -c %s $at/big; done";
    let options = ["--shm-size=1m", "--tmpfs=/t:size=2m"];
    let said = daemon.script(&options, script);
    let lines: Vec<&str> = said.lines().collect();
    let full = "No space left on device";
    assert_eq!(lines, [full, "1048576", full, "2097152"]);
    let shared = daemon.script(&[], "df -m /dev/shm | tail -n 1");
    assert_eq!(shared.split_whitespace().nth(1), Some("64"), "{shared}");
    let words = [
        "run",
        "--name=unlimited",
        "--tmpfs=/t",
        "-m",
        "32m",
        "--memory-swap",
        "32m",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/t/big",
        "bs=1M",
        "count=64",
    ];
    let hog = daemon.docker(&words);
    assert_eq!(hog.code, 137, "{hog:?}");
    assert_eq!(daemon.inspect("unlimited", "{{.State.OOMKilled}}"), "true");
    others_are_well(&daemon, "files in memory");
    assert_eq!(daemon.inspect("neighbour", STATE), well);
    daemon.remove_containers();
    daemon.finish();
}

/// Bytes that a process has in memory.
fn memory(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes
        .and_then(|text| text.parse::<u64>().ok())
        .expect("a number")
        << 10
}

/// The parent of a process.
fn parent(pid: &str) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
    rest.split_whitespace().nth(1).expect("a number").to_owned()
}

/// Bytes of files whose names begin so.
fn size(folder: &Path, begin: &str) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let of = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(begin));
    // One may be renamed while it is looked at.
    of.filter_map(|entry| entry.metadata().ok())
        .map(|data| data.len())
        .sum()
}

#[test]
fn a_flood_that_does_not_end_is_bounded() {
    const BOUND: u64 = 3 * (64 << 10);
    let daemon = Daemon::start();
    daemon.busybox();
    let well = neighbour(&daemon);
    let drivers = ["local", "json-file"];
    let line = "as much as it can";
    let mut floods: Vec<(PathBuf, String)> = Vec::new();
    for driver in drivers {
        let option = format!("--log-driver={driver}");
        let words = [
            "run",
            "-d",
            "--name",
            driver,
            "--cpus=0.5",
            &option,
            "--log-opt=max-size=64k",
            "--log-opt=max-file=3",
            "busybox",
            "yes",
            line,
        ];
        daemon.docker(&words).ok();
        let id = daemon.inspect(driver, "{{.Id}}");
        let folder = daemon.host().folder().join("data/containers").join(id);
        floods.push((folder, parent(&daemon.inspect(driver, "{{.State.Pid}}"))));
    }
    let daemon_pid = daemon.pid().to_string();
    let before = memory(&daemon_pid);
    // Some follow, and read nothing.
    let mut followers: Vec<_> = drivers
        .iter()
        .map(|driver| {
            let mut command = daemon.docker_command(&["logs", "-f", driver]);
            command
                .stdout(Stdio::piped())
                .spawn()
                .expect("docker starts")
        })
        .collect();
    for round in 0..4 {
        for (driver, (folder, shim)) in drivers.iter().zip(&floods) {
            let logged = size(folder, "log");
            assert!(
                logged <= BOUND,
                "round {round}: {driver} has {logged} bytes"
            );
            let began = Instant::now();
            assert_eq!(daemon.docker(&["logs", "--tail=1", driver]).ok(), line);
            let took = began.elapsed();
            assert!(took < LONG, "round {round}: {driver} told after {took:?}");
            let taken = memory(shim);
            assert!(taken < 32 << 20, "round {round}: a shim has {taken} bytes");
        }
        others_are_well(&daemon, "two floods");
        let more = memory(&daemon_pid).saturating_sub(before);
        assert!(
            more < 64 << 20,
            "round {round}: the daemon has {more} bytes more"
        );
    }
    for driver in drivers {
        let began = Instant::now();
        daemon.docker(&["rm", "-f", driver]).ok();
        let took = began.elapsed();
        assert!(took < LONG, "{driver} took {took:?} to be removed");
    }
    for follower in &mut followers {
        drop(follower.stdout.take());
        follower.wait().expect("it ended");
    }
    assert_eq!(daemon.inspect("neighbour", STATE), well);
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn a_full_disk_stops_no_container_and_breaks_no_log() {
    let mut daemon = Daemon::start_on_disk_of("24m");
    daemon.busybox();
    // The image and the records are there; the log fills what is left.
    let script = "i=0; while [ $i -lt 400 ]; do head -c 65536 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; echo end";
    let options = ["--log-driver", "local", "--log-opt", "max-size=100m"];
    let run = [
        &["run", "--name", "full"],
        &options[..],
        &["busybox", "sh", "-c", script],
    ]
    .concat();
    let ran = daemon.docker(&run);
    assert_eq!(
        ran.code, 0,
        "its output goes to who is attached: {}",
        ran.stderr
    );
    assert!(ran.stdout.ends_with("end\n"));
    // What is in the log is whole, up to where the disk was full.
    let logs = daemon.docker(&["logs", "full"]);
    assert_eq!(logs.code, 0, "{}", logs.stderr);
    assert!(logs.stdout.len() > 4 << 20, "{} bytes", logs.stdout.len());
    let refused = daemon.docker(&["run", "--rm", "busybox", "true"]);
    if refused.code != 0 {
        assert!(
            refused.stderr.contains("no space left on device"),
            "{}",
            refused.stderr
        );
    }
    daemon.kill();
    daemon.start_again();
    daemon.docker(&["rm", "-f", "full"]).ok();
    assert_eq!(
        daemon
            .docker(&["run", "--rm", "busybox", "echo", "again"])
            .ok(),
        "again"
    );
    daemon.remove_containers();
    daemon.finish();
}
