//! One connection for requests: many askers, one writer, one reader.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::{Input, ShimError, Streams};
use crate::wire::{
    Answer, Attach, COMPLAINTS, Envelope, Event, Failure, MAX_FRAME, Message, Request, VERSION,
};

/// Requests that wait to be written; askers beyond it wait themselves.
const N_QUEUED_REQUESTS: usize = 64;
/// Events that wait to be taken; the reader waits beyond it.
const N_QUEUED_EVENTS: usize = 256;

type Reply = oneshot::Sender<Result<Answer, Failure>>;

/// Who waits for which number; none once the connection has broken.
type Pending = Arc<Mutex<Option<HashMap<u64, Reply>>>>;

#[derive(Debug)]
pub(super) struct Connection {
    requests: mpsc::Sender<Vec<u8>>,
    pending: Pending,
    next: AtomicU64,
    dir: PathBuf,
}

impl Connection {
    pub(super) fn open(stream: UnixStream, dir: PathBuf) -> (Self, mpsc::Receiver<Event>) {
        let (mut reader, mut writer) = stream.into_split();
        let (requests, mut queue) = mpsc::channel::<Vec<u8>>(N_QUEUED_REQUESTS);
        let (events, receiver) = mpsc::channel(N_QUEUED_EVENTS);
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                if writer.write_all(&frame).await.is_err() {
                    break;
                }
            }
        });
        let waiting = Arc::clone(&pending);
        tokio::spawn(async move {
            // Nobody may be left waiting, however the connection ends.
            while let Ok(message) = receive(&mut reader).await {
                let (id, reply) = match message {
                    Message::Answer { id, ok } => (id, Ok(ok)),
                    Message::Failure { id, error } => (id, Err(error)),
                    Message::Event { event } => {
                        // Whoever dropped the events does not want them.
                        let _ = events.send(event).await;
                        continue;
                    }
                };
                let asker = lock(&waiting).as_mut().and_then(|map| map.remove(&id));
                if let Some(asker) = asker {
                    // The asker may have been cancelled.
                    let _ = asker.send(reply);
                }
            }
            lock(&waiting).take();
        });
        let connection = Self {
            requests,
            pending,
            next: AtomicU64::new(1),
            dir,
        };
        (connection, receiver)
    }

    /// Sends one request and waits for its answer.
    pub(super) async fn ask(&self, request: Request) -> Result<Answer, ShimError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = frame(&Envelope { id, request }, &self.dir)?;
        let (reply, answer) = oneshot::channel();
        match lock(&self.pending).as_mut() {
            Some(pending) => pending.insert(id, reply),
            None => return Err(self.gone()),
        };
        let _forget = Forget {
            pending: &self.pending,
            id,
        };
        self.requests.send(frame).await.map_err(|_| self.gone())?;
        match answer.await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(self.gone()),
        }
    }

    fn gone(&self) -> ShimError {
        ShimError::Gone {
            complaint: complaint(&self.dir),
        }
    }
}

/// Takes a cancelled request out of the table.
struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(pending) = lock(self.pending).as_mut() {
            pending.remove(&self.id);
        }
    }
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, Option<HashMap<u64, Reply>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says hello and attaches on a fresh connection; reads not one byte too much.
pub(super) async fn attach(
    mut stream: UnixStream,
    attach: Attach,
    dir: &Path,
) -> Result<Streams, ShimError> {
    let gone = |_| ShimError::Gone {
        complaint: complaint(dir),
    };
    let hello = Request::Hello {
        version: VERSION,
        events: false,
    };
    let mut frames = frame(
        &Envelope {
            id: 1,
            request: hello,
        },
        dir,
    )?;
    frames.extend(frame(
        &Envelope {
            id: 2,
            request: Request::Attach(attach),
        },
        dir,
    )?);
    stream.write_all(&frames).await.map_err(gone)?;
    loop {
        match receive(&mut stream).await.map_err(gone)? {
            Message::Answer {
                ok: Answer::Hello {
                    version: VERSION, ..
                },
                ..
            } => {}
            Message::Answer {
                ok: Answer::Hello {
                    version: theirs, ..
                },
                ..
            } => {
                return Err(ShimError::Version { theirs });
            }
            Message::Answer {
                ok: Answer::Attached { terminal, at },
                ..
            } => {
                let (output, input) = stream.into_split();
                return Ok(Streams {
                    output,
                    input: Input::new(input),
                    terminal,
                    since: at,
                });
            }
            Message::Failure { error, .. } => return Err(error.into()),
            _ => return Err(ShimError::Protocol),
        }
    }
}

fn frame(envelope: &Envelope, dir: &Path) -> Result<Vec<u8>, ShimError> {
    let too_long = |source| super::io_error("compose a request for", dir, source);
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, envelope).map_err(|error| too_long(error.into()))?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(too_long(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{length} bytes are more than the {MAX_FRAME} a shim takes"),
        )));
    }
    let length = u32::try_from(length).expect("MAX_FRAME fits");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

async fn receive(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    let length = reader.read_u32().await? as usize;
    if length > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// The last line a shim wrote to its complaints; at most 1 KiB of it.
pub(super) fn complaint(dir: &Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(dir.join(COMPLAINTS)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(1024)))
        .ok()?;
    let mut text = Vec::new();
    file.take(1024).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .map(str::to_owned)
}
