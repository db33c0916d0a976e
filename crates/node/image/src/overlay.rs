//! Detached overlay mounts: a merged view that no mount table sees and that
//! ends with its descriptor.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dhow_sys::{Errno, mount as kernel};

use crate::{Error, Result};

/// The writable part of an overlay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writable<'a> {
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
}

/// Mounts the layers of `lower`, topmost first, and returns the merged root.
/// Without a writable part there must be two layers or more.
pub(crate) fn mount(lower: &[PathBuf], writable: Option<Writable<'_>>) -> Result<OwnedFd> {
    attempt(lower, writable).map_err(|source| Error::Overlay {
        layers: lower.len(),
        source: source.into(),
    })
}

fn attempt(lower: &[PathBuf], writable: Option<Writable<'_>>) -> dhow_sys::Result<OwnedFd> {
    let names = lower.iter().map(|path| name(path));
    let names = names.collect::<dhow_sys::Result<Vec<CString>>>()?;
    let lower: Vec<&CStr> = names.iter().map(CString::as_c_str).collect();
    match writable {
        Some(Writable { upper, work }) => {
            kernel::overlay(&lower, &name(upper)?, &name(work)?, None)
        }
        None => kernel::view(&lower, None, None, None),
    }
}

fn name(path: &Path) -> dhow_sys::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}
