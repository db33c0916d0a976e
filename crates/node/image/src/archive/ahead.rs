//! Decompressing on a thread of its own, a few pieces ahead of the reader, so
//! that making files and undoing compression share a layer between two cores.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::archive::Decompressor;

/// Bytes of a piece.
const PIECE: usize = 128 << 10;
/// Pieces that wait for the reader.
const AHEAD: usize = 6;

/// The plain form of a stream that may be compressed. The stream itself is
/// read to its end, also what comes after the last frame.
///
/// Dropped before its end, it stops the thread as soon as that one's own read
/// returns; nobody waits for it.
pub(crate) struct Ahead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// Pieces that have been read go back to be filled again.
    spent: Sender<Vec<u8>>,
    piece: Vec<u8>,
    position: usize,
    ended: bool,
}

impl Ahead {
    /// Starts reading.
    ///
    /// # Errors
    /// The kernel's, if it has no thread for us.
    pub(crate) fn start(input: impl Read + Send + 'static) -> io::Result<Ahead> {
        let (full, pieces) = sync_channel(AHEAD);
        let (spent, empty) = channel();
        std::thread::Builder::new()
            .name("decompress".to_owned())
            .spawn(move || {
                if let Err(error) = decompress(input, &full, &empty) {
                    // A reader that is gone does not care.
                    let _ = full.send(Err(error));
                }
            })?;
        Ok(Ahead {
            pieces,
            spent,
            piece: Vec::new(),
            position: 0,
            ended: false,
        })
    }
}

/// Sends the plain stream in pieces, an empty one last.
fn decompress(
    input: impl Read + Send + 'static,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut plain = Decompressor::new(input)?;
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let mut n_read = 0;
        // Whole pieces: a switch between threads for every little read would
        // cost more than it wins.
        while n_read < PIECE {
            match plain.read(&mut piece[n_read..]) {
                Ok(0) => break,
                Ok(n) => n_read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if n_read == 0 {
            break;
        }
        piece.truncate(n_read);
        if full.send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
    plain.drain()?;
    // As above.
    let _ = full.send(Ok(Vec::new()));
    Ok(())
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.piece.len() && !self.ended && !buffer.is_empty() {
            let next = self
                .pieces
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("decompression broke off")));
            let next = next.inspect_err(|_| self.ended = true)?;
            self.ended = next.is_empty();
            let spent = std::mem::replace(&mut self.piece, next);
            self.position = 0;
            // The thread may have ended.
            let _ = self.spent.send(spent);
        }
        let n_read = buffer.len().min(self.piece.len() - self.position);
        buffer[..n_read].copy_from_slice(&self.piece[self.position..self.position + n_read]);
        self.position += n_read;
        Ok(n_read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(input: impl Read + Send + 'static) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Ahead::start(input)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn an_error_comes_after_what_was_read_before_it() {
        let mut cut = gzip(&vec![7; 3 * PIECE]);
        cut.truncate(cut.len() - 12);
        let mut ahead = Ahead::start(io::Cursor::new(cut)).unwrap();
        let mut start = vec![0; PIECE];
        ahead.read_exact(&mut start).unwrap();
        let error = ahead.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        // It stays ended.
        assert_eq!(ahead.read(&mut start).unwrap(), 0);
    }

    #[test]
    fn dropping_it_stops_the_thread() {
        struct Endless {
            _alive: Sender<()>,
        }
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(1);
                Ok(buffer.len())
            }
        }
        let (alive, gone) = channel();
        let mut ahead = Ahead::start(Endless { _alive: alive }).unwrap();
        ahead.read_exact(&mut [0; 10]).unwrap();
        drop(ahead);
        assert!(gone.recv().is_err(), "its input is dropped");
    }

    proptest! {
        #[test]
        fn it_reads_what_was_compressed(
            bytes in proptest::collection::vec(any::<u8>(), 0..4 * PIECE),
            cut in any::<prop::sample::Index>(),
        ) {
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let members = [gzip(first), gzip(second)].concat();
            prop_assert_eq!(read(io::Cursor::new(members)).unwrap(), &bytes[..]);
            let plain = [b"plain", &bytes[..]].concat();
            prop_assert_eq!(read(io::Cursor::new(plain.clone())).unwrap(), plain);
        }
    }
}
