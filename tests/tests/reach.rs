//! Who reaches whom: published ports, bridges, the host's own firewall;
//! and what is left when a daemon or a machine dies.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dhow_testkit::{
    Daemon, Dockerd, Mirror, Outside, Reference, ask, ask_association, ask_datagram, is_silent,
};
use tokio::io::AsyncReadExt as _;

/// How long anything may take that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// The reference daemon, to which the same checks are put: one that it fails is
/// wrong.
fn reference() -> Reference {
    let reference = Reference::start();
    reference.busybox();
    reference
}

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.busybox();
    daemon
}

#[test]
fn published_ports_are_reached() {
    let daemon = daemon();
    ports_are_reached(&daemon);
    daemon.finish();
}

#[test]
fn published_ports_of_the_reference_are_reached() {
    ports_are_reached(&reference());
}

/// What holds with IPv4 alone, which is all that the reference has by itself.
fn ports_are_reached(daemon: &impl Dockerd) {
    let outside = Outside::of(daemon.host());
    for (name, subnet) in [("front", "10.84.0.0/24"), ("back", "10.85.0.0/24")] {
        let subnet = format!("--subnet={subnet}");
        daemon.docker(&["network", "create", &subnet, name]).ok();
    }
    let ports = [
        "-p=8080:80",
        "-p=8080:80/udp",
        "-p=127.0.0.1:8081:80",
        "-p=192.0.2.2:8082:80",
    ];
    daemon.sleeper("web", &[&["--network=front"], &ports[..]].concat());
    daemon.sleeper("near", &["--network=front"]);
    daemon.sleeper("far", &["--network=back"]);
    let mirror = Mirror::at(daemon.namespace("web"), 80);
    let host = daemon.host().namespace();
    let (near, far) = (daemon.namespace("near"), daemon.namespace("far"));
    let world = outside.namespace();
    for (from, to, seen) in [
        (host, "127.0.0.1:8080", "10.84.0.1"),
        (host, "127.0.0.1:8081", "10.84.0.1"),
        (host, "10.84.0.2:80", "10.84.0.1"),
        (world, "192.0.2.2:8080", "192.0.2.1"),
        (world, "192.0.2.2:8082", "192.0.2.1"),
        (&near, "192.0.2.2:8080", "10.84.0.1"),
        (&near, "10.84.0.2:80", "10.84.0.3"),
    ] {
        assert_eq!(ask(from, to).as_deref(), Some(seen), "{to}");
    }
    // From another network: through a process of the reference, and as it came here.
    let seen = if daemon.is_reference() {
        "10.84.0.1"
    } else {
        "10.85.0.2"
    };
    assert_eq!(ask(&far, "192.0.2.2:8080").as_deref(), Some(seen));
    assert_eq!(
        ask_datagram(world, "192.0.2.2:8080").as_deref(),
        Some("192.0.2.1")
    );
    for (from, to) in [
        (world, "192.0.2.2:8081"),
        (world, "10.84.0.2:80"),
        (&far, "10.84.0.2:80"),
    ] {
        assert!(is_silent(from, to), "{to}");
    }
    let words = ["run", "--rm", "-p", "8080:80", "busybox", "true"];
    let error = daemon.docker(&words).fails(125);
    assert!(error.contains("port is already allocated"), "{error}");
    let held = host
        .run(|| std::net::TcpListener::bind("0.0.0.0:7000"))
        .expect("enter");
    let words = ["run", "--rm", "-p", "7000:80", "busybox", "true"];
    let error = daemon.docker(&words).fails(125);
    assert!(error.contains("address already in use"), "{error}");
    drop(held);
    // And what is published is held against the processes of the host.
    let refused = host
        .run(|| std::net::TcpListener::bind("0.0.0.0:8080"))
        .expect("enter")
        .expect_err("it is the container's");
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
    drop(mirror);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "front", "back"]).ok();
    outside.remove(daemon.host());
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    let daemon = daemon();
    let outside = Outside::of(daemon.host());
    daemon
        .docker(&[
            "network",
            "create",
            "--subnet=10.84.0.0/24",
            "--subnet=fd84::/64",
            "--ipv6",
            "front",
        ])
        .ok();
    daemon
        .docker(&[
            "network",
            "create",
            "--subnet=10.85.0.0/24",
            "--ipv6=false",
            "back",
        ])
        .ok();
    daemon.sleeper(
        "web",
        &[
            "--network=front",
            "-p",
            "8080:80",
            "-p",
            "8080:80/udp",
            "-p",
            "127.0.0.1:8081:80",
            "-p",
            "192.0.2.2:8082:80",
            "-p",
            "[fd00:2::2]:8083:80",
            "-p",
            "[::1]:8084:80",
            "-p",
            "80",
            "-p",
            "9000-9001:90-91",
            "-p",
            "9000:9000/sctp",
        ],
    );
    daemon.sleeper("near", &["--network=front"]);
    daemon.sleeper("far", &["--network=back"]);
    let mirror = Mirror::at(daemon.namespace("web"), 80);
    let host = daemon.host().namespace();
    let (near, far) = (daemon.namespace("near"), daemon.namespace("far"));
    let world = outside.namespace();
    for (from, to, seen) in [
        (host, "127.0.0.1:8080", "10.84.0.1"),
        (host, "127.0.0.1:8081", "10.84.0.1"),
        (host, "192.0.2.2:8080", "192.0.2.2"),
        (host, "[fd00:2::2]:8080", "fd00:2::2"),
        (host, "[::1]:8080", "fd84::1"),
        (host, "[::1]:8084", "fd84::1"),
        (host, "10.84.0.2:80", "10.84.0.1"),
        (world, "192.0.2.2:8080", "192.0.2.1"),
        (world, "192.0.2.2:8082", "192.0.2.1"),
        (world, "[fd00:2::2]:8080", "fd00:2::1"),
        (world, "[fd00:2::2]:8083", "fd00:2::1"),
        // On the same bridge it turns round; from another the address is kept.
        (&near, "192.0.2.2:8080", "10.84.0.1"),
        (&near, "10.84.0.2:80", "10.84.0.3"),
        (&near, "[fd00:2::2]:8080", "fd84::1"),
        (&daemon.namespace("web"), "192.0.2.2:8080", "10.84.0.1"),
        (&far, "192.0.2.2:8080", "10.85.0.2"),
    ] {
        assert_eq!(ask(from, to).as_deref(), Some(seen), "{to}");
    }
    assert_eq!(
        ask_datagram(world, "192.0.2.2:8080").as_deref(),
        Some("192.0.2.1")
    );
    assert_eq!(
        ask_datagram(host, "127.0.0.1:8080").as_deref(),
        Some("10.84.0.1")
    );
    let at_web = daemon.namespace("web");
    let arrived = ask_association(world, "192.0.2.2:9000".parse().expect("good"), &at_web);
    assert_eq!(arrived, Some(([192, 0, 2, 1].into(), 9000)), "SCTP");
    for (from, to, why) in [
        (
            world,
            "192.0.2.2:8081",
            "it is published at a loopback address",
        ),
        (
            world,
            "[fd00:2::2]:8084",
            "it is published at a loopback address",
        ),
        (&near, "[::1]:8080", "it is the container's own"),
        (host, "[::1]:8081", "it is published at the other family's"),
        (
            world,
            "10.84.0.2:80",
            "nobody routes to a bridge from outside",
        ),
        (&far, "10.84.0.2:80", "networks are apart"),
        (&near, "127.0.0.1:8080", "the host's loopback is the host's"),
    ] {
        assert!(is_silent(from, to), "{to}: {why}");
    }
    let shown = daemon.docker(&["port", "web", "80/tcp"]).ok();
    for part in [
        "0.0.0.0:8080",
        "[::]:8080",
        "127.0.0.1:8081",
        "192.0.2.2:8082",
        "[fd00:2::2]:8083",
        "[::1]:8084",
    ] {
        assert!(shown.lines().any(|line| line == part), "{part} in {shown}");
    }
    // The random one has one number at both families.
    let random: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("0.0.0.0:"))
        .filter(|port| *port != "8080")
        .collect();
    assert!(shown.contains(&format!("[::]:{}", random[0])), "{shown}");
    assert_eq!(
        ask(world, &format!("192.0.2.2:{}", random[0])).as_deref(),
        Some("192.0.2.1")
    );
    assert!(
        daemon
            .docker(&["port", "web", "91/tcp"])
            .ok()
            .contains("0.0.0.0:9001")
    );
    assert!(
        daemon
            .docker(&["port", "web", "9000/sctp"])
            .ok()
            .contains("0.0.0.0:9000")
    );

    let fails = |port: &str, part: &str| {
        let words = [
            "run",
            "--rm",
            "--network=front",
            "-p",
            port,
            "busybox",
            "true",
        ];
        let error = daemon.docker(&words).fails(125);
        assert!(
            error.contains("driver failed programming external connectivity on endpoint"),
            "{error}"
        );
        assert!(error.contains(part), "{error}");
    };
    fails(
        "8080:80",
        "Bind for 0.0.0.0:8080 failed: port is already allocated",
    );
    fails("9000-9001:80", "port is already allocated");
    let held = host
        .run(|| std::net::TcpListener::bind("0.0.0.0:7000"))
        .expect("enter");
    fails("7000:80", "address already in use");
    fails("192.0.2.77:80:80", "cannot assign requested address");
    drop(held);
    // Of a range for one port, a free one is taken.
    daemon.sleeper("ranged", &["-p", "8080-8090:80", "--expose=81", "-P"]);
    let shown = daemon.docker(&["port", "ranged"]).ok();
    let chosen = |port: u32| shown.contains(&format!("80/tcp -> 0.0.0.0:{port}\n"));
    assert!((8081..=8090).any(chosen), "{shown}");
    assert!(shown.contains("81/tcp -> 0.0.0.0:"), "{shown}");
    // Ports follow the default route.
    daemon.docker(&["network", "connect", "back", "web"]).ok();
    assert_eq!(ask(world, "192.0.2.2:8080").as_deref(), Some("192.0.2.1"));
    daemon
        .docker(&["network", "disconnect", "front", "web"])
        .ok();
    assert_eq!(ask(world, "192.0.2.2:8080").as_deref(), Some("192.0.2.1"));
    daemon
        .docker(&["network", "disconnect", "back", "web"])
        .ok();
    assert!(is_silent(world, "192.0.2.2:8080"));
    daemon.docker(&["network", "connect", "front", "web"]).ok();
    assert_eq!(ask(world, "192.0.2.2:8080").as_deref(), Some("192.0.2.1"));
    drop(mirror);
    daemon.docker(&["rm", "-f", "web"]).ok();
    assert!(is_silent(world, "192.0.2.2:8080"));
    daemon.sleeper("again", &["--network=front", "-p", "8080:80"]);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "front", "back"]).ok();
    outside.remove(daemon.host());
    daemon.finish();
}

