//! Services in the kernel: whoever speaks to a Service's address reaches one of
//! its endpoints.
//!
//! The proxy is a client of the Kubernetes API ([`run`]): it follows Services
//! and EndpointSlices, computes what this node answers at (`services`, pure),
//! what the packet filter must hold for it (`elements`, pure), and applies the
//! difference in one transaction per address family. Services are elements of
//! maps: their number changes neither the count of rules nor the cost of a
//! packet (`docs/design/service-proxy.md`).
//!
//! Not here: bridges, published ports of containers and pod addresses
//! (`dhow-network`), names (`dhow-dns`), EndpointSlices (`dhow-controllers`).

mod elements;
mod flows;
mod kernel;
mod rules;
mod run;
mod services;

pub use kernel::remove;
pub use run::{Config, run};

/// Why the kernel does not hold what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused, or its socket failed.
    #[error("the packet filter does not take the Services")]
    Kernel(#[from] dhow_netlink::Error),
    /// The kernel's news cannot be waited for.
    #[error("the packet filter cannot be watched")]
    Watch(#[source] std::io::Error),
}
