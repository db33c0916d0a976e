//! Networks inside a host that is itself a network namespace made for the
//! purpose. Needs root.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dhow_netlink::{Batch, Namespace, NewLink, Peer, Prefix, Route, Socket};
use dhow_network::{
    Config, EndpointSpec, Error, NameServer, NetworkSpec, Networks, Pool, Protocol, PublishSpec,
};
use dhow_nft::Family;

const PATIENCE: Duration = Duration::from_secs(5);

/// A host with an uplink to an outside world, both made for one test.
struct World {
    folder: tempfile::TempDir,
    host: Namespace,
    outside: Namespace,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pin =
            |name: &str| Namespace::create_pinned(&folder.path().join(name)).expect("needs root");
        let (host, outside) = (pin("host"), pin("outside"));
        let route = |namespace: &Namespace| {
            namespace
                .run(Socket::route)
                .expect("enter")
                .expect("a socket")
        };
        let (inner, outer) = (route(&host), route(&outside));
        let peer = Peer {
            name: "uplink",
            address: [2, 0, 0, 0, 0, 1],
            namespace: std::os::fd::AsFd::as_fd(&host),
        };
        run(&outer, |batch| {
            batch
                .set_up(1)
                .add_link(&NewLink::veth("world", peer).mtu(1400))
        });
        let index = outer
            .link("world")
            .expect("look up")
            .expect("it is there")
            .index;
        run(&outer, |batch| {
            batch.add_address(index, prefix("192.0.2.1/24"))
        });
        let index = inner
            .link("uplink")
            .expect("look up")
            .expect("it is there")
            .index;
        run(&inner, |batch| {
            batch
                .set_up(1)
                .set_up(index)
                .add_address(index, prefix("192.0.2.2/24"))
                .add_route(Route {
                    destination: prefix("0.0.0.0/0"),
                    gateway: Some(address("192.0.2.1")),
                    link: index,
                })
        });
        Self {
            folder,
            host,
            outside,
        }
    }

    fn open(&self) -> Networks {
        Networks::open(Config {
            data: self.folder.path().join("data"),
            run: self.folder.path().join("run"),
            table: "dhow-test".into(),
            link_prefix: "dt".into(),
        })
        .expect("networks")
    }

    fn enter(&self, sandbox: &str) -> Namespace {
        Namespace::open(&self.folder.path().join("run/netns").join(sandbox)).expect("a sandbox")
    }

    /// Runs `body` as the host would.
    fn on_host<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.host.run(body).expect("enter")
    }

    /// Fails if the host holds a link, a table or a pin of ours.
    fn audit(&self) {
        self.on_host(|| {
            let links = Socket::route().expect("a socket").links().expect("links");
            let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            assert_eq!(names, ["lo", "uplink"]);
            let netfilter = Socket::netfilter().expect("a socket");
            for family in [Family::Ip, Family::Ip6] {
                assert_eq!(
                    dhow_nft::tables(&netfilter, family).expect("tables"),
                    [""; 0]
                );
            }
        });
        for folder in ["run/netns", "run/endpoints"] {
            assert_eq!(
                files(&self.folder.path().join(folder)),
                0,
                "{folder} is empty"
            );
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pins = |folder: &Path| {
            for entry in folder.read_dir().into_iter().flatten().flatten() {
                if entry.path().is_file() {
                    let _ = Namespace::remove_pinned(&entry.path());
                }
            }
        };
        pins(&self.folder.path().join("run/netns"));
        pins(self.folder.path());
    }
}

fn files(folder: &Path) -> usize {
    folder.read_dir().expect("a folder").count()
}

fn run(socket: &Socket, fill: impl FnOnce(&mut Batch) -> &mut Batch) {
    let mut batch = Batch::new();
    fill(&mut batch);
    socket.run(&mut batch).expect("the kernel takes it");
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn spec(id: &str, name: &str) -> NetworkSpec {
    NetworkSpec {
        id: id.repeat(64),
        name: name.into(),
        names: true,
        ..NetworkSpec::default()
    }
}

fn endpoint(name: &str) -> EndpointSpec {
    EndpointSpec {
        name: name.into(),
        ..EndpointSpec::default()
    }
}

fn publish(host: Option<&str>, port: u16) -> PublishSpec {
    PublishSpec {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_address: host.map(address),
        host_ports: port..=port,
    }
}

/// Answers one connection in `namespace` with the address it came from.
fn echo_once(namespace: &Namespace, port: u16) -> std::thread::JoinHandle<()> {
    let listener = namespace
        .run(|| TcpListener::bind(("0.0.0.0", port)))
        .expect("enter")
        .expect("the port is free");
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().expect("a connection");
        stream
            .write_all(peer.ip().to_string().as_bytes())
            .expect("an answer");
    })
}

