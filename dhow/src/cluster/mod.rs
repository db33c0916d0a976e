//! A one-node cluster in the daemon: opens the API server, joins every
//! component to it, and stops them again.
//!
//! Components are clients of the API and of nothing else; what joins them to
//! this machine (the engine as pod runtime, the pods' network) is here.
//!
//! ```text
//! DATA/cluster/settings.json   the cluster is wanted; read when a daemon starts
//! DATA/cluster/kubeconfig      its administrator
//! DATA/cluster/api/            the API server's store and keys
//! DATA/cluster/node/           volumes of pods
//! ```

mod door;
mod machine;
mod network;
mod nodes;
mod pods;
mod settings;
mod streams;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use dhow_apiserver::{ApiServer, Authorization, Config, UserInfo};
use dhow_engine::Engine;
use dhow_netlink::Prefix;
use dhow_network::NameServer;
use dhow_node::Agent;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

pub(crate) use door::routes;
use nodes::Nodes;
use pods::Pods;
use settings::{Settings, Wanted};

/// The cluster's domain.
const DOMAIN: &str = "cluster.local";
/// A node is ready within this time, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// A component that ended is started again after this time.
const BEFORE_AGAIN: Duration = Duration::from_secs(1);
/// Components are given this long to stop.
const GRACE: Duration = Duration::from_secs(10);

/// The cluster of one daemon, while it is up.
pub(crate) struct Clusters {
    engine: Engine,
    /// Name of the instance, for what the kernel knows by name.
    name: String,
    directory: PathBuf,
    running: Mutex<Option<Running>>,
}

struct Running {
    settings: Settings,
    address: SocketAddr,
    client: Client,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Ready when the API server's store is closed.
    gone: Gone,
}

type Gone = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What was asked for does not fit what is there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(&'static str);

/// What people need to know of a cluster that is up.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubeconfig_path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubeconfig: Option<String>,
}

impl Clusters {
    pub(crate) fn new(engine: Engine, name: String) -> Self {
        let directory = engine.config().data.join("cluster");
        Self {
            engine,
            name,
            directory,
            running: Mutex::default(),
        }
    }

    /// Brings the cluster up again that was up when the last daemon ended.
    pub(crate) async fn resume(&self) -> Result<()> {
        if Settings::is_wanted(&self.directory) {
            self.up(Map::new()).await?;
        }
        Ok(())
    }

    /// Brings the cluster up, and returns when its node is ready. One that is
    /// up already is no error. What `changes` does not name is as before.
    pub(crate) async fn up(&self, changes: Map<String, Value>) -> Result<Status> {
        let mut running = self.running.lock().await;
        if let Some(running) = &*running {
            if running.settings.with(changes)? != running.settings {
                bail!(Refused(
                    "the cluster is up with other settings: run `dhow down` first, or leave the options out"
                ));
            }
            return self.describe(running);
        }
        let before = Settings::read(&self.directory)?;
        let settings = before.clone().unwrap_or_default().with(changes)?;
        if before
            .as_ref()
            .is_some_and(|before| !settings.suits(before))
        {
            bail!(Refused(
                "the cluster has objects that were made with other settings: leave the options out, or run `dhow down --forget` first"
            ));
        }
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("make folder {}", self.directory.display()))?;
        settings.write(&self.directory)?;
        let had_network = self.engine.networks().get(network::NAME).is_ok();
        let started = match self.start(settings.clone()).await {
            Ok(started) => match is_ready(&started.client, &settings.node).await {
                Ok(()) => Ok(started),
                Err(error) => {
                    started.stop().await;
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                // What another try finds is what this one found.
                if !had_network {
                    let _ = dhow_service_proxy::remove(&self.table());
                    let _ = self.engine.networks().remove(network::NAME);
                }
                if before.is_none() {
                    let _ = std::fs::remove_dir_all(&self.directory);
                }
                return Err(error);
            }
        };
        Settings::want(&self.directory, Wanted::Up)?;
        let status = self.describe(&started)?;
        *running = Some(started);
        Ok(status)
    }

    /// How the cluster stands.
    pub(crate) async fn status(&self) -> Result<Status> {
        match &*self.running.lock().await {
            Some(running) => self.describe(running),
            None => Ok(Status {
                state: "down",
                server: None,
                node: None,
                kubeconfig_path: None,
                kubeconfig: None,
            }),
        }
    }

