//! The networks of one instance: their definitions, and what they are in the
//! kernel.
//!
//! An endpoint is written before its effects are made, so that whatever a crash
//! leaves in the kernel is known to somebody and [`Networks::open`] repairs it.
//! Links of ours that nobody knows are found by their group.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use dhow_netlink::{Namespace, Prefix, Socket};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::address_pool;
use crate::background::{Background, Groups, remove_links};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::files::Files;
use crate::flows::{self, Became};
use crate::links::{self, Maker};
use crate::names::Place;
use crate::rules::{self, Elements};
use crate::sandbox::Prepared;
use crate::spec::{Driver, Network, NetworkSpec};
use crate::state::State;

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
    pub(crate) config: Config,
    pub(crate) files: Files,
    pub(crate) state: Mutex<State>,
    pub(crate) groups: Groups,
    pub(crate) background: Background,
    /// Sandboxes that were made and not joined to anything yet.
    pub(crate) fresh: Mutex<BTreeMap<String, Prepared>>,
    /// Namespaces of the sandboxes that this process made and did not pin.
    pub(crate) held: Mutex<BTreeMap<String, Namespace>>,
    /// Whether the kernel has IPv6 at all.
    pub(crate) knows_ipv6: bool,
    /// Changes our tables. It is kept open: the kernel finishes all that was
    /// begun before it closes one.
    netfilter: Mutex<Socket>,
    /// Where names are asked for.
    places: watch::Sender<BTreeSet<Place>>,
}