/// Connects and returns what [`echo_once`] answers.
fn ask(from: &Namespace, to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().expect("an address and port");
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
    .expect("enter")
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    let world = World::new();
    let networks = world.on_host(|| world.open());
    world.on_host(|| {
        let network = networks.create(spec("a", "front")).expect("a network");
        assert_eq!(network.spec.pools[0].subnet, prefix("172.17.0.0/16"));
        assert_eq!(network.mtu, 1400, "the uplink's");
        for name in ["server", "client"] {
            networks.create_sandbox(name).expect("a sandbox");
        }
        let mapping = |host_address: &str, port| publish(Some(host_address), port);
        let mut wanted = endpoint("web");
        wanted.ports = vec![mapping("0.0.0.0", 8080), mapping("192.0.2.2", 0)];
        let web = networks.join("front", "server", wanted).expect("joined");
        assert_eq!(web.address(true), Some(address("172.17.0.2")));
        assert_eq!(
            (web.interface.as_str(), web.mac_text().as_str()),
            ("eth0", "02:42:ac:11:00:02")
        );
        assert_ne!(web.ports[1].host_port, 0, "a free port was chosen");
        networks
            .join("front", "client", endpoint("client"))
            .expect("joined");

        let mut again = endpoint("other");
        again.ports = vec![mapping("192.0.2.2", 8080)];
        networks.create_sandbox("other").expect("a sandbox");
        let error = networks
            .join("front", "other", again)
            .expect_err("the port is taken");
        assert_eq!(
            error.to_string(),
            "Bind for 192.0.2.2:8080 failed: port is already allocated"
        );
        let _held = TcpListener::bind("0.0.0.0:8081").expect("a port of the host");
        let mut again = endpoint("other");
        again.ports = vec![mapping("0.0.0.0", 8081)];
        let error = networks
            .join("front", "other", again)
            .expect_err("the port is taken");
        assert!(matches!(error, Error::PortTaken { .. }), "{error:?}");
        networks.remove_sandbox("other").expect("removed");
    });

    let (server, client) = (world.enter("server"), world.enter("client"));
    for (from, to, seen) in [
        (&client, "172.17.0.2:80", "172.17.0.3"),
        (&world.host, "172.17.0.2:80", "172.17.0.1"),
        (&world.host, "127.0.0.1:8080", "172.17.0.1"),
        (&world.host, "192.0.2.2:8080", "192.0.2.2"),
        (&world.outside, "192.0.2.2:8080", "192.0.2.1"),
        (&client, "192.0.2.2:8080", "172.17.0.1"),
        (&server, "192.0.2.2:8080", "172.17.0.1"),
        (&server, "192.0.2.2:8080", "172.17.0.1"),
    ] {
        let answering = echo_once(&server, 80);
        assert_eq!(
            ask(from, to).unwrap_or_else(|error| panic!("{to} seen as {seen}: {error}")),
            seen
        );
        answering.join().expect("the server ends well");
    }
    // Out to the world, under the host's address.
    let answering = echo_once(&world.outside, 9000);
    assert_eq!(
        ask(&client, "192.0.2.1:9000").expect("a way out"),
        "192.0.2.2"
    );
    answering.join().expect("the server ends well");

    world.on_host(|| {
        let error = networks.remove("front").expect_err("it is in use");
        assert!(
            error.to_string().contains("has active endpoints"),
            "{error}"
        );
        networks.remove_sandbox("server").expect("removed");
        networks.remove_sandbox("client").expect("removed");
        networks.remove("front").expect("removed");
    });
    world.audit();
}

