//! `dhow cp`: files in and out of containers.

use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use clap::Args;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::build::ToChannel;
use crate::client::{Client, escape, query};
use crate::error::Error;
use crate::images::blocks;
use crate::{Outcome, show};

/// Bytes that are read or sent at a time.
const BLOCK: usize = 64 << 10;
/// The bit of a directory in Go's file modes.
const DIRECTORY: u64 = 1 << 31;

// `dhow cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "One of the two is CONTAINER:PATH, the other a path of this machine or - for a tar archive.\nA source that ends with /. means what is in it."
)]
pub struct Copy {
    /// Keep the numbers of users and groups.
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link leads to.
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Print no progress, of which there is none.
    #[arg(short, long)]
    quiet: bool,
    /// What to copy.
    source: String,
    /// Where to.
    target: String,
}

/// One side of a copy.
enum Side<'a> {
    Container(&'a str, &'a str),
    Local(&'a str),
}

impl<'a> Side<'a> {
    fn of(text: &'a str) -> Self {
        match text.split_once(':') {
            // A colon behind a slash is part of a path.
            Some((name, path)) if !name.is_empty() && !name.contains('/') && name != "." => {
                Side::Container(name, path)
            }
            _ => Side::Local(text),
        }
    }
}

pub(crate) async fn copy(client: &Client, copy: Copy) -> Outcome {
    match (Side::of(&copy.source), Side::of(&copy.target)) {
        (Side::Container(name, path), Side::Local(target)) => {
            fetch(client, name, path, target, copy.follow_link).await
        }
        (Side::Local(source), Side::Container(name, path)) => {
            send(client, source, (name, path), &copy).await
        }
        (Side::Container(..), Side::Container(..)) => Err(Error::Usage(
            "copying between containers is not supported: copy to this machine first".into(),
        )),
        (Side::Local(_), Side::Local(_)) => Err(Error::Usage(
            "one of the two must be in a container: CONTAINER:PATH".into(),
        )),
    }
}

fn address(name: &str, path: &str) -> String {
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let query = query(&[("path", path)]);
    format!("/containers/{}/archive{query}", escape(name))
}

async fn fetch(client: &Client, name: &str, path: &str, target: &str, follow: bool) -> Outcome {
    let mut target = target.to_owned();
    let mut path = path.to_owned();
    if follow
        && let Some(there) = stat(client, name, &path).await?
        && let Some(link) = there["linkTarget"].as_str().filter(|link| !link.is_empty())
    {
        let own = show::text(&there, "name");
        if target != "-" && Path::new(&target).is_dir() {
            // What the link leads to is called as the link is.
            target = Path::new(&target).join(own).display().to_string();
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        path = if link.starts_with('/') {
            link.to_owned()
        } else {
            format!("{folder}/{link}")
        };
    }
    let mut body = client
        .stream(Method::GET, &address(name, &path), None)
        .await?;
    let (sender, receiver) = mpsc::channel(4);
    let feeding = async move {
        while let Some(frame) = body.frame().await {
            let chunk = frame.map_err(std::io::Error::other);
            let is_last = chunk.is_err();
            let chunk = chunk.map(|frame| frame.into_data().unwrap_or_default());
            if sender.send(chunk).await.is_err() || is_last {
                return;
            }
        }
    };
    let reader = FromChannel {
        receiver,
        current: bytes::Bytes::new(),
    };
    let writing = tokio::task::spawn_blocking(move || {
        if target == "-" {
            let mut reader = reader;
            std::io::copy(&mut reader, &mut std::io::stdout())
                .map(drop)
                .map_err(|error| Error::File("standard output".into(), error))
        } else {
            unpack(reader, Path::new(&target))
        }
    });
    let ((), written) = tokio::join!(feeding, writing);
    written.map_err(|error| Error::Broken(error.to_string()))??;
    Ok(0)
}

/// Unpacks below `target` if that is a folder, and as `target` if it is not.
fn unpack(reader: impl Read, target: &Path) -> Result<(), Error> {
    let into = target.is_dir();
    if !into && let Some(parent) = target.parent() {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        if !parent.is_dir() {
            return Err(Error::Usage(format!(
                "{} does not exist: make the folder first",
                parent.display()
            )));
        }
    }
    let failed = |error| Error::File(target.display().to_string(), error);
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        if into {
            entry.unpack_in(target).map_err(failed)?;
            continue;
        }
        let path = entry.path().map_err(failed)?.into_owned();
        let mut below = path.components();
        below.next();
        let below: PathBuf = below.collect();
        if below
            .components()
            .any(|part| !matches!(part, Component::Normal(_)))
        {
            return Err(Error::Usage(format!(
                "the archive has a path that leads out of it: {}",
                path.display()
            )));
        }
        if below.as_os_str().is_empty() {
            entry.unpack(target).map_err(failed)?;
        } else {
            // What lies in the folder that was just made.
            entry.set_preserve_mtime(true);
            rename_into(&mut entry, target, &below).map_err(failed)?;
        }
    }
    Ok(())
}

