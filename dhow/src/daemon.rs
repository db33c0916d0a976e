//! The daemon: wires the rooms together, serves, and stops.
//!
//! Containers outlive it: a stopped daemon leaves them running and finds them
//! again when it starts. What it made in the kernel goes with the last of them.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use dhow_docker_api::{About, Listener, TlsFiles, TlsListener};
use dhow_engine::spec::LogConfig;
use dhow_engine::{Config, ControlGroups, DEFAULT_LOG_DRIVER, Engine, Groups, Selinux};
use dhow_image::{CollectPolicy, Images, Limits, Pressure, RegistryOptions};
use dhow_network::{NameServer, Networks};
use dhow_oci::Platform;
use dhow_volume::Volumes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::apparmor;
use crate::cluster::{self, Clusters};
use crate::instance::Instance;
use crate::notify;
use crate::remap;
use crate::reserve::Reserve;

// How the daemon runs.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    instance: Instance,
    /// Socket to serve; RUN_ROOT/dhow.sock unless told otherwise.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Registry, or network of registries, that may be spoken to without TLS;
    /// loopback always may.
    #[arg(long, value_name = "HOST[:PORT]|NETWORK")]
    insecure_registry: Vec<String>,
    /// Address that is asked before Docker Hub.
    #[arg(long, value_name = "URL")]
    registry_mirror: Vec<String>,
    /// Folder with HOST[:PORT]/hosts.toml or HOST[:PORT]/*.crt for registries.
    #[arg(long, value_name = "FOLDER", default_values = ["/etc/dhow/certs.d", "/etc/docker/certs.d"])]
    certs_dir: Vec<PathBuf>,
    /// Remove images that were not used for so many days.
    #[arg(long, value_name = "DAYS")]
    image_gc_days: Option<u64>,
    /// Remove the images used longest ago while the disk is fuller than this.
    #[arg(long, value_name = "PERCENT")]
    image_gc_disk: Option<u8>,
    /// Address to serve over TCP as well, to clients with certificates.
    #[arg(long, value_name = "HOST:PORT", requires_all = ["tlscacert", "tlscert", "tlskey"])]
    tcp: Option<String>,
    /// Certificates of the authority that signs clients' certificates, PEM.
    #[arg(long, value_name = "FILE", requires = "tcp")]
    tlscacert: Option<PathBuf>,
    /// The daemon's certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tcp")]
    tlscert: Option<PathBuf>,
    /// The daemon's key, PEM.
    #[arg(long, value_name = "FILE", requires = "tcp")]
    tlskey: Option<PathBuf>,
    /// Size of the root file systems of containers that name none, as
    /// overlay2.size=10G; the data root must be on a file system with project
    /// quotas (xfs or ext4, mounted with prjquota).
    #[arg(long, value_name = "NAME=VALUE", value_parser = storage_option)]
    storage_opt: Vec<u64>,
    /// Log driver of containers that name none: local, json-file, journald or none.
    #[arg(long, value_name = "DRIVER", default_value = DEFAULT_LOG_DRIVER)]
    log_driver: String,
    /// Option of that log driver.
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    log_opt: Vec<(String, String)>,
    /// Option of the runtime: native.cgroupdriver=cgroupfs, or
    /// native.cgroupdriver=systemd for control groups that systemd makes.
    #[arg(long, value_name = "NAME=VALUE", value_parser = runtime_option)]
    exec_opt: Vec<Groups>,
    /// Parent of the control groups of containers that name none, a slice where
    /// systemd makes them; /dhow or /dhow-INSTANCE, and system.slice, unless told
    /// otherwise.
    #[arg(long, value_name = "PATH|SLICE")]
    cgroup_parent: Option<String>,
    /// Whose subordinate identifiers the users of containers are on the host:
    /// default (the account dockremap), USER, USER:GROUP or UID:GID.
    #[arg(long, value_name = "USER[:GROUP]")]
    userns_remap: Option<String>,
    /// Give containers labels of SELinux, where the kernel has it.
    #[arg(long)]
    selinux_enabled: bool,
    /// Folder in which etc/passwd, etc/group, etc/subuid and etc/subgid are.
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    accounts_root: PathBuf,
}

