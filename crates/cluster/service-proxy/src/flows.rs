//! Which flows of datagrams lead where nobody serves any more.
//!
//! Connection tracking decides about a flow with its first packet; a client
//! that goes on sending from one port would keep an endpoint that is gone, or
//! its way past a Service that came later. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhow_netlink::Flow;

use crate::services::{Frontend, Frontends, Protocol};

/// Whether `flow` should be forgotten, now that `new` holds instead of `old`.
pub(crate) fn is_stale(flow: &Flow, old: &Frontends, new: &Frontends) -> bool {
    let answers = flow.reply.source;
    let is_translated = answers != flow.original.destination;
    let frontend = |address| Frontend {
        address,
        protocol: Protocol::Udp,
        port: flow.original.destination.port(),
    };
    let any: IpAddr = match flow.original.destination {
        std::net::SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        std::net::SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let exact = frontend(flow.original.destination.ip());
    if let Some(balance) = new.balances.get(&exact) {
        return !serves(balance, answers) && (is_translated || !balance.targets.is_empty());
    }
    if old.balances.contains_key(&exact) {
        return is_translated;
    }
    // Whether the address is the node's own cannot be told from the flow:
    // only what we translated ourselves is judged.
    let port = frontend(any);
    if !is_translated {
        return false;
    }
    let was = old
        .balances
        .get(&port)
        .is_some_and(|balance| serves(balance, answers));
    let is = new
        .balances
        .get(&port)
        .is_some_and(|balance| serves(balance, answers));
    was && !is
}

fn serves(balance: &crate::services::Balance, answers: std::net::SocketAddr) -> bool {
    let inside = balance.inside.iter().flatten();
    balance
        .targets
        .iter()
        .chain(inside)
        .any(|target| *target == answers)
}