    /// Ends the cluster and its pods. Its objects are kept for the next time
    /// unless they are to be forgotten.
    pub(crate) async fn down(&self, objects: Objects) -> Result<()> {
        let mut running = self.running.lock().await;
        if let Some(running) = running.take() {
            running.stop().await;
        }
        Settings::want(&self.directory, Wanted::Down)?;
        for sandbox in self.engine.sandboxes() {
            self.engine
                .sandbox_remove(&sandbox.id)
                .await
                .with_context(|| format!("remove sandbox {}", sandbox.spec.name))?;
        }
        self.remove_stray_containers().await;
        dhow_service_proxy::remove(&self.table()).context("remove the Services' rules")?;
        match self.engine.networks().remove(network::NAME) {
            Ok(_) | Err(dhow_network::Error::NotFound(_)) => {}
            Err(error) => return Err(error).context("remove the pods' network"),
        }
        if objects == Objects::Forget {
            match std::fs::remove_dir_all(&self.directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context("remove the cluster's folder");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Stops the components; pods run on, as containers outlive a daemon.
    pub(crate) async fn pause(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.stop().await;
        }
    }

    /// Containers whose sandbox went with a reboot.
    async fn remove_stray_containers(&self) {
        for record in self.engine.list() {
            if record.sandbox.is_some()
                && let Err(error) = self.engine.remove(&record.id, true, true).await
            {
                tracing::warn!(container = record.id, %error, "is not removed");
            }
        }
    }

    fn table(&self) -> String {
        format!("{}-services", self.name)
    }

    fn describe(&self, running: &Running) -> Result<Status> {
        let path = self.directory.join("kubeconfig");
        let kubeconfig = std::fs::read_to_string(&path).context("read the kubeconfig")?;
        Ok(Status {
            state: "up",
            server: Some(format!("https://{}", running.address)),
            node: Some(running.settings.node.clone()),
            kubeconfig_path: Some(path),
            kubeconfig: Some(kubeconfig),
        })
    }

    async fn start(&self, settings: Settings) -> Result<Running> {
        let gateway = network::make(self.engine.networks(), &settings)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.port));
        let local = listen(address).await?;
        let address = local.local_addr()?;
        // Pods and Services reach the server where the pods' bridge is.
        let inner = listen((gateway, address.port()).into()).await?;

        let nodes = Arc::new(Nodes::default());
        let mut config = Config::new(self.directory.join("api"));
        config.names.push(settings.node.clone());
        config.names.push(gateway.to_string());
        config.advertise = gateway;
        config.port = address.port();
        config.service_cidr = settings.services()?;
        config.authorization = Authorization::Rbac;
        config.nodes = Some(nodes.clone());
        let server = ApiServer::open(config)
            .await
            .context("open the API server")?;
        server
            .write_admin_kubeconfig(
                &format!("https://{address}"),
                &self.directory.join("kubeconfig"),
            )
            .context("write the kubeconfig")?;
        let server = Arc::new(server);

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for listener in [local, inner] {
            let (server, stopped) = (server.clone(), asked(stopped.clone()));
            tasks.spawn(async move {
                if let Err(error) = server.run(listener, stopped).await {
                    tracing::error!(error = %anyhow!(error), "the API server ended");
                }
            });
        }
        let client = Client::new(server.service(UserInfo::admin()), "default");
        let running = Running {
            settings: settings.clone(),
            address,
            client: client.clone(),
            stop,
            tasks,
            gone: Box::pin(server.gone()),
        };
        let made = self
            .join(running, &server, &nodes, gateway, &stopped)
            .await?;
        Ok(made)
    }

    /// Joins the components to the server.
    async fn join(
        &self,
        mut running: Running,
        server: &Arc<ApiServer>,
        nodes: &Arc<Nodes>,
        gateway: IpAddr,
        stopped: &watch::Receiver<bool>,
    ) -> Result<Running> {
        let settings = running.settings.clone();
        let user = |name: &str, groups: &[&str]| {
            Client::new(server.service(UserInfo::new(name, groups)), "default")
        };
        let tasks = &mut running.tasks;
        let mut component = |name: &'static str, run: Component| {
            tasks.spawn(supervise(name, run, stopped.clone()));
        };

        let controllers = user("system:kube-controller-manager", &[]);
        let authority = server.authority().certificate().to_owned();
        let ended = stopped.clone();
        component(
            "controllers",
            Box::new(move || {
                let run = dhow_controllers::run(controllers.clone(), authority.clone());
                Box::pin(until(ended.clone(), run))
            }),
        );
        let scheduler = user("system:kube-scheduler", &[]);
        let ended = stopped.clone();
        component(
            "scheduler",
            Box::new(move || {
                let run = dhow_scheduler::run(scheduler.clone());
                Box::pin(until(ended.clone(), run))
            }),
        );

