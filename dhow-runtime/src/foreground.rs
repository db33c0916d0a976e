//! A program in the foreground: signals go to it, its terminal is ours, its end
//! is our end.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::Result;
use dhow_sys::process::{self, End, Process};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::terminal::Relay;

/// Signals that are handed on to the program.
const HANDED_ON: [Signal; 10] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::CONT,
    Signal::ALARM,
    Signal::TSTP,
    Signal::WINCH,
];

/// Signals of this process, taken from here on.
pub struct Signals(OwnedFd);

impl Signals {
    /// Takes them. Before the program is cloned, so that none gets lost.
    pub fn take() -> Result<Self> {
        Ok(Self(process::signal_descriptor(&HANDED_ON)?))
    }
}

/// Waits for the end of a program, handing signals on and relaying its terminal.
pub fn wait(process: &Process, signals: &Signals, mut relay: Option<Relay>) -> Result<End> {
    loop {
        let mut files = vec![
            PollFd::new(&process.pidfd, PollFlags::IN),
            PollFd::new(&signals.0, PollFlags::IN),
        ];
        if let Some(relay) = &relay {
            relay.wants(&mut files);
        }
        match poll(&mut files, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<i32> = files
            .iter()
            .filter(|file| !file.revents().is_empty())
            .map(|file| file.as_fd().as_raw_fd())
            .collect();
        drop(files);
        while let Some(signal) = process::next_signal(signals.0.as_fd())? {
            match &mut relay {
                Some(relay) if signal == Signal::WINCH.as_raw() => relay.resize(),
                // It may have ended meanwhile.
                _ => {
                    let _ = process.signal(signal);
                }
            }
        }
        if let Some(open) = &mut relay
            && !open.relay(&ready)
        {
            relay = None;
        }
        if ready.contains(&process.pidfd.as_raw_fd()) {
            let end = process.wait()?;
            if let Some(relay) = relay {
                relay.drain();
            }
            return Ok(end);
        }
    }
}
