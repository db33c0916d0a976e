//! The container's log: lines of JSON as Docker's `json-file` driver writes
//! them, rotated by size.
//!
//! A line longer than [`MAX_LINE`] is written in pieces; only the last piece
//! ends with a newline, which is how readers know that they belong together.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use dhow_runtime::Moment;
use serde::Serialize;

use crate::wire::LogSpec;

/// Longest piece of a line, in bytes.
const MAX_LINE: usize = 16 << 10;

/// The log, or nothing.
#[derive(Debug)]
pub(super) enum Log {
    Nothing,
    Json(JsonFile),
}

/// The file and what is to be written to it.
#[derive(Debug)]
pub(super) struct JsonFile {
    file: File,
    path: PathBuf,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    /// `"attrs":{…},` or nothing.
    attributes: String,
    /// What has come of a line that has not ended, of output and of error.
    partial: [Vec<u8>; 2],
    complained: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Text<'a>(&'a str);

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

impl Log {
    /// Opens the log; one that is there is continued.
    pub(super) fn open(spec: &LogSpec) -> Result<Self, (PathBuf, io::Error)> {
        let LogSpec::JsonFile {
            path,
            max_size,
            max_files,
            attributes,
        } = spec
        else {
            return Ok(Self::Nothing);
        };
        let begin = || -> io::Result<JsonFile> {
            let file = open(path)?;
            let attributes = if attributes.is_empty() {
                String::new()
            } else {
                format!("\"attrs\":{},", serde_json::to_string(attributes)?)
            };
            Ok(JsonFile {
                size: file.metadata()?.len(),
                file,
                path: path.clone(),
                max_size: *max_size,
                max_files: (*max_files).max(1),
                attributes,
                partial: [Vec::new(), Vec::new()],
                complained: false,
            })
        };
        begin()
            .map(Self::Json)
            .map_err(|error| (path.clone(), error))
    }

    /// Takes what a process wrote; `index` is 0 for output, 1 for error.
    pub(super) fn write(&mut self, index: usize, bytes: &[u8]) {
        if let Self::Json(log) = self {
            log.take(index, bytes);
        }
    }

    /// Writes lines that have not ended.
    pub(super) fn finish(&mut self) {
        if let Self::Json(log) = self {
            log.finish();
        }
    }
}

impl JsonFile {
    fn take(&mut self, index: usize, mut bytes: &[u8]) {
        let now = Moment::now();
        let mut lines = Vec::with_capacity(bytes.len() + 256);
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial[index].len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window.iter().position(|byte| *byte == b'\n');
            let (piece, rest) = bytes.split_at(end.map_or(window.len(), |end| end + 1));
            bytes = rest;
            let whole = end.is_some() || piece.len() == room;
            if self.partial[index].is_empty() && whole {
                self.line(&mut lines, index, piece, now);
                continue;
            }
            self.partial[index].extend_from_slice(piece);
            if whole {
                let line = std::mem::take(&mut self.partial[index]);
                self.line(&mut lines, index, &line, now);
            }
        }
        self.put(&lines);
    }

    fn finish(&mut self) {
        let mut lines = Vec::new();
        for index in 0..2 {
            let line = std::mem::take(&mut self.partial[index]);
            if !line.is_empty() {
                self.line(&mut lines, index, &line, Moment::now());
            }
        }
        self.put(&lines);
    }

    /// Adds a line to those that are to be written; when the file is full they
    /// are written, and the next one begins with this line.
    fn line(&mut self, lines: &mut Vec<u8>, index: usize, bytes: &[u8], now: Moment) {
        let start = lines.len();
        let stream = ["stdout", "stderr"][index];
        let text = String::from_utf8_lossy(bytes);
        lines.extend_from_slice(b"{\"log\":");
        // A string into memory: there is nothing that can fail.
        let _ = serde_json::to_writer(&mut *lines, &Text(&text));
        let _ = writeln!(
            lines,
            ",\"stream\":\"{stream}\",{}\"time\":\"{now}\"}}",
            self.attributes
        );
        let Some(max_size) = self.max_size else {
            return;
        };
        let before = self.size + start as u64;
        if before > 0 && before + (lines.len() - start) as u64 > max_size {
            let line = lines.split_off(start);
            self.put(lines);
            *lines = line;
            if let Err(error) = self.rotate() {
                self.complain("rotate", &error);
            }
        }
    }

    fn put(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        match self.file.write_all(lines) {
            Ok(()) => {
                self.size += lines.len() as u64;
                self.complained = false;
            }
            // The container must not stop because the disk is full.
            Err(error) => self.complain("write", &error),
        }
    }

    fn complain(&mut self, action: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            eprintln!(
                "{action} log {}: {error}; output is lost until it works again",
                self.path.display()
            );
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.max_files == 1 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        for number in (1..self.max_files - 1).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))?;
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn log(path: &Path, max_size: Option<u64>, max_files: u32) -> Log {
        let spec = LogSpec::JsonFile {
            path: path.to_owned(),
            max_size,
            max_files,
            attributes: BTreeMap::new(),
        };
        Log::open(&spec).unwrap()
    }

    fn lines(path: &Path) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(path).unwrap();
        let line = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| value[name].as_str().unwrap().to_owned();
            field("time").parse::<Moment>().unwrap();
            (field("stream"), field("log"))
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = log(&path, None, 1);
        for piece in ["one\ntw", "o\n", "\n", "thr"] {
            log.write(0, piece.as_bytes());
        }
        log.write(1, b"\xffbad \"quoted\"\n");
        log.finish();
        let expected = [
            ("stdout", "one\n"),
            ("stdout", "two\n"),
            ("stdout", "\n"),
            ("stderr", "\u{fffd}bad \"quoted\"\n"),
            ("stdout", "thr"),
        ];
        assert_eq!(
            lines(&path),
            expected.map(|(stream, line)| (stream.into(), line.into()))
        );
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = log(&path, None, 1);
        let line = "x".repeat(40_000) + "\n";
        for piece in line.as_bytes().chunks(7_001) {
            log.write(0, piece);
        }
        let written = lines(&path);
        assert_eq!(
            written
                .iter()
                .map(|(_, piece)| piece.len())
                .collect::<Vec<_>>(),
            [16384, 16384, 7233]
        );
        assert_eq!(
            written
                .into_iter()
                .map(|(_, piece)| piece)
                .collect::<String>(),
            line
        );
    }

    #[test]
    fn full_files_are_rotated_and_no_line_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = log(&path, Some(1000), 3);
        for number in 0..25 {
            log.write(0, format!("line {number}\n").as_bytes());
        }
        let file = |name: &str| directory.path().join(name);
        let mut kept = Vec::new();
        for name in ["log.2", "log.1", "log"] {
            assert!(std::fs::metadata(file(name)).unwrap().len() <= 1000);
            kept.extend(lines(&file(name)).into_iter().map(|(_, line)| line));
        }
        assert!(!file("log.3").exists());
        let first = 25 - kept.len();
        let expected: Vec<_> = (first..25)
            .map(|number| format!("line {number}\n"))
            .collect();
        assert_eq!(kept, expected);
        assert!(kept.len() > 20, "{}", kept.len());
    }
}