impl Networks {
    /// Reads the state and makes the kernel agree with it: missing bridges are
    /// made, our tables replaced, endpoints of sandboxes that are gone removed.
    /// What it makes in the kernel is in the caller's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error`] when the state cannot be read or the kernel refuses.
    pub fn open(config: Config) -> Result<Self, Error> {
        let files = Files::open(&config.data, &config.run)?;
        let mut state = State::default();
        for network in files.read_networks()? {
            state.networks.insert(network.spec.id.clone(), network);
        }
        for (path, endpoints) in files.read_endpoints()? {
            for endpoint in endpoints {
                let has_sandbox = Namespace::open(&files.pin(&endpoint.sandbox)).is_ok();
                if has_sandbox && state.networks.contains_key(&endpoint.network) {
                    state.restore(endpoint);
                } else {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        let groups = Groups::of(&config.table);
        let networks = Self {
            files,
            state: Mutex::new(state),
            groups,
            background: Background::start(groups)?,
            fresh: Mutex::default(),
            held: Mutex::default(),
            knows_ipv6: links::knows_ipv6(),
            netfilter: Mutex::new(Socket::netfilter().map_err(Error::kernel("open netfilter"))?),
            places: watch::Sender::default(),
            config,
        };
        networks.remove_strays()?;
        networks.make_links()?;
        networks.repair()?;
        networks.report_firewall();
        Ok(networks)
    }

    /// Removes links of ours whose endpoint is not known.
    fn remove_strays(&self) -> Result<(), Error> {
        let socket = route()?;
        let links = socket
            .links()
            .map_err(Error::kernel("read the host's links"))?;
        let state = self.state.lock();
        let known: BTreeSet<&str> = state
            .endpoints
            .values()
            .map(|endpoint| endpoint.port_link.as_str())
            .collect();
        let strays: Vec<String> = links
            .into_iter()
            .filter(|link| [self.groups.live, self.groups.leaving].contains(&link.group))
            .map(|link| link.name)
            .filter(|name| name.starts_with(&self.config.link_prefix))
            .filter(|name| !known.contains(name.as_str()))
            .collect();
        remove_links(&socket, self.groups, &strays)
            .map_err(Error::kernel("remove links that a crash left"))
    }

    fn make_links(&self) -> Result<(), Error> {
        let socket = route()?;
        let state = self.state.lock();
        for network in state
            .networks
            .values()
            .filter(|one| !one.is_configuration())
        {
            match self.maker(&socket).make(network) {
                Ok(_) => {}
                // The parent may come later; whoever joins is told.
                Err(error) if !network.is_bridge() => {
                    tracing::warn!(network = network.spec.name, %error, "has no parent link");
                }
                Err(error) => return Err(error),
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
        let mut state = self.state.lock();
        state.elements = None;
        self.settle(&mut state)
    }

    /// Makes a network.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`], [`Error::Overlap`], [`Error::PoolsExhausted`],
    /// [`Error::ParentTaken`], [`Error::Invalid`], or the kernel's refusal.
    pub fn create(&self, mut spec: NetworkSpec) -> Result<Network, Error> {
        let socket = route()?;
        let mut state = self.state.lock();
        if state
            .networks
            .values()
            .any(|one| one.spec.name == spec.name)
        {
            return Err(Error::NameTaken(spec.name));
        }
        if spec.driver == Driver::Configuration {
            let network = Network {
                spec,
                bridge: String::new(),
                mtu: 0,
            };
            let id = network.spec.id.clone();
            state.networks.insert(id.clone(), network.clone());
            if let Err(error) = self.files.write_networks(state.networks.values()) {
                state.forget(&id);
                return Err(error);
            }
            return Ok(network);
        }
        choose_pools(&mut spec, &state, &links::routed(&socket)?)?;
        let bridge = self.choose_link(&spec, &state)?;
        let mtu = match spec.mtu {
            Some(mtu) => mtu,
            None => links::uplink_mtu(&socket)?,
        };
        let network = Network { spec, bridge, mtu };
        let id = network.spec.id.clone();
        state.networks.insert(id.clone(), network.clone());
        let made = self
            .files
            .write_networks(state.networks.values())
            .and_then(|()| {
                self.maker(&socket).make(&network)?;
                self.settle(&mut state)
            });
        if let Err(error) = made {
            state.forget(&id);
            let _ = self.files.write_networks(state.networks.values());
            let _ = self.maker(&socket).remove(&network);
            let _ = self.settle(&mut state);
            return Err(error);
        }
        Ok(network)
    }

    /// The name of a new network's link.
    fn choose_link(&self, spec: &NetworkSpec, state: &State) -> Result<String, Error> {
        let short = spec.id.get(..8).unwrap_or(&spec.id);
        let prefix = &self.config.link_prefix;
        let name = match &spec.driver {
            Driver::Bridge => spec
                .bridge
                .clone()
                .unwrap_or_else(|| format!("{prefix}br{short}")),
            Driver::Macvlan { parent, .. } => parent
                .clone()
                .unwrap_or_else(|| format!("{prefix}dm{short}")),
            Driver::Ipvlan { parent, .. } => parent
                .clone()
                .unwrap_or_else(|| format!("{prefix}di{short}")),
            Driver::Configuration => return Ok(String::new()),
        };
        links::check_name(&name)?;
        match state.networks.values().find(|other| other.bridge == name) {
            None => Ok(name),
            Some(other) if spec.driver == Driver::Bridge => Err(Error::Invalid(format!(
                "bridge name {name} is used by network {}: choose another",
                other.spec.name
            ))),
            Some(other) => Err(Error::ParentTaken {
                network: other.spec.name.clone(),
                parent: name,
            }),
        }
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
            .of_network(&network.spec.id)
            .map(|endpoint| format!("name:{:?} id:{:?}", endpoint.name, endpoint.sandbox))
            .collect();
        if !endpoints.is_empty() {
            return Err(Error::InUse {
                name: network.spec.name,
                endpoints,
            });
        }
        if network.is_configuration() {
            let name = &network.spec.name;
            let mut others = state.networks.values();
            if others.any(|other| other.spec.config_from == *name) {
                return Err(Error::ConfigurationInUse(name.clone()));
            }
            state.forget(&network.spec.id);
            self.files.write_networks(state.networks.values())?;
            return Ok(network);
        }
        state.forget(&network.spec.id);
        self.files.write_networks(state.networks.values())?;
        self.settle(&mut state)?;
        drop(state);
        self.background.settle();
        self.maker(&route()?).remove(&network)?;
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
        self.state.lock().of_network(network).cloned().collect()
    }

    /// Where names are asked for; changes are announced.
    pub(crate) fn name_places(&self) -> watch::Receiver<BTreeSet<Place>> {
        self.places.subscribe()
    }

    /// Removes every trace of this instance from the kernel: bridges, tables
    /// and sandboxes. Definitions on disk stay.
    ///
    /// # Errors
    ///
    /// The kernel's first refusal; the rest is removed all the same.
    pub fn tear_down(&self) -> Result<(), Error> {
        let mut first = None;
        let mut note = |result: Result<(), Error>| {
            if let Err(error) = result {
                first.get_or_insert(error);
            }
        };
        for sandbox in self.sandboxes()? {
            note(self.remove_sandbox(&sandbox));
        }
        self.background.settle();
        let socket = route()?;
        let mut state = self.state.lock();
        for network in state.networks.values() {
            note(self.maker(&socket).remove(network));
        }
        state.elements = None;
        note(
            rules::remove(&self.netfilter.lock(), &self.config.table)
                .map_err(Error::kernel("remove the packet filter")),
        );
        first.map_or(Ok(()), Err)
    }

    /// Makes the kernel's sets and whoever listens agree with the state.
    pub(crate) fn settle(&self, state: &mut State) -> Result<(), Error> {
        let desired = state.desired();
        let has_bridges = state.networks.values().any(Network::is_bridge);
        let table = &self.config.table;
        let socket = self.netfilter.lock();
        let (changed, held) = match &state.elements {
            // Nothing of ours is left behind when there is nothing to hold.
            _ if !has_bridges => (rules::remove(&socket, table), None),
            Some(held) => match rules::change(&socket, table, held, &desired) {
                // A stranger changed our table: make it anew.
                Err(error) if error.is_not_found() || error.is_exists() => {
                    (rules::replace(&socket, table, &desired), Some(desired))
                }
                other => (other, Some(desired)),
            },
            None => {
                links::forward_packets()?;
                (rules::replace(&socket, table, &desired), Some(desired))
            }
        };
        changed.map_err(Error::kernel("change the packet filter"))?;
        state.elements = held;
        self.announce(state);
        Ok(())
    }

    /// Makes the kernel's maps follow when the ports of one sandbox changed, and
    /// whoever listens.
    pub(crate) fn publish(
        &self,
        state: &mut State,
        before: &Elements,
        after: &Elements,
    ) -> Result<(), Error> {
        let changed = match &mut state.elements {
            None => return self.settle(state),
            Some(held) => {
                let table = &self.config.table;
                let changed = rules::change(&self.netfilter.lock(), table, before, after);
                if changed.is_ok() {
                    held.replace(before, after);
                }
                changed
            }
        };
        match changed {
            Ok(()) => self.announce(state),
            // A stranger changed our table: make it anew.
            Err(error) if error.is_not_found() || error.is_exists() => {
                state.elements = None;
                self.settle(state)?;
            }
            Err(error) => return Err(Error::kernel("change the packet filter")(error)),
        }
        Ok(())
    }

    /// Forgets flows that led elsewhere than they would now, as far as that can be
    /// told.
    pub(crate) fn forget_flows(&self, endpoints: &[Endpoint], became: Became) {
        let publishing = endpoints
            .iter()
            .filter(|endpoint| !endpoint.ports.is_empty());
        for endpoint in publishing {
            if let Err(error) = flows::forget_stale(&self.netfilter.lock(), endpoint, became) {
                tracing::warn!(sandbox = endpoint.sandbox, %error, "flows are not forgotten");
            }
        }
    }

    /// Tells whoever listens where names are asked for now.
    pub(crate) fn announce(&self, state: &State) {
        let places = state.name_places();
        self.places.send_if_modified(|current| {
            let changed = *current != places;
            *current = places;
            changed
        });
    }

    pub(crate) fn maker<'a>(&'a self, socket: &'a Socket) -> Maker<'a> {
        Maker {
            socket,
            owner: &self.config.table,
        }
    }
}

/// Fills in the pools that were left open, and refuses those that overlap.
fn choose_pools(spec: &mut NetworkSpec, state: &State, routed: &[Prefix]) -> Result<(), Error> {
    let ours: Vec<Prefix> = state
        .networks
        .values()
        .filter(|network| !network.is_configuration())
        .flat_map(|network| &network.spec.pools)
        .map(|pool| pool.subnet)
        .collect();
    for (index, pool) in spec.pools.iter().enumerate() {
        let mut others = ours
            .iter()
            .copied()
            .chain(spec.pools[..index].iter().map(|pool| pool.subnet));
        if others.any(|other| other.overlaps(pool.subnet)) {
            return Err(Error::Overlap(pool.subnet));
        }
    }
    let has = |spec: &NetworkSpec, is_ipv4| {
        let mut pools = spec.pools.iter();
        pools.any(|pool| pool.subnet.address.is_ipv4() == is_ipv4)
    };
    let mut taken = ours;
    taken.extend(routed);
    if spec.ipv6_only {
        if has(spec, true) {
            return Err(Error::Invalid(
                "invalid network config: it has an IPv4 subnet, and IPv4 is turned off".into(),
            ));
        }
        if spec.ipv6 == Some(false) {
            return Err(Error::Invalid(
                "invalid network config: IPv4 and IPv6 are both turned off: a network has one of them".into(),
            ));
        }
    } else if !has(spec, true) {
        spec.pools.insert(0, address_pool::default_pool(&taken)?);
    }
    let wants_ipv6 = spec.ipv6_only
        || spec
            .ipv6
            .unwrap_or_else(|| spec.driver == Driver::Bridge && links::has_ipv6());
    if has(spec, false) {
        if spec.ipv6 == Some(false) {
            return Err(Error::Invalid(
                "invalid network config: it has an IPv6 subnet, and IPv6 is turned off".into(),
            ));
        }
    } else if wants_ipv6 {
        spec.pools.push(address_pool::ipv6_pool(&spec.id, &taken)?);
    }
    Ok(())
}

/// A socket that speaks to the host's kernel about links.
pub(crate) fn route() -> Result<Socket, Error> {
    Socket::route().map_err(Error::kernel("open rtnetlink"))
}
