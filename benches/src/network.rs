//! Throughput: what a connection carries between containers, to the host and
//! through a published port, beside veth pairs, a bridge and one rule of
//! translation made by hand; and what attaching costs.
//!
//! Sender and receiver are threads of this process in the namespaces concerned;
//! a contender is the time that a fixed number of bytes takes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dhow_netlink::{Batch, Namespace, NewLink, Peer, Port, Prefix, Route, Socket};
use dhow_testkit::{Daemon, Host, Outside};

use crate::report::Report;
use crate::turns::{row, run};

/// Bytes of one measurement.
const VOLUME: usize = 256 << 20;
/// Bytes written at once.
const CHUNK: usize = 256 << 10;
/// The port that everybody listens at.
const PORT: u16 = 80;
/// Rounds, since what is looked for is a few in a hundred.
const ROUNDS: usize = 41;
/// Of so many in order, those between which their median is 95 times in a hundred.
const SURE: (usize, usize) = (13, 27);

/// Who sends, who receives, and at which address the receiver is found.
struct Way<'a> {
    from: &'a Namespace,
    to: &'a Namespace,
    at: SocketAddr,
}

pub fn measure(report: &mut Report) -> Result<()> {
    report.part("Network");
    let mut daemon = Daemon::start_as_installed();
    daemon.busybox();
    // Before there is an uplink with smaller packets than those by hand.
    run(&mut daemon.docker_command(&["network", "create", "front"]))?;
    let outside = Outside::of(daemon.host());
    daemon.sleeper("server", &["-p", "8080:80"]);
    daemon.sleeper("client", &[]);
    daemon.sleeper("named-server", &["--network=front"]);
    daemon.sleeper("named-client", &["--network=front"]);
    let [server, client, named_server, named_client] =
        ["server", "client", "named-server", "named-client"].map(|name| daemon.namespace(name));
    let address = |name: &str, network: &str| -> Result<SocketAddr> {
        let template = format!("{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}");
        let address = daemon.inspect(name, &template);
        Ok(SocketAddr::new(address.parse()?, PORT))
    };
    let bare = Bare::new()?;
    let bare_outside = Outside::of(&bare.host);
    let published: SocketAddr = "192.0.2.2:8080".parse()?;

    let between = Way {
        from: &client,
        to: &server,
        at: address("server", "bridge")?,
    };
    let between_named = Way {
        from: &named_client,
        to: &named_server,
        at: address("named-server", "front")?,
    };
    let by_hand = Way {
        from: &bare.client,
        to: &bare.server,
        at: "10.200.0.2:80".parse()?,
    };
    compare(
        report,
        "between two containers",
        &[
            ("dhow", &between),
            ("dhow, network with names", &between_named),
            ("veth pairs and a bridge by hand", &by_hand),
        ],
    )?;
    let to_host = Way {
        from: &client,
        to: daemon.host().namespace(),
        at: SocketAddr::new(gateway(&daemon)?, PORT),
    };
    let to_bare_host = Way {
        from: &bare.client,
        to: bare.host.namespace(),
        at: "10.200.0.1:80".parse()?,
    };
    compare(
        report,
        "from a container to the host",
        &[
            ("dhow", &to_host),
            ("veth pairs and a bridge by hand", &to_bare_host),
        ],
    )?;
    let through = Way {
        from: outside.namespace(),
        to: &server,
        at: published,
    };
    let through_bare = Way {
        from: bare_outside.namespace(),
        to: &bare.server,
        at: published,
    };
    compare(
        report,
        "from outside through a published port",
        &[
            ("dhow", &through),
            ("one rule of translation by hand", &through_bare),
        ],
    )?;
    daemon.remove_containers();
    outside.remove(daemon.host());
    daemon.stop();
    Ok(())
}

fn gateway(daemon: &Daemon) -> Result<std::net::IpAddr> {
    let template = "{{.NetworkSettings.Networks.bridge.Gateway}}";
    Ok(daemon.inspect("client", template).parse()?)
}

