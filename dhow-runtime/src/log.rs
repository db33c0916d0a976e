//! Errors and warnings for whoever started the runtime: to standard error, and
//! in runc's form to the file of `--log`, where containerd reads them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use dhow_runtime::Moment;

/// Where and how messages are written.
#[derive(Debug, Default)]
pub struct Log {
    /// The file of `--log`.
    pub path: Option<PathBuf>,
    /// Its form.
    pub format: Format,
}

/// Forms of the log file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `time=… level=… msg=…`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Log {
    /// Why the command failed.
    pub fn error(&self, message: &str) {
        self.write("error", message);
        // There is nobody to tell if this fails.
        let _ = writeln!(std::io::stderr(), "{message}");
    }

    /// What did not keep the command from going on, for the file alone.
    pub fn quiet_warning(&self, message: &str) {
        self.write("warning", message);
    }

    /// What did not keep the command from going on.
    pub fn warning(&self, message: &str) {
        self.write("warning", message);
        if self.path.is_none() {
            // As above.
            let _ = writeln!(std::io::stderr(), "warning: {message}");
        }
    }

    /// The same of several.
    pub fn warnings(&self, messages: &[String]) {
        messages.iter().for_each(|message| self.warning(message));
    }

    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.path else { return };
        let mut line = String::new();
        let time = Moment::now();
        // Writing to a string cannot fail.
        let _ = match self.format {
            Format::Json => {
                let message = serde_json::Value::from(message);
                writeln!(
                    line,
                    r#"{{"level":"{level}","msg":{message},"time":"{time}"}}"#
                )
            }
            Format::Text => writeln!(line, "time=\"{time}\" level={level} msg={message:?}"),
        };
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(path);
        // The message goes to standard error as well.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
