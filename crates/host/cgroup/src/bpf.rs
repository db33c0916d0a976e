//! Programs of the extended Berkeley packet filter, loaded and attached to
//! version 2 groups: the calls of bpf(2) that device rules need.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// One instruction, in the kernel's layout (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination in the low half, source in the high one.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

/// Kind of the programs, and where they are attached.
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// Groups below may have programs of their own, and all are asked.
const ALLOW_MULTI: u32 = 2;

/// Most programs one group is asked for.
const MAX_PROGRAMS: usize = 64;

/// Makes a call of bpf(2) with an attribute of its own.
fn bpf<T>(command: libc::c_int, attribute: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: every attribute here is a plain structure with the layout of the
    // command's member of `union bpf_attr`, followed by nothing; what its
    // addresses point to lives through the call, as its makers below see to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attribute),
            size_of::<T>(),
        )
    };
    if result < 0 {
        // SAFETY: the location is the calling thread's own and always valid.
        Err(Errno::from_raw_os_error(unsafe {
            *libc::__errno_location()
        }))
    } else {
        Ok(result)
    }
}

fn descriptor(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let file = i32::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: the commands this is called for answer with a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// Loads a program about devices.
pub(crate) fn load(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        n_instructions: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let mut attribute = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        n_instructions: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    bpf(PROG_LOAD, &mut attribute).and_then(descriptor)
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// The number of a descriptor as attributes have it.
fn number(file: BorrowedFd<'_>) -> u32 {
    // Descriptors that are borrowed are not negative.
    file.as_raw_fd().unsigned_abs()
}

/// Attaches a program to a group, beside those that are attached already.
pub(crate) fn attach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attribute = Attach {
        target: number(group),
        program: number(program),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        ..Attach::default()
    };
    bpf(PROG_ATTACH, &mut attribute).map(drop)
}

/// Detaches a program from a group.
pub(crate) fn detach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attribute = Attach {
        target: number(group),
        program: number(program),
        kind: CGROUP_DEVICE,
        ..Attach::default()
    };
    bpf(PROG_DETACH, &mut attribute).map(drop)
}

/// The programs about devices that are attached to a group itself.
pub(crate) fn attached(group: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        n_ids: u32,
        padding: u32,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Find {
        id: u32,
        next: u32,
        flags: u32,
    }
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut query = Query {
        target: number(group),
        kind: CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        n_ids: u32::try_from(MAX_PROGRAMS).unwrap_or(u32::MAX),
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    let n_ids = usize::try_from(query.n_ids).unwrap_or(0).min(MAX_PROGRAMS);
    let find = |id: &u32| {
        let mut find = Find {
            id: *id,
            ..Find::default()
        };
        bpf(PROG_GET_FD_BY_ID, &mut find).and_then(descriptor)
    };
    ids[..n_ids].iter().map(find).collect()
}
