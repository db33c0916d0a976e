//! A registry that serves what it is given, whether it is true or not.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use dhow_oci::{Digest, media_type};
use serde_json::{Value, json};

use crate::host::Host;

/// What is served at a path: a media type and a body.
type Content = HashMap<String, (String, Vec<u8>)>;

/// A registry on a host's loopback. It ends with the process.
#[derive(Debug)]
pub struct Shelf {
    address: SocketAddr,
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    content: Mutex<Content>,
    /// Paths and ranges that were asked for.
    asked: Mutex<Vec<(String, String)>>,
    /// How far the next answer for a path comes, and who is told when it has.
    held: Mutex<HashMap<String, (usize, Sender<()>)>>,
}

impl Shelf {
    /// Listens at a port that nobody has.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn start(host: &Host) -> Self {
        let listener = host.inside(|| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let shelf = Self {
            address: listener.local_addr().expect("it is bound"),
            kept: Arc::default(),
        };
        let serving = Arc::clone(&shelf.kept);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&serving);
                // A client that goes away is none of ours.
                std::thread::spawn(move || serve(stream, &kept));
            }
        });
        shelf
    }

    /// Where it is, as names of images begin: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Serves a body at a path. A media type that begins with `Location:` makes it a
    /// redirect to there.
    pub fn keep(&self, path: &str, kind: &str, body: impl Into<Vec<u8>>) {
        let kept = (kind.to_owned(), body.into());
        locked(&self.kept.content).insert(path.to_owned(), kept);
    }

    /// Serves nothing at a path any more.
    pub fn forget(&self, path: &str) {
        locked(&self.kept.content).remove(path);
    }

    /// Answers the next request for a path with so many bytes, and no more until the
    /// client is gone. Who waits for what is returned hears of it.
    pub fn hold(&self, path: &str, bytes: usize) -> Receiver<()> {
        let (told, tells) = channel();
        locked(&self.kept.held).insert(path.to_owned(), (bytes, told));
        tells
    }

    /// Serves a blob of a repository under its own digest, and describes it.
    pub fn blob(&self, repository: &str, kind: &str, body: &[u8]) -> Value {
        let digest = Digest::of(body);
        let path = format!("/v2/{repository}/blobs/{digest}");
        self.keep(&path, "application/octet-stream", body);
        json!({ "mediaType": kind, "digest": digest.as_str(), "size": body.len() })
    }

    /// Serves a manifest or an index under a tag and under its own digest, and
    /// describes it.
    pub fn manifest(&self, repository: &str, tag: &str, kind: &str, body: &str) -> Value {
        let digest = Digest::of(body.as_bytes());
        for name in [tag, digest.as_str()] {
            self.keep(&format!("/v2/{repository}/manifests/{name}"), kind, body);
        }
        json!({ "mediaType": kind, "digest": digest.as_str(), "size": body.len() })
    }

    /// An image of these layers, which are plain archives, and the text of its
    /// configuration; returns its manifest, which is not served yet.
    pub fn image(&self, repository: &str, config: &str, layers: &[Vec<u8>]) -> Value {
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| self.blob(repository, media_type::OCI_LAYER, layer))
            .collect();
        let config = self.blob(repository, media_type::OCI_CONFIG, config.as_bytes());
        json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": config, "layers": layers,
        })
    }

    /// The paths that it was asked for.
    pub fn asked(&self) -> Vec<String> {
        let asked = locked(&self.kept.asked);
        asked.iter().map(|(path, _)| path.clone()).collect()
    }

    /// The ranges of a path that it was asked for; an empty one is all of it.
    pub fn ranges(&self, path: &str) -> Vec<String> {
        let asked = locked(&self.kept.asked);
        let those = asked.iter().filter(|(one, _)| one == path);
        those.map(|(_, range)| range.clone()).collect()
    }
}

fn locked<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request.
fn serve(stream: TcpStream, kept: &Kept) -> Option<()> {
    let mut reader = BufReader::new(stream);
    // A client that wants to speak TLS sends no text.
    if !reader.fill_buf().ok()?.first()?.is_ascii_uppercase() {
        return None;
    }
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut header, mut range) = (String::new(), String::new());
    while reader.read_line(&mut header).ok()? > 2 {
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("range:") {
            value.trim().clone_into(&mut range);
        }
        header.clear();
    }
    let path = target.split('?').next()?;
    locked(&kept.asked).push((path.to_owned(), range.clone()));
    let found = locked(&kept.content).get(path).cloned();
    let start = range.strip_prefix("bytes=");
    let start = start.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
    let (status, kind, body) = match found {
        Some((_, body)) if start.is_some_and(|start| start < body.len()) => {
            let (start, n) = (start?, body.len());
            let range = format!("Content-Range: bytes {start}-{}/{n}", n - 1);
            ("206 Partial Content", range, body[start..].to_vec())
        }
        Some((kind, body)) if kind.starts_with("Location:") => {
            ("307 Temporary Redirect", kind, body)
        }
        Some((kind, body)) => ("200 OK", format!("Content-Type: {kind}"), body),
        None if path == "/v2/" => (
            "200 OK",
            "Docker-Distribution-Api-Version: registry/2.0".to_owned(),
            Vec::new(),
        ),
        None => (
            "404 Not Found",
            "Content-Type: application/json".to_owned(),
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let stream = reader.get_mut();
    stream.write_all(head.as_bytes()).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    let held = locked(&kept.held).remove(path);
    let Some((bytes, told)) = held else {
        return stream.write_all(&body).ok();
    };
    stream.write_all(&body[..bytes]).ok()?;
    // Nobody may listen any more.
    let _ = told.send(());
    stream.read(&mut [0; 1]).ok().map(drop)
}
