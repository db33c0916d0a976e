//! Endpoints: what joins a sandbox to a network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

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
    /// Address of the host; unspecified means all of that family.
    pub host_address: IpAddr,
    /// Port of the host; zero where the endpoint itself is reached.
    pub host_port: u16,
}

impl PortMapping {
    /// Whether a port of the host leads to it.
    pub fn is_of_host(&self) -> bool {
        self.host_port != 0
    }
}

/// A port as it is to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishSpec {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the sandbox.
    pub container_port: u16,
    /// Address of the host; none means all, of every family that the endpoint
    /// has.
    pub host_address: Option<IpAddr>,
    /// Ports of the host, of which the first free one is taken; zero to zero
    /// leaves the choice to the kernel.
    pub host_ports: RangeInclusive<u16>,
}

impl PublishSpec {
    /// Whether a port of the host is one that was asked for, at whichever address.
    pub(crate) fn allows(&self, mapping: &PortMapping) -> bool {
        self.protocol == mapping.protocol
            && self.container_port == mapping.container_port
            && (self.host_ports == (0..=0) || self.host_ports.contains(&mapping.host_port))
    }
}

impl From<PortMapping> for PublishSpec {
    /// Publishes it at that address; at all of both families if unspecified.
    fn from(mapping: PortMapping) -> Self {
        let address = mapping.host_address;
        Self {
            protocol: mapping.protocol,
            container_port: mapping.container_port,
            host_address: (!address.is_unspecified()).then_some(address),
            host_ports: mapping.host_port..=mapping.host_port,
        }
    }
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
    /// Link-local addresses to have besides.
    pub link_local: Vec<IpAddr>,
    /// Hardware address; none derives one from the address.
    pub mac: Option<[u8; 6]>,
    /// Name of the link in the sandbox; none takes the next `ethN`.
    pub interface: Option<String>,
    /// Ports that the whole sandbox publishes; given with any of its endpoints.
    pub ports: Vec<PublishSpec>,
    /// Names that only this endpoint resolves, to names of others.
    pub links: BTreeMap<String, String>,
    /// Who is asked what this instance does not know; empty asks the host's.
    pub name_servers: Vec<IpAddr>,
    /// The endpoint with the highest has the default route.
    pub gateway_priority: i32,
    /// Kernel parameters of the link: path below `/proc/sys/net` with `IFNAME`
    /// for the link's name, and value.
    pub sysctls: Vec<(String, String)>,
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
    /// Name of the bridge's port; empty where there is no bridge.
    pub port_link: String,
    /// Hardware address in the sandbox; zero where it is that of the link below.
    pub mac: [u8; 6],
    /// Addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Link-local addresses that it has besides.
    #[serde(default)]
    pub link_local: Vec<IpAddr>,
    /// Published ports that lead to it, with the host's ports filled in.
    pub ports: Vec<PortMapping>,
    /// What its sandbox wants published, wherever that leads; one of the sandbox's
    /// endpoints says it.
    #[serde(default)]
    pub wanted: Vec<PublishSpec>,
    /// Names that only this endpoint resolves, to names of others.
    pub links: BTreeMap<String, String>,
    /// Who is asked what this instance does not know; empty asks the host's.
    #[serde(default)]
    pub name_servers: Vec<IpAddr>,
    /// The endpoint with the highest has the default route.
    #[serde(default)]
    pub gateway_priority: i32,
}

impl Endpoint {
    /// The address of the family asked for.
    pub fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == is_ipv4)
    }

    /// Identifier for display: made of its sandbox's and its network's.
    pub fn id(&self) -> String {
        let half = |text: &str| text.get(..32).unwrap_or(text).to_owned();
        half(&self.sandbox) + &half(&self.network)
    }

    /// The hardware address as people write it; nothing if it has none of its own.
    pub fn mac_text(&self) -> String {
        if self.mac == [0; 6] {
            return String::new();
        }
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}
