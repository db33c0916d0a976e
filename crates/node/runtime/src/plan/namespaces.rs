//! Which namespaces are made and which are joined.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use dhow_sys::namespace::{self, Kind};

use crate::error::{Result, RuntimeError};
use crate::spec::{Linux, NamespaceKind};

/// The namespaces of a container; a kind that is not here is the runtime's own.
#[derive(Debug, Default, Clone)]
pub(crate) struct Namespaces {
    list: Vec<(Kind, Option<PathBuf>)>,
}

impl From<NamespaceKind> for Kind {
    fn from(kind: NamespaceKind) -> Self {
        match kind {
            NamespaceKind::Pid => Self::Pid,
            NamespaceKind::Network => Self::Network,
            NamespaceKind::Mount => Self::Mount,
            NamespaceKind::Ipc => Self::Ipc,
            NamespaceKind::Uts => Self::Uts,
            NamespaceKind::User => Self::User,
            NamespaceKind::Cgroup => Self::Cgroup,
            NamespaceKind::Time => Self::Time,
        }
    }
}

/// Namespaces the child is born into.
pub(super) struct Opened {
    /// The user namespace, which is to own what is new.
    pub(super) user: Option<OwnedFd>,
    /// The others.
    pub(super) born_into: Vec<(Kind, OwnedFd)>,
}

impl Namespaces {
    pub(super) fn new(linux: &Linux) -> Result<Self> {
        let wrong = |problem: String| Err(RuntimeError::spec("linux.namespaces", problem));
        let mut list: Vec<(Kind, Option<PathBuf>)> = Vec::new();
        for namespace in &linux.namespaces {
            let kind = Kind::from(namespace.kind);
            if list.iter().any(|(known, _)| *known == kind) {
                return wrong(format!("{} is listed twice", kind.name()));
            }
            let path = namespace
                .path
                .clone()
                .filter(|path| !path.as_os_str().is_empty());
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return wrong(format!("the path of {} is not absolute", kind.name()));
            }
            list.push((kind, path));
        }
        let namespaces = Self { list };
        if !namespaces.is_new(Kind::Mount) {
            return wrong("a container needs a new mount namespace".to_owned());
        }
        let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
        if namespaces.is_new(Kind::User) && !mapped {
            return wrong("a new user namespace needs uidMappings and gidMappings".to_owned());
        }
        if mapped && !namespaces.is_new(Kind::User) {
            return wrong("uidMappings and gidMappings need a new user namespace".to_owned());
        }
        let known = |clock: &String| matches!(clock.as_str(), "monotonic" | "boottime");
        if let Some(clock) = linux.time_offsets.keys().find(|clock| !known(clock)) {
            return Err(RuntimeError::spec(
                "linux.timeOffsets",
                format!("no clock: {clock:?}; use monotonic and boottime"),
            ));
        }
        if !linux.time_offsets.is_empty() && !namespaces.is_new(Kind::Time) {
            return wrong("timeOffsets need a new time namespace".to_owned());
        }
        Ok(namespaces)
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.list.iter().any(|(known, _)| *known == kind)
    }

    pub(crate) fn is_new(&self, kind: Kind) -> bool {
        self.list
            .iter()
            .any(|(known, path)| *known == kind && path.is_none())
    }

    pub(crate) fn has_user(&self) -> bool {
        self.has(Kind::User)
    }

    pub(super) fn new_kinds(&self) -> Vec<Kind> {
        self.list
            .iter()
            .filter(|(_, path)| path.is_none())
            .map(|(kind, _)| *kind)
            .collect()
    }

    /// Flags of every namespace that is not the runtime's own.
    pub(crate) fn flags(&self) -> u64 {
        self.list
            .iter()
            .fold(0, |flags, (kind, _)| flags | kind.flag())
    }

    pub(super) fn open(&self) -> Result<Opened> {
        let (mut user, mut born_into) = (None, Vec::new());
        for kind in Kind::ALL {
            let Some((_, Some(path))) = self.list.iter().find(|(known, _)| *known == kind) else {
                continue;
            };
            let file = namespace::open(path, kind)
                .map_err(|error| RuntimeError::io("open namespace", path, error))?;
            // A thread can go home from every kind but these.
            if kind == Kind::User {
                user = Some(file);
            } else {
                born_into.push((kind, file));
            }
        }
        Ok(Opened { user, born_into })
    }
}

/// The text `timens_offsets` takes; none if there are no offsets.
pub(super) fn time_offsets(linux: &Linux) -> Option<String> {
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
    }
    Some(text).filter(|text| !text.is_empty())
}
