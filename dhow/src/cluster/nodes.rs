//! The API server's way to node agents: those of this process, by a pipe.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use dhow_apiserver::{Connecting, NodeConnector, NodeStream};
use dhow_node::{Agent, PodRuntime, StreamServer};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

/// Bytes that a pipe holds.
const PIPE: usize = 64 << 10;

/// Servers of the nodes in this process, by the name of the node.
#[derive(Default)]
pub(crate) struct Nodes {
    servers: Mutex<BTreeMap<String, StreamServer>>,
}

impl Nodes {
    /// Adds a node, or takes another agent for it.
    pub(crate) fn add(&self, name: String, agent: &Arc<Agent>, runtime: Arc<dyn PodRuntime>) {
        let agent = Arc::downgrade(agent);
        let waiting = move |namespace: &str, pod: &str, container: &str| {
            let running = agent.upgrade()?.pod(namespace, pod)?;
            waits_for(&running.pod, container)
        };
        let server = StreamServer::new(runtime).with_waiting(Arc::new(waiting));
        self.servers.lock().insert(name, server);
    }
}

/// Why a container has not been started.
fn waits_for(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let found = all
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == container)?;
    found.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

impl NodeConnector for Nodes {
    fn connect<'a>(&'a self, node: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let server = self.servers.lock().get(node).cloned().ok_or_else(|| {
                let text = format!("no agent serves node {node}");
                io::Error::new(io::ErrorKind::NotFound, text)
            })?;
            let (ours, theirs) = tokio::io::duplex(PIPE);
            tokio::spawn(async move { server.serve(theirs).await });
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}
