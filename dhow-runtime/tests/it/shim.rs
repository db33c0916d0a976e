//! The supervisor, driven by its client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dhow_runtime::{Groups, RootSource};
use dhow_shim::client::{Events, Executable, Shim, ShimError, Streams};
use dhow_shim::wire::{
    Attach, Event, ExecSpec, ExitRecord, FailureKind, LogFileSpec, LogForm, LogSpec, Reach,
    Running, SOCKET, ShimSpec, Status, Stdin, Target, VERSION, read_exit,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bundle::{Bundle, EXECUTABLE, words};

/// Everything is over long before.
const DEADLINE: Duration = Duration::from_secs(60);

fn shim_spec(bundle: &Bundle, stdin: Stdin) -> ShimSpec {
    bundle.write();
    ShimSpec {
        version: VERSION,
        id: bundle.id.clone(),
        bundle: bundle.path().to_owned(),
        runtime_root: bundle.runtime_root(),
        dir: bundle.path().join("shim"),
        root: RootSource::Bundle,
        stdin,
        log: json_log(bundle.path().join("container.log")),
        groups: Groups::default(),
    }
}

fn json_log(path: PathBuf) -> LogSpec {
    LogSpec {
        file: Some(LogFileSpec {
            path,
            form: LogForm::JsonFile,
            max_size: None,
            max_files: 1,
            compress: false,
            attributes: Default::default(),
        }),
        journal: None,
    }
}

async fn launch(bundle: &Bundle, stdin: Stdin) -> (Shim, Events) {
    Shim::launch(
        &Executable::open(Path::new(EXECUTABLE)),
        &shim_spec(bundle, stdin),
    )
    .await
    .unwrap()
}

fn logged(bundle: &Bundle) -> String {
    let text = std::fs::read_to_string(bundle.path().join("container.log")).unwrap();
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        format!(
            "{}:{}",
            value["stream"].as_str().unwrap(),
            value["log"].as_str().unwrap()
        )
    };
    text.lines().map(line).collect()
}

fn both(target: Target, stdin: bool) -> Attach {
    Attach {
        target,
        stdin,
        stdout: true,
        stderr: true,
    }
}

/// Splits Docker's frames into output and error.
fn unframed(mut bytes: &[u8]) -> (String, String) {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let text = std::str::from_utf8(&rest[..length]).unwrap();
        if header[0] == 1 {
            stdout.push_str(text);
        } else {
            stderr.push_str(text);
        }
        bytes = &rest[length..];
    }
    (stdout, stderr)
}

async fn gone(bundle: &Bundle, shim: &Shim) {
    assert!(!shim.dir().exists());
    // The answer comes from the shim's last breath; its process ends right after.
    while Path::new(&format!("/proc/{}/exe", shim.pid())).exists() {
        tokio::task::yield_now().await;
    }
    bundle.audit();
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("took too long")
}

#[tokio::test]
async fn a_life_is_told_logged_and_recorded() {
    let bundle = Bundle::new("life", "echo out; echo err >&2; exit 7");
    within(async {
        let (shim, mut events) = launch(&bundle, Stdin::Closed).await;
        assert_eq!(shim.state().await.unwrap().status, Status::Empty);
        let pid = shim.create().await.unwrap();
        let state = shim.state().await.unwrap();
        assert_eq!((state.status, state.pid), (Status::Created, Some(pid)));
        shim.start().await.unwrap();
        let exit = shim.wait(Target::Container).await.unwrap();
        assert_eq!(
            (exit.code, exit.signal, exit.pid, exit.oom),
            (7, None, pid, false)
        );
        assert!(exit.started_at.unwrap() < exit.finished_at);
        assert_eq!(read_exit(shim.dir()).unwrap().as_ref(), Some(&exit));
        assert_eq!(events.next().await, Some(Event::Started { pid }));
        assert_eq!(
            events.next().await,
            Some(Event::Exited { exit: exit.clone() })
        );
        let log = logged(&bundle);
        assert!(
            log.contains("stdout:out\n") && log.contains("stderr:err\n"),
            "{log}"
        );
        assert_eq!(shim.delete(Running::Refuse).await.unwrap(), Some(exit));
        assert_eq!(events.next().await, None);
        gone(&bundle, &shim).await;
    })
    .await;
}

