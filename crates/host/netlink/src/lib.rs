//! Links, addresses, routes and network namespaces over rtnetlink.
//!
//! The crate speaks netlink and nothing else: it knows no containers and keeps
//! no state. Requests are composed into one buffer and sent in one system call
//! ([`Batch`]), because a container's start pays for each of them.
//! [`Socket`], [`Request`] and [`Attributes`] serve the other netlink
//! families too (`dhow-nft` speaks nf_tables with them).
//!
//! ```no_run
//! use dhow_netlink::{Batch, NewLink, Route, Socket};
//!
//! let socket = Socket::route()?;
//! let mut batch = Batch::new();
//! batch.add_link(&NewLink::bridge("br-example"));
//! socket.run(&mut batch)?;
//! # Ok::<(), dhow_netlink::Error>(())
//! ```

mod address;
mod conntrack;
mod link;
mod namespace;
mod socket;
mod wire;

pub use address::{Prefix, Route};
pub use conntrack::{Ends, Flow, IsIpv4};
pub use link::{IpvlanMode, IpvlanReach, Link, MacvlanMode, NewLink, Peer, Port};
pub use namespace::{Namespace, NamespaceError};
pub use socket::{Error, Socket};
pub use wire::{Attributes, Batch, Message, Request};
