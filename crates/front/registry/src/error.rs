//! Errors as clients see them: the codes of the distribution specification,
//! "Error Codes".

use http::StatusCode;
use serde_json::json;

/// What a handler returns.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// Why a request is refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// Headers that go with it.
    pub(crate) headers: Vec<(http::HeaderName, String)>,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Refusal {
        Refusal {
            status,
            code,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: http::HeaderName, value: impl Into<String>) -> Refusal {
        self.headers.push((name, value.into()));
        self
    }

    /// The body: `{"errors":[…]}`.
    pub(crate) fn json(&self) -> Vec<u8> {
        let errors = json!({"errors": [{"code": self.code, "message": self.message}]});
        errors.to_string().into_bytes()
    }

    pub(crate) fn blob_unknown(digest: impl std::fmt::Display) -> Refusal {
        let message = format!("blob unknown to registry: {digest}");
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", message)
    }

    pub(crate) fn manifest_unknown(reference: &str) -> Refusal {
        let message = format!("manifest unknown: {reference}");
        Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message)
    }

    pub(crate) fn manifest_invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
    }

    pub(crate) fn name_unknown(name: &str) -> Refusal {
        let message = format!("repository name not known to registry: {name}");
        Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
    }

    pub(crate) fn digest_invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(crate) fn upload_unknown() -> Refusal {
        let message = "blob upload unknown to registry";
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
    }

    pub(crate) fn upload_invalid(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal::new(status, "BLOB_UPLOAD_INVALID", message)
    }

    pub(crate) fn too_large(limit: u64) -> Refusal {
        let message = format!("more than the {limit} bytes allowed");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message)
    }
}

impl From<dhow_content::Error> for Refusal {
    fn from(error: dhow_content::Error) -> Refusal {
        match error {
            dhow_content::Error::Missing(digest) => Refusal::blob_unknown(digest),
            dhow_content::Error::Verify(error) => Refusal::digest_invalid(error.to_string()),
            dhow_content::Error::Busy(_) => Refusal::upload_invalid(
                StatusCode::CONFLICT,
                "another request is writing to this upload",
            ),
            error => internal(&error),
        }
    }
}

impl From<crate::store::Error> for Refusal {
    fn from(error: crate::store::Error) -> Refusal {
        internal(&error)
    }
}

/// Our fault: the details are for the log, not for strangers.
pub(crate) fn internal(error: &dyn std::error::Error) -> Refusal {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    tracing::error!(error = text, "request failed");
    let message = "internal error; the registry's log says more";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message)
}
