//! Containers as the API shows them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use dhow_engine::spec::{EndpointIpam, EndpointSettings, HostConfig};
use dhow_engine::{Endpoint, Moment, MountKind, MountPoint, Network, Record, Status};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::Door;
use crate::error::Answer;
use crate::version::Version;

/// The time that Docker shows for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Removes fields that are `null`: clients write them for "not set".
pub(crate) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Everything about one container.
pub(super) fn full(
    door: &Door,
    record: &Record,
    version: Version,
    with_size: bool,
) -> Answer<Value> {
    let endpoints = door.engine.networks().sandbox_endpoints(&record.id);
    let folder = door
        .engine
        .config()
        .data
        .join("containers")
        .join(&record.id);
    let file = |name: &str| folder.join(name).display().to_string();
    let state = &record.state;
    let moment = |moment: Option<Moment>| moment.map_or_else(|| NEVER.into(), |at| at.to_string());
    let (path, args) = record
        .args
        .split_first()
        .map_or(("", &[][..]), |(path, args)| (path, args));
    let execs = door.engine.execs(&record.id)?;
    let first = endpoints.first();
    let network = |name: &str| door.engine.networks().get(name).ok().map(Arc::new);
    let mut config = serde_json::to_value(&record.config).unwrap_or_default();
    config["Hostname"] = json!(record.hostname());
    if version.before(52) {
        config["OnBuild"] = Value::Null;
    }
    null_if_empty(&mut config, &["Env", "Volumes"]);
    leave_out_if_empty(&mut config, &["ExposedPorts"]);
    let mut host = host_view(&record.host);
    let links = door.engine.links(record);
    if !links.is_empty() {
        let shown = links
            .iter()
            .map(|link| format!("/{}:/{}/{}", link.target, record.name, link.alias));
        host["Links"] = shown.collect();
    }
    // What other systems have, some clients look for here.
    for (field, nothing) in [
        ("Cgroup", json!("")),
        ("CpuCount", json!(0)),
        ("CpuPercent", json!(0)),
        ("IOMaximumBandwidth", json!(0)),
        ("IOMaximumIOps", json!(0)),
    ] {
        host[field] = nothing;
    }
    let mut shown = json!({
        "Id": record.id,
        "Created": record.created.to_string(),
        "Path": path,
        "Args": args,
        "State": {
            "Status": state.status.word(),
            "Running": state.status.is_alive() || state.status == Status::Restarting,
            "Paused": state.status == Status::Paused,
            "Restarting": state.status == Status::Restarting,
            "OOMKilled": state.oom_killed,
            "Dead": state.status == Status::Dead,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": moment(state.started),
            "FinishedAt": moment(state.finished),
        },
        "Image": record.image,
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        // The other drivers' files are not for strangers to read.
        "LogPath": if record.host.log_config.kind == "json-file" {
            file("log.json")
        } else {
            String::new()
        },
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": record.mount_label,
        "ProcessLabel": record.process_label,
        "AppArmorProfile": door.engine.apparmor(record),
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": host,
        "GraphDriver": graph_driver(door, record),
        "Mounts": record.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": config,
        "NetworkSettings": {
            "SandboxID": if first.is_some() { record.id.as_str() } else { "" },
            "SandboxKey": first.map_or_else(String::new, |_| {
                door.engine.networks().sandbox_path(&record.id).display().to_string()
            }),
            "Ports": port_map(record, &endpoints),
            "Networks": networks(record, &endpoints, network),
        },
    });
    if version.since(48)
        && let Ok(image) = door.engine.images().resolve(&record.image)
    {
        shown["ImageManifestDescriptor"] = json!(image.manifest);
    }
    if version.before(45) {
        old_aliases(&mut shown["NetworkSettings"]["Networks"], record);
    }
    if version.before(52) {
        old_network_settings(&mut shown["NetworkSettings"]);
    }
    if let Some(health) = &state.health {
        shown["State"]["Health"] = json!({
            "Status": health.status,
            "FailingStreak": health.failing_streak,
            "Log": health.log.iter().map(|probe| json!({
                "Start": probe.start.to_string(),
                "End": probe.end.to_string(),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })).collect::<Vec<_>>(),
        });
    }
    if with_size {
        let (written, all) = sizes(door, record);
        shown["SizeRw"] = json!(written);
        shown["SizeRootFs"] = json!(all);
    }
    Ok(shown)
}

