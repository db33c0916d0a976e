//! A netlink socket: sends batches, collects answers, names what failed.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::wire::{Batch, Message, Messages, NLM_F_MULTI, u32_at};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The answer carries extended attributes (`NLM_F_ACK_TLVS`).
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The answer repeats only the header of the request (`NLM_F_CAPPED`).
const NLM_F_CAPPED: u16 = 0x100;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Room for the largest datagram that the kernel sends to a dump.
const RECEIVE: usize = 64 * 1024;
/// Socket buffers that hold a transaction of thousands of elements and its
/// acknowledgements.
const BUFFERS: libc::c_int = 16 * 1024 * 1024;

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the request; `hint` is its own explanation or empty.
    #[error("the kernel refused request {index} of the batch{}{hint}", if hint.is_empty() { "" } else { ": " })]
    Refused {
        /// Which request of the batch, counted from zero.
        index: u32,
        /// The kernel's extended acknowledgement.
        hint: String,
        /// The error number.
        source: io::Error,
    },
    /// The socket itself failed.
    #[error("netlink socket: {operation}")]
    Socket {
        /// What was being done.
        operation: &'static str,
        /// The error number.
        source: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("netlink answer is malformed: {0}")]
    Malformed(&'static str),
}

impl Error {
    /// The error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { source, .. } | Error::Socket { source, .. } => source.raw_os_error(),
            Error::Malformed(_) => None,
        }
    }

    /// True when the object named is not there (`ENODEV`, `ENOENT`, `ESRCH`).
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ENOENT | libc::ESRCH)
        )
    }

    /// True when news was lost because the socket's buffer was full
    /// (`ENOBUFS`).
    pub fn is_overrun(&self) -> bool {
        self.errno() == Some(libc::ENOBUFS)
    }

    /// True when the object named is already there.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// A netlink socket, bound to the network namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: Cell<u32>,
}

impl Socket {
    /// Opens an rtnetlink socket in the caller's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the kernel gives none.
    pub fn route() -> Result<Self, Error> {
        Self::open(None)
    }

