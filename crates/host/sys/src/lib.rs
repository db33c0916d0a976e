//! System calls that processes, mounts and namespaces are made with.
//!
//! What rustix offers is used as it is; what it lacks is wrapped here. The
//! heart is [`child`]: a list of steps, computed beforehand, that a freshly
//! cloned process carries out without allocating, parsing or locking.
//! Nothing here knows what a container is.

pub mod capability;
pub mod child;
pub mod fdpass;
mod file_owner;
pub mod holder;
pub mod idmap;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod protect;
pub mod pty;
pub mod resolve;
pub mod seccomp;
pub mod socket;

pub use file_owner::FileOwner;
pub use rustix::io::Errno;

/// Result of a system call.
pub type Result<T> = std::result::Result<T, Errno>;

/// The error number of the system call that has just failed in libc.
fn last_errno() -> Errno {
    // SAFETY: the location is the calling thread's own and always valid.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// The result of a raw system call made through libc.
fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}
