//! Waking when something in a folder changes.

use std::io;
use std::path::Path;

use rustix::fs::inotify;
use tokio::net::unix::pipe;

use crate::error::{Result, at};

/// Tells when something in a folder changed.
#[derive(Debug)]
pub(super) struct Watch {
    /// The inotify descriptor; read like a pipe, it is one to the reactor.
    descriptor: pipe::Receiver,
}

impl Watch {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let open = || -> io::Result<pipe::Receiver> {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let descriptor = inotify::init(flags)?;
            let events = inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MOVED_TO;
            inotify::add_watch(&descriptor, folder, events)?;
            pipe::Receiver::from_owned_fd_unchecked(descriptor)
        };
        open()
            .map_err(at("watch", folder))
            .map(|descriptor| Self { descriptor })
    }

    /// Returns when something changed since the last call. Cancel-safe.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            self.descriptor.readable().await?;
            // What exactly changed does not matter: all events are taken.
            match self.descriptor.try_read(&mut buffer) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
