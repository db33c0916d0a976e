//! Reconcilers that turn what is wanted into objects, one module each.
//!
//! They are clients of the Kubernetes API and nothing else: they read and
//! write objects, wake by watches, and keep no state of their own. Each run of
//! a reconciler looks at things as they are, so it may be repeated, cut off or
//! run late without harm. What to do next is decided by pure functions
//! ([`rollout`] for Deployments).
//!
//! Not here: choosing nodes (`dhow-scheduler`) and running pods (`dhow-node`).

mod accounts;
mod deployment;
mod endpoints;
mod error;
mod gc;
mod job;
mod namespace;
mod nodes;
mod owner;
mod replicaset;
mod resources;
pub mod rollout;

use kube::Client;

pub use error::Error;

/// Runs all controllers until it is dropped.
///
/// `root_certificate` (PEM) is published to every namespace as the ConfigMap
/// `kube-root-ca.crt`.
pub async fn run(client: Client, root_certificate: String) {
    tokio::join!(
        replicaset::run(client.clone()),
        deployment::run(client.clone()),
        endpoints::run(client.clone()),
        namespace::run(client.clone()),
        gc::run(client.clone()),
        job::run(client.clone()),
        nodes::run(client.clone()),
        accounts::run(client, root_certificate),
    );
}
