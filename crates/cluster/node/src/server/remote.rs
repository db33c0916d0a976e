//! Exec and attach: a session of the runtime, joined to a client's streams.
//!
//! How the client's streams travel is `websocket`'s and `spdy`'s business; here
//! they are [`Ends`].

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::query::Query;
use super::spdy::{Accepted, Connection};
use super::status::{Refusal, ended, failed};
use super::upgrade::{Wants, to_spdy, to_websocket, wants};
use super::{Body, StreamServer, forward, websocket};
use crate::runtime::{Exec, Output, RuntimeError, Session, TerminalSize};

/// How long a client may take to open its streams.
const PATIENCE: Duration = Duration::from_secs(30);
const V4: &str = "v4.channel.k8s.io";

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Streams {
    fn parse(query: &Query) -> Result<Self, Refusal> {
        let tty = query.is_on("tty");
        let streams = Self {
            stdin: query.is_on("input"),
            stdout: query.is_on("output"),
            // A terminal has no output for errors of its own.
            stderr: query.is_on("error") && !tty,
            tty,
        };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "you must specify at least 1 of stdin, stdout, stderr",
            ));
        }
        Ok(streams)
    }
}

/// What goes to the client.
#[derive(Debug)]
pub(super) enum Said {
    Output(Output),
    /// How it ended; nothing comes after.
    Status(Value),
}

/// The client's streams.
pub(super) struct Ends {
    /// What it types; closed when it ends its input.
    pub(super) stdin: mpsc::Receiver<Bytes>,
    /// New sizes of its terminal.
    pub(super) resize: mpsc::Receiver<TerminalSize>,
    /// What it is told; closed when it went away.
    pub(super) said: mpsc::Sender<Said>,
}

/// What is run or attached to.
enum What {
    Exec(Exec),
    Attach { stdin: bool },
}

impl StreamServer {
    pub(super) fn exec(
        &self,
        request: Request<Incoming>,
        container: String,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let streams = Streams::parse(query)?;
        let command: Vec<String> = query.all("command").map(str::to_owned).collect();
        if command.is_empty() {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "you must specify a command",
            ));
        }
        let exec = Exec {
            command,
            stdin: streams.stdin,
            tty: streams.tty,
        };
        self.remote(request, container, streams, What::Exec(exec))
    }

    pub(super) fn attach(
        &self,
        request: Request<Incoming>,
        container: String,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let streams = Streams::parse(query)?;
        let what = What::Attach {
            stdin: streams.stdin,
        };
        self.remote(request, container, streams, what)
    }

    fn remote(
        &self,
        request: Request<Incoming>,
        container: String,
        streams: Streams,
        what: What,
    ) -> Result<Response<Body>, Refusal> {
        let server = self.clone();
        match wants(request.headers())? {
            Wants::WebSocket => {
                let (response, protocol, switching) = to_websocket(request, websocket::PROTOCOLS)?;
                tokio::spawn(async move {
                    let Ok(stream) = switching.done().await else {
                        return;
                    };
                    let (ends, serving) = websocket::serve(stream, protocol, streams).await;
                    tokio::join!(server.join(&container, what, streams, ends), serving);
                });
                Ok(response)
            }
            Wants::Spdy => {
                let (response, _, switching) = to_spdy(request, &[V4])?;
                tokio::spawn(async move {
                    let Ok(stream) = switching.done().await else {
                        return;
                    };
                    let opened = over_spdy(forward::plain(stream), streams);
                    let Ok(Some((ends, serving))) = tokio::time::timeout(PATIENCE, opened).await
                    else {
                        return;
                    };
                    tokio::join!(server.join(&container, what, streams, ends), serving);
                });
                Ok(response)
            }
        }
    }

    /// Runs the session to its end, or until the client goes away.
    async fn join(&self, container: &str, what: What, streams: Streams, ends: Ends) {
        let said = ends.said.clone();
        let session = match what {
            What::Exec(exec) => self.runtime.exec(container, exec).await,
            What::Attach { stdin } => self.runtime.attach(container, stdin).await,
        };
        let status = match session {
            Ok(session) => match pump(session, streams, ends).await {
                Some(status) => status,
                None => return,
            },
            Err(error) => {
                drop(ends);
                failed(&Unstarted(error))
            }
        };
        // A client that is gone needs no status.
        let _ = said.send(Said::Status(status)).await;
    }
}

#[derive(Debug, thiserror::Error)]
#[error("error executing command in container: {0}")]
struct Unstarted(RuntimeError);

