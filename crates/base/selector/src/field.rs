//! Field selectors: `metadata.name=x,status.phase!=Running`.

use std::fmt;

use crate::label::SelectorError;

/// One comparison of a field with a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldTerm {
    /// The field's path, for example `spec.nodeName`.
    pub field: String,
    /// Whether the field must differ from the value instead of equal it.
    pub differs: bool,
    /// The value; a missing field counts as the empty text.
    pub value: String,
}

/// A conjunction of comparisons; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    /// All of these must hold.
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses the query form; `\` escapes `,`, `=` and itself in values.
    ///
    /// # Errors
    /// When a term has no operator or an escape is incomplete.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let term = term(part).ok_or_else(|| {
                SelectorError::Syntax(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            })?;
            terms.push(term);
        }
        Ok(Self { terms })
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether the fields, looked up by path, meet every term.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms
            .iter()
            .all(|term| (field(&term.field).unwrap_or("") == term.value) != term.differs)
    }

    /// The value a field must equal, if a term says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.field == field && !term.differs)
            .map(|term| &*term.value)
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn term(part: &str) -> Option<FieldTerm> {
    let at = part.find('=')?;
    let (field, differs) = match part[..at].strip_suffix('!') {
        Some(field) => (field, true),
        None => (&part[..at], false),
    };
    let value = &part[at + 1..];
    Some(FieldTerm {
        field: field.to_owned(),
        differs,
        value: unescape(value.strip_prefix('=').unwrap_or(value))?,
    })
}

fn unescape(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => plain.push(c),
                _ => return None,
            },
            ',' | '=' => return None,
            c => plain.push(c),
        }
    }
    Some(plain)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, term) in self.terms.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            let operator = if term.differs { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}", term.field)?;
            for c in term.value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_compared() {
        let selector =
            FieldSelector::parse("metadata.name=a,status.phase!=Running").expect("a selector");
        let object = |phase| {
            move |field: &str| match field {
                "metadata.name" => Some("a"),
                "status.phase" => phase,
                _ => None,
            }
        };
        assert!(selector.matches(object(Some("Pending"))));
        assert!(selector.matches(object(None)));
        assert!(!selector.matches(object(Some("Running"))));
        assert_eq!(selector.exact("metadata.name"), Some("a"));
        assert_eq!(selector.exact("status.phase"), None);
    }

    #[test]
    fn escapes_go_both_ways() {
        let selector = FieldSelector::parse(r"a=b\,c\=d\\e").expect("a selector");
        assert_eq!(selector.terms[0].value, r"b,c=d\e");
        assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
        assert!(FieldSelector::parse("a").is_err());
        assert!(FieldSelector::parse("a=b=c").is_err());
        assert!(FieldSelector::parse("").expect("empty").is_empty());
    }
}
