//! A container's control group: where it lies, made with its limits, by whoever
//! keeps the groups of this machine.

use std::path::{Path, PathBuf};

use dhow_cgroup::{CgroupError, Group, Layout, Limits};
use dhow_systemd::Manager;

use crate::error::{Result, RuntimeError};
use crate::make::Undo;
use crate::scope::{self, Place, Scope};
use crate::spec::Spec;
use crate::{Groups, limits};

/// Makes the group a configuration asks for; none where the machine has no
/// groups and nobody asks for one.
pub(crate) fn make(
    id: &str,
    spec: &Spec,
    groups: Groups,
    undo: &mut Undo,
) -> Result<Option<Group>> {
    let linux = spec.linux.as_ref();
    let wanted = linux
        .and_then(|linux| linux.cgroups_path.as_deref())
        .filter(|path| !path.is_empty());
    let resources = linux.and_then(|linux| linux.resources.as_ref());
    let limits = resources.map(limits::of).transpose()?.unwrap_or_default();
    let layout = match (Layout::detect(), groups) {
        (Err(CgroupError::None), Groups::Files) if wanted.is_none() => return Ok(None),
        (result, _) => result?,
    };
    let group = match groups {
        Groups::Files => {
            let path = wanted.map_or_else(|| own(id), plain_path);
            let group = Group::at(layout, path.as_ref())?;
            let fresh = group.create();
            if fresh.as_ref().is_ok_and(|fresh| !fresh) {
                refuse_populated(&group)?;
            }
            let group = undo.group.insert(group);
            fresh?;
            group.apply(&limits)?;
            group
        }
        Groups::Systemd => {
            let place = wanted.map_or_else(|| Ok(Place::own(id)), Place::parse)?;
            let expected = Group::at(layout.clone(), place.path()?.as_ref())?;
            if expected.exists() {
                refuse_populated(&expected)?;
            }
            let mut first = limits.clone();
            if limits.pids == Some(TIGHT) {
                first.pids = Some(TIGHT + 1);
            }
            let mut properties = scope::properties(&first, layout.is_pure_v2(), None);
            properties.extend(scope::annotated(spec.annotations.iter())?);
            let scope = Scope::start(place, id, properties, undo.claim())?;
            let scope = undo.scope.insert(scope);
            let group = undo.group.insert(Group::at(layout, &scope.path()?)?);
            // Systemd has made it where it uses it.
            group.create()?;
            group.apply(&first)?;
            group
        }
    };
    Ok(Some(group.clone()))
}

/// So few processes that ours, which holds a scope until the container is in it,
/// would keep the container out.
const TIGHT: i64 = 1;

/// Lets go of a scope that the container is in.
pub(crate) fn settle(scope: Scope, group: &Group, spec: &Spec) -> Result<()> {
    let (mut manager, unit) = scope.settle();
    let resources = spec
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    let pids = resources.and_then(|resources| resources.pids.as_ref());
    if pids.is_some_and(|pids| pids.limit == TIGHT) {
        let limits = Limits {
            pids: Some(TIGHT),
            ..Limits::default()
        };
        let pure = group.layout().is_pure_v2();
        manager.set_properties(&unit, &scope::properties(&limits, pure, None))?;
        group.apply(&limits)?;
    }
    Ok(())
}

