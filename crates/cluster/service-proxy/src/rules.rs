//! The rules of the table, which are the same however many Services there are.
//!
//! ```text
//! guard        filter -110      clients that may not come (also for output)
//! prerouting   nat -100         inside clients, then all: to a pick chain
//! output       nat -100         the same; the host itself is inside
//! pick-…                        a random index -> backend -> translate;
//!                               with affinity: the client's target, or a stay
//! stay-…                        remembers the client's target, translates
//! postrouting  nat  100         what must come back this way is masqueraded
//! forward      filter -10       refused: frontends without targets, other
//! input        filter -10       ports of cluster addresses
//! answer       filter -10       (output)
//! ```
//!
//! A rule must load every register it reads, so nothing is handed from rule to
//! rule: a frontend is looked up by what the packet itself says.

use dhow_nft::phrase::{
    self, Is, accept, address_registers, equal, is_established, is_local, is_untranslated, jump,
    leaves_by, lookup, masked, meta, outside, protocol_and_port, verdict_map, within,
};
use dhow_nft::{
    Chain, ChainKind, Expression, Family, Hook, Meta, Nat, Original, Register, Rejection,
    Transaction, Verdict,
};

use crate::elements::{Kind, Pick, REFUSE, Stay, octets};

const TCP: u8 = 6;

/// Whether it is known which addresses are pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pods {
    Known,
    Unknown,
}

/// Adds the chains that never change, with their rules. The sets must be there.
pub(crate) fn add_chains(transaction: &mut Transaction, family: Family, pods: Pods) {
    use ChainKind::{Filter, Nat as Translate};
    for (name, base) in [
        (REFUSE, None),
        ("dispatch", None),
        ("dispatch_inside", None),
        ("guard", Some((Filter, Hook::Prerouting, -110))),
        ("guard_output", Some((Filter, Hook::Output, -110))),
        ("prerouting", Some((Translate, Hook::Prerouting, -100))),
        ("output", Some((Translate, Hook::Output, -100))),
        ("postrouting", Some((Translate, Hook::Postrouting, 100))),
        ("forward", Some((Filter, Hook::Forward, -10))),
        ("input", Some((Filter, Hook::Input, -10))),
        ("answer", Some((Filter, Hook::Output, -10))),
    ] {
        transaction.add_chain(&Chain { name, base });
    }
    let layout = Layout::of(family);

    transaction.add_rule(
        REFUSE,
        &[
            meta(Meta::TransportProtocol, 0),
            equal(0, vec![TCP]),
            Expression::Reject(Rejection::Reset),
        ],
    );
    let unreachable = Rejection::PortUnreachable(family);
    transaction.add_rule(REFUSE, &[Expression::Reject(unreachable)]);

    dispatch(transaction, &layout, pods);
    postrouting(transaction, &layout, pods);
    refusals(transaction, &layout);
}

fn dispatch(transaction: &mut Transaction, layout: &Layout, pods: Pods) {
    for (chain, addresses, ports) in [
        ("dispatch", "services", "node_ports"),
        ("dispatch_inside", "services_inside", "node_ports_inside"),
    ] {
        let by_address = [&layout.frontend(0)[..], &[verdict_map(addresses, 0)]].concat();
        transaction.add_rule(chain, &by_address);
        let by_port = [
            &is_local()[..],
            &protocol_and_port(0)[..],
            &[verdict_map(ports, 0)],
        ]
        .concat();
        transaction.add_rule(chain, &by_port);
    }
    if pods == Pods::Known {
        transaction.add_rule(
            "prerouting",
            &[layout.source(0), within("pods", 0), jump("dispatch_inside")],
        );
    }
    transaction.add_rule("output", &[jump("dispatch_inside")]);
    for chain in ["prerouting", "output"] {
        transaction.add_rule(chain, &[jump("dispatch")]);
    }
}

