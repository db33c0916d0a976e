//! Side-by-side measurements against the peers that are installed.
//!
//! Every figure is measured in turns: each contender once, then each again, so
//! that a machine that grows slower does so for all. What is printed, and
//! written to `docs/benchmarks.md`, are medians, spreads and the ratio to ours.
//!
//! Everything runs on throw-away hosts (a network namespace and a folder), with
//! daemons of our own; nothing of the machine's is touched.

mod cluster;
mod containers;
mod images;
mod many;
mod network;
mod peers;
mod report;
mod runtimes;
mod turns;

use anyhow::{Result, bail};
use report::Report;

/// Rounds of a measurement unless told otherwise.
const ROUNDS: usize = 11;

fn main() -> Result<()> {
    let mut parts: Vec<String> = Vec::new();
    let mut rounds = ROUNDS;
    let mut write = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => {
                let value = arguments.next().unwrap_or_default();
                rounds = match value.parse() {
                    Ok(rounds) if rounds > 0 => rounds,
                    _ => bail!("--rounds {value:?}: a number of at least 1 is needed"),
                };
            }
            "--write" => write = arguments.next(),
            part @ ("runtimes" | "containers" | "many" | "network" | "images" | "cluster") => {
                parts.push(part.into());
            }
            other => bail!(
                "unknown argument {other:?}\n\nusage: bench [--rounds N] [--write FILE] [runtimes] [containers] [many] [network] [images] [cluster]"
            ),
        }
    }
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|one| one == part);
    let mut report = Report::default();
    if wants("runtimes") {
        runtimes::measure(&mut report, rounds)?;
    }
    if wants("containers") {
        containers::measure(&mut report, rounds)?;
    }
    if wants("many") {
        many::measure(&mut report, rounds)?;
    }
    if wants("network") {
        network::measure(&mut report)?;
    }
    if wants("images") {
        images::measure(&mut report, rounds)?;
    }
    if wants("cluster") {
        cluster::measure(&mut report, rounds)?;
    }
    if let Some(path) = write {
        report.write(path.as_ref())?;
    }
    Ok(())
}
