//! Links: bridges, veth pairs and links on top of others; their settings, and
//! looking them up.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::socket::{Error, Socket};
use crate::wire::{
    Attributes, Batch, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request, u32_at,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_TXQLEN: u16 = 13;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BR_MCAST_QUERIER: u16 = 25;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// The link makes itself no IPv6 address (`IN6_ADDR_GEN_MODE_NONE`).
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const ADDR_GEN_NONE: u8 = 1;
/// Place of `route_localnet` among a link's IPv4 settings
/// (`IPV4_DEVCONF_ROUTE_LOCALNET`).
const ROUTE_LOCALNET: u16 = 26;

const IFF_UP: u32 = 1;
const INFO_HEADER: usize = 16;

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
    /// Index of the link it lies on, or of the other end of a pair.
    pub parent: Option<u32>,
    /// Number of the group it is in; zero unless somebody put it in one.
    pub group: u32,
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
    group: Option<u32>,
    parent: Option<u32>,
    namespace: Option<BorrowedFd<'a>>,
    is_down: bool,
    kind_data: KindData<'a>,
}

/// What only links of one kind have.
#[derive(Debug, Default)]
enum KindData<'a> {
    #[default]
    None,
    Peer(Peer<'a>),
    BridgedFilter,
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode, IpvlanReach),
    Vlan(u16),
}

/// Who hears whom on a macvlan link (`linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Nobody hears another link on the same parent.
    Private = 1,
    /// Others are heard if the switch outside sends their packets back.
    Vepa = 2,
    /// All hear each other.
    Bridge = 4,
    /// The link takes the parent over; there can be only one.
    Passthru = 8,
}

/// Where packets of an ipvlan link are routed (`linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// By the link itself; it speaks to its neighbours.
    L2 = 0,
    /// By its parent; it has no neighbours.
    L3 = 1,
    /// The same, and its parent's packet filter and connection tracking see it.
    L3s = 2,
}

/// Who hears whom on an ipvlan link (`IPVLAN_F_`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanReach {
    /// All on the same parent hear each other.
    Bridge = 0,
    /// Nobody hears another.
    Private = 1,
    /// Others are heard if the switch outside sends their packets back.
    Vepa = 2,
}

