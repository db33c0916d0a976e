//! Networks as the API shows them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dhow_engine::Network;
use serde_json::{Map, Value, json};

use crate::Door;

/// A network.
pub(super) fn network(door: &Door, network: &Network, with_containers: bool) -> Value {
    let spec = &network.spec;
    let mut containers = Map::new();
    if with_containers {
        for endpoint in door.engine.networks().endpoints(&spec.id) {
            let address = |is_ipv4| {
                endpoint
                    .address(is_ipv4)
                    .and_then(|address| Some((address, network.pool_of(address)?)))
                    .map_or_else(String::new, |(address, pool)| {
                        format!("{address}/{}", pool.subnet.length)
                    })
            };
            containers.insert(
                endpoint.sandbox.clone(),
                json!({
                    "Name": endpoint.name,
                    "EndpointID": endpoint.id(),
                    "MacAddress": endpoint.mac_text(),
                    "IPv4Address": address(true),
                    "IPv6Address": address(false),
                }),
            );
        }
    }
    let pools: Vec<Value> = spec
        .pools
        .iter()
        .map(|pool| {
            let mut shown =
                json!({ "Subnet": pool.subnet.to_string(), "Gateway": pool.gateway.to_string() });
            if let Some(range) = pool.range {
                shown["IPRange"] = json!(range.to_string());
            }
            if !pool.auxiliary.is_empty() {
                shown["AuxiliaryAddresses"] = json!(pool.auxiliary);
            }
            shown
        })
        .collect();
    let is_configuration = network.is_configuration();
    let options = Some(&spec.pool_options).filter(|options| !options.is_empty());
    json!({
        "Name": spec.name,
        "Id": spec.id,
        "Created": spec.created,
        "Scope": "local",
        "Driver": spec.driver.word(),
        "EnableIPv4": !spec.ipv6_only,
        "EnableIPv6": network.pool(false).is_some() || (is_configuration && spec.ipv6 == Some(true)),
        "IPAM": { "Driver": "default", "Options": options, "Config": pools },
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": spec.config_from },
        "ConfigOnly": is_configuration,
        "Containers": containers,
        "Options": spec.options,
        "Labels": spec.labels,
    })
}

/// How many addresses of a network's subnets are taken, and how many are left
/// to be given away.
pub(super) fn status(door: &Door, network: &Network) -> Value {
    let endpoints = door.engine.networks().endpoints(&network.spec.id);
    let mut subnets = Map::new();
    for pool in &network.spec.pools {
        let subnet = pool.subnet.network();
        let is_ipv4 = subnet.address.is_ipv4();
        let mut taken: BTreeSet<IpAddr> = endpoints
            .iter()
            .filter_map(|endpoint| endpoint.address(is_ipv4))
            .chain(pool.auxiliary.values().copied())
            .chain([pool.gateway, subnet.address])
            .collect();
        // The last address of IPv4 speaks to all.
        if let IpAddr::V4(first) = subnet.address {
            let hosts = u32::MAX.checked_shr(subnet.length.into()).unwrap_or(0);
            taken.insert(IpAddr::V4((u32::from(first) | hosts).into()));
        }
        let range = pool.range.unwrap_or(subnet);
        let size = 1_u128
            .checked_shl(if is_ipv4 { 32 } else { 128 } - u32::from(range.length))
            .unwrap_or(u128::MAX);
        let n_taken = taken.iter().filter(|one| range.contains(**one)).count();
        let n_left = size.saturating_sub(n_taken as u128);
        subnets.insert(
            subnet.to_string(),
            json!({
                "IPsInUse": taken.len(),
                "DynamicIPsAvailable": u64::try_from(n_left).unwrap_or(u64::MAX),
            }),
        );
    }
    json!({ "IPAM": { "Subnets": subnets } })
}

/// The identifier of a built-in network.
pub(super) fn built_in_id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64}")
}

/// A built-in network.
pub(super) fn built_in(door: &Door, name: &str, driver: &str) -> Value {
    let mut containers = Map::new();
    for record in door.engine.list() {
        if record.host.network_mode == name && record.state.status.is_alive() {
            containers.insert(
                record.id.clone(),
                json!({ "Name": record.name, "EndpointID": "", "MacAddress": "", "IPv4Address": "", "IPv6Address": "" }),
            );
        }
    }
    json!({
        "Name": name,
        "Id": built_in_id(name),
        "Created": "1970-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [] },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": {},
        "Labels": {},
    })
}
