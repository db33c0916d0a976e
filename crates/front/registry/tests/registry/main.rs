//! The registry, asked by real clients, by our own, and by hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
mod protocol;
mod support;
