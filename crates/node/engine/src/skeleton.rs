//! What every root has to have for mounting, whatever its image holds: the
//! folders of the kernel's filesystems, the three files of names, and the file
//! by which programs know that they are in a container.
//!
//! It lies below the image as one more layer, the same for all. So nothing is
//! made in a container's own layer when it starts, and `diff` and `commit` show
//! what its processes wrote and nothing else.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use dhow_image::Rootfs;
use dhow_runtime::RootSource;

use crate::engine::Engine;
use crate::error::{Result, at};

const FOLDERS: [&str; 4] = ["dev", "etc", "proc", "sys"];
const FILES: [&str; 4] = [".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Makes the layer in the engine's folder, or completes it.
pub(crate) fn make(data: &Path) -> Result<()> {
    let root = path(data);
    let folders = FOLDERS.iter().map(|name| root.join(name));
    for folder in std::iter::once(root.clone()).chain(folders) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(at("make", folder))?;
    }
    for file in FILES.iter().map(|name| root.join(name)) {
        File::options()
            .create(true)
            .append(true)
            .open(&file)
            .map_err(at("make", file))?;
    }
    Ok(())
}

fn path(data: &Path) -> PathBuf {
    data.join("skeleton")
}

impl Engine {
    /// How the runtime mounts a root filesystem; `mapped` through the
    /// container's user namespace.
    pub(crate) fn root_source(&self, rootfs: Rootfs, mapped: bool) -> RootSource {
        let Rootfs {
            mut lower,
            upper,
            work,
        } = rootfs;
        lower.push(path(&self.inner.config.data));
        RootSource::Overlay {
            lower,
            upper,
            work,
            mapped,
        }
    }
}
