//! Which flows of datagrams lead where nobody serves any more.
//!
//! Connection tracking decides about a flow with its first packet; a client
//! that goes on sending from one port would keep an endpoint that is gone, or
//! its way past a Service that came later. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dhow_netlink::Flow;

use crate::services::{Balance, Frontend, Frontends, Protocol};

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
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
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

fn serves(balance: &Balance, answers: SocketAddr) -> bool {
    let inside = balance.inside.iter().flatten();
    balance
        .targets
        .iter()
        .chain(inside)
        .any(|target| *target == answers)
}

#[cfg(test)]
mod tests {
    use dhow_netlink::Ends;

    use super::*;
    use crate::services::{Source, WhenEmpty};

    fn frontends(at: &str, targets: &[&str]) -> Frontends {
        let at: SocketAddr = at.parse().expect("an address");
        let frontend = Frontend {
            address: at.ip(),
            protocol: Protocol::Udp,
            port: at.port(),
        };
        let balance = Balance {
            targets: targets
                .iter()
                .map(|target| target.parse().expect("an address"))
                .collect(),
            inside: None,
            affinity: None,
            source: Source::Kept,
            allowed: Vec::new(),
            when_empty: WhenEmpty::Reject,
        };
        Frontends {
            balances: [(frontend, balance)].into(),
            ..Frontends::default()
        }
    }

    /// A flow from a client to `to`, which `answers` answers.
    fn flow(to: &str, answers: &str) -> Flow {
        let ends = |source: &str, destination: &str| Ends {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
        };
        let client = "10.1.0.9:4000";
        Flow::new(17, ends(client, to), ends(answers, client))
    }

    #[test]
    fn flows_end_with_their_targets() {
        let service = "10.96.0.10:53";
        let (one, other) = ("10.1.0.2:53", "10.1.0.3:53");
        let nothing = Frontends::default();
        let old = frontends(service, &[one]);
        for (new, to, answers, wanted) in [
            (frontends(service, &[one, other]), service, one, false),
            (frontends(service, &[other]), service, one, true),
            (frontends(service, &[]), service, one, true),
            (nothing.clone(), service, one, true),
            // Before the Service came, it went past it.
            (frontends(service, &[one]), service, service, true),
            (frontends(service, &[]), service, service, false),
            // Strangers' flows.
            (nothing.clone(), "8.8.8.8:53", "8.8.8.8:53", false),
            (nothing.clone(), "8.8.8.8:53", one, false),
        ] {
            let flow = flow(to, answers);
            assert_eq!(is_stale(&flow, &old, &new), wanted, "{flow:?}");
        }
        let node = frontends("0.0.0.0:30053", &[one]);
        let moved = frontends("0.0.0.0:30053", &[other]);
        assert!(is_stale(&flow("192.0.2.2:30053", one), &node, &moved));
        assert!(!is_stale(&flow("192.0.2.2:30053", other), &node, &moved));
        // Somebody else's translation of the same port.
        assert!(!is_stale(
            &flow("192.0.2.2:30053", "172.17.0.2:53"),
            &node,
            &moved
        ));
    }
}
