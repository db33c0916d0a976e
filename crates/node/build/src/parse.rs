//! From the text of a Dockerfile to statements: directives, continuations,
//! comments, flags, here-documents.
//!
//! What a statement means is decided in [`crate::instruction`]; words stay as
//! they are written, quotes and escapes included, because only expansion knows
//! what those hide.

use std::ops::Range;

use crate::diagnose::{Error, Result, Trouble, nearest};
use crate::instruction::Keyword;

/// A Dockerfile larger than this is no Dockerfile.
const MAX_SIZE: usize = 4 << 20;

/// A Dockerfile, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// Name of the file, for messages.
    pub name: String,
    /// The whole text.
    pub text: String,
    /// What escapes: `\` or `` ` ``.
    pub escape: char,
    /// The statements, in order.
    pub statements: Vec<Statement>,
}

/// One instruction with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Which instruction.
    pub keyword: Keyword,
    /// `--name=value` before the arguments.
    pub flags: Vec<(String, Option<String>)>,
    /// Everything after flags, continuations joined, comments left out.
    pub arguments: String,
    /// Documents that follow, in the order they are announced.
    pub heredocs: Vec<Heredoc>,
    /// The statement in one line, as progress shows it.
    pub shown: String,
    /// Number of its first line, from one.
    pub line: usize,
    /// Where the keyword stands in the text.
    pub span: Range<usize>,
}

/// A document within the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Whether variables in it are expanded: its word was not quoted.
    pub expand: bool,
    /// Its text.
    pub content: String,
}

impl Dockerfile {
    /// Something is wrong with a part of the text.
    pub(crate) fn trouble(&self, span: Range<usize>, message: impl Into<String>) -> Box<Trouble> {
        Box::new(trouble(&self.name, &self.text, span, message))
    }

    /// Something is wrong with a statement; its first line is shown from the
    /// keyword to its end.
    pub(crate) fn about(&self, statement: &Statement, message: impl Into<String>) -> Box<Trouble> {
        let start = statement.span.start;
        let end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |n| start + n);
        let message = format!("dockerfile line {}: {}", statement.line, message.into());
        self.trouble(start..end, message)
    }
}

fn trouble(name: &str, text: &str, span: Range<usize>, message: impl Into<String>) -> Trouble {
    let start = text[..span.start]
        .rfind('\n')
        .map_or(0, |newline| newline + 1);
    let end = text[start..]
        .find('\n')
        .map_or(text.len(), |newline| start + newline);
    Trouble {
        message: message.into(),
        file: name.to_owned(),
        line: text[..start].matches('\n').count() + 1,
        text: text[start..end].trim_end_matches('\r').to_owned(),
        column: span.start - start,
        length: span.end.min(end).saturating_sub(span.start),
        hint: None,
    }
}

/// Takes a Dockerfile apart.
///
/// # Errors
/// [`Error::Dockerfile`], with the place.
pub fn parse(name: &str, text: &str) -> Result<Dockerfile> {
    if text.len() > MAX_SIZE {
        return Err(Error::Invalid(format!(
            "{name} has more than {MAX_SIZE} bytes"
        )));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut dockerfile = Dockerfile {
        name: name.to_owned(),
        text: text.to_owned(),
        escape: '\\',
        statements: Vec::new(),
    };
    let mut lines = Lines { text, offset: 0 };
    directives(&mut dockerfile, &mut lines)?;
    while let Some(line) = lines.next() {
        let content = line.text.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let statement = statement(&dockerfile, &mut lines, &line)?;
        dockerfile.statements.push(statement);
    }
    if dockerfile.statements.is_empty() {
        return Err(Error::Invalid(format!("{name}: file with no instructions")));
    }
    Ok(dockerfile)
}

/// Lines of a text with their offsets.
struct Lines<'a> {
    text: &'a str,
    offset: usize,
}

struct Line<'a> {
    /// Without its end.
    text: &'a str,
    offset: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = &self.text[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let text = rest[..length].trim_end_matches(['\n', '\r']);
        let line = Line {
            text,
            offset: self.offset,
        };
        self.offset += length;
        Some(line)
    }
}

