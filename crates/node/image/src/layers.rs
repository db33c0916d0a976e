//! Making layers and images: of what was written to a root filesystem, of
//! build steps, of plain archives.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use dhow_content::Lease;
use dhow_oci::{
    Algorithm, Compression, Descriptor, Digest, Digester, History, ImageConfig, Manifest,
    Reference, chain_id, media_type,
};

use crate::archive::{PackOptions, Whiteouts, pack, sniff};
use crate::error::{at, unreadable};
use crate::images::{Images, top};
use crate::state::image;
use crate::table::{ImageRow, NameRow, Write as Row};
use crate::tar::Writer;
use crate::types::{Commit, Image, Import, Layer, Pruned, Step};
use crate::{Error, Result};

/// Layers are made to be stored at once and sent seldom: speed before size.
const GZIP_LEVEL: u32 = 3;

/// A layer as a blob, not yet on top of anything.
struct Packed {
    blob: Descriptor,
    diff_id: Digest,
    bytes: u64,
    n_entries: u64,
}

impl Images {
    /// Turns what was written to a root filesystem into a layer on top of the
    /// stack it was prepared on, and releases it. Returns none if nothing was
    /// written. The layer is kept for as long as the process lives or an image
    /// or step refers to it. Blocks.
    pub fn commit_layer(&self, layers: &[Layer], name: &str) -> Result<Option<Layer>> {
        let (rootfs, base) = self.inner.snapshots.rootfs(name)?;
        if base.as_ref() != top(layers) {
            return Err(Error::Invalid(format!(
                "root filesystem {name:?} was not prepared on this stack"
            )));
        }
        let lease = self.inner.content.lease();
        let packed = self.pack_layer(&rootfs.upper, &lease)?;
        if packed.n_entries == 0 {
            self.release(name)?;
            return Ok(None);
        }
        let layer = layer_on(layers, &packed);
        let _pin = self.inner.snapshots.pins.pin([layer.chain_id.clone()]);
        let draft = self
            .inner
            .snapshots
            .adopt(name, packed.diff_id, packed.bytes)?;
        let below = top(layers).cloned();
        self.inner
            .snapshots
            .publish([(layer.chain_id.clone(), below, draft)])?;
        self.keep_fresh(&layer, lease);
        Ok(Some(layer))
    }

    /// Makes an image of `base` and what was written on top of it. Works
    /// beside a running container, which should be paused. Blocks.
    pub fn commit(&self, base: &Image, container: &str, commit: Commit) -> Result<Arc<Image>> {
        let (rootfs, on) = self.inner.snapshots.rootfs(container)?;
        if on.as_ref() != top(&base.layers) {
            return Err(Error::Invalid(format!(
                "container {container} was not made from image {}",
                base.id.short()
            )));
        }
        self.leased(|lease| {
            let packed = self.pack_layer(&rootfs.upper, lease)?;
            let created = self.timestamp();
            let mut layers = base.layers.clone();
            let mut config = base.config.clone();
            config.config = commit.config;
            config.author.clone_from(&commit.author);
            config.comment.clone_from(&commit.comment);
            config.created = Some(created.clone());
            config.history.push(History {
                created: Some(created),
                created_by: commit.created_by,
                author: commit.author,
                comment: commit.comment,
                empty_layer: packed.n_entries == 0,
            });
            if packed.n_entries > 0 {
                let layer = layer_on(&layers, &packed);
                config.rootfs.diff_ids.push(layer.diff_id.clone());
                layers.push(layer);
            }
            let _pin = self.ensure_unpacked(&layers)?;
            self.create(&config, &layers, commit.name.as_ref())
        })
    }

