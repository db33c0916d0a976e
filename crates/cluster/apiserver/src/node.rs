//! The way to node agents: logs, exec, attach and port-forward are theirs.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a node agent's HTTP server.
pub trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeStream for T {}

/// A connection being made.
pub type Connecting<'a> =
    Pin<Box<dyn Future<Output = io::Result<Box<dyn NodeStream>>> + Send + 'a>>;

/// Reaches the HTTP server of a node's agent, which serves the kubelet's paths
/// (`/containerLogs/NS/POD/CONTAINER`, `/exec/…`, `/attach/…`, `/portForward/NS/POD`).
///
/// An agent in the same process hands out one end of a `tokio::io::duplex`
/// pipe; one elsewhere, a TLS connection.
pub trait NodeConnector: Send + Sync {
    /// Connects to the agent of the named node.
    fn connect<'a>(&'a self, node: &'a str) -> Connecting<'a>;
}
