//! The exit record: written before anybody is told.

use std::io;
use std::path::Path;

use crate::wire::ExitRecord;

/// Writes the record so that whoever looks finds a whole one or none. It is not
/// synced: it lies where nothing survives a reboot, and a process that dies
/// takes nothing along that was written.
pub(super) fn write(path: &Path, record: &ExitRecord) -> io::Result<()> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(record)?)
        .and_then(|()| std::fs::rename(&fresh, path))
        .inspect_err(|_| drop(std::fs::remove_file(&fresh)))
}
