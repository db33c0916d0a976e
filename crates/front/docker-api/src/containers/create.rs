//! `POST /containers/create`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use dhow_engine::Creation;
use dhow_engine::spec::{
    Config, EndpointSettings, HostConfig, LogConfig, MountSpec, PortBinding, RestartPolicy,
};
use dhow_oci::Platform;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Door;
use crate::body::Document;
use crate::error::{Answer, Failure};
use crate::fields;
use crate::images::{platform, with_platform};
use crate::version::Version;

use super::Parameters;
use super::view::strip_nulls;

/// The request's body: the configuration with two more fields in it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Body {
    #[serde(flatten)]
    config: Config,
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NetworkingConfig {
    endpoints_config: BTreeMap<String, EndpointSettings>,
}

pub(crate) async fn create(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
    Document(body): Document,
) -> Answer {
    let mut value: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad(format!("invalid JSON: {error}")))?;
    strip_nulls(&mut value);
    name_fields(&mut value);
    let mut body: Body = serde_json::from_value(value)
        .map_err(|error| Failure::bad(format!("invalid JSON: {error}")))?;
    if body.config.image.is_empty() {
        return Err(Failure::bad(
            "config cannot be empty in order to create a container",
        ));
    }
    let mut warnings = body.by_version(version)?;
    let wanted = match query.get("platform") {
        Some(text) if version.since(41) => platform(text)?,
        _ => None,
    };
    warnings.extend(check_platform(&door, &body.config.image, wanted)?);
    let created = door
        .engine
        .create(Creation {
            name: query.get("name").filter(|name| !name.is_empty()).cloned(),
            config: body.config,
            host: body.host_config,
            networks: body.networking_config.endpoints_config,
            sandbox: None,
        })
        .await?;
    warnings.extend(created.warnings);
    let answer = json!({ "Id": created.record.id, "Warnings": warnings });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// Gives the fields of the request the names that they have here.
fn name_fields(value: &mut Value) {
    fields::rename::<Config>(value, &["HostConfig", "NetworkingConfig"]);
    if let Some(host) = value.get_mut("HostConfig") {
        fields::rename::<HostConfig>(host, &[]);
        for (field, rename) in [
            (
                "RestartPolicy",
                fields::rename::<RestartPolicy> as fn(&mut Value, &[&str]),
            ),
            ("LogConfig", fields::rename::<LogConfig>),
        ] {
            if let Some(part) = host.get_mut(field) {
                rename(part, &[]);
            }
        }
    }
    if let Some(networks) = value.get_mut("NetworkingConfig") {
        fields::rename::<NetworkingConfig>(networks, &[]);
    }
}

/// Refuses an image of another platform than the one asked for; one of another
/// than the machine's is worth a warning.
fn check_platform(door: &Door, image: &str, wanted: Option<Platform>) -> Answer<Option<String>> {
    let found = door.engine.images().resolve(image)?;
    if wanted.is_some() {
        with_platform(&found, image, wanted.as_ref())?;
        return Ok(None);
    }
    let (own, here) = (found.config.platform(), Platform::host());
    Ok(here.fitness(&own).is_none().then(|| {
        format!(
            "The requested image's platform ({own}) does not match the detected host platform ({here}) and no specific platform was requested"
        )
    }))
}

impl Body {
    /// Makes of the request what its version means by it: what a version did
    /// not know yet is ignored or refused, what it did otherwise is put into
    /// today's words. Returns what the client is to be warned of.
    fn by_version(&mut self, version: Version) -> Answer<Vec<String>> {
        let host = &mut self.host_config;
        if version.before(56) {
            host.umask = None;
        }
        if version.before(25) {
            host.auto_remove = false;
        }
        if version.before(40) && host.ipc_mode.is_empty() {
            host.ipc_mode = "shareable".into();
        }
        if version.before(42) {
            host.console_size = None;
        }
        if version.before(43) {
            host.annotations.clear();
        }
        if version.before(44)
            && let Some(probe) = &mut self.config.healthcheck
        {
            probe.start_interval = 0;
        }
        for mount in &mut host.mounts {
            mount_by_version(mount, version)?;
        }
        let networks = &mut self.networking_config.endpoints_config;
        if version.before(44) && networks.len() > 1 {
            let names: Vec<&str> = networks.keys().map(String::as_str).collect();
            return Err(Failure::bad(format!(
                "Container cannot be created with multiple network endpoints: {}",
                names.join(", ")
            )));
        }
        if version.before(48) {
            networks.values_mut().for_each(|one| one.gw_priority = 0);
        }
        let mut warnings = Vec::new();
        warnings.extend(self.volume_driver(version));
        warnings.extend(self.hardware_address(version)?);
        warnings.extend(self.empty_bindings(version));
        Ok(warnings)
    }

