//! Deployments: one ReplicaSet per pod template, and the way from one to the
//! next.
//!
//! Guarantee: at any time at most `replicas + maxSurge` pods are asked for, and
//! old pods are taken away only while `replicas - maxUnavailable` stay
//! available ([`rollout`]). A ReplicaSet belongs to the template whose hash its
//! name and labels carry; the hash is computed from the template alone, so a
//! run that was cut off finds what it made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::{Error, again};
use crate::owner::{controller_reference, is_controlled_by};
use crate::replicaset::selector;
use crate::rollout::{self, Bounds, Set};

const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Seconds without progress after which a rollout counts as stuck.
const PROGRESS_DEADLINE: i32 = 600;
/// Old ReplicaSets kept for going back.
const HISTORY: i32 = 10;

pub(crate) async fn run(client: Client) {
    let deployments: Api<Deployment> = Api::all(client.clone());
    let sets: Api<ReplicaSet> = Api::all(client.clone());
    Controller::new(deployments, watcher::Config::default())
        .owns(sets, watcher::Config::default())
        .run(reconcile, again, Arc::new(client))
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(deployment: Arc<Deployment>, client: Arc<Client>) -> Result<Action, Error> {
    if deployment.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = deployment
        .namespace()
        .ok_or(Error::Incomplete("a Deployment", "namespace"))?;
    let uid = deployment
        .uid()
        .ok_or(Error::Incomplete("a Deployment", "uid"))?;
    let spec = &deployment.spec;
    let sets: Api<ReplicaSet> = Api::namespaced(Client::clone(&client), &namespace);
    let mut owned: Vec<ReplicaSet> = sets
        .list(&ListParams::default().labels(&selector(&spec.selector)))
        .await?
        .items
        .into_iter()
        .filter(|set| is_controlled_by(&set.metadata, &uid))
        .collect();
    owned.sort_by_key(revision);

    let hash = template_hash(&spec.template);
    let is_new = |set: &ReplicaSet| set.labels().get(HASH_LABEL) == Some(&hash);
    let newest = owned.iter().map(revision).max().unwrap_or(0);
    let new = match owned.iter().position(is_new) {
        Some(at) => {
            let set = owned.remove(at);
            // Going back to an old template makes it the newest again.
            if revision(&set) < newest {
                mark(&sets, &set, newest + 1).await?
            } else {
                set
            }
        }
        None if spec.paused == Some(true) => {
            return settle(&client, &deployment, None, &owned).await;
        }
        None => {
            let replicas = first_replicas(spec, &owned);
            let set = new_set(&deployment, &hash, replicas, newest + 1)?;
            sets.create(&PostParams::default(), &set).await?
        }
    };
    let (new, old) = if spec.paused == Some(true) {
        (new, owned)
    } else {
        move_on(&sets, spec, new, owned).await?
    };
    if revision(&new) != revision_of(deployment.annotations()) {
        let deployments: Api<Deployment> = Api::namespaced(Client::clone(&client), &namespace);
        let patch =
            json!({ "metadata": { "annotations": { REVISION: revision(&new).to_string() } } });
        deployments
            .patch(
                &deployment.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?;
    }
    forget(&sets, spec, &old).await?;
    settle(&client, &deployment, Some(&new), &old).await
}

/// How many pods a new ReplicaSet begins with.
fn first_replicas(spec: &DeploymentSpec, old: &[ReplicaSet]) -> i32 {
    let desired = spec.replicas.unwrap_or(1);
    if is_recreate(spec) {
        return if old.iter().any(|set| pods(set) > 0 || wanted(set) > 0) {
            0
        } else {
            desired
        };
    }
    let numbers: Vec<Set> = old.iter().map(numbers).collect();
    rollout::next(desired, bounds(spec), Set::default(), &numbers).0
}

/// Scales the sets one step further.
async fn move_on(
    sets: &Api<ReplicaSet>,
    spec: &DeploymentSpec,
    new: ReplicaSet,
    old: Vec<ReplicaSet>,
) -> Result<(ReplicaSet, Vec<ReplicaSet>), Error> {
    let desired = spec.replicas.unwrap_or(1);
    let (new_wanted, old_wanted) = if is_recreate(spec) {
        let is_over = old.iter().all(|set| pods(set) == 0 && wanted(set) == 0);
        (
            if is_over { desired } else { wanted(&new) },
            vec![0; old.len()],
        )
    } else {
        let old_numbers: Vec<Set> = old.iter().map(numbers).collect();
        rollout::next(desired, bounds(spec), numbers(&new), &old_numbers)
    };
    let new = scale(sets, new, new_wanted).await?;
    let mut scaled = Vec::with_capacity(old.len());
    for (set, wanted) in old.into_iter().zip(old_wanted) {
        scaled.push(scale(sets, set, wanted).await?);
    }
    Ok((new, scaled))
}

async fn scale(sets: &Api<ReplicaSet>, set: ReplicaSet, to: i32) -> Result<ReplicaSet, Error> {
    if wanted(&set) == to {
        return Ok(set);
    }
    let patch = json!({
        "metadata": { "resourceVersion": set.resource_version() },
        "spec": { "replicas": to },
    });
    Ok(sets
        .patch(
            &set.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await?)
}

async fn mark(
    sets: &Api<ReplicaSet>,
    set: &ReplicaSet,
    revision: i64,
) -> Result<ReplicaSet, Error> {
    let patch = json!({ "metadata": { "annotations": { REVISION: revision.to_string() } } });
    Ok(sets
        .patch(
            &set.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await?)
}

/// Deletes old ReplicaSets beyond the history that is kept.
async fn forget(
    sets: &Api<ReplicaSet>,
    spec: &DeploymentSpec,
    old: &[ReplicaSet],
) -> Result<(), Error> {
    let kept = usize::try_from(spec.revision_history_limit.unwrap_or(HISTORY)).unwrap_or(0);
    let idle: Vec<&ReplicaSet> = old
        .iter()
        .filter(|set| {
            wanted(set) == 0 && pods(set) == 0 && set.metadata.deletion_timestamp.is_none()
        })
        .collect();
    for set in idle.iter().take(idle.len().saturating_sub(kept)) {
        match sets.delete(&set.name_any(), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => other.map(|_| ())?,
        }
    }
    Ok(())
}

fn new_set(
    deployment: &Deployment,
    hash: &str,
    replicas: i32,
    revision: i64,
) -> Result<ReplicaSet, Error> {
    let spec = &deployment.spec;
    let mut template = spec.template.clone();
    let mut metadata = template.metadata.take().unwrap_or_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.into());
    let labels = labels.clone();
    template.metadata = Some(metadata);
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.into(), hash.into());
    let mut annotations = deployment.annotations().clone();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.insert(REVISION.into(), revision.to_string());
    Ok(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)?]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    })
}

