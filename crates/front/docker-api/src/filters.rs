//! The `filters` parameter: `{"name": ["value"]}`, or as old clients write it
//! `{"name": {"value": true}}`.

use std::collections::BTreeMap;

use dhow_engine::Moment;
use regex::Regex;
use serde::Deserialize;

use crate::error::{Answer, Failure};
use crate::moments::moment;

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
        self.all_of("label", labels)
            && !self
                .get("label!")
                .iter()
                .any(|filter| holds(filter, labels))
    }

    /// Whether all values of a filter, `name` or `name=value`, hold.
    pub(crate) fn all_of(&self, name: &str, pairs: &BTreeMap<String, String>) -> bool {
        self.get(name).iter().all(|filter| holds(filter, pairs))
    }
}

/// The values of a filter that are regular expressions, ready to be held
/// against many texts.
#[derive(Debug)]
pub(crate) struct Patterns(Vec<(String, Option<Regex>)>);

impl Patterns {
    /// Whether there is none, or one of them is the text or is found in it.
    pub(crate) fn fit(&self, text: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|(exact, pattern)| {
                exact == text
                    || pattern
                        .as_ref()
                        .is_some_and(|pattern| pattern.is_match(text))
            })
    }
}

impl Filters {
    /// The patterns of a filter. As Docker has it, what is no expression fits
    /// only itself.
    pub(crate) fn patterns(&self, name: &str) -> Patterns {
        let patterns = self.get(name).iter();
        Patterns(
            patterns
                .map(|text| (text.clone(), Regex::new(text).ok()))
                .collect(),
        )
    }

    /// A filter that is yes or no; none if it is absent.
    ///
    /// # Errors
    ///
    /// A refusal that names the value.
    pub(crate) fn flag(&self, name: &str) -> Answer<Option<bool>> {
        match self.get(name) {
            [] => Ok(None),
            [value] => parse_flag(value)
                .map(Some)
                .ok_or_else(|| Failure::bad(format!("invalid filter '{name}=[{value}]'"))),
            values => Err(Failure::bad(format!("invalid filter '{name}={values:?}'"))),
        }
    }
}

/// Whether `name` or `name=value` is among pairs.
fn holds(filter: &str, pairs: &BTreeMap<String, String>) -> bool {
    match filter.split_once('=') {
        Some((name, value)) => pairs.get(name).is_some_and(|found| found == value),
        None => pairs.contains_key(filter),
    }
}

impl Filters {
    /// The moment that `until` names; none if it is absent.
    ///
    /// # Errors
    ///
    /// A refusal that names the value.
    pub(crate) fn until(&self) -> Answer<Option<Moment>> {
        self.moment("until")
    }

    /// The same of another filter.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn moment(&self, name: &str) -> Answer<Option<Moment>> {
        match self.get(name) {
            [] => Ok(None),
            [text] => moment(text).map(Some).ok_or_else(|| {
                Failure::bad(format!(
                    "failed to parse value as time or duration: {text:?}: use a time or a span such as 24h"
                ))
            }),
            _ => Err(Failure::bad(format!(
                "more than one {name} filter specified: give one moment"
            ))),
        }
    }
}

/// Yes or no, as Go reads it.
pub(crate) fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
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
    fn there_is_one_until() {
        let until = |texts: &[&str]| {
            let filters = serde_json::json!({ "until": texts }).to_string();
            let filters = Filters::parse(Some(&filters), &["until"]).expect("good");
            filters.until()
        };
        let now = Moment::now();
        assert_eq!(until(&[]).expect("good"), None);
        assert!(until(&["1h"]).expect("good").expect("given") < now);
        assert!(until(&["9999999999"]).expect("good").expect("given") > now);
        for bad in [&["soon"][..], &["1h", "2h"]] {
            assert!(until(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_are_found_or_are_the_text() {
        let fits = |pattern: &str, text: &str| {
            let filters = serde_json::json!({ "name": [pattern] }).to_string();
            let filters = Filters::parse(Some(&filters), &["name"]).expect("good");
            filters.patterns("name").fit(text)
        };
        for (pattern, text, expected) in [
            ("eb", "web", true),
            ("^eb", "web", false),
            ("^web$", "web", true),
            ("^web$", "web2", false),
            ("a|we+b", "weeb", true),
            ("w[", "w[", true),
            ("w[", "w[x", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
        assert!(Filters::default().patterns("name").fit("anything"));
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
