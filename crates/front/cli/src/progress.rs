//! Progress of long work: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::error::Error;
use crate::show;

/// Longest line of progress, in bytes.
const MAX_LINE: usize = 1 << 20;

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the standard output: it is what was asked for.
    Output,
    /// On the standard error: it comes before something else.
    Errors,
    /// Nowhere.
    Nowhere,
}

impl Place {
    /// There unless nobody wants to know.
    pub(crate) fn unless(self, quiet: bool) -> Self {
        if quiet { Self::Nowhere } else { self }
    }

    fn line(self, text: impl std::fmt::Display) {
        match self {
            Self::Output => show::line(text),
            Self::Errors => anstream::eprintln!("{text}"),
            Self::Nowhere => {}
        }
    }
}

/// Shows the lines of JSON that the daemon sends, and returns the `aux` values
/// among them.
///
/// # Errors
///
/// The error that the daemon reports in the stream.
pub(crate) async fn follow(mut body: Incoming, place: Place) -> Result<Vec<Value>, Error> {
    let mut shown = Shown::new(place);
    let mut pending: Vec<u8> = Vec::new();
    let mut aux = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let value: Value = serde_json::from_slice(&line)
                .map_err(|error| Error::Broken(format!("unexpected answer: {error}")))?;
            if let Some(message) = value["error"].as_str() {
                shown.finish();
                return Err(Error::Refused {
                    status: 500,
                    message: message.to_owned(),
                });
            }
            if !value["aux"].is_null() {
                aux.push(value["aux"].clone());
            }
            shown.line(&value);
        }
        if pending.len() > MAX_LINE {
            return Err(Error::Broken(
                "the daemon's answer has a line without end".into(),
            ));
        }
    }
    shown.finish();
    Ok(aux)
}

struct Shown {
    place: Place,
    bars: Option<MultiProgress>,
    by_id: HashMap<String, ProgressBar>,
}

impl Shown {
    fn new(place: Place) -> Self {
        let on_terminal = std::io::stderr().is_terminal() && place != Place::Nowhere;
        Self {
            place,
            bars: on_terminal.then(MultiProgress::new),
            by_id: HashMap::new(),
        }
    }

    fn line(&mut self, value: &Value) {
        if let Some(text) = value["stream"].as_str() {
            let text = text.strip_suffix('\n').unwrap_or(text);
            match &self.bars {
                Some(bars) => bars.suspend(|| self.place.line(text)),
                None => self.place.line(text),
            }
            return;
        }
        let Some(status) = value["status"].as_str() else {
            return;
        };
        if self.place == Place::Nowhere {
            return;
        }
        let id = show::text(value, "id");
        let (current, total) = (
            value["progressDetail"]["current"].as_u64(),
            value["progressDetail"]["total"].as_u64(),
        );
        match &self.bars {
            Some(bars) if !id.is_empty() => {
                let bar = self.by_id.entry(id.to_owned()).or_insert_with(|| {
                    let bar = bars.add(ProgressBar::new(0));
                    bar.set_style(plain());
                    bar.set_prefix(id.to_owned());
                    bar
                });
                bar.set_message(status.to_owned());
                match (current, total) {
                    (Some(current), Some(total)) => {
                        bar.set_style(counting());
                        bar.set_length(total);
                        bar.set_position(current);
                    }
                    _ => bar.set_style(plain()),
                }
                bar.tick();
            }
            Some(bars) => bars.suspend(|| self.place.line(status)),
            // Elsewhere only changes of status are worth a line.
            None if current.is_some() => {}
            None if id.is_empty() => self.place.line(status),
            None => self.place.line(format_args!("{id}: {status}")),
        }
    }

    fn finish(&mut self) {
        for bar in self.by_id.values() {
            bar.abandon();
        }
    }
}

fn plain() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}: {msg}").expect("the template is a constant")
}

fn counting() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}: {msg:<12} [{bar:40}] {bytes}/{total_bytes}")
        .expect("the template is a constant")
        .progress_chars("=> ")
}
