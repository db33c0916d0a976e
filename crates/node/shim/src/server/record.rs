//! The exit record: on disk before anybody is told.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::wire::ExitRecord;

/// Writes the record so that after a crash there is a whole one or none.
pub(super) fn write(path: &Path, record: &ExitRecord) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_data()?;
    std::fs::rename(&fresh, path)?;
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(directory)?.sync_all()
}
