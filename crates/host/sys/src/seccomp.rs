//! Loading of system-call filters; their making is not done here.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

/// One instruction of classic BPF, in the kernel's layout.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions skipped if the condition holds.
    pub jt: u8,
    /// Instructions skipped if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Most instructions the kernel takes.
pub const N_INSTRUCTIONS: usize = 4096;

/// A program and the `SECCOMP_FILTER_FLAG_*` it is loaded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program.
    pub program: Vec<Instruction>,
    /// Flags of seccomp(2).
    pub flags: u32,
}

/// Flag of a filter that asks: loading it gives the descriptor it asks through.
pub const NEW_LISTENER: u32 = 1 << 3;

/// Loads a filter into this thread; one that asks gives its descriptor. Allocates
/// nothing.
///
/// # Errors
///
/// What seccomp(2) says; `EACCES` without `no_new_privs` and `CAP_SYS_ADMIN`.
pub(crate) fn load(filter: &Filter) -> Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    let length = u16::try_from(filter.program.len()).map_err(|_| Errno::INVAL)?;
    let program = Program {
        length,
        instructions: filter.program.as_ptr(),
    };
    // SAFETY: the program and its instructions live through the call, and
    // `Instruction` has the layout of `struct sock_filter`.
    let answer = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            filter.flags,
            &raw const program,
        )
    })?;
    if filter.flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let file = i32::try_from(answer).map_err(|_| Errno::BADF)?;
    // SAFETY: with that flag the answer is a fresh descriptor.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(file) }))
}
