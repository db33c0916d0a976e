//! How long to wait before trying again: ten seconds, doubling to five minutes.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_secs(10);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran for so long starts over with the first wait.
pub(crate) const LONG_LIFE: Duration = Duration::from_secs(600);

/// The wait before the restart of a container that had `level` restarts in a
/// row before it: none for the first restart.
pub(crate) fn restart_delay(level: u32) -> Duration {
    match level {
        0 => Duration::ZERO,
        level => retry_delay(level),
    }
}

/// The wait after the `n`th failure in a row, counted from one.
pub(crate) fn retry_delay(n: u32) -> Duration {
    let doublings = n.saturating_sub(1).min(16);
    (FIRST * (1 << doublings)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_bounded() {
        let waits: Vec<u64> = (0..8).map(|n| restart_delay(n).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(retry_delay(u32::MAX), LONGEST);
    }
}
