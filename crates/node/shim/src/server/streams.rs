//! The supervisor's ends of a process's standard streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dhow_sys::Errno;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::set_nonblocking;

/// Bytes of input that wait for the process, above which clients wait too.
const MAX_PENDING: usize = 64 << 10;
/// More than a terminal holds of what was written to it and not yet read.
const TERMINAL_HOLDS: usize = 128 << 10;

/// Our ends.
#[derive(Debug, Default)]
pub(super) struct Streams {
    terminal: bool,
    /// The terminal's master, or the standard input's pipe.
    input: Option<OwnedFd>,
    /// The terminal's master (in the first place), or the pipes of output and error.
    outputs: [Option<OwnedFd>; 2],
    /// Input the process has not taken yet.
    pending: Vec<u8>,
    /// The input ends when nothing is pending any more.
    ending: bool,
    /// Nobody takes input any more.
    closed: bool,
}

/// The other ends, and what is still to come.
pub(super) struct Theirs {
    pub(super) streams: dhow_runtime::Streams,
    /// Where the terminal's master arrives.
    pub(super) master: Option<OwnedFd>,
}

impl Streams {
    /// Makes both ends of a terminal's way or of pipes.
    pub(super) fn make(terminal: bool, with_input: bool) -> Result<(Self, Theirs), Errno> {
        if terminal {
            let (ours, theirs) = socketpair(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            let streams = dhow_runtime::Streams::terminal(theirs);
            let terminal = Self {
                terminal: true,
                ..Self::default()
            };
            return Ok((
                terminal,
                Theirs {
                    streams,
                    master: Some(ours),
                },
            ));
        }
        let flags = PipeFlags::CLOEXEC;
        let (stdin, input) = if with_input {
            let (reader, writer) = pipe_with(flags)?;
            set_nonblocking(writer.as_fd())?;
            (reader, Some(writer))
        } else {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            (rustix::fs::open(c"/dev/null", flags, Mode::empty())?, None)
        };
        let (output, stdout) = pipe_with(flags)?;
        let (error, stderr) = pipe_with(flags)?;
        set_nonblocking(output.as_fd())?;
        set_nonblocking(error.as_fd())?;
        let ours = Self {
            closed: input.is_none(),
            input,
            outputs: [Some(output), Some(error)],
            ..Self::default()
        };
        let streams = dhow_runtime::Streams::files(Some(stdin), Some(stdout), Some(stderr));
        Ok((
            ours,
            Theirs {
                streams,
                master: None,
            },
        ))
    }

    /// Takes the terminal's master from where it arrives.
    pub(super) fn receive_master(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        let mut name = [0; 64];
        let (_, master) = dhow_sys::fdpass::receive(socket.as_fd(), &mut name)?;
        set_nonblocking(master.as_fd())?;
        self.input = Some(rustix::io::fcntl_dupfd_cloexec(&master, 3)?);
        self.outputs[0] = Some(master);
        Ok(())
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn master(&self) -> Option<BorrowedFd<'_>> {
        self.input
            .as_ref()
            .filter(|_| self.terminal)
            .map(AsFd::as_fd)
    }

    pub(super) fn readable(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let open = self.outputs.iter().enumerate();
        open.filter_map(|(index, file)| Some((index, file.as_ref()?.as_fd())))
    }

    /// The input, if something waits to be written to it.
    pub(super) fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.input
            .as_ref()
            .filter(|_| !self.pending.is_empty())
            .map(AsFd::as_fd)
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < MAX_PENDING
    }

    /// Reads from one of the outputs; none if there is nothing now, and if it has ended.
    pub(super) fn read(&mut self, index: usize, buffer: &mut [u8]) -> Option<usize> {
        let file = self.outputs[index].as_ref()?;
        loop {
            match rustix::io::read(file, &mut *buffer) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                // A terminal nobody has open any more answers with an error.
                Ok(0) | Err(_) => {
                    self.outputs[index] = None;
                    return None;
                }
                Ok(length) => return Some(length),
            }
        }
    }

    /// Bytes that are in one of the outputs now, or the most that can be: what a
    /// process that has ended has left there, whatever others go on to write.
    pub(super) fn left(&self, index: usize) -> usize {
        let Some(file) = &self.outputs[index] else {
            return 0;
        };
        if self.terminal {
            return TERMINAL_HOLDS;
        }
        rustix::io::ioctl_fionread(file).map_or(0, |n_bytes| n_bytes as usize)
    }

    /// Gives the process input; before it runs, it waits here.
    pub(super) fn input(&mut self, bytes: &[u8]) {
        if !self.closed && (self.terminal || !self.ending) {
            self.pending.extend_from_slice(bytes);
            self.flush_input();
        }
    }

    /// Takes over what waited for the process before it had streams.
    pub(super) fn take_over(&mut self, early: Self) {
        self.pending = early.pending;
        self.ending = early.ending;
        self.closed |= self.input.is_none();
        self.flush_input();
    }

    /// Writes what the process takes.
    pub(super) fn flush_input(&mut self) {
        while !self.pending.is_empty() && !self.closed {
            let Some(file) = &self.input else { return };
            match rustix::io::write(file, &self.pending) {
                Ok(length) => {
                    self.pending.drain(..length);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The process has closed its side: what is sent to it is lost, as in a shell.
                Err(_) => {
                    self.closed = !self.terminal;
                    self.pending.clear();
                }
            }
        }
        self.pending = Vec::new();
        if self.input.is_some() && (self.closed || self.ending) && !self.terminal {
            self.closed = true;
            self.input = None;
        }
    }

    /// Ends the input, once everything pending is written. A terminal has no end
    /// of input: its programs are told by a character.
    pub(super) fn end_input(&mut self) {
        self.ending = true;
        self.flush_input();
    }

    /// Lets everything go.
    pub(super) fn close(&mut self) {
        let terminal = self.terminal;
        *self = Self {
            terminal,
            closed: true,
            ..Self::default()
        };
    }
}
