//! Connection tracking over ctnetlink: flows are listed and forgotten.
//!
//! Layout after `linux/netfilter/nfnetlink_conntrack.h`. Only what has ports is
//! listed: TCP, UDP, SCTP and their like.

use std::net::{IpAddr, SocketAddr};

use crate::socket::{Error, Socket};
use crate::wire::{Attributes, Batch, NLM_F_ACK, NLM_F_DUMP, Request};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// The two ends of a flow, as packets of one direction name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Where they come from.
    pub source: SocketAddr,
    /// Where they go.
    pub destination: SocketAddr,
}

/// A flow that connection tracking knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Transport protocol number.
    pub protocol: u8,
    /// As its first packet had it, before any translation.
    pub original: Ends,
    /// As answers have it, before they are translated back: their source is
    /// who really answers.
    pub reply: Ends,
    zone: Option<u16>,
}

impl Flow {
    /// A flow of the zone that has no number, as most are.
    pub fn new(protocol: u8, original: Ends, reply: Ends) -> Self {
        Self {
            protocol,
            original,
            reply,
            zone: None,
        }
    }
}

impl Socket {
    /// All flows of one address family; `protocol` is a transport protocol's
    /// number. The socket must be a netfilter one.
    ///
    /// # Errors
    ///
    /// The kernel's refusal or the socket's failure.
    pub fn flows(&self, is_ipv4: IsIpv4, protocol: u8) -> Result<Vec<Flow>, Error> {
        let mut batch = Batch::new();
        batch
            .request(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_DUMP)
            .header(&[is_ipv4.family(), 0, 0, 0]);
        let mut flows = Vec::new();
        self.dump(&mut batch, |message| {
            let flow = read(message.attributes(4));
            flows.extend(flow.filter(|flow| flow.protocol == protocol));
        })?;
        Ok(flows)
    }

    /// Forgets flows, so that their next packet is looked at as a first one;
    /// one that is gone already is no error.
    ///
    /// # Errors
    ///
    /// The kernel's first refusal or the socket's failure.
    pub fn forget_flows(&self, flows: &[Flow]) -> Result<(), Error> {
        let mut batch = Batch::new();
        for flow in flows {
            let family = IsIpv4::of(flow.original.source.ip()).family();
            let mut request =
                batch.request(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, NLM_F_ACK);
            request.header(&[family, 0, 0, 0]);
            request.nest(CTA_TUPLE_ORIG, |tuple| {
                write(tuple, flow.original, flow.protocol);
            });
            if let Some(zone) = flow.zone {
                request.attribute(CTA_ZONE, &zone.to_be_bytes());
            }
        }
        for result in self.run_each(&mut batch)? {
            match result {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Which address family is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsIpv4 {
    /// IPv4.
    Yes,
    /// IPv6.
    No,
}

impl IsIpv4 {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            IsIpv4::Yes
        } else {
            IsIpv4::No
        }
    }

    fn family(self) -> u8 {
        match self {
            IsIpv4::Yes => libc::AF_INET as u8,
            IsIpv4::No => libc::AF_INET6 as u8,
        }
    }
}

fn read(attributes: Attributes<'_>) -> Option<Flow> {
    let (protocol, original) = ends(attributes.get(CTA_TUPLE_ORIG)?)?;
    let (_, reply) = ends(attributes.get(CTA_TUPLE_REPLY)?)?;
    let zone = attributes
        .get(CTA_ZONE)
        .and_then(|bytes| Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?)));
    Some(Flow {
        protocol,
        original,
        reply,
        zone,
    })
}

fn ends(tuple: &[u8]) -> Option<(u8, Ends)> {
    let tuple = Attributes::nested(tuple);
    let addresses = Attributes::nested(tuple.get(CTA_TUPLE_IP)?);
    let address = |v4, v6| -> Option<IpAddr> {
        if let Some(bytes) = addresses.get(v4) {
            let octets: [u8; 4] = bytes.try_into().ok()?;
            return Some(octets.into());
        }
        let octets: [u8; 16] = addresses.get(v6)?.try_into().ok()?;
        Some(octets.into())
    };
    let protocol = Attributes::nested(tuple.get(CTA_TUPLE_PROTO)?);
    let port = |kind| Some(u16::from_be_bytes(protocol.get(kind)?.try_into().ok()?));
    let number = *protocol.get(CTA_PROTO_NUM)?.first()?;
    let ends = Ends {
        source: SocketAddr::new(
            address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
            port(CTA_PROTO_SRC_PORT)?,
        ),
        destination: SocketAddr::new(
            address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
            port(CTA_PROTO_DST_PORT)?,
        ),
    };
    Some((number, ends))
}

fn write(tuple: &mut Request<'_>, ends: Ends, protocol: u8) {
    tuple.nest(CTA_TUPLE_IP, |addresses| {
        match (ends.source.ip(), ends.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                addresses
                    .attribute(CTA_IP_V4_SRC, &source.octets())
                    .attribute(CTA_IP_V4_DST, &destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                addresses
                    .attribute(CTA_IP_V6_SRC, &source.octets())
                    .attribute(CTA_IP_V6_DST, &destination.octets());
            }
            // A flow read from the kernel is of one family; the kernel refuses
            // an empty tuple.
            _ => {}
        }
    });
    tuple.nest(CTA_TUPLE_PROTO, |ports| {
        ports
            .attribute(CTA_PROTO_NUM, &[protocol])
            .attribute(CTA_PROTO_SRC_PORT, &ends.source.port().to_be_bytes())
            .attribute(CTA_PROTO_DST_PORT, &ends.destination.port().to_be_bytes());
    });
}
