//! What goes wrong on the command line, and how it is told.

use std::io;
use std::process::ExitCode;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon refused.
    #[error("Error response from daemon: {message}")]
    Refused {
        /// Its status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// The daemon cannot be reached.
    #[error(
        "cannot connect to the daemon at {socket}: {source}; is it running? Start it with: dhow daemon"
    )]
    Unreachable {
        /// Where it was looked for.
        socket: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the daemon broke: {0}")]
    Broken(String),
    /// The command makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Several things went wrong and were told already.
    #[error("")]
    Told,
    /// A file of this machine cannot be used.
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
    /// A container could not be run; the exit code is a shell's.
    #[error("{message}")]
    Run {
        /// 125, 126 or 127.
        code: u8,
        /// Why.
        message: String,
    },
}

impl Error {
    /// Tells the error on standard error and returns the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Error::Told => ExitCode::from(1),
            Error::Run { code, .. } => {
                anstream::eprintln!("dhow: {self}");
                ExitCode::from(*code)
            }
            _ => {
                anstream::eprintln!("{self}");
                ExitCode::from(1)
            }
        }
    }

    /// The daemon's status, if it was the daemon that refused.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl From<hyper::Error> for Error {
    fn from(error: hyper::Error) -> Self {
        Error::Broken(error.to_string())
    }
}