/// Reads `# name=value` lines at the very beginning.
fn directives(dockerfile: &mut Dockerfile, lines: &mut Lines<'_>) -> Result<()> {
    let mut seen: Vec<String> = Vec::new();
    loop {
        let before = lines.offset;
        let Some(line) = lines.next() else {
            return Ok(());
        };
        let directive = line
            .text
            .trim_start()
            .strip_prefix('#')
            .and_then(|comment| comment.split_once('='))
            .map(|(name, value)| (name.trim().to_lowercase(), value.trim()));
        let span = line.offset..line.offset + line.text.len();
        match directive {
            Some((name, value)) if matches!(name.as_str(), "escape" | "syntax" | "check") => {
                if seen.contains(&name) {
                    let trouble = dockerfile.trouble(
                        span,
                        format!("only one {name} parser directive can be used"),
                    );
                    return Err(Error::Dockerfile(trouble));
                }
                if name == "escape" {
                    dockerfile.escape = match value {
                        "\\" => '\\',
                        "`" => '`',
                        other => {
                            let text =
                                format!("invalid escape token {other:?} does not match ` or \\");
                            return Err(Error::Dockerfile(dockerfile.trouble(span, text)));
                        }
                    };
                }
                seen.push(name);
            }
            _ => {
                // Not one of them: directives are over.
                lines.offset = before;
                return Ok(());
            }
        }
    }
}

fn statement(
    dockerfile: &Dockerfile,
    lines: &mut Lines<'_>,
    first: &Line<'_>,
) -> Result<Statement> {
    let mut joined = String::new();
    let mut part = Some(first.text.trim_start());
    while let Some(text) = part {
        match continued(text, dockerfile.escape) {
            Some(head) => joined.push_str(head),
            None => {
                joined.push_str(text);
                break;
            }
        }
        // Comments and empty lines do not interrupt.
        part = lines
            .by_ref()
            .map(|line| line.text)
            .find(|text| !text.trim().is_empty() && !text.trim_start().starts_with('#'));
    }
    let joined = joined.trim();
    let start = first.offset + (first.text.len() - first.text.trim_start().len());
    let word = joined.split(char::is_whitespace).next().unwrap_or_default();
    let span = start..start + word.len();
    let line = dockerfile.text[..start].matches('\n').count() + 1;
    let keyword: Keyword = word.parse().map_err(|()| {
        let message = format!("dockerfile parse error on line {line}: unknown instruction: {word}");
        let mut trouble = dockerfile.trouble(span.clone(), message);
        trouble.hint = nearest(word, Keyword::ALL.iter().map(|keyword| keyword.name()))
            .map(|guess| format!("did you mean {guess}?"));
        Error::Dockerfile(trouble)
    })?;
    let rest = joined[word.len()..].trim_start();
    let (flags, arguments) = flags(rest);
    let mut heredocs = Vec::new();
    let is_announced = match keyword {
        Keyword::Run | Keyword::Copy | Keyword::Add => true,
        Keyword::Onbuild => false,
        _ => false,
    };
    if is_announced && !arguments.trim_start().starts_with('[') {
        for (name, expand, strip) in announced(arguments) {
            heredocs.push(heredoc(dockerfile, lines, &span, name, expand, strip)?);
        }
    }
    if arguments.is_empty() && keyword != Keyword::Cmd && keyword != Keyword::Entrypoint {
        let message = format!(
            "dockerfile parse error on line {line}: {} requires at least one argument",
            keyword.name()
        );
        return Err(Error::Dockerfile(dockerfile.trouble(span, message)));
    }
    Ok(Statement {
        keyword,
        flags,
        arguments: arguments.to_owned(),
        heredocs,
        shown: format!("{} {rest}", keyword.name()).trim_end().to_owned(),
        line,
        span,
    })
}

/// A line without its continuation, if it is continued.
fn continued(line: &str, escape: char) -> Option<&str> {
    line.trim_end_matches([' ', '\t']).strip_suffix(escape)
}

/// Splits `--name=value` words off the front.
fn flags(mut rest: &str) -> (Vec<(String, Option<String>)>, &str) {
    let mut flags = Vec::new();
    while let Some(after) = rest.strip_prefix("--") {
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        let (word, next) = after.split_at(end);
        rest = next.trim_start();
        if word.is_empty() {
            break;
        }
        match word.split_once('=') {
            Some((name, value)) => flags.push((name.to_owned(), Some(value.to_owned()))),
            None => flags.push((word.to_owned(), None)),
        }
    }
    (flags, rest)
}

