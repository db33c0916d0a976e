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

mod copy;
mod program;
mod run;
mod step;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

use crate::namespace::{self, Kind};
use crate::process::Process;
use crate::{Errno, Result, check};

use copy::copy_up;
pub use program::{Program, Script};
pub use step::{DeviceNode, Identity, Keep, MountSource, MountStep, ProcAllowed, Step};

/// Longest message a maker may send to its child, in bytes.
pub const MAX_MESSAGE: usize = 64 << 10;

/// Everything a child will do, and how it is cloned.
#[derive(Debug, Default)]
pub struct Plan {
    /// Kinds of namespaces that are made together with the child.
    pub new: Vec<Kind>,
    /// Namespaces the child is born into; the maker enters them, clones, and
    /// returns. User and mount namespaces cannot be entered that way, they are
    /// joined by a [`Step::Join`].
    pub born_into: Vec<(Kind, OwnedFd)>,
    /// Text for `timens_offsets`, if a time namespace is new.
    pub time_offsets: Option<String>,
    /// Version 2 control group the child is born into.
    pub cgroup: Option<OwnedFd>,
    /// The detached mount that becomes the root; absent for a child that joins
    /// a mount namespace and takes its root.
    pub root: Option<OwnedFd>,
    /// The host's procfs.
    pub proc: Option<OwnedFd>,
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
        let mut message = Vec::new();
        if self.steps.iter().any(Step::takes_message) {
            message = vec![0; MAX_MESSAGE + GO.len()];
        }
        let visit = Visit::begin(self)?;
        let cloned = self.clone_child(&theirs, &mut message);
        visit.end();
        Ok(Launched {
            process: cloned?,
            channel: Channel(ours),
        })
    }

    fn clone_child(&self, channel: &OwnedFd, message: &mut [u8]) -> Result<Process> {
        let mut flags = u64::from(libc::CLONE_PIDFD.unsigned_abs());
        for kind in &self.new {
            // A time namespace was made by the maker's visit, and the view of the
            // control groups is taken by a step, once the child is in its groups.
            if !matches!(kind, Kind::Time | Kind::Cgroup) {
                flags |= kind.flag();
            }
        }
        let mut pidfd: libc::c_int = -1;
        // SAFETY: all zeroes are a valid argument.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        if let Some(cgroup) = &self.cgroup {
            flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::BADF)?;
        }
        arguments.flags = flags;
        arguments.pidfd = (&raw mut pidfd) as u64;
        arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
        // SAFETY: without CLONE_VM the child has its own memory and returns on a
        // copy of this stack; it does nothing but run the steps, which neither
        // allocate nor lock, and never returns from here.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw const arguments,
                size_of_val(&arguments),
            )
        };
        if pid == 0 {
            run::run(self, channel.as_fd(), message)
        }
        let pid = i32::try_from(check(pid)?).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: clone3 has put a fresh descriptor there.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Process { pid, pidfd })
    }

    /// What a step does, for messages.
    #[must_use]
    pub fn describe(&self, step: usize) -> String {
        self.steps
            .get(step)
            .map_or_else(|| format!("step {step}"), ToString::to_string)
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The maker's stay in the namespaces a child is to be born into.
struct Visit {
    home: Vec<(Kind, OwnedFd)>,
}

impl Visit {
    fn begin(plan: &Plan) -> Result<Self> {
        let mut visit = Self { home: Vec::new() };
        for (kind, file) in &plan.born_into {
            visit.note(*kind)?;
            if let Err(error) = namespace::join(file.as_fd(), kind.flag()) {
                visit.end();
                return Err(error);
            }
        }
        if plan.new.contains(&Kind::Time) {
            visit.note(Kind::Time)?;
            let offsets = plan.time_offsets.as_deref().unwrap_or_default();
            let made = namespace::leave(Kind::Time.flag()).and_then(|()| {
                if offsets.is_empty() {
                    return Ok(());
                }
                std::fs::write("/proc/self/timens_offsets", offsets)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            });
            if let Err(error) = made {
                visit.end();
                return Err(error);
            }
        }
        Ok(visit)
    }

    fn note(&mut self, kind: Kind) -> Result<()> {
        let path = match kind {
            Kind::User | Kind::Mount => return Err(Errno::INVAL),
            Kind::Pid => "/proc/thread-self/ns/pid_for_children".to_owned(),
            Kind::Time => "/proc/thread-self/ns/time_for_children".to_owned(),
            _ => format!("/proc/thread-self/ns/{}", kind.name()),
        };
        match namespace::open(path.as_ref(), kind) {
            Ok(file) => {
                self.home.push((kind, file));
                Ok(())
            }
            Err(error) => {
                std::mem::replace(self, Self { home: Vec::new() }).end();
                Err(error)
            }
        }
    }

    fn end(self) {
        for (kind, file) in self.home.into_iter().rev() {
            if namespace::join(file.as_fd(), kind.flag()).is_err() {
                std::process::abort();
            }
        }
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
