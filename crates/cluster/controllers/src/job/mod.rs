//! Jobs: pods that run to their end, as many as wanted.
//!
//! What is next is decided by [`plan`]; here it is done. The Job and its pods
//! are read from the API each time, and the status is written before a pod's
//! finalizer goes, so that each pod is counted once whatever is cut off.
//!
//! Not done here yet: `backoffLimitPerIndex` and `successPolicy`, which are
//! kept and have no effect.

mod indexes;
mod plan;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::{Error, again};
use crate::owner::{controller_reference, is_controlled_by};
use crate::replicaset::selector;
use plan::{Counts, Doomed, FINALIZER, INDEX};

const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The controller that Jobs without another name in `managedBy` belong to.
const MANAGER: &str = "kubernetes.io/job-controller";
/// Pods changed at a time.
const AT_ONCE: usize = 16;
/// What the API refused is tried again after this time.
const BEFORE_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);
/// Pods made in one run; the rest follows in the next.
const IN_ONE_RUN: usize = 500;

pub(crate) async fn run(client: Client) {
    let jobs: Api<Job> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client.clone());
    let reconciling = Controller::new(jobs, watcher::Config::default())
        .owns(pods, watcher::Config::default().labels(JOB_NAME))
        .run(reconcile, again, Arc::new(client.clone()))
        .for_each(|_| std::future::ready(()));
    tokio::join!(reconciling, release_orphans(client));
}

async fn reconcile(seen: Arc<Job>, client: Arc<Client>) -> Result<Action, Error> {
    let namespace = seen
        .namespace()
        .ok_or(Error::Incomplete("a Job", "namespace"))?;
    let uid = seen.uid().ok_or(Error::Incomplete("a Job", "uid"))?;
    let jobs: Api<Job> = Api::namespaced(Client::clone(&client), &namespace);
    // Counting on what a cache has would count twice.
    let Some(job) = jobs.get_opt(&seen.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let Some(spec) = job.spec.as_ref().filter(|_| job.uid() == Some(uid.clone())) else {
        return Ok(Action::await_change());
    };
    if spec.managed_by.as_deref().unwrap_or(MANAGER) != MANAGER {
        return Ok(Action::await_change());
    }
    let pods: Api<Pod> = Api::namespaced(Client::clone(&client), &namespace);
    let wanted = spec.selector.clone().unwrap_or_default();
    let found = pods
        .list(&ListParams::default().labels(&selector(&wanted)))
        .await?;
    let owned: Vec<Pod> = found
        .items
        .into_iter()
        .filter(|pod| is_controlled_by(&pod.metadata, &uid))
        .collect();
    if job.metadata.deletion_timestamp.is_some() {
        let names: Vec<String> = owned.iter().map(ResourceExt::name_any).collect();
        each(names, |name| release(&pods, name)).await?;
        return Ok(Action::await_change());
    }
    let plan = plan::plan(&job, &owned, Timestamp::now());
    if plan.expires {
        expire(&jobs, &job).await?;
        return Ok(Action::await_change());
    }
    write(&jobs, &job, &plan.status).await?;
    each(plan.release, |name| release(&pods, name)).await?;
    each(plan.delete, |doomed| delete(&pods, doomed)).await?;
    let n_missing = plan.create.len();
    let mut create = plan.create;
    create.truncate(IN_ONE_RUN);
    each(create, |index| make(&pods, &job, index)).await?;
    Ok(if n_missing > IN_ONE_RUN {
        Action::requeue(std::time::Duration::ZERO)
    } else {
        plan.wake.map_or_else(Action::await_change, Action::requeue)
    })
}

/// Does the same for each, some at a time; all are tried before the first
/// error is returned.
async fn each<T, F>(list: Vec<T>, action: impl Fn(T) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let outcomes: Vec<Result<(), Error>> = stream::iter(list)
        .map(action)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    outcomes.into_iter().collect()
}

/// Writes the status if it changed, unless somebody changed the Job meanwhile.
async fn write(jobs: &Api<Job>, job: &Job, status: &JobStatus) -> Result<(), Error> {
    if job.status.as_ref() == Some(status) {
        return Ok(());
    }
    let mut job = job.clone();
    job.status = Some(status.clone());
    job.metadata.managed_fields = None;
    jobs.replace_status(&job.name_any(), &PostParams::default(), &job)
        .await?;
    Ok(())
}

/// Takes the finalizer off a pod.
async fn release(pods: &Api<Pod>, name: String) -> Result<(), Error> {
    let Some(pod) = pods.get_metadata_opt(&name).await? else {
        return Ok(());
    };
    let mut kept = pod.metadata.finalizers.unwrap_or_default();
    let before = kept.len();
    kept.retain(|one| one != FINALIZER);
    if kept.len() == before {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "metadata": {
        "resourceVersion": pod.metadata.resource_version,
        "finalizers": kept,
    } }));
    gone_is_fine(pods.patch(&name, &PatchParams::default(), &patch).await)
}

