//! What was measured, printed as it comes and written as a page.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::turns::Row;

/// All figures of one run.
#[derive(Default)]
pub struct Report {
    text: String,
    missing: Vec<String>,
    targets: String,
}

impl Report {
    /// Begins a part of the page.
    pub fn part(&mut self, title: &str) {
        println!("\n{title}");
        let _ = writeln!(self.text, "\n## {title}");
    }

    /// A table of times; the first row is ours.
    pub fn times(&mut self, title: &str, rows: &[Row]) {
        println!("  {title}");
        let _ = writeln!(
            self.text,
            "\n**{title}**\n\n| | median ms | fastest – slowest | ours / theirs |\n| --- | ---: | ---: | ---: |"
        );
        let ours = rows.first().map_or(0.0, |row| row.median);
        for row in rows {
            let ratio = if row.median > 0.0 {
                ours / row.median
            } else {
                0.0
            };
            let (least, most) = row.spread;
            println!(
                "    {:<44} {:>9.1} ms  ({least:.1} – {most:.1})  {ratio:.2}",
                row.name, row.median
            );
            let _ = writeln!(
                self.text,
                "| {} | {:.1} | {least:.1} – {most:.1} | {ratio:.2} |",
                row.name, row.median
            );
        }
    }

    /// A figure that is no time.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        println!("    {name:<44} {value:>9.1} {unit}");
        let _ = writeln!(self.text, "\n- {name}: {value:.1} {unit}");
    }

    /// Holds a figure against what it is to be at most.
    pub fn target(&mut self, name: &str, value: f64, at_most: f64, unit: &str) {
        let verdict = if value <= at_most {
            "reached"
        } else {
            "**missed**"
        };
        // So many that one which was just missed is seen to be.
        let digits = if unit == "×" { 3 } else { 2 };
        let value = format!("{value:.digits$} {unit}");
        println!("    target: {name}: {value}, at most {at_most} {unit}: {verdict}");
        let _ = writeln!(
            self.targets,
            "| {name} | {value} | {at_most} {unit} | {verdict} |"
        );
    }

    /// A peer that is not installed, or does not run here.
    pub fn missing(&mut self, what: &str) {
        println!("    not measured: {what}");
        self.missing.push(what.into());
    }

    /// Writes the page.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut page = String::from(
            "# Measured\n\nWritten by `make bench`: every contender in turns, medians. \"ours / theirs\" is below\n1 where ours is faster.\n\n",
        );
        let _ = writeln!(page, "- machine: {}", machine());
        let _ = writeln!(
            page,
            "- engines keep what no reboot survives (`/run`) in memory, everything else on disk"
        );
        let _ = writeln!(page, "- date: {}", date());
        for program in ["docker", "dockerd", "podman", "crun", "runc"] {
            if let Some(version) = version(program) {
                let _ = writeln!(page, "- {program}: {version}");
            }
        }
        for what in &self.missing {
            let _ = writeln!(page, "- not measured: {what}");
        }
        if !self.targets.is_empty() {
            page.push_str(
                "\n## Targets\n\n| | measured | at most | |\n| --- | ---: | ---: | --- |\n",
            );
            page.push_str(&self.targets);
        }
        page.push_str(&self.text);
        std::fs::write(path, page).with_context(|| format!("write {}", path.display()))
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let count = std::thread::available_parallelism().map_or(0, |count| count.get());
    let memory = read("/proc/meminfo");
    let kilobytes: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let release = kernel.split('-').next().unwrap_or("").trim();
    format!(
        "{count} processors ({model}), {} GiB of memory, Linux {release}",
        kilobytes >> 20
    )
}

fn date() -> String {
    let output = std::process::Command::new("date").arg("+%Y-%m-%d").output();
    output.map_or_else(
        |_| "unknown".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn version(program: &str) -> Option<String> {
    let output = std::process::Command::new(crate::peers::find(program)?)
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next()?.to_owned())
}