impl Options {
    /// When images go by themselves; none unless asked for.
    fn collection(&self) -> Result<Option<CollectPolicy>> {
        if self.image_gc_days.is_none() && self.image_gc_disk.is_none() {
            return Ok(None);
        }
        let days = |n: u64| Duration::from_secs(n.saturating_mul(24 * 3600));
        Ok(Some(CollectPolicy {
            // What was just pulled is wanted for something.
            min_age: Duration::from_secs(120),
            max_age: self.image_gc_days.map(days),
            pressure: self.image_gc_disk.map(Pressure::above).transpose()?,
        }))
    }
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not of the form NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

/// The size in `overlay2.size=SIZE`; the storage driver has no other option.
fn storage_option(text: &str) -> Result<u64, String> {
    match name_and_value(text)? {
        (name, size) if name == "overlay2.size" => {
            dhow_engine::bytes(&size).map_err(|error| error.to_string())
        }
        (name, _) => Err(format!(
            "overlay2: unknown option {name}; there is overlay2.size"
        )),
    }
}

/// Who makes control groups, in `native.cgroupdriver=WHO`; the runtime has no other
/// option.
fn runtime_option(text: &str) -> Result<Groups, String> {
    match name_and_value(text)? {
        (name, value) if name.eq_ignore_ascii_case("native.cgroupdriver") => match value.as_str() {
            "cgroupfs" => Ok(Groups::Files),
            "systemd" => Ok(Groups::Systemd),
            _ => Err(format!(
                "native.cgroupdriver option {value} not supported; there are cgroupfs and systemd"
            )),
        },
        (name, _) => Err(format!(
            "unknown option {name}; there is native.cgroupdriver"
        )),
    }
}

/// What labels of SELinux begin with; none, with a warning, where there are none.
fn selinux() -> Option<Selinux> {
    let here = Selinux::here();
    if here.is_none() {
        tracing::warn!("SELinux is not enabled on this host: containers get no labels");
    }
    here
}

/// What every serving role does first: it logs, and speaks TLS by one provider.
pub(crate) fn prepare_process() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DHOW_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // To where, if not there?
        .log_internal_errors(false)
        .init();
    // One crypto provider for everything that speaks TLS.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Each container takes a few descriptors, each published port two more.
/// Returns what the limit was, which containers get.
fn raise_descriptors() -> Rlimit {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?now.current, "limit of descriptors stays");
    }
    now
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(options: &Options) -> Result<()> {
    prepare_process();
    let descriptors = raise_descriptors();
    let instance = &options.instance;
    instance.prepare()?;
    let _lock = instance.lock()?;
    let reserve = Reserve::open(&instance.data_root);
    let networks = Arc::new(
        Networks::open(dhow_network::Config {
            data: instance.data_root.join("network"),
            run: instance.run_root.join("network"),
            table: instance.name(),
            link_prefix: instance.link_prefix(),
        })
        .context("open networks")?,
    );
    let engine = open_engine(options, descriptors, Arc::clone(&networks)).await?;
    engine
        .make_default_network(&format!("{}0", instance.link_prefix()))
        .context("make the default network")?;
    reserve.keep();

    let resolv_conf = std::fs::read_to_string(&engine.config().resolv_conf).unwrap_or_default();
    let names = NameServer::new(Arc::clone(&networks), NameServer::upstreams(&resolv_conf));
    let answering = tokio::spawn(names.run());

    let socket = options
        .socket
        .clone()
        .unwrap_or_else(|| instance.run_root.join("dhow.sock"));
    let listener =
        Listener::bind(&socket).with_context(|| format!("listen at {}", socket.display()))?;
    let tls = listen_remotely(options).await?;
    let about = About {
        version: env!("CARGO_PKG_VERSION").into(),
        id: instance.id()?,
        root: instance.data_root.display().to_string(),
    };
    let clusters = Arc::new(Clusters::new(engine.clone(), instance.name()));
    let resumed = clusters.clone();
    tokio::spawn(async move {
        // A cluster that does not come up again is no reason to leave the
        // containers without a daemon.
        if let Err(error) = resumed.resume().await {
            tracing::error!(error = format!("{error:#}"), "the cluster is not up");
        }
    });
    let sweeping = tokio::spawn(engine.clone().sweep_images());
    let collecting = options
        .collection()?
        .map(|policy| tokio::spawn(engine.clone().collect_images(policy)));
    let router = dhow_docker_api::router(engine.clone(), about)
        .context("prepare builds")?
        .merge(cluster::routes(clusters.clone()));
    let stopped = stopped();
    tracing::info!(socket = %socket.display(), "ready");
    notify::ready();
    dhow_docker_api::serve(listener, tls, router, stopped).await;
    clusters.pause().await;
    answering.abort();
    sweeping.abort();
    if let Some(collecting) = collecting {
        collecting.abort();
    }
    leave(&engine, &networks, &instance.name());
    Ok(())
}

