//! Connections that become the streams of a container.
//!
//! A client that asks for an upgrade gets `101` and the streams; one that does
//! not gets `200` and the streams all the same, on the bare connection, as
//! Docker's first clients expect.

use std::pin::{Pin, pin};

use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use bytes::Bytes;
use dhow_docker::DetachKeys;
use dhow_engine::{Attached, Result, words};
use futures_util::Stream;
use futures_util::StreamExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{Answer, Failure};
use crate::tap::TapHandle;

/// Media type of a terminal's output.
const RAW: &str = "application/vnd.docker.raw-stream";
/// Media type of framed output.
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
const BLOCK: usize = 32 * 1024;

/// The connection of a request, to be taken over.
pub(crate) struct Handover {
    upgrade: OnUpgrade,
    tap: Option<TapHandle>,
    wants_upgrade: bool,
}

/// What was said before a session.
pub(crate) type History = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// What is carried, once there are both the connection and the streams.
pub(crate) struct Session {
    /// What is sent first.
    pub(crate) history: Option<History>,
    /// The streams; none ends the session after the history.
    pub(crate) attached: Option<Attached>,
    /// What must have happened before the client sees the end of the output:
    /// whoever asks then must be told how the program ended.
    pub(crate) ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The keys that let a client go and leave its program running.
pub(crate) fn detach_keys(text: &str) -> Answer<DetachKeys> {
    DetachKeys::parse(text).ok_or_else(|| {
        Failure::bad(format!(
            "Invalid detach keys ({text}) provided; use single characters or ctrl-KEY, separated by commas"
        ))
    })
}

/// How a session is carried.
pub(crate) struct Carrying {
    /// Whether the output is a terminal's: bare bytes.
    pub(crate) terminal: bool,
    /// The keys that end the session, where there are any.
    pub(crate) detach: Option<DetachKeys>,
    /// Called when they were typed.
    pub(crate) detached: Box<dyn FnOnce() + Send>,
}

impl Handover {
    /// Takes the connection out of a request.
    pub(crate) fn of(request: &mut Request<Body>) -> Self {
        Self {
            tap: request.extensions().get::<TapHandle>().cloned(),
            wants_upgrade: request.headers().contains_key(header::UPGRADE),
            upgrade: hyper::upgrade::on(request),
        }
    }

