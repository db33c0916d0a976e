//! Links: bridges and veth pairs, their settings, and looking them up.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::socket::{Error, Socket};
use crate::wire::{
    Attributes, Batch, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request, u32_at,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_TXQLEN: u16 = 13;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;

const IFF_UP: u32 = 1;
const INFO_HEADER: usize = 16;
const AF_BRIDGE: u8 = 7;

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Kind, for example `bridge` or `veth`; empty for hardware.
    pub kind: String,
    /// Free text that its maker attached.
    pub alias: String,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Hardware address, six bytes for Ethernet.
    pub address: Vec<u8>,
    /// True when the link is administratively up.
    pub is_up: bool,
}

/// A link to be made; see [`Batch::add_link`].
#[derive(Debug, Default)]
pub struct NewLink<'a> {
    kind: &'static str,
    name: &'a str,
    alias: Option<&'a str>,
    mtu: Option<u32>,
    address: Option<[u8; 6]>,
    master: Option<u32>,
    peer: Option<Peer<'a>>,
    bridged_filter: bool,
}

/// The other end of a veth pair, in a network namespace of its own. It is made
/// down: set it up with [`Batch::set_up`] from inside.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Interface name in that namespace.
    pub name: &'a str,
    /// Hardware address.
    pub address: [u8; 6],
    /// The namespace that receives it.
    pub namespace: BorrowedFd<'a>,
}

impl<'a> NewLink<'a> {
    /// A bridge; it is made up.
    pub fn bridge(name: &'a str) -> Self {
        Self {
            kind: "bridge",
            name,
            ..Self::default()
        }
    }

    /// A veth pair whose near end is made up and whose far end is `peer`.
    pub fn veth(name: &'a str, peer: Peer<'a>) -> Self {
        Self {
            kind: "veth",
            name,
            peer: Some(peer),
            ..Self::default()
        }
    }

    /// Attaches a text by which the maker knows the link again.
    #[must_use]
    pub fn alias(mut self, alias: &'a str) -> Self {
        self.alias = Some(alias);
        self
    }

    /// Sets the largest packet in bytes, at both ends of a pair.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Sets the hardware address of the near end.
    #[must_use]
    pub fn address(mut self, address: [u8; 6]) -> Self {
        self.address = Some(address);
        self
    }

    /// Makes the near end a port of the bridge with this index.
    #[must_use]
    pub fn master(mut self, index: u32) -> Self {
        self.master = Some(index);
        self
    }

    /// Lets packets that stay on the bridge pass the IP hooks, so that address
    /// translation is undone for them too. Needs the bridge filter.
    #[must_use]
    pub fn bridged_filter(mut self) -> Self {
        self.bridged_filter = true;
        self
    }
}

