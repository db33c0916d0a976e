//! The commands, and which word is which.

mod container;
mod events;
mod exec;
mod inspect;
mod template;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use dhow_runtime::Runtime;

use crate::arguments::{Global, Known, Parsed, Question, value};

/// A failed command and its exit code.
pub struct Failure {
    /// Why.
    pub error: anyhow::Error,
    /// 1, or 255 for `exec`.
    pub code: u8,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            code: 1,
        }
    }
}

type Outcome = std::result::Result<u8, Failure>;

const HELP: &str = "\
dhow-runtime runs containers as the Open Container Initiative specifies them.

usage: dhow-runtime [--root DIR] [--log FILE] [--log-format text|json] [--debug] [--systemd-cgroup]
                    COMMAND [OPTIONS] [WORDS]

  create [--bundle DIR] [--pid-file FILE] [--console-socket SOCKET] [--preserve-fds N] [--no-pivot] ID
  start ID                      let the program of a created container run
  run [OPTIONS OF create] [--detach] [--keep] ID
  exec [--process FILE] [--tty] [--detach] [--user UID[:GID]] [--env NAME=VALUE] [--cwd DIR] ID PROGRAM...
  kill [--all] ID [SIGNAL]      send a signal, TERM if none is named
  delete [--force] ID           remove a stopped container
  pause ID, resume ID           freeze and thaw
  update [--resources FILE] [--memory BYTES] [--pids-limit N] [...] ID
  state ID, ps ID, list         look
  events [--stats] [--interval 5s] ID
                                what it uses, and kills for want of memory, as JSON
  spec [--bundle DIR]           write a configuration to start from
  features                      what this runtime can do, as JSON
  shim --dir DIR                supervise one container (started by the daemon)
";

/// Runs the command the words name.
pub fn run(global: &Global, words: Vec<OsString>) -> Outcome {
    match global.question {
        Some(Question::Help) => {
            print!("{HELP}");
            return Ok(0);
        }
        Some(Question::Version) => {
            println!("dhow-runtime version {}", env!("CARGO_PKG_VERSION"));
            println!("spec: {}", dhow_runtime::OCI_VERSION);
            return Ok(0);
        }
        None => {}
    }
    let mut words = words.into_iter();
    let Some(command) = words.next() else {
        print!("{HELP}");
        return Ok(0);
    };
    let runtime = Runtime::new(&global.root);
    let name = command.to_string_lossy().into_owned();
    let outcome = match name.as_str() {
        "create" => container::create(global, &runtime, words),
        "run" => container::run(global, &runtime, words),
        "start" => container::start(&runtime, words),
        "kill" => container::kill(&runtime, words),
        "delete" => container::delete(global, &runtime, words),
        "pause" => container::pause(&runtime, words),
        "resume" => container::resume(&runtime, words),
        "update" => container::update(&runtime, words),
        "exec" => exec::exec(global, &runtime, words),
        "events" => events::events(&runtime, words),
        "state" => inspect::state(&runtime, words),
        "list" => inspect::list(&runtime, words),
        "ps" => inspect::ps(&runtime, words),
        "features" => inspect::features(),
        "spec" => template::spec(words),
        "checkpoint" | "restore" => {
            Err(anyhow!("{name} is not supported: processes cannot be saved to disk").into())
        }
        "help" => {
            print!("{HELP}");
            Ok(0)
        }
        _ => Err(anyhow!("no command {name:?}; see dhow-runtime --help").into()),
    };
    // runc names the command in what it says of these.
    outcome.map_err(|failure| match name.as_str() {
        "create" | "run" => Failure {
            error: failure.error.context(format!("dhow-runtime {name} failed")),
            ..failure
        },
        "exec" => Failure {
            error: failure.error.context("exec failed"),
            code: 255,
        },
        _ => failure,
    })
}

/// `shim`: supervises one container until it is deleted.
pub fn shim(words: impl Iterator<Item = OsString>) -> ExitCode {
    let parsed = Parsed::parse(words, &[value("dir", '\0')]);
    let outcome = parsed.and_then(|parsed| {
        let dir = parsed
            .path("dir")
            .context("--dir is missing: the shim's directory")?;
        dhow_sys::protect::re_execute().context("protect the executable")?;
        dhow_shim::serve(&dir).map_err(|error| anyhow!(dhow_runtime::chain(&error)))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There may be no room for it.
            let _ = writeln!(std::io::stderr(), "shim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// An error of the runtime with its causes in one line.
fn told(error: dhow_runtime::RuntimeError) -> anyhow::Error {
    anyhow!(dhow_runtime::chain(&error))
}

/// Parses a command whose only word is a container's identifier.
fn with_id(
    words: impl Iterator<Item = OsString>,
    known: &[Known],
) -> anyhow::Result<(Parsed, String)> {
    let parsed = Parsed::parse(words, known)?;
    let id = parsed.word(0, "container ID")?.to_owned();
    Ok((parsed, id))
}

/// Writes a process identifier to a file, which shows up complete.
fn write_pid(path: Option<PathBuf>, pid: i32) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}"));
    std::fs::write(&fresh, pid.to_string())
        .and_then(|()| std::fs::rename(&fresh, &path))
        .with_context(|| format!("write {}", path.display()))
}
