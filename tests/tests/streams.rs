//! Streams of containers by every way there is to them: connections that are
//! handed over, bare or upgraded, WebSockets, keys that let go, logs; and the
//! API over TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dhow_testkit::{Chance, Daemon, Dockerd, at_dockerd, at_ours, certificates};

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
        Self::begin_at(&daemon.socket(), request, ahead)
    }

    fn begin_at(socket: &Path, request: &str, ahead: &[u8]) -> Self {
        let mut stream = UnixStream::connect(socket).expect("it listens");
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

/// Waits until a line is in the log, which the reference writes when it has time.
fn await_line(daemon: &dyn Dockerd, id: &str, wanted: &str) {
    let mut child = daemon
        .docker_command(&["logs", "-f", id])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("docker starts");
    let lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
    let found = lines.map_while(Result::ok).any(|line| line == wanted);
    child.kill().expect("it ran");
    child.wait().expect("it ended");
    assert!(found, "{wanted}");
}

#[test]
fn dockerd_s_streams_are_the_same() {
    at_dockerd(&[
        bare_connections,
        history_and_stream,
        keys,
        websockets,
        crowds,
        stalled_clients,
        ends_of_execs,
        kinds_of_documents,
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
    await_line(daemon, &id, "got now");
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
    let all = "stream=1&stdin=1&stdout=1";
    let mut other = Client::attach(&daemon.socket(), &id, Form::Upgraded, true, all);
    attached.send(b"\x01x");
    assert_eq!(attached.rest(), b"", "let go");
    other.say("other");
    while !other.text.contains("got other\n") && other.read_on() {}
    assert!(other.text.contains("got other\n"), "{}", other.text);
    drop(other);
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

/// How a client attaches, and in what form it is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// Frames, or a terminal's bare bytes.
    Bare,
    Upgraded,
    WebSocket,
}

/// A client that is attached, and what it has read.
struct Client {
    conversation: Conversation,
    form: Form,
    is_terminal: bool,
    text: String,
}

impl Client {
    fn attach(socket: &Path, id: &str, form: Form, is_terminal: bool, query: &str) -> Self {
        let request = match form {
            Form::Bare => format!(
                "POST /containers/{id}/attach?{query} HTTP/1.1\nHost: x\nContent-Length: 0\n\n"
            ),
            Form::Upgraded => format!(
                "POST /containers/{id}/attach?{query} HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: tcp\nContent-Length: 0\n\n"
            ),
            Form::WebSocket => format!(
                "GET /containers/{id}/attach/ws?{query} HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"
            ),
        };
        Self {
            conversation: Conversation::begin_at(socket, &request, b""),
            form,
            is_terminal,
            text: String::new(),
        }
    }

    /// Sends a line.
    fn say(&mut self, line: &str) {
        let mut bytes = format!("{line}\n").into_bytes();
        if self.form == Form::WebSocket {
            // Masked with zeros.
            let mut message = vec![0x81, 0x80 | bytes.len() as u8, 0, 0, 0, 0];
            message.append(&mut bytes);
            bytes = message;
        }
        self.conversation.send(&bytes);
    }

    /// Reads on; whether there was anything.
    fn read_on(&mut self) -> bool {
        let stream = &mut self.conversation.stream;
        let bytes = match (self.form, self.is_terminal) {
            (Form::WebSocket, _) => {
                let (kind, bytes) = self.conversation.message();
                assert!(matches!(kind, 1 | 2 | 8), "{kind}");
                if kind == 8 { Vec::new() } else { bytes }
            }
            (_, true) => {
                let mut bytes = vec![0; 4096];
                let length = stream.read(&mut bytes).expect("output");
                bytes.truncate(length);
                bytes
            }
            (_, false) if stream.fill_buf().expect("output").is_empty() => Vec::new(),
            (_, false) => self.conversation.frame().1.into_bytes(),
        };
        let text = String::from_utf8(bytes).expect("text");
        self.text.push_str(&text.replace('\r', ""));
        !text.is_empty()
    }

    /// Reads until there are so many lines, or the end.
    fn read_lines(&mut self, count: usize) {
        while self.text.matches('\n').count() < count && self.read_on() {}
    }

    /// The numbers among the whole lines it has read, of which the first may have
    /// begun before it came.
    fn numbers(&self, is_from_the_beginning: bool) -> Vec<u32> {
        let (whole, _) = self.text.rsplit_once('\n').unwrap_or(("", ""));
        let lines = whole.lines().skip(usize::from(!is_from_the_beginning));
        lines.filter_map(|line| line.parse().ok()).collect()
    }
}

/// How far the program of a crowd counts.
const COUNTED: u32 = 20_000;
/// It counts, and repeats what it is told.
const COUNTING: &str = "stty -echo 2> /dev/null; echo ready; read go; \
    (n=0; while [ $n -lt 20000 ]; do echo $n; n=$((n+1)); [ $((n % 100)) != 0 ] || usleep 10000; done; echo counted) & \
    while read word; do [ $word != end ] || break; echo got $word; done; wait";

#[test]
fn clients_that_come_and_go_miss_nothing_of_what_is_between() {
    at_ours(crowds);
}

fn crowds(daemon: &dyn Dockerd) {
    for options in [&["-i"][..], &["-i", "-t"]] {
        let words = [&["run", "-d"], options, &["busybox", "sh", "-c", COUNTING]].concat();
        let id = daemon.docker(&words).ok();
        assert_eq!(first_line(daemon, &["logs", "-f", &id]), "ready");
        let is_terminal = options.contains(&"-t");
        let socket = daemon.socket();
        let all = "stream=1&stdin=1&stdout=1&stderr=1";
        let mut steady = Client::attach(&socket, &id, Form::Bare, is_terminal, all);
        steady.say("go");
        // What others say comes behind it.
        steady.read_lines(1);
        let knows_history = !daemon.is_reference();
        let said: Vec<String> = std::thread::scope(|scope| {
            let visitors = (0..6).map(|number| {
                let (socket, id) = (&socket, &id);
                scope.spawn(move || visits(socket, id, number, is_terminal, knows_history))
            });
            let visitors: Vec<_> = visitors.collect();
            let visits = visitors
                .into_iter()
                .flat_map(|one| one.join().expect("a visitor"));
            let reading =
                scope.spawn(
                    || {
                        while !steady.text.contains("counted\n") && steady.read_on() {}
                    },
                );
            let said = visits.collect();
            reading.join().expect("the steady client");
            said
        });
        // Whatever was said last may be repeated behind the last number.
        for word in &said {
            while !steady.text.contains(&format!("got {word}\n")) && steady.read_on() {}
        }
        let expected: Vec<u32> = (0..COUNTED).collect();
        assert!(
            steady.numbers(true) == expected,
            "{:?}",
            &steady.text[..200]
        );
        assert_eq!(steady.text.matches("got ").count(), said.len());
        steady.say("end");
        while steady.read_on() {}
        assert_eq!(daemon.docker(&["wait", &id]).ok(), "0");
        daemon.docker(&["rm", &id]).ok();
    }
}

/// Attaches again and again in some form, for a while each, and says something;
/// returns what it said.
fn visits(
    socket: &Path,
    id: &str,
    number: u64,
    is_terminal: bool,
    knows_history: bool,
) -> Vec<String> {
    let mut chance = Chance::new();
    // Each goes a way of its own.
    for _ in 0..number * 97 {
        chance.below(2);
    }
    let mut said = Vec::new();
    for visit in 0..6 {
        let forms = [Form::Bare, Form::Upgraded, Form::WebSocket];
        let form = forms[chance.below(3) as usize];
        // The reference loses what comes between its history and its stream.
        let with_history = knows_history && chance.below(2) == 0;
        let logs = u8::from(with_history);
        let query = format!("logs={logs}&stream=1&stdin=1&stdout=1&stderr=1");
        let mut client = Client::attach(socket, id, form, is_terminal, &query);
        // On a terminal, lines of two programs may meet in one.
        if !is_terminal && chance.below(2) == 0 {
            let word = format!("{number}-{visit}");
            client.say(&word);
            said.push(word);
        }
        client.read_lines(chance.below(1500) as usize);
        let numbers = client.numbers(with_history);
        if with_history {
            assert_eq!(numbers.first().copied().unwrap_or(0), 0, "{form:?}");
        }
        let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
        assert_eq!(gap, None, "{form:?} {logs} {number} {visit}");
    }
    said
}

#[test]
fn a_client_that_stalls_holds_others_up_until_it_goes_and_no_longer() {
    at_ours(stalled_clients);
}

fn stalled_clients(daemon: &dyn Dockerd) {
    let program = "echo ready; read go; n=0; while [ $n -lt 300000 ]; do echo $n; n=$((n+1)); done";
    let words = ["run", "-d", "-i", "busybox", "sh", "-c", program];
    let id = daemon.docker(&words).ok();
    assert_eq!(first_line(daemon, &["logs", "-f", &id]), "ready");
    let socket = daemon.socket();
    let attach = |form| Client::attach(&socket, &id, form, false, "stream=1&stdin=1&stdout=1");
    let stalled = [Form::Bare, Form::Upgraded, Form::WebSocket].map(attach);
    let mut other = attach(Form::Upgraded);
    other.say("go");
    other.read_lines(1000);
    // They go in the middle of it, with all that they have not read.
    drop(stalled);
    while other.read_on() {}
    let numbers = other.numbers(true);
    assert!(numbers.iter().copied().eq(0..300_000), "{}", numbers.len());
    assert_eq!(daemon.docker(&["wait", &id]).ok(), "0");
    daemon.docker(&["rm", &id]).ok();
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
    // To the client the words are those of a missing program.
    let error = daemon
        .docker(&["run", "--rm", "-v", "missing:/x", "busybox", "true"])
        .fails(127);
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
fn documents_are_said_to_be_some() {
    at_ours(kinds_of_documents);
}

/// A page in a browser can send other kinds to a daemon that its user may reach.
fn kinds_of_documents(daemon: &dyn Dockerd) {
    let body = r#"{"Image":"busybox"}"#;
    for (kind, status) in [
        ("text/plain", "400"),
        ("application/x-www-form-urlencoded", "400"),
        ("application/json", "201"),
        ("Application/JSON; charset=utf-8", "201"),
    ] {
        let request = format!(
            "POST /containers/create HTTP/1.1\nHost: x\nConnection: close\nContent-Type: {kind}\nContent-Length: {}\n\n{body}",
            body.len()
        );
        let answer = Conversation::begin(daemon, &request, b"");
        let expected = format!("HTTP/1.1 {status} ");
        assert!(
            answer.head.starts_with(&expected),
            "{kind}: {}",
            answer.head
        );
        let said = String::from_utf8(answer.rest()).expect("text");
        assert!(status == "201" || said.contains(kind), "{said}");
    }
    // What says nothing may be of any kind.
    daemon
        .docker(&["create", "--name=made", "busybox", "true"])
        .ok();
    let request = "POST /containers/made/start HTTP/1.1\nHost: x\nConnection: close\nContent-Type: text/plain\nContent-Length: 2\n\n{}";
    let answer = Conversation::begin(daemon, request, b"");
    assert!(answer.head.starts_with("HTTP/1.1 204 "), "{}", answer.head);
    daemon.remove_containers();
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
