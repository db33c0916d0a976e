//! What a crash may leave of a container in the kernel: processes and control
//! groups that nobody supervises any more.

use std::path::Path;

use dhow_cgroup::{CgroupError, Group, Layout};
use dhow_runtime::{Alive, Runtime};

use crate::bundle;
use crate::container::Container;
use crate::engine::Engine;

impl Engine {
    /// Ends what a shim that was killed could not end itself. Blocks.
    pub(crate) fn end_processes(&self, container: &Container) {
        let runtime = Runtime::new(self.inner.config.run.join("runtime"));
        // A shim that ended well has deleted it already; one that was killed while
        // it made the container has left something that is none yet.
        let ended = match runtime.open(&container.id) {
            Ok(left) => left.delete(Alive::Kill).map(drop),
            Err(_) => runtime.delete_unfinished(&container.id).map(drop),
        };
        if let Err(error) = ended {
            tracing::warn!(container = container.id, %error, "processes are not ended");
        }
        // One that was killed before it recorded its container has left a
        // group that only its name tells of.
        let record = container.record();
        let path = bundle::cgroup_path(&record, &self.inner.config.cgroup_parent);
        if let Err(error) = remove_group(Path::new(&path)) {
            tracing::warn!(container = container.id, %error, "control group is not removed");
        }
    }

    /// Removes control groups of containers that do not run (any more).
    pub(crate) fn remove_stray_groups(&self, is_alive: impl Fn(&str) -> bool) {
        let parent = Path::new(&self.inner.config.cgroup_parent);
        let strays = || -> Result<Vec<String>, CgroupError> {
            let names = Group::at(Layout::detect()?, parent)?.children()?;
            let is_container = |name: &String| name.len() == 64 && !is_alive(name);
            Ok(names.into_iter().filter(is_container).collect())
        };
        for name in strays().unwrap_or_default() {
            if let Err(error) = remove_group(&parent.join(&name)) {
                tracing::warn!(group = name, %error, "control group is not removed");
            }
        }
    }
}

/// Ends everybody in a group and removes it; one that is not there is well.
fn remove_group(path: &Path) -> Result<(), CgroupError> {
    let group = Group::at(Layout::detect()?, path)?;
    if !group.exists() {
        return Ok(());
    }
    group.kill()?;
    if group.is_frozen()? {
        group.thaw()?;
    }
    group.remove()
}
