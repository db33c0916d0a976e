//! A container as it is kept: what it was created with and how it stands.
//!
//! `DATA/containers/ID/container.json`, replaced by rename at each change; what of
//! that survives a loss of power is `keep.rs`'s affair.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dhow_shim::Moment;
use serde::{Deserialize, Serialize};

use crate::error::{Result, at};
use crate::mounts::MountPoint;
use crate::spec::{Config, EndpointSettings, HostConfig};

/// Name of the record in the container's folder.
pub(crate) const FILE: &str = "container.json";

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Identifier, 64 hexadecimal digits.
    pub id: String,
    /// Name, unique in the engine.
    pub name: String,
    /// When it was created.
    pub created: Moment,
    /// Id of its image.
    pub image: String,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// How its process runs; the image's configuration is merged in.
    pub config: Config,
    /// What it gets of its host.
    pub host: HostConfig,
    /// The networks it is to be joined to when it runs, by name.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Volumes and bind mounts.
    pub mounts: Vec<MountPoint>,
    /// A sandbox that others share, instead of networks of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SharedSandbox>,
    /// SELinux label of its programs; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process_label: String,
    /// SELinux label of its files; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
    /// How it stands.
    pub state: State,
    /// How often its restart policy started it again.
    pub restart_count: u32,
    /// Whether somebody asked it to stop, which ends `unless-stopped`.
    pub stopped_by_hand: bool,
}

/// Namespaces of a sandbox that several containers share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSandbox {
    /// Identifier of the network sandbox.
    pub id: String,
    /// Host name of all its containers; empty on the host's network.
    pub hostname: String,
    /// Contents of `/etc/resolv.conf`; empty leaves it to the engine.
    pub resolv_conf: String,
    /// Contents of `/etc/hosts`; empty leaves it to the engine.
    pub hosts: String,
    /// Whether it is the host's network rather than a sandbox's.
    pub host_network: bool,
}

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Created, never started.
    #[default]
    Created,
    /// Its program runs.
    Running,
    /// Its program is frozen.
    Paused,
    /// Its program has ended and will be started again.
    Restarting,
    /// It is on its way out.
    Removing,
    /// Its program has ended.
    Exited,
    /// It could not be removed.
    Dead,
}

impl Status {
    /// The word in the API.
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Removing => "removing",
            Status::Exited => "exited",
            Status::Dead => "dead",
        }
    }

    /// Whether its program lives.
    pub fn is_alive(self) -> bool {
        matches!(self, Status::Running | Status::Paused)
    }
}

/// How a container stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Where in its life it is.
    pub status: Status,
    /// Process identifier of its program; zero when it does not run.
    pub pid: i32,
    /// Exit code of its last run.
    pub exit_code: i32,
    /// Whether its last run ended for want of memory.
    pub oom_killed: bool,
    /// Why its last start failed; empty when it did not.
    pub error: String,
    /// When it was last started.
    pub started: Option<Moment>,
    /// When its last run ended.
    pub finished: Option<Moment>,
    /// What its health check says; none without one.
    pub health: Option<Health>,
}

/// What a health check says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last results, oldest first.
    pub log: Vec<Probe>,
}

/// One run of a health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it began.
    pub start: Moment,
    /// When it ended.
    pub end: Moment,
    /// Its exit code.
    pub exit_code: i32,
    /// What it printed, at most 4096 bytes.
    pub output: String,
}

impl Record {
    /// What of it counts after a reboot.
    pub(crate) fn lasting(&self) -> Self {
        let mut lasting = self.clone();
        lasting.state.pid = 0;
        lasting.state.health = None;
        lasting
    }

    /// Writes the record into the container's folder; it is not synced.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).expect("a record is plain values");
        let (path, new) = (folder.join(FILE), folder.join("container.json.new"));
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .inspect_err(|_| drop(fs::remove_file(&new)))
            .map_err(at("write", path))
    }

    /// The name of its image and its labels, as events carry them.
    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.config.labels.clone();
        attributes.insert("name".into(), self.name.clone());
        attributes.insert("image".into(), self.config.image.clone());
        attributes
    }

    /// The host name its processes see.
    pub fn hostname(&self) -> &str {
        if let Some(sandbox) = self.sandbox.as_ref().filter(|one| !one.hostname.is_empty()) {
            &sandbox.hostname
        } else if self.config.hostname.is_empty() {
            &self.id[..12]
        } else {
            &self.config.hostname
        }
    }

    /// Whether it is started when the daemon is: `always` means also one that
    /// somebody stopped by hand, which is all that it has over `unless-stopped`.
    pub(crate) fn wants_start_with_daemon(&self) -> bool {
        self.state.started.is_some()
            && (self.host.restart_policy.name == "always"
                || self.wants_restart(self.state.exit_code))
    }

    /// Whether it is to be started again after it ended with this code.
    pub(crate) fn wants_restart(&self, exit_code: i32) -> bool {
        let policy = &self.host.restart_policy;
        match policy.name.as_str() {
            "always" | "unless-stopped" => !self.stopped_by_hand,
            "on-failure" => {
                exit_code != 0
                    && !self.stopped_by_hand
                    && (policy.maximum_retry_count == 0
                        || i64::from(self.restart_count) < policy.maximum_retry_count)
            }
            _ => false,
        }
    }
}
