//! A connection that a handler can take out of HTTP's hands.
//!
//! Docker's older form of attaching answers `200 OK` and then has the bare
//! connection carry the streams, which HTTP libraries do not know. HTTP is
//! served through a [`Tap`]; once a handler [takes](TapHandle::take) the
//! connection, HTTP sees its end, and what it still writes goes nowhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// Bytes of a request that are remembered until it is answered. One that is
/// longer has its streams taken without what it sent ahead.
const REMEMBERED: usize = 64 << 10;

/// How long nothing more is tried after descriptors ran out.
const AGAIN: Duration = Duration::from_millis(200);

/// A connection in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// The Unix socket it is, where it is one.
    fn unix_socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Duplex for UnixStream {
    fn unix_socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl Duplex for TlsStream<TcpStream> {}

#[cfg(test)]
impl Duplex for tokio::io::DuplexStream {}

struct Connection {
    stream: Box<dyn Duplex>,
    is_taken: bool,
    /// What was read since the last answer.
    request: Vec<u8>,
}

/// HTTP's side of a connection.
pub(crate) struct Tap(Arc<Mutex<Connection>>);

/// A handler's way to the connection that its request came by.
#[derive(Clone)]
pub(crate) struct TapHandle(Arc<Mutex<Connection>>);

/// A connection that was taken.
pub(crate) struct Taken {
    connection: Arc<Mutex<Connection>>,
    /// What the client sent behind its request already.
    ahead: Vec<u8>,
}

impl Tap {
    pub(crate) fn new(stream: impl Duplex + 'static) -> Self {
        Self(Arc::new(Mutex::new(Connection {
            stream: Box::new(stream),
            is_taken: false,
            request: Vec::new(),
        })))
    }

    pub(crate) fn handle(&self) -> TapHandle {
        TapHandle(Arc::clone(&self.0))
    }
}

impl TapHandle {
    /// Waits until the client has read what it was sent, where that can be
    /// told. Cancel-safe.
    pub(crate) async fn delivered(&self) {
        let is_read = |socket: BorrowedFd<'_>| dhow_sys::socket::is_read(socket).unwrap_or(true);
        if self.is(is_read) {
            return;
        }
        if let Some(watched) = self.watched() {
            // The kernel wakes writers when the other side reads.
            until(&watched, Interest::WRITABLE, is_read).await;
        }
    }

    /// Waits until the client has closed the connection, where that can be told from
    /// having no more to say; else for ever. Cancel-safe.
    pub(crate) async fn departed(&self) {
        if lock(&self.0).stream.unix_socket().is_none() {
            return std::future::pending().await;
        }
        let watched = loop {
            if let Some(watched) = self.watched() {
                break watched;
            }
            // Out of descriptors: this one may be the first to come back.
            tokio::time::sleep(AGAIN).await;
            if self.is(|socket| has(socket, PollFlags::HUP)) {
                return;
            }
        };
        // Not woken by each piece that it reads before it has no more to say.
        until(&watched, Interest::READABLE, |socket| {
            has(socket, PollFlags::RDHUP)
        })
        .await;
        until(&watched, Interest::WRITABLE, |socket| {
            has(socket, PollFlags::HUP)
        })
        .await;
    }

    /// Whether something is so of the Unix socket, or it is none.
    fn is(&self, so: fn(BorrowedFd<'_>) -> bool) -> bool {
        lock(&self.0).stream.unix_socket().is_none_or(so)
    }

    /// The Unix socket registered once more, since this registration is made to forget
    /// what it was told.
    fn watched(&self) -> Option<UnixStream> {
        let socket = lock(&self.0).stream.unix_socket()?.try_clone_to_owned();
        UnixStream::from_std(socket.ok()?.into()).ok()
    }

    /// Takes the connection; HTTP has nothing to do with it any more.
    pub(crate) fn take(&self) -> Taken {
        let mut connection = lock(&self.0);
        connection.is_taken = true;
        let request = std::mem::take(&mut connection.request);
        Taken {
            connection: Arc::clone(&self.0),
            ahead: behind(&request).to_vec(),
        }
    }
}

/// Waits until something is so of a socket, which is looked at whenever the kernel
/// wakes who waits for `interest`.
async fn until(watched: &UnixStream, interest: Interest, is_so: fn(BorrowedFd<'_>) -> bool) {
    while watched.ready(interest).await.is_ok() {
        let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = watched.try_io(interest, forget);
        // What was before is seen now; what comes later wakes us.
        if is_so(watched.as_fd()) {
            return;
        }
    }
}

/// Whether a socket's other side has ended its direction (`RDHUP`), or both (`HUP`).
fn has(socket: BorrowedFd<'_>, what: PollFlags) -> bool {
    let mut socket = [PollFd::from_borrowed_fd(socket, what)];
    let polled = poll(&mut socket, Some(&Timespec::default()));
    polled.is_err() || socket[0].revents().intersects(what | PollFlags::ERR)
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands behind a request's head and body.
fn behind(request: &[u8]) -> &[u8] {
    let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return &[];
    };
    let head = String::from_utf8_lossy(&request[..end]);
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse::<usize>().ok());
    let body = end + 4 + length.unwrap_or_default();
    request.get(body..).unwrap_or_default()
}

impl AsyncRead for Tap {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut connection = lock(&self.0);
        if connection.is_taken {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut connection.stream).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        if connection.request.len() + new.len() <= REMEMBERED {
            connection.request.extend_from_slice(new);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut connection = lock(&self.0);
        if connection.is_taken {
            return Poll::Ready(Ok(bytes.len()));
        }
        connection.request = Vec::new();
        Pin::new(&mut connection.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = lock(&self.0);
        if connection.is_taken {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut connection.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = lock(&self.0);
        if connection.is_taken {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut connection.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut connection = lock(&self.0);
        if connection.is_taken {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        connection.request = Vec::new();
        Pin::new(&mut connection.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).stream.is_write_vectored()
    }
}

impl AsyncRead for Taken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            let taken: Vec<u8> = self.ahead.drain(..length).collect();
            buffer.put_slice(&taken);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut lock(&self.connection).stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Taken {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.connection).stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.connection).stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.connection).stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn what_stands_behind_a_request_is_found() {
        for (request, rest) in [
            (
                &b"POST / HTTP/1.1\r\nHost: x\r\n\r\ninput"[..],
                &b"input"[..],
            ),
            (
                b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}input",
                b"input",
            ),
            (b"POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\n{}", b""),
            (b"POST / HTTP/1.1\r\nContent-Le", b""),
        ] {
            assert_eq!(behind(request), rest);
        }
    }

    #[tokio::test]
    async fn a_taken_connection_is_ours_alone() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut tap = Tap::new(server);
        let head = b"POST / HTTP/1.1\r\n\r\nah";
        client.write_all(head).await.expect("sent");
        let mut read = vec![0; head.len()];
        tap.read_exact(&mut read).await.expect("read");

        let mut taken = tap.handle().take();
        assert_eq!(
            tap.read(&mut read).await.expect("read"),
            0,
            "its end for HTTP"
        );
        tap.write_all(b"HTTP/1.1 200 OK").await.expect("swallowed");
        tap.shutdown().await.expect("swallowed");

        client.write_all(b"ead").await.expect("sent");
        let mut input = [0; 5];
        taken.read_exact(&mut input).await.expect("read");
        assert_eq!(&input, b"ahead");
        taken.write_all(b"out").await.expect("written");
        drop((taken, tap));
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.expect("read");
        assert_eq!(output, b"out");
    }
}
