//! Environment variables of containers: literal ones, those of other objects,
//! of the pod itself, and of services; and `$(NAME)` in texts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dhow_quantity::Quantity;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container as Spec, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service,
};
use kube::{Api, Client, ResourceExt};

use crate::config::{Capacity, Config};

/// Why a container's environment cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    /// Something that is referred to does not exist.
    #[error("{0}")]
    Missing(String),
    /// A reference that is not supported.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// The API server could not be asked.
    #[error("cannot read {0}")]
    Api(String, #[source] Box<kube::Error>),
}

/// A pod and where it is, for references to its own fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) config: &'a Config,
}

/// Reads other objects of the pod's namespace.
#[derive(Clone)]
pub(crate) struct Reader {
    client: Client,
    namespace: String,
}

impl Reader {
    pub(crate) fn new(client: Client, pod: &Pod) -> Self {
        Self {
            client,
            namespace: pod.namespace().unwrap_or_default(),
        }
    }

    pub(crate) async fn config_map(&self, name: &str) -> Result<Option<ConfigMap>, EnvError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(name).await;
        found.map_err(|error| EnvError::Api(format!("configmap {name:?}"), Box::new(error)))
    }

    pub(crate) async fn secret(&self, name: &str) -> Result<Option<Secret>, EnvError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(name).await;
        found.map_err(|error| EnvError::Api(format!("secret {name:?}"), Box::new(error)))
    }
}

/// A container's variables, in order, each name once.
pub(crate) async fn resolve(
    reader: &Reader,
    place: &Place<'_>,
    spec: &Spec,
    services: &[std::sync::Arc<Service>],
) -> Result<Vec<(String, String)>, EnvError> {
    let mut variables = Variables::default();
    let links = place.pod.spec.as_ref();
    let links = links.is_none_or(|spec| spec.enable_service_links != Some(false));
    let namespace = links.then_some(reader.namespace.as_str());
    for (name, value) in of_services(services, namespace) {
        variables.set(name, value);
    }
    for source in spec.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (name, value) in from_source(reader, source).await? {
            variables.set(format!("{prefix}{name}"), value);
        }
    }
    for variable in spec.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(expand(
                variable.value.as_deref().unwrap_or_default(),
                |name| variables.get(name),
            )),
            Some(source) => of_source(reader, place, spec, source).await?,
        };
        if let Some(value) = value {
            variables.set(variable.name.clone(), value);
        }
    }
    Ok(variables.list)
}

/// Variables in order; setting one again changes it in place.
#[derive(Debug, Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        if let Some(index) = self.index.get(&name) {
            self.list[*index].1 = value;
        } else {
            self.index.insert(name.clone(), self.list.len());
            self.list.push((name, value));
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        let index = *self.index.get(name)?;
        Some(self.list[index].1.clone())
    }
}

