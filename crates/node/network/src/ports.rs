//! Host ports: chosen, held, and let go.
//!
//! Packets to a published port are translated before any socket sees them. A
//! bound socket holds the port all the same, so that no process of the host
//! takes it unawares and a port that is in use is refused.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use crate::endpoint::{PortMapping, Protocol};
use crate::error::Error;

/// A host port: protocol, address, number.
type Key = (Protocol, IpAddr, u16);

/// The host ports that this instance holds.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeMap<Key, Option<OwnedFd>>);

impl Ports {
    /// Takes the host port of `mapping`; port zero becomes one that is free.
    pub(crate) fn take(&mut self, mapping: &PortMapping) -> Result<PortMapping, Error> {
        let mut taken = mapping.clone();
        let key = (taken.protocol, taken.host_address, taken.host_port);
        if taken.host_port != 0 && self.conflicts(key) {
            return Err(Error::PortAllocated(format!(
                "{}:{}",
                taken.host_address, taken.host_port
            )));
        }
        loop {
            let (socket, port) = bind(&taken).map_err(|source| Error::PortTaken {
                port: format!(
                    "{}/{}",
                    SocketAddr::new(taken.host_address, taken.host_port),
                    taken.protocol
                ),
                source,
            })?;
            let key = (taken.protocol, taken.host_address, port);
            if self.conflicts(key) {
                // The kernel chose a port whose holder could not be bound.
                continue;
            }
            taken.host_port = port;
            self.0.insert(key, Some(socket));
            return Ok(taken);
        }
    }

    /// Takes ports that an endpoint holds since before this process started; a
    /// port that meanwhile belongs to another process stays published.
    pub(crate) fn retake(&mut self, mapping: &PortMapping) {
        let socket = bind(mapping).ok().map(|(socket, _)| socket);
        self.0.insert(
            (mapping.protocol, mapping.host_address, mapping.host_port),
            socket,
        );
    }

    /// Lets a port go.
    pub(crate) fn release(&mut self, mapping: &PortMapping) {
        self.0
            .remove(&(mapping.protocol, mapping.host_address, mapping.host_port));
    }

    fn conflicts(&self, (protocol, address, port): Key) -> bool {
        self.0
            .keys()
            .any(|(other_protocol, other_address, other_port)| {
                *other_protocol == protocol
                    && *other_port == port
                    && (*other_address == address
                        || other_address.is_unspecified()
                        || address.is_unspecified())
            })
    }
}

fn bind(mapping: &PortMapping) -> io::Result<(OwnedFd, u16)> {
    let family = if mapping.host_address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, protocol) = match mapping.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    rustix::net::bind(
        &socket,
        &SocketAddr::new(mapping.host_address, mapping.host_port),
    )?;
    let bound: SocketAddr = rustix::net::getsockname(&socket)?
        .try_into()
        .map_err(|_| io::Error::other("the kernel bound no internet address"))?;
    Ok((socket, bound.port()))
}
