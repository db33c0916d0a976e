//! Containers that are hosts of the network outside: macvlan and ipvlan.

use dhow_testkit::{Daemon, Mirror, Outside, ask};

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.busybox();
    daemon
}

#[test]
fn macvlan_containers_are_hosts_of_the_network_outside() {
    let daemon = daemon();
    let outside = Outside::of(daemon.host());
    daemon
        .docker(&[
            "network",
            "create",
            "-d",
            "macvlan",
            "--subnet=192.0.2.0/24",
            "--gateway=192.0.2.1",
            "--ip-range=192.0.2.128/25",
            "--aux-address=host=192.0.2.2",
            "-o",
            "parent=eth0",
            "lan",
        ])
        .ok();
    daemon.sleeper("one", &["--network=lan"]);
    daemon.sleeper("two", &["--network=lan", "--ip=192.0.2.77"]);
    // Here others ask who is in which group; containers answer as the kernel does.
    let version = "cat /proc/sys/net/ipv6/conf/eth0/force_mld_version";
    assert_eq!(daemon.within("one", version).trim(), "0");
    let mirror = Mirror::at(daemon.namespace("two"), 80);
    assert_eq!(
        ask(&daemon.namespace("one"), "192.0.2.77:80").as_deref(),
        Some("192.0.2.128")
    );
    assert_eq!(
        ask(outside.namespace(), "192.0.2.77:80").as_deref(),
        Some("192.0.2.1")
    );
    let seen = daemon.within(
        "one",
        "nslookup -type=a two | grep -c 192.0.2.77; nslookup 192.0.2.77",
    );
    assert!(seen.contains("two.lan"), "{seen}");
    let seen = daemon.within("one", "ip route; cat /sys/class/net/eth0/mtu");
    assert!(
        seen.contains("default via 192.0.2.1 dev eth0") && seen.ends_with("1400"),
        "{seen}"
    );
    for (words, part) in [
        (
            &["-o", "parent=eth0"][..],
            "network lan is already using parent interface eth0",
        ),
        (&["-o", "parent=nothing"], "invalid parent nothing"),
        (
            &["-o", "parent=lo"],
            "loopback interface is not a valid macvlan parent link",
        ),
        (&["-o", "parent=eth0.5000"], "no VLAN"),
        (
            &["-o", "macvlan_mode=x"],
            "requested macvlan mode 'x' is not valid",
        ),
    ] {
        let words = [&["network", "create", "-d", "macvlan"], words, &["x"]].concat();
        let error = daemon.docker(&words).fails(1);
        assert!(error.contains(part), "{words:?}: {error}");
    }
    // Not every kernel has VLANs; nothing is left either way.
    let made = daemon.docker(&[
        "network",
        "create",
        "-d",
        "macvlan",
        "-o",
        "parent=eth0.50",
        "tagged",
    ]);
    let links = daemon.host().run("ip", &["-br", "link"]).ok();
    assert_eq!(
        links.contains("eth0.50"),
        made.code == 0,
        "{links}\n{}",
        made.stderr
    );
    if made.code == 0 {
        daemon.docker(&["network", "rm", "tagged"]).ok();
    }
    daemon.docker(&["network", "disconnect", "lan", "one"]).ok();
    assert_eq!(daemon.within("one", "ls /sys/class/net"), "lo");
    daemon.docker(&["rm", "-f", "one", "two"]).ok();
    daemon.docker(&["network", "rm", "lan"]).ok();
    // Several subnets on one wire, each with its router; docker tells them in any
    // order.
    daemon
        .docker(&[
            "network",
            "create",
            "-d",
            "macvlan",
            "--subnet=192.0.2.0/24",
            "--gateway=192.0.2.1",
            "--ip-range=192.0.2.128/31",
            "--subnet=198.51.100.0/24",
            "--gateway=198.51.100.1",
            "-o",
            "parent=eth0",
            "lan",
        ])
        .ok();
    daemon.sleeper("one", &["--network=lan", "--ip=192.0.2.128"]);
    daemon.sleeper("two", &["--network=lan", "--ip=198.51.100.7"]);
    for (name, address, router) in [
        ("one", "192.0.2.128/24", "192.0.2.1"),
        ("two", "198.51.100.7/24", "198.51.100.1"),
    ] {
        let seen = daemon.within(name, "ip -o -4 addr show eth0; ip route");
        assert!(seen.contains(address), "{seen}");
        assert!(seen.contains(&format!("default via {router}")), "{seen}");
    }
    drop(mirror);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "lan"]).ok();
    // Not every kernel has ipvlan; one that has not says so.
    let words = [
        "network",
        "create",
        "-d",
        "ipvlan",
        "--subnet=203.0.113.0/24",
    ];
    let options = ["-o", "parent=eth0", "-o", "ipvlan_mode=l3", "thin"];
    daemon.docker(&[&words[..], &options].concat()).ok();
    let ran = daemon.docker(&["run", "--rm", "--network=thin", "busybox", "ip", "route"]);
    let is_right = ran.code == 0 && ran.stdout.starts_with("default dev eth0");
    let is_told = ran.stderr.contains("this kernel has no ipvlan links");
    assert!(is_right || is_told, "{}{}", ran.stdout, ran.stderr);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "thin"]).ok();
    let links = daemon.host().run("ip", &["-br", "link"]).ok();
    assert!(
        links.contains("eth0") && !links.contains("eth0.50"),
        "{links}"
    );
    outside.remove(daemon.host());
    daemon.finish();
}