#[test]
fn networks_keep_apart() {
    let world = World::new();
    let networks = world.on_host(|| world.open());
    world.on_host(|| {
        networks.create(spec("a", "one")).expect("a network");
        networks.create(spec("b", "two")).expect("a network");
        let mut inner = spec("c", "inner");
        inner.internal = true;
        networks.create(inner).expect("a network");
        assert!(matches!(
            networks.create(spec("d", "one")),
            Err(Error::NameTaken(_))
        ));
        let mut clash = spec("d", "clash");
        clash.pools = vec![Pool::parse("172.18.4.0/24", None, None).expect("a pool")];
        assert!(matches!(networks.create(clash), Err(Error::Overlap(_))));
        for (sandbox, network) in [("a", "one"), ("b", "two"), ("c", "inner")] {
            networks.create_sandbox(sandbox).expect("a sandbox");
            networks
                .join(network, sandbox, endpoint(sandbox))
                .expect("joined");
        }
    });
    let [a, b, c] = ["a", "b", "c"].map(|name| world.enter(name));
    let connects = |from: &Namespace, to: &str, patience| {
        let to: SocketAddr = to.parse().expect("an address");
        from.run(|| TcpStream::connect_timeout(&to, patience).is_ok())
            .expect("enter")
    };
    let reaches = |from, to| connects(from, to, PATIENCE);
    let misses = |from, to| !connects(from, to, Duration::from_millis(300));
    let _listening: Vec<TcpListener> = [&b, &c, &world.outside]
        .map(|space| {
            space
                .run(|| TcpListener::bind("0.0.0.0:80"))
                .expect("enter")
                .expect("a listener")
        })
        .into();
    assert!(
        misses(&a, "172.18.0.2:80"),
        "another network's endpoint is out of reach"
    );
    assert!(
        misses(&world.outside, "172.18.0.2:80"),
        "so is an unpublished one from outside"
    );
    assert!(
        misses(&c, "192.0.2.1:80"),
        "an internal network has no way out"
    );
    assert!(
        reaches(&world.host, "172.19.0.2:80"),
        "the host reaches its own networks"
    );
    assert!(reaches(&a, "192.0.2.1:80"));
    // With a second endpoint the two meet.
    world.on_host(|| networks.join("two", "a", endpoint("a")).expect("joined"));
    assert!(reaches(&a, "172.18.0.2:80"));
    world.on_host(|| {
        networks.leave("two", "a").expect("left");
        assert!(matches!(
            networks.leave("two", "a"),
            Err(Error::NotJoined { .. })
        ));
    });
    assert!(misses(&a, "172.18.0.2:80"));
    world.on_host(|| {
        for sandbox in ["a", "b", "c"] {
            networks.remove_sandbox(sandbox).expect("removed");
        }
        for network in ["one", "two", "inner"] {
            networks.remove(network).expect("removed");
        }
    });
    world.audit();
}

/// A client that goes on sending from one port finds whoever has the published
/// port now.
#[test]
fn datagrams_follow_a_published_port() {
    let world = World::new();
    let networks = world.on_host(|| world.open());
    let client = world
        .outside
        .run(|| UdpSocket::bind("192.0.2.1:7777"))
        .expect("enter")
        .expect("a socket");
    client.connect("192.0.2.2:5353").expect("connected");
    let patience = Some(Duration::from_secs(2));
    client.set_read_timeout(patience).expect("set");
    world.on_host(|| networks.create(spec("a", "front")).expect("a network"));
    // Before anybody has it.
    let _ = client.send(b"early");
    for name in ["first", "second"] {
        world.on_host(|| {
            networks.create_sandbox(name).expect("a sandbox");
            let mut wanted = endpoint(name);
            wanted.ports = vec![PublishSpec {
                protocol: Protocol::Udp,
                container_port: 53,
                host_address: None,
                host_ports: 5353..=5353,
            }];
            networks.join("front", name, wanted).expect("joined");
        });
        let server = world
            .enter(name)
            .run(|| UdpSocket::bind("0.0.0.0:53"))
            .expect("enter")
            .expect("a socket");
        let answering = std::thread::spawn(move || {
            let mut question = [0; 8];
            let (_, from) = server.recv_from(&mut question).expect("a question");
            server.send_to(name.as_bytes(), from).expect("an answer");
        });
        // What was refused before the port was published is told once.
        let mut answer = [0; 16];
        let length = (0..3)
            .find_map(|_| {
                let sent = client.send(b"who").or_else(|_| client.send(b"who"));
                sent.expect("sent");
                client.recv(&mut answer).ok()
            })
            .unwrap_or_else(|| panic!("{name} is not found"));
        assert_eq!(&answer[..length], name.as_bytes());
        answering.join().expect("the server ends well");
        world.on_host(|| networks.remove_sandbox(name).expect("removed"));
    }
    world.on_host(|| networks.tear_down().expect("torn down"));
    world.audit();
}

