//! An API server whose one node is the stream server, and `kubectl`.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dhow_apiserver::{ApiServer, Config, Connecting, NodeConnector, NodeStream, UserInfo};
use dhow_node::StreamServer;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::runtime::Memory;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which protocol `kubectl` speaks.
#[derive(Debug, Clone, Copy)]
pub enum Speaks {
    WebSocket,
    Spdy,
}

struct Node(StreamServer);

impl NodeConnector for Node {
    fn connect<'a>(&'a self, _node: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let server = self.0.clone();
            tokio::spawn(async move { server.serve(theirs).await });
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}

pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub struct Cluster {
    directory: tempfile::TempDir,
    kubeconfig: PathBuf,
    pub client: kube::Client,
    pub memory: Arc<Memory>,
    running: tokio::task::JoinHandle<()>,
}

impl Cluster {
    /// A cluster with the pod `p`, whose containers are `main`, `slow` and
    /// `crash`.
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let memory = Arc::new(Memory::new());
        let waiting = |_: &str, _: &str, container: &str| match container {
            "slow" => Some("ImagePullBackOff".to_owned()),
            "crash" => Some("CrashLoopBackOff".to_owned()),
            _ => None,
        };
        let streams = StreamServer::new(memory.clone()).with_waiting(Arc::new(waiting));
        let mut config = Config::new(directory.path().join("cluster"));
        config.port = address.port();
        config.nodes = Some(Arc::new(Node(streams)));
        let server = Arc::new(ApiServer::open(config).await.expect("the server opens"));
        let kubeconfig = directory.path().join("config");
        server
            .write_admin_kubeconfig(&format!("https://{address}"), &kubeconfig)
            .expect("a kubeconfig");
        let running = server.clone();
        let running = tokio::spawn(async move {
            let served = running.run(listener, std::future::pending()).await;
            served.expect("the server runs");
        });
        let config = kube::Config::from_custom_kubeconfig(
            kube::config::Kubeconfig::read_from(&kubeconfig).expect("read"),
            &kube::config::KubeConfigOptions::default(),
        )
        .await
        .expect("a configuration");
        let cluster = Self {
            client: kube::Client::try_from(config).expect("a client"),
            directory,
            kubeconfig,
            memory,
            running,
        };
        let admin = kube::Client::new(server.service(UserInfo::admin()), "default");
        let account =
            serde_json::from_value(serde_json::json!({ "metadata": { "name": "default" } }));
        let accounts: kube::Api<k8s_openapi::api::core::v1::ServiceAccount> =
            kube::Api::default_namespaced(admin.clone());
        accounts
            .create(&Default::default(), &account.expect("an account"))
            .await
            .expect("created");
        let containers: Vec<_> = ["main", "slow", "crash"]
            .map(|name| serde_json::json!({ "name": name, "image": "i" }))
            .into();
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p" },
            "spec": {
                "nodeName": "n1",
                "containers": containers,
            },
        }));
        let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(admin);
        pods.create(&Default::default(), &pod.expect("a pod"))
            .await
            .expect("created");
        // `kubectl` attaches and forwards to pods that run.
        let status = serde_json::json!({ "status": { "phase": "Running" } });
        pods.patch_status("p", &Default::default(), &kube::api::Patch::Merge(status))
            .await
            .expect("patched");
        cluster
    }

    pub fn command(&self, speaks: Speaks, arguments: &[&str]) -> Command {
        let websockets = match speaks {
            Speaks::WebSocket => "true",
            Speaks::Spdy => "false",
        };
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.directory.path())
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// `kubectl` on a terminal of 90 by 30 characters.
    pub async fn on_terminal(&self, speaks: Speaks, arguments: &[&str]) -> String {
        let kubectl = self.command(speaks, arguments);
        let mut command = Command::new("script");
        let line = format!("stty cols 90 rows 30; kubectl {}", arguments.join(" "));
        command.args(["-qec", &line, "/dev/null"]);
        for (name, value) in kubectl.as_std().get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("script is installed (Debian package bsdutils)");
        // Its end would end the terminal.
        let _stdin = child.stdin.take();
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("kubectl {arguments:?} does not end"))
            .expect("it ran");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub async fn run(&self, speaks: Speaks, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(speaks, arguments)
            .spawn()
            .expect("kubectl is installed (apt-get install kubernetes-client, or see docs)");
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        let typing = tokio::spawn(async move {
            // One that does not read is fine.
            let _ = stdin.write_all(&input).await;
        });
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("kubectl {arguments:?} does not end"))
            .expect("it ran");
        typing.await.expect("it typed");
        Output {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts `kubectl port-forward` to a port of the pod; returns where it
    /// listens.
    pub async fn forward(&self, speaks: Speaks, port: &str) -> Forward {
        let mut child = self
            .command(speaks, &["port-forward", "p", &format!(":{port}")])
            .spawn()
            .expect("kubectl starts");
        let out = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(out).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("in time").expect("read").unwrap_or_default();
        // Forwarding from 127.0.0.1:40001 -> 80
        let address = line
            .split_whitespace()
            .nth(2)
            .unwrap_or_else(|| panic!("unexpected: {line:?}"))
            .to_owned();
        Forward {
            _lines: lines,
            child,
            address,
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.running.abort();
    }
}

pub struct Forward {
    _lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    pub child: Child,
    pub address: String,
}

impl Forward {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.expect("it listens")
    }
}
