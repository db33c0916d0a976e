//! Log drivers: what a container's log options mean, and which files come of
//! them. Pure, but for the question whether there is a journal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dhow_shim::wire::{JournalSpec, LogFileSpec, LogForm, LogSpec};
use regex::Regex;

use crate::error::{Error, Result};
use crate::record::Record;
use crate::spec::LogConfig;

/// The driver of containers that name none. Docker's SDK for Python shows no
/// output of containers with any but this one and `journald`.
pub const DEFAULT: &str = "json-file";
/// All drivers.
pub const DRIVERS: [&str; 4] = ["journald", "json-file", "local", "none"];

/// Options that choose what each line carries besides its text.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];
/// Options of all drivers. Writing to a file never blocks a container, so that
/// both modes are one.
const COMMON: [&str; 2] = ["mode", "max-buffer-size"];
/// Options of the drivers that keep files.
const FILES: [&str; 3] = ["max-size", "max-file", "compress"];

/// Bytes of a file before it is rotated, where nothing else is said.
const SIZE: u64 = 20 << 20;
/// How many files are kept, where nothing is said of their size.
const N_FILES: u32 = 5;

/// Checks a log configuration.
///
/// # Errors
///
/// [`Error::Invalid`] names the driver, the option or the value that is wrong.
pub(crate) fn check(log: &LogConfig, journal: &Path) -> Result<()> {
    let known: &[&[&str]] = match log.kind.as_str() {
        "local" => &[&FILES, &COMMON],
        "json-file" => &[&FILES, &COMMON, &ATTRIBUTES],
        "journald" if journal.exists() => &[&COMMON, &ATTRIBUTES],
        "journald" => {
            return Err(Error::Invalid(format!(
                "failed to initialize logging driver: journald is not enabled on this host: there is no {}; use local or json-file",
                journal.display()
            )));
        }
        "none" => return Ok(()),
        other => {
            return Err(Error::Invalid(format!(
                "logger: no log driver named '{other}' is registered; use one of {}",
                DRIVERS.join(", ")
            )));
        }
    };
    if let Some(unknown) = log
        .config
        .keys()
        .find(|name| !known.iter().any(|names| names.contains(&name.as_str())))
    {
        return Err(Error::Invalid(format!(
            "unknown log opt '{unknown}' for {} log driver",
            log.kind
        )));
    }
    file(log, PathBuf::new(), BTreeMap::new())?;
    chosen(log, "labels-regex")?;
    chosen(log, "env-regex")?;
    match log.config.get("mode").map(String::as_str) {
        None | Some("blocking" | "non-blocking") => Ok(()),
        Some(other) => Err(Error::Invalid(format!(
            "logger: logging mode not supported: {other}; use blocking or non-blocking"
        ))),
    }
}

/// Where a container's log is read, and its form; none when none is kept.
pub(crate) fn path(folder: &Path, log: &LogConfig) -> Option<(PathBuf, LogForm)> {
    match log.kind.as_str() {
        "none" => None,
        "json-file" => Some((folder.join("log.json"), LogForm::JsonFile)),
        _ => Some((folder.join("log"), LogForm::Local)),
    }
}

/// What the shim is to do with a container's output.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn spec(folder: &Path, record: &Record, journal: &Path) -> Result<LogSpec> {
    let log = &record.host.log_config;
    let Some((path, _)) = path(folder, log) else {
        return Ok(LogSpec::default());
    };
    let attributes = attributes(record)?;
    if log.kind != "journald" {
        return Ok(LogSpec {
            file: Some(file(log, path, attributes)?),
            journal: None,
        });
    }
    // The journal is not read back: what `logs` shows is kept beside it.
    let beside = LogConfig {
        kind: "local".into(),
        config: BTreeMap::new(),
    };
    let mut fields: BTreeMap<String, String> = attributes
        .into_iter()
        .map(|(name, value)| (field_name(&name), value))
        .collect();
    let tag = tag(record);
    for (name, value) in [
        ("CONTAINER_ID", &record.id[..12]),
        ("CONTAINER_ID_FULL", &record.id),
        ("CONTAINER_NAME", &record.name),
        ("CONTAINER_TAG", &tag),
        ("IMAGE_NAME", &record.config.image),
        ("SYSLOG_IDENTIFIER", &tag),
    ] {
        fields.insert(name.into(), value.to_owned());
    }
    Ok(LogSpec {
        file: Some(file(&beside, path, BTreeMap::new())?),
        journal: Some(JournalSpec {
            socket: journal.into(),
            fields,
        }),
    })
}

fn file(
    log: &LogConfig,
    path: PathBuf,
    attributes: BTreeMap<String, String>,
) -> Result<LogFileSpec> {
    let is_local = log.kind == "local";
    let invalid = |name: &str, value: &str, wanted: &str| {
        Error::Invalid(format!(
            "invalid value for log option {name}: {value:?}; use {wanted}"
        ))
    };
    // Nothing grows without a bound unless it is told to; a size alone keeps
    // one file of it, as Docker's json-file does.
    let size = log.config.get("max-size").map(String::as_str);
    let is_bounded_by_default = size.is_none() || is_local;
    let max_size = match size {
        None => Some(SIZE),
        // Docker's word for "never".
        Some("-1") if !is_local => None,
        Some(text) => Some(
            bytes(text)
                .ok_or_else(|| invalid("max-size", text, "a number of bytes such as 10m"))?,
        ),
    };
    let max_files = match log.config.get("max-file") {
        None if is_bounded_by_default => N_FILES,
        None => 1,
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| (1..=1000).contains(count))
            .ok_or_else(|| invalid("max-file", text, "a number from 1 to 1000"))?,
    };
    if max_files > 1 && max_size.is_none() {
        return Err(Error::Invalid(
            "log option max-file has no effect with max-size=-1; leave one of them out".into(),
        ));
    }
    let compress = match log.config.get("compress").map(String::as_str) {
        None => is_bounded_by_default,
        Some("true" | "1") => true,
        Some("false" | "0") => false,
        Some(text) => return Err(invalid("compress", text, "true or false")),
    };
    Ok(LogFileSpec {
        path,
        form: if is_local {
            LogForm::Local
        } else {
            LogForm::JsonFile
        },
        max_size,
        max_files,
        compress: compress && max_files > 1,
        attributes,
    })
}

