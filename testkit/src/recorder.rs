//! A daemon that does nothing but remember what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::executables::{dhow, require};
use crate::output::Ran;

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `POST`.
    pub method: String,
    /// `/containers/create`, without the version.
    pub path: String,
    /// What stands behind the question mark, as it was sent.
    pub query: String,
    /// The body, as it was sent.
    pub body: String,
}

/// Answers a request: the body for a method and a path.
type Answers = fn(&str, &str) -> String;

/// A socket that clients take for a daemon's. It ends with the process.
#[derive(Debug)]
pub struct Recorder {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Recorder {
    /// Listens, and answers each request by `answers`, in JSON.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    pub fn start(answers: Answers) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("dhow-test-")
            .tempdir()
            .expect("a folder");
        let listener = UnixListener::bind(folder.path().join("daemon.sock")).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                // A client that goes away is none of ours.
                std::thread::spawn(move || serve(stream, answers, &kept));
            }
        });
        Self { folder, asked }
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("daemon.sock")
    }

    /// A folder that both clients work in.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// What `docker` asks for, and how it ends.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn docker(&self, words: &[&str]) -> (Ran, Vec<Asked>) {
        let program = require("docker", "the Debian package docker.io");
        self.ask(Command::new(program), "docker", words)
    }

    /// What `dhow` asks for, and how it ends.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn dhow(&self, words: &[&str]) -> (Ran, Vec<Asked>) {
        self.ask(Command::new(dhow()), "dhow", words)
    }

    fn ask(&self, mut command: Command, name: &str, words: &[&str]) -> (Ran, Vec<Asked>) {
        let folder = self.folder.path();
        self.asked.lock().expect("nobody panics with it").clear();
        let output = command
            .args(words)
            .env_remove("DHOW_HOST")
            .env(
                "DOCKER_HOST",
                format!("unix://{}/daemon.sock", folder.display()),
            )
            .env("DOCKER_CONFIG", folder.join("config"))
            .env("HOME", folder)
            .env("GIVEN", "ours")
            .env("DOCKER_BUILDKIT", "0")
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        let asked = self.asked.lock().expect("nobody panics with it").clone();
        (
            Ran::new(format!("{name} {}", words.join(" ")), &output),
            asked,
        )
    }
}

/// Reads one request, remembers and answers it.
fn serve(stream: UnixStream, answers: Answers, kept: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, address) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut is_chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        is_chunked |= header.starts_with("transfer-encoding:") && header.ends_with("chunked");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while is_chunked {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        is_chunked = size > 0;
    }
    let (path, query) = address.split_once('?').unwrap_or((&address, ""));
    let path = match path.strip_prefix("/v1.") {
        Some(rest) => &rest[rest.find('/')?..],
        None => path,
    };
    let answer = answers(&method, path);
    if path != "/_ping" {
        kept.lock().expect("nobody panics with it").push(Asked {
            method: method.clone(),
            path: path.to_owned(),
            query: query.to_owned(),
            body: String::from_utf8_lossy(&body).into_owned(),
        });
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nOstype: linux\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    let stream = reader.get_mut();
    stream.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        stream.write_all(answer.as_bytes()).ok()?;
    }
    Some(())
}
