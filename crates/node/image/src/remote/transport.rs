//! Connections to registries: names, TCP, TLS.
//!
//! A static executable has no name service switch, so names are resolved by a
//! resolver of our own, which reads `/etc/resolv.conf` and `/etc/hosts`.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::combinators::UnsyncBoxBody;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What requests carry.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// The pooling HTTP client.
pub(crate) type Http = hyper_util::client::legacy::Client<Connector, Body>;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(15);

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    resolver: OnceLock<hickory_resolver::TokioResolver>,
    provider: Arc<CryptoProvider>,
    /// Roots the system or the program vouches for; loaded when first needed.
    roots: OnceLock<RootCertStore>,
    certificates: Option<PathBuf>,
    insecure: Vec<String>,
}

impl Connector {
    pub(crate) fn new(certificates: Option<PathBuf>, insecure: Vec<String>) -> Connector {
        Connector {
            shared: Arc::new(Shared {
                resolver: OnceLock::new(),
                provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
                roots: OnceLock::new(),
                certificates,
                insecure,
            }),
        }
    }

    /// Whether this host (`host` or `host:port`) may do without a certificate
    /// somebody vouches for, and without TLS.
    pub(crate) fn is_insecure(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let loopback = host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        loopback
            || self
                .shared
                .insecure
                .iter()
                .any(|known| known == authority || known == host)
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
        let config = self.tls(authority.as_str())?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| invalid("host has no name a certificate could be for"))?;
        let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp);
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
                    let text = format!("dial tcp {}: {error}", SocketAddr::new(address, port));
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
        let resolver = match self.resolver.get() {
            Some(resolver) => resolver,
            None => {
                let resolver = hickory_resolver::Resolver::builder_tokio()
                    .and_then(|builder| builder.build())
                    .map_err(|error| failed(&error))?;
                self.resolver.get_or_init(|| resolver)
            }
        };
        let found = resolver
            .lookup_ip(host)
            .await
            .map_err(|error| failed(&error))?;
        Ok(found.iter().collect())
    }

    fn tls(&self, authority: &str) -> io::Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let host = host_of(authority);
        if self
            .insecure
            .iter()
            .any(|known| known == authority || known == host)
            || host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
        {
            let anyone = Arc::new(Anyone(Arc::clone(&self.provider)));
            return Ok(builder
                .dangerous()
                .with_custom_certificate_verifier(anyone)
                .with_no_client_auth());
        }
        let mut roots = self.roots.get_or_init(system_roots).clone();
        if let Some(certificates) = &self.certificates {
            let path = certificates.join(authority).join("ca.crt");
            match CertificateDer::pem_file_iter(&path) {
                Ok(found) => {
                    for certificate in found {
                        let certificate = certificate.map_err(io::Error::other)?;
                        roots.add(certificate).map_err(io::Error::other)?;
                    }
                }
                Err(rustls::pki_types::pem::Error::Io(error))
                    if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
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

fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host),
    }
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

/// Accepts any certificate, for hosts the administrator called insecure.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
