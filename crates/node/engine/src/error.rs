//! Why an operation of the engine failed, in the words Docker users know.

use std::io;
use std::path::PathBuf;

/// Why an operation failed. What it had begun is undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this name or id.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// No exec has this id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// No sandbox has this id.
    #[error("No such sandbox: {0}")]
    NoSuchSandbox(String),
    /// There is nothing at a path in a container.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile {
        /// The container, as it was named.
        container: String,
        /// The path.
        path: String,
    },
    /// A container's root filesystem cannot be written.
    #[error("container rootfs is marked read-only")]
    ReadOnly,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The request does not fit the state that things are in.
    #[error("{0}")]
    Conflict(String),
    /// The container is in the state asked for already.
    #[error("container is already {0}")]
    Already(&'static str),
    /// The program was not found, or cannot be executed; `code` is what a
    /// shell would say: 127 or 126.
    #[error("failed to create task for container: {message}")]
    Command {
        /// 126 or 127.
        code: i32,
        /// What the runtime says.
        message: String,
    },
    /// The same of a program in a container that runs.
    #[error("OCI runtime exec failed: exec failed: {message}")]
    Exec {
        /// 126 or 127.
        code: i32,
        /// What the runtime says.
        message: String,
    },
    /// The runtime refused.
    #[error("failed to create task for container: {0}")]
    Runtime(String),
    /// The shim could not be reached.
    #[error("the container's supervisor does not answer: {0}")]
    Shim(String),
    /// An image could not be used.
    #[error(transparent)]
    Image(#[from] dhow_image::Error),
    /// A network could not be used.
    #[error(transparent)]
    Network(#[from] dhow_network::Error),
    /// A volume could not be used.
    #[error(transparent)]
    Volume(#[from] dhow_volume::Error),
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What operations of the engine return.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds the action and the path to an I/O error.
pub(crate) fn at(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

/// An error in words: what failed and, behind colons, why. The system's reasons are
/// as Docker's clients look for them: in small letters and without their number.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    without_numbers(&text)
}

/// A text whose reasons of the form `No such thing (os error 2)` are `no such thing`.
fn without_numbers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((reason, behind)) = rest.split_once(" (os error ") {
        let Some((number, behind)) = behind.split_once(')') else {
            break;
        };
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
        let begin = reason.rfind(": ").map_or(0, |colon| colon + 2);
        let (before, reason) = reason.split_at(begin);
        plain.push_str(before);
        let mut letters = reason.chars();
        plain.extend(letters.next().into_iter().flat_map(char::to_lowercase));
        plain.push_str(letters.as_str());
        rest = behind;
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_no_numbers() {
        let source = io::Error::from_raw_os_error(2);
        let error = at("open", "/a: b")(source);
        assert_eq!(words(&error), "open /a: b: no such file or directory");
        for (text, expected) in [
            ("Permission denied (os error 13)", "permission denied"),
            ("a (os error x) b", "a (os error x) b"),
            ("a (os error 5", "a (os error 5"),
            (
                "one: Is a directory (os error 21); two: Äh (os error 1)",
                "one: is a directory; two: äh",
            ),
            ("", ""),
        ] {
            assert_eq!(without_numbers(text), expected);
        }
    }
}
