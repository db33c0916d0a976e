//! What containers of one bridge hear of each other: what is meant for them.

use std::time::{Duration, Instant};

use dhow_testkit::Daemon;

/// How many containers are started beside the one that is to hear nothing of it.
const STARTS: usize = 4;
/// How long the kernel may take to settle what it was told.
const PATIENCE: Duration = Duration::from_secs(20);

/// Multicast packets that a container was bothered with, the bridge's own questions
/// not counted.
fn heard(daemon: &Daemon, name: &str) -> u64 {
    let counters = daemon.within(name, "cat /proc/net/snmp6");
    let counter = |wanted: &str| -> u64 {
        let mut words = counters.split_whitespace();
        words.find(|word| *word == wanted).expect("a counter");
        let number = words.next().and_then(|number| number.parse().ok());
        number.expect("a number")
    };
    counter("Ip6InMcastPkts") - counter("Icmp6InGroupMembQueries")
}

/// Groups that the ports of a bridge are known to be in.
fn memberships(daemon: &Daemon, bridge: &str) -> Vec<String> {
    let text = daemon.host().run("bridge", &["mdb"]).ok();
    let of_ports = text
        .lines()
        .filter(|line| !line.contains(&format!("port {bridge} ")));
    of_ports.map(str::to_owned).collect()
}

fn await_memberships(daemon: &Daemon, bridge: &str, count: usize) {
    let begun = Instant::now();
    loop {
        let known = memberships(daemon, bridge);
        if known.len() >= count {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not {count}: {known:#?}");
    }
}

/// Regression: each start was announced to every container of the bridge, which
/// with a thousand of them was most of what it cost.
#[test]
fn a_start_is_no_news_to_strangers() {
    let daemon = Daemon::start();
    daemon.busybox();
    for name in ["stranger", "far"] {
        daemon.sleeper(name, &[]);
    }
    let bridges = daemon.host().links_of("bridge");
    let [bridge] = bridges.as_slice() else {
        panic!("one bridge, not {bridges:?}");
    };
    let shown = daemon
        .host()
        .run("ip", &["-d", "link", "show", bridge])
        .ok();
    assert!(shown.contains("mcast_querier 1 "), "{shown}");
    // It trusts what it knows after a while only, which is cut short here.
    for value in ["0", "1"] {
        let query = ["mcast_query_response_interval", "1", "mcast_querier", value];
        let words = [&["link", "set", bridge, "type", "bridge"], &query[..]].concat();
        daemon.host().run("ip", &words).ok();
    }
    // Each container is in two: of its own address and of the local one.
    await_memberships(&daemon, bridge, 4);
    let before = heard(&daemon, "stranger");
    for number in 0..STARTS {
        daemon.sleeper(&format!("fresh{number}"), &[]);
    }
    await_memberships(&daemon, bridge, 4 + 2 * STARTS);
    let address = daemon.inspect("far", "{{.NetworkSettings.GlobalIPv6Address}}");
    for number in 0..STARTS {
        let name = format!("fresh{number}");
        daemon.within(&name, &format!("ping -6 -c 1 -W 5 {address}"));
    }
    // What the bridge itself has to say when it is new is all there may be.
    let more = heard(&daemon, "stranger") - before;
    assert!(more < STARTS as u64, "{more} packets of {STARTS} starts");
    // Those that are asked for hear it, and what is for all reaches all.
    let address = daemon.inspect("fresh0", "{{.NetworkSettings.GlobalIPv6Address}}");
    daemon.within("stranger", &format!("ping -6 -c 1 -W 5 {address}"));
    daemon.within("fresh0", "ping -6 -c 1 -W 5 ff02::1%eth0");
    assert!(heard(&daemon, "stranger") > before);
    daemon.remove_containers();
    daemon.finish();
}
