//! Sandboxes: made, joined to networks, taken off them, removed.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use dhow_netlink::{Batch, MacvlanMode, Namespace, NewLink, Peer, Port, Prefix};

use rustix::io::Errno;

use crate::background::Remains;
use crate::endpoint::{Endpoint, EndpointSpec};
use crate::error::Error;
use crate::flows::Became;
use crate::networks::{Networks, route};
use crate::rules::Elements;
use crate::sandbox::{Inside, Names, Prepared, Ways};
use crate::spec::{Driver, IpvlanMode, IpvlanReach, Mode, Network};

/// Sandboxes whose descriptors are kept until they are joined to a network.
const MAX_FRESH: usize = 32;

impl Networks {
    /// Makes a sandbox with nothing in it but its loopback link, and returns
    /// the path by which its network namespace is joined. This process holds it
    /// until [`Self::hand_over_sandbox`] names another, or it is removed.
    ///
    /// # Errors
    ///
    /// [`Error::Sandbox`] when there is one of this name or the kernel refuses.
    pub fn create_sandbox(&self, sandbox: &str) -> Result<PathBuf, Error> {
        self.hold_sandbox(sandbox, self.background.take()?)
    }

    /// As [`Self::create_sandbox`], of one that no process has to hold: it is
    /// pinned until it is removed.
    ///
    /// Each pin is a mount, and every mount namespace that is made begins as a
    /// copy of all mounts: that is for few sandboxes.
    ///
    /// # Errors
    ///
    /// As [`Self::create_sandbox`].
    pub fn create_pinned_sandbox(&self, sandbox: &str) -> Result<PathBuf, Error> {
        let path = self.files.pin(sandbox);
        let prepared = self.background.take()?.pin(&path)?;
        self.keep_fresh(sandbox, prepared);
        Ok(path)
    }

    /// Makes a sandbox of a new network namespace that the caller has made, since it
    /// is to belong to another user namespace than ours; else as
    /// [`Self::create_sandbox`].
    ///
    /// # Errors
    ///
    /// As [`Self::create_sandbox`].
    pub fn adopt_sandbox(&self, sandbox: &str, namespace: OwnedFd) -> Result<PathBuf, Error> {
        self.hold_sandbox(sandbox, Prepared::furnish(Namespace::from(namespace))?)
    }

    /// Says which process a sandbox that was made for it lives with. When this
    /// one has died, the next finds the sandbox by it.
    ///
    /// A link that leads nowhere (any more) is no sandbox. Should another process
    /// have got that number since: whoever starts with an earlier process's
    /// sandboxes removes those first whose holders it does not find.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when it cannot be written down.
    pub fn hand_over_sandbox(&self, sandbox: &str, pid: u32) -> Result<(), Error> {
        self.files
            .link_pin(sandbox, Path::new(&format!("/proc/{pid}/ns/net")))
    }

