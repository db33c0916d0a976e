//! Verified, immutable blobs on disk, named by digest.
//!
//! A blob is written into an ingest, verified, made durable and renamed into
//! place: a file under `blobs/` is always whole and what its name says, also
//! after `kill -9` or power loss. An interrupted ingest can be resumed. What
//! nobody references is removed by [`Store::sweep`]; a [`Lease`] protects what
//! is on its way to being referenced. The format on disk is described in
//! `docs/design/content.md`.
//!
//! Synchronous, and ignorant of what blobs mean: who refers to whom is told by
//! the caller of the sweep.

mod follow;
mod ingest;
mod lease;
mod store;

pub use follow::Follower;
pub use ingest::Ingest;
pub use lease::Lease;
pub use store::{Blob, Error, Result, Store, Swept};
