//! Label selectors: parsing the query form, matching, printing.

use std::fmt;

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The label is there and has one of the values.
    In,
    /// The label is missing or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
    /// The label is an integer greater than the one value.
    GreaterThan,
    /// The label is an integer less than the one value.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The condition.
    pub operator: Operator,
    /// The values it speaks of; none for the existence operators.
    pub values: Vec<String>,
}

/// A conjunction of requirements; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    /// All of these must hold.
    pub requirements: Vec<Requirement>,
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text is not in the language.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// A key or a value is no legal label.
    #[error("unable to parse requirement: {what}: Invalid value: {value:?}: {why}")]
    Invalid {
        /// `key` or `values[n][key]`.
        what: String,
        /// What was given.
        value: String,
        /// The rule that is broken.
        why: &'static str,
    },
}

const KEY_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const LONG_RULE: &str = "must be no more than 63 characters";

/// Selectors of more bytes than this are refused; a URL does not carry more.
const LONGEST: usize = 64 * 1024;

impl LabelSelector {
    /// Parses the query form.
    ///
    /// # Errors
    /// When the text is not in the language, or a key or value is no legal label.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > LONGEST {
            return Err(SelectorError::Syntax("selector is too long".to_owned()));
        }
        let tokens = tokens(text);
        let mut parser = Parser { tokens, at: 0 };
        let mut requirements = Vec::new();
        if parser.peek() == &Token::End {
            return Ok(Self::default());
        }
        loop {
            let requirement = parser.requirement()?;
            requirement.check()?;
            requirements.push(requirement);
            match parser.next() {
                Token::End => break,
                Token::Comma => {
                    if !matches!(parser.peek(), Token::Word(_) | Token::Bang) {
                        return Err(SelectorError::Syntax(format!(
                            "found '{}', expected: identifier after ','",
                            parser.peek()
                        )));
                    }
                }
                other => {
                    return Err(SelectorError::Syntax(format!(
                        "found '{other}', expected: ',' or 'end of string'"
                    )));
                }
            }
        }
        Ok(Self { requirements })
    }

    /// Exactly these pairs, as `matchLabels` and `spec.selector` of a Service say it.
    pub fn exact<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirements = pairs
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.to_owned(),
                operator: Operator::In,
                values: vec![value.to_owned()],
            })
            .collect();
        Self { requirements }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the labels, looked up by key, meet every requirement.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

impl Requirement {
    /// Whether the label's value (`None`: no such label) meets it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|known| known == value);
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = || self.values.first().and_then(|text| number(text));
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => value
                .and_then(number)
                .zip(bound())
                .is_some_and(|(v, b)| v > b),
            Operator::LessThan => value
                .and_then(number)
                .zip(bound())
                .is_some_and(|(v, b)| v < b),
        }
    }

    fn check(&self) -> Result<(), SelectorError> {
        let invalid = |what: String, value: &str, why| {
            Err(SelectorError::Invalid {
                what,
                value: value.to_owned(),
                why,
            })
        };
        let name = self
            .key
            .rsplit_once('/')
            .map_or(&*self.key, |(_, name)| name);
        if name.is_empty() || !is_label_text(name) {
            return invalid("key".to_owned(), &self.key, KEY_RULE);
        }
        if name.len() > 63 {
            return invalid("key".to_owned(), &self.key, LONG_RULE);
        }
        for (n, value) in self.values.iter().enumerate() {
            let what = || format!("values[{n}][{}]", self.key);
            if !is_label_text(value) {
                return invalid(what(), value, VALUE_RULE);
            }
            if value.len() > 63 {
                return invalid(what(), value, LONG_RULE);
            }
        }
        Ok(())
    }
}

