//! The user's terminal: raw mode, its size, and streams to and from containers.

use std::io::{IsTerminal, Write};

use dhow_docker::DetachKeys;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::error::Error;
use crate::request::Streams;
use crate::show;

const BLOCK: usize = 32 * 1024;

/// Whether standard input is a terminal.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal()
}

/// Refuses to give a program a terminal where there is none to type at.
///
/// # Errors
///
/// [`Error::Usage`].
pub(crate) fn check(stdin: bool, tty: bool) -> Result<(), Error> {
    if stdin && tty && !is_interactive() {
        return Err(Error::Usage("the input device is not a TTY".into()));
    }
    Ok(())
}

/// Asks whether to go on; no answer means no.
///
/// # Errors
///
/// [`Error::File`] when standard input cannot be read.
pub(crate) fn confirm(what: &str) -> Result<bool, Error> {
    show::part(format_args!(
        "WARNING! {what}\nAre you sure you want to continue? [y/N] "
    ));
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Error::File("standard input".into(), error))?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// The terminal in raw mode, until it is dropped.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Puts the terminal into raw mode; `None` when standard input is none.
    pub(crate) fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Rows and columns of the user's terminal.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Tells the daemon the terminal's size now and whenever it changes, until what
/// is returned is dropped.
pub(crate) fn follow_size(client: Client, resize: String) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else {
            return;
        };
        loop {
            if let Some((rows, columns)) = size() {
                // A container that is not there yet, or any more, has no size.
                let path = format!("{resize}?h={rows}&w={columns}");
                let _ = client.post(&path, None).await;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    });
    task
}

/// What a client and a program say to each other.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// Which streams are attached.
    pub(crate) streams: Streams,
    /// Whether the program has a terminal, whose output is not in frames.
    pub(crate) tty: bool,
    /// The keys that end it from here.
    pub(crate) keys: DetachKeys,
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// There is nothing more to say.
    Said,
    /// The keys were typed; the program goes on.
    Detached,
}

impl Conversation {
    /// Passes on what the program prints, and to it what the user types, until
    /// its output ends or the user lets go. Meanwhile a terminal that types is
    /// raw.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] when the connection breaks.
    pub(crate) async fn hold(mut self, connection: TokioIo<Upgraded>) -> Result<End, Error> {
        let is_typed = self.tty && self.streams.stdin;
        let _raw = is_typed.then(Raw::enter).flatten();
        let (mut output, mut input) = tokio::io::split(connection);
        let has_output = self.streams.has_output();
        let (with_input, tty) = (self.streams.stdin, self.tty);
        let typing = async {
            if with_input {
                let mut stdin = tokio::io::stdin();
                let mut buffer = vec![0; BLOCK];
                while let Ok(length) = stdin.read(&mut buffer).await {
                    let (passed, is_detached) = if is_typed {
                        self.keys.filter(&buffer[..length])
                    } else {
                        (buffer[..length].to_vec(), false)
                    };
                    if is_detached {
                        return End::Detached;
                    }
                    if length == 0 || input.write_all(&passed).await.is_err() {
                        break;
                    }
                    let _ = input.flush().await;
                }
                let _ = input.shutdown().await;
            }
            if has_output {
                std::future::pending::<()>().await;
            }
            End::Said
        };
        let printing = async {
            if tty {
                copy_raw(&mut output).await
            } else {
                copy_frames(&mut output).await
            }
        };
        tokio::select! {
            end = typing => Ok(end),
            printed = printing => match printed {
                Ok(()) => Ok(End::Said),
                Err(error) => Err(Error::Broken(error.to_string())),
            },
        }
    }
}

async fn copy_raw(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&buffer[..length])?;
        stdout.flush()?;
    }
}

/// Takes Docker's frames apart: stream, three zeros, length (big endian), text.
pub(crate) async fn copy_frames(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    loop {
        let mut header = [0u8; 8];
        match from.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut left = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        while left > 0 {
            let want = left.min(buffer.len());
            let length = from.read(&mut buffer[..want]).await?;
            if length == 0 {
                return Ok(());
            }
            left -= length;
            if header[0] == 2 {
                let mut stderr = std::io::stderr().lock();
                stderr.write_all(&buffer[..length])?;
            } else {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&buffer[..length])?;
                stdout.flush()?;
            }
        }
    }
}
