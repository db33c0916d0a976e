//! The expressions that rules are made of (`linux/netfilter/nf_tables.h`).

use dhow_netlink::Request;

use crate::ruleset::Family;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// One of the sixteen 32-bit registers, 0 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// The register's number on the wire (`NFT_REG32_00` is 8).
    fn wire(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes this chain; later hooks still see it.
    Accept,
    /// It is dropped silently.
    Drop,
    /// Evaluation goes on in the chain named and returns.
    Jump(String),
    /// Evaluation goes on in the chain named and does not return.
    Goto(String),
    /// Evaluation goes back to the calling chain.
    Return,
}

impl Verdict {
    pub(crate) fn write(&self, data: &mut Request<'_>) {
        let (code, chain) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        data.nest(NFTA_DATA_VERDICT, |verdict| {
            verdict.number_be(NFTA_VERDICT_CODE, code as u32);
            if let Some(chain) = chain {
                verdict.string(NFTA_VERDICT_CHAIN, chain);
            }
        });
    }
}

/// Where in the packet a [`Expression::Payload`] begins to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// The network header: IPv4 or IPv6.
    Network = 1,
    /// The transport header: TCP, UDP or SCTP.
    Transport = 2,
}

/// What the kernel knows about a packet besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// Packet mark, 4 bytes.
    Mark = 3,
    /// Name of the incoming interface, 16 bytes.
    InputName = 6,
    /// Name of the outgoing interface, 16 bytes.
    OutputName = 7,
    /// Transport protocol, 1 byte.
    TransportProtocol = 16,
}

/// What connection tracking knows about a packet, 4 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ct {
    /// State bits: invalid 1, established 2, related 4, new 8.
    State = 0,
    /// Status bits: source translated 16, destination translated 32.
    Status = 2,
}

/// Where a connection was bound for before any translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Original {
    /// Destination port in network order, 2 bytes.
    Port = 12,
    /// IPv4 destination, 4 bytes.
    Ipv4 = 20,
    /// IPv6 destination, 16 bytes.
    Ipv6 = 22,
}

/// How a register compares with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmp {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
}

/// The direction of address translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// The source is rewritten.
    Source = 0,
    /// The destination is rewritten.
    Destination = 1,
}

/// One step of a rule. A step that does not match ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads `length` bytes of the packet.
    Payload {
        /// Which header.
        base: Payload,
        /// Offset in it, in bytes.
        offset: u32,
        /// Bytes to load.
        length: u32,
        /// First register that receives them.
        to: Register,
    },
    /// Writes an address into the packet, and corrects its checksums. Connection
    /// tracking takes no part in it.
    Rewrite {
        /// Which end.
        end: Nat,
        /// Family of the address.
        family: Family,
        /// First register of the address.
        from: Register,
    },
    /// Keeps the packet from connection tracking.
    Untracked,
    /// Loads what the kernel knows about the packet.
    Meta {
        /// Which fact.
        key: Meta,
        /// First register that receives it.
        to: Register,
    },
    /// Marks the packet with the register's value.
    SetMark {
        /// The register read.
        from: Register,
    },
    /// Loads what connection tracking knows.
    Ct {
        /// Which fact.
        key: Ct,
        /// The register that receives it.
        to: Register,
    },
    /// Loads where the connection was bound for before any translation.
    CtOriginal {
        /// Which part.
        key: Original,
        /// First register that receives it.
        to: Register,
    },
    /// Loads the address type (`RTN_LOCAL` is 2) of the destination, 4 bytes.
    DestinationType {
        /// The register that receives it.
        to: Register,
    },
    /// Compares and goes on when it holds.
    Cmp {
        /// First register compared.
        from: Register,
        /// How.
        operation: Cmp,
        /// With what, as many bytes as are compared.
        value: Vec<u8>,
    },
    /// `register = (register & mask) ^ xor`, in place.
    Bitwise {
        /// First register.
        register: Register,
        /// Mask, as long as the value.
        mask: Vec<u8>,
        /// Bits to flip, as long as the value.
        xor: Vec<u8>,
    },
    /// Goes on when the key is in the set (not in it, if `invert`); of a map,
    /// loads the value.
    Lookup {
        /// Name of the set or map.
        set: String,
        /// First register of the key.
        from: Register,
        /// First register that receives a map's value.
        to: Option<Register>,
        /// Match keys that are not in the set.
        invert: bool,
    },
    /// Looks the key up in a verdict map and does what it says.
    VerdictMap {
        /// Name of the map.
        map: String,
        /// First register of the key.
        from: Register,
    },
    /// Loads a constant.
    Immediate {
        /// First register that receives it.
        to: Register,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Translates an address and optionally a port.
    Nat {
        /// Which end.
        kind: Nat,
        /// Family of the address.
        family: Family,
        /// First register of the address.
        address: Register,
        /// Register of the port, in network order.
        port: Option<Register>,
    },
    /// Translates the source to the outgoing interface's address.
    Masquerade,
    /// Adds an element to a learning set or map from the packet's path, and goes
    /// on. The timeout of one that is there starts again; its value stays.
    Learn {
        /// Name of the set or map.
        set: String,
        /// First register of the key.
        key: Register,
        /// First register of a map's value.
        value: Option<Register>,
        /// When the element is forgotten, in milliseconds from now.
        timeout: Option<u64>,
    },
    /// Loads `offset` and a random number below `modulus`, in host order.
    Random {
        /// The number of outcomes.
        modulus: u32,
        /// What is added to it.
        offset: u32,
        /// The register that receives it.
        to: Register,
    },
    /// Refuses with ICMP "port unreachable", or a reset for TCP.
    Reject(Rejection),
    /// Counts packets and bytes.
    Counter,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// ICMP or ICMPv6 "port unreachable", as tables of this family say it. Of
    /// another family it would drop in silence.
    PortUnreachable(Family),
    /// TCP reset.
    Reset,
}

