//! What a crash may leave of a container in the kernel: processes and control
//! groups that nobody supervises any more.

use dhow_cgroup::{Group, Layout};
use dhow_runtime::{Alive, Result, Runtime};

use crate::container::Container;
use crate::engine::Engine;

impl Engine {
    /// Where shims keep what they know of their containers.
    pub(crate) fn runtime(&self) -> Runtime {
        Runtime::new(self.inner.config.run.join("runtime"))
    }

    /// Ends what a shim that was killed could not end itself. Blocks.
    pub(crate) fn end_processes(&self, container: &Container) {
        let path = self
            .config()
            .groups
            .of(&container.id, &container.record().host);
        self.end_unsupervised(&container.id, &path);
    }

    /// Ends what a shim left of a container, or of a step of a build, whose control
    /// group is at `cgroups_path`. Blocks.
    pub(crate) fn end_unsupervised(&self, id: &str, cgroups_path: &str) {
        let runtime = self.runtime();
        // A shim that ended well has deleted it already; one that was killed while
        // it made the container has left something that is none yet.
        let ended = match runtime.open(id) {
            Ok(left) => left.delete(Alive::Kill).map(drop),
            Err(_) => runtime.delete_unfinished(id).map(drop),
        };
        if let Err(error) = ended {
            tracing::warn!(container = id, %error, "processes are not ended");
        }
        // One that was killed before it recorded its container has left a
        // group that only its name tells of.
        if let Err(error) = self.config().groups.driver().remove(cgroups_path) {
            tracing::warn!(container = id, %error, "control group is not removed");
        }
    }

    /// Removes control groups of containers that do not run (any more).
    pub(crate) fn remove_stray_groups(&self, is_stray: impl Fn(&str) -> bool) {
        let groups = &self.config().groups;
        let names = || -> Result<_> {
            let parent = Group::at(Layout::detect()?, &groups.parent())?;
            Ok(parent.children()?)
        };
        for name in names().unwrap_or_default() {
            let Some(id) = groups.container(&name).filter(|id| is_stray(id)) else {
                continue;
            };
            let path = groups.of(id, &Default::default());
            if let Err(error) = groups.driver().remove(&path) {
                tracing::warn!(group = name, %error, "control group is not removed");
            }
        }
    }
}
