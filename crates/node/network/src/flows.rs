//! Flows of datagrams that published ports must not find in their way.
//!
//! Connection tracking decides once, by the first packet, where a flow is led.
//! Whoever goes on sending datagrams from one port keeps the flow alive, so one
//! that began before its port was published, or leads to a container that is
//! gone, would stay as it is. Such flows are forgotten; connections of TCP end by
//! themselves.

use std::net::{IpAddr, UdpSocket};

use dhow_netlink::{Error, Flow, IsIpv4, Socket};

use crate::endpoint::{Endpoint, PortMapping, Protocol};

/// What became of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Became {
    /// Its ports were published.
    Published,
    /// They lead to it no more.
    Gone,
}

/// Forgets the flows that are not as they would be if they began now.
pub(crate) fn forget_stale(
    socket: &Socket,
    endpoint: &Endpoint,
    became: Became,
) -> Result<(), Error> {
    let datagrams = |port: &&PortMapping| port.protocol == Protocol::Udp;
    let ports: Vec<&PortMapping> = endpoint.ports.iter().filter(datagrams).collect();
    if ports.is_empty() {
        return Ok(());
    }
    for is_ipv4 in [IsIpv4::Yes, IsIpv4::No] {
        let flows = socket.flows(is_ipv4, Protocol::Udp as u8)?;
        let stale: Vec<Flow> = flows
            .into_iter()
            .filter(|flow| ports.iter().any(|port| meets(flow, port)))
            .filter(|flow| is_stale(flow, &endpoint.addresses, became))
            .collect();
        if !stale.is_empty() {
            socket.forget_flows(&stale)?;
        }
    }
    Ok(())
}

/// Whether a flow was bound for a published port.
fn meets(flow: &Flow, port: &PortMapping) -> bool {
    let to = flow.original.destination;
    to.port() == port.host_port
        && to.is_ipv4() == port.host_address.is_ipv4()
        && (port.host_address.is_unspecified() || port.host_address == to.ip())
}

fn is_stale(flow: &Flow, addresses: &[IpAddr], became: Became) -> bool {
    let leads_to_it = addresses.contains(&flow.reply.source.ip());
    match became {
        Became::Gone => leads_to_it,
        Became::Published => {
            let is_translated = flow.reply.source != flow.original.destination;
            !leads_to_it && (is_translated || is_local(flow.original.destination.ip()))
        }
    }
}

/// Whether an address is the host's.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use dhow_netlink::Ends;

    use super::*;

    fn flow(source: &str, destination: &str, answered_by: &str) -> Flow {
        let parse = |text: &str| text.parse::<SocketAddr>().expect("an address and port");
        let original = Ends {
            source: parse(source),
            destination: parse(destination),
        };
        let reply = Ends {
            source: parse(answered_by),
            destination: parse(source),
        };
        Flow::new(17, original, reply)
    }

    #[test]
    fn only_flows_of_the_port_that_lead_elsewhere_are_stale() {
        let own: IpAddr = [172, 17, 0, 2].into();
        let to = "127.0.0.1:5353";
        for (answered_by, published, gone) in [
            ("172.17.0.2:53", false, true),
            ("172.17.0.9:53", true, false),
            ("127.0.0.1:5353", true, false),
        ] {
            let flow = flow("127.0.0.1:999", to, answered_by);
            assert_eq!(is_stale(&flow, &[own], Became::Published), published);
            assert_eq!(is_stale(&flow, &[own], Became::Gone), gone);
        }
        // Bound for another host, which is none of our business.
        let abroad = flow("127.0.0.1:999", "203.0.113.1:5353", "203.0.113.1:5353");
        assert!(!is_stale(&abroad, &[own], Became::Published));
        let port = |host: &str| PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_address: host.parse().expect("an address"),
            host_port: 5353,
        };
        let local = flow("127.0.0.1:999", to, to);
        assert!(meets(&local, &port("0.0.0.0")) && meets(&local, &port("127.0.0.1")));
        assert!(!meets(&local, &port("::")) && !meets(&local, &port("127.0.0.2")));
    }
}
