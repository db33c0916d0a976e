//! The terminal of a program in the foreground, relayed to ours.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// A connection to the socket that receives a terminal's master.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let stream = std::os::unix::net::UnixStream::connect(path)
        .with_context(|| format!("connect to console socket {}", path.display()))?;
    Ok(stream.into())
}

/// A pair over which the master comes to this process.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A master between our standard streams and the program's terminal.
pub struct Relay {
    master: OwnedFd,
    /// What our terminal was before, to be put back.
    before: Option<Termios>,
    /// Bytes of our input the program has not taken yet.
    pending: Vec<u8>,
    input_open: bool,
}

/// Most bytes of input that wait for the program.
const MAX_PENDING: usize = 16 << 10;

impl Relay {
    /// Receives the master, and makes our terminal (if it is one) raw.
    pub fn receive(socket: &OwnedFd) -> Result<Self> {
        let mut name = [0; 64];
        let (_, master) =
            dhow_sys::fdpass::receive(socket.as_fd(), &mut name).context("receive the terminal")?;
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
        let before = tcgetattr(rustix::stdio::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        }
        let relay = Self {
            master,
            before,
            pending: Vec::new(),
            input_open: true,
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the program's terminal the size of ours.
    pub fn resize(&self) {
        // Ours may not be one.
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    /// Adds what is waited for.
    pub fn wants<'a>(&'a self, files: &mut Vec<PollFd<'a>>) {
        let mut events = PollFlags::IN;
        if !self.pending.is_empty() {
            events |= PollFlags::OUT;
        }
        files.push(PollFd::new(&self.master, events));
        if self.input_open && self.pending.len() < MAX_PENDING {
            files.push(PollFd::from_borrowed_fd(
                rustix::stdio::stdin(),
                PollFlags::IN,
            ));
        }
    }

    /// Moves bytes both ways; false once the program's side is closed.
    pub fn relay(&mut self, ready: &[i32]) -> bool {
        let mut buffer = [0; 4096];
        if ready.contains(&rustix::stdio::stdin().as_raw_fd()) {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) | Err(_) => self.input_open = false,
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            }
        }
        if !self.pending.is_empty()
            && let Ok(length) = rustix::io::write(&self.master, &self.pending)
        {
            self.pending.drain(..length);
        }
        if ready.contains(&self.master.as_raw_fd()) {
            match rustix::io::read(&self.master, &mut buffer) {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                // The last program that had it open has closed it.
                Ok(0) | Err(_) => return false,
                Ok(length) => {
                    return io::Write::write_all(&mut io::stdout(), &buffer[..length])
                        .and_then(|()| io::Write::flush(&mut io::stdout()))
                        .is_ok();
                }
            }
        }
        true
    }

    /// Takes what the program wrote last.
    pub fn drain(mut self) {
        let master = [self.master.as_raw_fd()];
        loop {
            let mut wait = [PollFd::new(&self.master, PollFlags::IN)];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let waiting = rustix::event::poll(&mut wait, Some(&now)).is_ok_and(|ready| ready > 0);
            if !waiting || !self.relay(&master) {
                return;
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing can be done about a terminal that is gone.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
        }
    }
}
