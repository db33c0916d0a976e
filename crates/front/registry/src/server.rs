//! Listening, TLS, dispatch.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::access::{self, Need, Users};
use crate::body::{self, Answer};
use crate::error::{Refusal, Result, internal};
use crate::route::Route;
use crate::store::Store;
use crate::uploads::Parked;

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Running requests may take so long after the word to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of everything the registry keeps.
    pub root: PathBuf,
    /// Certificate and key; plain HTTP without.
    pub tls: Option<Tls>,
    /// Who may do what.
    pub access: Access,
    /// Bytes a blob may have.
    pub max_blob: u64,
    /// Blobs no manifest needs, and unfinished uploads, are kept this long.
    pub keep: Duration,
}

impl Config {
    /// An open registry under `root`, without TLS.
    pub fn new(root: PathBuf) -> Config {
        Config {
            root,
            tls: None,
            access: Access::Open,
            max_blob: 1 << 40,
            keep: Duration::from_secs(24 * 3600),
        }
    }
}

/// Files with certificate and key, PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The chain, our own certificate first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Who may do what.
#[derive(Clone, Debug)]
pub enum Access {
    /// Everybody everything.
    Open,
    /// Everybody reads; users of this htpasswd file (bcrypt) write.
    ReadOpen(PathBuf),
    /// Users of this htpasswd file read and write, nobody else does.
    Users(PathBuf),
}

/// Why the registry cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file it needs.
    #[error("{action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error("certificate")]
    Tls(#[source] rustls::Error),
    /// The content store.
    #[error("content store of the registry")]
    Content(#[from] dhow_content::Error),
    /// The table.
    #[error("{0}")]
    Table(String),
}

/// Everything a request needs.
pub(crate) struct Registry {
    pub(crate) content: dhow_content::Store,
    pub(crate) store: Store,
    pub(crate) parked: Parked,
    pub(crate) max_blob: u64,
    access: Access,
    users: Users,
    keep: Duration,
    /// Goes last: when nobody holds its like any more, the store is closed.
    _alive: watch::Receiver<()>,
}

/// A request, read.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) headers: http::HeaderMap,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) body: Incoming,
}

impl Ask {
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Serves on `listener` until `shutdown` ends, then lets running requests
/// finish for a while.
///
/// # Errors
/// [`Error`] before anything is served; a request's troubles are its client's.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> std::result::Result<(), Error> {
    let tls = match &config.tls {
        Some(tls) => Some(acceptor(tls)?),
        None => None,
    };
    let (stop, stopped) = watch::channel(());
    let alive = stopped.clone();
    let registry = tokio::task::spawn_blocking(move || Registry::open(config, alive))
        .await
        .map_err(|error| Error::Table(error.to_string()))??;
    let registry = Arc::new(registry);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sweeping = tokio::spawn(Arc::clone(&registry).sweep_now_and_then());
    let mut shutdown = pin!(shutdown);
    loop {
        let slot = tokio::select! {
            () = &mut shutdown => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the client was gone already.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (registry, tls, stopped) = (Arc::clone(&registry), tls.clone(), stopped.clone());
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = connection(registry, tls, stream, stopped).await {
                tracing::debug!(error, "connection ended");
            }
        });
    }
    sweeping.abort();
    drop((stopped, registry));
    // Whoever is idle ends now; the others are waited for.
    let _ = stop.send(());
    let _ = tokio::time::timeout(GRACE, stop.closed()).await;
    Ok(())
}

