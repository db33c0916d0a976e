//! Descriptors, manifests and indexes (OCI image specification; Docker's
//! schema 2 and manifest list are the same shapes under other media types).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform, media_type};

/// The largest manifest or index anybody has to accept: four mebibytes
/// (distribution specification, "Pushing Manifests").
pub const MAX_DOCUMENT: usize = 4 << 20;

/// More layers or entries than this are refused; overlayfs stops at 500.
const MAX_LAYERS: usize = 1000;

/// Type, size and name of some content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Other places where it may be found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, base64, if it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// For entries of an index: where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// For entries of an index that are no images: what they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing optional.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }
}

/// One image: a configuration and its layers, bottom first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of the manifest itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it is, if it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// An OCI image manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// Several manifests under one name, usually one per platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of the index itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it is, if it lists no images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Index {
        Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// Why bytes are neither manifest nor index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Too large to look at.
    #[error("manifest has {0} bytes; {MAX_DOCUMENT} are allowed")]
    TooLarge(usize),
    /// No JSON, or a field is missing or malformed.
    #[error("manifest is malformed")]
    Json(#[source] serde_json::Error),
    /// Docker's first format, without content addresses.
    #[error(
        "manifest is of schema version {0}, which is no longer supported; push the image anew with a current tool"
    )]
    SchemaVersion(u64),
    /// The document says one type, the registry another.
    #[error("manifest says it is {inside:?} but was announced as {outside:?}")]
    Disagreement {
        /// The document's own word.
        inside: String,
        /// The announced one.
        outside: String,
    },
    /// Reads as a manifest and as an index: a trick (CVE-2021-41190).
    #[error("manifest has both layers and manifests")]
    Ambiguous,
    /// A type nobody here knows.
    #[error("unknown manifest type {0:?}")]
    UnknownType(String),
    /// More entries than anybody needs.
    #[error("manifest lists {0} entries; {MAX_LAYERS} are allowed")]
    TooMany(usize),
}

/// What a name in a registry leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "few live at once, and both are matched on everywhere"
)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

impl Document {
    /// Reads a manifest or an index, checked against the media type it was
    /// announced with (empty if there was none).
    ///
    /// # Errors
    /// [`DocumentError`], for anything malformed, ambiguous or too large.
    pub fn parse(bytes: &[u8], announced: &str) -> Result<Document, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            #[serde(default)]
            schema_version: u64,
            #[serde(default)]
            media_type: Option<String>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        if bytes.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let shape: Shape = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        if shape.schema_version != 2 {
            return Err(DocumentError::SchemaVersion(shape.schema_version));
        }
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(DocumentError::Ambiguous);
        }
        let announced = announced.split(';').next().unwrap_or_default().trim();
        let known = |kind: &str| media_type::is_index(kind) || media_type::is_manifest(kind);
        let kind = match shape.media_type {
            Some(inside) if known(announced) && inside != announced => {
                let outside = announced.to_owned();
                return Err(DocumentError::Disagreement { inside, outside });
            }
            Some(inside) => inside,
            None if known(announced) => announced.to_owned(),
            None if shape.manifests.is_some() => media_type::OCI_INDEX.to_owned(),
            None => media_type::OCI_MANIFEST.to_owned(),
        };
        if media_type::is_index(&kind) {
            let mut index: Index = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
            if index.manifests.len() > MAX_LAYERS {
                return Err(DocumentError::TooMany(index.manifests.len()));
            }
            index.media_type = Some(kind);
            Ok(Document::Index(index))
        } else if media_type::is_manifest(&kind) {
            let mut manifest: Manifest =
                serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
            if manifest.layers.len() > MAX_LAYERS {
                return Err(DocumentError::TooMany(manifest.layers.len()));
            }
            manifest.media_type = Some(kind);
            Ok(Document::Manifest(manifest))
        } else {
            Err(DocumentError::UnknownType(kind))
        }
    }

    /// The media type: the document's own word, or the one it was announced
    /// with.
    pub fn media_type(&self) -> &str {
        match self {
            Document::Manifest(manifest) => manifest
                .media_type
                .as_deref()
                .unwrap_or(media_type::OCI_MANIFEST),
            Document::Index(index) => index.media_type.as_deref().unwrap_or(media_type::OCI_INDEX),
        }
    }

    /// Everything the document refers to and cannot do without.
    pub fn children(&self) -> Vec<&Descriptor> {
        match self {
            Document::Manifest(manifest) => std::iter::once(&manifest.config)
                .chain(&manifest.layers)
                .collect(),
            Document::Index(index) => index.manifests.iter().collect(),
        }
    }

    /// The manifest that this one says something about, if any.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Document::Manifest(manifest) => manifest.subject.as_ref(),
            Document::Index(index) => index.subject.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifest() -> Manifest {
        let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"{}"), 2);
        let layer = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(b"l"), 1);
        Manifest::new(config, vec![layer])
    }

    #[test]
    fn both_kinds_are_read_back() {
        let bytes = serde_json::to_vec(&manifest()).unwrap();
        let read = Document::parse(&bytes, media_type::OCI_MANIFEST).unwrap();
        assert_eq!(read, Document::Manifest(manifest()));
        assert_eq!(read.children().len(), 2);

        let entry = Descriptor::new(
            media_type::OCI_MANIFEST,
            Digest::of(&bytes),
            bytes.len() as u64,
        );
        let index = Index::new(vec![entry]);
        let read = Document::parse(&serde_json::to_vec(&index).unwrap(), "").unwrap();
        assert_eq!(read, Document::Index(index));
    }

    #[test]
    fn tricks_and_relics_are_refused() {
        let parse = |text: &str, kind: &str| Document::parse(text.as_bytes(), kind);
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(matches!(parse(both, ""), Err(DocumentError::Ambiguous)));
        let old = r#"{"schemaVersion":1,"name":"x","tag":"y"}"#;
        assert!(matches!(
            parse(old, ""),
            Err(DocumentError::SchemaVersion(1))
        ));
        let bytes = serde_json::to_string(&manifest()).unwrap();
        assert!(matches!(
            parse(&bytes, media_type::OCI_INDEX),
            Err(DocumentError::Disagreement { .. })
        ));
        let strange = r#"{"schemaVersion":2,"mediaType":"text/plain"}"#;
        assert!(matches!(
            parse(strange, ""),
            Err(DocumentError::UnknownType(_))
        ));
        let huge = vec![b' '; MAX_DOCUMENT + 1];
        assert!(matches!(
            Document::parse(&huge, ""),
            Err(DocumentError::TooLarge(_))
        ));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes: Vec<u8>, kind: String) {
            let _ = Document::parse(&bytes, &kind);
        }
    }
}
