//! Bridges, addresses, published ports and names for containers.
//!
//! [`Networks`] owns the networks of one instance: their definitions on disk,
//! the endpoints of running sandboxes, and everything in the kernel that
//! follows from them. What the kernel should hold is computed from that state
//! ([`rules`] is a pure function of it), so that the same code sets up, repairs
//! after a crash, and removes.
//!
//! A *sandbox* is a network namespace that a process holds, or that is pinned to a
//! file. An *endpoint* joins a sandbox to a network with addresses, names and published
//! ports. The crate knows neither containers nor pods.
//!
//! Names are answered by [`NameServer`], at 127.0.0.11 in each sandbox of a
//! network that has names.

mod address_pool;
mod background;
mod dns;
mod endpoint;
mod error;
mod files;
mod firewall;
mod flows;
mod links;
mod names;
mod networks;
mod ports;
mod publish;
mod rules;
mod sandbox;
mod sandboxes;
mod spec;
mod state;

pub use dns::NameServer;
pub use endpoint::{Endpoint, EndpointSpec, PortMapping, Protocol, PublishSpec};
pub use error::Error;
pub use networks::{Config, Networks};
pub use spec::{Driver, GatewayMode, IpvlanMode, IpvlanReach, Mode, Network, NetworkSpec, Pool};