        let proxy = user("system:kube-proxy", &[]);
        let rules = self.proxy_config(&settings)?;
        let ended = stopped.clone();
        component(
            "service proxy",
            Box::new(move || {
                let (proxy, rules, ended) = (proxy.clone(), rules.clone(), ended.clone());
                Box::pin(async move {
                    if let Err(error) = dhow_service_proxy::run(proxy, rules, asked(ended)).await {
                        tracing::error!(%error, "the service proxy ended");
                    }
                })
            }),
        );

        let dns = settings.dns()?;
        dhow_dns::publish(running.client.clone(), dns, &[SocketAddr::new(gateway, 53)])
            .await
            .context("publish the cluster's name service")?;
        let resolv_conf = std::fs::read_to_string(&self.engine.config().resolv_conf);
        let names = dhow_dns::Config {
            listen: vec![SocketAddr::new(gateway, 53)],
            domain: DOMAIN.into(),
            upstreams: NameServer::upstreams(&resolv_conf.unwrap_or_default()),
        };
        let resolver = user("system:coredns", &[]);
        let ended = stopped.clone();
        component(
            "name service",
            Box::new(move || {
                let (resolver, names, ended) = (resolver.clone(), names.clone(), ended.clone());
                Box::pin(async move {
                    if let Err(error) = dhow_dns::run(resolver, names, asked(ended)).await {
                        tracing::error!(%error, "the name service ended");
                    }
                })
            }),
        );

        let kubelet = user(&format!("system:node:{}", settings.node), &["system:nodes"]);
        let runtime = Arc::new(Pods::new(self.engine.clone(), network::NAME.into()));
        let config = machine::node_config(
            &settings,
            self.directory.join("node"),
            gateway,
            &self.engine.config().resolv_conf,
            DOMAIN,
        )?;
        let (nodes, ended) = (nodes.clone(), stopped.clone());
        component(
            "node agent",
            Box::new(move || {
                let ended = ended.clone();
                let agent = Agent::new(kubelet.clone(), runtime.clone(), config.clone());
                let agent = Arc::new(agent);
                nodes.add(config.name.clone(), &agent, runtime.clone());
                Box::pin(async move {
                    if let Err(error) = agent.run(asked(ended)).await {
                        tracing::error!(%error, "the node agent ended");
                    }
                })
            }),
        );
        Ok(running)
    }

    fn proxy_config(&self, settings: &Settings) -> Result<dhow_service_proxy::Config> {
        let pods = settings.pod_cidr.parse::<Prefix>();
        Ok(dhow_service_proxy::Config {
            table: self.table(),
            node: settings.node.clone(),
            pods: vec![pods.map_err(|error| anyhow!("{}: {error}", settings.pod_cidr))?],
            applied: watch::Sender::default(),
        })
    }
}

/// What becomes of a cluster's objects when it goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Objects {
    /// They are there when it comes up again.
    Keep,
    /// They are removed with their keys.
    Forget,
}

impl Running {
    async fn stop(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            self.tasks.shutdown().await;
        }
        let Self { client, gone, .. } = self;
        drop(client);
        if tokio::time::timeout(GRACE, gone).await.is_err() {
            tracing::warn!("somebody still holds the API server's store");
        }
    }
}

/// Makes a component's future, anew each time it has ended.
type Component = Box<dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Runs a component, again and again if it ends, until the cluster stops.
async fn supervise(name: &'static str, run: Component, stopped: watch::Receiver<bool>) {
    loop {
        // A component that panics takes nobody with it.
        let mut task = tokio::spawn(run());
        tokio::select! {
            ended = &mut task => {
                if *stopped.borrow() {
                    return;
                }
                let panicked = ended.is_err();
                tracing::error!(component = name, panicked, "ended; it is started again");
                tokio::time::sleep(BEFORE_AGAIN).await;
            }
            () = asked(stopped.clone()) => {
                // Those that end by themselves have a moment for it.
                if tokio::time::timeout(GRACE / 2, &mut task).await.is_err() {
                    task.abort();
                    let _ = task.await;
                }
                return;
            }
        }
    }
}

/// Runs what would go on for ever until the cluster is asked to stop.
async fn until(stopped: watch::Receiver<bool>, run: impl Future<Output = ()>) {
    tokio::select! {
        () = run => {}
        () = asked(stopped) => {}
    }
}

/// Ready when the cluster is asked to stop.
async fn asked(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone asks for the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen at {address}: give another --port if it is taken"))
}

/// Waits until a node says that it is ready.
async fn is_ready(client: &Client, node: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let ready = |node: Option<&Node>| {
        node.and_then(|node| node.status.as_ref()?.conditions.as_ref())
            .is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            })
    };
    tokio::time::timeout(PATIENCE, await_condition(nodes, node, ready))
        .await
        .with_context(|| format!("node {node} is not ready after {} s", PATIENCE.as_secs()))?
        .context("watch the node")?;
    Ok(())
}
