//! Streams of containers by every way there is to them: connections that are
//! handed over, bare or upgraded, WebSockets, keys that let go, logs; and the
//! API over TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use dhow_testkit::{Daemon, Dockerd, at_dockerd, at_ours, certificates};

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.busybox();
    daemon
}

/// A connection on which a request was sent, and the head of its answer.
struct Conversation {
    stream: BufReader<UnixStream>,
    head: String,
}

impl Conversation {
    fn begin(daemon: &dyn Dockerd, request: &str, ahead: &[u8]) -> Self {
        let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("set");
        let mut bytes = request.replace('\n', "\r\n").into_bytes();
        bytes.extend_from_slice(ahead);
        stream.write_all(&bytes).expect("sent");
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let length = stream.read_line(&mut head).expect("an answer");
            assert!(length > 0, "the connection ended within the head: {head:?}");
        }
        Self { stream, head }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("sent");
    }

    /// The next frame of framed output: its stream and its text.
    fn frame(&mut self) -> (u8, String) {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header).expect("a frame");
        let length = u32::from_be_bytes(header[4..].try_into().expect("four bytes"));
        let mut text = vec![0; length as usize];
        self.stream.read_exact(&mut text).expect("its text");
        (header[0], String::from_utf8(text).expect("text"))
    }

    fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("the rest");
        rest
    }

    /// The next message of a WebSocket: its kind and what is in it.
    fn message(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).expect("a message");
        let mut length = usize::from(head[1] & 0x7f);
        if length == 126 {
            let mut long = [0; 2];
            self.stream.read_exact(&mut long).expect("its length");
            length = usize::from(u16::from_be_bytes(long));
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("what is in it");
        (head[0] & 0x0f, bytes)
    }
}

fn echo(daemon: &dyn Dockerd, options: &[&str]) -> String {
    let mut arguments = vec!["run", "-d", "-i"];
    arguments.extend(options);
    let program = "echo before; while read line; do echo got $line; done";
    arguments.extend(["busybox", "sh", "-c", program]);
    let id = daemon.docker(&arguments).ok();
    // The first line is in the log before anybody attaches.
    assert_eq!(first_line(daemon, &["logs", "-f", &id]), "before");
    id
}

