//! The node's HTTP server for streams: logs, exec, attach and port-forward, at
//! the kubelet's paths.
//!
//! It serves one connection at a time ([`StreamServer::serve`]) to whoever hands
//! it over: a pipe in the same process, or a listener that knows its clients.
//! The API server passes requests of `kubectl` through byte for byte, so both
//! generations of protocols end here: SPDY/3.1 and WebSocket.
//!
//! ```text
//! /containerLogs/NAMESPACE/POD/CONTAINER   logs     plain text
//! /exec/NAMESPACE/POD/CONTAINER            remote   over websocket or spdy
//! /attach/NAMESPACE/POD/CONTAINER          remote     "
//! /portForward/NAMESPACE/POD               forward    "
//! ```
//!
//! Not here: who may do this (the API server asks), and what the streams are
//! connected to ([`crate::PodRuntime`]).

mod find;
mod forward;
mod logs;
mod query;
mod remote;
mod spdy;
mod status;
mod upgrade;
mod websocket;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::runtime::PodRuntime;
use query::Query;
use status::Refusal;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the agent knows about a container that has not been started: namespace,
/// pod and container go in, the reason it waits for comes out.
pub type Waiting = dyn Fn(&str, &str, &str) -> Option<String> + Send + Sync;

/// Serves the streams of the containers of one runtime.
#[derive(Clone)]
pub struct StreamServer {
    runtime: Arc<dyn PodRuntime>,
    waiting: Arc<Waiting>,
}

impl StreamServer {
    /// A server for the containers of `runtime`.
    pub fn new(runtime: Arc<dyn PodRuntime>) -> Self {
        Self {
            runtime,
            waiting: Arc::new(|_, _, _| None),
        }
    }

    /// Lets error texts say what a container waits for, for example
    /// `ImagePullBackOff`; without it they say `ContainerCreating`.
    #[must_use]
    pub fn with_waiting(mut self, waiting: Arc<Waiting>) -> Self {
        self.waiting = waiting;
        self
    }

    /// Serves one connection until it ends; streams that it was upgraded to go
    /// on in tasks of their own. Dropping the future ends requests under way.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = hyper::service::service_fn(|request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the node's streams ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.route(request).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let decoded = |segment: &str| {
            percent_encoding::percent_decode_str(segment)
                .decode_utf8_lossy()
                .into_owned()
        };
        let segments: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match *segments {
            ["containerLogs", namespace, pod, container] => {
                self.logs(namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, container] => {
                let container = self.running(namespace, pod, container).await?;
                self.exec(request, container, &query)
            }
            ["attach", namespace, pod, container] => {
                let container = self.running(namespace, pod, container).await?;
                self.attach(request, container, &query)
            }
            ["portForward", namespace, pod] => {
                let sandbox = self.sandbox(namespace, pod).await?;
                self.port_forward(request, sandbox, &query)
            }
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "the node has no such path",
            )),
        }
    }
}

impl std::fmt::Debug for StreamServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StreamServer")
            .finish_non_exhaustive()
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}
