//! A machine in memory: a pod runtime whose programs are a few words.
//!
//! A container's command says what it does: nothing at all runs until it is
//! stopped, `stubborn` even longer, `exit N` ends at once, `say N TEXT` leaves last words before it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use dhow_node::PodRuntime;
use dhow_node::runtime::{
    Container, ContainerConfig, ContainerState, Credentials, Event, EventKind, Exec, Image,
    LogLine, LogOptions, PortStream, Result, RuntimeError, Sandbox, SandboxConfig, Session, Stats,
};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{broadcast, oneshot, watch};

/// Every pod has this address: what listens here answers for all of them.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A machine in memory.
pub struct Machine {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    number: u64,
    sandboxes: BTreeMap<String, (Sandbox, SandboxConfig)>,
    containers: BTreeMap<String, (Container, ContainerConfig)>,
    images: BTreeMap<String, Image>,
    pulls: Vec<(String, Option<Credentials>)>,
    execs: Vec<(String, Vec<String>)>,
    stops: Vec<Duration>,
    /// Exit codes of programs run in containers, by their first word.
    codes: BTreeMap<String, i32>,
    most_running: usize,
}

impl Machine {
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            events: broadcast::channel(1024).0,
            changes: watch::Sender::new(0),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    /// Waits until what is on the machine answers the question.
    pub async fn until<T>(&self, question: impl Fn(&Self) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        let asking = async {
            loop {
                changes.borrow_and_update();
                if let Some(answer) = question(self) {
                    return answer;
                }
                changes.changed().await.expect("the machine is there");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asking)
            .await
            .expect("it happens on the machine")
    }

    pub fn n_sandboxes(&self) -> usize {
        self.state().sandboxes.len()
    }

    pub fn n_containers(&self) -> usize {
        self.state().containers.len()
    }

    /// The newest container of a name in all pods, with what was asked for.
    pub fn container(&self, name: &str) -> Option<(Container, ContainerConfig)> {
        let state = self.state();
        let named = state
            .containers
            .values()
            .filter(|(one, _)| one.name == name);
        named.max_by_key(|(one, _)| one.attempt).cloned()
    }

    pub fn sandbox(&self) -> Option<(Sandbox, SandboxConfig)> {
        self.state().sandboxes.values().next_back().cloned()
    }

    /// A container's file of the host that is mounted at a path.
    pub fn mount(&self, name: &str, path: &str) -> Option<PathBuf> {
        let (_, config) = self.container(name)?;
        let mut mounts = config.mounts.into_iter();
        mounts
            .find(|mount| mount.container_path == path)
            .map(|mount| mount.host_path)
    }

    pub fn pulls(&self) -> Vec<(String, Option<Credentials>)> {
        self.state().pulls.clone()
    }

    pub fn execs(&self) -> Vec<Vec<String>> {
        let state = self.state();
        state
            .execs
            .iter()
            .map(|(_, command)| command.clone())
            .collect()
    }

    /// The time that containers got to stop.
    pub fn stops(&self) -> Vec<Duration> {
        self.state().stops.clone()
    }

    /// From now on a program with this first word ends so in containers.
    pub fn set_code(&self, word: &str, code: i32) {
        self.state().codes.insert(word.to_owned(), code);
    }

    /// Most containers of one name in one pod that ever ran at a time.
    pub fn most_running(&self) -> usize {
        self.state().most_running
    }

    /// A container's program ends.
    pub fn exit(&self, name: &str, code: i32) {
        let id = self.container(name).expect("a container").0.id;
        self.end(&id, code);
    }

    /// The power fails: nothing runs any more, the disk is as it was.
    pub fn power_fails(&self) {
        let ids: Vec<String> = {
            let mut state = self.state();
            for (sandbox, _) in state.sandboxes.values_mut() {
                sandbox.is_ready = false;
            }
            state.containers.keys().cloned().collect()
        };
        for id in ids {
            self.end(&id, 255);
        }
    }

    fn end(&self, id: &str, code: i32) {
        let pod = {
            let mut state = self.state();
            let Some((container, _)) = state.containers.get_mut(id) else {
                return;
            };
            if container.state == ContainerState::Exited {
                return;
            }
            container.state = ContainerState::Exited;
            container.exit_code = code;
            container.finished = Some(SystemTime::now());
            container.sandbox.clone()
        };
        self.tell(&pod, Some(id), EventKind::Stopped);
    }

    fn tell(&self, sandbox: &str, container: Option<&str>, kind: EventKind) {
        let pod_uid = {
            let mut state = self.state();
            let mut running: BTreeMap<(String, String), usize> = BTreeMap::new();
            for (one, _) in state.containers.values() {
                if one.state == ContainerState::Running {
                    let uid = one.labels["io.kubernetes.pod.uid"].clone();
                    *running.entry((uid, one.name.clone())).or_default() += 1;
                }
            }
            let most = running.into_values().max().unwrap_or(0);
            state.most_running = state.most_running.max(most);
            let sandbox = state.sandboxes.get(sandbox);
            sandbox.map_or_else(String::new, |(one, _)| one.metadata.uid.clone())
        };
        // Nobody may be listening.
        let _ = self.events.send(Event {
            pod_uid,
            container: container.map(str::to_owned),
            kind,
        });
        self.changes.send_modify(|number| *number += 1);
    }
}

fn absent(what: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("no {what}"))
}

