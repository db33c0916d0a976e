//! The image store as its users see it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;
mod hosts;
mod local;
mod registries;
mod remote;
mod support;
