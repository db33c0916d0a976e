//! One client: frames one way and the other, or the bytes of a process's streams.

use std::os::fd::OwnedFd;

use dhow_sys::Errno;
use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags};
use serde::Serialize;

use super::input::Pieces;
use crate::wire::{Answer, Attach, Envelope, Event, Failure, MAX_FRAME, Message, Target};

/// Bytes that wait for a client of streams, above which the process waits too.
const HIGH_WATER: usize = 256 << 10;
/// Bytes of answers and events a client may leave lying; beyond it is dropped.
const MAX_QUEUED: usize = 8 << 20;

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) role: Role,
    /// What came in and is no whole frame yet.
    incoming: Vec<u8>,
    /// What is to go out, from `n_sent` on.
    outgoing: Vec<u8>,
    n_sent: usize,
    /// Nothing more will be added to what is to go out.
    ending: bool,
}

/// What a connection carries.
#[derive(Debug)]
pub(super) enum Role {
    /// Requests, answers, events.
    Requests {
        /// Whether it has said hello.
        greeted: bool,
        /// Whether it is sent events.
        events: bool,
    },
    /// Streams of a process.
    Streams {
        /// Which.
        attach: Attach,
        /// Whether the client may still send.
        sends: bool,
        /// Where it is in what it sends.
        pieces: Pieces,
    },
}

