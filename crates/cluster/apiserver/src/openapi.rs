//! OpenAPI v3 documents: one a group and version, made once.

use std::collections::HashMap;
use std::sync::OnceLock;

use bytes::Bytes;
use dhow_schema::openapi::{Components, reference};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::{Api, Body, json_response};
use crate::error::ApiError;
use crate::resource::{Resource, Subresource};
use crate::show::serialize;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// One document: its JSON and a digest of it for clients' caches.
struct Document {
    json: Bytes,
    digest: String,
}

/// The documents by path, `api/v1` or `apis/apps/v1`.
#[derive(Default)]
pub(crate) struct Documents {
    made: OnceLock<HashMap<String, Document>>,
}

impl Api {
    fn documents(&self) -> &HashMap<String, Document> {
        self.documents.made.get_or_init(|| {
            let mut documents = HashMap::new();
            for (group, versions) in self.registry.group_versions() {
                for version in versions {
                    let path = root(&group, &version);
                    let json = serialize(&self.document(&group, &version));
                    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &json);
                    let digest = digest
                        .as_ref()
                        .iter()
                        .map(|byte| format!("{byte:02X}"))
                        .collect();
                    documents.insert(path, Document { json, digest });
                }
            }
            documents
        })
    }

    /// Answers `/openapi/…`.
    pub(crate) fn openapi(&self, path: &[&str]) -> Result<Response<Body>, ApiError> {
        match path {
            ["v3"] => {
                let mut documents: Vec<_> = self.documents().iter().collect();
                documents.sort_unstable_by_key(|(path, _)| path.as_str());
                let paths: Map<String, Value> = documents
                    .into_iter()
                    .map(|(path, document)| {
                        let url = format!("/openapi/v3/{path}?hash={}", document.digest);
                        (path.clone(), json!({ "serverRelativeURL": url }))
                    })
                    .collect();
                Ok(json_response(
                    StatusCode::OK,
                    serialize(&json!({ "paths": paths })),
                ))
            }
            ["v3", rest @ ..] => {
                let document = self
                    .documents()
                    .get(&rest.join("/"))
                    .ok_or_else(ApiError::no_such_path)?;
                let mut response = json_response(StatusCode::OK, document.json.clone());
                let tag = format!("\"{}\"", document.digest);
                if let Ok(tag) = HeaderValue::from_str(&tag) {
                    response.headers_mut().insert(http::header::ETAG, tag);
                }
                Ok(response)
            }
            _ => Err(ApiError::no_such_path()),
        }
    }

    fn document(&self, group: &str, version: &str) -> Value {
        let mut components = Components::default();
        for name in ["DeleteOptions", "Status", "APIResourceList"] {
            components.add(self.types, &self.types.shape(&format!("meta/v1.{name}")));
        }
        components.insert(&format!("{META}.Patch"), json!({"type": "object"}));
        let mut paths = Map::new();
        let base = format!("/{}", root(group, version));
        let own = |resource: &&Resource| resource.group == group && resource.version == version;
        for resource in self.registry.iter().filter(own) {
            self.describe(resource, &base, &mut components, &mut paths);
        }
        components.is_kind(
            &format!("{META}.DeleteOptions"),
            group,
            version,
            "DeleteOptions",
        );
        components.is_kind(&format!("{META}.Status"), "", "v1", "Status");
        json!({"openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": format!("v1.{}.0", crate::service::MINOR)},
            "paths": paths, "components": {"schemas": components.finish()}})
    }

    fn describe(
        &self,
        resource: &Resource,
        base: &str,
        components: &mut Components,
        paths: &mut Map<String, Value>,
    ) {
        let Some(ty) = self.types.of(&resource.shape) else {
            return;
        };
        let name = ty.openapi_name.to_string();
        let (group, version) = (&*resource.group, &*resource.version);
        components.add(self.types, &resource.shape);
        components.is_kind(&name, group, version, &resource.kind);
        if resource.verbs.contains(&"list") {
            let list = format!("{name}List");
            let kind = format!("{}List", resource.kind);
            components.insert(
                &list,
                json!({"type": "object", "required": ["items"], "properties": {
                    "apiVersion": {"type": "string"}, "kind": {"type": "string"},
                    "items": {"type": "array", "items": {"allOf": [reference(&name)], "default": {}}},
                    "metadata": {"allOf": [reference(&format!("{META}.ListMeta"))], "default": {}}}}),
            );
            components.add(self.types, &self.types.shape("meta/v1.ListMeta"));
            components.is_kind(&list, group, version, &kind);
            if resource.namespaced {
                let path = format!("{base}/{}", resource.plural);
                let list = operation(resource, "list", &resource.kind, &list);
                paths.insert(path, json!({ "get": list }));
            }
        }
        let collection = if resource.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
        } else {
            format!("{base}/{}", resource.plural)
        };
        let mut many = common(resource, false);
        let mut one = common(resource, true);
        for (verb, method, is_one) in [
            ("list", "get", false),
            ("create", "post", false),
            ("deletecollection", "delete", false),
            ("get", "get", true),
            ("update", "put", true),
            ("patch", "patch", true),
            ("delete", "delete", true),
        ] {
            if resource.verbs.contains(&verb) {
                let answer = match verb {
                    "list" => format!("{name}List"),
                    "delete" | "deletecollection" => format!("{META}.Status"),
                    _ => name.clone(),
                };
                let operation = operation(resource, verb, &resource.kind, &answer);
                if is_one { &mut one } else { &mut many }.insert(method.to_owned(), operation);
            }
        }
        if resource.is_stored() {
            paths.insert(format!("{collection}/{{name}}"), one.into());
        }
        for &subresource in &resource.subresources {
            self.describe_sub(resource, subresource, &collection, components, paths);
        }
        paths.insert(collection, many.into());
    }

    fn describe_sub(
        &self,
        resource: &Resource,
        subresource: Subresource,
        collection: &str,
        components: &mut Components,
        paths: &mut Map<String, Value>,
    ) {
        let (shape, kind, group, version) = match subresource {
            Subresource::Scale => ("autoscaling/v1.Scale", "Scale", "autoscaling", "v1"),
            Subresource::Status => ("", &*resource.kind, &*resource.group, &*resource.version),
            Subresource::Eviction => ("policy/v1.Eviction", "Eviction", "policy", "v1"),
            Subresource::Binding => ("core/v1.Binding", "Binding", "", "v1"),
            Subresource::Token => (
                "authentication/v1.TokenRequest",
                "TokenRequest",
                "authentication.k8s.io",
                "v1",
            ),
            _ => return,
        };
        let shape = if shape.is_empty() {
            resource.shape.clone()
        } else {
            self.types.shape(shape)
        };
        components.add(self.types, &shape);
        let Some(ty) = self.types.of(&shape) else {
            return;
        };
        components.is_kind(&ty.openapi_name, group, version, kind);
        let mut item = common(resource, true);
        let creates = matches!(
            subresource,
            Subresource::Eviction | Subresource::Binding | Subresource::Token
        );
        let verbs: &[(&str, &str)] = if creates {
            &[("create", "post")]
        } else {
            &[("get", "get"), ("update", "put"), ("patch", "patch")]
        };
        for (verb, method) in verbs {
            let mut operation = operation(resource, verb, kind, &ty.openapi_name);
            operation["x-kubernetes-group-version-kind"] =
                json!({"group": group, "version": version, "kind": kind});
            item.insert((*method).to_owned(), operation);
        }
        paths.insert(
            format!("{collection}/{{name}}/{}", subresource.name()),
            item.into(),
        );
    }
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn parameter(name: &str, place: &str, kind: &str) -> Value {
    json!({"name": name, "in": place, "required": place == "path",
        "schema": {"type": kind, "uniqueItems": true}})
}

