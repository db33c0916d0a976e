//! Measuring in turns.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// One who is measured: its name, and how it does the thing once.
pub struct Contender<'a> {
    name: String,
    once: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender whose function returns the time that counts.
    pub fn new(name: &str, once: impl FnMut() -> Result<Duration> + 'a) -> Self {
        Self {
            name: name.into(),
            once: Box::new(once),
        }
    }

    /// A contender that runs a command to its end.
    pub fn command(name: &str, mut make: impl FnMut() -> Command + 'a) -> Self {
        Self::new(name, move || run(&mut make()))
    }
}

/// What became of one contender, in milliseconds.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Median.
    pub median: f64,
    /// Shortest and longest.
    pub spread: (f64, f64),
}

/// Measures all contenders in turns, after one round that does not count.
pub fn in_turns(rounds: usize, mut contenders: Vec<Contender<'_>>) -> Result<Vec<Row>> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..=rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            let time = (contender.once)().with_context(|| contender.name.clone())?;
            if round > 0 {
                times.push(time.as_secs_f64() * 1000.0);
            }
        }
    }
    let rows = contenders.iter().zip(times);
    Ok(rows.map(|(one, times)| row(&one.name, times)).collect())
}

/// A row of measured times, in milliseconds.
pub fn row(name: &str, mut times: Vec<f64>) -> Row {
    times.sort_by(f64::total_cmp);
    Row {
        name: name.into(),
        median: times[times.len() / 2],
        spread: (times[0], times[times.len() - 1]),
    }
}

/// The median of the row with this name, in milliseconds.
///
/// # Errors
///
/// When there is none.
pub fn median(rows: &[Row], name: &str) -> Result<f64> {
    let row = rows.iter().find(|row| row.name == name);
    row.map(|row| row.median)
        .with_context(|| format!("{name} was not measured"))
}

/// How the median of the one compares with that of the other.
///
/// # Errors
///
/// When either was not measured.
pub fn ratio(rows: &[Row], one: &str, other: &str) -> Result<f64> {
    Ok(median(rows, one)? / median(rows, other)?)
}

/// Runs a command to its end, which must be a good one.
pub fn run(command: &mut Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let output = command.stderr(Stdio::piped()).output()?;
    let took = began.elapsed();
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_does_not_count_and_the_median_is_the_middle() {
        let mut times = [900, 3, 1, 2].map(Duration::from_millis).into_iter();
        let contender = Contender::new("x", || Ok(times.next().expect("four rounds")));
        let rows = in_turns(3, vec![contender]).expect("measured");
        assert_eq!((rows[0].median, rows[0].spread), (2.0, (1.0, 3.0)));
    }
}
