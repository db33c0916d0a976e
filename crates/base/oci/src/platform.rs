//! Platforms: parsing, normal form, and which of several suits best.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Descriptor;

/// An operating system and a processor, in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`, …
    pub os: String,
    /// For Windows.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// For Windows.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A text names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no platform: expected os/architecture or os/architecture/variant, such as linux/arm64"
)]
pub struct PlatformError {
    text: String,
}

impl Platform {
    /// The platform this program was compiled for.
    pub fn host() -> Platform {
        Platform {
            os: std::env::consts::OS.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            ..Platform::default()
        }
        .normalized()
    }

    /// The same platform in canonical words: `x86_64` becomes `amd64`,
    /// `armhf` becomes `arm` variant `v7`, default variants are left out.
    pub fn normalized(mut self) -> Platform {
        self.os = self.os.to_lowercase();
        if self.os == "macos" {
            self.os = "darwin".to_owned();
        }
        let architecture = self.architecture.to_lowercase();
        let variant = self.variant.to_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64" | "arm64", other) => ("arm64", other),
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64", other) => ("ppc64", other),
            ("powerpc64le", other) => ("ppc64le", other),
            (other, variant) => (other, variant),
        };
        (self.architecture, self.variant) = (architecture.to_owned(), variant.to_owned());
        self
    }

    /// Whether this machine's platform `self` runs images made for `image`,
    /// and how well: lower is better, zero is exact.
    pub fn fitness(&self, image: &Platform) -> Option<u32> {
        let (wanted, image) = (self.clone().normalized(), image.clone().normalized());
        if wanted.os != image.os || wanted.architecture != image.architecture {
            return None;
        }
        if wanted.variant == image.variant {
            return Some(0);
        }
        // A processor runs what was made for its predecessors.
        let level = |variant: &str| match variant.strip_prefix('v') {
            Some(number) => number.parse::<u32>().ok(),
            None if variant.is_empty() => Some(if wanted.architecture == "arm64" { 8 } else { 1 }),
            None => None,
        };
        let (ours, theirs) = (level(&wanted.variant)?, level(&image.variant)?);
        (theirs <= ours).then(|| ours - theirs)
    }

    /// The entry of an index that suits `self` best; of equals the first.
    /// Entries without a platform suit only if nothing else does.
    pub fn choose<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        entries
            .iter()
            .filter_map(|entry| match &entry.platform {
                Some(platform) => Some((self.fitness(platform)?, entry)),
                None => Some((u32::MAX, entry)),
            })
            .min_by_key(|(fitness, _)| *fitness)
            .map(|(_, entry)| entry)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let error = || PlatformError {
            text: text.to_owned(),
        };
        let sound = |part: &str| {
            !part.is_empty()
                && part.len() <= 64
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| sound(part)) {
            return Err(error());
        }
        let host = Platform::host();
        let (os, architecture, variant) = match parts[..] {
            // One word is an operating system if it is a known one.
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => {
                (os.to_owned(), host.architecture, host.variant)
            }
            [architecture] => (host.os, architecture.to_owned(), String::new()),
            [os, architecture] => (os.to_owned(), architecture.to_owned(), String::new()),
            [os, architecture, variant] => {
                (os.to_owned(), architecture.to_owned(), variant.to_owned())
            }
            _ => return Err(error()),
        };
        Ok(Platform {
            os,
            architecture,
            variant,
            ..Platform::default()
        }
        .normalized())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(formatter, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use proptest::prelude::*;

    fn entry(platform: &str) -> Descriptor {
        let mut descriptor = Descriptor::new("m", Digest::of(platform.as_bytes()), 1);
        descriptor.platform = Some(platform.parse().unwrap());
        descriptor
    }

    #[test]
    fn words_are_normalised() {
        for (text, canonical) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("LINUX/i686", "linux/386"),
        ] {
            assert_eq!(
                text.parse::<Platform>().unwrap().to_string(),
                canonical,
                "{text}"
            );
        }
        assert!("".parse::<Platform>().is_err());
        assert!("a/b/c/d".parse::<Platform>().is_err());
        assert!("linux/am d64".parse::<Platform>().is_err());
    }

    #[test]
    fn the_best_entry_wins() {
        let entries = [
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/amd64",
            "linux/arm/v7",
        ]
        .map(entry)
        .to_vec();
        let choose = |text: &str| {
            let wanted: Platform = text.parse().unwrap();
            wanted
                .choose(&entries)
                .map(|found| found.platform.as_ref().unwrap().to_string())
        };
        assert_eq!(choose("linux/arm/v7").as_deref(), Some("linux/arm/v7"));
        assert_eq!(choose("linux/arm/v6").as_deref(), Some("linux/arm/v6"));
        assert_eq!(choose("linux/amd64").as_deref(), Some("linux/amd64"));
        assert_eq!(choose("linux/s390x"), None);
        // An image for newer processors is no choice for an old one.
        let newer = [entry("linux/amd64/v3")];
        assert!(
            "linux/amd64"
                .parse::<Platform>()
                .unwrap()
                .choose(&newer)
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(text in "(linux|windows)/[a-z0-9_]{1,8}(/v[0-9])?") {
            let platform: Platform = text.parse().unwrap();
            prop_assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
        }
    }
}
