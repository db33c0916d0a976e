//! The networks of one instance: state on disk, effects in the kernel.
//!
//! ```text
//! DATA/networks.json            definitions; survives a reboot
//! RUN/netns/SANDBOX             pin of a sandbox's network namespace
//! RUN/endpoints/SANDBOX.json    endpoints of that sandbox; gone with a reboot
//! ```
//!
//! Both kinds of file are replaced by rename. An endpoint is written before its
//! effects are made and removed after they are undone, so that whatever a crash
//! leaves in the kernel is known to somebody and [`Networks::open`] repairs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use dhow_netlink::{Batch, Link, Namespace, NewLink, Peer, Port, Prefix, Socket};
use dhow_nft::{Family, Table};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::address_pool;
use crate::endpoint::{Endpoint, EndpointSpec};
use crate::error::Error;
use crate::ports::Ports;
use crate::rules::{self, Elements};
use crate::sandbox::{self, Inside};
use crate::spec::{Network, NetworkSpec};

/// Endpoints of one sandbox; the interface names end at `eth9`.
const MAX_ENDPOINTS: usize = 10;
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// Where an instance keeps its networks, and by which names the kernel knows
/// them; instances on one machine differ in all four.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for what survives a reboot.
    pub data: PathBuf,
    /// Folder for what does not.
    pub run: PathBuf,
    /// Name of our nf_tables tables.
    pub table: String,
    /// Start of the names of links that the kernel chooses no name for, at most
    /// four bytes.
    pub link_prefix: String,
}

/// The networks of one instance; see the crate's documentation.
#[derive(Debug)]
pub struct Networks {
    config: Config,
    state: Mutex<State>,
    /// Our own addresses at which names are asked for, with their networks.
    servers: watch::Sender<BTreeSet<Ipv4Addr>>,
}

#[derive(Debug, Default)]
struct State {
    networks: BTreeMap<String, Network>,
    /// By sandbox and network.
    endpoints: BTreeMap<(String, String), Endpoint>,
    ports: Ports,
    /// What the kernel's tables hold, by family.
    elements: [Elements; 2],
    /// The address given away last, by network and family.
    last: BTreeMap<(String, bool), IpAddr>,
}

impl Networks {
    /// Reads the state and makes the kernel agree with it: missing bridges are
    /// made, our tables replaced, endpoints of sandboxes that are gone removed.
    ///
    /// # Errors
    ///
    /// [`Error`] when the state cannot be read or the kernel refuses.
    pub fn open(config: Config) -> Result<Self, Error> {
        for folder in [
            &config.data,
            &config.run.join("netns"),
            &config.run.join("endpoints"),
        ] {
            fs::create_dir_all(folder).map_err(Error::file(folder))?;
        }
        let mut state = State::default();
        for network in read::<Vec<Network>>(&config.data.join("networks.json"))?.unwrap_or_default()
        {
            state.networks.insert(network.spec.id.clone(), network);
        }
        let networks = Self {
            config,
            state: Mutex::default(),
            servers: watch::Sender::default(),
        };
        networks.restore_endpoints(&mut state)?;
        let socket = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        for network in state.networks.values() {
            networks.make_bridge(&socket, network)?;
        }
        *networks.state.lock() = state;
        networks.repair()?;
        Ok(networks)
    }

    fn restore_endpoints(&self, state: &mut State) -> Result<(), Error> {
        let folder = self.config.run.join("endpoints");
        for entry in fs::read_dir(&folder).map_err(Error::file(&folder))? {
            let path = entry.map_err(Error::file(&folder))?.path();
            let Some(endpoints) = read::<Vec<Endpoint>>(&path)? else {
                continue;
            };
            for endpoint in endpoints {
                if Namespace::open(&self.sandbox_path(&endpoint.sandbox)).is_err()
                    || !state.networks.contains_key(&endpoint.network)
                {
                    let _ = self.delete_port(&endpoint);
                    let _ = fs::remove_file(&path);
                    continue;
                }
                for port in &endpoint.ports {
                    state.ports.retake(port);
                }
                for address in &endpoint.addresses {
                    let key = (endpoint.network.clone(), address.is_ipv4());
                    let last = state.last.entry(key).or_insert(*address);
                    *last = (*last).max(*address);
                }
                state.endpoints.insert(
                    (endpoint.sandbox.clone(), endpoint.network.clone()),
                    endpoint,
                );
            }
        }
        Ok(())
    }

