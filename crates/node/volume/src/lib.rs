//! Named volumes: folders with a name, labels and a life of their own.
//!
//! ```text
//! ROOT/NAME/volume.json    what it is
//! ROOT/NAME/_data          what it holds
//! ```
//!
//! A volume exists from the moment its folder has its name: it is made under
//! another name and renamed, and removed the other way round, so that a crash
//! leaves no half volume; its first files come all at once (`filling.rs`). A volume with driver options is mounted over its data
//! folder while it is used; who uses it, the callers know.

mod filling;
mod mount;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use mount::{Filesystem, is_mounted, unmount};

/// Folders whose names start so are on their way in or out.
const PASSING: &str = ".passing-";

/// Why an operation on volumes failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No volume has this name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// The name is too short.
    #[error(
        "create {0}: volume name is too short, names should be at least two alphanumeric characters"
    )]
    ShortName(String),
    /// The name is not acceptable.
    #[error(
        "create {0}: {0:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    InvalidName(String),
    /// Driver options make no sense.
    #[error("create {name}")]
    Options {
        /// The volume.
        name: String,
        /// What is wrong with them.
        source: OptionError,
    },
    /// What the volume stands for could not be mounted.
    #[error("error while mounting volume '{}': {why}", path.display())]
    Mount {
        /// The volume's data folder.
        path: PathBuf,
        /// What the kernel or a name server said.
        why: String,
    },
    /// There is a volume of that name with other options.
    #[error(
        "a volume named {0} already exists with different driver options; remove it first or choose another name"
    )]
    OtherOptions(String),
    /// The disk refused.
    #[error("{action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

pub use mount::{OptionError, check_options};

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options as given, for display.
    pub options: BTreeMap<String, String>,
    /// Made for a container that did not name it.
    pub is_anonymous: bool,
}

/// The volumes below one folder.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
    volumes: Mutex<BTreeMap<String, Volume>>,
    /// Held while something is mounted or unmounted: two mounts of a volume
    /// would lie over each other. A server that does not answer holds it long,
    /// so it is not the lock of the table.
    mounting: Mutex<()>,
    /// Held while a volume gets its first files.
    filling: Mutex<()>,
}

impl Volumes {
    /// Opens the volumes below `root`, making the folder if there is none, and
    /// removes what a crash left half-way.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the folder or a volume in it cannot be read.
    pub fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root).map_err(at("make", root))?;
        let mut volumes = BTreeMap::new();
        for entry in fs::read_dir(root).map_err(at("read", root))? {
            let path = entry.map_err(at("read", root))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.starts_with(PASSING) {
                unmount_below(&path)?;
                fs::remove_dir_all(&path).map_err(at("remove", &path))?;
                continue;
            }
            let file = path.join("volume.json");
            let bytes = fs::read(&file).map_err(at("read", &file))?;
            let volume: Volume = serde_json::from_slice(&bytes).map_err(|error| {
                at("read", &file)(io::Error::new(io::ErrorKind::InvalidData, error))
            })?;
            filling::settle(&path).map_err(at("fill volume", &path))?;
            volumes.insert(name.to_owned(), volume);
        }
        Ok(Self {
            root: root.into(),
            volumes: Mutex::new(volumes),
            mounting: Mutex::default(),
            filling: Mutex::default(),
        })
    }

    /// Makes a volume, or returns the one of that name; `true` if it is new.
    ///
    /// # Errors
    ///
    /// As [`check_name`], [`Error::Options`], [`Error::OtherOptions`], or
    /// [`Error::File`] when the disk refuses.
    pub fn create(&self, volume: Volume) -> Result<(Volume, bool), Error> {
        check_name(&volume.name)?;
        check_options(&volume.options).map_err(|source| Error::Options {
            name: volume.name.clone(),
            source,
        })?;
        let mut volumes = self.volumes.lock();
        if let Some(found) = volumes.get(&volume.name) {
            if !volume.options.is_empty() && volume.options != found.options {
                return Err(Error::OtherOptions(volume.name));
            }
            return Ok((found.clone(), false));
        }
        let passing = self.root.join(format!("{PASSING}{}", volume.name));
        let data = passing.join("_data");
        let bytes = serde_json::to_vec_pretty(&volume).expect("a volume is plain values");
        let made = fs::create_dir_all(&data)
            .and_then(|()| fs::write(passing.join("volume.json"), bytes))
            .and_then(|()| fs::File::open(passing.join("volume.json"))?.sync_all())
            .and_then(|()| fs::rename(&passing, self.root.join(&volume.name)))
            .and_then(|()| fs::File::open(&self.root)?.sync_all());
        if let Err(error) = made {
            let _ = fs::remove_dir_all(&passing);
            return Err(at("make", passing)(error));
        }
        volumes.insert(volume.name.clone(), volume.clone());
        Ok((volume, true))
    }

    /// The volume of this name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVolume`].
    pub fn get(&self, name: &str) -> Result<Volume, Error> {
        self.volumes
            .lock()
            .get(name)
            .cloned()
            .ok_or_else(|| Error::NoSuchVolume(name.into()))
    }

    /// All volumes, by name.
    pub fn list(&self) -> Vec<Volume> {
        self.volumes.lock().values().cloned().collect()
    }

    /// Removes a volume with what it holds. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVolume`], or [`Error::File`] when the disk refuses.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let passing = self.root.join(format!("{PASSING}{name}"));
        {
            let mut volumes = self.volumes.lock();
            if volumes.remove(name).is_none() {
                return Err(Error::NoSuchVolume(name.into()));
            }
            fs::rename(self.root.join(name), &passing).map_err(at("remove", &passing))?;
        }
        // What it stands for is not ours to remove.
        unmount_below(&passing)?;
        fs::remove_dir_all(&passing).map_err(at("remove", &passing))
    }

    /// Mounts what a volume stands for over its data folder, unless that is
    /// done already or the folder itself is the volume. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVolume`], [`Error::Mount`].
    pub fn mount(&self, name: &str) -> Result<(), Error> {
        let Some(filesystem) = Filesystem::of(&self.get(name)?.options) else {
            return Ok(());
        };
        let _mounting = self.mounting.lock();
        let path = self.data(name);
        if is_mounted(&path).map_err(at("look at", &path))? {
            return Ok(());
        }
        filesystem
            .mount(&path)
            .map_err(|why| Error::Mount { path, why })
    }

    /// Takes away what [`Volumes::mount`] mounted, if anything. A volume that
    /// is gone has nothing mounted.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the kernel refuses.
    pub fn unmount(&self, name: &str) -> Result<(), Error> {
        match self.get(name) {
            Ok(volume) if !volume.options.is_empty() => {}
            _ => return Ok(()),
        }
        let _mounting = self.mounting.lock();
        let path = self.data(name);
        unmount(&path).map_err(at("unmount", &path))
    }

    /// Gives an empty volume its first files, unless it has some: `copy` is given the
    /// folder to copy them to, whose owner, mode and times the volume's becomes. A crash
    /// leaves all of them or none; they are on disk when this returns. What is mounted
    /// over a volume is filled as it is. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVolume`], or [`Error::File`] when the disk refuses.
    pub fn fill(
        &self,
        name: &str,
        copy: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), Error> {
        let has_mount = Filesystem::of(&self.get(name)?.options).is_some();
        let data = self.data(name);
        // Two at a time would be in each other's way.
        let _filling = self.filling.lock();
        let is_empty = fs::read_dir(&data)
            .map_err(at("read", &data))?
            .next()
            .is_none();
        if !is_empty {
            return Ok(());
        }
        let filled = match has_mount {
            true => copy(&data),
            false => filling::fill(&self.root.join(name), copy),
        };
        filled.map_err(at("fill volume", data))
    }

    /// The folder that holds a volume's data.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }
}

