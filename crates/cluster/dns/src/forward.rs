//! Questions for names of others: asked once at a time, within bounds, and
//! remembered for a short time.
//!
//! A question that is under way is not asked a second time: whoever comes with
//! it waits for the first one's answer. So a loop of servers meets itself after
//! one round, and ends with the first one's patience.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::reply::{Question, Transport, reply};

/// How long one upstream may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way at once; more are refused.
const MAX_QUESTIONS: usize = 1024;
/// Answers remembered at most.
const MAX_ANSWERS: usize = 4096;
/// An answer is remembered for at most so many seconds, whatever it says.
const LONGEST: u32 = 30;
const MAX_DATAGRAM: usize = 65_535;

/// What makes two questions the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    kind: RecordType,
    is_dnssec: bool,
    is_checking_disabled: bool,
    is_recursive: bool,
    is_stream: bool,
    room: u16,
}

#[derive(Debug, Clone)]
struct Remembered {
    message: Arc<Message>,
    since: Instant,
    lifetime: u32,
}

#[derive(Debug, Default)]
struct Memory {
    answers: HashMap<Key, Remembered>,
    /// In the order in which they came.
    order: VecDeque<Key>,
}

type Outcome = Option<Arc<Message>>;

/// Asks upstreams.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    /// Which upstream answered last: it is asked first.
    preferred: AtomicUsize,
    places: Semaphore,
    memory: Mutex<Memory>,
    under_way: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self {
            upstreams,
            preferred: AtomicUsize::new(0),
            places: Semaphore::new(MAX_QUESTIONS),
            memory: Mutex::default(),
            under_way: Mutex::default(),
        }
    }

    /// The answer to `question` as somebody else has it, addressed to who asked;
    /// a failure if nobody has one.
    pub(crate) async fn ask(&self, question: &Question, transport: Transport) -> Message {
        let key = key(question, transport);
        if let Some(known) = self.recall(&key) {
            return address(known, question);
        }
        match self.ask_once(&key, question, transport).await {
            Some(answer) => address((*answer).clone(), question),
            None => reply(&question.message, ResponseCode::ServFail),
        }
    }

    async fn ask_once(&self, key: &Key, question: &Question, transport: Transport) -> Outcome {
        let asker = {
            let mut under_way = self.under_way.lock();
            match under_way.get(key) {
                Some(receiver) => Err(receiver.clone()),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    under_way.insert(key.clone(), receiver);
                    Ok(sender)
                }
            }
        };
        match asker {
            // One who asks and is dropped closes the channel.
            Err(mut waiting) => match waiting.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().flatten(),
                Err(_) => None,
            },
            Ok(sender) => {
                let _done = Done {
                    forwarder: self,
                    key,
                };
                let outcome = self.ask_upstreams(question, transport).await.map(Arc::new);
                if let Some(answer) = &outcome {
                    self.remember(key.clone(), Arc::clone(answer));
                }
                let _ = sender.send(Some(outcome.clone()));
                outcome
            }
        }
    }

    async fn ask_upstreams(&self, question: &Question, transport: Transport) -> Option<Message> {
        let _place = self.places.try_acquire().ok()?;
        let mut last = None;
        let first = self.preferred.load(Ordering::Relaxed);
        for turn in 0..self.upstreams.len() {
            let index = (first + turn) % self.upstreams.len();
            let upstream = self.upstreams[index];
            let asking = ask_upstream(upstream, question, transport);
            match tokio::time::timeout(PATIENCE, asking).await {
                Ok(Ok(answer)) => {
                    let code = answer.metadata.response_code;
                    if !matches!(code, ResponseCode::ServFail | ResponseCode::Refused) {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Some(answer);
                    }
                    last = Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "no answer"),
                Err(_) => tracing::debug!(%upstream, "no answer in time"),
            }
        }
        last
    }

    fn recall(&self, key: &Key) -> Option<Message> {
        let memory = self.memory.lock();
        let known = memory.answers.get(key)?;
        let age = u32::try_from(known.since.elapsed().as_secs()).ok()?;
        if age >= known.lifetime {
            return None;
        }
        let mut message = (*known.message).clone();
        drop(memory);
        for records in [
            &mut message.answers,
            &mut message.authorities,
            &mut message.additionals,
        ] {
            for record in records {
                record.decrement_ttl(age);
            }
        }
        Some(message)
    }

    fn remember(&self, key: Key, message: Arc<Message>) {
        let Some(lifetime) = lifetime(&message) else {
            return;
        };
        let mut memory = self.memory.lock();
        let remembered = Remembered {
            message,
            since: Instant::now(),
            lifetime,
        };
        if memory.answers.insert(key.clone(), remembered).is_none() {
            memory.order.push_back(key);
        }
        while memory.order.len() > MAX_ANSWERS {
            if let Some(oldest) = memory.order.pop_front() {
                memory.answers.remove(&oldest);
            }
        }
    }
}

/// Lets the next one ask, also when the asker is dropped.
struct Done<'a> {
    forwarder: &'a Forwarder,
    key: &'a Key,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.forwarder.under_way.lock().remove(self.key);
    }
}

fn key(question: &Question, transport: Transport) -> Key {
    let message = &question.message;
    Key {
        name: question.query.name().to_lowercase().to_ascii(),
        kind: question.query.query_type(),
        is_dnssec: message
            .edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok),
        is_checking_disabled: message.metadata.checking_disabled,
        is_recursive: message.metadata.recursion_desired,
        is_stream: transport == Transport::Stream,
        room: crate::reply::datagram_room(message),
    }
}

/// How long an answer may be remembered, in seconds. A denial says so with its
/// start of authority; one without is not remembered.
fn lifetime(message: &Message) -> Option<u32> {
    let code = message.metadata.response_code;
    if message.metadata.truncation
        || !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
    {
        return None;
    }
    let shortest = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    let lifetime = if message.answers.is_empty() {
        message
            .authorities
            .iter()
            .filter(|record| record.record_type() == RecordType::SOA)
            .map(|record| record.ttl)
            .min()
    } else {
        shortest(&message.answers)
    };
    lifetime
        .map(|lifetime| lifetime.min(LONGEST))
        .filter(|lifetime| *lifetime > 0)
}

/// Makes an answer the one to `question`.
fn address(mut answer: Message, question: &Question) -> Message {
    answer.metadata.id = question.message.metadata.id;
    // In the letters that the asker used.
    answer.queries = vec![question.query.clone()];
    answer
}

async fn ask_upstream(
    upstream: SocketAddr,
    question: &Question,
    transport: Transport,
) -> io::Result<Message> {
    let mut asked = question.message.clone();
    asked.metadata.id = rand::random();
    let bytes = asked.to_vec().map_err(io::Error::other)?;
    match transport {
        Transport::Datagram => ask_datagram(upstream, &asked, &bytes).await,
        Transport::Stream => ask_stream(upstream, &asked, &bytes).await,
    }
}

async fn ask_datagram(upstream: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket of its own has a port of its own, which is hard to guess.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = read(&buffer[..length], asked) {
            return Ok(answer);
        }
    }
}

async fn ask_stream(upstream: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes()[..], bytes].concat())
        .await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    read(&answer, asked).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// The bytes as the answer to `asked`, if they are.
fn read(bytes: &[u8], asked: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_ours = answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == asked.queries;
    is_ours.then_some(answer)
}
