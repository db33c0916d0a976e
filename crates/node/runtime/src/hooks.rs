//! Hooks that run in the runtime's own namespaces.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use dhow_sys::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::OciState;
use crate::error::{Result, RuntimeError};
use crate::spec::Hook;

/// A state as hooks read it.
pub(crate) fn state(state: &OciState) -> Vec<u8> {
    // Plain strings and numbers: there is nothing that cannot be written.
    serde_json::to_vec(state).unwrap_or_default()
}

/// Runs hooks one after the other; the first that fails ends it.
pub(crate) fn run(hooks: &[Hook], state: &[u8]) -> Result<()> {
    hooks.iter().try_for_each(|hook| run_one(hook, state))
}

/// Runs hooks one after the other, whether they fail or not; what failed.
pub(crate) fn run_all(hooks: &[Hook], state: &[u8]) -> Vec<String> {
    let outcomes = hooks.iter().map(|hook| run_one(hook, state));
    outcomes
        .filter_map(|outcome| Some(crate::chain(&outcome.err()?)))
        .collect()
}

/// Bytes of what a hook that failed wrote to its standard error that are told.
const MAX_COMPLAINT: u64 = 1024;

/// A file in memory, so that a hook that reads or writes nothing, or much, holds
/// nobody up.
fn in_memory(name: &std::ffi::CStr) -> std::io::Result<File> {
    let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(file.into())
}

/// The end of what a hook wrote to its standard error, to be put behind what
/// became of it.
fn complaint(mut errors: File) -> std::io::Result<String> {
    let length = errors.metadata()?.len();
    errors.seek(SeekFrom::Start(length.saturating_sub(MAX_COMPLAINT)))?;
    let mut text = Vec::new();
    errors.take(MAX_COMPLAINT).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    Ok(match text.trim() {
        "" => String::new(),
        text => format!(", stderr: {text}"),
    })
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let failed = |problem: String| RuntimeError::Hook {
        path: hook.path.clone(),
        problem,
    };
    let told = |error: std::io::Error| failed(error.to_string());
    let mut input = in_memory(c"state").map_err(told)?;
    input
        .write_all(state)
        .and_then(|()| input.rewind())
        .map_err(told)?;
    let errors = in_memory(c"errors").map_err(told)?;
    let stderr = errors.try_clone().map_err(told)?;
    // Best effort: how it ended is what counts.
    let failed = |problem: String| failed(problem + &complaint(errors).unwrap_or_default());

    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    command.env_clear();
    for variable in &hook.env {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    let mut child = command
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(told)?;
    if let Some(seconds) = hook.timeout.filter(|seconds| *seconds > 0) {
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let process = Process::find(pid).map_err(|error| told(error.into()))?;
        let patience = Timespec {
            tv_sec: seconds.into(),
            tv_nsec: 0,
        };
        let fd = process.pidfd.as_fd();
        if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)) == Ok(0) {
            // It may end by itself meanwhile; either way it is collected.
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("killed after {seconds} seconds")));
        }
    }
    let status = child.wait().map_err(told)?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(status.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<u32>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).into(),
            env: vec!["WORD=here".to_owned()],
            timeout,
        }
    }

    #[test]
    fn hooks_get_state_and_environment() {
        let script = r#"read line; [ "$line $WORD" = "state here" ]"#;
        run(&[hook(script, None)], b"state\n").unwrap();
        let told = |script| run(&[hook(script, Some(60))], b"").unwrap_err().to_string();
        assert_eq!(told("exit 3"), "error running hook /bin/sh: exit status: 3");
        assert_eq!(
            told("echo no such device >&2; exit 3"),
            "error running hook /bin/sh: exit status: 3, stderr: no such device"
        );
        // However much it says.
        let error =
            told("i=0; while [ $i -lt 20000 ]; do echo line $i >&2; i=$((i+1)); done; exit 3");
        assert!(
            error.ends_with("line 19999") && error.len() < 1200,
            "{error}"
        );
    }

    #[test]
    fn one_that_fails_keeps_no_other_from_running() {
        let directory = tempfile::tempdir().unwrap();
        let trace = |word: &str| format!("echo {word} >> {}/trace", directory.path().display());
        let hooks = [
            hook(&format!("{}; exit 1", trace("one")), None),
            hook(&trace("two"), None),
            hook(&format!("{}; exit 3", trace("three")), None),
        ];
        let failed = run_all(&hooks, b"");
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed[1].ends_with("exit status: 3"), "{failed:?}");
        let order = || std::fs::read_to_string(directory.path().join("trace")).unwrap();
        assert_eq!(order(), "one\ntwo\nthree\n");
        run(&hooks, b"").unwrap_err();
        assert_eq!(order(), "one\ntwo\nthree\none\n");
    }

    #[test]
    fn hooks_that_take_too_long_are_killed() {
        let error = run(&[hook("exec sleep 60", Some(1))], b"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("killed after 1 seconds"), "{error}");
    }
}
