//! OpenAPI documents.

use http::Response;

use crate::api::{Api, Body};
use crate::error::ApiError;

impl Api {
    pub(crate) fn openapi(&self, _path: &[&str]) -> Result<Response<Body>, ApiError> {
        Err(ApiError::no_such_path())
    }
}
