//! Answers questions for names of endpoints, and passes the others on.
//!
//! One server listens at the gateway of each network that has names; sandboxes
//! ask 127.0.0.11, which their own packet filter leads here. Who asks is told
//! by the address: a name means what it means on the asker's networks. In a
//! sandbox that no bridge of ours leads to, the server listens itself. What no
//! network knows goes to the asker's own name servers or else the host's, byte
//! for byte; of a sandbox without a way out it goes nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dhow_netlink::Namespace;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::names::{Asker, Known, Place};
use crate::networks::Networks;

/// Names move with containers, so answers are good for a short time, in seconds.
const TIME_TO_LIVE: u32 = 5;
/// How long one of the host's name servers may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// Questions under way at once for one network; more are dropped, as a full
/// queue would.
const MAX_QUESTIONS: usize = 1024;
const MAX_DATAGRAM: usize = 4096;
/// How long nothing is taken after an error: out of descriptors, say.
const PAUSE: Duration = Duration::from_secs(1);
/// Where sandboxes ask.
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The name service of one instance.
#[derive(Debug)]
pub struct NameServer {
    networks: Arc<Networks>,
    upstreams: Vec<SocketAddr>,
}

impl NameServer {
    /// A server for `networks` that asks `upstreams` what it does not know.
    pub fn new(networks: Arc<Networks>, upstreams: Vec<SocketAddr>) -> Self {
        Self {
            networks,
            upstreams,
        }
    }

    /// The name servers in a `resolv.conf`.
    pub fn upstreams(resolv_conf: &str) -> Vec<SocketAddr> {
        resolv_conf
            .lines()
            .filter_map(|line| {
                line.trim()
                    .strip_prefix("nameserver")?
                    .split_whitespace()
                    .next()
            })
            .filter_map(|address| address.parse::<IpAddr>().ok())
            .map(|address| SocketAddr::new(address, 53))
            .collect()
    }

    /// Serves until it is dropped, following the networks as they come and go.
    pub async fn run(self) {
        let server = Arc::new(self);
        let mut wanted = server.networks.name_places();
        let mut running: BTreeMap<Place, JoinSet<()>> = BTreeMap::new();
        loop {
            let places: BTreeSet<Place> = wanted.borrow_and_update().clone();
            running.retain(|place, _| places.contains(place));
            for place in places {
                running.entry(place).or_insert_with_key(|place| {
                    let mut tasks = JoinSet::new();
                    tasks.spawn(Arc::clone(&server).serve(place.clone()));
                    tasks
                });
            }
            if wanted.changed().await.is_err() {
                return;
            }
        }
    }

    async fn serve(self: Arc<Self>, place: Place) {
        let place = Arc::new(place);
        let (datagrams, streams) = loop {
            match self.listen(&place) {
                Ok(listening) => break listening,
                Err(error) => pause(&place, &error).await,
            }
        };
        tokio::join!(
            Arc::clone(&self).serve_datagrams(datagrams, Arc::clone(&place)),
            Arc::clone(&self).serve_streams(streams, place),
        );
    }

    fn listen(&self, place: &Place) -> io::Result<(UdpSocket, TcpListener)> {
        let bind = |address: Ipv4Addr| -> io::Result<_> {
            let datagrams = std::net::UdpSocket::bind((address, 53))?;
            let streams = std::net::TcpListener::bind((address, 53))?;
            datagrams.set_nonblocking(true)?;
            streams.set_nonblocking(true)?;
            Ok((datagrams, streams))
        };
        let (datagrams, streams) = match place {
            Place::Gateway(address) => bind(*address)?,
            Place::Sandbox(sandbox) => {
                let path = self.networks.sandbox_path(sandbox);
                let namespace = Namespace::open(&path).map_err(io::Error::other)?;
                namespace.run(|| bind(INSIDE)).map_err(io::Error::other)??
            }
        };
        Ok((
            UdpSocket::from_std(datagrams)?,
            TcpListener::from_std(streams)?,
        ))
    }

