//! Words: quotes, escapes and variables, as Dockerfiles have them.
//!
//! `$name`, `${name}`, `${name:-word}`, `${name-word}`, `${name:+word}`,
//! `${name+word}`, `${name:?word}`, `${name?word}`.

/// Looks a variable up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Nesting deeper than this is an attack.
const MAX_DEPTH: usize = 32;

/// Expands one word; quotes go, their content stays together.
///
/// # Errors
/// A text that says what is malformed.
pub fn word(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, String> {
    let mut expander = Expander {
        rest: text,
        escape,
        lookup,
        depth: 0,
    };
    let mut out = String::new();
    expander.until(&mut out, None)?;
    Ok(out)
}

/// Expands a text and splits the result at whitespace that is not quoted.
pub fn words(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, String> {
    split(text, escape)
        .into_iter()
        .map(|part| word(part, escape, lookup))
        .collect()
}

/// Expands variables only: quotes and everything else stay (here-documents).
pub fn document(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, String> {
    let mut expander = Expander {
        rest: text,
        escape,
        lookup,
        depth: 0,
    };
    let mut out = String::new();
    while let Some(c) = expander.take() {
        if c == escape {
            match expander.rest.chars().next() {
                Some(next @ '$') => {
                    expander.take();
                    out.push(next);
                }
                Some(next) if next == escape => {
                    expander.take();
                    out.push(next);
                }
                _ => out.push(c),
            }
        } else if c == '$' {
            expander.variable(&mut out)?;
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// Splits at whitespace that is neither quoted nor escaped; quotes and escapes
/// stay.
pub fn split(text: &str, escape: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == escape && quote != Some('\'') {
            escaped = true;
            start = start.or(Some(at));
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '"' || c == '\'') {
            quote = Some(c);
            start = start.or(Some(at));
        } else if quote.is_none() && c.is_whitespace() {
            if let Some(start) = start.take() {
                parts.push(&text[start..at]);
            }
        } else {
            start = start.or(Some(at));
        }
    }
    if let Some(start) = start {
        parts.push(&text[start..]);
    }
    parts
}

struct Expander<'a> {
    rest: &'a str,
    escape: char,
    lookup: Lookup<'a>,
    depth: usize,
}

impl Expander<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Expands up to `end` (which is taken) or the end of the text.
    fn until(&mut self, out: &mut String, end: Option<char>) -> Result<(), String> {
        while let Some(c) = self.take() {
            if Some(c) == end {
                return Ok(());
            }
            match c {
                '\'' => self.single(out)?,
                '"' => self.double(out)?,
                '$' => self.variable(out)?,
                c if c == self.escape => match self.take() {
                    Some(next) => out.push(next),
                    None => out.push(c),
                },
                c => out.push(c),
            }
        }
        match end {
            None => Ok(()),
            Some(end) => Err(format!("missing {end:?}")),
        }
    }

    fn single(&mut self, out: &mut String) -> Result<(), String> {
        while let Some(c) = self.take() {
            if c == '\'' {
                return Ok(());
            }
            out.push(c);
        }
        Err("unexpected end of statement while looking for matching single-quote".to_owned())
    }

    fn double(&mut self, out: &mut String) -> Result<(), String> {
        while let Some(c) = self.take() {
            match c {
                '"' => return Ok(()),
                '$' => self.variable(out)?,
                c if c == self.escape => match self.rest.chars().next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        self.take();
                        out.push(next);
                    }
                    _ => out.push(c),
                },
                c => out.push(c),
            }
        }
        Err("unexpected end of statement while looking for matching double-quote".to_owned())
    }

    /// After a `$`.
    fn variable(&mut self, out: &mut String) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("variables are nested too deep".to_owned());
        }
        let outcome = self.variable_inner(out);
        self.depth -= 1;
        outcome
    }

    fn variable_inner(&mut self, out: &mut String) -> Result<(), String> {
        if !self.rest.starts_with('{') {
            let name = self.name();
            match name.as_str() {
                "" => out.push('$'),
                name => out.push_str(&(self.lookup)(name).unwrap_or_default()),
            }
            return Ok(());
        }
        self.take();
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution: a variable's name is missing after ${".to_owned());
        }
        let value = (self.lookup)(&name);
        let mut operator = self.take();
        let empty_is_unset = operator == Some(':');
        if empty_is_unset {
            operator = self.take();
        }
        let is_set = value
            .as_ref()
            .is_some_and(|value| !(empty_is_unset && value.is_empty()));
        match operator {
            Some('}') if !empty_is_unset => out.push_str(&value.unwrap_or_default()),
            Some(operator @ ('-' | '+' | '?')) => {
                let mut alternative = String::new();
                self.until(&mut alternative, Some('}'))
                    .map_err(|_| format!("missing '}}' after ${{{name}"))?;
                match operator {
                    '-' if is_set => out.push_str(&value.unwrap_or_default()),
                    '-' => out.push_str(&alternative),
                    '+' if is_set => out.push_str(&alternative),
                    '+' => {}
                    _ if is_set => out.push_str(&value.unwrap_or_default()),
                    _ if alternative.is_empty() => {
                        return Err(format!("{name}: is not allowed to be unset"));
                    }
                    _ => return Err(format!("{name}: {alternative}")),
                }
            }
            Some(other) => {
                return Err(format!(
                    "unsupported modifier ({other}) in substitution of {name}"
                ));
            }
            None => return Err(format!("missing '}}' after ${{{name}")),
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.rest.chars().next() {
            // `$1` and the like are one character long.
            if !(c == '_' || c.is_ascii_alphanumeric()) {
                break;
            }
            name.push(c);
            self.take();
            if name.len() == 1 && c.is_ascii_digit() {
                break;
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "a" => Some("value".into()),
            "empty" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn words_are_expanded() {
        for (text, expected) in [
            ("x", "x"),
            ("$a", "value"),
            ("${a}b", "valueb"),
            ("$ab", ""),
            ("$a/b", "value/b"),
            ("a$", "a$"),
            ("\\$a", "$a"),
            ("'$a'", "$a"),
            ("\"$a\"", "value"),
            ("\"\\$a \\\" \\x\"", "$a \" \\x"),
            ("a\\ b", "a b"),
            ("${a:-x}", "value"),
            ("${none:-x}", "x"),
            ("${empty:-x}", "x"),
            ("${empty-x}", ""),
            ("${none-x}", "x"),
            ("${a:+x}", "x"),
            ("${empty:+x}", ""),
            ("${empty+x}", "x"),
            ("${none:+x}", ""),
            ("${none:-${a}-${none:-y}}", "value-y"),
            ("${none:-'q}'}", "q}"),
            ("${a?no}", "value"),
        ] {
            assert_eq!(word(text, '\\', &lookup).as_deref(), Ok(expected), "{text}");
        }
        for bad in [
            "'x",
            "\"x",
            "${a",
            "${a:-x",
            "${}",
            "${none:?gone}",
            "${a!}",
            "${a:}",
        ] {
            assert!(word(bad, '\\', &lookup).is_err(), "{bad}");
        }
        assert_eq!(word("C:\\x`$a", '`', &lookup).as_deref(), Ok("C:\\x$a"));
    }

    #[test]
    fn texts_are_split() {
        let found = split(r#"a "b c" d\ e 'f g'h  "#, '\\');
        assert_eq!(found, ["a", "\"b c\"", r"d\ e", "'f g'h"]);
        assert_eq!(
            words("\"$a b\" c", '\\', &lookup).unwrap(),
            ["value b", "c"]
        );
        let text = document("'$a' \"${none:-x}\" \\$a \\n\n", '\\', &lookup);
        assert_eq!(text.unwrap(), "'value' \"x\" $a \\n\n");
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "[$a{}:\\-+?'\"\\\\ é]{0,60}") {
            let _ = word(&text, '\\', &lookup);
            let _ = document(&text, '\\', &lookup);
            let _ = split(&text, '\\');
        }

        #[test]
        fn plain_words_stay(text in "[a-z0-9/._ -]*") {
            prop_assert_eq!(word(&text, '\\', &lookup).unwrap(), text);
        }
    }
}
