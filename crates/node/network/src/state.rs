//! What is known: networks, endpoints, ports; and what follows from it. No
//! effects in the kernel, no files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhow_netlink::Prefix;

use crate::address_pool;
use crate::endpoint::{Endpoint, EndpointSpec, PortMapping, PublishSpec};
use crate::error::Error;
use crate::names::Place;
use crate::ports::Ports;
use crate::rules::Elements;
use crate::sandbox::{Names, Ways};
use crate::spec::{Driver, GatewayMode, Network, Pool};

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
    fn gateway(&self, sandbox: &str, is_ipv4: bool) -> Option<(&Endpoint, &Network)> {
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
            links: spec.links,
            name_servers: spec.name_servers,
            gateway_priority: spec.gateway_priority,
        };
        self.endpoints.insert(key.clone(), endpoint);
        if let Err(error) = self.publish(sandbox, &spec.ports) {
            self.endpoints.remove(&key);
            return Err(error);
        }
        self.last.extend(last);
        self.move_ports(sandbox);
        Ok((network, self.endpoints[&key].clone()))
    }

    /// Takes an endpoint away. Its ports go to the one that has the default
    /// route now, or back to the host.
    pub(crate) fn remove_endpoint(&mut self, network: &str, sandbox: &str) -> Option<Endpoint> {
        let key = (sandbox.to_owned(), network.to_owned());
        let endpoint = self.endpoints.remove(&key)?;
        match self.port_holder(sandbox) {
            Some(holder) => {
                let holder = self.endpoints.get_mut(&holder).expect("it was just found");
                holder.ports.extend(endpoint.ports.iter().cloned());
            }
            None => {
                for port in &endpoint.ports {
                    self.ports.release(port);
                }
            }
        }
        Some(endpoint)
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

    /// Takes host ports for a sandbox that has none yet. A sandbox that has no
    /// way out has no way in either.
    fn publish(&mut self, sandbox: &str, wanted: &[PublishSpec]) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let Some(holder) = self.port_holder(sandbox) else {
            return Ok(());
        };
        let endpoint = &self.endpoints[&holder];
        let network = &self.networks[&endpoint.network];
        let mut taken = Vec::new();
        for spec in wanted {
            let done = host_addresses(spec, endpoint, network).and_then(|addresses| {
                let is_routed = |address: &IpAddr| {
                    network.gateway_mode(address.is_ipv4()) == GatewayMode::Routed
                };
                let (own, addresses): (Vec<IpAddr>, Vec<IpAddr>) =
                    addresses.into_iter().partition(is_routed);
                let own = own.into_iter().map(|address| PortMapping {
                    protocol: spec.protocol,
                    container_port: spec.container_port,
                    host_address: address,
                    host_port: 0,
                });
                let held = if addresses.is_empty() {
                    Vec::new()
                } else {
                    self.ports.take(spec, &addresses)?
                };
                Ok(own.chain(held).collect::<Vec<PortMapping>>())
            });
            match done {
                Ok(mappings) => taken.extend(mappings),
                Err(error) => {
                    for mapping in &taken {
                        self.ports.release(mapping);
                    }
                    return Err(error);
                }
            }
        }
        let endpoint = self.endpoints.get_mut(&holder).expect("it was just there");
        endpoint.ports.extend(taken);
        Ok(())
    }

    /// The endpoint that a sandbox's published ports lead to.
    fn port_holder(&self, sandbox: &str) -> Option<(String, String)> {
        let on_bridge = |is_ipv4| {
            let (endpoint, network) = self.gateway(sandbox, is_ipv4)?;
            network.is_bridge().then_some(endpoint)
        };
        let endpoint = on_bridge(true).or_else(|| on_bridge(false))?;
        Some((endpoint.sandbox.clone(), endpoint.network.clone()))
    }

    /// Leads the published ports of a sandbox to the endpoint that has its
    /// default route.
    fn move_ports(&mut self, sandbox: &str) {
        let Some(holder) = self.port_holder(sandbox) else {
            return;
        };
        let others: Vec<(String, String)> = self
            .of_sandbox(sandbox)
            .filter(|endpoint| endpoint.network != holder.1 && !endpoint.ports.is_empty())
            .map(|endpoint| (endpoint.sandbox.clone(), endpoint.network.clone()))
            .collect();
        let mut moved = Vec::new();
        for other in others {
            let other = self.endpoints.get_mut(&other).expect("it was just found");
            moved.append(&mut other.ports);
        }
        let holder = self.endpoints.get_mut(&holder).expect("it was just found");
        holder.ports.append(&mut moved);
    }
}

