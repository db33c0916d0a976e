//! What kinds of objects there are, as discovery tells it.
//!
//! Not a cache: who needs the list often keeps it and asks again.

use kube::api::PartialObjectMeta;
use kube::core::DynamicObject;
use kube::discovery::{ApiResource, Discovery, Scope, verbs};
use kube::{Api, Client};

/// An object of any kind, of which only the metadata is read.
pub(crate) type Metadata = PartialObjectMeta<DynamicObject>;

/// One kind whose objects are stored, listed, watched and deleted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub resource: ApiResource,
    pub is_namespaced: bool,
}

impl Kind {
    /// Its objects' metadata in one namespace, or of the whole cluster if it
    /// is empty.
    pub(crate) fn metadata(&self, client: &Client, namespace: &str) -> Api<Metadata> {
        if self.is_namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }

    /// `pods`, `deployments.apps`.
    pub(crate) fn full_name(&self) -> String {
        if self.resource.group.is_empty() {
            self.resource.plural.clone()
        } else {
            format!("{}.{}", self.resource.plural, self.resource.group)
        }
    }
}

/// Every kind, each at the version its group prefers.
///
/// # Errors
/// When discovery cannot be read.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Kind>, kube::Error> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await?;
    let needed = [verbs::LIST, verbs::WATCH, verbs::DELETE];
    Ok(discovery
        .groups_alphabetical()
        .into_iter()
        // Another view of the core group's events.
        .filter(|group| group.name() != "events.k8s.io")
        .flat_map(|group| group.recommended_resources())
        .filter(|(_, can)| needed.iter().all(|verb| can.supports_operation(verb)))
        .map(|(resource, can)| Kind {
            resource,
            is_namespaced: can.scope == Scope::Namespaced,
        })
        .collect())
}
