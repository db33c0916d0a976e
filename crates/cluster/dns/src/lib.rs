//! Cluster DNS after the Kubernetes DNS specification 1.1.0.
//!
//! The server is a client of the Kubernetes API: it follows Services,
//! EndpointSlices and Namespaces, and what it answers for the cluster's domain
//! is a pure function of them (`zone`). Names of others are forwarded, within
//! bounds, and remembered for a short time (`forward`). Where pods find it is
//! written by [`publish`].
//!
//! Not here: names of containers on a node's own networks (`dhow-network`).

mod follow;
mod forward;
mod publish;
mod reply;
mod server;
mod zone;

use std::net::SocketAddr;

pub use publish::publish;
pub use server::{Config, Server};

/// Why names are not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's domain is no domain name.
    #[error("{0:?} is no domain name")]
    Domain(String),
    /// An address cannot be listened at.
    #[error("listen at {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The API refused.
    #[error("the API server refused")]
    Api(#[from] kube::Error),
}

/// Answers until `shutdown` resolves; [`Server`] in one call.
///
/// The user of `client` must be able to list and watch Services,
/// EndpointSlices and Namespaces.
///
/// # Errors
///
/// [`Error::Domain`] and [`Error::Listen`].
pub async fn run(
    client: kube::Client,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    Server::bind(config).await?.run(client, shutdown).await;
    Ok(())
}
