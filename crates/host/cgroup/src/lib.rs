//! Control groups: version 1, version 2 and the hybrid of both.
//!
//! Nothing here knows of containers.

mod stats;

pub use stats::{CpuStats, IoDevice, MemoryStats, PidsStats, Stats};
