//! Push: layers that the registry lacks, the configuration, the manifest.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use bytes::Bytes;
use dhow_oci::{Algorithm, Compression, Descriptor, Digest, Manifest, Reference, media_type};
use futures_util::stream::{StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use url::Url;

use crate::error::at;
use crate::images::Images;
use crate::remote::session::{Ask, Intent, Session, gone, may_pass};
use crate::remote::transport::Body;
use crate::remote::{MAX_RESUMES, backoff, blocking};
use crate::table::{NameRow, Write as Row};
use crate::types::{Image, Layer, PushOptions, Pushed};
use crate::{Error, ProgressSender, Result};

/// Bytes of a blob that are read at a time.
const PIECE: usize = 256 << 10;
/// How many repositories are asked for a layer before it is sent.
const MAX_SOURCES: usize = 3;
/// Bytes of a chunk, for registries that take no blob in one request.
const CHUNK: u64 = 16 << 20;

impl Images {
    /// Sends the image named `reference` to the registry in its name. Without
    /// a tag, sends every tag of the repository.
    ///
    /// Cancel-safe: dropping the future stops the transfers.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Denied`], [`Error::Network`] and
    /// others.
    pub async fn push(
        &self,
        reference: &Reference,
        options: PushOptions,
        progress: ProgressSender,
    ) -> Result<Vec<Pushed>> {
        if reference.digest().is_some() {
            return Err(Error::Invalid("cannot push a digest reference".to_owned()));
        }
        let names: Vec<Reference> = match reference.tag() {
            Some(_) => vec![reference.clone()],
            None => {
                let state = self.inner.book.read();
                let of_repository =
                    |name: &&Reference| name.tag().is_some() && name.name() == reference.name();
                state.names.keys().filter(of_repository).cloned().collect()
            }
        };
        let missing = || Error::NotLocal(reference.familiar_name());
        if names.is_empty() {
            return Err(missing());
        }
        progress
            .status(
                "",
                format!("The push refers to repository [{}]", reference.name()),
            )
            .await;
        let client = Arc::clone(&self.inner.client);
        let session = Session::open(client, reference, options.auth, Intent::Push).await?;
        let session = Arc::new(session);
        let mut pushed = Vec::new();
        for name in names {
            let image = self
                .inner
                .book
                .read()
                .names
                .get(&name)
                .map(|row| row.image.clone());
            let image = image.and_then(|id| self.get(&id)).ok_or_else(missing)?;
            pushed.push(self.push_one(&session, &name, image, &progress).await?);
        }
        Ok(pushed)
    }

    async fn push_one(
        &self,
        session: &Arc<Session>,
        name: &Reference,
        image: Arc<Image>,
        progress: &ProgressSender,
    ) -> Result<Pushed> {
        let lease = Arc::new(self.inner.content.lease());
        let (images, holding) = (self.clone(), Arc::clone(&lease));
        let image = blocking(move || images.compressed(image, &holding)).await?;
        for layer in &image.layers {
            lease.hold(&layer.blob.digest);
            progress.status(layer.diff_id.short(), "Preparing").await;
        }
        lease.hold(&image.id);
        lease.hold(&image.manifest.digest);
        // A layer that occurs twice is sent once.
        let mut distinct: Vec<&Layer> = Vec::new();
        for layer in &image.layers {
            if !distinct
                .iter()
                .any(|other| other.blob.digest == layer.blob.digest)
            {
                distinct.push(layer);
            }
        }
        let mut uploads = Vec::new();
        for layer in distinct {
            uploads.push(Upload {
                images: self.clone(),
                session: Arc::clone(session),
                progress: progress.clone(),
                blob: layer.blob.clone(),
                id: layer.diff_id.short().to_owned(),
            });
        }
        let n_slots = self.inner.options.limits.transfers.max(1);
        futures_util::stream::iter(uploads)
            .map(Upload::run)
            .buffer_unordered(n_slots)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        let bytes = self.document(&image.manifest)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
            what: "a stored manifest".to_owned(),
            source,
        })?;
        let config = Upload {
            images: self.clone(),
            session: Arc::clone(session),
            progress: ProgressSender::silent(),
            blob: manifest.config,
            id: String::new(),
        };
        config.run().await?;

        let tag = name.tag().unwrap_or_default().to_owned();
        let (size, digest) = (bytes.len() as u64, image.manifest.digest.clone());
        let ask = Ask::new(Method::PUT, session.url(&format!("manifests/{tag}"))?)
            .bytes(&image.manifest.media_type, bytes);
        session
            .expect(&ask, &[StatusCode::CREATED, StatusCode::OK])
            .await?;
        let place = name.clone();
        let (row_name, target) = (name.with_digest(digest.clone()), image.manifest.clone());
        let row = NameRow {
            image: image.id.clone(),
            target,
        };
        let images = self.clone();
        blocking(move || {
            images.inner.book.change(|state| {
                // It may have been removed while it was sent.
                if !state.images.contains_key(&row.image) {
                    return Ok((Vec::new(), ()));
                }
                let placed = state.placed(&row.image, &place);
                let rows = std::iter::once(Row::Name(row_name, row)).chain(placed);
                Ok((rows.collect(), ()))
            })
        })
        .await?;
        progress
            .status("", format!("{tag}: digest: {digest} size: {size}"))
            .await;
        Ok(Pushed { tag, digest, size })
    }

    /// The image with every layer compressed: what was loaded as plain tars
    /// is compressed when it is first sent. The image id stays.
    fn compressed(&self, image: Arc<Image>, lease: &dhow_content::Lease) -> Result<Arc<Image>> {
        let is_plain = |layer: &Layer| {
            media_type::layer_compression(&layer.blob.media_type) == Some(Compression::None)
        };
        if !image.layers.iter().any(is_plain) {
            return Ok(image);
        }
        let content = &self.inner.content;
        let mut layers = image.layers.clone();
        for layer in layers.iter_mut().filter(|layer| is_plain(layer)) {
            let path = content.blob_path(&layer.blob.digest);
            let mut blob = content.open_blob(&layer.blob.digest)?.file;
            let ingest = content.ingest_anew(Algorithm::Sha256)?;
            let level = flate2::Compression::default();
            let mut gzip = flate2::write::GzEncoder::new(ingest, level);
            io::copy(&mut blob, &mut gzip).map_err(at("compress", &path))?;
            let mut ingest = gzip.finish().map_err(at("compress", &path))?;
            ingest.flush().map_err(at("compress", &path))?;
            let size = ingest.offset();
            let digest = ingest.commit_any(lease)?;
            layer.blob = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size);
        }
        let config = content.read(&image.id, self.inner.options.limits.config_bytes)?;
        let kind = media_type::OCI_CONFIG;
        let descriptor = Descriptor::new(kind, image.id.clone(), config.len() as u64);
        let blobs = layers.iter().map(|layer| layer.blob.clone()).collect();
        let manifest = serde_json::to_vec(&Manifest::new(descriptor, blobs)).expect("plain data");
        let digest = content.put(lease, &manifest)?;
        let manifest = Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.len() as u64);
        let tags = self.names(&image.id).tags;
        let names: Vec<_> = tags
            .into_iter()
            .map(|name| (name, manifest.clone()))
            .collect();
        self.register(&config, manifest, layers, names)
    }

    /// Other repositories of this registry that have a blob, as far as we know.
    fn sources(&self, session: &Session, blob: &Digest) -> Vec<String> {
        let state = self.inner.book.read();
        let mut sources: Vec<String> = Vec::new();
        for place in state.places_of(blob) {
            let of_registry = place.strip_prefix(&*session.registry);
            let Some(repository) = of_registry.and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            if repository != session.repository && !sources.iter().any(|had| had == repository) {
                sources.push(repository.to_owned());
            }
            if sources.len() == MAX_SOURCES {
                break;
            }
        }
        sources
    }
}