fn postrouting(transaction: &mut Transaction, layout: &Layout, pods: Pods) {
    let chain = "postrouting";
    // Only what was translated concerns us; and what stays on this host finds
    // its way back by itself.
    transaction.add_rule(chain, &[&is_untranslated()[..], &[accept()]].concat());
    transaction.add_rule(
        chain,
        &[&leaves_by("lo", Is::This)[..], &[accept()]].concat(),
    );
    // From a loopback address nothing else finds back.
    transaction.add_rule(
        chain,
        &[
            &[layout.source(0)][..],
            &layout.is_loopback(0)[..],
            &[Expression::Masquerade],
        ]
        .concat(),
    );
    // An endpoint that reached itself would answer itself.
    transaction.add_rule(
        chain,
        &[
            layout.source(0),
            layout.destination(layout.address),
            within("hairpins", 0),
            Expression::Masquerade,
        ],
    );
    let original = layout.original(0);
    transaction.add_rule(
        chain,
        &[
            &original[..],
            &[within("masqueraded", 0), Expression::Masquerade],
        ]
        .concat(),
    );
    transaction.add_rule(
        chain,
        &[
            &original[..],
            &[
                outside("cluster_ips", 0),
                within("masqueraded_ports", layout.address),
                Expression::Masquerade,
            ],
        ]
        .concat(),
    );
    // A cluster address that somebody else speaks to.
    if pods == Pods::Known {
        transaction.add_rule(
            chain,
            &[
                layout.source(0),
                outside("pods", 0),
                layout.original_address(0),
                within("cluster_ips", 0),
                Expression::Masquerade,
            ],
        );
    }
}

fn refusals(transaction: &mut Transaction, layout: &Layout) {
    for chain in ["guard", "guard_output"] {
        transaction.add_rule(chain, &established_passes());
        let mut guard = layout.frontend(0);
        guard.extend([
            layout.source(layout.address + 2),
            within("guarded", 0),
            outside("allowed", 0),
            Expression::Verdict(Verdict::Drop),
        ]);
        transaction.add_rule(chain, &guard);
    }
    for chain in ["forward", "input", "answer"] {
        transaction.add_rule(chain, &established_passes());
        transaction.add_rule(
            chain,
            &[&layout.frontend(0)[..], &[verdict_map("unserved", 0)]].concat(),
        );
        // What was translated has another destination by now.
        transaction.add_rule(
            chain,
            &[
                layout.destination(0),
                within("cluster_ips", 0),
                Expression::Verdict(Verdict::Goto(REFUSE.into())),
            ],
        );
    }
    transaction.add_rule(
        "input",
        &[
            &is_local()[..],
            &protocol_and_port(0)[..],
            &[verdict_map("unserved_ports", 0)],
        ]
        .concat(),
    );
}

/// Adds a chain that chooses a target, with its rules.
pub(crate) fn add_pick(transaction: &mut Transaction, family: Family, pick: Pick) {
    let layout = Layout::of(family);
    let chain = pick.chain();
    transaction.add_chain(&Chain {
        name: &chain,
        base: None,
    });
    let key = layout.client_and_frontend(pick.kind);
    let (frontend, target) = (layout.address, layout.target());
    let random = Expression::Random {
        modulus: pick.n_targets,
        offset: pick.first_index(),
        to: Register(target),
    };
    let Some(seconds) = pick.affinity else {
        let choose = [
            &key[1..],
            &[
                random,
                lookup("backends", frontend, target),
                layout.translate(),
            ],
        ];
        transaction.add_rule(&chain, &choose.concat());
        return;
    };
    // A client that is known begins its time again. The value is for the
    // kernel's form only: that of an element that is there stays.
    let known = [&key[..], &[lookup("affinity", 0, target)]].concat();
    let [address, port] = layout.constant(vec![0; usize::from(layout.address) * 4], 0);
    let again = [&known[..], &[address, port, layout.learn(seconds)]].concat();
    transaction.add_rule(&chain, &again);
    transaction.add_rule(&chain, &[&known[..], &[layout.translate()]].concat());
    let choose = [&key[1..], &[random, verdict_map("stays", frontend)]].concat();
    transaction.add_rule(&chain, &choose);
}

