//! A node with pods on a bridge and an uplink to the outside, each a network
//! namespace of its own, and the servers and clients in them.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use dhow_apiserver::{ApiServer, UserInfo};
use dhow_netlink::{Batch, Namespace, NewLink, Peer, Port, Prefix, Route, Socket};
use dhow_nft::Family;
use dhow_service_proxy::Config;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

pub const TABLE: &str = "dhow-svc-test";
pub const NODE: &str = "here";
pub const PATIENCE: Duration = Duration::from_secs(10);
const N_PODS: u8 = 3;
/// Pods serve at this port, TCP and UDP.
pub const SERVES: u16 = 8080;

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The address of pod 1, 2 or 3.
pub fn pod(number: u8) -> String {
    format!("10.1.0.{}", number + 1)
}

/// The places of a test.
pub struct World {
    folder: tempfile::TempDir,
    pub node: Namespace,
    pub outside: Namespace,
    pub pods: Vec<Namespace>,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pin =
            |name: &str| Namespace::create_pinned(&folder.path().join(name)).expect("needs root");
        let world = Self {
            node: pin("node"),
            outside: pin("outside"),
            pods: (1..=N_PODS)
                .map(|number| pin(&format!("pod{number}")))
                .collect(),
            folder,
        };
        let node = socket(&world.node);
        change(&node, |batch| {
            batch
                .set_up(1)
                .add_link(&NewLink::bridge("br0").bridged_filter())
        });
        let bridge = index(&node, "br0");
        change(&node, |batch| {
            batch.add_address(bridge, prefix("10.1.0.1/24"))
        });

        let peer = Peer {
            name: "eth0",
            address: [2, 0, 0, 0, 0, 99],
            namespace: world.outside.as_fd(),
        };
        change(&node, |batch| {
            batch.add_link(&NewLink::veth("uplink", peer))
        });
        let uplink = index(&node, "uplink");
        change(&node, |batch| {
            batch.add_address(uplink, prefix("192.0.2.2/24"))
        });
        settle(&world.outside, "192.0.2.1/24", "192.0.2.2");
        change(&node, |batch| {
            batch.add_route(Route {
                destination: prefix("0.0.0.0/0"),
                gateway: Some(address("192.0.2.1")),
                link: uplink,
            })
        });

        for (number, namespace) in (1..).zip(&world.pods) {
            let name = format!("pod{number}");
            let peer = Peer {
                name: "eth0",
                address: [2, 0, 0, 0, 0, number],
                namespace: namespace.as_fd(),
            };
            change(&node, |batch| {
                batch.add_link(&NewLink::veth(&name, peer).master(bridge))
            });
            let behaviour = Port {
                hairpin: true,
                ..Port::default()
            };
            change(&node, |batch| batch.set_port(&name, behaviour));
            settle(namespace, &format!("{}/24", pod(number)), "10.1.0.1");
        }
        let settings = [("ip_forward", "1"), ("conf/br0/route_localnet", "1")];
        world.on_node(|| {
            for (file, value) in settings {
                std::fs::write(format!("/proc/sys/net/ipv4/{file}"), value)
                    .expect("a setting of the namespace");
            }
        });
        world
    }

    pub fn on_node<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.node.run(body).expect("enter")
    }

    /// Every pod serves: it tells its address and whose address it sees.
    pub fn serve(&self) {
        for (number, namespace) in (1..).zip(&self.pods) {
            let at = (address(&pod(number)), SERVES);
            let (listener, datagrams) = namespace
                .run(|| (TcpListener::bind(at), UdpSocket::bind(at)))
                .expect("enter");
            let (listener, datagrams) = (listener.expect("bind"), datagrams.expect("bind"));
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    answer(stream, number);
                }
            });
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok((_, client)) = datagrams.recv_from(&mut buffer) {
                    let _ = datagrams.send_to(&[number], client);
                }
            });
        }
    }
}

fn answer(mut stream: TcpStream, number: u8) {
    let Ok(client) = stream.peer_addr() else {
        return;
    };
    let _ = stream.write_all(format!("{number} {}", client.ip()).as_bytes());
}

/// Who answered, and whose address it saw.
pub fn ask(from: &Namespace, to: &str) -> io::Result<(u8, IpAddr)> {
    ask_within(PATIENCE, from, to)
}

/// For where silence is the answer.
pub fn ask_briefly(from: &Namespace, to: &str) -> io::Result<(u8, IpAddr)> {
    ask_within(Duration::from_millis(300), from, to)
}

fn ask_within(patience: Duration, from: &Namespace, to: &str) -> io::Result<(u8, IpAddr)> {
    let to: SocketAddr = to.parse().expect("an address with port");
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        let (number, seen) = said.split_once(' ').expect("two words");
        Ok((number.parse().expect("a number"), address(seen)))
    })
    .expect("enter")
}

/// All who answer and all addresses they see, in many tries.
pub fn ask_often(from: &Namespace, to: &str) -> (BTreeSet<u8>, BTreeSet<IpAddr>) {
    (0..60)
        .map(|_| ask(from, to).unwrap_or_else(|error| panic!("{to}: {error}")))
        .unzip()
}

