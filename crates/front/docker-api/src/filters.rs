//! The `filters` parameter: `{"name": ["value"]}`, or as old clients write it
//! `{"name": {"value": true}}`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Answer, Failure};

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
