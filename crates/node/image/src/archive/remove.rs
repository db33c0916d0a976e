//! Removing trees, however deep a container made them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Directories are entered so deep; deeper ones are moved up first, so that
/// neither the stack nor the descriptors run out.
const DEPTH: usize = 64;

/// Removes the file or the tree `name` in `parent`; no error if there is none.
/// Follows no symbolic link.
pub fn remove_tree(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let parent = parent.as_fd();
    if unlink(parent, name)? {
        return Ok(());
    }
    let top = match enter(parent, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut n_moved = 0;
    loop {
        let before = n_moved;
        empty(top.as_fd(), top.as_fd(), 0, &mut n_moved)?;
        if n_moved == before {
            break;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Threads that remove a layer.
const THREADS: usize = 8;
/// Directories this far down are removed on their own: `fs/usr/share/doc`.
const SHARED_DEPTH: usize = 4;
/// Directories that are shared out at most; each keeps one above it open.
const MAX_SHARED: usize = 256;

/// Removes a tree like [`remove_tree`], with several threads: a file system that
/// tells its disk at once what is free waits for the disk at every file.
pub(crate) fn remove_layer(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let parent = parent.as_fd();
    let mut shared = Vec::new();
    // What cannot be looked at here is told by the last pass.
    if let Ok(top) = enter(parent, name) {
        let _ = share_out(&Arc::new(top), SHARED_DEPTH, &mut shared);
    }
    let n_threads = THREADS.min(shared.len());
    let shared = Mutex::new(shared);
    let next = || shared.lock().unwrap_or_else(PoisonError::into_inner).pop();
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                while let Some((directory, name)) = next() {
                    // As above.
                    let _ = remove_tree(&directory, &name);
                }
            });
        }
    });
    remove_tree(parent, name)
}

/// Lists the directories `depth` levels down, with where they lie.
fn share_out(
    directory: &Arc<OwnedFd>,
    depth: usize,
    shared: &mut Vec<(Arc<OwnedFd>, Vec<u8>)>,
) -> io::Result<()> {
    let mut entries = Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if shared.len() >= MAX_SHARED {
            break;
        }
        if matches!(name, b"." | b"..") || entry.file_type() != FileType::Directory {
            continue;
        }
        if depth == 1 {
            shared.push((Arc::clone(directory), name.to_vec()));
        } else {
            let inner = Arc::new(enter(directory.as_fd(), name)?);
            share_out(&inner, depth - 1, shared)?;
        }
    }
    Ok(())
}

/// Empties a directory; what lies too deep is moved into `top`.
fn empty(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    depth: usize,
    n_moved: &mut u64,
) -> io::Result<()> {
    let mut entries = Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory && unlink(directory, name)? {
            continue;
        }
        if depth == DEPTH {
            loop {
                *n_moved += 1;
                let moved = format!(".deep-{n_moved}");
                match rustix::fs::renameat_with(
                    directory,
                    name,
                    top,
                    &moved[..],
                    rustix::fs::RenameFlags::NOREPLACE,
                ) {
                    Err(Errno::EXIST) => {}
                    other => break other?,
                }
            }
            continue;
        }
        let inner = enter(directory, name)?;
        empty(top, inner.as_fd(), depth + 1, n_moved)?;
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Unlinks what is no directory; whether it is gone.
fn unlink(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn enter(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_goes() {
        let directory = tempfile::tempdir().unwrap();
        let top = std::fs::File::open(directory.path()).unwrap();
        rustix::fs::mkdirat(&top, "t", Mode::RWXU).unwrap();
        let mut at = enter(top.as_fd(), b"t").unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/", &at, "link").unwrap();
            at = enter(at.as_fd(), b"d").unwrap();
        }
        drop(at);
        remove_tree(&top, b"t").unwrap();
        remove_tree(&top, b"t").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_layer_goes_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let top = std::fs::File::open(directory.path()).unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::create_dir_all(elsewhere.join("a/b/c/d")).unwrap();
        let tree = directory.path().join("t");
        // More than are shared out, at every depth, and ways out.
        for n in 0..400 {
            let path = tree.join(format!("{}/x/{}/{n}/y", n % 3, n % 7));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("file"), "").unwrap();
            std::os::unix::fs::symlink(&elsewhere, path.join("link")).unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, tree.join("link")).unwrap();
        remove_layer(&top, b"t").unwrap();
        remove_layer(&top, b"t").unwrap();
        assert!(!tree.exists() && elsewhere.join("a/b/c/d").exists());
    }
}
