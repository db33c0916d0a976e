//! The door of the crate: opening, looking up, sweeping. The other verbs have
//! files of their own.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dhow_oci::{Descriptor, Digest, MAX_DOCUMENT};

use crate::error::at;
use crate::pins::Pin;
use crate::remote::Client;
use crate::snapshots::Snapshots;
use crate::state::{Book, State};
use crate::table::Table;
use crate::tar::ReadLimits;
use crate::types::{
    DiskUsage, HistoryEntry, Image, Layer, Listed, Names, Options, Pruned, Removed, Rootfs, User,
};
use crate::{Error, Result};

/// Interrupted transfers are kept this long for resuming.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// All images of one machine. Clones share them.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) content: dhow_content::Store,
    pub(crate) book: Book,
    pub(crate) snapshots: Snapshots,
    pub(crate) client: Arc<Client>,
    /// Layers committed by this process that nothing durable refers to yet.
    pub(crate) fresh: Mutex<HashMap<Digest, Hold>>,
    /// Seconds since the epoch at which images were used, not durable yet.
    pub(crate) uses: Mutex<HashMap<Digest, i64>>,
}

/// Keeps layers alive; see [`Images::hold`].
#[derive(Debug)]
pub struct Hold {
    _lease: dhow_content::Lease,
    _pin: Pin,
}

/// Asked before anything is removed: who uses the image with this id?
pub type Users<'a> = &'a (dyn Fn(&Digest) -> Vec<User> + Sync);

impl Images {
    /// Opens the store under `options.root`, creating it if there is none, and
    /// removes what an interrupted operation left behind. Blocks.
    ///
    /// # Errors
    /// [`Error::Table`] if another process has it open; [`Error::Io`].
    pub fn open(options: Options) -> Result<Images> {
        let root = &options.root;
        // Layers hold set-id programs: nobody else looks in here.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(at("create", root))?;
        let table = Table::open(&root.join("images.redb"))?;
        let book = Book::open(table, &options.content, &options.limits)?;
        let snapshots = Snapshots::open(root, (options.now)())?;
        Ok(Images {
            inner: Arc::new(Inner {
                content: options.content.clone(),
                client: Arc::new(Client::new(&options.registries, options.limits.transfers)),
                book,
                snapshots,
                fresh: Mutex::default(),
                uses: Mutex::default(),
                options,
            }),
        })
    }

