//! The `scale` subresource: the replicas of whatever has them.

use bytes::Bytes;
use dhow_schema::decode;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::body;
use super::modify::{Scope, Write};
use super::patch::Patch;
use crate::api::{Api, Body, Context, json_response};
use crate::error::ApiError;
use crate::resource::Resource;
use crate::show::serialize;
use crate::tree;

/// The Scale of an object.
fn scale_of(value: &Value) -> Value {
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = tree::at(value, &["metadata", field]) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let replicas = tree::int(value, &["spec", "replicas"]).unwrap_or(0);
    let current = tree::int(value, &["status", "replicas"]).unwrap_or(0);
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": replicas},
        "status": {"replicas": current, "selector": selector_text(value)}})
}

fn selector_text(value: &Value) -> String {
    let Some(selector) = tree::at(value, &["spec", "selector"]) else {
        return String::new();
    };
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let mut pairs: Vec<String> = tree::entries(labels, &[])
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for expression in tree::list(selector, &["matchExpressions"]) {
        let key = tree::text(expression, &["key"]);
        let values: Vec<&str> = tree::list(expression, &["values"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        pairs.push(match tree::text(expression, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    pairs.sort_unstable();
    pairs.join(",")
}

impl Api {
    pub(super) async fn scale(
        &self,
        context: &Context,
        resource: &Resource,
        verb: &str,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let shape = self.types.shape("autoscaling/v1.Scale");
        let patch = match verb {
            "get" => {
                let Some(object) = self.find(resource, namespace, name).await? else {
                    return Err(ApiError::not_found(resource, name));
                };
                let scale = scale_of(&object.tree());
                return Ok(json_response(StatusCode::OK, serialize(&scale)));
            }
            "update" => None,
            "patch" => Some(Patch::read(context, &bytes)?.ok_or_else(|| {
                ApiError::unsupported_media_type(
                    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
                )
            })?),
            _ => return Err(ApiError::method_not_allowed()),
        };
        let given = match patch {
            Some(_) => Value::Null,
            None => body::parse(context, self.types, &bytes)?.value,
        };
        let write = Write::by(context, Scope::Whole)?;
        let object = self
            .modify(resource, namespace, name, &write, |current| {
                let scale = match &patch {
                    Some(patch) => patch.apply(self, &shape, &scale_of(current))?,
                    None => given.clone(),
                };
                let scale = decode::conform(self.types, &shape, scale)
                    .map_err(|error| ApiError::bad_request(error.to_string()))?
                    .value;
                let replicas = tree::int(&scale, &["spec", "replicas"]).unwrap_or(0);
                if replicas < 0 {
                    return Err(ApiError::unprocessable(format!(
                        "Scale.autoscaling {name:?} is invalid: spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0"
                    )));
                }
                let mut new = current.clone();
                tree::set(&mut new, &["spec", "replicas"], replicas);
                let version = tree::text(&scale, &["metadata", "resourceVersion"]);
                if !version.is_empty() {
                    tree::set(&mut new, &["metadata", "resourceVersion"], version);
                }
                Ok(new)
            })
            .await?;
        let scale = scale_of(&object.tree());
        Ok(json_response(StatusCode::OK, serialize(&scale)))
    }
}