/// The record is there before anybody is told: while it cannot be written, nobody is.
#[tokio::test]
async fn an_end_is_recorded_before_it_is_told() {
    use std::io::{ErrorKind, Read, Write};
    let bundle = Bundle::new("order", "exit 3");
    within(async {
        let (shim, events) = launch(&bundle, Stdin::Closed).await;
        shim.create().await.unwrap();
        let mut client = std::os::unix::net::UnixStream::connect(shim.dir().join(SOCKET)).unwrap();
        for request in [
            format!(r#"{{"id":1,"request":{{"op":"hello","version":{VERSION},"events":true}}}}"#),
            r#"{"id":2,"request":{"op":"wait","target":null}}"#.to_owned(),
        ] {
            let length = u32::try_from(request.len()).unwrap().to_be_bytes();
            client.write_all(&length).unwrap();
            client.write_all(request.as_bytes()).unwrap();
        }
        let mut greeting = [0; 4];
        client.read_exact(&mut greeting).unwrap();
        let mut greeting = vec![0; u32::from_be_bytes(greeting) as usize];
        client.read_exact(&mut greeting).unwrap();
        // Writing the record waits here until somebody reads it.
        let record = shim.dir().join("exit.new");
        let mode = rustix::fs::Mode::from(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &record, kind, mode, 0).unwrap();
        shim.start().await.unwrap();
        let call = format!("/proc/{}/syscall", shim.pid());
        let opening = format!("{} ", libc::SYS_openat);
        while !std::fs::read_to_string(&call)
            .unwrap()
            .starts_with(&opening)
        {
            tokio::task::yield_now().await;
        }
        client.set_nonblocking(true).unwrap();
        let mut told = Vec::new();
        let end = client.read_to_end(&mut told).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains("started") && !told.contains("exit"), "{told}");

        let written = std::fs::read(&record).unwrap();
        let exit = shim.wait(Target::Container).await.unwrap();
        assert_eq!(
            serde_json::from_slice::<ExitRecord>(&written).unwrap(),
            exit
        );
        drop(events);
        shim.delete(Running::Refuse).await.unwrap();
        gone(&bundle, &shim).await;
    })
    .await;
}

