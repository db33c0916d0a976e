//! Mounts as descriptors: made detached, changed, then put in place.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::{Errno, Result, check};

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
///
/// # Errors
///
/// What the mount calls say; kernels before 6.5 take as many lower directories
/// as fit in one page of text, some 200.
pub fn overlay(lower: &[&CStr], upper: &CStr, work: &CStr) -> Result<OwnedFd> {
    let one_by_one = overlay_of(lower.iter().map(|path| (c"lowerdir+", *path)), upper, work);
    if one_by_one.as_ref().err() != Some(&Errno::INVAL) {
        return one_by_one;
    }
    // Older kernels take all of them in one text, with separators that names may
    // hold as well; the names of descriptors hold none.
    let open = |path: &CStr| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
    };
    let name = |file: &OwnedFd| format!("/proc/self/fd/{}", file.as_raw_fd());
    let text = |text: String| CString::new(text).map_err(|_| Errno::INVAL);
    let lower: Vec<OwnedFd> = lower.iter().map(|path| open(path)).collect::<Result<_>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let names: Vec<String> = lower.iter().map(name).collect();
    let lower = text(names.join(":"))?;
    overlay_of(
        [(c"lowerdir", lower.as_c_str())],
        &text(name(&upper))?,
        &text(name(&work))?,
    )
}

fn overlay_of<'a>(
    lower: impl IntoIterator<Item = (&'a CStr, &'a CStr)>,
    upper: &'a CStr,
    work: &'a CStr,
) -> Result<OwnedFd> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let above = [(c"upperdir", upper), (c"workdir", work)];
    for (name, path) in lower.into_iter().chain(above) {
        fsconfig_set_string(&context, name, path)?;
    }
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
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
