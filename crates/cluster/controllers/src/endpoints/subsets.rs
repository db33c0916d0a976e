//! The Endpoints object of a Service, composed. No I/O.
//!
//! The older form: subsets of addresses times ports. Ports that the same
//! addresses have share a subset, as upstream packs them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{address, hostname, is_ready, labels_of, publishes_all, target, target_port};
use crate::error::Error;
use crate::owner::controller_reference;

const MANAGER_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Says that there are more pods than the object shows.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses of one object, as upstream has it at most.
const MAX_ADDRESSES: usize = 1000;

/// Indexes into the pods that count: ready ones, and others.
type Members = (Vec<usize>, Vec<usize>);

pub(super) fn compose(service: &Service, pods: &[Pod]) -> Result<Endpoints, Error> {
    let spec = service
        .spec
        .as_ref()
        .ok_or(Error::Incomplete("a Service", "spec"))?;
    let all = publishes_all(service);
    let mut counted: Vec<(String, &Pod)> = pods
        .iter()
        // One on its way out is shown only by the newer form.
        .filter(|pod| all || pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| Some((address(pod)?, pod)))
        .collect();
    counted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let is_over = counted.len() > MAX_ADDRESSES;
    // Ready ones first, if not all can be shown.
    counted.sort_by_key(|(_, pod)| is_over && !is_ready(pod));
    counted.truncate(MAX_ADDRESSES);

    let ports = spec.ports.as_deref().unwrap_or_default();
    // In the order of the Service's ports, then of their numbers in pods.
    let mut by_port: BTreeMap<(usize, i32), Members> = BTreeMap::new();
    for (index, (_, pod)) in counted.iter().enumerate() {
        let mut join = |port: (usize, i32)| {
            let (ready, others) = by_port.entry(port).or_default();
            if all || is_ready(pod) {
                ready.push(index);
            } else {
                others.push(index);
            }
        };
        if ports.is_empty() {
            join((0, 0));
        }
        for (number, port) in ports.iter().enumerate() {
            if let Some(target) = target_port(port, pod) {
                join((number, target));
            }
        }
    }
    let mut packed: BTreeMap<Members, Vec<EndpointPort>> = BTreeMap::new();
    for ((number, target), members) in by_port {
        let packed = packed.entry(members).or_default();
        if let Some(port) = ports.get(number) {
            packed.push(EndpointPort {
                name: port.name.clone().filter(|name| !name.is_empty()),
                port: target,
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            });
        }
    }
    let show = |members: Vec<usize>| {
        let shown: Vec<EndpointAddress> = members
            .into_iter()
            .map(|index| {
                let (address, pod) = &counted[index];
                EndpointAddress {
                    ip: address.clone(),
                    hostname: hostname(service, pod),
                    node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
                    target_ref: Some(target(pod)),
                }
            })
            .collect();
        (!shown.is_empty()).then_some(shown)
    };
    let subsets: Vec<EndpointSubset> = packed
        .into_iter()
        .map(|((ready, others), ports)| EndpointSubset {
            addresses: show(ready),
            not_ready_addresses: show(others),
            ports: (!ports.is_empty()).then_some(ports),
        })
        .collect();
    Ok(Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            labels: Some(labels_of(service, &[(MANAGER_LABEL, MANAGER)])),
            annotations: is_over
                .then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())])),
            owner_references: Some(vec![controller_reference(service)?]),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    })
}
