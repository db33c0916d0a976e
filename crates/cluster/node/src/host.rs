//! Folders and files of pods on this machine, and the hosts file of each.

use std::io::{self, Read, Seek, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::error::Error;
use crate::sandbox::{full_hostname, hostname};

/// Longest termination message, in bytes.
pub(crate) const LONGEST_MESSAGE: u64 = 4096;

/// Where a pod's files are.
#[derive(Debug, Clone)]
pub(crate) struct PodFolder {
    path: PathBuf,
}

impl PodFolder {
    /// The folder of a pod below the agent's. An identifier that is no plain
    /// name is refused.
    pub(crate) fn new(directory: &Path, uid: &str) -> Result<Self, Error> {
        let path = directory.join("pods").join(plain(uid)?);
        Ok(Self { path })
    }

    /// Folder of a volume.
    pub(crate) fn volume(&self, kind: &str, name: &str) -> Result<PathBuf, Error> {
        let kind = format!("kubernetes.io~{}", plain(kind)?);
        Ok(self.path.join("volumes").join(kind).join(plain(name)?))
    }

    /// The pod's `/etc/hosts`.
    pub(crate) fn hosts_file(&self) -> PathBuf {
        self.path.join("etc-hosts")
    }

    /// Makes an empty file for a container's last words.
    pub(crate) fn message_file(&self, container: &str, attempt: u32) -> Result<PathBuf, Error> {
        let folder = self.path.join("containers").join(plain(container)?);
        make_folder(&folder, 0o755)?;
        // Nobody reads those of containers that are long gone.
        if let Some(old) = attempt.checked_sub(3) {
            let _ = std::fs::remove_file(folder.join(old.to_string()));
        }
        let path = folder.join(attempt.to_string());
        write_file(&path, b"", 0o666)?;
        Ok(path)
    }

    /// Makes the folder.
    pub(crate) fn make(&self) -> Result<(), Error> {
        make_folder(&self.path, 0o750)
    }

    /// Removes everything.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file_error("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }

    /// Writes the pod's `/etc/hosts`.
    pub(crate) fn write_hosts(
        &self,
        pod: &Pod,
        addresses: &[IpAddr],
        domain: &str,
    ) -> Result<(), Error> {
        let is_on_host = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.host_network == Some(true));
        let text = if is_on_host {
            let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            format!(
                "# Kubernetes-managed hosts file (host network).\n{host}{}",
                aliases(pod)
            )
        } else {
            hosts(pod, addresses, domain)
        };
        self.make()?;
        write_file(&self.hosts_file(), text.as_bytes(), 0o644)
    }
}

fn hosts(pod: &Pod, addresses: &[IpAddr], domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let short = hostname(pod);
    let names = match full_hostname(pod, domain) {
        Some(full) => format!("{full}\t{short}"),
        None => short,
    };
    for address in addresses {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    text.push_str(&aliases(pod));
    text
}

fn aliases(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let entries = spec
        .iter()
        .flat_map(|spec| spec.host_aliases.iter().flatten());
    let mut text = String::new();
    for alias in entries {
        let names = alias.hostnames.clone().unwrap_or_default();
        // A line break in a name would make lines of its own.
        let is_plain = |word: &String| !word.contains(char::is_whitespace);
        if is_plain(&alias.ip) && names.iter().all(is_plain) {
            text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("\n# Entries added by HostAliases.\n{text}")
    }
}

/// A name that is one component of a path.
pub(crate) fn plain(name: &str) -> Result<&str, Error> {
    let is_plain = !name.is_empty()
        && name.len() < 256
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0']);
    if is_plain {
        Ok(name)
    } else {
        let error = io::Error::from(io::ErrorKind::InvalidInput);
        Err(Error::File(format!("{name:?} is no name of a file"), error))
    }
}

pub(crate) fn file_error(verb: &str, path: &Path, error: io::Error) -> Error {
    Error::File(format!("cannot {verb} {}", path.display()), error)
}

/// Makes a folder and its parents; the folder itself gets the mode.
pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .map_err(|error| file_error("make", path, error))
}

/// Writes a file in place, so that mounts of it see the change.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
        .open(path)
        .and_then(|mut file| {
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.write_all(bytes)
        })
        .map_err(|error| file_error("write", path, error))
}

/// The end of a container's last words, at most 4 KiB.
pub(crate) fn read_message(path: &Path) -> String {
    let mut options = std::fs::OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.read(true).custom_flags(flags.bits().cast_signed());
    let mut bytes = Vec::new();
    // Without a file there were no words.
    if let Ok(mut file) = options.open(path)
        && let Ok(metadata) = file.metadata()
        && metadata.is_file()
    {
        let start = metadata.len().saturating_sub(LONGEST_MESSAGE);
        let _ = file
            .seek(io::SeekFrom::Start(start))
            .and_then(|_| file.take(LONGEST_MESSAGE).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hosts_file_knows_the_pod() {
        let pod = json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": {
            "containers": [], "subdomain": "web",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}, {"ip": "1.1.1.1\n6.6.6.6", "hostnames": ["x"]}]}});
        let pod = serde_json::from_value(pod).expect("a pod");
        let address = "10.0.0.7".parse().expect("an address");
        let text = hosts(&pod, &[address], "cluster.local");
        assert!(text.contains("10.0.0.7\tweb-0.web.ns.svc.cluster.local\tweb-0\n"));
        assert!(text.contains("1.2.3.4\ta\tb\n"));
        assert!(!text.contains("6.6.6.6"));
    }

    #[test]
    fn strangers_names_stay_inside() {
        let folder = PodFolder::new(Path::new("/d"), "uid").expect("a folder");
        assert!(folder.volume("secret", "../x").is_err());
        assert!(PodFolder::new(Path::new("/d"), "..").is_err());
        assert!(folder.volume("secret", "x").is_ok());
    }
}
