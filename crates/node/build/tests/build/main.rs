//! Whole builds, with a busybox and without an engine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod builds;
mod support;
