//! The inside of a sandbox: its links, addresses, routes and name service.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use dhow_netlink::{Batch, Namespace, Prefix, Route, Socket};
use dhow_nft::{Family, Table};

use crate::error::Error;
use crate::rules;

/// A network namespace, and a socket that speaks to its kernel.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The namespace.
    pub(crate) namespace: Namespace,
    socket: Socket,
}

/// How the inside of a sandbox is joined to a network.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    /// Name of the link.
    pub(crate) interface: &'a str,
    /// Whether it leads to a bridge of ours.
    pub(crate) is_bridged: bool,
    /// Addresses with the length of their subnet.
    pub(crate) addresses: Vec<Prefix>,
    /// Kernel parameters of the link.
    pub(crate) sysctls: &'a [(String, String)],
}

/// The ways out of a sandbox: what has its default routes, and who answers its
/// questions for names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// Link and next hop, if any, of the IPv4 default route.
    pub(crate) v4: Option<(String, Option<IpAddr>)>,
    /// The same of IPv6.
    pub(crate) v6: Option<(String, Option<IpAddr>)>,
    /// Who answers questions for names.
    pub(crate) names: Names,
}

/// Who answers a sandbox's questions for names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Names {
    /// Nobody of ours.
    #[default]
    Nobody,
    /// The server at our own address on a bridge, by this link.
    Bridge(String, Ipv4Addr),
    /// A server inside, where there is no bridge that leads to ours.
    Inside,
}

impl Prepared {
    /// Makes a namespace whose loopback link is up, and in which addresses are
    /// what we say they are: no router on a network of containers announces
    /// others.
    pub(crate) fn make() -> Result<Self, Error> {
        let (namespace, socket) = Namespace::create_with(furnish)?;
        Ok(Self {
            namespace,
            socket: socket?,
        })
    }

    /// Does the same for a new namespace that is there already.
    pub(crate) fn furnish(namespace: Namespace) -> Result<Self, Error> {
        let socket = namespace.run(furnish)??;
        Ok(Self { namespace, socket })
    }

    /// Pins the namespace to `path`; see [`Namespace::pin`].
    pub(crate) fn pin(self, path: &Path) -> Result<Self, Error> {
        Ok(Self {
            namespace: self.namespace.pin(path)?,
            socket: self.socket,
        })
    }