/// Connects each of these sources to its destination, all of them at once, and
/// returns what they are told.
fn connect_together(ends: &[(String, &str)]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut connections = Vec::new();
        for (from, to) in ends {
            let socket = tokio::net::TcpSocket::new_v6().expect("a socket");
            socket
                .bind(from.parse().expect("an address and port"))
                .expect("the port is free");
            let connecting = socket.connect(to.parse().expect("an address and port"));
            connections.push(tokio::time::timeout(PATIENCE, connecting).await);
        }
        let mut told = Vec::new();
        for connection in &mut connections {
            let mut answer = String::new();
            match connection {
                Ok(Ok(stream)) => {
                    let _ = stream.read_to_string(&mut answer).await;
                }
                Ok(Err(error)) => answer = error.kind().to_string(),
                Err(_) => answer = "nothing".into(),
            }
            told.push(answer);
        }
        told
    })
}

/// The kernel has no way to ::1 of its own, and where packets on bridges pass the
/// IP hooks even less.
#[test]
fn ports_are_published_at_the_loopback_address_of_ipv6() {
    let mut daemon = daemon();
    daemon
        .docker(&[
            "network",
            "create",
            "--subnet=10.91.0.0/24",
            "--subnet=fd91::/64",
            "front",
        ])
        .ok();
    daemon.sleeper(
        "web",
        &["--network=front", "-p", "8080:80", "-p", "8080:80/udp"],
    );
    daemon.sleeper(
        "twice",
        &["--network=front", "-p", "8081:80", "-p", "8082:80"],
    );
    let mirrors = ["web", "twice"].map(|name| Mirror::at(daemon.namespace(name), 80));
    let seen = |daemon: &Daemon, to: &str| ask(daemon.host().namespace(), to);
    let filter = Path::new("/proc/sys/net/bridge/bridge-nf-call-ip6tables");
    for (bridged, port) in [("0", 33330), ("1", 33331)] {
        daemon
            .host()
            .inside(|| match std::fs::write(filter, bridged) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            });
        for to in ["[::1]:8080", "[::1]:8081", "[::1]:8082"] {
            assert_eq!(seen(&daemon, to).as_deref(), Some("fd91::1"), "{to}");
        }
        let datagram = ask_datagram(daemon.host().namespace(), "[::1]:8080");
        assert_eq!(datagram.as_deref(), Some("fd91::1"), "{bridged}");
        // Two connections of one source port to one place are told apart.
        let ends = [
            (format!("[fd91::1]:{port}"), "[fd91::2]:80"),
            (format!("[::1]:{port}"), "[::1]:8080"),
        ];
        let told = daemon.host().inside(|| connect_together(&ends));
        assert_eq!(told, ["fd91::1", "fd91::1"], "{bridged}");
        // From another address it is no question of the loopback.
        let foreign = [(format!("[fd91::1]:{}", port + 2), "[::1]:8080")];
        let refused = daemon.host().inside(|| connect_together(&foreign));
        assert_eq!(refused, ["connection refused"], "{bridged}");
    }
    // No process is in the way, so none is missed.
    daemon.kill();
    assert_eq!(seen(&daemon, "[::1]:8080").as_deref(), Some("fd91::1"));
    daemon.start_again();
    assert_eq!(seen(&daemon, "[::1]:8080").as_deref(), Some("fd91::1"));
    drop(mirrors);
    daemon.docker(&["rm", "-f", "web"]).ok();
    let gone = [("[::1]:0".to_owned(), "[::1]:8080")];
    let refused = daemon.host().inside(|| connect_together(&gone));
    assert_eq!(refused, ["connection refused"]);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "front"]).ok();
    daemon.finish();
}