async fn delete(pods: &Api<Pod>, doomed: Doomed) -> Result<(), Error> {
    if doomed.counts == Counts::Not {
        release(pods, doomed.name.clone()).await?;
    }
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(doomed.uid),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    gone_is_fine(pods.delete(&doomed.name, &parameters).await)
}

fn gone_is_fine<T>(outcome: Result<T, kube::Error>) -> Result<(), Error> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

async fn make(pods: &Api<Pod>, job: &Job, index: Option<i32>) -> Result<(), Error> {
    let pod = new_pod(job, index)?;
    pods.create(&PostParams::default(), &pod).await?;
    Ok(())
}

fn new_pod(job: &Job, index: Option<i32>) -> Result<Pod, Error> {
    let spec = job
        .spec
        .as_ref()
        .ok_or(Error::Incomplete("a Job", "spec"))?;
    let template = spec.template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let name = job.name_any();
    let mut pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: Some(vec![FINALIZER.into()]),
            owner_references: Some(vec![controller_reference(job)?]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    if let Some(index) = index {
        let metadata = &mut pod.metadata;
        metadata.generate_name = Some(format!("{name}-{index}-"));
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(INDEX.into(), index.to_string());
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.into(), index.to_string());
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(format!("{name}-{index}"));
            let init = spec.init_containers.iter_mut().flatten();
            for container in init.chain(&mut spec.containers) {
                let env = container.env.get_or_insert_default();
                if env.iter().all(|known| known.name != "JOB_COMPLETION_INDEX") {
                    env.push(EnvVar {
                        name: "JOB_COMPLETION_INDEX".into(),
                        value: Some(index.to_string()),
                        value_from: None,
                    });
                }
            }
        }
    }
    Ok(pod)
}

/// A Job whose time after its end is over goes, its pods before it.
async fn expire(jobs: &Api<Job>, job: &Job) -> Result<(), Error> {
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: job.uid(),
            ..Preconditions::default()
        }),
        ..DeleteParams::foreground()
    };
    gone_is_fine(jobs.delete(&job.name_any(), &parameters).await)
}

/// Pods whose Job is gone are counted by nobody: their finalizers go too.
///
/// Looked at: a pod that is going or has no owner any more, the pods of a Job
/// when it goes, and all of them when a watch of Jobs begins.
async fn release_orphans(client: Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    let of_jobs = watcher::Config::default().labels(JOB_NAME);
    let going = watcher(pods.clone(), of_jobs)
        .default_backoff()
        .applied_objects()
        .filter_map(|pod| std::future::ready(pod.ok()))
        .filter(|pod| {
            let is_orphan = pod.metadata.deletion_timestamp.is_some() || controller(pod).is_none();
            std::future::ready(is_orphan)
        });
    let left = watcher(Api::<Job>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .filter_map(|event| {
            std::future::ready(match event {
                Ok(Event::Delete(job)) => Some(format!("{JOB_NAME}={}", job.name_any())),
                Ok(Event::InitDone) => Some(JOB_NAME.to_owned()),
                _ => None,
            })
        })
        .flat_map(move |labels| {
            let pods = pods.clone();
            stream::once(async move { pods.list(&ListParams::default().labels(&labels)).await })
        })
        .flat_map(|list| stream::iter(list.map(|list| list.items).unwrap_or_default()));
    stream::select(going.boxed(), left.boxed())
        .filter(|pod| std::future::ready(pod.finalizers().iter().any(|one| one == FINALIZER)))
        .for_each_concurrent(AT_ONCE, |pod| {
            let client = client.clone();
            async move {
                while let Err(error) = release_orphan(&client, &pod).await {
                    if !error.is_conflict() {
                        tracing::warn!(%error, pod = pod.name_any(), "its finalizer stays");
                        tokio::time::sleep(BEFORE_AGAIN).await;
                    }
                }
            }
        })
        .await;
}

/// Name and uid of the Job that controls a pod.
fn controller(pod: &Pod) -> Option<(&str, &str)> {
    pod.owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true) && owner.kind == "Job")
        .map(|owner| (owner.name.as_str(), owner.uid.as_str()))
}

async fn release_orphan(client: &Client, pod: &Pod) -> Result<(), Error> {
    let namespace = pod
        .namespace()
        .ok_or(Error::Incomplete("a Pod", "namespace"))?;
    if let Some((name, uid)) = controller(pod) {
        let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
        let job = jobs.get_metadata_opt(name).await?;
        if job.is_some_and(|job| job.uid().as_deref() == Some(uid)) {
            return Ok(());
        }
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    release(&pods, pod.name_any()).await
}
