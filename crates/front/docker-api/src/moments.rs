//! Moments and spans of time as parameters have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dhow_engine::Moment;

/// The last second of the year 9999, since the epoch.
const LAST_SECOND: u64 = 253_402_300_799;

/// The moment that a parameter names: seconds since the epoch, with a fraction
/// or without; a span of time, from now back; `2006-01-02`,
/// `2006-01-02T15:04:05` or RFC 3339.
pub(crate) fn moment(text: &str) -> Option<Moment> {
    moment_at(text, SystemTime::now())
}

fn moment_at(text: &str, now: SystemTime) -> Option<Moment> {
    let is_number = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    if text.bytes().all(is_number) {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        let since = Duration::new(whole.parse::<u64>().ok()?.min(LAST_SECOND), nanoseconds);
        return Some((UNIX_EPOCH + since).into());
    }
    if let Some(span) = span(text) {
        return Some(now.checked_sub(span).unwrap_or(UNIX_EPOCH).into());
    }
    let with_time = if text.contains('T') {
        text.to_owned()
    } else {
        format!("{text}T00:00:00")
    };
    if with_time.ends_with('Z') {
        return with_time.parse().ok();
    }
    let (clock, offset) = match with_time.rfind(['+', '-']) {
        Some(sign) if sign > with_time.find('T')? => with_time.split_at(sign),
        _ => (&*with_time, ""),
    };
    let time = SystemTime::from(format!("{clock}Z").parse::<Moment>().ok()?);
    let zoned = match offset.split_at_checked(1) {
        None => Some(time),
        Some((sign, ahead)) => {
            let (hours, minutes) = ahead.split_once(':')?;
            let minutes = hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?;
            let ahead = Duration::from_secs(minutes * 60);
            if sign == "-" {
                time.checked_add(ahead)
            } else {
                time.checked_sub(ahead)
            }
        }
    };
    zoned.map(Moment::from)
}

/// A span of time as Go writes it: numbers with units, one after the other.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_in_go() {
        for (text, seconds) in [
            ("24h", 86_400.0),
            ("1h30m", 5400.0),
            ("1.5s", 1.5),
            ("10ms", 0.01),
        ] {
            assert_eq!(span(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for bad in ["", "h", "10", "1x", "-1h", "1h m", "2026-11-28T00:00:00Z"] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn moments_are_read() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (text, seconds) in [
            ("24h", Some(1_000_000.0 - 86_400.0)),
            ("1h30m", Some(1_000_000.0 - 5_400.0)),
            ("1.5s", Some(1_000_000.0 - 1.5)),
            ("0s", Some(1_000_000.0)),
            ("999999h", Some(0.0)),
            ("1700000000", Some(1_700_000_000.0)),
            ("1700000000.5", Some(1_700_000_000.5)),
            ("0.5", Some(0.5)),
            ("99999999999999", Some(LAST_SECOND as f64)),
            ("1970-01-02", Some(86_400.0)),
            ("1970-01-02T00:00:01", Some(86_401.0)),
            ("1970-01-02T00:00:01Z", Some(86_401.0)),
            ("1970-01-02T01:00:01+01:00", Some(86_401.0)),
            ("1970-01-01T23:00:01-01:00", Some(86_401.0)),
            ("5", Some(5.0)),
            ("", None),
            ("bogus", None),
            ("tomorrow", None),
            ("5x", None),
            ("h", None),
        ] {
            let expected =
                seconds.map(|seconds| Moment::from(UNIX_EPOCH + Duration::from_secs_f64(seconds)));
            assert_eq!(moment_at(text, now), expected, "{text}");
        }
    }
}
