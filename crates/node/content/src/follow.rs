//! Reading a blob while it is still being written.
//!
//! The bytes come from the page cache, not through a queue: the writer is
//! never held back by a slow reader, and nothing is held in memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::store::lock;

/// How far an ingest has come, shared between its writer and its followers.
#[derive(Debug)]
pub(crate) struct Growth {
    state: Mutex<(u64, Fate)>,
    changed: Condvar,
}

/// What became of an ingest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Growing,
    /// Verified: what is written is all there is.
    Complete,
    /// Given up, or started over.
    Abandoned,
}

impl Growth {
    pub(crate) fn at(offset: u64) -> Arc<Growth> {
        Arc::new(Growth {
            state: Mutex::new((offset, Fate::Growing)),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn grow(&self, offset: u64) {
        lock(&self.state).0 = offset;
        self.changed.notify_all();
    }

    /// Settles the fate; the first word stands.
    pub(crate) fn end(&self, fate: Fate) {
        let mut state = lock(&self.state);
        if state.1 == Fate::Growing {
            state.1 = fate;
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Reads an ingest from its beginning, waiting for bytes not yet written.
#[derive(Debug)]
pub struct Follower {
    file: File,
    position: u64,
    growth: Arc<Growth>,
}

impl Follower {
    pub(crate) fn new(file: File, growth: Arc<Growth>) -> Follower {
        Follower {
            file,
            position: 0,
            growth,
        }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl Read for Follower {
    /// Blocks until there is something to read or the ingest is settled.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionAborted`] once the ingest has been given up.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = lock(&self.growth.state);
        while state.0 <= self.position && state.1 == Fate::Growing {
            state = self
                .growth
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let (end, fate) = *state;
        drop(state);
        if fate == Fate::Abandoned {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the transfer was given up",
            ));
        }
        let wanted = usize::try_from(end - self.position)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let n_read = self.file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += n_read as u64;
        Ok(n_read)
    }
}
