//! The `filters` parameter: `{"name": ["value"]}`, or as old clients write it
//! `{"name": {"value": true}}`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use dhow_engine::Moment;
use serde::Deserialize;

use crate::error::{Answer, Failure};

/// The last second of the year 9999, since the epoch.
const LAST_SECOND: u64 = 253_402_300_799;

/// Values by filter name.
#[derive(Debug, Default, Clone)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Set(BTreeMap<String, bool>),
}

impl Filters {
    /// Parses the parameter; `known` are the names that are understood.
    pub(crate) fn parse(text: Option<&str>, known: &[&str]) -> Answer<Self> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        let parsed: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|error| Failure::bad(format!("invalid filters {text}: {error}")))?;
        let mut filters = BTreeMap::new();
        for (name, values) in parsed {
            if !known.contains(&name.as_str()) {
                return Err(Failure::bad(format!("invalid filter '{name}'")));
            }
            let values = match values {
                Values::List(values) => values,
                Values::Set(values) => values.into_keys().collect(),
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// The values of a filter.
    pub(crate) fn get(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the filter is absent or one of its values fits.
    pub(crate) fn any(&self, name: &str, mut fits: impl FnMut(&str) -> bool) -> bool {
        let values = self.get(name);
        values.is_empty() || values.iter().any(|value| fits(value))
    }

    /// Whether all `label` filters (`name` or `name=value`) hold, and no
    /// `label!` filter does.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |filter: &String| match filter.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
            None => labels.contains_key(filter),
        };
        self.get("label").iter().all(holds) && !self.get("label!").iter().any(holds)
    }
}

impl Filters {
    /// Whether a moment lies before all that `until` names: times (seconds
    /// since the epoch or RFC 3339), or spans of time from now back, as Go
    /// writes them (`1h30m`).
    ///
    /// # Errors
    ///
    /// A refusal that names the value.
    pub(crate) fn is_before(&self, moment: Moment) -> Answer<bool> {
        for text in self.get("until") {
            let until = match span(text) {
                Some(span) => SystemTime::from(Moment::now()).checked_sub(span),
                None => time(text).map(SystemTime::from),
            }
            .ok_or_else(|| {
                Failure::bad(format!(
                    "invalid filter 'until={text}': use a time or a span such as 24h"
                ))
            })?;
            if SystemTime::from(moment) >= until {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Seconds since the epoch, with a fraction or without, or RFC 3339 in UTC.
pub(crate) fn time(text: &str) -> Option<Moment> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let since = Duration::new(whole.parse::<u64>().ok()?.min(LAST_SECOND), nanoseconds);
    Some(Moment::from(SystemTime::UNIX_EPOCH + since))
}

/// A span of time as Go writes it: numbers with units, one after the other.
fn span(text: &str) -> Option<Duration> {
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
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// A parameter that is true when it is `1`, `true` or the like.
pub(crate) fn is_true(text: Option<&String>) -> bool {
    text.is_some_and(|text| {
        !matches!(
            text.to_ascii_lowercase().as_str(),
            "" | "0" | "no" | "false" | "none"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_times() {
        assert_eq!(span("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(span("1.5s"), Some(Duration::from_millis(1500)));
        for bad in ["", "10", "h", "1x", "-1h", "1h m"] {
            assert_eq!(span(bad), None, "{bad}");
        }
        assert_eq!(time("0.5"), time("1970-01-01T00:00:00.5Z"));
        assert_eq!(time("tomorrow"), None);
        let until = |text: &str| {
            let filters = format!(r#"{{"until":["{text}"]}}"#);
            Filters::parse(Some(&filters), &["until"]).expect("good")
        };
        let now = Moment::now();
        assert!(until("0s").is_before(now).expect("good"));
        assert!(!until("1h").is_before(now).expect("good"));
        assert!(until("9999999999").is_before(now).expect("good"));
        assert!(until("soon").is_before(now).is_err());
    }

    #[test]
    fn both_forms_mean_the_same() {
        for text in [r#"{"label":["a=b"]}"#, r#"{"label":{"a=b":true}}"#] {
            let filters = Filters::parse(Some(text), &["label"]).expect("good");
            assert!(filters.labels(&BTreeMap::from([("a".into(), "b".into())])));
            assert!(!filters.labels(&BTreeMap::from([("a".into(), "c".into())])));
        }
        for bad in ["{", "[]", r#"{"what":["x"]}"#, r#"{"label":1}"#] {
            assert!(Filters::parse(Some(bad), &["label"]).is_err(), "{bad}");
        }
    }
}
