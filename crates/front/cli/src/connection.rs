//! Where the daemon is, and how it is spoken to: options, environment and
//! Docker's contexts become an address, and an address a stream.
//!
//! The first of these that says something: `--host` or `--context`,
//! `DHOW_HOST`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the context that `context use`
//! settled, our own socket. But for ours it is the order of Docker's client.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dhow_tls::Anyone;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::config;
use crate::contexts::{self, Place};
use crate::error::Error;

/// Where our own daemon listens.
const OWN_SOCKET: &str = "unix:///run/dhow/dhow.sock";
/// Ports that Docker's clients take where none is named.
const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// How the daemon is reached.
#[derive(Debug, Clone, Default, Args)]
pub struct Connection {
    /// Where the daemon is (unix:///PATH or tcp://HOST:PORT); DHOW_HOST unless
    /// told otherwise.
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub host: Option<String>,
    /// One of Docker's contexts, instead of an address.
    #[arg(
        // `build` has a context of another kind.
        id = "docker-context",
        short = 'c',
        long = "context",
        value_name = "NAME"
    )]
    pub context: Option<String>,
    /// Folder with Docker's configuration; DOCKER_CONFIG or ~/.docker unless
    /// told otherwise.
    #[arg(long, value_name = "FOLDER")]
    pub config: Option<PathBuf>,
    /// Accepted for Docker's sake: the client has nothing to say about itself.
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// The same (debug, info, warn, error or fatal).
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info", value_parser = ["debug", "info", "warn", "error", "fatal"])]
    pub log_level: String,
    /// Speak TLS, to a daemon that is not verified.
    #[arg(long)]
    pub tls: bool,
    /// Speak TLS, to a daemon whose certificate the authority signed.
    #[arg(long)]
    pub tlsverify: bool,
    /// Certificate of the authority; ca.pem beside Docker's configuration.
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Our certificate; cert.pem beside Docker's configuration.
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Our key; key.pem beside Docker's configuration.
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
}

impl Connection {
    /// The address, in words.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a context that is not there.
    pub fn address(&self) -> Result<String, Error> {
        Ok(self.choose()?.0)
    }

    /// The address, and the context it is from.
    fn choose(&self) -> Result<(String, Option<Context>), Error> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let context = given(&self.context);
        match (given(&self.host), &context) {
            (Some(_), Some(_)) => {
                return Err(Error::Usage(
                    "conflicting options: cannot specify both --host and --context".into(),
                ));
            }
            (Some(host), None) => return Ok((host, None)),
            (None, _) => {}
        }
        match self.context_name()?.as_str() {
            contexts::DEFAULT => Ok((self.address_outside(), None)),
            name => {
                let context = Context::read(&self.folder(), name)?;
                Ok((context.host.clone(), Some(context)))
            }
        }
    }

    /// The name of the context in use: the one that was asked for, unless the
    /// environment names an address, or the one that is settled.
    ///
    /// # Errors
    ///
    /// If Docker's configuration cannot be read.
    pub(crate) fn context_name(&self) -> Result<String, Error> {
        if let Some(name) = self.context.clone().filter(|name| !name.is_empty()) {
            return Ok(name);
        }
        if self.host.is_some() || said("DHOW_HOST").is_some() || said("DOCKER_HOST").is_some() {
            return Ok(contexts::DEFAULT.into());
        }
        let name = match said("DOCKER_CONTEXT") {
            Some(name) => Some(name),
            None => contexts::settled(&self.folder())?,
        };
        Ok(name.unwrap_or_else(|| contexts::DEFAULT.into()))
    }

    /// The address that no context says.
    pub(crate) fn address_outside(&self) -> String {
        self.host
            .clone()
            .or_else(|| said("DHOW_HOST"))
            .or_else(|| said("DOCKER_HOST"))
            .unwrap_or_else(|| OWN_SOCKET.into())
    }

    /// The folder with Docker's configuration.
    pub(crate) fn folder(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(config::folder)
    }

    /// Where the daemon is.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for an address that is none, [`Error::File`] for a
    /// certificate that cannot be read.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        let (host, context) = self.choose()?;
        let place = Address::parse(&host)?;
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let wants_verified = self.tlsverify || is_set("DOCKER_TLS_VERIFY");
        let has_files = self.tlscacert.is_some() || self.tlscert.is_some() || self.tlskey.is_some();
        let tls = match (&place, context) {
            (Address::Socket(_), _) => None,
            (Address::Remote { .. }, Some(context)) => context.tls,
            (Address::Remote { .. }, None) => {
                let wants = wants_verified || self.tls || has_files || is_set("DOCKER_TLS");
                wants.then(|| self.files(wants_verified || (has_files && !self.tls)))
            }
        };
        let tls = tls.map(|files| files.load()).transpose()?;
        Ok(Endpoint {
            address: host,
            place: place.with_port(tls.is_some()),
            tls: tls.map(Arc::new),
        })
    }

    fn files(&self, is_verified: bool) -> TlsFiles {
        let folder = std::env::var_os("DOCKER_CERT_PATH")
            .filter(|path| !path.is_empty())
            .map_or_else(|| self.folder(), PathBuf::from);
        let file = |given: &Option<PathBuf>, name: &str| Named {
            path: given.clone().unwrap_or_else(|| folder.join(name)),
            is_given: given.is_some(),
        };
        TlsFiles {
            is_verified,
            authority: file(&self.tlscacert, "ca.pem"),
            certificate: file(&self.tlscert, "cert.pem"),
            key: file(&self.tlskey, "key.pem"),
        }
    }
}

