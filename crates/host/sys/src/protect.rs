//! Protection of the running executable against those it is about to start.
//!
//! A process in a container can reach the program that started it through
//! `/proc/PID/exe` and, being root, write to it (CVE-2019-5736). So the program
//! runs from a read-only mount that exists nowhere but in its own descriptor.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};

use crate::mount::{self, Attributes, Depth};
use crate::{Errno, Result, last_errno, resolve};

/// An executable file on a read-only mount of its own. Started by the path of
/// the descriptor (`/proc/self/fd/N`), it cannot be written to by what it starts.
///
/// # Errors
///
/// What open_tree(2) and mount_setattr(2) say.
pub fn read_only(executable: &std::path::Path) -> Result<OwnedFd> {
    let path = CString::new(executable.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let tree = mount::copy(CWD, &path, Depth::One)?;
    mount::change(tree.as_fd(), c"", Depth::One, Attributes::READ_ONLY, None)?;
    Ok(tree)
}

/// Whether the running executable cannot be written to through `/proc/PID/exe`.
///
/// # Errors
///
/// What the file calls say; `EXDEV` if `/proc` is not what it should be.
pub fn is_protected() -> Result<bool> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let proc = resolve::open_proc()?;
    let file = rustix::fs::openat(proc, c"self/exe", flags, Mode::empty())?;
    Ok(rustix::fs::fstatvfs(&file)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY))
}

/// Starts the running program over from a read-only mount, unless it runs from
/// one already. Returns only if it does, or if that failed.
///
/// # Errors
///
/// What the mount calls and execveat(2) say.
pub fn re_execute() -> Result<()> {
    if is_protected()? {
        return Ok(());
    }
    let tree = read_only("/proc/self/exe".as_ref())?;
    let arguments: Vec<CString> = std::env::args_os()
        .map(|argument| CString::new(argument.as_bytes()).map_err(|_| Errno::INVAL))
        .collect::<Result<_>>()?;
    let mut pointers: Vec<*const libc::c_char> =
        arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let empty: &CStr = c"";
    // SAFETY: both arrays end with a null pointer and live through the call;
    // `environ` is read while this program has one thread.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            tree.as_raw_fd(),
            empty.as_ptr(),
            pointers.as_ptr(),
            environ,
            libc::AT_EMPTY_PATH,
        );
    }
    Err(last_errno())
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}
