//! Docker's `config.json`: what its users have settled once.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::Error;

/// The folder with Docker's configuration: `DOCKER_CONFIG` or `~/.docker`.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")))
        .unwrap_or_else(|| PathBuf::from("/root/.docker"))
}

/// The file and what is in it.
#[derive(Debug)]
pub(crate) struct Config {
    path: PathBuf,
    pub(crate) values: Value,
}

impl Config {
    /// Reads `config.json` in a folder; one that is not there is empty.
    ///
    /// # Errors
    ///
    /// If it is there but cannot be read.
    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("config.json");
        let values = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Error::Usage(format!("{} is no valid JSON: {error}", path.display()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(Error::File(path.display().to_string(), error)),
        };
        Ok(Self { path, values })
    }

    /// A setting that is a text, unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values[name].as_str().filter(|text| !text.is_empty())
    }

    /// Variables that tell programs of proxies, in both cases of their names,
    /// as they are settled for a daemon or for all.
    pub(crate) fn proxies(&self, host: &str) -> Vec<(String, String)> {
        let all = &self.values["proxies"];
        let mut own = [host, "default"].into_iter().map(|name| &all[name]);
        let Some(own) = own.find(|own| own.is_object()) else {
            return Vec::new();
        };
        let settled = [
            ("httpProxy", "HTTP_PROXY"),
            ("httpsProxy", "HTTPS_PROXY"),
            ("noProxy", "NO_PROXY"),
            ("ftpProxy", "FTP_PROXY"),
            ("allProxy", "ALL_PROXY"),
        ];
        let settled = settled.into_iter().filter_map(|(field, name)| {
            let value = own[field].as_str().filter(|value| !value.is_empty())?;
            Some([name.to_owned(), name.to_ascii_lowercase()].map(|name| (name, value.to_owned())))
        });
        settled.flatten().collect()
    }

    /// Replaces the file as a whole, readable for its owner only.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be written.
    pub(crate) fn write(&self) -> Result<(), Error> {
        // Where it is a symbolic link, what it leads to is replaced.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |error| Error::File(path.display().to_string(), error);
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(failed)?;
        let new = path.with_extension(format!("json.{}", std::process::id()));
        let written = (|| {
            let mut file = fs::File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            let text = serde_json::to_string_pretty(&self.values)?;
            file.write_all(text.as_bytes())?;
            // It may have been wider on purpose.
            if let Ok(metadata) = fs::metadata(&path) {
                file.set_permissions(fs::Permissions::from_mode(
                    metadata.permissions().mode() & 0o7777,
                ))?;
            }
            file.sync_all()?;
            fs::rename(&new, &path)
        })();
        if written.is_err() {
            // The first error is the one that matters.
            let _ = fs::remove_file(&new);
        }
        written.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_those_of_the_daemon_or_of_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = r#"{"proxies":{"default":{"httpProxy":"a","noProxy":""},"tcp://h:1":{"allProxy":"b"}}}"#;
        fs::write(folder.path().join("config.json"), text).expect("written");
        let config = Config::read(folder.path()).expect("good");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            config.proxies("unix:///x"),
            [pair("HTTP_PROXY", "a"), pair("http_proxy", "a")]
        );
        assert_eq!(
            config.proxies("tcp://h:1"),
            [pair("ALL_PROXY", "b"), pair("all_proxy", "b")]
        );
    }
}