/// Adds a chain that leads a client to one target and remembers that.
pub(crate) fn add_stay(transaction: &mut Transaction, family: Family, stay: Stay) {
    let layout = Layout::of(family);
    let chain = stay.chain();
    transaction.add_chain(&Chain {
        name: &chain,
        base: None,
    });
    let [address, port] = layout.constant(octets(stay.target.ip()), stay.target.port());
    let rest = [
        address,
        port,
        layout.learn(stay.seconds),
        layout.translate(),
    ];
    let rule = [&layout.client_and_frontend(stay.kind)[..], &rest].concat();
    transaction.add_rule(&chain, &rule);
}

/// Where the parts of a packet are, and how many registers an address takes.
struct Layout {
    family: Family,
    address: u8,
}

impl Layout {
    fn of(family: Family) -> Self {
        let address = address_registers(family);
        Self { family, address }
    }

    fn source(&self, to: u8) -> Expression {
        phrase::source(self.family, to)
    }

    fn destination(&self, to: u8) -> Expression {
        phrase::destination(self.family, to)
    }

    /// Destination, protocol and port as the packet has them.
    fn frontend(&self, to: u8) -> Vec<Expression> {
        let mut parts = vec![self.destination(to)];
        parts.extend(protocol_and_port(to + self.address));
        parts
    }

    /// The key of a client and its frontend, from the first register on; the
    /// frontend alone begins after an address.
    fn client_and_frontend(&self, kind: Kind) -> Vec<Expression> {
        let frontend = self.address;
        let mut key = vec![self.source(0), self.destination(frontend)];
        if kind == Kind::Node {
            // The unspecified address.
            key.push(masked(frontend, vec![0; usize::from(self.address) * 4]));
        }
        key.extend(protocol_and_port(frontend + self.address));
        key
    }

    /// Where the target goes: behind that key.
    fn target(&self) -> u8 {
        self.address * 2 + 2
    }

    /// Loads a target that is known beforehand.
    fn constant(&self, address: Vec<u8>, port: u16) -> [Expression; 2] {
        [
            phrase::constant(self.target(), address),
            phrase::constant(self.target() + self.address, port.to_be_bytes().to_vec()),
        ]
    }

    /// Remembers that the client has this target.
    fn learn(&self, seconds: u32) -> Expression {
        Expression::Learn {
            set: "affinity".into(),
            key: Register(0),
            value: Some(Register(self.target())),
            timeout: Some(u64::from(seconds) * 1000),
        }
    }

    /// Leads the connection to the target.
    fn translate(&self) -> Expression {
        Expression::Nat {
            kind: Nat::Destination,
            family: self.family,
            address: Register(self.target()),
            port: Some(Register(self.target() + self.address)),
        }
    }

    fn original_address(&self, to: u8) -> Expression {
        let key = if self.family == Family::Ip {
            Original::Ipv4
        } else {
            Original::Ipv6
        };
        Expression::CtOriginal {
            key,
            to: Register(to),
        }
    }

    /// Destination, protocol and port before translation.
    fn original(&self, to: u8) -> Vec<Expression> {
        vec![
            self.original_address(to),
            meta(Meta::TransportProtocol, to + self.address),
            Expression::CtOriginal {
                key: Original::Port,
                to: Register(to + self.address + 1),
            },
        ]
    }

    fn is_loopback(&self, from: u8) -> Vec<Expression> {
        phrase::is_loopback(self.family, from)
    }
}

/// Only first packets are looked at.
fn established_passes() -> [Expression; 4] {
    let [load, mask, compare] = is_established();
    [load, mask, compare, accept()]
}
