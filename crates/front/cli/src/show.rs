//! Tables, sizes, times and templates.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::error::Error;

/// Prints rows below a heading, each column as wide as its widest cell.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .chain([heading[column].chars().count()])
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut out = std::io::stdout().lock();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        // A closed pipe ends the output, not the command.
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(&mut heading.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// Prints a line; a closed pipe is no error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Bytes as people read them, in decimal units as `docker` has them.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{value:.digits$}{}", units[unit])
    }
}

/// How long ago a moment was, in seconds since the epoch.
pub(crate) fn ago(seconds: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let span = i64::try_from(now)
        .unwrap_or(i64::MAX)
        .saturating_sub(seconds);
    let (count, unit) = match span {
        ..1 => return "Less than a second ago".into(),
        1..60 => (span, "second"),
        60..3600 => (span / 60, "minute"),
        3600..172_800 => (span / 3600, "hour"),
        172_800..1_209_600 => (span / 86_400, "day"),
        1_209_600..5_184_000 => (span / 604_800, "week"),
        5_184_000..63_072_000 => (span / 2_592_000, "month"),
        _ => (span / 31_536_000, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

/// The first twelve digits of an identifier.
pub(crate) fn short(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

/// A text field of an answer.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Prints values by a `--format`: `json`, or a Go template of which fields
/// (`{{.A.B}}`), `{{json .}}` and plain text are understood.
pub(crate) fn formatted(format: &str, values: &[Value]) -> Result<(), Error> {
    for value in values {
        if format == "json" {
            line(value);
        } else {
            line(expand(format, value)?);
        }
    }
    Ok(())
}

fn expand(template: &str, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, tail) = after.split_once("}}").ok_or_else(|| {
            Error::Usage(format!(
                "template {template:?}: an action is not closed with }}}}"
            ))
        })?;
        out.push_str(&before.replace("\\t", "\t").replace("\\n", "\n"));
        let action = action.trim();
        let (as_json, path) = match action.strip_prefix("json ") {
            Some(path) => (true, path.trim()),
            None => (false, action),
        };
        let Some(path) = path.strip_prefix('.') else {
            return Err(Error::Usage(format!(
                "template {template:?}: {action:?} is not understood; use {{{{.Field}}}} or {{{{json .Field}}}}"
            )));
        };
        let mut found = value;
        for field in path.split('.').filter(|field| !field.is_empty()) {
            found = &found[field];
        }
        match found {
            Value::String(text) if !as_json => out.push_str(text),
            Value::Null if !as_json => out.push_str("<no value>"),
            other => out.push_str(&other.to_string()),
        }
        rest = tail;
    }
    out.push_str(&rest.replace("\\t", "\t").replace("\\n", "\n"));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_as_docker_prints_them() {
        for (bytes, shown) in [
            (0, "0B"),
            (999, "999B"),
            (1500, "1.50kB"),
            (74_800_000, "74.8MB"),
            (272_000_000, "272MB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn templates() {
        let value = json!({ "A": { "B": "x" }, "N": 3 });
        assert_eq!(expand("{{.A.B}}-{{.N}}", &value).expect("good"), "x-3");
        assert_eq!(expand("{{json .A}}", &value).expect("good"), r#"{"B":"x"}"#);
        assert_eq!(expand("{{.None}}", &value).expect("good"), "<no value>");
        assert!(expand("{{range .A}}", &value).is_err());
        assert!(expand("{{.A", &value).is_err());
    }
}
