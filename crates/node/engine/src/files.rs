//! Files of a container's own that we read.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dhow_image::Rootfs;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Longest file of accounts that is read, in bytes.
const MAX_ACCOUNTS: u64 = 4 << 20;
/// By this attribute overlayfs marks a directory that covers those below it.
const OPAQUE: &str = "trusted.overlay.opaque";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What a layer says of a path.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// The layers below decide.
    Below,
    /// This is in it; nothing if there is no such file.
    Here(String),
    /// A symbolic link is on the way, perhaps into another layer.
    Link,
}

/// Reads a small file of a root filesystem as its processes would find it,
/// without mounting it where the layers alone tell; a file that is not there is
/// empty.
pub(crate) fn read_in_layers(rootfs: &Rootfs, path: &Path) -> String {
    for layer in std::iter::once(&rootfs.upper).chain(&rootfs.lower) {
        match look(layer, path) {
            Ok(Look::Below) => {}
            Ok(Look::Here(text)) => return text,
            Ok(Look::Link) => return read_in_view(rootfs, path).unwrap_or_default(),
            Err(_) => return String::new(),
        }
    }
    String::new()
}

fn look(layer: &Path, path: &Path) -> rustix::io::Result<Look> {
    let mut directory = rustix::fs::open(layer, DIRECTORY, Mode::empty())?;
    let mut is_opaque = false;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if is_opaque => break,
            Err(Errno::NOENT) => return Ok(Look::Below),
            Err(error) => return Err(error),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => return Ok(Look::Link),
            FileType::Directory if names.peek().is_some() => {
                directory = rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty())?;
                let mut value = [0; 1];
                is_opaque |= rustix::fs::fgetxattr(&directory, OPAQUE, &mut value) == Ok(1)
                    && value == *b"y";
            }
            FileType::RegularFile if names.peek().is_none() => {
                let text = read_below(directory.as_fd(), name, ResolveFlags::NO_SYMLINKS);
                return Ok(Look::Here(text.unwrap_or_default()));
            }
            // What marks a file as removed, and what is no file that is read.
            _ => break,
        }
    }
    Ok(Look::Here(String::new()))
}

/// The same through a mount of all layers that nobody else sees.
fn read_in_view(rootfs: &Rootfs, path: &Path) -> Option<String> {
    let layers = std::iter::once(&rootfs.upper).chain(&rootfs.lower);
    let names: Vec<CString> = layers
        .map(|layer| CString::new(layer.as_os_str().as_bytes()).ok())
        .collect::<Option<_>>()?;
    let names: Vec<_> = names.iter().map(CString::as_c_str).collect();
    let view = dhow_sys::mount::view(&names, None, None, None).ok()?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    read_below(view.as_fd(), path.as_os_str(), resolve)
}

/// Reads a small file below a root, with links resolved inside it; a file that
/// is not there is empty.
pub(crate) fn read_in_root(root: &Path, path: &Path) -> String {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat(CWD, root, directory, Mode::empty())
        .ok()
        .and_then(|root| read_below(root.as_fd(), path.as_os_str(), resolve))
        .unwrap_or_default()
}

fn read_below(root: BorrowedFd<'_>, path: &OsStr, resolve: ResolveFlags) -> Option<String> {
    // Not to hang on a named pipe, nor to take a terminal.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: OwnedFd = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(MAX_ACCOUNTS)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Two layers below an upper one, each with an `etc`.
    fn layers(folder: &Path) -> Rootfs {
        let layer = |name: &str| {
            fs::create_dir_all(folder.join(name).join("etc")).expect("a folder");
            folder.join(name)
        };
        let rootfs = Rootfs {
            lower: vec![layer("top"), layer("bottom")],
            upper: layer("upper"),
            work: layer("work"),
        };
        fs::write(folder.join("bottom/etc/passwd"), "below").expect("a file");
        rootfs
    }

    #[test]
    fn the_topmost_layer_that_tells_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let (rootfs, top) = (layers(folder.path()), folder.path().join("top/etc"));
        let read = || read_in_layers(&rootfs, Path::new("etc/passwd"));
        assert_eq!(read(), "below");
        fs::write(top.join("passwd"), "above").expect("a file");
        assert_eq!(read(), "above");
        assert_eq!(read_in_layers(&rootfs, Path::new("etc/nothing")), "");
        assert_eq!(read_in_layers(&rootfs, Path::new("etc")), "");
    }

    #[test]
    fn what_a_layer_removes_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (rootfs, top) = (layers(folder.path()), folder.path().join("top/etc"));
        let read = || read_in_layers(&rootfs, Path::new("etc/passwd"));
        let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
        let made = rustix::fs::mknodat(CWD, top.join("passwd"), kind, mode, 0);
        made.expect("a whiteout; tests run as root");
        assert_eq!(read(), "");
        fs::remove_file(top.join("passwd")).expect("it was there");
        assert_eq!(read(), "below");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&top, OPAQUE, b"y", flags).expect("an attribute");
        assert_eq!(read(), "");
    }

    #[test]
    fn links_are_followed_inside_and_through_all_layers() {
        let folder = tempfile::tempdir().expect("a folder");
        let (rootfs, top) = (layers(folder.path()), folder.path().join("top/etc"));
        let read = || read_in_layers(&rootfs, Path::new("etc/passwd"));
        fs::write(folder.path().join("bottom/accounts"), "linked").expect("a file");
        symlink("/accounts", top.join("passwd")).expect("a link");
        assert_eq!(read(), "linked");
        fs::remove_file(top.join("passwd")).expect("it was there");
        symlink("../../../../../etc/hostname", top.join("passwd")).expect("a link");
        assert_eq!(read(), "");
    }
}