fn is_label_text(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Comma,
    Bang,
    Equal,
    NotEqual,
    Open,
    Close,
    Greater,
    Less,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Word(word) => word,
            Self::Comma => ",",
            Self::Bang => "!",
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Open => "(",
            Self::Close => ")",
            Self::Greater => ">",
            Self::Less => "<",
            Self::End => "",
        })
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '>' => (Token::Greater, 1),
            '<' => (Token::Less, 1),
            '=' => (Token::Equal, if rest.starts_with("==") { 2 } else { 1 }),
            '!' if rest.starts_with("!=") => (Token::NotEqual, 2),
            '!' => (Token::Bang, 1),
            _ => {
                let end = rest
                    .find(|c: char| c.is_whitespace() || ",()><=!".contains(c))
                    .unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), end)
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek() == &Token::Bang;
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word,
            other => {
                return Err(SelectorError::Syntax(format!(
                    "found '{other}', expected: identifier"
                )));
            }
        };
        let with = |operator, values| Requirement {
            key: key.clone(),
            operator,
            values,
        };
        if negated {
            return Ok(with(Operator::DoesNotExist, Vec::new()));
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(with(Operator::Exists, Vec::new()));
        }
        match self.next() {
            Token::Equal => Ok(with(Operator::In, vec![self.value()])),
            Token::NotEqual => Ok(with(Operator::NotIn, vec![self.value()])),
            Token::Greater => Ok(with(Operator::GreaterThan, self.bound()?)),
            Token::Less => Ok(with(Operator::LessThan, self.bound()?)),
            Token::Word(word) if word == "in" => Ok(with(Operator::In, self.values()?)),
            Token::Word(word) if word == "notin" => Ok(with(Operator::NotIn, self.values()?)),
            other => Err(SelectorError::Syntax(format!(
                "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
            ))),
        }
    }

    /// The word after an equals sign; nothing there means the empty value.
    fn value(&mut self) -> String {
        match self.peek() {
            Token::Word(_) => self.next().to_string(),
            _ => String::new(),
        }
    }

    fn bound(&mut self) -> Result<Vec<String>, SelectorError> {
        let value = self.value();
        if value.parse::<i64>().is_err() {
            return Err(SelectorError::Syntax(
                "for 'Gt', 'Lt' operators, the value must be an integer".to_owned(),
            ));
        }
        Ok(vec![value])
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let open = self.next();
        if open != Token::Open {
            return Err(SelectorError::Syntax(format!(
                "found '{open}' expected: '('"
            )));
        }
        let mut values = vec![self.value()];
        loop {
            match self.next() {
                Token::Close => break,
                Token::Comma => values.push(self.value()),
                other => {
                    return Err(SelectorError::Syntax(format!(
                        "found '{other}', expected: ',' or ')'"
                    )));
                }
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, requirement) in self.requirements.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, values, .. } = self;
        let one = values.first().map_or("", String::as_str);
        match self.operator {
            Operator::In if values.len() == 1 => write!(f, "{key}={one}"),
            Operator::NotIn if values.len() == 1 => write!(f, "{key}!={one}"),
            Operator::In => write!(f, "{key} in ({})", values.join(",")),
            Operator::NotIn => write!(f, "{key} notin ({})", values.join(",")),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{one}"),
            Operator::LessThan => write!(f, "{key}<{one}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        LabelSelector::parse(selector)
            .expect("a selector")
            .matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    }

    #[test]
    fn matches_as_the_language_says() {
        let labels = [("app", "web"), ("tier", "front"), ("n", "5"), ("e", "")];
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("e=", true),
            ("e in (,x)", true),
            ("in in (in)", false),
            ("kubernetes.io/name=x", false),
        ] {
            assert_eq!(matches(selector, &labels), expected, "{selector}");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        for selector in [
            "=a", "a b", "a in b", "a in (b", "a,", "!", "a=b c", "-a=b", "a=b$",
        ] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }

    proptest! {
        #[test]
        fn strangers_do_not_panic(text in "\\PC{0,60}") {
            let _ = LabelSelector::parse(&text);
        }

        #[test]
        fn printing_and_parsing_agree(text in "!?[a-z]{1,5}((=|!=)[a-z]{0,3}| (in|notin) \\([a-z]{1,3}(,[a-z]{1,3}){0,3}\\))?") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
