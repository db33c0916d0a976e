//! The files a build may copy: a directory, or a tar unpacked into one.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use dhow_image::archive::{
    Decompressor, Devices, Ownership, Replace, UnpackOptions, Whiteouts, open_in, unpack,
};
use dhow_image::tar::{Archive, ReadLimits};
use rustix::fs::OFlags;

use crate::diagnose::{Error, Result, at};
use crate::ignore::Ignore;

/// A `.dockerignore` or Dockerfile larger than this is none.
const MAX_TEXT: u64 = 4 << 20;

/// Where the files of a build come from.
pub enum Context {
    /// A tar, compressed or not, as the Docker API takes it.
    Tar(Box<dyn Read + Send>),
    /// A directory.
    Directory(PathBuf),
}

/// A context that is on disk.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) root: OwnedFd,
    pub(crate) ignore: Ignore,
    /// Removed with the build.
    _unpacked: Option<tempfile::TempDir>,
}

impl Files {
    /// Puts the context on disk, if it is not there; tars go below `scratch`.
    pub(crate) fn open(context: Context, scratch: &Path, limits: ReadLimits) -> Result<Files> {
        let (path, unpacked) = match context {
            Context::Directory(path) => (path, None),
            Context::Tar(input) => {
                std::fs::create_dir_all(scratch).map_err(at("create", scratch))?;
                let directory = tempfile::Builder::new()
                    .prefix("context-")
                    .tempdir_in(scratch)
                    .map_err(at("create a directory in", scratch))?;
                take_in(input, directory.path(), limits)?;
                (directory.path().to_owned(), Some(directory))
            }
        };
        let root: OwnedFd = File::open(&path).map_err(at("open context", &path))?.into();
        let mut files = Files {
            root,
            ignore: Ignore::default(),
            _unpacked: unpacked,
        };
        if let Some(text) = files.text(".dockerignore")? {
            files.ignore = Ignore::parse(&text);
        }
        Ok(files)
    }

    /// The text of a file, if there is one.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>> {
        // A pipe or a device in its place must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match open_in(&self.root, path.as_bytes(), flags) {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("open", path)(error)),
        };
        if !file.metadata().map_err(at("look at", path))?.is_file() {
            return Err(Error::Invalid(format!("{path} is not a file")));
        }
        let mut bytes = Vec::new();
        file.take(MAX_TEXT + 1)
            .read_to_end(&mut bytes)
            .map_err(at("read", path))?;
        if bytes.len() as u64 > MAX_TEXT {
            return Err(Error::Invalid(format!(
                "{path} has more than {MAX_TEXT} bytes"
            )));
        }
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Error::Invalid(format!("{path} is not UTF-8 text")))
    }
}

fn take_in(input: Box<dyn Read + Send>, directory: &Path, limits: ReadLimits) -> Result<()> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
            Error::Invalid(format!("build context: {error}"))
        }
        _ => at("unpack the build context into", directory)(error),
    };
    let root = File::open(directory).map_err(at("open", directory))?;
    let plain = Decompressor::new(input).map_err(failed)?;
    let mut archive = Archive::new(plain, limits);
    let options = UnpackOptions {
        whiteouts: Whiteouts::Literal,
        // What is copied belongs to root unless told otherwise.
        ownership: Ownership::Fixed { uid: 0, gid: 0 },
        devices: Devices::Refuse,
        replace: Replace::Anything,
    };
    unpack(&mut archive, &root, options).map_err(failed)?;
    archive.finish().map_err(failed)
}
