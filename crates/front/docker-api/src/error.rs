//! Errors as the API shows them: a status and `{"message": …}`.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use dhow_engine::{Error, NetworkError, words};
use serde_json::json;

/// An error on its way out.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
}

/// Bytes that are kept of each end of a message.
const KEPT: usize = 2 << 10;

/// What handlers return.
pub(crate) type Answer<T = Response> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The request itself is wrong.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The message alone, for streams that have begun already.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        let message = bounded(&self.message);
        (self.status, Json(json!({ "message": message }))).into_response()
    }
}

/// A message without its middle, if that is a long name or the like: clients read no
/// more than a mebibyte, and people less. What is wrong stands at the end.
fn bounded(message: &str) -> std::borrow::Cow<'_, str> {
    let (head, tail) = (KEPT, message.len().saturating_sub(KEPT));
    if head >= tail {
        return message.into();
    }
    let head = &message[..message.floor_char_boundary(head)];
    let tail = &message[message.ceil_char_boundary(tail)..];
    format!("{head}…{tail}").into()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::NoSuchContainer(_)
            | Error::NoSuchExec(_)
            | Error::NoSuchSandbox(_)
            | Error::NoSuchFile { .. } => StatusCode::NOT_FOUND,
            Error::ReadOnly => StatusCode::FORBIDDEN,
            Error::Invalid(_) | Error::Command { .. } | Error::Exec { .. } => {
                StatusCode::BAD_REQUEST
            }
            Error::Conflict(_) => StatusCode::CONFLICT,
            Error::Already(_) => StatusCode::NOT_MODIFIED,
            Error::Image(error) => image_status(error),
            Error::Network(error) => network_status(error),
            Error::Volume(error) => volume_status(error),
            Error::Runtime(_) | Error::Shim(_) | Error::File { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, words(&error))
    }
}

impl From<dhow_image::Error> for Failure {
    fn from(error: dhow_image::Error) -> Self {
        Self::new(image_status(&error), words(&error))
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        Self::new(network_status(&error), words(&error))
    }
}

impl From<dhow_oci::ReferenceError> for Failure {
    fn from(error: dhow_oci::ReferenceError) -> Self {
        Self::bad(error.to_string())
    }
}

fn image_status(error: &dhow_image::Error) -> StatusCode {
    use dhow_image::Error;
    match error {
        Error::NoSuchImage(_)
        | Error::NoSuchRootfs(_)
        | Error::ManifestUnknown(_)
        | Error::NoMatchingPlatform { .. } => StatusCode::NOT_FOUND,
        Error::Ambiguous { .. }
        | Error::Reference(_)
        | Error::Platform(_)
        | Error::Invalid(_)
        | Error::NoQuotas
        | Error::Archive(_)
        | Error::NotAnImage(..) => StatusCode::BAD_REQUEST,
        Error::Conflict(_) | Error::RootfsExists(_) => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn network_status(error: &NetworkError) -> StatusCode {
    match error {
        NetworkError::NotFound(_) => StatusCode::NOT_FOUND,
        NetworkError::NameTaken(_) => StatusCode::CONFLICT,
        NetworkError::InUse { .. }
        | NetworkError::Overlap(_)
        | NetworkError::ParentTaken { .. }
        | NetworkError::ConfigurationInUse(_)
        | NetworkError::ConfigurationOnly(_)
        | NetworkError::AlreadyJoined { .. }
        | NetworkError::AddressTaken => StatusCode::FORBIDDEN,
        NetworkError::Invalid(_) | NetworkError::NoSuchSubnet(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn volume_status(error: &dhow_engine::VolumeError) -> StatusCode {
    use dhow_engine::VolumeError;
    match error {
        VolumeError::NoSuchVolume(_) => StatusCode::NOT_FOUND,
        VolumeError::ShortName(_) | VolumeError::InvalidName(_) | VolumeError::Options { .. } => {
            StatusCode::BAD_REQUEST
        }
        VolumeError::OtherOptions(_) => StatusCode::CONFLICT,
        VolumeError::Mount { .. } | VolumeError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Any other path. Those of swarms are answered as by a node of none.
pub(crate) async fn no_such_page(uri: Uri) -> Failure {
    let first = uri.path().split('/').nth(1).unwrap_or_default();
    if matches!(
        first,
        "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs"
    ) {
        return Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager. Swarms are not supported: use `dhow up` for a cluster.",
        );
    }
    Failure::new(StatusCode::NOT_FOUND, "page not found")
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, words(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_keep_their_ends() {
        for short in ["", "no such thing", &"ä".repeat(KEPT)] {
            assert_eq!(bounded(short), short);
        }
        let long = format!("make {}: too long", "ä".repeat(1 << 20));
        let shown = bounded(&long);
        assert!(shown.starts_with("make ä") && shown.ends_with("ä: too long"));
        assert!(shown.len() <= 2 * KEPT + 8, "{}", shown.len());
    }
}
