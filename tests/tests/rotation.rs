//! Logs that are read while they are rotated: whoever reads them finds no hole and
//! nothing twice.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use dhow_testkit::Daemon;

/// Readers at a time, and reads of each.
const READERS: usize = 6;
const READS: usize = 12;
/// Bytes of a file.
const SIZE: usize = 8 << 10;

/// The numbers of a log's lines.
fn numbers(text: &str) -> Vec<u64> {
    let number = |line: &str| line.trim().parse().unwrap_or_else(|_| panic!("{line:?}"));
    text.lines().map(number).collect()
}

/// What is wrong with numbers that should follow each other.
fn gaps(numbers: &[u64]) -> Vec<(u64, u64)> {
    let pairs = numbers.windows(2).map(|pair| (pair[0], pair[1]));
    pairs
        .filter(|(first, second)| first + 1 != *second)
        .collect()
}

/// As fast as it goes.
const FLOOD: &str = "n=1000000; while :; do echo $n; n=$((n+1)); done";
/// Several files at a time, and then time for whoever follows.
const BURSTS: &str = "n=1000000; while :; do \
    end=$((n+250)); while [ $n -lt $end ]; do echo $n; n=$((n+1)); done; usleep 200000; done";

/// A container that counts for ever.
fn count(daemon: &Daemon, name: &str, options: &[&str], script: &str) {
    let size = format!("max-size={SIZE}");
    let words = [
        &[
            "run",
            "-d",
            "--network=none",
            "--name",
            name,
            "--log-opt",
            &size,
        ][..],
        options,
        &["busybox", "sh", "-c", script],
    ];
    daemon.docker(&words.concat()).ok();
}

/// Follows a log from its beginning on until so many lines have come.
fn follow(daemon: &Daemon, name: &str, wanted: usize) -> Vec<u64> {
    let mut process = daemon
        .docker_command(&["logs", "-f", name])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let output = BufReader::new(process.stdout.take().expect("it was piped"));
    let text: Vec<String> = output.lines().take(wanted).map_while(Result::ok).collect();
    process.kill().expect("it runs");
    process.wait().expect("it ends");
    numbers(&text.join("\n"))
}

fn hold(driver: &str, compress: bool) {
    let daemon = Daemon::start();
    daemon.busybox();
    let compress = format!("compress={compress}");
    let driver = format!("--log-driver={driver}");
    let options = |files| [driver.as_str(), "--log-opt", &compress, "--log-opt", files];
    count(&daemon, "flood", &options("max-file=5"), FLOOD);
    // So many that nobody is too slow who follows.
    count(&daemon, "bursts", &options("max-file=40"), BURSTS);
    // Longer than a line in either form: so many lines there are at least in the four
    // files that are whole.
    let fewest = 4 * (SIZE / 100 - 1);
    follow(&daemon, "flood", 3 * fewest);
    std::thread::scope(|scope| {
        let daemon = &daemon;
        scope.spawn(move || {
            for _ in 0..READS / 3 {
                let lines = follow(daemon, "bursts", 6000);
                assert_eq!((gaps(&lines), lines.len()), (vec![], 6000), "follow");
            }
        });
        for _ in 1..READERS {
            scope.spawn(move || {
                for _ in 0..READS {
                    let lines = numbers(&daemon.docker(&["logs", "flood"]).ok());
                    assert_eq!(gaps(&lines), [], "all");
                    let n = lines.len();
                    assert!(n >= fewest, "{n} lines, {fewest} wanted");
                    let lines = numbers(&daemon.docker(&["logs", "--tail=150", "flood"]).ok());
                    assert_eq!((gaps(&lines), lines.len()), (vec![], 150), "tail");
                }
            });
        }
    });
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn entries_are_read_without_a_hole() {
    hold("local", true);
}

#[test]
fn plain_entries_are_read_without_a_hole() {
    hold("local", false);
}

#[test]
fn json_is_read_without_a_hole() {
    hold("json-file", true);
}

/// One file that begins anew: who follows it goes on.
#[test]
fn a_single_file_is_followed() {
    let daemon = Daemon::start();
    daemon.busybox();
    let script = "n=1000000; while read -r _; do n=$((n+1)); echo $n; done";
    let words = [
        "run",
        "-di",
        "--network=none",
        "--name=one",
        "--log-opt=max-size=2k",
    ];
    let command = ["busybox", "sh", "-c", script];
    daemon.docker(&[&words[..], &command].concat()).ok();
    let mut input = daemon
        .docker_command(&["attach", "--no-stdin=false", "one"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let mut keys = input.stdin.take().expect("it was piped");
    let mut process = daemon
        .docker_command(&["logs", "-f", "one"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let mut lines = BufReader::new(process.stdout.take().expect("it was piped")).lines();
    let mut read = Vec::new();
    // One by one, so that nobody is too slow.
    for _ in 0..200 {
        std::io::Write::write_all(&mut keys, b"\n").expect("it reads");
        let line = lines.next().expect("a line").expect("text");
        read.push(line.parse().expect("a number"));
    }
    assert_eq!((gaps(&read), read[0]), (vec![], 1_000_001));
    for mut process in [process, input] {
        process.kill().expect("it runs");
        process.wait().expect("it ends");
    }
    daemon.remove_containers();
    daemon.finish();
}
