//! Namespaces on their way out: what is in them goes first.
//!
//! Pods go before everything else, so that what they use (policies, accounts,
//! secrets) is there while they end; then all other kinds at once. What stays,
//! because of a grace period or a finalizer, is told in the namespace's
//! conditions and waited for by a watch. When nothing is left the finalizer
//! `kubernetes` is taken off, and the API server drops the namespace.
//!
//! Guarantee: the finalizer goes only after a look at every kind found nothing.
//! Assumption: the API server lets nothing new into a terminating namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::{Error, again};
use crate::resources::{Kind, discover};

const FINALIZER: &str = "kubernetes";
/// Kinds asked for at a time.
const AT_ONCE: usize = 8;
/// A watch for leftovers that hears nothing for so long looks again.
const REPAIR: u32 = 30;
/// After a failure of single kinds.
const RETRY: Duration = Duration::from_secs(2);

pub(crate) async fn run(client: Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    Controller::new(namespaces, watcher::Config::default())
        .run(reconcile, again, Arc::new(client))
        .for_each(|_| std::future::ready(()))
        .await;
}

/// What is left of one kind after a deletion.
#[derive(Debug, Clone)]
struct Leftover {
    kind: Kind,
    count: usize,
    /// How many objects wait for which finalizer.
    finalizers: BTreeMap<String, usize>,
    /// Where a watch goes on from what was seen.
    version: String,
}

/// What one pass over a namespace found.
#[derive(Debug, Default)]
struct Pass {
    leftovers: Vec<Leftover>,
    failures: Vec<String>,
}

async fn reconcile(namespace: Arc<Namespace>, client: Arc<Client>) -> Result<Action, Error> {
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.clone())
        .unwrap_or_default();
    let is_ours = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    if namespace.metadata.deletion_timestamp.is_none() || !is_ours {
        return Ok(Action::await_change());
    }
    let name = namespace.name_any();
    let kinds = match discover(&client).await {
        Ok(kinds) => kinds,
        Err(error) => {
            let found = Err(error.to_string());
            report(&client, &namespace, &conditions(&found)).await?;
            return Err(error.into());
        }
    };
    let (pods, others): (Vec<Kind>, Vec<Kind>) = kinds
        .into_iter()
        .filter(|kind| kind.is_namespaced)
        .partition(|kind| kind.full_name() == "pods");
    let mut pass = sweep(&client, &name, &pods).await;
    if pass.leftovers.is_empty() && pass.failures.is_empty() {
        pass = sweep(&client, &name, &others).await;
    }
    let is_empty = pass.leftovers.is_empty() && pass.failures.is_empty();
    let failed = !pass.failures.is_empty();
    let found = Ok(pass);
    report(&client, &namespace, &conditions(&found)).await?;
    if is_empty {
        finalize(&client, &name).await?;
        return Ok(Action::await_change());
    }
    if failed {
        return Ok(Action::requeue(RETRY));
    }
    let leftovers = found.map(|pass| pass.leftovers).unwrap_or_default();
    until_one_goes(&client, &name, &leftovers).await;
    Ok(Action::requeue(Duration::ZERO))
}