/// What a container gets of its host: what was not asked for is null, or what
/// it gets unless told otherwise.
fn host_view(host: &HostConfig) -> Value {
    let mut shown = serde_json::to_value(host).unwrap_or_default();
    let lists: Vec<String> = shown
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.is_array() || value.is_object())
        .map(|(name, _)| name.clone())
        .filter(|name| !matches!(name.as_str(), "LogConfig" | "RestartPolicy"))
        .collect();
    leave_out_if_empty(&mut shown, &["Mounts"]);
    let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
    null_if_empty(&mut shown, &lists);
    leave_out_if_empty(&mut shown, &["Runtime"]);
    shown["ConsoleSize"] = json!(host.console_size.unwrap_or_default());
    let is_open = host.privileged
        || host
            .security_opt
            .iter()
            .any(|option| option == "systempaths=unconfined");
    if !is_open {
        for (field, paths) in [
            ("MaskedPaths", &dhow_engine::MASKED_PATHS[..]),
            ("ReadonlyPaths", &dhow_engine::READONLY_PATHS[..]),
        ] {
            if shown[field].is_null() {
                shown[field] = json!(paths);
            }
        }
    }
    shown
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn null_if_empty(shown: &mut Value, fields: &[&str]) {
    for field in fields {
        if let Some(value) = shown.get_mut(*field)
            && is_empty(value)
        {
            *value = Value::Null;
        }
    }
}

fn leave_out_if_empty(shown: &mut Value, fields: &[&str]) {
    let Some(shown) = shown.as_object_mut() else {
        return;
    };
    for field in fields {
        if shown.get(*field).is_some_and(is_empty) {
            shown.shift_remove(*field);
        }
    }
}

/// Before 1.45 a container's short id and host name stood among its aliases.
fn old_aliases(networks: &mut Value, record: &Record) {
    for (name, network) in networks.as_object_mut().into_iter().flatten() {
        if matches!(name.as_str(), "bridge" | "host" | "none") {
            continue;
        }
        let mut aliases = network["Aliases"].as_array().cloned().unwrap_or_default();
        for further in [json!(record.id[..12]), json!(record.hostname())] {
            if !aliases.contains(&further) {
                aliases.push(further);
            }
        }
        network["Aliases"] = aliases.into();
    }
}

/// Before 1.52 the addresses on the default network stood outside as well, with
/// what nobody sets any more.
fn old_network_settings(settings: &mut Value) {
    let bridge = settings["Networks"]["bridge"].clone();
    for (field, nothing) in [
        ("EndpointID", json!("")),
        ("Gateway", json!("")),
        ("GlobalIPv6Address", json!("")),
        ("GlobalIPv6PrefixLen", json!(0)),
        ("IPAddress", json!("")),
        ("IPPrefixLen", json!(0)),
        ("IPv6Gateway", json!("")),
        ("MacAddress", json!("")),
    ] {
        settings[field] = match &bridge[field] {
            Value::Null => nothing,
            known => known.clone(),
        };
    }
    settings["Bridge"] = json!("");
    settings["HairpinMode"] = json!(false);
    settings["LinkLocalIPv6Address"] = json!("");
    settings["LinkLocalIPv6PrefixLen"] = json!(0);
    settings["SecondaryIPAddresses"] = Value::Null;
    settings["SecondaryIPv6Addresses"] = Value::Null;
}

pub(super) fn sizes(door: &Door, record: &Record) -> (u64, u64) {
    let written = door.engine.images().written(&record.id).unwrap_or_default();
    let image = door
        .engine
        .images()
        .resolve(&record.image)
        .map(|image| image.size());
    (written, written + image.unwrap_or_default())
}

fn graph_driver(door: &Door, record: &Record) -> Value {
    let Ok(rootfs) = door.engine.images().rootfs(&record.id) else {
        return json!({ "Name": "overlay2", "Data": null });
    };
    let lower: Vec<String> = rootfs
        .lower
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    json!({
        "Name": "overlay2",
        "Data": {
            "LowerDir": lower.join(":"),
            "UpperDir": rootfs.upper.display().to_string(),
            "WorkDir": rootfs.work.display().to_string(),
            // It is mounted where the container is, and nowhere else.
            "MergedDir": match record.state.pid {
                0 => String::new(),
                pid => format!("/proc/{pid}/root"),
            },
        },
    })
}

pub(super) fn mount(point: &MountPoint) -> Value {
    let kind = match point.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    };
    let mut shown = Map::new();
    shown.insert("Type".into(), json!(kind));
    if point.kind == MountKind::Volume {
        shown.insert("Name".into(), json!(point.name));
        shown.insert("Driver".into(), json!("local"));
    } else if point.kind == MountKind::Image {
        shown.insert("Name".into(), json!(point.name));
    }
    let propagation = match point.kind {
        MountKind::Bind if point.propagation.is_empty() => "rprivate",
        MountKind::Bind => &point.propagation,
        _ => "",
    };
    for (name, value) in [
        ("Source", json!(point.source)),
        ("Destination", json!(point.destination)),
        ("Mode", json!(point.mode)),
        ("RW", json!(point.writable)),
        ("Propagation", json!(propagation)),
    ] {
        shown.insert(name.into(), value);
    }
    Value::Object(shown)
}

