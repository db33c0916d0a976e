//! Docker's API, as whoever speaks HTTP sees it.

use serde_json::Value;

use crate::containers::Dockerd;
use crate::executables::require;

/// What a daemon answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The media type.
    pub kind: String,
    /// The body.
    pub body: String,
}

impl Answered {
    /// The body, which is a JSON document.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What an error says; empty for what is none.
    #[must_use]
    pub fn message(&self) -> String {
        let value: Value = serde_json::from_str(&self.body).unwrap_or_default();
        value["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends `METHOD /path` with a body, whose kind is JSON, and headers.
pub(crate) fn ask(
    daemon: &(impl Dockerd + ?Sized),
    request: &str,
    body: Option<&str>,
    headers: &[&str],
) -> Answered {
    let (method, path) = request.split_once(' ').expect("METHOD /path");
    let curl = require("curl", "the Debian package curl");
    let mut command = daemon.host().command(curl);
    command
        .args(["-sS", "--globoff", "--max-time", "30", "-X", method])
        .args(["-w", "\n%{http_code} %{content_type}"])
        .arg("--unix-socket")
        .arg(daemon.socket());
    if method == "HEAD" {
        command.arg("--head");
    }
    for header in headers {
        command.args(["-H", header]);
    }
    if let Some(body) = body {
        command.args(["-H", "Content-Type: application/json", "-d", body]);
    }
    let output = command
        .arg(format!("http://engine{}", escaped(path)))
        .output()
        .expect("curl starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, last) = text.rsplit_once('\n').unwrap_or(("", &text));
    let (status, kind) = last.split_once(' ').unwrap_or((last, ""));
    Answered {
        status: status
            .parse()
            .unwrap_or_else(|_| panic!("{request}: {output:?}")),
        kind: kind.to_owned(),
        body: body.to_owned(),
    }
}

/// A path and query without what stands in none.
fn escaped(path: &str) -> String {
    path.chars()
        .map(|letter| match letter {
            '{' | '}' | '"' | '[' | ']' | ' ' => format!("%{:02X}", u32::from(letter)),
            other => other.to_string(),
        })
        .collect()
}
