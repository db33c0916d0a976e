//! The AppArmor profile of containers that name none: its text, and how it gets
//! into the kernel.
//!
//! Policy is loaded as what `apparmor_parser` compiles, so that program is called,
//! once when the daemon starts. Where it is missing containers run without a
//! profile, and the log says so.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use dhow_engine::Machine;

/// The profile's name, which clients know from Docker.
const NAME: &str = "docker-default";
/// Where the kernel lists the profiles that are loaded.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// The profile that confines this process.
const OWN: [&str; 2] = [
    "/proc/self/attr/apparmor/current",
    "/proc/self/attr/current",
];
const PARSER: &str = "apparmor_parser";

/// Sees to it that the kernel has the default profile; its name if it has. One that
/// is there already, whoever loaded it, is left as it is.
pub(crate) fn load() -> Option<&'static str> {
    if !Machine::here().apparmor {
        return None;
    }
    let loaded = match is_loaded() {
        Ok(true) => Ok(()),
        _ => compile(),
    };
    match loaded {
        Ok(()) => Some(NAME),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "containers run without an AppArmor profile unless they name one"
            );
            None
        }
    }
}

fn is_loaded() -> Result<bool> {
    let text = std::fs::read_to_string(LOADED).with_context(|| format!("read {LOADED}"))?;
    // `NAME (MODE)`, and `NAME//CHILD (MODE)`.
    let mut names = text.lines().filter_map(|line| line.rsplit_once(" ("));
    Ok(names.any(|(name, _)| name == NAME))
}

/// Compiles the profile and loads it.
fn compile() -> Result<()> {
    let mut parser = Command::new(PARSER)
        // Another may load it at the same moment.
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {PARSER}, of the package apparmor"))?;
    let mut stdin = parser.stdin.take().context("it was piped")?;
    let written = stdin.write_all(text(&own_profile()).as_bytes());
    drop(stdin);
    let output = parser.wait_with_output().context("wait for the parser")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{PARSER} refuses the profile: {}",
        said.trim()
    );
    written.context("hand the profile to the parser")
}

/// The name of the profile that confines this process, which may kill containers.
fn own_profile() -> Option<String> {
    let read = |path: &&str| std::fs::read_to_string(Path::new(path)).ok();
    let text = OWN.iter().find_map(read)?;
    // Without a mode behind it, it is `unconfined`.
    let (name, _) = text.trim_end().trim_end_matches('\0').rsplit_once(" (")?;
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'"');
    is_plain.then(|| name.to_owned())
}

/// The profile's text. What a container may do beyond it, its capabilities, system
/// calls, mounts and namespaces say.
fn text(maker: &Option<String>) -> String {
    let maker = maker.iter().fold(String::new(), |rules, name| {
        rules + &format!("  signal (receive) peer=\"{name}\",\n")
    });
    PROFILE.replace("{NAME}", NAME).replace("{MAKER}", &maker)
}

/// Whatever is allowed, what is denied stays so.
const PROFILE: &str = r#"
profile {NAME} flags=(attach_disconnected,mediate_deleted) {
  # Files, sockets and capabilities: what the container has of them.
  file,
  network,
  unix,
  capability,

  # It may take mounts of its own away, and make none.
  umount,
  deny mount,

  # Signals come from outside, and go to its own; whether somebody is there may
  # be asked of everybody.
  signal (receive) peer=unconfined,
{MAKER}  signal (send, receive) peer={NAME},
  signal (send, receive) set=("exists"),

  # Its own watch each other; who is not confined watches them.
  ptrace (trace, read, tracedby, readby) peer={NAME},
  ptrace (tracedby, readby) peer=unconfined,

  # Of /proc only the folders of processes can be written, and what bounds shared
  # memory (/proc/sys/kernel/shm*), which the IPC namespace has for itself.
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sys?*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/{kcore,sysrq-trigger} rwklx,

  # Of /sys only control groups can be written, and these cannot be read.
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}
"#;
