//! A log file: lines of JSON as Docker's `json-file` driver writes them, or
//! entries of the driver `local`; rotated by size, the old ones compressed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use dhow_runtime::Moment;
use flate2::{Compression, GzBuilder};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::entry::{self, Entry};
use crate::server::complain;
use crate::wire::{LogFileSpec, LogForm};

/// Stack of the thread that compresses, in bytes.
const STACK: usize = 128 << 10;
/// Bytes that a file may grow beyond its size while somebody opens the log.
const GRACE: u64 = 4 << 20;

/// The file and what is to be written to it.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    spec: LogFileSpec,
    size: u64,
    /// `"attrs":{…},` or nothing.
    attributes: String,
    /// What is not written yet; together with its neighbours it is one call.
    pending: Vec<u8>,
    /// Compresses the file that was full last.
    compressing: Option<JoinHandle<()>>,
    has_complained: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Text<'a>(&'a str);

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

impl LogFile {
    /// Opens the file; what a power loss tore off its end is left out.
    pub(super) fn open(spec: &LogFileSpec) -> io::Result<Self> {
        let mut file = open(&spec.path)?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            size = mend(&mut file, spec.form, size)?;
        }
        let attributes = if spec.attributes.is_empty() {
            String::new()
        } else {
            format!("\"attrs\":{},", serde_json::to_string(&spec.attributes)?)
        };
        Ok(Self {
            file,
            spec: spec.clone(),
            size,
            attributes,
            pending: Vec::new(),
            compressing: None,
            has_complained: false,
        })
    }

    /// Takes a piece of a line; when the file is full, the next one begins
    /// with it.
    pub(super) fn keep(&mut self, index: usize, piece: &[u8], now: Moment) {
        let start = self.pending.len();
        match self.spec.form {
            LogForm::Local => Entry::write(&mut self.pending, 1 + index as u8, now, piece),
            LogForm::JsonFile => self.json(index, piece, now),
        }
        let Some(max_size) = self.spec.max_size else {
            return;
        };
        let before = self.size + start as u64;
        if before > 0 && before + (self.pending.len() - start) as u64 > max_size {
            let piece = self.pending.split_off(start);
            self.flush();
            self.pending = piece;
            if let Err(error) = self.rotate(max_size) {
                self.complain("rotate", &error);
            }
        }
    }

    fn json(&mut self, index: usize, piece: &[u8], now: Moment) {
        let stream = ["stdout", "stderr"][index];
        let text = String::from_utf8_lossy(piece);
        self.pending.extend_from_slice(b"{\"log\":");
        // A string into memory: there is nothing that can fail.
        let _ = serde_json::to_writer(&mut self.pending, &Text(&text));
        let _ = writeln!(
            self.pending,
            ",\"stream\":\"{stream}\",{}\"time\":\"{now}\"}}",
            self.attributes
        );
    }

    /// Writes what was kept.
    pub(super) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let written = self.file.write_all(&self.pending);
        match written {
            Ok(()) => {
                self.size += self.pending.len() as u64;
                self.has_complained = false;
            }
            Err(error) => {
                // The container must not stop because the disk is full, and
                // what got through in part would spoil what follows it.
                let _ = self.file.set_len(self.size);
                self.complain("write", &error);
            }
        }
        // A flood's buffer is not kept for the drip that follows.
        if self.pending.capacity() > 64 << 10 {
            self.pending = Vec::new();
        }
        self.pending.clear();
    }

    /// Waits for the compression that is under way.
    pub(super) fn finish(&mut self) {
        if let Some(compressing) = self.compressing.take() {
            let _ = compressing.join();
        }
    }

    fn complain(&mut self, action: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.has_complained, true) {
            complain(format_args!(
                "{action} log {}: {error}; output is lost until it works again",
                self.spec.path.display()
            ));
        }
    }

    /// Makes room for more, unless somebody opens the log just now.
    fn rotate(&mut self, max_size: u64) -> io::Result<()> {
        let folder = self.spec.path.parent().unwrap_or(Path::new("/"));
        let folder = File::open(folder)?;
        let locked = flock(&folder, FlockOperation::NonBlockingLockExclusive);
        if locked.is_err() && self.size < max_size + GRACE {
            return Ok(());
        }
        // The next file first: without room for it all stays as it is.
        let fresh = self.spec.rotated(0).with(".new");
        let file = open(&fresh)?;
        self.shift(&fresh)
            .inspect_err(|_| drop(std::fs::remove_file(&fresh)))?;
        self.file = file;
        self.size = 0;
        if self.spec.compress {
            let first = self.spec.rotated(1);
            let compress = move || {
                if let Err(error) = first.compress() {
                    complain(format_args!(
                        "compress log {}: {error}",
                        first.plain().display()
                    ));
                }
            };
            let builder = std::thread::Builder::new().stack_size(STACK);
            self.compressing = Some(builder.spawn(compress)?);
        }
        Ok(())
    }

    /// Moves all files by one, the oldest out, and a new one in.
    fn shift(&mut self, fresh: &Path) -> io::Result<()> {
        if self.spec.max_files <= 1 {
            return std::fs::rename(fresh, &self.spec.path);
        }
        self.finish();
        let gone = |done: io::Result<()>| match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let oldest = self.spec.rotated(self.spec.max_files - 1);
        gone(std::fs::remove_file(oldest.plain()))?;
        gone(std::fs::remove_file(oldest.compressed()))?;
        for number in (1..self.spec.max_files - 1).rev() {
            let (from, to) = (self.spec.rotated(number), self.spec.rotated(number + 1));
            gone(std::fs::rename(from.plain(), to.plain()))?;
            gone(std::fs::rename(from.compressed(), to.compressed()))?;
        }
        let first = self.spec.rotated(1);
        std::fs::rename(&self.spec.path, first.plain())?;
        std::fs::rename(fresh, &self.spec.path)
    }
}

