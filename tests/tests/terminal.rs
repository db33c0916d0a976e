//! `dhow` at a terminal: the keys that let go of a container, and signals on
//! their way to one.

use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use dhow_testkit::{Daemon, require};

/// Longest time that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A program that says when it can be typed at, and then what is typed.
const PROGRAM: [&str; 3] = [
    "sh",
    "-c",
    "echo ready; while read line; do echo got-$line; done",
];

/// `dhow` with a terminal of its own.
struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    output: std::sync::mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    fn start(daemon: &Daemon, words: &[&str]) -> Self {
        let inner = daemon.dhow_command(words);
        let script = require("script", "the Debian package bsdutils");
        let line: Vec<String> = std::iter::once(inner.get_program())
            .chain(inner.get_args())
            .map(|word| format!("'{}'", word.to_str().expect("plain words")))
            .collect();
        let mut command: Command = daemon.host().command(script);
        command
            .args(["-q", "-e", "-c", &line.join(" "), "/dev/null"])
            .env("DHOW_HOST", format!("unix://{}", daemon.socket().display()))
            .env(
                "DOCKER_CONFIG",
                daemon.host().folder().join("docker-config"),
            )
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("script starts");
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it was piped");
        let (sender, output) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut buffer = [0; 4096];
            while let Ok(length) = reader.read(&mut buffer) {
                if length == 0 || sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            stdin,
            output,
            seen: String::new(),
        }
    }

    fn types(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(bytes).expect("it reads");
        stdin.flush().expect("it reads");
    }

    #[track_caller]
    fn sees(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{text:?} is not in {:?}: {error}", self.seen),
            }
        }
    }

    /// The exit code, and all that was printed.
    #[track_caller]
    fn ends(mut self) -> (i32, String) {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => {
                    let _ = self.child.kill();
                    panic!("it goes on after {:?}: {error}", self.seen);
                }
            }
        }
        drop(self.stdin.take());
        let status = self.child.wait().expect("it ends");
        (status.code().unwrap_or(-1), self.seen)
    }
}

#[test]
fn the_keys_let_go_and_leave_it_running() {
    let daemon = Daemon::start();
    daemon.busybox();
    let run = |options: &[&'static str]| {
        let words = [&["run", "-it"], options, &["busybox"], &PROGRAM].concat();
        Session::start(&daemon, &words)
    };
    let is_running =
        |name: &str| assert_eq!(daemon.inspect(name, "{{.State.Running}}"), "true", "{name}");

    // By the keys that everybody knows; what was typed before goes on.
    let mut session = run(&["--name", "one"]);
    session.sees("ready");
    session.types(b"hello\r");
    session.sees("got-hello");
    session.types(b"\x10\x11");
    let (code, seen) = session.ends();
    assert_eq!(code, 0, "{seen}");
    is_running("one");

    // Attached again, and let go again: as docker has it, that is no success.
    let mut session = Session::start(&daemon, &["attach", "one"]);
    session.types(b"again\r");
    session.sees("got-again");
    session.types(b"\x10\x11");
    let (code, seen) = session.ends();
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("read escape sequence"), "{seen}");
    is_running("one");

    // A command in it.
    let exec = [&["exec", "-it", "one"][..], &PROGRAM].concat();
    let mut session = Session::start(&daemon, &exec);
    session.sees("ready");
    session.types(b"\x10\x11");
    let (code, seen) = session.ends();
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("read escape sequence"), "{seen}");

    // By keys of one's own; the others are the program's then.
    let mut session = run(&["--name", "two", "--detach-keys", "ctrl-a,x"]);
    session.sees("ready");
    session.types(b"a\x01b\r");
    session.sees("got-a\x01b");
    session.types(b"\x01x");
    let (code, seen) = session.ends();
    assert_eq!(code, 0, "{seen}");
    is_running("two");

    // By keys that are settled, at a container that is started again.
    daemon.docker(&["stop", "-t", "0", "two"]).ok();
    let folder = daemon.host().folder().join("docker-config");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("config.json"), r#"{"detachKeys":"ctrl-b,z"}"#).expect("written");
    let mut session = Session::start(&daemon, &["start", "-ai", "two"]);
    session.sees("ready");
    session.types(b"\x02z");
    let (code, seen) = session.ends();
    assert_eq!(code, 0, "{seen}");
    is_running("two");

    // Who does not let go gets the program's exit code.
    let mut session = Session::start(
        &daemon,
        &[
            "run",
            "-it",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "echo ready; read x; exit 7",
        ],
    );
    session.sees("ready");
    session.types(b"\r");
    let (code, seen) = session.ends();
    assert_eq!(code, 7, "{seen}");

    let refused = daemon.dhow(&["run", "-d", "--detach-keys", "ctrl-?", "busybox"]);
    refused.fails(125);
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn signals_go_to_the_program() {
    let daemon = Daemon::start();
    daemon.busybox();
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; echo ready; \
                  while true; do sleep 1 & wait $!; done";
    let start = |options: &[&str]| {
        let words = [&["run"], options, &["busybox", "sh", "-c", script]].concat();
        let mut child = daemon
            .dhow_command(&words)
            .stdout(Stdio::piped())
            .spawn()
            .expect("dhow starts");
        let lines = std::io::BufRead::lines(BufReader::new(child.stdout.take().expect("piped")));
        (child, lines)
    };
    let send = |child: &Child, signal: &str| {
        let pid = child.id().to_string();
        daemon.host().run("kill", &[signal, &pid]).ok();
    };
    let (mut child, mut lines) = start(&["--name", "one"]);
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "ready");
    send(&child, "-USR1");
    assert_eq!(next(), "usr1");
    send(&child, "-TERM");
    assert_eq!(next(), "term");
    assert_eq!(child.wait().expect("it ends").code(), Some(3));

    // One that keeps signals to itself is ended by them; the container is not.
    let (mut child, mut lines) = start(&["--name", "two", "--sig-proxy=false"]);
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    send(&child, "-TERM");
    assert_eq!(child.wait().expect("it ends").code(), None);
    assert_eq!(daemon.inspect("two", "{{.State.Running}}"), "true");
    daemon.remove_containers();
    daemon.finish();
}
