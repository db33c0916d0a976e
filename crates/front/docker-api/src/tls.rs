//! The API over TCP: TLS only, and only for clients whose certificate our
//! authority signed. Whoever speaks this API is root on the machine.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::server::Accept;
use crate::tap::Duplex;

/// How long a client may take until it is known who it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients that may be about it at the same time.
const MAX_HANDSHAKES: usize = 64;

/// The files that TLS needs, all PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificates of the authority that signs clients' certificates.
    pub authority: PathBuf,
    /// The daemon's certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// The daemon's key.
    pub key: PathBuf,
}

/// A TCP socket for clients with certificates.
pub struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
}

impl TlsListener {
    /// Listens at `address`.
    ///
    /// # Errors
    ///
    /// `InvalidData` with the file's name when it holds no certificates or no
    /// key, and what the system says of files and address.
    pub async fn bind(address: &str, files: &TlsFiles) -> io::Result<Self> {
        let invalid = |path: &Path, why: String| {
            let text = format!("{}: {why}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let certificates = |path: &Path| -> io::Result<Vec<CertificateDer<'static>>> {
            let found: Vec<_> = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect)
                .map_err(|error| invalid(path, error.to_string()))?;
            if found.is_empty() {
                return Err(invalid(path, "no certificate in it".into()));
            }
            Ok(found)
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.authority)? {
            roots
                .add(certificate)
                .map_err(|error| invalid(&files.authority, error.to_string()))?;
        }
        let clients = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .map_err(|error| invalid(&files.authority, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| invalid(&files.key, error.to_string()))?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(certificates(&files.certificate)?, key)
            .map_err(|error| invalid(&files.certificate, error.to_string()))?;
        // Attaching takes connections over, which HTTP/2 does not know.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Accept for TlsListener {
    async fn accept(
        &self,
    ) -> io::Result<impl Future<Output = io::Result<impl Duplex + 'static>> + Send + 'static> {
        let handshakes = Arc::clone(&self.handshakes);
        let place = handshakes.acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let handshake = self.acceptor.accept(stream);
        Ok(async move {
            let stream = tokio::time::timeout(PATIENCE, handshake).await??;
            drop(place);
            Ok(stream)
        })
    }
}
