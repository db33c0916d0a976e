//! Records that survive a loss of power.
//!
//! `container.json` is replaced by rename and not synced, for a change must not
//! wait for the disk: it survives the end of the daemon. After a loss of power it may
//! be empty. So behind the changes' backs each version that matters is synced and
//! then kept by a second name, `kept.json`; that one is read where the other says
//! nothing. Until a container's record was kept once, its program does not run.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::{Result, at};
use crate::record::{FILE, Record};

/// The version that is on disk for sure.
pub(crate) const KEPT: &str = "kept.json";

/// Writes the record of one container, and keeps it. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    work: Mutex<Work>,
    /// Whether it was tried at least once.
    tried: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Work {
    /// The last version that was written and matters.
    last: Option<Record>,
    /// It is to be kept.
    is_wanted: bool,
    /// Somebody is at it.
    is_busy: bool,
    /// The container goes, and its folder.
    is_over: bool,
}

impl Keeper {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                folder,
                work: Mutex::default(),
                tried: watch::Sender::new(false),
            }),
        }
    }

    /// Writes the record, and has it kept soon if it says anything new that counts
    /// after a loss of power. A container that goes with its end does not.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let mut work = self.inner.work.lock();
        record.write(&self.inner.folder)?;
        if record.host.auto_remove || work.is_over {
            return Ok(());
        }
        let lasting = record.lasting();
        if work.last.as_ref() == Some(&lasting) {
            return Ok(());
        }
        work.last = Some(lasting);
        work.is_wanted = true;
        if !work.is_busy {
            work.is_busy = true;
            let inner = Arc::clone(&self.inner);
            tokio::task::spawn_blocking(move || inner.keep());
        }
        Ok(())
    }

    /// Has the record kept that was read, if it is not: the daemon was killed before
    /// that, or the power was lost.
    pub(crate) fn catch_up(&self, record: &Record) -> Result<()> {
        let inode = |name| fs::metadata(self.inner.folder.join(name)).map(|file| file.ino());
        match (inode(FILE), inode(KEPT)) {
            (Ok(newest), Ok(kept)) if newest == kept => Ok(()),
            _ => self.write(record),
        }
    }

    /// Waits until the record that was written is on disk; not if it need not be.
    pub(crate) async fn kept(&self) {
        if self.inner.work.lock().last.is_none() {
            return;
        }
        let mut tried = self.inner.tried.subscribe();
        // It lives as long as self.
        let _ = tried.wait_for(|is_tried| *is_tried).await;
    }

    /// Keeps nothing any more: the folder is about to be removed.
    pub(crate) fn end(&self) {
        self.inner.work.lock().is_over = true;
    }
}

impl Inner {
    /// Keeps what is wanted until nothing is.
    fn keep(&self) {
        loop {
            {
                let mut work = self.work.lock();
                if !std::mem::take(&mut work.is_wanted) || work.is_over {
                    work.is_busy = false;
                    break;
                }
            }
            if let Err(error) = self.keep_once() {
                tracing::warn!(
                    folder = %self.folder.display(),
                    %error,
                    "a loss of power would forget the last change"
                );
            }
            self.tried.send_replace(true);
        }
        self.tried.send_replace(true);
    }

    fn keep_once(&self) -> io::Result<()> {
        let path = self.folder.join(FILE);
        loop {
            let file = File::open(&path)?;
            // With the file itself, this brings its name to the disk.
            file.sync_all()?;
            let work = self.work.lock();
            if work.is_over {
                return Ok(());
            }
            // What has replaced it meanwhile is not on disk.
            if file.metadata()?.ino() != fs::metadata(&path)?.ino() {
                continue;
            }
            let new = self.folder.join("kept.json.new");
            let _ = fs::remove_file(&new);
            fs::hard_link(&path, &new)?;
            // This does nothing where the two are one file already.
            fs::rename(&new, self.folder.join(KEPT))?;
            let _ = fs::remove_file(&new);
            return Ok(());
        }
    }
}

/// The record of the container whose folder this is; none if it was never more than
/// begun, or half removed. `has_rootfs` says whether the container with an identifier
/// has its root filesystem.
///
/// # Errors
///
/// When a record is there and says something that we do not understand.
pub(crate) fn read(folder: &Path, has_rootfs: impl FnOnce(&str) -> bool) -> Result<Option<Record>> {
    if let Some(record) = read_file(&folder.join(FILE))? {
        return Ok(Some(record));
    }
    let Some(record) = read_file(&folder.join(KEPT))? else {
        return Ok(None);
    };
    tracing::warn!(folder = %folder.display(), "its last changes were lost with the power");
    // That it was being removed may be among them.
    Ok(has_rootfs(&record.id).then_some(record))
}

/// The record in a file; none if it is absent or was not written to its end.
fn read_file(path: &Path) -> Result<Option<Record>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return Ok(None),
        Err(error) => return Err(at("read", path)(error)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.is_eof() || bytes.iter().all(|byte| *byte == 0) => Ok(None),
        Err(error) => Err(at("read", path)(io::Error::new(
            io::ErrorKind::InvalidData,
            error,
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a folder with these two files holds: whether its container is one that was
    /// created under this name.
    fn check(newest: Option<&str>, kept: Option<&str>, has_rootfs: bool, expected: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [(FILE, newest), (KEPT, kept)] {
            let Some(text) = text else { continue };
            let text = match text {
                "" | "\0\0" | "[]" | "{\"id\":" => text.to_owned(),
                name => record(name),
            };
            fs::write(folder.path().join(name), text).expect("written");
        }
        let found = match read(folder.path(), |_| has_rootfs) {
            Ok(Some(record)) => record.name,
            Ok(None) => "none".into(),
            Err(_) => "not understood".into(),
        };
        assert_eq!(found, expected, "{newest:?}, {kept:?}, {has_rootfs}");
    }

    fn record(name: &str) -> String {
        let record = serde_json::json!({
            "id": "0", "name": name, "created": "2020-01-01T00:00:00Z", "image": "", "args": [],
            "config": {}, "host": {}, "networks": {}, "mounts": [], "state": {},
            "restart_count": 0, "stopped_by_hand": false,
        });
        record.to_string()
    }

    #[test]
    fn the_newest_that_is_whole_counts() {
        check(Some("new"), Some("old"), true, "new");
        check(Some("new"), None, false, "new");
        for lost in [Some(""), Some("\0\0"), Some("{\"id\":"), None] {
            check(lost, Some("old"), true, "old");
            check(lost, Some("old"), false, "none");
            check(lost, None, true, "none");
        }
        check(Some("[]"), Some("old"), true, "not understood");
    }
}
