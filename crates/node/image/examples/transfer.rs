//! Measures pulls and pushes with the library alone: no daemon, no client.
//! Each round pulls into an empty store, and pushes what it pulled to the names
//! given, in turn, and removes it.
//!
//! `transfer ROUNDS FOLDER FROM [TO...]`; the folder is made and removed.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use dhow_image::{
    Images, Limits, Options, ProgressSender, PullOptions, PushOptions, RegistryOptions, Removal,
};
use dhow_oci::{Platform, Reference};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, folder, from, to @ ..] = &words[..] else {
        eprintln!("usage: transfer ROUNDS FOLDER FROM [TO...]");
        return ExitCode::from(2);
    };
    for _ in 0..rounds.parse().unwrap_or(1) {
        if let Err(error) = round(Path::new(folder), from, to) {
            eprintln!("transfer: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn round(folder: &Path, from: &str, to: &[String]) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir(folder)?;
    let outcome = transfer(folder, from, to);
    std::fs::remove_dir_all(folder)?;
    outcome
}

fn transfer(folder: &Path, from: &str, to: &[String]) -> Result<(), Box<dyn Error>> {
    let images = Images::open(Options {
        root: folder.join("images"),
        content: dhow_content::Store::open(&folder.join("content"))?,
        platform: Platform::host(),
        limits: Limits::default(),
        registries: RegistryOptions::default(),
        now: SystemTime::now,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let from = Reference::parse(from)?;
    let image = measured("pull", || {
        let pulling = images.pull(&from, PullOptions::default(), ProgressSender::silent());
        Ok(runtime.block_on(pulling)?.image)
    })?;
    for name in to {
        let target = Reference::parse(name)?.or_latest();
        images.tag(&image.id, &target)?;
        measured(&format!("push to {name}"), || {
            let pushing = images.push(&target, PushOptions::default(), ProgressSender::silent());
            Ok(runtime.block_on(pushing)?)
        })?;
    }
    measured("remove", || {
        Ok(images.remove(image.id.as_str(), Removal::Forced, &|_| Vec::new())?)
    })?;
    Ok(())
}

fn measured<T>(
    what: &str,
    work: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    let (started, before) = (Instant::now(), cpu_times()?);
    let outcome = work()?;
    let (took, after) = (started.elapsed(), cpu_times()?);
    println!(
        "{what}: {:.3} s, user {:.2} s, system {:.2} s",
        took.as_secs_f32(),
        after.0 - before.0,
        after.1 - before.1,
    );
    Ok(outcome)
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
