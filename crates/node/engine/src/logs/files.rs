//! Which files a log has, at one moment: nobody rotates them while they are opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::{FlockOperation, flock};

/// How often the files are opened anew when they are rotated all the same.
const ATTEMPTS: usize = 64;

/// A file of a log.
pub(super) struct Kept {
    /// How many files are newer.
    pub(super) number: u32,
    pub(super) is_compressed: bool,
    pub(super) file: File,
}

impl Kept {
    /// The inode number of the file that it was when it was written; none if it does
    /// not know.
    pub(super) fn origin(&self) -> io::Result<Option<u64>> {
        if !self.is_compressed {
            return Ok(Some(self.file.metadata()?.ino()));
        }
        let mut file = self.file.try_clone()?;
        let decoder = GzDecoder::new(&file);
        let comment = decoder.header().and_then(|header| header.comment());
        let origin = comment
            .and_then(|comment| std::str::from_utf8(comment).ok())
            .and_then(|comment| comment.parse().ok());
        file.rewind()?;
        Ok(origin)
    }
}

/// What a file of a log is called: its number, and whether it is compressed.
type Name = (u32, bool);

/// Opens all files of a log, the newest first.
///
/// # Errors
///
/// What the folder says; a log that nothing was written to has no files.
pub(super) fn survey(path: &Path) -> io::Result<Vec<Kept>> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let folder = match File::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        folder => folder?,
    };
    // Whoever writes waits with the next file until it is given back, but not for long,
    // and has no lock if it is of an older version: what was opened is looked at again.
    let _ = flock(&folder, FlockOperation::NonBlockingLockShared);
    let mut kept = Vec::new();
    for _ in 0..ATTEMPTS {
        let names = list(path)?;
        kept = open(path, &names)?;
        if kept.len() == names.len() && list(path)? == names {
            break;
        }
        std::thread::yield_now();
        let _ = flock(&folder, FlockOperation::NonBlockingLockShared);
    }
    Ok(kept)
}

/// The files of a log and their inode numbers. One that is just being compressed is
/// there plain.
fn list(path: &Path) -> io::Result<BTreeMap<Name, u64>> {
    let mut names = BTreeMap::new();
    let (Some(parent), Some(own)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Ok(names);
    };
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(ending) = name.to_str().and_then(|name| name.strip_prefix(own)) else {
            continue;
        };
        let (number, is_compressed) = match ending.strip_suffix(".gz") {
            Some(number) => (number, true),
            None => (ending, false),
        };
        let number = match number.strip_prefix('.') {
            None if number.is_empty() => Some(0),
            None => None,
            Some(number) => number.parse().ok(),
        };
        if let Some(number) = number {
            names.insert((number, is_compressed), entry.ino());
        }
    }
    let plain: Vec<u32> = names
        .keys()
        .filter_map(|(number, is_compressed)| (!is_compressed).then_some(*number))
        .collect();
    for number in plain {
        names.remove(&(number, true));
    }
    Ok(names)
}

/// Opens these files, but for those that are others by now.
fn open(path: &Path, names: &BTreeMap<Name, u64>) -> io::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for ((number, is_compressed), inode) in names {
        let mut name = path.as_os_str().to_owned();
        if *number > 0 {
            name.push(format!(".{number}"));
        }
        if *is_compressed {
            name.push(".gz");
        }
        let file = match File::open(PathBuf::from(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        if file.metadata()?.ino() == *inode {
            kept.push(Kept {
                number: *number,
                is_compressed: *is_compressed,
                file,
            });
        }
    }
    Ok(kept)
}