fn value(request: &mut Request<'_>, kind: u16, bytes: &[u8]) {
    request.nest(kind, |data| {
        data.attribute(NFTA_DATA_VALUE, bytes);
    });
}

impl Family {
    /// Where an address is in the network header of this family, and how long it
    /// is, in bytes.
    pub(crate) fn place(self, end: Nat) -> (u32, u32) {
        match (self, end) {
            (Family::Ip, Nat::Source) => (12, 4),
            (Family::Ip, Nat::Destination) => (16, 4),
            (_, Nat::Source) => (8, 16),
            (_, Nat::Destination) => (24, 16),
        }
    }
}

impl Expression {
    /// Appends the expression to a rule's list.
    pub(crate) fn write(&self, list: &mut Request<'_>) {
        list.nest(NFTA_LIST_ELEM, |element| {
            element.string(NFTA_EXPR_NAME, self.name());
            element.nest(NFTA_EXPR_DATA, |data| self.write_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Expression::Payload { .. } | Expression::Rewrite { .. } => "payload",
            Expression::Untracked => "notrack",
            Expression::Meta { .. } | Expression::SetMark { .. } => "meta",
            Expression::Ct { .. } | Expression::CtOriginal { .. } => "ct",
            Expression::DestinationType { .. } => "fib",
            Expression::Cmp { .. } => "cmp",
            Expression::Bitwise { .. } => "bitwise",
            Expression::Lookup { .. } | Expression::VerdictMap { .. } => "lookup",
            Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
            Expression::Nat { .. } => "nat",
            Expression::Masquerade => "masq",
            Expression::Learn { .. } => "dynset",
            Expression::Random { .. } => "numgen",
            Expression::Reject(_) => "reject",
            Expression::Counter => "counter",
        }
    }

    fn write_data(&self, data: &mut Request<'_>) {
        match self {
            Expression::Payload {
                base,
                offset,
                length,
                to,
            } => {
                data.number_be(1, to.wire())
                    .number_be(2, *base as u32)
                    .number_be(3, *offset)
                    .number_be(4, *length);
            }
            Expression::Rewrite { end, family, from } => {
                let (offset, length) = family.place(*end);
                // The header's own checksum (NFT_PAYLOAD_CSUM_INET), if it has one.
                let (kind, place) = if *family == Family::Ip {
                    (1, 10)
                } else {
                    (0, 0)
                };
                data.number_be(2, Payload::Network as u32)
                    .number_be(3, offset)
                    .number_be(4, length)
                    .number_be(5, from.wire())
                    .number_be(6, kind)
                    .number_be(7, place)
                    // NFT_PAYLOAD_L4CSUM_PSEUDOHDR.
                    .number_be(8, 1);
            }
            Expression::Meta { key, to } => {
                data.number_be(1, to.wire()).number_be(2, *key as u32);
            }
            Expression::SetMark { from } => {
                data.number_be(2, Meta::Mark as u32)
                    .number_be(3, from.wire());
            }
            Expression::Ct { key, to } => {
                data.number_be(1, to.wire()).number_be(2, *key as u32);
            }
            Expression::CtOriginal { key, to } => {
                // IP_CT_DIR_ORIGINAL.
                data.number_be(1, to.wire())
                    .number_be(2, *key as u32)
                    .attribute(3, &[0]);
            }
            Expression::DestinationType { to } => {
                // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
                data.number_be(1, to.wire()).number_be(2, 3).number_be(3, 2);
            }
            Expression::Cmp {
                from,
                operation,
                value: bytes,
            } => {
                data.number_be(1, from.wire())
                    .number_be(2, *operation as u32);
                value(data, 3, bytes);
            }
            Expression::Bitwise {
                register,
                mask,
                xor,
            } => {
                data.number_be(1, register.wire())
                    .number_be(2, register.wire())
                    .number_be(3, mask.len() as u32);
                value(data, 4, mask);
                value(data, 5, xor);
            }
            Expression::Lookup {
                set,
                from,
                to,
                invert,
            } => {
                data.string(1, set).number_be(2, from.wire());
                if let Some(to) = to {
                    data.number_be(3, to.wire());
                }
                data.number_be(5, u32::from(*invert));
            }
            Expression::VerdictMap { map, from } => {
                // Register 0 is the verdict.
                data.string(1, map)
                    .number_be(2, from.wire())
                    .number_be(3, 0);
            }
            Expression::Immediate { to, value: bytes } => {
                data.number_be(1, to.wire());
                value(data, 2, bytes);
            }
            Expression::Verdict(verdict) => {
                data.number_be(1, 0).nest(2, |nest| verdict.write(nest));
            }
            Expression::Nat {
                kind,
                family,
                address,
                port,
            } => {
                data.number_be(1, *kind as u32)
                    .number_be(2, *family as u32)
                    .number_be(3, address.wire());
                if let Some(port) = port {
                    data.number_be(5, port.wire());
                }
            }
            Expression::Masquerade | Expression::Counter | Expression::Untracked => {}
            Expression::Learn {
                set,
                key,
                value,
                timeout,
            } => {
                // NFT_DYNSET_OP_UPDATE.
                data.string(1, set).number_be(3, 1).number_be(4, key.wire());
                if let Some(value) = value {
                    data.number_be(5, value.wire());
                }
                if let Some(timeout) = timeout {
                    data.attribute(6, &timeout.to_be_bytes());
                }
            }
            Expression::Random {
                modulus,
                offset,
                to,
            } => {
                // NFT_NG_RANDOM.
                data.number_be(1, to.wire())
                    .number_be(2, *modulus)
                    .number_be(3, 1)
                    .number_be(4, *offset);
            }
            Expression::Reject(rejection) => {
                let (kind, code) = match rejection {
                    // NFT_REJECT_ICMP_UNREACH with ICMP_PORT_UNREACH.
                    Rejection::PortUnreachable(Family::Ip) => (0, 3),
                    // NFT_REJECT_ICMP_UNREACH with ICMPV6_PORT_UNREACH.
                    Rejection::PortUnreachable(Family::Ip6) => (0, 4),
                    // NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_PORT_UNREACH.
                    Rejection::PortUnreachable(Family::Inet) => (2, 1),
                    Rejection::Reset => (1, 0),
                };
                data.number_be(1, kind).attribute(2, &[code]);
            }
        }
    }
}
