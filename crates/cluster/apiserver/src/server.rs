//! Opening a server, running its TLS listener, and handing out in-process
//! clients.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dhow_store::{Embedded, Options, Store, StoreError};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::admission::Addresses;
use crate::api::Api;
use crate::auth::certificates::{self, Authority};
use crate::auth::{Authentication, Rbac, TokenKeys, UserInfo};
use crate::cache::Caches;
use crate::config::Config;
use crate::error::ApiError;
use crate::resource::Registry;
use crate::service::ApiService;

/// Why a server does not open or run.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store does not open.
    #[error("cannot open the cluster's store")]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error("cannot {what} {path}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be made or read.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A key is not what it should be.
    #[error("the {0}")]
    Key(&'static str),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The first objects cannot be written.
    #[error("cannot write the cluster's first objects")]
    Bootstrap(#[source] ApiError),
}

impl OpenError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::File {
            what: "read",
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> Self {
        Self::File {
            what: "write",
            path: path.to_owned(),
            source,
        }
    }
}

/// The API server.
pub struct ApiServer {
    api: Arc<Api>,
    authority: Arc<Authority>,
}

/// No more connections than this are open at a time.
const MOST_CONNECTIONS: usize = 4096;
/// A handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Requests under way are given this long at the end.
const GRACE: Duration = Duration::from_secs(5);

impl ApiServer {
    /// Opens the store under the configured directory and the server on it.
    ///
    /// Blocks on disk; call it before serving. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the store, the certificates or the first objects cannot be made.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let store = Embedded::open(&config.directory.join("store"), Options::default())?;
        Self::with_store(config, Arc::new(store)).await
    }

    /// Opens the server on a store.
    ///
    /// # Errors
    /// As for [`ApiServer::open`].
    pub async fn with_store(config: Config, store: Arc<dyn Store>) -> Result<Self, OpenError> {
        let pki = config.directory.join("pki");
        std::fs::create_dir_all(&pki).map_err(|error| OpenError::write(&pki, error))?;
        let authority = Authority::load(&pki, (config.clock)())?;
        let tokens = TokenKeys::load(&pki.join("service-account.key"))?;
        let types = dhow_schema::builtin();
        let registry = Arc::new(Registry::builtin(types));
        let caches = Caches::start(&registry, &store).map_err(OpenError::Bootstrap)?;
        let api = Arc::new(Api {
            types,
            addresses: Addresses::new(&config),
            registry,
            store,
            caches,
            config,
            authentication: Authentication { tokens },
            rbac: Rbac::default(),
            documents: Default::default(),
            closing: watch::channel(false).0,
        });
        api.bootstrap().await.map_err(OpenError::Bootstrap)?;
        tokio::spawn(forget_history(
            Arc::downgrade(&api),
            api.config.compact_after,
            api.closing.subscribe(),
        ));
        Ok(Self {
            api,
            authority: Arc::new(authority),
        })
    }

    /// The API as a service that acts as a user; a `kube::Client` can be built
    /// on it without a socket.
    pub fn service(&self, user: UserInfo) -> ApiService {
        ApiService::new(self.api.clone(), Some(user))
    }

    /// Ready when this server, its services and their clients are dropped and
    /// the store is closed.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        // The sender is the last that goes.
        let mut closing = self.api.closing.subscribe();
        async move { while closing.changed().await.is_ok() {} }
    }

    /// The cluster's certificate authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The address that the server's own Service has.
    pub fn service_address(&self) -> std::net::IpAddr {
        self.api.addresses.first()
    }

    /// A kubeconfig for somebody who may do everything.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn admin_kubeconfig(&self, server: &str) -> Result<String, OpenError> {
        self.authority.kubeconfig(server, &UserInfo::admin())
    }

    /// Writes [`ApiServer::admin_kubeconfig`] to a file that only its owner may read.
    ///
    /// # Errors
    /// When the certificate or the file cannot be made.
    pub fn write_admin_kubeconfig(&self, server: &str, path: &Path) -> Result<(), OpenError> {
        certificates::write_secret(path, self.admin_kubeconfig(server)?.as_bytes())
    }

    fn acceptor(&self) -> Result<TlsAcceptor, OpenError> {
        use rustls_pki_types::pem::PemObject as _;
        let names = certificates::server_names(&self.api.config, self.service_address());
        let credential = self.authority.server("kube-apiserver", &names)?;
        let (certificate, key) = certificates::to_rustls(&credential)?;
        let mut roots = RootCertStore::empty();
        let authority = rustls_pki_types::CertificateDer::from_pem_slice(
            self.authority.certificate().as_bytes(),
        )
        .map_err(|_| OpenError::Key("authority's certificate is no PEM"))?;
        roots.add(authority)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(|_| OpenError::Key("authority cannot verify clients"))?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(tls)))
    }

    /// Serves TLS connections of a listener until `shutdown`; requests under
    /// way are then finished, watches are ended.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub async fn run(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), OpenError> {
        let acceptor = self.acceptor()?;
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let Ok(permit) = room.clone().try_acquire_owned() else {
                            continue;
                        };
                        let connection = connection(
                            self.api.clone(),
                            acceptor.clone(),
                            stream,
                        );
                        connections.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        // Out of descriptors: let some close first.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                },
            }
        }
        self.api.closing.send_replace(true);
        let all_done = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all_done).await.is_err() {
            connections.shutdown().await;
        }
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.api.closing.send_replace(true);
    }
}

/// Lets the store forget what is older than one interval, as long as there is a
/// server.
async fn forget_history(api: Weak<Api>, every: Duration, mut closing: watch::Receiver<bool>) {
    let mut kept = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = closing.changed() => return,
        }
        let Some(api) = api.upgrade() else {
            return;
        };
        let until = std::mem::replace(&mut kept, api.store.revision());
        let store = api.store.clone();
        tokio::task::spawn_blocking(move || match store.compact(until) {
            Ok(()) | Err(StoreError::Compacted { .. }) => {}
            Err(error) => tracing::warn!(%error, "history was not compacted"),
        });
    }
}

async fn connection(api: Arc<Api>, acceptor: TlsAcceptor, stream: TcpStream) {
    let mut closing = api.closing.subscribe();
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let Ok(Ok(stream)) = handshake.await else {
        return;
    };
    let user = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(certificates::user_of);
    let service = ApiService::new(api, user);
    let service = hyper::service::service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(1000)
        .keep_alive_interval(Duration::from_secs(30));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => {}
        () = async { let _ = closing.wait_for(|closing| *closing).await; } => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}
