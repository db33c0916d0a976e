//! What sets and maps must hold so that the node answers at its frontends.
//! Pure: [`Elements`] is a function of the frontends, and what the kernel gets
//! is the difference between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use dhow_netlink::Prefix;
use dhow_nft::{DataType, Element, Family, Members, Set, Verdict};

use crate::services::{Balance, Frontend, Frontends, Source, WhenEmpty};

/// Chain that refuses a packet.
pub(crate) const REFUSE: &str = "refuse";
/// Indices of targets for clients inside the cluster begin here.
pub(crate) const INSIDE: u32 = 1 << 16;
/// Clients that are remembered at most, per address family.
const CLIENTS: u32 = 1 << 18;

/// What a frontend's address looks like to the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The packet's own destination.
    Address,
    /// Any address of the node.
    Node,
}

/// Which clients a choice is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Clients {
    /// All of them.
    All,
    /// Those of the cluster itself.
    Inside,
}

/// A way of choosing a target, which has a chain of its own. Services that
/// choose in one way share it, so there are as many chains as different counts
/// of endpoints, not as many as Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pick {
    pub(crate) kind: Kind,
    pub(crate) clients: Clients,
    /// The number of targets.
    pub(crate) n_targets: u32,
    /// How long a client stays with its target, in seconds.
    pub(crate) affinity: Option<u32>,
}

impl Pick {
    pub(crate) fn chain(self) -> String {
        let kind = match self.kind {
            Kind::Address => "pick",
            Kind::Node => "pick-node",
        };
        let clients = match self.clients {
            Clients::All => "",
            Clients::Inside => "-inside",
        };
        let affinity = self
            .affinity
            .map(|seconds| format!("-{seconds}s"))
            .unwrap_or_default();
        format!("{kind}{clients}-{}{affinity}", self.n_targets)
    }
}

/// A target that remembers its clients, which has a chain of its own: nf_tables
/// can learn what it looked up, but the `nft` program cannot print such a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stay {
    pub(crate) kind: Kind,
    pub(crate) target: SocketAddr,
    /// How long a client stays, in seconds.
    pub(crate) seconds: u32,
}

impl Stay {
    pub(crate) fn chain(self) -> String {
        let kind = match self.kind {
            Kind::Address => "stay",
            Kind::Node => "stay-node",
        };
        // A name of a chain has no colons.
        let address = self.target.ip().to_string().replace(':', "_");
        format!("{kind}-{address}-{}-{}s", self.target.port(), self.seconds)
    }
}

/// The elements of all sets and maps of one family's table, and the chains
/// that they lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elements {
    sets: BTreeMap<&'static str, BTreeSet<Element>>,
    /// Frontends with affinity, each joined to each of its targets.
    pub(crate) sticky: BTreeSet<Vec<u8>>,
    pub(crate) picks: BTreeSet<Pick>,
    pub(crate) stays: BTreeSet<Stay>,
}

impl Elements {
    pub(crate) fn desired(family: Family, frontends: &Frontends, pods: &[Prefix]) -> Self {
        let is_ours = |address: IpAddr| address.is_ipv4() == (family == Family::Ip);
        let mut elements = Self::default();
        for address in frontends.cluster_ips.iter().filter(|ip| is_ours(**ip)) {
            elements.add("cluster_ips", Element::Key(octets(*address)));
        }
        for prefix in disjoint(pods) {
            if is_ours(prefix.address) {
                elements.add("pods", range(prefix));
            }
        }
        for (frontend, balance) in &frontends.balances {
            if is_ours(frontend.address) {
                elements.answer(frontend, balance);
            }
        }
        elements
    }

