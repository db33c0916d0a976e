//! Uploads: a blob in one request, in pieces, or from another repository.
//!
//! An upload survives the connection and the process: what arrived is kept,
//! its client asks how far it came and goes on. Ingests between two requests
//! are parked open, so that their hash need not be computed anew.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use dhow_content::Ingest;
use dhow_oci::{Algorithm, Digest};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::blobs::CONTENT_DIGEST;
use crate::body::{self, Answer};
use crate::error::{Refusal, Result, internal};
use crate::server::{Ask, Registry, answer};
use crate::store::{Link, Upload};

/// The header that names an upload.
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Ingests that wait open for the next request.
const MAX_PARKED: usize = 128;

/// Ingests between two requests, by upload.
#[derive(Debug, Default)]
pub(crate) struct Parked(Mutex<HashMap<String, Ingest>>);

impl Parked {
    fn take(&self, id: &str) -> Option<Ingest> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id)
    }

    fn park(&self, id: &str, ingest: Ingest) {
        let mut parked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if parked.len() >= MAX_PARKED {
            // They can be opened again; only their hash is lost.
            parked.clear();
        }
        parked.insert(id.to_owned(), ingest);
    }

    pub(crate) fn forget(&self, id: &str) {
        drop(self.take(id));
    }
}

impl Registry {
    /// POST: begins an upload, or makes one unnecessary.
    pub(crate) async fn open_upload(
        self: Arc<Self>,
        name: String,
        ask: Ask,
    ) -> Result<Response<Answer>> {
        if let (Some(digest), Some(from)) = (ask.query("mount"), ask.query("from")) {
            let digest = parse_digest(digest)?;
            let (from, to, wanted) = (from.to_owned(), name.clone(), digest.clone());
            let mounted = self
                .blocking(move |registry| {
                    // From being swept between the look and the link.
                    let lease = registry.content.lease();
                    lease.hold(&wanted);
                    let Some(link) = registry.store.blob(&from, &wanted)? else {
                        return Ok(false);
                    };
                    let link = Link {
                        since: registry.now(),
                        ..link
                    };
                    registry.store.link_blob(&to, &wanted, &link)?;
                    Ok(true)
                })
                .await?;
            if mounted {
                return created(&name, &digest);
            }
        }
        let id: String = hex(&rand::random::<[u8; 16]>());
        let (upload, row) = (id.clone(), name.clone());
        self.blocking(move |registry| {
            let upload_row = Upload {
                repository: row,
                since: registry.now(),
            };
            Ok(registry.store.begin_upload(&upload, &upload_row)?)
        })
        .await?;
        if ask.query("digest").is_some() {
            return self.finish(name, id, ask).await;
        }
        accepted(&name, &id, 0)
    }

    /// GET: how far it came.
    pub(crate) async fn upload_status(
        self: Arc<Self>,
        name: String,
        id: String,
    ) -> Result<Response<Answer>> {
        let (repository, upload) = (name.clone(), id.clone());
        let offset = self
            .blocking(move |registry| {
                registry.known_upload(&repository, &upload)?;
                Ok(registry.content.ingested(&key(&upload))?.unwrap_or(0))
            })
            .await?;
        let mut response = accepted(&name, &id, offset)?;
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().remove(CONTENT_LENGTH);
        Ok(response)
    }

    /// PATCH: appends.
    pub(crate) async fn append(
        self: Arc<Self>,
        name: String,
        id: String,
        ask: Ask,
    ) -> Result<Response<Answer>> {
        let ingest = self.begin(&name, &id, &ask).await?;
        let (ingest, outcome) = self.receive(ingest, ask.body).await?;
        let offset = ingest.offset();
        // Also what broke off is kept: the client may go on from there.
        self.parked.park(&id, ingest);
        outcome?;
        accepted(&name, &id, offset)
    }

    /// PUT: appends what there is, verifies, makes it a blob.
    pub(crate) async fn finish(
        self: Arc<Self>,
        name: String,
        id: String,
        ask: Ask,
    ) -> Result<Response<Answer>> {
        let digest = ask
            .query("digest")
            .ok_or_else(|| Refusal::digest_invalid("the digest parameter is missing"))?;
        let digest = parse_digest(digest)?;
        let ingest = self.begin(&name, &id, &ask).await?;
        let (ingest, outcome) = self.receive(ingest, ask.body).await?;
        if let Err(refusal) = outcome {
            self.parked.park(&id, ingest);
            return Err(refusal);
        }
        let (repository, wanted) = (name.clone(), digest.clone());
        self.blocking(move |registry| {
            let lease = registry.content.lease();
            let size = ingest.offset();
            // The hash was begun before the digest was known.
            let ingest = match wanted.algorithm() {
                Algorithm::Sha256 => ingest,
                other => {
                    drop(ingest);
                    registry.content.ingest(&key(&id), other)?
                }
            };
            if let Err(error) = ingest.commit(&lease, &wanted, None) {
                registry.store.end_upload(&id)?;
                return Err(error.into());
            }
            let link = Link {
                size,
                since: registry.now(),
            };
            Ok(registry
                .store
                .finish_upload(&id, &repository, &wanted, &link)?)
        })
        .await?;
        created(&name, &digest)
    }