/// A file that was full.
#[derive(Debug, Clone)]
struct Rotated(PathBuf);

impl LogFileSpec {
    fn rotated(&self, number: u32) -> Rotated {
        let mut name = self.path.clone().into_os_string();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        Rotated(name.into())
    }
}

impl Rotated {
    fn plain(&self) -> PathBuf {
        self.0.clone()
    }

    fn compressed(&self) -> PathBuf {
        self.with(".gz")
    }

    fn with(&self, ending: &str) -> PathBuf {
        let mut name = self.0.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    /// Puts a compressed file in the place of a plain one; one or the other is
    /// there at any moment. Its comment is the inode number of the plain one, by which
    /// whoever has read that knows it again.
    fn compress(&self) -> io::Result<()> {
        let new = self.with(".new");
        let written = (|| {
            let mut plain = File::open(self.plain())?;
            let output = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o640)
                .open(&new)?;
            let mut encoder = GzBuilder::new()
                .comment(plain.metadata()?.ino().to_string())
                .write(output, Compression::new(1));
            let mut block = [0; 16 << 10];
            loop {
                match plain.read(&mut block)? {
                    0 => break,
                    length => encoder.write_all(&block[..length])?,
                }
            }
            encoder.finish().map(drop)
        })();
        if let Err(error) = written {
            let _ = std::fs::remove_file(&new);
            return Err(error);
        }
        std::fs::rename(&new, self.compressed())?;
        std::fs::remove_file(self.plain())
    }
}

