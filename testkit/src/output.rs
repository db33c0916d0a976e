//! What a program printed and how it ended.

use std::process::Output;

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; 128 and the signal's number for one that a signal ended.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Ran {
    /// What a command that was started otherwise left; `command` is its name in
    /// messages.
    #[must_use]
    pub fn new(command: String, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output
            .status
            .code()
            .or(output.status.signal().map(|signal| 128 + signal))
            .unwrap_or(-1);
        Self {
            command,
            code,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it printed, trimmed.
    ///
    /// # Panics
    ///
    /// When it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "{} failed:\n{}{}",
            self.command, self.stdout, self.stderr
        );
        self.stdout.trim().to_owned()
    }

    /// What it complained, trimmed.
    ///
    /// # Panics
    ///
    /// When it did not fail with this exit code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(
            self.code, code,
            "{}:\n{}{}",
            self.command, self.stdout, self.stderr
        );
        self.stderr.trim().to_owned()
    }
}
