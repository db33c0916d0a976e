//! What the packet filter should hold, as a function of networks and endpoints.
//!
//! The chains never change; networks and published ports are elements of sets
//! and maps, so that their number changes neither the count of rules nor the
//! cost of a packet. [`Elements`] is computed from the state; what the kernel
//! gets is the difference between two of them, in one transaction.
//!
//! ```text
//! guard        prerouting -300  spoofed loopback addresses from bridges: drop
//! loopback     output -300      to a published port at ::1: leaves as the bridge
//! prerouting   nat -100         to an address of this host: publish
//! output       nat -100         the same for this host's own connections
//! publish                       host address . protocol . port -> endpoint
//! postrouting  nat  100         masquerade what leaves, and what turns round
//! forward      filter 0         only within a bridge, out of it, or published
//! answers      input 150        answers to those that asked at ::1 go there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use dhow_netlink::{Error, Prefix, Socket};
use dhow_nft::phrase::{
    Is, accept, address_registers, comes_in_by, constant, destination, destination_port, drop,
    equal, is_established, is_local, is_loopback, is_translated, jump, leaves_by, lookup, meta,
    outside, protocol_and_port, source, was_bound_for_loopback, within,
};
use dhow_nft::{
    Chain, ChainKind, DataType, Element, Expression, Family, Hook, Members, Meta, Nat, Register,
    Set, Table, Transaction, interface,
};

use crate::endpoint::Endpoint;
use crate::spec::{GatewayMode, Network};

/// The families that have a table of ours.
pub(crate) const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// The elements of all sets and maps, by family and set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elements(BTreeMap<(Family, &'static str), BTreeSet<Element>>);

impl Elements {
    /// Computes them. Networks are known by their identifiers.
    pub(crate) fn desired<'a>(
        networks: &BTreeMap<String, Network>,
        endpoints: impl Iterator<Item = &'a Endpoint>,
    ) -> Self {
        let mut elements = Self::of_ports(networks, endpoints);
        for network in networks.values().filter(|network| network.is_bridge()) {
            for family in FAMILIES {
                elements.add_network(family, network);
            }
        }
        elements
    }

    /// Those that published ports of these endpoints need.
    pub(crate) fn of_ports<'a>(
        networks: &BTreeMap<String, Network>,
        endpoints: impl Iterator<Item = &'a Endpoint>,
    ) -> Self {
        let mut elements = Self::default();
        for endpoint in endpoints.filter(|endpoint| !endpoint.ports.is_empty()) {
            for family in FAMILIES {
                elements.add_ports(family, endpoint, networks.get(&endpoint.network));
            }
        }
        elements
    }

    /// Puts `new` in the place of `old`.
    pub(crate) fn replace(&mut self, old: &Self, new: &Self) {
        for (place, elements) in &old.0 {
            if let Some(held) = self.0.get_mut(place) {
                for element in elements {
                    held.remove(element);
                }
            }
        }
        for (place, elements) in &new.0 {
            let held = self.0.entry(*place).or_default();
            held.extend(elements.iter().cloned());
        }
    }

    fn add_network(&mut self, family: Family, network: &Network) {
        let name = interface(&network.bridge);
        let both = Element::Key(Element::concat(&[&name, &name]));
        let bridge = Element::Key(name.to_vec());
        for pool in &network.spec.pools {
            if pool.subnet.address.is_ipv4() != (family == Family::Ip) {
                continue;
            }
            let mode = network.gateway_mode(family == Family::Ip);
            let is_translated = matches!(mode, GatewayMode::Nat | GatewayMode::NatUnprotected);
            if !network.spec.internal && !network.spec.routed && is_translated {
                self.add(family, "pools", range(pool.subnet));
            }
            if !network.spec.keep_client_address {
                let place = |address| Element::concat(&[&name, &octets(address)]);
                let (first, last) = (pool.subnet.network().address, pool.subnet.last());
                self.add(family, "turning", Element::Span(place(first), place(last)));
            }
        }
        if network.spec.internal {
            self.add(family, "internal", bridge.clone());
        } else {
            match network.gateway_mode(family == Family::Ip) {
                GatewayMode::NatUnprotected => self.add(family, "open", bridge.clone()),
                GatewayMode::Routed => self.add(family, "routed", bridge.clone()),
                GatewayMode::Nat | GatewayMode::Isolated => {}
            }
        }
        self.add(family, "bridges", bridge);
        if !network.spec.isolated {
            self.add(family, "paths", both);
        }
    }

    fn add_ports(&mut self, family: Family, endpoint: &Endpoint, network: Option<&Network>) {
        let is_ipv4 = family == Family::Ip;
        let Some(address) = endpoint.address(is_ipv4) else {
            return;
        };
        let of_family = |address: &IpAddr| address.is_ipv4() == is_ipv4;
        for port in &endpoint.ports {
            let host = port.host_address;
            if !of_family(&host) {
                continue;
            }
            if !port.is_of_host() {
                let own = [
                    &octets(address)[..],
                    &[port.protocol as u8],
                    &port.container_port.to_be_bytes(),
                ];
                self.add(family, "reached", Element::Key(Element::concat(&own)));
                continue;
            }
            let to = Element::concat(&[&octets(address), &port.container_port.to_be_bytes()]);
            let (protocol, number) = ([port.protocol as u8], port.host_port.to_be_bytes());
            let (map, key) = if host.is_unspecified() {
                ("published", Element::concat(&[&protocol, &number]))
            } else {
                let host = octets(host);
                (
                    "published_at",
                    Element::concat(&[&host, &protocol, &number]),
                )
            };
            self.add(family, map, Element::Map(key, to));
            let own = network.filter(|network| network.is_router(false));
            let own = own.and_then(|network| network.pool(false));
            if let Some(pool) = own.filter(|_| reaches_loopback(host)) {
                let key = Element::concat(&[&protocol, &number]);
                self.add(family, "loopback", Element::Map(key, octets(pool.gateway)));
            }
        }
    }

    fn add(&mut self, family: Family, set: &'static str, element: Element) {
        self.0.entry((family, set)).or_default().insert(element);
    }

    fn of(&self, family: Family, set: &'static str) -> impl Iterator<Item = &Element> {
        self.0.get(&(family, set)).into_iter().flatten()
    }
}

