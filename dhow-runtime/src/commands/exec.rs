//! `exec`: a further program in a running container.

use std::ffi::OsString;

use anyhow::Context;
use dhow_runtime::spec::{Capabilities, Process, User};
use dhow_runtime::{Exec, Paused, Runtime, Streams};

use super::{Outcome, told, with_id, write_pid};
use crate::arguments::{Global, Known, Parsed, flag, value};
use crate::foreground::{Signals, wait};
use crate::terminal::{self, Relay};

const EXEC: [Known; 17] = [
    value("console-socket", '\0'),
    value("cwd", '\0'),
    value("env", 'e'),
    flag("tty", 't'),
    value("user", 'u'),
    value("additional-gids", 'g'),
    value("process", 'p'),
    flag("detach", 'd'),
    value("pid-file", '\0'),
    value("process-label", '\0'),
    value("apparmor", '\0'),
    flag("no-new-privs", '\0'),
    value("cap", 'c'),
    value("preserve-fds", '\0'),
    value("cgroup", '\0'),
    flag("ignore-paused", '\0'),
    flag("no-subreaper", '\0'),
];

pub fn exec(global: &Global, runtime: &Runtime, words: impl Iterator<Item = OsString>) -> Outcome {
    let (parsed, id) = with_id(words, &EXEC)?;
    dhow_sys::protect::re_execute().context("protect the executable")?;
    let container = runtime.open(&id).map_err(told)?;
    let own = container.spec().map_err(told)?.process.unwrap_or_default();
    let process = process(&parsed, own)?;
    let detach = parsed.has("detach");

    let socket = parsed
        .path("console-socket")
        .filter(|path| !path.as_os_str().is_empty());
    let (ours, streams) = match socket {
        Some(path) => (None, Streams::terminal(terminal::connect(&path)?)),
        None if process.terminal => {
            let (here, there) = terminal::pair()?;
            (Some(here), Streams::terminal(there))
        }
        None => (None, Streams::inherited()),
    };
    let signals = if detach { None } else { Some(Signals::take()?) };
    let n_preserved = parsed.number("preserve-fds")?.unwrap_or(0);
    let executed = container
        .exec(Exec {
            process: &process,
            streams,
            n_preserved,
            cgroup: parsed.path("cgroup").as_deref(),
            paused: if parsed.has("ignore-paused") {
                Paused::Wait
            } else {
                Paused::Refuse
            },
        })
        .map_err(told)?;
    // Standard error is the program's, and who made the container was told.
    for warning in &executed.warnings {
        global.log.quiet_warning(warning);
    }
    write_pid(parsed.path("pid-file"), executed.process.pid)?;
    let Some(signals) = signals else { return Ok(0) };
    let relay = ours.as_ref().map(Relay::receive).transpose()?;
    let end = wait(&executed.process, &signals, relay)?;
    Ok(u8::try_from(end.shell_code() & 0xff).unwrap_or(255))
}

/// The program: from a file, or the container's own with what the options change.
fn process(parsed: &Parsed, own: Process) -> anyhow::Result<Process> {
    if let Some(path) = parsed.path("process") {
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let process =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        return Ok(process);
    }
    let mut process = Process {
        terminal: parsed.has("tty"),
        console_size: None,
        ..own
    };
    process.args = (1..parsed.words.len())
        .map(|index| parsed.word(index, "argument").map(str::to_owned))
        .collect::<anyhow::Result<_>>()?;
    anyhow::ensure!(!process.args.is_empty(), "process args cannot be empty");
    if let Some(cwd) = parsed.get("cwd") {
        process.cwd = cwd.to_string_lossy().into_owned();
    }
    process.env.extend(
        parsed
            .all("env")
            .map(|text| text.to_string_lossy().into_owned()),
    );
    if let Some(user) = parsed.get("user") {
        let user = user.to_string_lossy();
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (identity(uid)?, identity(gid)?),
            None => (identity(&user)?, process.user.gid),
        };
        process.user = User {
            uid,
            gid,
            ..process.user
        };
    }
    for gid in parsed.all("additional-gids") {
        process
            .user
            .additional_gids
            .push(identity(&gid.to_string_lossy())?);
    }
    if let Some(label) = parsed.get("process-label") {
        process.selinux_label = label.to_string_lossy().into_owned();
    }
    if let Some(profile) = parsed.get("apparmor") {
        process.apparmor_profile = profile.to_string_lossy().into_owned();
    }
    process.no_new_privileges |= parsed.has("no-new-privs");
    let capabilities = process
        .capabilities
        .get_or_insert_with(Capabilities::default);
    for name in parsed.all("cap") {
        let name = name.to_string_lossy().into_owned();
        for set in [
            &mut capabilities.bounding,
            &mut capabilities.effective,
            &mut capabilities.permitted,
        ] {
            set.push(name.clone());
        }
    }
    Ok(process)
}

/// A user or group by number, and nothing else: a name, a sign, a blank or the
/// number that means "unchanged" to the kernel must not end as somebody else.
fn identity(text: &str) -> anyhow::Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| *number != u32::MAX);
    number
        .filter(|_| digits)
        .with_context(|| format!("{text:?} is no numeric identity; use UID or UID:GID"))
}

#[cfg(test)]
mod tests {
    use super::identity;

    #[test]
    fn identities_are_numbers_and_nothing_else() {
        assert_eq!(identity("1").unwrap(), 1);
        assert_eq!(identity("0042").unwrap(), 42);
        assert_eq!(identity("4294967294").unwrap(), u32::MAX - 1);
        for text in [
            "",
            " 1",
            "1 ",
            "+1",
            "-1",
            "0x1",
            "1.0",
            "root",
            "4294967295",
            "4294967296",
            "1:2",
        ] {
            assert!(identity(text).is_err(), "{text:?}");
        }
    }
}