    /// Opens the namespace that is pinned at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let namespace = Namespace::open(path)?;
        let socket = namespace
            .run(Socket::route)?
            .map_err(Error::kernel("open a sandbox"))?;
        Ok(Self { namespace, socket })
    }

    /// Gives a link that is there already its addresses and sets it up.
    pub(crate) fn configure(&self, inside: &Inside<'_>) -> Result<(), Error> {
        let link = self.link(inside.interface)?;
        let speaks_ipv6 = inside
            .addresses
            .iter()
            .any(|prefix| prefix.address.is_ipv6());
        if !speaks_ipv6 || !inside.is_bridged || !inside.sysctls.is_empty() {
            self.namespace.run(|| -> Result<(), Error> {
                if !inside.is_bridged {
                    set(&mld_version(inside.interface), "0")?;
                }
                if !speaks_ipv6 {
                    set(&format!("ipv6/conf/{}/disable_ipv6", inside.interface), "1")?;
                }
                for (path, value) in inside.sysctls {
                    let path = path.replace("IFNAME", inside.interface);
                    let full = format!("/proc/sys/net/{path}");
                    fs::write(&full, value).map_err(Error::file(full))?;
                }
                Ok(())
            })??;
        }
        let mut batch = Batch::new();
        for address in &inside.addresses {
            batch.add_address(link, *address);
        }
        batch.set_up(link);
        self.socket
            .run(&mut batch)
            .map_err(Error::kernel("give the sandbox its addresses"))
    }

    /// Changes the ways out from what they were. The socket that is returned is
    /// to be closed when nobody waits.
    pub(crate) fn lead(
        &self,
        table: &str,
        old: &Ways,
        new: &Ways,
    ) -> Result<Option<Socket>, Error> {
        let mut batch = Batch::new();
        for (is_ipv4, old, new) in [(true, &old.v4, &new.v4), (false, &old.v6, &new.v6)] {
            if old == new {
                continue;
            }
            if let Some((interface, gateway)) = old
                && let Some(link) = self.find(interface)?
            {
                batch.delete_route(default_route(is_ipv4, *gateway, link));
            }
            if let Some((interface, gateway)) = new {
                batch.add_route(default_route(is_ipv4, *gateway, self.link(interface)?));
            }
        }
        if !batch.is_empty() {
            for result in self
                .socket
                .run_each(&mut batch)
                .map_err(Error::kernel("set the sandbox's default route"))?
            {
                match result {
                    // The old one went with its link.
                    Err(error) if !error.is_not_found() => {
                        return Err(Error::kernel("set the sandbox's default route")(error));
                    }
                    _ => {}
                }
            }
        }
        match (&old.names, &new.names) {
            (Names::Bridge(..), Names::Nobody | Names::Inside) => {
                self.answer_names(table, None).map(Some)
            }
            (old, Names::Bridge(interface, server)) if *old != new.names => {
                let mut batch = Batch::new();
                batch.set_route_localnet(self.link(interface)?);
                self.socket
                    .run(&mut batch)
                    .map_err(Error::kernel("let questions for names out"))?;
                self.answer_names(table, Some(*server)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Leads questions for names to `server`, or nowhere.
    fn answer_names(&self, table: &str, server: Option<Ipv4Addr>) -> Result<Socket, Error> {
        let table = Table {
            family: Family::Ip,
            name: table.into(),
        };
        self.namespace.run(|| {
            let socket = Socket::netfilter().map_err(Error::kernel("open a sandbox"))?;
            match server {
                Some(server) => rules::names_in_sandbox(&socket, &table, server.octets()),
                None => rules::no_names_in_sandbox(&socket, &table),
            }
            .map_err(Error::kernel("redirect the sandbox's questions for names"))?;
            Ok(socket)
        })?
    }

    /// Removes a link of the namespace.
    pub(crate) fn remove_link(&self, name: &str) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.delete_link(name);
        match self.socket.run(&mut batch) {
            Err(error) if !error.is_not_found() => {
                Err(Error::kernel(format!("remove link {name}"))(error))
            }
            _ => Ok(()),
        }
    }

    fn find(&self, interface: &str) -> Result<Option<u32>, Error> {
        let found = self
            .socket
            .link(interface)
            .map_err(Error::kernel("find the sandbox's link"))?;
        Ok(found.map(|link| link.index))
    }

    fn link(&self, interface: &str) -> Result<u32, Error> {
        self.find(interface)?
            .ok_or_else(|| Error::Invalid(format!("link {interface} is gone")))
    }
}

fn default_route(is_ipv4: bool, gateway: Option<IpAddr>, link: u32) -> Route {
    Route {
        destination: Prefix::everything(is_ipv4),
        gateway,
        link,
    }
}

/// Prepares the namespace that the thread is in.
fn furnish() -> Result<Socket, Error> {
    set("ipv6/conf/default/accept_ra", "0")?;
    // Reports in the form of the first version go to whoever asks for them, which is
    // the bridge; those of the second would go to every port of it.
    set(&mld_version("default"), "1")?;
    let socket = Socket::route().map_err(Error::kernel("open a sandbox"))?;
    let mut batch = Batch::new();
    batch.set_up(1);
    socket
        .run(&mut batch)
        .map_err(Error::kernel("set the loopback link up"))?;
    Ok(socket)
}

/// The kernel parameter of the version of multicast listener discovery that a link
/// speaks; 0 is for the newest that is asked in.
fn mld_version(link: &str) -> String {
    format!("ipv6/conf/{link}/force_mld_version")
}

/// Sets a kernel parameter of the namespace that the thread is in; one that a
/// kernel without IPv6 does not have is no error.
fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{name}");
    match fs::write(&path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file(path)(error)),
        _ => Ok(()),
    }
}
