//! The values that [`crate::Images`] takes and returns.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dhow_oci::{ContainerConfig, Descriptor, Digest, ImageConfig, Platform, Reference};
use serde::{Deserialize, Serialize};

/// What an image store is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; must support overlayfs upper directories.
    pub root: PathBuf,
    /// Where blobs are.
    pub content: dhow_content::Store,
    /// The platform images are chosen for unless a pull says otherwise.
    pub platform: Platform,
    /// What strangers may ask of us.
    pub limits: Limits,
    /// How registries are reached.
    pub registries: RegistryOptions,
    /// The clock.
    pub now: fn() -> SystemTime,
}

/// Limits on what comes from strangers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes one layer or archive may unpack to.
    pub unpacked_bytes: u64,
    /// Entries one layer or archive may have.
    pub entries: u64,
    /// Bytes of an image configuration.
    pub config_bytes: u64,
    /// Layers of one image that are transferred at a time.
    pub transfers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            unpacked_bytes: 256 << 30,
            entries: 10_000_000,
            config_bytes: 8 << 20,
            transfers: 4,
        }
    }
}

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Hosts (`host`, `host:port`) and networks (`10.0.0.0/8`) that may be
    /// spoken to over plain HTTP or with a certificate nobody vouches for.
    /// Loopback always may.
    pub insecure: Vec<String>,
    /// Directories with one directory per registry (`HOST[:PORT]`, `_default`):
    /// containerd's `hosts.toml`, or Docker's `*.crt`, `*.cert`, `*.key`. The
    /// first that has the registry counts.
    pub certificates: Vec<PathBuf>,
    /// Base addresses tried before Docker Hub itself.
    pub mirrors: Vec<String>,
    /// How we introduce ourselves: the `User-Agent`.
    pub user_agent: String,
    /// How long a registry may be silent before it is asked again.
    pub patience: Duration,
    /// How often in a row an exchange may fail without getting any further.
    pub attempts: u32,
}

impl Default for RegistryOptions {
    fn default() -> RegistryOptions {
        RegistryOptions {
            insecure: Vec::new(),
            certificates: Vec::new(),
            mirrors: Vec::new(),
            user_agent: "dhow".to_owned(),
            patience: Duration::from_secs(30),
            attempts: 5,
        }
    }
}

/// Who we are to a registry; empty fields are absent (Docker's `AuthConfig`).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// The two as `base64(user:password)`.
    pub auth: String,
    /// Refresh token of an OAuth2 token server.
    #[serde(rename = "identitytoken")]
    pub identity_token: String,
    /// Bearer token to be sent as it is.
    #[serde(rename = "registrytoken")]
    pub registry_token: String,
    /// For which registry; not interpreted here.
    #[serde(rename = "serveraddress")]
    pub server_address: String,
}

impl fmt::Debug for RegistryAuth {
    /// Without the secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RegistryAuth")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// An image. Immutable; its names change, see [`crate::Images::names`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The image id: the digest of its configuration.
    pub id: Digest,
    /// The configuration.
    pub config: ImageConfig,
    /// The manifest that ties configuration and layers together.
    pub manifest: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
    /// Seconds since the epoch at which it was made; zero if not said.
    pub created: i64,
    /// Seconds since the epoch at which it last got a name.
    pub tagged: i64,
}

impl Image {
    /// Unpacked size of all layers in bytes.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// A layer of an image that is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The blob, as it is transferred.
    pub blob: Descriptor,
    /// Digest of the plain tar.
    pub diff_id: Digest,
    /// Name of the stack up to and including this layer.
    pub chain_id: Digest,
    /// Unpacked bytes.
    pub size: u64,
}

/// The names of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// With tags, sorted: Docker's `RepoTags`.
    pub tags: Vec<Reference>,
    /// With digests, sorted: Docker's `RepoDigests`.
    pub digests: Vec<Reference>,
}

