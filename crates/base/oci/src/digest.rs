//! Content digests (`sha256:…`, `sha512:…`) and streaming verification.
//!
//! Follows the "Digests" section of the OCI image specification. Encoded parts
//! are lower case hexadecimal of exactly the algorithm's length.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A hash algorithm that content may be named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which everybody uses.
    Sha256,
    /// SHA-512, which the specification also registers.
    Sha512,
}

impl Algorithm {
    /// The algorithm's registered name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the encoded part in hexadecimal digits.
    pub fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }

    /// A hasher in its initial state.
    pub fn digester(self) -> Digester {
        Digester(match self {
            Algorithm::Sha256 => State::Sha256(Box::new(sha2::Sha256::new())),
            Algorithm::Sha512 => State::Sha512(Box::new(sha2::Sha512::new())),
        })
    }
}

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:hex` shape.
    #[error("invalid checksum digest format")]
    Format,
    /// An algorithm nobody registered.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// The encoded part is too short or too long.
    #[error("invalid checksum digest length")]
    Length,
}

/// The name of immutable content: algorithm and hash, always well formed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Arc<str>);

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut digester = Algorithm::Sha256.digester();
        digester.update(bytes);
        digester.finish()
    }

    /// A SHA-256 digest from its 64 hexadecimal digits.
    pub fn from_sha256_hex(hex: &str) -> Result<Digest, DigestError> {
        format!("sha256:{hex}").parse()
    }

    /// The hash algorithm.
    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with("sha512:") {
            Algorithm::Sha512
        } else {
            Algorithm::Sha256
        }
    }

    /// The encoded part: lower case hexadecimal.
    pub fn hex(&self) -> &str {
        &self.0[self.algorithm().name().len() + 1..]
    }

    /// The first twelve hexadecimal digits, as Docker shows identifiers.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let (name, encoded) = text.split_once(':').ok_or(DigestError::Format)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            "" => return Err(DigestError::Format),
            _ => return Err(DigestError::Algorithm),
        };
        if encoded.len() != algorithm.hex_len() {
            return Err(DigestError::Length);
        }
        if !encoded
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(DigestError::Format);
        }
        Ok(Digest(text.into()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A hash in progress.
#[derive(Clone, Debug)]
pub struct Digester(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Box<sha2::Sha256>),
    Sha512(Box<sha2::Sha512>),
}

impl Digester {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        let text = match self.0 {
            State::Sha256(state) => format!("sha256:{}", hex::encode(state.finalize())),
            State::Sha512(state) => format!("sha512:{}", hex::encode(state.finalize())),
        };
        Digest(text.into())
    }
}

/// What was received is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The hash differs.
    #[error("content has digest {actual}, expected {expected}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// Fewer or more bytes than announced.
    #[error("content has {actual} bytes, expected {expected}")]
    Size {
        /// What was announced.
        expected: u64,
        /// What arrived (at least).
        actual: u64,
    },
}

/// Checks a stream against the digest and size it should have.
///
/// Excess bytes are refused as soon as they appear, so that a stranger cannot
/// fill the disk behind a small announced size.
#[derive(Clone, Debug)]
pub struct Verifier {
    expected: Digest,
    size: Option<u64>,
    seen: u64,
    digester: Digester,
}

impl Verifier {
    /// A verifier for `expected`, and for exactly `size` bytes where known.
    pub fn new(expected: Digest, size: Option<u64>) -> Verifier {
        let digester = expected.algorithm().digester();
        Verifier {
            expected,
            size,
            seen: 0,
            digester,
        }
    }

    /// Adds bytes; fails once more than the announced size have been added.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        self.seen += bytes.len() as u64;
        if let Some(size) = self.size
            && self.seen > size
        {
            return Err(VerifyError::Size {
                expected: size,
                actual: self.seen,
            });
        }
        self.digester.update(bytes);
        Ok(())
    }

    /// Bytes added so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Passes judgement.
    pub fn finish(self) -> Result<Digest, VerifyError> {
        if let Some(size) = self.size
            && self.seen != size
        {
            return Err(VerifyError::Size {
                expected: size,
                actual: self.seen,
            });
        }
        let actual = self.digester.finish();
        if actual != self.expected {
            return Err(VerifyError::Digest {
                expected: self.expected,
                actual,
            });
        }
        Ok(actual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_vectors() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        let mut sha512 = Algorithm::Sha512.digester();
        sha512.update(b"abc");
        assert!(
            sha512
                .finish()
                .hex()
                .starts_with("ddaf35a193617abacc417349ae204131")
        );
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let short = &EMPTY[..EMPTY.len() - 1];
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        assert_eq!("".parse::<Digest>(), Err(DigestError::Format));
        assert_eq!("md5:00".parse::<Digest>(), Err(DigestError::Algorithm));
        assert_eq!(short.parse::<Digest>(), Err(DigestError::Length));
        assert_eq!(upper.parse::<Digest>(), Err(DigestError::Format));
    }

    #[test]
    fn verifier_stops_at_excess() {
        let mut verifier = Verifier::new(Digest::of(b"ab"), Some(2));
        verifier.update(b"ab").unwrap();
        assert!(verifier.update(b"c").is_err());
        let short = Verifier::new(Digest::of(b"ab"), Some(2));
        assert_eq!(
            short.finish(),
            Err(VerifyError::Size {
                expected: 2,
                actual: 0
            })
        );
        let mut wrong = Verifier::new(Digest::of(b"ab"), Some(2));
        wrong.update(b"ba").unwrap();
        assert!(matches!(wrong.finish(), Err(VerifyError::Digest { .. })));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(data: Vec<u8>, cuts in proptest::collection::vec(0usize..64, 0..20)) {
            let mut verifier = Verifier::new(Digest::of(&data), Some(data.len() as u64));
            let mut rest = &data[..];
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                verifier.update(head).unwrap();
                rest = tail;
            }
            verifier.update(rest).unwrap();
            prop_assert!(verifier.finish().is_ok());
        }

        #[test]
        fn parsing_never_panics(text: String) {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
