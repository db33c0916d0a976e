//! Bodies of requests: documents, which are read whole within a bound, and
//! archives, which are read from threads that may block, and whose sender is told of
//! what is wrong before they have come to their end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use futures_util::StreamExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::error::Failure;

/// Bytes of a document, at most: what containers are created from is a few thousand.
const MAX_DOCUMENT: usize = 16 << 20;
/// Bytes of a body that are still taken after nobody wants them.
const MAX_UNWANTED: u64 = 64 << 20;
/// How long they may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest document that says nothing (`{}`, `null`), in bytes; of what kind it is does
/// not matter.
const SAYS_NOTHING: usize = 7;

/// A body that is a document.
pub(crate) struct Document(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for Document {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        let kind = request.headers().get(CONTENT_TYPE).cloned();
        let body = request.into_body();
        // Nothing is read of one that says it is larger.
        let is_large = axum::body::HttpBody::size_hint(&body).lower() > MAX_DOCUMENT as u64;
        if is_large {
            return Err(too_large());
        }
        match Limited::new(body, MAX_DOCUMENT).collect().await {
            Ok(whole) => {
                let whole = whole.to_bytes();
                check_kind(kind.as_ref(), whole.len())?;
                Ok(Self(whole))
            }
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(error) => Err(Failure::bad(format!("read the request's body: {error}"))),
        }
    }
}

/// Refuses a document that is not said to be one: pages of strangers can make a
/// browser send any other kind to whom it has a client's certificate for.
fn check_kind(kind: Option<&HeaderValue>, length: usize) -> Result<(), Failure> {
    let kind = kind.map_or("", |kind| kind.to_str().unwrap_or_default());
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if length <= SAYS_NOTHING || essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Failure::bad(format!(
        "unsupported Content-Type header ({kind}): must be 'application/json'"
    )))
}

fn too_large() -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "request body too large: a document has at most {} MiB",
            MAX_DOCUMENT >> 20
        ),
    )
}

/// Reads a body from a thread that may block. What is left of it when the reader is
/// dropped is read all the same, within bounds: a client that is still sending finds
/// a closed connection before it looks for the answer.
pub(crate) fn reader(body: Body) -> SyncIoBridge<impl AsyncRead + Unpin + Send> {
    let stream = body
        .into_data_stream()
        .map(|chunk| chunk.map_err(io::Error::other));
    SyncIoBridge::new(ToTheEnd(Some(StreamReader::new(Box::pin(stream)))))
}

/// A reader until it has come to its end.
struct ToTheEnd<R: AsyncRead + Unpin + Send + 'static>(Option<R>);

impl<R: AsyncRead + Unpin + Send + 'static> AsyncRead for ToTheEnd<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(reader) = &mut self.0 else {
            return Poll::Ready(Ok(()));
        };
        let before = buffer.filled().len();
        let read = Pin::new(reader).poll_read(context, buffer);
        let is_at_end = buffer.filled().len() == before && buffer.remaining() > 0;
        if matches!(read, Poll::Ready(Err(_))) || (read.is_ready() && is_at_end) {
            self.0 = None;
        }
        read
    }
}

impl<R: AsyncRead + Unpin + Send + 'static> Drop for ToTheEnd<R> {
    fn drop(&mut self) {
        if let Some(rest) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let mut rest = rest.take(MAX_UNWANTED);
                // Nobody is left to be told of what goes wrong.
                let _ = tokio::time::timeout(
                    PATIENCE,
                    tokio::io::copy(&mut rest, &mut tokio::io::sink()),
                )
                .await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn what_nobody_wants_is_taken_within_bounds() {
        for (n_chunks, expected) in [(5, 5), (1000, 64)] {
            let taken = Arc::new(AtomicUsize::new(0));
            let (held, gone) = tokio::sync::oneshot::channel::<()>();
            let counter = Arc::clone(&taken);
            let chunks = (0..n_chunks).map(move |_| {
                let _held = &held;
                counter.fetch_add(1, Ordering::SeqCst);
                Ok::<_, io::Error>(Bytes::from_static(&[0; 1 << 20]))
            });
            let body = Body::from_stream(futures_util::stream::iter(chunks));
            let mut input = reader(body);
            let read = tokio::task::spawn_blocking(move || input.read_exact(&mut [0; 10]));
            read.await.expect("no panic").expect("there is more");
            gone.await.expect_err("it is dropped, not sent");
            let taken = taken.load(Ordering::SeqCst);
            assert!((expected..=expected + 1).contains(&taken), "{taken}");
        }
    }
}
