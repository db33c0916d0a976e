//! What is known: networks, endpoints, ports; and what follows from it. No
//! effects in the kernel, no files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use dhow_netlink::Prefix;

use crate::address_pool;
use crate::endpoint::{Endpoint, EndpointSpec};
use crate::error::Error;
use crate::names::Place;
use crate::ports::Ports;
use crate::rules::Elements;
use crate::sandbox::{Names, Ways};
use crate::spec::{Driver, Network, Pool};

/// Endpoints of one sandbox; the interface names end at `eth31`.
const MAX_ENDPOINTS: usize = 32;

/// All that is known.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// By identifier.
    pub(crate) networks: BTreeMap<String, Network>,
    /// By sandbox and network.
    pub(crate) endpoints: BTreeMap<(String, String), Endpoint>,
    /// The host ports that are held.
    pub(crate) ports: Ports,
    /// What the kernel's tables hold; none before they are set up.
    pub(crate) elements: Option<Elements>,
    /// The address given away last, by network and family.
    last: BTreeMap<(String, bool), IpAddr>,
}

impl State {
    /// The network with this name, id, or unambiguous start of an id.
    pub(crate) fn find(&self, name: &str) -> Result<&Network, Error> {
        let by_name = self
            .networks
            .values()
            .find(|network| network.spec.name == name);
        if let Some(network) = self.networks.get(name).or(by_name) {
            return Ok(network);
        }
        let mut by_start = self
            .networks
            .values()
            .filter(|network| !name.is_empty() && network.spec.id.starts_with(name));
        match (by_start.next(), by_start.next()) {
            (Some(network), None) => Ok(network),
            (Some(_), Some(_)) => Err(Error::Invalid(format!(
                "network {name} is ambiguous: more than one id starts with it"
            ))),
            (None, _) => Err(Error::NotFound(name.into())),
        }
    }

    /// The endpoints of a sandbox, by network.
    pub(crate) fn of_sandbox(&self, sandbox: &str) -> impl Iterator<Item = &Endpoint> {
        let first = (sandbox.to_owned(), String::new());
        let of_it = sandbox.to_owned();
        self.endpoints
            .range(first..)
            .take_while(move |((owner, _), _)| *owner == of_it)
            .map(|(_, endpoint)| endpoint)
    }

