//! nf_tables transactions: tables, chains, rules, sets and maps.
//!
//! A [`Transaction`] is a list of changes that the kernel takes whole or not
//! at all; [`Transaction::commit`] sends it. The crate has no opinion about
//! what the rules should be and touches only the tables it is told to.
//!
//! Registers are the sixteen 32-bit ones; a value of `n` bytes takes
//! `n / 4` of them, rounded up, and a concatenated key is loaded field by
//! field into neighbouring registers.

mod expression;
mod look;
pub mod phrase;
mod ruleset;
mod transaction;
mod watch;

pub use expression::{
    Cmp, Ct, Expression, Meta, Nat, Original, Payload, Register, Rejection, Verdict,
};
pub use look::{BaseChain, base_chains};
pub use ruleset::{
    Chain, ChainKind, DataType, Element, Family, Hook, Members, Set, Table, interface,
};
pub use transaction::{Transaction, learned, tables};
pub use watch::{Touched, Watch};
