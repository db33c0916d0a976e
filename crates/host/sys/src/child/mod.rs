//! A process that is computed before it exists.
//!
//! A [`Plan`] is a list of [`Step`]s with everything they need: descriptors,
//! texts ending with zero, pointer arrays. [`Plan::launch`] clones; the child
//! carries the steps out in order without allocating, parsing or locking, so
//! that it may come from a program with threads. It talks with its maker over
//! one socket:
//!
//! ```text
//!   child                                   maker
//!     | -- Report::Warning(step, errno) -->   |   an attempted step failed
//!     | -- Report::Reached(step) ---------->  |   Rendezvous, AwaitStart
//!     | <-- a message (go, and bytes) ------  |   Rendezvous, Receive
//!     | -- Report::Failed(step, errno) ---->  |   and the child exits
//!     | -- end of file -------------------->  |   execve has succeeded
//! ```
//!
//! If the maker goes away while the child waits for it, the child exits.

mod clone;
mod copy;
mod program;
mod run;
mod scheduling;
mod step;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

use crate::namespace::Kind;
use crate::process::Process;
use crate::{Errno, Result};

use copy::copy_up;
pub use program::{Program, Script};
pub use scheduling::Numbers;
pub use step::{DeviceNode, Identity, Keep, Listener, MountSource, MountStep, ProcAllowed, Step};

/// Longest message a maker may send to its child, in bytes.
pub const MAX_MESSAGE: usize = 64 << 10;
/// Most messages that say something.
const N_MESSAGES: usize = 2;

/// Everything a child will do, and how it is cloned.
#[derive(Debug, Default)]
pub struct Plan {
    /// Kinds of namespaces that are made together with the child.
    pub new: Vec<Kind>,
    /// Namespaces the child is born into; the maker enters them, clones, and
    /// returns. User and mount namespaces cannot be entered that way.
    pub born_into: Vec<(Kind, OwnedFd)>,
    /// The user namespace the child is born into, which is to own the new
    /// namespaces. A process between the maker and the child enters it.
    pub user: Option<OwnedFd>,
    /// Text for `timens_offsets`, if a time namespace is new.
    pub time_offsets: Option<String>,
    /// Version 2 control group the child is born into.
    pub cgroup: Option<OwnedFd>,
    /// The detached mount that becomes the root; absent for a child that joins
    /// a mount namespace and takes its root.
    pub root: Option<OwnedFd>,
    /// The host's procfs.
    pub proc: Option<OwnedFd>,
    /// Number of a descriptor that is the maker's alone; the child closes its copy
    /// at once, so that what it stands for ends with the maker.
    pub makers_own: Option<RawFd>,
    /// What the child does.
    pub steps: Vec<Step>,
}

/// A child under way.
#[derive(Debug)]
pub struct Launched {
    /// The child.
    pub process: Process,
    /// The socket to it.
    pub channel: Channel,
}

/// The maker's end of the socket to a child.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What a child tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// An attempted step failed; the child goes on.
    Warning {
        /// Index into the steps of the plan.
        step: usize,
        /// Why.
        error: Errno,
    },
    /// The child waits for a message.
    Reached {
        /// Index into the steps of the plan.
        step: usize,
    },
    /// A step failed and the child has exited.
    Failed {
        /// Index into the steps of the plan.
        step: usize,
        /// Why.
        error: Errno,
    },
    /// The program runs, or the child has died; its end tells.
    Closed,
}

/// A message that says nothing: one of no bytes could not be told from the end.
const GO: &[u8] = b"\n";

const TAG_WARNING: u32 = 1;
const TAG_REACHED: u32 = 2;
const TAG_FAILED: u32 = 3;

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Waits for the child's next report.
    ///
    /// # Errors
    ///
    /// What recv(2) says.
    pub fn next(&self) -> Result<Report> {
        let mut bytes = [0_u8; 12];
        let length = loop {
            match rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty()) {
                // A child that ends with a message of ours unread resets the
                // socket, once; what it said before is still there.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                result => break result?.0,
            }
        };
        if length < bytes.len() {
            return Ok(Report::Closed);
        }
        let [tag, step, error] = [0, 4, 8]
            .map(|at| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        let step = usize::try_from(step).map_err(|_| Errno::BADMSG)?;
        let error = match i32::try_from(error) {
            Ok(error @ 1..4096) => Errno::from_raw_os_error(error),
            _ => Errno::BADMSG,
        };
        match tag {
            TAG_WARNING => Ok(Report::Warning { step, error }),
            TAG_REACHED => Ok(Report::Reached { step }),
            TAG_FAILED => Ok(Report::Failed { step, error }),
            _ => Err(Errno::BADMSG),
        }
    }

    /// Lets a waiting child go on, with some bytes for its scripts.
    ///
    /// # Errors
    ///
    /// `EMSGSIZE` if there are more than [`MAX_MESSAGE`] bytes, `EPIPE` if the
    /// child is dead.
    pub fn go(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > MAX_MESSAGE {
            return Err(Errno::MSGSIZE);
        }
        let bytes = if bytes.is_empty() { GO } else { bytes };
        loop {
            match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                result => return result.map(drop),
            }
        }
    }
}

impl Plan {
    /// Clones the child and lets it carry out the steps.
    ///
    /// # Errors
    ///
    /// What the calls of the maker's side say. If the maker cannot return into
    /// its own namespaces the process aborts: nothing it did after that would
    /// be what its caller means.
    pub fn launch(&self) -> Result<Launched> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let ends = clone::Ends {
            ours: ours.as_fd(),
            theirs: theirs.as_fd(),
        };
        let mut message = Vec::new();
        if self.steps.iter().any(Step::takes_message) {
            message = vec![0; N_MESSAGES * MAX_MESSAGE + GO.len()];
        }
        Ok(Launched {
            process: clone::child(self, ends, &mut message)?,
            channel: Channel(ours),
        })
    }

    /// What a step does, for messages.
    #[must_use]
    pub fn describe(&self, step: usize) -> String {
        self.steps
            .get(step)
            .map_or_else(|| format!("step {step}"), ToString::to_string)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warning { step, error } => write!(formatter, "step {step} skipped: {error}"),
            Self::Reached { step } => write!(formatter, "step {step} reached"),
            Self::Failed { step, error } => write!(formatter, "step {step} failed: {error}"),
            Self::Closed => write!(formatter, "closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::End;

    /// Regression: a child held the maker's end of the socket too, and waited
    /// for ever for a maker that had gone.
    #[test]
    fn a_child_ends_with_its_maker() {
        let plan = Plan {
            steps: vec![Step::Rendezvous],
            ..Plan::default()
        };
        let Launched { process, channel } = plan.launch().unwrap();
        assert_eq!(channel.next(), Ok(Report::Reached { step: 0 }));
        drop(channel);
        assert_eq!(process.wait(), Ok(End::Code(1)));
    }
}