/// Writes the status if it changed.
async fn settle(
    client: &Client,
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
) -> Result<Action, Error> {
    let spec = &deployment.spec;
    let namespace = deployment
        .namespace()
        .ok_or(Error::Incomplete("a Deployment", "namespace"))?;
    let before = deployment.status.clone().unwrap_or_default();
    let status = next_status(spec, deployment.metadata.generation, &before, new, old);
    if before != status {
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        deployments
            .patch_status(&deployment.name_any(), &PatchParams::default(), &patch)
            .await?;
    }
    let is_over = status.updated_replicas == Some(spec.replicas.unwrap_or(1))
        && status.available_replicas == status.updated_replicas
        && status.replicas == status.updated_replicas;
    if is_over || spec.paused == Some(true) {
        return Ok(Action::await_change());
    }
    // A rollout that is stuck is noticed without an event.
    let deadline = spec.progress_deadline_seconds.unwrap_or(PROGRESS_DEADLINE);
    Ok(Action::requeue(Duration::from_secs(
        u64::try_from(deadline).unwrap_or(0) + 1,
    )))
}

fn next_status(
    spec: &DeploymentSpec,
    generation: Option<i64>,
    before: &DeploymentStatus,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
) -> DeploymentStatus {
    let desired = spec.replicas.unwrap_or(1);
    let all = || old.iter().chain(new);
    let sum = |number: fn(&ReplicaSet) -> i32| all().map(number).sum::<i32>();
    let (total, ready, available) = (sum(pods), sum(ready), sum(available));
    let updated = new.map_or(0, pods);
    let mut status = DeploymentStatus {
        observed_generation: generation,
        replicas: Some(total),
        updated_replicas: Some(updated),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        unavailable_replicas: Some((desired.max(total) - available).max(0)),
        collision_count: before.collision_count,
        ..DeploymentStatus::default()
    };
    let least = desired - bounds(spec).unavailable;
    let mut conditions = vec![if available >= least {
        (
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".to_owned(),
        )
    } else {
        (
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".to_owned(),
        )
    }];
    let is_over = updated == desired && total == desired && available == desired;
    let has_moved = before.updated_replicas != status.updated_replicas
        || before.available_replicas != status.available_replicas
        || before.ready_replicas != status.ready_replicas
        || before.replicas != status.replicas
        || before.observed_generation != generation;
    let known = before
        .conditions
        .iter()
        .flatten()
        .find(|known| known.type_.as_deref() == Some("Progressing"));
    let idle = known
        .and_then(|known| known.last_update_time.as_ref())
        .map_or(0, |at| {
            k8s_openapi::jiff::Timestamp::now().as_second() - at.0.as_second()
        });
    let deadline = i64::from(spec.progress_deadline_seconds.unwrap_or(PROGRESS_DEADLINE));
    if let Some(new) = new {
        let name = new.name_any();
        conditions.push(if is_over {
            (
                "Progressing",
                "True",
                "NewReplicaSetAvailable",
                format!("ReplicaSet \"{name}\" has successfully progressed."),
            )
        } else if !has_moved && idle > deadline {
            (
                "Progressing",
                "False",
                "ProgressDeadlineExceeded",
                format!("ReplicaSet \"{name}\" has timed out progressing."),
            )
        } else {
            (
                "Progressing",
                "True",
                "ReplicaSetUpdated",
                format!("ReplicaSet \"{name}\" is progressing."),
            )
        });
    }
    status.conditions = Some(
        conditions
            .into_iter()
            .map(|(type_, value, reason, message)| {
                let known = before
                    .conditions
                    .iter()
                    .flatten()
                    .find(|known| known.type_.as_deref() == Some(type_));
                let now = Time(now());
                let is_same = known.is_some_and(|known| {
                    known.status.as_deref() == Some(value)
                        && known.reason.as_deref() == Some(reason)
                });
                let moves = type_ == "Progressing" && has_moved && !is_over;
                DeploymentCondition {
                    type_: Some(type_.into()),
                    status: Some(value.into()),
                    reason: Some(reason.into()),
                    message: Some(message),
                    last_transition_time: known
                        .filter(|known| known.status.as_deref() == Some(value))
                        .and_then(|known| known.last_transition_time.clone())
                        .or(Some(now.clone())),
                    last_update_time: known
                        .filter(|_| is_same && !moves)
                        .and_then(|known| known.last_update_time.clone())
                        .or(Some(now)),
                }
            })
            .collect(),
    );
    status
}

