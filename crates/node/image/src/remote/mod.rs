//! Registries: pull, push, login, over the OCI distribution protocol 1.1.

mod auth;
mod pull;
mod push;
mod session;
mod transport;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dhow_oci::{DEFAULT_REGISTRY, Digest, Reference};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use url::Url;

use crate::remote::session::{Ask, Intent, Session, chain};
use crate::remote::transport::{Connector, Http};
use crate::types::{RegistryAuth, RegistryOptions};
use crate::{Error, Images, Result};

/// Docker Hub's registry is not where its name says.
const DOCKER_HUB: &str = "https://registry-1.docker.io/";

/// However far it gets each time, no transfer is taken up more often.
const MAX_RESUMES: u32 = 100;

/// Speaks to registries; shares connections and what it learnt about them.
#[derive(Debug)]
pub(crate) struct Client {
    http: Http,
    connector: ConnectorInfo,
    options: RegistryOptions,
    /// Base addresses found out, by registry.
    bases: Mutex<HashMap<String, Url>>,
    /// Who transfers which blob.
    transfers: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Bounds how many layers are transferred at a time.
    slots: Arc<Semaphore>,
}

/// The connector, where only what it knows is asked.
struct ConnectorInfo(Connector);

impl std::fmt::Debug for ConnectorInfo {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Connector")
    }
}

impl Client {
    pub(crate) fn new(options: &RegistryOptions, n_transfers: usize) -> Client {
        let connector = Connector::new(options.certificates.clone(), options.insecure.clone());
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector.clone());
        Client {
            http,
            connector: ConnectorInfo(connector),
            options: options.clone(),
            bases: Mutex::default(),
            transfers: Mutex::default(),
            slots: Arc::new(Semaphore::new(n_transfers.max(1))),
        }
    }

    /// Where a registry is, and whether it speaks TLS. As Docker does: HTTPS,
    /// unless an insecure one does not.
    async fn base(&self, registry: &str) -> Result<Url> {
        if registry == DEFAULT_REGISTRY {
            return Ok(Url::parse(DOCKER_HUB).expect("a constant"));
        }
        let known = self
            .bases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(registry)
            .cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let at = |scheme: &str| {
            Url::parse(&format!("{scheme}://{registry}/"))
                .map_err(|error| Error::Invalid(format!("registry {registry:?}: {error}")))
        };
        let secure = at("https")?;
        let base = if !self.connector.0.is_insecure(registry) || self.answers(&secure).await.is_ok()
        {
            secure
        } else {
            let plain = at("http")?;
            self.answers(&plain).await?;
            plain
        };
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        bases.insert(registry.to_owned(), base.clone());
        Ok(base)
    }

    async fn answers(&self, base: &Url) -> Result<()> {
        let url = base.join("v2/").expect("a base address takes a path");
        let failed = |message: String| Error::Network {
            url: url.to_string(),
            message,
        };
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.as_str())
            .body(
                Empty::new()
                    .map_err(|never: std::convert::Infallible| match never {})
                    .boxed_unsync(),
            )
            .map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(self.options.patience, self.http.request(request)).await {
            Err(_) => Err(failed("request timed out".to_owned())),
            Ok(Err(error)) => Err(failed(chain(&error))),
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// The lock of whoever transfers this blob.
    fn transfer(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut transfers = self
            .transfers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        transfers.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = transfers.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        transfers.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }
}

/// How long to wait after the n-th failure in a row.
fn backoff(n_failed: u32) -> Duration {
    Duration::from_millis(200).saturating_mul(1 << n_failed.min(5).saturating_sub(1))
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Invalid("the program is shutting down".to_owned())),
    }
}

impl Images {
    /// Fetches a file over HTTP or HTTPS into `file`, following redirects.
    /// Not more than an archive may unpack to.
    ///
    /// # Errors
    /// [`Error::Registry`] for an answer other than success,
    /// [`Error::Network`], [`Error::Invalid`] for no address.
    pub async fn fetch(&self, address: &str, file: &mut std::fs::File) -> Result<()> {
        let url = Url::parse(address)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Error::Invalid(format!("{address:?} is no address to fetch from")))?;
        let client = Arc::clone(&self.inner.client);
        let session = Session::anywhere(client, &url)?;
        let response = session
            .expect(&Ask::new(Method::GET, url), &[StatusCode::OK])
            .await?;
        let limit = self.inner.options.limits.unpacked_bytes;
        let mut body = response.into_body();
        let mut n_bytes = 0;
        while let Some(data) = session.chunk(&mut body).await? {
            n_bytes += data.len() as u64;
            if n_bytes > limit {
                return Err(session.nonsense(format!("more than {limit} bytes")));
            }
            std::io::Write::write_all(file, &data)
                .map_err(crate::error::at("write", std::path::Path::new(address)))?;
        }
        Ok(())
    }

    /// Whether the registry (`docker.io`, `localhost:5000`) knows us; returns
    /// an identity token if its token server gave one.
    ///
    /// # Errors
    /// [`Error::Denied`] if it does not.
    pub async fn login(&self, registry: &str, auth: &RegistryAuth) -> Result<Option<String>> {
        // What is asked does not depend on the repository.
        let registry = registry
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let registry = registry.split('/').next().unwrap_or_default();
        let registry = if registry == "index.docker.io" {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        let reference = Reference::parse(&format!("{registry}/login/login"))?;
        let client = Arc::clone(&self.inner.client);
        Session::open(client, &reference, Some(auth.clone()), Intent::Pull, None)
            .await?
            .login()
            .await
    }
}
