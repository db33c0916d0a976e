//! The server: sockets, and the way of a question through zone and forwarder.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use kube::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::Error;
use crate::follow::follow;
use crate::forward::Forwarder;
use crate::reply::{
    Answer, Question, Received, Transport, answer, complete, encode, receive, reply,
};
use crate::zone::Zone;

/// Streams served at once; more wait to be accepted.
const MAX_STREAMS: usize = 256;
/// Datagrams under way at once; more are dropped, as a full queue would.
const MAX_DATAGRAMS: usize = 2048;
/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to wait after a socket failed.
const PAUSE: Duration = Duration::from_millis(100);
const LARGEST_QUESTION: usize = 4096;

/// What the server must know besides the API.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens, datagrams and streams.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, for example `cluster.local`.
    pub domain: String,
    /// Who is asked for the names of others, in this order. Addresses that the
    /// server listens at are passed over.
    pub upstreams: Vec<SocketAddr>,
}

/// A name server whose sockets are open.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<(UdpSocket, TcpListener)>,
    domain: Name,
    upstreams: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Answering {
    zone: watch::Receiver<Option<Arc<Zone>>>,
    domain: Name,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

impl Server {
    /// Opens the sockets. Port 0 means one free port for both.
    ///
    /// # Errors
    ///
    /// [`Error::Domain`] and [`Error::Listen`].
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let domain = Name::from_utf8(&config.domain)
            .and_then(|name| name.append_domain(&Name::root()))
            .map_err(|_| Error::Domain(config.domain.clone()))?;
        if domain.is_root() {
            return Err(Error::Domain(config.domain));
        }
        let mut sockets = Vec::new();
        for address in config.listen {
            let bound = bind(address).await;
            sockets.push(bound.map_err(|source| Error::Listen { address, source })?);
        }
        let mut server = Self {
            sockets,
            domain,
            upstreams: Vec::new(),
        };
        let own = server.addresses();
        server.upstreams = config
            .upstreams
            .into_iter()
            .filter(|upstream| !own.contains(upstream))
            .collect();
        Ok(server)
    }

    /// Where the server listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.sockets.iter();
        addresses
            .filter_map(|(datagrams, _)| datagrams.local_addr().ok())
            .collect()
    }

    /// Answers until `shutdown` resolves. Names of the cluster fail until the
    /// API was read once.
    pub async fn run(self, client: Client, shutdown: impl Future<Output = ()>) {
        let (sender, zone) = watch::channel(None);
        let answering = Arc::new(Answering {
            zone,
            domain: self.domain.clone(),
            forwarder: Forwarder::new(self.upstreams),
            turn: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        for (datagrams, streams) in self.sockets {
            tasks.spawn(Arc::clone(&answering).serve_datagrams(Arc::new(datagrams)));
            tasks.spawn(Arc::clone(&answering).serve_streams(streams));
        }
        tokio::select! {
            () = shutdown => {}
            () = follow(client, self.domain, sender) => {}
        }
    }
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let streams = TcpListener::bind(address).await?;
    let datagrams = UdpSocket::bind(streams.local_addr()?).await?;
    Ok((datagrams, streams))
}

impl Answering {
    async fn serve_datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let places = Arc::new(Semaphore::new(MAX_DATAGRAMS));
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; LARGEST_QUESTION];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "a question cannot be received");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            while tasks.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            match self.begin(&buffer[..length]) {
                Begun::Nothing => {}
                Begun::Answered(asked, message) => {
                    if let Some(bytes) = encode(&message, &asked, Transport::Datagram) {
                        let _ = socket.send_to(&bytes, client).await;
                    }
                }
                Begun::Question(question, step) => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tasks.spawn(async move {
                        let message = server.finish(&question, step, Transport::Datagram).await;
                        if let Some(bytes) =
                            encode(&message, &question.message, Transport::Datagram)
                        {
                            // An asker that is gone needs no answer.
                            let _ = socket.send_to(&bytes, client).await;
                        }
                        drop(place);
                    });
                }
            }
        }
    }

    async fn serve_streams(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_STREAMS));
        let mut tasks = JoinSet::new();
        loop {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            while tasks.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "a stream cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let server = Arc::clone(&self);
            tasks.spawn(async move {
                // Whoever breaks off has what it wanted.
                let _ = server.converse(stream).await;
                drop(place);
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let bytes = tokio::time::timeout(SILENCE, question(&mut stream)).await??;
            let (asked, message) = match self.begin(&bytes) {
                Begun::Nothing => return Ok(()),
                Begun::Answered(asked, message) => (*asked, *message),
                Begun::Question(question, step) => {
                    let message = self.finish(&question, step, Transport::Stream).await;
                    (question.message, message)
                }
            };
            let Some(bytes) = encode(&message, &asked, Transport::Stream) else {
                return Ok(());
            };
            let Ok(length) = u16::try_from(bytes.len()) else {
                return Ok(());
            };
            let framed = [&length.to_be_bytes()[..], &bytes].concat();
            tokio::time::timeout(SILENCE, stream.write_all(&framed)).await??;
        }
    }

    /// Does what needs no waiting.
    fn begin(&self, bytes: &[u8]) -> Begun {
        let question = match receive(bytes) {
            Received::Nothing => return Begun::Nothing,
            Received::Refused(message) => return Begun::Answered(message.clone(), message),
            Received::Question(question) => question,
        };
        let zone = self.zone.borrow().clone();
        let Some(zone) = zone else {
            if !self.domain.zone_of(question.query.name()) {
                return Begun::Question(question, Step::Forward);
            }
            let message = reply(&question.message, ResponseCode::ServFail);
            return Begun::Answered(Box::new(question.message), Box::new(message));
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match answer(&zone, &question, turn) {
            Answer::Known(message) => Begun::Answered(Box::new(question.message), message),
            Answer::Forward => Begun::Question(question, Step::Forward),
            Answer::Follow { reply, target } => {
                Begun::Question(question, Step::Follow { reply, target })
            }
        }
    }

    async fn finish(&self, question: &Question, step: Step, transport: Transport) -> Message {
        match step {
            Step::Forward => self.forwarder.ask(question, transport).await,
            Step::Follow { reply, target } => {
                let query = Query::query(target, question.query.query_type());
                let mut message =
                    Message::new(0, question.message.metadata.message_type, OpCode::Query);
                message.metadata.recursion_desired = true;
                message.add_query(query.clone());
                let onward = Question { message, query };
                // By stream: an answer that is cut cannot be joined to ours.
                let found = self.forwarder.ask(&onward, transport).await;
                let found = if found.metadata.truncation {
                    self.forwarder.ask(&onward, Transport::Stream).await
                } else {
                    found
                };
                let kind = question.query.query_type();
                let records = found
                    .answers
                    .into_iter()
                    .filter(|record| {
                        record.record_type() == kind || record.record_type() == RecordType::CNAME
                    })
                    .collect();
                complete(*reply, found.metadata.response_code, records)
            }
        }
    }
}

enum Begun {
    Nothing,
    /// What was asked, and the whole answer.
    Answered(Box<Message>, Box<Message>),
    Question(Box<Question>, Step),
}

enum Step {
    Forward,
    Follow { reply: Box<Message>, target: Name },
}

async fn question(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
