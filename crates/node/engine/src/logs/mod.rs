//! Reading the log that a shim writes: what is there, and what comes.
//!
//! The newest file has no number, rotated ones have `.1`, `.2` and so on behind
//! it, and `.gz` when they are compressed. A follower wakes when the kernel
//! says that the folder changed.

mod driver;
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
use lines::Lines;
use watch::Watch;

pub use driver::{DEFAULT, DRIVERS};
pub(crate) use driver::{check, path, spec};

/// Lines that wait for a slow reader at most.
const AHEAD: usize = 256;
/// How often the files are opened anew when they are rotated meanwhile.
const ATTEMPTS: usize = 8;

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
            *newest = Some(Lines::plain(file, self.form));
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
    for _ in 1..ATTEMPTS {
        let (files, newest) = open_once(path, form, options)?;
        // A rotation meanwhile would show a file twice, or leave one out.
        let is_same = match (files.last(), File::open(newest)) {
            (Some(newest), Ok(file)) => newest.is_of(&file)?,
            (None, Err(_)) => true,
            _ => false,
        };
        if is_same {
            return Ok(files);
        }
    }
    open_once(path, form, options).map(|(files, _)| files)
}

/// The files, oldest first, and the path of the newest. In the midst of a rotation
/// that is the first of the rotated ones.
fn open_once(
    path: &Path,
    form: LogForm,
    options: &LogOptions,
) -> io::Result<(Vec<Lines>, PathBuf)> {
    let name = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let named = |ending: &str| match File::open(name(ending)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    };
    let numbered = |number: u32| -> io::Result<Option<Lines>> {
        if number == 0 {
            let newest = named("")?.map(|file| Lines::present(file, form));
            return newest.transpose();
        }
        if let Some(file) = named(&format!(".{number}"))? {
            return Ok(Some(Lines::plain(file, form)));
        }
        Ok(named(&format!(".{number}.gz"))?.map(|file| Lines::compressed(file, form)))
    };
    let mut files = Vec::new();
    let mut newest = path.to_owned();
    let mut missing = options.tail;
    for number in 0.. {
        let mut lines = match numbered(number)? {
            Some(lines) => lines,
            None if number == 0 => {
                newest = name(".1");
                continue;
            }
            None => break,
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
    if files.is_empty() {
        newest = path.to_owned();
    }
    files.reverse();
    Ok((files, newest))
}
