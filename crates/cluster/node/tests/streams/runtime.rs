//! A runtime in memory: its programs are a few lines each.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use dhow_node::PodRuntime;
use dhow_node::runtime::{
    Container, ContainerConfig, ContainerState, Credentials, Event, Exec, Image, LogLine,
    LogOptions, Output, PodMetadata, PortStream, Result, RuntimeError, Sandbox, SandboxConfig,
    Session, Stats,
};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};

pub struct Memory {
    /// Says "one more" to followers of logs; they end when it is dropped.
    pub more: watch::Sender<u32>,
    /// Programs that run.
    pub running: watch::Sender<u32>,
}

impl Memory {
    pub fn new() -> Self {
        Self {
            more: watch::Sender::new(0),
            running: watch::Sender::new(0),
        }
    }
}

fn container(name: &str, attempt: u32, state: ContainerState) -> Container {
    let labels = [
        ("io.kubernetes.pod.name", "p"),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", "1"),
        ("io.kubernetes.container.name", name),
    ];
    Container {
        id: format!("{name}-{attempt}"),
        sandbox: "sandbox".into(),
        name: name.into(),
        attempt,
        state,
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(attempt)),
        started: (state != ContainerState::Created).then_some(SystemTime::UNIX_EPOCH),
        finished: None,
        exit_code: 0,
        oom_killed: false,
        message: String::new(),
        image: "image".into(),
        labels: labels
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        annotations: BTreeMap::new(),
    }
}

/// A program: it reads bytes and sizes, and says pieces and an exit code.
struct Program {
    stdin: tokio::io::DuplexStream,
    sizes: mpsc::Receiver<dhow_node::runtime::TerminalSize>,
    output: mpsc::Sender<Output>,
}

impl Program {
    async fn run(mut self, command: Vec<String>, exec: Exec) -> i32 {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match *words {
            ["cat"] => {
                let mut buffer = vec![0; 1000];
                loop {
                    let length = self.stdin.read(&mut buffer).await.expect("read");
                    if length == 0 {
                        return 0;
                    }
                    let piece = Bytes::copy_from_slice(&buffer[..length]);
                    if self.output.send(Output::Stdout(piece)).await.is_err() {
                        return 1;
                    }
                }
            }
            // Says the first thing it reads.
            ["first"] => {
                let mut buffer = vec![0; 1000];
                let length = self.stdin.read(&mut buffer).await.expect("read");
                buffer.truncate(length);
                self.say(Output::Stdout(buffer.into())).await;
                0
            }
            ["fail", code] => {
                self.say(Output::Stderr("no luck\n".into())).await;
                code.parse().expect("a number")
            }
            ["flood", count] => {
                let count: usize = count.parse().expect("a number");
                for number in 0..count {
                    self.say(Output::Stdout(format!("line {number:07}\n").into()))
                        .await;
                }
                0
            }
            ["size"] => {
                let size = self.sizes.recv().await.expect("a size");
                let (width, height) = (size.width, size.height);
                self.say(Output::Stdout(format!("{width}x{height}\r\n").into()))
                    .await;
                0
            }
            ["streams"] => {
                let said = format!("stdin {} tty {}\n", exec.stdin, exec.tty);
                self.say(Output::Stdout(said.into())).await;
                0
            }
            _ => panic!("there is no such program: {words:?}"),
        }
    }

    async fn say(&self, output: Output) {
        let _ = self.output.send(output).await;
    }
}

fn session(command: Vec<String>, exec: Exec, running: watch::Sender<u32>) -> Session {
    let (stdin, inside) = tokio::io::duplex(4096);
    let (resize, sizes) = mpsc::channel(4);
    let (saying, mut said) = mpsc::channel(4);
    let (ending, exit) = oneshot::channel();
    let has_stdin = exec.stdin;
    let has_tty = exec.tty;
    let program = Program {
        stdin: inside,
        sizes,
        output: saying,
    };
    tokio::spawn(async move {
        running.send_modify(|running| *running += 1);
        let _ = ending.send(program.run(command, exec).await);
        running.send_modify(|running| *running -= 1);
    });
    Session {
        stdin: has_stdin.then(|| Box::new(stdin) as _),
        output: stream::poll_fn(move |context| said.poll_recv(context)).boxed(),
        resize: has_tty.then_some(resize),
        exit: Some(exit),
    }
}

#[async_trait]
impl PodRuntime for Memory {
    fn version(&self) -> String {
        "memory://1".into()
    }

