//! Attaching to the streams of a container.

use dhow_shim::Moment;
use dhow_shim::client::{Input, Shim};
use dhow_shim::wire::{Attach, Target};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::oneshot;

use std::sync::Arc;

use crate::container::{Container, Waiting};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::Status;
use crate::start::told;

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// What the client sends becomes standard input.
    pub stdin: bool,
    /// The client gets the standard output.
    pub stdout: bool,
    /// The client gets the standard error.
    pub stderr: bool,
}

/// The streams of a container or exec.
#[derive(Debug)]
pub struct Attached {
    /// Output as Docker frames it (raw with a terminal).
    pub output: OwnedReadHalf,
    /// Raw input. Shutting it down says that the client has no more; dropping it,
    /// as a daemon that is killed does, leaves the input open.
    pub input: Input,
    /// Whether the output is a terminal's.
    pub terminal: bool,
    /// What was logged until then is not in the output.
    pub since: Option<Moment>,
}

impl Attached {
    /// Ends the input of a client that has gone. What the program writes until it
    /// has taken all input is for nobody, and does not hold it up.
    pub async fn end(mut self) {
        let mut nowhere = tokio::io::sink();
        // Either way there is nobody left to tell.
        tokio::select! {
            _ = self.input.shutdown() => {}
            _ = tokio::io::copy(&mut self.output, &mut nowhere) => {}
        }
    }
}

impl Engine {
    /// Attaches to a container; to one that does not run yet, as soon as it is
    /// started and before its program runs. The place is taken when this
    /// returns, the streams come with the future: none if it cannot be started,
    /// of which only who starts it is told, or is removed.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it is paused or restarting.
    pub fn attach(
        &self,
        name: &str,
        options: AttachOptions,
    ) -> Result<impl Future<Output = Result<Option<Attached>>> + Send + use<>> {
        let container = self.find(name)?;
        let answered = {
            // Under the lock that a start drains, so that none is forgotten.
            let mut waiting = container.waiting.lock();
            match container.record().state.status {
                Status::Running => None,
                Status::Paused => {
                    return Err(Error::Conflict(format!(
                        "container {name} is paused, unpause the container before attach"
                    )));
                }
                Status::Restarting => {
                    return Err(Error::Conflict(format!(
                        "container {name} is restarting, wait until the container is running"
                    )));
                }
                _ => {
                    let (answer, answered) = oneshot::channel();
                    waiting.push(Waiting { options, answer });
                    Some(answered)
                }
            }
        };
        let record = container.record();
        self.announce(&record, "attach");
        let shim = container.shim();
        Ok(async move {
            match (answered, shim) {
                (Some(answered), _) => answered.await.ok().transpose(),
                (None, Some(shim)) => streams(&shim, Target::Container, options).await.map(Some),
                (None, None) => Err(Error::Conflict(format!(
                    "container {} is not running",
                    record.id
                ))),
            }
        })
    }

    /// Announces what a client did with a container (`detach`, `export`, …)
    /// that is no operation of the engine.
    pub fn tell(&self, name: &str, action: &str) {
        if let Ok(record) = self.get(name) {
            self.announce(&record, action);
        }
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it does not run.
    pub async fn resize(&self, name: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.find(name)?;
        let shim = crate::stop::live(&container, &container.record(), "resize")?;
        shim.resize(Target::Container, rows, columns)
            .await
            .map_err(told)
    }

    /// Serves those who attached before the start.
    pub(crate) async fn attach_waiting(&self, container: &Arc<Container>, shim: &Shim) {
        let waiting: Vec<Waiting> = container.waiting.lock().drain(..).collect();
        for one in waiting {
            let attached = streams(shim, Target::Container, one.options).await;
            // A client that is gone meanwhile needs no streams.
            let _ = one.answer.send(attached);
        }
    }
}

/// Reads one of Docker's frames (stream, three zeros, length in big endian,
/// text); none at the end. Cancelled in the middle, it loses the frame.
pub(crate) async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut header = [0u8; 8];
    stream.read_exact(&mut header).await.ok()?;
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).await.ok()?;
    Some(text)
}

pub(crate) async fn streams(
    shim: &Shim,
    target: Target,
    options: AttachOptions,
) -> Result<Attached> {
    let streams = shim
        .attach(Attach {
            target,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        })
        .await
        .map_err(told)?;
    Ok(Attached {
        output: streams.output,
        input: streams.input,
        terminal: streams.terminal,
        since: streams.since,
    })
}