/// The labels and variables that each line carries.
fn attributes(record: &Record) -> Result<BTreeMap<String, String>> {
    let log = &record.host.log_config;
    let mut chosen_ones = BTreeMap::new();
    let mut choose = |names: &str, pattern: Option<Regex>, name: &str, value: &str| {
        let is_named = names.split(',').any(|other| other.trim() == name);
        if is_named || pattern.is_some_and(|pattern| pattern.is_match(name)) {
            chosen_ones.insert(name.to_owned(), value.to_owned());
        }
    };
    let list = |name: &str| log.config.get(name).map_or("", String::as_str);
    for (name, value) in &record.config.labels {
        choose(list("labels"), chosen(log, "labels-regex")?, name, value);
    }
    for variable in &record.config.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        choose(list("env"), chosen(log, "env-regex")?, name, value);
    }
    if log.config.contains_key("tag") {
        chosen_ones.insert("tag".into(), tag(record));
    }
    Ok(chosen_ones)
}

fn chosen(log: &LogConfig, name: &str) -> Result<Option<Regex>> {
    log.config
        .get(name)
        .map(|pattern| {
            Regex::new(pattern)
                .map_err(|error| Error::Invalid(format!("invalid log option {name}: {error}")))
        })
        .transpose()
}

/// The tag; by default the start of the id.
fn tag(record: &Record) -> String {
    let pattern = record
        .host
        .log_config
        .config
        .get("tag")
        .filter(|tag| !tag.is_empty())
        .map_or("{{.ID}}", String::as_str);
    let bare = |id: &str| id.split_once(':').map_or(id, |(_, hex)| hex).to_owned();
    let image = bare(&record.image);
    [
        ("{{.ID}}", &record.id[..12]),
        ("{{.FullID}}", &record.id),
        ("{{.Name}}", &record.name),
        ("{{.ImageName}}", &record.config.image),
        ("{{.ImageID}}", &image[..image.len().min(12)]),
        ("{{.ImageFullID}}", &image),
        ("{{.DaemonName}}", "dhow"),
    ]
    .iter()
    .fold(pattern.to_owned(), |tag, (field, value)| {
        tag.replace(field, value)
    })
}

/// A name as the journal allows it: capitals, digits and underscores.
fn field_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|letter| match letter.to_ascii_uppercase() {
            letter @ ('A'..='Z' | '0'..='9') => letter,
            _ => '_',
        })
        .collect();
    plain.trim_start_matches('_').to_owned()
}

/// A number of bytes, with or without a unit.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, unit) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1 << 10),
        b'm' => (&lower[..lower.len() - 1], 1 << 20),
        b'g' => (&lower[..lower.len() - 1], 1 << 30),
        _ => (lower, 1),
    };
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)
        .filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(kind: &str, options: &[(&str, &str)]) -> LogConfig {
        LogConfig {
            kind: kind.into(),
            config: options
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [("10", 10), ("1k", 1024), ("2MB", 2 << 20), ("1g", 1 << 30)] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for bad in ["", "k", "0", "-1", "1x", "99999999999g"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn logs_are_bounded_and_compressed() {
        let spec = file(&log("local", &[]), "/l".into(), BTreeMap::new()).expect("good");
        assert_eq!(
            (spec.max_size, spec.max_files, spec.compress, spec.form),
            (Some(20 << 20), 5, true, LogForm::Local)
        );
        let spec = file(&log("json-file", &[]), "/l".into(), BTreeMap::new()).expect("good");
        assert_eq!(
            (spec.max_size, spec.max_files, spec.compress, spec.form),
            (Some(20 << 20), 5, true, LogForm::JsonFile)
        );
        // Said more exactly, it is Docker's.
        let said = log("json-file", &[("max-size", "1m")]);
        let spec = file(&said, "/l".into(), BTreeMap::new()).expect("good");
        assert_eq!(
            (spec.max_size, spec.max_files, spec.compress),
            (Some(1 << 20), 1, false)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        let here = Path::new("/");
        let gone = Path::new("/nowhere/socket");
        for (log, journal, part) in [
            (log("syslog", &[]), here, "no log driver named 'syslog'"),
            (log("journald", &[]), gone, "journald is not enabled"),
            (
                log("local", &[("tag", "x")]),
                here,
                "unknown log opt 'tag' for local log driver",
            ),
            (log("json-file", &[("max-size", "big")]), here, "max-size"),
            (log("json-file", &[("max-file", "0")]), here, "max-file"),
            (
                log("json-file", &[("max-file", "3"), ("max-size", "-1")]),
                here,
                "max-file has no effect with max-size=-1",
            ),
            (
                log("json-file", &[("env-regex", "(")]),
                here,
                "invalid log option env-regex",
            ),
            (
                log("local", &[("mode", "fast")]),
                here,
                "logging mode not supported: fast",
            ),
        ] {
            let error = check(&log, journal).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
        check(&log("journald", &[("tag", "{{.Name}}")]), here).expect("there is a journal");
    }

    #[test]
    fn names_become_the_journals() {
        assert_eq!(field_name("com.example/a-b"), "COM_EXAMPLE_A_B");
        assert_eq!(field_name("_x"), "X");
    }
}
