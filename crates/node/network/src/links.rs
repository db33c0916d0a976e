//! Links of the host: bridges, and what macvlan networks lie on.

use std::fs;
use std::io;
use std::path::Path;

use dhow_netlink::{Batch, Link, NewLink, Prefix, Socket};

use crate::error::Error;
use crate::spec::{Driver, Network, Pool};
use crate::state::{link_local_for, mac_for};

/// What a network is made with besides itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maker<'a> {
    /// Speaks to the host's kernel.
    pub(crate) socket: &'a Socket,
    /// The instance's name, by which it knows its links again.
    pub(crate) owner: &'a str,
}

impl Maker<'_> {
    /// The link of a network: its bridge, or what it lies on. One that a
    /// stranger removed is made again.
    pub(crate) fn link(&self, network: &Network) -> Result<Link, Error> {
        match self.find(&network.bridge)? {
            Some(link) => Ok(link),
            None => self.make(network),
        }
    }

    /// Makes the link of a network; one of ours that is there is taken up.
    pub(crate) fn make(&self, network: &Network) -> Result<Link, Error> {
        match &network.spec.driver {
            Driver::Bridge => self.make_bridge(network),
            Driver::Macvlan { parent, .. } | Driver::Ipvlan { parent, .. } => {
                self.make_parent(network, parent.as_deref())
            }
            Driver::Configuration => Err(Error::ConfigurationOnly(network.spec.name.clone())),
        }
    }

    /// Removes the link of a network, if it is ours.
    pub(crate) fn remove(&self, network: &Network) -> Result<(), Error> {
        match self.find(&network.bridge)? {
            Some(link) if link.alias == self.owner => delete_link(self.socket, &link.name),
            _ => Ok(()),
        }
    }

    fn make_bridge(&self, network: &Network) -> Result<Link, Error> {
        let name = &network.bridge;
        let doing = || format!("make bridge {name}");
        let mac = mac_for(&[network.spec.pools[0].gateway]);
        let mut link = NewLink::bridge(name)
            .alias(self.owner)
            .mtu(network.mtu)
            .address(mac);
        if network.spec.keep_client_address {
            link = link.bridged_filter();
        }
        match self.find(name)? {
            Some(found) if found.kind == "bridge" && found.alias == self.owner => {}
            Some(found) => {
                return Err(Error::Invalid(format!(
                    "link {} exists and is not ours: remove it or choose another bridge name",
                    found.name
                )));
            }
            None => self.run(Batch::new().add_link(&link), doing())?,
        }
        let found = self.must_find(name)?;
        let mut batch = Batch::new();
        let is_ours = |pool: &&Pool| network.is_router(pool.gateway.is_ipv4());
        for pool in network.spec.pools.iter().filter(is_ours) {
            batch.add_address(found.index, pool.gateway_prefix());
            if pool.gateway.is_ipv6() {
                // By which it asks; the kernel's own would come with the first port.
                let address = link_local_for(mac).into();
                let length = 64;
                batch.add_address(found.index, Prefix { address, length });
            }
        }
        // Connections of this host to its own published ports come from
        // loopback addresses; the filter keeps everybody else's out.
        batch.set_route_localnet(found.index).set_up(found.index);
        // Each new IPv6 address is announced by multicast, several times: with a
        // thousand ports that is most of what a start costs, were all to hear it.
        batch.set_querier(found.index);
        self.run(&mut batch, doing())?;
        // No container tells this host its routes (CVE-2020-13401), and none reaches
        // it where it is to have no address.
        let set = |setting: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
            let value = if setting == "accept_ra" { "0" } else { "1" };
            match fs::write(&path, value) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::file(path)(error))
                }
                _ => Ok(()),
            }
        };
        set("accept_ra")?;
        if !network.is_router(false) {
            set("disable_ipv6")?;
        }
        Ok(found)
    }

    fn make_parent(&self, network: &Network, parent: Option<&str>) -> Result<Link, Error> {
        let name = &network.bridge;
        if parent == Some("lo") {
            return Err(Error::Invalid(format!(
                "loopback interface is not a valid {} parent link",
                network.spec.driver.word()
            )));
        }
        if let Some(found) = self.find(name)? {
            return Ok(found);
        }
        let new = match parent {
            None => NewLink::dummy(name),
            Some(_) => {
                let Some((below, id)) = name.rsplit_once('.') else {
                    return Err(Error::Invalid(format!(
                        "invalid parent {name}: this host has no such link"
                    )));
                };
                let below = self.find(below)?.ok_or_else(|| {
                    Error::Invalid(format!(
                        "invalid parent {name}: this host has no link {below}"
                    ))
                })?;
                let id: u16 = match id.parse() {
                    Ok(id @ 1..=4094) => id,
                    _ => {
                        return Err(Error::Invalid(format!(
                            "invalid parent {name}: {id} is no VLAN, which has a number from 1 to 4094"
                        )));
                    }
                };
                NewLink::vlan(name, below.index, id)
            }
        };
        self.run(
            Batch::new().add_link(&new.alias(self.owner)),
            format!("make link {name} for network {}", network.spec.name),
        )?;
        self.must_find(name)
    }

    fn run(&self, batch: &mut Batch, doing: String) -> Result<(), Error> {
        self.socket.run(batch).map_err(Error::kernel(doing))
    }

    fn find(&self, name: &str) -> Result<Option<Link>, Error> {
        self.socket
            .link(name)
            .map_err(Error::kernel(format!("find link {name}")))
    }

    fn must_find(&self, name: &str) -> Result<Link, Error> {
        self.find(name)?
            .ok_or_else(|| Error::Invalid(format!("link {name} is gone")))
    }
}