/// Cuts a torn end off a file that is continued; returns its size then.
fn mend(file: &mut File, form: LogForm, size: u64) -> io::Result<u64> {
    let whole = match form {
        LogForm::Local if entry::last(file, 1).is_ok() => return Ok(size),
        LogForm::Local => {
            file.rewind()?;
            entry::whole(&mut io::BufReader::new(&mut *file))?
        }
        LogForm::JsonFile => {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // Readers leave out what is no JSON.
                file.write_all(b"\n")?;
                return Ok(size + 1);
            }
            return Ok(size);
        }
    };
    file.set_len(whole)?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flate2::read::GzDecoder;

    use super::super::Log;
    use super::*;
    use crate::wire::LogSpec;

    fn spec(path: &Path, form: LogForm, max_size: Option<u64>, max_files: u32) -> LogFileSpec {
        LogFileSpec {
            path: path.to_owned(),
            form,
            max_size,
            max_files,
            compress: false,
            attributes: BTreeMap::new(),
        }
    }

    fn log(spec: LogFileSpec) -> Log {
        Log::open(&LogSpec {
            file: Some(spec),
            journal: None,
        })
        .unwrap()
    }

    fn json(path: &Path) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(path).unwrap();
        let line = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| value[name].as_str().unwrap().to_owned();
            field("time").parse::<Moment>().unwrap();
            (field("stream"), field("log"))
        };
        text.lines().map(line).collect()
    }

    fn entries(mut from: impl Read) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| Entry::read(&mut from).unwrap())
            .map(|entry| entry.bytes)
            .collect()
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = log(spec(&path, LogForm::JsonFile, None, 1));
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
            json(&path),
            expected.map(|(stream, line)| (stream.into(), line.into()))
        );
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = log(spec(&path, LogForm::Local, None, 1));
        let line = "x".repeat(40_000) + "\n";
        for piece in line.as_bytes().chunks(7_001) {
            log.write(0, piece);
        }
        let written = entries(File::open(&path).unwrap());
        assert_eq!(
            written.iter().map(Vec::len).collect::<Vec<_>>(),
            [16384, 16384, 7233]
        );
        assert_eq!(written.concat(), line.as_bytes());
    }

    #[test]
    fn full_files_are_rotated_and_no_line_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = log(spec(&path, LogForm::JsonFile, Some(1000), 3));
        for number in 0..25 {
            log.write(0, format!("line {number}\n").as_bytes());
        }
        let file = |name: &str| directory.path().join(name);
        let mut kept = Vec::new();
        for name in ["log.2", "log.1", "log"] {
            assert!(std::fs::metadata(file(name)).unwrap().len() <= 1000);
            kept.extend(json(&file(name)).into_iter().map(|(_, line)| line));
        }
        assert!(!file("log.3").exists());
        let first = 25 - kept.len();
        let expected: Vec<_> = (first..25)
            .map(|number| format!("line {number}\n"))
            .collect();
        assert_eq!(kept, expected);
        assert!(kept.len() > 20, "{}", kept.len());
    }

    #[test]
    fn old_files_are_compressed_and_no_byte_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = log(LogFileSpec {
            compress: true,
            ..spec(&path, LogForm::Local, Some(500), 4)
        });
        for number in 100..190u8 {
            log.write(0, &[number, 0xff, b'\n']);
        }
        log.finish();
        let mut kept = Vec::new();
        for name in ["log.3.gz", "log.2.gz", "log.1.gz"] {
            let file = File::open(directory.path().join(name)).unwrap();
            kept.extend(entries(GzDecoder::new(file)));
        }
        kept.extend(entries(File::open(&path).unwrap()));
        let n_files = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(n_files, 4, "nothing else is left");
        assert_eq!(kept.last().unwrap(), &[189, 0xff, b'\n']);
        let numbers: Vec<u8> = kept.iter().map(|bytes| bytes[0]).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(numbers.len() > 60, "{}", numbers.len());
    }

    #[test]
    fn a_torn_end_is_mended_when_the_log_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        for form in [LogForm::Local, LogForm::JsonFile] {
            let path = directory.path().join(format!("{form:?}"));
            log(spec(&path, form, None, 1)).write(0, b"one\ntwo\n");
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(file.metadata().unwrap().len() - 2).unwrap();
            log(spec(&path, form, None, 1)).write(0, b"three\n");
            let text = std::fs::read(&path).unwrap();
            if form == LogForm::Local {
                assert_eq!(entries(&text[..]), [b"one\n".to_vec(), b"three\n".to_vec()]);
            } else {
                let good = String::from_utf8(text).unwrap();
                let good = good
                    .lines()
                    .filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
                assert_eq!(good.count(), 2);
            }
        }
    }
}
