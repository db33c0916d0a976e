//! Which pods stand behind a Service: its EndpointSlices and its Endpoints.
//!
//! Both are composed from the Service and the pods that its selector matches
//! by pure functions ([`slices`], [`subsets`]), compared with what is there and
//! written if they differ. A Service without a selector is its owner's
//! business, and one that is only a name elsewhere has none. What is made goes
//! with the Service, by its owner reference.

mod slices;
mod subsets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Endpoints, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, reflector as reflect, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::{Error, again};
use crate::owner::ready_since;

/// Marks what belongs to a Service without an address of its own.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

pub(crate) async fn run(client: Client) {
    let (services, writer) = reflector::store();
    let api: Api<Service> = Api::all(client.clone());
    let changed = reflect(writer, watcher(api, watcher::Config::default()))
        .default_backoff()
        .touched_objects()
        .map_ok(|service| ObjectRef::from_obj(&service));
    let touched = touched(client.clone(), services.clone()).map(Ok);
    let queue = stream::select(changed.boxed(), touched.boxed());
    applier(
        |service, client| reconcile(service, client).boxed(),
        again,
        Arc::new(client),
        services,
        queue,
        Config::default(),
    )
    .for_each(|_| std::future::ready(()))
    .await;
}

type Labels = BTreeMap<String, String>;

/// Services whose pods change: those that select a pod now, and those that
/// selected it before it changed.
fn touched(
    client: Client,
    services: Store<Service>,
) -> impl Stream<Item = ObjectRef<Service>> + Send + 'static {
    let mut labels: HashMap<ObjectRef<Pod>, Labels> = HashMap::new();
    let mut listed: HashMap<ObjectRef<Pod>, Labels> = HashMap::new();
    watcher(Api::<Pod>::all(client), watcher::Config::default())
        .default_backoff()
        .flat_map(move |event| {
            let mut found: Vec<ObjectRef<Service>> = Vec::new();
            let mut note = |pod: &ObjectRef<Pod>, labels: &Labels| {
                let namespace = pod.namespace.as_deref().unwrap_or_default();
                found.extend(selecting(&services, namespace, labels));
            };
            match event {
                Ok(Event::Apply(pod)) => {
                    let name = ObjectRef::from_obj(&pod);
                    note(&name, pod.labels());
                    let now = pod.labels().clone();
                    if let Some(before) = labels.insert(name.clone(), now)
                        && before != *pod.labels()
                    {
                        note(&name, &before);
                    }
                }
                Ok(Event::Delete(pod)) => {
                    let name = ObjectRef::from_obj(&pod);
                    note(&name, pod.labels());
                    if let Some(before) = labels.remove(&name) {
                        note(&name, &before);
                    }
                }
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => {
                    let name = ObjectRef::from_obj(&pod);
                    note(&name, pod.labels());
                    listed.insert(name, pod.labels().clone());
                }
                Ok(Event::InitDone) => {
                    let listed = std::mem::take(&mut listed);
                    for (name, before) in std::mem::replace(&mut labels, listed) {
                        note(&name, &before);
                    }
                }
                Err(error) => tracing::debug!(%error, "the watch of pods is interrupted"),
            }
            stream::iter(found)
        })
}

/// The Services of a namespace that select pods with these labels.
fn selecting(
    services: &Store<Service>,
    namespace: &str,
    labels: &Labels,
) -> Vec<ObjectRef<Service>> {
    services
        .state()
        .into_iter()
        .filter(|service| service.metadata.namespace.as_deref() == Some(namespace))
        .filter(|service| selector(service).is_some_and(|selector| matches(selector, labels)))
        .map(|service| ObjectRef::from_obj(&*service))
        .collect()
}

/// A Service's selector, if it has one and pods can stand behind it.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

async fn reconcile(service: Arc<Service>, client: Arc<Client>) -> Result<Action, Error> {
    let Some(selector) = selector(&service) else {
        return Ok(Action::await_change());
    };
    if service.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = service
        .namespace()
        .ok_or(Error::Incomplete("a Service", "namespace"))?;
    let pods: Api<Pod> = Api::namespaced(Client::clone(&client), &namespace);
    let labels: Vec<String> = selector
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let found = pods
        .list(&ListParams::default().labels(&labels.join(",")))
        .await?;
    let slices: Api<EndpointSlice> = Api::namespaced(Client::clone(&client), &namespace);
    write_slices(&slices, &service, slices::compose(&service, &found.items)?).await?;
    let endpoints: Api<Endpoints> = Api::namespaced(Client::clone(&client), &namespace);
    write_endpoints(&endpoints, subsets::compose(&service, &found.items)?).await?;
    Ok(Action::await_change())
}

async fn write_slices(
    api: &Api<EndpointSlice>,
    service: &Service,
    wanted: Vec<EndpointSlice>,
) -> Result<(), Error> {
    let ours = format!(
        "{}={},{}={}",
        slices::SERVICE_LABEL,
        service.name_any(),
        slices::MANAGER_LABEL,
        slices::MANAGER
    );
    let known = api.list(&ListParams::default().labels(&ours)).await?.items;
    for slice in &wanted {
        let name = slice.name_any();
        match known.iter().find(|known| known.name_any() == name) {
            None => {
                api.create(&PostParams::default(), slice).await?;
            }
            Some(known)
                if known.endpoints != slice.endpoints
                    || known.ports != slice.ports
                    || known.metadata.labels != slice.metadata.labels =>
            {
                let patch = json!({
                    "metadata": {
                        "resourceVersion": known.resource_version(),
                        "labels": relabel(known.labels(), slice.labels()),
                    },
                    "endpoints": slice.endpoints,
                    "ports": slice.ports,
                });
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                    .await?;
            }
            Some(_) => {}
        }
    }
    // Old ones go last, so that no pod is missing in between.
    for old in known {
        let name = old.name_any();
        if wanted.iter().any(|slice| slice.name_any() == name) {
            continue;
        }
        match api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => other.map(|_| ())?,
        }
    }
    Ok(())
}