    /// Makes an image of one layer from a tar, compressed or not. Blocks.
    pub fn import(&self, input: &mut (dyn Read + Send), import: Import) -> Result<Arc<Image>> {
        self.leased(|lease| {
            let inner = &self.inner;
            let mut ingest = inner.content.ingest_anew(Algorithm::Sha256)?;
            let (compression, mut input) =
                sniff(input).map_err(at("read", Path::new("archive")))?;
            copy_bounded(&mut input, &mut ingest, inner.options.limits.unpacked_bytes)?;
            let size = ingest.offset();
            let digest = ingest.commit_any(lease)?;
            let blob = inner.content.open_blob(&digest)?;
            let draft = inner.snapshots.unpack(blob.file, self.read_limits())?;
            let layer = Layer {
                blob: Descriptor::new(compression.oci_layer(), digest, size),
                diff_id: draft.diff_id.clone(),
                chain_id: draft.diff_id.clone(),
                size: draft.size,
            };
            let _pin = inner.snapshots.pins.pin([layer.chain_id.clone()]);
            inner
                .snapshots
                .publish([(layer.chain_id.clone(), None, draft)])?;
            let created = self.timestamp();
            let platform = import
                .platform
                .unwrap_or_else(|| inner.options.platform.clone());
            let mut config = ImageConfig {
                created: Some(created.clone()),
                architecture: platform.architecture,
                variant: platform.variant,
                os: platform.os,
                config: import.config,
                comment: import.message.clone(),
                ..ImageConfig::default()
            };
            config.rootfs.diff_ids.push(layer.diff_id.clone());
            config.history.push(History {
                created: Some(created),
                comment: import.message,
                ..History::default()
            });
            self.create(&config, &[layer], import.name.as_ref())
        })
    }

    /// Makes an image of a configuration and the layers it names. Durable when
    /// it returns. Blocks.
    ///
    /// # Errors
    /// [`Error::Invalid`] if configuration and layers do not agree.
    pub fn create(
        &self,
        config: &ImageConfig,
        layers: &[Layer],
        name: Option<&Reference>,
    ) -> Result<Arc<Image>> {
        let config = serde_json::to_vec(config).expect("plain data");
        self.leased(|lease| {
            let id = self.inner.content.put(lease, &config)?;
            let descriptor =
                Descriptor::new(media_type::OCI_CONFIG, id.clone(), config.len() as u64);
            let blobs = layers.iter().map(|layer| layer.blob.clone()).collect();
            let manifest =
                serde_json::to_vec(&Manifest::new(descriptor, blobs)).expect("plain data");
            let digest = self.inner.content.put(lease, &manifest)?;
            let manifest = Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.len() as u64);
            let target = manifest.clone();
            let names = name.map(|name| (name.clone().or_latest(), target));
            self.register(&config, manifest, layers.to_vec(), names)
        })
    }

    /// Records an image whose blobs are leased and whose snapshots are pinned
    /// by the caller, with its names and what those mean.
    pub(crate) fn register(
        &self,
        config: &[u8],
        manifest: Descriptor,
        layers: Vec<Layer>,
        names: impl IntoIterator<Item = (Reference, Descriptor)>,
    ) -> Result<Arc<Image>> {
        let id = Digest::of(config);
        let row = ImageRow {
            manifest,
            layers,
            tagged: self.now(),
        };
        let made = Arc::new(image(&id, config, row)?);
        let diff_ids = made.layers.iter().map(|layer| &layer.diff_id);
        if !diff_ids.eq(&made.config.rootfs.diff_ids) {
            return Err(Error::Invalid(format!(
                "image {} names {} layers, but was made of {}",
                id.short(),
                made.config.rootfs.diff_ids.len(),
                made.layers.len()
            )));
        }
        self.inner.book.change(|state| {
            let mut rows = vec![Row::Image(Arc::clone(&made))];
            for (name, target) in names {
                // Only what a registry told has a digest.
                if name.digest().is_some() {
                    rows.extend(state.placed(&id, &name));
                }
                rows.push(Row::Name(
                    name,
                    NameRow {
                        image: id.clone(),
                        target,
                    },
                ));
            }
            Ok((rows, ()))
        })?;
        self.settle(&made.layers);
        Ok(made)
    }

    /// The build step remembered under this key.
    pub fn step(&self, key: &Digest) -> Option<Step> {
        self.inner.book.read().steps.get(key).cloned()
    }

    /// Remembers build steps durably.
    pub fn remember_steps(&self, steps: &[(Digest, Step)]) -> Result<()> {
        self.inner.book.change(|_| {
            let rows = steps
                .iter()
                .map(|(key, step)| Row::Step(key.clone(), step.clone()));
            Ok((rows.collect(), ()))
        })?;
        self.settle(steps.iter().filter_map(|(_, step)| step.layer.as_ref()));
        Ok(())
    }

    /// All remembered build steps.
    pub fn steps(&self) -> HashMap<Digest, Step> {
        self.inner.book.read().steps.clone()
    }

    /// Forgets build steps for which `wanted` says yes. Blocks.
    pub fn prune_steps(&self, wanted: &dyn Fn(&Digest, &Step) -> bool) -> Result<Pruned> {
        let keys = self.inner.book.change(|state| {
            let keys: Vec<Digest> = state
                .steps
                .iter()
                .filter(|(key, step)| wanted(key, step))
                .map(|(key, _)| key.clone())
                .collect();
            Ok((keys.iter().cloned().map(Row::ForgetStep).collect(), keys))
        })?;
        let steps = keys.into_iter().map(crate::types::Removed::Deleted);
        Ok(Pruned {
            removed: steps.collect(),
            reclaimed: self.sweep()?,
        })
    }

    /// Writes an upper directory as a gzip'ed layer: one pass makes the tar,
    /// its digest, the blob and the blob's digest.
    fn pack_layer(&self, upper: &Path, lease: &Lease) -> Result<Packed> {
        let root = File::open(upper).map_err(at("open", upper))?;
        let ingest = self.inner.content.ingest_anew(Algorithm::Sha256)?;
        let level = flate2::Compression::new(GZIP_LEVEL);
        let gzip = flate2::write::GzEncoder::new(BufWriter::with_capacity(1 << 18, ingest), level);
        let hashing = HashingWriter {
            output: gzip,
            digester: Algorithm::Sha256.digester(),
        };
        let mut writer = Writer::new(BufWriter::with_capacity(1 << 18, hashing));
        let options = PackOptions {
            whiteouts: Whiteouts::Overlay,
            ..PackOptions::default()
        };
        let packed = pack(&root, &mut writer, &options).map_err(at("pack", upper))?;
        let finished = (|| {
            let hashing = writer.finish()?.into_inner().map_err(io::Error::from)?;
            let diff_id = hashing.digester.finish();
            let ingest = hashing
                .output
                .finish()?
                .into_inner()
                .map_err(io::Error::from)?;
            Ok::<_, io::Error>((diff_id, ingest))
        })();
        let (diff_id, ingest) = finished.map_err(at("pack", upper))?;
        let size = ingest.offset();
        if packed.n_entries == 0 {
            ingest.discard()?;
            let digest = diff_id.clone();
            let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, 0);
            return Ok(Packed {
                blob,
                diff_id,
                bytes: 0,
                n_entries: 0,
            });
        }
        let digest = ingest.commit_any(lease)?;
        let blob = Descriptor::new(Compression::Gzip.oci_layer(), digest, size);
        Ok(Packed {
            blob,
            diff_id,
            bytes: packed.bytes,
            n_entries: packed.n_entries,
        })
    }
}

