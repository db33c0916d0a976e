//! From a question's bytes to what is to be done, and from a reply to bytes
//! that fit. Pure.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

use crate::zone::{Found, Zone};

/// What a datagram may hold at most, whatever the asker says: what passes
/// every network in one piece.
const MAX_DATAGRAM: u16 = 1232;
/// What a datagram may hold when the asker says nothing (RFC 1035, 4.2.1).
const PLAIN_DATAGRAM: u16 = 512;
/// Names that stand for names are followed so many times.
const MAX_ALIASES: usize = 8;
const HEADER: usize = 12;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Datagram,
    Stream,
}

/// A question that makes sense.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) message: Message,
    pub(crate) query: Query,
}

/// What is to be done with bytes that came.
#[derive(Debug)]
pub(crate) enum Received {
    /// They are no question: an answer to nothing, or too short.
    Nothing,
    /// They get this answer.
    Refused(Box<Message>),
    /// A question.
    Question(Box<Question>),
}

/// Takes bytes apart.
pub(crate) fn receive(bytes: &[u8]) -> Received {
    let Some(header) = bytes.get(..HEADER) else {
        return Received::Nothing;
    };
    // Answering an answer would begin a loop.
    if header[2] & 0x80 != 0 {
        return Received::Nothing;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        let id = u16::from_be_bytes([header[0], header[1]]);
        let op_code = OpCode::from_u8(header[2] >> 3 & 0xf);
        let error = Message::error_msg(id, op_code, ResponseCode::FormErr);
        return Received::Refused(Box::new(error));
    };
    if message.metadata.message_type != MessageType::Query {
        return Received::Nothing;
    }
    let refused = |code| Received::Refused(Box::new(reply(&message, code)));
    if message.metadata.op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    if message.version() != 0 {
        return refused(ResponseCode::BADVERS);
    }
    let [query] = message.queries.as_slice() else {
        return refused(ResponseCode::FormErr);
    };
    let is_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || is_transfer {
        return refused(ResponseCode::Refused);
    }
    let query = query.clone();
    Received::Question(Box::new(Question { message, query }))
}

/// An empty reply to `question`.
pub(crate) fn reply(question: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = question.metadata.checking_disabled;
    reply.metadata.response_code = code;
    reply.add_queries(question.queries.iter().cloned());
    if let Some(asked) = &question.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM)
            .set_dnssec_ok(asked.flags().dnssec_ok)
            .set_rcode_high(code.high());
        reply.set_edns(edns);
    }
    reply
}

/// What the zone has to say.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The whole answer.
    Known(Box<Message>),
    /// The name is not the cluster's, and the question goes on as it came.
    Forward,
    /// The name stands for one that is not the cluster's: the answer lacks its
    /// records.
    Follow { reply: Box<Message>, target: Name },
}

/// Answers from the zone. `turn` rotates the records, so that askers who take
/// the first one are spread.
pub(crate) fn answer(zone: &Zone, question: &Question, turn: usize) -> Answer {
    let kind = question.query.query_type();
    let mut reply = reply(&question.message, ResponseCode::NoError);
    reply.metadata.authoritative = true;
    let mut name = question.query.name().clone();
    for _ in 0..MAX_ALIASES {
        match zone.find(&name, kind) {
            Found::Outside if reply.answers.is_empty() => return Answer::Forward,
            Found::Outside => {
                return Answer::Follow {
                    reply: Box::new(reply),
                    target: name,
                };
            }
            Found::NoName => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.add_authority(zone.soa());
                return Answer::Known(Box::new(reply));
            }
            Found::NoData => {
                reply.add_authority(zone.soa());
                return Answer::Known(Box::new(reply));
            }
            Found::Records {
                mut answers,
                additionals,
            } => {
                let n_answers = answers.len().max(1);
                answers.rotate_left(turn % n_answers);
                reply.add_answers(answers);
                reply.add_additionals(additionals);
                return Answer::Known(Box::new(reply));
            }
            Found::Alias { record, target } => {
                reply.add_answer(*record);
                if kind == RecordType::CNAME || kind == RecordType::ANY {
                    return Answer::Known(Box::new(reply));
                }
                name = target;
            }
        }
    }
    reply.metadata.response_code = ResponseCode::ServFail;
    Answer::Known(Box::new(reply))
}

/// Adds what was found out about the end of an alias.
pub(crate) fn complete(mut reply: Message, code: ResponseCode, records: Vec<Record>) -> Message {
    reply.metadata.response_code = code;
    // What others said is not ours to vouch for.
    reply.metadata.authoritative = false;
    reply.add_answers(records);
    reply
}

