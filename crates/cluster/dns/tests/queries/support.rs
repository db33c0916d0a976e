//! The server with its cluster, an upstream that counts, and a client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dhow_apiserver::{ApiServer, UserInfo};
use dhow_dns::{Config, Server};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(20);

pub fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

pub fn query(text: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

pub fn texts(answer: &Message) -> Vec<String> {
    let answers = answer.answers.iter();
    answers.map(|record| record.data.to_string()).collect()
}

pub async fn ask(at: SocketAddr, text: &str, kind: RecordType) -> Message {
    send(at, &query(text, kind)).await
}

pub async fn send(at: SocketAddr, question: &Message) -> Message {
    let answer = send_bytes(at, &question.to_vec().expect("bytes")).await;
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

pub async fn send_bytes(at: SocketAddr, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(at).await.expect("connected");
    socket.send(bytes).await.expect("sent");
    let mut buffer = vec![0; 65_535];
    let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer));
    let length = received
        .await
        .expect("an answer in time")
        .expect("received");
    Message::from_vec(&buffer[..length]).expect("a message")
}

pub async fn ask_stream(at: SocketAddr, question: &Message) -> Message {
    let asking = async {
        let mut stream = TcpStream::connect(at).await?;
        let bytes = question.to_vec().expect("bytes");
        stream.write_u16(bytes.len() as u16).await?;
        stream.write_all(&bytes).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    let answer = answer.expect("an answer in time").expect("read");
    Message::from_vec(&answer).expect("a message")
}

/// A name server that knows `host.example.com.` and counts.
pub struct Upstream {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("bound");
        let socket = UdpSocket::bind(address).await.expect("a socket");
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let counter = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                counter.fetch_add(1, Ordering::SeqCst);
                // A forged answer comes first: it has another number.
                let mut forged = answer(&buffer[..length]);
                forged.metadata.id = forged.metadata.id.wrapping_add(1);
                forged.answers.clear();
                for message in [forged, answer(&buffer[..length])] {
                    let _ = socket
                        .send_to(&message.to_vec().expect("bytes"), client)
                        .await;
                }
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Ok(length) = stream.read_u16().await else {
                    continue;
                };
                let mut bytes = vec![0; usize::from(length)];
                if stream.read_exact(&mut bytes).await.is_err() {
                    continue;
                }
                let bytes = answer(&bytes).to_vec().expect("bytes");
                let _ = stream.write_u16(bytes.len() as u16).await;
                let _ = stream.write_all(&bytes).await;
            }
        });
        Self {
            address,
            asked,
            _tasks: tasks,
        }
    }

    pub fn n_asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(bytes: &[u8]) -> Message {
    let question = Message::from_vec(bytes).expect("a question");
    let query = question.queries[0].clone();
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.add_query(query.clone());
    if query.name().to_lowercase() == name("host.example.com.") {
        let data = RData::A(A("192.0.2.55".parse().expect("an address")));
        reply.add_answer(Record::from_rdata(query.name().clone(), 300, data));
    } else {
        reply.metadata.response_code = ResponseCode::NXDomain;
        let soa = SOA::new(
            name("ns.example.com."),
            name("a.example.com."),
            1,
            1,
            1,
            1,
            60,
        );
        reply.add_authority(Record::from_rdata(
            name("example.com."),
            60,
            RData::SOA(soa),
        ));
    }
    reply
}

/// An API server and the name server at work.
pub struct Cluster {
    pub client: Client,
    address: SocketAddr,
    _directory: tempfile::TempDir,
    _server: ApiServer,
    _tasks: JoinSet<()>,
}

impl Cluster {
    pub async fn new(upstreams: Vec<SocketAddr>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = ApiServer::open(dhow_apiserver::Config::new(directory.path().into()))
            .await
            .expect("the server opens");
        let client = Client::new(server.service(UserInfo::admin()), "default");
        let names = Server::bind(Config {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            domain: "cluster.local".into(),
            upstreams,
        })
        .await
        .expect("bound");
        let address = names.addresses()[0];
        let mut tasks = JoinSet::new();
        tasks.spawn(names.run(client.clone(), std::future::pending()));
        Self {
            client,
            address,
            _directory: directory,
            _server: server,
            _tasks: tasks,
        }
    }

    pub fn at(&self) -> SocketAddr {
        self.address
    }

    /// Asks until the answer is as wanted. The server hears of objects by a
    /// watch, so a question can come too early; nothing tells when it has.
    pub async fn until(
        &self,
        text: &str,
        kind: RecordType,
        done: impl Fn(&Message) -> bool,
    ) -> Message {
        let asking = async {
            loop {
                let answer = ask(self.address, text, kind).await;
                if done(&answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(answer) => answer,
            Err(_) => panic!("{text} {kind} is not as wanted"),
        }
    }

    pub async fn apply_service(&self, name: &str, spec: Value) {
        let services: Api<Service> = Api::default_namespaced(self.client.clone());
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec,
        });
        services
            .patch(name, &PatchParams::apply("test"), &Patch::Apply(service))
            .await
            .expect("applied");
    }

    pub async fn delete_service(&self, name: &str) {
        let services: Api<Service> = Api::default_namespaced(self.client.clone());
        services
            .delete(name, &DeleteParams::default())
            .await
            .expect("deleted");
    }

    pub async fn apply_slice(&self, service: &str, endpoints: Value) {
        let slices: Api<EndpointSlice> = Api::default_namespaced(self.client.clone());
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-1"),
                "labels": { "kubernetes.io/service-name": service },
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "sql", "port": 5432, "protocol": "TCP" }],
        });
        let parameters = PatchParams::apply("test");
        slices
            .patch(&format!("{service}-1"), &parameters, &Patch::Apply(slice))
            .await
            .expect("applied");
    }
}