/// Checks that `text` can name a volume: letters, digits, `_`, `.` and `-`, the
/// first a letter or digit, at least two.
///
/// # Errors
///
/// [`Error::ShortName`] and [`Error::InvalidName`].
pub fn check_name(text: &str) -> Result<(), Error> {
    if text.len() == 1 {
        return Err(Error::ShortName(text.into()));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    if begins_well && text.len() <= 255 - PASSING.len() && text.bytes().all(is_plain) {
        Ok(())
    } else {
        Err(Error::InvalidName(text.into()))
    }
}

fn unmount_below(volume: &Path) -> Result<(), Error> {
    let data = volume.join("_data");
    match unmount(&data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("unmount", data)(error)),
        _ => Ok(()),
    }
}

fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> Volume {
        Volume {
            name: name.into(),
            created: "2026-01-01T00:00:00Z".into(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            is_anonymous: false,
        }
    }

    #[test]
    fn volumes_survive_and_half_ones_do_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = Volumes::open(folder.path()).expect("open");
        assert!(volumes.create(volume("data")).expect("made").1);
        assert!(!volumes.create(volume("data")).expect("there already").1);
        fs::write(volumes.data("data").join("file"), "kept").expect("written");
        fs::create_dir_all(folder.path().join(".passing-half/_data")).expect("half a volume");

        let volumes = Volumes::open(folder.path()).expect("open again");
        assert_eq!(volumes.list(), [volume("data")]);
        assert_eq!(
            fs::read(volumes.data("data").join("file")).expect("kept"),
            b"kept"
        );
        assert!(!folder.path().join(".passing-half").exists());

        volumes.remove("data").expect("removed");
        assert!(matches!(
            volumes.remove("data"),
            Err(Error::NoSuchVolume(_))
        ));
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0);
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = Volumes::open(folder.path()).expect("open");
        for name in [
            "",
            "..",
            "../x",
            "a/b",
            ".hidden",
            "-dash",
            "a\0b",
            &"x".repeat(255),
        ] {
            assert!(
                matches!(volumes.create(volume(name)), Err(Error::InvalidName(_))),
                "{name}"
            );
        }
        let error = volumes.create(volume("a")).expect_err("one letter");
        assert!(matches!(error, Error::ShortName(_)), "{error}");
    }
}
