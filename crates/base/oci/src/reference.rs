//! Image references: `[registry/]repository[:tag][@digest]`, read and
//! normalised as Docker does.
//!
//! `debian` means `docker.io/library/debian`; the first part is a registry if
//! it has a dot or a port, is `localhost`, or has upper case letters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, DigestError};

/// The registry of a name that has none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The namespace of one-word names on the default registry.
const OFFICIAL: &str = "library/";
/// Longest registry and repository together.
const MAX_NAME: usize = 255;

/// Why a text is no reference; the texts are those Docker users know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No reference at all.
    #[error("invalid reference format")]
    Format,
    /// Upper case letters in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Too long.
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// Would be mistaken for an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// The digest after `@` is malformed.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A well formed, normalised reference to an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads and normalises what a user typed. Adds no tag: see
    /// [`Reference::or_latest`].
    ///
    /// # Errors
    /// [`ReferenceError`], worded as Docker words it.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.len() == 64
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (registry, rest) = split_registry(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(repository));
        }
        if !is_repository(&repository) || !is_registry(registry) {
            return Err(ReferenceError::Format);
        }
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Format);
        }
        let digest = match digest {
            None => None,
            Some(text) if !looks_like_digest(text) => return Err(ReferenceError::Format),
            Some(text) => Some(text.parse()?),
        };
        Ok(Reference {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry, with its port: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if the reference has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository in full: `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Registry and repository as people write them: `debian`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// The reference as people write it: `debian:12`.
    pub fn familiar(&self) -> String {
        self.written(self.familiar_name())
    }

    /// The same reference with tag `latest` if it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository under this tag and no digest.
    ///
    /// # Errors
    /// [`ReferenceError::Format`] if it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Reference {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository at this digest and without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    fn written(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

impl fmt::Display for Reference {
    /// The full form: `docker.io/library/debian:12`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.written(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Reference::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (
                if first == "index.docker.io" {
                    DEFAULT_REGISTRY
                } else {
                    first
                },
                rest,
            )
        }
        _ => (DEFAULT_REGISTRY, text),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        },
    };
    let port_is_sound = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    port_is_sound
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

/// Whether `text` is a repository's name: lower case words joined by `/`, with
/// single `.`, one or two `_`, or any number of `-` inside a word.
pub fn is_repository(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('/').all(is_path_component)
}

fn is_path_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    bytes.split(|byte| alphanumeric(*byte)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

/// Whether `text` is a tag: at most 128 letters, digits, `_`, `.` and `-`, the
/// first neither `.` nor `-`.
pub fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text
            .bytes()
            .all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn looks_like_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, encoded)| {
        algorithm
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic())
            && encoded.len() >= 32
            && encoded.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn normalises_as_docker_does() {
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian", "debian"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("library/debian", "docker.io/library/debian", "debian"),
            ("docker.io/debian", "docker.io/library/debian", "debian"),
            (
                "index.docker.io/debian",
                "docker.io/library/debian",
                "debian",
            ),
            ("user/app", "docker.io/user/app", "user/app"),
            ("localhost/app", "localhost/app", "localhost/app"),
            (
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
            ),
            (
                "127.0.0.1:5000/a/b",
                "127.0.0.1:5000/a/b",
                "127.0.0.1:5000/a/b",
            ),
            ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
            ("Registry/app", "Registry/app", "Registry/app"),
            ("a__b/c--d.e", "docker.io/a__b/c--d.e", "a__b/c--d.e"),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b",
                "library/a/b",
            ),
        ] {
            let reference =
                Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
        }
        let both = Reference::parse(&format!("app:v1@sha256:{HEX}")).unwrap();
        assert_eq!(both.tag(), Some("v1"));
        assert_eq!(both.digest().unwrap().hex(), HEX);
        assert_eq!(both.clone().or_latest(), both);
        assert_eq!(
            Reference::parse("app").unwrap().or_latest().tag(),
            Some("latest")
        );
    }

    #[test]
    fn errors_are_the_ones_users_know() {
        let error = |text: &str| Reference::parse(text).unwrap_err().to_string();
        assert_eq!(error(""), "invalid reference format");
        assert_eq!(
            error("Debian"),
            "invalid reference format: repository name (library/Debian) must be lowercase"
        );
        assert_eq!(
            error(HEX),
            format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings")
        );
        for bad in [
            "a//b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:",
            "a:-x",
            "a@",
            "a@sha256:12",
            ":x",
            "a b",
            "localhost:99999/a",
            "x.y-/a",
            "a/b/",
            "/a",
            "a:b:c",
            "[::g]:1/a",
        ] {
            assert_eq!(error(bad), "invalid reference format", "{bad}");
        }
        assert_eq!(
            error(&format!("a@md5:{HEX}")),
            "unsupported digest algorithm"
        );
        assert_eq!(
            error(&format!("a@sha256:{HEX}00")),
            "invalid checksum digest length"
        );
        assert_eq!(
            error(&format!("localhost/{}", "a".repeat(250))),
            "repository name must not be more than 255 characters"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_idempotent(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn any_text_is_safe(text: String) {
            let _ = Reference::parse(&text);
        }

        #[test]
        fn sound_names_are_accepted(
            registry in "([a-z]{1,8}\\.[a-z]{2,3}|localhost)(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}){0,2}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{registry}/{path}:{tag}");
            let reference = Reference::parse(&text).unwrap();
            prop_assert_eq!(reference.to_string(), text);
            prop_assert_eq!(reference.registry(), registry);
            prop_assert_eq!(reference.repository(), path);
        }
    }
}
