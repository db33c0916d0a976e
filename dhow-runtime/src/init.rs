//! The first process of a container that was asked for with `--init`: starts
//! the program, hands signals on, reaps orphans, and ends with the program's
//! code.
//!
//! The executable is bound into the container as `/sbin/docker-init` and knows
//! by that name what it is.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use dhow_sys::process::{self, End};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::termios::{isatty, tcsetpgrp};

/// The name by which it is called.
pub const NAME: &str = "docker-init";

/// What is taken: everything that is not about this process itself.
const TAKEN: [Signal; 17] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::PIPE,
    Signal::ALARM,
    Signal::TERM,
    Signal::CHILD,
    Signal::CONT,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::URG,
    Signal::WINCH,
    Signal::IO,
    Signal::POWER,
];

/// `docker-init -- PROGRAM…`: runs until the program ends.
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut words = words.skip_while(|word| word == "--");
    let Some(program) = words.next() else {
        eprintln!("{NAME}: no program to run");
        return ExitCode::from(1);
    };
    match supervise(&program, words) {
        Ok(end) => ExitCode::from(u8::try_from(end.shell_code()).unwrap_or(255)),
        Err(error) => {
            eprintln!("{NAME}: exec {} failed: {error}", program.to_string_lossy());
            ExitCode::from(if error.kind() == ErrorKind::NotFound {
                127
            } else {
                126
            })
        }
    }
}

fn supervise(program: &OsString, words: impl Iterator<Item = OsString>) -> std::io::Result<End> {
    // Before the program is started, so that its end cannot be missed.
    let signals = process::signal_descriptor(&TAKEN)?;
    // A group of its own, which gets the terminal's signals.
    let mut command = Command::new(program);
    command.args(words).process_group(0);
    process::unblock_signals(&mut command);
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    let child = Pid::from_raw(pid).ok_or(Errno::INVAL)?;
    let terminal = std::io::stdin();
    if isatty(&terminal) {
        // Not every terminal is ours to hand on.
        let _ = tcsetpgrp(&terminal, child);
    }
    loop {
        wait(&signals)?;
        while let Some(signal) = process::next_signal(signals.as_fd())? {
            if signal == Signal::CHILD.as_raw() {
                while let Some((ended, end)) = process::reap_any()? {
                    if ended == pid {
                        return Ok(end);
                    }
                }
            } else if let Some(signal) = Signal::from_named_raw(signal) {
                // It may have ended meanwhile.
                let _ = rustix::process::kill_process(child, signal);
            }
        }
    }
}

fn wait(signals: &OwnedFd) -> std::io::Result<()> {
    let mut files = [PollFd::new(signals, PollFlags::IN)];
    match poll(&mut files, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
