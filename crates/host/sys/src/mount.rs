//! Mounts as descriptors: made detached, changed, then put in place.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

use crate::idmap::NOBODY;
use crate::{Errno, FileOwner, Result, check};

/// What an overlay must not do: its upper directory has to read as a layer by itself.
/// Some kernels do it unless told otherwise.
const NOT_ALONE: [&CStr; 3] = [c"redirect_dir", c"metacopy", c"index"];

/// Bytes of text that mount(2) takes at most, with a zero at their end.
const MAX_DATA: usize = 4096;

/// Attributes of a mount, by the numbers of mount_setattr(2): first `clear`, then `set`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
}

impl Attributes {
    /// Read-only, nothing else changed.
    pub const READ_ONLY: Self = Self {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
    };

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0
    }
}

/// How a change reaches the mounts below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The mount alone.
    One,
    /// And all below it.
    Tree,
}

/// How mounts and unmounts travel between peers (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Both ways.
    Shared,
    /// Inwards.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and it cannot be bound.
    Unbindable,
}

/// One parameter of a new filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameter {
    /// A name alone.
    Flag(std::ffi::CString),
    /// A name and a value.
    Text(std::ffi::CString, std::ffi::CString),
}

impl std::fmt::Display for Parameter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(name) => write!(formatter, "{}", name.to_string_lossy()),
            Self::Text(name, value) => {
                let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
                write!(formatter, "{name}={value}")
            }
        }
    }
}

/// Makes a new filesystem as a detached mount.
///
/// # Errors
///
/// What fsopen(2), fsconfig(2) and fsmount(2) say; `EINVAL` for an unknown parameter.
pub fn new(kind: &CStr, parameters: &[Parameter], attributes: u64) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for parameter in parameters {
        match parameter {
            Parameter::Flag(name) => fsconfig_set_flag(&context, name.as_c_str())?,
            Parameter::Text(name, value) => {
                fsconfig_set_string(&context, name.as_c_str(), value.as_c_str())?;
            }
        }
    }
    fsconfig_create(&context)?;
    let attributes = u32::try_from(attributes).map_err(|_| Errno::INVAL)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(attributes),
    )
}

/// Makes an overlay as a detached mount; `lower` has the topmost directory first.
/// With a `context`, SELinux takes that for the label of every file in it.
///
/// # Errors
///
/// What the mount calls say; kernels before 6.5 take as many lower directories
/// as fit in one page of text by the names of their descriptors, some 200.
pub fn overlay(
    lower: &[&CStr],
    upper: &CStr,
    work: &CStr,
    context: Option<&CStr>,
) -> Result<OwnedFd> {
    let writable = Some((upper, work));
    match layered(lower, writable, context) {
        Err(Errno::INVAL) => in_own_mounts(|| layered_at_once(lower, writable, context)),
        made => made,
    }
}

/// Makes an overlay, as [`overlay`] does, whose layers are seen through a user
/// namespace: what belongs to a number on disk belongs to whoever has that number
/// in the namespace. All layers lie on one mount.
///
/// # Errors
///
/// `EINVAL` where the filesystem cannot map identities, `EOVERFLOW` if the
/// namespace has no superuser, else as [`overlay`].
pub fn overlay_mapped(
    lower: &[&CStr],
    upper: &CStr,
    work: &CStr,
    user: BorrowedFd<'_>,
    context: Option<&CStr>,
) -> Result<OwnedFd> {
    let top = common_directory(lower.iter().copied().chain([upper, work]))?;
    in_own_mounts(|| {
        map_in_place(&top, user)?;
        // The superuser of here has no number in that view; the one of the namespace
        // has, and owns what the kernel makes for itself.
        let root = rustix::fs::stat(work)?;
        if root.st_uid == NOBODY || root.st_gid == NOBODY {
            return Err(Errno::OVERFLOW);
        }
        let _owner = FileOwner::assume(root.st_uid, root.st_gid)?;
        layered_here(lower, Some((upper, work)), context)
    })
}

