//! The door of the crate.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dhow_oci::{Descriptor, Digest, ImageConfig, Reference};

use crate::types::{
    Change, Commit, DiskUsage, HistoryEntry, Image, Import, Layer, Listed, Loaded, Names, Options,
    PruneScope, Pruned, PullOptions, Pulled, PushOptions, Pushed, RegistryAuth, Removal, Removed,
    Rootfs, Step, User,
};
use crate::{Error, ProgressSender, Result};

/// All images of one machine. Clones share them.
#[derive(Clone, Debug)]
pub struct Images {
    inner: Arc<Options>,
}

/// Asked before anything is removed: who uses the image with this id?
pub type Users<'a> = &'a (dyn Fn(&Digest) -> Vec<User> + Sync);

fn pending<T>() -> Result<T> {
    Err(Error::Invalid("not wired up yet".to_owned()))
}

impl Images {
    /// Opens the store under `options.root`, creating it if there is none, and
    /// removes what an interrupted operation left behind. Blocks.
    pub fn open(options: Options) -> Result<Images> {
        Ok(Images {
            inner: Arc::new(options),
        })
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Listed> {
        Vec::new()
    }

    /// The image a user means: by name, by digest, by id or a prefix of it.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Ambiguous`], [`Error::Reference`].
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        Err(Error::NoSuchImage(text.to_owned()))
    }

    /// The image with this id.
    pub fn get(&self, id: &Digest) -> Option<Arc<Image>> {
        let _ = id;
        None
    }

    /// The names of an image.
    pub fn names(&self, id: &Digest) -> Names {
        let _ = id;
        Names::default()
    }

