//! Helpers for the black-box suites; never a dependency of a shipped crate.
//!
//! A [`Host`] is a network namespace and a folder made for one test: a daemon
//! that runs there meets no other test and nothing of the machine's network.
//! [`Host::audit`] fails when anything is left of it. [`Outside`] is what its
//! uplink leads to.

mod answered;
mod audit;
mod busybox;
mod certificates;
mod chance;
mod compose;
mod containers;
mod daemon;
mod executables;
mod host;
mod output;
mod outside;
mod recorder;
mod reference;
mod registry;
mod sctp;
mod shelf;
mod tokens;

pub use answered::Answered;
pub use certificates::certificates;
pub use chance::Chance;
pub use compose::Project;
pub use containers::{Check, Dockerd, at_dockerd, at_ours};
pub use daemon::Daemon;
pub use executables::{cached, compile, dhow, require, runtime};
pub use host::Host;
pub use output::Ran;
pub use outside::{Mirror, Outside, ask, ask_datagram, is_silent};
pub use recorder::{Asked, Recorder};
pub use reference::Reference;
pub use registry::Registry;
pub use sctp::ask_association;
pub use shelf::Shelf;
pub use tokens::TokenServer;