#[tokio::test]
async fn clients_share_streams_and_end_input() {
    let bundle = Bundle::new("attach", "cat; echo done >&2");
    within(async {
        let (shim, _events) = launch(&bundle, Stdin::Once).await;
        shim.create().await.unwrap();
        let mut first = shim.attach(both(Target::Container, true)).await.unwrap();
        let mut second = shim.attach(both(Target::Container, false)).await.unwrap();
        assert!(!first.terminal);
        shim.start().await.unwrap();
        let sent: String = (0..20_000)
            .map(|number| format!("line {number}\n"))
            .collect();
        let (reader, writer) = (&mut first.output, &mut first.input);
        let mut received = Vec::new();
        let write = async {
            writer.write_all(sent.as_bytes()).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut received_too = Vec::new();
        let (_, read, read_too) = tokio::join!(
            write,
            reader.read_to_end(&mut received),
            second.output.read_to_end(&mut received_too)
        );
        read.unwrap();
        read_too.unwrap();
        assert_eq!(unframed(&received), (sent.clone(), "done\n".to_owned()));
        assert_eq!(unframed(&received_too), (sent.clone(), "done\n".to_owned()));
        let expected: String = sent
            .lines()
            .map(|line| format!("stdout:{line}\n"))
            .collect();
        assert_eq!(logged(&bundle).replace("stderr:done\n", ""), expected);
        assert_eq!(shim.wait(Target::Container).await.unwrap().code, 0);
        let error = shim
            .attach(both(Target::Container, false))
            .await
            .unwrap_err();
        assert_eq!(error.failure().unwrap().kind, FailureKind::State);
        shim.delete(Running::Refuse).await.unwrap();
        gone(&bundle, &shim).await;
    })
    .await;
}

#[tokio::test]
async fn programs_that_cannot_run_say_so() {
    for (program, kind) in [
        ("no-such-program", FailureKind::CommandNotFound),
        ("/etc/passwd", FailureKind::CommandNotExecutable),
    ] {
        let mut bundle = Bundle::new("absent", "");
        bundle.process().args = words(program);
        within(async {
            let (shim, _events) = launch(&bundle, Stdin::Closed).await;
            let error = shim.create().await.unwrap_err();
            assert_eq!(error.failure().unwrap().kind, kind, "{error:?}");
            assert_eq!(shim.delete(Running::Refuse).await.unwrap(), None);
            gone(&bundle, &shim).await;
        })
        .await;
    }
}

fn exec(id: &str, args: &[&str], bundle: &Bundle) -> ExecSpec {
    let mut process = bundle.spec.process.clone().unwrap();
    process.args = args.iter().map(|word| (*word).to_owned()).collect();
    ExecSpec {
        id: id.to_owned(),
        process,
        stdin: true,
    }
}

#[tokio::test]
async fn execs_have_streams_and_ends_of_their_own() {
    let bundle = Bundle::new("exec", "exec sleep 1000");
    within(async {
        let (shim, mut events) = launch(&bundle, Stdin::Closed).await;
        let first = shim.create().await.unwrap();
        shim.start().await.unwrap();
        assert_eq!(events.next().await, Some(Event::Started { pid: first }));

        shim.exec(exec(
            "one",
            &["sh", "-c", "cat; echo $$ >&2; exit 3"],
            &bundle,
        ))
        .await
        .unwrap();
        let target = Target::Exec("one".to_owned());
        let mut streams = shim.attach(both(target.clone(), true)).await.unwrap();
        // Sent before it runs, and not lost.
        streams.input.write_all(b"early\n").await.unwrap();
        streams.input.shutdown().await.unwrap();
        let pid = shim.exec_start("one").await.unwrap();
        let mut received = Vec::new();
        streams.output.read_to_end(&mut received).await.unwrap();
        let (stdout, stderr) = unframed(&received);
        assert_eq!(stdout, "early\n");
        assert!(stderr.trim().parse::<i32>().unwrap() > 1, "{stderr}");
        let exit = shim.wait(target).await.unwrap();
        assert_eq!((exit.code, exit.pid), (3, pid));
        let exec_name = "one".to_owned();
        assert_eq!(
            events.next().await,
            Some(Event::ExecStarted {
                exec: exec_name.clone(),
                pid
            })
        );
        assert_eq!(
            events.next().await,
            Some(Event::ExecExited {
                exec: exec_name,
                exit
            })
        );

        shim.exec(exec("two", &["nothing-here"], &bundle))
            .await
            .unwrap();
        let error = shim.exec_start("two").await.unwrap_err();
        assert_eq!(error.failure().unwrap().kind, FailureKind::CommandNotFound);
        assert_eq!(
            shim.wait(Target::Exec("two".to_owned()))
                .await
                .unwrap()
                .code,
            127
        );

        // One that is still there when the container ends.
        shim.exec(exec("three", &["sleep", "1000"], &bundle))
            .await
            .unwrap();
        shim.exec_start("three").await.unwrap();
        assert_eq!(shim.processes().await.unwrap().len(), 2);
        shim.exec_delete("one").await.unwrap();
        assert!(shim.exec_delete("three").await.is_err());
        shim.signal(Target::Container, 9, Reach::Process)
            .await
            .unwrap();
        let (exit, other) = tokio::join!(
            shim.wait(Target::Container),
            shim.wait(Target::Exec("three".to_owned()))
        );
        assert_eq!(
            (exit.unwrap().signal, other.unwrap().signal),
            (Some(9), Some(9))
        );
        shim.delete(Running::Refuse).await.unwrap();
        gone(&bundle, &shim).await;
    })
    .await;
}

#[tokio::test]
async fn what_an_exec_leaves_behind_writes_to_nobody() {
    let bundle = Bundle::new("behind", "exec sleep 1000");
    within(async {
        let (shim, _events) = launch(&bundle, Stdin::Closed).await;
        shim.create().await.unwrap();
        shim.start().await.unwrap();
        let flood = "for i in 1 2 3 4; do dd if=/dev/zero bs=64k & done; read end";
        shim.exec(exec("one", &["sh", "-c", flood], &bundle))
            .await
            .unwrap();
        let target = Target::Exec("one".to_owned());
        let mut streams = shim.attach(both(target.clone(), true)).await.unwrap();
        shim.exec_start("one").await.unwrap();
        // The flood is there, and held up by its client, before the exec ends.
        streams.output.readable().await.unwrap();
        streams.input.write_all(b"now\n").await.unwrap();
        assert_eq!(shim.wait(target).await.unwrap().code, 0);
        let mut received = Vec::new();
        streams.output.read_to_end(&mut received).await.unwrap();
        let most = 1 << 20;
        assert!(received.len() < most, "{} bytes", received.len());
        shim.delete(Running::Kill).await.unwrap();
        gone(&bundle, &shim).await;
    })
    .await;
}

#[tokio::test]
async fn terminals_have_size_and_echo() {
    let mut bundle = Bundle::new(
        "terminal",
        "read go; stty size; tty; ls -l /dev/console; exit 5",
    );
    bundle.process().terminal = true;
    within(async {
        let (shim, _events) = launch(&bundle, Stdin::Open).await;
        shim.create().await.unwrap();
        let mut streams = shim.attach(both(Target::Container, true)).await.unwrap();
        assert!(streams.terminal);
        shim.resize(Target::Container, 33, 101).await.unwrap();
        shim.start().await.unwrap();
        streams.input.write_all(b"go\n").await.unwrap();
        let mut received = String::new();
        streams.output.read_to_string(&mut received).await.unwrap();
        assert!(received.starts_with("go\r\n33 101\r\n/dev/"), "{received}");
        assert!(received.contains("crw"), "{received}");

        assert_eq!(shim.wait(Target::Container).await.unwrap().code, 5);
        shim.delete(Running::Refuse).await.unwrap();
        gone(&bundle, &shim).await;
    })
    .await;
}

#[tokio::test]
async fn pause_stats_update_and_kill() {
    let bundle = Bundle::new("pause", "while :; do :; done");
    within(async {
        let (shim, mut events) = launch(&bundle, Stdin::Closed).await;
        let pid = shim.create().await.unwrap();
        shim.start().await.unwrap();
        shim.pause().await.unwrap();
        assert_eq!(shim.state().await.unwrap().status, Status::Paused);
        let before = shim.stats().await.unwrap();
        let after = shim.stats().await.unwrap();
        assert!(before.cpu.total > 0 && before.memory.usage > 0 && before.pids.current == 1);
        assert_eq!(before.cpu.total, after.cpu.total, "it does not stand still");
        shim.resume().await.unwrap();
        let pids = Some(dhow_runtime::spec::Pids { limit: 77 });
        let resources = dhow_runtime::spec::Resources {
            pids,
            ..Default::default()
        };
        shim.update(resources).await.unwrap();
        assert_eq!(shim.stats().await.unwrap().pids.limit, Some(77));
        let error = shim.delete(Running::Refuse).await.unwrap_err();
        assert_eq!(error.failure().unwrap().kind, FailureKind::State);
        // Frozen, and killed nevertheless.
        shim.pause().await.unwrap();
        let exit = shim.delete(Running::Kill).await.unwrap().unwrap();
        assert_eq!(exit.signal, Some(9));
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            seen.push(event);
        }
        assert_eq!(
            seen[..4],
            [
                Event::Started { pid },
                Event::Paused,
                Event::Resumed,
                Event::Paused
            ]
        );
        gone(&bundle, &shim).await;
    })
    .await;
}

