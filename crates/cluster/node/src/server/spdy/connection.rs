//! A connection: streams that the client opens, each with two ends.
//!
//! One task reads and hands data to its stream, one writes. A stream whose
//! reader is slow holds up the others, as it does in client-go: the client
//! knows no windows that could stop one alone.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Error;
use super::frame::{Decoder, Encoder, Frame, INVALID_STREAM, REFUSED_STREAM, Then};
use super::headers::Headers;

/// Streams open at once.
const MAX_STREAMS: usize = 1024;
/// Pieces of data that wait for the reader of a stream.
const WAITING: usize = 64;
/// Frames that wait to be written.
const OUTGOING: usize = 64;
/// The largest data frame that is sent.
const PIECE: usize = 32 * 1024;

enum Outgoing {
    Frame(Frame),
    /// Say farewell and close.
    Close,
}

/// A stream that the client opened.
pub(in super::super) struct Accepted {
    pub(in super::super) headers: Headers,
    pub(in super::super) reader: StreamReader,
    pub(in super::super) writer: StreamWriter,
}

impl Accepted {
    /// The value of a header; names are compared without case.
    pub(in super::super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What the client sends on a stream.
pub(in super::super) struct StreamReader {
    stream: u32,
    data: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl StreamReader {
    /// The next piece; `None` when the client has ended its side. Cancel-safe.
    pub(in super::super) async fn next(&mut self) -> Option<Bytes> {
        let data = self.data.recv().await?;
        // The client may send so much more; one that keeps no windows ignores
        // it. A full queue means that others are acknowledged soon.
        let delta = data.len() as u32;
        if delta > 0 {
            for stream in [self.stream, 0] {
                let update = Frame::WindowUpdate { stream, delta };
                let _ = self.outgoing.try_send(Outgoing::Frame(update));
            }
        }
        Some(data)
    }
}

/// What the client receives on a stream.
pub(in super::super) struct StreamWriter {
    stream: u32,
    outgoing: mpsc::Sender<Outgoing>,
}

impl StreamWriter {
    /// Sends data.
    pub(in super::super) async fn send(&self, mut data: Bytes) -> Result<(), Error> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.frame(piece, Then::More).await?;
        }
        Ok(())
    }

    /// Ends this side.
    pub(in super::super) async fn end(self) -> Result<(), Error> {
        self.frame(Bytes::new(), Then::End).await
    }

    async fn frame(&self, data: Bytes, then: Then) -> Result<(), Error> {
        let frame = Frame::Data {
            stream: self.stream,
            data,
            then,
        };
        self.outgoing
            .send(Outgoing::Frame(frame))
            .await
            .map_err(|_| Error::Broken(io::ErrorKind::BrokenPipe.into()))
    }
}

/// A connection. Dropping it breaks it off.
pub(in super::super) struct Connection {
    accepted: mpsc::Receiver<Accepted>,
    outgoing: mpsc::Sender<Outgoing>,
    writing: JoinSet<()>,
    _reading: JoinSet<()>,
}

impl Connection {
    /// Begins on a transport whose bytes come by `input` and go by `output`.
    pub(in super::super) fn start(
        input: BoxStream<'static, io::Result<Bytes>>,
        output: impl Sink<Bytes, Error = io::Error> + Send + Unpin + 'static,
    ) -> Self {
        let (accepting, accepted) = mpsc::channel(MAX_STREAMS);
        let (outgoing, sending) = mpsc::channel(OUTGOING);
        let (mut reading, mut writing) = (JoinSet::new(), JoinSet::new());
        let reader = Reader {
            streams: HashMap::new(),
            last: 0,
            accepting,
            outgoing: outgoing.clone(),
        };
        reading.spawn(async move {
            if let Err(error) = reader.read(input).await {
                tracing::debug!(%error, "a SPDY connection ended");
            }
        });
        writing.spawn(async move {
            // The reader sees the same end.
            let _ = write(sending, output).await;
        });
        Self {
            accepted,
            outgoing,
            writing,
            _reading: reading,
        }
    }