/// Where an upload stands.
struct Place {
    /// Where it goes on.
    url: Url,
    /// Bytes the registry has.
    offset: u64,
}

fn offset_of(place: &Option<Place>) -> u64 {
    place.as_ref().map_or(0, |place| place.offset)
}

/// How a blob is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// In one request.
    AtOnce,
    /// In requests of [`CHUNK`] bytes.
    InChunks,
}

/// One blob on its way.
struct Upload {
    images: Images,
    session: Arc<Session>,
    progress: ProgressSender,
    blob: Descriptor,
    /// What it is called in progress lines.
    id: String,
}

impl Upload {
    async fn run(self) -> Result<()> {
        let session = &self.session;
        let digest = &self.blob.digest;
        let head = Ask::new(Method::HEAD, session.url(&format!("blobs/{digest}"))?);
        let found = session
            .expect(&head, &[StatusCode::OK, StatusCode::NOT_FOUND])
            .await?;
        if found.status() == StatusCode::OK {
            self.progress.status(&self.id, "Layer already exists").await;
            return Ok(());
        }
        for source in self.images.sources(session, digest) {
            if self.mount(&source).await? {
                self.progress
                    .status(&self.id, format!("Mounted from {source}"))
                    .await;
                return Ok(());
            }
        }
        let (mut n_failed, mut n_resumed) = (0, 0);
        let mut manner = Manner::AtOnce;
        let mut place = None;
        loop {
            let before = offset_of(&place);
            let Err(error) = self.send(&mut place, manner).await else {
                break;
            };
            let refused = match &error {
                Error::Registry { status, .. } => *status,
                _ => 0,
            };
            if refused == 413 && manner == Manner::AtOnce {
                (manner, place) = (Manner::InChunks, None);
                continue;
            }
            n_failed += 1;
            if may_pass(&error) {
                // What the registry has got need not be sent again.
                if let Some(stopped) = place.take() {
                    place = self.find_place(stopped).await;
                }
                if offset_of(&place) > before {
                    n_failed = 1;
                }
            } else if before > 0 && matches!(refused, 400 | 404 | 416) {
                // It took up an upload it cannot go on with: once more, anew.
                place = None;
            } else {
                return Err(error);
            }
            n_resumed += 1;
            if n_failed >= session.attempts() || n_resumed > MAX_RESUMES {
                return Err(error);
            }
            let offset = offset_of(&place);
            tracing::debug!(%error, n_failed, offset, "sending again");
            self.progress
                .status(&self.id, format!("Retrying at {offset}"))
                .await;
            tokio::time::sleep(backoff(n_failed)).await;
        }
        self.progress.status(&self.id, "Pushed").await;
        Ok(())
    }

