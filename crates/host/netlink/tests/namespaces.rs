//! Links, addresses and routes in network namespaces made for the purpose.
//!
//! Needs the right to make network namespaces (root).

use std::os::fd::AsFd;

use dhow_netlink::{
    Batch, IsIpv4, MacvlanMode, Namespace, NewLink, Peer, Port, Prefix, Route, Socket,
};

/// A network namespace in a folder that vanishes with the test.
fn namespace(folder: &tempfile::TempDir, name: &str) -> Namespace {
    Namespace::create_pinned(&folder.path().join(name)).expect("making namespaces needs root")
}

fn route_socket(namespace: &Namespace) -> Socket {
    namespace
        .run(Socket::route)
        .expect("enter")
        .expect("a socket")
}

/// Lets go of everything that a test pinned.
struct Pins(tempfile::TempDir);

impl Drop for Pins {
    fn drop(&mut self) {
        for entry in self.0.path().read_dir().into_iter().flatten().flatten() {
            let _ = Namespace::remove_pinned(&entry.path());
        }
    }
}

fn pins() -> Pins {
    Pins(tempfile::tempdir().expect("a folder"))
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

#[test]
fn a_pair_joins_two_namespaces() {
    let pins = pins();
    let (space, guest) = (namespace(&pins.0, "host"), namespace(&pins.0, "guest"));
    let (host, inside) = (route_socket(&space), route_socket(&guest));

    let mut batch = Batch::new();
    batch.add_link(&NewLink::bridge("br0").alias("made by a test").mtu(1400));
    host.run(&mut batch).expect("a bridge");
    let bridge = host
        .link("br0")
        .expect("look up")
        .expect("the bridge is there");
    assert_eq!(
        (bridge.kind.as_str(), bridge.mtu, bridge.is_up),
        ("bridge", 1400, true)
    );
    assert_eq!(bridge.alias, "made by a test");

    let peer = Peer {
        name: "eth0",
        address: [2, 0, 0, 0, 0, 9],
        namespace: guest.as_fd(),
    };
    let mut batch = Batch::new();
    batch
        .add_address(bridge.index, prefix("10.9.0.1/24"))
        .add_link(&NewLink::veth("veth9", peer).mtu(1400).master(bridge.index));
    host.run(&mut batch).expect("a pair");
    let port = host
        .link("veth9")
        .expect("look up")
        .expect("the near end is there");
    assert_eq!(port.master, Some(bridge.index));
    let mut batch = Batch::new();
    let behaviour = Port {
        hairpin: true,
        isolated: true,
        addressless: true,
    };
    batch
        .set_port("veth9", behaviour)
        .set_route_localnet(bridge.index);
    host.run(&mut batch)
        .expect("a port that turns packets round");
    let (shown, setting) = space
        .run(|| {
            let shown = std::process::Command::new("ip")
                .args(["-d", "link", "show", "veth9"])
                .output()
                .expect("ip is there: install the Debian package iproute2");
            let path = "/proc/sys/net/ipv4/conf/br0/route_localnet";
            (shown.stdout, std::fs::read_to_string(path))
        })
        .expect("enter");
    let shown = String::from_utf8_lossy(&shown);
    for expected in ["hairpin on", "isolated on"] {
        assert!(shown.contains(expected), "{shown}");
    }
    assert_eq!(setting.expect("a setting").trim(), "1");

    let far = inside
        .link("eth0")
        .expect("look up")
        .expect("the far end is there");
    assert_eq!(
        (far.address.as_slice(), far.mtu),
        (&[2, 0, 0, 0, 0, 9][..], 1400)
    );
    let default = Route {
        destination: prefix("0.0.0.0/0"),
        gateway: Some("10.9.0.1".parse().expect("an address")),
        link: far.index,
    };
    let mut batch = Batch::new();
    batch
        .set_up(1)
        .set_up(far.index)
        .add_address(far.index, prefix("10.9.0.2/24"))
        .add_address(far.index, prefix("fd09::2/64"))
        .add_route(default);
    inside.run(&mut batch).expect("addresses and a route");
    let routes = inside.routes().expect("routes");
    assert!(routes.contains(&default), "{routes:?}");
    assert!(
        routes
            .iter()
            .any(|route| route.destination == prefix("10.9.0.0/24")),
        "{routes:?}"
    );

    let mut batch = Batch::new();
    batch.delete_link("veth9");
    host.run(&mut batch).expect("delete");
    assert_eq!(
        inside.link("eth0").expect("look up"),
        None,
        "both ends go together"
    );
}

#[test]
fn a_group_is_deleted_together() {
    let pins = pins();
    let (space, guest) = (namespace(&pins.0, "host"), namespace(&pins.0, "guest"));
    let host = route_socket(&space);
    let names = ["veth0", "veth1", "veth2"];
    let mut batch = Batch::new();
    for (number, name) in (0..).zip(names) {
        let far = format!("far{number}");
        let peer = Peer {
            name: &far,
            address: [2, 0, 0, 0, 0, number],
            namespace: guest.as_fd(),
        };
        batch.add_link(&NewLink::veth(name, peer).group(7));
    }
    batch
        .set_group("veth2", 8)
        .set_group("veth1", 9)
        .set_group("veth0", 9);
    host.run(&mut batch).expect("three pairs");
    let kept = host.link("veth2").expect("look up").expect("it is there");
    assert_eq!(kept.group, 8);
    let mut batch = Batch::new();
    batch.delete_group(9);
    host.run(&mut batch).expect("two are deleted");
    let left: Vec<String> = host
        .links()
        .expect("links")
        .into_iter()
        .map(|link| link.name)
        .collect();
    assert_eq!(left, ["lo", "veth2"]);
    let mut batch = Batch::new();
    batch.delete_group(9);
    let error = host.run(&mut batch).expect_err("nothing is in it");
    assert!(error.is_not_found(), "{error}");
}

#[test]
fn a_link_on_another_is_made_in_its_namespace() {
    let pins = pins();
    let (space, guest) = (namespace(&pins.0, "host"), namespace(&pins.0, "guest"));
    let (host, inside) = (route_socket(&space), route_socket(&guest));
    let mut batch = Batch::new();
    batch.add_link(&NewLink::bridge("uplink").mtu(1400));
    host.run(&mut batch).expect("something to lie on");
    let parent = host
        .link("uplink")
        .expect("look up")
        .expect("it is there")
        .index;
    let mut batch = Batch::new();
    batch.add_link(
        &NewLink::macvlan("eth0", parent, MacvlanMode::Bridge)
            .address([2, 0, 0, 0, 0, 9])
            .namespace(guest.as_fd()),
    );
    host.run(&mut batch).expect("a macvlan link");
    assert_eq!(host.link("eth0").expect("look up"), None);
    let made = inside
        .link("eth0")
        .expect("look up")
        .expect("it is in the other namespace");
    assert_eq!(
        (made.kind.as_str(), made.parent, made.mtu, made.is_up),
        ("macvlan", Some(parent), 1400, false)
    );
    assert_eq!(made.address, [2, 0, 0, 0, 0, 9]);
}

#[test]
fn refusals_name_the_request() {
    let pins = pins();
    let socket = route_socket(&namespace(&pins.0, "host"));
    let mut batch = Batch::new();
    batch
        .add_link(&NewLink::bridge("br0"))
        .add_link(&NewLink::bridge("br0"))
        .delete_link("nope");
    let results = socket.run_each(&mut batch).expect("the socket works");
    assert_eq!(results.len(), 3);
    assert!(results[0].is_ok());
    assert!(
        results[1]
            .as_ref()
            .is_err_and(dhow_netlink::Error::is_exists)
    );
    assert!(
        results[2]
            .as_ref()
            .is_err_and(dhow_netlink::Error::is_not_found)
    );
    assert!(
        socket.link("br0").expect("look up").is_some(),
        "later requests do not undo earlier"
    );
}

#[test]
fn a_pin_holds_and_lets_go() {
    let pins = pins();
    let path = pins.0.path().join("pinned");
    let made = Namespace::create_pinned(&path).expect("making namespaces needs root");
    assert!(
        Namespace::create_pinned(&path).is_err(),
        "the path is taken"
    );
    let mut batch = Batch::new();
    batch.add_link(&NewLink::bridge("br0"));
    route_socket(&made).run(&mut batch).expect("a bridge");
    drop(made);
    let again = Namespace::open(&path).expect("the pin holds it");
    assert!(route_socket(&again).link("br0").expect("look up").is_some());
    Namespace::remove_pinned(&path).expect("let go");
    Namespace::remove_pinned(&path).expect("nothing to let go is no error");
    assert!(!path.exists());
    assert!(Namespace::create_pinned(&pins.0.path().join("no/such/folder")).is_err());
}

/// Needs the Debian package `nftables`: connection tracking begins when
/// somebody asks for it.
#[test]
fn flows_are_listed_and_forgotten() {
    use std::net::UdpSocket;

    let pins = pins();
    let host = namespace(&pins.0, "host");
    host.run(|| {
        let route = Socket::route().expect("a socket");
        let mut batch = Batch::new();
        batch.set_up(1);
        route.run(&mut batch).expect("loopback comes up");
        let rules = "table inet t { chain c { type filter hook input priority 0; ct state new counter; }; }";
        let tracked = std::process::Command::new("nft").arg(rules).status();
        assert!(tracked.expect("nft is installed").success());

        let (one, other) = (
            UdpSocket::bind("127.0.0.1:0").expect("a socket"),
            UdpSocket::bind("127.0.0.2:0").expect("a socket"),
        );
        let to = other.local_addr().expect("bound");
        one.send_to(b"x", to).expect("sent");
        let netfilter = Socket::netfilter().expect("a socket");
        let flows = || netfilter.flows(IsIpv4::Yes, 17).expect("flows");
        let found = flows();
        let [flow] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(flow.original.source, one.local_addr().expect("bound"));
        assert_eq!(flow.original.destination, to);
        assert_eq!(flow.reply.source, to);
        assert_eq!(netfilter.flows(IsIpv4::Yes, 6).expect("flows"), []);
        assert_eq!(netfilter.flows(IsIpv4::No, 17).expect("flows"), []);
        netfilter.forget_flows(&found).expect("forgotten");
        assert_eq!(flows(), []);
        netfilter.forget_flows(&found).expect("it is gone already");
    })
    .expect("enter");
}
