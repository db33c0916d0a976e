//! The keys that let go of a container and leave it running.

use crate::error::Error;

/// The keys unless told otherwise: Ctrl-P, Ctrl-Q.
const DEFAULT: [u8; 2] = [16, 17];

/// Watches what is typed for the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    text: String,
    keys: Vec<u8>,
    n_typed: usize,
}

impl Keys {
    /// Parses `ctrl-p,ctrl-q`: single letters, or `ctrl-` with a letter or one
    /// of `@[\]^_`; none means the default.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for what is no key.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let keys = match text {
            "" => Some(DEFAULT.to_vec()),
            text => text.split(',').map(key).collect(),
        };
        match keys {
            Some(keys) => Ok(Self {
                text: text.to_owned(),
                keys,
                n_typed: 0,
            }),
            None => Err(Error::Usage(format!(
                "invalid detach keys ({text}) provided"
            ))),
        }
    }

    /// The keys as they were given; nothing for the default.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Takes what was typed: what goes on to the program, and whether the keys
    /// were typed. A part of the keys waits for the rest.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            while self.n_typed > 0 && self.keys[self.n_typed] != *byte {
                // Not the keys: the longest part that may still become them waits.
                let kept = (1..self.n_typed)
                    .rev()
                    .find(|kept| self.keys[..*kept] == self.keys[self.n_typed - kept..self.n_typed])
                    .unwrap_or(0);
                passed.extend_from_slice(&self.keys[..self.n_typed - kept]);
                self.n_typed = kept;
            }
            if self.keys[self.n_typed] == *byte {
                self.n_typed += 1;
                if self.n_typed == self.keys.len() {
                    return (passed, true);
                }
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

fn key(text: &str) -> Option<u8> {
    if let [byte] = text.as_bytes() {
        return Some(*byte);
    }
    match text.to_ascii_lowercase().strip_prefix("ctrl-")?.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        b"@" => Some(0),
        [sign @ b'['..=b'_'] => Some(sign - b'[' + 27),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_seen_and_all_else_goes_on() {
        let mut keys = Keys::parse("").expect("the default");
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (Vec::new(), true));
        let mut keys = Keys::parse("a,ctrl-a").expect("keys");
        assert_eq!(keys.filter(b"aa\x01"), (b"a".to_vec(), true));
        for bad in ["ab", "ctrl-", "ctrl-aa", "a,", "ctrl-1"] {
            assert!(Keys::parse(bad).is_err(), "{bad}");
        }
    }
}
