//! Shared memory that several containers have: a filesystem in memory below a run
//! folder, which each of them sees at `/dev/shm`.

use std::path::{Path, PathBuf};

use dhow_runtime::spec::NamespaceKind;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::record::Record;

/// Bytes of `/dev/shm` unless told otherwise.
pub(crate) const SIZE: i64 = 64 << 20;

/// Mounts `size` bytes of it in a run folder, under a label of SELinux unless that is
/// empty.
///
/// # Errors
///
/// The kernel's refusal.
pub(crate) fn make(run: &Path, size: i64, label: &str) -> Result<PathBuf> {
    let shm = run.join("shm");
    std::fs::create_dir(&shm).map_err(at("make", &shm))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mut options = format!("mode=1777,size={size}");
    if !label.is_empty() {
        options.push_str(&format!(",context=\"{label}\""));
    }
    let options = std::ffi::CString::new(options)
        .map_err(|_| Error::Invalid(format!("label {label:?} holds a zero byte")))?;
    rustix::mount::mount("shm", &shm, "tmpfs", flags, options.as_c_str())
        .map_err(|error| at("mount", &shm)(error.into()))?;
    Ok(shm)
}

/// Unmounts what [`make`] made, as far as it is there.
///
/// # Errors
///
/// The kernel's refusal.
pub(crate) fn remove(run: &Path) -> Result<()> {
    let shm = run.join("shm");
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(&shm, flags) {
        // Not there, or not mounted: a crash came before.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(at("unmount", shm)(error.into())),
    }
}

impl Engine {
    /// The shared memory that a container is to have which is not its own alone: one
    /// that others may join, or another's.
    pub(crate) fn shared_memory(&self, record: &Record, run: &Path) -> Result<Option<PathBuf>> {
        let mode = record.host.ipc_mode.as_str();
        if mode == "shareable" {
            remove(run)?;
            let shm = run.join("shm");
            match std::fs::remove_dir(&shm) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(at("remove", shm)(error));
                }
                _ => {}
            }
            return make(run, record.host.shm_size, &record.mount_label).map(Some);
        }
        let Some(other) = mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let shm = self.find(other)?.run.join("shm");
        if self.running_pid(other, NamespaceKind::Ipc).is_ok() && !shm.is_dir() {
            return Err(Error::Invalid(format!(
                "cannot join IPC of container {other}: non-shareable IPC (hint: use \
                 IpcMode:shareable for the donor container)"
            )));
        }
        Ok(Some(shm))
    }
}