/// A host without routes of its own that overlap has 172.17.0.0/16 for its default
/// network; this one has not. What leaves does so by the uplink's packets.
#[test]
fn networks_fit_what_the_host_has() {
    let mut uplink = None;
    let daemon = Daemon::start_with(|host| {
        let outside = Outside::of(host);
        for taken in ["172.17.0.0/16", "172.19.128.0/17"] {
            let route = ["route", "add", taken, "via", "192.0.2.1"];
            host.run("ip", &route).ok();
        }
        uplink = Some(outside);
        Vec::new()
    });
    daemon.busybox();
    let outside = uplink.expect("it was made");
    daemon.docker(&["network", "create", "front"]).ok();
    let subnet = |name: &str| {
        let format = "{{(index .IPAM.Config 0).Subnet}} {{.EnableIPv4}} {{.EnableIPv6}}";
        daemon
            .docker(&["network", "inspect", "-f", format, name])
            .ok()
    };
    assert_eq!(subnet("bridge"), "172.18.0.0/16 true true");
    assert_eq!(subnet("front"), "172.20.0.0/16 true true");
    let mirror = outside.mirror(90);
    for network in ["bridge", "front"] {
        daemon.sleeper(network, &["--network", network]);
        let addresses = daemon.within(network, "ip -o addr show eth0 scope global");
        assert!(
            addresses.contains(" inet 172.") && addresses.contains(" inet6 fd"),
            "{addresses}"
        );
        let inside = daemon.namespace(network);
        for (to, seen) in [
            ("192.0.2.1:90", "192.0.2.2"),
            ("[fd00:2::1]:90", "fd00:2::2"),
        ] {
            assert_eq!(ask(&inside, to).as_deref(), Some(seen), "{network}");
        }
        assert_eq!(
            daemon.within(network, "cat /sys/class/net/eth0/mtu"),
            "1400"
        );
        // The largest packet that the uplink takes, in one piece.
        daemon.within(network, "ping -c 1 -W 5 -s 1372 192.0.2.1");
    }
    drop(mirror);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "front"]).ok();
    outside.remove(daemon.host());
    daemon.finish();
}

