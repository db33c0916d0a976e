//! What a cluster is brought up with.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const FILE: &str = "settings.json";
/// Its presence says that the cluster is wanted up.
const WANTED: &str = "up";

/// What a cluster is brought up with, as `dhow up` asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Settings {
    /// Port of the API at 127.0.0.1.
    pub(crate) port: u16,
    /// Name of the node.
    pub(crate) node: String,
    /// Addresses of pods: the node has the first /24 of them.
    pub(crate) pod_cidr: String,
    /// Addresses of Services.
    pub(crate) service_cidr: String,
}

impl Default for Settings {
    fn default() -> Self {
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self {
            port: 6443,
            node: name.to_ascii_lowercase(),
            pod_cidr: "10.244.0.0/16".into(),
            service_cidr: "10.96.0.0/16".into(),
        }
    }
}

impl Settings {
    pub(crate) fn check(&self) -> Result<()> {
        let is_label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !label.is_empty()
                && label.bytes().all(|byte| inner(byte) || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        ensure!(
            self.node.len() <= 63 && self.node.split('.').all(is_label),
            "node name {:?}: use up to 63 small letters, digits, dashes and dots",
            self.node
        );
        let (pods, services) = (block(&self.pod_cidr)?, block(&self.service_cidr)?);
        ensure!(
            pods.1 <= 24,
            "pod addresses {}: a /24 or larger is needed",
            self.pod_cidr
        );
        ensure!(
            (12..=28).contains(&services.1),
            "service addresses {}: use a prefix of 12 to 28 bits",
            self.service_cidr
        );
        let shorter = pods.1.min(services.1);
        ensure!(
            network(pods.0, shorter) != network(services.0, shorter),
            "pod addresses {} and service addresses {} overlap",
            self.pod_cidr,
            self.service_cidr
        );
        Ok(())
    }

    /// The subnet of the node's pods.
    pub(crate) fn pods(&self) -> Result<String> {
        let (first, _) = block(&self.pod_cidr)?;
        Ok(format!("{}/24", Ipv4Addr::from(first)))
    }

    /// The block of Services' addresses.
    pub(crate) fn services(&self) -> Result<(IpAddr, u8)> {
        let (first, length) = block(&self.service_cidr)?;
        Ok((Ipv4Addr::from(first).into(), length))
    }

    /// Address of the name service: the tenth of the Services'.
    pub(crate) fn dns(&self) -> Result<IpAddr> {
        let (first, _) = block(&self.service_cidr)?;
        Ok(Ipv4Addr::from(first + 10).into())
    }

    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("read {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let (path, new) = (directory.join(FILE), directory.join("settings.json.new"));
        let bytes = serde_json::to_vec(self).expect("settings are plain values");
        std::fs::write(&new, bytes)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Whether the cluster is to come up with the daemon.
    pub(crate) fn is_wanted(directory: &Path) -> bool {
        directory.join(WANTED).exists()
    }

    /// Says whether the cluster is to come up with the daemon.
    pub(crate) fn want(directory: &Path, wanted: Wanted) -> Result<()> {
        let path = directory.join(WANTED);
        let done = match wanted {
            Wanted::Up => std::fs::write(&path, ""),
            Wanted::Down => match std::fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        };
        done.with_context(|| format!("change {}", path.display()))
    }

    /// These settings, with those changed that `changes` names.
    ///
    /// # Errors
    ///
    /// For a name or value that makes no sense.
    pub(crate) fn with(&self, changes: Map<String, Value>) -> Result<Self> {
        let mut all = serde_json::to_value(self).expect("settings are plain values");
        if let Value::Object(all) = &mut all {
            all.extend(changes);
        }
        let settings: Self = serde_json::from_value(all).context("the cluster's settings")?;
        settings.check()?;
        Ok(settings)
    }

    /// Whether objects made with the other settings make sense with these.
    pub(crate) fn suits(&self, other: &Self) -> bool {
        let port = other.port;
        Self {
            port,
            ..self.clone()
        } == *other
    }
}

/// Whether a cluster is to come up with the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// An IPv4 block: its first address and the length of its prefix.
fn block(text: &str) -> Result<(u32, u8)> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: Ipv4Addr = address.parse().ok()?;
        let length: u8 = length.parse().ok().filter(|length| *length <= 32)?;
        Some((u32::from(address), length))
    });
    let (address, length) = parsed
        .with_context(|| format!("{text:?} is no block of addresses such as 10.96.0.0/16"))?;
    ensure!(
        network(address, length) == address,
        "{text} does not begin at its first address: use {}/{length}",
        Ipv4Addr::from(network(address, length))
    );
    Ok((address, length))
}

fn network(address: u32, length: u8) -> u32 {
    address & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let good = Settings {
            node: "one.example".into(),
            ..Settings::default()
        };
        good.check().expect("the defaults are good");
        assert_eq!(good.dns().expect("good").to_string(), "10.96.0.10");
        assert_eq!(good.pods().expect("good"), "10.244.0.0/24");
        let with = |change: fn(&mut Settings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings.check().expect_err("bad").to_string()
        };
        for (error, part) in [
            (with(|s| s.node = "One".into()), "small letters"),
            (with(|s| s.node = "-a".into()), "small letters"),
            (with(|s| s.pod_cidr = "10.0.0.0/25".into()), "/24 or larger"),
            (
                with(|s| s.pod_cidr = "10.0.0.1/16".into()),
                "use 10.0.0.0/16",
            ),
            (with(|s| s.pod_cidr = "ten".into()), "no block of addresses"),
            (with(|s| s.service_cidr = "10.244.8.0/24".into()), "overlap"),
            (with(|s| s.service_cidr = "10.0.0.0/8".into()), "12 to 28"),
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
