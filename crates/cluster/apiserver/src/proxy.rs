//! Requests that are the node agent's to answer.

use http::{Method, Response};
use hyper::upgrade::OnUpgrade;

use crate::api::{Api, Body, Context};
use crate::error::ApiError;
use crate::resource::Resource;

impl Api {
    pub(crate) async fn to_node(
        &self,
        _context: &Context,
        _resource: &Resource,
        _method: &Method,
        _query: Option<&str>,
        _upgrade: Option<OnUpgrade>,
    ) -> Result<Response<Body>, ApiError> {
        Err(ApiError::unavailable("no way to the node"))
    }
}
