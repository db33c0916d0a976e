//! Programs in the form execve(2) takes, prepared while allocation is allowed.

use std::ffi::{CStr, CString};
use std::fmt;

use rustix::fs::{Access, AtFlags, CWD, FileType};

use crate::{Errno, Result, last_errno};

/// A program, its arguments and its environment, with the pointer arrays ready.
pub struct Program {
    /// Paths it may be found at, in order.
    candidates: Vec<CString>,
    /// What the pointers point into; their heap does not move with the vector.
    arguments: Vec<CString>,
    _environment: Vec<CString>,
    argument_pointers: Vec<*const libc::c_char>,
    environment_pointers: Vec<*const libc::c_char>,
}

impl Program {
    /// Prepares a program. `candidates` are the paths it may be found at: one if
    /// it was named by a path, one for each directory of `PATH` otherwise.
    #[must_use]
    pub fn new(
        candidates: Vec<CString>,
        arguments: Vec<CString>,
        environment: Vec<CString>,
    ) -> Self {
        let pointers = |texts: &[CString]| {
            texts
                .iter()
                .map(|text| text.as_ptr())
                .chain([std::ptr::null()])
                .collect()
        };
        Self {
            argument_pointers: pointers(&arguments),
            environment_pointers: pointers(&environment),
            candidates,
            arguments,
            _environment: environment,
        }
    }

    /// Name the program was called by.
    #[must_use]
    pub fn name(&self) -> &CStr {
        self.arguments
            .first()
            .or(self.candidates.first())
            .map_or(c"", |name| name.as_c_str())
    }

    /// The first candidate that can be executed. `EACCES` is preferred to
    /// `ENOENT` as the reason why none can. Allocates nothing.
    pub(super) fn find(&self) -> Result<&CStr> {
        let mut reason = Errno::NOENT;
        for candidate in &self.candidates {
            match executable(candidate) {
                Ok(()) => return Ok(candidate),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    /// Replaces this process; returns only on failure. Allocates nothing.
    pub(super) fn execute(&self) -> Errno {
        match self.find() {
            Ok(path) => self.execute_at(path),
            Err(error) => error,
        }
    }

    pub(super) fn execute_at(&self, path: &CStr) -> Errno {
        // SAFETY: both arrays end with a null pointer, and what they point to
        // lives as long as `self`.
        unsafe {
            libc::execve(
                path.as_ptr(),
                self.argument_pointers.as_ptr(),
                self.environment_pointers.as_ptr(),
            );
        }
        last_errno()
    }
}

fn executable(path: &CStr) -> Result<()> {
    let stat = rustix::fs::stat(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::ACCESS),
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // Before faccessat2 the effective identity cannot be asked for.
        Err(Errno::NOSYS) => rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()),
        result => result,
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(&self.arguments).finish()
    }
}

/// A program that a step runs to its end before the next step.
#[derive(Debug)]
pub struct Script {
    /// The program; it gets the maker's last message on its standard input.
    pub program: Program,
    /// Milliseconds after which it is killed and counts as failed; negative waits for ever.
    pub timeout: i32,
}
