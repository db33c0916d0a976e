//! A connection: authentication, calls, and signals that come between.
//!
//! Follows the D-Bus specification, "Authentication Protocol" (EXTERNAL) and
//! "Message Protocol".

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Result, SystemdError};
use crate::message::{self, Call, FIXED, Kind, Message, Writer};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most signals that are kept for whoever asks for them later.
const MAX_SIGNALS: usize = 4096;
/// Longest line of the authentication.
const MAX_LINE: usize = 1 << 10;

/// A connection to a peer that speaks D-Bus.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Message>,
}

impl Bus {
    /// Connects and says who we are.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let connect = |path: &Path| {
            let mut stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            authenticate(&mut stream)?;
            Ok(stream)
        };
        let stream = connect(path).map_err(|source: io::Error| SystemdError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            stream,
            serial: 0,
            signals: VecDeque::new(),
        })
    }

    /// Calls a method and waits for its answer.
    pub(crate) fn call(&mut self, call: Call<'_>, body: &Writer) -> Result<Message> {
        self.serial += 1;
        let bytes = call.encode(self.serial, body);
        self.stream.write_all(&bytes)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(deadline)?;
            match message.kind {
                Kind::Answer if message.answers == self.serial => return Ok(message),
                Kind::Error if message.answers == self.serial => {
                    return Err(SystemdError::Refused {
                        call: call.member,
                        // A reason is usual, not certain.
                        message: message.body().text().unwrap_or_default().to_owned(),
                        name: message.error,
                    });
                }
                Kind::Signal if self.signals.len() < MAX_SIGNALS => {
                    self.signals.push_back(message);
                }
                _ => {}
            }
        }
    }

    /// The next signal; none when the time is over.
    pub(crate) fn signal(&mut self, deadline: Instant) -> Result<Option<Message>> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(Some(signal));
        }
        loop {
            match self.receive(deadline) {
                Ok(message) if message.kind == Kind::Signal => return Ok(Some(message)),
                Ok(_) => {}
                Err(SystemdError::Io(error)) if error.kind() == ErrorKind::TimedOut => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message> {
        let mut bytes = vec![0; FIXED];
        self.fill(&mut bytes, deadline)?;
        let fixed = bytes.first_chunk().expect("it has that length");
        let size = message::size(fixed)?;
        bytes.resize(size, 0);
        self.fill(&mut bytes[FIXED..], deadline)?;
        Message::decode(&bytes)
    }

    /// Reads exactly this much.
    fn fill(&mut self, mut bytes: &mut [u8], deadline: Instant) -> Result<()> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(ErrorKind::TimedOut).into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(bytes) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(n_bytes) => bytes = &mut bytes[n_bytes..],
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Says by which user we come; the kernel vouches for it.
fn authenticate(stream: &mut UnixStream) -> io::Result<()> {
    let user = rustix::process::geteuid().as_raw().to_string();
    let hexadecimal: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
    // All at once: systemd does not look again at what it has read together with
    // the last line, so no message may follow that line closely.
    let lines = format!("\0AUTH EXTERNAL {hexadecimal}\r\nBEGIN\r\n");
    stream.write_all(lines.as_bytes())?;
    let mut line = Vec::new();
    // Byte by byte: what follows the line is not ours to read here.
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > MAX_LINE {
            return Err(io::Error::from(ErrorKind::InvalidData));
        }
    }
    if line.starts_with(b"OK ") {
        Ok(())
    } else {
        Err(ErrorKind::PermissionDenied.into())
    }
}
