//! Hooks that run in the runtime's own namespaces.

use std::io::{Seek, Write};
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

fn run_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let failed = |problem: String| RuntimeError::Hook {
        path: hook.path.clone(),
        problem,
    };
    let told = |error: std::io::Error| failed(error.to_string());
    // In memory, so that a hook that does not read cannot hold us up.
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let input = rustix::fs::memfd_create(c"state", flags).map_err(|error| told(error.into()))?;
    let mut input = std::fs::File::from(input);
    input
        .write_all(state)
        .and_then(|()| input.rewind())
        .map_err(told)?;

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
        let error = run(&[hook("exit 3", Some(60))], b"")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "error running hook /bin/sh: exit status: 3");
    }

    #[test]
    fn hooks_that_take_too_long_are_killed() {
        let error = run(&[hook("exec sleep 60", Some(1))], b"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("killed after 1 seconds"), "{error}");
    }
}