/// An image and its names, as in `docker images`.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The image.
    pub image: Arc<Image>,
    /// Its names; none for a dangling image.
    pub names: Names,
    /// Unpacked bytes in layers that other images have as well.
    pub shared_size: u64,
}

/// Somebody who uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The container's id.
    pub container: String,
    /// Whether it runs (or is paused), which not even force overrides.
    pub running: bool,
}

/// How determined a removal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Refuse if it is used, or has other names.
    Careful,
    /// Refuse only if a running container uses it.
    Forced,
}

/// One line of the answer to a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// This name is gone.
    Untagged(Reference),
    /// This image is gone.
    Deleted(Digest),
    /// The layer of this chain id is gone.
    Layer(Digest),
}

/// What to prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneScope {
    /// Images without a tag.
    Dangling,
    /// Every image nobody uses.
    Unused,
}

/// What pruning achieved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What went.
    pub removed: Vec<Removed>,
    /// Bytes freed on disk.
    pub reclaimed: u64,
}

/// One line of `docker history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image, for the newest line.
    pub id: Option<Digest>,
    /// Seconds since the epoch; zero if not said.
    pub created: i64,
    /// By which command.
    pub created_by: String,
    /// The image's tags, for the newest line.
    pub tags: Vec<Reference>,
    /// Unpacked bytes the step added.
    pub size: u64,
    /// Free text.
    pub comment: String,
}

/// The parts of a container's root filesystem; whoever mounts them does it in
/// a mount namespace of his own.
///
/// Mount with `redirect_dir=off,metacopy=off,index=off,xino=off`: the upper
/// directory is later read as a layer by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// Read-only layers, topmost first; at least one.
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// Overlayfs's working directory.
    pub work: PathBuf,
}

/// What a container did to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// `C`, 0 in the API.
    Modified,
    /// `A`, 1 in the API.
    Added,
    /// `D`, 2 in the API.
    Deleted,
}

/// One line of `docker diff`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Absolute path within the container.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// How a container becomes an image.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// How containers of the new image run.
    pub config: ContainerConfig,
    /// Who made it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// The command that made the changes, for the history.
    pub created_by: String,
    /// Name of the new image.
    pub name: Option<Reference>,
}

/// How a plain archive becomes an image.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// How containers of the new image run.
    pub config: ContainerConfig,
    /// The note in the history.
    pub message: String,
    /// Platform, if not this machine's.
    pub platform: Option<Platform>,
    /// Name of the new image.
    pub name: Option<Reference>,
}

/// One image of a loaded archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The image.
    pub id: Digest,
    /// The names it got.
    pub names: Vec<Reference>,
}

/// How to pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Who we are to the registry.
    pub auth: Option<RegistryAuth>,
    /// For which platform, if not this machine's.
    pub platform: Option<Platform>,
}

/// What a registry has under a name.
#[derive(Clone, Debug)]
pub struct Offered {
    /// The manifest, or the index of several.
    pub descriptor: Descriptor,
    /// The platforms that there is an image for.
    pub platforms: Vec<Platform>,
}

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Arc<Image>,
    /// Digest the reference led to: of the index, or of the manifest.
    pub digest: Digest,
    /// Whether the name points elsewhere than before.
    pub is_newer: bool,
}

/// How to push.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// Who we are to the registry.
    pub auth: Option<RegistryAuth>,
}

/// What a push left in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Tag it is under.
    pub tag: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Size of the manifest in bytes.
    pub size: u64,
}

/// A build step whose result is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The layer the step made; none if it changed no file.
    pub layer: Option<Layer>,
    /// What else the builder wants to remember.
    pub note: String,
    /// Seconds since the epoch at which it was made.
    pub created: i64,
    /// Seconds since the epoch at which it was last found.
    pub used: i64,
}

/// What `docker system df` wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Unpacked bytes of all layers, each counted once.
    pub layers: u64,
    /// Unpacked bytes of layers that only build steps refer to.
    pub build_cache: u64,
}
