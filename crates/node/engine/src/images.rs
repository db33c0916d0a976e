//! Images as containers use them, and what happens to them announced.

use std::collections::BTreeMap;

use dhow_image::{
    Image, ProgressSender, PullOptions, Pulled, PushOptions, Pushed, Removal, Removed, User,
};
use dhow_oci::{Digest, Reference};

use crate::engine::Engine;
use crate::error::Result;

impl Engine {
    /// The containers that use an image.
    pub fn image_users(&self, id: &Digest) -> Vec<User> {
        let id = id.to_string();
        self.list()
            .iter()
            .filter(|record| record.image == id)
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
        self.announce_image("pull", &reference.familiar(), &pulled.image);
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
        self.events()
            .announce("image", "push", reference.familiar(), BTreeMap::new());
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
        self.announce_image("tag", image.id.as_str(), &image);
        Ok(())
    }

    /// Removes a name, or an image with all its names. Blocks.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Image`].
    pub fn image_remove(&self, name: &str, how: Removal) -> Result<Vec<Removed>> {
        let removed = self
            .images()
            .remove(name, how, &|id| self.image_users(id))?;
        for one in &removed {
            let (action, id) = match one {
                Removed::Untagged(name) => ("untag", name.familiar()),
                Removed::Deleted(id) => ("delete", id.to_string()),
            };
            self.events().announce("image", action, id, BTreeMap::new());
        }
        Ok(removed)
    }

    fn announce_image(&self, action: &str, id: &str, image: &Image) {
        let mut attributes = image.config.config.labels.clone();
        attributes.insert("name".into(), id.into());
        self.events().announce("image", action, id, attributes);
    }
}
