//! An outside world of a throw-away host: the other end of its uplink.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use dhow_netlink::{Batch, Namespace, NewLink, Peer, Prefix, Route, Socket};

use crate::host::Host;

/// How long anything may take that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it takes until nobody answers.
const SHORT: Duration = Duration::from_millis(400);

/// A network that a host's uplink leads to, with a router in it.
///
/// The host is 192.0.2.2 and fd00:2::2, the router 192.0.2.1 and fd00:2::1;
/// packets have at most 1400 bytes.
#[derive(Debug)]
pub struct Outside {
    namespace: Namespace,
    pin: PathBuf,
}

impl Outside {
    /// Gives a host an uplink, `eth0`.
    ///
    /// # Panics
    ///
    /// When it has one already.
    pub fn of(host: &Host) -> Self {
        let pin = host.folder().join("outside");
        let namespace = Namespace::create_pinned(&pin).expect("a network namespace");
        host.inside(|| {
            let socket = Socket::route().expect("a socket");
            let peer = Peer {
                name: "eth0",
                address: [2, 0, 0, 0, 2, 1],
                namespace: namespace.as_fd(),
            };
            let mut batch = Batch::new();
            let near = NewLink::veth("eth0", peer).mtu(1400);
            batch.add_link(&near.address([2, 0, 0, 0, 2, 2]));
            socket.run(&mut batch).expect("an uplink");
            settle(&socket, ["192.0.2.2/24", "fd00:2::2/64"]);
            let link = socket.link("eth0").expect("look up").expect("it is there");
            let mut batch = Batch::new();
            for (is_ipv4, gateway) in [(true, "192.0.2.1"), (false, "fd00:2::1")] {
                batch.add_route(Route {
                    destination: Prefix::everything(is_ipv4),
                    gateway: Some(gateway.parse().expect("an address")),
                    link: link.index,
                });
            }
            socket.run(&mut batch).expect("default routes");
        });
        namespace
            .run(|| {
                let socket = Socket::route().expect("a socket");
                let mut batch = Batch::new();
                batch.set_up(1);
                socket.run(&mut batch).expect("loopback is up");
                settle(&socket, ["192.0.2.1/24", "fd00:2::1/64"]);
            })
            .expect("enter");
        Self { namespace, pin }
    }

    /// The namespace of the router.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A [`Mirror`] in it.
    ///
    /// # Panics
    ///
    /// When the port is taken.
    pub fn mirror(&self, port: u16) -> Mirror {
        let again = Namespace::open(&self.pin).expect("it is pinned");
        Mirror::at(again, port)
    }

    /// Takes the uplink away.
    ///
    /// # Panics
    ///
    /// When the host is gone.
    pub fn remove(self, host: &Host) {
        host.inside(|| {
            let socket = Socket::route().expect("a socket");
            let mut batch = Batch::new();
            batch.delete_link("eth0");
            socket.run(&mut batch).expect("it was there");
        });
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = Namespace::remove_pinned(&self.pin);
    }
}

/// Gives `eth0` its addresses and sets it up.
fn settle(socket: &Socket, addresses: [&str; 2]) {
    let link = socket.link("eth0").expect("look up").expect("it is there");
    let mut batch = Batch::new();
    for address in addresses {
        batch.add_address(link.index, address.parse().expect("a prefix"));
    }
    batch.set_up(link.index);
    socket.run(&mut batch).expect("addresses");
}

/// A server in a namespace that tells each client the address it came from, over
/// TCP and UDP, until it is dropped.
#[derive(Debug)]
pub struct Mirror {
    threads: Vec<JoinHandle<()>>,
    port: u16,
    namespace: Namespace,
}

impl Mirror {
    /// Serves at a port of all addresses of both families.
    ///
    /// # Panics
    ///
    /// When the port is taken.
    pub fn at(namespace: Namespace, port: u16) -> Self {
        let (stream, datagram) = namespace
            .run(|| {
                let stream = TcpListener::bind(("::", port)).expect("the port is free");
                let datagram = UdpSocket::bind(("::", port)).expect("the port is free");
                (stream, datagram)
            })
            .expect("enter");
        let serve_streams = move || {
            while let Ok((mut client, from)) = stream.accept() {
                if ended(from) {
                    return;
                }
                let _ = client.write_all(shown(from).as_bytes());
            }
        };
        let serve_datagrams = move || {
            let mut question = [0; 64];
            while let Ok((_, from)) = datagram.recv_from(&mut question) {
                if ended(from) {
                    return;
                }
                let _ = datagram.send_to(shown(from).as_bytes(), from);
            }
        };
        Self {
            threads: vec![
                std::thread::spawn(serve_streams),
                std::thread::spawn(serve_datagrams),
            ],
            port,
            namespace,
        }
    }
}

/// Whoever asks from the server's own loopback ends it.
fn ended(from: SocketAddr) -> bool {
    from.ip().to_canonical().is_loopback()
}

fn shown(from: SocketAddr) -> String {
    from.ip().to_canonical().to_string()
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let port = self.port;
        let _ = self.namespace.run(|| {
            let socket = Socket::route().expect("a socket");
            let mut batch = Batch::new();
            batch.set_up(1);
            let _ = socket.run(&mut batch);
            let _ = TcpStream::connect(("127.0.0.1", port));
            let asker = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            let _ = asker.send_to(b"end", ("127.0.0.1", port));
        });
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Connects over TCP and returns what a [`Mirror`] says; none when nobody
/// answers.
pub fn ask(from: &Namespace, to: &str) -> Option<String> {
    ask_within(from, to, PATIENCE)
}

/// Whether nobody answers over TCP.
pub fn is_silent(from: &Namespace, to: &str) -> bool {
    ask_within(from, to, SHORT).is_none()
}

fn ask_within(from: &Namespace, to: &str, patience: Duration) -> Option<String> {
    let to: SocketAddr = to.parse().expect("an address and port");
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = from.run(ask).expect("enter").ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// Asks over UDP and returns what a [`Mirror`] says; none when nobody answers.
pub fn ask_datagram(from: &Namespace, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().expect("an address and port");
    let any: IpAddr = if to.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        [0; 16].into()
    };
    let ask = || -> std::io::Result<String> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"who")?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    from.run(ask).expect("enter").ok()
}