#[tokio::test]
async fn the_end_of_memory_is_told() {
    let mut bundle = Bundle::new("oom", "x=x; while :; do x=$x$x; done");
    let memory = dhow_runtime::spec::Memory {
        limit: Some(8 << 20),
        swap: Some(8 << 20),
        ..Default::default()
    };
    bundle.linux().resources = Some(dhow_runtime::spec::Resources {
        memory: Some(memory),
        ..Default::default()
    });
    within(async {
        let (shim, mut events) = launch(&bundle, Stdin::Closed).await;
        shim.create().await.unwrap();
        shim.start().await.unwrap();
        let exit = shim.wait(Target::Container).await.unwrap();
        assert!(exit.oom && exit.code == 137, "{exit:?}");
        let mut oom = false;
        while let Some(event) = events.next().await {
            oom |= event == Event::Oom;
            if matches!(event, Event::Exited { .. }) {
                break;
            }
        }
        assert!(oom);
        shim.delete(Running::Refuse).await.unwrap();
        gone(&bundle, &shim).await;
    })
    .await;
}

/// Regression: whatever the daemon does, the container goes on, and no line of
/// its log is lost or doubled.
#[tokio::test]
async fn the_daemon_may_go_and_come_back() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; read go; echo end";
    let bundle = Bundle::new("daemon", script);
    within(async {
        let (shim, events) = launch(&bundle, Stdin::Open).await;
        let pid = shim.create().await.unwrap();
        let mut streams = shim.attach(both(Target::Container, false)).await.unwrap();
        shim.start().await.unwrap();
        // It goes in the middle of a frame, as with kill -9.
        let mut some = [0; 100];
        streams.output.read_exact(&mut some).await.unwrap();
        let dir = shim.dir().to_owned();
        drop((shim, events, streams));

        let (shim, mut events) = Shim::connect(&dir).await.unwrap();
        let state = shim.state().await.unwrap();
        assert_eq!((state.status, state.pid), (Status::Running, Some(pid)));
        let mut streams = shim.attach(both(Target::Container, true)).await.unwrap();
        streams.input.write_all(b"go\n").await.unwrap();
        assert!(matches!(events.next().await, Some(Event::Exited { .. })));
        let expected: String = (0..2000)
            .map(|number| format!("stdout:line {number}\n"))
            .collect();
        assert_eq!(logged(&bundle), expected + "stdout:end\n");
        drop((shim, events));

        // Gone at the moment of the end: the record is there.
        let (shim, _events) = Shim::connect(&dir).await.unwrap();
        let exit = shim.state().await.unwrap().exit.unwrap();
        assert_eq!(read_exit(&dir).unwrap(), Some(exit.clone()));
        assert_eq!(shim.delete(Running::Refuse).await.unwrap(), Some(exit));
        gone(&bundle, &shim).await;
        let error = Shim::connect(&dir).await.unwrap_err();
        assert!(matches!(error, ShimError::Gone { .. }), "{error:?}");
    })
    .await;
}

