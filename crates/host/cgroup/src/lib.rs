//! Control groups: version 1, version 2 and the hybrid of both.
//!
//! [`Layout`] says what the machine has, [`Group`] is one group in every
//! hierarchy it has. In the hybrid the controllers are version 1's and carry the
//! limits; the version 2 hierarchy has no controllers but still freezes, kills
//! and is entered at birth. Nothing here knows of containers.

mod bpf;
mod device;
mod device_program;
mod error;
mod group;
mod layout;
mod limits;
mod oom;
mod stats;
mod tree;
mod v1;
mod v2;

pub use device::{DeviceKind, DeviceRule};
pub use device_program::in_short;
pub use error::CgroupError;
pub use group::{Bandwidth, Doors, Group};
pub use layout::{Hierarchy, Layout, unescape};
pub use limits::{Limits, Rdma, Throttle, ThrottleKind, Weight};
pub use oom::OomWatch;
pub use stats::{CpuStats, IoDevice, MemoryStats, PidsStats, Stats};
