//! Between archives and directories: unpacking strangers' tars without letting
//! them out, and packing directories up.
//!
//! Everything is relative to a directory's descriptor. Paths are resolved by
//! the kernel with `openat2` and `RESOLVE_IN_ROOT`, so that neither `..`, nor
//! an absolute path, nor a symbolic link planted by an earlier entry leads
//! outside.

mod ahead;
mod compress;
mod pack;
mod remove;
mod unpack;

pub(crate) use ahead::Ahead;
pub use compress::{Decompressor, sniff};
pub(crate) use pack::is_opaque;
pub use pack::{PackOptions, Packed, attributes, names, pack};
pub(crate) use remove::remove_layer;
pub use remove::remove_tree;
pub use unpack::{
    Devices, Ownership, Replace, UnpackOptions, Unpacked, Whiteouts, clean, unpack, unpack_edited,
};

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The overlay attribute that marks a directory as hiding the one below.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// How layers spell that something below is gone.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// How layers spell that a directory hides the one below.
pub(crate) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// Opens `path` as if `root` were `/`: absolute paths, `..` and symbolic links
/// stay inside. An empty path is the root itself.
pub fn open_in(root: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        let opened = rustix::fs::openat2(
            root.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        match opened {
            // The tree changed while `..` was being walked: look again.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