/// The reply's bytes, cut to the bare question if they do not fit a datagram.
pub(crate) fn encode(reply: &Message, asked: &Message, transport: Transport) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    let room = match transport {
        Transport::Stream => u16::MAX,
        Transport::Datagram => datagram_room(asked),
    };
    if bytes.len() <= usize::from(room) {
        return Some(bytes);
    }
    // Additional records may go without notice.
    let mut shorter = reply.clone();
    shorter.additionals.clear();
    let bytes = shorter.to_vec().ok()?;
    if bytes.len() <= usize::from(room) {
        return Some(bytes);
    }
    reply.truncate().to_vec().ok()
}

/// How large a datagram the asker takes.
pub(crate) fn datagram_room(asked: &Message) -> u16 {
    match &asked.edns {
        None => PLAIN_DATAGRAM,
        Some(edns) => edns.max_payload().clamp(PLAIN_DATAGRAM, MAX_DATAGRAM),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RData;
    use hickory_proto::rr::rdata::A;
    use k8s_openapi::api::core::v1::Service;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn question(text: &str, kind: RecordType) -> Question {
        let query = Query::query(name(text), kind);
        let mut message = Message::query();
        message.add_query(query.clone());
        Question { message, query }
    }

    /// Services of type ExternalName, from name to target.
    fn aliases(pairs: &[(&str, &str)]) -> Zone {
        let services: Vec<Service> = pairs
            .iter()
            .map(|(name, target)| {
                json!({
                    "metadata": { "name": name, "namespace": "default" },
                    "spec": { "type": "ExternalName", "externalName": target },
                })
            })
            .map(|service| serde_json::from_value(service).expect("a Service"))
            .collect();
        let namespaces = ["default".to_owned()];
        Zone::of(name("cluster.local."), namespaces, &services, [])
    }

    #[test]
    fn aliases_are_followed_but_not_for_ever() {
        let zone = aliases(&[
            ("a", "b.default.svc.cluster.local"),
            ("b", "example.com"),
            ("loop", "loop.default.svc.cluster.local"),
        ]);
        let asked = question("a.default.svc.cluster.local.", RecordType::A);
        let Answer::Follow { reply, target } = answer(&zone, &asked, 0) else {
            panic!("the end is somebody else's");
        };
        assert_eq!(target, name("example.com."));
        assert_eq!(reply.answers.len(), 2);
        let asked = question("a.default.svc.cluster.local.", RecordType::CNAME);
        let Answer::Known(reply) = answer(&zone, &asked, 0) else {
            panic!("the alias itself is known");
        };
        assert_eq!(reply.answers.len(), 1);
        let asked = question("loop.default.svc.cluster.local.", RecordType::A);
        let Answer::Known(reply) = answer(&zone, &asked, 0) else {
            panic!("it is nobody else's");
        };
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }

    proptest! {
        /// Whatever an asker says it takes, a datagram is no larger, and one that
        /// lacks answers says so.
        #[test]
        fn replies_fit(n_answers in 0usize..300, n_additionals in 0usize..50, takes in any::<Option<u16>>()) {
            let mut asked = question("db.default.svc.cluster.local.", RecordType::A);
            if let Some(takes) = takes {
                let mut edns = Edns::new();
                edns.set_max_payload(takes);
                asked.message.set_edns(edns);
            }
            let mut whole = reply(&asked.message, ResponseCode::NoError);
            for number in 0..n_answers + n_additionals {
                let address = A([10, 0, (number / 250) as u8, (number % 250) as u8].into());
                let record = Record::from_rdata(asked.query.name().clone(), 5, RData::A(address));
                if number < n_answers {
                    whole.add_answer(record);
                } else {
                    whole.add_additional(record);
                }
            }
            let room = usize::from(takes.unwrap_or(512).clamp(512, 1232));
            let bytes = encode(&whole, &asked.message, Transport::Datagram).expect("bytes");
            prop_assert!(bytes.len() <= room);
            let sent = Message::from_vec(&bytes).expect("a message");
            prop_assert!(sent.metadata.truncation || sent.answers.len() == n_answers);
            prop_assert_eq!(sent.edns.is_some(), takes.is_some());
            let bytes = encode(&whole, &asked.message, Transport::Stream).expect("bytes");
            let sent = Message::from_vec(&bytes).expect("a message");
            prop_assert_eq!(sent.answers.len(), n_answers);
        }

        #[test]
        fn bytes_of_strangers_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Received::Question(question) = receive(&bytes) {
                let _ = answer(&aliases(&[]), &question, 0);
            }
        }
    }
}
