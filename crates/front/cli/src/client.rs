//! HTTP to the daemon: one connection a request.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use dhow_docker::DetachKeys;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::connection::{Connection, Duplex, Endpoint};
use crate::error::Error;

/// The version of the API whose answers this client reads: 1. and this.
const API_VERSION: u32 = 51;

/// What is not escaped in paths and queries.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/')
    .remove(b':');

type Body = BoxBody<Bytes, std::io::Error>;

/// A client of one daemon.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    endpoint: Endpoint,
    /// Where Docker's configuration is.
    folder: PathBuf,
    /// The context in use.
    context: String,
    /// The version that is spoken, as paths begin with it.
    prefix: String,
}

impl Client {
    /// A client of the daemon that `connection` names. One that may be of
    /// another version is asked what it speaks.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] and [`Error::File`] for what makes no sense, and what
    /// the daemon says.
    pub(crate) async fn connect(connection: &Connection) -> Result<Self, Error> {
        let endpoint = connection.endpoint()?;
        let mut client = Self {
            endpoint,
            folder: connection.folder(),
            context: connection.context_name()?,
            prefix: String::new(),
        };
        let mut version = API_VERSION;
        if client.endpoint.is_foreign() {
            let spoken = client.head("/_ping", "api-version").await?;
            let spoken = spoken.strip_prefix("1.").and_then(|text| text.parse().ok());
            version = spoken.unwrap_or(version).min(version);
        }
        client.prefix = format!("/v1.{version}");
        Ok(client)
    }

    /// The name of the context in use.
    pub(crate) fn context(&self) -> &str {
        &self.context
    }

    /// A stream to the daemon that nothing was said on.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`].
    pub(crate) async fn dial(&self) -> Result<Box<dyn Duplex>, Error> {
        let connected = self.endpoint.connect().await;
        connected.map_err(|source| Error::Unreachable {
            socket: self.endpoint.address().to_owned(),
            source,
        })
    }

    /// The folder with Docker's configuration.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A setting of Docker's configuration. One that cannot be read has none.
    pub(crate) fn setting(&self, name: &str) -> Option<String> {
        match Config::read(&self.folder) {
            Ok(config) => config.text(name).map(str::to_owned),
            Err(error) => {
                anstream::eprintln!("WARNING: {error}");
                None
            }
        }
    }

    /// Variables of proxies that containers of this daemon get.
    pub(crate) fn proxies(&self) -> Vec<(String, String)> {
        Config::read(&self.folder)
            .map(|config| config.proxies(self.endpoint.address()))
            .unwrap_or_default()
    }

    /// The keys that let go of a container: those given, or those settled.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for what is no key.
    pub(crate) fn detach_keys(&self, given: Option<&str>) -> Result<DetachKeys, Error> {
        let given = given.filter(|keys| !keys.is_empty()).map(str::to_owned);
        let text = given.or_else(|| self.setting("detachKeys"));
        let text = text.unwrap_or_default();
        DetachKeys::parse(&text)
            .ok_or_else(|| Error::Usage(format!("invalid detach keys ({text}) provided")))
    }

    /// The version of the API that is spoken.
    pub(crate) fn version(&self) -> &str {
        self.prefix.trim_start_matches("/v")
    }

    async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let path = format!("{}{}", self.prefix, request.uri());
        *request.uri_mut() = path.parse().expect("paths are escaped");
        let stream = self.dial().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            let body = response.into_body().collect().await?.to_bytes();
            let message = serde_json::from_slice::<Value>(&body)
                .ok()
                .and_then(|value| value["message"].as_str().map(str::to_owned))
                .unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
            return Err(Error::Refused {
                status: status.as_u16(),
                message,
            });
        }
        Ok(response)
    }

    fn request(method: Method, path: &str, body: Body, kind: Option<&str>) -> Request<Body> {
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "dhow");
        if let Some(kind) = kind {
            builder = builder.header("content-type", kind);
        }
        builder.body(body).expect("paths are escaped")
    }

    /// A request with a JSON body, or none; the answer is collected.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Error> {
        let response = self.send(Self::json(method, path, body)).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok((
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        ))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Error> {
        Ok(self.call(Method::GET, path, None).await?.1)
    }

    pub(crate) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        Ok(self.call(Method::POST, path, body).await?.1)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Error> {
        Ok(self.call(Method::DELETE, path, None).await?.1)
    }

    /// A request whose answer is read as it comes.
    pub(crate) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Incoming, Error> {
        Ok(self.send(Self::json(method, path, body)).await?.into_body())
    }

    /// One header of the answer to a request without a body.
    pub(crate) async fn head(&self, path: &str, header: &str) -> Result<String, Error> {
        let response = self.send(Self::json(Method::HEAD, path, None)).await?;
        let value = response.headers().get(header);
        let text = value.and_then(|value| value.to_str().ok());
        Ok(text.unwrap_or_default().to_owned())
    }

    /// Sends an archive's chunks to a place.
    pub(crate) async fn put(
        &self,
        path: &str,
        chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    ) -> Result<(), Error> {
        let body = BodyExt::boxed(StreamBody::new(ReceiverStream(chunks)));
        let request = Self::request(Method::PUT, path, body, Some("application/x-tar"));
        self.send(request).await?;
        Ok(())
    }

    /// Sends chunks as the body; the answer is read as it comes.
    pub(crate) async fn upload(
        &self,
        path: &str,
        chunks: mpsc::Receiver<std::io::Result<Bytes>>,
        kind: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Incoming, Error> {
        let frames = ReceiverStream(chunks);
        let body = BodyExt::boxed(StreamBody::new(frames));
        let mut request = Self::request(Method::POST, path, body, Some(kind));
        for (name, value) in headers {
            let value = value
                .parse()
                .map_err(|_| Error::Usage(format!("bad header {name}")))?;
            request.headers_mut().insert(*name, value);
        }
        Ok(self.send(request).await?.into_body())
    }

    /// Sends headers and no body; the answer is read as it comes.
    pub(crate) async fn with_headers(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Incoming, Error> {
        let mut request = Self::json(Method::POST, path, None);
        for (name, value) in headers {
            let value = value
                .parse()
                .map_err(|_| Error::Usage(format!("bad header {name}")))?;
            request.headers_mut().insert(*name, value);
        }
        Ok(self.send(request).await?.into_body())
    }

    /// A request that takes the connection over.
    pub(crate) async fn hijack(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> Result<TokioIo<Upgraded>, Error> {
        let mut request = Self::json(Method::POST, path, body);
        let headers = request.headers_mut();
        headers.insert("connection", http::HeaderValue::from_static("Upgrade"));
        headers.insert("upgrade", http::HeaderValue::from_static("tcp"));
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::Broken(
                "the daemon does not hand the connection over".into(),
            ));
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }

    fn json(method: Method, path: &str, body: Option<&Value>) -> Request<Body> {
        match body {
            Some(value) => {
                let full =
                    Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
                Self::request(method, path, BodyExt::boxed(full), Some("application/json"))
            }
            None => {
                let empty = Empty::new().map_err(|never| match never {});
                Self::request(method, path, BodyExt::boxed(empty), None)
            }
        }
    }
}

/// A body's chunks out of a channel.
struct ReceiverStream(mpsc::Receiver<std::io::Result<Bytes>>);

impl futures_util::Stream for ReceiverStream {
    type Item = std::io::Result<Frame<Bytes>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0
            .poll_recv(context)
            .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

/// Escapes a part of a path or query.
pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// A query of name and value pairs; empty values are left out.
pub(crate) fn query(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}
