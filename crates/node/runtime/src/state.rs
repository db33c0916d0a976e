//! What is kept of a container on disk, and where it stands in its life.
//!
//! ```text
//!   create -> Created -> start -> Running <-> Paused
//!                |                   |
//!                +--------+----------+
//!                         v
//!                      Stopped -> delete
//! ```
//!
//! Only what cannot be found out is kept; the status is asked of the kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Moment;
use crate::create::Keyring;
use crate::error::{Result, RuntimeError};
use crate::spec::{Hooks, Spec};

/// Name of the record in a container's directory.
pub(crate) const RECORD: &str = "state.json";
/// Its name before it is shown.
pub(crate) const PREPARED: &str = "state.json.new";
/// Name of the FIFO a created container waits at.
pub(crate) const START: &str = "start";

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made, its program not yet started.
    Created,
    /// Its program runs.
    Running,
    /// Frozen.
    Paused,
    /// Its program has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The state of a container as the specification has it (runtime.md, "State").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciState {
    /// Version of the specification.
    pub oci_version: String,
    /// Identifier.
    pub id: String,
    /// Where it stands.
    pub status: Status,
    /// First process, in the runtime's PID namespace; zero when there is none.
    pub pid: i32,
    /// Directory of the bundle.
    pub bundle: PathBuf,
    /// Labels of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Version of this form.
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) pid: i32,
    /// Start of the process, in ticks since boot: with it the number is unique.
    pub(crate) start_time: u64,
    pub(crate) created: Moment,
    /// Path of the control group below each hierarchy's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup: Option<PathBuf>,
    /// The unit of systemd it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whose keys its programs have.
    #[serde(default)]
    pub(crate) keyring: Keyring,
    /// Hooks that run after the start and after the end; the others have run.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub(crate) hooks: Hooks,
}

/// What else is in the file of the record.
#[derive(Deserialize)]
struct Kept {
    config: Spec,
}

/// Version of the record's form.
pub(crate) const VERSION: u32 = 2;

impl Record {
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        Self::read_as(dir, RECORD)
    }

    /// The record of a container whose maker died before it was shown.
    pub(crate) fn read_prepared(dir: &Path) -> Result<Self> {
        Self::read_as(dir, PREPARED)
    }

    fn read_as(dir: &Path, name: &str) -> Result<Self> {
        let record: Self = read(dir, name)?;
        if record.version != VERSION {
            let field = dir.join(name).display().to_string();
            let problem = format!("version {} is not this runtime's {VERSION}", record.version);
            return Err(RuntimeError::spec(field, problem));
        }
        Ok(record)
    }

    /// The configuration that is kept beside the record.
    pub(crate) fn read_spec(dir: &Path) -> Result<Spec> {
        read(dir, RECORD).map(|kept: Kept| kept.config)
    }

    /// Writes the record and the text of the configuration under a name where
    /// nobody looks, to be renamed: a reader sees all of it or nothing.
    pub(crate) fn prepare(&self, dir: &Path, config: &[u8]) -> Result<()> {
        let path = dir.join(PREPARED);
        let mut text = serde_json::to_vec(self).map_err(|source| RuntimeError::Parse {
            path: path.clone(),
            source,
        })?;
        // One more member, whose text is JSON already.
        text.pop();
        text.extend_from_slice(b",\"config\":");
        text.extend_from_slice(config);
        text.push(b'}');
        std::fs::write(&path, text).map_err(|error| RuntimeError::io("write", &path, error))
    }

    /// Shows a record that was prepared.
    pub(crate) fn publish(dir: &Path) -> Result<()> {
        let path = dir.join(RECORD);
        std::fs::rename(dir.join(PREPARED), &path)
            .map_err(|error| RuntimeError::io("write", &path, error))
    }
}

fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|source| RuntimeError::Parse { path, source })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(RuntimeError::NotFound),
        Err(error) => Err(RuntimeError::io("read", &path, error)),
    }
}

/// Refuses what is no identifier: it becomes part of paths.
pub(crate) fn check_id(id: &str) -> Result<()> {
    const MAX_LENGTH: usize = 1024;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    let good = !id.is_empty()
        && id.len() <= MAX_LENGTH
        && id.bytes().all(letter)
        && id != "."
        && id != "..";
    if good {
        Ok(())
    } else {
        Err(RuntimeError::Id(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_stay_in_their_directory() {
        for id in ["a", "A_1+2-3.4", "..."] {
            check_id(id).unwrap();
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "a b",
            "ä",
            "a\0",
            &"a".repeat(1025),
        ] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }
}