/// Deletes everything of these kinds and looks what stays.
async fn sweep(client: &Client, namespace: &str, kinds: &[Kind]) -> Pass {
    let found: Vec<(String, Result<Option<Leftover>, kube::Error>)> = stream::iter(kinds.to_vec())
        .map(|kind| async move {
            let name = kind.full_name();
            (name, delete_all(client, namespace, kind).await)
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut pass = Pass::default();
    for (name, outcome) in found {
        match outcome {
            Ok(leftover) => pass.leftovers.extend(leftover),
            // The kind itself was taken away meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => pass.failures.push(format!("{name}: {error}")),
        }
    }
    pass
}

async fn delete_all(
    client: &Client,
    namespace: &str,
    kind: Kind,
) -> Result<Option<Leftover>, kube::Error> {
    let api = kind.metadata(client, namespace);
    let list = api.list(&ListParams::default()).await?;
    if list.items.is_empty() {
        return Ok(None);
    }
    api.delete_collection(&DeleteParams::background(), &ListParams::default())
        .await?;
    let list = api.list(&ListParams::default()).await?;
    let mut finalizers = BTreeMap::new();
    for finalizer in list.items.iter().flat_map(ResourceExt::finalizers) {
        *finalizers.entry(finalizer.clone()).or_insert(0) += 1;
    }
    let version = list.metadata.resource_version.unwrap_or_default();
    Ok((!list.items.is_empty()).then_some(Leftover {
        kind,
        count: list.items.len(),
        finalizers,
        version,
    }))
}

/// Waits until an object of what is left is gone, or a watch ends.
async fn until_one_goes(client: &Client, namespace: &str, leftovers: &[Leftover]) {
    let mut waits: FuturesUnordered<_> = leftovers
        .iter()
        .map(|leftover| async move {
            let api = leftover.kind.metadata(client, namespace);
            let parameters = WatchParams::default().timeout(REPAIR);
            let changes = api.watch(&parameters, &leftover.version).await?;
            let mut changes = std::pin::pin!(changes);
            while let Some(change) = changes.try_next().await? {
                if matches!(change, WatchEvent::Deleted(_) | WatchEvent::Error(_)) {
                    break;
                }
            }
            Ok::<(), kube::Error>(())
        })
        .collect();
    if let Some(Err(error)) = waits.next().await {
        tracing::debug!(%error, namespace, "a watch for what is left ended early");
        tokio::time::sleep(RETRY).await;
    }
}

async fn finalize(client: &Client, name: &str) -> Result<(), Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(mut namespace) = namespaces.get_opt(name).await? else {
        return Ok(());
    };
    if namespace.metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    if let Some(finalizers) = namespace
        .spec
        .as_mut()
        .and_then(|spec| spec.finalizers.as_mut())
    {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    namespaces
        .replace_subresource("finalize", name, &PostParams::default(), &namespace)
        .await?;
    Ok(())
}

/// Type, whether it holds, reason and message.
type Told = (&'static str, bool, &'static str, String);

fn conditions(found: &Result<Pass, String>) -> Vec<Told> {
    let pass = match found {
        Err(error) => {
            let message = format!("Discovery failed for some groups: {error}");
            return vec![(
                "NamespaceDeletionDiscoveryFailure",
                true,
                "DiscoveryFailed",
                message,
            )];
        }
        Ok(pass) => pass,
    };
    let mut told = vec![
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
    ];
    let failures = &pass.failures;
    told.push(if failures.is_empty() {
        (
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        )
    } else {
        (
            "NamespaceDeletionContentFailure",
            true,
            "ContentDeletionFailed",
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                failures.len(),
                failures.join(", ")
            ),
        )
    });
    let left: Vec<String> = pass
        .leftovers
        .iter()
        .map(|left| {
            let (name, count) = (left.kind.full_name(), left.count);
            // The core group's name is empty, its point is not.
            let point = if name.contains('.') { "" } else { "." };
            format!("{name}{point} has {count} resource instances")
        })
        .collect();
    told.push(if left.is_empty() {
        (
            "NamespaceContentRemaining",
            false,
            "ContentRemoved",
            "All content successfully removed".to_owned(),
        )
    } else {
        (
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", left.join(", ")),
        )
    });
    let mut waits = BTreeMap::new();
    for (finalizer, count) in pass.leftovers.iter().flat_map(|left| &left.finalizers) {
        *waits.entry(finalizer).or_insert(0) += count;
    }
    let waits: Vec<String> = waits
        .into_iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    told.push(if waits.is_empty() {
        (
            "NamespaceFinalizersRemaining",
            false,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished".to_owned(),
        )
    } else {
        (
            "NamespaceFinalizersRemaining",
            true,
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                waits.join(", ")
            ),
        )
    });
    told
}

/// Writes the conditions if they changed.
async fn report(client: &Client, namespace: &Namespace, told: &[Told]) -> Result<(), Error> {
    let known = namespace
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let mut next = known.clone();
    for (type_, holds, reason, message) in told {
        let status = if *holds { "True" } else { "False" };
        let last_transition_time = known
            .iter()
            .find(|condition| condition.type_ == *type_ && condition.status == status)
            .and_then(|condition| condition.last_transition_time.clone())
            .or_else(|| Some(now.clone()));
        let condition = NamespaceCondition {
            type_: (*type_).to_owned(),
            status: status.to_owned(),
            reason: Some((*reason).to_owned()),
            message: Some(message.clone()),
            last_transition_time,
        };
        match next.iter_mut().find(|known| known.type_ == *type_) {
            Some(known) => *known = condition,
            None => next.push(condition),
        }
    }
    if next == known {
        return Ok(());
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let patch = Patch::Merge(json!({ "status": { "phase": "Terminating", "conditions": next } }));
    namespaces
        .patch_status(&namespace.name_any(), &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(group: &str, plural: &str) -> Kind {
        Kind {
            resource: kube::discovery::ApiResource {
                group: group.into(),
                version: "v1".into(),
                api_version: "v1".into(),
                kind: "K".into(),
                plural: plural.into(),
            },
            is_namespaced: true,
        }
    }

    #[test]
    fn what_stays_is_told_by_kind_and_finalizer() {
        let pass = Pass {
            leftovers: vec![
                Leftover {
                    kind: kind("", "pods"),
                    count: 2,
                    finalizers: [("a/b".to_owned(), 1)].into(),
                    version: "1".into(),
                },
                Leftover {
                    kind: kind("apps", "deployments"),
                    count: 1,
                    finalizers: [("a/b".to_owned(), 1)].into(),
                    version: "1".into(),
                },
            ],
            failures: Vec::new(),
        };
        let told = conditions(&Ok(pass));
        assert_eq!(
            told[3].3,
            "Some resources are remaining: pods. has 2 resource instances, deployments.apps has 1 resource instances"
        );
        assert_eq!(
            told[4].3,
            "Some content in the namespace has finalizers remaining: a/b in 2 resource instances"
        );
        assert!(conditions(&Ok(Pass::default())).iter().all(|told| !told.1));
    }
}