    fn answer(&mut self, frontend: &Frontend, balance: &Balance) {
        let kind = if frontend.address.is_unspecified() {
            Kind::Node
        } else {
            Kind::Address
        };
        let key = key(kind, frontend);
        let set = |address, node| match kind {
            Kind::Address => address,
            Kind::Node => node,
        };
        if balance.targets.is_empty() {
            let verdict = match balance.when_empty {
                WhenEmpty::Reject => Verdict::Goto(REFUSE.into()),
                WhenEmpty::Drop => Verdict::Drop,
            };
            let unserved = set("unserved", "unserved_ports");
            self.add(unserved, Element::Verdict(key.clone(), verdict));
        }
        if balance.source == Source::Masqueraded {
            let masqueraded = set("masqueraded", "masqueraded_ports");
            self.add(masqueraded, Element::Key(key.clone()));
        }
        // Only an address of a load balancer is guarded, never every one.
        if !balance.allowed.is_empty() && kind == Kind::Address {
            self.add("guarded", Element::Key(key.clone()));
            for prefix in disjoint(&balance.allowed) {
                let (first, last) = (octets(prefix.network().address), octets(prefix.last()));
                let span = Element::Span(
                    Element::concat(&[&key, &first]),
                    Element::concat(&[&key, &last]),
                );
                self.add("allowed", span);
            }
        }
        let all = (Clients::All, set("services", "node_ports"));
        self.choose(frontend, balance, kind, all, &balance.targets);
        if let Some(targets) = &balance.inside {
            let inside = (Clients::Inside, set("services_inside", "node_ports_inside"));
            self.choose(frontend, balance, kind, inside, targets);
        }
    }

