//! How a child comes into being: cloned by the maker itself, or by a process
//! between them that has entered the user namespace the child is to belong to.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

use super::{Plan, run};
use crate::namespace::{self, Kind};
use crate::process::Process;
use crate::{Errno, Result, check, fdpass, resolve};

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Both ends of the socket between maker and child.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub(super) ours: BorrowedFd<'a>,
    pub(super) theirs: BorrowedFd<'a>,
}

/// What a fresh child does.
fn begin(plan: &Plan, ends: Ends<'_>, message: &mut [u8]) -> std::convert::Infallible {
    // While the child held the maker's end too, it would not see the maker go.
    for file in plan.makers_own.into_iter().chain([ends.ours.as_raw_fd()]) {
        // SAFETY: this copy of the descriptor is the child's own, which never
        // returns to whoever owns the original and uses neither number again.
        unsafe { rustix::io::close(file) };
    }
    run::run(plan, ends.theirs, message)
}

/// Clones the child of a plan; the maker is back in its own namespaces then.
pub(super) fn child(plan: &Plan, ends: Ends<'_>, message: &mut [u8]) -> Result<Process> {
    let visit = Visit::begin(plan)?;
    let cloned = match &plan.user {
        None => clone(&arguments(plan), || begin(plan, ends, message)),
        Some(user) => through(plan, user, ends, message),
    };
    visit.end();
    cloned
}

/// What clone3(2) is asked for, less the place of the descriptor.
struct Arguments {
    flags: u64,
    exit_signal: u64,
    cgroup: u64,
}

fn arguments(plan: &Plan) -> Arguments {
    let mut flags = 0;
    for kind in &plan.new {
        // A time namespace was made by the maker's visit, and the view of the
        // control groups is taken by a step, once the child is in its groups.
        if !matches!(kind, Kind::Time | Kind::Cgroup) {
            flags |= kind.flag();
        }
    }
    let mut cgroup = 0;
    if let Some(group) = &plan.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = u64::try_from(group.as_raw_fd()).unwrap_or(u64::MAX);
    }
    Arguments {
        flags,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup,
    }
}

/// Clones, and lets the child do what it is for. Allocates nothing.
fn clone(
    arguments: &Arguments,
    child: impl FnOnce() -> std::convert::Infallible,
) -> Result<Process> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all zeroes are a valid argument.
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    raw.flags = arguments.flags | u64::from(libc::CLONE_PIDFD.unsigned_abs());
    raw.pidfd = (&raw mut pidfd) as u64;
    raw.exit_signal = arguments.exit_signal;
    raw.cgroup = arguments.cgroup;
    // SAFETY: without CLONE_VM the child has its own memory and returns on a
    // copy of this stack; what it does neither allocates nor locks, and never
    // returns from here.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of_val(&raw)) };
    if pid == 0 {
        child();
    }
    let pid = i32::try_from(check(pid)?).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: clone3 has put a fresh descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Process { pid, pidfd })
}

/// Clones a process that enters the user namespace and clones the child as its
/// sibling: whoever makes namespaces gives them to the user namespace it is in,
/// and the maker could not come back from there.
fn through(plan: &Plan, user: &OwnedFd, ends: Ends<'_>, message: &mut [u8]) -> Result<Process> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let plain = Arguments {
        flags: 0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup: 0,
    };
    let between = clone(&plain, || {
        // Before the processes of that namespace can reach this one.
        let protected = run::prctl(libc::PR_SET_DUMPABLE, 0);
        let entered = protected.and_then(|()| namespace::join(user.as_fd(), Kind::User.flag()));
        let made = entered.and_then(|()| {
            let mut arguments = arguments(plan);
            arguments.flags |= u64::from(libc::CLONE_PARENT.unsigned_abs());
            // A sibling ends with the signal this process ends with.
            arguments.exit_signal = 0;
            clone(&arguments, || begin(plan, ends, message))
        });
        // A maker that has gone does not want to know.
        let _ = match made {
            Ok(process) => fdpass::send(theirs.as_fd(), &[0; 4], process.pidfd.as_fd()),
            Err(error) => {
                let error = error.raw_os_error().to_ne_bytes();
                rustix::net::send(&theirs, &error, SendFlags::NOSIGNAL).map(drop)
            }
        };
        run::exit(0)
    })?;
    drop(theirs);
    let mut error = [0; 4];
    let received = fdpass::receive(ours.as_fd(), &mut error);
    between.wait()?;
    match received {
        Ok((_, pidfd)) => Ok(Process {
            pid: pid_of(&pidfd)?,
            pidfd,
        }),
        Err(Errno::BADMSG) => match i32::from_ne_bytes(error) {
            error @ 1..4096 => Err(Errno::from_raw_os_error(error)),
            _ => Err(Errno::BADMSG),
        },
        Err(error) => Err(error),
    }
}

/// Identifier of a process in this PID namespace.
fn pid_of(pidfd: &OwnedFd) -> Result<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).map_err(|_| Errno::IO)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid.and_then(|pid| pid.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or(Errno::SRCH)
}

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
                let proc = plan.proc.as_ref().ok_or(Errno::BADF)?;
                resolve::write_in_proc(proc.as_fd(), c"self/timens_offsets", offsets.as_bytes())
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