#[test]
fn a_network_may_have_ipv6_alone() {
    let daemon = daemon();
    let outside = Outside::of(daemon.host());
    daemon
        .docker(&[
            "network",
            "create",
            "--ipv4=false",
            "--ipv6",
            "--subnet=fd92::/64",
            "six",
        ])
        .ok();
    let format = "{{.EnableIPv4}} {{.EnableIPv6}} {{len .IPAM.Config}}";
    let shown = daemon
        .docker(&["network", "inspect", "-f", format, "six"])
        .ok();
    assert_eq!(shown, "false true 1");
    daemon.sleeper("web", &["--network=six", "-p", "8080:80"]);
    daemon.sleeper("near", &["--network=six"]);
    let addresses = daemon.within("web", "ip -o addr show eth0 scope global");
    assert!(
        addresses.contains(" fd92::2/64") && !addresses.contains(" inet "),
        "{addresses}"
    );
    assert_eq!(daemon.docker(&["port", "web"]).ok(), "80/tcp -> [::]:8080");
    daemon.within("near", "nslookup web | grep fd92::2");
    let mirror = Mirror::at(daemon.namespace("web"), 80);
    let beyond = outside.mirror(90);
    let (host, near) = (daemon.host().namespace(), daemon.namespace("near"));
    for (from, to, seen) in [
        (outside.namespace(), "[fd00:2::2]:8080", "fd00:2::1"),
        (host, "[::1]:8080", "fd92::1"),
        (&near, "[fd92::2]:80", "fd92::3"),
        (&near, "[fd00:2::2]:8080", "fd92::1"),
        (&near, "[fd00:2::1]:90", "fd00:2::2"),
    ] {
        assert_eq!(ask(from, to).as_deref(), Some(seen), "{to}");
    }
    assert!(is_silent(host, "127.0.0.1:8080"), "it has no IPv4");
    for (words, part) in [
        (
            &["--ipv4=false", "--ipv6=false"][..],
            "IPv4 and IPv6 are both turned off",
        ),
        (
            &["--ipv4=false", "--ipv6", "--subnet=10.92.0.0/24"],
            "IPv4 is turned off",
        ),
    ] {
        let words = [&["network", "create"], words, &["x"]].concat();
        let error = daemon.docker(&words).fails(1);
        assert!(error.contains(part), "{words:?}: {error}");
    }
    drop((mirror, beyond));
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "six"]).ok();
    outside.remove(daemon.host());
    daemon.finish();
}