    /// What it was opened with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Listed> {
        let state = self.inner.book.read();
        let mut n_users: HashMap<&Digest, usize> = HashMap::new();
        for image in state.images.values() {
            for layer in &image.layers {
                *n_users.entry(&layer.chain_id).or_default() += 1;
            }
        }
        let mut names: HashMap<&Digest, Names> = HashMap::new();
        for (name, row) in &state.names {
            let names = names.entry(&row.image).or_default();
            match name.digest() {
                Some(_) => names.digests.push(name.clone()),
                None => names.tags.push(name.clone()),
            }
        }
        let mut listed: Vec<Listed> = state
            .images
            .values()
            .map(|image| Listed {
                image: Arc::clone(image),
                names: names.remove(&image.id).unwrap_or_default(),
                shared_size: image
                    .layers
                    .iter()
                    .filter(|layer| n_users[&layer.chain_id] > 1)
                    .map(|layer| layer.size)
                    .sum(),
            })
            .collect();
        listed.sort_by(|a, b| (b.image.created, &b.image.id).cmp(&(a.image.created, &a.image.id)));
        listed
    }

    /// The image with this id.
    pub fn get(&self, id: &Digest) -> Option<Arc<Image>> {
        self.inner.book.read().images.get(id).cloned()
    }

    /// The names of an image.
    pub fn names(&self, id: &Digest) -> Names {
        self.inner.book.read().names_of(id)
    }

    /// How the image came to be, newest first.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let mut layers = image.layers.iter();
        let mut entries: Vec<HistoryEntry> = image
            .config
            .history
            .iter()
            .map(|step| HistoryEntry {
                id: None,
                created: step.created.as_deref().map_or(0, crate::state::seconds),
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                size: match step.empty_layer {
                    true => 0,
                    false => layers.next().map_or(0, |layer| layer.size),
                },
                comment: step.comment.clone(),
            })
            .collect();
        // Images of some builders have fewer words than layers.
        entries.extend(layers.map(|layer| HistoryEntry {
            id: None,
            created: image.created,
            created_by: String::new(),
            tags: Vec::new(),
            size: layer.size,
            comment: String::new(),
        }));
        entries.reverse();
        if let Some(newest) = entries.first_mut() {
            newest.id = Some(image.id.clone());
            newest.tags = self.names(&image.id).tags;
        }
        entries
    }

    /// Reads a manifest or configuration of an image as it is stored. Blocks.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let limit = self
            .inner
            .options
            .limits
            .config_bytes
            .max(MAX_DOCUMENT as u64);
        Ok(self.inner.content.read(&descriptor.digest, limit)?)
    }

    /// Prepares a root filesystem named `container` on top of an image. A few
    /// system calls; fast enough to call from async code (but if a snapshot
    /// was lost, it is unpacked again).
    ///
    /// # Errors
    /// [`Error::RootfsExists`].
    pub fn prepare(&self, image: &Image, container: &str) -> Result<Rootfs> {
        self.prepare_sized(image, container, None)
    }

    /// Like [`Images::prepare`]; no more than `size` bytes can be written to it.
    ///
    /// # Errors
    /// [`Error::NoQuotas`] where [`Images::has_quotas`] says no.
    pub fn prepare_sized(
        &self,
        image: &Image,
        container: &str,
        size: Option<u64>,
    ) -> Result<Rootfs> {
        self.note_use(&image.id);
        let _pin = self.ensure_unpacked(&image.layers)?;
        self.inner
            .snapshots
            .prepare(top(&image.layers), container, size)
    }

    /// Whether the file system of the store can keep root filesystems within a
    /// size.
    pub fn has_quotas(&self) -> bool {
        self.inner.snapshots.sizes.is_some()
    }

    /// Prepares a root filesystem on top of a stack of layers that need not be
    /// an image yet. An empty stack is an empty root.
    pub fn prepare_on(&self, layers: &[Layer], name: &str) -> Result<Rootfs> {
        let _pin = self.ensure_unpacked(layers)?;
        self.inner.snapshots.prepare(top(layers), name, None)
    }

    /// The root filesystem prepared under this name, also after a restart.
    ///
    /// # Errors
    /// [`Error::NoSuchRootfs`].
    pub fn rootfs(&self, container: &str) -> Result<Rootfs> {
        Ok(self.inner.snapshots.rootfs(container)?.0)
    }

    /// The names of all prepared root filesystems.
    pub fn rootfs_names(&self) -> Result<Vec<String>> {
        self.inner.snapshots.rootfs_names()
    }

    /// Removes a root filesystem and everything written to it. No error if
    /// there is none. Blocks.
    pub fn release(&self, container: &str) -> Result<()> {
        self.inner.snapshots.release(container)
    }

    /// Opens the merged root of a prepared root filesystem as a detached
    /// overlay mount: no mount table sees it, and it ends with the descriptor.
    /// Resolve paths in it with [`crate::archive::open_in`].
    ///
    /// Only while no container runs on it: two overlays must not share an
    /// upper directory. For a running one use `/proc/PID/root`.
    pub fn open_rootfs(&self, container: &str) -> Result<OwnedFd> {
        self.inner.snapshots.open_rootfs(container)
    }

    /// Like [`Images::open_rootfs`], but of an image and read-only.
    pub fn open_image(&self, image: &Image) -> Result<OwnedFd> {
        self.open_layers(&image.layers)
    }

    /// Like [`Images::open_image`], of a stack of layers.
    pub fn open_layers(&self, layers: &[Layer]) -> Result<OwnedFd> {
        let _pin = self.ensure_unpacked(layers)?;
        let lower = self.inner.snapshots.lower(top(layers))?;
        self.inner.snapshots.mount(&lower)
    }

    /// The directories of an image's layers, topmost first, as overlayfs takes
    /// them.
    pub fn layer_paths(&self, image: &Image) -> Result<Vec<PathBuf>> {
        self.inner.snapshots.lower(top(&image.layers))
    }

    /// The directories of a merged view of an image that cannot be written: two or
    /// more, topmost first, as overlayfs wants them. They are there as long as the
    /// image is.
    ///
    /// # Errors
    /// What unpacking it again says, if a snapshot was lost.
    pub fn view_paths(&self, image: &Image) -> Result<Vec<PathBuf>> {
        self.note_use(&image.id);
        let _pin = self.ensure_unpacked(&image.layers)?;
        let snapshots = &self.inner.snapshots;
        Ok(snapshots.view(snapshots.lower(top(&image.layers))?))
    }

    /// Keeps a stack of layers from being swept until the hold is dropped,
    /// whatever happens to the images that refer to it.
    pub fn hold(&self, layers: &[Layer]) -> Hold {
        let lease = self.inner.content.lease();
        for layer in layers {
            lease.hold(&layer.blob.digest);
        }
        let chain_ids = layers.iter().map(|layer| layer.chain_id.clone());
        Hold {
            _lease: lease,
            _pin: self.inner.snapshots.pins.pin(chain_ids),
        }
    }

    /// Removes what nothing refers to any more, and returns the bytes freed.
    /// Blocks.
    pub fn sweep(&self) -> Result<u64> {
        Ok(self.sweep_all()?.reclaimed)
    }

    /// The same, with the layers that went.
    pub(crate) fn sweep_all(&self) -> Result<Pruned> {
        let inner = &self.inner;
        let (layers, freed) = inner.snapshots.sweep(|| chain_ids(&inner.book.read()))?;
        let swept = inner.content.sweep(self.abandoned(), || {
            Ok::<_, Error>(blobs(&inner.book.read()))
        })?;
        Ok(Pruned {
            removed: layers.into_iter().map(Removed::Layer).collect(),
            reclaimed: freed + swept.bytes,
        })
    }

    /// Removes what a transfer left that broke off a day ago and was not taken up
    /// again. Returns the bytes freed. Blocks.
    ///
    /// # Errors
    /// [`Error::Content`].
    pub fn sweep_abandoned(&self) -> Result<u64> {
        let mark = || Ok::<_, Error>(blobs(&self.inner.book.read()));
        let swept = self.inner.content.sweep_abandoned(self.abandoned(), mark)?;
        Ok(swept.bytes)
    }

    /// What was last touched before this moment is given up.
    fn abandoned(&self) -> SystemTime {
        (self.inner.options.now)()
            .checked_sub(ABANDONED)
            .unwrap_or(UNIX_EPOCH)
    }

    /// Does work under a lease; what came under it goes again if the work fails.
    pub(crate) fn leased<T>(
        &self,
        work: impl FnOnce(&dhow_content::Lease) -> Result<T>,
    ) -> Result<T> {
        let lease = self.inner.content.lease();
        work(&lease).inspect_err(|_| self.undo(&lease))
    }

    /// Removes what came under a lease whose work has failed. Blocks.
    pub(crate) fn undo(&self, lease: &dhow_content::Lease) {
        let mark = || Ok::<_, Error>(blobs(&self.inner.book.read()));
        // The work's own error is the one that matters.
        if let Err(error) = self.inner.content.undo(lease, mark) {
            tracing::warn!(%error, "what a failure left is not removed");
        }
    }

    /// What takes how much room.
    pub fn disk_usage(&self) -> DiskUsage {
        let state = self.inner.book.read();
        let mut of_images: HashMap<&Digest, u64> = HashMap::new();
        for layer in state.images.values().flat_map(|image| &image.layers) {
            of_images.insert(&layer.chain_id, layer.size);
        }
        let mut of_steps: HashMap<&Digest, u64> = HashMap::new();
        for layer in state.steps.values().filter_map(|step| step.layer.as_ref()) {
            if !of_images.contains_key(&layer.chain_id) {
                of_steps.insert(&layer.chain_id, layer.size);
            }
        }
        DiskUsage {
            layers: of_images.values().sum(),
            build_cache: of_steps.values().sum(),
        }
    }

    /// Unpacks whatever is missing of a stack, and keeps all of it from being
    /// swept until the pin is dropped.
    pub(crate) fn ensure_unpacked(&self, layers: &[Layer]) -> Result<Pin> {
        let snapshots = &self.inner.snapshots;
        let pin = snapshots
            .pins
            .pin(layers.iter().map(|layer| layer.chain_id.clone()));
        let mut drafts = Vec::new();
        for (at_layer, layer) in layers.iter().enumerate() {
            if snapshots.size(&layer.chain_id).is_some() {
                continue;
            }
            let blob = self.inner.content.open_blob(&layer.blob.digest)?;
            let draft = snapshots.unpack(blob.file, self.read_limits())?;
            if draft.diff_id != layer.diff_id {
                return Err(Error::DiffId {
                    layer: layer.blob.digest.clone(),
                    expected: layer.diff_id.clone(),
                    actual: draft.diff_id.clone(),
                });
            }
            drafts.push((
                layer.chain_id.clone(),
                top(&layers[..at_layer]).cloned(),
                draft,
            ));
        }
        snapshots.publish(drafts)?;
        Ok(pin)
    }

    /// Bounds on an archive that is unpacked.
    pub fn read_limits(&self) -> ReadLimits {
        let limits = &self.inner.options.limits;
        ReadLimits {
            bytes: limits.unpacked_bytes,
            entries: limits.entries,
        }
    }

    /// Keeps a layer alive until something durable refers to it.
    pub(crate) fn keep_fresh(&self, layer: &Layer, lease: dhow_content::Lease) {
        let pin = self.inner.snapshots.pins.pin([layer.chain_id.clone()]);
        let fresh = Hold {
            _lease: lease,
            _pin: pin,
        };
        let mut kept = self
            .inner
            .fresh
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.insert(layer.chain_id.clone(), fresh);
    }

    /// Something durable refers to these layers now.
    pub(crate) fn settle<'a>(&self, layers: impl IntoIterator<Item = &'a Layer>) {
        let mut settled = Vec::new();
        let mut kept = self
            .inner
            .fresh
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for layer in layers {
            settled.extend(kept.remove(&layer.chain_id));
        }
        drop(kept);
    }

    /// Seconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        let since = (self.inner.options.now)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// Now, as configurations spell it.
    pub(crate) fn timestamp(&self) -> String {
        jiff::Timestamp::try_from((self.inner.options.now)())
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_string()
    }
}

/// Name of a whole stack.
pub(crate) fn top(layers: &[Layer]) -> Option<&Digest> {
    layers.last().map(|layer| &layer.chain_id)
}

/// Every snapshot that images and build steps refer to.
fn chain_ids(state: &State) -> HashSet<Digest> {
    let of_images = state.images.values().flat_map(|image| &image.layers);
    let of_steps = state.steps.values().filter_map(|step| step.layer.as_ref());
    of_images
        .chain(of_steps)
        .map(|layer| layer.chain_id.clone())
        .collect()
}

/// Every blob that names, images and build steps refer to.
fn blobs(state: &State) -> HashSet<Digest> {
    let mut blobs = HashSet::new();
    blobs.extend(state.names.values().map(|row| row.target.digest.clone()));
    for image in state.images.values() {
        blobs.insert(image.id.clone());
        blobs.insert(image.manifest.digest.clone());
        blobs.extend(image.layers.iter().map(|layer| layer.blob.digest.clone()));
    }
    let steps = state.steps.values().filter_map(|step| step.layer.as_ref());
    blobs.extend(steps.map(|layer| layer.blob.digest.clone()));
    blobs
}
