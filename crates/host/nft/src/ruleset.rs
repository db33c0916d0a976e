//! Tables, chains, sets and their elements, as values.

use crate::expression::Verdict;

/// The protocol family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// A table: the unit of ownership.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    /// Protocol family.
    pub family: Family,
    /// Name, at most 255 bytes.
    pub name: String,
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Packets are filtered.
    Filter,
    /// The first packet of a connection decides about address translation.
    Nat,
}

/// Where a base chain meets packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// As they come in, before routing.
    Prerouting = 0,
    /// Bound for this host.
    Input = 1,
    /// Passing through.
    Forward = 2,
    /// Sent by this host.
    Output = 3,
    /// As they leave, after routing.
    Postrouting = 4,
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Name, unique in its table.
    pub name: &'a str,
    /// For a base chain: its kind, hook and priority. Its policy is to accept.
    pub base: Option<(ChainKind, Hook, i32)>,
}

/// The type of a key or value: its wire length, and the number by which the
/// `nft` program knows how to print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// IPv4 address.
    Ipv4,
    /// IPv6 address.
    Ipv6,
    /// Transport protocol number.
    Protocol,
    /// Port in network order.
    Port,
    /// Interface name, padded with zeros.
    Interface,
    /// A 32-bit number in host order. The `nft` program cannot print it as part
    /// of a concatenation; use [`DataType::Mark`] there.
    Number,
    /// A 32-bit number in host order, printed as packet marks are.
    Mark,
    /// A verdict (values only).
    Verdict,
}

impl DataType {
    /// Bytes of the bare value.
    pub(crate) fn length(self) -> u32 {
        match self {
            DataType::Ipv4 | DataType::Number | DataType::Mark => 4,
            DataType::Ipv6 | DataType::Interface | DataType::Verdict => 16,
            DataType::Protocol => 1,
            DataType::Port => 2,
        }
    }

    /// Bytes it takes in a concatenation: whole registers.
    pub(crate) fn padded(self) -> u32 {
        self.length().next_multiple_of(4)
    }

    pub(crate) fn wire(self) -> u32 {
        match self {
            DataType::Ipv4 => 7,
            DataType::Ipv6 => 8,
            DataType::Protocol => 12,
            DataType::Port => 13,
            DataType::Interface => 41,
            DataType::Number => 4,
            DataType::Mark => 19,
            DataType::Verdict => 0xffff_ff00,
        }
    }
}

/// A set, or a map if it has a value type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set<'a> {
    /// Name, unique in its table.
    pub name: &'a str,
    /// Types of the key's fields; several make a concatenation.
    pub key: &'a [DataType],
    /// Types of the value's fields; empty for a plain set.
    pub value: &'a [DataType],
    /// What its elements are.
    pub members: Members,
}

/// What the elements of a set or map are, and who adds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members {
    /// Single keys.
    Keys,
    /// Ranges of keys: [`Element::Range`] of one field, [`Element::Span`] of
    /// several.
    Ranges,
    /// Single keys that packets add ([`crate::Expression::Learn`]) and that may
    /// time out; at most so many.
    Learned {
        /// The largest number of elements.
        capacity: u32,
    },
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A key of a set.
    Key(Vec<u8>),
    /// All keys from the first (included) to the second (excluded; none means
    /// to the end).
    Range(Vec<u8>, Option<Vec<u8>>),
    /// All keys each of whose fields lies between that of the first and that of
    /// the last (both included).
    Span(Vec<u8>, Vec<u8>),
    /// A key of a map with its value.
    Map(Vec<u8>, Vec<u8>),
    /// A key of a verdict map with its verdict.
    Verdict(Vec<u8>, Verdict),
}

impl Element {
    /// Joins the fields of a key or value, padding each to whole registers.
    pub fn concat(fields: &[&[u8]]) -> Vec<u8> {
        let mut joined = Vec::new();
        for field in fields {
            joined.extend_from_slice(field);
            joined.resize(joined.len().next_multiple_of(4), 0);
        }
        joined
    }
}

/// The 16 bytes by which an interface name is matched.
///
/// # Panics
///
/// When the name is longer than the kernel allows (15 bytes).
pub fn interface(name: &str) -> [u8; 16] {
    assert!(name.len() < 16, "an interface name has at most 15 bytes");
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}