    fn hold_sandbox(&self, sandbox: &str, prepared: Prepared) -> Result<PathBuf, Error> {
        let path = self.files.pin(sandbox);
        let held = prepared.namespace.try_clone()?;
        let descriptor = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            held.as_fd().as_raw_fd()
        );
        self.files.make_pin_link(sandbox, Path::new(&descriptor))?;
        self.held.lock().insert(sandbox.into(), held);
        self.keep_fresh(sandbox, prepared);
        Ok(path)
    }

    fn keep_fresh(&self, sandbox: &str, prepared: Prepared) {
        let mut fresh = self.fresh.lock();
        // Some are never joined to anything; those that are opened again cost
        // little.
        if fresh.len() >= MAX_FRESH {
            fresh.pop_first();
        }
        fresh.insert(sandbox.into(), prepared);
    }

    /// Removes a sandbox with all its endpoints; one that is not there is no
    /// error. Its links go soon after.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn remove_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        self.fresh.lock().remove(sandbox);
        let gone = {
            let mut state = self.state.lock();
            let before = state.port_elements(sandbox);
            let gone = state.remove_sandbox(sandbox);
            if !gone.is_empty() {
                self.publish(&mut state, &before, &Elements::default())?;
            }
            gone
        };
        self.forget_flows(&gone, Became::Gone);
        if !gone.is_empty() {
            self.files.write_endpoints(sandbox, &[])?;
        }
        let path = self.files.pin(sandbox);
        let mut remains: Vec<Remains> = gone.into_iter().map(Remains::from).collect();
        // Held until its links are removed, or the kernel would do so now.
        let held = self.held.lock().remove(sandbox);
        if let Some(namespace) = held.or_else(|| Namespace::open(&path).ok()) {
            remains.push(Remains {
                namespace: Some(namespace),
                ..Remains::default()
            });
        }
        Namespace::remove_pinned(&path)?;
        self.background.remove(remains);
        Ok(())
    }

    /// By which path the sandbox's network namespace is joined.
    pub fn sandbox_path(&self, sandbox: &str) -> PathBuf {
        self.files.pin(sandbox)
    }

    /// Names of all sandboxes, those among them that only a name is left of.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the folder cannot be read.
    pub fn sandboxes(&self) -> Result<Vec<String>, Error> {
        self.files.pinned()
    }

    /// All endpoints of a sandbox, in the order of their interfaces.
    pub fn sandbox_endpoints(&self, sandbox: &str) -> Vec<Endpoint> {
        self.state.lock().in_order(sandbox)
    }

    /// Gives all endpoints of a sandbox another name to be found by.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when it cannot be written down.
    pub fn rename_sandbox(&self, sandbox: &str, name: &str) -> Result<(), Error> {
        let mut state = self.state.lock();
        state.rename(sandbox, name);
        let endpoints = state.in_order(sandbox);
        if endpoints.is_empty() {
            return Ok(());
        }
        self.files.write_endpoints(sandbox, &endpoints)
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
        self.background.busy();
        let fresh = self.fresh.lock().remove(sandbox);
        let prepared = match fresh {
            Some(prepared) => prepared,
            None => Prepared::open(&self.files.pin(sandbox))?,
        };
        let sysctls = spec.sysctls.clone();
        let joined = match self.reserve(network, sandbox, &spec) {
            // What others leave is given back now rather than soon.
            Err(Error::AddressRests(_) | Error::AddressesExhausted(_)) => {
                self.background.settle();
                self.reserve(network, sandbox, &spec)?
            }
            other => other?,
        };
        let made = self
            .make_endpoint(&prepared, &joined, &sysctls)
            .and_then(|()| {
                let after = {
                    let mut state = self.state.lock();
                    let after = state.port_elements(sandbox);
                    self.publish(&mut state, &joined.ports, &after)?;
                    after
                };
                if after != joined.ports {
                    self.forget_flows(&self.sandbox_endpoints(sandbox), Became::Published);
                }
                Ok(())
            });
        if let Err(error) = made {
            // Ports that it brought go with it.
            self.state.lock().unwant(&joined.network.spec.id, sandbox);
            let _ = self.leave(&joined.network.spec.id, sandbox);
            return Err(error);
        }
        Ok(joined.endpoint)
    }

    /// Takes a sandbox off a network.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NotJoined`], or the kernel's refusal.
    pub fn leave(&self, network: &str, sandbox: &str) -> Result<Endpoint, Error> {
        let (endpoint, network, old, new, is_moved) = {
            let mut state = self.state.lock();
            let network = state.find(network)?.clone();
            let (old, before) = (state.ways(sandbox), state.port_elements(sandbox));
            let Some(endpoint) = state.remove_endpoint(&network.spec.id, sandbox) else {
                return Err(Error::NotJoined {
                    sandbox: sandbox.into(),
                    network: network.spec.name,
                });
            };
            let after = state.port_elements(sandbox);
            self.publish(&mut state, &before, &after)?;
            let new = state.ways(sandbox);
            self.files
                .write_endpoints(sandbox, &state.in_order(sandbox))?;
            (endpoint, network, old, new, after != before)
        };
        self.forget_flows(std::slice::from_ref(&endpoint), Became::Gone);
        if is_moved {
            self.forget_flows(&self.sandbox_endpoints(sandbox), Became::Published);
        }
        // A sandbox that is gone has taken its links with it.
        if let Ok(prepared) = Prepared::open(&self.files.pin(sandbox)) {
            prepared.remove_link(&endpoint.interface)?;
            let spent = prepared.lead(&self.config.table, &old, &new)?;
            self.background.close(spent);
        }
        self.background
            .remove(vec![Remains::from(endpoint.clone())]);
        self.background.settle();
        tracing::debug!(network = network.spec.name, sandbox, "left");
        Ok(endpoint)
    }

    /// Leads a sandbox out as its endpoints say, whatever a crash left of its ways.
    ///
    /// # Errors
    ///
    /// [`Error::Sandbox`] when it is gone, or the kernel's refusal.
    pub fn mend_ways(&self, sandbox: &str) -> Result<(), Error> {
        let new = self.state.lock().ways(sandbox);
        // Questions for names may be led to somebody who is not there any more.
        let old = Ways {
            names: Names::Bridge(String::new(), Ipv4Addr::UNSPECIFIED),
            ..Ways::default()
        };
        let prepared = Prepared::open(&self.files.pin(sandbox))?;
        let spent = prepared.lead(&self.config.table, &old, &new)?;
        self.background.close(spent);
        Ok(())
    }

    /// Chooses addresses, names and ports, and writes them down.
    fn reserve(&self, network: &str, sandbox: &str, spec: &EndpointSpec) -> Result<Joined, Error> {
        let mut state = self.state.lock();
        let id = state.find(network)?.spec.id.clone();
        let resting = self.background.resting(&id);
        let old = state.ways(sandbox);
        let ports = state.port_elements(sandbox);
        let (network, endpoint) =
            state.add_endpoint(&id, sandbox, spec.clone(), self.port_name(), &resting)?;
        let joined = Joined {
            old,
            new: state.ways(sandbox),
            ports,
            network,
            endpoint,
        };
        let written = self
            .files
            .write_endpoints(sandbox, &state.in_order(sandbox));
        if let Err(error) = written {
            state.remove_endpoint(&id, sandbox);
            return Err(error);
        }
        Ok(joined)
    }

    /// A name for a bridge's port that no other has or had lately.
    fn port_name(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Names of an earlier process begin elsewhere.
        let number = std::process::id()
            .wrapping_mul(0x9e37_79b1)
            .wrapping_add(count);
        format!("{}p{number:08x}", self.config.link_prefix)
    }

    /// Makes the links of an endpoint and gives them their addresses.
    fn make_endpoint(
        &self,
        prepared: &Prepared,
        joined: &Joined,
        sysctls: &[(String, String)],
    ) -> Result<(), Error> {
        let (network, endpoint) = (&joined.network, &joined.endpoint);
        let socket = route()?;
        let link = self.maker(&socket).link(network)?;
        let mut batch = Batch::new();
        match &network.spec.driver {
            Driver::Bridge => {
                let peer = Peer {
                    name: &endpoint.interface,
                    address: endpoint.mac,
                    namespace: prepared.namespace.as_fd(),
                };
                let port = Port {
                    hairpin: true,
                    isolated: network.spec.isolated,
                    // Each address would make every later link dearer.
                    addressless: self.knows_ipv6,
                };
                batch
                    .add_link(
                        &NewLink::veth(&endpoint.port_link, peer)
                            .mtu(network.mtu)
                            .master(link.index)
                            .group(self.groups.live)
                            .down(),
                    )
                    .set_port(&endpoint.port_link, port)
                    .set_up_named(&endpoint.port_link);
            }
            Driver::Macvlan { mode, .. } => {
                let mode = match mode {
                    Mode::Bridge => MacvlanMode::Bridge,
                    Mode::Vepa => MacvlanMode::Vepa,
                    Mode::Private => MacvlanMode::Private,
                    Mode::Passthru => MacvlanMode::Passthru,
                };
                batch.add_link(
                    &NewLink::macvlan(&endpoint.interface, link.index, mode)
                        .mtu(network.mtu.min(link.mtu))
                        .address(endpoint.mac)
                        .namespace(prepared.namespace.as_fd()),
                );
            }
            Driver::Ipvlan { mode, reach, .. } => {
                let mode = match mode {
                    IpvlanMode::L2 => dhow_netlink::IpvlanMode::L2,
                    IpvlanMode::L3 => dhow_netlink::IpvlanMode::L3,
                    IpvlanMode::L3s => dhow_netlink::IpvlanMode::L3s,
                };
                let reach = match reach {
                    IpvlanReach::Bridge => dhow_netlink::IpvlanReach::Bridge,
                    IpvlanReach::Private => dhow_netlink::IpvlanReach::Private,
                    IpvlanReach::Vepa => dhow_netlink::IpvlanReach::Vepa,
                };
                batch.add_link(
                    &NewLink::ipvlan(&endpoint.interface, link.index, mode, reach)
                        .mtu(network.mtu.min(link.mtu))
                        .namespace(prepared.namespace.as_fd()),
                );
            }
            Driver::Configuration => {
                return Err(Error::ConfigurationOnly(network.spec.name.clone()));
            }
        }
        let made = match socket.run(&mut batch) {
            // A bridge has room for a thousand ports, those that wait to be
            // removed among them.
            Err(error) if error.errno() == Some(Errno::XFULL.raw_os_error()) => {
                self.background.settle();
                socket.run(&mut batch)
            }
            other => other,
        };
        if let Err(error) = &made
            && error.errno() == Some(Errno::OPNOTSUPP.raw_os_error())
        {
            let kind = network.spec.driver.word();
            return Err(Error::Invalid(format!("this kernel has no {kind} links")));
        }
        made.map_err(Error::kernel("make the sandbox's link"))?;
        let of_pool = |address: &IpAddr| {
            Some(Prefix {
                address: *address,
                length: network.pool_of(*address)?.subnet.length,
            })
        };
        let link_local = |address: &IpAddr| Prefix {
            address: *address,
            length: if address.is_ipv4() { 16 } else { 64 },
        };
        let addresses = endpoint
            .addresses
            .iter()
            .filter_map(of_pool)
            .chain(endpoint.link_local.iter().map(link_local))
            .collect();
        prepared.configure(&Inside {
            interface: &endpoint.interface,
            is_bridged: matches!(network.spec.driver, Driver::Bridge),
            addresses,
            sysctls,
        })?;
        let spent = prepared.lead(&self.config.table, &joined.old, &joined.new)?;
        self.background.close(spent);
        // Looking at a port makes the kernel notice that its far end is up, and
        // the bridge pass its packets on; left alone it does so a little later,
        // and the first question for a neighbour would be lost.
        if !endpoint.port_link.is_empty() {
            socket
                .link(&endpoint.port_link)
                .map_err(Error::kernel("look at the bridge's port"))?;
        }
        Ok(())
    }
}

/// What joining changes.
#[derive(Debug)]
struct Joined {
    network: Network,
    endpoint: Endpoint,
    old: Ways,
    new: Ways,
    /// What its published ports needed before.
    ports: Elements,
}

impl From<Endpoint> for Remains {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            port_link: endpoint.port_link,
            network: endpoint.network,
            addresses: endpoint.addresses,
            namespace: None,
        }
    }
}
