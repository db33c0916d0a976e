//! Images as containers use them, and what happens to them announced.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use dhow_image::{
    CollectPolicy, Commit, Image, Import, Listed, Loaded, ProgressSender, PruneScope, Pruned,
    PullOptions, Pulled, PushOptions, Pushed, Removal, Removed, User,
};
use dhow_oci::{Digest, Reference};

use crate::engine::Engine;
use crate::error::Result;
use crate::mounts::{MountKind, MountPoint};
use crate::record::Record;

/// How often abandoned transfers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How often images are looked through.
const COLLECT_EVERY: Duration = Duration::from_secs(300);

impl Engine {
    /// The containers that use an image.
    pub fn image_users(&self, id: &Digest) -> Vec<User> {
        let id = id.to_string();
        self.list()
            .iter()
            .filter(|record| {
                let mounts =
                    |point: &MountPoint| point.kind == MountKind::Image && point.source == id;
                record.image == id || record.mounts.iter().any(mounts)
            })
            .map(|record| User {
                container: record.id.clone(),
                running: record.state.status.is_alive(),
            })
            .collect()
    }

    /// Pulls an image from its registry.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub async fn image_pull(
        &self,
        reference: &Reference,
        options: PullOptions,
        progress: ProgressSender,
    ) -> Result<Pulled> {
        let pulled = self.images().pull(reference, options, progress).await?;
        let mut attributes = pulled.image.config.config.labels.clone();
        attributes.insert("name".into(), reference.familiar_name());
        self.events()
            .announce("image", "pull", reference.familiar(), attributes);
        Ok(pulled)
    }

    /// Pushes an image to its registry.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub async fn image_push(
        &self,
        reference: &Reference,
        options: PushOptions,
        progress: ProgressSender,
    ) -> Result<Vec<Pushed>> {
        let pushed = self.images().push(reference, options, progress).await?;
        let attributes = BTreeMap::from([("name".to_owned(), reference.familiar_name())]);
        self.events()
            .announce("image", "push", reference.familiar(), attributes);
        Ok(pushed)
    }

    /// Gives an image a further name.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub fn image_tag(&self, source: &str, name: &Reference) -> Result<()> {
        let image = self.images().resolve(source)?;
        self.images().tag(&image.id, name)?;
        self.announce_image("tag", &image, &name.familiar());
        Ok(())
    }

    /// Makes an image of a plain archive. Blocks.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub fn image_import(
        &self,
        input: &mut (dyn Read + Send),
        import: Import,
    ) -> Result<Arc<Image>> {
        let name = import.name.as_ref().map(Reference::familiar);
        let image = self.images().import(input, import)?;
        if let Some(name) = name {
            self.announce_image("tag", &image, &name);
        }
        self.announce_image("import", &image, image.id.as_str());
        Ok(image)
    }

    /// Makes an image of what a container wrote. Blocks.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub fn image_commit(&self, record: &Record, commit: Commit) -> Result<Arc<Image>> {
        let base = self.images().resolve(&record.image)?;
        let name = commit.name.as_ref().map(Reference::familiar);
        let comment = commit.comment.clone();
        let image = self.images().commit(&base, &record.id, commit)?;
        if let Some(name) = &name {
            self.announce_image("tag", &image, name);
        }
        let mut attributes = record.attributes();
        attributes.insert("comment".into(), comment);
        attributes.insert("imageID".into(), image.id.to_string());
        attributes.insert("imageRef".into(), name.unwrap_or_default());
        self.events()
            .announce("container", "commit", &record.id, attributes);
        Ok(image)
    }

    /// Writes images as an archive. Blocks.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub fn image_save(&self, names: &[String], output: &mut dyn Write) -> Result<()> {
        self.images().save(names, output)?;
        for name in names {
            if let Ok(image) = self.images().resolve(name) {
                self.announce_image("save", &image, image.id.as_str());
            }
        }
        Ok(())
    }

    /// Takes in an archive of images. Blocks.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub fn image_load(
        &self,
        input: &mut (dyn Read + Send),
        progress: &ProgressSender,
    ) -> Result<Vec<Loaded>> {
        let loaded = self.images().load(input, progress)?;
        for one in &loaded {
            if let Some(image) = self.images().get(&one.id) {
                self.announce_image("load", &image, image.id.as_str());
            }
        }
        Ok(loaded)
    }

    /// Removes a name, or an image with all its names. Blocks.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub fn image_remove(&self, name: &str, how: Removal) -> Result<Vec<Removed>> {
        let image = self.images().resolve(name)?;
        let removed = self
            .images()
            .remove(name, how, &|id| self.image_users(id))?;
        self.announce_removed(&removed, Some(&image));
        Ok(removed)
    }

    /// Removes the unused images in `scope` for which `wanted` says yes.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub fn image_prune(
        &self,
        scope: PruneScope,
        wanted: &dyn Fn(&Listed) -> bool,
    ) -> Result<Pruned> {
        let pruned = self
            .images()
            .prune(scope, wanted, &|id| self.image_users(id))?;
        self.announce_removed(&pruned.removed, None);
        let reclaimed = ("reclaimed".to_owned(), pruned.reclaimed.to_string());
        self.events()
            .announce("image", "prune", "", BTreeMap::from([reclaimed]));
        Ok(pruned)
    }

    /// Removes, now and every day, what transfers left that broke off and were not
    /// taken up again, for as long as the future lives.
    pub async fn sweep_images(self) {
        let mut timer = tokio::time::interval(SWEEP_EVERY);
        loop {
            timer.tick().await;
            let images = self.images().clone();
            match tokio::task::spawn_blocking(move || images.sweep_abandoned()).await {
                Ok(Ok(0)) => {}
                Ok(Ok(bytes)) => tracing::info!(bytes, "abandoned transfers removed"),
                Ok(Err(error)) => tracing::warn!(%error, "abandoned transfers stay"),
                Err(error) => tracing::warn!(%error, "abandoned transfers stay"),
            }
        }
    }

    /// Removes images as `policy` says, now and every few minutes, for as long
    /// as the future lives.
    pub async fn collect_images(self, policy: CollectPolicy) {
        let mut timer = tokio::time::interval(COLLECT_EVERY);
        loop {
            timer.tick().await;
            let engine = self.clone();
            let collecting = tokio::task::spawn_blocking(move || {
                let users = |id: &Digest| engine.image_users(id);
                let collected = engine.images().collect(&policy, &users)?;
                engine.announce_removed(&collected.removed, None);
                Ok::<_, crate::Error>(collected)
            });
            match collecting.await {
                Ok(Ok(collected)) if collected.removed.is_empty() => {}
                Ok(Ok(collected)) => tracing::info!(
                    removed = collected.removed.len(),
                    bytes = collected.reclaimed,
                    "images collected"
                ),
                Ok(Err(error)) => tracing::warn!(%error, "images are not collected"),
                Err(error) => tracing::warn!(%error, "images are not collected"),
            }
        }
    }

    /// Announces what went: of `image`, or of images whose ids follow.
    fn announce_removed(&self, removed: &[Removed], image: Option<&Image>) {
        for (n, one) in removed.iter().enumerate() {
            let (action, id, labels) = match (one, image) {
                (Removed::Untagged(_), Some(image)) => {
                    let labels = image.config.config.labels.clone();
                    ("untag", image.id.to_string(), labels)
                }
                (Removed::Untagged(_), None) => {
                    // The image goes with its names, after them.
                    let next = removed[n..].iter().find_map(|one| match one {
                        Removed::Deleted(id) => Some(id.to_string()),
                        _ => None,
                    });
                    ("untag", next.unwrap_or_default(), BTreeMap::new())
                }
                (Removed::Deleted(id), _) => ("delete", id.to_string(), BTreeMap::new()),
                (Removed::Layer(_), _) => continue,
            };
            let mut attributes = labels;
            attributes.insert("name".into(), id.clone());
            self.events().announce("image", action, id, attributes);
        }
    }

    /// Announces what happened to an image, under the name it has there.
    fn announce_image(&self, action: &str, image: &Image, name: &str) {
        let mut attributes = image.config.config.labels.clone();
        attributes.insert("name".into(), name.into());
        self.events()
            .announce("image", action, image.id.as_str(), attributes);
    }
}
