//! What the kernel knows of a socket's other side.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, check};

/// Less memory than the kernel takes for the smallest message of a Unix socket
/// (its `sk_buff` alone is 232 bytes).
const SMALLEST_MESSAGE: libc::c_int = 128;

/// Whether the other side of a Unix socket has read everything that was sent to it
/// (unix(7), `SIOCOUTQ`).
///
/// By the time it wakes who waits to write, it has.
///
/// # Errors
///
/// What the call says.
pub fn is_read(socket: BorrowedFd<'_>) -> Result<bool> {
    let mut n_bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ for sockets, writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut n_bytes) };
    check(result.into())?;
    // The kernel wakes writers while it gives a message's memory back: one byte of
    // it is still on the account then, and nobody is woken when it goes.
    Ok(n_bytes < SMALLEST_MESSAGE)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::event::epoll;

    use super::*;

    #[test]
    fn what_was_read_is_not_unread() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        assert_eq!(is_read(ours.as_fd()), Ok(true));
        ours.write_all(b"t").expect("sent");
        assert_eq!(is_read(ours.as_fd()), Ok(false));
        theirs.read_exact(&mut [0]).expect("read");
        assert_eq!(is_read(ours.as_fd()), Ok(true));
    }

    #[test]
    fn who_is_woken_sees_it_read() {
        const ROUNDS: usize = 200_000;
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        let reader = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                theirs.read_exact(&mut [0]).expect("read");
            }
        });
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        let edges = epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&watch, &ours, epoll::EventData::new_u64(0), edges).expect("watched");
        let patience = rustix::event::Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        for round in 0..ROUNDS {
            ours.write_all(b"t").expect("sent");
            while is_read(ours.as_fd()) == Ok(false) {
                let mut events = Vec::with_capacity(1);
                epoll::wait(
                    &watch,
                    rustix::buffer::spare_capacity(&mut events),
                    Some(&patience),
                )
                .expect("waited");
                assert!(!events.is_empty(), "nobody was woken in round {round}");
            }
        }
        reader.join().expect("all read");
    }
}