    /// Replaces our tables by what the state says, whatever became of them.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] when the kernel refuses.
    pub fn repair(&self) -> Result<(), Error> {
        let socket = Socket::netfilter().map_err(Error::kernel("open netfilter"))?;
        let mut state = self.state.lock();
        if state.networks.is_empty() {
            // Nothing of ours is left behind when there is nothing to hold.
            for family in FAMILIES {
                rules::remove(&socket, &self.table(family))
                    .map_err(Error::kernel("remove the packet filter"))?;
            }
            state.elements = Default::default();
        } else {
            let desired = state.desired();
            for (family, elements) in FAMILIES.into_iter().zip(&desired) {
                rules::replace(&socket, &self.table(family), elements)
                    .map_err(Error::kernel("set up the packet filter"))?;
            }
            state.elements = desired;
            forward_packets()?;
        }
        self.announce(&state);
        Ok(())
    }

    /// Makes a network.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`], [`Error::Overlap`], [`Error::PoolsExhausted`],
    /// [`Error::Invalid`], or the kernel's refusal.
    pub fn create(&self, mut spec: NetworkSpec) -> Result<Network, Error> {
        let socket = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        let mut state = self.state.lock();
        if state
            .networks
            .values()
            .any(|network| network.spec.name == spec.name)
        {
            return Err(Error::NameTaken(spec.name));
        }
        let ours: Vec<Prefix> = state
            .networks
            .values()
            .flat_map(|network| &network.spec.pools)
            .map(|pool| pool.subnet)
            .collect();
        for pool in &spec.pools {
            if ours.iter().any(|other| other.overlaps(pool.subnet)) {
                return Err(Error::Overlap(pool.subnet));
            }
        }
        if !spec.pools.iter().any(|pool| pool.subnet.address.is_ipv4()) {
            let routes = socket
                .routes()
                .map_err(Error::kernel("read the host's routes"))?;
            let mut taken = ours;
            taken.extend(
                routes
                    .iter()
                    .map(|route| route.destination)
                    .filter(|prefix| prefix.length > 0),
            );
            spec.pools.insert(0, address_pool::default_pool(&taken)?);
        }
        if spec.ipv6 && !spec.pools.iter().any(|pool| pool.subnet.address.is_ipv6()) {
            spec.pools.push(address_pool::ipv6_pool(&spec.id));
        }
        let short = spec.id.get(..8).unwrap_or(&spec.id);
        let bridge = spec
            .bridge
            .clone()
            .unwrap_or_else(|| format!("{}br{short}", self.config.link_prefix));
        if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ']) {
            return Err(Error::Invalid(format!(
                "invalid bridge name {bridge:?}: an interface name has 1 to 15 characters, no slash and no space"
            )));
        }
        let mtu = match spec.mtu {
            Some(mtu) => mtu,
            None => uplink_mtu(&socket)?,
        };
        let network = Network { spec, bridge, mtu };
        let id = network.spec.id.clone();
        state.networks.insert(id.clone(), network.clone());
        let made = self.save_networks(&state).and_then(|()| {
            self.make_bridge(&socket, &network)?;
            self.settle(&mut state)
        });
        if let Err(error) = made {
            state.networks.remove(&id);
            let _ = self.save_networks(&state);
            let _ = delete_link(&socket, &network.bridge);
            let _ = self.settle(&mut state);
            return Err(error);
        }
        Ok(network)
    }

    /// Removes a network by name, id, or start of its id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::InUse`], or the kernel's refusal.
    pub fn remove(&self, name: &str) -> Result<Network, Error> {
        let mut state = self.state.lock();
        let network = state.find(name)?.clone();
        let endpoints: Vec<String> = state
            .endpoints
            .values()
            .filter(|endpoint| endpoint.network == network.spec.id)
            .map(|endpoint| format!("name:{:?} id:{:?}", endpoint.name, endpoint.sandbox))
            .collect();
        if !endpoints.is_empty() {
            return Err(Error::InUse {
                name: network.spec.name,
                endpoints,
            });
        }
        state.networks.remove(&network.spec.id);
        state.last.retain(|(id, _), _| *id != network.spec.id);
        self.save_networks(&state)?;
        self.settle(&mut state)?;
        let socket = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        delete_link(&socket, &network.bridge)?;
        Ok(network)
    }

    /// All networks, by id.
    pub fn list(&self) -> Vec<Network> {
        self.state.lock().networks.values().cloned().collect()
    }

    /// The network with this name, id, or unambiguous start of an id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn get(&self, name: &str) -> Result<Network, Error> {
        self.state.lock().find(name).cloned()
    }

    /// All endpoints of a network, by its id.
    pub fn endpoints(&self, network: &str) -> Vec<Endpoint> {
        let state = self.state.lock();
        state
            .endpoints
            .values()
            .filter(|endpoint| endpoint.network == network)
            .cloned()
            .collect()
    }

    /// Makes a sandbox with nothing in it but its loopback link, and returns
    /// the path by which its network namespace is joined.
    ///
    /// # Errors
    ///
    /// [`Error::Sandbox`] when there is one of this name or the kernel refuses.
    pub fn create_sandbox(&self, sandbox: &str) -> Result<PathBuf, Error> {
        let path = self.sandbox_path(sandbox);
        let namespace = Namespace::create_pinned(&path)?;
        if let Err(error) = sandbox::loopback_up(&namespace) {
            let _ = Namespace::remove_pinned(&path);
            return Err(error);
        }
        Ok(path)
    }

    /// Removes a sandbox with all its endpoints; one that is not there is no
    /// error.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn remove_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        for endpoint in self.sandbox_endpoints(sandbox) {
            self.leave(&endpoint.network, sandbox)?;
        }
        Namespace::remove_pinned(&self.sandbox_path(sandbox))?;
        Ok(())
    }

    /// Where the sandbox's network namespace is pinned.
    pub fn sandbox_path(&self, sandbox: &str) -> PathBuf {
        self.config.run.join("netns").join(sandbox)
    }

    /// Names of all sandboxes that are pinned.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the folder cannot be read.
    pub fn sandboxes(&self) -> Result<Vec<String>, Error> {
        let folder = self.config.run.join("netns");
        let entries = fs::read_dir(&folder).map_err(Error::file(&folder))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }

    /// All endpoints of a sandbox, in the order of their interfaces.
    pub fn sandbox_endpoints(&self, sandbox: &str) -> Vec<Endpoint> {
        let state = self.state.lock();
        let mut endpoints: Vec<Endpoint> = state.of_sandbox(sandbox).cloned().collect();
        endpoints.sort_by(|a, b| a.interface.cmp(&b.interface));
        endpoints
    }

    /// Joins a sandbox to a network.
    ///
    /// # Errors
    ///
    /// Everything in [`Error`]; the sandbox is as it was then.
    pub fn join(
        &self,
        network: &str,
        sandbox: &str,
        spec: EndpointSpec,
    ) -> Result<Endpoint, Error> {
        let namespace = Namespace::open(&self.sandbox_path(sandbox))?;
        let (network, endpoint, is_first) = self.reserve(network, sandbox, spec)?;
        let made = self
            .make_endpoint(&namespace, &network, &endpoint, is_first)
            .and_then(|()| {
                if endpoint.ports.is_empty() {
                    Ok(())
                } else {
                    self.settle(&mut self.state.lock())
                }
            });
        if let Err(error) = made {
            let _ = self.leave(&network.spec.id, sandbox);
            return Err(error);
        }
        Ok(endpoint)
    }

    /// Takes a sandbox off a network.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NotJoined`], or the kernel's refusal.
    pub fn leave(&self, network: &str, sandbox: &str) -> Result<Endpoint, Error> {
        let (endpoint, network) = {
            let mut state = self.state.lock();
            let network = state.find(network)?.clone();
            let key = (sandbox.to_owned(), network.spec.id.clone());
            let Some(endpoint) = state.endpoints.remove(&key) else {
                return Err(Error::NotJoined {
                    sandbox: sandbox.into(),
                    network: network.spec.name,
                });
            };
            if !endpoint.ports.is_empty() {
                self.settle(&mut state)?;
                for port in &endpoint.ports {
                    state.ports.release(port);
                }
            }
            (endpoint, network)
        };
        self.delete_port(&endpoint)?;
        self.save_endpoints(sandbox)?;
        tracing::debug!(network = network.spec.name, sandbox, "left");
        Ok(endpoint)
    }

    /// Our addresses at which names are asked for; changes are announced.
    pub(crate) fn name_servers(&self) -> watch::Receiver<BTreeSet<Ipv4Addr>> {
        self.servers.subscribe()
    }

    /// The addresses that `name` has for whoever asks from `client`, or `None`
    /// when it names nothing on the client's networks.
    pub(crate) fn resolve(&self, client: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.trim_end_matches('.');
        let state = self.state.lock();
        let sandbox = &state
            .endpoints
            .values()
            .find(|endpoint| endpoint.addresses.contains(&client))?
            .sandbox;
        let mut addresses = Vec::new();
        for own in state.of_sandbox(sandbox) {
            let target = own.links.get(name).map_or(name, String::as_str);
            // A name may carry its network's name as its domain.
            let network = state.networks.get(&own.network)?;
            let bare = target
                .strip_suffix(network.spec.name.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .unwrap_or(target);
            let named = |other: &&Endpoint| {
                let is = |known: &str| known.eq_ignore_ascii_case(bare);
                is(&other.name) || other.aliases.iter().any(|alias| is(alias))
            };
            let found = state
                .endpoints
                .values()
                .filter(|other| other.network == own.network)
                .filter(named);
            addresses.extend(found.flat_map(|other| other.addresses.iter().copied()));
        }
        (!addresses.is_empty()).then_some(addresses)
    }

    /// Removes every trace of this instance from the kernel: bridges, tables
    /// and sandboxes. Definitions on disk stay.
    ///
    /// # Errors
    ///
    /// The kernel's first refusal; the rest is removed all the same.
    pub fn tear_down(&self) -> Result<(), Error> {
        let mut first = None;
        for sandbox in self.sandboxes()? {
            if let Err(error) = self.remove_sandbox(&sandbox) {
                first.get_or_insert(error);
            }
        }
        let state = self.state.lock();
        let route = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        for network in state.networks.values() {
            if let Err(error) = delete_link(&route, &network.bridge) {
                first.get_or_insert(error);
            }
        }
        let netfilter = Socket::netfilter().map_err(Error::kernel("open netfilter"))?;
        for family in FAMILIES {
            if let Err(source) = rules::remove(&netfilter, &self.table(family)) {
                first.get_or_insert(Error::kernel("remove the packet filter")(source));
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Chooses addresses, names and ports, and writes them down.
    fn reserve(
        &self,
        network: &str,
        sandbox: &str,
        spec: EndpointSpec,
    ) -> Result<(Network, Endpoint, bool), Error> {
        let mut state = self.state.lock();
        let network = state.find(network)?.clone();
        let id = network.spec.id.clone();
        let key = (sandbox.to_owned(), id.clone());
        if state.endpoints.contains_key(&key) {
            return Err(Error::AlreadyJoined {
                endpoint: spec.name,
                network: network.spec.name,
            });
        }
        let interfaces: BTreeSet<&str> = state
            .of_sandbox(sandbox)
            .map(|endpoint| endpoint.interface.as_str())
            .collect();
        let is_first = interfaces.is_empty();
        let interface = (0..MAX_ENDPOINTS)
            .map(|number| format!("eth{number}"))
            .find(|name| !interfaces.contains(name.as_str()))
            .ok_or_else(|| {
                Error::Invalid(format!("a sandbox joins at most {MAX_ENDPOINTS} networks"))
            })?;

        let mut addresses = Vec::new();
        let mut last = Vec::new();
        for pool in &network.spec.pools {
            let is_ipv4 = pool.subnet.address.is_ipv4();
            let taken: BTreeSet<IpAddr> = state
                .endpoints
                .values()
                .filter(|endpoint| endpoint.network == id)
                .filter_map(|endpoint| endpoint.address(is_ipv4))
                .collect();
            let wanted = spec
                .addresses
                .iter()
                .find(|address| address.is_ipv4() == is_ipv4);
            let address = match wanted {
                Some(wanted) if !pool.subnet.contains(*wanted) => {
                    return Err(Error::Invalid(format!(
                        "no configured subnet or ip-range contain the IP address {wanted}"
                    )));
                }
                Some(wanted) if taken.contains(wanted) || *wanted == pool.gateway => {
                    return Err(Error::AddressTaken);
                }
                Some(wanted) => *wanted,
                None => {
                    let key = (id.clone(), is_ipv4);
                    let address =
                        address_pool::allocate(pool, &taken, state.last.get(&key).copied())?;
                    last.push((key, address));
                    address
                }
            };
            addresses.push(address);
        }

        let mut ports = Vec::new();
        for port in &spec.ports {
            match state.ports.take(port) {
                Ok(taken) => ports.push(taken),
                Err(error) => {
                    for taken in &ports {
                        state.ports.release(taken);
                    }
                    return Err(error);
                }
            }
        }
        state.last.extend(last);

        let number: u32 = interface[3..].parse().expect("the name was made above");
        let short = sandbox.get(..9).unwrap_or(sandbox);
        let mac = spec.mac.unwrap_or_else(|| mac_for(&addresses));
        let endpoint = Endpoint {
            network: id,
            sandbox: sandbox.into(),
            name: spec.name,
            aliases: spec.aliases,
            port_link: format!("{}{number}{short}", self.config.link_prefix),
            interface,
            mac,
            addresses,
            ports,
            links: spec.links,
        };
        state.endpoints.insert(key.clone(), endpoint.clone());
        drop(state);
        if let Err(error) = self.save_endpoints(sandbox) {
            let mut state = self.state.lock();
            state.endpoints.remove(&key);
            for port in &endpoint.ports {
                state.ports.release(port);
            }
            return Err(error);
        }
        Ok((network, endpoint, is_first))
    }

    /// Makes the links of an endpoint and gives them their addresses.
    fn make_endpoint(
        &self,
        namespace: &Namespace,
        network: &Network,
        endpoint: &Endpoint,
        is_first: bool,
    ) -> Result<(), Error> {
        let socket = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        let bridge = self.bridge(&socket, network)?;
        let peer = Peer {
            name: &endpoint.interface,
            address: endpoint.mac,
            namespace: namespace.as_fd(),
        };
        let mut batch = Batch::new();
        batch.add_link(
            &NewLink::veth(&endpoint.port_link, peer)
                .mtu(network.mtu)
                .master(bridge.index),
        );
        if !endpoint.ports.is_empty() || network.spec.keep_client_address {
            let turning = Port {
                hairpin: true,
                ..Port::default()
            };
            batch.set_port(&endpoint.port_link, turning);
        }
        socket
            .run(&mut batch)
            .map_err(Error::kernel("make the sandbox's link"))?;
        let pools = &network.spec.pools;
        let addresses = pools
            .iter()
            .filter_map(|pool| {
                let address = endpoint.address(pool.subnet.address.is_ipv4())?;
                Some(Prefix {
                    address,
                    length: pool.subnet.length,
                })
            })
            .collect();
        let gateways = if network.spec.internal || !is_first {
            Vec::new()
        } else {
            pools.iter().map(|pool| pool.gateway).collect()
        };
        let inside = Inside {
            interface: &endpoint.interface,
            addresses,
            gateways,
            name_server: network.name_server().filter(|_| is_first),
            table: &self.config.table,
        };
        sandbox::configure(namespace, &inside)
    }

    /// The network's bridge; one that a stranger removed is made again.
    fn bridge(&self, socket: &Socket, network: &Network) -> Result<Link, Error> {
        let look = || {
            socket
                .link(&network.bridge)
                .map_err(Error::kernel("find the bridge"))
        };
        if let Some(link) = look()? {
            return Ok(link);
        }
        self.make_bridge(socket, network)?;
        look()?.ok_or_else(|| Error::Invalid(format!("bridge {} is gone", network.bridge)))
    }

    fn make_bridge(&self, socket: &Socket, network: &Network) -> Result<(), Error> {
        let doing = || format!("make bridge {}", network.bridge);
        let mut link = NewLink::bridge(&network.bridge)
            .alias(&self.config.table)
            .mtu(network.mtu)
            .address(mac_for(&[network.spec.pools[0].gateway]));
        if network.spec.keep_client_address {
            link = link.bridged_filter();
        }
        let found = socket
            .link(&network.bridge)
            .map_err(Error::kernel(doing()))?;
        match found {
            Some(found) if found.kind == "bridge" && found.alias == self.config.table => {}
            Some(found) => {
                return Err(Error::Invalid(format!(
                    "link {} exists and is not ours: remove it or choose another bridge name",
                    found.name
                )));
            }
            None => {
                let mut batch = Batch::new();
                batch.add_link(&link);
                socket.run(&mut batch).map_err(Error::kernel(doing()))?;
            }
        }
        let found = socket
            .link(&network.bridge)
            .map_err(Error::kernel(doing()))?
            .ok_or_else(|| Error::Invalid(format!("bridge {} is gone", network.bridge)))?;
        let mut batch = Batch::new();
        for pool in &network.spec.pools {
            batch.add_address(found.index, pool.gateway_prefix());
        }
        batch.set_up(found.index);
        socket.run(&mut batch).map_err(Error::kernel(doing()))?;
        // Connections of this host to its own published ports come from
        // loopback addresses; the filter keeps everybody else's out.
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", network.bridge);
        fs::write(&path, "1").map_err(Error::file(&path))
    }

    /// Makes the kernel's sets and whoever listens agree with the state.
    fn settle(&self, state: &mut State) -> Result<(), Error> {
        let is_set_up = state.elements != <[Elements; 2]>::default();
        let desired = state.desired();
        let socket = Socket::netfilter().map_err(Error::kernel("open netfilter"))?;
        for (index, family) in FAMILIES.into_iter().enumerate() {
            let table = self.table(family);
            let changed = if state.networks.is_empty() {
                rules::remove(&socket, &table)
            } else if is_set_up {
                match rules::change(&socket, &table, &state.elements[index], &desired[index]) {
                    // A stranger changed our table: make it anew.
                    Err(error) if error.is_not_found() || error.is_exists() => {
                        rules::replace(&socket, &table, &desired[index])
                    }
                    other => other,
                }
            } else {
                rules::replace(&socket, &table, &desired[index])
            };
            changed.map_err(Error::kernel("change the packet filter"))?;
        }
        if !is_set_up && !state.networks.is_empty() {
            forward_packets()?;
        }
        state.elements = desired;
        self.announce(state);
        Ok(())
    }

    fn announce(&self, state: &State) {
        let servers = state
            .networks
            .values()
            .filter_map(Network::name_server)
            .collect();
        self.servers.send_if_modified(|current| {
            let changed = *current != servers;
            *current = servers;
            changed
        });
    }

    fn delete_port(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let socket = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        delete_link(&socket, &endpoint.port_link)
    }

    fn table(&self, family: Family) -> Table {
        Table {
            family,
            name: self.config.table.clone(),
        }
    }

    fn save_networks(&self, state: &State) -> Result<(), Error> {
        let networks: Vec<&Network> = state.networks.values().collect();
        let bytes = serde_json::to_vec_pretty(&networks).expect("networks are plain values");
        write(
            &self.config.data.join("networks.json"),
            &bytes,
            Durability::Disk,
        )
    }

    fn save_endpoints(&self, sandbox: &str) -> Result<(), Error> {
        let path = self
            .config
            .run
            .join("endpoints")
            .join(format!("{sandbox}.json"));
        let endpoints = self.sandbox_endpoints(sandbox);
        if endpoints.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::file(path)(error))
                }
                _ => Ok(()),
            };
        }
        let bytes = serde_json::to_vec(&endpoints).expect("endpoints are plain values");
        write(&path, &bytes, Durability::Process)
    }
}

