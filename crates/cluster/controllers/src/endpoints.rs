//! EndpointSlices: which pods stand behind a Service.
//!
//! One IPv4 slice per Service, named after it, holds every pod that its
//! selector matches and that has an address; whether it is ready is told per
//! endpoint. A Service without a selector is its owner's business. The slice
//! goes with the Service, by its owner reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::{Error, again};
use crate::owner::{controller_reference, ready_since};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints of one slice, as upstream has it at most.
const MAX_ENDPOINTS: usize = 1000;

pub(crate) async fn run(client: Client) {
    let services: Api<Service> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client.clone());
    let controller = Controller::new(services, watcher::Config::default());
    let store = controller.store();
    controller
        .watches(pods, watcher::Config::default(), move |pod| {
            let namespace = pod.namespace();
            store
                .state()
                .into_iter()
                .filter(|service| service.namespace() == namespace)
                .filter(|service| {
                    let selector = service
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.selector.as_ref());
                    selector.is_some_and(|selector| matches(selector, pod.labels()))
                })
                .map(|service| ObjectRef::from_obj(&*service))
                .collect::<Vec<_>>()
        })
        .run(reconcile, again, Arc::new(client))
        .for_each(|_| std::future::ready(()))
        .await;
}

fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty()
        && selector
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
}

async fn reconcile(service: Arc<Service>, client: Arc<Client>) -> Result<Action, Error> {
    let spec = service
        .spec
        .as_ref()
        .ok_or(Error::Incomplete("a Service", "spec"))?;
    let Some(selector) = spec
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
    else {
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
    let slice = compose(&service, &found.items)?;

    let slices: Api<EndpointSlice> = Api::namespaced(Client::clone(&client), &namespace);
    let name = slice.name_any();
    match slices.get_opt(&name).await? {
        None => {
            slices.create(&PostParams::default(), &slice).await?;
        }
        Some(known) if known.endpoints != slice.endpoints || known.ports != slice.ports => {
            let patch = json!({
                "metadata": { "resourceVersion": known.resource_version() },
                "endpoints": slice.endpoints,
                "ports": slice.ports,
            });
            slices
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await?;
        }
        Some(_) => {}
    }
    Ok(Action::await_change())
}

fn compose(service: &Service, pods: &[Pod]) -> Result<EndpointSlice, Error> {
    let spec = service
        .spec
        .as_ref()
        .ok_or(Error::Incomplete("a Service", "spec"))?;
    let publishes_all = spec.publish_not_ready_addresses == Some(true);
    let mut endpoints: Vec<Endpoint> = pods
        .iter()
        .filter_map(|pod| endpoint(pod, publishes_all))
        .take(MAX_ENDPOINTS)
        .collect();
    endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let ports = spec
        .ports
        .iter()
        .flatten()
        .map(|port| endpoint_port(port, pods))
        .collect();
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_LABEL.into(), service.name_any());
    labels.insert(MANAGER_LABEL.into(), MANAGER.into());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    Ok(EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-ipv4", service.name_any())),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)?]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".into(),
        endpoints: Some(endpoints),
        ports: Some(ports),
    })
}

fn endpoint(pod: &Pod, publishes_all: bool) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let address = status
        .pod_ip
        .clone()
        .filter(|address| !address.is_empty())?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let terminates = pod.metadata.deletion_timestamp.is_some();
    let serves = ready_since(pod).is_some();
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_all || (serves && !terminates)),
            serving: Some(publishes_all || serves),
            terminating: Some(terminates),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.namespace(),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The port as the pods have it; one that is named is looked up in them.
fn endpoint_port(port: &ServicePort, pods: &[Pod]) -> EndpointPort {
    let number = match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => pods
            .iter()
            .filter_map(|pod| pod.spec.as_ref())
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .find(|candidate| candidate.name.as_ref() == Some(name))
            .map(|candidate| candidate.container_port),
    };
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: number,
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    }
}
