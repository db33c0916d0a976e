//! What a network is: its definition, as asked for and as kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use dhow_netlink::Prefix;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A network as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Identifier, 64 hexadecimal digits.
    pub id: String,
    /// Name, unique in the instance.
    pub name: String,
    /// Seconds and nanoseconds since the epoch, RFC 3339, for display.
    pub created: String,
    /// What its endpoints are joined to.
    pub driver: Driver,
    /// Address pools; empty asks for an IPv4 pool of the default ones.
    pub pools: Vec<Pool>,
    /// No way out and none in.
    pub internal: bool,
    /// It has no IPv4 pool, but an IPv6 one.
    pub ipv6_only: bool,
    /// Whether it has an IPv6 pool as well; none says so where the host speaks
    /// IPv6.
    pub ipv6: Option<bool>,
    /// Name of the bridge; none derives one from the id.
    pub bridge: Option<String>,
    /// Largest packet in bytes; none takes the uplink's.
    pub mtu: Option<u32>,
    /// Names are resolved between its endpoints.
    pub names: bool,
    /// Its endpoints do not reach each other.
    pub isolated: bool,
    /// Packets leave with the endpoint's own address instead of the host's.
    pub routed: bool,
    /// How IPv4 gets in and out.
    pub gateway_v4: GatewayMode,
    /// How IPv6 gets in and out.
    pub gateway_v6: GatewayMode,
    /// The bridge has no IPv4 address; somebody else is the router.
    pub inhibit_ipv4: bool,
    /// Where ports are published that name no address of the host.
    pub host_address: Option<IpAddr>,
    /// Translated connections between two endpoints keep the client's address
    /// (the bridge filter sees packets that stay on the bridge).
    pub keep_client_address: bool,
    /// Whatever its maker wants to keep with it.
    pub labels: BTreeMap<String, String>,
    /// Driver options as given, for display.
    pub options: BTreeMap<String, String>,
    /// Options of the address pools as given, for display.
    pub pool_options: BTreeMap<String, String>,
    /// Whether its maker called it attachable, for display.
    pub attachable: bool,
    /// Name of the configuration that it was made of; empty for none.
    pub config_from: String,
}

/// How packets of one family get into a bridge and out of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Out under the host's address, in by published ports of the host.
    #[default]
    Nat,
    /// The same, and whoever has a route reaches all ports of endpoints.
    NatUnprotected,
    /// In and out with the endpoint's own address; whoever has a route reaches
    /// its published ports.
    Routed,
    /// Neither in nor out, and the host itself has no address on the bridge.
    Isolated,
}

/// What the endpoints of a network are joined to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of ours, with the host as its way out.
    #[default]
    Bridge,
    /// The network of a link of the host; its own routers are the way out.
    Macvlan {
        /// The link, `LINK.ID` for a tagged VLAN on it; none makes a link that
        /// leads nowhere.
        parent: Option<String>,
        /// Who hears whom.
        mode: Mode,
    },
    /// The same with the link's own hardware address.
    Ipvlan {
        /// As of macvlan.
        parent: Option<String>,
        /// Where packets are routed.
        mode: IpvlanMode,
        /// Who hears whom.
        reach: IpvlanReach,
    },
    /// None: what other networks are made of.
    Configuration,
}

/// Where packets of an ipvlan network are routed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// By the routers of the network outside.
    #[default]
    L2,
    /// By the host; endpoints have no neighbours.
    L3,
    /// By the host, whose packet filter sees them.
    L3s,
}

/// Who hears whom on an ipvlan network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanReach {
    /// All endpoints hear each other.
    #[default]
    Bridge,
    /// They do not hear each other.
    Private,
    /// They hear each other if the switch outside sends packets back.
    Vepa,
}

impl Driver {
    /// The word in Docker's API.
    pub fn word(&self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Macvlan { .. } => "macvlan",
            Driver::Ipvlan { .. } => "ipvlan",
            Driver::Configuration => "null",
        }
    }

    /// Whether endpoints have routers of their own for neighbours.
    pub(crate) fn has_neighbours(&self) -> bool {
        let l3 = |mode| matches!(mode, IpvlanMode::L3 | IpvlanMode::L3s);
        !matches!(self, Driver::Ipvlan { mode, .. } if l3(*mode))
    }
}

/// Who hears whom on a macvlan network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All endpoints hear each other.
    #[default]
    Bridge,
    /// They hear each other if the switch outside sends packets back.
    Vepa,
    /// They do not hear each other.
    Private,
    /// One endpoint takes the link over.
    Passthru,
}

