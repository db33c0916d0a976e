//! The supervisor of one container, and both ends of its wire protocol.
//!
//! A shim owns the container's standard streams, its log and its exit code, and
//! outlives the daemon that made it. `docs/design/shim.md` describes the files,
//! the frames and what happens at a crash. The supervisor is one thread around
//! one poll loop; `client` (a feature) is for tokio.

#[cfg(feature = "client")]
pub mod client;
pub mod entry;
mod server;
pub mod wire;

pub use dhow_runtime::Moment;
pub use server::{ServeError, serve};
