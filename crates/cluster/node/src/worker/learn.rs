//! What a worker finds out by looking at containers, and what it tells people.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Container as Spec, ContainerStatus, PodStatus};

use super::Worker;
use crate::events::Tone;
use crate::host::read_message;
use crate::labels;
use crate::lifecycle::{Health, View};
use crate::probe::{Patient, Prober, first_health, is_probed};
use crate::runtime::{Container, ContainerState, LogOptions, Output};

/// Lines and bytes of a log that stand for last words.
const N_LINES: usize = 80;
const N_BYTES: usize = 2048;
/// A log is read for so long.
const PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    /// Reads the last words of containers that have ended.
    pub(super) async fn learn(&mut self, view: &View) {
        let is_there = |id: &String| view.containers.iter().any(|one| one.id == *id);
        self.memory.messages.retain(|id, _| is_there(id));
        self.memory.health.retain(|id, _| is_there(id));
        for container in &view.containers {
            let is_new = !self.memory.messages.contains_key(&container.id);
            if container.state == ContainerState::Exited && is_new {
                let words = self.last_words(container).await;
                self.memory.messages.insert(container.id.clone(), words);
            }
        }
        self.probe(view);
    }

    /// Has running containers probed, and no others.
    fn probe(&mut self, view: &View) {
        let running: Vec<&Container> = view
            .containers
            .iter()
            .filter(|container| container.state == ContainerState::Running)
            .collect();
        let runs = |id: &String| running.iter().any(|container| container.id == *id);
        self.probers.retain(|id, _| runs(id));
        self.hooked.retain(runs);
        let pod = Arc::clone(&self.pod);
        let Some(spec) = &pod.spec else {
            return;
        };
        let inits = spec.init_containers.iter().flatten();
        let all: Vec<&Spec> = spec.containers.iter().chain(inits).collect();
        for container in running {
            let wish = all.iter().find(|spec| spec.name == container.name);
            let Some(wish) = wish.filter(|wish| is_probed(wish)) else {
                continue;
            };
            let health = match self.memory.health.get(&container.id) {
                Some(health) => health.clone(),
                None => {
                    let health = self.known_health(wish, container);
                    let id = container.id.clone();
                    self.memory.health.insert(id, health.clone());
                    health
                }
            };
            let is_starting = self.memory.starting.as_ref() == Some(&container.name);
            if is_starting || self.probers.contains_key(&container.id) {
                continue;
            }
            let mut sandboxes = view.sandboxes.iter();
            let sandbox = sandboxes.find(|sandbox| sandbox.id == container.sandbox);
            let patient = Patient {
                shared: Arc::clone(&self.shared),
                pod: Arc::clone(&self.pod),
                spec: (*wish).clone(),
                id: container.id.clone(),
                addresses: sandbox.map_or_else(Vec::new, |sandbox| sandbox.addresses.clone()),
                started: container.started.unwrap_or(container.created),
            };
            let prober = Prober::new(patient, health, self.finding.clone());
            self.probers.insert(container.id.clone(), prober);
        }
    }

    /// What is thought of a container before it is probed: what the API says
    /// of it, if that is of this one, for an agent that was restarted.
    fn known_health(&self, spec: &Spec, container: &Container) -> Health {
        let first = first_health(spec);
        let status = self.pod.status.as_ref();
        let statuses = status.iter().flat_map(|status| {
            let inits = status.init_container_statuses.iter().flatten();
            status.container_statuses.iter().flatten().chain(inits)
        });
        let id = format!("dhow://{}", container.id);
        let mut known = statuses.filter(|known| known.container_id.as_ref() == Some(&id));
        match known.next() {
            Some(known) if known.started == Some(true) => Health {
                is_started: true,
                is_ready: first.is_ready || known.ready,
                condemned: None,
            },
            _ => first,
        }
    }

    async fn last_words(&self, container: &Container) -> String {
        let file = container.annotations.get(labels::MESSAGE_FILE);
        let file = file.filter(|file| !file.is_empty());
        let words = file.map(|file| read_message(Path::new(file)));
        let words = words.unwrap_or_default();
        let policy = container.annotations.get(labels::MESSAGE_POLICY);
        let asks_log = policy.is_some_and(|policy| policy == "FallbackToLogsOnError");
        if !words.is_empty() || !asks_log || container.exit_code == 0 {
            return words;
        }
        let read = self.read_log(&container.id);
        tokio::time::timeout(PATIENCE, read)
            .await
            .unwrap_or_default()
    }

    async fn read_log(&self, id: &str) -> String {
        let options = LogOptions {
            tail: Some(N_LINES),
            ..LogOptions::default()
        };
        let Ok(mut lines) = self.shared.runtime.logs(id, options).await else {
            return String::new();
        };
        let mut text = Vec::new();
        while let Some(line) = lines.next().await {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = line.text;
            text.extend_from_slice(&bytes);
            let surplus = text.len().saturating_sub(N_BYTES);
            text.drain(..surplus);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Makes events of what a new status says for the first time.
    pub(super) fn tell_changes(&self, new: &PodStatus) {
        let old = self.pod.status.as_ref();
        let of = |status: &PodStatus| -> Vec<ContainerStatus> {
            let inits = status.init_container_statuses.iter().flatten();
            let mains = status.container_statuses.iter().flatten();
            let ephemerals = status.ephemeral_container_statuses.iter().flatten();
            inits.chain(mains).chain(ephemerals).cloned().collect()
        };
        let former = old.map(of).unwrap_or_default();
        for status in of(new) {
            let before = former.iter().find(|one| one.name == status.name);
            let reason = waiting(&status);
            if reason == before.and_then(waiting) && reason_again(before, &status) {
                continue;
            }
            let tell = |reason: &str, message: String| {
                self.shared.events.container(
                    &self.pod,
                    &status.name,
                    Tone::Warning,
                    reason,
                    message,
                );
            };
            match reason {
                Some("CrashLoopBackOff") => tell(
                    "BackOff",
                    format!(
                        "Back-off restarting failed container {} in pod {}",
                        status.name,
                        crate::events::pod_words(&self.pod)
                    ),
                ),
                Some("ImagePullBackOff") => {
                    let image = &status.image;
                    tell("BackOff", format!("Back-off pulling image \"{image}\""));
                    tell("Failed", "Error: ImagePullBackOff".to_owned());
                }
                _ => {}
            }
        }
    }
}

fn waiting(status: &ContainerStatus) -> Option<&str> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    waiting.reason.as_deref()
}

/// Whether the same reason is for the same restart.
fn reason_again(before: Option<&ContainerStatus>, status: &ContainerStatus) -> bool {
    before.is_some_and(|before| before.restart_count == status.restart_count)
}