fn acceptor(tls: &Tls) -> std::result::Result<tokio_rustls::TlsAcceptor, Error> {
    let unreadable = |path: &PathBuf| {
        let path = path.clone();
        move |error: rustls::pki_types::pem::Error| Error::File {
            action: "read",
            path,
            source: io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        }
    };
    let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_file_iter(&tls.certificate)
        .map_err(unreadable(&tls.certificate))?
        .collect();
    let chain = chain.map_err(unreadable(&tls.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(unreadable(&tls.key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(Error::Tls)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    registry: Arc<Registry>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    stream: TcpStream,
    mut stopped: watch::Receiver<()>,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
    stream.set_nodelay(true)?;
    let service = service_fn(move |request| {
        let registry = Arc::clone(&registry);
        async move { Ok::<_, Infallible>(registry.answer(request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    async fn drive<C>(
        connection: C,
        stop: impl FnOnce(std::pin::Pin<&mut C>),
        stopped: &mut watch::Receiver<()>,
    ) -> std::result::Result<(), Boxed>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            _ = stopped.changed() => stop(connection.as_mut()),
        }
        Ok(connection.await?)
    }
    match tls {
        None => {
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            drive(
                connection,
                |connection| connection.graceful_shutdown(),
                &mut stopped,
            )
            .await
        }
        Some(tls) => {
            let accepting = tokio::time::timeout(Duration::from_secs(30), tls.accept(stream));
            let connection = builder.serve_connection(TokioIo::new(accepting.await??), service);
            drive(
                connection,
                |connection| connection.graceful_shutdown(),
                &mut stopped,
            )
            .await
        }
    }
}

impl Registry {
    fn open(config: Config, alive: watch::Receiver<()>) -> std::result::Result<Registry, Error> {
        let file = |action, path: PathBuf| {
            move |source| Error::File {
                action,
                path,
                source,
            }
        };
        std::fs::create_dir_all(&config.root).map_err(file("create", config.root.clone()))?;
        let users = match &config.access {
            Access::Open => Users::default(),
            Access::ReadOpen(path) | Access::Users(path) => {
                Users::open(path).map_err(file("read", path.clone()))?
            }
        };
        let content = dhow_content::Store::open(&config.root.join("content"))?;
        let store = Store::open(&config.root.join("registry.redb")).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Error::Table(format!("{error}{}", cause.unwrap_or_default()))
        })?;
        Ok(Registry {
            content,
            store,
            parked: Parked::default(),
            max_blob: config.max_blob,
            access: config.access,
            users,
            keep: config.keep,
            _alive: alive,
        })
    }

    /// Answers a request, whatever it is.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let is_head = request.method() == Method::HEAD;
        let mut response = match self.dispatch(request).await {
            Ok(response) => response,
            Err(refusal) => {
                let bytes = refusal.json();
                let length = bytes.len();
                let body = if is_head {
                    body::only_length(length as u64)
                } else {
                    body::bytes(bytes)
                };
                let mut response = Response::new(body);
                *response.status_mut() = refusal.status;
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                for (name, value) in refusal.headers {
                    if let Ok(value) = HeaderValue::from_str(&value) {
                        headers.insert(name, value);
                    }
                }
                response
            }
        };
        response.headers_mut().insert(
            HeaderName::from_static("docker-distribution-api-version"),
            HeaderValue::from_static("registry/2.0"),
        );
        response
    }

    async fn dispatch(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Answer>> {
        let (parts, body) = request.into_parts();
        let need = match parts.method {
            Method::GET | Method::HEAD => Need::Read,
            _ => Need::Write,
        };
        // `/v2/` is where clients look whether they have to log in.
        let is_base = parts.uri.path().trim_end_matches('/') == "/v2";
        let need = if is_base { Need::Write } else { need };
        self.admit(need, parts.headers.get(AUTHORIZATION)).await?;
        let route = Route::parse(parts.uri.path())?;
        let query = parts.uri.query().unwrap_or_default();
        let query = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let ask = Ask {
            method: parts.method,
            headers: parts.headers,
            query,
            body,
        };
        let registry = Arc::clone(self);
        match (route, ask.method.as_str()) {
            (Route::Base, "GET" | "HEAD") => {
                json(StatusCode::OK, "application/json", b"{}".to_vec(), &[])
            }
            (Route::Catalog, "GET") => registry.catalog(&ask).await,
            (Route::Tags(name), "GET") => registry.tags(name, &ask).await,
            (Route::Referrers(name, digest), "GET") => registry.referrers(name, digest, &ask).await,
            (Route::Manifest(name, reference), "GET" | "HEAD") => {
                registry.get_manifest(name, reference, &ask).await
            }
            (Route::Manifest(name, reference), "PUT") => {
                registry.put_manifest(name, reference, ask).await
            }
            (Route::Manifest(name, reference), "DELETE") => {
                registry.delete_manifest(name, reference).await
            }
            (Route::Blob(name, digest), "GET" | "HEAD") => {
                registry.get_blob(name, digest, &ask).await
            }
            (Route::Blob(name, digest), "DELETE") => registry.delete_blob(name, digest).await,
            (Route::Uploads(name), "POST") => registry.open_upload(name, ask).await,
            (Route::Upload(name, id), "GET" | "HEAD") => registry.upload_status(name, id).await,
            (Route::Upload(name, id), "PATCH") => registry.append(name, id, ask).await,
            (Route::Upload(name, id), "PUT") => registry.finish(name, id, ask).await,
            (Route::Upload(name, id), "DELETE") => registry.cancel(name, id).await,
            (_, method) => {
                let message = format!("{method} is not supported here");
                Err(Refusal::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "UNSUPPORTED",
                    message,
                ))
            }
        }
    }

    async fn admit(self: &Arc<Self>, need: Need, header: Option<&HeaderValue>) -> Result<()> {
        if matches!(self.access, Access::Open) {
            return Ok(());
        }
        let credentials = header
            .and_then(|value| value.to_str().ok())
            .and_then(access::credentials);
        let Some((user, password)) = credentials else {
            return match access::is_open(&self.access, need) {
                true => Ok(()),
                false => access::challenge(),
            };
        };
        // Wrong credentials are refused even where none are needed.
        let known = self.blocking(move |registry| Ok(registry.users.knows(&user, &password)));
        if known.await? {
            Ok(())
        } else {
            access::challenge()
        }
    }

    /// Runs what blocks where it may.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Registry) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let registry = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&registry)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(internal(&error)),
        }
    }

    /// Seconds since the epoch.
    pub(crate) fn now(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    }

    async fn sweep_now_and_then(self: Arc<Self>) {
        loop {
            let swept = self.blocking(Registry::sweep).await;
            if let Ok(swept) = swept
                && swept.n_blobs > 0
            {
                tracing::info!(blobs = swept.n_blobs, bytes = swept.bytes, "swept");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    }

    /// Removes what nothing needs any more.
    fn sweep(&self) -> Result<dhow_content::Swept> {
        let before = self.now().saturating_sub(self.keep.as_secs());
        let abandoned = UNIX_EPOCH + Duration::from_secs(before);
        self.content.sweep(abandoned, || {
            let (live, stale) = self.store.prune(before)?;
            for id in stale {
                self.parked.forget(&id);
            }
            Ok::<_, Refusal>(live)
        })
    }
}

/// An answer with headers.
pub(crate) fn json(
    status: StatusCode,
    kind: &str,
    bytes: Vec<u8>,
    headers: &[(HeaderName, String)],
) -> Result<Response<Answer>> {
    let length = bytes.len();
    let mut all = vec![
        (CONTENT_TYPE, kind.to_owned()),
        (CONTENT_LENGTH, length.to_string()),
    ];
    all.extend_from_slice(headers);
    answer(status, body::bytes(bytes), &all)
}

/// An answer with headers and any body.
pub(crate) fn answer(
    status: StatusCode,
    body: Answer,
    headers: &[(HeaderName, String)],
) -> Result<Response<Answer>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|error| internal(&error))?;
        response.headers_mut().insert(name.clone(), value);
    }
    Ok(response)
}
