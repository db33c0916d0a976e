//! Containers that take all they can: processes, memory, descriptors, log,
//! disk. Neighbours and the daemon must not feel it.

use std::process::Stdio;
use std::time::Instant;

use dhow_testkit::Daemon;

/// A neighbour answers and a new container runs, both at once as before.
#[track_caller]
fn others_are_well(daemon: &Daemon, during: &str) {
    let began = Instant::now();
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
    daemon.sleeper("neighbour", &[]);

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
    daemon.docker(&["rm", "-f", "bomb"]).ok();

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
            refused.stderr.contains("No space left on device"),
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
