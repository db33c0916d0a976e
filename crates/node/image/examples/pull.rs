//! Measures pulls with the library alone: no daemon, no client. Each round
//! pulls into an empty store.
//!
//! `pull FOLDER REFERENCE [ROUNDS]`; the folder is made and removed.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use dhow_image::{Images, Limits, Options, ProgressSender, PullOptions, RegistryOptions};
use dhow_oci::{Platform, Reference};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (folder, reference, rounds) = match &words[..] {
        [folder, reference] => (folder, reference, 3),
        [folder, reference, rounds] => (folder, reference, rounds.parse().unwrap_or(3)),
        _ => {
            eprintln!("usage: pull FOLDER REFERENCE [ROUNDS]");
            return ExitCode::from(2);
        }
    };
    for _ in 0..rounds {
        if let Err(error) = round(Path::new(folder), reference) {
            eprintln!("pull: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn round(folder: &Path, reference: &str) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir(folder)?;
    let outcome = pull(folder, reference);
    std::fs::remove_dir_all(folder)?;
    outcome
}

fn pull(folder: &Path, reference: &str) -> Result<(), Box<dyn std::error::Error>> {
    let images = Images::open(Options {
        root: folder.join("images"),
        content: dhow_content::Store::open(&folder.join("content"))?,
        platform: Platform::host(),
        limits: Limits::default(),
        registries: RegistryOptions::default(),
        now: SystemTime::now,
    })?;
    let reference = Reference::parse(reference)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (started, before) = (Instant::now(), cpu_times()?);
    let pulling = images.pull(&reference, PullOptions::default(), ProgressSender::silent());
    let pulled = runtime.block_on(pulling)?;
    let (took, after) = (started.elapsed(), cpu_times()?);
    println!(
        "{:.2} s, user {:.2} s, system {:.2} s, {} layers, {} bytes unpacked",
        took.as_secs_f32(),
        after.0 - before.0,
        after.1 - before.1,
        pulled.image.layers.len(),
        pulled.image.size(),
    );
    Ok(())
}

/// Seconds this process has spent in user and in system mode.
fn cpu_times() -> std::io::Result<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    // Fields 14 and 15, counted from the state, in clock ticks.
    let seconds = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok());
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    Ok((
        seconds(11).unwrap_or_default() / ticks,
        seconds(12).unwrap_or_default() / ticks,
    ))
}