impl State {
    fn find(&self, name: &str) -> Result<&Network, Error> {
        let by_name = self
            .networks
            .values()
            .find(|network| network.spec.name == name);
        let mut by_id = self
            .networks
            .values()
            .filter(|network| network.spec.id.starts_with(name));
        match (
            self.networks.get(name).or(by_name),
            by_id.next(),
            by_id.next(),
        ) {
            (Some(network), _, _) => Ok(network),
            (None, Some(network), None) if !name.is_empty() => Ok(network),
            (None, Some(_), Some(_)) if !name.is_empty() => Err(Error::Invalid(format!(
                "network {name} is ambiguous: more than one id starts with it"
            ))),
            _ => Err(Error::NotFound(name.into())),
        }
    }

    fn of_sandbox(&self, sandbox: &str) -> impl Iterator<Item = &Endpoint> {
        let first = (sandbox.to_owned(), String::new());
        self.endpoints
            .range(first..)
            .take_while(move |((owner, _), _)| *owner == *sandbox)
            .map(|(_, endpoint)| endpoint)
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn desired(&self) -> [Elements; 2] {
        FAMILIES.map(|family| {
            Elements::desired(family, self.networks.values(), self.endpoints.values())
        })
    }
}

impl Network {
    /// Our address at which this network's names are asked for.
    pub fn name_server(&self) -> Option<Ipv4Addr> {
        match self.pool(true)?.gateway {
            IpAddr::V4(address) if self.spec.names => Some(address),
            _ => None,
        }
    }
}

/// A locally administered hardware address made of the first address.
fn mac_for(addresses: &[IpAddr]) -> [u8; 6] {
    let octets = addresses
        .first()
        .map(|address| rules::octets(*address))
        .unwrap_or_default();
    let tail = octets.iter().rev().take(4).rev();
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    for (byte, octet) in mac[2..].iter_mut().zip(tail) {
        *byte = *octet;
    }
    mac
}

/// The largest packet of the link that the default route leaves by.
fn uplink_mtu(socket: &Socket) -> Result<u32, Error> {
    let routes = socket
        .routes()
        .map_err(Error::kernel("read the host's routes"))?;
    let uplink = routes
        .iter()
        .find(|route| route.destination.length == 0)
        .map(|route| route.link);
    let links = socket
        .links()
        .map_err(Error::kernel("read the host's links"))?;
    Ok(links
        .iter()
        .find(|link| Some(link.index) == uplink)
        .map_or(1500, |link| link.mtu))
}

/// Lets this host pass packets on, as bridges need it.
fn forward_packets() -> Result<(), Error> {
    for path in [
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv6/conf/all/forwarding",
    ] {
        match fs::read_to_string(path) {
            Ok(value) if value.trim() == "0" => fs::write(path, "1").map_err(Error::file(path))?,
            // A host without IPv6 has nothing to pass on.
            _ => {}
        }
    }
    Ok(())
}

fn delete_link(socket: &Socket, name: &str) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.delete_link(name);
    match socket.run(&mut batch) {
        Err(error) if !error.is_not_found() => {
            Err(Error::kernel(format!("delete link {name}"))(error))
        }
        _ => Ok(()),
    }
}

/// What a file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// The end of this process.
    Process,
    /// The end of power.
    Disk,
}

fn write(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        fs::write(&temporary, bytes)?;
        if durability == Durability::Disk {
            fs::File::open(&temporary)?.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if let (Durability::Disk, Some(folder)) = (durability, path.parent()) {
            fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(Error::file(path))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::file(path)(io::Error::new(io::ErrorKind::InvalidData, error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path)(error)),
    }
}
