//! Loading of system-call filters; their making is not done here.

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

/// Loads a filter into this thread. Allocates nothing.
///
/// # Errors
///
/// What seccomp(2) says; `EACCES` without `no_new_privs` and `CAP_SYS_ADMIN`.
pub(crate) fn load(filter: &Filter) -> Result<()> {
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
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            filter.flags,
            &raw const program,
        )
    })
    .map(drop)
}