    /// Hands the connection over: the answer to give, and the session that
    /// follows it. What keeps the streams from coming is told in their place.
    pub(crate) fn carry(
        self,
        carrying: Carrying,
        session: impl Future<Output = Result<Session>> + Send + 'static,
    ) -> Response<Body> {
        let kind = if carrying.terminal { RAW } else { MULTIPLEXED };
        let Self { upgrade, tap, .. } = self;
        let mut response = Response::builder().header(header::CONTENT_TYPE, kind);
        match tap {
            Some(tap) if !self.wants_upgrade => {
                let mut client = tap.take();
                tokio::spawn(async move {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n");
                    if client.write_all(head.as_bytes()).await.is_ok() {
                        run(client, &tap, carrying, session).await;
                    }
                });
            }
            Some(tap) => {
                response = response
                    .status(StatusCode::SWITCHING_PROTOCOLS)
                    .header(header::CONNECTION, "Upgrade")
                    .header(header::UPGRADE, "tcp");
                tokio::spawn(async move {
                    match upgrade.await {
                        Ok(client) => run(TokioIo::new(client), &tap, carrying, session).await,
                        Err(error) => {
                            tracing::debug!(%error, "client did not take the connection over");
                        }
                    }
                });
            }
            // Served by something else than this crate: there is no connection.
            None => response = response.status(StatusCode::INTERNAL_SERVER_ERROR),
        }
        response
            .body(Body::empty())
            .expect("the headers are constants")
    }
}

/// Carries a session until the output or the client's interest ends.
async fn run(
    client: impl AsyncRead + AsyncWrite + Unpin,
    tap: &TapHandle,
    carrying: Carrying,
    session: impl Future<Output = Result<Session>>,
) {
    // Docker's SDK for Python loses what arrives together with the answer's
    // head: nothing is sent, and no program started, before that was read.
    tap.delivered().await;
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let session = match session.await {
        Ok(session) => session,
        Err(error) => {
            // The answer has gone out already, so the stream tells it.
            let text = format!("{}\r\n", words(&error));
            let told = if carrying.terminal {
                text.into_bytes()
            } else {
                framed(&text)
            };
            let _ = to_client.write_all(&told).await;
            let _ = to_client.shutdown().await;
            return;
        }
    };
    let Some(mut attached) = session.attached else {
        let _ = recall(session.history, &mut to_client).await;
        let _ = to_client.shutdown().await;
        return;
    };
    let mut keys = carrying.detach;
    let client = (&mut from_client, &mut to_client);
    let (history, ends) = (session.history, (tap.departed(), session.ended));
    let conversation = converse(client, history, &mut attached, keys.as_mut(), ends);
    let is_detached = conversation.await;
    if is_detached {
        (carrying.detached)();
    }
    let _ = to_client.shutdown().await;
    if !is_detached {
        // The program has ended, or the client takes no more output: it has gone.
        attached.end().await;
    }
}

/// Carries what the client says and the program answers, until one of them has gone;
/// whether the client typed the keys to detach.
async fn converse(
    (from_client, to_client): (
        &mut (impl AsyncRead + Unpin),
        &mut (impl AsyncWrite + Unpin),
    ),
    history: Option<History>,
    attached: &mut Attached,
    keys: Option<&mut DetachKeys>,
    (departed, ended): (impl Future<Output = ()>, impl Future<Output = ()>),
) -> bool {
    let (output, input) = (&mut attached.output, &mut attached.input);
    let mut feeding = pin!(async {
        let is_detached = feed(from_client, input, keys).await.unwrap_or(false);
        if !is_detached {
            // The end of the client's side is the end of the input.
            let _ = input.shutdown().await;
        }
        is_detached
    });
    let (left, is_fed) = {
        let mut draining = pin!(async {
            match recall(history, to_client).await {
                Ok(()) => copy(output, to_client).await,
                Err(_) => Left::Client,
            }
        });
        tokio::select! {
            is_detached = &mut feeding => {
                if is_detached {
                    return true;
                }
                // It listens on until it is gone.
                tokio::select! {
                    left = draining => (left, true),
                    () = departed => (Left::Client, true),
                }
            }
            left = &mut draining => (left, false),
        }
    };
    match left {
        Left::Program => ended.await,
        Left::Client if is_fed => {}
        // What it said before it went is input all the same.
        Left::Client => {
            let mut nowhere = tokio::io::sink();
            tokio::select! {
                is_detached = feeding => return is_detached,
                _ = tokio::io::copy(output, &mut nowhere) => {}
            }
        }
    }
    false
}

/// A text as standard output in Docker's framing.
fn framed(text: &str) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0];
    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Copies what the client types; `true` when it typed the keys to detach.
async fn feed(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut keys: Option<&mut DetachKeys>,
) -> std::io::Result<bool> {
    let mut buffer = vec![0; BLOCK];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(false);
        }
        let typed = &buffer[..length];
        let Some(keys) = keys.as_deref_mut() else {
            to.write_all(typed).await?;
            to.flush().await?;
            continue;
        };
        let (passed, is_detached) = keys.filter(typed);
        to.write_all(&passed).await?;
        to.flush().await?;
        if is_detached {
            return Ok(true);
        }
    }
}

/// Sends what was said before.
async fn recall(
    history: Option<History>,
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let Some(mut history) = history else {
        return Ok(());
    };
    while let Some(piece) = history.next().await {
        to.write_all(&piece).await?;
    }
    Ok(())
}

/// Who is there no more when a session ends.
enum Left {
    Client,
    Program,
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> Left {
    let mut buffer = vec![0; BLOCK];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        if length == 0 {
            return Left::Program;
        }
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            return Left::Client;
        }
    }
}
