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
    },
}
