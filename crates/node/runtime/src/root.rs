//! Where a container's root filesystem comes from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The root filesystem of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum RootSource {
    /// The directory the bundle names (`root.path`), as the specification says.
    #[default]
    Bundle,
    /// An overlay that exists in the container's own mount namespace only, so
    /// that the host sees no mount and none can be left behind. `root.path` of
    /// the bundle is not looked at; `root.readonly` holds.
    Overlay {
        /// Lower directories, the topmost first; at least one.
        lower: Vec<PathBuf>,
        /// Directory that takes the changes; must be on one filesystem with `work`.
        upper: PathBuf,
        /// Empty directory for the filesystem's own use.
        work: PathBuf,
        /// Whether all of it is seen through the container's user namespace: who
        /// has a number on disk has it in the container. Without, the numbers on
        /// disk are the host's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        mapped: bool,
    },
}