/// The addresses of the host at which a port is published.
fn host_addresses(
    spec: &PublishSpec,
    endpoint: &Endpoint,
    network: &Network,
) -> Result<Vec<IpAddr>, Error> {
    let has = |is_ipv4| endpoint.address(is_ipv4).is_some();
    if let Some(address) = spec.host_address {
        if !has(address.is_ipv4()) {
            return Err(Error::Invalid(format!(
                "cannot publish {}/{} at {address}: network {} has no addresses of that family",
                spec.container_port, spec.protocol, network.spec.name
            )));
        }
        return Ok(vec![address]);
    }
    if let Some(address) = network.spec.host_address.filter(|one| has(one.is_ipv4())) {
        return Ok(vec![address]);
    }
    let any = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    Ok(any.into_iter().filter(|one| has(one.is_ipv4())).collect())
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
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::Protocol;
    use crate::spec::NetworkSpec;

    #[test]
    fn link_local_addresses_are_those_of_the_kernel() {
        let address = link_local_for([0x02, 0x42, 0xac, 0x11, 0x00, 0x01]);
        assert_eq!(address.to_string(), "fe80::42:acff:fe11:1");
    }

    /// Networks `a`, `b` and so on, each with IPv4 and every second with IPv6.
    fn state(internal: &[bool]) -> State {
        let mut state = State::default();
        for (number, internal) in (0u8..).zip(internal) {
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

    /// A published port that no socket holds.
    fn port(number: u16) -> PortMapping {
        PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_address: Ipv4Addr::UNSPECIFIED.into(),
            host_port: number,
        }
    }

    proptest! {
        /// However networks come and go: addresses are nobody else's, the
        /// default route of each family is that of the first endpoint in the
        /// order of priority and name, and the ports are where it is.
        #[test]
        fn routes_and_ports_follow_the_networks(
            internal in prop::collection::vec(any::<bool>(), 4),
            steps in prop::collection::vec((0usize..4, 0usize..2, -1i32..2), 1..40),
        ) {
            let mut state = state(&internal);
            let mut published = false;
            for (network, sandbox, priority) in steps {
                let id = char::from(b'a' + network as u8).to_string().repeat(64);
                let sandbox = ["one", "two"][sandbox];
                let key = (sandbox.to_owned(), id.clone());
                if state.endpoints.contains_key(&key) {
                    let gone = state.remove_endpoint(&id, sandbox).expect("it is there");
                    published &= gone.ports.is_empty() || state.port_holder(sandbox).is_some();
                } else {
                    let spec = EndpointSpec {
                        name: sandbox.into(),
                        gateway_priority: priority,
                        ..EndpointSpec::default()
                    };
                    let added = state.add_endpoint(&id, sandbox, spec, "p".into(), &BTreeSet::new());
                    prop_assert!(added.is_ok());
                    let holder = state.port_holder("one").filter(|_| !published);
                    if let Some(holder) = holder {
                        state.endpoints.get_mut(&holder).expect("there").ports.push(port(80));
                        published = true;
                    }
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
                let holding: Vec<&Endpoint> = state
                    .endpoints
                    .values()
                    .filter(|endpoint| !endpoint.ports.is_empty())
                    .collect();
                prop_assert_eq!(holding.len(), usize::from(published));
                if let (Some(holding), Some(holder)) = (holding.first(), state.port_holder("one")) {
                    prop_assert_eq!(&holding.network, &holder.1);
                }
            }
        }
    }

    #[test]
    fn interfaces_have_the_lowest_free_number() {
        let mut state = state(&[false; 4]);
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
