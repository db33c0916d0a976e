//! Resource limits as Docker names them.

/// The limits of setrlimit(2), without `RLIMIT_`.
const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A limit that cannot be, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UlimitError {
    /// No limit has this name.
    #[error("invalid ulimit type: {0}")]
    Name(String),
    /// More at once than at most.
    #[error("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")]
    Order {
        /// What holds.
        soft: i64,
        /// Up to which it can be raised.
        hard: i64,
    },
}

/// Checks a limit: -1 means no limit.
///
/// # Errors
///
/// [`UlimitError`].
pub fn check_ulimit(name: &str, soft: i64, hard: i64) -> Result<(), UlimitError> {
    if !NAMES.contains(&name) {
        return Err(UlimitError::Name(name.to_owned()));
    }
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(UlimitError::Order { soft, hard });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_names_and_an_order() {
        for (soft, hard) in [(1, 2), (2, 2), (7, -1), (-1, -1)] {
            assert_eq!(check_ulimit("nofile", soft, hard), Ok(()));
        }
        for (soft, hard) in [(3, 2), (-1, 2)] {
            let wrong = Err(UlimitError::Order { soft, hard });
            assert_eq!(check_ulimit("core", soft, hard), wrong);
        }
        for name in ["", "files", "NOFILE", "as"] {
            let wrong = Err(UlimitError::Name(name.to_owned()));
            assert_eq!(check_ulimit(name, 1, 1), wrong);
        }
    }
}