/// A client is to be dropped.
#[derive(Debug)]
pub(super) struct Broken;

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            role: Role::Requests {
                greeted: false,
                events: false,
            },
            incoming: Vec::new(),
            outgoing: Vec::new(),
            n_sent: 0,
            ending: false,
        }
    }

    fn n_queued(&self) -> usize {
        self.outgoing.len() - self.n_sent
    }

    /// What to wait for; `room` says whether what it sends can be taken.
    pub(super) fn wants(&self, room: bool) -> PollFlags {
        let mut events = PollFlags::empty();
        if self.n_queued() > 0 {
            events |= PollFlags::OUT;
        }
        let takes = match &self.role {
            Role::Requests { .. } => true,
            Role::Streams { sends, .. } => *sends && room && !self.ending,
        };
        if takes {
            events |= PollFlags::IN;
        }
        events
    }

    /// Whether a process has to wait until this client has read.
    pub(super) fn holds_up(&self, target: &Target) -> bool {
        self.n_queued() > HIGH_WATER
            && matches!(&self.role, Role::Streams { attach, .. } if attach.target == *target)
    }

    /// Whether everything is said.
    pub(super) fn is_over(&self) -> bool {
        self.ending && self.n_queued() == 0
    }

    pub(super) fn hears_events(&self) -> bool {
        matches!(self.role, Role::Requests { events: true, .. })
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) -> Result<(), Broken> {
        while self.n_queued() > 0 {
            let rest = &self.outgoing[self.n_sent..];
            match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(length) => self.n_sent += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Broken),
            }
        }
        if self.n_queued() == 0 {
            // Whatever a burst took is given back.
            self.outgoing = Vec::new();
            self.n_sent = 0;
        } else if self.n_sent > HIGH_WATER {
            self.outgoing.drain(..self.n_sent);
            self.n_sent = 0;
        }
        Ok(())
    }

    /// Sends what is left, with a little patience, and says that it was all.
    pub(super) fn flush_and_close(&mut self) {
        use rustix::event::{PollFd, Timespec, poll};
        let patience = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        while self.flush().is_ok() && self.n_queued() > 0 {
            let mut wait = [PollFd::new(&self.socket, PollFlags::OUT)];
            if poll(&mut wait, Some(&patience)) != Ok(1) {
                return;
            }
        }
    }

    pub(super) fn send_answer(&mut self, id: u64, answer: &Answer) -> Result<(), Broken> {
        self.send(&Message::Answer {
            id,
            ok: answer.clone(),
        })
    }

    pub(super) fn send_failure(&mut self, id: u64, error: Failure) -> Result<(), Broken> {
        self.send(&Message::Failure { id, error })
    }

    pub(super) fn send_event(&mut self, event: &Event) -> Result<(), Broken> {
        self.send(&Message::Event {
            event: event.clone(),
        })
    }

    fn send(&mut self, message: &impl Serialize) -> Result<(), Broken> {
        let start = self.outgoing.len();
        self.outgoing.extend([0; 4]);
        serde_json::to_writer(&mut self.outgoing, message).map_err(|_| Broken)?;
        let length = self.outgoing.len() - start - 4;
        let header = u32::try_from(length).map_err(|_| Broken)?.to_be_bytes();
        self.outgoing[start..start + 4].copy_from_slice(&header);
        self.flush()?;
        if self.n_queued() > MAX_QUEUED {
            Err(Broken)
        } else {
            Ok(())
        }
    }

    /// Reads what there is; false at the end of what the client sends.
    pub(super) fn read(&mut self) -> Result<bool, Broken> {
        let mut buffer = [0; 8 << 10];
        match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => Ok(false),
            Ok((length, _)) => {
                self.incoming.extend_from_slice(&buffer[..length]);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(_) => Err(Broken),
        }
    }

    /// The next whole request of what was read.
    pub(super) fn next_request(&mut self) -> Result<Option<Envelope>, Broken> {
        let Some(header) = self.incoming.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*header)).map_err(|_| Broken)?;
        if length > MAX_FRAME {
            return Err(Broken);
        }
        let Some(body) = self.incoming.get(4..4 + length) else {
            return Ok(None);
        };
        let envelope = serde_json::from_slice(body).map_err(|_| Broken)?;
        self.incoming.drain(..4 + length);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        Ok(Some(envelope))
    }

    /// Becomes a connection for streams; what it has sent ahead is input already.
    pub(super) fn become_streams(&mut self, attach: Attach) -> Vec<u8> {
        self.role = Role::Streams {
            attach,
            sends: true,
            pieces: Pieces::default(),
        };
        std::mem::take(&mut self.incoming)
    }

    /// Output of a process, if this client wants it.
    pub(super) fn output(
        &mut self,
        target: &Target,
        index: usize,
        terminal: bool,
        bytes: &[u8],
    ) -> Result<(), Broken> {
        let Role::Streams { attach, .. } = &self.role else {
            return Ok(());
        };
        let wanted = if index == 0 {
            attach.stdout
        } else {
            attach.stderr
        };
        if attach.target != *target || !wanted || self.ending {
            return Ok(());
        }
        if !terminal {
            // Docker's header: which stream (1 or 2), three zeroes, the length.
            let stream = if index == 0 { 1 } else { 2 };
            let length = u32::try_from(bytes.len())
                .map_err(|_| Broken)?
                .to_be_bytes();
            self.outgoing.extend([stream, 0, 0, 0]);
            self.outgoing.extend(length);
        }
        self.outgoing.extend_from_slice(bytes);
        self.flush()
    }

    /// The target has ended; whether this client has got everything already.
    pub(super) fn end_of(&mut self, target: &Target) -> bool {
        if matches!(&self.role, Role::Streams { attach, .. } if attach.target == *target) {
            self.ending = true;
        }
        self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Connection::new(ours.into()), theirs)
    }

    #[test]
    fn requests_come_in_pieces() {
        let (mut connection, mut client) = pair();
        let body = br#"{"id":7,"request":{"op":"start"}}"#;
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        for byte in &frame[..frame.len() - 1] {
            client.write_all(&[*byte]).unwrap();
            assert!(connection.read().unwrap());
            assert!(connection.next_request().unwrap().is_none());
        }
        client.write_all(&frame[frame.len() - 1..]).unwrap();
        assert!(connection.read().unwrap());
        assert_eq!(connection.next_request().unwrap().unwrap().id, 7);
        assert!(connection.next_request().unwrap().is_none());
        drop(client);
        assert!(!connection.read().unwrap());
    }

    #[test]
    fn frames_without_end_are_refused() {
        let (mut connection, mut client) = pair();
        client.write_all(&u32::MAX.to_be_bytes()).unwrap();
        connection.read().unwrap();
        assert!(connection.next_request().is_err());
    }

    #[test]
    fn output_is_framed_and_holds_up() {
        let (mut connection, mut client) = pair();
        let target = Target::Container;
        let attach = Attach {
            target: target.clone(),
            stdin: false,
            stdout: true,
            stderr: true,
        };
        assert!(connection.become_streams(attach).is_empty());
        connection.output(&target, 1, false, b"oops").unwrap();
        connection
            .output(&Target::Exec("x".into()), 0, false, b"not ours")
            .unwrap();
        let mut read = [0; 12];
        client.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"\x02\0\0\0\0\0\0\x04oops");
        while !connection.holds_up(&target) {
            connection.output(&target, 0, true, &[0; 32 << 10]).unwrap();
        }
        assert!(!connection.end_of(&target));
        let reader = std::thread::spawn(move || std::io::copy(&mut client, &mut std::io::sink()));
        connection.flush_and_close();
        assert!(connection.is_over());
        drop(connection);
        reader.join().unwrap().unwrap();
    }

    /// Frames of a client that may mean harm: some of them requests.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let framed = |body: Vec<u8>| [&(body.len() as u32).to_be_bytes(), &body[..]].concat();
        prop_oneof![
            Just(br#"{"id":1,"request":{"op":"hello","version":2,"events":true}}"#.to_vec())
                .prop_map(framed),
            Just(br#"{"id":2,"request":{"op":"wait","target":"x"}}"#.to_vec()).prop_map(framed),
            r#"\{"id":[0-9]{1,30},"request":\{"op":"[a-z-]{1,9}","target":[^"]{0,9}\}\}"#
                .prop_map(move |text| framed(text.into_bytes())),
            proptest::collection::vec(any::<u8>(), 0..50).prop_map(framed),
            // A length that lies.
            proptest::collection::vec(any::<u8>(), 0..12),
        ]
    }

    proptest! {
        /// Whatever a client sends, it is requests or the client is dropped, and
        /// no more is kept than it has sent.
        #[test]
        fn any_frames_are_taken_or_refused(
            frames in proptest::collection::vec(frame(), 0..8),
            step in 1_usize..70,
        ) {
            let (mut connection, mut client) = pair();
            let sent = frames.concat();
            let mut n_sent = 0;
            'all: for part in sent.chunks(step) {
                client.write_all(part).unwrap();
                n_sent += part.len();
                connection.read().unwrap();
                loop {
                    match connection.next_request() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
                prop_assert!(connection.incoming.len() <= n_sent);
            }
        }
    }
}
