//! Links, addresses and routes in network namespaces made for the purpose.
//!
//! Needs the right to make network namespaces (root).

use std::fs::File;
use std::os::fd::AsFd;

use dhow_netlink::{Batch, NewLink, Peer, Prefix, Route, Socket};

/// A fresh network namespace; it is gone when the last socket in it is.
fn namespace() -> File {
    std::thread::spawn(|| {
        unshare();
        File::open("/proc/thread-self/ns/net").expect("this kernel has network namespaces")
    })
    .join()
    .expect("the thread ends well")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

#[test]
fn a_pair_joins_two_namespaces() {
    let (host, guest) = (namespace(), namespace());
    let host = Socket::open_in(host.as_fd(), Socket::route).expect("host socket");
    let inside = Socket::open_in(guest.as_fd(), Socket::route).expect("guest socket");

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
    batch.set_hairpin(port.index);
    host.run(&mut batch).expect("hairpin");

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
fn refusals_name_the_request() {
    let space = namespace();
    let socket = Socket::open_in(space.as_fd(), Socket::route).expect("socket");
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

/// Leaves the thread's network namespace for a new one.
fn unshare() {
    // SAFETY: a network namespace is no memory; nothing of this process is
    // shared less than before.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "unshare(CLONE_NEWNET) needs root");
}