    /// Opens a netfilter socket in the caller's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the kernel gives none.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, Error> {
        let descriptor = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(socket_error("open"))?;
        rustix::net::bind(&descriptor, &netlink::SocketAddrNetlink::new(0, 0))
            .map_err(socket_error("bind"))?;
        let socket = Self {
            descriptor,
            sequence: Cell::new(1),
        };
        // Better error texts and larger buffers are welcome, not needed: an
        // unprivileged caller goes without.
        socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        socket.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFERS);
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFERS);
        Ok(socket)
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
        // SAFETY: the descriptor is open for the lifetime of self, and the
        // pointer and length describe one live int.
        unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            );
        }
    }

    /// Subscribes to a multicast group of the socket's family; what it says is
    /// read by [`Socket::news`].
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when there is no such group or the caller may not.
    pub fn join(&self, group: u32) -> Result<(), Error> {
        // SAFETY: the descriptor is open for the lifetime of self, and the
        // pointer and length describe one live number.
        let result = unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_ADD_MEMBERSHIP,
                (&raw const group).cast(),
                size_of_val(&group) as libc::socklen_t,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(Error::Socket {
            operation: "join a group",
            source: io::Error::last_os_error(),
        })
    }

    /// The port by which the kernel knows this socket.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the socket does not tell.
    pub fn port(&self) -> Result<u32, Error> {
        let address = rustix::net::getsockname(&self.descriptor).map_err(socket_error("name"))?;
        let address = netlink::SocketAddrNetlink::try_from(address)
            .map_err(|_| Error::Malformed("the socket's name is of another family"))?;
        Ok(address.pid())
    }

    /// Hands over what has come by [`Socket::join`], without waiting; a socket
    /// that polls as readable has something.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when receiving fails; `ENOBUFS` means that news was
    /// lost.
    pub fn news(&self, mut each: impl FnMut(Message<'_>)) -> Result<(), Error> {
        let mut buffer = vec![0u8; RECEIVE];
        loop {
            match rustix::net::recv(&self.descriptor, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((received, _)) => Messages(&buffer[..received]).for_each(&mut each),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(socket_error("receive")(error)),
            }
        }
    }

    /// Sends the batch and waits for the answer to each acknowledged request.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the first refusal; later requests of an
    /// rtnetlink batch were carried out all the same.
    pub fn run(&self, batch: &mut Batch) -> Result<(), Error> {
        let mut first = None;
        for result in self.run_each(batch)? {
            if let Err(error) = result {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Sends the batch and returns the answer to each acknowledged request, in
    /// order. A transaction that failed before its requests were looked at
    /// answers only the request that was at fault.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when sending or receiving fails.
    pub fn run_each(&self, batch: &mut Batch) -> Result<Vec<Result<(), Error>>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let base = self.send(batch)?;
        let last = batch.acknowledged.last().copied();
        let mut results = Vec::with_capacity(batch.acknowledged.len());
        let Some(last) = last else { return Ok(results) };
        let mut buffer = vec![0u8; RECEIVE];
        let mut waiting = true;
        while waiting {
            let received = self.receive(&mut buffer)?;
            for message in Messages(&buffer[..received]) {
                let index = message.sequence.wrapping_sub(base);
                if message.kind != NLMSG_ERROR || index >= batch.n_requests {
                    continue;
                }
                let result = acknowledgement(&message, index);
                // Only the request at fault is answered when a transaction
                // fails; its markers carry no acknowledgement of their own.
                let ends =
                    index >= last || (result.is_err() && !batch.acknowledged.contains(&index));
                results.push(result);
                waiting &= !ends;
            }
            if waiting && results.iter().any(Result::is_err) && !self.has_more()? {
                waiting = false;
            }
        }
        Ok(results)
    }

    /// Sends a dump request and hands each message of the answer to `each`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when the kernel refuses, [`Error::Socket`] when the
    /// socket fails.
    pub fn dump(&self, batch: &mut Batch, mut each: impl FnMut(Message<'_>)) -> Result<(), Error> {
        let base = self.send(batch)?;
        let mut buffer = vec![0u8; RECEIVE];
        loop {
            let received = self.receive(&mut buffer)?;
            for message in Messages(&buffer[..received]) {
                let index = message.sequence.wrapping_sub(base);
                if index >= batch.n_requests {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledgement(&message, index),
                    _ => {
                        let single = message.flags & NLM_F_MULTI == 0;
                        each(message);
                        if single && batch.acknowledged.is_empty() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn send(&self, batch: &mut Batch) -> Result<u32, Error> {
        let base = self.sequence.get();
        self.sequence.set(base.wrapping_add(batch.n_requests));
        batch.number_from(base);
        let sent = rustix::net::send(&self.descriptor, &batch.bytes, SendFlags::empty())
            .map_err(socket_error("send"))?;
        if sent != batch.bytes.len() {
            return Err(Error::Malformed("the batch was sent in part"));
        }
        Ok(base)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match rustix::net::recv(&self.descriptor, &mut *buffer, RecvFlags::empty()) {
                Ok((received, _)) => return Ok(received),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(socket_error("receive")(error)),
            }
        }
    }

    fn has_more(&self) -> Result<bool, Error> {
        let mut probe = [0u8; 1];
        match rustix::net::recv(
            &self.descriptor,
            &mut probe[..],
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        ) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(error) => Err(socket_error("receive")(error)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn acknowledgement(message: &Message<'_>, index: u32) -> Result<(), Error> {
    let payload = message.payload;
    if payload.len() < 20 {
        return Err(Error::Malformed("an acknowledgement is too short"));
    }
    let code = u32_at(payload, 0) as i32;
    if code == 0 {
        return Ok(());
    }
    let mut hint = String::new();
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let echoed = if message.flags & NLM_F_CAPPED != 0 {
            16
        } else {
            u32_at(payload, 4)
        };
        hint = message
            .attributes(4 + echoed as usize)
            .string(NLMSGERR_ATTR_MSG)
            .unwrap_or_default();
    }
    Err(Error::Refused {
        index,
        hint,
        source: io::Error::from_raw_os_error(-code),
    })
}

fn socket_error(operation: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |source| Error::Socket {
        operation,
        source: source.into(),
    }
}
