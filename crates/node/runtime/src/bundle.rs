//! A bundle: a directory with a configuration, read once.

use std::path::{Path, PathBuf};

use crate::error::{Result, RuntimeError};
use crate::spec::Spec;

/// Longest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// A bundle that was read (bundle.md).
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    spec: Spec,
    text: Vec<u8>,
}

impl Bundle {
    /// Reads `config.json` of a directory.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Io`], and [`RuntimeError::Parse`] for what is no
    /// configuration or longer than 16 MiB.
    pub fn open(path: &Path) -> Result<Self> {
        use std::io::Read;
        let file = path.join("config.json");
        let mut text = Vec::new();
        std::fs::File::open(&file)
            .and_then(|file| {
                let length = file.metadata()?.len().min(MAX_CONFIG);
                text.reserve_exact(usize::try_from(length).unwrap_or(0) + 1);
                file.take(MAX_CONFIG).read_to_end(&mut text)
            })
            .map_err(|error| RuntimeError::io("read", &file, error))?;
        let spec = serde_json::from_slice(&text)
            .map_err(|source| RuntimeError::Parse { path: file, source })?;
        Ok(Self {
            path: path.to_owned(),
            spec,
            text,
        })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its configuration.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The configuration as it was written.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }
}