    async fn mount(&self, source: &str) -> Result<bool> {
        let mut url = self.session.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", self.blob.digest.as_str())
            .append_pair("from", source);
        let ask = Ask::new(Method::POST, url.clone())
            .bytes("application/octet-stream", Bytes::new())
            .more_scope(format!("repository:{source}:pull"));
        let response = self.session.send(&ask).await?;
        if response.status() == StatusCode::ACCEPTED {
            // It opened an upload instead, which we do not need.
            let upload = self.session.location(&url, response.headers())?;
            let _ = self.session.send(&Ask::new(Method::DELETE, upload)).await;
        }
        Ok(response.status() == StatusCode::CREATED)
    }

    /// Opens an upload.
    async fn open(&self) -> Result<Url> {
        let url = self.session.url("blobs/uploads/")?;
        let ask =
            Ask::new(Method::POST, url.clone()).bytes("application/octet-stream", Bytes::new());
        let response = self.session.expect(&ask, &[StatusCode::ACCEPTED]).await?;
        self.session.location(&url, response.headers())
    }

    /// Sends what is missing; `place` says where it stands, also after an
    /// error.
    async fn send(&self, place: &mut Option<Place>, manner: Manner) -> Result<()> {
        let start = match place.take() {
            Some(place) => place,
            None => Place {
                url: self.open().await?,
                offset: 0,
            },
        };
        let Place { url, offset } = place.insert(start);
        if *offset == 0 && manner == Manner::AtOnce {
            let ask = self.carrying(Method::PUT, self.closing(url), 0, self.blob.size);
            return self.accepted(&ask, StatusCode::CREATED).await.map(drop);
        }
        while *offset < self.blob.size {
            let left = self.blob.size - *offset;
            let length = match manner {
                Manner::AtOnce => left,
                Manner::InChunks => left.min(CHUNK),
            };
            let range = format!("{offset}-{}", *offset + length - 1);
            let ask = self
                .carrying(Method::PATCH, url.clone(), *offset, length)
                .header(CONTENT_RANGE, &range);
            let headers = self.accepted(&ask, StatusCode::ACCEPTED).await?;
            *url = self.session.location(url, &headers)?;
            *offset += length;
        }
        let ask = Ask::new(Method::PUT, self.closing(url))
            .bytes("application/octet-stream", Bytes::new());
        self.accepted(&ask, StatusCode::CREATED).await.map(drop)
    }

