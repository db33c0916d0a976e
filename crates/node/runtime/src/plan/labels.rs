//! Labels of SELinux: of the program, its keys, and what is mounted for it.

use std::ffi::CString;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use dhow_sys::mount::Parameter;

use super::text;
use crate::error::{Result, RuntimeError};
use crate::spec::{Linux, Process};

/// Where the kernel tells whether a context is one of its policy.
const CHECK: &str = "/sys/fs/selinux/context";

/// Whether the kernel has SELinux.
pub(super) fn are_known() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The label of a program; none if nothing is asked for.
pub(super) fn of_process(process: &Process) -> Result<Option<CString>> {
    checked("process.selinuxLabel", &process.selinux_label)
}

/// The label of what is mounted; none if nothing is asked for.
pub(super) fn of_mounts(linux: &Linux) -> Result<Option<CString>> {
    checked("linux.mountLabel", &linux.mount_label)
}

/// The same as a parameter of a new filesystem.
pub(super) fn context(linux: &Linux) -> Result<Option<Parameter>> {
    let label = of_mounts(linux)?;
    Ok(label.map(|label| Parameter::Text(c"context".into(), label)))
}

/// A label that the kernel knows.
fn checked(field: &str, label: &str) -> Result<Option<CString>> {
    if label.is_empty() {
        return Ok(None);
    }
    if !are_known() {
        return Err(RuntimeError::spec(field, "this kernel has no SELinux"));
    }
    let asked = std::fs::File::options()
        .write(true)
        .open(CHECK)
        .and_then(|mut file| file.write_all(label.as_bytes()));
    match asked {
        Err(error) if error.kind() == ErrorKind::InvalidInput => Err(RuntimeError::spec(
            field,
            format!("the policy of SELinux that is loaded knows no label {label:?}"),
        )),
        // Who may not ask will be told when it is applied.
        _ => text(field, label).map(Some),
    }
}
