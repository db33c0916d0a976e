//! Reading the log that a shim writes: what is there, and what comes.
//!
//! Lines are JSON objects (`log`, `stream`, `time`), one a line; the newest
//! file is `log.json`, rotated ones have `.1`, `.2` and so on behind it. A
//! follower wakes when the kernel says that the folder changed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::record::Record;

/// Lines that wait for a slow reader at most.
const AHEAD: usize = 256;
/// A longer line than a shim writes is no line.
const MAX_LINE: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Lines of the standard output.
    pub stdout: bool,
    /// Lines of the standard error.
    pub stderr: bool,
    /// None before this time.
    pub since: Option<crate::Moment>,
    /// None after this time.
    pub until: Option<crate::Moment>,
    /// Only so many of the last ones; none means all.
    pub tail: Option<usize>,
    /// Go on until the container ends.
    pub follow: bool,
}

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// The standard output.
    Stdout,
    /// The standard error.
    Stderr,
}

/// One line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LogLine {
    /// The text, with its line feed if it has one.
    pub log: String,
    /// Where it came from.
    pub stream: LogStream,
    /// When it was written, RFC 3339 with nine digits.
    pub time: String,
}

/// Lines as they come.
#[derive(Debug)]
pub struct Logs {
    receiver: mpsc::Receiver<LogLine>,
}

impl Logs {
    /// The next line; none at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<LogLine> {
        self.receiver.recv().await
    }
}

impl Engine {
    /// Reads a container's log.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when its log driver keeps none.
    pub fn logs(&self, name: &str, options: LogOptions) -> Result<Logs> {
        let container = self.find(name)?;
        let record = container.record();
        if record.host.log_config.kind == "none" {
            return Err(Error::Conflict(
                "configured logging driver does not support reading".into(),
            ));
        }
        // Watched before it is read: what is written in between wakes us.
        let watch = if options.follow {
            Some(Watch::new(&container.folder)?)
        } else {
            None
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let reading = Reader {
                path: container.folder.join("log.json"),
                options,
                sender,
            };
            if let Err(error) = reading.run(&container, watch).await {
                tracing::warn!(container = container.id, %error, "log is not read to its end");
            }
        });
        Ok(Logs { receiver })
    }
}

struct Reader {
    path: PathBuf,
    options: LogOptions,
    sender: mpsc::Sender<LogLine>,
}

impl Reader {
    async fn run(self, container: &Arc<Container>, watch: Option<Watch>) -> io::Result<()> {
        let path = self.path.clone();
        let tail = self.options.tail;
        let files = tokio::task::spawn_blocking(move || open_files(&path, tail))
            .await
            .map_err(io::Error::other)??;
        let mut newest = None;
        for file in files {
            let mut lines = Lines::new(file);
            if !self.send_all(&mut lines).await? {
                return Ok(());
            }
            newest = Some(lines);
        }
        let Some(watch) = watch else { return Ok(()) };
        let mut changes = container.changes();
        loop {
            let is_over =
                !changes.borrow_and_update().state.status.is_alive() && container.shim().is_none();
            // What was written before the end is read after it was noticed.
            self.catch_up(&mut newest).await?;
            if is_over || !self.wait(&watch, &mut changes).await? {
                return Ok(());
            }
        }
    }

