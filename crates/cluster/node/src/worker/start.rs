//! Starting one container: image, environment, mounts, create, start.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use kube::ResourceExt;

use super::{Worker, hooks};
use crate::agent::Shared;
use crate::container::{self, ConfigError, Given};
use crate::env::{self, EnvError, Place, Reader};
use crate::events::Tone;
use crate::host::PodFolder;
use crate::images::ImageError;
use crate::lifecycle::{Input, Model, View};
use crate::probe::Target;
use crate::runtime::{Mount, Propagation, RuntimeError};
use crate::volumes::{MountError, Volumes, mounts};

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Create(RuntimeError),
    #[error("{0}")]
    Run(RuntimeError),
    #[error("{0}")]
    Hook(String),
}

impl StartError {
    /// The reason in the container's status.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Image(error) => error.reason(),
            Self::Config(_) => "CreateContainerConfigError",
            Self::Create(_) => "CreateContainerError",
            Self::Run(_) => "RunContainerError",
            Self::Hook(_) => "PostStartHookError",
        }
    }
}

macro_rules! config_error {
    ($($kind:ty),*) => {$(
        impl From<$kind> for StartError {
            fn from(error: $kind) -> Self {
                let mut text = error.to_string();
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    text.push_str(&format!(": {error}"));
                    cause = error.source();
                }
                Self::Config(text)
            }
        }
    )*};
}

config_error!(EnvError, ConfigError, MountError, crate::error::Error);

/// All that starting a container needs.
pub(super) struct Starter {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    spec: Spec,
    sandbox: String,
    addresses: Vec<IpAddr>,
    volumes: Arc<Volumes>,
    folder: PodFolder,
}

impl Starter {
    /// None when the sandbox or the wish is gone.
    pub(super) fn new(worker: &Worker, view: &View, name: &str) -> Option<Self> {
        let model = Model::new(Input {
            pod: &worker.pod,
            ephemerals: &worker.ephemerals,
            view,
            memory: &worker.memory,
            now: std::time::SystemTime::now(),
        });
        let sandbox = model.sandbox()?;
        Some(Self {
            shared: Arc::clone(&worker.shared),
            pod: Arc::clone(&worker.pod),
            spec: model.wanted(name)?.clone(),
            sandbox: sandbox.id.clone(),
            addresses: sandbox.addresses.clone(),
            volumes: Arc::clone(&worker.volumes),
            folder: worker.folder.clone(),
        })
    }

    /// Makes a container and starts it.
    pub(super) async fn start(&self, attempt: u32, level: u32) -> Result<(), StartError> {
        let Self {
            shared, pod, spec, ..
        } = self;
        let image = shared.images.get(pod, spec).await?;
        let services = self.services().await;
        let place = Place {
            pod,
            addresses: &self.addresses,
            config: &shared.config,
        };
        let reader = Reader::new(shared.client.clone(), pod);
        let env = env::resolve(&reader, &place, spec, &services).await?;
        let mut list = mounts(spec, &self.volumes, &env)?;
        let message_file = self.files(attempt, &mut list)?;
        let config = container::config(
            spec,
            Given {
                pod,
                config: &shared.config,
                image: &image,
                env,
                mounts: list,
                attempt,
                level,
                message_file: message_file.display().to_string(),
            },
        )?;
        let id = shared
            .runtime
            .create_container(&self.sandbox, config)
            .await
            .map_err(StartError::Create)?;
        shared.events.container(
            pod,
            &spec.name,
            Tone::Normal,
            "Created",
            "Container created",
        );
        self.run(&id).await
    }

    /// Starts what was created.
    pub(super) async fn run(&self, id: &str) -> Result<(), StartError> {
        let Self {
            shared, pod, spec, ..
        } = self;
        if let Err(error) = shared.runtime.start_container(id).await {
            return Err(StartError::Run(error));
        }
        shared.events.container(
            pod,
            &spec.name,
            Tone::Normal,
            "Started",
            "Container started",
        );
        let lifecycle = spec.lifecycle.as_ref();
        let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let Err(why) = hooks::run(&self.target(id), hook).await else {
            return Ok(());
        };
        shared.events.container(
            pod,
            &spec.name,
            Tone::Warning,
            "FailedPostStartHook",
            format!("PostStartHook failed: {why}"),
        );
        shared.events.container(
            pod,
            &spec.name,
            Tone::Normal,
            "Killing",
            "FailedPostStartHook",
        );
        let seconds = pod.spec.as_ref();
        let seconds = seconds.and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = u64::try_from(seconds.unwrap_or(30)).unwrap_or(0);
        let grace = Duration::from_secs(seconds);
        if let Err(error) = shared.runtime.stop_container(id, grace).await {
            tracing::warn!(%error, id, "a container whose hook failed was not stopped");
        }
        Err(StartError::Hook(why))
    }

    fn target<'a>(&'a self, id: &'a str) -> Target<'a> {
        Target {
            shared: &self.shared,
            spec: &self.spec,
            id,
            addresses: &self.addresses,
        }
    }

    /// Whether the container has something to do before it is stopped.
    pub(super) fn has_pre_stop(&self) -> bool {
        let lifecycle = self.spec.lifecycle.as_ref();
        lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
    }

    /// Has it done that, but for no longer than it has.
    pub(super) async fn before_stop(&self, id: &str, patience: Duration) {
        let lifecycle = self.spec.lifecycle.as_ref();
        let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
            return;
        };
        let target = self.target(id);
        let running = hooks::run(&target, hook);
        let why = match tokio::time::timeout(patience, running).await {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "it has not ended in time".to_owned(),
        };
        self.shared.events.container(
            &self.pod,
            &self.spec.name,
            Tone::Warning,
            "FailedPreStopHook",
            format!("PreStopHook failed: {why}"),
        );
    }

    async fn services(&self) -> Vec<Arc<k8s_openapi::api::core::v1::Service>> {
        // It fails only when the agent is ending.
        let _ = self.shared.services.wait_until_ready().await;
        self.shared.services.state()
    }

    /// The hosts file and the file for last words.
    fn files(&self, attempt: u32, list: &mut Vec<Mount>) -> Result<PathBuf, StartError> {
        let domain = &self.shared.config.cluster_domain;
        let is_taken =
            |list: &[Mount], path: &str| list.iter().any(|mount| mount.container_path == path);
        if !is_taken(list, "/etc/hosts") {
            self.folder
                .write_hosts(&self.pod, &self.addresses, domain)?;
            list.push(file_mount("/etc/hosts", self.folder.hosts_file()));
        }
        let file = self.folder.message_file(&self.spec.name, attempt)?;
        let path = self.spec.termination_message_path.as_deref();
        let path = path.unwrap_or("/dev/termination-log");
        if !path.is_empty() && !is_taken(list, path) {
            list.push(file_mount(path, file.clone()));
        }
        tracing::debug!(
            pod = self.pod.name_any(),
            container = self.spec.name,
            "files are made"
        );
        Ok(file)
    }
}

fn file_mount(container_path: &str, host_path: PathBuf) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path,
        readonly: false,
        propagation: Propagation::None,
    }
}
