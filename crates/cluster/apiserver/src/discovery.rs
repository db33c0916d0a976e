//! What the server has: groups, versions, resources, in both forms.

use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use crate::api::{Api, Body, json_response};
use crate::resource::{Resource, Subresource};
use crate::show::serialize;

/// The media type of the form that tells everything at once.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Kind, group and version of what a subresource speaks.
fn subresource_kind(resource: &Resource, subresource: Subresource) -> (&str, &str, &str) {
    match subresource {
        Subresource::Scale => ("Scale", "autoscaling", "v1"),
        Subresource::Binding => ("Binding", "", "v1"),
        Subresource::Eviction => ("Eviction", "policy", "v1"),
        Subresource::Token => ("TokenRequest", "authentication.k8s.io", "v1"),
        Subresource::Exec => ("PodExecOptions", "", "v1"),
        Subresource::Attach => ("PodAttachOptions", "", "v1"),
        Subresource::PortForward => ("PodPortForwardOptions", "", "v1"),
        Subresource::Proxy => match &*resource.kind {
            "Node" => ("NodeProxyOptions", "", "v1"),
            "Service" => ("ServiceProxyOptions", "", "v1"),
            _ => ("PodProxyOptions", "", "v1"),
        },
        _ => (&resource.kind, &resource.group, &resource.version),
    }
}

fn subresource_verbs(subresource: Subresource) -> &'static [&'static str] {
    match subresource {
        Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
        Subresource::Finalize => &["update"],
        Subresource::Log => &["get"],
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
        Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
        _ => &["get", "patch", "update"],
    }
}

impl Api {
    fn resource_list(&self, group: &str, version: &str) -> Option<Value> {
        let mut resources = Vec::new();
        let own = |resource: &&Resource| resource.group == group && resource.version == version;
        for resource in self.registry.iter().filter(own) {
            let mut entry = json!({"name": resource.plural, "singularName": resource.singular,
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": resource.verbs});
            if !resource.short_names.is_empty() {
                entry["shortNames"] = json!(resource.short_names);
            }
            if !resource.categories.is_empty() {
                entry["categories"] = json!(resource.categories);
            }
            resources.push(entry);
            for &subresource in &resource.subresources {
                let (kind, sub_group, sub_version) = subresource_kind(resource, subresource);
                let mut entry = json!({
                    "name": format!("{}/{}", resource.plural, subresource.name()),
                    "singularName": "", "namespaced": resource.namespaced, "kind": kind,
                    "verbs": subresource_verbs(subresource)});
                if sub_group != group || sub_version != version {
                    entry["group"] = sub_group.into();
                    entry["version"] = sub_version.into();
                }
                resources.push(entry);
            }
        }
        if resources.is_empty() {
            return None;
        }
        let group_version = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": group_version, "resources": resources}))
    }

    fn groups(&self) -> Vec<Value> {
        self.registry
            .group_versions()
            .into_iter()
            .filter(|(group, _)| !group.is_empty())
            .map(|(group, versions)| {
                let versions: Vec<Value> = versions
                    .iter()
                    .map(|version| {
                        json!({"groupVersion": format!("{group}/{version}"), "version": version})
                    })
                    .collect();
                json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
            })
            .collect()
    }

    /// Everything at once; the core group alone, or all others.
    fn aggregated(&self, core: bool) -> Value {
        let items: Vec<Value> = self
            .registry
            .group_versions()
            .into_iter()
            .filter(|(group, _)| group.is_empty() == core)
            .map(|(group, versions)| {
                let versions: Vec<Value> = versions
                    .iter()
                    .map(|version| {
                        let own = |r: &&Resource| r.group == group && r.version == *version;
                        let resources: Vec<Value> = self
                            .registry
                            .iter()
                            .filter(own)
                            .map(aggregated_resource)
                            .collect();
                        json!({"version": version, "freshness": "Current", "resources": resources})
                    })
                    .collect();
                let mut metadata = json!({"creationTimestamp": null});
                if !group.is_empty() {
                    metadata["name"] = group.into();
                }
                json!({"metadata": metadata, "versions": versions})
            })
            .collect();
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
            "metadata": {}, "items": items})
    }

    /// Answers `/api…` and `/apis…` paths that name no resource.
    pub(crate) fn discover(&self, path: &[&str], headers: &HeaderMap) -> Option<Response<Body>> {
        let wants_all = headers
            .get_all(http::header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find(|offer| offer.trim().starts_with("application/json"))
            .is_some_and(|offer| {
                let parts: Vec<&str> = offer.split(';').map(str::trim).collect();
                parts.contains(&"as=APIGroupDiscoveryList") && parts.contains(&"v=v2")
            });
        let plain = |value: &Value| Some(json_response(StatusCode::OK, serialize(value)));
        match path {
            ["api" | "apis"] if wants_all => {
                let list = self.aggregated(path == ["api"]);
                let mut response = json_response(StatusCode::OK, serialize(&list));
                response.headers_mut().insert(
                    http::header::CONTENT_TYPE,
                    http::HeaderValue::from_static(AGGREGATED),
                );
                Some(response)
            }
            ["api"] => plain(&json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0",
                    "serverAddress": format!("{}:{}", self.config.advertise, self.config.port)}]})),
            ["apis"] => plain(&json!({"kind": "APIGroupList", "apiVersion": "v1",
                "groups": self.groups()})),
            ["apis", group] => {
                let mut found = self
                    .groups()
                    .into_iter()
                    .find(|entry| entry["name"] == **group)?;
                found["kind"] = "APIGroup".into();
                found["apiVersion"] = "v1".into();
                plain(&found)
            }
            ["api", version] => plain(&self.resource_list("", version)?),
            ["apis", group, version] => plain(&self.resource_list(group, version)?),
            _ => None,
        }
    }
}

fn aggregated_resource(resource: &Resource) -> Value {
    let response_kind = |kind: &str, group: &str, version: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": response_kind(&resource.kind, &resource.group, &resource.version),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|&subresource| {
            let (kind, group, version) = subresource_kind(resource, subresource);
            json!({"subresource": subresource.name(),
                "responseKind": response_kind(kind, group, version),
                "verbs": subresource_verbs(subresource)})
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}