#[test]
fn gateways_have_modes() {
    let daemon = daemon();
    let outside = Outside::of(daemon.host());
    let world = outside.namespace();
    let create = |name: &str, subnets: [&str; 2], options: &[&str]| {
        let subnets = subnets.map(|subnet| format!("--subnet={subnet}"));
        let words = [
            &["network", "create", "--ipv6", &subnets[0], &subnets[1]][..],
            options,
            &[name],
        ];
        daemon.docker(&words.concat()).ok();
    };
    let mode = |family: &str, mode: &str| {
        format!("--opt=com.docker.network.bridge.gateway_mode_{family}={mode}")
    };
    create(
        "routed",
        ["10.93.0.0/24", "fd93::/64"],
        &[&mode("ipv4", "routed"), &mode("ipv6", "routed")],
    );
    create(
        "open",
        ["10.94.0.0/24", "fd94::/64"],
        &[&mode("ipv4", "nat-unprotected")],
    );
    create(
        "apart",
        ["10.95.0.0/24", "fd95::/64"],
        &[
            "--internal",
            &mode("ipv4", "isolated"),
            &mode("ipv6", "isolated"),
        ],
    );
    create(
        "without",
        ["10.96.0.0/24", "fd96::/64"],
        &["--opt=com.docker.network.bridge.inhibit_ipv4=true"],
    );
    for route in [
        "10.93.0.0/24 via 192.0.2.2",
        "10.94.0.0/24 via 192.0.2.2",
        "fd93::/64 via fd00:2::2",
        "fd94::/64 via fd00:2::2",
    ] {
        let words: Vec<&str> = ["route", "add"]
            .into_iter()
            .chain(route.split(' '))
            .collect();
        let added = world.run(|| Command::new("ip").args(&words).status());
        assert!(added.expect("enter").expect("ip runs").success(), "{route}");
    }
    for name in ["routed", "open", "apart", "without"] {
        daemon.sleeper(name, &["--network", name, "-p", "80"]);
    }
    daemon.sleeper("apart2", &["--network=apart"]);
    daemon.sleeper("without2", &["--network=without"]);
    let place = |name: &str| daemon.namespace(name);
    let mirrors = ["routed", "open", "apart", "without"]
        .map(|name| [80, 81].map(|port| Mirror::at(place(name), port)));
    let beyond = outside.mirror(90);
    for (from, to, seen) in [
        // Routed: published ports and nothing else, both ways with its own address.
        (world, "10.93.0.2:80", Some("192.0.2.1")),
        (world, "[fd93::2]:80", Some("fd00:2::1")),
        (world, "10.93.0.2:81", None),
        (world, "[fd93::2]:81", None),
        (&place("routed"), "192.0.2.1:90", Some("10.93.0.2")),
        (&place("routed"), "[fd00:2::1]:90", Some("fd93::2")),
        (&place("open"), "10.93.0.2:80", Some("10.94.0.2")),
        // Unprotected: all of IPv4, and IPv6 as always.
        (world, "10.94.0.2:81", Some("192.0.2.1")),
        (world, "[fd94::2]:81", None),
        (&place("open"), "192.0.2.1:90", Some("192.0.2.2")),
        // Isolated: each other.
        (&place("apart2"), "10.95.0.2:80", Some("10.95.0.3")),
        (&place("apart2"), "[fd95::2]:80", Some("fd95::3")),
        (daemon.host().namespace(), "10.95.0.2:80", None),
        (&place("apart"), "192.0.2.1:90", None),
        (&place("without2"), "10.96.0.2:80", Some("10.96.0.3")),
    ] {
        match seen {
            Some(_) => assert_eq!(ask(from, to).as_deref(), seen, "{to}"),
            None => assert!(is_silent(from, to), "{to}"),
        }
    }
    let pinged = world.run(|| {
        Command::new("busybox")
            .args(["ping", "-c1", "-W5", "10.93.0.2"])
            .output()
    });
    assert!(pinged.expect("enter").expect("ping runs").status.success());
    // No port of the host leads to what is routed.
    let ports = daemon.inspect("routed", "{{json .NetworkSettings.Ports}}");
    assert!(ports.contains(r#""HostPort":"""#), "{ports}");
    for bridge in ["apart", "without"] {
        let id = daemon
            .docker(&["network", "inspect", "-f", "{{.Id}}", bridge])
            .ok();
        let name = daemon.host().links_of("bridge");
        let name = name
            .iter()
            .find(|name| name.ends_with(&id[..8]))
            .expect("its bridge");
        let addresses = daemon.host().run("ip", &["-o", "addr", "show", name]).ok();
        assert!(!addresses.contains(" inet "), "{addresses}");
        assert_eq!(
            addresses.contains(" inet6 "),
            bridge == "without",
            "{addresses}"
        );
    }
    // Names are answered where there is no address of ours to ask, too.
    daemon.within("apart2", "nslookup apart | grep 10.95.0.2");
    daemon.within("without2", "nslookup without | grep 10.96.0.2");
    let words = ["network", "create", &mode("ipv4", "isolated"), "x"];
    let error = daemon.docker(&words).fails(1);
    assert!(
        error.contains("only be used for an internal network"),
        "{error}"
    );
    drop((mirrors, beyond));
    daemon.remove_containers();
    daemon
        .docker(&["network", "rm", "routed", "open", "apart", "without"])
        .ok();
    outside.remove(daemon.host());
    daemon.finish();
}

#[test]
fn ports_lead_where_the_default_route_is_and_are_open_where_it_is_routed() {
    let daemon = daemon();
    let outside = Outside::of(daemon.host());
    let world = outside.namespace();
    for (name, subnet, mode) in [
        ("a-routed", "10.97.0.0/24", "routed"),
        ("b-nat", "10.98.0.0/24", "nat"),
        ("c-local", "10.99.0.0/24", "nat"),
    ] {
        let subnet = format!("--subnet={subnet}");
        let mode = format!("--opt=com.docker.network.bridge.gateway_mode_ipv4={mode}");
        let mut words = vec!["network", "create", "--ipv6=false", &subnet, &mode];
        if name == "c-local" {
            words.push("--opt=com.docker.network.bridge.host_binding_ipv4=127.0.0.1");
        }
        daemon.docker(&[&words[..], &[name]].concat()).ok();
    }
    let back = ["route", "add", "10.97.0.0/24", "via", "192.0.2.2"];
    let added = world.run(|| Command::new("ip").args(back).status());
    assert!(added.expect("enter").expect("ip runs").success());
    daemon.sleeper("web", &["--network=a-routed", "-p", "8080:80", "-p", "81"]);
    let mirror = Mirror::at(daemon.namespace("web"), 80);
    // What leads to port 80, what `docker port` tells of port 81, and who reaches
    // it: at its own address, by the host's from outside, by the host's from there.
    let host = daemon.host().namespace();
    let seen = |bindings: &[&str], reached: [bool; 3]| {
        let template =
            "{{range index .NetworkSettings.Ports \"80/tcp\"}}{{.HostIp}}:{{.HostPort}} {{end}}";
        let mut told: Vec<String> = daemon
            .inspect("web", template)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        told.sort();
        assert_eq!(told, bindings);
        let places = [
            (world, "10.97.0.2:80"),
            (world, "192.0.2.2:8080"),
            (host, "127.0.0.1:8080"),
        ];
        for ((from, to), reached) in places.into_iter().zip(reached) {
            match reached {
                true => assert!(ask(from, to).is_some(), "{to} with {bindings:?}"),
                false => assert!(is_silent(from, to), "{to} with {bindings:?}"),
            }
        }
    };
    let network = |verb: &str, options: &[&str], name: &str| {
        let words = [&["network", verb][..], options, &[name, "web"]].concat();
        daemon.docker(&words).ok();
    };
    let chosen = || {
        let template = "{{range index .NetworkSettings.Ports \"81/tcp\"}}{{.HostPort}} {{end}}";
        daemon.inspect("web", template).trim().to_owned()
    };
    seen(&["0.0.0.0:"], [true, false, false]);
    // One that translates beside it changes nothing, unless it leads out.
    network("connect", &[], "b-nat");
    seen(&["0.0.0.0:"], [true, false, false]);
    network("disconnect", &[], "a-routed");
    seen(&["0.0.0.0:8080"], [false, true, true]);
    let number = chosen();
    network("connect", &["--ip=10.97.0.2"], "a-routed");
    seen(&["0.0.0.0:"], [true, false, false]);
    network("disconnect", &[], "b-nat");
    seen(&["0.0.0.0:"], [true, false, false]);
    network("connect", &["--gw-priority=1"], "b-nat");
    seen(&["0.0.0.0:", "0.0.0.0:8080"], [true, true, true]);
    assert!(!number.is_empty() && !chosen().is_empty());
    // Where ports are bound is the network's affair, which number is not.
    let number = chosen();
    network("connect", &["--gw-priority=2"], "c-local");
    seen(&["0.0.0.0:", "127.0.0.1:8080"], [true, false, true]);
    assert_eq!(chosen(), number);
    // What cannot be bound leaves all as it was.
    network("disconnect", &[], "c-local");
    let taken = daemon
        .host()
        .inside(|| std::net::TcpListener::bind("192.0.2.2:8081"));
    let taken = taken.expect("the port is free");
    daemon.sleeper("other", &["--network=c-local", "-p", "8081:80"]);
    let words = ["network", "connect", "--gw-priority=3", "b-nat", "other"];
    let error = daemon.docker(&words).fails(1);
    assert!(error.contains("address already in use"), "{error}");
    drop(taken);
    let ports = daemon.docker(&["port", "other"]).ok();
    assert_eq!(ports, "80/tcp -> 127.0.0.1:8081");
    // A port has several ways in while the daemon is away, and after that.
    let mut daemon = daemon;
    daemon.kill();
    daemon.start_again();
    assert!(ask(world, "10.97.0.2:80").is_some());
    assert!(ask(world, "192.0.2.2:8080").is_some());
    let words = ["network", "disconnect", "b-nat", "web"];
    daemon.docker(&words).ok();
    assert!(ask(world, "10.97.0.2:80").is_some());
    assert!(is_silent(world, "192.0.2.2:8080"));
    daemon
        .docker(&["network", "connect", "c-local", "web"])
        .ok();
    daemon
        .docker(&["network", "disconnect", "a-routed", "web"])
        .ok();
    assert!(ask(daemon.host().namespace(), "127.0.0.1:8080").is_some());
    drop(mirror);
    daemon.remove_containers();
    daemon
        .docker(&["network", "rm", "a-routed", "b-nat", "c-local"])
        .ok();
    outside.remove(daemon.host());
    daemon.finish();
}

#[test]
fn bridges_are_as_open_as_they_were_made() {
    let daemon = daemon();
    bridges_are_as_open(&daemon);
    daemon.finish();
}

#[test]
fn bridges_of_the_reference_are_as_open_as_they_were_made() {
    bridges_are_as_open(&reference());
}

fn bridges_are_as_open(daemon: &impl Dockerd) {
    let outside = Outside::of(daemon.host());
    let create = |name: &str, subnet: &str, options: &[&str]| {
        let subnet = format!("--subnet={subnet}");
        let words = [&["network", "create", &subnet][..], options, &[name]].concat();
        daemon.docker(&words).ok();
    };
    create(
        "cells",
        "10.86.0.0/24",
        &["-o", "com.docker.network.bridge.enable_icc=false"],
    );
    create(
        "plain",
        "10.87.0.0/24",
        &["-o", "com.docker.network.bridge.enable_ip_masquerade=false"],
    );
    create(
        "local",
        "10.88.0.0/24",
        &[
            "-o",
            "com.docker.network.bridge.host_binding_ipv4=127.0.0.1",
        ],
    );
    create("inner", "10.89.0.0/24", &["--internal"]);
    for (name, network) in [
        ("cell-a", "cells"),
        ("cell-b", "cells"),
        ("plain-c", "plain"),
        ("local-d", "local"),
        ("inner-e", "inner"),
        ("inner-f", "inner"),
    ] {
        daemon.sleeper(name, &["--network", network, "-p", "80"]);
    }
    let [cell, plain, inner] = ["cell-a", "plain-c", "inner-e"].map(|name| daemon.namespace(name));
    let world = outside.namespace();
    let mirrors =
        ["cell-b", "local-d", "inner-f"].map(|name| Mirror::at(daemon.namespace(name), 80));
    let beyond = outside.mirror(90);
    // Cells do not hear each other, but are reached and reach out.
    assert!(is_silent(&cell, "10.86.0.3:80"));
    assert_eq!(
        ask(daemon.host().namespace(), "10.86.0.3:80").as_deref(),
        Some("10.86.0.1")
    );
    assert_eq!(ask(&cell, "192.0.2.1:90").as_deref(), Some("192.0.2.2"));
    // With its own address outside, once outside knows the way back.
    let back = ["route", "add", "10.87.0.0/24", "via", "192.0.2.2"];
    let added = world.run(|| Command::new("ip").args(back).status());
    assert!(added.expect("enter").expect("ip runs").success());
    assert_eq!(ask(&plain, "192.0.2.1:90").as_deref(), Some("10.87.0.2"));
    // Published at the loopback address alone.
    let port = daemon.docker(&["port", "local-d", "80/tcp"]).ok();
    let number = port
        .strip_prefix("127.0.0.1:")
        .expect("at the binding address");
    assert_eq!(
        ask(daemon.host().namespace(), &port).as_deref(),
        Some("10.88.0.1")
    );
    assert!(is_silent(world, &format!("192.0.2.2:{number}")));
    // Neither in nor out, but within.
    assert!(is_silent(&inner, "192.0.2.1:90"));
    assert_eq!(ask(&inner, "10.89.0.3:80").as_deref(), Some("10.89.0.2"));
    // The reference leads a default route to a bridge that lets nothing out.
    assert_eq!(
        daemon.within("inner-e", "ip route | grep -c default || true"),
        if daemon.is_reference() { "1" } else { "0" }
    );
    assert_eq!(daemon.docker(&["port", "inner-e"]).ok(), "");
    drop(mirrors);
    drop(beyond);
    daemon.remove_containers();
    daemon
        .docker(&["network", "rm", "cells", "plain", "local", "inner"])
        .ok();
    outside.remove(daemon.host());
}

#[test]
fn a_hosts_own_firewall_is_respected() {
    let mut daemon = daemon();
    let outside = Outside::of(daemon.host());
    let rules = "table inet firewall {
        chain input { type filter hook input priority filter; policy drop;
            iifname \"lo\" accept; ct state established,related accept; icmpv6 type nd-neighbor-solicit accept; }
        chain forward { type filter hook forward priority filter; policy drop;
            ct state established,related accept; meta l4proto tcp ct status dnat ct original proto-dst 8080 accept; }
    }";
    daemon.host().run("nft", &[rules]).ok();
    let ruleset = |daemon: &Daemon| {
        daemon
            .host()
            .run("nft", &["list", "table", "inet", "firewall"])
            .ok()
    };
    let before = ruleset(&daemon);
    let made = daemon.dhow(&["network", "create", "--subnet=10.90.0.0/24", "front"]);
    assert!(
        made.stderr.contains("inet firewall forward"),
        "{}",
        made.stderr
    );
    made.ok();
    daemon.sleeper(
        "web",
        &["--network=front", "-p", "8080:80", "-p", "8443:443"],
    );
    let mirrors = [80, 443].map(|port| Mirror::at(daemon.namespace("web"), port));
    assert_eq!(
        ask(outside.namespace(), "192.0.2.2:8080").as_deref(),
        Some("192.0.2.1")
    );
    assert!(
        is_silent(outside.namespace(), "192.0.2.2:8443"),
        "the host lets only port 8080 through"
    );
    // What a stranger breaks of ours is mended by the next change, or the next
    // start; what is the stranger's stays.
    let table = format!("dhow-{}", daemon.host().instance());
    daemon
        .host()
        .run("nft", &["delete", "table", "ip", &table])
        .ok();
    daemon.sleeper("other", &["--network=front", "-p", "8081:80"]);
    assert_eq!(
        ask(outside.namespace(), "192.0.2.2:8080").as_deref(),
        Some("192.0.2.1")
    );
    daemon
        .host()
        .run("nft", &["flush", "table", "ip", &table])
        .ok();
    daemon.stop();
    daemon.start_again();
    assert_eq!(
        ask(outside.namespace(), "192.0.2.2:8080").as_deref(),
        Some("192.0.2.1")
    );
    drop(mirrors);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "front"]).ok();
    assert_eq!(ruleset(&daemon), before);
    daemon
        .host()
        .run("nft", &["delete", "table", "inet", "firewall"])
        .ok();
    outside.remove(daemon.host());
    daemon.finish();
}

