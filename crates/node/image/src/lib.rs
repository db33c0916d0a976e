//! Images on one machine: names, content, unpacked snapshots, and the traffic
//! with registries.
//!
//! [`Images`] is the door. What touches only tables in memory or a few small
//! files is a plain function; what moves whole layers is a plain function that
//! blocks (its documentation says so: call it from `spawn_blocking`); what
//! speaks to a registry is async. Formats on disk are described in
//! `docs/design/image.md`.
//!
//! It knows nothing of containers but a name for each root filesystem it
//! prepares; who uses an image is told by the caller.

pub mod archive;
mod collect;
mod diff;
mod error;
mod images;
mod layers;
mod load;
mod naming;
mod overlay;
mod pins;
mod progress;
mod quota;
mod remote;
mod save;
mod snapshots;
mod state;
mod table;
pub mod tar;
mod types;

pub use collect::{Candidate, CollectPolicy, Disk, Pressure, choose};
pub use error::{Error, Result};
pub use images::{Hold, Images, Users};
pub use progress::{Progress, ProgressSender};
pub use types::{
    Change, ChangeKind, Commit, DiskUsage, HistoryEntry, Image, Import, Layer, Limits, Listed,
    Loaded, Names, Offered, Options, PruneScope, Pruned, PullOptions, Pulled, PushOptions, Pushed,
    RegistryAuth, RegistryOptions, Removal, Removed, Rootfs, Step, User,
};
