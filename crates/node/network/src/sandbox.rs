//! The inside of a sandbox: its links, addresses, routes and name service.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhow_netlink::{Batch, Namespace, Prefix, Route, Socket};
use dhow_nft::{Family, Table};

use crate::error::Error;
use crate::rules;

/// How the inside of a sandbox is joined to a network.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    /// Name of the link.
    pub(crate) interface: &'a str,
    /// Addresses with the length of their subnet.
    pub(crate) addresses: Vec<Prefix>,
    /// Next hops of the default routes; empty on an internal network, or where
    /// another network has them.
    pub(crate) gateways: Vec<IpAddr>,
    /// Who answers questions for names.
    pub(crate) name_server: Option<Ipv4Addr>,
    /// Name of the table that redirects those questions.
    pub(crate) table: &'a str,
}

/// Sets a new namespace's loopback link up.
pub(crate) fn loopback_up(namespace: &Namespace) -> Result<(), Error> {
    let socket = namespace
        .run(Socket::route)?
        .map_err(Error::kernel("open a sandbox"))?;
    let mut batch = Batch::new();
    batch.set_up(1);
    socket
        .run(&mut batch)
        .map_err(Error::kernel("set the loopback link up"))
}

/// Carries out [`Inside`] in `namespace`, whose link is there already.
pub(crate) fn configure(namespace: &Namespace, inside: &Inside<'_>) -> Result<(), Error> {
    namespace.run(|| {
        let socket = Socket::route().map_err(Error::kernel("open a sandbox"))?;
        let link = socket
            .link(inside.interface)
            .map_err(Error::kernel("find the sandbox's link"))?
            .ok_or_else(|| Error::Invalid(format!("link {} is gone", inside.interface)))?;
        let mut batch = Batch::new();
        for address in &inside.addresses {
            batch.add_address(link.index, *address);
        }
        batch.set_up(link.index);
        for gateway in &inside.gateways {
            let any = match gateway {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            batch.add_route(Route {
                destination: Prefix {
                    address: any,
                    length: 0,
                },
                gateway: Some(*gateway),
                link: link.index,
            });
        }
        socket
            .run(&mut batch)
            .map_err(Error::kernel("give the sandbox its addresses"))?;

        if let Some(server) = inside.name_server {
            // The thread is in the namespace, so this path names its setting.
            let path = "/proc/sys/net/ipv4/conf/all/route_localnet";
            fs::write(path, "1").map_err(Error::file(path))?;
            let socket = Socket::netfilter().map_err(Error::kernel("open a sandbox"))?;
            let table = Table {
                family: Family::Ip,
                name: inside.table.into(),
            };
            rules::names_in_sandbox(&socket, &table, server.octets())
                .map_err(Error::kernel("redirect the sandbox's questions for names"))?;
        }
        Ok(())
    })?
}