#[test]
fn what_a_crash_leaves_is_taken_up_again() {
    let world = World::new();
    world.on_host(|| {
        let networks = world.open();
        networks.create(spec("a", "front")).expect("a network");
        for name in ["kept", "lost"] {
            networks.create_pinned_sandbox(name).expect("a sandbox");
            let mut wanted = endpoint(name);
            wanted.ports = vec![publish(None, if name == "kept" { 8080 } else { 8081 })];
            networks.join("front", name, wanted).expect("joined");
        }
        // The process dies: no destructor cleans up. A stranger flushes our
        // table and a reboot of one sandbox takes its namespace.
        drop(networks);
        Namespace::remove_pinned(&world.folder.path().join("run/netns/lost")).expect("gone");
        let mut transaction = dhow_nft::Transaction::new(dhow_nft::Table {
            family: Family::Ip,
            name: "dhow-test".into(),
        });
        transaction.remove_table();
        transaction
            .commit(&Socket::netfilter().expect("a socket"))
            .expect("flushed");
    });
    let networks = world.on_host(|| world.open());
    assert!(networks.sandbox_endpoints("lost").is_empty());
    assert_eq!(networks.sandbox_endpoints("kept").len(), 1);
    let kept = world.enter("kept");
    let answering = echo_once(&kept, 80);
    assert_eq!(
        ask(&world.outside, "192.0.2.2:8080").expect("published again"),
        "192.0.2.1"
    );
    answering.join().expect("the server ends well");
    world.on_host(|| {
        networks.create_sandbox("next").expect("a sandbox");
        let mut wanted = endpoint("next");
        wanted.ports = vec![publish(None, 8080)];
        assert!(matches!(
            networks.join("front", "next", wanted),
            Err(Error::PortAllocated(_))
        ));
        networks.tear_down().expect("torn down");
    });
    world.audit();
}

#[test]
fn names_are_answered_at_the_usual_address() {
    let world = World::new();
    let networks = Arc::new(world.on_host(|| world.open()));
    world.on_host(|| {
        networks.create(spec("a", "front")).expect("a network");
        for name in ["web", "client"] {
            networks.create_sandbox(name).expect("a sandbox");
            let mut wanted = endpoint(name);
            wanted.aliases = vec![format!("{name}-alias")];
            networks.join("front", name, wanted).expect("joined");
        }
    });
    // The host's own name server answers whatever it is asked with its question.
    let upstream = world
        .on_host(|| UdpSocket::bind("127.0.0.1:0"))
        .expect("a socket");
    let upstream_address = upstream.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = upstream.recv_from(&mut buffer) {
            let _ = upstream.send_to(&buffer[..length], from);
        }
    });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = NameServer::new(Arc::clone(&networks), vec![upstream_address]);
    let (host, client) = (&world.host, world.enter("client"));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            host.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    tokio::select! { () = server.run() => {}, _ = stopped => {} }
                });
            })
            .expect("enter");
        });
        let lookup = |name: &str| -> Vec<u8> {
            let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in name.split('.') {
                question.push(label.len() as u8);
                question.extend_from_slice(label.as_bytes());
            }
            question.extend_from_slice(&[0, 0, 1, 0, 1]);
            client
                .run(|| {
                    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                    socket
                        .set_read_timeout(Some(Duration::from_millis(200)))
                        .expect("set");
                    let mut answer = vec![0; 512];
                    // Until the server listens, the kernel refuses the question.
                    for _ in 0..25 {
                        socket.send_to(&question, "127.0.0.11:53").expect("sent");
                        if let Ok(length) = socket.recv(&mut answer) {
                            answer.truncate(length);
                            return answer;
                        }
                    }
                    panic!("{name} was not answered");
                })
                .expect("enter")
        };
        for name in ["web", "WEB", "web-alias", "web.front"] {
            assert!(lookup(name).ends_with(&[172, 17, 0, 2]), "{name}");
        }
        let unknown = lookup("elsewhere.example");
        assert_eq!(unknown.len(), 12 + 23, "the host's name server was asked");
        drop(stop);
    });
    world.on_host(|| networks.tear_down().expect("torn down"));
    world.audit();
}
