//! Bodies: answers from memory or from files, requests with bounds.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::error::{Refusal, Result};

/// What an answer carries.
pub(crate) type Answer = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes of a file that are read at a time.
const PIECE: usize = 256 << 10;
/// A client may pause so long within a body.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer from memory.
pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into())
        .map_err(|never: std::convert::Infallible| match never {})
        .boxed_unsync()
}

/// An answer of a known length without content: to HEAD.
pub(crate) fn only_length(length: u64) -> Answer {
    Headless(length).boxed_unsync()
}

/// An answer from a stretch of a file, read a few pieces ahead by a thread.
pub(crate) fn stretch(mut file: File, offset: u64, length: u64) -> Answer {
    let (sender, pieces) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let started = file.seek(SeekFrom::Start(offset));
        let mut input = file.take(length);
        if let Err(error) = started {
            return drop(sender.blocking_send(Err(error)));
        }
        loop {
            let mut piece = vec![0; PIECE];
            match input.read(&mut piece) {
                Ok(0) => return,
                Ok(n_read) => {
                    piece.truncate(n_read);
                    // A client that hung up ends the reading.
                    if sender.blocking_send(Ok(Bytes::from(piece))).is_err() {
                        return;
                    }
                }
                Err(error) => return drop(sender.blocking_send(Err(error))),
            }
        }
    });
    Stretch {
        pieces,
        left: length,
    }
    .boxed_unsync()
}

struct Stretch {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl http_body::Body for Stretch {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match ready!(self.pieces.poll_recv(context)) {
            Some(Ok(piece)) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Some(Ok(Frame::data(piece)))
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.left > 0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

struct Headless(u64);

impl http_body::Body for Headless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

/// The next piece of a request; none at its end.
pub(crate) async fn next(body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        match tokio::time::timeout(PATIENCE, body.frame()).await {
            Err(_) => {
                return Err(Refusal::upload_invalid(
                    StatusCode::REQUEST_TIMEOUT,
                    "nothing came for a minute",
                ));
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                return Err(Refusal::upload_invalid(
                    StatusCode::BAD_REQUEST,
                    format!("the request broke off: {error}"),
                ));
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A whole request of at most `limit` bytes.
pub(crate) async fn collect(body: &mut Incoming, limit: usize) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(piece) = next(body).await? {
        if whole.len() + piece.len() > limit {
            return Err(Refusal::too_large(limit as u64));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
