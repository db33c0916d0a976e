//! What a build says while it works, as the classic builder says it.

use dhow_image::Progress;
use dhow_oci::Digest;
use tokio::sync::mpsc;

use crate::diagnose::{Error, Result};

/// Something the build says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Text, line ends included: `{"stream": …}`.
    Stream(String),
    /// Progress of a pull.
    Progress(Progress),
    /// The image is done and has its names: `{"aux": {"ID": …}}`. The last
    /// event; what the classic builder says at its end is the receiver's.
    Image(Digest),
}

/// Where a build says it. When the receiver is gone, the build is cancelled.
#[derive(Clone, Debug)]
pub struct Output(mpsc::Sender<Event>);

impl Output {
    /// Says it to `sender`.
    pub fn new(sender: mpsc::Sender<Event>) -> Output {
        Output(sender)
    }

    /// From a thread that may block.
    pub(crate) fn say(&self, text: impl Into<String>) -> Result<()> {
        self.event(Event::Stream(text.into()))
    }

    /// From a thread that may block.
    pub(crate) fn event(&self, event: Event) -> Result<()> {
        self.0.blocking_send(event).map_err(|_| Error::Cancelled)
    }

    pub(crate) async fn send(&self, event: Event) -> Result<()> {
        self.0.send(event).await.map_err(|_| Error::Cancelled)
    }

    /// Ends when nobody listens any more.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}
