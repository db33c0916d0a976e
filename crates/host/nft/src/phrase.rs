//! Phrases: the steps, and short runs of steps, that rules are mostly made of.
//!
//! Registers are given by number ([`Register`]); an address takes
//! [`address_registers`] of them.

use std::net::Ipv6Addr;

use crate::expression::{Cmp, Ct, Expression, Meta, Nat, Original, Payload, Register, Verdict};
use crate::ruleset::{Family, interface};

/// Address type of an address of this host.
const RTN_LOCAL: u32 = 2;
/// State bits "established" and "related".
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// Status bit "destination translated".
const DESTINATION_TRANSLATED: u32 = 32;

/// How many registers an address of this family takes.
pub fn address_registers(family: Family) -> u8 {
    if family == Family::Ip { 1 } else { 4 }
}

/// Loads what the kernel knows about the packet.
pub fn meta(key: Meta, to: u8) -> Expression {
    Expression::Meta {
        key,
        to: Register(to),
    }
}

/// Loads the packet's source address.
pub fn source(family: Family, to: u8) -> Expression {
    address(family, Nat::Source, to)
}

/// Loads the packet's destination address.
pub fn destination(family: Family, to: u8) -> Expression {
    address(family, Nat::Destination, to)
}

fn address(family: Family, end: Nat, to: u8) -> Expression {
    let (offset, length) = family.place(end);
    Expression::Payload {
        base: Payload::Network,
        offset,
        length,
        to: Register(to),
    }
}

/// Loads the destination port of TCP, UDP and SCTP.
pub fn destination_port(to: u8) -> Expression {
    Expression::Payload {
        base: Payload::Transport,
        offset: 2,
        length: 2,
        to: Register(to),
    }
}

/// Loads protocol and destination port, as a key of sets has them.
pub fn protocol_and_port(to: u8) -> [Expression; 2] {
    [meta(Meta::TransportProtocol, to), destination_port(to + 1)]
}

/// Loads a constant.
pub fn constant(to: u8, value: Vec<u8>) -> Expression {
    Expression::Immediate {
        to: Register(to),
        value,
    }
}

/// Goes on when the registers hold `value`.
pub fn equal(from: u8, value: Vec<u8>) -> Expression {
    Expression::Cmp {
        from: Register(from),
        operation: Cmp::Equal,
        value,
    }
}

/// Goes on when the registers hold anything but `value`.
pub fn differs(from: u8, value: Vec<u8>) -> Expression {
    Expression::Cmp {
        from: Register(from),
        operation: Cmp::NotEqual,
        value,
    }
}

/// Clears the bits that are not in `mask`, in place.
pub fn masked(register: u8, mask: Vec<u8>) -> Expression {
    Expression::Bitwise {
        register: Register(register),
        xor: vec![0; mask.len()],
        mask,
    }
}

/// Goes on when the key is in the set.
pub fn within(set: &str, from: u8) -> Expression {
    found(set, from, None, false)
}

/// Goes on when the key is not in the set.
pub fn outside(set: &str, from: u8) -> Expression {
    found(set, from, None, true)
}

/// Goes on when the key is in the map, with its value in `to`.
pub fn lookup(map: &str, from: u8, to: u8) -> Expression {
    found(map, from, Some(Register(to)), false)
}

fn found(set: &str, from: u8, to: Option<Register>, invert: bool) -> Expression {
    Expression::Lookup {
        set: set.into(),
        from: Register(from),
        to,
        invert,
    }
}

/// Does what a verdict map says about the key, if it has it.
pub fn verdict_map(map: &str, from: u8) -> Expression {
    Expression::VerdictMap {
        map: map.into(),
        from: Register(from),
    }
}

/// Goes on in another chain, and comes back.
pub fn jump(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Jump(chain.into()))
}

/// Lets the packet pass this chain.
pub fn accept() -> Expression {
    Expression::Verdict(Verdict::Accept)
}

/// Drops the packet.
pub fn drop() -> Expression {
    Expression::Verdict(Verdict::Drop)
}

/// Goes on when the packet came in by an interface of this name, or not.
pub fn comes_in_by(name: &str, is: Is) -> [Expression; 2] {
    by(Meta::InputName, name, is)
}

/// Goes on when the packet leaves by an interface of this name, or not.
pub fn leaves_by(name: &str, is: Is) -> [Expression; 2] {
    by(Meta::OutputName, name, is)
}

fn by(key: Meta, name: &str, is: Is) -> [Expression; 2] {
    let name = interface(name).to_vec();
    let compared = match is {
        Is::This => equal(0, name),
        Is::Other => differs(0, name),
    };
    [meta(key, 0), compared]
}

/// Whether a name must be the one given, or must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// It must be.
    This,
    /// It must not be.
    Other,
}

/// Goes on when the address loaded into `from` is a loopback one.
pub fn is_loopback(family: Family, from: u8) -> Vec<Expression> {
    if family == Family::Ip {
        vec![
            masked(from, vec![255, 0, 0, 0]),
            equal(from, vec![127, 0, 0, 0]),
        ]
    } else {
        vec![equal(from, Ipv6Addr::LOCALHOST.octets().to_vec())]
    }
}

/// Goes on when the packet's connection was bound for ::1 before any translation.
pub fn was_bound_for_loopback() -> Vec<Expression> {
    let load = Expression::CtOriginal {
        key: Original::Ipv6,
        to: Register(0),
    };
    [vec![load], is_loopback(Family::Ip6, 0)].concat()
}

/// Goes on when the destination is an address of this host.
pub fn is_local() -> [Expression; 2] {
    [
        Expression::DestinationType { to: Register(0) },
        equal(0, RTN_LOCAL.to_ne_bytes().to_vec()),
    ]
}

/// Goes on when the packet belongs to a connection that is known, or is related
/// to one.
pub fn is_established() -> [Expression; 3] {
    has_bits(Ct::State, ESTABLISHED_OR_RELATED)
}

/// Goes on when the destination of the packet's connection was translated.
pub fn is_translated() -> [Expression; 3] {
    has_bits(Ct::Status, DESTINATION_TRANSLATED)
}

/// Goes on when it was not.
pub fn is_untranslated() -> [Expression; 3] {
    let [load, mask, _] = is_translated();
    [load, mask, equal(0, vec![0; 4])]
}

fn has_bits(key: Ct, bits: u32) -> [Expression; 3] {
    [
        Expression::Ct {
            key,
            to: Register(0),
        },
        masked(0, bits.to_ne_bytes().to_vec()),
        differs(0, vec![0; 4]),
    ]
}