/// Makes a detached mount of two layers or more, the topmost first, that cannot be
/// written: all of it, or one directory in it. With a user namespace the layers are
/// seen through that, as by [`overlay_mapped`].
///
/// # Errors
///
/// As [`overlay_mapped`], and what opening the directory says.
pub fn view(
    lower: &[&CStr],
    user: Option<BorrowedFd<'_>>,
    directory: Option<&CStr>,
    context: Option<&CStr>,
) -> Result<OwnedFd> {
    if user.is_none() && directory.is_none() {
        let made = layered(lower, None, context);
        if made.as_ref().err() != Some(&Errno::INVAL) {
            return made;
        }
    }
    let top = common_directory(lower.iter().copied())?;
    in_own_mounts(|| {
        if let Some(user) = user {
            map_in_place(&top, user)?;
        }
        let whole = layered_here(lower, None, context)?;
        let Some(directory) = directory else {
            return Ok(whole);
        };
        // A part is copied from a mount that is in its place.
        attach(whole.as_fd(), open_path(&top)?.as_fd())?;
        let root = open_path(&top)?;
        let part = crate::resolve::open(root.as_fd(), directory, crate::resolve::Links::Follow)?;
        copy(part.as_fd(), c"", Depth::One)
    })
}

/// Runs `body` on a thread in a mount namespace of its own, from which nothing
/// travels to others. The kernel takes layers and copies from mounts of the caller's
/// namespace only (before 6.15).
fn in_own_mounts(body: impl FnOnce() -> Result<OwnedFd> + Send) -> Result<OwnedFd> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            crate::namespace::leave(crate::namespace::Kind::Mount.flag())?;
            let nothing = Attributes::default();
            change(CWD, c"/", Depth::Tree, nothing, Some(Propagation::Private))?;
            body()
        });
        thread.join().unwrap_or(Err(Errno::IO))
    })
}

/// Covers a directory with itself, seen through a user namespace.
fn map_in_place(directory: &CStr, user: BorrowedFd<'_>) -> Result<()> {
    let mapped = copy(CWD, directory, Depth::One)?;
    map_identities(mapped.as_fd(), user, Depth::One)?;
    attach(mapped.as_fd(), open_path(directory)?.as_fd())
}

fn open_path(directory: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
}

/// The innermost directory that all paths lie in.
fn common_directory<'a>(paths: impl IntoIterator<Item = &'a CStr>) -> Result<CString> {
    let mut paths = paths
        .into_iter()
        .map(|path| Path::new(OsStr::from_bytes(path.to_bytes())));
    let mut common = paths.next().ok_or(Errno::INVAL)?.to_owned();
    for path in paths {
        while !path.starts_with(&common) {
            if !common.pop() {
                return Err(Errno::INVAL);
            }
        }
    }
    if !common.is_absolute() {
        return Err(Errno::INVAL);
    }
    CString::new(common.into_os_string().into_vec()).map_err(|_| Errno::INVAL)
}

/// An overlay with or without a writable part (upper and work directory), made from
/// mounts of this thread's own.
fn layered_here(
    lower: &[&CStr],
    writable: Option<(&CStr, &CStr)>,
    context: Option<&CStr>,
) -> Result<OwnedFd> {
    match layered(lower, writable, context) {
        Err(Errno::INVAL) => layered_at_once(lower, writable, context),
        made => made,
    }
}

