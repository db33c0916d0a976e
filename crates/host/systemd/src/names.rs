//! Names of units, and where slices lie.

use std::fmt::Write as _;

use crate::error::{Result, SystemdError};

/// Path of a slice's control group below the hierarchy's root, without a slash
/// at its end: each dash of the name is a level (`a-b.slice` lies in `a.slice`).
/// The root slice, `-.slice`, has the empty path. (systemd.slice(5))
///
/// # Errors
///
/// [`SystemdError::Slice`] for what is no name of a slice.
pub fn slice_path(slice: &str) -> Result<String> {
    const SUFFIX: &str = ".slice";
    let wrong = || SystemdError::Slice(slice.to_owned());
    let words = slice.strip_suffix(SUFFIX).ok_or_else(wrong)?;
    if words == "-" {
        return Ok(String::new());
    }
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\".contains(&byte);
    let mut path = String::new();
    let mut name = String::new();
    for word in words.split('-') {
        if word.is_empty() || !word.bytes().all(letter) {
            return Err(wrong());
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(word);
        path.push('/');
        path.push_str(&name);
        path.push_str(SUFFIX);
    }
    Ok(path)
}

/// Name of a scope for a prefix and a name: `PREFIX-NAME.scope`, or `NAME.scope`
/// without a prefix. Bytes that names of units cannot have are written as
/// `\xNN`, as systemd-escape(1) does.
#[must_use]
pub fn unit_name(prefix: &str, name: &str) -> String {
    let mut unit = String::new();
    let mut escape = |text: &str| {
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte) {
                unit.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(unit, "\\x{byte:02x}");
            }
        }
    };
    escape(prefix);
    if !prefix.is_empty() {
        escape("-");
    }
    escape(name);
    unit.push_str(".scope");
    unit
}

/// Path of a unit's object on the bus.
pub(crate) fn object_path(unit: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (index, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            // As above.
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_are_levels() {
        for (slice, path) in [
            ("system.slice", "/system.slice"),
            ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
            ("-.slice", ""),
        ] {
            assert_eq!(slice_path(slice).expect(slice), path);
        }
        for wrong in [
            "",
            "a",
            "a.scope",
            ".slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "../a.slice",
            "a/b.slice",
            "a b.slice",
            "--.slice",
        ] {
            assert!(slice_path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn units_have_names_systemd_takes() {
        assert_eq!(unit_name("docker", "1a"), "docker-1a.scope");
        assert_eq!(unit_name("", "1a"), "1a.scope");
        assert_eq!(unit_name("x", "a+b/c"), "x-a\\x2bb\\x2fc.scope");
        assert_eq!(
            object_path("1a-b.scope"),
            "/org/freedesktop/systemd1/unit/_31a_2db_2escope"
        );
    }
}
