//! Networks as the API shows them.

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
                    .zip(network.pool(is_ipv4))
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
    let options = Some(&spec.pool_options).filter(|options| !options.is_empty());
    json!({
        "Name": spec.name,
        "Id": spec.id,
        "Created": spec.created,
        "Scope": "local",
        "Driver": spec.driver.word(),
        "EnableIPv4": network.pool(true).is_some(),
        "EnableIPv6": network.pool(false).is_some(),
        "IPAM": { "Driver": "default", "Options": options, "Config": pools },
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": spec.options,
        "Labels": spec.labels,
    })
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
