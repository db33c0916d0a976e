//! The rules of the house that a machine can check.
//!
//! Format and lints are cargo's; the rest is ours: every crate stands in the
//! code map of ARCHITECTURE.md and the other way round, a crate depends only on
//! lower floors or along a drawn arrow, every source file says what it is, and
//! no file grows past the length at which it has two things in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Floors from the ground up; a crate may depend on any crate of a lower floor.
const FLOORS: [&str; 6] = ["base", "host", "node", "cluster", "front", "top"];

/// Arrows between rooms of one floor, and the only rooms of `node` that
/// `front` may enter. Everything else sideways is refused.
const SIDEWAYS: &[(&str, &str)] = &[
    ("nft", "netlink"),
    ("schema", "quantity"),
    ("schema", "selector"),
    ("image", "content"),
    ("shim", "runtime"),
    ("engine", "image"),
    ("engine", "volume"),
    ("engine", "network"),
    ("engine", "runtime"),
    ("engine", "shim"),
    ("build", "image"),
    ("build", "content"),
    ("build", "engine"),
    ("build", "runtime"),
    ("build", "shim"),
    ("build", "network"),
    ("apiserver", "store"),
];

/// A source file of more lines than this has two things in it.
const LONGEST_FILE: usize = 1000;

/// Runs every check; the error lists everything that is wrong, not the first.
pub fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace")?;
    cargo(root, &["fmt", "--all", "--check"])?;
    cargo(
        root,
        &[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    )?;

    let mut findings = Vec::new();
    let rooms = rooms(root)?;
    arrows(&rooms, &mut findings)?;
    code_map(root, &rooms, &mut findings)?;
    sources(root, &mut findings)?;
    ensure!(findings.is_empty(), "tidy:\n  {}", findings.join("\n  "));
    println!("tidy: {} crates, all in order", rooms.len());
    Ok(())
}

/// One crate of the workspace.
struct Room {
    /// Folder name, for example `image`.
    name: String,
    /// Index into [`FLOORS`].
    floor: usize,
    /// Folder, relative to the workspace.
    folder: PathBuf,
    /// Names of the workspace crates it depends on, those of its tests left out.
    dependencies: BTreeSet<String>,
}

fn rooms(root: &Path) -> Result<BTreeMap<String, Room>> {
    let mut rooms = BTreeMap::new();
    let mut folders = Vec::new();
    for (floor, name) in FLOORS.iter().enumerate().take(5) {
        let directory = root.join("crates").join(name);
        if !directory.exists() {
            continue;
        }
        for entry in std::fs::read_dir(&directory)? {
            folders.push((floor, entry?.path()));
        }
    }
    for name in ["dhow", "dhow-runtime"] {
        folders.push((5, root.join(name)));
    }
    for (floor, folder) in folders {
        let manifest = folder.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("read {}", manifest.display()))?;
        let package = text
            .lines()
            .find_map(|line| line.strip_prefix("name = "))
            .context("a manifest names its package")?
            .trim_matches('"')
            .to_owned();
        // What only tests need is no arrow of the house.
        let shipped = text.split("[dev-dependencies]").next().unwrap_or(&text);
        let dependencies = shipped
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| name.starts_with("dhow-"))
            .map(str::to_owned)
            .collect();
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let folder = folder.strip_prefix(root)?.to_owned();
        rooms.insert(
            package,
            Room {
                name,
                floor,
                folder,
                dependencies,
            },
        );
    }
    Ok(rooms)
}

fn arrows(rooms: &BTreeMap<String, Room>, findings: &mut Vec<String>) -> Result<()> {
    for (package, room) in rooms {
        if room.floor < 5 && *package != format!("dhow-{}", room.name) {
            findings.push(format!(
                "{}: package {package} should be named dhow-{}",
                room.folder.display(),
                room.name
            ));
        }
        for dependency in &room.dependencies {
            let Some(target) = rooms.get(dependency) else {
                if dependency != "dhow-testkit" {
                    findings.push(format!(
                        "{package} depends on {dependency}, which is no room"
                    ));
                }
                continue;
            };
            let drawn = SIDEWAYS.contains(&(room.name.as_str(), target.name.as_str()));
            // `node` and `cluster` never see each other; the binary joins them.
            let strangers = FLOORS[room.floor] == "cluster" && FLOORS[target.floor] == "node";
            if (target.floor >= room.floor || strangers) && !drawn {
                findings.push(format!(
                    "{package} -> {dependency}: no such arrow in the plan"
                ));
            }
        }
    }
    Ok(())
}

fn code_map(root: &Path, rooms: &BTreeMap<String, Room>, findings: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let map: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|path| path.starts_with("crates/") || path.starts_with("dhow"))
        .collect();
    let folders: BTreeSet<&str> = rooms
        .values()
        .filter_map(|room| room.folder.to_str())
        .collect();
    for missing in folders.difference(&map) {
        findings.push(format!(
            "{missing} is not in the code map of ARCHITECTURE.md"
        ));
    }
    for gone in map.difference(&folders) {
        findings.push(format!("ARCHITECTURE.md maps {gone}, which does not exist"));
    }
    Ok(())
}

fn sources(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let mut pending: Vec<PathBuf> = [
        "benches",
        "crates",
        "dhow",
        "dhow-runtime",
        "tests",
        "testkit",
        "xtask",
    ]
    .map(|d| root.join(d))
    .into();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let shown = path.strip_prefix(root)?.display();
            if !text.starts_with("//!") {
                findings.push(format!("{shown}: a file opens with //!, its role"));
            }
            let n_lines = text.lines().count();
            if n_lines > LONGEST_FILE {
                findings.push(format!("{shown}: {n_lines} lines; split it at its seam"));
            }
        }
    }
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("cargo {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}
