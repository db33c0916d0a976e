//! Who owns which fields: `metadata.managedFields` at creation, update and apply.

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use crate::api::{Api, Body, Context};
use crate::error::ApiError;
use crate::resource::Resource;
use crate::verb::Scope;

/// Whose a write is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    /// A client's update or patch.
    Update(String),
    /// The server's own: no owner is recorded.
    Server,
}

/// Records the owner of a new object's fields.
pub(crate) fn created(_api: &Api, _resource: &Resource, _value: &mut Value, _manager: &str) {}

/// Records the owner of what changed.
pub(crate) fn updated(
    _api: &Api,
    _resource: &Resource,
    _new: &mut Value,
    _old: &Value,
    _manager: &Manager,
    _scope: Scope,
) -> Result<(), ApiError> {
    Ok(())
}

impl Api {
    pub(crate) async fn apply(
        &self,
        _context: &Context,
        _resource: &Resource,
        _scope: Scope,
        _bytes: &Bytes,
    ) -> Result<Response<Body>, ApiError> {
        Err(ApiError::unsupported_media_type("apply is coming"))
    }
}