    async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket, place: Arc<Place>) {
        let socket = Arc::new(socket);
        let places = Arc::new(Semaphore::new(MAX_QUESTIONS));
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    pause(&place, &error).await;
                    continue;
                }
            };
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let question = buffer[..length].to_vec();
            let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
            let place = Arc::clone(&place);
            tasks.spawn(async move {
                let asker = asker(&place, client);
                if let Some(answer) = server.answer(asker, &question, Transport::Datagram).await {
                    // An asker that is gone needs no answer.
                    let _ = socket.send_to(&answer, client).await;
                }
                drop(permit);
            });
        }
    }

    async fn serve_streams(self: Arc<Self>, listener: TcpListener, place: Arc<Place>) {
        let places = Arc::new(Semaphore::new(MAX_QUESTIONS));
        let mut tasks = JoinSet::new();
        loop {
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause(&place, &error).await;
                    continue;
                }
            };
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let (server, place) = (Arc::clone(&self), Arc::clone(&place));
            tasks.spawn(async move {
                let conversation = server.converse(stream, asker(&place, client));
                let _ = tokio::time::timeout(PATIENCE * 2, conversation).await;
                drop(permit);
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream, asker: Asker<'_>) -> io::Result<()> {
        loop {
            let length = stream.read_u16().await?;
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await?;
            let Some(answer) = self.answer(asker, &question, Transport::Stream).await else {
                return Ok(());
            };
            let Ok(length) = u16::try_from(answer.len()) else {
                return Ok(());
            };
            stream.write_all(&length.to_be_bytes()).await?;
            stream.write_all(&answer).await?;
        }
    }

    /// The answer to a question, or `None` for bytes that are no question.
    async fn answer(
        &self,
        asker: Asker<'_>,
        bytes: &[u8],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let question = question(bytes)?;
        let look = |asked: &Asked| match asked {
            Asked::Name(name) => match self.networks.resolve(asker, name) {
                Known::Answer(addresses) => Known::Answer(Found::Addresses(addresses)),
                Known::Ask(servers) => Known::Ask(servers),
                Known::Nothing => Known::Nothing,
            },
            Asked::Address(address) => match self.networks.reverse(asker, *address) {
                Known::Answer(names) => Known::Answer(Found::Names(names)),
                Known::Ask(servers) => Known::Ask(servers),
                Known::Nothing => Known::Nothing,
            },
            Asked::Else => match self.networks.elsewhere(asker) {
                Known::Answer(_) | Known::Nothing => Known::Nothing,
                Known::Ask(servers) => Known::Ask(servers),
            },
        };
        let servers = match look(&asked(&question)) {
            Known::Answer(found) => return reply(&question, found).to_vec().ok(),
            Known::Nothing => Vec::new(),
            Known::Ask(servers) if servers.is_empty() => self.upstreams.clone(),
            Known::Ask(servers) => servers
                .into_iter()
                .map(|address| SocketAddr::new(address, 53))
                .collect(),
        };
        for server in servers {
            let asked = match transport {
                Transport::Datagram => ask_datagram(server, bytes).await,
                Transport::Stream => ask_stream(server, bytes).await,
            };
            match asked {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::debug!(%server, %error, "name server did not answer"),
            }
        }
        let mut failure = reply_to(&question);
        failure.metadata.response_code = ResponseCode::ServFail;
        failure.to_vec().ok()
    }
}

/// What a question is about.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// The addresses of a name.
    Name(String),
    /// The names of an address.
    Address(IpAddr),
    /// Something that only others know.
    Else,
}

/// What a question's answer is made of.
#[derive(Debug)]
enum Found {
    Addresses(Vec<IpAddr>),
    Names(Vec<String>),
}

/// The question in a message that is one.
fn question(bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    (message.metadata.message_type == MessageType::Query).then_some(message)
}

fn asked(question: &Message) -> Asked {
    let [query] = question.queries.as_slice() else {
        return Asked::Else;
    };
    if question.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
        return Asked::Else;
    }
    match query.query_type() {
        RecordType::A | RecordType::AAAA => Asked::Name(query.name().to_ascii()),
        RecordType::PTR => match query.name().parse_arpa_name() {
            Ok(network) if network.prefix_len() == network.max_prefix_len() => {
                Asked::Address(network.addr())
            }
            _ => Asked::Else,
        },
        _ => Asked::Else,
    }
}

/// The answer that says what was found, as far as it is of the type asked for.
fn reply(question: &Message, found: Found) -> Message {
    let mut answer = reply_to(question);
    answer.metadata.authoritative = true;
    let Some(query) = question.queries.first() else {
        return answer;
    };
    let wanted = query.query_type();
    let mut data: Vec<RData> = match found {
        Found::Addresses(addresses) => addresses
            .into_iter()
            .filter_map(|address| match (address, wanted) {
                (IpAddr::V4(address), RecordType::A) => Some(RData::A(A(address))),
                (IpAddr::V6(address), RecordType::AAAA) => Some(RData::AAAA(AAAA(address))),
                _ => None,
            })
            .collect(),
        Found::Names(names) => names
            .iter()
            .filter_map(|name| Some(RData::PTR(PTR(Name::from_ascii(name).ok()?))))
            .collect(),
    };
    // Who has several addresses is found at each of them in turn.
    if !data.is_empty() {
        let first = usize::from(question.metadata.id) % data.len();
        data.rotate_left(first);
    }
    for data in data {
        answer.add_answer(Record::from_rdata(query.name().clone(), TIME_TO_LIVE, data));
    }
    answer
}

