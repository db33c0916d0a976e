//! A registry in this process, and requests by hand.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use dhow_content::Store;
use dhow_image::tar::{Entry, Kind, Writer};
use dhow_image::{Images, Import, Limits, Options, RegistryOptions};
use dhow_oci::Platform;
use dhow_registry::{Config, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

pub struct Server {
    pub address: String,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), dhow_registry::Error>>,
}

impl Server {
    pub async fn start(root: &Path) -> Server {
        Server::with(Config::new(root.to_owned())).await
    }

    pub async fn with(config: Config) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(listener, config, async {
            // Told, or its teller is gone: the same.
            let _ = stopped.await;
        }));
        Server {
            address,
            stop: Some(stop),
            task,
        }
    }

    pub async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        bounded(self.task).await.unwrap().unwrap();
    }

    pub async fn ask(&self, method: &str, path: &str) -> Answer {
        self.ask_with(method, path, &[], b"").await
    }

    pub async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut bytes = Vec::new();
        bounded(stream.read_to_end(&mut bytes)).await.unwrap();
        Answer::parse(&bytes)
    }

    /// Sends part of a request and hangs up.
    pub async fn break_off(&self, method: &str, path: &str, promised: usize, body: &[u8]) {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {promised}\r\n\r\n");
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream.shutdown().await.unwrap();
        // Until the server has noticed, too.
        let mut rest = Vec::new();
        let _ = bounded(stream.read_to_end(&mut rest)).await;
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Answer {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Answer {
            status,
            headers,
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
            .unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks status and error code.
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(
            self.text().contains(&format!("\"code\":\"{code}\"")),
            "{}",
            self.text()
        );
    }
}

pub async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("within a minute")
}

/// An image store of our own.
pub fn images(directory: &Path) -> Images {
    let options = Options {
        root: directory.join("image"),
        content: Store::open(&directory.join("content")).unwrap(),
        platform: Platform::host(),
        limits: Limits::default(),
        registries: RegistryOptions::default(),
        now: std::time::SystemTime::now,
    };
    Images::open(options).unwrap()
}

/// Gives it an image of one file.
pub fn import(images: &Images, name: &str, content: &[u8]) {
    let mut writer = Writer::new(Vec::new());
    let mut entry = Entry::new(Kind::File, "file");
    entry.size = content.len() as u64;
    writer.append(&entry, &mut &content[..]).unwrap();
    let tar = writer.finish().unwrap();
    let import = Import {
        name: Some(name.parse().unwrap()),
        ..Import::default()
    };
    images.import(&mut &tar[..], import).unwrap();
}