/// The time now, in whole seconds as the API keeps it.
fn now() -> k8s_openapi::jiff::Timestamp {
    let now = k8s_openapi::jiff::Timestamp::now();
    k8s_openapi::jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// A hash of the template, in letters that make no words.
fn template_hash(template: &PodTemplateSpec) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|metadata| metadata.labels.as_mut())
    {
        labels.remove(HASH_LABEL);
    }
    let bytes = serde_json::to_vec(&template).unwrap_or_default();
    // FNV-1a, 64 bits.
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..10)
        .map(|_| {
            let letter = LETTERS[(hash % 27) as usize];
            hash /= 27;
            char::from(letter)
        })
        .collect()
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref())
        == Some("Recreate")
}

fn bounds(spec: &DeploymentSpec) -> Bounds {
    let desired = spec.replicas.unwrap_or(1);
    if is_recreate(spec) {
        return Bounds {
            surge: 0,
            unavailable: desired,
        };
    }
    let rolling = spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    Bounds::resolve(
        rolling.and_then(|rolling| rolling.max_surge.as_ref()),
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        desired,
    )
}

fn numbers(set: &ReplicaSet) -> Set {
    Set {
        wanted: wanted(set),
        available: available(set),
    }
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(0)
}

fn pods(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn ready(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

fn revision(set: &ReplicaSet) -> i64 {
    revision_of(set.annotations())
}

fn revision_of(annotations: &BTreeMap<String, String>) -> i64 {
    annotations
        .get(REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