/// How a question came, and how it is passed on.
#[derive(Debug, Clone, Copy)]
enum Transport {
    Datagram,
    Stream,
}

async fn pause(place: &Place, error: &io::Error) {
    tracing::warn!(?place, %error, "names are not answered there for a moment");
    tokio::time::sleep(PAUSE).await;
}

/// Who asks: at a bridge the address tells, inside a sandbox it is its own.
fn asker(place: &Place, client: SocketAddr) -> Asker<'_> {
    match place {
        Place::Gateway(_) => Asker::Address(client.ip()),
        Place::Sandbox(sandbox) => Asker::Sandbox(sandbox),
    }
}

fn reply_to(question: &Message) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(question.queries.iter().cloned());
    reply
}

async fn ask_datagram(upstream: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if upstream.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        IpAddr::V6([0; 16].into())
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MAX_DATAGRAM];
    loop {
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await??;
        // Whoever answers must know the question's number.
        if length >= 12 && answer[..2] == question[..2] {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_stream(upstream: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let ask = async {
        let mut stream = TcpStream::connect(upstream).await?;
        let length = u16::try_from(question.len()).map_err(io::Error::other)?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(question).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, ask).await?
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use proptest::prelude::*;

    use super::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        message
    }

    #[test]
    fn what_is_asked() {
        for (name, kind, expected) in [
            (
                "web.front.",
                RecordType::A,
                Asked::Name("web.front.".into()),
            ),
            ("web.", RecordType::AAAA, Asked::Name("web.".into())),
            ("web.", RecordType::MX, Asked::Else),
            (
                "2.0.17.172.in-addr.arpa.",
                RecordType::PTR,
                Asked::Address([172, 17, 0, 2].into()),
            ),
            ("17.172.in-addr.arpa.", RecordType::PTR, Asked::Else),
            ("web.", RecordType::PTR, Asked::Else),
            (
                "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
                RecordType::PTR,
                Asked::Address("fd00::2".parse().expect("an address")),
            ),
        ] {
            assert_eq!(asked(&ask(name, kind)), expected, "{name} {kind}");
        }
    }

    #[test]
    fn a_name_without_an_address_of_the_family_is_known_all_the_same() {
        let found = Found::Addresses(vec![[172, 17, 0, 2].into()]);
        let answer = reply(&ask("web.", RecordType::AAAA), found);
        assert!(answer.answers.is_empty());
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    }

    #[test]
    fn several_addresses_take_turns() {
        let addresses: Vec<IpAddr> = (1..=3).map(|n| [10, 0, 0, n].into()).collect();
        let first = |id| {
            let mut question = ask("web.", RecordType::A);
            question.metadata.id = id;
            let answer = reply(&question, Found::Addresses(addresses.clone()));
            assert_eq!(answer.answers.len(), 3);
            answer.answers[0].data.to_string()
        };
        assert_eq!(
            [first(0), first(1), first(5)],
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        );
    }

    proptest! {
        /// Whatever bytes come in: no panic, and what is answered is an answer
        /// to that question.
        #[test]
        fn hostile_bytes_do_no_harm(
            start in prop::collection::vec(any::<u8>(), 0..64),
            is_cut in any::<bool>(),
            at in 0usize..64,
            with in any::<u8>(),
        ) {
            let mut good = ask("web.front.", RecordType::A).to_vec().expect("it fits");
            if is_cut {
                good.truncate(at);
            } else if let Some(byte) = good.get_mut(at) {
                *byte = with;
            }
            for bytes in [start, good] {
                let Some(question) = question(&bytes) else { continue };
                let _ = asked(&question);
                let found = Found::Addresses(vec![[10, 0, 0, 1].into(), [0; 16].into()]);
                let answer = reply(&question, found);
                prop_assert_eq!(answer.metadata.id, question.metadata.id);
                prop_assert_eq!(answer.metadata.message_type, MessageType::Response);
                let _ = answer.to_vec();
            }
        }
    }
}
