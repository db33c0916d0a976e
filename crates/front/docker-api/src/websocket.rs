//! Sessions over a WebSocket: output as binary messages without frames, input
//! as messages of either kind.

use std::borrow::Cow;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::hijack::{History, Session};

/// Longest piece of a terminal's output in one message, in bytes.
const BLOCK: usize = 32 * 1024;
/// Bytes of a frame's header.
const HEADER: usize = 8;

/// Carries a session until the output ends or the client goes.
pub(crate) async fn carry(socket: WebSocket, session: Session, terminal: bool) {
    let (mut to_client, mut from_client) = socket.split();
    let Session {
        mut history,
        mut attached,
        ..
    } = session;
    if let Some(attached) = &mut attached {
        let (output, input) = (&mut attached.output, &mut attached.input);
        let feeding = async {
            while let Some(Ok(message)) = from_client.next().await {
                let written = match message {
                    Message::Text(text) => input.write_all(text.as_bytes()).await,
                    Message::Binary(bytes) => input.write_all(&bytes).await,
                    Message::Close(_) => break,
                    Message::Ping(_) | Message::Pong(_) => Ok(()),
                };
                if written.is_err() || input.flush().await.is_err() {
                    // The program takes no more; its output goes on.
                    std::future::pending::<()>().await;
                }
            }
        };
        let draining = async {
            let mut is_gone = recall(&mut history, &mut to_client, terminal)
                .await
                .is_err();
            while let Some(bytes) = next(output, terminal).await {
                // What it said before it went is input all the same.
                is_gone = is_gone || to_client.send(Message::Binary(bytes)).await.is_err();
            }
        };
        tokio::select! { () = feeding => {}, () = draining => {} }
    } else {
        let _ = recall(&mut history, &mut to_client, terminal).await;
    }
    let _ = to_client.send(Message::Close(None)).await;
    if let Some(attached) = attached {
        attached.end().await;
    }
}

/// Sends what was said before.
async fn recall(
    history: &mut Option<History>,
    to_client: &mut SplitSink<WebSocket, Message>,
    terminal: bool,
) -> Result<(), axum::Error> {
    let Some(history) = history else {
        return Ok(());
    };
    while let Some(piece) = history.next().await {
        let bytes = if terminal {
            piece
        } else {
            piece.slice(HEADER.min(piece.len())..)
        };
        to_client.send(Message::Binary(bytes)).await?;
    }
    Ok(())
}

/// Tells why there is no session.
pub(crate) async fn refuse(mut socket: WebSocket, why: &str) {
    let text: Cow<'_, str> = Cow::Owned(format!("{why}\r\n"));
    let _ = socket.send(Message::Text(text.as_ref().into())).await;
    let frame = CloseFrame {
        code: axum::extract::ws::close_code::ERROR,
        reason: "".into(),
    };
    let _ = socket.send(Message::Close(Some(frame))).await;
}

/// The next piece of output, out of its frame.
async fn next(output: &mut (impl AsyncRead + Unpin), terminal: bool) -> Option<Bytes> {
    let length = if terminal {
        BLOCK
    } else {
        let mut header = [0; HEADER];
        output.read_exact(&mut header).await.ok()?;
        u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize
    };
    let mut bytes = vec![0; length];
    if terminal {
        let length = output.read(&mut bytes).await.ok()?;
        bytes.truncate(length);
        (length > 0).then(|| bytes.into())
    } else {
        output.read_exact(&mut bytes).await.ok()?;
        Some(bytes.into())
    }
}