/// Whether `name` can be a link's.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let is_name = (1..16).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if is_name {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "invalid link name {name:?}: it has 1 to 15 characters, no slash and no space"
    )))
}

/// The subnets that the host finds elsewhere already.
pub(crate) fn routed(socket: &Socket) -> Result<Vec<Prefix>, Error> {
    let routes = socket
        .routes()
        .map_err(Error::kernel("read the host's routes"))?;
    Ok(routes
        .iter()
        .map(|route| route.destination)
        .filter(|prefix| prefix.length > 0)
        .collect())
}

/// The largest packet of the link that the default route leaves by.
pub(crate) fn uplink_mtu(socket: &Socket) -> Result<u32, Error> {
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

/// Whether this host's kernel has IPv6 at all.
pub(crate) fn knows_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Whether this host speaks IPv6.
pub(crate) fn has_ipv6() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6")
        .is_ok_and(|setting| setting.trim() == "0")
}

/// Lets this host pass packets on, as bridges need it.
pub(crate) fn forward_packets() -> Result<(), Error> {
    for (path, before) in [
        ("/proc/sys/net/ipv4/ip_forward", None),
        (
            "/proc/sys/net/ipv6/conf/all/forwarding",
            Some(keep_announced_routes as fn() -> Result<(), Error>),
        ),
    ] {
        match fs::read_to_string(path) {
            Ok(value) if value.trim() == "0" => {
                before.map_or(Ok(()), |prepare| prepare())?;
                fs::write(path, "1").map_err(Error::file(path))?;
            }
            // A host without IPv6 has nothing to pass on.
            _ => {}
        }
    }
    Ok(())
}

/// A host that passes packets on listens to no router unless it is told to all
/// the same; one whose own way out was announced by a router keeps it.
fn keep_announced_routes() -> Result<(), Error> {
    let folder = Path::new("/proc/sys/net/ipv6/conf");
    for entry in fs::read_dir(folder).map_err(Error::file(folder))?.flatten() {
        let name = entry.file_name();
        if name == "all" || name == "default" || name == "lo" {
            continue;
        }
        let path = entry.path().join("accept_ra");
        let listens = fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1");
        if listens {
            fs::write(&path, "2").map_err(Error::file(path))?;
        }
    }
    Ok(())
}

/// Deletes a link of the host; one that is gone already is no error.
pub(crate) fn delete_link(socket: &Socket, name: &str) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.delete_link(name);
    match socket.run(&mut batch) {
        Err(error) if !error.is_not_found() => {
            Err(Error::kernel(format!("delete link {name}"))(error))
        }
        _ => Ok(()),
    }
}