/// Carries bytes both ways; returns how it ended, or `None` when the client
/// went away.
async fn pump(session: Session, streams: Streams, ends: Ends) -> Option<Value> {
    let Session {
        mut stdin,
        mut output,
        resize,
        exit,
    } = session;
    let Ends {
        stdin: mut typed,
        resize: mut resized,
        said,
    } = ends;
    let inward = async {
        if let Some(stdin) = &mut stdin {
            while let Some(bytes) = typed.recv().await {
                // A program that no longer reads may still speak.
                if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
                    break;
                }
            }
            let _ = stdin.shutdown().await;
        }
        // What comes after its end is taken and dropped, lest the client waits.
        while typed.recv().await.is_some() {}
        std::future::pending::<()>().await;
    };
    let sizes = async {
        while let Some(size) = resized.recv().await {
            if let Some(resize) = &resize {
                let _ = resize.send(size).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let outward = async {
        while let Some(piece) = output.next().await {
            let is_wanted = match &piece {
                Output::Stdout(_) => streams.stdout,
                Output::Stderr(_) => streams.stderr,
            };
            if is_wanted {
                said.send(Said::Output(piece)).await.ok()?;
            }
        }
        let status = match exit {
            None => ended(0),
            Some(exit) => match exit.await {
                Ok(code) => ended(code),
                Err(_) => failed(&"nobody knows how the command ended"),
            },
        };
        Some(status)
    };
    let status = tokio::select! {
        status = outward => status,
        () = inward => None,
        () = sizes => None,
        () = said.closed() => None,
    };
    if let Some(mut stdin) = stdin {
        // A client that has gone has no more input. What the program writes until
        // it has taken all is for nobody, and does not hold it up.
        tokio::select! {
            _ = stdin.shutdown() => {}
            () = async { while output.next().await.is_some() {} } => {}
        }
    }
    status
}

/// Waits for the streams that the client opens, and joins them.
async fn over_spdy(
    mut connection: Connection,
    streams: Streams,
) -> Option<(Ends, impl Future<Output = ()>)> {
    let mut wanted = vec!["error"];
    let asked = [
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("resize", streams.tty),
    ];
    wanted.extend(asked.iter().filter(|(_, on)| *on).map(|(name, _)| *name));
    let mut opened: Vec<(String, Accepted)> = Vec::new();
    while opened.len() < wanted.len() {
        let stream = connection.accept().await?;
        let kind = stream.header("streamtype").unwrap_or_default().to_owned();
        if wanted.contains(&kind.as_str()) && !opened.iter().any(|(name, _)| *name == kind) {
            opened.push((kind, stream));
        }
    }
    let mut take = |name: &str| {
        let at = opened.iter().position(|(kind, _)| kind == name)?;
        Some(opened.swap_remove(at).1)
    };
    let (stdin, resize) = (take("stdin"), take("resize"));
    let (stdout, stderr, error) = (take("stdout"), take("stderr"), take("error"));
    let (typing, typed) = mpsc::channel(8);
    let (resizing, resized) = mpsc::channel(8);
    let (saying, mut said) = mpsc::channel(8);
    let serving = async move {
        let inward = async {
            if let Some(mut stdin) = stdin {
                while let Some(bytes) = stdin.reader.next().await {
                    if typing.send(bytes).await.is_err() {
                        break;
                    }
                }
            }
            drop(typing);
        };
        let sizes = async {
            if let Some(mut resize) = resize {
                let mut text = Vec::new();
                while let Some(bytes) = resize.reader.next().await {
                    text.extend_from_slice(&bytes);
                    for size in sizes_of(&mut text) {
                        let _ = resizing.send(size).await;
                    }
                }
            }
        };
        let outward = async {
            while let Some(piece) = said.recv().await {
                let sent = match piece {
                    Said::Output(Output::Stdout(bytes)) => match &stdout {
                        Some(stdout) => stdout.writer.send(bytes).await,
                        None => Ok(()),
                    },
                    Said::Output(Output::Stderr(bytes)) => match &stderr {
                        Some(stderr) => stderr.writer.send(bytes).await,
                        None => Ok(()),
                    },
                    Said::Status(status) => {
                        let Some(error) = error else { break };
                        let sent = error.writer.send(status.to_string().into()).await;
                        let outputs = [stdout, stderr].into_iter().flatten();
                        for stream in outputs.chain([error]) {
                            let _ = stream.writer.end().await;
                        }
                        if sent.is_ok() {
                            return;
                        }
                        break;
                    }
                };
                if sent.is_err() {
                    break;
                }
            }
        };
        // The client that goes away ends its connection; nothing more is
        // accepted until then.
        let gone = async { while connection.accept().await.is_some() {} };
        tokio::select! {
            () = outward => {}
            () = gone => {}
            () = async { tokio::join!(inward, sizes); std::future::pending::<()>().await } => {}
        }
        connection.close().await;
    };
    let ends = Ends {
        stdin: typed,
        resize: resized,
        said: saying,
    };
    Some((ends, serving))
}

/// Takes whole sizes off the front of `text`; what is left is half of one.
pub(super) fn sizes_of(text: &mut Vec<u8>) -> Vec<TerminalSize> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let mut sizes = Vec::new();
    while let Some(Ok(value)) = values.next() {
        let side = |name: &str| {
            value[name]
                .as_u64()
                .and_then(|side| u16::try_from(side).ok())
        };
        if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
            sizes.push(TerminalSize { width, height });
        }
    }
    let read = values.byte_offset();
    text.drain(..read);
    // Something that will never be a size is not kept.
    if text.len() > 1024 {
        text.clear();
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let mut text = br#"{"Width":80,"Height":24}{"Wid"#.to_vec();
        let first = TerminalSize {
            width: 80,
            height: 24,
        };
        assert_eq!(sizes_of(&mut text), [first]);
        text.extend_from_slice(br#"th":1,"Height":2}"#);
        let second = TerminalSize {
            width: 1,
            height: 2,
        };
        assert_eq!(sizes_of(&mut text), [second]);
        assert!(text.is_empty());
        let mut noise = vec![b'x'; 2000];
        assert_eq!(sizes_of(&mut noise), []);
        assert!(noise.is_empty());
    }
}