fn rename_into<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    target: &Path,
    below: &Path,
) -> std::io::Result<()> {
    // No link of the archive may lead the way out of the target.
    let mut parent = target.to_owned();
    for part in below.parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        if !std::fs::symlink_metadata(&parent)?.is_dir() {
            return Err(std::io::Error::other("a path leads through a link"));
        }
    }
    entry.unpack(target.join(below)).map(drop)
}

async fn send(client: &Client, source: &str, (name, path): (&str, &str), copy: &Copy) -> Outcome {
    let owners = if copy.archive { "&copyUIDGID=true" } else { "" };
    if source == "-" {
        let chunks = blocks(std::io::stdin());
        let address = format!("{}&noOverwriteDirNonDir=true{owners}", address(name, path));
        client.put(&address, chunks).await?;
        return Ok(0);
    }
    let mut local = PathBuf::from(source);
    std::fs::symlink_metadata(&local).map_err(|error| Error::File(source.into(), error))?;
    let contents = source.ends_with("/.") || source == ".";
    let there = stat(client, name, path).await?;
    let is_directory = there
        .as_ref()
        .is_some_and(|stat| stat["mode"].as_u64().unwrap_or(0) & DIRECTORY != 0);
    let own_name = || {
        let absolute = std::path::absolute(&local);
        absolute
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| ".".into())
    };
    let own_name = own_name();
    if copy.follow_link {
        local = std::fs::canonicalize(&local).map_err(|error| Error::File(source.into(), error))?;
    }
    let trimmed = path.trim_end_matches('/');
    let (folder, called) = if is_directory {
        let called = if contents { ".".into() } else { own_name };
        (path.to_owned(), called)
    } else if there.is_none() && path.ends_with('/') && !local.is_dir() {
        return Err(Error::Usage(format!(
            "{path} is no folder in {name}: make it first"
        )));
    } else {
        let (parent, base) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        let parent = if parent.is_empty() { "/" } else { parent };
        (parent.to_owned(), base.to_owned())
    };
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let output = std::io::BufWriter::with_capacity(BLOCK, ToChannel(sender.clone()));
        let written = (|| {
            let mut archive = tar::Builder::new(output);
            archive.follow_symlinks(false);
            if local.is_dir() {
                archive.append_dir_all(&called, &local)?;
            } else {
                archive.append_path_with_name(&local, &called)?;
            }
            archive.into_inner()?.flush()
        })();
        if let Err(error) = written {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let address = format!(
        "{}&noOverwriteDirNonDir=true{owners}",
        address(name, &folder)
    );
    client.put(&address, receiver).await?;
    Ok(0)
}

/// What is at a path in a container; none if nothing is.
async fn stat(client: &Client, name: &str, path: &str) -> Result<Option<Value>, Error> {
    // The container itself must be there.
    client
        .get(&format!("/containers/{}/json", escape(name)))
        .await?;
    let header = "x-docker-container-path-stat";
    match client.head(&address(name, path), header).await {
        Ok(text) => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            Ok(decoded
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok()))
        }
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Chunks of a body, to be read from a thread that may block.
struct FromChannel {
    receiver: mpsc::Receiver<std::io::Result<bytes::Bytes>>,
    current: bytes::Bytes,
}

impl Read for FromChannel {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
