//! The tar format: a bounded reader and a deterministic writer.
//!
//! Both are about headers and bytes only. What an archive may do to a
//! directory is decided in [`crate::archive`].

mod pax;
mod read;
mod write;

pub use read::{Archive, ReadLimits};
pub use write::Writer;

/// Size of a header and the unit of padding.
const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of a file that came before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A stretch of data in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// One entry of an archive, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path, as written.
    pub path: Vec<u8>,
    /// Target of a link, as written.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id bits and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of the file in bytes, holes included.
    pub size: u64,
    /// Modification time: seconds since the epoch, and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data of a sparse file goes; none for other files.
    pub sparse: Option<Vec<Extent>>,
}

impl Entry {
    /// An entry of this kind and path, owned by root, from 1970.
    pub fn new(kind: Kind, path: impl Into<Vec<u8>>) -> Entry {
        Entry {
            path: path.into(),
            link: Vec::new(),
            kind,
            mode: if kind == Kind::Directory {
                0o755
            } else {
                0o644
            },
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}