/// The here-documents that words of a line announce: name, whether to expand,
/// whether to strip leading tabs.
fn announced(arguments: &str) -> Vec<(String, bool, bool)> {
    let mut found = Vec::new();
    let mut quote = None;
    let mut rest = arguments;
    while let Some(c) = rest.chars().next() {
        if let Some(open) = quote {
            if c == open {
                quote = None;
            }
        } else if c == '\'' || c == '"' {
            quote = Some(c);
        } else if let Some(after) = rest.strip_prefix("<<")
            && !after.starts_with('<')
        {
            let strip = after.starts_with('-');
            let word = after.trim_start_matches('-');
            let (name, expand, length) = match word.chars().next() {
                Some(open @ ('"' | '\'')) => {
                    let name = word[1..].split(open).next().unwrap_or_default();
                    (name, false, name.len() + 2)
                }
                _ => {
                    let ends = |c: char| c.is_whitespace() || ";|&<>()\"'".contains(c);
                    let name = word.split(ends).next().unwrap_or_default();
                    (name, true, name.len())
                }
            };
            let is_word = |c: char| c.is_alphanumeric() || "_-.".contains(c);
            if !name.is_empty() && name.chars().all(is_word) {
                found.push((name.to_owned(), expand, strip));
            }
            rest = &word[length.min(word.len())..];
            continue;
        } else if rest.starts_with("<<<") {
            rest = &rest[3..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
    }
    found
}

fn heredoc(
    dockerfile: &Dockerfile,
    lines: &mut Lines<'_>,
    span: &Range<usize>,
    name: String,
    expand: bool,
    strip: bool,
) -> Result<Heredoc> {
    let mut content = String::new();
    for line in lines {
        let text = if strip {
            line.text.trim_start_matches('\t')
        } else {
            line.text
        };
        if text == name {
            return Ok(Heredoc {
                name,
                expand,
                content,
            });
        }
        content.push_str(text);
        content.push('\n');
    }
    let message = format!("unterminated heredoc: no line {name:?} before the end of the file");
    Err(Error::Dockerfile(dockerfile.trouble(span.clone(), message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statements(text: &str) -> Vec<Statement> {
        parse("Dockerfile", text)
            .unwrap_or_else(|error| panic!("{error}"))
            .statements
    }

    #[test]
    fn continuations_and_comments() {
        let text =
            "# comment\nFROM debian\n\nRUN a && \\\n  # in between\n\n    b \\  \n c\nuser x\n";
        let found = statements(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].arguments, "a &&     b  c");
        assert_eq!((found[1].line, found[2].line), (4, 9));
        assert_eq!(found[2].keyword, Keyword::User);
    }

    #[test]
    fn directives_choose_the_escape() {
        let text = "# syntax=docker/dockerfile:1\n# escape=`\nFROM x\nRUN a `\n b\\\n";
        assert_eq!(statements(text)[1].arguments, "a  b\\");
        // After anything else, it is a comment.
        let text = "# hello\n# escape=`\nFROM x\nRUN a \\\nb\n";
        assert_eq!(statements(text)[1].arguments, "a b");
        assert!(parse("D", "# escape=x\nFROM a").is_err());
        assert!(parse("D", "# escape=`\n# escape=`\nFROM a").is_err());
    }

    #[test]
    fn flags_come_first() {
        let found = statements("FROM x\nCOPY --from=a --chown=1:2 --link b --c d\n");
        let flags: Vec<&str> = found[1]
            .flags
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(flags, ["from", "chown", "link"]);
        assert_eq!(found[1].arguments, "b --c d");
    }

    #[test]
    fn documents_follow() {
        let text = "FROM x\nRUN <<EOF\necho $A\n\n# kept\nEOF\nCOPY <<\"A\" <<-B /d/\n1\nA\n\t2\n\tB\nUSER y\n";
        let found = statements(text);
        let docs: Vec<(&str, bool, &str)> = found
            .iter()
            .flat_map(|statement| &statement.heredocs)
            .map(|doc| (doc.name.as_str(), doc.expand, doc.content.as_str()))
            .collect();
        let expected = [
            ("EOF", true, "echo $A\n\n# kept\n"),
            ("A", false, "1\n"),
            ("B", true, "2\n"),
        ];
        assert_eq!(docs, expected);
        assert_eq!(found[3].keyword, Keyword::User);
        assert!(
            statements("FROM x\nRUN cat <<< word\n")[1]
                .heredocs
                .is_empty()
        );
        assert!(
            statements("FROM x\nRUN echo '<<EOF'\n")[1]
                .heredocs
                .is_empty()
        );
        assert!(parse("D", "FROM x\nRUN <<EOF\nnever\n").is_err());
    }

    #[test]
    fn mistakes_are_shown() {
        let error = parse("Dockerfile", "FROM x\nRNU echo\n")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "dockerfile parse error on line 2: unknown instruction: RNU\nDockerfile:2\n  2 | RNU echo\n    | ^^^ did you mean RUN?"
        );
        assert!(parse("D", "# nothing\n").is_err());
        let error = parse("D", "FROM").unwrap_err().to_string();
        assert!(
            error.contains("FROM requires at least one argument"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "(FROM x\n)?(RUN|COPY|#|\\\\|<<E|\n| |é|\"|--a=){0,30}") {
            let _ = parse("Dockerfile", &text);
        }

        #[test]
        fn any_unicode_is_safe(text: String) {
            let _ = parse("Dockerfile", &text);
        }
    }
}
