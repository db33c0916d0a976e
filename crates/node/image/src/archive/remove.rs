//! Removing trees, however deep a container made them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
}