/// Regression: a daemon that was killed was taken for a client that had ended its
/// input, and `cat` ended.
#[tokio::test]
async fn input_outlives_the_daemon() {
    let bundle = Bundle::new("input", "exec cat");
    within(async {
        let (shim, events) = launch(&bundle, Stdin::Once).await;
        shim.create().await.unwrap();
        shim.start().await.unwrap();
        shim.exec(exec("one", &["cat"], &bundle)).await.unwrap();
        shim.exec_start("one").await.unwrap();
        let targets = [Target::Container, Target::Exec("one".to_owned())];
        let mut sessions = Vec::new();
        for target in &targets {
            let mut streams = shim.attach(both(target.clone(), true)).await.unwrap();
            assert_eq!(said_back(&mut streams, "before").await, "before");
            sessions.push(streams);
        }
        let dir = shim.dir().to_owned();
        drop((shim, events, sessions));

        let (shim, _events) = Shim::connect(&dir).await.unwrap();
        for target in targets.into_iter().rev() {
            let mut streams = shim.attach(both(target.clone(), true)).await.unwrap();
            assert_eq!(said_back(&mut streams, "after").await, "after");
            streams.input.shutdown().await.unwrap();
            // What is sent after the end is nobody's.
            assert!(streams.input.write_all(b"more").await.is_err());
            assert_eq!(shim.wait(target).await.unwrap().code, 0);
        }
        shim.delete(Running::Refuse).await.unwrap();
        gone(&bundle, &shim).await;
    })
    .await;
}

/// Sends a word and reads as much.
async fn said_back(streams: &mut Streams, word: &str) -> String {
    streams.input.write_all(word.as_bytes()).await.unwrap();
    streams.input.flush().await.unwrap();
    let mut frame = vec![0; 8 + word.len()];
    streams.output.read_exact(&mut frame).await.unwrap();
    unframed(&frame).0
}

