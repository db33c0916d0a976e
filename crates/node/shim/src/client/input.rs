//! The way to a standard input: pieces behind their lengths, and an end that is
//! said, so that a daemon that is killed ends nobody's input.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::unix::OwnedWriteHalf;

/// Longest piece, in bytes.
const MAX_PIECE: usize = 64 << 10;

/// The way to a standard input. Shutting it down ends the input, where it ends
/// with its first client; dropping it ends nothing.
#[derive(Debug)]
pub struct Input {
    stream: OwnedWriteHalf,
    /// A piece that was taken, with its length; sent up to `n_sent`.
    piece: Vec<u8>,
    n_sent: usize,
    has_ended: bool,
}

impl Input {
    pub(super) fn new(stream: OwnedWriteHalf) -> Self {
        Self {
            stream,
            piece: Vec::new(),
            n_sent: 0,
            has_ended: false,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.piece.clear();
        self.n_sent = 0;
        let length = u32::try_from(bytes.len()).expect("a piece has 64 KiB at most");
        self.piece.extend_from_slice(&length.to_be_bytes());
        self.piece.extend_from_slice(bytes);
    }

    /// Sends what is left of the piece.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.n_sent < self.piece.len() {
            let rest = &self.piece[self.n_sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.n_sent += length,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(context))?;
        if self.has_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = bytes.len().min(MAX_PIECE);
        // A piece of no length would be the end.
        if length > 0 {
            self.take(&bytes[..length]);
            // What cannot go now goes with the next call.
            if let Poll::Ready(Err(error)) = self.poll_send(context) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        if !self.has_ended {
            self.has_ended = true;
            self.take(&[]);
            ready!(self.poll_send(context))?;
        }
        Poll::Ready(Ok(()))
    }
}
