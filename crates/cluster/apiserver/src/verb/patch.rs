//! `patch`: JSON patch, merge patch, strategic merge patch, and apply.

use bytes::Bytes;
use dhow_schema::decode::Parsed;
use dhow_schema::patch::{self, PatchError};
use http::{Response, StatusCode};
use serde_json::Value;

use super::body;
use super::modify::{Scope, Write};
use crate::api::{Api, Body, Context, json_response};
use crate::error::ApiError;
use crate::resource::Resource;

const TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// The patch types beside apply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PatchType {
    Json,
    Merge,
    Strategic,
}

/// A parsed patch.
pub(super) struct Patch {
    kind: PatchType,
    value: Value,
}

impl Patch {
    /// Reads a patch as its content type says; `None`: it is an apply.
    pub(super) fn read(context: &Context, bytes: &[u8]) -> Result<Option<Self>, ApiError> {
        let kind = match context.content_type() {
            "application/json-patch+json" => PatchType::Json,
            "application/merge-patch+json" => PatchType::Merge,
            "application/strategic-merge-patch+json" => PatchType::Strategic,
            "application/apply-patch+yaml" | "application/apply-patch+json" => return Ok(None),
            _ => return Err(ApiError::unsupported_media_type(TYPES)),
        };
        let value = body::parse_json(bytes)?.value;
        Ok(Some(Self { kind, value }))
    }

    /// The patched tree.
    pub(super) fn apply(
        &self,
        api: &Api,
        shape: &dhow_schema::Shape,
        current: &Value,
    ) -> Result<Value, ApiError> {
        let mut value = current.clone();
        match self.kind {
            PatchType::Json => patch::json(&mut value, self.value.clone()),
            PatchType::Merge => {
                patch::merge(&mut value, self.value.clone());
                Ok(())
            }
            PatchType::Strategic => {
                patch::strategic(api.types, shape, &mut value, self.value.clone())
            }
        }
        .map_err(|error| match error {
            PatchError::Malformed(why) => ApiError::bad_request(why),
            PatchError::Failed(why) => ApiError::unprocessable(format!(
                "the server rejected our request due to an error in our request: {why}"
            )),
            PatchError::TooMany(_) => {
                let mut error2 = ApiError::bad_request(error.to_string());
                error2.code = 413;
                error2.reason = "RequestEntityTooLarge";
                error2
            }
        })?;
        Ok(value)
    }
}

impl Api {
    pub(super) async fn patch(
        &self,
        context: &Context,
        resource: &Resource,
        scope: Scope,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let Some(patch) = Patch::read(context, &bytes)? else {
            return self.apply(context, resource, scope, &bytes).await;
        };
        let write = Write::by(context, scope)?;
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let object = self
            .modify(resource, namespace, name, &write, |current| {
                let value = patch.apply(self, &resource.shape, current)?;
                let mut value = self.conform(
                    context,
                    resource,
                    Parsed {
                        value,
                        duplicates: Vec::new(),
                    },
                )?;
                self.check_names(context, resource, &mut value)?;
                Ok(value)
            })
            .await?;
        Ok(json_response(
            StatusCode::OK,
            context.show(resource).one(&object),
        ))
    }
}
