//! `cargo xtask`: the repository's own chores.

mod tidy;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("tidy") => tidy::run(),
        other => bail!(
            "unknown chore {other:?}\n\nusage: cargo xtask tidy    check format, lints, arrows, code map and file headers"
        ),
    }
}
