//! Pull: a manifest, its configuration, its layers. Each layer is received,
//! verified and unpacked at the same time.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dhow_content::{Follower, Lease};
use dhow_oci::{
    Descriptor, Digest, Document, ImageConfig, Index, MAX_DOCUMENT, Manifest, Platform, Reference,
    chain_ids, media_type,
};
use futures_util::stream::{StreamExt, TryStreamExt};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::images::{Images, top};
use crate::remote::receive::Received;
use crate::remote::session::{Ask, Intent, Session, may_pass};
use crate::remote::{backoff, blocking};
use crate::snapshots::{Draft, MAX_LAYERS};
use crate::state::parse_config;
use crate::types::{Layer, Offered, PullOptions, Pulled, RegistryAuth};
use crate::{Error, ProgressSender, Result};

/// Pieces of a layer that wait for the disk.
const QUEUE: usize = 16;
/// Bytes between two counts.
pub(super) const COUNT_EVERY: u64 = 512 << 10;

/// A manifest or index and where it came from.
struct Fetched {
    descriptor: Descriptor,
    bytes: Bytes,
    document: Document,
}

/// A manifest and the configuration it names.
struct Described {
    descriptor: Descriptor,
    bytes: Bytes,
    manifest: Manifest,
    config_bytes: Bytes,
}

