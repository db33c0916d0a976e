//! What the packet filter should hold, as a function of networks and endpoints.
//!
//! The chains never change; networks and published ports are elements of sets
//! and maps, so that their number changes neither the count of rules nor the
//! cost of a packet. [`Elements`] is computed from the state; what the kernel
//! gets is the difference between two of them, in one transaction.
//!
//! ```text
//! guard        prerouting -300  spoofed loopback addresses from bridges: drop
//! prerouting   nat -100         to an address of this host: publish
//! output       nat -100         the same for this host's own connections
//! publish                       host address . protocol . port -> endpoint
//! postrouting  nat  100         masquerade what leaves, and what turns round
//! forward      filter 0         only within a bridge, out of it, or published
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dhow_netlink::{Error, Prefix, Socket};
use dhow_nft::{
    Chain, ChainKind, Cmp, Ct, DataType, Element, Expression, Family, Hook, Members, Meta, Nat,
    Payload, Register, Set, Table, Transaction, Verdict, interface,
};

use crate::endpoint::Endpoint;
use crate::spec::Network;

/// Address type of an address of this host.
const RTN_LOCAL: u32 = 2;
/// State bits "established" and "related".
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// Status bit "destination translated".
const DESTINATION_TRANSLATED: u32 = 32;

/// The elements of all sets and maps of one family's table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elements(BTreeMap<&'static str, BTreeSet<Element>>);

impl Elements {
    /// Computes them; `family` is IPv4 or IPv6.
    pub(crate) fn desired<'a>(
        family: Family,
        networks: impl Iterator<Item = &'a Network>,
        endpoints: impl Iterator<Item = &'a Endpoint>,
    ) -> Self {
        let mut elements = Self::default();
        let is_ipv4 = family == Family::Ip;
        for network in networks {
            let bridge = interface(&network.bridge);
            elements.add("bridges", Element::Key(bridge.to_vec()));
            elements.add("paths", Element::Key(Element::concat(&[&bridge, &bridge])));
            if network.spec.internal {
                elements.add("internal", Element::Key(bridge.to_vec()));
            } else if let Some(pool) = network.pool(is_ipv4) {
                elements.add("pools", range(pool.subnet));
            }
            if !network.spec.keep_client_address {
                elements.add("turning", Element::Key(bridge.to_vec()));
            }
        }
        for endpoint in endpoints {
            let Some(address) = endpoint.address(is_ipv4) else {
                continue;
            };
            for port in &endpoint.ports {
                let any = port.host_address.is_unspecified();
                // The unspecified IPv4 address stands for both families, as
                // it does for `docker run -p 80:80`.
                if port.host_address.is_ipv4() != is_ipv4 && !(any && port.host_address.is_ipv4()) {
                    continue;
                }
                let to = Element::concat(&[&octets(address), &port.container_port.to_be_bytes()]);
                let protocol = [port.protocol as u8];
                let from = port.host_port.to_be_bytes();
                if any {
                    elements.add(
                        "published",
                        Element::Map(Element::concat(&[&protocol, &from]), to),
                    );
                } else {
                    let host = octets(port.host_address);
                    elements.add(
                        "published_at",
                        Element::Map(Element::concat(&[&host, &protocol, &from]), to),
                    );
                }
            }
        }
        elements
    }

    fn add(&mut self, set: &'static str, element: Element) {
        self.0.entry(set).or_default().insert(element);
    }

    fn of(&self, set: &str) -> impl Iterator<Item = &Element> {
        self.0.get(set).into_iter().flatten()
    }
}

/// Replaces the whole table in one transaction, whatever was in it.
pub(crate) fn replace(socket: &Socket, table: &Table, elements: &Elements) -> Result<(), Error> {
    let mut transaction = Transaction::new(table.clone());
    transaction.remove_table().add_table();
    for set in sets(table.family) {
        transaction.add_set(&set);
        let wanted: Vec<Element> = elements.of(set.name).cloned().collect();
        transaction.add_elements(set.name, &wanted);
    }
    chains(&mut transaction, table.family);
    transaction.commit(socket)
}

/// Changes the sets from `old` to `new` in one transaction.
pub(crate) fn change(
    socket: &Socket,
    table: &Table,
    old: &Elements,
    new: &Elements,
) -> Result<(), Error> {
    if old == new {
        return Ok(());
    }
    let mut transaction = Transaction::new(table.clone());
    for set in sets(table.family) {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (old.of(set.name).collect(), new.of(set.name).collect());
        let gone: Vec<Element> = before.difference(&after).map(|e| (*e).clone()).collect();
        let come: Vec<Element> = after.difference(&before).map(|e| (*e).clone()).collect();
        transaction
            .delete_elements(set.name, &gone)
            .add_elements(set.name, &come);
    }
    transaction.commit(socket)
}

/// Removes the table with everything in it.
pub(crate) fn remove(socket: &Socket, table: &Table) -> Result<(), Error> {
    let mut transaction = Transaction::new(table.clone());
    transaction.remove_table();
    transaction.commit(socket)
}

