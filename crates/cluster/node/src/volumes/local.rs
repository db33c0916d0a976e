//! Volumes that are a folder or file of this machine: `emptyDir`, `hostPath`.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource};

use crate::error::Error;
use crate::host::{file_error, make_folder};

/// Makes a folder for everybody, or for a group. What containers have put
/// there stays.
pub(super) fn empty_dir(
    path: &Path,
    source: &EmptyDirVolumeSource,
    group: Option<u32>,
) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let asked = source.mode.and_then(|mode| u32::try_from(mode).ok());
    let mode = asked.unwrap_or(0o777) & 0o7777;
    make_folder(path, mode)?;
    let Some(group) = group else {
        return Ok(());
    };
    std::os::unix::fs::chown(path, None, Some(group))
        .map_err(|error| file_error("change the group of", path, error))?;
    // Files made in it belong to the group as well.
    let permissions = std::fs::Permissions::from_mode(mode | 0o2770);
    std::fs::set_permissions(path, permissions)
        .map_err(|error| file_error("change the mode of", path, error))
}

/// A path of the host, if it is what it should be.
pub(super) fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") {
        return Err(format!("hostPath {} is not absolute", source.path));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = std::fs::metadata(&path).ok();
    let made = |result: Result<(), std::io::Error>| {
        let words = |error| format!("cannot make {}: {error}", source.path);
        result.map_err(words).map(|()| path.clone())
    };
    let fails = |what: &str| {
        Err(format!(
            "hostPath type check failed: {} is not {what}",
            source.path
        ))
    };
    let Some(found) = found else {
        return match kind {
            "" | "DirectoryOrCreate" => made(std::fs::create_dir_all(&path)),
            "FileOrCreate" => {
                let file = std::fs::OpenOptions::new()
                    .create_new(true)
                    .write(true)
                    .open(&path);
                made(file.map(drop))
            }
            "Directory" => fails("a directory"),
            "File" => fails("a file"),
            "Socket" => fails("a socket file"),
            "CharDevice" => fails("a character device"),
            "BlockDevice" => fails("a block device"),
            other => Err(format!("{other} is an invalid volume type")),
        };
    };
    let file_type = found.file_type();
    match kind {
        "" => Ok(path),
        "Directory" | "DirectoryOrCreate" if file_type.is_dir() => Ok(path),
        "File" | "FileOrCreate" if file_type.is_file() => Ok(path),
        "Socket" if file_type.is_socket() => Ok(path),
        "CharDevice" if file_type.is_char_device() => Ok(path),
        "BlockDevice" if file_type.is_block_device() => Ok(path),
        "Directory" | "DirectoryOrCreate" => fails("a directory"),
        "File" | "FileOrCreate" => fails("a file"),
        "Socket" => fails("a socket file"),
        "CharDevice" => fails("a character device"),
        "BlockDevice" => fails("a block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

/// Mode of a folder, for folders made in it.
pub(super) fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).map_or(0o755, |metadata| metadata.mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_belongs_to_its_group() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b");
        let source = EmptyDirVolumeSource::default();
        empty_dir(&path, &source, Some(4321)).expect("made, as root");
        let found = std::fs::metadata(&path).expect("a folder");
        assert_eq!(found.gid(), 4321);
        assert_eq!(found.mode() & 0o7777, 0o2777);
        std::fs::write(path.join("x"), "kept").expect("written");
        empty_dir(&path, &source, Some(4321)).expect("it is there");
        assert!(path.join("x").exists());
    }

    #[test]
    fn host_paths_are_what_they_are_said_to_be() {
        let directory = tempfile::tempdir().expect("a directory");
        let check = |name: &str, kind: &str| {
            let path = directory.path().join(name).display().to_string();
            host_path(&HostPathVolumeSource {
                path,
                type_: Some(kind.to_owned()),
            })
        };
        assert!(check("a", "Directory").is_err());
        assert!(check("a", "DirectoryOrCreate").is_ok());
        assert!(check("a", "Directory").is_ok());
        assert!(check("a", "File").is_err());
        assert!(check("f", "File").is_err());
        assert!(check("f", "FileOrCreate").is_ok());
        assert!(check("f", "Socket").is_err());
        assert!(check("../x", "").is_err());
        assert!(check("n", "Nonsense").is_err());
    }
}
