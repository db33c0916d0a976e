//! The system's journal, by its native protocol: one datagram a line, of
//! fields `NAME=value\n`, or `NAME\n`, length and bytes where the value has
//! line feeds of its own (systemd's "Native Journal Protocol").

use std::io;
use std::os::unix::net::UnixDatagram;

use dhow_runtime::Moment;

use crate::server::complain;
use crate::wire::JournalSpec;

/// Priorities of output and error, as Docker's driver has them.
const PRIORITIES: [&str; 2] = ["6", "3"];

/// A connection to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    /// The fields that are the same in each line.
    fields: Vec<u8>,
    has_complained: bool,
}

impl Journal {
    pub(super) fn open(spec: &JournalSpec) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(&spec.socket)?;
        // A journal that does not keep up must not stop the container.
        socket.set_nonblocking(true)?;
        let mut fields = Vec::new();
        for (name, value) in &spec.fields {
            field(&mut fields, name, value.as_bytes());
        }
        Ok(Self {
            socket,
            fields,
            has_complained: false,
        })
    }

    /// Sends a piece of a line; `index` is 0 for output, 1 for error.
    pub(super) fn send(&mut self, index: usize, piece: &[u8], now: Moment) {
        let mut datagram = self.fields.clone();
        let text = piece.strip_suffix(b"\n");
        field(&mut datagram, "MESSAGE", text.unwrap_or(piece));
        if text.is_none() {
            field(&mut datagram, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        field(&mut datagram, "PRIORITY", PRIORITIES[index].as_bytes());
        field(
            &mut datagram,
            "SYSLOG_TIMESTAMP",
            now.to_string().as_bytes(),
        );
        match self.socket.send(&datagram) {
            Ok(_) => self.has_complained = false,
            Err(error) => {
                if !std::mem::replace(&mut self.has_complained, true) {
                    complain(format_args!(
                        "write to the journal: {error}; lines are lost until it works again"
                    ));
                }
            }
        }
    }
}

fn field(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    to.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        to.push(b'\n');
        to.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        to.push(b'=');
    }
    to.extend_from_slice(value);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::Log;
    use super::*;
    use crate::wire::LogSpec;

    #[test]
    fn lines_arrive_with_their_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut log = Log::open(&LogSpec {
            file: None,
            journal: Some(JournalSpec {
                socket: path,
                fields: [
                    ("CONTAINER_NAME".to_owned(), "web".to_owned()),
                    ("LABEL".into(), "a\nb".into()),
                ]
                .into(),
            }),
        })
        .unwrap();
        log.write(1, b"oh no\nrest");
        log.finish();
        let received = || {
            let mut buffer = vec![0; 4096];
            let length = journal.recv(&mut buffer).unwrap();
            buffer.truncate(length);
            String::from_utf8(buffer).unwrap()
        };
        let first = received();
        assert!(
            first.starts_with(
                "CONTAINER_NAME=web\nLABEL\n\u{3}\0\0\0\0\0\0\0a\nb\nMESSAGE=oh no\nPRIORITY=3\n"
            ),
            "{first:?}"
        );
        let second = received();
        assert!(second.contains("MESSAGE=rest\nCONTAINER_PARTIAL_MESSAGE=true\n"));
    }
}
