//! Manifests and indexes, by tag and by digest.

use std::sync::Arc;

use dhow_oci::{Descriptor, Digest, Document, MAX_DOCUMENT};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, LOCATION};
use http::{Method, Response, StatusCode};

use crate::blobs::CONTENT_DIGEST;
use crate::body::{self, Answer};
use crate::error::{Refusal, Result};
use crate::route::Reference;
use crate::server::{Ask, Registry, answer};
use crate::store::Stored;

/// Says that the subject of a manifest was taken note of.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

impl Registry {
    /// GET and HEAD of a manifest.
    pub(crate) async fn get_manifest(
        self: Arc<Self>,
        name: String,
        reference: Reference,
        ask: &Ask,
    ) -> Result<Response<Answer>> {
        let (stored, bytes) = self
            .blocking(move |registry| {
                let digest = registry.meaning(&name, &reference)?;
                let stored = registry
                    .store
                    .manifest(&name, &digest)?
                    .ok_or_else(|| Refusal::manifest_unknown(digest.as_str()))?;
                let bytes = registry.content.read(&digest, MAX_DOCUMENT as u64)?;
                Ok((stored, bytes))
            })
            .await?;
        let digest = stored.descriptor.digest.to_string();
        let headers = [
            (CONTENT_TYPE, stored.descriptor.media_type),
            (CONTENT_LENGTH, bytes.len().to_string()),
            (ETAG, format!("\"{digest}\"")),
            (CONTENT_DIGEST, digest),
        ];
        let body = match ask.method {
            Method::HEAD => body::only_length(bytes.len() as u64),
            _ => body::bytes(bytes),
        };
        answer(StatusCode::OK, body, &headers)
    }

    /// PUT of a manifest.
    pub(crate) async fn put_manifest(
        self: Arc<Self>,
        name: String,
        reference: Reference,
        mut ask: Ask,
    ) -> Result<Response<Answer>> {
        let kind = ask.header(CONTENT_TYPE).unwrap_or_default().to_owned();
        let bytes = body::collect(&mut ask.body, MAX_DOCUMENT).await?;
        let document = Document::parse(&bytes, &kind).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Refusal::manifest_invalid(format!("{error}{}", cause.unwrap_or_default()))
        })?;
        let digest = match &reference {
            Reference::Tag(_) => Digest::of(&bytes),
            Reference::Digest(expected) => {
                let mut digester = expected.algorithm().digester();
                digester.update(&bytes);
                let actual = digester.finish();
                if actual != *expected {
                    let message = format!("the manifest has digest {actual}");
                    return Err(Refusal::digest_invalid(message));
                }
                actual
            }
        };
        let mut headers = vec![
            (LOCATION, format!("/v2/{name}/manifests/{digest}")),
            (CONTENT_DIGEST, digest.to_string()),
            (CONTENT_LENGTH, "0".to_owned()),
        ];
        if let Some(subject) = document.subject() {
            headers.push((SUBJECT, subject.digest.to_string()));
        }
        self.blocking(move |registry| {
            // Nothing it needs may be swept before it is recorded.
            let lease = registry.content.lease();
            registry.check_children(&name, &document, &lease)?;
            let mut ingest = registry.content.ingest_anew(digest.algorithm())?;
            std::io::Write::write_all(&mut ingest, &bytes)
                .map_err(|error| crate::error::internal(&error))?;
            ingest.commit(&lease, &digest, Some(bytes.len() as u64))?;
            let stored = Stored {
                descriptor: describe(&document, digest, bytes.len() as u64),
                children: document
                    .children()
                    .iter()
                    .map(|child| child.digest.clone())
                    .collect(),
                subject: document.subject().map(|subject| subject.digest.clone()),
                since: registry.now(),
            };
            let tag = match &reference {
                Reference::Tag(tag) => Some(tag.as_str()),
                Reference::Digest(_) => None,
            };
            Ok(registry.store.put_manifest(&name, tag, &stored)?)
        })
        .await?;
        answer(StatusCode::CREATED, body::bytes(""), &headers)
    }

    /// DELETE of a tag, or of a manifest with all its tags.
    pub(crate) async fn delete_manifest(
        self: Arc<Self>,
        name: String,
        reference: Reference,
    ) -> Result<Response<Answer>> {
        self.blocking(move |registry| {
            let (was_there, shown) = match &reference {
                Reference::Tag(tag) => (registry.store.remove_tag(&name, tag)?, tag.clone()),
                Reference::Digest(digest) => (
                    registry.store.remove_manifest(&name, digest)?,
                    digest.to_string(),
                ),
            };
            if was_there {
                Ok(())
            } else {
                Err(Refusal::manifest_unknown(&shown))
            }
        })
        .await?;
        answer(
            StatusCode::ACCEPTED,
            body::bytes(""),
            &[(CONTENT_LENGTH, "0".to_owned())],
        )
    }

    fn meaning(&self, name: &str, reference: &Reference) -> Result<Digest> {
        match reference {
            Reference::Digest(digest) => Ok(digest.clone()),
            Reference::Tag(tag) => self
                .store
                .tag(name, tag)?
                .ok_or_else(|| Refusal::manifest_unknown(tag)),
        }
    }

    /// Whether the repository has everything the document needs.
    fn check_children(
        &self,
        name: &str,
        document: &Document,
        lease: &dhow_content::Lease,
    ) -> Result<()> {
        let of_index = matches!(document, Document::Index(_));
        for child in document.children() {
            lease.hold(&child.digest);
            let is_there = match of_index {
                true => self.store.manifest(name, &child.digest)?.is_some(),
                false => self.store.blob(name, &child.digest)?.is_some(),
            };
            // Layers that may not be distributed are somewhere else.
            if !is_there && child.urls.is_empty() {
                let (code, what) = match of_index {
                    true => ("MANIFEST_UNKNOWN", "manifest"),
                    false => ("MANIFEST_BLOB_UNKNOWN", "blob"),
                };
                let message = format!("{what} unknown to this repository: {}", child.digest);
                return Err(Refusal::new(StatusCode::BAD_REQUEST, code, message));
            }
        }
        Ok(())
    }
}

/// The descriptor that lists of referrers show.
fn describe(document: &Document, digest: Digest, size: u64) -> Descriptor {
    let mut descriptor = Descriptor::new(document.media_type(), digest, size);
    match document {
        Document::Manifest(manifest) => {
            // Without a type of its own, an artifact is what its configuration is.
            let own = manifest.artifact_type.clone();
            descriptor.artifact_type = own.or_else(|| Some(manifest.config.media_type.clone()));
            descriptor.annotations.clone_from(&manifest.annotations);
        }
        Document::Index(index) => {
            descriptor.artifact_type.clone_from(&index.artifact_type);
            descriptor.annotations.clone_from(&index.annotations);
        }
    }
    descriptor
}
