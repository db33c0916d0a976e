//! Processes by descriptor: signals, ends, and being the one who reaps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use crate::{Errno, Result, check};

/// A process of ours, by identifier and by descriptor.
#[derive(Debug)]
pub struct Process {
    /// Identifier in our PID namespace.
    pub pid: i32,
    /// Descriptor of the process; readable when it has ended.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl End {
    /// The code a shell would give: 128 and the signal's number for a signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl Process {
    /// Finds a process that is not ours.
    ///
    /// # Errors
    ///
    /// `ESRCH` if there is none.
    pub fn find(pid: i32) -> Result<Self> {
        let wanted = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = rustix::process::pidfd_open(wanted, rustix::process::PidfdFlags::empty())?;
        Ok(Self { pid, pidfd })
    }

    /// Sends a signal by number.
    ///
    /// # Errors
    ///
    /// What pidfd_send_signal(2) says: `ESRCH` if it has ended, `EINVAL` for no such signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        signal_by_pidfd(self.pidfd.as_fd(), signal)
    }

    /// Waits for the end of a child of ours and collects it.
    ///
    /// # Errors
    ///
    /// `ECHILD` if it is not a child of ours.
    pub fn wait(&self) -> Result<End> {
        loop {
            if let Some(end) = self.collect(WaitIdOptions::EXITED)? {
                return Ok(end);
            }
        }
    }

    /// Collects a child of ours if it has ended.
    ///
    /// # Errors
    ///
    /// `ECHILD` if it is not a child of ours.
    pub fn try_wait(&self) -> Result<Option<End>> {
        self.collect(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn collect(&self, options: WaitIdOptions) -> Result<Option<End>> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(None) => return Ok(None),
                Ok(Some(status)) => {
                    return Ok(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Some(End::Code(code)),
                        (None, Some(signal)) => Some(End::Signal(signal)),
                        (None, None) => None,
                    });
                }
            }
        }
    }
}

/// Sends a signal by number to the process of a descriptor.
///
/// # Errors
///
/// What pidfd_send_signal(2) says.
pub fn signal_by_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: no signal information is passed, and the descriptor is borrowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Collects one child that has ended, whichever; none if no child has.
///
/// # Errors
///
/// What waitid(2) says, except that there is no child at all.
pub fn reap_any() -> Result<Option<(i32, End)>> {
    let options = rustix::process::WaitOptions::NOHANG;
    loop {
        return match rustix::process::wait(options) {
            Err(Errno::INTR) => continue,
            Err(Errno::CHILD) | Ok(None) => Ok(None),
            Err(error) => Err(error),
            Ok(Some((pid, status))) => {
                let end = match status.terminating_signal() {
                    Some(signal) => End::Signal(signal),
                    None => End::Code(status.exit_status().unwrap_or_default()),
                };
                Ok(Some((pid.as_raw_nonzero().get(), end)))
            }
        };
    }
}

/// Makes this process the one that orphans below it fall to.
///
/// # Errors
///
/// What prctl(2) says.
pub fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
}

/// When a process started, in clock ticks since boot: with its identifier it
/// names a process for ever, while identifiers are used again. One that has
/// ended and was not collected yet counts.
///
/// # Errors
///
/// `ESRCH` if there is no such process (any more).
pub fn start_time(pid: i32) -> Result<u64> {
    stat(pid).map(|(_, start_time)| start_time)
}

/// Whether the process of that identifier and start is there and has not ended.
#[must_use]
pub fn is_running(pid: i32, start_time: u64) -> bool {
    stat(pid).is_ok_and(|(state, start)| start == start_time && !matches!(state, b'Z' | b'X'))
}

/// State and start of a process (proc_pid_stat(5), fields 3 and 22).
fn stat(pid: i32) -> Result<(u8, u64)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).map_err(|_| Errno::SRCH)?;
    // The name may hold anything, brackets included; it ends at the last one.
    let after = text
        .iter()
        .rposition(|byte| *byte == b')')
        .ok_or(Errno::SRCH)?;
    let text = std::str::from_utf8(&text[after + 1..]).map_err(|_| Errno::SRCH)?;
    let mut fields = text.split_ascii_whitespace();
    let state = fields.next().and_then(|state| state.bytes().next());
    let start = fields.nth(18).and_then(|start| start.parse().ok());
    state.zip(start).ok_or(Errno::SRCH)
}

/// A descriptor that becomes readable when one of the signals has come; they
/// are blocked in this thread and do nothing else any more.
///
/// # Errors
///
/// What sigprocmask(2) and signalfd(2) say.
pub fn signal_descriptor(signals: &[Signal]) -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by sigemptyset before anything reads it,
    // and the descriptor returned belongs to nobody else.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        let set = set.assume_init();
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        let file = check(libc::signalfd(-1, &raw const set, flags).into())?;
        Ok(OwnedFd::from_raw_fd(
            i32::try_from(file).map_err(|_| Errno::BADF)?,
        ))
    }
}

/// The next signal a descriptor of [`signal_descriptor`] holds, if any.
///
/// # Errors
///
/// What read(2) says.
pub fn next_signal(file: BorrowedFd<'_>) -> Result<Option<i32>> {
    let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(file, &mut buffer) {
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
        Ok(length) if length < 4 => Ok(None),
        // The number is the first field.
        Ok(_) => Ok(Some(i32::from_ne_bytes([
            buffer[0], buffer[1], buffer[2], buffer[3],
        ]))),
    }
}

/// Lets a command's program begin with no signal blocked, whatever this
/// process takes by [`signal_descriptor`].
pub fn unblock_signals(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let unblock = || {
        // SAFETY: all zeroes are a valid set for sigemptyset to fill, and the
        // old mask is not asked for. Neither call allocates or takes a lock.
        let result = unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
        };
        check(result.into()).map(drop).map_err(std::io::Error::from)
    };
    // SAFETY: the closure makes two system calls that are safe between fork
    // and exec, and touches nothing of the parent's.
    unsafe {
        command.pre_exec(unblock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(start_time(own).unwrap(), start_time(own).unwrap());
        assert!(is_running(own, start_time(own).unwrap()));
        assert!(!is_running(own, start_time(own).unwrap() + 1));
        assert_eq!(start_time(0), Err(Errno::SRCH));
    }

    #[test]
    fn ends_are_told_apart() {
        #[allow(clippy::zombie_processes, reason = "collected through the descriptor")]
        let check = |script: &str, end: End| {
            let child = std::process::Command::new("/bin/sh")
                .args(["-c", script])
                .spawn()
                .unwrap();
            let process = Process::find(i32::try_from(child.id()).unwrap()).unwrap();
            assert_eq!(process.wait().unwrap(), end);
            assert_eq!(process.wait(), Err(Errno::CHILD));
        };
        check("exit 7", End::Code(7));
        check("kill -9 $$", End::Signal(9));
        assert_eq!(End::Signal(9).shell_code(), 137);
    }
}
