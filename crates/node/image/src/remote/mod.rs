//! Registries: pull, push, login, over the OCI distribution protocol 1.1.

mod auth;
mod hosts;
mod pull;
mod push;
mod receive;
mod session;
mod tags;
mod transport;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dhow_oci::{DEFAULT_REGISTRY, Digest, Reference};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OnceCell, Semaphore};
use url::Url;

use crate::remote::hosts::Host;
use crate::remote::session::{Ask, Session, cause};
use crate::remote::transport::{Connections, Connector, Http};
use crate::types::{RegistryAuth, RegistryOptions};
use crate::{Error, Images, Result};

/// Registries whose connections are kept.
const MAX_PEERS: usize = 64;
/// However far it gets each time, no transfer is taken up more often.
const MAX_RESUMES: u32 = 100;

/// Speaks to registries; shares connections and what it learnt about them.
#[derive(Debug)]
pub(crate) struct Client {
    connections: Connections,
    options: RegistryOptions,
    /// By registry.
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    /// Who transfers which blob.
    transfers: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Bounds how many layers are transferred at a time.
    slots: Arc<Semaphore>,
}

/// A registry: the hosts that stand for it, and connections to them.
#[derive(Debug)]
struct Peer {
    hosts: Vec<Host>,
    /// Where each of them really is, once it has been found out.
    bases: Vec<OnceCell<Url>>,
    http: Http,
}

impl Client {
    pub(crate) fn new(options: &RegistryOptions, n_transfers: usize) -> Client {
        Client {
            connections: Connections::new(),
            options: options.clone(),
            peers: Mutex::default(),
            transfers: Mutex::default(),
            slots: Arc::new(Semaphore::new(n_transfers.max(1))),
        }
    }

    /// The registry of this name, as it is configured now.
    fn peer(&self, registry: &str) -> Result<Arc<Peer>> {
        let hosts = hosts::of(registry, &self.options)?;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(registry)
            && peer.hosts == hosts
        {
            return Ok(Arc::clone(peer));
        }
        if peers.len() >= MAX_PEERS {
            peers.clear();
        }
        let trusts = hosts
            .iter()
            .map(|host| (hosts::authority(&host.base), host.trust.clone()));
        let connector = Connector::new(self.connections.clone(), trusts.collect(), &self.options);
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        let bases = hosts.iter().map(|_| OnceCell::new()).collect();
        let peer = Arc::new(Peer { hosts, bases, http });
        peers.insert(registry.to_owned(), Arc::clone(&peer));
        Ok(peer)
    }

    /// Where a host is, and whether it speaks TLS. As Docker does: HTTPS,
    /// unless an insecure one does not.
    async fn base(&self, peer: &Peer, at_host: usize) -> Result<Url> {
        let host = &peer.hosts[at_host];
        if !host.perhaps_plain {
            return Ok(host.base.clone());
        }
        let found = peer.bases[at_host].get_or_try_init(|| async {
            if self.answers(peer, &host.base).await.is_ok() {
                return Ok(host.base.clone());
            }
            let mut plain = host.base.clone();
            // Cannot fail between these two.
            let _ = plain.set_scheme("http");
            self.answers(peer, &plain).await?;
            Ok(plain)
        });
        found.await.cloned()
    }

    async fn answers(&self, peer: &Peer, url: &Url) -> Result<()> {
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
        match tokio::time::timeout(self.options.patience, peer.http.request(request)).await {
            Err(_) => Err(failed("request timed out".to_owned())),
            Ok(Err(error)) => Err(failed(cause(&error))),
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
        Session::home(client, &reference, auth.clone())
            .await?
            .login()
            .await
    }
}
