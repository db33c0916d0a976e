//! Reading the log that a shim writes: what is there, and what comes.
//!
//! The newest file has no number, rotated ones have `.1`, `.2` and so on behind
//! it, and `.gz` when they are compressed. A follower wakes when the kernel
//! says that the folder changed.

mod driver;
mod files;
mod lines;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dhow_shim::wire::LogForm;
use serde::Deserialize;
use tokio::sync::{mpsc, watch as state};

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::Record;
use files::{Kept, survey};
use lines::Lines;
use watch::Watch;

pub use driver::{DEFAULT, DRIVERS};
pub(crate) use driver::{check, path, spec};

/// Lines that wait for a slow reader at most.
const AHEAD: usize = 256;

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
    /// Only so many of the last ones of these streams; none means all.
    pub tail: Option<usize>,
    /// Go on until the container ends.
    pub follow: bool,
}

impl LogOptions {
    /// Whether a line comes from a stream that is wanted.
    fn takes(&self, line: &LogLine) -> bool {
        match line.stream {
            LogStream::Stdout => self.stdout,
            LogStream::Stderr => self.stderr,
        }
    }
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// What was written, with its line feed if it has one.
    pub text: Vec<u8>,
    /// Where it came from.
    pub stream: LogStream,
    /// When it was written.
    pub time: crate::Moment,
    /// What the container's log options add to each line.
    pub attributes: BTreeMap<String, String>,
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
        let Some((path, form)) = path(&container.folder, &record.host.log_config) else {
            return Err(Error::Conflict(
                "configured logging driver does not support reading".into(),
            ));
        };
        // Watched before it is read: what is written in between wakes us.
        let watch = if options.follow {
            Some(Watch::new(&container.folder)?)
        } else {
            None
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let reading = Reader {
                path,
                form,
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
    form: LogForm,
    options: LogOptions,
    sender: mpsc::Sender<LogLine>,
}

impl Reader {
    async fn run(self, container: &Arc<Container>, watch: Option<Watch>) -> io::Result<()> {
        let (path, form) = (self.path.clone(), self.form);
        let wanted = self.options.clone();
        let files = tokio::task::spawn_blocking(move || open_files(&path, form, &wanted))
            .await
            .map_err(io::Error::other)??;
        let mut newest = None;
        for mut lines in files {
            if !self.send_all(&mut lines).await? {
                return Ok(());
            }
            newest = Some(lines);
        }
        let Some(watch) = watch else { return Ok(()) };
        if let Some(lines) = &mut newest {
            lines.go_on();
        }
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

    /// Reads on in the newest file, and in those that came after it.
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
            let inode = match newest {
                Some(lines) => {
                    self.send_all(lines).await?;
                    Some(lines.inode()?)
                }
                None => None,
            };
            let (path, form) = (self.path.clone(), self.form);
            let later = tokio::task::spawn_blocking(move || files_after(&path, form, inode));
            let mut later = later.await.map_err(io::Error::other)??;
            let Some(last) = later.pop() else {
                return Ok(());
            };
            for mut lines in later {
                if !self.send_all(&mut lines).await? {
                    return Ok(());
                }
            }
            *newest = Some(last);
        }
    }

    /// Waits for something to happen; `false` when nobody wants to know, or
    /// what comes is too late.
    async fn wait(
        &self,
        watch: &Watch,
        changes: &mut state::Receiver<Arc<Record>>,
    ) -> io::Result<bool> {
        let over = async {
            match self.options.until {
                Some(until) => tokio::time::sleep(until.from_now()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = watch.changed() => changed.map(|()| true),
            changed = changes.changed() => Ok(changed.is_ok()),
            () = self.sender.closed() => Ok(false),
            () = over => Ok(false),
        }
    }

    /// Sends all complete lines; `false` when nobody listens any more or the
    /// rest is too late.
    async fn send_all(&self, lines: &mut Lines) -> io::Result<bool> {
        while let Some(line) = lines.next()? {
            if self.options.until.is_some_and(|until| line.time > until) {
                return Ok(false);
            }
            let is_early = self.options.since.is_some_and(|since| line.time < since);
            if self.options.takes(&line) && !is_early && self.sender.send(line).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Opens the log's files, oldest first, from where the last lines begin that
/// are wanted.
fn open_files(path: &Path, form: LogForm, options: &LogOptions) -> io::Result<Vec<Lines>> {
    let mut files = Vec::new();
    let mut missing = options.tail;
    for kept in survey(path)? {
        let mut lines = match kept.number {
            0 => Lines::present(kept.file, form)?,
            _ => lines_of(kept, form),
        };
        if let Some(wanted) = &mut missing {
            *wanted -= if options.stdout && options.stderr {
                lines.keep_last(*wanted)?
            } else {
                lines.keep_last_of(*wanted, |line| options.takes(line))?
            };
        }
        files.push(lines);
        if missing == Some(0) {
            break;
        }
    }
    files.reverse();
    Ok(files)
}

/// Opens the files, oldest first, that came after the one with this inode number, which
/// the caller has open; all of them if it is kept no more.
fn files_after(path: &Path, form: LogForm, inode: Option<u64>) -> io::Result<Vec<Lines>> {
    let mut files = Vec::new();
    for kept in survey(path)? {
        match kept.origin()? {
            // One that knows not what it was made of: nothing is told twice.
            None if inode.is_some() => break,
            origin if origin == inode => break,
            _ => files.push(lines_of(kept, form)),
        }
    }
    files.reverse();
    Ok(files)
}

fn lines_of(kept: Kept, form: LogForm) -> Lines {
    match kept.is_compressed {
        true => Lines::compressed(kept.file, form),
        false => Lines::plain(kept.file, form),
    }
}
