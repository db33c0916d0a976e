//! What clients are told at the end: refusals of requests, and how programs
//! ended. Both are the API's `Status` objects.

use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Body, full};
use crate::runtime::RuntimeError;

/// A request that is not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    code: StatusCode,
    message: String,
}

impl Refusal {
    pub(super) fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let reason = match self.code {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::FORBIDDEN => "Forbidden",
            _ => "InternalError",
        };
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": reason,
            "code": self.code.as_u16(),
        });
        let mut response = Response::new(full(status.to_string()));
        *response.status_mut() = self.code;
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

impl From<RuntimeError> for Refusal {
    fn from(error: RuntimeError) -> Self {
        let code = match error {
            RuntimeError::NotFound(_) => StatusCode::NOT_FOUND,
            RuntimeError::Invalid(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(code, error.to_string())
    }
}

/// How a program ended, as client-go reads it.
pub(super) fn ended(exit_code: i32) -> Value {
    if exit_code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!(
            "command terminated with non-zero exit code: exit status {exit_code}"
        ),
        "reason": "NonZeroExitCode",
        "details": {
            "causes": [{ "reason": "ExitCode", "message": exit_code.to_string() }],
        },
    })
}

/// That a program could not be run.
pub(super) fn failed(error: &dyn std::fmt::Display) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {error}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": error.to_string() }] },
        "code": 500,
    })
}