fn port_map(record: &Record, endpoints: &[Endpoint]) -> Value {
    let mut map: BTreeMap<String, Option<Vec<Value>>> = BTreeMap::new();
    if record.state.status.is_alive() {
        for port in record.config.exposed_ports.keys() {
            map.insert(port.clone(), None);
        }
    }
    for mapping in endpoints.iter().flat_map(|endpoint| &endpoint.ports) {
        let port = format!("{}/{}", mapping.container_port, mapping.protocol);
        map.entry(port)
            .or_default()
            .get_or_insert_default()
            .push(json!({
                "HostIp": mapping.host_address.to_string(),
                "HostPort": if mapping.is_of_host() { mapping.host_port.to_string() } else { String::new() },
            }));
    }
    json!(map)
}

/// A container's place in a network, as the API shows it.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attachment {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<EndpointIpam>,
    links: Option<Vec<String>>,
    aliases: Option<Vec<String>>,
    mac_address: String,
    driver_opts: Option<BTreeMap<String, String>>,
    gw_priority: i32,
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames")]
    dns_names: Option<Vec<String>>,
}

impl Attachment {
    /// `settings` says what was asked for, `endpoint` what there is while the
    /// container runs.
    fn new(
        network: Option<&Network>,
        settings: &EndpointSettings,
        endpoint: Option<&Endpoint>,
    ) -> Self {
        let mut shown = Self {
            ipam_config: settings.ipam_config.clone(),
            links: settings.links.clone(),
            aliases: settings.aliases.clone(),
            driver_opts: settings.driver_opts.clone(),
            gw_priority: settings.gw_priority,
            ..Self::default()
        };
        if let Some(network) = network {
            shown.network_id.clone_from(&network.spec.id);
        }
        let Some(endpoint) = endpoint else {
            return shown;
        };
        shown.mac_address = endpoint.mac_text();
        shown.endpoint_id = endpoint.id();
        let names = std::iter::once(&endpoint.name).chain(&endpoint.aliases);
        shown.dns_names = Some(names.cloned().collect());
        let text = |address: IpAddr| address.to_string();
        shown.ip_address = endpoint.address(true).map_or_else(String::new, text);
        shown.global_ipv6_address = endpoint.address(false).map_or_else(String::new, text);
        let pool = |is_ipv4| network?.pool_of(endpoint.address(is_ipv4)?);
        if let Some(pool) = pool(true) {
            shown.gateway = pool.gateway.to_string();
            shown.ip_prefix_len = pool.subnet.length;
        }
        if let Some(pool) = pool(false) {
            shown.ipv6_gateway = pool.gateway.to_string();
            shown.global_ipv6_prefix_len = pool.subnet.length;
        }
        shown
    }
}

/// A container's networks by name; `find` looks one up by name or id.
pub(super) fn networks(
    record: &Record,
    endpoints: &[Endpoint],
    mut find: impl FnMut(&str) -> Option<Arc<Network>>,
) -> BTreeMap<String, Attachment> {
    let mut shown = BTreeMap::new();
    for (name, settings) in &record.networks {
        let network = find(name);
        let network = network.as_deref();
        let id = network.map_or("", |network| network.spec.id.as_str());
        let endpoint = endpoints.iter().find(|endpoint| endpoint.network == id);
        let name = network.map_or(name, |network| &network.spec.name);
        let attachment = Attachment::new(network, settings, endpoint);
        shown.insert(name.clone(), attachment);
    }
    let mode = record.host.network_mode.as_str();
    if record.networks.is_empty() && matches!(mode, "none" | "host") {
        shown.insert(mode.into(), Attachment::default());
    }
    shown
}

/// What `docker ps` shows under STATUS.
pub(super) fn status_text(record: &Record) -> String {
    let state = &record.state;
    let ago = |moment: Option<Moment>| {
        moment.map_or(0, |moment| {
            seconds(Moment::now()).saturating_sub(seconds(moment))
        })
    };
    match state.status {
        Status::Created => "Created".into(),
        Status::Running | Status::Paused => {
            let up = format!("Up {}", duration(ago(state.started)));
            match (&state.health, state.status) {
                (_, Status::Paused) => format!("{up} (Paused)"),
                (Some(health), _) if health.status == "starting" => {
                    format!("{up} (health: starting)")
                }
                (Some(health), _) => format!("{up} ({})", health.status),
                (None, _) => up,
            }
        }
        Status::Restarting => {
            format!(
                "Restarting ({}) {} ago",
                state.exit_code,
                duration(ago(state.finished))
            )
        }
        Status::Removing => "Removal In Progress".into(),
        Status::Dead => "Dead".into(),
        Status::Exited => {
            format!(
                "Exited ({}) {} ago",
                state.exit_code,
                duration(ago(state.finished))
            )
        }
    }
}

/// Seconds since the epoch.
pub(super) fn seconds(moment: Moment) -> i64 {
    let time: std::time::SystemTime = moment.into();
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A time span in the words that Docker uses.
fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        _ => match hours {
            ..=1 => "About an hour".into(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", hours / 24 / 365),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_in_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 21, "3 weeks"),
            (86_400 * 90, "3 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(duration(seconds), words);
        }
    }
}
