//! Files of a container's own that we read.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use dhow_image::Rootfs;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// Longest file of accounts that is read, in bytes.
const MAX_ACCOUNTS: u64 = 4 << 20;
/// Reads a small file of a root filesystem that is not mounted: from the
/// topmost layer that has it. Symbolic links are not followed; a file that is
/// not there is empty.
pub(crate) fn read_in_layers(rootfs: &Rootfs, path: &Path) -> String {
    std::iter::once(&rootfs.upper)
        .chain(&rootfs.lower)
        .find_map(|layer| read_below(layer, path, ResolveFlags::NO_SYMLINKS))
        .unwrap_or_default()
}

/// Reads a small file below a root, with links resolved inside it; a file that
/// is not there is empty.
pub(crate) fn read_in_root(root: &Path, path: &Path) -> String {
    read_below(
        root,
        path,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .unwrap_or_default()
}

fn read_below(root: &Path, path: &Path, resolve: ResolveFlags) -> Option<String> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, directory, Mode::empty()).ok()?;
    // Not to hang on a named pipe, nor to take a terminal.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: OwnedFd = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(MAX_ACCOUNTS)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