/// Changes limits of a container's group.
pub(crate) fn update(
    group: &Group,
    unit: Option<&str>,
    limits: &Limits,
    spec: impl FnOnce() -> Result<Spec>,
) -> Result<()> {
    let Some(unit) = unit else {
        return Ok(group.apply(limits)?);
    };
    let pure = group.layout().is_pure_v2();
    let properties = scope::properties(limits, pure, group.bandwidth()?);
    if properties.is_empty() {
        return Ok(group.apply(limits)?);
    }
    let mut manager = Manager::connect()?;
    if pure {
        manager.set_properties(unit, &properties)?;
        return Ok(group.apply(limits)?);
    }
    // On version 1 systemd writes its own list of devices again, from nothing,
    // and ours after it; the processes stand still meanwhile.
    let mut limits = limits.clone();
    if limits.devices.is_empty() {
        let linux = spec()?.linux.unwrap_or_default();
        let before = linux.resources.as_ref().map(limits::of).transpose()?;
        limits.devices = before.unwrap_or_default().devices;
    }
    let was_frozen = group.is_frozen()?;
    if !was_frozen {
        group.freeze()?;
    }
    let told = manager.set_properties(unit, &properties);
    let applied = group.apply(&limits);
    if !was_frozen {
        group.thaw()?;
    }
    told?;
    Ok(applied?)
}

/// Ends everybody in a group and removes it, with its unit where systemd keeps it.
/// One that is not there is well.
pub(crate) fn remove(group: &Group, unit: Option<&str>) -> Result<()> {
    group.kill()?;
    if group.is_frozen()? {
        group.thaw()?;
    }
    if let Some(unit) = unit {
        Manager::connect()?.stop(unit)?;
    }
    Ok(group.remove()?)
}

impl Groups {
    /// Whether this machine has what makes the groups.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Systemd`] where systemd is to and is not there.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Files => Ok(()),
            Self::Systemd => Ok(Manager::connect().map(drop)?),
        }
    }

    /// Path below each hierarchy's root of the group that a `cgroupsPath` means.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Spec`] if it has not systemd's form where it must.
    pub fn path(self, cgroups_path: &str) -> Result<PathBuf> {
        match self {
            Self::Files => Ok(plain_path(cgroups_path).into()),
            Self::Systemd => Ok(Place::parse(cgroups_path)?.path()?.into()),
        }
    }

    /// Removes the group that a `cgroupsPath` means, with everybody in it: what a
    /// maker left that was killed before there was a record of its container.
    ///
    /// # Errors
    ///
    /// As [`Self::path`], and what the kernel or systemd say.
    pub fn remove(self, cgroups_path: &str) -> Result<()> {
        let group = Group::at(Layout::detect()?, &self.path(cgroups_path)?)?;
        if !group.exists() {
            return Ok(());
        }
        let unit = match self {
            Self::Files => None,
            Self::Systemd => Some(Place::parse(cgroups_path)?.unit),
        };
        remove(&group, unit.as_deref())
    }
}

/// Where groups of containers lie whose path nobody chose, whoever made them.
pub(crate) fn own_paths(id: &str) -> Result<[PathBuf; 2]> {
    Ok([own(id).into(), Place::own(id).path()?.into()])
}

/// The control group of a container whose path nobody chose.
fn own(id: &str) -> String {
    format!("/dhow-{id}")
}

fn refuse_populated(group: &Group) -> Result<()> {
    if !group.is_populated()? {
        return Ok(());
    }
    let path = Path::new("/").join(group.path());
    Err(RuntimeError::spec(
        "linux.cgroupsPath",
        format!(
            "processes are in {} already; choose another path",
            path.display()
        ),
    ))
}

/// A path as systemd's driver writes it (`SLICE:PREFIX:NAME`) as a plain path.
fn plain_path(path: &str) -> String {
    let mut parts = path.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(name), None) if !path.contains('/') => {
            let slice = if slice.is_empty() {
                "system.slice"
            } else {
                slice
            };
            let separator = if prefix.is_empty() { "" } else { "-" };
            format!("/{slice}/{prefix}{separator}{name}.scope")
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_paths_become_plain() {
        assert_eq!(
            plain_path("machine.slice:libpod:1a"),
            "/machine.slice/libpod-1a.scope"
        );
        assert_eq!(plain_path(":docker:1a"), "/system.slice/docker-1a.scope");
        assert_eq!(plain_path("/a/b:c:d"), "/a/b:c:d");
        assert_eq!(plain_path("/docker/1a"), "/docker/1a");
    }
}
