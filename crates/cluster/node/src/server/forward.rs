//! Port-forward: connections of a client to ports of a pod.
//!
//! Over SPDY (plain, or inside WebSocket messages) the client opens two streams
//! per connection, of one request number: `error`, on which it is told why a
//! connection failed, and `data`. Over WebSocket channels there is one
//! connection per port: its data has an even channel, its errors the next one.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::codec::{BytesCodec, FramedRead, FramedWrite};

use super::query::Query;
use super::spdy::{Accepted, Connection, StreamWriter};
use super::status::Refusal;
use super::upgrade::{Wants, to_spdy, to_websocket, wants};
use super::websocket::{self, message};
use super::{Body, StreamServer};
use crate::runtime::{PodRuntime, PortStream};

const SPDY: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const CHANNELS: &str = "v4.channel.k8s.io";
const PIECE: usize = 32 * 1024;
/// Ports of one connection over channels: the channel is one byte.
const MAX_PORTS: usize = 127;
/// Streams that wait for the other one of their pair.
const MAX_HALVES: usize = 128;

/// A SPDY connection over a plain one.
pub(super) fn plain(stream: TokioIo<Upgraded>) -> Connection {
    let (input, output) = tokio::io::split(stream);
    let input = FramedRead::new(input, BytesCodec::new()).map_ok(BytesMut::freeze);
    let output = FramedWrite::new(output, BytesCodec::new());
    Connection::start(input.boxed(), output)
}

/// A SPDY connection in the messages of a WebSocket.
async fn tunnelled(stream: TokioIo<Upgraded>) -> Connection {
    let (sink, source) = websocket::socket(stream).await.split();
    let input = source
        .map_err(io::Error::other)
        .try_take_while(|message| std::future::ready(Ok(!message.is_close())))
        .try_filter_map(|message| {
            let data = match message {
                Message::Binary(data) => Some(data),
                Message::Text(text) => Some(Bytes::from(text)),
                _ => None,
            };
            std::future::ready(Ok(data))
        });
    let output = sink
        .sink_map_err(io::Error::other)
        .with(|bytes: Bytes| std::future::ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    Connection::start(input.boxed(), output)
}

impl StreamServer {
    pub(super) fn port_forward(
        &self,
        request: Request<Incoming>,
        sandbox: String,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let pod = Pod {
            runtime: Arc::clone(&self.runtime),
            sandbox,
        };
        match wants(request.headers())? {
            Wants::Spdy => {
                let (response, _, switching) = to_spdy(request, &[SPDY])?;
                tokio::spawn(async move {
                    if let Ok(stream) = switching.done().await {
                        pod.over_spdy(plain(stream)).await;
                    }
                });
                Ok(response)
            }
            Wants::WebSocket => {
                let ports = ports(query)?;
                let (response, protocol, switching) = to_websocket(request, &[TUNNEL, CHANNELS])?;
                if protocol != Some(TUNNEL) && ports.is_empty() {
                    return Err(Refusal::new(
                        StatusCode::BAD_REQUEST,
                        "query parameter \"ports\" is required",
                    ));
                }
                tokio::spawn(async move {
                    let Ok(stream) = switching.done().await else {
                        return;
                    };
                    if protocol == Some(TUNNEL) {
                        pod.over_spdy(tunnelled(stream).await).await;
                    } else {
                        pod.over_channels(stream, ports).await;
                    }
                });
                Ok(response)
            }
        }
    }
}

/// The ports that a client over channels names.
fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let texts = query
        .all("ports")
        .chain(query.all("port"))
        .flat_map(|text| text.split(','));
    let ports: Option<Vec<u16>> = texts
        .map(|text| text.trim().parse().ok().filter(|port| *port != 0))
        .collect();
    ports
        .filter(|ports| ports.len() <= MAX_PORTS)
        .ok_or_else(|| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "query parameter \"ports\" must be numbers from 1 to 65535",
            )
        })
}

/// Whose ports are forwarded.
#[derive(Clone)]
struct Pod {
    runtime: Arc<dyn PodRuntime>,
    sandbox: String,
}

impl Pod {
    async fn connect(&self, port: u16) -> Result<Box<dyn PortStream>, String> {
        let connected = self.runtime.port_forward(&self.sandbox, port).await;
        connected.map_err(|error| {
            format!(
                "error forwarding port {port} to pod {}: {error}",
                self.sandbox
            )
        })
    }

