//! The values of the OCI image format, and Docker's dialect of it.
//!
//! References, digests, media types, descriptors, manifests, indexes, image
//! configurations, platforms and chain ids: parsing, checking and printing.
//! Pure: nothing here reads a file, opens a socket or looks at a clock.

mod chain;
mod config;
mod digest;
mod manifest;
pub mod media_type;
mod platform;
mod reference;

pub use chain::{chain_id, chain_ids};
pub use config::{ContainerConfig, Empty, Healthcheck, History, ImageConfig, RootFs};
pub use digest::{Algorithm, Digest, DigestError, Digester, Verifier, VerifyError};
pub use manifest::{Descriptor, Document, DocumentError, Index, MAX_DOCUMENT, Manifest};
pub use media_type::Compression;
pub use platform::{Platform, PlatformError};
pub use reference::{
    DEFAULT_REGISTRY, DEFAULT_TAG, Reference, ReferenceError, is_repository, is_tag,
};