/// Whether what is published at this address of the host is at ::1.
fn reaches_loopback(host: IpAddr) -> bool {
    host == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || host == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

fn table(family: Family, name: &str) -> Table {
    Table {
        family,
        name: name.into(),
    }
}

/// Replaces both tables in one transaction, whatever was in them.
pub(crate) fn replace(socket: &Socket, name: &str, elements: &Elements) -> Result<(), Error> {
    let mut transaction = Transaction::new(table(Family::Ip, name));
    for family in FAMILIES {
        transaction
            .on(table(family, name))
            .remove_table()
            .add_table();
        for set in sets(family) {
            transaction.add_set(&set);
            let wanted: Vec<Element> = elements.of(family, set.name).cloned().collect();
            transaction.add_elements(set.name, &wanted);
        }
        chains(&mut transaction, family);
    }
    transaction.commit(socket)
}

/// Changes the sets from `old` to `new` in one transaction.
pub(crate) fn change(
    socket: &Socket,
    name: &str,
    old: &Elements,
    new: &Elements,
) -> Result<(), Error> {
    if old == new {
        return Ok(());
    }
    let mut transaction = Transaction::new(table(Family::Ip, name));
    for family in FAMILIES {
        transaction.on(table(family, name));
        for set in sets(family) {
            let before: BTreeSet<&Element> = old.of(family, set.name).collect();
            let after: BTreeSet<&Element> = new.of(family, set.name).collect();
            let gone: Vec<Element> = before.difference(&after).map(|e| (*e).clone()).collect();
            let come: Vec<Element> = after.difference(&before).map(|e| (*e).clone()).collect();
            transaction
                .delete_elements(set.name, &gone)
                .add_elements(set.name, &come);
        }
    }
    transaction.commit(socket)
}

/// Removes both tables with everything in them.
pub(crate) fn remove(socket: &Socket, name: &str) -> Result<(), Error> {
    let mut transaction = Transaction::new(table(Family::Ip, name));
    for family in FAMILIES {
        transaction.on(table(family, name)).remove_table();
    }
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
    let (pools, turning, at, to): (&[DataType], &[DataType], &[DataType], &[DataType]);
    if family == Family::Ip {
        (pools, turning) = (&[Ipv4], &[Interface, Ipv4]);
        (at, to) = (&[Ipv4, Protocol, Port], &[Ipv4, Port]);
    } else {
        (pools, turning) = (&[Ipv6], &[Interface, Ipv6]);
        (at, to) = (&[Ipv6, Protocol, Port], &[Ipv6, Port]);
    }
    let mut sets = vec![
        set("bridges", &[Interface], &[], Members::Keys),
        set("internal", &[Interface], &[], Members::Keys),
        set("open", &[Interface], &[], Members::Keys),
        set("routed", &[Interface], &[], Members::Keys),
        set("reached", at, &[], Members::Keys),
        set("turning", turning, &[], Members::Ranges),
        set("paths", &[Interface, Interface], &[], Members::Keys),
        set("pools", pools, &[], Members::Ranges),
        set("published", &[Protocol, Port], to, Members::Keys),
        set("published_at", at, to, Members::Keys),
    ];
    if family == Family::Ip6 {
        sets.push(set("loopback", &[Protocol, Port], &[Ipv6], Members::Keys));
    }
    sets
}

fn chains(transaction: &mut Transaction, family: Family) {
    use ChainKind::{Filter, Nat as Translate};
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
    // translation of its own connections makes reachable through a bridge. Every
    // packet passes here, so what is cheap and almost never so is asked first.
    if family == Family::Ip {
        let to_loopback = [vec![destination(family, 0)], is_loopback(family, 0)].concat();
        let from_bridge = [meta(Meta::InputName, 0), within("bridges", 0)];
        transaction.add_rule(
            "guard",
            &[&to_loopback[..], &from_bridge, &[drop()]].concat(),
        );
    }

    if family == Family::Ip6 {
        loopback(transaction);
    }
    for chain in ["prerouting", "output"] {
        transaction.add_rule(chain, &[&is_local()[..], &[jump("publish")]].concat());
    }
    publish(transaction, family);
    postrouting(transaction, family);
    forward(transaction, family);
}

/// Ports at ::1. The kernel takes no packet with that address from a link, neither
/// before nor after translation, and has no setting for it as IPv4 has. So it is
/// rewritten where only this host sees it: a question leaves with the bridge's own
/// address before connection tracking looks at it, and the answer is given ::1
/// after routing has brought it here.
fn loopback(transaction: &mut Transaction) {
    let family = Family::Ip6;
    for (name, hook, priority) in [
        ("loopback", Hook::Output, -300),
        ("answers", Hook::Input, 150),
    ] {
        let base = Some((ChainKind::Filter, hook, priority));
        transaction.add_chain(&Chain { name, base });
    }
    let rewrite = |end, from| Expression::Rewrite {
        end,
        family,
        from: Register(from),
    };
    let is_published = [
        vec![destination(family, 0)],
        is_loopback(family, 0),
        protocol_and_port(0).to_vec(),
        vec![lookup("loopback", 0, 8)],
    ]
    .concat();
    let from_loopback = [vec![source(family, 0)], is_loopback(family, 0)].concat();
    let leave = [rewrite(Nat::Source, 8), accept()];
    transaction.add_rule(
        "loopback",
        &[&is_published[..], &from_loopback, &leave].concat(),
    );
    // Who binds another address and asks at ::1 could not be told from the above
    // when the answer comes: it is refused.
    transaction.add_rule(
        "loopback",
        &[&is_published[..], &[Expression::Untracked]].concat(),
    );
    let from_bridge = [meta(Meta::InputName, 0), within("bridges", 0)];
    let arrive = [
        constant(0, Ipv6Addr::LOCALHOST.octets().to_vec()),
        rewrite(Nat::Destination, 0),
    ];
    transaction.add_rule(
        "answers",
        &[&from_bridge[..], &was_bound_for_loopback(), &arrive].concat(),
    );
}

fn publish(transaction: &mut Transaction, family: Family) {
    let registers = address_registers(family);
    let translate = |map: &str, from| {
        [
            lookup(map, from, 8),
            Expression::Nat {
                kind: Nat::Destination,
                family,
                address: Register(8),
                port: Some(Register(8 + registers)),
            },
        ]
    };
    let port = protocol_and_port(registers);
    let at = [&[destination(family, 0)][..], &port].concat();
    transaction.add_rule(
        "publish",
        &[&at[..], &translate("published_at", 0)].concat(),
    );
    transaction.add_rule(
        "publish",
        &[&port[..], &translate("published", registers)].concat(),
    );
}

/// What leaves the pools takes the host's address; so does what turns round on
/// a bridge after translation, or comes from loopback, lest the answer goes
/// another way.
fn postrouting(transaction: &mut Transaction, family: Family) {
    transaction.add_rule(
        "postrouting",
        &[
            source(family, 0),
            within("pools", 0),
            meta(Meta::OutputName, 0),
            outside("bridges", 0),
            Expression::Masquerade,
        ],
    );
    let turns = [
        meta(Meta::OutputName, 0),
        source(family, 4),
        within("turning", 0),
    ];
    transaction.add_rule(
        "postrouting",
        &[&turns[..], &is_translated(), &[Expression::Masquerade]].concat(),
    );
    if family == Family::Ip {
        let to_bridge = [meta(Meta::OutputName, 0), within("bridges", 0)];
        let from_loopback = [vec![source(family, 0)], is_loopback(family, 0)].concat();
        transaction.add_rule(
            "postrouting",
            &[&to_bridge[..], &from_loopback, &[Expression::Masquerade]].concat(),
        );
    }
}

/// Only within a bridge, out of it, and in by what is published; also in where a
/// network is open, and to published ports and by ICMP where it is routed.
fn forward(transaction: &mut Transaction, family: Family) {
    let to_bridge = [meta(Meta::OutputName, 0), within("bridges", 0)];
    let within_one = [
        meta(Meta::InputName, 0),
        meta(Meta::OutputName, 4),
        within("paths", 0),
        accept(),
    ];
    let no_way_out = [meta(Meta::InputName, 0), within("internal", 0), drop()];
    let to_routed = [meta(Meta::OutputName, 0), within("routed", 0)];
    let icmp = if family == Family::Ip { 1 } else { 58 };
    let is_icmp = [meta(Meta::TransportProtocol, 0), equal(0, vec![icmp])];
    let port = protocol_and_port(address_registers(family));
    let is_reached = [
        &[destination(family, 0)],
        &port[..],
        &[within("reached", 0)],
    ]
    .concat();
    for rule in [
        &within_one[..],
        &no_way_out,
        &[&is_established()[..], &[accept()]].concat(),
        &[&to_bridge[..], &is_translated(), &[accept()]].concat(),
        &[meta(Meta::OutputName, 0), within("open", 0), accept()],
        &[&to_routed[..], &is_icmp, &[accept()]].concat(),
        &[&to_routed[..], &is_reached, &[accept()]].concat(),
        &[&to_bridge[..], &[drop()]].concat(),
    ] {
        transaction.add_rule("forward", rule);
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
        let base = Some(base);
        transaction.add_chain(&Chain { name, base });
    }
    let family = Family::Ip;
    let loopback = |address| [vec![address], is_loopback(family, 0)].concat();
    transaction.add_rule(
        "guard",
        &[
            &comes_in_by("lo", Is::Other)[..],
            &loopback(destination(family, 0)),
            &[drop()],
        ]
        .concat(),
    );
    transaction.add_rule(
        "output",
        &[
            destination(family, 0),
            equal(0, vec![127, 0, 0, 11]),
            destination_port(0),
            equal(0, 53u16.to_be_bytes().to_vec()),
            constant(0, server.to_vec()),
            constant(1, 53u16.to_be_bytes().to_vec()),
            Expression::Nat {
                kind: Nat::Destination,
                family,
                address: Register(0),
                port: Some(Register(1)),
            },
        ],
    );
    transaction.add_rule(
        "postrouting",
        &[
            &leaves_by("lo", Is::Other)[..],
            &loopback(source(family, 0)),
            &[Expression::Masquerade],
        ]
        .concat(),
    );
    transaction.commit(socket)
}

/// Takes that away again.
pub(crate) fn no_names_in_sandbox(socket: &Socket, table: &Table) -> Result<(), Error> {
    let mut transaction = Transaction::new(table.clone());
    transaction.remove_table();
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
