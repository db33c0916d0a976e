//! Clients that go: what they waited for is given up, what they asked for is done,
//! and who only has no more to say gets its answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use dhow_testkit::{Daemon, Dockerd, at_dockerd, at_ours};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.busybox();
    daemon
}

/// Sends a request without a body.
fn ask(daemon: &dyn Dockerd, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn n_descriptors(daemon: &Daemon) -> usize {
    let folder = format!("/proc/{}/fd", daemon.pid());
    std::fs::read_dir(folder).expect("it runs").count()
}

/// Clients that a daemon serves.
fn n_connections(daemon: &Daemon) -> usize {
    // They belong to the network namespace of who connects.
    let text = std::fs::read_to_string("/proc/self/net/unix").expect("a list");
    let socket = daemon.socket().display().to_string();
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // A socket that is connected and was accepted.
        fields.get(5) == Some(&"03") && fields[6] != "0" && line.ends_with(&socket)
    };
    text.lines().filter(is_one).count()
}

/// Files that a daemon reads logs from, and waits for changes of.
fn n_followed(daemon: &Daemon) -> usize {
    let folder = format!("/proc/{}/fd", daemon.pid());
    let descriptors = std::fs::read_dir(folder).expect("it runs").flatten();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let is_log = |target: &std::path::PathBuf| {
        let target = target.display().to_string();
        target.contains("inotify") || target.contains("log.json")
    };
    targets.filter(is_log).count()
}

/// Processor time a daemon has used, in hundredths of a second.
fn ticks(daemon: &Daemon) -> u64 {
    let path = format!("/proc/{}/stat", daemon.pid());
    let text = std::fs::read_to_string(path).expect("it runs");
    let (_, behind) = text.rsplit_once(") ").expect("its name");
    let fields = behind.split(' ').skip(11).take(2);
    fields
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn what_a_client_waited_for_is_given_up() {
    let daemon = daemon();
    let run = ["run", "-d", "--name", "box", "busybox", "sleep", "1000"];
    daemon.docker(&run).ok();
    let exec = ["exec", "-d", "box", "true"];
    daemon.docker(&exec).ok();
    for question in [
        "POST /containers/box/wait",
        "GET /containers/box/logs?follow=1&stdout=1",
        "GET /containers/box/stats",
        "GET /events",
        "POST /containers/box/attach?stream=1&stdout=1",
        "POST /containers/box/attach?stream=1&stdin=1&stdout=1",
    ] {
        let clients: Vec<UnixStream> = (0..20).map(|_| ask(&daemon, question)).collect();
        until(&format!("{question}: all are served"), || {
            n_connections(&daemon) == 20
        });
        drop(clients);
        until(&format!("{question}: nothing is left"), || {
            n_connections(&daemon) == 0 && n_followed(&daemon) == 0
        });
    }
    daemon.docker(&["rm", "-f", "box"]).ok();
    daemon.finish();
}

#[test]
fn what_a_client_asked_for_is_done() {
    // dockerd forgets a start now and then whose client is gone too soon.
    at_ours(done);
}

fn done(daemon: &dyn Dockerd) {
    let mut names = Vec::new();
    for n in 0..10 {
        let name = format!("box-{n}");
        let create = ["create", "--name", &name, "busybox", "sleep", "1000"];
        daemon.docker(&create).ok();
        names.push(name);
    }
    for name in &names {
        drop(ask(daemon, &format!("POST /containers/{name}/start")));
    }
    until("all are started", || {
        let running = daemon.docker(&["ps", "-q"]).ok();
        running.lines().count() == names.len()
    });
    for name in &names {
        drop(ask(daemon, &format!("DELETE /containers/{name}?force=1")));
    }
    until("all are removed", || {
        daemon.docker(&["ps", "-aq"]).ok().is_empty()
    });
}

#[test]
fn who_has_no_more_to_say_is_answered() {
    at_ours(answered);
    // dockerd takes that for the end of the client where it waits for something.
    at_ours(waited);
}

#[test]
fn dockerd_answers_who_has_no_more_to_say() {
    at_dockerd(&[answered]);
}

fn answered(daemon: &dyn Dockerd) {
    let mut client = ask(daemon, "GET /_ping");
    client.shutdown(Shutdown::Write).expect("it is connected");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nOK"), "{answer}");
}

fn waited(daemon: &dyn Dockerd) {
    let run = ["run", "-d", "--name", "box", "busybox", "sleep", "1000"];
    daemon.docker(&run).ok();
    let client = ask(daemon, "POST /containers/box/wait");
    client.shutdown(Shutdown::Write).expect("it is connected");
    let mut client = BufReader::new(client);
    let mut head = String::new();
    client.read_line(&mut head).expect("an answer");
    assert_eq!(head, "HTTP/1.1 200 OK\r\n");
    daemon.docker(&["rm", "-f", "box"]).ok();
    let mut line = String::new();
    while !line.contains("StatusCode") {
        line.clear();
        assert_ne!(client.read_line(&mut line).expect("an answer"), 0);
    }
    assert!(line.contains("{\"StatusCode\":137}"), "{line}");
}

#[test]
fn descriptors_that_run_out_come_back() {
    let daemon = daemon();
    let pid = Pid::from_raw(daemon.pid().cast_signed());
    let most = n_descriptors(&daemon) as u64 + 20;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit =
        |current| prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).expect("lowered");
    let before = limit(Some(most));
    let clients: Vec<UnixStream> = (0..60).map(|_| ask(&daemon, "GET /events")).collect();
    until("none is left", || n_descriptors(&daemon) as u64 >= most);
    // Nobody is served now, and nothing done about it without end.
    let mut waiting = ask(&daemon, "GET /_ping");
    let used = ticks(&daemon);
    let mut answer = [0; 15];
    let moment = Some(Duration::from_secs(1));
    waiting.set_read_timeout(moment).expect("set");
    let error = waiting
        .read(&mut answer)
        .expect_err("no descriptor is left");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    let used = ticks(&daemon) - used;
    assert!(used < 15, "{used} hundredths of a second");
    // It is answered when others have gone.
    drop(clients);
    waiting.set_read_timeout(Some(PATIENCE)).expect("set");
    waiting.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    limit(before.current);
    daemon.docker(&["run", "--rm", "busybox", "true"]).ok();
    daemon.finish();
}