async fn write_endpoints(api: &Api<Endpoints>, wanted: Endpoints) -> Result<(), Error> {
    let name = wanted.name_any();
    match api.get_opt(&name).await? {
        None => {
            api.create(&PostParams::default(), &wanted).await?;
        }
        Some(known)
            if known.subsets.as_deref().unwrap_or_default()
                != wanted.subsets.as_deref().unwrap_or_default()
                || known.metadata.labels != wanted.metadata.labels =>
        {
            let patch = json!({
                "metadata": {
                    "resourceVersion": known.resource_version(),
                    "labels": relabel(known.labels(), wanted.labels()),
                },
                "subsets": wanted.subsets,
            });
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await?;
        }
        Some(_) => {}
    }
    Ok(())
}

/// A merge patch from some labels to others.
fn relabel(
    from: &BTreeMap<String, String>,
    to: &BTreeMap<String, String>,
) -> BTreeMap<String, Option<String>> {
    let gone = from.keys().map(|key| (key.clone(), None));
    let wanted = to
        .iter()
        .map(|(key, value)| (key.clone(), Some(value.clone())));
    gone.chain(wanted).collect()
}

/// The labels of what is made for a Service.
fn labels_of(service: &Service, own: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    for (key, value) in own {
        labels.insert((*key).to_owned(), (*value).to_owned());
    }
    let address = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref());
    if address == Some("None") {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    } else {
        labels.remove(HEADLESS_LABEL);
    }
    labels
}

/// A pod's address, if it has one and is not over.
fn address(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    status
        .pod_ip
        .clone()
        .filter(|address| !address.is_empty() && !is_over)
}

/// The name under which a pod is to be found below its Service.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let is_below = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname
        .clone()
        .filter(|hostname| is_below && !hostname.is_empty())
}

fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.namespace(),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}

/// The number of a Service's port in a pod; one that is named is looked up.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|candidate| {
                    candidate.name.as_ref() == Some(name)
                        && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|candidate| candidate.container_port)
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some() && pod.metadata.deletion_timestamp.is_none()
}

fn publishes_all(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.publish_not_ready_addresses == Some(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "n", "uid": "u", "labels": { "a": "b" } },
            "spec": spec,
        }))
        .expect("a service")
    }

    pub(super) fn pod(name: &str, address: &str, port: i32, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "n", "uid": name },
            "spec": { "nodeName": "m", "containers": [{ "name": "c",
                "ports": [{ "name": "http", "containerPort": port }] }] },
            "status": { "phase": "Running", "podIP": address,
                "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .expect("a pod")
    }

    #[test]
    fn a_named_port_is_each_pods_own() {
        let service = service(json!({ "selector": { "a": "b" }, "ports": [
            { "name": "web", "port": 80, "targetPort": "http" },
            { "name": "fixed", "port": 9, "targetPort": 99 },
        ] }));
        let pods = [
            pod("p", "10.0.0.1", 8080, "True"),
            pod("q", "10.0.0.2", 8080, "False"),
            pod("r", "10.0.0.3", 9090, "True"),
        ];
        let slices = slices::compose(&service, &pods).expect("slices");
        let told: Vec<(Vec<Option<i32>>, Vec<String>)> = slices
            .iter()
            .map(|slice| {
                let ports = slice.ports.iter().flatten().map(|port| port.port).collect();
                let endpoints = slice.endpoints.iter().flatten();
                (
                    ports,
                    endpoints.map(|one| one.addresses[0].clone()).collect(),
                )
            })
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.contains(&(
            vec![Some(8080), Some(99)],
            vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]
        )));
        assert!(told.contains(&(vec![Some(9090), Some(99)], vec!["10.0.0.3".to_owned()])));
        assert_ne!(slices[0].metadata.name, slices[1].metadata.name);

        let endpoints = subsets::compose(&service, &pods).expect("endpoints");
        let subsets = endpoints.subsets.expect("subsets");
        let ports: Vec<Vec<i32>> = subsets
            .iter()
            .map(|subset| {
                subset
                    .ports
                    .iter()
                    .flatten()
                    .map(|port| port.port)
                    .collect()
            })
            .collect();
        assert_eq!(ports, [[8080], [99], [9090]], "by the addresses they share");
        assert_eq!(subsets[1].addresses.as_ref().map(Vec::len), Some(2));
        assert_eq!(
            subsets[1].not_ready_addresses.as_ref().map(Vec::len),
            Some(1)
        );
    }

    #[test]
    fn a_service_without_pods_has_an_empty_slice() {
        let service = service(
            json!({ "selector": { "a": "b" }, "clusterIP": "None", "ports": [{ "port": 80 }] }),
        );
        let slices = slices::compose(&service, &[]).expect("slices");
        assert_eq!(slices.len(), 1);
        assert!(slices[0].labels().contains_key(HEADLESS_LABEL));
        let endpoints = subsets::compose(&service, &[]).expect("endpoints");
        assert_eq!(endpoints.subsets, None);
    }
}