/// Measures several ways in turns; the last is the one by hand, and what the first
/// takes of it is told with how sure that is.
fn compare(report: &mut Report, what: &str, ways: &[(&str, &Way<'_>)]) -> Result<()> {
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..=ROUNDS {
        for ((name, way), times) in ways.iter().zip(&mut times) {
            let took = way.transfer().with_context(|| (*name).to_owned())?;
            if round > 0 {
                times.push(took.as_secs_f64() * 1000.0);
            }
        }
    }
    let by_hand = times.last().context("there is one by hand")?;
    let mut ratios: Vec<f64> = times[0]
        .iter()
        .zip(by_hand)
        .map(|(ours, bare)| ours / bare)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let rows: Vec<_> = ways
        .iter()
        .zip(times)
        .map(|((name, _), times)| row(name, times))
        .collect();
    report.times(&format!("{} MiB {what}", VOLUME >> 20), &rows);
    let (least, most) = (ratios[SURE.0], ratios[SURE.1]);
    let name = format!("throughput {what}, time of that by hand ({least:.3} – {most:.3})");
    report.target(&name, ratios[ROUNDS / 2], 1.03, "×");
    Ok(())
}

/// Keeps the calling thread on one processor: the sender on the first, the receiver
/// on the second, or their way to each other would change from one transfer to the
/// next.
fn keep_to(processor: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    if processor < there {
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    Ok(())
}

impl Way<'_> {
    /// Sends all bytes and returns how long they took to arrive.
    fn transfer(&self) -> Result<Duration> {
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| self.transfer_from_here());
            sender.join().expect("the sender does not panic")
        })
    }

    fn transfer_from_here(&self) -> Result<Duration> {
        let listener = self.to.run(|| TcpListener::bind(("0.0.0.0", PORT)))??;
        keep_to(0)?;
        let receiver = std::thread::spawn(move || -> Result<(usize, Instant)> {
            keep_to(1)?;
            let (mut stream, _) = listener.accept()?;
            let (mut buffer, mut received) = (vec![0; CHUNK], 0);
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok((received, Instant::now())),
                    length => received += length,
                }
            }
        });
        let mut stream = self
            .from
            .run(|| TcpStream::connect_timeout(&self.at, Duration::from_secs(5)))?
            .with_context(|| format!("connect to {}", self.at))?;
        let chunk = vec![0; CHUNK];
        let began = Instant::now();
        for _ in 0..VOLUME / CHUNK {
            stream.write_all(&chunk)?;
        }
        drop(stream);
        let (received, ended) = receiver.join().expect("the receiver does not panic")?;
        ensure!(received == VOLUME, "{received} bytes arrived of {VOLUME}");
        Ok(ended - began)
    }
}

/// A host whose network somebody made by hand: two namespaces on a bridge, and a
/// port that is translated.
struct Bare {
    host: Host,
    server: Namespace,
    client: Namespace,
}

impl Bare {
    fn new() -> Result<Self> {
        let host = Host::new();
        let (server, client) = (Namespace::create()?, Namespace::create()?);
        host.inside(|| -> Result<()> {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1")?;
            }
            let socket = Socket::route()?;
            socket.run(Batch::new().add_link(&NewLink::bridge("bare0").mtu(1500)))?;
            let bridge = socket.link("bare0")?.context("it was just made")?.index;
            let mut batch = Batch::new();
            batch.add_address(bridge, "10.200.0.1/24".parse().expect("a prefix"));
            for (name, number, namespace) in [("bare1", 2, &server), ("bare2", 3, &client)] {
                let peer = Peer {
                    name: "eth0",
                    address: [2, 0, 0, 0, 9, number],
                    namespace: namespace.as_fd(),
                };
                batch
                    .add_link(&NewLink::veth(name, peer).mtu(1500).master(bridge))
                    .set_port(
                        name,
                        Port {
                            hairpin: true,
                            ..Port::default()
                        },
                    );
            }
            socket.run(&mut batch)?;
            Ok(())
        })?;
        for (number, namespace) in [(2, &server), (3, &client)] {
            let inside = namespace.run(Socket::route)??;
            let link = inside.link("eth0")?.context("it was just made")?.index;
            let own: Prefix = format!("10.200.0.{number}/24").parse().expect("a prefix");
            let default = Route {
                destination: Prefix::everything(true),
                gateway: Some([10, 200, 0, 1].into()),
                link,
            };
            let mut batch = Batch::new();
            batch
                .set_up(1)
                .add_address(link, own)
                .set_up(link)
                .add_route(default);
            inside.run(&mut batch)?;
        }
        let rules = "table ip bare {
            chain prerouting { type nat hook prerouting priority dstnat;
                fib daddr type local tcp dport 8080 dnat to 10.200.0.2:80; }
            chain postrouting { type nat hook postrouting priority srcnat;
                ip saddr 10.200.0.0/24 oifname != \"bare0\" masquerade; }
        }";
        run(host.command("nft").arg(rules)).context("install the Debian package nftables")?;
        Ok(Self {
            host,
            server,
            client,
        })
    }
}
