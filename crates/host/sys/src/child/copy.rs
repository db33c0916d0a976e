//! A copy of a directory's contents, made by a child: no allocation.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Uid};

use crate::{Errno, Result};

/// Directories deeper than this are an error; each takes some of the stack.
const MAX_DEPTH: usize = 64;

/// Copies what lies in one directory into another, owners and modes included.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let stat = rustix::fs::fstat(from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, c".", flags, Mode::empty())?;
    let to = rustix::fs::openat(to, c".", flags, Mode::empty())?;
    own(&to, &stat)?;
    copy_directory(&from, &to, 0)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth == MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let open = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = open | OFlags::RDONLY | OFlags::DIRECTORY;
            let from = rustix::fs::openat(from, name, flags, Mode::empty())?;
            rustix::fs::mkdirat(to, name, Mode::from(0o700))?;
            let to = rustix::fs::openat(to, name, flags, Mode::empty())?;
            own(&to, &stat)?;
            copy_directory(&from, &to, depth + 1)
        }
        FileType::RegularFile => {
            let from = rustix::fs::openat(from, name, open | OFlags::RDONLY, Mode::empty())?;
            let flags = open | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let to = rustix::fs::openat(to, name, flags, Mode::from(0o600))?;
            while rustix::fs::sendfile(&to, &from, None, 1 << 20)? > 0 {}
            own(&to, &stat)
        }
        FileType::Symlink => {
            let mut target = [0_u8; 4096];
            let length = rustix::fs::readlinkat_raw(from, name, &mut target[..4095])?;
            target[length] = 0;
            let target = CStr::from_bytes_until_nul(&target).map_err(|_| Errno::INVAL)?;
            rustix::fs::symlinkat(target, to, name)?;
            give(to, name, &stat)
        }
        kind => {
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
            give(to, name, &stat)
        }
    }
}

fn own(file: &OwnedFd, stat: &Stat) -> Result<()> {
    rustix::fs::fchown(
        file,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(stat.st_mode & 0o7777))
}

fn give(directory: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(
        directory,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn contents_modes_and_links_are_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/file"), vec![7; 100_000]).unwrap();
        let mode = std::fs::Permissions::from_mode(0o4711);
        std::fs::set_permissions(from.path().join("a/b/file"), mode).unwrap();
        symlink("/nowhere", from.path().join("a/link")).unwrap();
        let open = |path| rustix::fs::open(path, OFlags::PATH, Mode::empty()).unwrap();
        copy_up(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();
        let file = to.path().join("a/b/file");
        assert_eq!(std::fs::read(&file).unwrap(), vec![7; 100_000]);
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o4711
        );
        assert_eq!(
            std::fs::read_link(to.path().join("a/link"))
                .unwrap()
                .to_str(),
            Some("/nowhere")
        );
    }
}
