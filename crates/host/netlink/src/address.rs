//! Addresses and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::socket::{Error, Socket};
use crate::wire::{Batch, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// Skip duplicate address detection: we allocate the addresses.
const IFA_F_NODAD: u32 = 0x02;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const ROUTE_HEADER: usize = 12;

/// An address with the length of its network part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address; host bits may be set.
    pub address: IpAddr,
    /// Leading bits that name the network: at most 32 or 128.
    pub length: u8,
}

impl Prefix {
    /// All addresses of a family: the destination of a default route.
    pub fn everything(is_ipv4: bool) -> Prefix {
        let address = if is_ipv4 {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        Prefix { address, length: 0 }
    }

    /// The first address of the network: host bits cleared.
    pub fn network(self) -> Prefix {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.length))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.length))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
            }
        };
        Prefix {
            address,
            length: self.length,
        }
    }

    /// The last address of the network: host bits set.
    pub fn last(self) -> IpAddr {
        match self.network().address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(address) | host))
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(address) | host))
            }
        }
    }

    /// True when `address` lies in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Prefix {
                address,
                length: self.length,
            }
            .network()
                == self.network()
    }

    /// True when the two networks share an address.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

impl std::str::FromStr for Prefix {
    type Err = &'static str;

    /// Parses `address/length`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = text
            .split_once('/')
            .ok_or("a prefix has the form ADDRESS/LENGTH")?;
        let address: IpAddr = address
            .parse()
            .map_err(|_| "the part before / is no IP address")?;
        let length: u8 = length
            .parse()
            .map_err(|_| "the part after / is no number of bits")?;
        if length > if address.is_ipv4() { 32 } else { 128 } {
            return Err("the prefix is longer than an address");
        }
        Ok(Self { address, length })
    }
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; length 0 is the default route.
    pub destination: Prefix,
    /// Next hop, if any.
    pub gateway: Option<IpAddr>,
    /// Index of the link that packets leave by.
    pub link: u32,
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() {
        libc::AF_INET as u8
    } else {
        libc::AF_INET6 as u8
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Batch {
    /// Gives the link with this index an address; one that it has already is
    /// left as it is.
    pub fn add_address(&mut self, link: u32, prefix: Prefix) -> &mut Self {
        let value = octets(prefix.address);
        let mut header = [0; 8];
        header[0] = family(prefix.address);
        header[1] = prefix.length;
        header[4..8].copy_from_slice(&link.to_ne_bytes());
        let mut request = self.request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
        request
            .header(&header)
            .attribute(IFA_LOCAL, &value)
            .attribute(IFA_ADDRESS, &value);
        if prefix.address.is_ipv4() {
            if prefix.length < 31 {
                request.attribute(IFA_BROADCAST, &octets(prefix.last()));
            }
        } else {
            request.number(IFA_FLAGS, IFA_F_NODAD);
        }
        drop(request);
        self
    }

    /// Adds a route to the main table, or replaces the one to that destination.
    pub fn add_route(&mut self, route: Route) -> &mut Self {
        self.route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)
    }

    /// Deletes a route of the main table.
    pub fn delete_route(&mut self, route: Route) -> &mut Self {
        self.route(RTM_DELROUTE, 0, route)
    }

    fn route(&mut self, kind: u16, flags: u16, route: Route) -> &mut Self {
        let mut header = [0; ROUTE_HEADER];
        header[0] = family(route.destination.address);
        header[1] = route.destination.length;
        header[4] = RT_TABLE_MAIN;
        header[5] = RTPROT_STATIC;
        header[6] = if route.gateway.is_some() {
            RT_SCOPE_UNIVERSE
        } else {
            RT_SCOPE_LINK
        };
        header[7] = RTN_UNICAST;
        let mut request = self.request(kind, NLM_F_ACK | flags);
        request.header(&header);
        if route.destination.length > 0 {
            request.attribute(RTA_DST, &octets(route.destination.network().address));
        }
        if let Some(gateway) = route.gateway {
            request.attribute(RTA_GATEWAY, &octets(gateway));
        }
        request.number(RTA_OIF, route.link);
        drop(request);
        self
    }
}

impl Socket {
    /// All unicast routes of the main table, both families.
    ///
    /// # Errors
    ///
    /// The kernel's refusal or the socket's failure.
    pub fn routes(&self) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut batch = Batch::new();
            let mut header = [0; ROUTE_HEADER];
            header[0] = family as u8;
            batch.request(RTM_GETROUTE, NLM_F_DUMP).header(&header);
            self.dump(&mut batch, |message| routes.extend(parse(&message)))?;
        }
        Ok(routes)
    }
}

fn parse(message: &Message<'_>) -> Option<Route> {
    let header = message.payload.get(..ROUTE_HEADER)?;
    if message.kind != RTM_NEWROUTE || header[4] != RT_TABLE_MAIN || header[7] != RTN_UNICAST {
        return None;
    }
    let is_v4 = i32::from(header[0]) == libc::AF_INET;
    let address = |value: &[u8]| -> Option<IpAddr> {
        if is_v4 {
            Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?))
        } else {
            Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?))
        }
    };
    let attributes = message.attributes(ROUTE_HEADER);
    let unspecified = if is_v4 {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    Some(Route {
        destination: Prefix {
            address: attributes
                .get(RTA_DST)
                .and_then(address)
                .unwrap_or(unspecified),
            length: header[1],
        },
        gateway: attributes.get(RTA_GATEWAY).and_then(address),
        link: attributes.number(RTA_OIF)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn prefixes_know_their_bounds() {
        assert_eq!(prefix("172.17.3.9/16").network(), prefix("172.17.0.0/16"));
        assert_eq!(prefix("172.17.0.0/16").last().to_string(), "172.17.255.255");
        assert_eq!(prefix("0.0.0.0/0").last().to_string(), "255.255.255.255");
        assert_eq!(prefix("10.0.0.7/32").last().to_string(), "10.0.0.7");
        assert_eq!(prefix("fd00::1/64").network(), prefix("fd00::/64"));
        assert!(prefix("10.0.0.0/8").overlaps(prefix("10.3.0.0/16")));
        assert!(!prefix("10.0.0.0/16").overlaps(prefix("10.1.0.0/16")));
        assert!(!prefix("0.0.0.0/0").contains("fd00::1".parse().expect("an address")));
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "x/1",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
