//! The registry: images for all, by the OCI distribution specification.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use dhow_registry::{Access, Config, Tls};
use tokio::net::TcpListener;

use crate::daemon::stopped;

// How the registry runs.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder for everything it keeps.
    #[arg(long, default_value = "/var/lib/dhow-registry", value_name = "FOLDER")]
    root: PathBuf,
    /// Address and port to serve.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Certificate (PEM); without one, plain HTTP is served.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// Key of the certificate (PEM).
    #[arg(long, requires = "tls_certificate", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Users (htpasswd with bcrypt); without one, everybody may do everything.
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Let everybody read, and only users write.
    #[arg(long, requires = "htpasswd")]
    public_read: bool,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(options: Options) -> Result<()> {
    crate::daemon::prepare_process();
    ensure!(
        options.tls_certificate.is_some() || options.listen.ip().is_loopback(),
        "{} is reached by others, and plain HTTP would show them passwords and images: give --tls-certificate and --tls-key, or listen at 127.0.0.1",
        options.listen
    );
    let mut config = Config::new(options.root);
    config.tls = options
        .tls_certificate
        .zip(options.tls_key)
        .map(|(certificate, key)| Tls { certificate, key });
    if let Some(file) = options.htpasswd {
        config.access = if options.public_read {
            Access::ReadOpen(file)
        } else {
            Access::Users(file)
        };
    }
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listen at {}", options.listen))?;
    let stopped = stopped();
    tracing::info!(address = %listener.local_addr()?, "ready");
    dhow_registry::run(listener, config, stopped)
        .await
        .context("serve images")
}
