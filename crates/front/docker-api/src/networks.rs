//! `/networks`.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use dhow_engine::spec::EndpointSettings;
use dhow_engine::{Network, NetworkSpec, Pool};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Door;
use crate::containers::{Parameters, blocking, strip_nulls};
use crate::error::{Answer, Failure};
use crate::filters::Filters;

/// Networks that every engine has, without anything in the kernel.
const BUILT_IN: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Create {
    name: String,
    driver: String,
    internal: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    config: Vec<IpamPool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct IpamPool {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Answer<T> {
    let invalid = |error| Failure::bad(format!("invalid JSON: {error}"));
    let mut value: Value = serde_json::from_slice(body).map_err(invalid)?;
    strip_nulls(&mut value);
    serde_json::from_value(value).map_err(invalid)
}

pub(crate) async fn create(State(door): State<Door>, body: Bytes) -> Answer {
    let create: Create = parse(&body)?;
    if create.name.is_empty() || create.name.contains('/') {
        return Err(Failure::bad(format!(
            "invalid network name {:?}",
            create.name
        )));
    }
    if BUILT_IN.iter().any(|(name, _)| *name == create.name) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            format!(
                "operation is not permitted on predefined {} network",
                create.name
            ),
        ));
    }
    if !matches!(create.driver.as_str(), "" | "bridge") {
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!(
                "could not find network driver {:?}: only bridge is there",
                create.driver
            ),
        ));
    }
    if !matches!(create.ipam.driver.as_str(), "" | "default") {
        return Err(Failure::bad(format!(
            "could not find ipam driver {:?}",
            create.ipam.driver
        )));
    }
    let mut pools = Vec::new();
    for pool in create
        .ipam
        .config
        .iter()
        .filter(|pool| !pool.subnet.is_empty())
    {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        pools.push(Pool::parse(
            &pool.subnet,
            some(&pool.ip_range).as_deref(),
            some(&pool.gateway).as_deref(),
        )?);
    }
    let mtu = match create.options.get("com.docker.network.driver.mtu") {
        Some(text) => Some(
            text.parse()
                .map_err(|_| Failure::bad(format!("invalid mtu {text:?}")))?,
        ),
        None => None,
    };
    let spec = NetworkSpec {
        id: dhow_engine::identifier(),
        name: create.name,
        created: dhow_engine::Moment::now().to_string(),
        pools,
        internal: create.internal,
        ipv6: create.enable_ipv6,
        bridge: create
            .options
            .get("com.docker.network.bridge.name")
            .cloned(),
        mtu,
        names: true,
        keep_client_address: false,
        labels: create.labels,
        options: create.options,
    };
    let networks = door.engine.networks().clone();
    let network = blocking(move || networks.create(spec)).await??;
    announce(&door, &network, "create", BTreeMap::new());
    let answer = json!({ "Id": network.spec.id, "Warning": "" });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

pub(crate) async fn list(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let known = [
        "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
    ];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let fits = |id: &str, name: &str, driver: &str, labels: &BTreeMap<String, String>| {
        let is_built_in = matches!(name, "bridge" | "host" | "none");
        filters.labels(labels)
            && filters.any("id", |wanted| id.starts_with(wanted))
            && filters.any("name", |wanted| name.contains(wanted))
            && filters.any("driver", |wanted| driver == wanted)
            && filters.any("scope", |wanted| wanted == "local")
            && filters.any("type", |wanted| (wanted == "builtin") == is_built_in)
            && filters.any("dangling", |wanted| {
                let dangling = !is_built_in && door.engine.networks().endpoints(id).is_empty();
                dangling == !matches!(wanted, "0" | "false")
            })
    };
    let mut shown: Vec<Value> = door
        .engine
        .networks()
        .list()
        .iter()
        .filter(|network| {
            fits(
                &network.spec.id,
                &network.spec.name,
                "bridge",
                &network.spec.labels,
            )
        })
        .map(|network| view(&door, network, false))
        .collect();
    for (name, driver) in BUILT_IN {
        if fits(&built_in_id(name), name, driver, &BTreeMap::new()) {
            shown.push(built_in(&door, name, driver));
        }
    }
    Ok(Json(shown).into_response())
}

pub(crate) async fn inspect(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    let is = |built_in: &&(&str, &str)| built_in.0 == name || built_in_id(built_in.0) == name;
    if let Some((name, driver)) = BUILT_IN.iter().find(is) {
        return Ok(Json(built_in(&door, name, driver)).into_response());
    }
    let network = door.engine.networks().get(&name)?;
    Ok(Json(view(&door, &network, true)).into_response())
}

pub(crate) async fn remove(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    let found = door
        .engine
        .networks()
        .get(&name)
        .map(|network| network.spec.name);
    if matches!(
        found.as_deref().unwrap_or(&name),
        "bridge" | "host" | "none"
    ) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            format!("{name} is a pre-defined network and cannot be removed"),
        ));
    }
    let networks = door.engine.networks().clone();
    let network = blocking(move || networks.remove(&name)).await??;
    announce(&door, &network, "destroy", BTreeMap::new());
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn prune(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let filters = Filters::parse(
        query.get("filters").map(String::as_str),
        &["label", "label!", "until"],
    )?;
    let mut deleted = Vec::new();
    for network in door.engine.networks().list() {
        let wanted_by_stopped = door
            .engine
            .list()
            .iter()
            .any(|record| record.networks.contains_key(&network.spec.name));
        if network.spec.name == "bridge"
            || wanted_by_stopped
            || !filters.labels(&network.spec.labels)
        {
            continue;
        }
        let networks = door.engine.networks().clone();
        let id = network.spec.id.clone();
        // One that is in use is not pruned.
        if blocking(move || networks.remove(&id)).await?.is_ok() {
            announce(&door, &network, "destroy", BTreeMap::new());
            deleted.push(network.spec.name);
        }
    }
    Ok(Json(json!({ "NetworksDeleted": deleted })).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Connection {
    container: String,
    force: bool,
    endpoint_config: EndpointSettings,
}

pub(crate) async fn connect(
    State(door): State<Door>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer {
    let connection: Connection = parse(&body)?;
    door.engine
        .connect(&connection.container, &name, connection.endpoint_config)
        .await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn disconnect(
    State(door): State<Door>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer {
    let connection: Connection = parse(&body)?;
    match door.engine.disconnect(&connection.container, &name).await {
        Err(_) if connection.force => {}
        other => other?,
    }
    Ok(StatusCode::OK.into_response())
}

fn announce(door: &Door, network: &Network, action: &str, more: BTreeMap<String, String>) {
    let mut attributes = more;
    attributes.insert("name".into(), network.spec.name.clone());
    attributes.insert("type".into(), "bridge".into());
    door.engine
        .events()
        .announce("network", action, &network.spec.id, attributes);
}

fn view(door: &Door, network: &Network, with_containers: bool) -> Value {
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
                    "EndpointID": format!("{}{}", &endpoint.sandbox[..endpoint.sandbox.len().min(32)], &spec.id[..32]),
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
            shown
        })
        .collect();
    json!({
        "Name": spec.name,
        "Id": spec.id,
        "Created": spec.created,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": network.pool(false).is_some(),
        "IPAM": { "Driver": "default", "Options": null, "Config": pools },
        "Internal": spec.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": spec.options,
        "Labels": spec.labels,
    })
}

fn built_in_id(name: &str) -> String {
    format!(
        "{:0<64}",
        name.bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    )
}

fn built_in(door: &Door, name: &str, driver: &str) -> Value {
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
