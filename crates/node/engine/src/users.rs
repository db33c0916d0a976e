//! User namespaces of containers, where the daemon maps their users
//! (`--userns-remap`).
//!
//! Each container has one of its own, pinned at `user` in its run folder; who
//! shares another's namespaces shares that of the other. On disk nobody is
//! mapped: layers and volumes are mounted through the namespace.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use dhow_runtime::spec::NamespaceKind;
use dhow_sys::Errno;
use dhow_sys::holder::{Holder, Owner};
use dhow_sys::idmap::IdMaps;
use dhow_sys::mount::{self, Depth};
use dhow_sys::namespace::{self, Kind};
use rustix::fs::{Mode, OFlags};

use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::mounts::MountKind;
use crate::record::Record;
use crate::spec::HostConfig;
use crate::start::has_own_sandbox;

/// A container's user namespace, and what depends on it.
#[derive(Debug)]
pub(crate) struct Users {
    /// Where it is pinned.
    pub(crate) pin: PathBuf,
    /// A network namespace that belongs to it, for a sandbox of its own.
    pub(crate) network: Option<OwnedFd>,
    /// How many groups are mapped, from 0 on.
    pub(crate) n_groups: u32,
    /// The volumes whose files are ours to map: a volume that stands for something
    /// of the host is as the host has it.
    pub(crate) volumes: BTreeSet<String>,
}

impl Engine {
    /// The maps of the users of a container; none if they are the host's.
    pub(crate) fn maps_of(&self, record: &Record) -> Option<&IdMaps> {
        let is_own = record.host.userns_mode != "host" && record.sandbox.is_none();
        self.inner.config.remap.as_ref().filter(|_| is_own)
    }

    /// Makes the user namespace of a container that is about to run, or finds that
    /// of the containers it shares namespaces with.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what no mapped container can have,
    /// [`Error::Conflict`] when it would have to be in two, or in the host's.
    pub(crate) fn make_users(&self, record: &Record, run: &Path) -> Result<Option<Users>> {
        let Some(maps) = self.maps_of(record) else {
            return Ok(None);
        };
        check_mapped(&record.host)?;
        let pin = run.join("user");
        let failed = |error: Errno| at("make a user namespace for", run)(error.into());
        let kinds: &[Kind] = if has_own_sandbox(record) {
            &[Kind::Network]
        } else {
            &[]
        };
        let (user, holder) = match self.shared_users(&record.host)? {
            Some(user) if kinds.is_empty() => (user, None),
            Some(user) => {
                let again = user.try_clone().map_err(at("open", &pin))?;
                let holder = Holder::start(Owner::There(again), kinds).map_err(failed)?;
                (user, Some(holder))
            }
            None => {
                let holder = Holder::start(Owner::New(maps), kinds).map_err(failed)?;
                (holder.open(Kind::User).map_err(failed)?, Some(holder))
            }
        };
        let network = match holder {
            Some(holder) if !kinds.is_empty() => Some(holder.open(Kind::Network).map_err(failed)?),
            _ => None,
        };
        // One that is there is what a crash left.
        let pinned = namespace::unpin(&pin).and_then(|()| namespace::pin_open(user.as_fd(), &pin));
        pinned.map_err(failed)?;
        let is_ours = |name: &String| {
            let volume = self.inner.volumes.get(name);
            volume.is_ok_and(|volume| volume.options.is_empty())
        };
        let volumes = record
            .mounts
            .iter()
            .filter(|point| point.kind == MountKind::Volume)
            .map(|point| point.name.clone())
            .filter(is_ours)
            .collect();
        Ok(Some(Users {
            pin,
            network,
            n_groups: maps
                .groups
                .iter()
                .fold(0, |sum, range| sum.saturating_add(range.count)),
            volumes,
        }))
    }

    /// The user namespace of the containers whose namespaces a container shares.
    fn shared_users(&self, host: &HostConfig) -> Result<Option<OwnedFd>> {
        let mut found: Option<(OwnedFd, &str)> = None;
        for mode in [&host.network_mode, &host.pid_mode, &host.ipc_mode] {
            let Some(other) = mode.strip_prefix("container:") else {
                continue;
            };
            let path = PathBuf::from(format!(
                "/proc/{}/ns/user",
                self.running_pid(other, NamespaceKind::User)?
            ));
            let open = |path: &Path| {
                let opened = namespace::open(path, Kind::User);
                opened.map_err(|error| at("open", path)(error.into()))
            };
            let file = open(&path)?;
            let inode = |file: &OwnedFd| {
                let stat = rustix::fs::fstat(file);
                stat.map(|stat| (stat.st_dev, stat.st_ino))
                    .map_err(|error| at("look at", &path)(error.into()))
            };
            if inode(&file)? == inode(&open(Path::new("/proc/self/ns/user"))?)? {
                return Err(Error::Conflict(format!(
                    "cannot share namespaces of container {other}, whose users are the host's: run this one with --userns=host, too"
                )));
            }
            match &found {
                Some((first, name)) if inode(first)? != inode(&file)? => {
                    return Err(Error::Conflict(format!(
                        "cannot share namespaces of both container {name} and container {other}: their users are different ones, each in a user namespace of its own"
                    )));
                }
                Some(_) => {}
                None => found = Some((file, other)),
            }
        }
        Ok(found.map(|(file, _)| file))
    }
}

/// Whether the data of containers can be seen through a user namespace.
///
/// # Errors
///
/// [`Error::Invalid`] says what is needed.
pub(crate) fn check_filesystem(data: &Path, maps: &IdMaps) -> Result<()> {
    let check = || {
        let user = Holder::start(Owner::New(maps), &[])?.open(Kind::User)?;
        let view = rustix::fs::open(data, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let view = mount::copy(view.as_fd(), c"", Depth::One)?;
        mount::map_identities(view.as_fd(), user.as_fd(), Depth::One)
    };
    check().map_err(|error| {
        Error::Invalid(format!(
            "--userns-remap does not work with {}: {}; it needs Linux 5.19, and there ext4, XFS or Btrfs (tmpfs since 6.3)",
            data.display(),
            std::io::Error::from(error)
        ))
    })
}

/// The maps of the user namespace of a process; none if it is in ours.
///
/// # Errors
///
/// The kernel's, if there is no such process.
pub(crate) fn maps_inside(pid: i32) -> std::result::Result<Option<IdMaps>, Errno> {
    let inode = |pid: &str| {
        let stat = rustix::fs::stat(format!("/proc/{pid}/ns/user"));
        stat.map(|stat| (stat.st_dev, stat.st_ino))
    };
    if inode(&pid.to_string())? == inode("self")? {
        return Ok(None);
    }
    IdMaps::of(pid).map(Some)
}

/// Lets the user namespace of a run go; one that is not there is well.
pub(crate) fn let_go(run: &Path) {
    let pin = run.join("user");
    if let Err(error) = namespace::unpin(&pin) {
        tracing::warn!(path = %pin.display(), %error, "user namespace stays pinned");
    }
}

/// What a container cannot have whose users are mapped.
///
/// # Errors
///
/// [`Error::Invalid`] in Docker's words.
pub(crate) fn check_mapped(host: &HostConfig) -> Result<()> {
    let refuse = |why: &str| Err(Error::Invalid(why.into()));
    if host.privileged {
        return refuse(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        );
    }
    if host.network_mode == "host" {
        return refuse(
            "cannot share the host's network namespace when user namespaces are enabled",
        );
    }
    if host.pid_mode == "host" {
        return refuse("cannot share the host PID namespace when user namespaces are enabled");
    }
    Ok(())
}
