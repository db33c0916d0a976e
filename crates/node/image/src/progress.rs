//! Progress in Docker's terms: a status line, per layer with numbers.

use tokio::sync::mpsc;

/// One line of progress, as `docker pull` and `docker push` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The layer (twelve digits) or tag it is about; empty for none.
    pub id: String,
    /// What is happening: `Downloading`, `Pull complete`, …
    pub status: String,
    /// Bytes done; zero if not counted.
    pub current: u64,
    /// Bytes in all; zero if unknown.
    pub total: u64,
}

/// Where progress goes. A receiver that is slow loses counts but no changes of
/// status; one that is gone is ignored.
#[derive(Clone, Debug, Default)]
pub struct ProgressSender(Option<mpsc::Sender<Progress>>);

impl ProgressSender {
    /// Sends to `sender`; give it room for some hundred lines.
    pub fn new(sender: mpsc::Sender<Progress>) -> ProgressSender {
        ProgressSender(Some(sender))
    }

    /// Sends nowhere.
    pub fn silent() -> ProgressSender {
        ProgressSender(None)
    }

    /// A change of status; waits for room.
    pub(crate) async fn status(&self, id: &str, status: impl Into<String>) {
        if let Some(sender) = &self.0 {
            // A receiver that is gone has stopped caring.
            let _ = sender.send(line(id, status.into(), 0, 0)).await;
        }
    }

    /// A count; dropped if there is no room.
    pub(crate) fn count(&self, id: &str, status: &str, current: u64, total: u64) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(line(id, status.to_owned(), current, total));
        }
    }
}

fn line(id: &str, status: String, current: u64, total: u64) -> Progress {
    Progress {
        id: id.to_owned(),
        status,
        current,
        total,
    }
}