fn image(name: &str) -> Image {
    Image {
        id: format!("sha256:{name}"),
        tags: vec![name.to_owned()],
        digests: Vec::new(),
        size: 7,
        user: String::new(),
    }
}

#[async_trait]
impl PodRuntime for Machine {
    fn version(&self) -> String {
        "dhow://test".to_owned()
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        let sandbox = {
            let mut state = self.state();
            state.number += 1;
            let addresses = if config.host.network {
                Vec::new()
            } else {
                vec![ADDRESS]
            };
            let sandbox = Sandbox {
                id: format!("sandbox-{}", state.number),
                metadata: config.metadata.clone(),
                is_ready: true,
                created: SystemTime::now(),
                addresses,
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            };
            let entry = (sandbox.clone(), config);
            state.sandboxes.insert(sandbox.id.clone(), entry);
            sandbox
        };
        self.tell(&sandbox.id, None, EventKind::Created);
        Ok(sandbox)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let ids: Vec<String> = {
            let mut state = self.state();
            let (sandbox, _) = state.sandboxes.get_mut(id).ok_or_else(|| absent(id))?;
            sandbox.is_ready = false;
            let containers = state.containers.values();
            let own = containers.filter(|(one, _)| one.sandbox == id);
            own.map(|(one, _)| one.id.clone()).collect()
        };
        for container in ids {
            self.end(&container, 137);
        }
        self.tell(id, None, EventKind::Stopped);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.stop_sandbox(id).await?;
        {
            let mut state = self.state();
            state.containers.retain(|_, (one, _)| one.sandbox != id);
            state.sandboxes.remove(id);
        }
        self.tell(id, None, EventKind::Removed);
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let state = self.state();
        Ok(state
            .sandboxes
            .values()
            .map(|(one, _)| one.clone())
            .collect())
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<String> {
        for mount in &config.mounts {
            if !mount.host_path.exists() {
                let path = mount.host_path.display();
                return Err(RuntimeError::Invalid(format!("{path} does not exist")));
            }
        }
        let id = {
            let mut state = self.state();
            state
                .sandboxes
                .get(sandbox)
                .ok_or_else(|| absent(sandbox))?;
            state.number += 1;
            let container = Container {
                id: format!("container-{}", state.number),
                sandbox: sandbox.to_owned(),
                name: config.name.clone(),
                attempt: config.attempt,
                state: ContainerState::Created,
                created: SystemTime::now(),
                started: None,
                finished: None,
                exit_code: 0,
                oom_killed: false,
                message: String::new(),
                image: config.image.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            };
            let id = container.id.clone();
            state.containers.insert(id.clone(), (container, config));
            id
        };
        self.tell(sandbox, Some(&id), EventKind::Created);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let (sandbox, config) = {
            let mut state = self.state();
            let (container, config) = state.containers.get_mut(id).ok_or_else(|| absent(id))?;
            container.started = Some(SystemTime::now());
            if config.command.first().is_some_and(|word| word == "absent") {
                container.state = ContainerState::Exited;
                container.exit_code = 128;
                container.finished = Some(SystemTime::now());
                container.message = "no such program".to_owned();
            } else {
                container.state = ContainerState::Running;
            }
            (container.sandbox.clone(), config.clone())
        };
        self.tell(&sandbox, Some(id), EventKind::Started);
        let words: Vec<&str> = config.command.iter().map(String::as_str).collect();
        match words[..] {
            ["absent"] => return Err(RuntimeError::Command("no such program".to_owned())),
            ["exit", code] => self.end(id, code.parse().expect("a number")),
            ["say", code, text] => {
                let mut mounts = config.mounts.iter();
                let file = mounts
                    .find(|mount| mount.container_path == "/dev/termination-log")
                    .expect("a file for last words");
                std::fs::write(&file.host_path, text).expect("written");
                self.end(id, code.parse().expect("a number"));
            }
            _ => {}
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let is_stubborn = {
            let mut state = self.state();
            state.stops.push(grace);
            let asked = state.containers.get(id);
            asked.is_some_and(|(_, config)| config.command == ["stubborn"])
        };
        self.changes.send_modify(|number| *number += 1);
        if is_stubborn {
            // What it takes is the subject here.
            tokio::time::sleep(grace).await;
            self.end(id, 137);
        } else {
            self.end(id, 143);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let removed = self.state().containers.remove(id);
        if let Some((container, _)) = removed {
            self.tell(&container.sandbox, Some(id), EventKind::Removed);
        }
        Ok(())
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        let state = self.state();
        Ok(state
            .containers
            .values()
            .map(|(one, _)| one.clone())
            .collect())
    }

    fn events(&self) -> BoxStream<'static, Event> {
        let events = self.events.subscribe();
        stream::unfold(events, |mut events| async {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }

    async fn exec(&self, id: &str, exec: Exec) -> Result<Session> {
        let code = {
            let mut state = self.state();
            state.execs.push((id.to_owned(), exec.command.clone()));
            let word = exec.command.first().cloned().unwrap_or_default();
            state.codes.get(&word).copied().unwrap_or(0)
        };
        self.changes.send_modify(|number| *number += 1);
        let (sender, exit) = oneshot::channel();
        sender.send(code).expect("the other end is here");
        Ok(Session {
            stdin: None,
            output: stream::empty().boxed(),
            resize: None,
            exit: Some(exit),
        })
    }

    async fn attach(&self, _id: &str, _stdin: bool) -> Result<Session> {
        Err(RuntimeError::Failed("nothing to attach to".to_owned()))
    }

    async fn port_forward(&self, _sandbox: &str, _port: u16) -> Result<Box<dyn PortStream>> {
        Err(RuntimeError::Failed("nothing to connect to".to_owned()))
    }

    async fn logs(&self, _id: &str, _options: LogOptions) -> Result<BoxStream<'static, LogLine>> {
        Ok(stream::empty().boxed())
    }

    async fn stats(&self) -> Result<Vec<Stats>> {
        Ok(Vec::new())
    }

    async fn pull_image(&self, name: &str, credentials: Option<Credentials>) -> Result<Image> {
        if name.starts_with("slow") {
            // Nothing comes, for as long as somebody waits.
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        state.pulls.push((name.to_owned(), credentials.clone()));
        if name.starts_with("private") && credentials.is_none() {
            return Err(RuntimeError::Image("unauthorized".to_owned()));
        }
        if name.starts_with("absent") {
            return Err(RuntimeError::Image("manifest unknown".to_owned()));
        }
        let found = image(name);
        state.images.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        Ok(self.state().images.get(name).cloned())
    }

    async fn images(&self) -> Result<Vec<Image>> {
        Ok(self.state().images.values().cloned().collect())
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        self.state().images.remove(name);
        Ok(())
    }
}
