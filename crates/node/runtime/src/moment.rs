//! A point in time as logs and records write it: RFC 3339 with nanoseconds, UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time, to the nanosecond; years 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Moment {
    seconds: u64,
    nanoseconds: u32,
}

/// Seconds of 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// A text that is no RFC 3339 time in UTC.
#[derive(Debug, thiserror::Error)]
#[error("not a UTC time in RFC 3339 form")]
pub struct MomentError;

impl Moment {
    /// The beginning of 1970.
    pub const EPOCH: Self = Self {
        seconds: 0,
        nanoseconds: 0,
    };

    /// The time now.
    #[must_use]
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// How long it is until then; nothing for what is past.
    #[must_use]
    pub fn from_now(self) -> Duration {
        SystemTime::from(self)
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }
}

impl From<SystemTime> for Moment {
    /// Times before 1970 become 1970, times after 9999 the last second of it.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self {
            seconds: since.as_secs().min(LAST_SECOND),
            nanoseconds: since.subsec_nanos(),
        }
    }
}

impl From<Moment> for SystemTime {
    fn from(moment: Moment) -> Self {
        UNIX_EPOCH + Duration::new(moment.seconds, moment.nanoseconds)
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = MomentError;

    fn try_from(text: String) -> Result<Self, MomentError> {
        text.parse()
    }
}

impl fmt::Display for Moment {
    /// `2026-11-23T19:14:05.000000001Z`: always nine digits, so that texts sort as times do.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.seconds / 86_400);
        let second = self.seconds % 86_400;
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            self.nanoseconds
        )
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let bytes = text.as_bytes();
        let body = bytes.strip_suffix(b"Z").ok_or(MomentError)?;
        let (date, fraction) = match body.iter().position(|byte| *byte == b'.') {
            Some(dot) => (&body[..dot], &body[dot + 1..]),
            None => (body, &b""[..]),
        };
        if date.len() != 19
            || (date[4], date[7], date[10], date[13], date[16]) != (b'-', b'-', b'T', b':', b':')
            || fraction.len() > 9
            || (fraction.is_empty() && date.len() != body.len())
        {
            return Err(MomentError);
        }
        let year = number(&date[0..4])?;
        let month = number(&date[5..7])?;
        let day = number(&date[8..10])?;
        let (hour, minute, second) = (
            number(&date[11..13])?,
            number(&date[14..16])?,
            number(&date[17..19])?,
        );
        let known = year >= 1970
            && (1..=12).contains(&month)
            && day >= 1
            && day <= length(year, month)
            && hour < 24
            && minute < 60
            && second < 60;
        if !known {
            return Err(MomentError);
        }
        let mut nanoseconds = number(fraction)?;
        for _ in fraction.len()..9 {
            nanoseconds *= 10;
        }
        Ok(Self {
            seconds: days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second,
            nanoseconds: u32::try_from(nanoseconds).map_err(|_| MomentError)?,
        })
    }
}

fn number(digits: &[u8]) -> Result<u64, MomentError> {
    digits.iter().try_fold(0, |value, digit| match digit {
        b'0'..=b'9' => Ok(value * 10 + u64::from(digit - b'0')),
        _ => Err(MomentError),
    })
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn length(year: u64, month: u64) -> u64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date. Years are counted from March, so that the
/// leap day is the last of its year; 719 468 days lie between 0000-03-01 and 1970.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let in_year = (153 * from_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468
}

/// The date so many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let in_era = days % 146_097;
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, nanoseconds: u32, text: &str) {
        let moment = Moment {
            seconds,
            nanoseconds,
        };
        assert_eq!(moment.to_string(), text);
        assert_eq!(text.parse::<Moment>().unwrap(), moment);
    }

    #[test]
    fn known_times() {
        check(0, 0, "1970-01-01T00:00:00.000000000Z");
        check(951_782_399, 1, "2000-02-28T23:59:59.000000001Z");
        check(951_782_400, 0, "2000-02-29T00:00:00.000000000Z");
        check(1_709_164_800, 0, "2024-02-29T00:00:00.000000000Z");
        check(1_795_459_445, 999_999_999, "2026-11-23T18:44:05.999999999Z");
        check(LAST_SECOND, 0, "9999-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn every_day_survives() {
        for day in 0..=LAST_SECOND / 86_400 {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }

    #[test]
    fn strangers_texts_are_refused() {
        for text in [
            "",
            "Z",
            "2026-02-30T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.0000000001Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
        assert_eq!(
            "2026-11-23T18:04:05.5Z"
                .parse::<Moment>()
                .unwrap()
                .nanoseconds,
            500_000_000
        );
    }
}
