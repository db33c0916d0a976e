//! EndpointSlices of a Service, composed. No I/O.
//!
//! All endpoints of a slice share its ports. Pods that have different numbers
//! for a named port therefore stand in different slices, each named after its
//! ports, so that a slice keeps its name whatever others come and go.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::{address, hostname, labels_of, publishes_all, target, target_port};
use crate::error::Error;
use crate::owner::{controller_reference, ready_since};

pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub(super) const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints of one slice, as upstream has it at most.
const MAX_ENDPOINTS: usize = 1000;

/// Numbers of the Service's ports; `None` where a pod has no such port.
type Numbers = Vec<Option<i32>>;

/// The slices; one without endpoints if there is no pod.
pub(super) fn compose(service: &Service, pods: &[Pod]) -> Result<Vec<EndpointSlice>, Error> {
    let spec = service
        .spec
        .as_ref()
        .ok_or(Error::Incomplete("a Service", "spec"))?;
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut groups: BTreeMap<Numbers, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods {
        let Some(endpoint) = endpoint(service, pod) else {
            continue;
        };
        let numbers = ports.iter().map(|port| target_port(port, pod)).collect();
        groups.entry(numbers).or_default().push(endpoint);
    }
    if groups.is_empty() {
        let nobody = Pod::default();
        let numbers = ports
            .iter()
            .map(|port| target_port(port, &nobody))
            .collect();
        groups.insert(numbers, Vec::new());
    }
    let mut slices = Vec::new();
    for (numbers, mut endpoints) in groups {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let slice_ports: Vec<EndpointPort> = ports
            .iter()
            .zip(&numbers)
            .filter_map(|(port, number)| {
                Some(EndpointPort {
                    name: Some(port.name.clone().unwrap_or_default()),
                    port: Some((*number)?),
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        let mut chunks: Vec<Vec<Endpoint>> = endpoints
            .chunks(MAX_ENDPOINTS)
            .map(<[Endpoint]>::to_vec)
            .collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        for (number, endpoints) in chunks.into_iter().enumerate() {
            let name = slice_name(service, &numbers, number);
            slices.push(EndpointSlice {
                metadata: ObjectMeta {
                    name: Some(name),
                    labels: Some(labels_of(
                        service,
                        &[
                            (SERVICE_LABEL, &service.name_any()),
                            (MANAGER_LABEL, MANAGER),
                        ],
                    )),
                    owner_references: Some(vec![controller_reference(service)?]),
                    ..ObjectMeta::default()
                },
                address_type: "IPv4".into(),
                endpoints: Some(endpoints),
                ports: Some(slice_ports.clone()),
            });
        }
    }
    Ok(slices)
}

/// `web-ipv4-8080`, or `web-ipv4-8080-1` for the second of the same ports.
fn slice_name(service: &Service, numbers: &Numbers, chunk: usize) -> String {
    let mut name = format!("{}-ipv4", service.name_any());
    for number in numbers.iter().take(16) {
        match number {
            Some(number) => name.push_str(&format!("-{number}")),
            None => name.push_str("-0"),
        }
    }
    if numbers.len() > 16 {
        // Too many to spell out; a digest of all of them tells them apart.
        let digest = numbers.iter().fold(0u32, |digest, number| {
            digest
                .wrapping_mul(1_000_003)
                .wrapping_add(number.map_or(0, i32::unsigned_abs))
        });
        name.push_str(&format!("-x{digest:08x}"));
    }
    if chunk > 0 {
        name.push_str(&format!(".{chunk}"));
    }
    name
}

fn endpoint(service: &Service, pod: &Pod) -> Option<Endpoint> {
    let address = address(pod)?;
    let all = publishes_all(service);
    let terminates = pod.metadata.deletion_timestamp.is_some();
    let serves = ready_since(pod).is_some();
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(all || (serves && !terminates)),
            serving: Some(all || serves),
            terminating: Some(terminates),
        }),
        hostname: hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(target(pod)),
        ..Endpoint::default()
    })
}