    fn choose(
        &mut self,
        frontend: &Frontend,
        balance: &Balance,
        kind: Kind,
        (clients, map): (Clients, &'static str),
        targets: &[SocketAddr],
    ) {
        // Indices of the two kinds of clients must not meet.
        let targets = &targets[..targets.len().min(INSIDE as usize)];
        if targets.is_empty() {
            return;
        }
        let pick = Pick {
            kind,
            clients,
            n_targets: targets.len() as u32,
            affinity: balance.affinity,
        };
        self.picks.insert(pick);
        self.add(
            map,
            Element::Verdict(key(kind, frontend), Verdict::Goto(pick.chain())),
        );
        let service = key(Kind::Address, frontend);
        for (target, index) in targets.iter().zip(pick.first_index()..) {
            let end = Element::concat(&[&octets(target.ip()), &target.port().to_be_bytes()]);
            let key = Element::concat(&[&service, &index.to_ne_bytes()]);
            if let Some(seconds) = balance.affinity {
                let stay = Stay {
                    kind,
                    target: *target,
                    seconds,
                };
                self.stays.insert(stay);
                self.sticky.insert(Element::concat(&[&service, &end]));
                self.add("stays", Element::Verdict(key, Verdict::Goto(stay.chain())));
            } else {
                self.add("backends", Element::Map(key, end));
            }
            let address = octets(target.ip());
            self.add(
                "hairpins",
                Element::Key(Element::concat(&[&address, &address])),
            );
        }
    }

    fn add(&mut self, set: &'static str, element: Element) {
        self.sets.entry(set).or_default().insert(element);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Whether what a client learnt, an element of `affinity`, leads to a target
    /// of its frontend.
    pub(crate) fn knows(&self, family: Family, key: &[u8], target: &[u8]) -> bool {
        let client = if family == Family::Ip { 4 } else { 16 };
        key.get(client..)
            .is_some_and(|frontend| self.sticky.contains(&Element::concat(&[frontend, target])))
    }

    pub(crate) fn of(&self, set: &str) -> impl Iterator<Item = &Element> {
        self.sets.get(set).into_iter().flatten()
    }
}

impl Pick {
    pub(crate) fn first_index(self) -> u32 {
        match self.clients {
            Clients::All => 0,
            Clients::Inside => INSIDE,
        }
    }
}

/// All sets and maps of a table.
pub(crate) fn sets(family: Family) -> Vec<Set<'static>> {
    use DataType::{Ipv4, Ipv6, Mark, Port, Protocol, Verdict};
    let set = |name, key, value, members| Set {
        name,
        key,
        value,
        members,
    };
    macro_rules! of {
        ($address:ident) => {
            vec![
                set(
                    "cluster_ips",
                    &[$address] as &[_],
                    &[] as &[_],
                    Members::Keys,
                ),
                set("pods", &[$address], &[], Members::Ranges),
                set(
                    "services",
                    &[$address, Protocol, Port],
                    &[Verdict],
                    Members::Keys,
                ),
                set(
                    "services_inside",
                    &[$address, Protocol, Port],
                    &[Verdict],
                    Members::Keys,
                ),
                set("node_ports", &[Protocol, Port], &[Verdict], Members::Keys),
                set(
                    "node_ports_inside",
                    &[Protocol, Port],
                    &[Verdict],
                    Members::Keys,
                ),
                set(
                    "unserved",
                    &[$address, Protocol, Port],
                    &[Verdict],
                    Members::Keys,
                ),
                set(
                    "unserved_ports",
                    &[Protocol, Port],
                    &[Verdict],
                    Members::Keys,
                ),
                set(
                    "backends",
                    &[$address, Protocol, Port, Mark],
                    &[$address, Port],
                    Members::Keys,
                ),
                set("guarded", &[$address, Protocol, Port], &[], Members::Keys),
                set(
                    "allowed",
                    &[$address, Protocol, Port, $address],
                    &[],
                    Members::Ranges,
                ),
                set(
                    "stays",
                    &[$address, Protocol, Port, Mark],
                    &[Verdict],
                    Members::Keys,
                ),
                set(
                    "affinity",
                    &[$address, $address, Protocol, Port],
                    &[$address, Port],
                    Members::Learned { capacity: CLIENTS },
                ),
                set("hairpins", &[$address, $address], &[], Members::Keys),
                set(
                    "masqueraded",
                    &[$address, Protocol, Port],
                    &[],
                    Members::Keys,
                ),
                set("masqueraded_ports", &[Protocol, Port], &[], Members::Keys),
            ]
        };
    }
    if family == Family::Ip {
        of!(Ipv4)
    } else {
        of!(Ipv6)
    }
}

fn key(kind: Kind, frontend: &Frontend) -> Vec<u8> {
    let (protocol, port) = ([frontend.protocol as u8], frontend.port.to_be_bytes());
    match kind {
        Kind::Address => Element::concat(&[&octets(frontend.address), &protocol, &port]),
        Kind::Node => Element::concat(&[&protocol, &port]),
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The prefixes without those that lie in another, which the kernel refuses.
fn disjoint(prefixes: &[Prefix]) -> Vec<Prefix> {
    let mut kept: Vec<Prefix> = Vec::new();
    let mut sorted: Vec<Prefix> = prefixes.iter().map(|prefix| prefix.network()).collect();
    sorted.sort_by_key(|prefix| prefix.length);
    for prefix in sorted {
        if !kept.iter().any(|wider| wider.overlaps(prefix)) {
            kept.push(prefix);
        }
    }
    kept
}

fn range(prefix: Prefix) -> Element {
    let first = octets(prefix.network().address);
    let mut end = octets(prefix.last());
    let mut carry = true;
    for octet in end.iter_mut().rev() {
        if carry {
            (*octet, carry) = octet.overflowing_add(1);
        }
    }
    Element::Range(first, (!carry).then_some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn prefixes_within_others_are_left_out() {
        let prefixes = ["10.1.2.0/24", "10.1.0.0/16", "10.1.0.0/16", "10.2.0.0/16"].map(prefix);
        assert_eq!(
            disjoint(&prefixes),
            [prefix("10.1.0.0/16"), prefix("10.2.0.0/16")]
        );
    }

    #[test]
    fn all_keys_fit_their_sets() {
        // The kernel takes keys of 64 bytes at most.
        for family in [Family::Ip, Family::Ip6] {
            for set in sets(family) {
                let width = |types: &[DataType]| -> usize {
                    types
                        .iter()
                        .map(|kind| match kind {
                            DataType::Ipv6 => 16,
                            _ => 4,
                        })
                        .sum()
                };
                assert!(width(set.key) <= 64, "{}", set.name);
            }
        }
    }
}
