//! Labels of SELinux: which a container gets, and which files it is given.
//!
//! A container's programs have the type for containers of the host's policy and two
//! categories that no other container has; its files have those as well, so that
//! containers are kept from each other's. What several containers share has no
//! categories. The runtime applies the labels; the kernel's policy says what they mean.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::mounts::{MountKind, OWN_LABEL, SHARED_LABEL};
use crate::names;
use crate::record::{Record, SharedSandbox};
use crate::relabel::relabel;
use crate::security::SecurityOptions;
use crate::spec::HostConfig;

/// Where the host says which policy it has.
const CONFIG: &str = "/etc/selinux/config";
/// Categories are from 0 up to this.
const N_CATEGORIES: u16 = 1024;
/// What those without a label of their own have their files under: categories that no
/// container gets.
const UNLABELLED_LEVEL: &str = "s0:c1022,c1023";
/// The level of what is shared.
const SHARED_LEVEL: &str = "s0";

/// What labels of containers begin with on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selinux {
    program: Context,
    files: Context,
}

/// The labels of a container; empty without any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) process: String,
    pub(crate) mount: String,
}

/// A label in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Context {
    user: String,
    role: String,
    kind: String,
    level: String,
}

impl Context {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        Some(Self {
            user: parts.next()?,
            role: parts.next()?,
            kind: parts.next()?,
            level: parts.next().unwrap_or_default(),
        })
    }

    fn at(&self, level: &str) -> Self {
        Self {
            level: level.to_owned(),
            ..self.clone()
        }
    }
}

impl std::fmt::Display for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            user,
            role,
            kind,
            level,
        } = self;
        write!(formatter, "{user}:{role}:{kind}")?;
        match level.is_empty() {
            true => Ok(()),
            false => write!(formatter, ":{level}"),
        }
    }
}

impl Selinux {
    /// What the host's policy says of containers, or what those of distributions do;
    /// none if the kernel has no policy in force.
    pub fn here() -> Option<Self> {
        if !Path::new("/sys/fs/selinux/enforce").exists() {
            return None;
        }
        let config = fs::read_to_string(CONFIG).unwrap_or_default();
        let kind = value(&config, "SELINUXTYPE").unwrap_or("targeted");
        let path = Path::new("/etc/selinux").join(kind);
        let contexts = fs::read_to_string(path.join("contexts/lxc_contexts")).unwrap_or_default();
        Some(Self::of(&contexts))
    }

    fn of(contexts: &str) -> Self {
        let context = |name, usual| {
            let told = value(contexts, name).and_then(Context::parse);
            told.unwrap_or_else(|| Context::parse(usual).expect("it has its parts"))
        };
        Self {
            program: context("process", "system_u:system_r:container_t:s0"),
            files: context("file", "system_u:object_r:container_file_t:s0"),
        }
    }

    /// The labels that options make of the usual ones.
    fn choose(&self, options: &[String], level: &str) -> Result<Labels> {
        let (mut program, mut files) = (self.program.at(level), self.files.at(level));
        for option in options {
            if option == "disable" {
                return Ok(Labels {
                    process: String::new(),
                    mount: self.files.at(UNLABELLED_LEVEL).to_string(),
                });
            }
            let Some((name, value)) = option.split_once(':') else {
                return Err(Error::Invalid(format!(
                    "bad label option {option:?}, valid options 'disable' or \n'user, role, \
                     level, type, filetype' followed by ':' and a value"
                )));
            };
            let value = value.to_owned();
            match name {
                "user" => {
                    files.user.clone_from(&value);
                    program.user = value;
                }
                "role" => program.role = value,
                "type" => program.kind = value,
                "level" => {
                    files.level.clone_from(&value);
                    program.level = value;
                }
                "filetype" => files.kind = value,
                _ => {
                    return Err(Error::Invalid(format!(
                        "bad label option {option:?}, valid options 'disable, user, role, level, \
                         type, filetype'"
                    )));
                }
            }
        }
        Ok(Labels {
            process: program.to_string(),
            mount: files.to_string(),
        })
    }
}

/// `NAME=VALUE` or `NAME = "VALUE"` on a line of its own.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

/// The same label for what several containers share.
pub(crate) fn shared(label: &str) -> String {
    Context::parse(label).map_or_else(String::new, |context| context.at(SHARED_LEVEL).to_string())
}

/// A level with two categories, made of numbers by chance.
fn level(chance: [u8; 4]) -> Option<String> {
    let [a, b, c, d] = chance;
    // The last two are nobody's.
    let category = |bytes| u16::from_be_bytes(bytes) % (N_CATEGORIES - 2);
    let (one, other) = (category([a, b]), category([c, d]));
    (one != other).then(|| format!("s0:c{},c{}", one.min(other), one.max(other)))
}

impl Engine {
    /// The labels of a container that is to be made.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for options that make no sense.
    pub(crate) fn labels(
        &self,
        host: &HostConfig,
        sandbox: Option<&SharedSandbox>,
    ) -> Result<Labels> {
        let Some(selinux) = &self.inner.config.selinux else {
            return Ok(Labels::default());
        };
        let options = SecurityOptions::parse(&host.security_opt)?.labels;
        let level = match sandbox {
            Some(sandbox) => level_of_sandbox(&sandbox.id),
            None => self.unused_level(),
        };
        selinux.choose(&options, &level)
    }