impl Images {
    /// Fetches what `reference` names (`latest` if it says nothing) and gives
    /// it that name.
    ///
    /// Cancel-safe: dropping the future stops the transfers; what was fetched
    /// so far is kept and resumed from.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`], [`Error::Denied`],
    /// [`Error::NoMatchingPlatform`], [`Error::Network`] and others.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: PullOptions,
        progress: ProgressSender,
    ) -> Result<Pulled> {
        let reference = reference.clone().or_latest();
        let shown = match (reference.tag(), reference.digest()) {
            (_, Some(digest)) => digest.to_string(),
            (Some(tag), None) => tag.to_owned(),
            (None, None) => String::new(),
        };
        let (session, top) = self.find(&reference, &options).await?;
        progress
            .status(&shown, format!("Pulling from {}", reference.repository()))
            .await;
        let (effort, ended) = Effort::begin(self);
        let lease = Arc::clone(&effort.lease);
        let pulled = self
            .bring(&reference, &options, session, top, effort, &progress)
            .await;
        match pulled {
            // Nobody will go on from here.
            Err(error) if !may_pass(&error) => {
                // When the last thread that works for us has ended.
                let _ = ended.await;
                let images = self.clone();
                blocking(move || {
                    images.undo(&lease);
                    Ok(())
                })
                .await?;
                Err(error)
            }
            pulled => pulled,
        }
    }

    /// Fetches what a registry has under a name, once it is known what that is.
    async fn bring(
        &self,
        reference: &Reference,
        options: &PullOptions,
        session: Session,
        top: Fetched,
        effort: Arc<Effort>,
        progress: &ProgressSender,
    ) -> Result<Pulled> {
        let lease = &effort.lease;
        self.keep(lease, &top.bytes).await?;
        let target = top.descriptor.clone();
        let mut session = session.for_content().await?;
        let described = loop {
            match self.describe(&session, &top, reference, options).await {
                Ok(described) => break described,
                Err(error) => match session.next().await {
                    Some(next) => session = next,
                    None => return Err(error),
                },
            }
        };
        let Described {
            descriptor,
            bytes,
            manifest,
            config_bytes,
        } = described;
        self.keep(lease, &bytes).await?;
        let config = parse_config(&manifest.config.digest, &config_bytes)?;
        self.check(&manifest, &config, reference, options)?;
        self.keep(lease, &config_bytes).await?;

        let session = Arc::new(session);
        let layers = self
            .layers(&session, &manifest, &config, &effort, progress)
            .await?;
        let name = match reference.digest() {
            Some(digest) => reference.with_digest(digest.clone()),
            None => reference.clone(),
        };
        let before = self
            .inner
            .book
            .read()
            .names
            .get(&name)
            .map(|row| row.target.digest.clone());
        let digest = target.digest.clone();
        let names = [
            (name, target.clone()),
            (reference.with_digest(digest.clone()), target),
        ];
        let images = self.clone();
        let manifest = descriptor;
        let image = blocking(move || {
            let layers = layers;
            let image = images.register(&config_bytes, manifest, layers.layers, names);
            drop(layers.pin);
            image
        })
        .await?;
        let is_newer = before.as_ref() != Some(&digest);
        progress.status("", format!("Digest: {digest}")).await;
        let verdict = if is_newer {
            "Downloaded newer image"
        } else {
            "Image is up to date"
        };
        progress
            .status(
                "",
                format!("Status: {verdict} for {}", reference.familiar()),
            )
            .await;
        Ok(Pulled {
            image,
            digest,
            is_newer,
        })
    }

    /// Looks up what `reference` names (`latest` if it says nothing) in its
    /// registry, and keeps nothing of it.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`], [`Error::Denied`], [`Error::Network`] and
    /// others.
    pub async fn look_up(
        &self,
        reference: &Reference,
        auth: Option<RegistryAuth>,
    ) -> Result<Offered> {
        let reference = reference.clone().or_latest();
        let options = PullOptions {
            auth,
            platform: None,
        };
        let (session, top) = self.find(&reference, &options).await?;
        let platforms = match &top.document {
            Document::Index(index) => {
                let manifests = index.manifests.iter();
                manifests
                    .filter_map(|entry| entry.platform.clone())
                    .collect()
            }
            Document::Manifest(manifest) => {
                let bytes = self.config(&session, manifest, &reference).await?;
                vec![parse_config(&manifest.config.digest, &bytes)?.platform()]
            }
        };
        Ok(Offered {
            descriptor: top.descriptor,
            platforms,
        })
    }

    /// Asks what the reference means, one host after the other.
    async fn find(
        &self,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<(Session, Fetched)> {
        let (name, intent) = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => (digest.to_string(), Intent::Pull),
            (None, tag) => (tag.unwrap_or_default().to_owned(), Intent::Resolve),
        };
        let client = Arc::clone(&self.inner.client);
        let mut session = Session::open(client, reference, options.auth.clone(), intent).await?;
        loop {
            match session.manifest(&name, reference).await {
                Ok(fetched) => return Ok((session, fetched)),
                Err(error) => match session.next().await {
                    Some(next) => {
                        tracing::info!(%error, "asking the next host");
                        session = next;
                    }
                    None => return Err(error),
                },
            }
        }
    }

    /// The manifest for the platform, if there is a choice, and the
    /// configuration it names.
    async fn describe(
        &self,
        session: &Session,
        top: &Fetched,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Described> {
        let chosen = match &top.document {
            Document::Manifest(_) => None,
            Document::Index(index) => Some(self.choose(session, index, reference, options).await?),
        };
        let Fetched {
            descriptor,
            bytes,
            document,
        } = chosen.as_ref().unwrap_or(top);
        let Document::Manifest(manifest) = document else {
            return Err(session.nonsense("index in an index"));
        };
        let config_bytes = self.config(session, manifest, reference).await?;
        Ok(Described {
            descriptor: descriptor.clone(),
            bytes: bytes.clone(),
            manifest: manifest.clone(),
            config_bytes,
        })
    }

    async fn choose(
        &self,
        session: &Session,
        index: &Index,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Fetched> {
        let wanted = self.wanted(options);
        // Attestations and the like run nowhere.
        let images: Vec<Descriptor> = index
            .manifests
            .iter()
            .filter(|entry| {
                let unknown = |platform: &Platform| platform.os == "unknown";
                !entry.platform.as_ref().is_some_and(unknown)
            })
            .cloned()
            .collect();
        let entry = wanted
            .choose(&images)
            .ok_or_else(|| Error::NoMatchingPlatform {
                reference: reference.familiar(),
                platform: wanted.to_string(),
            })?;
        let reference = reference.with_digest(entry.digest.clone());
        let fetched = session.manifest(entry.digest.as_str(), &reference).await?;
        if fetched.bytes.len() as u64 != entry.size {
            return Err(session.nonsense(format!("manifest {} has the wrong size", entry.digest)));
        }
        Ok(fetched)
    }

    async fn config(
        &self,
        session: &Session,
        manifest: &Manifest,
        reference: &Reference,
    ) -> Result<Bytes> {
        let descriptor = &manifest.config;
        if !media_type::is_config(&descriptor.media_type) {
            let kind = format!("its configuration is {:?}", descriptor.media_type);
            return Err(Error::NotAnImage(reference.familiar(), kind));
        }
        let limit = self.inner.options.limits.config_bytes;
        if descriptor.size > limit {
            return Err(session.nonsense(format!("configuration has more than {limit} bytes")));
        }
        let url = session.url(&format!("blobs/{}", descriptor.digest))?;
        let mut n_failed = 0;
        loop {
            let attempt = async {
                let ask = Ask::new(Method::GET, url.clone());
                let response = session.expect(&ask, &[StatusCode::OK]).await?;
                session.collect(response, limit as usize).await
            };
            match attempt.await {
                Ok(bytes) => {
                    verify(session, &descriptor.digest, &bytes)?;
                    return Ok(bytes);
                }
                Err(error) => session
                    .endure(error, &mut n_failed)
                    .await
                    .map_err(|error| error.of_blob(&descriptor.digest))?,
            }
        }
    }

    fn check(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<()> {
        let strange = manifest
            .layers
            .iter()
            .find(|layer| media_type::layer_compression(&layer.media_type).is_none());
        if let Some(strange) = strange {
            let kind = format!("it has a layer of type {:?}", strange.media_type);
            return Err(Error::NotAnImage(reference.familiar(), kind));
        }
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            let counts = format!(
                "{} layers in its manifest, {} in its configuration",
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            );
            return Err(Error::NotAnImage(reference.familiar(), counts));
        }
        if manifest.layers.len() > MAX_LAYERS {
            return Err(Error::Invalid(format!(
                "{} has {} layers; the kernel mounts {MAX_LAYERS} at most",
                reference.familiar(),
                manifest.layers.len()
            )));
        }
        let platform = config.platform();
        if let Some(wanted) = &options.platform
            && wanted.fitness(&platform).is_none()
        {
            return Err(Error::Invalid(format!(
                "image with reference {} was found but does not provide the specified platform \
                 ({wanted}): it is for {platform}",
                reference.familiar()
            )));
        }
        Ok(())
    }

    async fn layers(
        &self,
        session: &Arc<Session>,
        manifest: &Manifest,
        config: &ImageConfig,
        effort: &Arc<Effort>,
        progress: &ProgressSender,
    ) -> Result<Stack> {
        let chain_ids = chain_ids(&config.rootfs.diff_ids);
        let pin = self.inner.snapshots.pins.pin(chain_ids.iter().cloned());
        for layer in &manifest.layers {
            effort.lease.hold(&layer.digest);
            progress
                .status(layer.digest.short(), "Pulling fs layer")
                .await;
        }
        let transfers: Vec<_> = manifest
            .layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .zip(&chain_ids)
            .map(|((blob, diff_id), chain_id)| Transfer {
                images: self.clone(),
                session: Arc::clone(session),
                effort: Arc::clone(effort),
                progress: progress.clone(),
                blob: blob.clone(),
                diff_id: diff_id.clone(),
                chain_id: chain_id.clone(),
            })
            .collect();
        let n_layers = transfers.len().max(1);
        // The client's slots bound the transfers; what only unpacks need not
        // wait for one.
        let mut drafts: Vec<(usize, Layer, Option<Draft>)> = futures_util::stream::iter(transfers)
            .enumerate()
            .map(|(n, transfer)| async move {
                let effort = Arc::clone(&transfer.effort);
                let digest = transfer.blob.digest.clone();
                let done = transfer.run().await;
                let done = done.map_err(|error| error.of_blob(&digest));
                // The others are told before they are dropped.
                let (layer, draft) = done.inspect_err(|error| effort.note(error))?;
                Ok::<_, Error>((n, layer, draft))
            })
            // The first that fails says why.
            .buffer_unordered(n_layers)
            .try_collect()
            .await?;
        drafts.sort_by_key(|(n, _, _)| *n);
        let images = self.clone();
        blocking(move || {
            let mut layers: Vec<Layer> = Vec::new();
            let mut stack = Vec::new();
            for (_, layer, draft) in drafts {
                if let Some(draft) = draft {
                    stack.push((layer.chain_id.clone(), top(&layers).cloned(), draft));
                }
                layers.push(layer);
            }
            images.inner.snapshots.publish(stack)?;
            Ok(Stack { layers, pin })
        })
        .await
    }

    async fn keep(&self, lease: &Arc<Lease>, bytes: &Bytes) -> Result<()> {
        let (content, lease, bytes) =
            (self.inner.content.clone(), Arc::clone(lease), bytes.clone());
        blocking(move || Ok(content.put(&lease, &bytes).map(drop)?)).await
    }

    fn wanted(&self, options: &PullOptions) -> Platform {
        options
            .platform
            .clone()
            .unwrap_or_else(|| self.inner.options.platform.clone())
    }
}

/// All layers of an image, unpacked and kept.
struct Stack {
    layers: Vec<Layer>,
    pin: crate::pins::Pin,
}

/// What the threads of one pull have in common.
struct Effort {
    lease: Arc<Lease>,
    /// Whether it has failed for good: what has come is not worth keeping.
    is_vain: AtomicBool,
    /// Dropped with the last thread.
    _ends: oneshot::Sender<()>,
}

impl Effort {
    /// One for a pull, and what tells, by an error, that all of its threads are gone.
    fn begin(images: &Images) -> (Arc<Effort>, oneshot::Receiver<()>) {
        let (ends, ended) = oneshot::channel();
        let effort = Effort {
            lease: Arc::new(images.inner.content.lease()),
            is_vain: AtomicBool::new(false),
            _ends: ends,
        };
        (Arc::new(effort), ended)
    }

    /// Notes what one of its layers failed by.
    fn note(&self, error: &Error) {
        if !may_pass(error) {
            self.is_vain.store(true, Ordering::Relaxed);
        }
    }

    fn is_vain(&self) -> bool {
        self.is_vain.load(Ordering::Relaxed)
    }
}

/// One layer on its way.
pub(super) struct Transfer {
    images: Images,
    pub(super) session: Arc<Session>,
    effort: Arc<Effort>,
    pub(super) progress: ProgressSender,
    pub(super) blob: Descriptor,
    diff_id: Digest,
    chain_id: Digest,
}

impl Transfer {
    async fn run(self) -> Result<(Layer, Option<Draft>)> {
        let inner = &self.images.inner;
        let layer = |size| Layer {
            blob: self.blob.clone(),
            diff_id: self.diff_id.clone(),
            chain_id: self.chain_id.clone(),
            size,
        };
        let id = self.blob.digest.short();
        // Held by the threads that work for us, so that whoever comes next
        // finds them gone even if we are dropped meanwhile.
        let turn = Arc::new(inner.client.transfer(&self.blob.digest).lock_owned().await);
        let is_there = inner.content.size(&self.blob.digest)? == Some(self.blob.size);
        // That it is this layer is the manifest's word, until it was unpacked once.
        if let Some(size) = inner.snapshots.size(&self.chain_id)
            && is_there
            && inner.book.read().is_pair(&self.blob.digest, &self.diff_id)
        {
            self.progress.status(id, "Already exists").await;
            return Ok((layer(size), None));
        }
        let draft = if is_there {
            let blob = inner.content.open_blob(&self.blob.digest)?.file;
            self.unpack(Box::new(blob), &turn).await?
        } else {
            match self.download(&turn).await {
                // What an earlier attempt left may be spoilt; begin anew once.
                Err((Error::Content(dhow_content::Error::Verify(_)) | Error::Archive(_), true)) => {
                    self.download(&turn).await.map_err(|(error, _)| error)?
                }
                other => other.map_err(|(error, _)| error)?,
            }
        };
        if draft.diff_id != self.diff_id {
            return Err(Error::DiffId {
                layer: self.blob.digest.clone(),
                expected: self.diff_id.clone(),
                actual: draft.diff_id.clone(),
            });
        }
        self.progress.status(id, "Pull complete").await;
        Ok((layer(draft.size), Some(draft)))
    }

    /// Receives the blob and unpacks it as it comes. An error says whether
    /// bytes of an earlier attempt had a part in it.
    async fn download(
        &self,
        turn: &Arc<OwnedMutexGuard<()>>,
    ) -> std::result::Result<Draft, (Error, bool)> {
        let _slot = self.images.inner.client.slots.acquire().await;
        let Writer {
            pieces,
            started,
            outcome,
        } = self.writer(turn);
        let outcome = finished(outcome);
        let (follower, mut offset) = match started.await {
            Ok(started) => started,
            // It ended before it began; the reason is its outcome.
            Err(_) => return Err((outcome.await.err().unwrap_or_else(interrupted), false)),
        };
        let was_resumed = offset > 0;
        let id = self.blob.digest.short();
        let mut unpacking = Box::pin(self.unpack(Box::new(follower), turn));
        let early = {
            let receiving = self.receive(&mut offset, &pieces);
            tokio::pin!(receiving);
            tokio::select! {
                biased;
                received = &mut receiving => match received {
                    Ok(Received::All) => Ok(()),
                    Ok(Received::NotWanted) => Err(Early::Writing),
                    Err(error) => Err(Early::Receiving(error)),
                },
                unpacked = &mut unpacking => Err(Early::Unpacking(unpacked.map(drop))),
            }
        };
        let drafted = match early {
            Ok(()) => {
                self.progress.status(id, "Verifying Checksum").await;
                // A writer that is gone says why below.
                let _ = pieces.send(Piece::End).await;
                drop(pieces);
                match outcome.await {
                    Ok(()) => {
                        self.progress.status(id, "Download complete").await;
                        unpacking.await
                    }
                    Err(error) => {
                        let _ = unpacking.await;
                        Err(error)
                    }
                }
            }
            Err(Early::Receiving(error)) => {
                if !may_pass(&error) {
                    let _ = pieces.send(Piece::Spoilt).await;
                }
                drop(pieces);
                // Their complaints are only that they were interrupted; when
                // they are through, nothing is left of them.
                let _ = outcome.await;
                let _ = unpacking.await;
                Err(error)
            }
            Err(Early::Writing) => {
                drop(pieces);
                let written = outcome.await;
                let _ = unpacking.await;
                written.and_then(|()| Err(interrupted()))
            }
            // It reads to the end of the blob, so this early it has failed:
            // because the writer did, or because of what it read, which is
            // then not worth resuming from.
            Err(Early::Unpacking(unpacked)) => {
                let _ = pieces.send(Piece::Spoilt).await;
                drop(pieces);
                outcome
                    .await
                    .and(unpacked)
                    .and_then(|()| Err(interrupted()))
            }
        };
        drafted.map_err(|error| (error, was_resumed))
    }

    /// A thread that writes pieces into the content store.
    fn writer(&self, turn: &Arc<OwnedMutexGuard<()>>) -> Writer {
        let (pieces, mut incoming) = mpsc::channel(QUEUE);
        let (tell, started) = oneshot::channel();
        let content = self.images.inner.content.clone();
        let (blob, effort, turn) = (
            self.blob.clone(),
            Arc::clone(&self.effort),
            Arc::clone(turn),
        );
        let outcome = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let key = blob.digest.as_str();
            let mut ingest = content.ingest(key, blob.digest.algorithm())?;
            if ingest.offset() > blob.size {
                ingest.restart()?;
            }
            // If nobody listens, the pieces end at once, too.
            let _ = tell.send((ingest.follow()?, ingest.offset()));
            while let Some(piece) = incoming.blocking_recv() {
                match piece {
                    Piece::Data(data) => {
                        if let Err(error) = std::io::Write::write_all(&mut ingest, &data) {
                            let error = crate::error::at("write", ingest.path())(error);
                            // A full disk is not helped by keeping it.
                            ingest.discard()?;
                            return Err(error);
                        }
                    }
                    Piece::End => {
                        ingest.commit(&effort.lease, &blob.digest, Some(blob.size))?;
                        return Ok(());
                    }
                    Piece::Spoilt => {
                        ingest.discard()?;
                        return Ok(());
                    }
                }
            }
            if effort.is_vain() {
                ingest.discard()?;
            }
            // Dropped, it is kept for the next attempt.
            Err(interrupted())
        });
        Writer {
            pieces,
            started,
            outcome,
        }
    }

    /// A thread that unpacks what it reads.
    fn unpack(
        &self,
        blob: Box<dyn Read + Send>,
        turn: &Arc<OwnedMutexGuard<()>>,
    ) -> impl Future<Output = Result<Draft>> + use<> {
        let (images, turn) = (self.images.clone(), Arc::clone(turn));
        let counting = Counting {
            input: blob,
            effort: Arc::clone(&self.effort),
            progress: self.progress.clone(),
            id: self.blob.digest.short().to_owned(),
            size: self.blob.size,
            done: 0,
            counted: 0,
        };
        let effort = Arc::clone(&self.effort);
        blocking(move || {
            let _turn = turn;
            let draft = images
                .inner
                .snapshots
                .unpack(counting, images.read_limits())?;
            match effort.is_vain() {
                true => Err(interrupted()),
                false => Ok(draft),
            }
        })
    }
}

