//! Channels over WebSocket: the first byte of a message names the channel.
//!
//! | channel | way | carries |
//! | --- | --- | --- |
//! | 0 | in | standard input |
//! | 1, 2 | out | standard output, standard error |
//! | 3 | out | a status, last |
//! | 4 | in | sizes of the terminal |
//! | 255 | in | (v5) the channel named by the next byte ends |

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::remote::{Ends, Said, Streams, sizes_of};
use crate::runtime::{Output, TerminalSize};

/// Versions for exec and attach, the best first.
pub(super) const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];

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
    _protocol: Option<&'static str>,
    streams: Streams,
) -> (Ends, impl Future<Output = ()>) {
    let (sink, source) = socket(stream).await.split();
    let (typing, typed) = mpsc::channel(8);
    let (resizing, resized) = mpsc::channel(8);
    let (saying, said) = mpsc::channel(8);
    let serving = async move {
        tokio::select! {
            () = outward(sink, said, streams) => {}
            () = inward(source, typing, resizing) => {}
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
    typing: mpsc::Sender<Bytes>,
    resizing: mpsc::Sender<TerminalSize>,
) {
    let mut typing = Some(typing);
    let mut text = Vec::new();
    while let Some(Ok(message)) = source.next().await {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            _ => continue,
        };
        if data.is_empty() {
            continue;
        }
        let channel = data.split_to(1)[0];
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
    streams: Streams,
) {
    // Tells the client that the connection stands.
    let first = match streams {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => STATUS,
    };
    if sink.send(message(first, &[])).await.is_err() {
        return;
    }
    while let Some(piece) = said.recv().await {
        let is_last = matches!(piece, Said::Status(_));
        let message = match piece {
            Said::Output(Output::Stdout(bytes)) => message(STDOUT, &bytes),
            Said::Output(Output::Stderr(bytes)) => message(STDERR, &bytes),
            Said::Status(status) => message(STATUS, status.to_string().as_bytes()),
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
