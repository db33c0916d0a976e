//! Host ports: chosen, held, and let go.
//!
//! Packets to a published port are translated before any socket sees them. A
//! bound socket holds the port all the same, so that no process of the host
//! takes it unawares and a port that is in use is refused.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use crate::endpoint::{PortMapping, Protocol, PublishSpec};
use crate::error::Error;

/// A host port: protocol, address, number.
type Key = (Protocol, IpAddr, u16);

/// How often the kernel may choose a port that is free at one address and not
/// at the other.
const CHOICES: usize = 64;

/// What holds a port: a bound socket; none where the kernel has no sockets of
/// that protocol.
type Holder = Option<OwnedFd>;

/// The host ports that this instance holds.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeMap<Key, Holder>);

impl Ports {
    /// Takes one port number at all of `addresses`: the first that is free of
    /// those asked for.
    pub(crate) fn take(
        &mut self,
        spec: &PublishSpec,
        addresses: &[IpAddr],
    ) -> Result<Vec<PortMapping>, Error> {
        self.take_with(spec, addresses, &mut bind)
    }

    fn take_with(
        &mut self,
        spec: &PublishSpec,
        addresses: &[IpAddr],
        bind: &mut impl FnMut(Key) -> io::Result<(Holder, u16)>,
    ) -> Result<Vec<PortMapping>, Error> {
        const ANY: RangeInclusive<u16> = 0..=0;
        let candidates: Vec<u16> = if spec.host_ports == ANY {
            vec![0; CHOICES]
        } else {
            spec.host_ports.clone().collect()
        };
        let mut refusal = None;
        for candidate in candidates {
            match self.hold(spec.protocol, addresses, candidate, bind) {
                Ok((port, holders)) => {
                    return Ok(addresses
                        .iter()
                        .zip(holders)
                        .map(|(address, holder)| {
                            self.0.insert((spec.protocol, *address, port), holder);
                            PortMapping {
                                protocol: spec.protocol,
                                container_port: spec.container_port,
                                host_address: *address,
                                host_port: port,
                            }
                        })
                        .collect());
                }
                Err(error) if error.is_taken() => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| Error::Invalid("invalid port range: it is empty".into())))
    }

    /// Binds one port number at all addresses; zero becomes what the kernel
    /// chooses at the first.
    fn hold(
        &self,
        protocol: Protocol,
        addresses: &[IpAddr],
        mut port: u16,
        bind: &mut impl FnMut(Key) -> io::Result<(Holder, u16)>,
    ) -> Result<(u16, Vec<Holder>), Error> {
        let mut holders = Vec::new();
        for address in addresses {
            let allocated =
                |port| Error::PortAllocated(SocketAddr::new(*address, port).to_string());
            if port != 0 && self.conflicts((protocol, *address, port)) {
                return Err(allocated(port));
            }
            let (holder, bound) =
                bind((protocol, *address, port)).map_err(|reason| Error::PortTaken {
                    port: format!("{}/{protocol}", SocketAddr::new(*address, port)),
                    reason,
                })?;
            if self.conflicts((protocol, *address, bound)) {
                // The kernel chose a port whose holder could not be bound.
                return Err(allocated(bound));
            }
            port = bound;
            holders.push(holder);
        }
        Ok((port, holders))
    }

    /// Takes ports that an endpoint holds since before this process started; a
    /// port that meanwhile belongs to another process stays published.
    pub(crate) fn retake(&mut self, mapping: &PortMapping) {
        let key = key(mapping);
        let holder = bind(key).ok().and_then(|(holder, _)| holder);
        self.0.insert(key, holder);
    }

    /// Lets a port go.
    pub(crate) fn release(&mut self, mapping: &PortMapping) {
        self.0.remove(&key(mapping));
    }

    fn conflicts(&self, (protocol, address, port): Key) -> bool {
        self.0.keys().any(|(other_protocol, other, other_port)| {
            *other_protocol == protocol
                && *other_port == port
                && other.is_ipv4() == address.is_ipv4()
                && (*other == address || other.is_unspecified() || address.is_unspecified())
        })
    }
}

fn key(mapping: &PortMapping) -> Key {
    (mapping.protocol, mapping.host_address, mapping.host_port)
}