fn socket(namespace: &Namespace) -> Socket {
    namespace
        .run(Socket::route)
        .expect("enter")
        .expect("a socket")
}

fn change(socket: &Socket, fill: impl FnOnce(&mut Batch) -> &mut Batch) {
    let mut batch = Batch::new();
    fill(&mut batch);
    socket.run(&mut batch).expect("the kernel takes it");
}

fn index(socket: &Socket, name: &str) -> u32 {
    let link = socket.link(name).expect("look up");
    link.expect("the link is there").index
}

fn settle(namespace: &Namespace, own: &str, gateway: &str) {
    let inside = socket(namespace);
    let link = index(&inside, "eth0");
    change(&inside, |batch| {
        batch
            .set_up(1)
            .set_up(link)
            .add_address(link, prefix(own))
            .add_route(Route {
                destination: prefix("0.0.0.0/0"),
                gateway: Some(address(gateway)),
                link,
            })
    });
}

impl Drop for World {
    fn drop(&mut self) {
        for entry in self
            .folder
            .path()
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = Namespace::remove_pinned(&entry.path());
        }
    }
}

/// An API server, and the proxy running on the node.
pub struct Cluster {
    _server: ApiServer,
    _directory: tempfile::TempDir,
    pub client: Client,
    applied: watch::Receiver<u64>,
    end: oneshot::Sender<()>,
    proxy: std::thread::JoinHandle<()>,
}

impl Cluster {
    pub async fn new(world: &World) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = ApiServer::open(dhow_apiserver::Config::new(directory.path().into()))
            .await
            .expect("the server opens");
        let user = UserInfo::new("system:kube-proxy", &[]);
        let client = Client::new(server.service(user), "default");
        let (applied, changes) = watch::channel(0);
        let config = Config {
            table: TABLE.into(),
            node: NODE.into(),
            pods: vec![prefix("10.1.0.0/16")],
            applied,
        };
        let (end, ended) = oneshot::channel::<()>();
        let node = std::fs::File::from(
            world
                .node
                .as_fd()
                .try_clone_to_owned()
                .expect("a descriptor"),
        );
        let main = tokio::runtime::Handle::current();
        let proxy = std::thread::spawn(move || {
            // The sockets belong to the node; all else runs where it runs.
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&node));
            let node = Namespace::open(path.as_ref()).expect("the node");
            node.run(|| {
                let running = dhow_service_proxy::run(client, config, async {
                    let _ = ended.await;
                });
                main.block_on(running).expect("the proxy runs");
            })
            .expect("enter");
        });
        Self {
            client: Client::new(server.service(UserInfo::admin()), "default"),
            _server: server,
            _directory: directory,
            applied: changes,
            end,
            proxy,
        }
    }

    /// Waits until `done`, which is asked again whenever the kernel was brought
    /// in step.
    pub async fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let looking = async {
            while !done() {
                self.applied.changed().await.expect("the proxy runs");
            }
        };
        if tokio::time::timeout(PATIENCE, looking).await.is_err() {
            panic!("it did not happen: {what}");
        }
    }

    pub fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.client.clone())
    }

    /// Makes a Service and returns it as the server has it.
    pub async fn service(&self, name: &str, spec: Value) -> Service {
        let service = json!({ "metadata": { "name": name }, "spec": spec });
        let service = serde_json::from_value(service).expect("a Service");
        self.services()
            .create(&PostParams::default(), &service)
            .await
            .expect("created")
    }

    /// Says who stands behind a Service: pods by number, and their node.
    pub async fn endpoints(&self, service: &str, pods: &[(u8, &str)]) {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|(number, node)| json!({ "addresses": [pod(*number)], "nodeName": node }))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-1"),
                "labels": { "kubernetes.io/service-name": service },
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [
                { "name": "tcp", "port": SERVES, "protocol": "TCP" },
                { "name": "udp", "port": SERVES, "protocol": "UDP" },
            ],
        });
        let slices: Api<EndpointSlice> = Api::default_namespaced(self.client.clone());
        let parameters = PatchParams::apply("test").force();
        slices
            .patch(&format!("{service}-1"), &parameters, &Patch::Apply(slice))
            .await
            .expect("applied");
    }

    /// Ends the proxy and what it left, and looks that nothing is left.
    pub fn end(self, world: &World) {
        let _ = self.end.send(());
        self.proxy.join().expect("the proxy ends well");
        world.on_node(|| {
            assert_eq!(tables(), [TABLE], "Services outlive the proxy");
            dhow_service_proxy::remove(TABLE).expect("removed");
            assert_eq!(tables(), [""; 0]);
        });
    }
}

pub fn tables() -> Vec<String> {
    let socket = Socket::netfilter().expect("a socket");
    [Family::Ip, Family::Ip6]
        .into_iter()
        .flat_map(|family| dhow_nft::tables(&socket, family).expect("tables"))
        .collect()
}