async fn from_source(
    reader: &Reader,
    source: &k8s_openapi::api::core::v1::EnvFromSource,
) -> Result<Vec<(String, String)>, EnvError> {
    if let Some(reference) = &source.config_map_ref {
        let found = reader.config_map(&reference.name).await?;
        let data = match found {
            Some(map) => map.data.unwrap_or_default(),
            None if reference.optional == Some(true) => BTreeMap::new(),
            None => return Err(missing("configmap", &reference.name)),
        };
        return Ok(data.into_iter().collect());
    }
    if let Some(reference) = &source.secret_ref {
        let found = reader.secret(&reference.name).await?;
        let data = match found {
            Some(secret) => secret.data.unwrap_or_default(),
            None if reference.optional == Some(true) => BTreeMap::new(),
            None => return Err(missing("secret", &reference.name)),
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        return Ok(data
            .into_iter()
            .map(|(key, bytes)| (key, text(bytes.0)))
            .collect());
    }
    Ok(Vec::new())
}

fn missing(kind: &str, name: &str) -> EnvError {
    EnvError::Missing(format!("{kind} \"{name}\" not found"))
}

async fn of_source(
    reader: &Reader,
    place: &Place<'_>,
    spec: &Spec,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    if let Some(reference) = &source.field_ref {
        return field(place, &reference.field_path).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource(place, spec, reference).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let is_optional = reference.optional == Some(true);
        let Some(map) = reader.config_map(&reference.name).await? else {
            return optional(is_optional, || missing("configmap", &reference.name));
        };
        let value = map.data.and_then(|mut data| data.remove(&reference.key));
        return match value {
            Some(value) => Ok(Some(value)),
            None => optional(is_optional, || {
                no_key(reader, "ConfigMap", &reference.name, &reference.key)
            }),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let is_optional = reference.optional == Some(true);
        let Some(secret) = reader.secret(&reference.name).await? else {
            return optional(is_optional, || missing("secret", &reference.name));
        };
        let value = secret.data.and_then(|mut data| data.remove(&reference.key));
        return match value {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => optional(is_optional, || {
                no_key(reader, "Secret", &reference.name, &reference.key)
            }),
        };
    }
    Err(EnvError::Missing(
        "no known source of a variable".to_owned(),
    ))
}

fn optional(
    is_optional: bool,
    error: impl FnOnce() -> EnvError,
) -> Result<Option<String>, EnvError> {
    if is_optional { Ok(None) } else { Err(error()) }
}

fn no_key(reader: &Reader, kind: &str, name: &str, key: &str) -> EnvError {
    EnvError::Missing(format!(
        "couldn't find key {key} in {kind} {}/{name}",
        reader.namespace
    ))
}

/// A field of the pod, by its path in the API.
pub(crate) fn field(place: &Place<'_>, path: &str) -> Result<String, EnvError> {
    let pod = place.pod;
    let spec = pod.spec.as_ref();
    let list = |addresses: &[IpAddr]| {
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        texts.join(",")
    };
    let one = |addresses: &[IpAddr]| addresses.first().map(ToString::to_string);
    let host = &place.config.addresses;
    let own = if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        host
    } else {
        place.addresses
    };
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => pod.labels(),
            "metadata.annotations" => pod.annotations(),
            _ => return Err(EnvError::Field(path.to_owned())),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        "spec.nodeName" => place.config.name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => one(host).unwrap_or_default(),
        "status.hostIPs" => list(host),
        "status.podIP" => one(own).unwrap_or_default(),
        "status.podIPs" => list(own),
        _ => return Err(EnvError::Field(path.to_owned())),
    })
}

/// `map['key']` in its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as lines `key="value"`, the values quoted as in Go.
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", serde_json::Value::from(value.as_str())))
        .collect();
    lines.join("\n")
}

/// A container's request or limit, in units of the divisor, rounded up.
pub(crate) fn resource(
    place: &Place<'_>,
    spec: &Spec,
    reference: &ResourceFieldSelector,
) -> Result<String, EnvError> {
    let unsupported = || EnvError::Field(reference.resource.clone());
    let (class, name) = reference.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = spec.resources.as_ref();
    let map = match class {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let parse = |text: &str| text.parse::<Quantity>().ok();
    let Capacity {
        cpu,
        memory,
        ephemeral_storage,
        ..
    } = place.config.capacity;
    let whole = match name {
        "cpu" => Quantity::from_milli(cpu),
        "memory" => Quantity::from_bytes(memory),
        "ephemeral-storage" => Quantity::from_bytes(ephemeral_storage),
        _ => Quantity::from_units(0),
    };
    let amount = map
        .and_then(|map| map.get(name))
        .and_then(|text| parse(&text.0));
    let amount = match (amount, class) {
        (Some(amount), _) => amount,
        // Without a limit there is all of the machine.
        (None, "limits") => whole,
        (None, _) => Quantity::from_units(0),
    };
    let divisor = reference.divisor.as_ref().and_then(|text| parse(&text.0));
    let divisor = divisor.filter(|divisor| !divisor.is_zero());
    let number = if name == "cpu" {
        let divisor = divisor.map_or(1000, |divisor| divisor.milli_value().max(1));
        div_up(amount.milli_value(), divisor)
    } else {
        let divisor = divisor.map_or(1, |divisor| divisor.value().max(1));
        div_up(amount.value(), divisor)
    };
    Ok(number.to_string())
}

fn div_up(number: i64, by: i64) -> i64 {
    number / by + i64::from(number % by > 0)
}

/// The variables that tell of services: `kubernetes` always, those of the
/// pod's namespace if it wants them.
fn of_services(
    services: &[std::sync::Arc<Service>],
    namespace: Option<&str>,
) -> Vec<(String, String)> {
    let mut list = Vec::new();
    let mut chosen: Vec<&Service> = services
        .iter()
        .map(AsRef::as_ref)
        .filter(|service| {
            let of = service.metadata.namespace.as_deref();
            let is_main =
                of == Some("default") && service.metadata.name.as_deref() == Some("kubernetes");
            is_main || (namespace.is_some() && of == namespace)
        })
        .collect();
    chosen.sort_by_key(|service| {
        let is_own = service.metadata.namespace.as_deref() == namespace;
        (is_own, service.metadata.name.clone())
    });
    for service in chosen {
        let spec = service.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or(&[]);
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref());
        let Some(address) = address.filter(|address| !matches!(*address, "" | "None")) else {
            continue;
        };
        let Some(first) = ports.first() else {
            continue;
        };
        let host = match address.contains(':') {
            true => format!("[{address}]"),
            false => address.to_owned(),
        };
        let upper = |text: &str| text.to_uppercase().replace('-', "_");
        let prefix = upper(&service.name_any());
        let url =
            |protocol: &str, port: i32| format!("{}://{host}:{port}", protocol.to_lowercase());
        let protocol = |port: &k8s_openapi::api::core::v1::ServicePort| {
            port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())
        };
        list.push((format!("{prefix}_SERVICE_HOST"), address.to_owned()));
        list.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let name = format!("{prefix}_SERVICE_PORT_{}", upper(name));
                list.push((name, port.port.to_string()));
            }
        }
        list.push((format!("{prefix}_PORT"), url(&protocol(first), first.port)));
        for port in ports {
            let protocol = protocol(port);
            let prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            list.push((prefix.clone(), url(&protocol, port.port)));
            list.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
            list.push((format!("{prefix}_PORT"), port.port.to_string()));
            list.push((format!("{prefix}_ADDR"), address.to_owned()));
        }
    }
    list
}

