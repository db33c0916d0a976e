//! An API server on a port of its own, and `kubectl` to drive it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dhow_apiserver::{ApiServer, Config};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub directory: tempfile::TempDir,
    kubeconfig: PathBuf,
    pub server: Arc<ApiServer>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

pub struct Output {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Cluster {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut config = Config::new(directory.path().join("cluster"));
        config.port = address.port();
        configure(&mut config);
        let server = Arc::new(ApiServer::open(config).await.expect("the server opens"));
        let kubeconfig = directory.path().join("config");
        server
            .write_admin_kubeconfig(&format!("https://{address}"), &kubeconfig)
            .expect("a kubeconfig");
        let (stop, stopped) = oneshot::channel::<()>();
        let running = server.clone();
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            running
                .run(listener, stopped)
                .await
                .expect("the server runs");
        });
        let cluster = Self {
            directory,
            kubeconfig,
            server,
            stop: Some(stop),
            running: Some(running),
        };
        cluster.ok(&["create", "serviceaccount", "default"]).await;
        cluster
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .spawn()
            .expect("kubectl is installed (apt-get install kubernetes-client, or see docs)");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).await.expect("it reads");
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("kubectl {arguments:?} does not end"))
            .expect("it ran");
        Output {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub async fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "").await
    }

    pub async fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        assert!(
            output.ok,
            "kubectl {arguments:?}: {}{}",
            output.out, output.err
        );
        output.out
    }

    pub async fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        assert!(
            !output.ok,
            "kubectl {arguments:?} should fail: {}",
            output.out
        );
        output.err
    }

    pub async fn end(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(running) = self.running.take() {
            tokio::time::timeout(PATIENCE, running)
                .await
                .expect("the server ends")
                .expect("in order");
        }
    }
}
