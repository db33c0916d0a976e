//! Who may do what: an htpasswd file with bcrypt hashes, as the Docker
//! registry reads it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dhow_oci::Digest;
use http::StatusCode;
use http::header::WWW_AUTHENTICATE;

use crate::error::{Refusal, Result};
use crate::server::Access;

/// Credentials known to be right are remembered up to this number; checking
/// them costs a tenth of a second.
const MAX_KNOWN: usize = 1000;

/// The hash of nobody's password: somebody who does not exist takes as long as
/// somebody who does.
const NOBODY: &str = "$2b$10$abcdefghijklmnopqrstuuKJ7yVq1kX3hTz8mC1x9d0b6sV2mQ7Wy";

/// Users and the hashes of their passwords.
#[derive(Debug, Default)]
pub(crate) struct Users {
    hashes: HashMap<String, String>,
    /// Digests of credentials that have been checked.
    known: Mutex<HashMap<Digest, ()>>,
}

impl Users {
    /// Reads an htpasswd file.
    pub(crate) fn open(path: &Path) -> std::io::Result<Users> {
        let text = std::fs::read_to_string(path)?;
        let mut hashes = HashMap::new();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) = line.split_once(':').unwrap_or((line, ""));
            if !hash.starts_with("$2") {
                let text = format!(
                    "{}: user {user:?} has no bcrypt hash (make it with htpasswd -B)",
                    path.display()
                );
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
            }
            hashes.insert(user.to_owned(), hash.to_owned());
        }
        Ok(Users {
            hashes,
            known: Mutex::default(),
        })
    }

    /// Whether these credentials are somebody's. Blocks for as long as bcrypt
    /// takes.
    pub(crate) fn knows(&self, user: &str, password: &str) -> bool {
        let fingerprint = Digest::of(format!("{}:{user}:{password}", user.len()).as_bytes());
        if self.known().contains_key(&fingerprint) {
            return true;
        }
        let hash = self.hashes.get(user);
        let fits = bcrypt::verify(password, hash.map_or(NOBODY, String::as_str)).unwrap_or(false);
        if !(fits && hash.is_some()) {
            return false;
        }
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(fingerprint, ());
        true
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, ()>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Read,
    Write,
}

/// User and password of an `Authorization` header.
pub(crate) fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Whether a request may pass without saying who asks.
pub(crate) fn is_open(access: &Access, need: Need) -> bool {
    match access {
        Access::Open => true,
        Access::ReadOpen(_) => need == Need::Read,
        Access::Users(_) => false,
    }
}

/// Asks who it is.
pub(crate) fn challenge() -> Result<()> {
    let message = "authentication required";
    Err(
        Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
            .header(WWW_AUTHENTICATE, "Basic realm=\"dhow registry\""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_their_hashes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hash = bcrypt::hash("secret", 4).unwrap();
        std::fs::write(file.path(), format!("# users\nme:{hash}\n")).unwrap();
        let users = Users::open(file.path()).unwrap();
        assert!(users.knows("me", "secret") && users.knows("me", "secret"));
        assert!(!users.knows("me", "wrong") && !users.knows("you", "secret"));
        assert_eq!(bcrypt::verify("anything", NOBODY).ok(), Some(false));
        std::fs::write(file.path(), "me:{SHA}xyz\n").unwrap();
        assert!(Users::open(file.path()).is_err());
        assert_eq!(
            credentials("Basic YTpiOmM="),
            Some(("a".into(), "b:c".into()))
        );
        assert_eq!(credentials("Bearer x"), None);
    }
}
