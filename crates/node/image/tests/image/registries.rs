//! Registries to test with: Debian's, and one of our own that lies.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use dhow_oci::{Descriptor, Digest, Index, Manifest, media_type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Debian's `docker-registry`, for as long as this lives.
pub struct Distribution {
    child: Child,
    pub address: String,
    _directory: tempfile::TempDir,
}

impl Distribution {
    pub fn start(more: &str) -> Distribution {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {root}/data}}\n  \
             delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:0\n{more}"
        );
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve".as_ref(), path.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed (Debian package docker-registry)");
        // It says where it listens, and then must not be left without a reader.
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "docker-registry ended"
            );
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(|c: char| c != '.' && c != ':' && !c.is_ascii_digit());
                break rest[..end.unwrap_or(rest.len())].to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Distribution {
            child,
            address,
            _directory: directory,
        }
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This many bytes of the body, then the connection ends.
    Truncate(usize),
    /// This many bytes of the body, then nothing.
    Stall(usize),
    /// Another body of the same length.
    Lie,
    /// A body that is longer than it should be.
    Longer,
    /// The whole body although a range was asked for.
    IgnoreRange,
    /// Another range than was asked for.
    WrongRange,
    /// A status and no content.
    Status(u16),
    /// Somewhere else.
    Redirect(String),
    /// An endless body.
    Endless,
}

/// What goes wrong with a request that carries bytes of a blob.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// This many bytes are kept, then the connection ends.
    After(usize),
    /// The same, but the upload is forgotten.
    Forgetting(usize),
    /// The same, but what is kept is spoilt.
    Spoiling(usize),
    /// A status and no content.
    Status(u16),
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    Basic,
    Bearer,
}

pub const USER: &str = "someone";
pub const PASSWORD: &str = "s3cret:with colon";
const TOKEN: &str = "a-token";

/// A registry that serves what it is given, with the faults it is given.
pub struct Liar {
    pub address: String,
    pub state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

pub struct State {
    address: String,
    door: Door,
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    /// Faults by path, one per request.
    faults: Mutex<HashMap<String, Vec<Fault>>>,
    /// Requests seen: method, path, range.
    pub seen: Mutex<Vec<(String, String, String)>>,
    /// Whole heads of requests seen.
    pub heads: Mutex<Vec<String>>,
    /// What uploads have received, by number.
    uploads: Mutex<Vec<Vec<u8>>>,
    /// What becomes of uploads, one per request that carries bytes.
    cuts: Mutex<Vec<Cut>>,
    /// Told whenever a body has come as far as its fault lets it.
    pub stalled: Notify,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    pub async fn start(door: Door) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            address: address.clone(),
            door,
            content: Mutex::default(),
            faults: Mutex::default(),
            seen: Mutex::default(),
            heads: Mutex::default(),
            uploads: Mutex::default(),
            cuts: Mutex::default(),
            stalled: Notify::new(),
        });
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    // A client that hangs up is what some tests are about.
                    let _ = state.answer(stream).await;
                });
            }
        });
        Liar {
            address,
            state,
            task,
        }
    }

    pub fn fault(&self, path: &str, faults: &[Fault]) {
        let path = path.to_owned();
        self.state
            .faults
            .lock()
            .unwrap()
            .insert(path, faults.iter().rev().cloned().collect());
    }

    pub fn cut(&self, cuts: &[Cut]) {
        *self.state.cuts.lock().unwrap() = cuts.iter().rev().copied().collect();
    }

    /// Whether a blob has arrived in a repository.
    pub fn has(&self, repository: &str, digest: &Digest) -> bool {
        let content = self.state.content.lock().unwrap();
        content.contains_key(&blob_path(repository, digest))
    }

    pub fn blob(&self, repository: &str, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.state.keep(
            blob_path(repository, &digest),
            "application/octet-stream",
            bytes,
        );
        digest
    }

    /// Serves bytes at a path.
    pub fn blob_at(&self, path: &str, bytes: Vec<u8>) {
        self.state
            .keep(path.to_owned(), "application/octet-stream", bytes);
    }

    pub fn manifest(&self, repository: &str, tag: &str, kind: &str, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        for name in [tag, digest.as_str()] {
            let path = format!("/v2/{repository}/manifests/{name}");
            self.state.keep(path, kind, bytes.clone());
        }
        digest
    }

    /// An image of layers given as plain tars, compressed by `compress`.
    pub fn image(
        &self,
        repository: &str,
        tag: &str,
        layers: &[Vec<u8>],
        compress: fn(&[u8]) -> (&'static str, Vec<u8>),
    ) -> (Manifest, Descriptor) {
        let mut config = dhow_oci::ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..dhow_oci::ImageConfig::default()
        };
        let mut blobs = Vec::new();
        for layer in layers {
            config.rootfs.diff_ids.push(Digest::of(layer));
            let (kind, bytes) = compress(layer);
            let size = bytes.len() as u64;
            blobs.push(Descriptor::new(kind, self.blob(repository, bytes), size));
        }
        let config = serde_json::to_vec(&config).unwrap();
        let size = config.len() as u64;
        let digest = self.blob(repository, config);
        let config = Descriptor::new(media_type::OCI_CONFIG, digest, size);
        let manifest = Manifest::new(config, blobs);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let size = bytes.len() as u64;
        let digest = self.manifest(repository, tag, media_type::OCI_MANIFEST, bytes);
        (
            manifest,
            Descriptor::new(media_type::OCI_MANIFEST, digest, size),
        )
    }

    pub fn index(&self, repository: &str, tag: &str, entries: Vec<Descriptor>) -> Digest {
        let bytes = serde_json::to_vec(&Index::new(entries)).unwrap();
        self.manifest(repository, tag, media_type::OCI_INDEX, bytes)
    }

    pub fn n_requests(&self, path: &str) -> usize {
        self.state
            .seen
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, seen, _)| seen == path)
            .count()
    }
}

