//! Registries: pull, push, login, over the OCI distribution protocol.

use dhow_oci::Reference;

use crate::types::{PullOptions, Pulled, PushOptions, Pushed, RegistryAuth, RegistryOptions};
use crate::{Error, Images, ProgressSender, Result};

/// Speaks to registries.
#[derive(Debug)]
pub(crate) struct Client {}

impl Client {
    pub(crate) fn new(_options: &RegistryOptions) -> Result<Client> {
        Ok(Client {})
    }
}

impl Images {
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
        let _ = (options, progress);
        Err(Error::ManifestUnknown(reference.familiar()))
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
        let _ = (options, progress);
        Err(Error::ManifestUnknown(reference.familiar()))
    }

    /// Whether the registry (`docker.io`, `localhost:5000`) knows us; returns
    /// an identity token if its token server gave one.
    ///
    /// # Errors
    /// [`Error::Denied`] if it does not.
    pub async fn login(&self, registry: &str, auth: &RegistryAuth) -> Result<Option<String>> {
        let _ = auth;
        Err(Error::Denied(registry.to_owned()))
    }
}