fn sets(family: Family) -> Vec<Set<'static>> {
    use DataType::{Interface, Ipv4, Ipv6, Port, Protocol};
    let set = |name, key, value, members| Set {
        name,
        key,
        value,
        members,
    };
    let (pools, at, to): (&[DataType], &[DataType], &[DataType]) = if family == Family::Ip {
        (&[Ipv4], &[Ipv4, Protocol, Port], &[Ipv4, Port])
    } else {
        (&[Ipv6], &[Ipv6, Protocol, Port], &[Ipv6, Port])
    };
    vec![
        set("bridges", &[Interface], &[], Members::Keys),
        set("internal", &[Interface], &[], Members::Keys),
        set("turning", &[Interface], &[], Members::Keys),
        set("paths", &[Interface, Interface], &[], Members::Keys),
        set("pools", pools, &[], Members::Ranges),
        set("published", &[Protocol, Port], to, Members::Keys),
        set("published_at", at, to, Members::Keys),
    ]
}

fn chains(transaction: &mut Transaction, family: Family) {
    use ChainKind::{Filter, Nat as Translate};
    let address_registers = if family == Family::Ip { 1 } else { 4 };
    for (name, base) in [
        ("publish", None),
        ("guard", Some((Filter, Hook::Prerouting, -300))),
        ("prerouting", Some((Translate, Hook::Prerouting, -100))),
        ("output", Some((Translate, Hook::Output, -100))),
        ("postrouting", Some((Translate, Hook::Postrouting, 100))),
        ("forward", Some((Filter, Hook::Forward, 0))),
    ] {
        transaction.add_chain(&Chain { name, base });
    }

    // guard: no container speaks to this host's loopback addresses, which the
    // translation of its own connections makes reachable through a bridge.
    if family == Family::Ip {
        transaction.add_rule(
            "guard",
            &[
                load(Meta::InputName, 0),
                within("bridges", 0),
                destination(family, 0),
                Expression::Bitwise {
                    register: Register(0),
                    mask: vec![255, 0, 0, 0],
                    xor: vec![0; 4],
                },
                equal(0, vec![127, 0, 0, 0]),
                Expression::Verdict(Verdict::Drop),
            ],
        );
    }

    for chain in ["prerouting", "output"] {
        transaction.add_rule(
            chain,
            &[
                Expression::DestinationType { to: Register(0) },
                equal(0, RTN_LOCAL.to_ne_bytes().to_vec()),
                Expression::Verdict(Verdict::Jump("publish".into())),
            ],
        );
    }
    let translate = |map: &str, from| {
        [
            Expression::Lookup {
                set: map.into(),
                from: Register(from),
                to: Some(Register(8)),
                invert: false,
            },
            Expression::Nat {
                kind: Nat::Destination,
                family,
                address: Register(8),
                port: Some(Register(8 + address_registers)),
            },
        ]
    };
    let key = [
        destination(family, 0),
        load(Meta::TransportProtocol, address_registers),
        Expression::Payload {
            base: Payload::Transport,
            offset: 2,
            length: 2,
            to: Register(address_registers + 1),
        },
    ];
    transaction.add_rule(
        "publish",
        &[&key[..], &translate("published_at", 0)].concat(),
    );
    transaction.add_rule(
        "publish",
        &[&key[1..], &translate("published", address_registers)].concat(),
    );

    // postrouting: what leaves the pools takes the host's address; so does
    // what turns round on a bridge after translation, or comes from loopback,
    // lest the answer goes another way.
    transaction.add_rule(
        "postrouting",
        &[
            source(family, 0),
            within("pools", 0),
            load(Meta::OutputName, 0),
            outside("bridges", 0),
            Expression::Masquerade,
        ],
    );
    let mut turning = vec![
        load(Meta::OutputName, 0),
        within("turning", 0),
        source(family, 0),
        within("pools", 0),
    ];
    turning.extend(status_translated());
    turning.push(Expression::Masquerade);
    transaction.add_rule("postrouting", &turning);
    if family == Family::Ip {
        transaction.add_rule(
            "postrouting",
            &[
                load(Meta::OutputName, 0),
                within("bridges", 0),
                source(family, 0),
                Expression::Bitwise {
                    register: Register(0),
                    mask: vec![255, 0, 0, 0],
                    xor: vec![0; 4],
                },
                equal(0, vec![127, 0, 0, 0]),
                Expression::Masquerade,
            ],
        );
    }

    transaction.add_rule(
        "forward",
        &[
            load(Meta::InputName, 0),
            load(Meta::OutputName, 4),
            within("paths", 0),
            Expression::Verdict(Verdict::Accept),
        ],
    );
    transaction.add_rule(
        "forward",
        &[
            load(Meta::InputName, 0),
            within("internal", 0),
            Expression::Verdict(Verdict::Drop),
        ],
    );
    transaction.add_rule(
        "forward",
        &[
            Expression::Ct {
                key: Ct::State,
                to: Register(0),
            },
            Expression::Bitwise {
                register: Register(0),
                mask: ESTABLISHED_OR_RELATED.to_ne_bytes().to_vec(),
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
    let mut published = vec![load(Meta::OutputName, 0), within("bridges", 0)];
    published.extend(status_translated());
    published.push(Expression::Verdict(Verdict::Accept));
    transaction.add_rule("forward", &published);
    transaction.add_rule(
        "forward",
        &[
            load(Meta::OutputName, 0),
            within("bridges", 0),
            Expression::Verdict(Verdict::Drop),
        ],
    );
}

fn load(key: Meta, to: u8) -> Expression {
    Expression::Meta {
        key,
        to: Register(to),
    }
}

fn equal(from: u8, value: Vec<u8>) -> Expression {
    Expression::Cmp {
        from: Register(from),
        operation: Cmp::Equal,
        value,
    }
}

fn within(set: &str, from: u8) -> Expression {
    Expression::Lookup {
        set: set.into(),
        from: Register(from),
        to: None,
        invert: false,
    }
}

fn outside(set: &str, from: u8) -> Expression {
    Expression::Lookup {
        set: set.into(),
        from: Register(from),
        to: None,
        invert: true,
    }
}

fn status_translated() -> [Expression; 3] {
    [
        Expression::Ct {
            key: Ct::Status,
            to: Register(0),
        },
        Expression::Bitwise {
            register: Register(0),
            mask: DESTINATION_TRANSLATED.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expression::Cmp {
            from: Register(0),
            operation: Cmp::NotEqual,
            value: vec![0; 4],
        },
    ]
}

fn source(family: Family, to: u8) -> Expression {
    let (offset, length) = if family == Family::Ip {
        (12, 4)
    } else {
        (8, 16)
    };
    Expression::Payload {
        base: Payload::Network,
        offset,
        length,
        to: Register(to),
    }
}

fn destination(family: Family, to: u8) -> Expression {
    let (offset, length) = if family == Family::Ip {
        (16, 4)
    } else {
        (24, 16)
    };
    Expression::Payload {
        base: Payload::Network,
        offset,
        length,
        to: Register(to),
    }
}

fn range(subnet: Prefix) -> Element {
    let first = octets(subnet.network().address);
    let mut end = octets(subnet.last());
    let mut carry = true;
    for octet in end.iter_mut().rev() {
        if carry {
            (*octet, carry) = octet.overflowing_add(1);
        }
    }
    Element::Range(first, (!carry).then_some(end))
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What a sandbox's own packet filter does so that names are answered at
/// 127.0.0.11: questions go to `server`, and nobody else on the network reaches
/// the sandbox's loopback addresses by the door this opens.
pub(crate) fn names_in_sandbox(
    socket: &Socket,
    table: &Table,
    server: [u8; 4],
) -> Result<(), Error> {
    let mut transaction = Transaction::new(table.clone());
    transaction.remove_table().add_table();
    for (name, base) in [
        ("guard", (ChainKind::Filter, Hook::Prerouting, -300)),
        ("output", (ChainKind::Nat, Hook::Output, -100)),
        ("postrouting", (ChainKind::Nat, Hook::Postrouting, 100)),
    ] {
        transaction.add_chain(&Chain {
            name,
            base: Some(base),
        });
    }
    let family = Family::Ip;
    let loopback = |address| {
        [
            address,
            Expression::Bitwise {
                register: Register(0),
                mask: vec![255, 0, 0, 0],
                xor: vec![0; 4],
            },
            equal(0, vec![127, 0, 0, 0]),
        ]
    };
    let mut guard = vec![
        load(Meta::InputName, 0),
        Expression::Cmp {
            from: Register(0),
            operation: Cmp::NotEqual,
            value: interface("lo").to_vec(),
        },
    ];
    guard.extend(loopback(destination(family, 0)));
    guard.push(Expression::Verdict(Verdict::Drop));
    transaction.add_rule("guard", &guard);

    transaction.add_rule(
        "output",
        &[
            destination(family, 0),
            equal(0, vec![127, 0, 0, 11]),
            Expression::Payload {
                base: Payload::Transport,
                offset: 2,
                length: 2,
                to: Register(0),
            },
            equal(0, 53u16.to_be_bytes().to_vec()),
            Expression::Immediate {
                to: Register(0),
                value: server.to_vec(),
            },
            Expression::Immediate {
                to: Register(1),
                value: 53u16.to_be_bytes().to_vec(),
            },
            Expression::Nat {
                kind: Nat::Destination,
                family,
                address: Register(0),
                port: Some(Register(1)),
            },
        ],
    );
    let mut answer = vec![
        load(Meta::OutputName, 0),
        Expression::Cmp {
            from: Register(0),
            operation: Cmp::NotEqual,
            value: interface("lo").to_vec(),
        },
    ];
    answer.extend(loopback(source(family, 0)));
    answer.push(Expression::Masquerade);
    transaction.add_rule("postrouting", &answer);
    transaction.commit(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_the_next_subnet_begins() {
        let range = |text: &str| range(text.parse().expect("a prefix"));
        assert_eq!(
            range("172.17.0.0/16"),
            Element::Range(vec![172, 17, 0, 0], Some(vec![172, 18, 0, 0]))
        );
        assert_eq!(
            range("255.0.0.0/8"),
            Element::Range(vec![255, 0, 0, 0], None)
        );
    }
}
