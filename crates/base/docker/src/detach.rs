//! The keys that let a client go and leave its program running.

/// The keys unless told otherwise: Ctrl-P, Ctrl-Q.
const DEFAULT: [u8; 2] = [16, 17];

/// Watches what is typed for the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    text: String,
    keys: Vec<u8>,
    n_typed: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`: single characters, `DEL`, or `ctrl-` with a letter or
    /// one of `@[\]^_`, in lower case as Docker has them; an empty text means the
    /// default. None for what is no key.
    pub fn parse(text: &str) -> Option<Self> {
        let keys = match text {
            "" => DEFAULT.to_vec(),
            text => text.split(',').map(key).collect::<Option<_>>()?,
        };
        Some(Self {
            text: text.to_owned(),
            keys,
            n_typed: 0,
        })
    }

    /// The keys as they were given; nothing for the default.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes what was typed; returns what goes on to the program, and whether
    /// the keys were typed. A part of the keys waits for the rest.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
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
    if text == "DEL" {
        return Some(127);
    }
    match text.strip_prefix("ctrl-")?.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        b"@" => Some(0),
        [sign @ b'['..=b'_'] => Some(sign - b'[' + 27),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::parse(keys).expect("keys");
        let mut all = Vec::new();
        for piece in pieces {
            let (passed, detached) = keys.filter(piece);
            all.extend(passed);
            if detached {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn keys_are_found_also_in_pieces() {
        assert_eq!(typed("", &[b"ab\x10", b"\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(typed("", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed("", &[b"\x10x"]), (b"\x10x".to_vec(), false));
        assert_eq!(typed("", &[b"\x11\x10"]), (b"\x11".to_vec(), false));
        assert_eq!(typed("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(typed("a,ctrl-a", &[b"aa\x01"]), (b"a".to_vec(), true));
        assert_eq!(typed("ctrl-[,d", &[b"\x1bd"]), (Vec::new(), true));
        assert_eq!(typed("DEL", &[b"x\x7f"]), (b"x".to_vec(), true));
    }

    #[test]
    fn odd_keys_are_none() {
        for bad in ["ctrl-", "ctrl-P", "ctrl-pp", "ab", "a,,b", "a,", "ctrl-1"] {
            assert_eq!(DetachKeys::parse(bad), None, "{bad}");
        }
        assert_eq!(key("ctrl-@"), Some(0));
        assert_eq!(key("ctrl-_"), Some(31));
    }
}