    /// Asks how far an upload came. None if the registry does not tell, or
    /// claims more than there is: then it begins anew.
    async fn find_place(&self, place: Place) -> Option<Place> {
        let ask = Ask::new(Method::GET, place.url.clone());
        let response = self.session.send(&ask).await.ok()?;
        if response.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let headers = response.headers();
        let last = headers.get(RANGE)?.to_str().ok()?.rsplit_once('-')?.1;
        let last: u64 = last.parse().ok()?;
        // "0-0" means nothing, or one byte.
        let offset = (last > 0).then(|| last.checked_add(1))??;
        let url = match headers.contains_key(LOCATION) {
            true => self.session.location(&place.url, headers).ok()?,
            false => place.url,
        };
        (offset <= self.blob.size).then_some(Place { url, offset })
    }

    /// The address that makes an upload a blob.
    fn closing(&self, url: &Url) -> Url {
        let mut url = url.clone();
        url.query_pairs_mut()
            .append_pair("digest", self.blob.digest.as_str());
        url
    }

    async fn accepted(&self, ask: &Ask, expected: StatusCode) -> Result<http::HeaderMap> {
        let response = self.session.send(ask).await?;
        if response.status() != expected {
            return Err(self.session.refusal(response).await);
        }
        Ok(response.headers().clone())
    }

    /// A request that carries a stretch of the blob.
    fn carrying(&self, method: Method, url: Url, offset: u64, length: u64) -> Ask {
        let (content, digest) = (self.images.inner.content.clone(), self.blob.digest.clone());
        let (progress, id, size) = (self.progress.clone(), self.id.clone(), self.blob.size);
        Ask::new(method, url)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, &length.to_string())
            .body(Box::new(move || {
                let open = || {
                    let mut file = content.open_blob(&digest).map_err(|_| gone())?.file;
                    file.seek(SeekFrom::Start(offset))?;
                    Ok::<File, io::Error>(file)
                };
                let (progress, id) = (progress.clone(), id.clone());
                Stretch::begin(open(), length, move |done| {
                    progress.count(&id, "Pushing", offset + done, size);
                })
            }))
    }
}

/// A stretch of a file as a request's body, read by a thread of its own and
/// no further ahead than a few pieces.
struct Stretch {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    total: u64,
    count: Box<dyn Fn(u64) + Send>,
}

impl Stretch {
    fn begin(file: io::Result<File>, length: u64, count: impl Fn(u64) + Send + 'static) -> Body {
        let (sender, pieces) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let mut file = match file {
                Ok(file) => file.take(length),
                // The receiver is there: it has just been made.
                Err(error) => return drop(sender.blocking_send(Err(error))),
            };
            loop {
                let mut piece = vec![0; PIECE];
                let read = file.read(&mut piece);
                let is_last = matches!(read, Ok(0) | Err(_));
                let piece = read.map(|n_read| {
                    piece.truncate(n_read);
                    Bytes::from(piece)
                });
                if matches!(&piece, Ok(piece) if piece.is_empty())
                    || sender.blocking_send(piece).is_err()
                    || is_last
                {
                    return;
                }
            }
        });
        Stretch {
            pieces,
            left: length,
            total: length,
            count: Box::new(count),
        }
        .boxed_unsync()
    }
}

impl http_body::Body for Stretch {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = std::task::ready!(self.pieces.poll_recv(context));
        std::task::Poll::Ready(match next {
            Some(Ok(piece)) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                (self.count)(self.total - self.left);
                Some(Ok(Frame::data(piece)))
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.left > 0 => Some(Err(gone())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