    /// DELETE: gives it up.
    pub(crate) async fn cancel(
        self: Arc<Self>,
        name: String,
        id: String,
    ) -> Result<Response<Answer>> {
        self.blocking(move |registry| {
            registry.known_upload(&name, &id)?;
            let ingest = match registry.parked.take(&id) {
                Some(ingest) => ingest,
                None => registry.content.ingest(&key(&id), Algorithm::Sha256)?,
            };
            ingest.discard()?;
            Ok(registry.store.end_upload(&id).map(drop)?)
        })
        .await?;
        answer(StatusCode::NO_CONTENT, body::bytes(""), &[])
    }

    fn known_upload(&self, name: &str, id: &str) -> Result<()> {
        match self.store.upload(id)? {
            Some(upload) if upload.repository == name => Ok(()),
            _ => Err(Refusal::upload_unknown()),
        }
    }

    /// Opens the ingest of an upload and checks that the request goes on where
    /// the last one ended.
    async fn begin(self: &Arc<Self>, name: &str, id: &str, ask: &Ask) -> Result<Ingest> {
        let (repository, upload) = (name.to_owned(), id.to_owned());
        let ingest = self
            .blocking(move |registry| {
                registry.known_upload(&repository, &upload)?;
                match registry.parked.take(&upload) {
                    Some(ingest) => Ok(ingest),
                    None => Ok(registry.content.ingest(&key(&upload), Algorithm::Sha256)?),
                }
            })
            .await?;
        let Some(range) = ask.header(CONTENT_RANGE) else {
            return Ok(ingest);
        };
        let offset = ingest.offset();
        let bounds = range
            .trim_start_matches("bytes ")
            .split('/')
            .next()
            .and_then(|range| range.split_once('-'))
            .and_then(|(first, last)| {
                Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
            });
        let length = ask
            .header(CONTENT_LENGTH)
            .and_then(|length| length.parse::<u64>().ok());
        let fits = bounds.is_some_and(|(first, last)| {
            first == offset
                && last
                    .checked_sub(first)
                    .is_some_and(|n| length.is_none_or(|length| n.checked_add(1) == Some(length)))
        });
        if fits {
            return Ok(ingest);
        }
        self.parked.park(id, ingest);
        let message = format!("Content-Range {range:?} does not go on from byte {offset}");
        Err(
            Refusal::upload_invalid(StatusCode::RANGE_NOT_SATISFIABLE, message)
                .header(LOCATION, location(name, id))
                .header(RANGE, range_of(offset))
                .header(UPLOAD_ID, id),
        )
    }

    /// Appends a request's body. Gives the ingest back in any case; the inner
    /// result says whether all of the body came.
    async fn receive(
        self: &Arc<Self>,
        mut ingest: Ingest,
        mut body: Incoming,
    ) -> Result<(Ingest, Result<()>)> {
        let (sender, mut pieces) = mpsc::channel::<bytes::Bytes>(16);
        let limit = self.max_blob;
        let mut offset = ingest.offset();
        let writing = tokio::task::spawn_blocking(move || {
            let mut outcome = Ok(());
            while let Some(piece) = pieces.blocking_recv() {
                outcome = ingest.write_all(&piece);
                if outcome.is_err() {
                    break;
                }
            }
            (ingest, outcome)
        });
        let received = async {
            while let Some(piece) = body::next(&mut body).await? {
                offset += piece.len() as u64;
                if offset > limit {
                    return Err(Refusal::too_large(limit));
                }
                if sender.send(piece).await.is_err() {
                    // The disk refused; the thread says how.
                    break;
                }
            }
            Ok(())
        }
        .await;
        drop(sender);
        let (ingest, written) = writing.await.map_err(|error| internal(&error))?;
        Ok((
            ingest,
            received.and(written.map_err(|error| internal(&error))),
        ))
    }
}

fn parse_digest(text: &str) -> Result<Digest> {
    text.parse()
        .map_err(|error| Refusal::digest_invalid(format!("{text:?}: {error}")))
}

fn key(id: &str) -> String {
    format!("upload {id}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn location(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// How far an upload came, as clients expect to read it.
fn range_of(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn accepted(name: &str, id: &str, offset: u64) -> Result<Response<Answer>> {
    answer(
        StatusCode::ACCEPTED,
        body::bytes(""),
        &[
            (LOCATION, location(name, id)),
            (RANGE, range_of(offset)),
            (UPLOAD_ID, id.to_owned()),
            (CONTENT_LENGTH, "0".to_owned()),
        ],
    )
}

fn created(name: &str, digest: &Digest) -> Result<Response<Answer>> {
    answer(
        StatusCode::CREATED,
        body::bytes(""),
        &[
            (LOCATION, format!("/v2/{name}/blobs/{digest}")),
            (CONTENT_DIGEST, digest.to_string()),
            (CONTENT_LENGTH, "0".to_owned()),
        ],
    )
}