    /// The next stream that the client opens; `None` when it went away.
    /// Cancel-safe.
    pub(in super::super) async fn accept(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }

    /// Sends what was written so far, and closes.
    pub(in super::super) async fn close(mut self) {
        if self.outgoing.send(Outgoing::Close).await.is_ok() {
            self.writing.join_next().await;
        }
    }
}

async fn write(
    mut sending: mpsc::Receiver<Outgoing>,
    mut output: impl Sink<Bytes, Error = io::Error> + Unpin,
) -> io::Result<()> {
    let mut encoder = Encoder::new();
    while let Some(Outgoing::Frame(frame)) = sending.recv().await {
        output.feed(encoder.encode(&frame)).await?;
        if sending.is_empty() {
            output.flush().await?;
        }
    }
    output
        .feed(encoder.encode(&Frame::GoAway { last: 0 }))
        .await?;
    output.close().await
}

struct Reader {
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    last: u32,
    accepting: mpsc::Sender<Accepted>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Reader {
    async fn read(mut self, mut input: BoxStream<'static, io::Result<Bytes>>) -> Result<(), Error> {
        let mut decoder = Decoder::new();
        while let Some(bytes) = input.next().await {
            decoder.push(&bytes?);
            while let Some(frame) = decoder.next()? {
                if self.take(frame).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// An error means that nobody listens any more.
    async fn take(&mut self, frame: Frame) -> Result<(), ()> {
        match frame {
            Frame::Open {
                stream,
                headers,
                then,
            } => self.open(stream, headers, then).await,
            Frame::Data { stream, data, then } => {
                let Some(sender) = self.streams.get(&stream) else {
                    // Data for a stream that was closed here is no surprise.
                    if stream > self.last {
                        return self.reset(stream, INVALID_STREAM).await;
                    }
                    return Ok(());
                };
                let is_gone = !data.is_empty() && sender.send(data).await.is_err();
                if is_gone || then == Then::End {
                    self.streams.remove(&stream);
                }
                Ok(())
            }
            Frame::Headers { stream, then } | Frame::Reply { stream, then, .. } => {
                if then == Then::End {
                    self.streams.remove(&stream);
                }
                Ok(())
            }
            Frame::Reset { stream, .. } => {
                self.streams.remove(&stream);
                Ok(())
            }
            // The client's numbers are odd; others answer ours.
            Frame::Ping(number) if number % 2 == 1 => self.send(Frame::Ping(number)).await,
            Frame::GoAway { .. } | Frame::Ping(_) | Frame::WindowUpdate { .. } | Frame::Ignored => {
                Ok(())
            }
        }
    }

    async fn open(&mut self, stream: u32, headers: Headers, then: Then) -> Result<(), ()> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return self.reset(stream, INVALID_STREAM).await;
        }
        self.last = stream;
        if self.streams.len() >= MAX_STREAMS {
            return self.reset(stream, REFUSED_STREAM).await;
        }
        let reply = Frame::Reply {
            stream,
            headers: Headers::new(),
            then: Then::More,
        };
        self.send(reply).await?;
        let (sender, data) = mpsc::channel(WAITING);
        if then == Then::More {
            self.streams.insert(stream, sender);
        }
        let accepted = Accepted {
            headers,
            reader: StreamReader {
                stream,
                data,
                outgoing: self.outgoing.clone(),
            },
            writer: StreamWriter {
                stream,
                outgoing: self.outgoing.clone(),
            },
        };
        self.accepting.send(accepted).await.map_err(drop)
    }

    async fn reset(&self, stream: u32, status: u32) -> Result<(), ()> {
        self.send(Frame::Reset { stream, status }).await
    }

    async fn send(&self, frame: Frame) -> Result<(), ()> {
        self.outgoing
            .send(Outgoing::Frame(frame))
            .await
            .map_err(drop)
    }
}