/// Replaces `$(NAME)` by what is known; `$$` is one dollar sign, and what is
/// not known stays as it is.
pub(crate) fn expand(text: &str, known: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('(')
            && let Some(end) = after.find(')')
        {
            let name = &after[..end];
            match known(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = &after[end + 1..];
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_expanded() {
        let known = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$$$(A)$", "$1$"),
            ("", ""),
        ] {
            assert_eq!(expand(text, known), expected, "{text}");
        }
    }

    #[test]
    fn services_are_told() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "my-db", "namespace": "ns"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "p-q", "port": 5432, "protocol": "TCP"}]}}))
        .expect("a service");
        let services = [std::sync::Arc::new(service)];
        let list: BTreeMap<String, String> =
            of_services(&services, Some("ns")).into_iter().collect();
        assert_eq!(list["MY_DB_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(list["MY_DB_SERVICE_PORT_P_Q"], "5432");
        assert_eq!(list["MY_DB_PORT"], "tcp://10.0.0.1:5432");
        assert_eq!(list["MY_DB_PORT_5432_TCP_ADDR"], "10.0.0.1");
        assert!(of_services(&services, Some("other")).is_empty());
        assert!(of_services(&services, None).is_empty());
    }

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a": "x\"y"}}, "spec": {"containers": [
                {"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}}))
        .expect("a pod");
        let config = Config {
            capacity: Capacity {
                cpu: 3500,
                ..Capacity::default()
            },
            ..Config::default()
        };
        let place = Place {
            pod: &pod,
            addresses: &["10.0.0.2".parse().expect("an address")],
            config: &config,
        };
        assert_eq!(
            field(&place, "metadata.labels['a']").ok().as_deref(),
            Some("x\"y")
        );
        assert_eq!(
            field(&place, "metadata.labels").ok().as_deref(),
            Some("a=\"x\\\"y\"")
        );
        assert_eq!(
            field(&place, "status.podIP").ok().as_deref(),
            Some("10.0.0.2")
        );
        assert!(field(&place, "spec.secret").is_err());
        let spec = &pod.spec.as_ref().expect("a spec").containers[0];
        let ask = |resource_: &str, divisor: &str| {
            let reference = json!({"resource": resource_, "divisor": divisor});
            let reference = serde_json::from_value(reference).expect("a reference");
            resource(&place, spec, &reference).expect("an amount")
        };
        assert_eq!(ask("limits.memory", "1Mi"), "64");
        assert_eq!(ask("limits.memory", "0"), "67108864");
        assert_eq!(ask("requests.cpu", "1m"), "250");
        assert_eq!(ask("requests.cpu", "1"), "1");
        assert_eq!(ask("limits.cpu", "1"), "4");
    }
}