async fn listen_remotely(options: &Options) -> Result<Option<TlsListener>> {
    let (Some(address), Some(authority), Some(certificate), Some(key)) = (
        &options.tcp,
        &options.tlscacert,
        &options.tlscert,
        &options.tlskey,
    ) else {
        return Ok(None);
    };
    let files = TlsFiles {
        authority: authority.clone(),
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let listener = TlsListener::bind(address, &files)
        .await
        .with_context(|| format!("listen at {address}"))?;
    tracing::info!(address = %listener.address()?, "serves clients with certificates");
    Ok(Some(listener))
}

async fn open_engine(
    options: &Options,
    descriptors: Rlimit,
    networks: Arc<Networks>,
) -> Result<Engine> {
    let instance = &options.instance;
    let data = &instance.data_root;
    let content = dhow_content::Store::open(&data.join("content")).context("open content")?;
    let images = Images::open(dhow_image::Options {
        root: data.join("image"),
        content,
        platform: Platform::host(),
        limits: Limits::default(),
        registries: RegistryOptions {
            insecure: options.insecure_registry.clone(),
            mirrors: options.registry_mirror.clone(),
            certificates: options.certs_dir.clone(),
            user_agent: concat!("dhow/", env!("CARGO_PKG_VERSION")).into(),
            ..RegistryOptions::default()
        },
        now: std::time::SystemTime::now,
    })
    .context("open images")?;
    let volumes = Volumes::open(&data.join("volumes")).context("open volumes")?;
    let config = Config {
        data: data.clone(),
        run: instance.run_root.clone(),
        runtime: instance.runtime()?,
        groups: ControlGroups::new(
            options.exec_opt.last().copied().unwrap_or_default(),
            options.cgroup_parent.as_deref(),
            &instance.name(),
        )?,
        resolv_conf: "/etc/resolv.conf".into(),
        log: LogConfig {
            kind: options.log_driver.clone(),
            config: options.log_opt.iter().cloned().collect(),
        },
        size: options
            .storage_opt
            .last()
            .copied()
            .filter(|size| *size != 0),
        descriptors: (
            descriptors.current.unwrap_or(u64::MAX),
            descriptors.maximum.unwrap_or(u64::MAX),
        ),
        journal: "/run/systemd/journal/socket".into(),
        apparmor: apparmor::load().map(str::to_owned),
        selinux: options.selinux_enabled.then(selinux).flatten(),
        remap: options
            .userns_remap
            .as_deref()
            .map(|wanted| remap::resolve(wanted, &options.accounts_root))
            .transpose()?,
    };
    Engine::open(config, images, networks, volumes)
        .await
        .context("open containers")
}

/// Ready when somebody asks the process to stop. From the call on, before the
/// future is polled, such a request no longer ends the process at once.
pub(crate) fn stopped() -> impl Future<Output = ()> {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    }
}

/// Takes what is ours out of the kernel when no container needs it any more.
fn leave(engine: &Engine, networks: &Networks, name: &str) {
    let is_needed = engine
        .list()
        .iter()
        .any(|record| record.state.status.is_alive());
    if is_needed {
        return;
    }
    if let Err(error) = networks.tear_down() {
        tracing::warn!(%error, "networks are not taken down");
    }
    // Our control group has no children left; others' are not ours to remove.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let _ = std::fs::remove_dir(hierarchy.path().join(name));
    }
    let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(name));
}
