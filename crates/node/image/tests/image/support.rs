//! Throw-away stores, and archives made by hand.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dhow_content::Store;
use dhow_image::tar::{Entry, Kind, Writer};
use dhow_image::{Image, Images, Import, Limits, Options, RegistryOptions};
use dhow_oci::{Digest, Platform, Reference};

pub struct Machine {
    pub directory: tempfile::TempDir,
    pub images: Images,
}

impl Machine {
    pub fn new() -> Machine {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::open(options(directory.path())).unwrap();
        Machine { directory, images }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Closes the store and opens it again.
    pub fn restart(self) -> Machine {
        let Machine { directory, images } = self;
        drop(images);
        let images = Images::open(options(directory.path())).unwrap();
        Machine { directory, images }
    }

    pub fn import(&self, tar: &[u8], name: &str) -> Arc<Image> {
        let import = Import {
            name: Some(name.parse().unwrap()),
            ..Import::default()
        };
        self.images.import(&mut &tar[..], import).unwrap()
    }

    /// See [`audit`].
    pub fn audit(&self) {
        audit(self.directory.path());
    }

    pub fn n_blobs(&self) -> usize {
        names_in(&self.directory.path().join("content/blobs/sha256")).len()
    }

    pub fn n_snapshots(&self) -> usize {
        names_in(&self.root().join("snapshots")).len()
    }
}

/// Every blob is whole, nothing is half done, every snapshot is complete.
pub fn audit(directory: &Path) {
    let content = directory.join("content");
    for entry in std::fs::read_dir(content.join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let digest = Digest::of(&std::fs::read(entry.path()).unwrap());
        assert_eq!(digest.hex(), entry.file_name().to_str().unwrap());
    }
    let root = directory.join("image");
    for empty in ["drafts", "layers", "doomed", "empty"] {
        let left = names_in(&root.join(empty));
        assert!(left.is_empty(), "{empty}: {left:?}");
    }
    for snapshot in names_in(&root.join("snapshots")) {
        let path = root.join("snapshots").join(snapshot);
        assert_eq!(names_in(&path), ["fs", "layer.json"]);
    }
}

pub fn options(directory: &Path) -> Options {
    Options {
        root: directory.join("image"),
        content: Store::open(&directory.join("content")).unwrap(),
        platform: Platform::host(),
        limits: Limits {
            unpacked_bytes: 1 << 30,
            entries: 10_000,
            ..Limits::default()
        },
        registries: RegistryOptions::default(),
        now: SystemTime::now,
    }
}

pub fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap().or_latest()
}

/// An archive in the making.
pub struct Tar(Writer<Vec<u8>>);

impl Tar {
    pub fn new() -> Tar {
        Tar(Writer::new(Vec::new()))
    }

    pub fn entry(mut self, entry: &Entry, data: &[u8]) -> Tar {
        self.0.append(entry, &mut &data[..]).unwrap();
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Tar {
        let mut entry = Entry::new(Kind::File, path);
        entry.size = data.len() as u64;
        self.entry(&entry, data)
    }

    pub fn directory(self, path: &str) -> Tar {
        self.entry(&Entry::new(Kind::Directory, path), b"")
    }

    pub fn link(self, kind: Kind, path: &str, target: &str) -> Tar {
        let mut entry = Entry::new(kind, path);
        entry.link = target.into();
        self.entry(&entry, b"")
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A small root filesystem.
pub fn base() -> Vec<u8> {
    Tar::new()
        .directory("etc")
        .file("etc/motd", b"hello\n")
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        .directory("bin")
        .file("bin/tool", b"#!/bin/sh\n")
        .link(Kind::HardLink, "bin/alias", "bin/tool")
        .link(Kind::Symlink, "sbin", "bin")
        .directory("var")
        .directory("var/lib")
        .file("var/lib/data", &[7; 100_000])
        .finish()
}
