//! `.dockerignore`: which paths of a context do not belong to it.
//!
//! One pattern a line; `#` comments; `!` takes back; the last pattern that
//! matches a path, or a directory it lies in, decides. `*` and `?` stop at
//! `/`, `**` does not.

/// The patterns of a `.dockerignore`.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    patterns: Vec<(Vec<Token>, Verdict)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ignored,
    Kept,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// One byte other than `/`.
    Any,
    /// Any number of bytes other than `/`.
    Star,
    /// Any number of bytes.
    DoubleStar,
    /// Any number of whole directories.
    Directories,
    /// One byte that is (not) in one of the ranges.
    Class(Vec<(u8, u8)>, bool),
}

impl Ignore {
    /// Reads a `.dockerignore`. Patterns that are malformed match nothing but
    /// themselves.
    pub fn parse(text: &str) -> Ignore {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for line in text.lines() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (line, verdict) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), Verdict::Kept),
                None => (line, Verdict::Ignored),
            };
            let pattern = clean(line);
            if !pattern.is_empty() {
                patterns.push((tokens(pattern.as_bytes()), verdict));
            }
        }
        Ignore { patterns }
    }

    /// Whether a path (clean, relative) does not belong to the context.
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        let mut ignored = false;
        for (pattern, verdict) in &self.patterns {
            let would_change = ignored != (*verdict == Verdict::Ignored);
            if would_change && matches_or_contains(pattern, path) {
                ignored = *verdict == Verdict::Ignored;
            }
        }
        ignored
    }

    /// Whether nothing below an ignored directory can come back, so that it
    /// need not be entered.
    pub fn has_exceptions(&self) -> bool {
        self.patterns
            .iter()
            .any(|(_, verdict)| *verdict == Verdict::Kept)
    }
}

/// Whether a shell pattern matches a whole path; `**` crosses directories.
pub(crate) fn matches(pattern: &str, path: &[u8]) -> bool {
    run(&tokens(pattern.as_bytes()), path)
}

/// Whether a text has anything special for [`matches`].
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn matches_or_contains(pattern: &[Token], path: &[u8]) -> bool {
    run(pattern, path)
        || path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .any(|(at, _)| run(pattern, &path[..at]))
}

/// The pattern's path in normal form: no leading or double slashes, no dots.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn tokens(mut pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    while let Some((first, rest)) = pattern.split_first() {
        pattern = rest;
        match first {
            b'*' if rest.starts_with(b"*") => {
                let end = rest
                    .iter()
                    .position(|byte| *byte != b'*')
                    .unwrap_or(rest.len());
                pattern = &rest[end..];
                if let Some(after) = pattern.strip_prefix(b"/") {
                    pattern = after;
                    tokens.push(Token::Directories);
                } else {
                    tokens.push(Token::DoubleStar);
                }
            }
            b'*' => tokens.push(Token::Star),
            b'?' => tokens.push(Token::Any),
            b'\\' if !rest.is_empty() => {
                tokens.push(Token::Byte(rest[0]));
                pattern = &rest[1..];
            }
            b'[' => match class(rest) {
                Some((token, after)) => {
                    tokens.push(token);
                    pattern = after;
                }
                None => tokens.push(Token::Byte(b'[')),
            },
            byte => tokens.push(Token::Byte(*byte)),
        }
    }
    tokens
}

/// `a-z]…` or `^a-z]…` after a bracket.
fn class(mut rest: &[u8]) -> Option<(Token, &[u8])> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        let (mut low, mut after) = rest.split_first()?;
        if *low == b']' && !ranges.is_empty() {
            return Some((Token::Class(ranges, negated), after));
        }
        if *low == b'\\' {
            (low, after) = after.split_first()?;
        }
        let mut high = low;
        if let [b'-', end, more @ ..] = after
            && *end != b']'
        {
            (high, after) = (end, more);
        }
        ranges.push((*low, *high));
        rest = after;
    }
}

/// Follows all ways through the pattern at once: time is the product of the
/// lengths, whatever the pattern.
fn run(pattern: &[Token], path: &[u8]) -> bool {
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    // A run of stars may match nothing.
    let spread = |at: &mut Vec<bool>| {
        for n in 0..pattern.len() {
            let skippable = matches!(
                pattern[n],
                Token::Star | Token::DoubleStar | Token::Directories
            );
            if at[n] && skippable {
                at[n + 1] = true;
            }
        }
    };
    spread(&mut at);
    // Within `**/`, only what follows a slash goes on.
    let mut inside = vec![false; pattern.len() + 1];
    for byte in path {
        let mut next = vec![false; pattern.len() + 1];
        let mut next_inside = vec![false; pattern.len() + 1];
        for n in 0..pattern.len() {
            if let Token::Directories = pattern[n]
                && (at[n] || inside[n])
            {
                next_inside[n] = true;
                if *byte == b'/' {
                    next[n + 1] = true;
                }
            }
            if !at[n] {
                continue;
            }
            match &pattern[n] {
                Token::Byte(expected) => next[n + 1] |= byte == expected,
                Token::Any => next[n + 1] |= *byte != b'/',
                Token::Star => next[n] |= *byte != b'/',
                Token::DoubleStar => next[n] = true,
                Token::Directories => {}
                Token::Class(ranges, negated) => {
                    let within = ranges
                        .iter()
                        .any(|(low, high)| (low..=high).contains(&byte));
                    next[n + 1] |= *byte != b'/' && within != *negated;
                }
            }
        }
        spread(&mut next);
        (at, inside) = (next, next_inside);
    }
    at[pattern.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_docker_says() {
        for (pattern, path, expected) in [
            ("*.md", "README.md", true),
            ("*.md", "docs/README.md", false),
            ("**/*.md", "docs/a/README.md", true),
            ("**/*.md", "README.md", true),
            ("**/foo", "afoo", false),
            ("a/**", "a/b/c", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "a/bz", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("**", "any/thing", true),
            ("a**b", "a/x/b", true),
        ] {
            assert_eq!(
                matches(pattern, path.as_bytes()),
                expected,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn the_last_word_counts() {
        let ignore =
            Ignore::parse("# comment\n*\n!src\n/src/secret \n!src/secret/not\n\n*/temp*\n");
        for (path, expected) in [
            ("README", true),
            ("src", false),
            ("src/main.rs", false),
            ("src/secret", true),
            ("src/secret/key", true),
            ("src/secret/not", false),
            ("src/temporary", true),
        ] {
            assert_eq!(ignore.is_ignored(path.as_bytes()), expected, "{path}");
        }
        assert!(ignore.has_exceptions());
        assert!(!Ignore::parse("").is_ignored(b"x"));
        assert!(Ignore::parse("./a/../b/").is_ignored(b"b/c"));
    }

    proptest! {
        #[test]
        fn a_path_without_magic_matches_itself(path in "[a-z/.]{1,30}") {
            prop_assert!(matches(&path, path.as_bytes()));
        }

        #[test]
        fn long_patterns_are_quick(n in 1usize..40) {
            let pattern = "*a".repeat(n);
            prop_assert!(!matches(&pattern, "a".repeat(500).replace('a', "b").as_bytes()));
        }

        #[test]
        fn any_pattern_is_safe(pattern: String, path: Vec<u8>) {
            let _ = Ignore::parse(&pattern).is_ignored(&path);
        }
    }
}