    async fn run_sandbox(&self, _config: SandboxConfig) -> Result<Sandbox> {
        unreachable!("the stream server makes none")
    }
    async fn stop_sandbox(&self, _id: &str) -> Result<()> {
        unreachable!("the stream server stops none")
    }
    async fn remove_sandbox(&self, _id: &str) -> Result<()> {
        unreachable!("the stream server removes none")
    }
    async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        Ok(vec![Sandbox {
            id: "sandbox".into(),
            metadata: PodMetadata {
                name: "p".into(),
                namespace: "default".into(),
                uid: "1".into(),
                attempt: 0,
            },
            is_ready: true,
            created: SystemTime::UNIX_EPOCH,
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }])
    }

    async fn create_container(&self, _sandbox: &str, _config: ContainerConfig) -> Result<String> {
        unreachable!("the stream server creates none")
    }
    async fn start_container(&self, _id: &str) -> Result<()> {
        unreachable!("the stream server starts none")
    }
    async fn stop_container(&self, _id: &str, _grace: Duration) -> Result<()> {
        unreachable!("the stream server stops none")
    }
    async fn remove_container(&self, _id: &str) -> Result<()> {
        unreachable!("the stream server removes none")
    }
    async fn containers(&self) -> Result<Vec<Container>> {
        Ok(vec![
            container("main", 0, ContainerState::Exited),
            container("main", 1, ContainerState::Running),
            container("slow", 0, ContainerState::Created),
            container("crash", 0, ContainerState::Exited),
            Container {
                labels: container("slow", 7, ContainerState::Exited)
                    .labels
                    .into_iter()
                    .chain([("io.kubernetes.pod.uid".to_owned(), "0".to_owned())])
                    .collect(),
                id: "of another pod".into(),
                created: SystemTime::UNIX_EPOCH - Duration::from_secs(1),
                ..container("slow", 7, ContainerState::Exited)
            },
        ])
    }

    fn events(&self) -> BoxStream<'static, Event> {
        stream::pending().boxed()
    }

    async fn exec(&self, _id: &str, exec: Exec) -> Result<Session> {
        if exec.command == ["missing"] {
            return Err(RuntimeError::Command("missing: no such file".into()));
        }
        Ok(session(exec.command.clone(), exec, self.running.clone()))
    }
    async fn attach(&self, _id: &str, stdin: bool) -> Result<Session> {
        let exec = Exec {
            stdin,
            ..Exec::default()
        };
        Ok(Session {
            exit: None,
            ..session(vec!["cat".into()], exec, self.running.clone())
        })
    }
    async fn port_forward(&self, _sandbox: &str, port: u16) -> Result<Box<dyn PortStream>> {
        if port != 80 {
            return Err(RuntimeError::Failed("connection refused".into()));
        }
        // Says everything back, and "end" when the client has ended.
        let (outside, inside) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(inside);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.write_all(b"end").await;
            let _ = writer.shutdown().await;
        });
        Ok(Box::new(outside))
    }

    async fn logs(&self, id: &str, options: LogOptions) -> Result<BoxStream<'static, LogLine>> {
        let line = |number: u32, text: String| LogLine {
            time: format!("2026-01-02T03:04:{number:02}.000000001Z"),
            text: Output::Stdout(text.into()),
        };
        let all: Vec<LogLine> = (1..=3)
            .map(|number| line(number, format!("{id} {number}\n")))
            .collect();
        let tail = options.tail.unwrap_or(all.len()).min(all.len());
        let known = stream::iter(all[all.len() - tail..].to_vec());
        if !options.follow {
            return Ok(known.boxed());
        }
        let more = self.more.subscribe();
        let news = stream::unfold(more, move |mut more| async move {
            more.changed().await.ok()?;
            let number = *more.borrow_and_update();
            Some((line(number, format!("more {number}\n")), more))
        });
        Ok(known.chain(news).boxed())
    }
    async fn stats(&self) -> Result<Vec<Stats>> {
        Ok(Vec::new())
    }

    async fn pull_image(&self, _image: &str, _credentials: Option<Credentials>) -> Result<Image> {
        unreachable!("the stream server pulls none")
    }
    async fn image(&self, _image: &str) -> Result<Option<Image>> {
        Ok(None)
    }
    async fn images(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }
    async fn remove_image(&self, _image: &str) -> Result<()> {
        unreachable!("the stream server removes none")
    }
}