    /// The label of the shared memory of a sandbox.
    pub(crate) fn label_of_sandbox(&self, id: &str) -> String {
        let files = self.inner.config.selinux.as_ref().map(|host| &host.files);
        files.map_or_else(String::new, |files| {
            files.at(&level_of_sandbox(id)).to_string()
        })
    }

    /// The security options that follow from the namespaces that a container shares,
    /// unless it has some of labels: nothing is kept from who sees the host's processes,
    /// and those who see each other's have one label. They are told where there is no
    /// SELinux, too.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for two containers to be joined whose labels differ.
    pub(crate) fn implied_labels(&self, host: &HostConfig) -> Result<Vec<String>> {
        let options = SecurityOptions::parse(&host.security_opt)?;
        if !options.labels.is_empty() {
            return Ok(Vec::new());
        }
        if host.privileged || host.ipc_mode == "host" || host.pid_mode == "host" {
            return Ok(vec!["label=disable".to_owned()]);
        }
        let of = |mode: &str| {
            // One that is not there is told of by the start.
            let record = self.get(mode.strip_prefix("container:")?).ok()?;
            let context = Context::parse(&record.process_label)?;
            Some(vec![
                format!("label=user:{}", context.user),
                format!("label=role:{}", context.role),
                format!("label=type:{}", context.kind),
                format!("label=level:{}", context.level),
            ])
        };
        match (of(&host.ipc_mode), of(&host.pid_mode)) {
            (Some(ipc), Some(pid)) if ipc != pid => Err(Error::Invalid(
                "--ipc and --pid containers SELinux labels aren't the same".to_owned(),
            )),
            (Some(options), _) | (None, Some(options)) => Ok(options),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// A level that no container has.
    fn unused_level(&self) -> String {
        let records = self.list();
        let used: BTreeSet<&str> = records
            .iter()
            .filter_map(|record| record.mount_label.splitn(4, ':').nth(3))
            .collect();
        std::iter::repeat_with(|| level(names::random::<4>()))
            .flatten()
            .find(|level| !used.contains(level.as_str()))
            .expect("there are half a million, and fewer containers")
    }

    /// Gives what a container mounts its label, where that was asked for, and what is
    /// the engine's own.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what must not be labelled anew; the kernel's refusal.
    pub(crate) fn label_mounts(&self, record: &Record) -> Result<()> {
        if self.inner.config.selinux.is_none() || record.mount_label.is_empty() {
            return Ok(());
        }
        let shared = shared(&record.mount_label);
        for point in &record.mounts {
            let is_asked = |mode| point.mode.split(',').any(|option| option == mode);
            let label = match point.kind {
                _ if is_asked(OWN_LABEL) => &record.mount_label,
                _ if is_asked(SHARED_LABEL) => &shared,
                MountKind::Volume => &shared,
                _ => continue,
            };
            relabel(Path::new(&point.source), label).map_err(|error| {
                Error::Invalid(format!(
                    "error setting label on mount source '{}': {error}",
                    point.source
                ))
            })?;
        }
        Ok(())
    }
}

/// The level that all containers of a sandbox have.
fn level_of_sandbox(id: &str) -> String {
    let mut digest = [0_u8; 4];
    for (at, byte) in id.bytes().enumerate() {
        let slot = &mut digest[at % 4];
        *slot = slot.wrapping_mul(31).wrapping_add(byte);
    }
    loop {
        if let Some(level) = level(digest) {
            return level;
        }
        digest[3] = digest[3].wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(options: &[&str]) -> String {
        let contexts = "process = \"u:r:program_t:s0\"\nfile = \"u:o:file_t:s0\"\n";
        let options: Vec<String> = options.iter().map(|&option| option.into()).collect();
        match Selinux::of(contexts).choose(&options, "s0:c1,c2") {
            Ok(labels) => format!("{} {}", labels.process, labels.mount),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn options_change_parts_of_the_usual_labels() {
        assert_eq!(choose(&[]), "u:r:program_t:s0:c1,c2 u:o:file_t:s0:c1,c2");
        let own = ["user:v", "role:q", "type:t", "level:s0:c9", "filetype:f"];
        assert_eq!(choose(&own), "v:q:t:s0:c9 v:o:f:s0:c9");
        assert_eq!(choose(&["disable"]), " u:o:file_t:s0:c1022,c1023");
        assert!(choose(&["type"]).starts_with("bad label option \"type\""));
        assert!(choose(&["kind:t"]).contains("valid options 'disable, user"));
        let usual = Selinux::of("").program.to_string();
        assert_eq!(usual, "system_u:system_r:container_t:s0");
    }

    #[test]
    fn levels_have_two_categories_in_order() {
        assert_eq!(level([0, 7, 0, 3]).as_deref(), Some("s0:c3,c7"));
        assert_eq!(level([0, 7, 0, 7]), None);
        assert_eq!(level([3, 254, 0, 9]).as_deref(), Some("s0:c0,c9"));
        assert_eq!(level_of_sandbox("one"), level_of_sandbox("one"));
        assert_eq!(shared("u:o:t:s0:c1,c2"), "u:o:t:s0");
    }
}