/// The first line that a `docker` prints that would go on.
fn first_line(daemon: &dyn Dockerd, arguments: &[&str]) -> String {
    let mut child = daemon
        .docker_command(arguments)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("docker starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("it was piped");
    BufReader::new(output).read_line(&mut line).expect("a line");
    child.kill().expect("it ran");
    child.wait().expect("it ended");
    line.trim().to_owned()
}

#[test]
fn dockerd_s_streams_are_the_same() {
    at_dockerd(&[
        bare_connections,
        history_and_stream,
        keys,
        websockets,
        ends_of_execs,
        log_drivers,
        volumes_elsewhere,
    ]);
}

#[test]
fn a_client_without_upgrade_gets_the_bare_connection() {
    at_ours(bare_connections);
}

fn bare_connections(daemon: &dyn Dockerd) {
    let id = echo(daemon, &[]);
    let request = format!(
        "POST /containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\nHost: x\nContent-Length: 0\n\n"
    );
    // Some do not wait for the answer before they send; the reference loses that.
    let (ahead, behind) = match daemon.is_reference() {
        true => (&b""[..], &b"early\n"[..]),
        false => (&b"early\n"[..], &b""[..]),
    };
    let mut attached = Conversation::begin(daemon, &request, ahead);
    attached.send(behind);
    assert!(
        attached.head.starts_with("HTTP/1.1 200 OK\r\n"),
        "{}",
        attached.head
    );
    // The reference has no word for what is framed yet.
    let kind = "vnd.docker.multiplexed-stream";
    assert!(daemon.is_reference() || attached.head.contains(kind));
    assert!(!attached.head.to_lowercase().contains("chunked"));
    assert_eq!(attached.frame(), (1, "got early\n".into()));
    attached.send(b"late\n");
    assert_eq!(attached.frame(), (1, "got late\n".into()));
    daemon.docker(&["rm", "-f", &id]).ok();
    assert_eq!(
        attached.rest(),
        b"",
        "the end of the program ends the stream"
    );
}

#[test]
fn history_and_stream_meet_without_a_gap() {
    at_ours(history_and_stream);
}

fn history_and_stream(daemon: &dyn Dockerd) {
    let id = echo(daemon, &[]);
    let request = |query: &str| {
        format!(
            "POST /containers/{id}/attach?{query} HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: tcp\nContent-Length: 0\n\n"
        )
    };
    let mut attached =
        Conversation::begin(daemon, &request("logs=1&stream=1&stdin=1&stdout=1"), b"");
    assert!(
        attached.head.starts_with("HTTP/1.1 101 "),
        "{}",
        attached.head
    );
    assert_eq!(attached.frame(), (1, "before\n".into()));
    attached.send(b"now\n");
    assert_eq!(attached.frame(), (1, "got now\n".into()));
    // A second client has all of it as history, and no stream.
    let only = Conversation::begin(daemon, &request("logs=1&stdout=1"), b"").rest();
    let text = String::from_utf8_lossy(&only).into_owned();
    assert!(
        text.contains("before\n") && text.contains("got now\n"),
        "{text:?}"
    );
    daemon.docker(&["rm", "-f", &id]).ok();
}

#[test]
fn keys_let_go_and_leave_the_program_running() {
    at_ours(keys);
}

fn keys(daemon: &dyn Dockerd) {
    let id = echo(daemon, &["-t"]);
    let mut attached = Conversation::begin(
        daemon,
        &format!(
            "POST /containers/{id}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: tcp\nContent-Length: 0\n\n"
        ),
        b"",
    );
    attached.send(b"\x01x");
    assert_eq!(attached.rest(), b"", "let go");
    assert_eq!(
        daemon
            .docker(&["inspect", "-f", "{{.State.Running}}", &id])
            .ok(),
        "true"
    );
    let events = [
        "events",
        "--since",
        "1h",
        "--filter",
        "event=detach",
        "--format",
        "{{.Actor.ID}}",
    ];
    assert_eq!(first_line(daemon, &events), id);
    let request = format!(
        "POST /containers/{id}/attach?stream=1&stdin=1&detachKeys=ctrl-1 HTTP/1.1\nHost: x\nConnection: close\nContent-Length: 0\n\n"
    );
    let refused = Conversation::begin(daemon, &request, b"");
    assert!(
        refused.head.starts_with("HTTP/1.1 400 "),
        "{}",
        refused.head
    );
    let why = String::from_utf8(refused.rest()).expect("text");
    assert!(why.contains("Invalid detach keys (ctrl-1)"), "{why}");
    daemon.docker(&["rm", "-f", &id]).ok();
}

#[test]
fn a_websocket_carries_output_and_input() {
    at_ours(websockets);
}

fn websockets(daemon: &dyn Dockerd) {
    let id = echo(daemon, &[]);
    let mut socket = Conversation::begin(
        daemon,
        &format!(
            "GET /containers/{id}/attach/ws?logs=1&stream=1&stdin=1&stdout=1 HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"
        ),
        b"",
    );
    assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    assert_eq!(socket.message(), (2, b"before\n".to_vec()));
    // A text message, masked with zeros.
    socket.send(b"\x81\x84\0\0\0\0web\n");
    assert_eq!(socket.message(), (2, b"got web\n".to_vec()));
    daemon.docker(&["rm", "-f", &id]).ok();
    assert_eq!(socket.message().0, 8, "the end of the program closes it");
}

#[test]
fn an_exec_ends_its_stream_when_its_exit_code_is_known() {
    at_ours(ends_of_execs);
}

fn ends_of_execs(daemon: &dyn Dockerd) {
    let id = echo(daemon, &[]);
    for _ in 0..20 {
        let output = daemon.docker(&["exec", &id, "sh", "-c", "exit 9"]);
        assert_eq!(output.code, 9);
    }
    daemon.docker(&["rm", "-f", &id]).ok();
}

#[test]
fn each_log_driver_keeps_what_was_printed() {
    at_ours(log_drivers);
}

fn log_drivers(daemon: &dyn Dockerd) {
    let program =
        "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; printf '\\377end\\n'";
    for (driver, options) in [
        (
            "local",
            &["--log-opt", "max-size=2k", "--log-opt", "max-file=100"][..],
        ),
        (
            "json-file",
            &[
                "--log-opt",
                "max-size=2k",
                "--log-opt",
                "max-file=100",
                "--log-opt",
                "compress=true",
            ],
        ),
    ] {
        let mut arguments = vec!["run", "--name", driver, "--log-driver", driver];
        arguments.extend(options);
        arguments.extend(["busybox", "sh", "-c", program]);
        daemon.docker(&arguments).ok();
        let output = daemon
            .docker_command(&["logs", driver])
            .output()
            .expect("docker starts");
        let lines: Vec<&[u8]> = output.stdout.split(|byte| *byte == b'\n').collect();
        assert_eq!(
            lines.len(),
            302,
            "{driver}: 300 lines, the odd one, and the end"
        );
        assert!(
            (0..300).all(|n| lines[n] == format!("line {n}").as_bytes()),
            "{driver}"
        );
        if driver == "local" {
            assert_eq!(lines[300], b"\xffend", "not a byte is changed");
        }
        let tail = daemon.docker(&["logs", "--tail", "150", driver]).ok();
        assert!(tail.starts_with("line 151\n"), "{driver}: {tail}");
    }
    daemon
        .docker(&[
            "run",
            "--name",
            "none",
            "--log-driver",
            "none",
            "busybox",
            "echo",
            "x",
        ])
        .ok();
    let error = daemon.docker(&["logs", "none"]).fails(1);
    assert!(error.contains("does not support reading"), "{error}");
    if !daemon.is_reference() {
        // It has that one.
        let error = daemon
            .docker(&["run", "--log-driver", "syslog", "busybox", "true"])
            .fails(125);
        assert!(error.contains("no log driver named 'syslog'"), "{error}");
    }
    daemon
        .docker(&[
            "run",
            "--name",
            "told",
            "--label",
            "tier=web",
            "--log-opt",
            "labels=tier",
            "busybox",
            "echo",
            "x",
        ])
        .ok();
    assert_eq!(
        daemon.docker(&["logs", "--details", "told"]).ok(),
        "tier=web x"
    );
    daemon.remove_containers();
}

#[test]
fn volumes_stand_for_filesystems_elsewhere() {
    at_ours(volumes_elsewhere);
}

fn volumes_elsewhere(daemon: &dyn Dockerd) {
    let host = daemon.host().folder().join("elsewhere");
    std::fs::create_dir_all(&host).expect("a folder");
    std::fs::write(host.join("file"), "kept\n").expect("written");
    let device = format!("device={}", host.display());
    daemon
        .docker(&[
            "volume",
            "create",
            "-o",
            "type=none",
            "-o",
            &device,
            "-o",
            "o=bind,ro",
            "elsewhere",
        ])
        .ok();
    let run = |command: &str| {
        daemon.docker(&[
            "run",
            "--rm",
            "-v",
            "elsewhere:/e",
            "busybox",
            "sh",
            "-c",
            command,
        ])
    };
    assert_eq!(run("cat /e/file").ok(), "kept");
    assert!(
        run("touch /e/new")
            .fails(1)
            .contains("Read-only file system")
    );
    let memory = [
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "-o",
        "o=size=1m",
        "memory",
    ];
    daemon.docker(&memory).ok();
    // Two containers share it while one of them runs.
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "writer",
            "-v",
            "memory:/m",
            "busybox",
            "sh",
            "-c",
            "echo shared > /m/f; sleep 1000",
        ])
        .ok();
    daemon
        .docker(&[
            "exec",
            "writer",
            "sh",
            "-c",
            "until [ -s /m/f ]; do :; done",
        ])
        .ok();
    assert_eq!(
        daemon
            .docker(&["run", "--rm", "-v", "memory:/m", "busybox", "cat", "/m/f"])
            .ok(),
        "shared"
    );
    for (options, part) in [
        (&["-o", "what=x"][..], "invalid option"),
        (&["-o", "type=nfs"], "missing required option"),
        (&["-d", "rexray"], "plugin"),
    ] {
        if daemon.is_reference() && options[0] == "-d" {
            // It would look for a plugin for a quarter of a minute.
            continue;
        }
        let arguments = [&["volume", "create"], options, &["bad"]].concat();
        let error = daemon.docker(&arguments).fails(1);
        assert!(error.contains(part), "{error}");
    }
    let missing = [
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "device=/no/such",
        "-o",
        "o=bind",
        "missing",
    ];
    daemon.docker(&missing).ok();
    // To the client the reference's words are those of a missing program.
    let code = if daemon.is_reference() { 127 } else { 125 };
    let error = daemon
        .docker(&["run", "--rm", "-v", "missing:/x", "busybox", "true"])
        .fails(code);
    assert!(
        error.contains("failed to mount local volume") && error.contains("/no/such"),
        "{error}"
    );
    daemon.remove_containers();
    daemon
        .docker(&["volume", "rm", "elsewhere", "memory", "missing"])
        .ok();
    assert_eq!(
        std::fs::read_to_string(host.join("file")).expect("still there"),
        "kept\n"
    );
}

