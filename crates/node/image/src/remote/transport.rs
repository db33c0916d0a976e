//! Connections to registries: names, TCP, TLS.
//!
//! A static executable has no name service switch, so names are resolved by a
//! resolver of our own, which reads `/etc/resolv.conf` and `/etc/hosts`.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dhow_tls::Anyone;
use http::Uri;
use http_body_util::combinators::UnsyncBoxBody;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::remote::hosts::{self, Trust};
use crate::types::RegistryOptions;

/// What requests carry.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// The pooling HTTP client.
pub(crate) type Http = hyper_util::client::legacy::Client<Connector, Body>;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(15);

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Connections {
    shared: Arc<Common>,
}

struct Common {
    resolver: OnceLock<hickory_resolver::TokioResolver>,
    provider: Arc<CryptoProvider>,
    /// Roots the system or the program vouches for; loaded when first needed.
    roots: OnceLock<RootCertStore>,
}

impl Connections {
    pub(crate) fn new() -> Connections {
        Connections {
            shared: Arc::new(Common {
                resolver: OnceLock::new(),
                provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
                roots: OnceLock::new(),
            }),
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Connections")
    }
}

/// Makes connections to the hosts of one registry, and to where they send us.
#[derive(Clone)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    common: Arc<Common>,
    /// By host and port.
    trusts: HashMap<String, Trust>,
    configs: Mutex<HashMap<String, Arc<ClientConfig>>>,
    options: RegistryOptions,
}

impl Connector {
    /// `trusts` are by host and port; whoever is not among them is trusted as
    /// `options` say.
    pub(crate) fn new(
        connections: Connections,
        trusts: HashMap<String, Trust>,
        options: &RegistryOptions,
    ) -> Connector {
        Connector {
            shared: Arc::new(Shared {
                common: connections.shared,
                trusts,
                configs: Mutex::default(),
                options: options.clone(),
            }),
        }
    }
}

impl Shared {
    async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
        let authority = uri
            .authority()
            .ok_or_else(|| invalid("address without host"))?;
        let is_tls = uri.scheme_str() == Some("https");
        let port = authority
            .port_u16()
            .unwrap_or(if is_tls { 443 } else { 80 });
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let tcp = tokio::time::timeout(CONNECT, self.dial(host, port))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connection timed out"))??;
        tcp.set_nodelay(true)?;
        if !is_tls {
            return Ok(Stream::Plain(tcp));
        }
        let config = self.tls(&format!("{}:{port}", authority.host()))?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| invalid("host has no name a certificate could be for"))?;
        let connecting = tokio_rustls::TlsConnector::from(config).connect(name, tcp);
        let stream = tokio::time::timeout(CONNECT, connecting)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timed out"))?
            .map_err(|error| io::Error::new(error.kind(), format!("tls: {error}")))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut last = None;
        for address in self.lookup(host).await? {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    // In the words that people look for.
                    let why = match error.kind() {
                        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
                        io::ErrorKind::NetworkUnreachable => {
                            "connect: network is unreachable".into()
                        }
                        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
                        _ => error.to_string(),
                    };
                    let text = format!("dial tcp {}: {why}", SocketAddr::new(address, port));
                    last = Some(io::Error::new(error.kind(), text));
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("lookup {host}: no such host"),
            )
        }))
    }

    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if host == "localhost" || host.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let failed = |error: &dyn fmt::Display| {
            io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: {error}"))
        };
        let resolver = match self.common.resolver.get() {
            Some(resolver) => resolver,
            None => {
                let resolver = hickory_resolver::Resolver::builder_tokio()
                    .and_then(|builder| builder.build())
                    .map_err(|error| failed(&error))?;
                self.common.resolver.get_or_init(|| resolver)
            }
        };
        let found = resolver
            .lookup_ip(host)
            .await
            .map_err(|error| failed(&error))?;
        Ok(found.iter().collect())
    }

    /// How TLS is spoken with this host and port.
    fn tls(&self, authority: &str) -> io::Result<Arc<ClientConfig>> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(authority) {
            return Ok(Arc::clone(config));
        }
        let unknown = Trust {
            skip_verify: hosts::is_insecure(authority, &self.options),
            ..Trust::default()
        };
        let trust = self.trusts.get(authority).unwrap_or(&unknown);
        let config = Arc::new(self.config(trust)?);
        configs.insert(authority.to_owned(), Arc::clone(&config));
        Ok(config)
    }

    fn config(&self, trust: &Trust) -> io::Result<ClientConfig> {
        let provider = &self.common.provider;
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = if trust.skip_verify {
            // The administrator called it insecure.
            let anyone = Arc::new(Anyone::new(Arc::clone(provider)));
            builder.dangerous().with_custom_certificate_verifier(anyone)
        } else {
            let mut roots = self.common.roots.get_or_init(system_roots).clone();
            for authority in &trust.authorities {
                for certificate in CertificateDer::pem_slice_iter(authority) {
                    let certificate = certificate.map_err(io::Error::other)?;
                    roots.add(certificate).map_err(io::Error::other)?;
                }
            }
            builder.with_root_certificates(roots)
        };
        let Some((certificate, key)) = &trust.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(io::Error::other)
    }
}

/// What the system trusts; where there is no system, what Mozilla trusts.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "system certificate is unreadable");
    }
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.connect(&uri).await.map(TokioIo::new) })
    }
}

/// A connection, with TLS or without.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, data),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
