//! What the kernel knows of a socket's other side.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, check};

/// Bytes of memory that hold what was sent on a Unix socket and not yet read by
/// the other side; zero once it has read everything (unix(7), `SIOCOUTQ`).
///
/// # Errors
///
/// What the call says.
pub fn n_unread(socket: BorrowedFd<'_>) -> Result<usize> {
    let mut n_bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ for sockets, writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut n_bytes) };
    check(result.into())?;
    Ok(usize::try_from(n_bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_read_is_not_unread() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        assert_eq!(n_unread(ours.as_fd()), Ok(0));
        ours.write_all(b"text").expect("sent");
        assert!(n_unread(ours.as_fd()).expect("asked") > 0);
        theirs.read_exact(&mut [0; 4]).expect("read");
        assert_eq!(n_unread(ours.as_fd()), Ok(0));
    }
}
