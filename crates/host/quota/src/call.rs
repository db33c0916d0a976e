//! The system calls: quotactl_fd(2) with the commands of XFS, which the kernel
//! translates for other filesystems, and the ioctls about an inode's project.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::Usage;

/// Which of the quotas, in a command's low byte: projects'.
const PROJECT: u32 = 2;
const GET: u32 = xfs(3);
const SET_LIMIT: u32 = xfs(4);
const STATE: u32 = xfs(8);
const GET_NEXT: u32 = xfs(9);

const fn xfs(command: u32) -> u32 {
    ((b'X' as u32) << 8 | command) << 8 | PROJECT
}

/// Bytes of a block, as quotas count.
const BLOCK: u64 = 512;
/// Version of [`Record`].
const RECORD_VERSION: i8 = 1;
/// That a record is a project's.
const IS_PROJECT: i8 = 2;
/// Members of a record that are to be set: soft and hard limits of blocks.
const BLOCK_LIMITS: u16 = 1 << 2 | 1 << 3;
/// Version of [`State`].
const STATE_VERSION: i8 = 1;
/// Flag of the state: projects are kept within limits.
const PROJECTS_LIMITED: u16 = 1 << 5;

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct Record {
    version: i8,
    flags: i8,
    mask: u16,
    id: u32,
    hard_blocks: u64,
    soft_blocks: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    n_blocks: u64,
    n_inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    padding: i32,
    real_time: [u64; 3],
    real_time_timer: i32,
    real_time_warnings: u16,
    padding_3: i16,
    padding_4: [u8; 8],
}

/// `struct fs_quota_statv`.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    n_incore: u32,
    /// Of users, groups and projects.
    files: [[u64; 3]; 3],
    limits: [i32; 3],
    warnings: [u16; 4],
    padding_4: u32,
    padding_2: [u64; 7],
}

const _: () = assert!(size_of::<Record>() == 112 && size_of::<State>() == 160);

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    n_extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// What is made in the directory has its project.
const INHERIT: u32 = 0x200;
/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;

fn check(result: libc::c_long) -> Result<(), Errno> {
    if result < 0 {
        // SAFETY: the location is the calling thread's own and always valid.
        Err(Errno::from_raw_os_error(unsafe {
            *libc::__errno_location()
        }))
    } else {
        Ok(())
    }
}

fn control<T>(
    filesystem: BorrowedFd<'_>,
    command: u32,
    id: u32,
    argument: &mut T,
) -> Result<(), Errno> {
    // SAFETY: the argument is a plain structure with the layout that the command
    // has, of which the kernel reads and writes no more than its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            filesystem.as_raw_fd(),
            command,
            id,
            std::ptr::from_mut(argument),
        )
    })
}

pub(crate) fn are_projects_limited(filesystem: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut state = State {
        version: STATE_VERSION,
        ..State::default()
    };
    control(filesystem, STATE, 0, &mut state)?;
    Ok(state.flags & PROJECTS_LIMITED != 0)
}

pub(crate) fn set_limit(filesystem: BorrowedFd<'_>, project: u32, bytes: u64) -> Result<(), Errno> {
    let blocks = bytes.div_ceil(BLOCK);
    let mut record = Record {
        version: RECORD_VERSION,
        flags: IS_PROJECT,
        mask: BLOCK_LIMITS,
        id: project,
        hard_blocks: blocks,
        soft_blocks: blocks,
        ..Record::default()
    };
    control(filesystem, SET_LIMIT, project, &mut record)
}

fn read(filesystem: BorrowedFd<'_>, command: u32, project: u32) -> Result<(u32, Usage), Errno> {
    let mut record = Record::default();
    control(filesystem, command, project, &mut record)?;
    let usage = Usage {
        bytes: record.n_blocks.saturating_mul(BLOCK),
        inodes: record.n_inodes,
        limit: record.hard_blocks.saturating_mul(BLOCK),
    };
    Ok((record.id, usage))
}

pub(crate) fn usage(filesystem: BorrowedFd<'_>, project: u32) -> Result<Usage, Errno> {
    read(filesystem, GET, project).map(|(_, usage)| usage)
}

pub(crate) fn next(filesystem: BorrowedFd<'_>, from: u32) -> Result<(u32, Usage), Errno> {
    read(filesystem, GET_NEXT, from)
}

fn attributes(file: BorrowedFd<'_>) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    // SAFETY: the request writes one structure of that layout.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), GET_ATTRIBUTES, &raw mut attributes) };
    check(result.into())?;
    Ok(attributes)
}

pub(crate) fn project(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    attributes(file).map(|attributes| attributes.project)
}

pub(crate) fn assign(file: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let mut attributes = attributes(file)?;
    attributes.flags |= INHERIT;
    attributes.project = project;
    // SAFETY: the request reads one structure of that layout.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), SET_ATTRIBUTES, &raw const attributes) };
    check(result.into())
}
