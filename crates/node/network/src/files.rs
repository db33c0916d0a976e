//! The files that the state is kept in.
//!
//! ```text
//! DATA/networks.json            definitions; survives a reboot
//! RUN/netns/SANDBOX             a sandbox's network namespace: pinned there, or a
//!                               link to where its holder has it
//! RUN/endpoints/SANDBOX.json    endpoints of that sandbox; gone with a reboot
//! ```
//!
//! Both kinds of file are replaced by rename.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::spec::Network;

/// Where the files are.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    data: PathBuf,
    run: PathBuf,
}

impl Files {
    /// Makes the folders if they are not there.
    pub(crate) fn open(data: &Path, run: &Path) -> Result<Self, Error> {
        let files = Self {
            data: data.into(),
            run: run.into(),
        };
        for folder in [files.data.clone(), files.pins(), files.endpoints()] {
            fs::create_dir_all(&folder).map_err(Error::file(folder))?;
        }
        Ok(files)
    }

    fn pins(&self) -> PathBuf {
        self.run.join("netns")
    }

    fn endpoints(&self) -> PathBuf {
        self.run.join("endpoints")
    }

    /// Where a sandbox's network namespace is found.
    pub(crate) fn pin(&self, sandbox: &str) -> PathBuf {
        self.pins().join(sandbox)
    }

    /// Makes the pin of a sandbox a link to `holder`.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when there is one already, or it cannot be made.
    pub(crate) fn make_pin_link(&self, sandbox: &str, holder: &Path) -> Result<(), Error> {
        let path = self.pin(sandbox);
        symlink(holder, &path).map_err(Error::file(path))
    }

    /// Replaces the pin of a sandbox, a link, by one to `holder`.
    pub(crate) fn link_pin(&self, sandbox: &str, holder: &Path) -> Result<(), Error> {
        let path = self.pin(sandbox);
        let temporary = self.run.join(format!("{sandbox}.link"));
        let replace = || -> io::Result<()> {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            symlink(holder, &temporary)?;
            fs::rename(&temporary, &path)
        };
        replace().map_err(Error::file(path))
    }

    /// Names of all sandboxes.
    pub(crate) fn pinned(&self) -> Result<Vec<String>, Error> {
        let folder = self.pins();
        let entries = fs::read_dir(&folder).map_err(Error::file(folder))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }

    /// The definitions of all networks.
    pub(crate) fn read_networks(&self) -> Result<Vec<Network>, Error> {
        Ok(read(&self.data.join("networks.json"))?.unwrap_or_default())
    }

    /// Replaces the definitions of all networks.
    pub(crate) fn write_networks<'a>(
        &self,
        networks: impl Iterator<Item = &'a Network>,
    ) -> Result<(), Error> {
        let networks: Vec<&Network> = networks.collect();
        let bytes = serde_json::to_vec_pretty(&networks).expect("networks are plain values");
        write(&self.data.join("networks.json"), &bytes, Durability::Disk)
    }

    /// The endpoints of all sandboxes, with the file of each.
    pub(crate) fn read_endpoints(&self) -> Result<Vec<(PathBuf, Vec<Endpoint>)>, Error> {
        let folder = self.endpoints();
        let mut all = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::file(&folder))? {
            let path = entry.map_err(Error::file(&folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // What a crash left half written.
                fs::remove_file(&path).map_err(Error::file(path))?;
                continue;
            }
            if let Some(endpoints) = read(&path)? {
                all.push((path, endpoints));
            }
        }
        Ok(all)
    }

    /// Replaces the endpoints of a sandbox; none removes the file.
    pub(crate) fn write_endpoints(
        &self,
        sandbox: &str,
        endpoints: &[Endpoint],
    ) -> Result<(), Error> {
        let path = self.endpoints().join(format!("{sandbox}.json"));
        if endpoints.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::file(path)(error))
                }
                _ => Ok(()),
            };
        }
        let bytes = serde_json::to_vec(&endpoints).expect("endpoints are plain values");
        write(&path, &bytes, Durability::Process)
    }
}

/// What a file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// The end of this process.
    Process,
    /// The end of power.
    Disk,
}

fn write(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        fs::write(&temporary, bytes)?;
        if durability == Durability::Disk {
            fs::File::open(&temporary)?.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if let (Durability::Disk, Some(folder)) = (durability, path.parent()) {
            fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .map_err(Error::file(path))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::file(path)(io::Error::new(io::ErrorKind::InvalidData, error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path)(error)),
    }
}