fn bind((protocol, address, port): Key) -> io::Result<(Holder, u16)> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = match rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(number)) {
        Ok(socket) => socket,
        // Where no process can have such a socket, nobody can take the port.
        Err(rustix::io::Errno::PROTONOSUPPORT) if protocol == Protocol::Sctp => {
            let (_, bound) = bind((Protocol::Udp, address, port))?;
            return Ok((None, bound));
        }
        Err(error) => return Err(error.into()),
    };
    if !address.is_ipv4() {
        // The other family's port of this number is another port.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(address, port))?;
    let bound: SocketAddr = rustix::net::getsockname(&socket)?
        .try_into()
        .map_err(|_| io::Error::other("the kernel bound no internet address"))?;
    Ok((Some(socket), bound.port()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Taking so many addresses (a choice of few) at a range of ports, or
    /// letting the so-many-th taken one go.
    #[derive(Debug, Clone)]
    enum Step {
        Take(usize, RangeInclusive<u16>),
        Release(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let range = (1u16..12, 0u16..4).prop_map(|(first, more)| first..=first + more);
        let range = prop_oneof![4 => range, 1 => Just(0..=0)];
        let step = prop_oneof![
            3 => (0usize..4, range).prop_map(|(place, ports)| Step::Take(place, ports)),
            1 => (0usize..20).prop_map(Step::Release),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        /// A stand-in for the kernel gives every port but those that other
        /// processes have. No two mappings ever clash, a range is refused only
        /// when all of it is taken, and what is let go can be had again.
        #[test]
        fn ports_never_clash(
            strangers in prop::collection::btree_set(1u16..12, 0..4),
            steps in steps(),
        ) {
            let places: [Vec<IpAddr>; 4] = [
                vec!["0.0.0.0".parse().expect("good"), "::".parse().expect("good")],
                vec!["0.0.0.0".parse().expect("good")],
                vec!["127.0.0.1".parse().expect("good")],
                vec!["::1".parse().expect("good")],
            ];
            let mut next = 0;
            let mut kernel = |(_, _, port): Key| {
                if port == 0 {
                    next = next % 11 + 1;
                    return Ok((None, next));
                }
                if strangers.contains(&port) {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                Ok((None, port))
            };
            let mut ports = Ports::default();
            let mut held: Vec<Vec<PortMapping>> = Vec::new();
            for step in steps {
                match step {
                    Step::Take(place, range) => {
                        let spec = PublishSpec {
                            protocol: Protocol::Tcp,
                            container_port: 80,
                            host_address: None,
                            host_ports: range.clone(),
                        };
                        match ports.take_with(&spec, &places[place], &mut kernel) {
                            Ok(taken) => {
                                prop_assert_eq!(taken.len(), places[place].len());
                                let numbers: BTreeSet<u16> =
                                    taken.iter().map(|one| one.host_port).collect();
                                prop_assert_eq!(numbers.len(), 1, "one number at all addresses");
                                for (one, other) in taken.iter().flat_map(|one| {
                                    held.iter().flatten().map(move |other| (one, other))
                                }) {
                                    let (a, b) = (one.host_address, other.host_address);
                                    let meet = a.is_ipv4() == b.is_ipv4()
                                        && (a == b || a.is_unspecified() || b.is_unspecified());
                                    prop_assert!(!meet || one.host_port != other.host_port);
                                }
                                held.push(taken);
                            }
                            Err(error) => {
                                prop_assert!(error.is_taken(), "{error}");
                                if range == (0..=0) { continue; }
                                for port in range {
                                    let free = !strangers.contains(&port)
                                        && places[place].iter().all(|address| {
                                            !ports.conflicts((Protocol::Tcp, *address, port))
                                        });
                                    prop_assert!(!free, "{port} was free");
                                }
                            }
                        }
                    }
                    Step::Release(index) if index < held.len() => {
                        for mapping in held.swap_remove(index) {
                            ports.release(&mapping);
                        }
                    }
                    Step::Release(_) => {}
                }
            }
            for mapping in held.iter().flatten() {
                ports.release(mapping);
            }
            prop_assert!(ports.0.is_empty(), "all are let go");
        }
    }
}