fn info_header(index: u32, flags: u32, change: u32) -> [u8; INFO_HEADER] {
    let mut header = [0; INFO_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

impl Batch {
    /// Makes a link (`RTM_NEWLINK`, exclusive) and sets it up.
    pub fn add_link(&mut self, link: &NewLink<'_>) -> &mut Self {
        let mut request = self.request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        request
            .header(&info_header(0, IFF_UP, IFF_UP))
            .string(IFLA_IFNAME, link.name);
        if let Some(mtu) = link.mtu {
            request.number(IFLA_MTU, mtu);
        }
        if let Some(address) = link.address {
            request.attribute(IFLA_ADDRESS, &address);
        }
        if let Some(master) = link.master {
            request.number(IFLA_MASTER, master);
        }
        request.nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, link.kind);
            if let Some(peer) = &link.peer {
                info.nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |far| peer_attributes(far, peer, link.mtu));
                });
            } else if link.bridged_filter {
                info.nest(IFLA_INFO_DATA, |data| {
                    data.attribute(IFLA_BR_NF_CALL_IPTABLES, &[1]);
                    data.attribute(IFLA_BR_NF_CALL_IP6TABLES, &[1]);
                });
            }
        });
        drop(request);
        if let Some(alias) = link.alias {
            // rtnetlink ignores the alias of a link under construction.
            self.request(RTM_NEWLINK, NLM_F_ACK)
                .header(&info_header(0, 0, 0))
                .string(IFLA_IFNAME, link.name)
                .attribute(IFLA_IFALIAS, alias.as_bytes());
        }
        self
    }

    /// Deletes the link of this name; the far end of a pair goes with it.
    pub fn delete_link(&mut self, name: &str) -> &mut Self {
        self.request(RTM_DELLINK, NLM_F_ACK)
            .header(&info_header(0, 0, 0))
            .string(IFLA_IFNAME, name);
        self
    }

    /// Sets the link with this index up.
    pub fn set_up(&mut self, index: u32) -> &mut Self {
        self.request(RTM_NEWLINK, NLM_F_ACK)
            .header(&info_header(index, IFF_UP, IFF_UP));
        self
    }

    /// Lets the bridge port with this index send packets back where they came
    /// from, which a container that reaches itself by a published port needs.
    pub fn set_hairpin(&mut self, index: u32) -> &mut Self {
        let mut header = info_header(index, 0, 0);
        header[0] = AF_BRIDGE;
        self.request(RTM_SETLINK, NLM_F_ACK)
            .header(&header)
            .nest(IFLA_PROTINFO, |port| {
                port.attribute(IFLA_BRPORT_MODE, &[1]);
            });
        self
    }
}

fn peer_attributes(far: &mut Request<'_>, peer: &Peer<'_>, mtu: Option<u32>) {
    // The kernel ties the ends together last, so neither can be made up here;
    // whoever owns the namespace sets the far end up.
    far.header(&info_header(0, 0, 0))
        .string(IFLA_IFNAME, peer.name)
        .attribute(IFLA_ADDRESS, &peer.address)
        .number(IFLA_NET_NS_FD, peer.namespace.as_raw_fd() as u32);
    if let Some(mtu) = mtu {
        far.number(IFLA_MTU, mtu);
    }
    // A queue of packets before a link that never blocks only adds latency.
    far.number(IFLA_TXQLEN, 0);
}

impl Socket {
    /// The link of this name, or `None`.
    ///
    /// # Errors
    ///
    /// Any refusal but "no such device".
    pub fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut batch = Batch::new();
        batch
            .request(RTM_GETLINK, 0)
            .header(&info_header(0, 0, 0))
            .string(IFLA_IFNAME, name);
        let mut found = None;
        match self.dump(&mut batch, |message| found = parse(&message)) {
            Ok(()) => Ok(found),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links of the namespace.
    ///
    /// # Errors
    ///
    /// The kernel's refusal or the socket's failure.
    pub fn links(&self) -> Result<Vec<Link>, Error> {
        let mut batch = Batch::new();
        batch
            .request(RTM_GETLINK, NLM_F_DUMP)
            .header(&info_header(0, 0, 0));
        let mut links = Vec::new();
        self.dump(&mut batch, |message| links.extend(parse(&message)))?;
        Ok(links)
    }
}

fn parse(message: &Message<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK || message.payload.len() < INFO_HEADER {
        return None;
    }
    let attributes = message.attributes(INFO_HEADER);
    let kind = attributes
        .get(IFLA_LINKINFO)
        .and_then(|info| Attributes::nested(info).string(IFLA_INFO_KIND))
        .unwrap_or_default();
    Some(Link {
        index: u32_at(message.payload, 4),
        name: attributes.string(IFLA_IFNAME)?,
        kind,
        alias: attributes.string(IFLA_IFALIAS).unwrap_or_default(),
        master: attributes.number(IFLA_MASTER),
        mtu: attributes.number(IFLA_MTU).unwrap_or_default(),
        address: attributes.get(IFLA_ADDRESS).unwrap_or_default().to_vec(),
        is_up: u32_at(message.payload, 8) & IFF_UP != 0,
    })
}
