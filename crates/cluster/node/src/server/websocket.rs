//! Channels over WebSocket: the first byte of a message names the channel.
//!
//! | channel | way | carries |
//! | --- | --- | --- |
//! | 0 | in | standard input |
//! | 1, 2 | out | standard output, standard error |
//! | 3 | out | a status, last |
//! | 4 | in | sizes of the terminal |
//! | 255 | in | (v5) the channel named by the next byte ends |
//!
//! In the base64 forms, which browsers use, messages are text: the channel is a
//! digit and the rest is encoded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::remote::{Ends, Said, Streams, sizes_of};
use crate::runtime::{Output, TerminalSize};

/// Versions for exec and attach, the best first.
pub(super) const PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// Messages that wait for a program to read them.
const WAITING: usize = 64;

/// How a version puts things.
#[derive(Debug, Clone, Copy)]
struct Dialect {
    form: Form,
    last: Last,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Binary,
    Base64,
}

/// What the last message says.
#[derive(Debug, Clone, Copy)]
enum Last {
    /// The whole status.
    Status,
    /// The message of a failure.
    Failure,
}

impl Dialect {
    /// A client that names no version speaks the first one.
    fn of(protocol: Option<&str>) -> Self {
        let protocol = protocol.unwrap_or_default();
        let form = if protocol.contains("base64") {
            Form::Base64
        } else {
            Form::Binary
        };
        let last = if protocol.starts_with('v') {
            Last::Status
        } else {
            Last::Failure
        };
        Self { form, last }
    }

    fn message(self, channel: u8, bytes: &[u8]) -> Message {
        match self.form {
            Form::Binary => message(channel, bytes),
            Form::Base64 => {
                let mut text = channel.to_string();
                BASE64.encode_string(bytes, &mut text);
                Message::text(text)
            }
        }
    }

    /// Channel and bytes of a message, if it has them.
    fn parse(self, mut data: Bytes) -> Option<(u8, Bytes)> {
        let channel = *data.first()?;
        data.advance(1);
        match self.form {
            Form::Binary => Some((channel, data)),
            Form::Base64 => Some((channel.checked_sub(b'0')?, BASE64.decode(data).ok()?.into())),
        }
    }

    fn last(self, status: &Value) -> Vec<u8> {
        match self.last {
            Last::Status => status.to_string().into_bytes(),
            Last::Failure if status["status"] == "Success" => Vec::new(),
            Last::Failure => status["message"].as_str().unwrap_or_default().into(),
        }
    }
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(super) async fn socket(stream: TokioIo<Upgraded>) -> Socket {
    WebSocketStream::from_raw_socket(stream, Role::Server, None).await
}

/// A message on a channel.
pub(super) fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = BytesMut::with_capacity(1 + bytes.len());
    framed.put_u8(channel);
    framed.extend_from_slice(bytes);
    Message::Binary(framed.freeze())
}

/// The client's streams, and the work that carries them, which ends when the
/// status was sent or the client went away.
pub(super) async fn serve(
    stream: TokioIo<Upgraded>,
    protocol: Option<&'static str>,
    streams: Streams,
) -> (Ends, impl Future<Output = ()>) {
    let dialect = Dialect::of(protocol);
    let (sink, source) = socket(stream).await.split();
    let (typing, typed) = mpsc::channel(WAITING);
    let (resizing, resized) = mpsc::channel(8);
    let (saying, said) = mpsc::channel(8);
    let serving = async move {
        tokio::select! {
            () = outward(sink, said, dialect, streams) => {}
            () = inward(source, dialect, typing, resizing) => {}
        }
    };
    let ends = Ends {
        stdin: typed,
        resize: resized,
        said: saying,
    };
    (ends, serving)
}

/// Ends when the client closes.
async fn inward(
    mut source: SplitStream<Socket>,
    dialect: Dialect,
    typing: mpsc::Sender<Bytes>,
    resizing: mpsc::Sender<TerminalSize>,
) {
    let mut typing = Some(typing);
    let mut text = Vec::new();
    while let Some(Ok(message)) = source.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some((channel, data)) = dialect.parse(data) else {
            continue;
        };
        match channel {
            STDIN => {
                if let Some(typing) = &typing
                    && !data.is_empty()
                {
                    // A program that does not read drops what is typed.
                    let _ = typing.send(data).await;
                }
            }
            RESIZE => {
                text.extend_from_slice(&data);
                for size in sizes_of(&mut text) {
                    let _ = resizing.send(size).await;
                }
            }
            CLOSE if data.first() == Some(&STDIN) => typing = None,
            _ => {}
        }
    }
}

/// Ends when the status was sent, or nobody receives.
async fn outward(
    mut sink: SplitSink<Socket, Message>,
    mut said: mpsc::Receiver<Said>,
    dialect: Dialect,
    streams: Streams,
) {
    // Tells the client that the connection stands.
    let first = match streams {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => STATUS,
    };
    if sink.send(dialect.message(first, &[])).await.is_err() {
        return;
    }
    while let Some(piece) = said.recv().await {
        let is_last = matches!(piece, Said::Status(_));
        let message = match piece {
            Said::Output(Output::Stdout(bytes)) => dialect.message(STDOUT, &bytes),
            Said::Output(Output::Stderr(bytes)) => dialect.message(STDERR, &bytes),
            Said::Status(status) => dialect.message(STATUS, &dialect.last(&status)),
        };
        if sink.send(message).await.is_err() {
            return;
        }
        if is_last {
            let farewell = CloseFrame {
                code: CloseCode::Normal,
                reason: "".into(),
            };
            let _ = sink.send(Message::Close(Some(farewell))).await;
            let _ = sink.close().await;
            return;
        }
    }
}
