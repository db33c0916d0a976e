//! What the API answers when it does not do what was asked: Status objects in
//! upstream's words.

use dhow_schema::validate::FieldError;
use dhow_store::StoreError;
use serde_json::{Map, Value, json};

use crate::resource::Resource;

/// A failed request: its HTTP status and the Status object's parts.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, for example `NotFound`.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// The Status object's `details`.
    pub details: Option<Value>,
}

/// `deployments.apps`, or `pods` in the core group.
pub(crate) fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details.insert(key.to_owned(), value.into());
        }
    }
    Value::Object(details)
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = Some(details(&resource.group, &resource.plural, name));
        self
    }

    /// The object as it is sent.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if self.reason.is_empty() {
            status
                .as_object_mut()
                .map(|status| status.shift_remove("reason"));
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status["code"] = self.code.into();
        status
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let what = qualified(&resource.plural, &resource.group);
        Self::new(404, "NotFound", format!("{what} {name:?} not found")).about(resource, name)
    }

    pub(crate) fn no_such_path() -> Self {
        let mut error = Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
        error.details = Some(json!({}));
        error
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let what = qualified(&resource.plural, &resource.group);
        Self::new(
            409,
            "AlreadyExists",
            format!("{what} {name:?} already exists"),
        )
        .about(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let what = qualified(&resource.plural, &resource.group);
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {what} {name:?}: {why}"),
        )
        .about(resource, name)
    }

    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn apply_conflict(message: String, causes: Vec<Value>) -> Self {
        let mut error = Self::new(409, "Conflict", message);
        error.details = Some(json!({ "causes": causes }));
        error
    }

    pub(crate) fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let what = qualified(&resource.kind, &resource.group);
        let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        texts.dedup();
        let all = match &*texts {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| {
                json!({"reason": error.reason(), "message": error.problem.to_string(), "field": error.field})
            })
            .collect();
        let mut error = Self::new(422, "Invalid", format!("{what} {name:?} is invalid: {all}"));
        let mut about = details(&resource.group, &resource.kind, name);
        about["causes"] = causes.into();
        error.details = Some(about);
        error
    }

    /// A patch that does not apply to this object.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// A refusal of a write to an object, by admission.
    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let what = qualified(&resource.plural, &resource.group);
        Self::new(
            403,
            "Forbidden",
            format!("{what} {name:?} is forbidden: {why}"),
        )
        .about(resource, name)
    }

    /// A refusal of a request, by authorization.
    pub(crate) fn denied(message: String, group: &str, resource: &str, name: &str) -> Self {
        let mut error = Self::new(403, "Forbidden", message);
        error.details = Some(details(group, resource, name));
        error
    }

    pub(crate) fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let details = self.details.get_or_insert_with(|| json!({}));
        details["causes"] = json!([{"reason": reason, "message": message, "field": field}]);
        self
    }

    pub(crate) fn method_not_allowed() -> Self {
        let mut error = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        error.details = Some(json!({}));
        error
    }

    pub(crate) fn not_acceptable(offered: &str) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {offered}"),
        )
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        error.details = Some(json!({ "retryAfterSeconds": retry_after }));
        error
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        let mut error = Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        );
        error.details = Some(json!({"causes": [{"message": message.to_string()}]}));
        error
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { .. } => {
                Self::expired("The resourceVersion for the provided list is too old.")
            }
            StoreError::Future { asked, newest } => {
                let mut error = Self::timeout(format!(
                    "Too large resource version: {asked}, current: {newest}"
                ));
                error.details = Some(json!({
                    "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                    "retryAfterSeconds": 1,
                }));
                error
            }
            StoreError::Closed => Self::unavailable("the server is shutting down"),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "store");
                Self::internal(error)
            }
        }
    }
}