#[test]
fn nothing_is_left_after_crash_and_reboot() {
    let mut daemon = daemon();
    daemon.docker(&["network", "create", "front"]).ok();
    for round in 0..4 {
        daemon.sleeper(&format!("kept{round}"), &["--network=front", "-p", "80"]);
        daemon.sleeper(&format!("gone{round}"), &["--network=front", "-p", "80"]);
        // In the middle of whatever the removal puts off.
        daemon.docker(&["rm", "-f", &format!("gone{round}")]).ok();
        daemon.kill();
        daemon.start_again();
        let links = daemon.host().run("ip", &["-br", "link"]).ok();
        let ports = links.lines().filter(|line| line.contains('@')).count();
        assert_eq!(ports, round + 1, "one port for each that is kept:\n{links}");
    }
    let seen = daemon.script(
        &["--network=front"],
        "for n in 0 1 2 3; do nslookup -type=a kept$n | grep -c 'Name:'; done",
    );
    assert_eq!(seen, "1\n1\n1\n1");
    // A reboot takes namespaces, links, rules and the run folder, and leaves the
    // definitions.
    let pids: Vec<String> = (0..4)
        .map(|round| daemon.inspect(&format!("kept{round}"), "{{.State.Pid}}"))
        .collect();
    daemon.kill();
    let folder = daemon.host().folder().display().to_string();
    for pid in &pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .expect("a parent")
            .trim()
            .to_owned();
        daemon.host().run("kill", &["-KILL", &parent, pid]).ok();
    }
    let instance = daemon.host().instance();
    let reboot = format!(
        "rm -rf {folder}/run; nft flush ruleset
         find /sys/fs/cgroup -depth -type d -path '*/dhow-{instance}*' -exec rmdir {{}} +
         cd /proc/sys/net/ipv4/conf; for link in *; do ip link del $link 2> /dev/null; done; true"
    );
    daemon.host().run("sh", &["-c", &reboot]).ok();
    daemon.start_again();
    assert_eq!(daemon.docker(&["ps", "-q"]).ok(), "");
    daemon.docker(&["start", "kept0"]).ok();
    let seen = daemon.script(
        &["--network=front"],
        "nslookup -type=a kept0 | grep -c Name:",
    );
    assert_eq!(seen, "1");
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "front"]).ok();
    daemon.finish();
}
