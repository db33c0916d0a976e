//! Giving a volume its first files, all of them or none.
//!
//! They are copied beside the data folder (`.filling`), brought to the disk, renamed
//! (`.filled`), and only then poured into the data folder, entry by entry. A crash
//! before the rename leaves nothing of them, and after it the pouring is finished when
//! the volumes are opened. What others made meanwhile stays.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

const FILLING: &str = ".filling";
const FILLED: &str = ".filled";
const DATA: &str = "_data";

/// Fills the volume whose folder this is by `copy`, which is given an empty folder.
pub(crate) fn fill(volume: &Path, copy: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let (filling, filled) = (volume.join(FILLING), volume.join(FILLED));
    discard(&filling)?;
    fs::create_dir(&filling)?;
    let copied = copy(&filling).and_then(|()| {
        if fs::read_dir(&filling)?.next().is_some() {
            // At once, instead of each file on its own.
            rustix::fs::syncfs(File::open(&filling)?)?;
        }
        fs::rename(&filling, &filled)
    });
    if let Err(error) = copied {
        // The first error is the one that matters.
        let _ = discard(&filling);
        return Err(error);
    }
    pour(volume, &filled)
}

/// Finishes or takes back what a crash interrupted.
pub(crate) fn settle(volume: &Path) -> io::Result<()> {
    discard(&volume.join(FILLING))?;
    let filled = volume.join(FILLED);
    if filled.exists() {
        pour(volume, &filled)?;
    }
    Ok(())
}

fn pour(volume: &Path, filled: &Path) -> io::Result<()> {
    let data: PathBuf = volume.join(DATA);
    for entry in fs::read_dir(filled)? {
        let entry = entry?;
        let to = data.join(entry.file_name());
        match renameat_with(CWD, entry.path(), CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let root = fs::metadata(filled)?;
    std::os::unix::fs::chown(&data, Some(root.uid()), Some(root.gid()))?;
    fs::set_permissions(&data, fs::Permissions::from_mode(root.mode() & 0o7777))?;
    let times = fs::FileTimes::new()
        .set_accessed(root.accessed()?)
        .set_modified(root.modified()?);
    File::open(&data)?.set_times(times)?;
    fs::remove_dir_all(filled)
}

fn discard(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
