//! Containers on one machine: their lifecycle, networks, volumes and streams.
//!
//! [`Engine`] is the domain itself, without a protocol: doors translate
//! Docker's API and the Kubernetes CRI to its calls. A container is kept as a
//! [`Record`]; its program belongs to a shim, which outlives this process, and
//! [`Engine::open`] finds the shims again.
//!
//! ```text
//!            create            start             end of the program
//!   (none) ─────────▶ created ───────▶ running ──────────────────────▶ exited
//!                                     ▲   ▲ │ pause                    │  │
//!                                     │   │ ▼                          │  │
//!                                     │  paused      start             │  │
//!                                     └───────────── restarting ◀──────┘  │ remove
//!                                        back-off      restart policy     ▼
//!                                                                       (none)
//! ```

mod accounts;
mod attach;
mod bundle;
mod container;
mod copy;
mod create;
mod devices;
mod endpoints;
mod engine;
mod error;
mod events;
mod exec;
mod exit;
mod files;
mod groups;
mod health;
mod images;
mod keep;
mod leftovers;
mod links;
mod logs;
mod machine;
mod mounts;
mod name_files;
mod names;
mod network;
mod owners;
mod propagation;
mod record;
mod relabel;
mod remap;
mod sandbox;
mod seccomp;
mod security;
mod selinux;
mod shm;
mod skeleton;
pub mod spec;
mod start;
mod step;
mod stop;
mod usage;
mod users;
mod validate;
mod volumes;

pub use attach::{AttachOptions, Attached};
pub use bundle::{MASKED_PATHS, READONLY_PATHS};
pub use container::{Ended, WaitFor};
pub use copy::{CopyIn, CopyOwner, PathStat};
pub use create::{Accepted, Creation};
pub use engine::{Config, Engine};
pub use error::{Error, Result, words};
pub use events::{Event, Events};
pub use exec::{ExecOptions, ExecRecord};
pub use groups::ControlGroups;
pub use links::Link;
/// All log drivers, and the one of containers that name none.
pub use logs::{DEFAULT as DEFAULT_LOG_DRIVER, DRIVERS as LOG_DRIVERS};
pub use logs::{LogLine, LogOptions, LogStream, Logs};
pub use machine::Machine;
pub use mounts::{MountKind, MountPoint};
pub use names::identifier;
pub use record::{Health, Probe, Record, SharedSandbox, State, Status};
pub use remap::{AccountFiles, DEFAULT_ACCOUNT, RemapError, remap};
pub use sandbox::{Sandbox, SandboxSpec};
pub use selinux::Selinux;
pub use step::Step;
pub use usage::{LinkUsage, Update};
pub use validate::bytes;

pub use dhow_cgroup::{IoDevice, MemoryStats, Stats};
pub use dhow_image::archive::Replace;
pub use dhow_image::{Images, Progress, ProgressSender};
pub use dhow_network::{
    Driver, Endpoint, EndpointSpec, Error as NetworkError, GatewayMode, IpvlanMode, IpvlanReach,
    Mode, Network, NetworkSpec, Networks, Pool, PortMapping, Protocol, PublishSpec,
};
/// Who makes control groups.
pub use dhow_runtime::Groups;
pub use dhow_shim::Moment;
pub use dhow_sys::idmap::IdMaps;
pub use dhow_volume::{Error as VolumeError, Volume, Volumes};
