//! Endpoints: what joins a sandbox to a network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A transport protocol that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp = 6,
    /// User Datagram Protocol.
    Udp = 17,
    /// Stream Control Transmission Protocol.
    Sctp = 132,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the sandbox.
    pub container_port: u16,
    /// Address of the host; unspecified means all.
    pub host_address: IpAddr,
    /// Port of the host; zero asks for a free one.
    pub host_port: u16,
}

/// An endpoint as asked for.
#[derive(Debug, Clone, Default)]
pub struct EndpointSpec {
    /// Name by which it is listed and found.
    pub name: String,
    /// Further names by which it is found.
    pub aliases: Vec<String>,
    /// Addresses asked for; a family left open is allocated.
    pub addresses: Vec<IpAddr>,
    /// Hardware address; none derives one from the address.
    pub mac: Option<[u8; 6]>,
    /// Ports to publish.
    pub ports: Vec<PortMapping>,
    /// Names that only this endpoint resolves, to names of others.
    pub links: BTreeMap<String, String>,
}

/// An endpoint as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Identifier of its network.
    pub network: String,
    /// Identifier of its sandbox.
    pub sandbox: String,
    /// Name by which it is listed and found.
    pub name: String,
    /// Further names by which it is found.
    pub aliases: Vec<String>,
    /// Name of the link in the sandbox.
    pub interface: String,
    /// Name of the bridge's port.
    pub port_link: String,
    /// Hardware address in the sandbox.
    pub mac: [u8; 6],
    /// Addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Published ports, with the host's ports filled in.
    pub ports: Vec<PortMapping>,
    /// Names that only this endpoint resolves, to names of others.
    pub links: BTreeMap<String, String>,
}

impl Endpoint {
    /// The address of the family asked for.
    pub fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == is_ipv4)
    }

    /// The hardware address as people write it.
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}