/// The same as kernels since 6.5 take it, one directory after the other; `EINVAL`
/// from those before.
fn layered(
    lower: &[&CStr],
    writable: Option<(&CStr, &CStr)>,
    context: Option<&CStr>,
) -> Result<OwnedFd> {
    let new = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in NOT_ALONE {
        fsconfig_set_string(&new, option, c"off")?;
    }
    if let Some(context) = context {
        fsconfig_set_string(&new, c"context", context)?;
    }
    let lower = lower.iter().map(|path| (c"lowerdir+", *path));
    let above = writable.map(|(upper, work)| [(c"upperdir", upper), (c"workdir", work)]);
    for (name, path) in lower.chain(above.into_iter().flatten()) {
        fsconfig_set_string(&new, name, path)?;
    }
    fsconfig_create(&new)?;
    let attributes = match writable {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    fsmount(&new, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The same by mount(2), in place and copied from there: whose text is a page long,
/// where a parameter of the newer calls has 255 bytes. Separators are what names may
/// hold as well; the names of descriptors hold none.
fn layered_at_once(
    lower: &[&CStr],
    writable: Option<(&CStr, &CStr)>,
    context: Option<&CStr>,
) -> Result<OwnedFd> {
    let paths = lower.iter().copied();
    let above = writable.map(|(upper, work)| [upper, work]);
    let top = common_directory(paths.chain(above.into_iter().flatten()))?;
    let name = |file: &OwnedFd| format!("/proc/self/fd/{}", file.as_raw_fd());
    let lower: Vec<OwnedFd> = lower
        .iter()
        .map(|path| open_path(path))
        .collect::<Result<_>>()?;
    let names: Vec<String> = lower.iter().map(name).collect();
    let mut data = format!("lowerdir={}", names.join(":"));
    for option in NOT_ALONE {
        data.push_str(&format!(",{}=off", option.to_string_lossy()));
    }
    if let Some(context) = context {
        // Commas are what separates options, but not in quotes.
        let context = context.to_str().map_err(|_| Errno::INVAL)?;
        if context.contains('"') {
            return Err(Errno::INVAL);
        }
        data.push_str(&format!(",context=\"{context}\""));
    }
    let mut flags = MountFlags::RDONLY;
    let above = above.map(|paths| paths.map(open_path));
    if let Some([upper, work]) = &above {
        let (upper, work) = (upper.as_ref(), work.as_ref());
        let upper = name(upper.map_err(|error| *error)?);
        let work = name(work.map_err(|error| *error)?);
        data.push_str(&format!(",upperdir={upper},workdir={work}"));
        flags = MountFlags::empty();
    }
    // What is longer the kernel would cut off.
    if data.len() >= MAX_DATA {
        return Err(Errno::TOOBIG);
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(c"overlay", &top, c"overlay", flags, data.as_c_str())?;
    copy(CWD, &top, Depth::One)
}

/// A detached copy of the mount (or of the part of it) at a path.
///
/// # Errors
///
/// What open_tree(2) says.
pub fn copy(directory: BorrowedFd<'_>, path: &CStr, depth: Depth) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if depth == Depth::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(directory, path, flags)
}

/// Puts a detached mount in its place.
///
/// # Errors
///
/// What move_mount(2) says.
pub fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// Changes attributes and propagation of the mount at a path (which may be empty).
///
/// # Errors
///
/// What mount_setattr(2) says.
pub fn change(
    directory: BorrowedFd<'_>,
    path: &CStr,
    depth: Depth,
    attributes: Attributes,
    propagation: Option<Propagation>,
) -> Result<()> {
    let propagation = match propagation {
        None => 0,
        Some(Propagation::Shared) => libc::MS_SHARED,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
    };
    set_attributes(
        directory,
        path,
        depth,
        libc::mount_attr {
            attr_set: attributes.set,
            attr_clr: attributes.clear,
            propagation,
            userns_fd: 0,
        },
    )
}

/// Maps the identities of a detached mount through a user namespace.
///
/// # Errors
///
/// What mount_setattr(2) says; `EINVAL` where the filesystem cannot.
pub fn map_identities(mount: BorrowedFd<'_>, user: BorrowedFd<'_>, depth: Depth) -> Result<()> {
    let userns_fd = u64::try_from(user.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let change = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
    set_attributes(mount, c"", depth, change)
}

fn set_attributes(
    directory: BorrowedFd<'_>,
    path: &CStr,
    depth: Depth,
    change: libc::mount_attr,
) -> Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if depth == Depth::Tree {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path and the attributes live through the call, and the size
    // passed is theirs.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const change,
            size_of_val(&change),
        )
    })
    .map(drop)
}

/// Makes the mount a descriptor lies on the root of this process's mount
/// namespace, and lets the old root go. The working directory is the new root.
///
/// # Errors
///
/// What pivot_root(2) and umount2(2) say.
pub fn change_root(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    // The old root now lies over the new one, and "." is still the new one.
    rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// Makes the mount a descriptor lies on the root by moving it over `/`, for
/// roots that cannot be pivoted (an initial RAM disk). The old root stays below.
///
/// # Errors
///
/// What move_mount(2) and chroot(2) say.
pub fn cover_root(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root)?;
    let slash = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(root, slash.as_fd())?;
    rustix::process::chroot(c".")?;
    rustix::process::chdir(c"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_lie_in_one_directory() {
        let common = |paths: &[&CStr]| common_directory(paths.iter().copied());
        assert_eq!(common(&[c"/a/b/c", c"/a/b/d", c"/a/bc"]), Ok(c"/a".into()));
        assert_eq!(common(&[c"/a/b", c"/c"]), Ok(c"/".into()));
        assert_eq!(common(&[c"/a/b"]), Ok(c"/a/b".into()));
        assert_eq!(common(&[c"a", c"/b"]), Err(Errno::INVAL));
    }
}
