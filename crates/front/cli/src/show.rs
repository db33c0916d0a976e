//! Tables, sizes, times and templates.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::Outcome;
use crate::client::Client;
use crate::error::Error;
use crate::template::Template;

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

/// Prints a part of a line; a closed pipe is no error.
pub(crate) fn part(text: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a line; a closed pipe is no error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints lines in as few writes as that takes; a closed pipe is no error.
pub(crate) fn lines(texts: impl IntoIterator<Item = impl std::fmt::Display>) {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for text in texts {
        if writeln!(out, "{text}").is_err() {
            return;
        }
    }
    let _ = out.flush();
}

/// Bytes as people read them: three digits and a decimal unit, as `docker` has
/// them.
pub(crate) fn size(bytes: u64) -> String {
    significant(bytes, 3)
}

/// The same with four digits, where `docker` has those.
pub(crate) fn fine_size(bytes: u64) -> String {
    significant(bytes, 4)
}

/// Bytes in units of 1024 with four digits, where `docker` has those.
pub(crate) fn binary_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 4)
}

/// Bytes in the largest unit that leaves a whole number, with so many digits
/// and no zeros behind them.
fn significant(bytes: u64, n_digits: usize) -> String {
    scaled(
        bytes,
        1000.0,
        &["B", "kB", "MB", "GB", "TB", "PB"],
        n_digits,
    )
}

fn scaled(bytes: u64, step: f64, units: &[&str], n_digits: usize) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let n_whole = match value {
        ..10.0 => 1,
        ..100.0 => 2,
        ..1000.0 => 3,
        _ => 4,
    };
    let mut text = format!("{value:.*}", n_digits.saturating_sub(n_whole));
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text}{}", units[unit])
}

/// A moment of RFC 3339 in the words of Go, to the nanosecond.
pub(crate) fn precise(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(moment) => {
            let zoned = moment.to_zoned_datetime(jiff::tz::TimeZone::UTC);
            let fraction = format!("{:09}", moment.subsec_nanosecond());
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            let seconds = zoned.strftime("%Y-%m-%d %H:%M:%S");
            format!("{seconds}{point}{fraction} +0000 UTC")
        }
        Err(_) => text.to_owned(),
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
    let (minutes, hours) = (span / 60, (span + 1800) / 3600);
    let words = match span {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{span} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ => match hours {
            ..=1 => "About an hour".to_owned(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17_520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", span / 3600 / 24 / 365),
        },
    };
    format!("{words} ago")
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

/// Prints what was inspected by a `--format`: `json` for all of it, else a
/// template for each.
///
/// # Errors
///
/// [`Error::Usage`] for a template that is none, or asks for what is not there.
pub(crate) fn inspected(format: &str, values: Vec<Value>) -> Result<(), Error> {
    if format == "json" {
        line(Value::Array(values));
        return Ok(());
    }
    let template = Template::parse(format)?;
    for value in &values {
        line(template.render(value)?);
    }
    Ok(())
}

/// JSON as Docker's client prints it: four spaces a level.
pub(crate) fn indented(value: &Value) -> String {
    use serde::Serialize as _;
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, format);
    // A value in memory can always be written.
    let _ = value.serialize(&mut writer);
    String::from_utf8_lossy(&out).into_owned()
}

/// Looks things up by name and prints what is known of them, by a template or
/// as JSON. Those that are not there are told.
///
/// # Errors
///
/// [`Error::Told`] when one is not there, [`Error::Usage`] for a template that
/// is none.
pub(crate) async fn inspect_each(
    client: &Client,
    names: &[String],
    format: Option<&str>,
    path: impl Fn(&str) -> String,
) -> Outcome {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        match client.get(&path(name)).await {
            Ok(value) => found.push(value),
            Err(error) => missing.push(error),
        }
    }
    self::found(format, found, &missing)
}

/// Prints what was found and tells what was not.
///
/// # Errors
///
/// As for [`inspect_each`].
pub(crate) fn found(format: Option<&str>, found: Vec<Value>, missing: &[Error]) -> Outcome {
    match format {
        Some(format) if !format.is_empty() => inspected(format, found)?,
        _ => line(indented(&Value::Array(found))),
    }
    if missing.is_empty() {
        return Ok(0);
    }
    for error in missing {
        error.report();
    }
    Err(Error::Told)
}

/// A moment in the words of Docker's client, in the machine's time zone.
pub(crate) fn moment(seconds: i64) -> String {
    let Ok(moment) = jiff::Timestamp::from_second(seconds) else {
        return String::new();
    };
    let zoned = moment.to_zoned_datetime(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_prints_them() {
        for (bytes, shown) in [
            (0, "0B"),
            (999, "999B"),
            (1500, "1.5kB"),
            (2_345_678, "2.35MB"),
            (74_800_000, "74.8MB"),
            (272_000_000, "272MB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        for (bytes, shown) in [
            (0, "0B"),
            (67_108_864, "64MiB"),
            (1_572_864, "1.5MiB"),
            (1000 << 20, "1000MiB"),
            (16_000_000_000, "14.9GiB"),
        ] {
            assert_eq!(binary_size(bytes), shown);
        }
        assert_eq!(fine_size(2_345_678), "2.346MB");
        assert_eq!(fine_size(2_000_000), "2MB");
    }
}
