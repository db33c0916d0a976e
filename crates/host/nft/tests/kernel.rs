//! Transactions in a network namespace made for the purpose, read back with
//! the `nft` program. Needs root and the Debian package `nftables`.

use std::process::Command;

use dhow_netlink::Socket;
use dhow_nft::{
    Chain, ChainKind, Cmp, Ct, DataType, Element, Expression, Family, Hook, Members, Meta, Nat,
    Original, Payload, Register, Rejection, Set, Table, Touched, Transaction, Verdict, Watch,
    interface, learned, tables,
};

/// Runs `body` on a thread in a network namespace of its own.
fn in_namespace(body: fn(Socket)) {
    let thread = std::thread::spawn(move || {
        // SAFETY: a network namespace is no memory.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "unshare(CLONE_NEWNET) needs root");
        body(Socket::netfilter().expect("a netfilter socket"));
    });
    thread.join().expect("the body passes");
}

/// What `nft list ruleset` prints in the calling thread's namespace.
fn listing() -> String {
    let output = Command::new("nft")
        .args(["-n", "list", "ruleset"])
        .output()
        .expect("nft is installed (Debian package nftables)");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("nft prints text")
}

fn table() -> Table {
    Table {
        family: Family::Ip,
        name: "example".into(),
    }
}

#[test]
fn a_ruleset_reads_back_as_meant() {
    in_namespace(|socket| {
        let mut transaction = Transaction::new(table());
        transaction
            .add_table()
            .add_set(&Set {
                name: "published",
                key: &[DataType::Protocol, DataType::Port],
                value: &[DataType::Ipv4, DataType::Port],
                members: Members::Keys,
            })
            .add_set(&Set {
                name: "pools",
                key: &[DataType::Ipv4],
                value: &[],
                members: Members::Ranges,
            })
            .add_set(&Set {
                name: "bridges",
                key: &[DataType::Interface],
                value: &[],
                members: Members::Keys,
            })
            .add_set(&Set {
                name: "services",
                key: &[DataType::Ipv4, DataType::Protocol, DataType::Port],
                value: &[DataType::Verdict],
                members: Members::Keys,
            })
            .add_set(&Set {
                name: "allowed",
                key: &[DataType::Ipv4, DataType::Port, DataType::Ipv4],
                value: &[],
                members: Members::Ranges,
            })
            .add_elements(
                "allowed",
                &[Element::Span(
                    Element::concat(&[&[10, 0, 0, 1], &[0, 80], &[192, 168, 0, 0]]),
                    Element::concat(&[&[10, 0, 0, 1], &[0, 80], &[192, 168, 255, 255]]),
                )],
            )
            .add_chain(&Chain {
                name: "refused",
                base: None,
            })
            .add_chain(&Chain {
                name: "prerouting",
                base: Some((ChainKind::Nat, Hook::Prerouting, -100)),
            })
            .add_chain(&Chain {
                name: "postrouting",
                base: Some((ChainKind::Nat, Hook::Postrouting, 100)),
            })
            .add_chain(&Chain {
                name: "forward",
                base: Some((ChainKind::Filter, Hook::Forward, 0)),
            })
            .add_elements(
                "published",
                &[Element::Map(
                    Element::concat(&[&[6], &8080u16.to_be_bytes()]),
                    Element::concat(&[&[172, 17, 0, 2], &80u16.to_be_bytes()]),
                )],
            )
            .add_elements(
                "pools",
                &[Element::Range(
                    vec![172, 17, 0, 0],
                    Some(vec![172, 18, 0, 0]),
                )],
            )
            .add_elements("bridges", &[Element::Key(interface("dhow0").to_vec())])
            .add_elements(
                "services",
                &[Element::Verdict(
                    Element::concat(&[&[10, 96, 0, 1], &[6], &443u16.to_be_bytes()]),
                    Verdict::Goto("refused".into()),
                )],
            )
            .add_rule(
                "refused",
                &[Expression::Reject(Rejection::PortUnreachable(Family::Ip))],
            );
        transaction.add_rule(
            "prerouting",
            &[
                Expression::DestinationType { to: Register(0) },
                Expression::Cmp {
                    from: Register(0),
                    operation: Cmp::Equal,
                    value: 2u32.to_ne_bytes().to_vec(),
                },
                Expression::Meta {
                    key: Meta::TransportProtocol,
                    to: Register(0),
                },
                Expression::Payload {
                    base: Payload::Transport,
                    offset: 2,
                    length: 2,
                    to: Register(1),
                },
                Expression::Lookup {
                    set: "published".into(),
                    from: Register(0),
                    to: Some(Register(2)),
                    invert: false,
                },
                Expression::Nat {
                    kind: Nat::Destination,
                    family: Family::Ip,
                    address: Register(2),
                    port: Some(Register(3)),
                },
            ],
        );
        transaction.add_rule(
            "postrouting",
            &[
                Expression::Payload {
                    base: Payload::Network,
                    offset: 12,
                    length: 4,
                    to: Register(0),
                },
                Expression::Lookup {
                    set: "pools".into(),
                    from: Register(0),
                    to: None,
                    invert: false,
                },
                Expression::Meta {
                    key: Meta::OutputName,
                    to: Register(0),
                },
                Expression::Lookup {
                    set: "bridges".into(),
                    from: Register(0),
                    to: None,
                    invert: true,
                },
                Expression::Counter,
                Expression::Masquerade,
            ],
        );
        transaction.add_rule(
            "forward",
            &[
                Expression::Ct {
                    key: Ct::Status,
                    to: Register(0),
                },
                Expression::Bitwise {
                    register: Register(0),
                    mask: 32u32.to_ne_bytes().to_vec(),
                    xor: vec![0; 4],
                },
                Expression::Cmp {
                    from: Register(0),
                    operation: Cmp::NotEqual,
                    value: vec![0; 4],
                },
                Expression::Verdict(Verdict::Accept),
            ],
        );
        transaction.commit(&socket).expect("the kernel takes it");

        let text = listing();
        for part in [
            "table ip example",
            "type filter hook forward priority 0; policy accept;",
            "elements = { 6 . 8080 : 172.17.0.2 . 80 }",
            "elements = { 172.17.0.0/16 }",
            "\"dhow0\"",
            "10.96.0.1 . 6 . 443 : goto refused",
            "elements = { 10.0.0.1 . 80 . 192.168.0.0/16 }",
            "reject",
            "fib daddr type 2 dnat ip to meta l4proto . th dport map @published",
            "ip saddr @pools oifname != @bridges counter packets 0 bytes 0 masquerade",
            "ct status 0x20 accept",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert_eq!(tables(&socket, Family::Ip).expect("tables"), ["example"]);

        let mut transaction = Transaction::new(table());
        transaction.remove_table();
        transaction.commit(&socket).expect("the kernel takes it");
        assert_eq!(listing(), "");
    });
}

#[test]
fn a_refused_change_takes_all_with_it() {
    in_namespace(|socket| {
        let mut transaction = Transaction::new(table());
        transaction
            .add_table()
            .add_chain(&Chain {
                name: "one",
                base: None,
            })
            .add_rule("missing", &[Expression::Counter]);
        let error = transaction
            .commit(&socket)
            .expect_err("there is no such chain");
        assert!(error.is_not_found(), "{error:?}");
        assert_eq!(tables(&socket, Family::Ip).expect("tables"), [""; 0]);
        // The socket is still in step with the kernel.
        let mut transaction = Transaction::new(table());
        transaction.remove_table();
        transaction.commit(&socket).expect("the kernel takes it");
    });
}

#[test]
fn thousands_of_elements_are_one_transaction() {
    in_namespace(|socket| {
        let elements: Vec<Element> = (0..20_000u32)
            .map(|n| Element::Key((0x0a00_0000 + n).to_be_bytes().to_vec()))
            .collect();
        let mut transaction = Transaction::new(table());
        transaction.add_table().add_set(&Set {
            name: "many",
            key: &[DataType::Ipv4],
            value: &[],
            members: Members::Keys,
        });
        transaction.add_elements("many", &elements);
        transaction.commit(&socket).expect("the kernel takes it");
        let mut transaction = Transaction::new(table());
        transaction.delete_elements("many", &elements);
        transaction.commit(&socket).expect("the kernel takes it");
        assert!(!listing().contains("10.0.0.7"), "all elements are gone");
    });
}

#[test]
fn packets_add_elements_and_know_where_they_were_bound_for() {
    in_namespace(|socket| {
        let mut transaction = Transaction::new(table());
        transaction
            .add_table()
            .add_set(&Set {
                name: "affinity",
                key: &[DataType::Ipv4, DataType::Port],
                value: &[DataType::Ipv4, DataType::Port],
                members: Members::Learned { capacity: 1000 },
            })
            .add_chain(&Chain {
                name: "output",
                base: Some((ChainKind::Filter, Hook::Output, 0)),
            });
        let source_and_port = [
            Expression::Payload {
                base: Payload::Network,
                offset: 12,
                length: 4,
                to: Register(0),
            },
            Expression::Payload {
                base: Payload::Transport,
                offset: 2,
                length: 2,
                to: Register(1),
            },
        ];
        let learn = Expression::Learn {
            set: "affinity".into(),
            key: Register(0),
            value: Some(Register(2)),
            timeout: Some(90_000),
        };
        let constants = [
            Expression::Immediate {
                to: Register(2),
                value: vec![10, 0, 0, 1],
            },
            Expression::Immediate {
                to: Register(3),
                value: vec![0, 80],
            },
        ];
        transaction
            .add_rule(
                "output",
                &[&source_and_port[..], &constants[..], &[learn]].concat(),
            )
            .add_rule(
                "output",
                &[
                    Expression::CtOriginal {
                        key: Original::Ipv4,
                        to: Register(0),
                    },
                    Expression::Cmp {
                        from: Register(0),
                        operation: Cmp::Equal,
                        value: vec![127, 0, 0, 1],
                    },
                    Expression::CtOriginal {
                        key: Original::Port,
                        to: Register(0),
                    },
                    Expression::Cmp {
                        from: Register(0),
                        operation: Cmp::Equal,
                        value: vec![0, 53],
                    },
                    Expression::Random {
                        modulus: 3,
                        offset: 7,
                        to: Register(0),
                    },
                    Expression::SetMark { from: Register(0) },
                ],
            );
        transaction.commit(&socket).expect("the kernel takes it");

        // Loopback is down in a new namespace: bring it up and speak.
        let route = Socket::route().expect("a socket");
        let mut batch = dhow_netlink::Batch::new();
        batch.set_up(1);
        route.run(&mut batch).expect("loopback comes up");
        let speaker = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        speaker.send_to(b"x", "127.0.0.1:53").expect("sent");
        let text = listing();
        assert!(
            text.contains("127.0.0.1 . 53 timeout 90s expires"),
            "{text}"
        );
        assert!(text.contains(": 10.0.0.1 . 80"), "{text}");
        assert!(text.contains("size 1000"), "{text}");
        let known = learned(&socket, &table(), "affinity").expect("dumped");
        let element = Element::Map(
            Element::concat(&[&[127, 0, 0, 1], &[0, 53]]),
            Element::concat(&[&[10, 0, 0, 1], &[0, 80]]),
        );
        assert!(known.contains(&element), "{known:?}");
        for part in [
            "ct original ip daddr 127.0.0.1 ct original proto-dst 0x35",
            "meta mark set numgen random mod 3 offset 7",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    });
}

#[test]
fn strangers_are_told_from_ourselves() {
    in_namespace(|socket| {
        let watch = Watch::open().expect("a watch");
        let ours = socket.port().expect("a port");
        let mut transaction = Transaction::new(table());
        transaction.add_table().add_set(&Set {
            name: "some",
            key: &[DataType::Ipv4],
            value: &[],
            members: Members::Keys,
        });
        transaction.commit(&socket).expect("the kernel takes it");
        assert_eq!(watch.look("example", ours).expect("look"), Touched::No);
        let stranger = |command: &str| {
            let status = Command::new("nft").args(command.split(' ')).status();
            assert!(status.expect("nft is installed").success());
        };
        stranger("add table ip another");
        assert_eq!(watch.look("example", ours).expect("look"), Touched::No);
        stranger("add element ip example some { 10.0.0.1 }");
        assert_eq!(watch.look("example", ours).expect("look"), Touched::Yes);
        stranger("flush ruleset");
        assert_eq!(watch.look("example", ours).expect("look"), Touched::Yes);
        assert_eq!(watch.look("example", ours).expect("look"), Touched::No);
    });
}
