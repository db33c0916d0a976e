//! The OCI distribution server (distribution specification 1.1).
//!
//! Blobs lie in a content store of the registry's own; which repository has
//! what, under which tag, is in one table beside it. Both are durable before a
//! client is told. [`run`] serves until it is told to stop.
//!
//! No replication and no object storage: one directory, one process.

mod access;
mod blobs;
mod body;
mod error;
mod lists;
mod manifests;
mod route;
mod server;
mod store;
mod uploads;

pub use server::{Access, Config, Error, Tls, run};
