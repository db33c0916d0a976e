//! A minimal SPDY/3.1 server: as much as `kubectl` and client-go use to carry
//! several byte streams over one connection.
//!
//! [`frame`] and [`headers`] turn bytes into frames and back without I/O;
//! [`connection`] gives each stream its two ends. Pushed streams, settings and
//! priorities have no effect. What arrives is acknowledged with window updates;
//! what is sent follows no window, because client-go's implementation keeps
//! none and would never open one.

mod connection;
mod frame;
mod headers;

pub(super) use connection::{Accepted, Connection, StreamWriter};

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A frame that the protocol does not have.
    #[error("malformed SPDY frame: {0}")]
    Malformed(&'static str),
    /// The transport failed.
    #[error("the connection broke off")]
    Broken(#[from] std::io::Error),
}