pub fn blob_path(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

impl State {
    fn keep(&self, path: String, kind: &str, bytes: Vec<u8>) {
        let mut content = self.content.lock().unwrap();
        content.insert(path, (kind.to_owned(), bytes));
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        // One by one, for what follows belongs to the body.
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
            if !head[0].is_ascii_uppercase() {
                // Somebody who wants to speak TLS.
                return Ok(());
            }
        }
        let head = String::from_utf8(head).unwrap();
        self.heads.lock().unwrap().push(head.clone());
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap().split(' ');
        let (method, target) = (first.next().unwrap(), first.next().unwrap());
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let path = target.split('?').next().unwrap();
        let range = headers.get("range").cloned().unwrap_or_default();
        self.seen
            .lock()
            .unwrap()
            .push((method.to_owned(), path.to_owned(), range.clone()));
        let authorization = headers.get("authorization").map_or("", String::as_str);
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));

        if path == "/token" {
            let known = authorization == format!("Basic {basic}");
            let body = format!(r#"{{"token":"{TOKEN}","expires_in":60}}"#);
            return match known {
                true => send(&mut stream, "200 OK", "", body.as_bytes()).await,
                false => send(&mut stream, "401 Unauthorized", "", b"{}").await,
            };
        }
        let (allowed, challenge) = match self.door {
            Door::Open => (true, String::new()),
            Door::Basic => (
                authorization == format!("Basic {basic}"),
                "Basic realm=\"liar\"".to_owned(),
            ),
            Door::Bearer => (
                authorization == format!("Bearer {TOKEN}"),
                format!(
                    "Bearer realm=\"http://{}/token\",service=\"liar\"",
                    self.address
                ),
            ),
        };
        if !allowed {
            let header = format!("WWW-Authenticate: {challenge}\r\n");
            return send(&mut stream, "401 Unauthorized", &header, b"").await;
        }
        let fault = self.faults.lock().unwrap().get_mut(path).and_then(Vec::pop);
        if path == "/v2/" {
            return send(&mut stream, "200 OK", "", b"{}").await;
        }
        if path.contains("/blobs/uploads/") {
            return self.upload(&mut stream, method, target, &headers).await;
        }
        if method == "PUT" {
            let manifest = body_of(&mut stream, &headers, usize::MAX).await?;
            let kind = headers["content-type"].clone();
            self.keep(path.to_owned(), &kind, manifest);
            return send(&mut stream, "201 Created", "", b"").await;
        }
        let content = self.content.lock().unwrap().get(path).cloned();
        let Some((kind, body)) = content else {
            let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return send(&mut stream, "404 Not Found", "", body).await;
        };
        let bounds = range
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'));
        let mut header = format!("Content-Type: {kind}\r\n");
        let (mut status, mut part) = match bounds {
            Some((start, last)) => {
                let start: usize = start.parse().unwrap();
                let last: usize = last.parse().unwrap_or(body.len() - 1);
                header += &format!("Content-Range: bytes {start}-{last}/{}\r\n", body.len());
                (
                    "206 Partial Content".to_owned(),
                    body[start..=last].to_vec(),
                )
            }
            None => ("200 OK".to_owned(), body.clone()),
        };
        match fault {
            None => {}
            Some(Fault::Truncate(at)) => {
                return self.part(&mut stream, &status, &header, &part, at).await;
            }
            Some(Fault::Stall(at)) => {
                self.part(&mut stream, &status, &header, &part, at).await?;
                self.stalled.notify_one();
                // Until the client hangs up.
                let mut rest = [0; 1];
                let _ = stream.read(&mut rest).await;
                return Ok(());
            }
            Some(Fault::Lie) => part.iter_mut().for_each(|byte| *byte ^= 0x5a),
            Some(Fault::Longer) => part.extend_from_slice(&[0; 1000]),
            Some(Fault::IgnoreRange) => (status, part) = ("200 OK".into(), body),
            Some(Fault::WrongRange) => {
                header = header.replace("bytes ", "bytes 1");
            }
            Some(Fault::Status(code)) => (status, part) = (format!("{code} Hm"), Vec::new()),
            Some(Fault::Redirect(to)) => {
                header = format!("Location: {to}\r\n");
                (status, part) = ("307 Temporary Redirect".into(), Vec::new());
            }
            Some(Fault::Endless) => {
                let head = format!("HTTP/1.1 200 OK\r\n{header}Connection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                loop {
                    stream.write_all(&[b' '; 65536]).await?;
                }
            }
        }
        send(&mut stream, &status, &header, &part).await
    }

    /// `/v2/REPOSITORY/blobs/uploads/[NUMBER]`
    async fn upload(
        &self,
        stream: &mut TcpStream,
        method: &str,
        target: &str,
        headers: &HashMap<String, String>,
    ) -> std::io::Result<()> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (start, number) = path.rsplit_once('/').unwrap();
        if method == "POST" {
            let number = {
                let mut uploads = self.uploads.lock().unwrap();
                uploads.push(Vec::new());
                uploads.len() - 1
            };
            let header = format!("Location: {start}/{number}\r\n");
            return send(stream, "202 Accepted", &header, b"").await;
        }
        let number: usize = number.parse().unwrap();
        if method == "DELETE" {
            return send(stream, "204 No Content", "", b"").await;
        }
        let offset = self.uploads.lock().unwrap()[number].len();
        let place = |offset: usize| {
            let last = offset.saturating_sub(1);
            format!("Location: {path}\r\nRange: 0-{last}\r\n")
        };
        if method == "GET" {
            return match offset {
                0 => send(stream, "404 Not Found", "", b"").await,
                _ => send(stream, "204 No Content", &place(offset), b"").await,
            };
        }
        let length: usize = headers["content-length"].parse().unwrap();
        if let Some(range) = headers.get("content-range") {
            let expected = format!("{offset}-{}", offset + length - 1);
            assert_eq!(*range, expected);
        }
        let cut = match length {
            0 => None,
            _ => self.cuts.lock().unwrap().pop(),
        };
        let kept = match cut {
            Some(Cut::After(at) | Cut::Forgetting(at) | Cut::Spoiling(at)) => at,
            Some(Cut::Status(code)) => {
                let status = format!("{code} Hm");
                return send(stream, &status, "", b"").await;
            }
            None => usize::MAX,
        };
        let mut body = body_of(stream, headers, kept).await?;
        let whole = {
            let mut uploads = self.uploads.lock().unwrap();
            match cut {
                Some(Cut::Forgetting(_)) => body.clear(),
                Some(Cut::Spoiling(_)) => body.iter_mut().for_each(|byte| *byte ^= 1),
                _ => {}
            }
            uploads[number].extend(body);
            uploads[number].clone()
        };
        if cut.is_some() {
            return Ok(());
        }
        if method == "PATCH" {
            return send(stream, "202 Accepted", &place(whole.len()), b"").await;
        }
        let digest = Digest::of(&whole);
        let wanted = query.rsplit_once("digest=").unwrap().1.replace("%3A", ":");
        if digest.as_str() != wanted {
            return send(stream, "400 Bad Request", "", b"").await;
        }
        let path = format!("{}/{digest}", start.strip_suffix("/uploads").unwrap());
        self.keep(path, "application/octet-stream", whole);
        send(stream, "201 Created", "", b"").await
    }

    async fn part(
        &self,
        stream: &mut TcpStream,
        status: &str,
        header: &str,
        body: &[u8],
        at: usize,
    ) -> std::io::Result<()> {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body[..at.min(length)]).await?;
        stream.flush().await
    }
}

/// The body of a request, or its first bytes.
async fn body_of(
    stream: &mut TcpStream,
    headers: &HashMap<String, String>,
    most: usize,
) -> std::io::Result<Vec<u8>> {
    let length: usize = headers["content-length"].parse().unwrap();
    let mut body = vec![0; length.min(most)];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn send(
    stream: &mut TcpStream,
    status: &str,
    header: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

/// Nothing in these tests takes this long.
pub async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("within a minute")
}