/// How a port of a bridge behaves; see [`Batch::set_port`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// Packets may go back where they came from, which a container that
    /// reaches itself by a published port needs.
    pub hairpin: bool,
    /// Nothing goes to, or comes from, other isolated ports.
    pub isolated: bool,
    /// It makes itself no IPv6 address, as a mere port needs none, when it comes
    /// up after this. The kernel must speak IPv6.
    pub addressless: bool,
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
            kind_data: KindData::Peer(peer),
            ..Self::default()
        }
    }

    /// A link with an address of its own on `parent`, the index of another.
    pub fn macvlan(name: &'a str, parent: u32, mode: MacvlanMode) -> Self {
        Self {
            kind: "macvlan",
            name,
            parent: Some(parent),
            kind_data: KindData::Macvlan(mode),
            ..Self::default()
        }
    }

    /// A link with the hardware address of `parent`, the index of another.
    pub fn ipvlan(name: &'a str, parent: u32, mode: IpvlanMode, reach: IpvlanReach) -> Self {
        Self {
            kind: "ipvlan",
            name,
            parent: Some(parent),
            kind_data: KindData::Ipvlan(mode, reach),
            ..Self::default()
        }
    }

    /// A tagged VLAN on `parent`; it is made up.
    pub fn vlan(name: &'a str, parent: u32, id: u16) -> Self {
        Self {
            kind: "vlan",
            name,
            parent: Some(parent),
            kind_data: KindData::Vlan(id),
            ..Self::default()
        }
    }

    /// A link that leads nowhere; it is made up.
    pub fn dummy(name: &'a str) -> Self {
        Self {
            kind: "dummy",
            name,
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
        self.kind_data = KindData::BridgedFilter;
        self
    }

    /// Puts the near end into a group, by whose number many links are found and
    /// deleted at once.
    #[must_use]
    pub fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// Leaves the link down.
    #[must_use]
    pub fn down(mut self) -> Self {
        self.is_down = true;
        self
    }

    /// Makes the link in another network namespace, down.
    #[must_use]
    pub fn namespace(mut self, namespace: BorrowedFd<'a>) -> Self {
        self.namespace = Some(namespace);
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
    /// Makes a link (`RTM_NEWLINK`, exclusive) and sets it up, unless it is to be
    /// left down or made in another namespace.
    pub fn add_link(&mut self, link: &NewLink<'_>) -> &mut Self {
        let is_down = link.is_down || link.namespace.is_some();
        let flags = if is_down { 0 } else { IFF_UP };
        let mut request = self.request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        request
            .header(&info_header(0, flags, flags))
            .string(IFLA_IFNAME, link.name);
        for (kind, number) in [
            (IFLA_MTU, link.mtu),
            (IFLA_MASTER, link.master),
            (IFLA_GROUP, link.group),
            (IFLA_LINK, link.parent),
        ] {
            if let Some(number) = number {
                request.number(kind, number);
            }
        }
        if let Some(address) = link.address {
            request.attribute(IFLA_ADDRESS, &address);
        }
        if let Some(namespace) = link.namespace {
            request.number(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
        }
        request.nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, link.kind);
            if !matches!(link.kind_data, KindData::None) {
                info.nest(IFLA_INFO_DATA, |data| {
                    link.kind_data.write(data, link.mtu);
                });
            }
        });
        drop(request);
        if let Some(alias) = link.alias {
            // rtnetlink ignores the alias of a link under construction.
            self.by_name(link.name)
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

    /// Deletes all links of a group together. The kernel waits for everybody
    /// who may still look at a link, once for all of them instead of several
    /// times for each, which is what deletion costs. A group that has no links
    /// is "not found".
    pub fn delete_group(&mut self, group: u32) -> &mut Self {
        self.request(RTM_DELLINK, NLM_F_ACK)
            .header(&info_header(0, 0, 0))
            .number(IFLA_GROUP, group);
        self
    }

    /// Puts the link of this name into a group.
    pub fn set_group(&mut self, name: &str, group: u32) -> &mut Self {
        self.by_name(name).number(IFLA_GROUP, group);
        self
    }

    /// Sets the link with this index up.
    pub fn set_up(&mut self, index: u32) -> &mut Self {
        self.request(RTM_NEWLINK, NLM_F_ACK)
            .header(&info_header(index, IFF_UP, IFF_UP));
        self
    }

    /// Says how the bridge port of this name behaves.
    pub fn set_port(&mut self, name: &str, port: Port) -> &mut Self {
        let mut request = self.by_name(name);
        request.nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_SLAVE_KIND, "bridge");
            info.nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attribute(IFLA_BRPORT_MODE, &[u8::from(port.hairpin)])
                    .attribute(IFLA_BRPORT_ISOLATED, &[u8::from(port.isolated)]);
            });
        });
        if port.addressless {
            request.nest(IFLA_AF_SPEC, |families| {
                families.nest(libc::AF_INET6 as u16, |settings| {
                    settings.attribute(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
                });
            });
        }
        drop(request);
        self
    }

    /// Lets the bridge with this index ask its ports which multicast groups they
    /// are in (RFC 4541, by IGMPv2 and MLDv1), and send those packets to members alone;
    /// one that does not ask sends them to everybody. So are reports of the later
    /// versions of both protocols.
    pub fn set_querier(&mut self, index: u32) -> &mut Self {
        self.request(RTM_NEWLINK, NLM_F_ACK)
            .header(&info_header(index, 0, 0))
            .nest(IFLA_LINKINFO, |info| {
                info.string(IFLA_INFO_KIND, "bridge");
                info.nest(IFLA_INFO_DATA, |data| {
                    data.attribute(IFLA_BR_MCAST_QUERIER, &[1]);
                });
            });
        self
    }

    /// Sets the link of this name up.
    pub fn set_up_named(&mut self, name: &str) -> &mut Self {
        self.request(RTM_NEWLINK, NLM_F_ACK)
            .header(&info_header(0, IFF_UP, IFF_UP))
            .string(IFLA_IFNAME, name);
        self
    }

    /// Lets packets to and from loopback addresses pass the link with this
    /// index. Whoever does so must keep strangers' ones out.
    pub fn set_route_localnet(&mut self, index: u32) -> &mut Self {
        self.request(RTM_NEWLINK, NLM_F_ACK)
            .header(&info_header(index, 0, 0))
            .nest(IFLA_AF_SPEC, |families| {
                families.nest(libc::AF_INET as u16, |settings| {
                    settings.nest(IFLA_INET_CONF, |conf| {
                        conf.number(ROUTE_LOCALNET, 1);
                    });
                });
            });
        self
    }

    fn by_name(&mut self, name: &str) -> Request<'_> {
        let mut request = self.request(RTM_NEWLINK, NLM_F_ACK);
        request
            .header(&info_header(0, 0, 0))
            .string(IFLA_IFNAME, name);
        request
    }
}

impl KindData<'_> {
    fn write(&self, data: &mut Request<'_>, mtu: Option<u32>) {
        match self {
            KindData::None => {}
            KindData::Peer(peer) => {
                data.nest(VETH_INFO_PEER, |far| peer_attributes(far, peer, mtu));
            }
            KindData::BridgedFilter => {
                data.attribute(IFLA_BR_NF_CALL_IPTABLES, &[1])
                    .attribute(IFLA_BR_NF_CALL_IP6TABLES, &[1]);
            }
            KindData::Macvlan(mode) => {
                data.number(IFLA_MACVLAN_MODE, *mode as u32);
            }
            KindData::Ipvlan(mode, reach) => {
                data.attribute(IFLA_IPVLAN_MODE, &(*mode as u16).to_ne_bytes())
                    .attribute(IFLA_IPVLAN_FLAGS, &(*reach as u16).to_ne_bytes());
            }
            KindData::Vlan(id) => {
                data.attribute(IFLA_VLAN_ID, &id.to_ne_bytes());
            }
        }
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
        parent: attributes.number(IFLA_LINK),
        group: attributes.number(IFLA_GROUP).unwrap_or_default(),
        mtu: attributes.number(IFLA_MTU).unwrap_or_default(),
        address: attributes.get(IFLA_ADDRESS).unwrap_or_default().to_vec(),
        is_up: u32_at(message.payload, 8) & IFF_UP != 0,
    })
}
