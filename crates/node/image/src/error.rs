//! What can go wrong with images. Texts that Docker users know are Docker's.

use std::io;
use std::path::{Path, PathBuf};

use dhow_oci::{Digest, DocumentError, PlatformError, ReferenceError};

/// What image operations return.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image has this name or id (HTTP 404).
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// There is nothing of this name to push (404).
    #[error("An image does not exist locally with the tag: {0}")]
    NotLocal(String),
    /// An id prefix fits several images (400).
    #[error("ambiguous image id {prefix:?}: it fits {}; give more digits", .candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Short ids it fits.
        candidates: Vec<String>,
    },
    /// The text is no reference (400).
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The text is no platform (400).
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The image is needed by somebody (409).
    #[error("conflict: {0}")]
    Conflict(String),
    /// Some other argument makes no sense (400).
    #[error("{0}")]
    Invalid(String),
    /// No root filesystem of this name was prepared (404).
    #[error("no root filesystem {0:?}")]
    NoSuchRootfs(String),
    /// There is a root filesystem of this name already (409).
    #[error("root filesystem {0:?} exists already")]
    RootfsExists(String),
    /// The file system cannot keep a root filesystem within a size (400).
    #[error("the file system of the image store has no project quotas")]
    NoQuotas,
    /// The registry does not have it, or does not show it to us (404).
    #[error("manifest for {0} not found: manifest unknown: manifest unknown")]
    ManifestUnknown(String),
    /// No manifest of the index suits the platform (404).
    #[error("no matching manifest for {platform} in the manifest list entries of {reference}")]
    NoMatchingPlatform {
        /// What was asked for.
        reference: String,
        /// For which platform.
        platform: String,
    },
    /// The registry refuses us (401 or 403 there).
    #[error("{0}")]
    Denied(String),
    /// The registry answered with an error.
    #[error("{registry} answered {status}: {message}")]
    Registry {
        /// Which registry.
        registry: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// There is no connection to the registry.
    #[error("Get \"{url}\": {message}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened, with its causes.
        message: String,
    },
    /// The registry stopped talking.
    #[error("Get \"{url}\": {message}")]
    Network {
        /// What was asked for.
        url: String,
        /// What happened, with its causes.
        message: String,
    },
    /// The registry speaks, but no sense.
    #[error("{registry} violates the protocol: {message}")]
    Protocol {
        /// Which registry.
        registry: String,
        /// In which way.
        message: String,
    },
    /// A manifest or index is not acceptable.
    #[error("manifest {digest} is not acceptable")]
    Manifest {
        /// Which.
        digest: Digest,
        /// Why.
        source: DocumentError,
    },
    /// Something the registry served is not what its name says.
    #[error("{0} is not an image: {1}")]
    NotAnImage(String, String),
    /// A stored JSON document cannot be read.
    #[error("{what} is malformed")]
    Json {
        /// Which.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// An archive is malformed, hostile, or beyond a limit.
    #[error("{0}")]
    Archive(String),
    /// A layer's content is not what the image configuration promises.
    #[error("layer {layer} unpacks to {actual}, but the image promises {expected}")]
    DiffId {
        /// Digest of the layer as transferred.
        layer: Digest,
        /// Diff id in the configuration.
        expected: Digest,
        /// Diff id of what came.
        actual: Digest,
    },
    /// The content store refused.
    #[error("content store")]
    Content(#[from] dhow_content::Error),
    /// The table on disk refused.
    #[error("image table")]
    Table(#[source] Box<redb::Error>),
    /// The disk refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused an overlay.
    #[error("overlay of {layers} layers")]
    Overlay {
        /// How many layers.
        layers: usize,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// An [`Error::Archive`].
    pub(crate) fn archive(text: impl Into<String>) -> Error {
        Error::Archive(text.into())
    }

    /// The same error of a registry that was asked for a blob.
    pub(crate) fn of_blob(self, digest: &Digest) -> Error {
        match self {
            Error::Registry {
                registry,
                status,
                message,
            } => Error::Registry {
                registry,
                status,
                message: format!("{digest}: {message}"),
            },
            other => other,
        }
    }

    /// The same error of a loaded archive, in which what does not fit together is
    /// the archive's fault.
    pub(crate) fn of_archive(self) -> Error {
        match self {
            Error::Content(
                error @ (dhow_content::Error::Verify(_)
                | dhow_content::Error::Missing(_)
                | dhow_content::Error::TooLarge { .. }),
            ) => Error::Archive(error.to_string()),
            Error::Manifest { .. } | Error::Json { .. } | Error::DiffId { .. } => {
                let cause = std::error::Error::source(&self);
                let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                Error::Archive(format!("{self}{cause}"))
            }
            other => other,
        }
    }
}

/// What it means that an archive cannot be read: that there is something wrong with
/// it, or with whoever sends it.
pub(crate) fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::archive(error.to_string())
        }
        _ => at("read", Path::new("archive"))(error),
    }
}

/// Adds the action and the path to an I/O error.
pub(crate) fn at<'a, E: Into<io::Error>>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> Error + use<'a, E> {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source: source.into(),
    }
}