#[test]
fn tcp_serves_clients_with_certificates_only() {
    let mut daemon = Daemon::start();
    let folder = daemon.host().folder().to_owned();
    certificates(&folder);
    daemon.stop();
    let file = |name: &str| folder.join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.pem"), file("server.pem"), file("server-key.pem"));
    daemon.start_again_with(&[
        "--tcp",
        "127.0.0.1:2376",
        "--tlscacert",
        &ca,
        "--tlscert",
        &certificate,
        "--tlskey",
        &key,
    ]);
    let version = |who: &str, authority: &str| {
        let (ca, certificate, key) = (
            file(authority),
            file(&format!("{who}.pem")),
            file(&format!("{who}-key.pem")),
        );
        daemon.docker(&[
            "--host",
            "tcp://127.0.0.1:2376",
            "--tlsverify",
            "--tlscacert",
            &ca,
            "--tlscert",
            &certificate,
            "--tlskey",
            &key,
            "version",
            "--format",
            "{{.Server.Os}}",
        ])
    };
    assert_eq!(version("client", "ca.pem").ok(), "linux");
    let refused = version("stranger", "ca.pem").fails(1);
    assert!(refused.contains("certificate"), "{refused}");
    let refused = version("client", "other.pem").fails(1);
    assert!(refused.contains("certificate"), "{refused}");
    let plain = daemon.docker(&[
        "--host",
        "tcp://127.0.0.1:2376",
        "version",
        "--format",
        "{{.Server.Os}}",
    ]);
    assert_ne!(plain.code, 0, "without TLS there is nothing");
    daemon.finish();
}