/// An address pool of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The subnet.
    #[serde(with = "prefix_text")]
    pub subnet: Prefix,
    /// Where in it addresses are allocated; the whole subnet if none.
    #[serde(with = "prefix_text::option", default)]
    pub range: Option<Prefix>,
    /// The router, which endpoints use as their default route: on a bridge our
    /// own address on it.
    pub gateway: IpAddr,
    /// Addresses that others have, by a name for display; never given away.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl Pool {
    /// Checks a pool as people write it; the gateway defaults to the subnet's
    /// first address.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says which part and why.
    pub fn parse(subnet: &str, range: Option<&str>, gateway: Option<&str>) -> Result<Self, Error> {
        let parse = |what: &str, text: &str| {
            text.parse::<Prefix>()
                .map_err(|why| Error::Invalid(format!("invalid {what} {text}: {why}")))
        };
        let subnet = parse("subnet", subnet)?;
        let longest = if subnet.address.is_ipv4() { 30 } else { 126 };
        if subnet.length > longest {
            return Err(Error::Invalid(format!(
                "invalid subnet {subnet}: it has no room for a gateway and an endpoint; use /{longest} or shorter"
            )));
        }
        if subnet.network() != subnet {
            return Err(Error::Invalid(format!(
                "invalid network config: invalid subnet {subnet}: it should be {}",
                subnet.network()
            )));
        }
        let range = range.map(|text| parse("ip-range", text)).transpose()?;
        if let Some(range) = range
            && !(subnet.contains(range.address) && range.length >= subnet.length)
        {
            return Err(Error::Invalid(format!(
                "invalid ip-range {range}: it is not part of subnet {subnet}"
            )));
        }
        let gateway = match gateway {
            None => first(subnet),
            Some(text) => text
                .parse()
                .map_err(|_| Error::Invalid(format!("invalid gateway address {text}")))?,
        };
        if !subnet.contains(gateway) {
            return Err(Error::Invalid(format!(
                "no matching subnet for gateway {gateway}: {subnet} does not contain it"
            )));
        }
        Ok(Self {
            subnet,
            range,
            gateway,
            auxiliary: BTreeMap::new(),
        })
    }

    /// Keeps an address from being given away.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is no address of the subnet.
    pub fn with_auxiliary(mut self, name: &str, address: &str) -> Result<Self, Error> {
        let parsed = address.parse::<IpAddr>().ok();
        let Some(parsed) = parsed.filter(|one| self.subnet.contains(*one)) else {
            return Err(Error::Invalid(format!(
                "invalid auxiliary address {name}={address}: it must belong to subnet {}",
                self.subnet
            )));
        };
        self.auxiliary.insert(name.into(), parsed);
        Ok(self)
    }

    /// Whether an address is somebody's for good: the router's, or one that
    /// the network's maker keeps.
    pub(crate) fn reserves(&self, address: IpAddr) -> bool {
        address == self.gateway || self.auxiliary.values().any(|kept| *kept == address)
    }

    /// Our own address with the subnet's length, as the bridge carries it.
    pub fn gateway_prefix(&self) -> Prefix {
        Prefix {
            address: self.gateway,
            length: self.subnet.length,
        }
    }
}

/// The first address that may name an endpoint.
pub(crate) fn first(subnet: Prefix) -> IpAddr {
    match subnet.network().address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 1).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 1).into()),
    }
}

/// A network as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What was asked for, with everything that was left open filled in.
    pub spec: NetworkSpec,
    /// Name of its bridge; of a macvlan or ipvlan network the link that it lies on.
    pub bridge: String,
    /// Largest packet in bytes.
    pub mtu: u32,
}

impl Network {
    /// The pool that an address is of.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        let mut pools = self.spec.pools.iter();
        pools.find(|pool| pool.subnet.contains(address))
    }

    /// How packets of the family asked for get in and out.
    pub fn gateway_mode(&self, is_ipv4: bool) -> GatewayMode {
        if is_ipv4 {
            self.spec.gateway_v4
        } else {
            self.spec.gateway_v6
        }
    }

    /// Whether the bridge has the router's address of the family asked for.
    pub(crate) fn is_router(&self, is_ipv4: bool) -> bool {
        let is_inhibited = is_ipv4 && self.spec.inhibit_ipv4;
        self.gateway_mode(is_ipv4) != GatewayMode::Isolated && !is_inhibited
    }

    /// Whether nothing of it is in the kernel.
    pub fn is_configuration(&self) -> bool {
        self.spec.driver == Driver::Configuration
    }

    /// The first pool of the family asked for.
    pub fn pool(&self, is_ipv4: bool) -> Option<&Pool> {
        self.spec
            .pools
            .iter()
            .find(|pool| pool.subnet.address.is_ipv4() == is_ipv4)
    }

    /// Whether its endpoints are ports of a bridge of ours.
    pub fn is_bridge(&self) -> bool {
        self.spec.driver == Driver::Bridge
    }

    /// Our address at which this network's names are asked for.
    pub fn name_server(&self) -> Option<Ipv4Addr> {
        match self.pool(true)?.gateway {
            IpAddr::V4(address) if self.spec.names && self.is_bridge() && self.is_router(true) => {
                Some(address)
            }
            _ => None,
        }
    }
}

/// Prefixes are text in files.
mod prefix_text {
    use dhow_netlink::Prefix;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(prefix: &Prefix, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(prefix)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Prefix, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }

    pub(super) mod option {
        use super::{Deserialize, Deserializer, Prefix, Serializer, de};

        pub(crate) fn serialize<S: Serializer>(
            prefix: &Option<Prefix>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match prefix {
                Some(prefix) => to.collect_str(prefix),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Prefix>, D::Error> {
            Option::<String>::deserialize(from)?
                .map(|text| text.parse().map_err(de::Error::custom))
                .transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_checked() {
        let pool = Pool::parse("10.1.0.0/16", Some("10.1.4.0/24"), None).expect("a good pool");
        assert_eq!(
            pool.gateway,
            "10.1.0.1".parse::<IpAddr>().expect("an address")
        );
        for (subnet, range, gateway, part) in [
            ("10.1.0.5/16", None, None, "it should be 10.1.0.0/16"),
            ("10.1.0.0/31", None, None, "use /30 or shorter"),
            (
                "10.1.0.0/16",
                Some("10.2.0.0/24"),
                None,
                "not part of subnet",
            ),
            (
                "10.1.0.0/16",
                Some("10.0.0.0/8"),
                None,
                "not part of subnet",
            ),
            ("10.1.0.0/16", None, Some("10.2.0.1"), "does not contain it"),
            (
                "10.1.0.0/16",
                None,
                Some("ten"),
                "invalid gateway address ten",
            ),
            ("ten", None, None, "invalid subnet ten"),
        ] {
            let error = Pool::parse(subnet, range, gateway)
                .expect_err(subnet)
                .to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
