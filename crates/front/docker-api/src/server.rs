//! Serving the API on a Unix socket and by TLS: connections, versions in paths,
//! bounds.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::fs::{Gid, Mode};
use tokio::net::UnixListener;
use tower::ServiceExt;

use crate::API_VERSION;
use crate::error::Failure;
use crate::tap::{Duplex, Tap};
use crate::tls::TlsListener;
use crate::version::Version;

/// How long no connection is accepted after one could not be.
const PAUSE: Duration = Duration::from_millis(50);

/// What is answered within this time is not worth watching the client for.
const SOON: Duration = Duration::from_millis(100);

/// A Unix socket that only its owner and its group may use.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when somebody listens there, and what the system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("{} is served by another daemon", path.display()),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => std::fs::remove_file(path)?,
        }
        // Nobody else may connect between making the socket and closing it up.
        let before = rustix::process::umask(Mode::from_raw_mode(0o117));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = listener?;
        // The group by which Docker's users are known, where there is one.
        if let Some(gid) = docker_group() {
            rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))?;
        }
        Ok(Self {
            listener,
            path: path.into(),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn docker_group() -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.starts_with("docker:"))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Where connections come from.
pub(crate) trait Accept {
    /// The next connection; a later step of it may still fail.
    fn accept(
        &self,
    ) -> impl Future<
        Output = io::Result<
            impl Future<Output = io::Result<impl Duplex + 'static>> + Send + 'static,
        >,
    > + Send;
}

impl Accept for Listener {
    async fn accept(
        &self,
    ) -> io::Result<impl Future<Output = io::Result<impl Duplex + 'static>> + Send + 'static> {
        let (stream, _) = self.listener.accept().await?;
        Ok(std::future::ready(Ok(stream)))
    }
}

/// Serves a socket, and TLS where there is a listener for it, until `shutdown`
/// is ready; connections that have a request under way then are ended with the
/// process.
pub async fn serve(
    listener: Listener,
    tls: Option<TlsListener>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let remote = async {
        match &tls {
            Some(tls) => serve_from(tls, &router).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serve_from(&listener, &router) => {}
        () = remote => {}
        () = shutdown => {}
    }
}

async fn serve_from(listener: &impl Accept, router: &Router) {
    loop {
        let accepting = match listener.accept().await {
            Ok(accepting) => accepting,
            Err(error) => {
                // Out of descriptors, say: those who are served give some back.
                tracing::warn!(%error, "connection is not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            match accepting.await {
                Ok(stream) => converse(stream, router).await,
                Err(error) => tracing::debug!(%error, "connection did not come about"),
            }
        });
    }
}

async fn converse(stream: impl Duplex + 'static, router: Router) {
    let is_local = stream.unix_socket().is_some();
    let tap = Tap::new(stream);
    let (handle, client) = (tap.handle(), tap.handle());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(handle.clone());
        answer(router.clone(), request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A client that has no more to say may wait for its answer, on a Unix socket: what
    // is under way ends when it is gone.
    builder
        .http1()
        .timer(TokioTimer::new())
        .half_close(is_local);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(tap), service);
    let departed = async {
        tokio::time::sleep(SOON).await;
        client.departed().await;
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        },
        () = departed => {}
    }
}

/// Whether a request changes nothing, so that it ends when its client goes.
fn only_asks(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        || request.uri().path().ends_with("/wait")
}

async fn answer(
    router: Router,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut response = match Version::take_off(request.uri()) {
        Ok((version, uri)) => {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(version);
            let only_asks = only_asks(&request);
            let answering = router.oneshot(request.map(Body::new));
            match only_asks {
                true => answering.await?,
                // What was asked for is done, whether or not the client stays.
                false => match tokio::spawn(answering).await {
                    Ok(answer) => answer?,
                    Err(error) => Failure::from(io::Error::other(error)).into_response(),
                },
            }
        }
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(API_VERSION));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert(
        header::SERVER,
        HeaderValue::from_static(concat!("Dhow/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
    Ok(response)
}
