//! Streams of pods' containers: the engine's, unframed; ports and logs.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

use bytes::Bytes;
use dhow_engine::{AttachOptions, Attached, Engine, ExecOptions, LogStream};
use dhow_netlink::Namespace;
use dhow_node::runtime::{
    Exec, LogLine, LogOptions, Output, PortStream, Result, RuntimeError, Session, TerminalSize,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{mpsc, oneshot};

use super::pods::told;

/// The longest piece of output.
const PIECE: usize = 32 << 10;
/// Sizes of a terminal that wait at most.
const SIZES: usize = 4;

/// Runs a program in a container.
pub(super) async fn exec(engine: &Engine, container: &str, asked: Exec) -> Result<Session> {
    let options = ExecOptions {
        args: asked.command,
        tty: asked.tty,
        streams: AttachOptions {
            stdin: asked.stdin,
            stdout: true,
            stderr: !asked.tty,
        },
        ..ExecOptions::default()
    };
    let exec = engine.exec_create(container, options).map_err(told)?;
    let attached = engine.exec_start(&exec, false, None).await.map_err(told)?;
    let attached =
        attached.ok_or_else(|| RuntimeError::Failed("the program has no streams".into()))?;
    let (sizes, resized) = sizes();
    let (ended, exit) = oneshot::channel();
    let (waiting, waited) = (engine.clone(), exec.clone());
    tokio::spawn(async move {
        // The output ends with the program: its reader is told the code then.
        if let Ok(code) = waiting.exec_wait(&waited).await {
            let _ = ended.send(code);
        }
    });
    if asked.tty {
        let engine = engine.clone();
        tokio::spawn(async move {
            let mut resized = resized;
            while let Some(size) = resized.recv().await {
                // A program that has ended has no terminal.
                let _ = engine.exec_resize(&exec, size.height, size.width).await;
            }
        });
    }
    Ok(session(
        attached,
        asked.stdin,
        asked.tty.then_some(sizes),
        Some(exit),
    ))
}

/// Attaches to a container's own streams.
pub(super) async fn attach(engine: &Engine, container: &str, stdin: bool) -> Result<Session> {
    let record = engine.get(container).map_err(told)?;
    let options = AttachOptions {
        stdin: stdin && record.config.open_stdin,
        stdout: true,
        stderr: !record.config.tty,
    };
    let attached = engine.attach(container, options).map_err(told)?;
    let attached = attached.await.map_err(told)?.ok_or_else(|| {
        let problem = format!("container {container} did not start");
        told(dhow_engine::Error::Conflict(problem))
    })?;
    let (sizes, mut resized) = sizes();
    let (engine, id) = (engine.clone(), record.id.clone());
    tokio::spawn(async move {
        while let Some(size) = resized.recv().await {
            let _ = engine.resize(&id, size.height, size.width).await;
        }
    });
    Ok(session(
        attached,
        options.stdin,
        record.config.tty.then_some(sizes),
        None,
    ))
}

fn sizes() -> (mpsc::Sender<TerminalSize>, mpsc::Receiver<TerminalSize>) {
    mpsc::channel(SIZES)
}

fn session(
    attached: Attached,
    stdin: bool,
    resize: Option<mpsc::Sender<TerminalSize>>,
    exit: Option<oneshot::Receiver<i32>>,
) -> Session {
    let (reading, writing) = (attached.output, attached.input);
    Session {
        stdin: stdin.then(|| Box::new(writing) as _),
        output: if attached.terminal {
            raw(reading)
        } else {
            framed(reading)
        },
        resize,
        exit,
    }
}

/// A terminal's output.
fn raw(reading: impl AsyncRead + Send + Unpin + 'static) -> BoxStream<'static, Output> {
    stream::unfold(reading, |mut reading| async move {
        let mut piece = vec![0; PIECE];
        match reading.read(&mut piece).await {
            Ok(0) | Err(_) => None,
            Ok(length) => {
                piece.truncate(length);
                Some((Output::Stdout(piece.into()), reading))
            }
        }
    })
    .boxed()
}

/// Output in Docker's frames: stream, three zeros, length (big endian), text.
fn framed(reading: impl AsyncRead + Send + Unpin + 'static) -> BoxStream<'static, Output> {
    stream::unfold((reading, None), |(mut reading, left)| async move {
        let (kind, left) = match left {
            Some(frame) => frame,
            None => {
                let mut header = [0u8; 8];
                reading.read_exact(&mut header).await.ok()?;
                let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                (header[0], length as usize)
            }
        };
        let mut piece = vec![0; left.min(PIECE)];
        reading.read_exact(&mut piece).await.ok()?;
        let left = (left > piece.len()).then(|| (kind, left - piece.len()));
        let text = Bytes::from(piece);
        let output = if kind == 2 {
            Output::Stderr(text)
        } else {
            Output::Stdout(text)
        };
        Some((output, (reading, left)))
    })
    .boxed()
}

/// Connects to a port at the loopback address of a network namespace; none is
/// the host's.
pub(super) async fn connect(namespace: Option<PathBuf>, port: u16) -> Result<Box<dyn PortStream>> {
    let dial = move || {
        let addresses: [SocketAddr; 2] = [
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ];
        let dialled = || TcpStream::connect(&addresses[..]);
        match namespace {
            None => dialled(),
            Some(path) => Namespace::open(&path)
                .and_then(|namespace| namespace.run(dialled))
                .unwrap_or_else(|error| Err(io::Error::other(error))),
        }
    };
    let failed = |error: &dyn std::fmt::Display| {
        RuntimeError::Failed(format!("connect to port {port} of the pod: {error}"))
    };
    let stream = tokio::task::spawn_blocking(dial)
        .await
        .map_err(|error| failed(&error))?
        .and_then(|stream| {
            stream.set_nonblocking(true)?;
            tokio::net::TcpStream::from_std(stream)
        })
        .map_err(|error| failed(&error))?;
    Ok(Box::new(stream))
}

/// Reads a container's log.
pub(super) fn logs(
    engine: &Engine,
    container: &str,
    asked: &LogOptions,
) -> Result<BoxStream<'static, LogLine>> {
    let options = dhow_engine::LogOptions {
        stdout: true,
        stderr: true,
        since: asked.since.map(Into::into),
        until: None,
        tail: asked.tail,
        follow: asked.follow,
    };
    let logs = engine.logs(container, options).map_err(told)?;
    Ok(stream::unfold(logs, |mut logs| async move {
        let line = logs.next().await?;
        let text = Bytes::from(line.text);
        let text = match line.stream {
            LogStream::Stdout => Output::Stdout(text),
            LogStream::Stderr => Output::Stderr(text),
        };
        let line = LogLine {
            time: line.time.to_string(),
            text,
        };
        Some((line, logs))
    })
    .boxed())
}
