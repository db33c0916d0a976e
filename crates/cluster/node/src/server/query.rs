//! The query of a request.

use std::str::FromStr;

use http::StatusCode;
use percent_encoding::percent_decode_str;

use super::status::Refusal;

/// Names and values, decoded, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let decoded = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(name), decoded(value))
                })
                .collect(),
        )
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.iter();
        pairs
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is set to something true.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.all(name)
            .last()
            .is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// A parameter as a number or the like, if it is there.
    pub(super) fn value<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        match self.all(name).last().filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value.parse().map(Some).map_err(|_| {
                Refusal::new(
                    StatusCode::BAD_REQUEST,
                    format!("invalid value {value:?} for {name}"),
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query =
            Query::parse("command=sh&command=-c&command=echo+a%26b&input=1&tty=false&n=7&x=y");
        let command: Vec<&str> = query.all("command").collect();
        assert_eq!(command, ["sh", "-c", "echo a&b"]);
        assert!(query.is_on("input") && !query.is_on("tty") && !query.is_on("output"));
        assert_eq!(query.value::<u32>("n").expect("a number"), Some(7));
        assert_eq!(query.value::<u32>("m").expect("nothing"), None);
        assert!(query.value::<u32>("x").is_err());
    }
}
