//! `cargo xtask`: the repository's own chores.

mod tidy;

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("tidy") => tidy::run(),
        Some("bench") => bench(&arguments[1..]),
        other => bail!(
            "unknown chore {other:?}\n\nusage: cargo xtask tidy     check format, lints, arrows, code map and file headers\n       cargo xtask bench    measure beside the peers (after `make release`)"
        ),
    }
}

/// Runs the measurements, which are a program of their own.
fn bench(arguments: &[String]) -> Result<()> {
    let status = Command::new("cargo")
        .args(["run", "--release", "--quiet", "--locked"])
        .args(["--package", "dhow-benches", "--"])
        .args(arguments)
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "the measurements failed");
    Ok(())
}
