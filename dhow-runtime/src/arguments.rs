//! The command line, parsed as runc parses it: options before words, and after
//! the first word everything is a word.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use dhow_runtime::Groups;

use crate::log::{Format, Log};

/// Where containers are kept unless `--root` says otherwise.
const DEFAULT_ROOT: &str = "/run/dhow/runtime";

/// One option a command knows.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Name after two dashes (or one).
    pub long: &'static str,
    /// Letter after one dash; `\0` for none.
    pub short: char,
    /// Whether a value follows.
    pub takes: Takes,
}

/// What follows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// A value, after a blank or an equals sign.
    Value,
}

/// An option without a value.
pub const fn flag(long: &'static str, short: char) -> Known {
    Known {
        long,
        short,
        takes: Takes::Nothing,
    }
}

/// An option with a value.
pub const fn value(long: &'static str, short: char) -> Known {
    Known {
        long,
        short,
        takes: Takes::Value,
    }
}

/// Options and words of one command.
#[derive(Debug, Default)]
pub struct Parsed {
    options: Vec<(&'static str, OsString)>,
    /// The words.
    pub words: Vec<OsString>,
}

impl Parsed {
    /// Parses; `known` is what the command knows.
    pub fn parse(words: impl IntoIterator<Item = OsString>, known: &[Known]) -> Result<Self> {
        let mut parsed = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let text = word
                .to_str()
                .filter(|text| text.len() > 1 && text.starts_with('-'));
            let Some(text) = text else {
                parsed.words.push(word);
                break;
            };
            if text == "--" {
                break;
            }
            let name = text.strip_prefix("--").unwrap_or(&text[1..]);
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (name, None),
            };
            let is_short = |known: &&Known| name.len() == 1 && name.starts_with(known.short);
            let option = known
                .iter()
                .find(|known| known.long == name)
                .or_else(|| known.iter().find(is_short))
                .with_context(|| format!("flag provided but not defined: -{name}"))?;
            let value = match (option.takes, inline) {
                (Takes::Nothing, None) => OsString::new(),
                (Takes::Nothing, Some("true")) => OsString::new(),
                (Takes::Nothing, Some("false")) => continue,
                (Takes::Nothing, Some(_)) => bail!("flag takes no value: -{name}"),
                (Takes::Value, Some(value)) => value.into(),
                (Takes::Value, None) => words
                    .next()
                    .with_context(|| format!("flag needs an argument: -{name}"))?,
            };
            parsed.options.push((option.long, value));
        }
        parsed.words.extend(words);
        Ok(parsed)
    }

    /// Whether an option is there.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(known, _)| *known == name)
    }

    /// Value of an option; the last counts.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        let named = self.options.iter().rfind(|(known, _)| *known == name);
        named.map(|(_, value)| value.as_os_str())
    }

    /// Every value of an option.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a OsStr> {
        let named = self.options.iter().filter(move |(known, _)| *known == name);
        named.map(|(_, value)| value.as_os_str())
    }

    /// Value of an option as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Value of an option as something that can be parsed.
    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let parsed = text.to_str().and_then(|text| text.parse().ok());
        Ok(Some(parsed.with_context(|| {
            format!("invalid value {text:?} for flag -{name}")
        })?))
    }

    /// Value of an option as bytes: a number, perhaps with a fraction, and a unit
    /// of a power of 1024 (`k`, `MB`, `GiB`); `-1` is no limit.
    pub fn bytes(&self, name: &str) -> Result<Option<i64>> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let bytes = text.to_str().and_then(bytes);
        Ok(Some(bytes.with_context(|| {
            format!(
                "invalid value {text:?} for flag -{name}; use a number of bytes, or 64k, 64m, 1g"
            )
        })?))
    }

    /// A word that must be there, and what it is.
    pub fn word(&self, index: usize, what: &str) -> Result<&str> {
        let word = self
            .words
            .get(index)
            .with_context(|| format!("{what} is missing"))?;
        word.to_str()
            .with_context(|| format!("{what} is no UTF-8: {word:?}"))
    }
}

fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text.find(|letter: char| letter != '.' && !letter.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let mut letters = unit.chars();
    let power = match letters.next() {
        None | Some('b') => 0,
        Some(letter) => "kmgtp".find(letter)? as i32 + 1,
    };
    let rest = letters.as_str();
    let is_known = if power == 0 {
        rest.is_empty()
    } else {
        ["", "b", "ib"].contains(&rest)
    };
    if !is_known {
        return None;
    }
    // Digits on both sides of the point, if there is one.
    if !number.split('.').all(|part| !part.is_empty()) || number.matches('.').count() > 1 {
        return None;
    }
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1024_i64.pow(power as u32));
    }
    let number: f64 = number.parse().ok()?;
    let bytes = number * 1024_f64.powi(power);
    (bytes < i64::MAX as f64).then_some(bytes as i64)
}

/// Options before the command.
#[derive(Debug)]
pub struct Global {
    /// Where containers are kept.
    pub root: PathBuf,
    /// Where messages go.
    pub log: Log,
    /// Who makes control groups.
    pub groups: Groups,
    /// What was asked instead of a command.
    pub question: Option<Question>,
}

/// Questions about the program itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
}

const GLOBAL: [Known; 9] = [
    value("root", '\0'),
    value("log", '\0'),
    value("log-format", '\0'),
    flag("debug", '\0'),
    flag("systemd-cgroup", '\0'),
    // Accepted: this runtime runs as root.
    value("rootless", '\0'),
    // Accepted: there are no checkpoints it could be needed for.
    value("criu", '\0'),
    flag("help", 'h'),
    flag("version", 'v'),
];

impl Global {
    /// Parses what stands before the command; the command and what follows come back.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<(Self, Vec<OsString>)> {
        let parsed = Parsed::parse(words, &GLOBAL)?;
        let format = match parsed.get("log-format").and_then(OsStr::to_str) {
            None | Some("text" | "") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => bail!("unknown log-format {other:?}; use text or json"),
        };
        let question = match (parsed.has("help"), parsed.has("version")) {
            (true, _) => Some(Question::Help),
            (_, true) => Some(Question::Version),
            _ => None,
        };
        let global = Self {
            root: parsed.path("root").unwrap_or_else(|| DEFAULT_ROOT.into()),
            log: Log {
                path: parsed
                    .path("log")
                    .filter(|path| !path.as_os_str().is_empty()),
                format,
            },
            groups: if parsed.has("systemd-cgroup") {
                Groups::Systemd
            } else {
                Groups::Files
            },
            question,
        };
        Ok((global, parsed.words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn options_end_at_the_first_word() {
        let known = [value("user", 'u'), flag("tty", 't'), value("env", 'e')];
        let parsed = Parsed::parse(words("-t --user 1:2 -e A=1 -e=B=2 id ls -t"), &known).unwrap();
        assert!(parsed.has("tty"));
        assert_eq!(parsed.get("user"), Some(OsStr::new("1:2")));
        assert_eq!(parsed.all("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(parsed.words, words("id ls -t"));
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("67108864", Some(64 << 20)),
            ("64m", Some(64 << 20)),
            ("64M", Some(64 << 20)),
            ("64MB", Some(64 << 20)),
            ("64 mib", Some(64 << 20)),
            ("1.5k", Some(1536)),
            ("2g", Some(2 << 30)),
            ("1t", Some(1 << 40)),
            ("1p", Some(1 << 50)),
            ("5b", Some(5)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("9999999p", None),
            ("", None),
            ("m", None),
            ("-2", None),
            ("-1m", None),
            ("1.", None),
            (".5m", None),
            ("1.2.3m", None),
            ("1x", None),
            ("1bb", None),
            ("1mm", None),
            ("1 ", Some(1)),
            ("0x10", None),
            ("1é", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_unknown_or_short_of_a_value_is_refused() {
        let refused = |text| Global::parse(words(text)).unwrap_err().to_string();
        assert_eq!(
            refused("--nonsense"),
            "flag provided but not defined: -nonsense"
        );
        assert_eq!(refused("--root"), "flag needs an argument: -root");
        let (global, rest) = Global::parse(words("--root=/r --debug run -d x")).unwrap();
        assert_eq!((global.root, rest), ("/r".into(), words("run -d x")));
        assert_eq!(global.groups, Groups::Files);
        let (global, _) = Global::parse(words("--systemd-cgroup list")).unwrap();
        assert_eq!(global.groups, Groups::Systemd);
    }
}