    /// The driver for all volumes has no say in mounts of the long form.
    fn volume_driver(&self, version: Version) -> Option<String> {
        let host = &self.host_config;
        let is_open = |mount: &MountSpec| {
            let driver = mount.volume_options.as_ref();
            let driver = driver.and_then(|options| options.driver_config.as_ref());
            mount.kind == "volume" && driver.is_none_or(|driver| driver.name.is_empty())
        };
        let is_ignored =
            version.since(48) && !host.volume_driver.is_empty() && host.mounts.iter().any(is_open);
        is_ignored.then(|| {
            "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead".to_owned()
        })
    }

    /// The container's own hardware address is that of its main network; from
    /// 1.44 on it should be said there, from 1.52 on it must be.
    fn hardware_address(&mut self, version: Version) -> Answer<Option<String>> {
        let networks = &mut self.networking_config.endpoints_config;
        if version.before(44) {
            networks
                .values_mut()
                .for_each(|one| one.mac_address.clear());
            return Ok(None);
        }
        let address = &mut self.config.mac_address;
        if address.is_empty() {
            return Ok(None);
        }
        if version.since(52) {
            address.clear();
            return Ok(None);
        }
        let mode = match self.host_config.network_mode.as_str() {
            "" => "default",
            mode => mode,
        };
        let other = networks
            .get(mode)
            .is_some_and(|one| !one.mac_address.is_empty() && one.mac_address != *address);
        if other {
            return Err(Failure::bad(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty",
            ));
        }
        Ok(Some(
            "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.".into(),
        ))
    }

    /// A port with an empty list of bindings was bound to a free port; from 1.53
    /// on it is not bound.
    fn empty_bindings(&mut self, version: Version) -> Option<String> {
        let bindings = &mut self.host_config.port_bindings;
        let is_empty = |list: &Option<Vec<PortBinding>>| list.as_ref().is_none_or(Vec::is_empty);
        if version.since(53) {
            bindings.retain(|_, list| !is_empty(list));
            return None;
        }
        let mut ports = Vec::new();
        for (port, list) in bindings.iter_mut().filter(|(_, list)| is_empty(list)) {
            *list = Some(vec![PortBinding::default()]);
            ports.push(port.as_str());
        }
        (version.since(52) && !ports.is_empty()).then(|| {
            format!(
                "Following container port(s) have an empty list of port-bindings: {}. Starting with API 1.53, such bindings will be discarded.",
                ports.join(", ")
            )
        })
    }
}

fn mount_by_version(mount: &mut MountSpec, version: Version) -> Answer<()> {
    let kind = mount.kind.clone();
    if version.before(42) {
        if kind != "volume" {
            mount.volume_options = None;
        }
        if kind != "tmpfs" {
            mount.tmpfs_options = None;
        }
    }
    for (options, belongs_to, is_set) in [
        ("VolumeOptions", "volume", mount.volume_options.is_some()),
        ("BindOptions", "bind", mount.bind_options.is_some()),
        ("TmpfsOptions", "tmpfs", mount.tmpfs_options.is_some()),
    ] {
        if is_set && kind != belongs_to && version.since(42) {
            return Err(Failure::bad(format!(
                "{options} must not be specified on mount type {kind:?}"
            )));
        }
    }
    if kind == "bind" && version.before(44) {
        let is_read_only = mount.read_only;
        let options = mount.bind_options.get_or_insert_default();
        if options.read_only_force_recursive {
            return Err(Failure::bad(
                "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
            ));
        }
        // Mounts below a read-only one stayed writable.
        options.read_only_non_recursive |= is_read_only;
        options.create_mountpoint &= version.since(42);
        options.non_recursive &= version.since(40);
    }
    let subpath = mount.volume_options.as_ref();
    if version.before(45) && subpath.is_some_and(|options| !options.subpath.is_empty()) {
        return Err(Failure::bad(
            "VolumeOptions.Subpath needs API v1.45 or newer",
        ));
    }
    if version.before(48) && kind == "image" {
        return Err(Failure::bad(
            "Mount type \"Image\" needs API v1.48 or newer",
        ));
    }
    Ok(())
}