    async fn over_spdy(self, mut connection: Connection) {
        let mut halves: HashMap<String, Accepted> = HashMap::new();
        let mut forwards = JoinSet::new();
        while let Some(stream) = connection.accept().await {
            while forwards.try_join_next().is_some() {}
            let kind = stream.header("streamtype").unwrap_or_default();
            if !matches!(kind, "data" | "error") {
                continue;
            }
            // Without numbers, a pair comes one after the other.
            let number = stream.header("requestid").unwrap_or_default().to_owned();
            let Some(other) = halves.remove(&number) else {
                if halves.len() == MAX_HALVES {
                    return;
                }
                halves.insert(number, stream);
                continue;
            };
            let (error, data) = match (kind, other.header("streamtype")) {
                ("data", Some("error")) => (other, stream),
                ("error", Some("data")) => (stream, other),
                _ => continue,
            };
            let pod = self.clone();
            forwards.spawn(async move { pod.forward(error, data).await });
        }
    }

    async fn forward(self, error: Accepted, data: Accepted) {
        let port = data.header("port").and_then(|text| text.parse().ok());
        let connected = match port {
            Some(port) => self.connect(port).await,
            None => Err("a port must be a number from 1 to 65535".to_owned()),
        };
        let outcome = match connected {
            Ok(stream) => join(stream, data).await,
            Err(message) => {
                let _ = data.writer.end().await;
                Err(message)
            }
        };
        if let Err(message) = outcome {
            let _ = error.writer.send(message.into()).await;
        }
        let _ = error.writer.end().await;
    }

    async fn over_channels(self, stream: TokioIo<Upgraded>, ports: Vec<u16>) {
        let (mut sink, mut source) = websocket::socket(stream).await.split();
        let (sending, mut messages) = mpsc::channel::<Message>(64);
        let mut typing: Vec<Option<mpsc::Sender<Bytes>>> = Vec::new();
        let mut forwards = JoinSet::new();
        for (index, port) in ports.into_iter().enumerate() {
            let channel = (index * 2) as u8;
            // Each channel begins with the port it is for.
            for channel in [channel, channel + 1] {
                let first = message(channel, &port.to_le_bytes());
                if sink.send(first).await.is_err() {
                    return;
                }
            }
            let (sender, typed) = mpsc::channel(64);
            typing.push(Some(sender));
            let (pod, sending) = (self.clone(), sending.clone());
            forwards.spawn(async move { pod.channel(channel, port, typed, sending).await });
        }
        drop(sending);
        let outward = async {
            while let Some(message) = messages.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        };
        let inward = async {
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
                if let Some(Some(sender)) = typing.get(usize::from(channel / 2))
                    && channel % 2 == 0
                {
                    // A connection that is over takes no more.
                    let _ = sender.send(data).await;
                }
            }
        };
        tokio::select! {
            () = outward => {}
            () = inward => {}
        }
    }

    async fn channel(
        self,
        channel: u8,
        port: u16,
        mut typed: mpsc::Receiver<Bytes>,
        sending: mpsc::Sender<Message>,
    ) {
        let stream = match self.connect(port).await {
            Ok(stream) => stream,
            Err(error) => {
                let _ = sending.send(message(channel + 1, error.as_bytes())).await;
                return;
            }
        };
        let (mut reader, mut writer) = tokio::io::split(stream);
        let outward = async {
            let mut buffer = vec![0; PIECE];
            loop {
                match reader.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(length) => {
                        let piece = message(channel, &buffer[..length]);
                        if sending.send(piece).await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let inward = async {
            while let Some(bytes) = typed.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            let _ = writer.shutdown().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = outward => {}
            () = inward => {}
        }
    }
}

/// Carries bytes both ways until both have ended.
async fn join(stream: Box<dyn PortStream>, data: Accepted) -> Result<(), String> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let Accepted {
        reader: mut input,
        writer: output,
        ..
    } = data;
    let inward = async {
        while let Some(bytes) = input.next().await {
            if let Err(error) = writer.write_all(&bytes).await {
                return Err(format!(
                    "error copying from local connection to remote stream: {error}"
                ));
            }
        }
        // The other side may go on.
        let _ = writer.shutdown().await;
        Ok(())
    };
    let outward = send_all(&mut reader, output);
    // A pod that has said everything has no use for more.
    let (mut inward, mut outward) = (std::pin::pin!(inward), std::pin::pin!(outward));
    tokio::select! {
        result = &mut outward => result,
        result = &mut inward => {
            let rest = outward.await;
            result.and(rest)
        }
    }
}

async fn send_all(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    output: StreamWriter,
) -> Result<(), String> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        let mut room = (&mut buffer).limit(PIECE);
        match reader.read_buf(&mut room).await {
            Ok(0) => break,
            Ok(_) => {
                let piece = buffer.split().freeze();
                // A client that is gone needs nothing.
                if output.send(piece).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                let _ = output.end().await;
                return Err(format!(
                    "error copying from remote stream to local connection: {error}"
                ));
            }
        }
    }
    let _ = output.end().await;
    Ok(())
}