/// What a variable of the environment says, unless it is empty.
fn said(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// A file, and whether it was asked for.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    is_given: bool,
}

impl Named {
    fn is_there(&self) -> bool {
        self.is_given || self.path.exists()
    }
}

#[derive(Debug)]
struct TlsFiles {
    /// Whether the daemon has to show a certificate of the authority's.
    is_verified: bool,
    authority: Named,
    certificate: Named,
    key: Named,
}

impl TlsFiles {
    fn load(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Usage(format!("TLS: {error}")))?;
        let builder = if self.is_verified {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&self.authority.path)? {
                roots.add(certificate).map_err(|error| {
                    Error::Usage(format!("{}: {error}", self.authority.path.display()))
                })?;
            }
            builder.with_root_certificates(roots)
        } else {
            // `--tls` without `--tlsverify`.
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone::new(provider)))
        };
        if !(self.certificate.is_there() || self.key.is_there()) {
            return Ok(builder.with_no_client_auth());
        }
        let chain = certificates(&self.certificate.path)?;
        let path = &self.key.path;
        let key = PrivateKeyDer::from_pem_slice(&read(path)?)
            .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::File(path.display().to_string(), error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = read.map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
    if found.is_empty() {
        return Err(Error::Usage(format!(
            "{}: there is no certificate in it",
            path.display()
        )));
    }
    Ok(found)
}

/// What a context of Docker's says.
#[derive(Debug)]
struct Context {
    host: String,
    tls: Option<TlsFiles>,
}

