//! ReplicaSets: as many pods as wanted, no more and no fewer.
//!
//! Guarantee: after each run the pods that it controls and that are neither
//! finished nor being deleted differ from the wanted number only by what was
//! just asked of the API. Pods are read from the API each time, not from a
//! cache, so a pod that was just made is counted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::{Error, again};
use crate::owner::{controller_reference, is_active, is_controlled_by, ready_since};

/// Pods made or deleted at a time.
const AT_ONCE: usize = 16;
/// Pods made or deleted in one run; the rest follows in the next.
const IN_ONE_RUN: usize = 500;

pub(crate) async fn run(client: Client) {
    let sets: Api<ReplicaSet> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client.clone());
    Controller::new(sets, watcher::Config::default())
        .owns(pods, watcher::Config::default())
        .run(reconcile, again, Arc::new(client))
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(set: Arc<ReplicaSet>, client: Arc<Client>) -> Result<Action, Error> {
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = set
        .namespace()
        .ok_or(Error::Incomplete("a ReplicaSet", "namespace"))?;
    let uid = set.uid().ok_or(Error::Incomplete("a ReplicaSet", "uid"))?;
    let spec = &set.spec;
    let pods: Api<Pod> = Api::namespaced(Client::clone(&client), &namespace);
    let found = pods
        .list(&ListParams::default().labels(&selector(&spec.selector)))
        .await?;
    let mut active: Vec<Pod> = found
        .items
        .into_iter()
        .filter(|pod| is_controlled_by(&pod.metadata, &uid) && is_active(pod))
        .collect();

    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        let missing = (wanted - active.len()).min(IN_ONE_RUN);
        let pod = new_pod(&set)?;
        let made: Vec<Result<Pod, kube::Error>> = stream::iter(0..missing)
            .map(|_| {
                let (pods, pod) = (pods.clone(), pod.clone());
                async move { pods.create(&PostParams::default(), &pod).await }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for pod in made {
            active.push(pod?);
        }
    } else if active.len() > wanted {
        active.sort_by_key(worth);
        let surplus = (active.len() - wanted).min(IN_ONE_RUN);
        let doomed: Vec<Pod> = active.drain(..surplus).collect();
        let deleted: Vec<Result<(), kube::Error>> = stream::iter(doomed)
            .map(|pod| {
                let pods = pods.clone();
                async move { delete(&pods, &pod).await }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        deleted.into_iter().collect::<Result<(), kube::Error>>()?;
    }
    let waits = report(&client, &namespace, &set, &active).await?;
    Ok(waits.map_or_else(Action::await_change, Action::requeue))
}

async fn delete(pods: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    match pods.delete(&pod.name_any(), &parameters).await {
        // Somebody else was faster.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

fn new_pod(set: &ReplicaSet) -> Result<Pod, Error> {
    let template = set.spec.template.clone().unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    Ok(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![controller_reference(set)?]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    })
}

/// What a pod is worth: the least go first. Unassigned before assigned,
/// pending before running, not ready before ready, younger before older.
fn worth(pod: &Pod) -> (bool, bool, bool, std::cmp::Reverse<Option<i64>>) {
    let is_assigned = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let created = pod.creation_timestamp().map(|time| time.0.as_second());
    (
        is_assigned,
        phase == Some("Running"),
        ready_since(pod).is_some(),
        std::cmp::Reverse(created),
    )
}

/// Writes the status if it changed; returns when it will change by itself,
/// because a pod will have been ready for long enough.
async fn report(
    client: &Client,
    namespace: &str,
    set: &ReplicaSet,
    active: &[Pod],
) -> Result<Option<Duration>, Error> {
    let spec = &set.spec;
    let patience = i64::from(spec.min_ready_seconds.unwrap_or(0));
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let (mut ready, mut available, mut waits) = (0, 0, None::<i64>);
    for since in active.iter().filter_map(ready_since) {
        ready += 1;
        let left = since + patience - now;
        if patience == 0 || left <= 0 {
            available += 1;
        } else {
            waits = Some(waits.map_or(left, |least| least.min(left)));
        }
    }
    let labels = spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let labeled = active
        .iter()
        .filter(|pod| {
            labels
                .iter()
                .all(|(name, value)| pod.labels().get(name) == Some(value))
        })
        .count();
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(count(labeled)),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        observed_generation: set.metadata.generation,
        ..ReplicaSetStatus::default()
    };
    if set.status.as_ref() != Some(&status) {
        let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        sets.patch_status(&set.name_any(), &PatchParams::default(), &patch)
            .await?;
    }
    Ok(waits
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs))
}

/// A label selector in the form of a query.
pub(crate) fn selector(selector: &LabelSelector) -> String {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(name, value)| format!("{name}={value}"));
    let expressions = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|expression| {
            let values = expression.values.clone().unwrap_or_default().join(",");
            match expression.operator.as_str() {
                "In" => format!("{} in ({values})", expression.key),
                "NotIn" => format!("{} notin ({values})", expression.key),
                "DoesNotExist" => format!("!{}", expression.key),
                _ => expression.key.clone(),
            }
        });
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}