/// The parameters of every operation of a path.
fn common(resource: &Resource, named: bool) -> Map<String, Value> {
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name", "path", "string"));
    }
    if resource.namespaced {
        parameters.push(parameter("namespace", "path", "string"));
    }
    parameters.push(parameter("pretty", "query", "string"));
    let mut item = Map::new();
    item.insert("parameters".to_owned(), parameters.into());
    item
}

fn operation(resource: &Resource, verb: &str, kind: &str, answer: &str) -> Value {
    let (action, parameters): (&str, &[(&str, &str)]) = match verb {
        "list" => (
            "list",
            &[
                ("allowWatchBookmarks", "boolean"),
                ("continue", "string"),
                ("fieldSelector", "string"),
                ("labelSelector", "string"),
                ("limit", "integer"),
                ("resourceVersion", "string"),
                ("resourceVersionMatch", "string"),
                ("sendInitialEvents", "boolean"),
                ("timeoutSeconds", "integer"),
                ("watch", "boolean"),
            ],
        ),
        "create" => (
            "post",
            &[
                ("dryRun", "string"),
                ("fieldManager", "string"),
                ("fieldValidation", "string"),
            ],
        ),
        "update" => (
            "put",
            &[
                ("dryRun", "string"),
                ("fieldManager", "string"),
                ("fieldValidation", "string"),
            ],
        ),
        "patch" => (
            "patch",
            &[
                ("dryRun", "string"),
                ("fieldManager", "string"),
                ("fieldValidation", "string"),
                ("force", "boolean"),
            ],
        ),
        "delete" | "deletecollection" => (
            verb,
            &[
                ("dryRun", "string"),
                ("gracePeriodSeconds", "integer"),
                ("orphanDependents", "boolean"),
                ("propagationPolicy", "string"),
            ],
        ),
        _ => ("get", &[]),
    };
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|(name, kind)| parameter(name, "query", kind))
        .collect();
    let mut operation = json!({
        "tags": [resource.group_version().replace(['/', '.'], "_")],
        "operationId": format!("{verb}{}{}{kind}", resource.version, resource.plural),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {
            "application/json": {"schema": reference(answer)}}},
            "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": resource.group,
            "version": resource.version, "kind": kind},
    });
    let body = |media: &[&str], schema: Value| -> Value {
        let content: Map<String, Value> = media
            .iter()
            .map(|media| ((*media).to_owned(), json!({ "schema": schema })))
            .collect();
        json!({ "content": content })
    };
    match verb {
        "create" | "update" => {
            operation["requestBody"] = body(&["*/*"], reference(answer));
            operation["requestBody"]["required"] = true.into();
        }
        "patch" => {
            operation["requestBody"] = body(
                &[
                    "application/apply-patch+yaml",
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                ],
                reference(&format!("{META}.Patch")),
            );
            operation["requestBody"]["required"] = true.into();
        }
        "delete" | "deletecollection" => {
            operation["requestBody"] = body(&["*/*"], reference(&format!("{META}.DeleteOptions")));
        }
        _ => {}
    }
    operation
}
