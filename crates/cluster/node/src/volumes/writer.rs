//! Files that change all at once: a folder whose contents are swapped by
//! renaming one symbolic link, as the kubelet does it.
//!
//! ```text
//!   key      -> ..data/key
//!   ..data   -> ..2026_11_28_05_30_12.123456789
//!   ..2026_11_28_05_30_12.123456789/key
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;

use crate::error::Error;
use crate::host::{file_error, make_folder};

/// The link that is swapped.
const DATA: &str = "..data";
/// Its successor before the swap.
const NEXT: &str = "..data_tmp";

/// Files by their path in the volume.
pub(super) type Payload = BTreeMap<String, File>;

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    /// Who owns it; none is root.
    pub(super) user: Option<u32>,
}

/// A path of a payload that leads nowhere else: relative, without `..`, and
/// not hidden among the writer's own names.
pub(super) fn check(path: &str) -> Result<(), String> {
    let parsed = Path::new(path);
    let is_plain = !path.is_empty()
        && path.len() < 4096
        && !path.contains('\0')
        && !path.starts_with("..")
        && parsed
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if is_plain {
        Ok(())
    } else {
        Err(format!("invalid path {path:?}"))
    }
}

/// Makes the folder contain these files and no others, all at once. Paths must
/// have been checked. Nothing is written if it is so already.
pub(super) fn write(folder: &Path, payload: &Payload, group: Option<u32>) -> Result<(), Error> {
    if !folder.is_dir() {
        make_folder(folder, 0o755)?;
    }
    let failed = |error| file_error("write", folder, error);
    let old = std::fs::read_link(folder.join(DATA)).ok();
    let old = old.filter(|old| is_ours(old));
    if let Some(old) = &old
        && is_same(&folder.join(old), payload)
    {
        return link(folder, payload).map_err(failed);
    }
    let name = stamp();
    let fresh = folder.join(&name);
    fill(&fresh, payload, group).map_err(failed)?;
    let next = folder.join(NEXT);
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    symlink(&name, &next)
        .and_then(|()| std::fs::rename(&next, folder.join(DATA)))
        .and_then(|()| link(folder, payload))
        .map_err(failed)?;
    sweep(folder, &name);
    Ok(())
}

/// Name of a new folder of data.
fn stamp() -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
    now.strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string()
}

fn is_ours(target: &Path) -> bool {
    let name = target.to_str().unwrap_or_default();
    name.starts_with("..") && name.len() > 2 && !name.contains('/')
}

/// Whether a folder of data has exactly these files.
fn is_same(data: &Path, payload: &Payload) -> bool {
    let Ok(found) = list(data) else {
        return false;
    };
    found.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            found.contains(Path::new(path))
                && std::fs::read(data.join(path)).is_ok_and(|bytes| bytes == file.bytes)
        })
}

/// Files below a folder.
fn list(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                pending.push(path);
            } else {
                files.insert(path);
            }
        }
    }
    Ok(files)
}

fn fill(fresh: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    let make = |folder: &Path| -> io::Result<()> {
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        }
        if group.is_some() {
            std::os::unix::fs::chown(folder, None, group)?;
        }
        let mode = if group.is_some() { 0o2755 } else { 0o755 };
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode))
    };
    make(fresh)?;
    for (path, file) in payload {
        let mut folder = fresh.to_owned();
        for part in Path::new(path)
            .parent()
            .into_iter()
            .flat_map(Path::components)
        {
            folder.push(part);
            make(&folder)?;
        }
        let path = fresh.join(path);
        let mut options = std::fs::OpenOptions::new();
        let mut made = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        made.write_all(&file.bytes)?;
        if group.is_some() || file.user.is_some() {
            std::os::unix::fs::fchown(&made, file.user, group)?;
        }
        let shared = if group.is_some() { 0o440 } else { 0 };
        made.set_permissions(std::fs::Permissions::from_mode(file.mode | shared))?;
    }
    Ok(())
}

/// Links the payload's first path components to the data, and takes away those
/// of what is not there any more.
fn link(folder: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &String| {
        let part = Path::new(path).components().next();
        part.map(|part| PathBuf::from(part.as_os_str()))
    };
    let wanted: BTreeSet<PathBuf> = payload.keys().filter_map(first).collect();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let is_own = name.to_string_lossy().starts_with("..");
        if !is_own && !wanted.contains(&name) && entry.file_type()?.is_symlink() {
            std::fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        match symlink(Path::new(DATA).join(&name), folder.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes folders of data that are not linked any more, also those that a
/// predecessor was stopped in the middle of.
fn sweep(folder: &Path, current: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_old = is_ours(Path::new(&*name)) && name != current && name != DATA;
        if is_old && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // It is tried again with the next change.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| {
                let file = File {
                    bytes: text.as_bytes().to_vec(),
                    mode: 0o640,
                    user: None,
                };
                ((*path).to_owned(), file)
            })
            .collect()
    }

    #[test]
    fn contents_are_swapped_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = directory.path().join("v");
        let read = |path: &str| std::fs::read_to_string(folder.join(path)).ok();
        let data = || std::fs::read_link(folder.join(DATA)).expect("a link");
        write(&folder, &payload(&[("a", "1"), ("d/b", "2")]), None).expect("written");
        assert_eq!(read("a").as_deref(), Some("1"));
        assert_eq!(read("d/b").as_deref(), Some("2"));
        let first = data();
        write(&folder, &payload(&[("a", "1"), ("d/b", "2")]), None).expect("written");
        assert_eq!(data(), first, "nothing has changed");
        write(&folder, &payload(&[("a", "3"), ("c", "4")]), None).expect("written");
        assert_ne!(data(), first);
        assert_eq!(read("a").as_deref(), Some("3"));
        assert_eq!(read("c").as_deref(), Some("4"));
        assert_eq!(read("d/b"), None);
        assert!(!folder.join("d").is_symlink());
        let folders = std::fs::read_dir(&folder).expect("listed").flatten();
        let folders = folders.filter(|entry| entry.path().is_dir() && !entry.path().is_symlink());
        assert_eq!(folders.count(), 1, "old data is removed");
        let mode = std::fs::metadata(folder.join("a")).expect("a file");
        assert_eq!(mode.permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_group_reads_its_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = directory.path().join("v");
        let mut files = payload(&[("a", "1")]);
        files.get_mut("a").expect("a file").mode = 0o600;
        write(&folder, &files, Some(4321)).expect("written, as root");
        let found = std::fs::metadata(folder.join("a")).expect("a file");
        assert_eq!(std::os::unix::fs::MetadataExt::gid(&found), 4321);
        assert_eq!(found.permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["", "/a", "../a", "a/../b", "..data", "a/./../b", "x\0"] {
            assert!(check(path).is_err(), "{path:?}");
        }
        for path in ["a", "a/b", ".hidden", "a..b"] {
            assert!(check(path).is_ok(), "{path:?}");
        }
    }
}