/// A part of a blob on its way to the disk.
pub(super) enum Piece {
    Data(Bytes),
    /// There is no more; without it, the transfer was given up.
    End,
    /// What came is of no use.
    Spoilt,
}

/// A thread that writes, and the ways to it.
struct Writer {
    pieces: mpsc::Sender<Piece>,
    /// Tells how to read along, and where the blob begins to be missing.
    started: oneshot::Receiver<(Follower, u64)>,
    outcome: JoinHandle<Result<()>>,
}

/// What ended before everything had been received.
enum Early {
    Receiving(Error),
    /// The thread that writes has ended; its outcome says why.
    Writing,
    Unpacking(Result<()>),
}

/// The outcome of a thread.
async fn finished<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    match thread.await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(interrupted()),
    }
}

/// Counts what is unpacked.
struct Counting {
    input: Box<dyn Read + Send>,
    effort: Arc<Effort>,
    progress: ProgressSender,
    id: String,
    size: u64,
    done: u64,
    counted: u64,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.effort.is_vain() {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        let n_read = self.input.read(buffer)?;
        self.done += n_read as u64;
        if self.done - self.counted >= COUNT_EVERY || (n_read > 0 && self.done == self.size) {
            self.counted = self.done;
            self.progress
                .count(&self.id, "Extracting", self.done, self.size);
        }
        Ok(n_read)
    }
}