/// The layer that a blob makes on top of a stack.
fn layer_on(layers: &[Layer], packed: &Packed) -> Layer {
    let mut diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    diff_ids.push(packed.diff_id.clone());
    Layer {
        blob: packed.blob.clone(),
        diff_id: packed.diff_id.clone(),
        chain_id: chain_id(&diff_ids).expect("one layer at least"),
        size: packed.bytes,
    }
}

/// Copies at most `limit` bytes.
pub(crate) fn copy_bounded(
    input: &mut dyn Read,
    ingest: &mut dhow_content::Ingest,
    limit: u64,
) -> Result<u64> {
    let path = ingest.path().to_owned();
    let mut buffer = vec![0; 256 << 10];
    let mut n_copied = 0;
    loop {
        let n_read = input.read(&mut buffer).map_err(unreadable)?;
        if n_read == 0 {
            return Ok(n_copied);
        }
        n_copied += n_read as u64;
        if n_copied > limit {
            return Err(Error::archive(format!(
                "archive is larger than the {limit} bytes allowed"
            )));
        }
        ingest
            .write_all(&buffer[..n_read])
            .map_err(at("write", &path))?;
    }
}

/// Hashes what is written through it.
struct HashingWriter<W> {
    output: W,
    digester: Digester,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.output.write(bytes)?;
        self.digester.update(&bytes[..n_written]);
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
