//! Where a container's output is kept, besides going to those who attach: a
//! rotated file, the system's journal, both, or neither.
//!
//! Output is cut into lines here; a line longer than [`MAX_PIECE`] is kept in
//! pieces, of which only the last ends with a line feed, which is how readers
//! know that they belong together.

mod file;
mod journal;

use std::io;
use std::path::PathBuf;

use dhow_runtime::Moment;

use crate::entry::MAX_PIECE;
use crate::wire::LogSpec;
use file::LogFile;
use journal::Journal;

/// The logs of one container.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<LogFile>,
    journal: Option<Journal>,
    /// What has come of a line that has not ended, of output and of error.
    partial: [Vec<u8>; 2],
}

impl Log {
    /// Opens what the specification names; a file that is there is continued.
    pub(super) fn open(spec: &LogSpec) -> Result<Self, (PathBuf, io::Error)> {
        let file = spec
            .file
            .as_ref()
            .map(|spec| LogFile::open(spec).map_err(|error| (spec.path.clone(), error)))
            .transpose()?;
        let journal = spec
            .journal
            .as_ref()
            .map(|spec| Journal::open(spec).map_err(|error| (spec.socket.clone(), error)))
            .transpose()?;
        Ok(Self {
            file,
            journal,
            partial: [Vec::new(), Vec::new()],
        })
    }

    /// Takes what a process wrote; `index` is 0 for output, 1 for error.
    pub(super) fn write(&mut self, index: usize, mut bytes: &[u8]) {
        if self.file.is_none() && self.journal.is_none() {
            return;
        }
        let now = Moment::now();
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.partial[index].len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window.iter().position(|byte| *byte == b'\n');
            let (piece, rest) = bytes.split_at(end.map_or(window.len(), |end| end + 1));
            bytes = rest;
            let is_whole = end.is_some() || piece.len() == room;
            if self.partial[index].is_empty() && is_whole {
                self.keep(index, piece, now);
                continue;
            }
            self.partial[index].extend_from_slice(piece);
            if is_whole {
                let line = std::mem::take(&mut self.partial[index]);
                self.keep(index, &line, now);
            }
        }
        self.flush();
    }

    /// Writes lines that have not ended.
    pub(super) fn finish(&mut self) {
        for index in 0..2 {
            let line = std::mem::take(&mut self.partial[index]);
            if !line.is_empty() {
                self.keep(index, &line, Moment::now());
            }
        }
        self.flush();
        if let Some(file) = &mut self.file {
            file.finish();
        }
    }

    fn keep(&mut self, index: usize, piece: &[u8], now: Moment) {
        if let Some(file) = &mut self.file {
            file.keep(index, piece, now);
        }
        if let Some(journal) = &mut self.journal {
            journal.send(index, piece, now);
        }
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            file.flush();
        }
    }
}
