//! What can go wrong with a build; mistakes in a Dockerfile are shown where
//! they are.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What a build returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong with a build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile makes no sense (HTTP 400).
    #[error("{0}")]
    Dockerfile(Box<Trouble>),
    /// A step failed.
    #[error("{0}")]
    Step(Box<Trouble>),
    /// A command returned something else than zero.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command {
        /// The command as executed.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// The options or the context make no sense (HTTP 400).
    #[error("{0}")]
    Invalid(String),
    /// Nobody wants the result any more.
    #[error("build cancelled")]
    Cancelled,
    /// The image store refused.
    #[error(transparent)]
    Image(#[from] dhow_image::Error),
    /// The disk refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Adds the action and the path to an I/O error.
pub(crate) fn at<'a>(
    action: &'static str,
    path: impl AsRef<Path> + 'a,
) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        action,
        path: path.as_ref().to_owned(),
        source,
    }
}

/// Something is wrong at a place in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong, and the way out.
    pub message: String,
    /// Name of the file.
    pub file: String,
    /// Number of the line, from one.
    pub line: usize,
    /// The line itself.
    pub text: String,
    /// Where in the line, in bytes, and how long; empty for the whole line.
    pub column: usize,
    /// Length of the place in bytes.
    pub length: usize,
    /// What was perhaps meant.
    pub hint: Option<String>,
}

impl fmt::Display for Trouble {
    /// The message on the first line, then the place:
    ///
    /// ```text
    /// dockerfile parse error on line 3: unknown instruction: RUNN
    /// Dockerfile:3
    ///   3 | RUNN echo
    ///     | ^^^^ did you mean RUN?
    /// ```
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trouble {
            message,
            file,
            line,
            text,
            ..
        } = self;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(formatter, "{message}\n{file}:{line}")?;
        writeln!(formatter, "  {number} | {}", text.trim_end())?;
        let column = floor(text, self.column);
        let end = floor(text, self.column.saturating_add(self.length));
        // Tabs stay tabs, so that the caret stands below.
        let before: String = text[..column]
            .chars()
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let n_carets = text[column..end].trim_end().chars().count().max(1);
        write!(formatter, "  {margin} | {before}{}", "^".repeat(n_carets))?;
        match &self.hint {
            Some(hint) => write!(formatter, " {hint}"),
            None => Ok(()),
        }
    }
}

/// The nearest character boundary at or before a byte.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The word of `known` that is most like `word`, if any is like it at all.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= 2.min(candidate.len() / 2))
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shown() {
        let trouble = Trouble {
            message: "unknown instruction: RUNN".into(),
            file: "Dockerfile".into(),
            line: 12,
            text: "\tRUNN echo é".into(),
            column: 1,
            length: 4,
            hint: Some("did you mean RUN?".into()),
        };
        assert_eq!(
            trouble.to_string(),
            "unknown instruction: RUNN\nDockerfile:12\n  12 | \tRUNN echo é\n     | \t^^^^ did you mean RUN?"
        );
        let far = Trouble {
            column: 1000,
            length: 1000,
            ..trouble
        };
        assert!(far.to_string().contains('^'));
    }

    #[test]
    fn words_are_guessed() {
        let known = ["RUN", "FROM", "ENTRYPOINT"];
        assert_eq!(nearest("FORM", known), Some("FROM"));
        assert_eq!(nearest("entripoint", known), Some("ENTRYPOINT"));
        assert_eq!(nearest("XYZZY", known), None);
    }
}