impl Context {
    /// Reads what a context says, and where its certificates are.
    fn read(folder: &Path, name: &str) -> Result<Self, Error> {
        let place = Place::of(folder, name);
        let value = place.read(name)?;
        let endpoint = &value["Endpoints"]["docker"];
        let host = endpoint["Host"].as_str().unwrap_or_default();
        if host.is_empty() {
            return Err(Error::Usage(format!("context {name:?} names no host")));
        }
        let files = place.tls.join("docker");
        let file = |name: &str| Named {
            path: files.join(name),
            is_given: false,
        };
        let is_unverified = endpoint["SkipTLSVerify"].as_bool().unwrap_or_default();
        let tls = (files.exists() || is_unverified).then(|| TlsFiles {
            is_verified: !is_unverified,
            authority: file("ca.pem"),
            certificate: file("cert.pem"),
            key: file("key.pem"),
        });
        Ok(Self {
            host: host.to_owned(),
            tls,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Socket(PathBuf),
    Remote { name: String, port: Option<u16> },
}

impl Address {
    fn parse(host: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::Usage(format!(
                "{host} is no address of a daemon: use unix:///PATH or tcp://HOST:PORT"
            ))
        };
        let place = match host.split_once("://") {
            None => Self::Socket(host.into()),
            Some(("unix", path)) => Self::Socket(path.into()),
            Some(("tcp", rest)) => {
                let rest = rest.trim_end_matches('/');
                let (name, port) = match rest.rsplit_once(':') {
                    // The colons of an address in brackets are its own.
                    Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
                    _ => (rest, None),
                };
                let port = port
                    .map(|port| port.parse().map_err(|_| wrong()))
                    .transpose()?;
                let name = name.trim_start_matches('[').trim_end_matches(']');
                Self::Remote {
                    name: name.to_owned(),
                    port,
                }
            }
            Some(_) => return Err(wrong()),
        };
        match &place {
            Self::Socket(path) if path.as_os_str().is_empty() => Err(wrong()),
            Self::Remote { name, .. } if name.is_empty() || name.contains('/') => Err(wrong()),
            _ => Ok(place),
        }
    }

    fn with_port(self, has_tls: bool) -> Self {
        match self {
            Self::Remote { name, port } => Self::Remote {
                name,
                port: port.or(Some(if has_tls { TLS_PORT } else { PLAIN_PORT })),
            },
            socket @ Self::Socket(_) => socket,
        }
    }
}

/// A daemon that can be reached.
#[derive(Clone)]
pub(crate) struct Endpoint {
    address: String,
    place: Address,
    tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Endpoint");
        shown
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A stream to a daemon.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Endpoint {
    /// The address, as it was given.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether the daemon may be another's, of another version: whoever listens
    /// elsewhere than ours does.
    pub(crate) fn is_foreign(&self) -> bool {
        self.address != OWN_SOCKET
    }

    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Duplex>> {
        match &self.place {
            Address::Socket(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Remote { name, port } => {
                let port = port.unwrap_or(TLS_PORT);
                let stream = TcpStream::connect((name.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                let Some(tls) = &self.tls else {
                    return Ok(Box::new(stream));
                };
                let server = ServerName::try_from(name.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                let stream = TlsConnector::from(tls.clone())
                    .connect(server, stream)
                    .await?;
                Ok(Box::new(stream))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let remote = |name: &str, port| {
            Some(Address::Remote {
                name: name.into(),
                port,
            })
        };
        let socket = |path: &str| Some(Address::Socket(path.into()));
        for (text, expected) in [
            ("unix:///run/x.sock", socket("/run/x.sock")),
            ("/run/x.sock", socket("/run/x.sock")),
            ("tcp://host:1", remote("host", Some(1))),
            ("tcp://host", remote("host", None)),
            ("tcp://10.0.0.1:2376/", remote("10.0.0.1", Some(2376))),
            ("tcp://[::1]:9", remote("::1", Some(9))),
            ("tcp://[fd00::1]", remote("fd00::1", None)),
            ("tcp://", None),
            ("tcp://host:port", None),
            ("tcp://host/path", None),
            ("unix://", None),
            ("ssh://host", None),
        ] {
            assert_eq!(Address::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn contexts_are_docker_s() {
        let folder = tempfile::tempdir().expect("a folder");
        // The digest of the name.
        let id = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let meta = folder.path().join("contexts/meta").join(id);
        std::fs::create_dir_all(&meta).expect("folders");
        let text =
            r#"{"Name":"test","Endpoints":{"docker":{"Host":"tcp://h:1","SkipTLSVerify":false}}}"#;
        std::fs::write(meta.join("meta.json"), text).expect("written");
        let context = Context::read(folder.path(), "test").expect("it is there");
        assert_eq!(context.host, "tcp://h:1");
        assert!(context.tls.is_none());
        let tls = folder.path().join("contexts/tls").join(id).join("docker");
        std::fs::create_dir_all(&tls).expect("folders");
        let context = Context::read(folder.path(), "test").expect("it is there");
        assert!(context.tls.is_some_and(|files| files.is_verified));
        assert!(Context::read(folder.path(), "other").is_err());
    }
}