    /// Reads on in the newest file, and in the one that took its place.
    async fn catch_up(&self, newest: &mut Option<Lines>) -> io::Result<()> {
        loop {
            if let Some(lines) = newest
                && !self.send_all(lines).await?
            {
                return Ok(());
            }
            let file = match File::open(&self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            let is_same = match newest {
                Some(lines) => lines.is_of(&file)?,
                None => false,
            };
            if is_same {
                return Ok(());
            }
            // The old file may have got its last lines before it was replaced.
            if let Some(lines) = newest {
                self.send_all(lines).await?;
            }
            *newest = Some(Lines::new(file));
        }
    }

    /// Waits for something to happen; `false` when nobody wants to know.
    async fn wait(
        &self,
        watch: &Watch,
        changes: &mut watch::Receiver<Arc<Record>>,
    ) -> io::Result<bool> {
        tokio::select! {
            changed = watch.changed() => changed.map(|()| true),
            changed = changes.changed() => Ok(changed.is_ok()),
            () = self.sender.closed() => Ok(false),
        }
    }

    /// Sends all complete lines; `false` when nobody listens any more or the
    /// rest is too late.
    async fn send_all(&self, lines: &mut Lines) -> io::Result<bool> {
        while let Some(line) = lines.next()? {
            if self
                .options
                .until
                .is_some_and(|until| line.time > until.to_string())
            {
                return Ok(false);
            }
            let is_early = self
                .options
                .since
                .is_some_and(|since| line.time < since.to_string());
            let is_wanted = match line.stream {
                LogStream::Stdout => self.options.stdout,
                LogStream::Stderr => self.options.stderr,
            };
            if is_wanted && !is_early && self.sender.send(line).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The lines of one file; an incomplete last one waits for its end.
struct Lines {
    reader: BufReader<File>,
    begun: Vec<u8>,
}

impl Lines {
    fn new(file: File) -> Self {
        Self {
            reader: BufReader::with_capacity(BLOCK as usize, file),
            begun: Vec::new(),
        }
    }

    fn next(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            let limit = MAX_LINE.saturating_sub(self.begun.len() as u64).max(1);
            let read = (&mut self.reader)
                .take(limit)
                .read_until(b'\n', &mut self.begun)?;
            if self.begun.last() != Some(&b'\n') {
                if read == 0 {
                    return Ok(None);
                }
                if self.begun.len() as u64 >= MAX_LINE {
                    self.begun.clear();
                }
                continue;
            }
            // A line that power loss tore is left out, not the log.
            let line = serde_json::from_slice(&self.begun).ok();
            self.begun.clear();
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    fn is_of(&self, file: &File) -> io::Result<bool> {
        let (own, other) = (self.reader.get_ref().metadata()?, file.metadata()?);
        Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
    }
}

/// Opens the log's files, oldest first, from where the last `tail` lines begin.
fn open_files(path: &Path, tail: Option<usize>) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut missing = tail;
    for number in 0.. {
        let mut name = path.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let mut file = match File::open(Path::new(&name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        if let Some(wanted) = &mut missing {
            let (offset, found) = last_lines(&mut file, *wanted)?;
            file.seek(SeekFrom::Start(offset))?;
            *wanted -= found;
        }
        files.push(file);
        if missing == Some(0) {
            break;
        }
    }
    files.reverse();
    Ok(files)
}

/// Where the last `wanted` lines of a file begin, and how many there are.
fn last_lines(file: &mut File, wanted: usize) -> io::Result<(u64, usize)> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if wanted == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.take(end - start).read_to_end(&mut block)?;
        for (index, _) in block
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            if found == wanted {
                return Ok((start + index as u64 + 1, found));
            }
            found += 1;
        }
        end = start;
    }
    Ok((0, found))
}

/// Tells when something in a folder changed.
#[derive(Debug)]
struct Watch {
    /// The inotify descriptor; read like a pipe, it is one to the reactor.
    descriptor: pipe::Receiver,
}

impl Watch {
    fn new(folder: &Path) -> Result<Self> {
        let open = || -> io::Result<pipe::Receiver> {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let descriptor = inotify::init(flags)?;
            let events = inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MOVED_TO;
            inotify::add_watch(&descriptor, folder, events)?;
            pipe::Receiver::from_owned_fd_unchecked(descriptor)
        };
        open()
            .map_err(at("watch", folder))
            .map(|descriptor| Self { descriptor })
    }

    /// Returns when something changed since the last call. Cancel-safe.
    async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            self.descriptor.readable().await?;
            // What exactly changed does not matter: all events are taken.
            match self.descriptor.try_read(&mut buffer) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_lines_are_found_from_behind() {
        let mut file = tempfile::tempfile().expect("a file");
        for n in 0..20_000 {
            writeln!(file, "line {n:06}").expect("written");
        }
        for wanted in [0, 1, 2, 5_000, 19_999, 20_000, 30_000] {
            let (offset, found) = last_lines(&mut file, wanted).expect("found");
            assert_eq!(found, wanted.min(20_000));
            assert_eq!(offset, (20_000 - found as u64) * 12);
        }
    }

    #[test]
    fn torn_lines_are_left_out() {
        let mut file = tempfile::tempfile().expect("a file");
        let good = r#"{"log":"hi\n","stream":"stdout","time":"2026-01-01T00:00:00.000000000Z"}"#;
        write!(file, "{{\"log\":\"to\n{good}\n{good}").expect("written");
        file.rewind().expect("rewound");
        let mut lines = Lines::new(file);
        assert_eq!(
            lines.next().expect("read").map(|line| line.log),
            Some("hi\n".into())
        );
        assert_eq!(
            lines.next().expect("read"),
            None,
            "the last line has no end yet"
        );
    }
}