impl Session {
    async fn manifest(&self, name: &str, reference: &Reference) -> Result<Fetched> {
        let mut ask = Ask::new(Method::GET, self.url(&format!("manifests/{name}"))?);
        for kind in media_type::ACCEPT_MANIFEST {
            ask = ask.header(ACCEPT, kind);
        }
        let mut n_failed = 0;
        let (bytes, announced) = loop {
            let attempt = async {
                let response = self.expect(&ask, &[StatusCode::OK]).await?;
                let announced = response
                    .headers()
                    .get(CONTENT_TYPE)
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default()
                    .to_owned();
                Ok::<_, Error>((self.collect(response, MAX_DOCUMENT).await?, announced))
            };
            match attempt.await {
                Ok(fetched) => break fetched,
                Err(Error::Registry { status: 404, .. }) => {
                    return Err(Error::ManifestUnknown(reference.familiar()));
                }
                Err(Error::Denied(why)) => {
                    return Err(Error::Denied(format!(
                        "pull access denied for {}, repository does not exist or may require \
                         'docker login': {why}",
                        reference.familiar_name()
                    )));
                }
                Err(error @ Error::Unreachable { .. }) => return Err(error),
                Err(error) => self.endure(error, &mut n_failed).await?,
            }
        };
        // What was asked for by digest must have it; what was asked for by
        // tag gets the digest it has.
        let digest = match name.parse::<Digest>() {
            Ok(expected) => {
                verify(self, &expected, &bytes)?;
                expected
            }
            Err(_) => Digest::of(&bytes),
        };
        let document = Document::parse(&bytes, &announced).map_err(|source| Error::Manifest {
            digest: digest.clone(),
            source,
        })?;
        let descriptor = Descriptor::new(document.media_type(), digest, bytes.len() as u64);
        Ok(Fetched {
            descriptor,
            bytes,
            document,
        })
    }

    /// Waits before another attempt, or gives the error back if there should
    /// be none.
    pub(super) async fn endure(&self, error: Error, n_failed: &mut u32) -> Result<()> {
        *n_failed += 1;
        if !may_pass(&error) || *n_failed >= self.attempts() {
            return Err(error);
        }
        tracing::debug!(%error, n_failed, "asking again");
        tokio::time::sleep(backoff(*n_failed).max(Duration::from_millis(1))).await;
        Ok(())
    }
}

fn verify(session: &Session, expected: &Digest, bytes: &[u8]) -> Result<()> {
    let mut digester = expected.algorithm().digester();
    digester.update(bytes);
    let actual = digester.finish();
    if actual != *expected {
        return Err(session.nonsense(format!("asked for {expected}, it sent {actual}")));
    }
    Ok(())
}

fn interrupted() -> Error {
    Error::Invalid("the transfer was interrupted".to_owned())
}