    /// Gives the image with this id a name, taking it from any other. Durable
    /// when it returns.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Invalid`] for a name with a digest.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<()> {
        let _ = (id, name);
        pending()
    }

    /// Removes a name, and the image with its last one; by id, the image with
    /// all its names. Docker's rules and words. Blocks.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is needed; those of [`Images::resolve`].
    pub fn remove(&self, text: &str, how: Removal, users: Users<'_>) -> Result<Vec<Removed>> {
        let _ = (text, how, users);
        pending()
    }

    /// Removes the unused images in `scope` for which `wanted` says yes.
    /// Blocks.
    pub fn prune(
        &self,
        scope: PruneScope,
        wanted: &dyn Fn(&Listed) -> bool,
        users: Users<'_>,
    ) -> Result<Pruned> {
        let _ = (scope, wanted, users);
        pending()
    }

    /// How the image came to be, newest first.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let _ = image;
        Vec::new()
    }

    /// Prepares a root filesystem named `container` on top of an image. A few
    /// system calls; fast enough to call from async code.
    ///
    /// # Errors
    /// [`Error::RootfsExists`].
    pub fn prepare(&self, image: &Image, container: &str) -> Result<Rootfs> {
        let _ = (image, container);
        pending()
    }

    /// The root filesystem prepared under this name, also after a restart.
    ///
    /// # Errors
    /// [`Error::NoSuchRootfs`].
    pub fn rootfs(&self, container: &str) -> Result<Rootfs> {
        Err(Error::NoSuchRootfs(container.to_owned()))
    }

    /// The names of all prepared root filesystems.
    pub fn rootfs_names(&self) -> Result<Vec<String>> {
        pending()
    }

    /// Removes a root filesystem and everything written to it. No error if
    /// there is none. Blocks.
    pub fn release(&self, container: &str) -> Result<()> {
        let _ = container;
        pending()
    }

    /// Opens the merged root of a prepared root filesystem as a detached
    /// overlay mount: no mount table sees it, and it ends with the descriptor.
    /// Resolve paths in it with `openat2` and `RESOLVE_IN_ROOT`.
    ///
    /// Only while no container runs on it: two overlays must not share an
    /// upper directory. For a running one use `/proc/PID/root`.
    pub fn open_rootfs(&self, container: &str) -> Result<OwnedFd> {
        let _ = container;
        pending()
    }

    /// Like [`Images::open_rootfs`], but of an image and read-only.
    pub fn open_image(&self, image: &Image) -> Result<OwnedFd> {
        let _ = image;
        pending()
    }

    /// What has been written, as `docker diff` shows it, sorted. Blocks.
    pub fn changes(&self, container: &str) -> Result<Vec<Change>> {
        let _ = container;
        pending()
    }

    /// Bytes written on top of the image: Docker's `SizeRw`. Blocks.
    pub fn written(&self, container: &str) -> Result<u64> {
        let _ = container;
        pending()
    }

    /// Makes an image of `base` and what was written on top of it. Blocks.
    pub fn commit(&self, base: &Image, container: &str, commit: Commit) -> Result<Arc<Image>> {
        let _ = (base, container, commit);
        pending()
    }

    /// Writes the merged root as a tar. Works beside a running container.
    /// Blocks.
    pub fn export(&self, container: &str, output: &mut dyn Write) -> Result<()> {
        let _ = (container, output);
        pending()
    }

    /// Makes an image of one layer from a tar, compressed or not. Blocks.
    pub fn import(&self, input: &mut (dyn Read + Send), import: Import) -> Result<Arc<Image>> {
        let _ = (input, import);
        pending()
    }

    /// Takes in an archive of images, Docker's or OCI's, compressed or not.
    /// Blocks.
    pub fn load(
        &self,
        input: &mut (dyn Read + Send),
        progress: &ProgressSender,
    ) -> Result<Vec<Loaded>> {
        let _ = (input, progress);
        pending()
    }

    /// Writes images as an archive that both `docker load` and readers of the
    /// OCI layout understand. Blocks.
    pub fn save(&self, names: &[String], output: &mut dyn Write) -> Result<()> {
        let _ = (names, output);
        pending()
    }

    /// Fetches what `reference` names (`latest` if it says nothing) and gives
    /// it that name.
    ///
    /// Cancel-safe: dropping the future stops the transfers; what was fetched
    /// so far is kept and resumed from.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: PullOptions,
        progress: ProgressSender,
    ) -> Result<Pulled> {
        let _ = (reference, options, progress);
        pending()
    }

    /// Sends the image named `reference` to the registry in its name. Without
    /// a tag, sends every tag of the repository.
    ///
    /// Cancel-safe: dropping the future stops the transfers.
    pub async fn push(
        &self,
        reference: &Reference,
        options: PushOptions,
        progress: ProgressSender,
    ) -> Result<Vec<Pushed>> {
        let _ = (reference, options, progress);
        pending()
    }

    /// Whether the registry (`docker.io`, `localhost:5000`) knows us; returns
    /// an identity token if its token server gave one.
    ///
    /// # Errors
    /// [`Error::Denied`] if it does not.
    pub async fn login(&self, registry: &str, auth: &RegistryAuth) -> Result<Option<String>> {
        let _ = (registry, auth);
        pending()
    }

    /// Prepares a root filesystem on top of a stack of layers that need not be
    /// an image yet. An empty stack is an empty root.
    pub fn prepare_on(&self, layers: &[Layer], name: &str) -> Result<Rootfs> {
        let _ = (layers, name);
        pending()
    }

    /// Turns what was written to a root filesystem into a layer on top of the
    /// stack it was prepared on, and releases it. Returns none if nothing was
    /// written. The layer is kept for as long as the process lives or an image
    /// or step refers to it. Blocks.
    pub fn commit_layer(&self, layers: &[Layer], name: &str) -> Result<Option<Layer>> {
        let _ = (layers, name);
        pending()
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
        let _ = (config, layers, name);
        pending()
    }

    /// The build step remembered under this key.
    pub fn step(&self, key: &Digest) -> Result<Option<Step>> {
        let _ = key;
        pending()
    }

    /// Remembers a build step durably.
    pub fn remember_step(&self, key: &Digest, step: &Step) -> Result<()> {
        let _ = (key, step);
        pending()
    }

    /// All remembered build steps.
    pub fn steps(&self) -> Result<HashMap<Digest, Step>> {
        pending()
    }

    /// Forgets build steps for which `wanted` says yes. Blocks.
    pub fn prune_steps(&self, wanted: &dyn Fn(&Digest, &Step) -> bool) -> Result<Pruned> {
        let _ = wanted;
        pending()
    }

    /// Removes what nothing refers to any more. Blocks.
    pub fn sweep(&self) -> Result<u64> {
        pending()
    }

    /// What takes how much room.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        pending()
    }

    /// Reads a manifest or configuration of an image as it is stored. Blocks.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let _ = descriptor;
        pending()
    }

    /// What it was opened with.
    pub fn options(&self) -> &Options {
        &self.inner
    }
}
