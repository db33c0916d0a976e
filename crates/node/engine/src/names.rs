//! Identifiers and names of containers.

/// What a container can be like.
const LIKE: [&str; 40] = [
    "amber", "bold", "brisk", "calm", "clear", "clever", "coral", "crisp", "deft", "eager",
    "early", "fair", "fleet", "fresh", "gentle", "glad", "golden", "grand", "hardy", "keen",
    "kind", "light", "lively", "merry", "mild", "neat", "noble", "quick", "quiet", "ready",
    "silver", "smart", "smooth", "steady", "stout", "sunny", "swift", "tidy", "warm", "wise",
];

/// What sails, and who sails it.
const WHAT: [&str; 40] = [
    "anchor", "battuta", "bark", "barge", "boom", "brig", "buoy", "canoe", "clipper", "compass",
    "cutter", "dhow", "ferry", "frigate", "galley", "gull", "harbour", "heron", "jib", "junk",
    "keel", "ketch", "lateen", "lighter", "magellan", "mast", "monsoon", "pilot", "pinnace",
    "sailor", "sambuk", "schooner", "sextant", "skiff", "sloop", "spar", "tern", "tiller", "yawl",
    "zheng",
];

/// A new identifier: 32 random bytes as hexadecimal digits.
pub fn identifier() -> String {
    hex::encode(random::<32>())
}

/// A name for a container that was given none.
pub(crate) fn suggestion() -> String {
    let [like, what, ..] = random::<4>();
    let pick = |list: &[&'static str; 40], byte: u8| list[usize::from(byte) % list.len()];
    format!("{}_{}", pick(&LIKE, like), pick(&WHAT, what))
}

/// Bytes by chance.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags).unwrap_or(0);
    }
    bytes
}

/// Whether `text` can name a container: letters, digits, `_`, `.` and `-`, the
/// first a letter or digit, at least two.
pub(crate) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() >= 2
        && text.len() <= 255
        && bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_identifiers() {
        assert_eq!(identifier().len(), 64);
        assert_ne!(identifier(), identifier());
        assert!(is_name(&suggestion()));
        for bad in ["", "a", "/x", "-a", ".a", "a b", "a/b", "ä1"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
