//! A context as a tar archive, as Docker's client exports it: `meta.json`, and
//! certificates at `tls/ENDPOINT/FILE`.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::Error;

/// Most bytes of an archive.
const MOST: u64 = 10 << 20;
/// Bytes of a block of an archive.
const BLOCK: usize = 512;
const META: &str = "meta.json";
const TLS: &str = "tls";

/// What is in the archive.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Packed {
    /// What the context says.
    pub(crate) meta: Value,
    /// Contents by path below `tls`.
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Packed {
    /// The archive's bytes: the same for the same context.
    pub(crate) fn pack(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let meta = self.meta.to_string();
        let mut header = entry(tar::EntryType::Regular, 0o600, meta.len());
        archive.append_data(&mut header, META, meta.as_bytes())?;
        let mut folders = vec![PathBuf::from(TLS)];
        folders.extend(self.files.keys().filter_map(|path| {
            let endpoint = path.parent()?;
            Some(Path::new(TLS).join(endpoint))
        }));
        folders.dedup();
        for folder in folders {
            let mut header = entry(tar::EntryType::Directory, 0o700, 0);
            archive.append_data(&mut header, folder, io::empty())?;
        }
        for (path, bytes) in &self.files {
            let mut header = entry(tar::EntryType::Regular, 0o600, bytes.len());
            archive.append_data(&mut header, Path::new(TLS).join(path), bytes.as_slice())?;
        }
        archive.into_inner()
    }

    /// Reads an archive, which is a stranger's.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for what is no context.
    pub(crate) fn unpack(input: impl Read) -> Result<Self, Error> {
        let broken = |error: io::Error| Error::Usage(format!("invalid context: {error}"));
        let mut text = Vec::new();
        input
            .take(MOST + 1)
            .read_to_end(&mut text)
            .map_err(broken)?;
        if text.len() as u64 > MOST {
            return Err(Error::Usage(format!(
                "invalid context: larger than {MOST} bytes"
            )));
        }
        // Docker's client leaves the last block as long as the file was.
        text.resize(text.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
        let mut archive = tar::Archive::new(text.as_slice());
        let (mut meta, mut files) = (None, BTreeMap::new());
        for found in archive.entries().map_err(broken)? {
            let mut found = found.map_err(broken)?;
            let kind = found.header().entry_type();
            if kind.is_dir() {
                continue;
            }
            let path = found.path().map_err(broken)?.into_owned();
            let unexpected =
                || Error::Usage(format!("{}: unexpected context file", path.display()));
            if !kind.is_file() {
                return Err(unexpected());
            }
            let mut bytes = Vec::new();
            found.read_to_end(&mut bytes).map_err(broken)?;
            let parts: Vec<_> = path
                .components()
                .filter(|part| *part != Component::CurDir)
                .collect();
            match parts[..] {
                [Component::Normal(name)] if name == META => {
                    let value = serde_json::from_slice(&bytes);
                    let value = value.map_err(|error| broken(error.into()))?;
                    meta = Some(value);
                }
                [
                    Component::Normal(folder),
                    Component::Normal(endpoint),
                    Component::Normal(file),
                ] if folder == TLS => {
                    files.insert(Path::new(endpoint).join(file), bytes);
                }
                _ => return Err(unexpected()),
            }
        }
        match meta {
            Some(meta @ Value::Object(_)) => Ok(Self { meta, files }),
            _ => Err(Error::Usage("invalid context: no metadata found".into())),
        }
    }
}

fn entry(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, text) in entries {
            let mut header = entry(tar::EntryType::Regular, 0o600, text.len());
            // As a stranger may name it.
            header.as_gnu_mut().expect("it is").name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, text.as_bytes()).expect("appended");
        }
        archive.into_inner().expect("written")
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let packed = Packed {
            meta: json!({ "Name": "far", "Metadata": {}, "Endpoints": {} }),
            files: [("docker/ca.pem".into(), b"one".to_vec())].into(),
        };
        let bytes = packed.pack().expect("written");
        assert_eq!(Packed::unpack(&bytes[..]).expect("read"), packed);
        // Without the end that an archive should have.
        let short = &bytes[..bytes.len() - 3 * BLOCK + 3];
        assert_eq!(Packed::unpack(short).expect("read"), packed);
        let bare = Packed {
            files: BTreeMap::new(),
            ..packed
        };
        let bytes = bare.pack().expect("written");
        assert_eq!(Packed::unpack(&bytes[..]).expect("read"), bare);
    }

    #[test]
    fn what_is_no_context_is_refused() {
        for (entries, why) in [
            (&[][..], "no metadata found"),
            (&[("meta.json", "[]")], "no metadata found"),
            (&[("meta.json", "{")], "invalid context"),
            (&[("other", "{}")], "other: unexpected context file"),
            (&[("tls/ca.pem", "")], "tls/ca.pem: unexpected"),
            (&[("tls/../x/y", "")], "tls/../x/y: unexpected"),
            (&[("/tls/x/y", "")], "unexpected context file"),
        ] {
            let error = Packed::unpack(&archive(entries)[..]).expect_err(why);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(Packed::unpack(&b"no archive at all"[..]).is_err());
    }
}