/// Serves one connection of a folder like a shim that answers these bytes, whatever
/// it is asked, and reads on until the client goes.
fn impostor(dir: &Path, answer: Vec<u8>) -> tokio::task::JoinHandle<()> {
    use std::io::{Read, Write};
    let _ = std::fs::remove_file(dir.join(SOCKET));
    let listener = std::os::unix::net::UnixListener::bind(dir.join(SOCKET)).unwrap();
    tokio::task::spawn_blocking(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut asked = [0; 4096];
        let _ = client.read(&mut asked);
        // The client may have had enough meanwhile.
        let _ = client.write_all(&answer);
        let _ = client.shutdown(std::net::Shutdown::Write);
        while client.read(&mut asked).is_ok_and(|length| length > 0) {}
    })
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// Whatever answers in the place of a shim, the client hears that it is none.
#[tokio::test]
async fn a_hostile_shim_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let hello = framed(
        format!(r#"{{"id":1,"ok":{{"answer":"hello","version":{VERSION},"pid":1}}}}"#).as_bytes(),
    );
    let event = framed(br#"{"event":{"kind":"oom"}}"#);
    let mut answers: Vec<Vec<u8>> = vec![
        vec![],
        vec![0, 0],
        u32::MAX.to_be_bytes().to_vec(),
        // Less than it says, and more.
        vec![0, 0, 1, 0, b'{'],
        framed(b""),
        framed(b"no JSON"),
        framed(br#"{"id":1}"#),
        framed(br#"{"id":1,"ok":{"answer":"pid","pid":7}}"#),
        framed(br#"{"id":1,"ok":{"answer":"hello","version":999,"pid":1}}"#),
        framed(br#"{"id":1,"error":{"kind":"runtime","message":"no"}}"#),
        // To another question.
        framed(br#"{"id":18446744073709551615,"ok":{"answer":"done"}}"#),
        event.repeat(100),
        vec![b'x'; 1 << 20],
    ];
    // And by chance, with a seed that can be read off.
    let mut state = 1_u64 << 40 | u64::from(std::process::id()) | 1;
    eprintln!("seed {state}");
    let mut chance = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..100 {
        let length = (chance() % 200) as usize;
        let body: Vec<u8> = (0..length).map(|_| (chance() >> 32) as u8).collect();
        answers.push(if chance() % 2 == 0 {
            framed(&body)
        } else {
            body
        });
    }
    within(async {
        for answer in answers {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
            let server = impostor(dir, answer);
            let outcome = Shim::connect(dir).await;
            assert!(outcome.is_err(), "{shown:?}");
            drop(outcome);
            server.await.unwrap();
        }
        // One that begins well.
        for answer in [
            framed(br#"{"id":2,"ok":{"answer":"done"}}"#),
            framed(br#"{"id":2,"ok":{"answer":"attached"}}"#),
            u32::MAX.to_be_bytes().to_vec(),
            vec![],
        ] {
            let shown = String::from_utf8_lossy(&answer).into_owned();
            let server = impostor(dir, [&hello[..], &answer].concat());
            let (shim, mut events) = Shim::connect(dir).await.unwrap();
            assert!(shim.state().await.is_err(), "{shown:?}");
            assert_eq!(events.next().await, None, "{shown:?}");
            // Nobody is left waiting afterwards, either.
            assert!(shim.wait(Target::Container).await.is_err(), "{shown:?}");
            drop((shim, events));
            server.await.unwrap();
        }
        let server = impostor(dir, hello.clone());
        let (shim, _events) = Shim::connect(dir).await.unwrap();
        // Whoever attaches comes by a connection of its own.
        let another = impostor(dir, [&hello[..], &framed(b"[]")].concat());
        let outcome = shim.attach(both(Target::Container, true)).await;
        assert!(outcome.is_err());
        drop((shim, _events, outcome));
        server.await.unwrap();
        another.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_shim_that_cannot_begin_says_why() {
    let bundle = Bundle::new("broken", "");
    let mut spec = shim_spec(&bundle, Stdin::Closed);
    spec.log = json_log(bundle.path().join("no/such/directory/log"));
    within(async {
        let error = Shim::launch(&Executable::open(Path::new(EXECUTABLE)), &spec)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("open log") && error.contains("No such file"),
            "{error}"
        );
    })
    .await;
}