    /// The endpoints of a sandbox in the order of their interfaces.
    pub(crate) fn in_order(&self, sandbox: &str) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = self.of_sandbox(sandbox).cloned().collect();
        endpoints.sort_by(|a, b| {
            let key = |one: &Endpoint| (one.interface.len(), one.interface.clone());
            key(a).cmp(&key(b))
        });
        endpoints
    }

    /// The endpoints of a network, by its id.
    pub(crate) fn of_network(&self, network: &str) -> impl Iterator<Item = &Endpoint> {
        self.endpoints
            .values()
            .filter(move |endpoint| endpoint.network == network)
    }

    /// The endpoint of a sandbox that has its default route: of those that lead
    /// out, the one of the highest priority, and of equal ones that of the
    /// network whose name comes first.
    pub(crate) fn gateway(&self, sandbox: &str, is_ipv4: bool) -> Option<(&Endpoint, &Network)> {
        self.of_sandbox(sandbox)
            .filter(|endpoint| endpoint.address(is_ipv4).is_some())
            .filter_map(|endpoint| Some((endpoint, self.networks.get(&endpoint.network)?)))
            .filter(|(_, network)| !network.spec.internal)
            .min_by(|(one, first), (other, second)| {
                let by_priority = other.gateway_priority.cmp(&one.gateway_priority);
                by_priority.then_with(|| first.spec.name.cmp(&second.spec.name))
            })
    }

    /// The ways out of a sandbox.
    pub(crate) fn ways(&self, sandbox: &str) -> Ways {
        let way = |is_ipv4| {
            let (endpoint, network) = self.gateway(sandbox, is_ipv4)?;
            let gateway = network.pool_of(endpoint.address(is_ipv4)?)?.gateway;
            let gateway = network.spec.driver.has_neighbours().then_some(gateway);
            Some((endpoint.interface.clone(), gateway))
        };
        Ways {
            v4: way(true),
            v6: way(false),
            names: self.names(sandbox),
        }
    }

    fn names(&self, sandbox: &str) -> Names {
        let named: Vec<(&Endpoint, &Network)> = self
            .of_sandbox(sandbox)
            .filter_map(|endpoint| {
                let network = self.networks.get(&endpoint.network)?;
                network.spec.names.then_some((endpoint, network))
            })
            .collect();
        let servers = named
            .iter()
            .filter_map(|(endpoint, network)| Some((&endpoint.interface, network.name_server()?)));
        match servers.min() {
            Some((interface, server)) => Names::Bridge(interface.clone(), server),
            None if named.is_empty() => Names::Nobody,
            None => Names::Inside,
        }
    }

    /// Where names are asked for.
    pub(crate) fn name_places(&self) -> BTreeSet<Place> {
        let gateways = self
            .networks
            .values()
            .filter_map(Network::name_server)
            .map(Place::Gateway);
        let without_server = self.endpoints.values().filter(|endpoint| {
            let network = self.networks.get(&endpoint.network);
            network.is_some_and(|network| network.name_server().is_none())
        });
        let sandboxes: BTreeSet<&String> = without_server.map(|one| &one.sandbox).collect();
        let inside = sandboxes
            .into_iter()
            .filter(|sandbox| self.names(sandbox) == Names::Inside)
            .map(|sandbox| Place::Sandbox(sandbox.clone()));
        gateways.chain(inside).collect()
    }

    /// The elements that the published ports of a sandbox need.
    pub(crate) fn port_elements(&self, sandbox: &str) -> Elements {
        Elements::of_ports(&self.networks, self.of_sandbox(sandbox))
    }

    /// Chooses interface, addresses and ports of an endpoint and adds it.
    /// `resting` addresses are nobody's yet.
    pub(crate) fn add_endpoint(
        &mut self,
        network: &str,
        sandbox: &str,
        spec: EndpointSpec,
        port_link: String,
        resting: &BTreeSet<IpAddr>,
    ) -> Result<(Network, Endpoint), Error> {
        let network = self.find(network)?.clone();
        if network.is_configuration() {
            return Err(Error::ConfigurationOnly(network.spec.name));
        }
        let id = network.spec.id.clone();
        let key = (sandbox.to_owned(), id.clone());
        if self.endpoints.contains_key(&key) {
            return Err(Error::AlreadyJoined {
                endpoint: spec.name,
                network: network.spec.name,
            });
        }
        let interface = self.interface(sandbox, spec.interface)?;
        let (addresses, last) = self.addresses(&network, &spec.addresses, resting)?;
        let stray = spec.link_local.iter().find(|one| !is_link_local(**one));
        if let Some(stray) = stray {
            return Err(Error::Invalid(format!(
                "invalid link local IP address: {stray}"
            )));
        }
        let mac = match &network.spec.driver {
            Driver::Ipvlan { .. } => [0; 6],
            _ => spec.mac.unwrap_or_else(|| mac_for(&addresses)),
        };
        let endpoint = Endpoint {
            network: id,
            sandbox: sandbox.into(),
            name: spec.name,
            aliases: spec.aliases,
            port_link: if network.is_bridge() {
                port_link
            } else {
                String::new()
            },
            interface,
            mac,
            addresses,
            link_local: spec.link_local,
            ports: Vec::new(),
            wanted: spec.ports,
            links: spec.links,
            name_servers: spec.name_servers,
            gateway_priority: spec.gateway_priority,
        };
        let before: Vec<Endpoint> = self.of_sandbox(sandbox).cloned().collect();
        self.endpoints.insert(key.clone(), endpoint);
        if let Err(error) = self.settle_ports(sandbox, Vec::new()) {
            self.restore_ports(sandbox, before);
            return Err(error);
        }
        self.last.extend(last);
        Ok((network, self.endpoints[&key].clone()))
    }

    /// Takes an endpoint away. Its ports go to those that lead out now, or back to
    /// the host.
    pub(crate) fn remove_endpoint(&mut self, network: &str, sandbox: &str) -> Option<Endpoint> {
        let key = (sandbox.to_owned(), network.to_owned());
        let endpoint = self.endpoints.remove(&key)?;
        let mut left = self
            .endpoints
            .values_mut()
            .filter(|one| one.sandbox == sandbox);
        if let Some(heir) = left.next()
            && heir.wanted.is_empty()
            && left.all(|one| one.wanted.is_empty())
        {
            heir.wanted.clone_from(&endpoint.wanted);
        }
        if let Err(error) = self.settle_ports(sandbox, endpoint.ports.clone()) {
            tracing::warn!(sandbox, %error, "a port is published no more");
        }
        Some(endpoint)
    }

    /// Takes all endpoints of a sandbox away, and lets its ports go.
    pub(crate) fn remove_sandbox(&mut self, sandbox: &str) -> Vec<Endpoint> {
        let gone: Vec<Endpoint> = self.of_sandbox(sandbox).cloned().collect();
        for endpoint in &gone {
            let key = (sandbox.to_owned(), endpoint.network.clone());
            self.endpoints.remove(&key);
            for port in &endpoint.ports {
                self.ports.release(port);
            }
        }
        gone
    }

    /// Forgets what an endpoint brought of ports to publish.
    pub(crate) fn unwant(&mut self, network: &str, sandbox: &str) {
        let key = (sandbox.to_owned(), network.to_owned());
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            endpoint.wanted.clear();
        }
    }

    /// Gives all endpoints of a sandbox another name.
    pub(crate) fn rename(&mut self, sandbox: &str, name: &str) {
        for endpoint in self.endpoints.values_mut() {
            if endpoint.sandbox == sandbox {
                endpoint.name = name.into();
            }
        }
    }

    /// Forgets what was remembered for a network that is gone.
    pub(crate) fn forget(&mut self, network: &str) {
        self.networks.remove(network);
        self.last.retain(|(id, _), _| id != network);
    }

    /// Takes up an endpoint that was there before this process.
    pub(crate) fn restore(&mut self, endpoint: Endpoint) {
        for port in endpoint.ports.iter().filter(|port| port.is_of_host()) {
            self.ports.retake(port);
        }
        for address in &endpoint.addresses {
            let key = (endpoint.network.clone(), address.is_ipv4());
            let last = self.last.entry(key).or_insert(*address);
            *last = (*last).max(*address);
        }
        let key = (endpoint.sandbox.clone(), endpoint.network.clone());
        self.endpoints.insert(key, endpoint);
    }

    /// What the kernel's sets and maps should hold.
    pub(crate) fn desired(&self) -> Elements {
        Elements::desired(&self.networks, self.endpoints.values())
    }

    fn interface(&self, sandbox: &str, wanted: Option<String>) -> Result<String, Error> {
        let taken: BTreeSet<&str> = self
            .of_sandbox(sandbox)
            .map(|endpoint| endpoint.interface.as_str())
            .collect();
        if let Some(wanted) = wanted {
            let is_name = (1..16).contains(&wanted.len())
                && wanted != "lo"
                && !wanted.starts_with('.')
                && wanted
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte));
            return match (is_name, taken.contains(wanted.as_str())) {
                (false, _) => Err(Error::Invalid(format!(
                    "invalid interface name {wanted:?}: it has 1 to 15 letters, digits and marks, no slash and no colon"
                ))),
                (true, true) => Err(Error::Invalid(format!(
                    "interface name {wanted} is used by another network of the container"
                ))),
                (true, false) => Ok(wanted),
            };
        }
        (0..MAX_ENDPOINTS)
            .map(|number| format!("eth{number}"))
            .find(|name| !taken.contains(name.as_str()))
            .ok_or_else(|| {
                Error::Invalid(format!("a sandbox joins at most {MAX_ENDPOINTS} networks"))
            })
    }

    /// One address of each pool: the one that is wanted, or the next free one.
    #[allow(clippy::type_complexity, reason = "two lists, taken apart at once")]
    fn addresses(
        &self,
        network: &Network,
        wanted: &[IpAddr],
        resting: &BTreeSet<IpAddr>,
    ) -> Result<(Vec<IpAddr>, Vec<((String, bool), IpAddr)>), Error> {
        let id = &network.spec.id;
        let stray = wanted.iter().find(|address| {
            let inside = |prefix: Prefix| prefix.contains(**address);
            !network.spec.pools.iter().any(|pool| inside(pool.subnet))
        });
        if let Some(stray) = stray {
            return Err(Error::NoSuchSubnet(*stray));
        }
        let (mut addresses, mut last) = (Vec::new(), Vec::new());
        for is_ipv4 in [true, false] {
            let wanted = wanted.iter().find(|address| address.is_ipv4() == is_ipv4);
            let pools = network.spec.pools.iter();
            let pools: Vec<&Pool> = pools
                .filter(|pool| pool.subnet.address.is_ipv4() == is_ipv4)
                .filter(|pool| wanted.is_none_or(|one| pool.subnet.contains(*one)))
                .collect();
            let Some(pool) = pools.first() else {
                continue;
            };
            let mut taken: BTreeSet<IpAddr> = self
                .of_network(id)
                .filter_map(|endpoint| endpoint.address(is_ipv4))
                .collect();
            let address = match wanted {
                Some(wanted) if taken.contains(wanted) || pool.reserves(*wanted) => {
                    return Err(Error::AddressTaken);
                }
                Some(wanted) if resting.contains(wanted) => {
                    return Err(Error::AddressRests(*wanted));
                }
                Some(wanted) => *wanted,
                None => {
                    taken.extend(resting);
                    let key = (id.clone(), is_ipv4);
                    let after = self.last.get(&key).copied();
                    let mut found = Err(Error::AddressesExhausted(String::new()));
                    for pool in pools {
                        found = address_pool::allocate(pool, &taken, after);
                        if found.is_ok() {
                            break;
                        }
                    }
                    let address = found?;
                    last.push((key, address));
                    address
                }
            };
            addresses.push(address);
        }
        Ok((addresses, last))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// A locally administered hardware address made of the first address.
pub(crate) fn mac_for(addresses: &[IpAddr]) -> [u8; 6] {
    let octets = addresses
        .first()
        .map(|address| crate::rules::octets(*address))
        .unwrap_or_default();
    let tail = octets.iter().rev().take(4).rev();
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    for (byte, octet) in mac[2..].iter_mut().zip(tail) {
        *byte = *octet;
    }
    mac
}

/// The address that a link of this hardware address has for its neighbours alone
/// (RFC 4291, 2.5.6 and appendix A).
pub(crate) fn link_local_for(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let identifier = u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from(0xfe80 << 112 | u128::from(identifier))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::{PortMapping, Protocol, PublishSpec};
    use crate::spec::{GatewayMode, NetworkSpec};

    #[test]
    fn link_local_addresses_are_those_of_the_kernel() {
        let address = link_local_for([0x02, 0x42, 0xac, 0x11, 0x00, 0x01]);
        assert_eq!(address.to_string(), "fe80::42:acff:fe11:1");
    }

    /// Networks `a`, `b` and so on, each with IPv4 and every second with IPv6.
    /// They are internal or not, and routed or not.
    fn state(kinds: &[(bool, bool)]) -> State {
        let mut state = State::default();
        for (number, (internal, routed)) in (0u8..).zip(kinds) {
            let name = char::from(b'a' + number).to_string();
            let mut pools = vec![Pool::parse(&format!("10.{number}.0.0/24"), None, None)];
            if number % 2 == 0 {
                pools.push(Pool::parse(&format!("fd0{number}::/64"), None, None));
            }
            let spec = NetworkSpec {
                id: name.repeat(64),
                name: name.clone(),
                pools: pools.into_iter().map(|pool| pool.expect("good")).collect(),
                internal: *internal,
                gateway_v4: match routed {
                    true => GatewayMode::Routed,
                    false => GatewayMode::Nat,
                },
                names: true,
                ..NetworkSpec::default()
            };
            let network = Network {
                spec,
                bridge: format!("br{name}"),
                mtu: 1500,
            };
            state.networks.insert(name.repeat(64), network);
        }
        state
    }

    /// Port 80 at a port of the host's loopback address that the kernel chooses.
    fn at_loopback() -> PublishSpec {
        PublishSpec {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_address: Some(Ipv4Addr::LOCALHOST.into()),
            host_ports: 0..=0,
        }
    }

    proptest! {
        /// However networks come and go: addresses are nobody else's, the
        /// default route of each family is that of the first endpoint in the
        /// order of priority and name, a port of the host leads where it is, and
        /// stays the same port for as long as it leads anywhere; whoever is routed
        /// is reached always.
        #[test]
        fn routes_and_ports_follow_the_networks(
            kinds in prop::collection::vec(any::<(bool, bool)>(), 4),
            steps in prop::collection::vec((0usize..4, 0usize..2, -1i32..2), 1..40),
        ) {
            let mut state = state(&kinds);
            let mut published = None;
            for (network, sandbox, priority) in steps {
                let id = char::from(b'a' + network as u8).to_string().repeat(64);
                let sandbox = ["one", "two"][sandbox];
                let key = (sandbox.to_owned(), id.clone());
                if state.endpoints.contains_key(&key) {
                    state.remove_endpoint(&id, sandbox).expect("it is there");
                } else {
                    let spec = EndpointSpec {
                        name: sandbox.into(),
                        gateway_priority: priority,
                        ports: if sandbox == "one" { vec![at_loopback()] } else { Vec::new() },
                        ..EndpointSpec::default()
                    };
                    let added = state.add_endpoint(&id, sandbox, spec, "p".into(), &BTreeSet::new());
                    prop_assert!(added.is_ok());
                }
                let all: Vec<IpAddr> = state
                    .endpoints
                    .values()
                    .flat_map(|endpoint| endpoint.addresses.clone())
                    .collect();
                let unique: BTreeSet<&IpAddr> = all.iter().collect();
                prop_assert_eq!(unique.len(), all.len(), "an address is given twice");
                for sandbox in ["one", "two"] {
                    for is_ipv4 in [true, false] {
                        let mut able: Vec<(i32, String, IpAddr)> = state
                            .of_sandbox(sandbox)
                            .filter(|endpoint| endpoint.address(is_ipv4).is_some())
                            .map(|endpoint| (endpoint, &state.networks[&endpoint.network]))
                            .filter(|(_, network)| !network.spec.internal)
                            .map(|(endpoint, network)| {
                                let gateway = network.pool(is_ipv4).expect("it has one").gateway;
                                (-endpoint.gateway_priority, network.spec.name.clone(), gateway)
                            })
                            .collect();
                        able.sort();
                        let ways = state.ways(sandbox);
                        let way = if is_ipv4 { ways.v4 } else { ways.v6 };
                        prop_assert_eq!(
                            way.and_then(|(_, gateway)| gateway),
                            able.first().map(|(_, _, gateway)| *gateway)
                        );
                    }
                }
                let holder = state.gateway("one", true).map(|(endpoint, _)| &endpoint.network);
                let mut held = None;
                for endpoint in state.endpoints.values() {
                    let network = &state.networks[&endpoint.network];
                    let is_of_it = endpoint.sandbox == "one" && !network.spec.internal;
                    let is_routed = network.gateway_mode(true) == GatewayMode::Routed;
                    let (own, opened): (Vec<&PortMapping>, Vec<&PortMapping>) =
                        endpoint.ports.iter().partition(|port| port.is_of_host());
                    prop_assert_eq!(opened.len(), usize::from(is_of_it && is_routed));
                    let leads = is_of_it && !is_routed && holder == Some(&endpoint.network);
                    prop_assert_eq!(own.len(), usize::from(leads));
                    held = held.or(own.first().map(|port| port.host_port));
                }
                prop_assert!(held.is_none() || published.is_none() || held == published);
                published = held;
            }
        }
    }

    #[test]
    fn interfaces_have_the_lowest_free_number() {
        let mut state = state(&[(false, false); 4]);
        let join = |state: &mut State, network: &str, interface: Option<&str>| {
            let spec = EndpointSpec {
                interface: interface.map(str::to_owned),
                ..EndpointSpec::default()
            };
            let added = state.add_endpoint(network, "one", spec, "p".into(), &BTreeSet::new());
            added.map(|(_, endpoint)| endpoint.interface)
        };
        assert_eq!(join(&mut state, "a", None).expect("joined"), "eth0");
        assert_eq!(join(&mut state, "b", None).expect("joined"), "eth1");
        state.remove_endpoint(&"a".repeat(64), "one");
        assert_eq!(join(&mut state, "c", None).expect("joined"), "eth0");
        for bad in ["lo", "", "eth1", "a/b", "much-too-long-for-a-link"] {
            assert!(join(&mut state, "d", Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(join(&mut state, "d", Some("lan")).expect("joined"), "lan");
    }
}