#[test]
fn documents_have_a_bound() {
    let daemon = daemon();
    let begin = |framing: &str| {
        let request = format!(
            "POST /v1.47/containers/create HTTP/1.1\nHost: dhow\nContent-Type: application/json\n{framing}\n\n"
        );
        let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("set");
        stream.set_write_timeout(patience).expect("set");
        let sent = stream.write_all(request.replace('\n', "\r\n").as_bytes());
        sent.expect("sent");
        stream
    };
    let refused = |mut stream: UnixStream| {
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(
            answer.contains(r#"{"message":"request body too large"#),
            "{answer}"
        );
    };
    // One that says so is refused before anything of it is sent.
    refused(begin("Content-Length: 1000000000000"));
    // One that does not, as soon as it has become too large.
    let mut endless = begin("Transfer-Encoding: chunked");
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    let sent = (0..1 << 12)
        .take_while(|_| endless.write_all(&chunk).is_ok())
        .count();
    assert!(
        (256..1 << 12).contains(&sent),
        "{sent} chunks of 64 KiB were taken"
    );
    refused(endless);
    // One below the bound is a document like any other.
    let long = format!(
        r#"{{"Image":"busybox","Labels":{{"long":"{}"}}}}"#,
        "x".repeat(4 << 20)
    );
    let mut stream = begin(&format!("Content-Length: {}", long.len()));
    stream.write_all(long.as_bytes()).expect("taken");
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .expect("an answer");
    assert_eq!(answer.trim(), "HTTP/1.1 201 Created");
    daemon.remove_containers();
    daemon.finish();
}
