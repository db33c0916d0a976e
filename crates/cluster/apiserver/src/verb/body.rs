//! Reading strangers' bodies: bounded, parsed, held against the schema.

use std::time::Duration;

use bytes::Bytes;
use dhow_schema::decode::{self, Parsed};
use dhow_schema::{Shape, Types, proto};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;

use crate::api::{Api, BoxError, Context};
use crate::error::ApiError;
use crate::resource::Resource;
use crate::tree;

/// No request body is longer.
pub(crate) const LONGEST_BODY: usize = 3 << 20;

/// And none takes longer to arrive.
const SLOWEST_BODY: Duration = Duration::from_secs(60);

/// Reads a body to its end.
pub(crate) async fn read<B>(body: B) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let collecting = Limited::new(body, LONGEST_BODY).collect();
    match tokio::time::timeout(SLOWEST_BODY, collecting).await {
        Err(_) => Err(ApiError::timeout(format!(
            "the request's body did not arrive within {} s",
            SLOWEST_BODY.as_secs()
        ))),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(LONGEST_BODY)),
        Ok(Err(error)) => Err(ApiError::bad_request(format!(
            "cannot read the request's body: {error}"
        ))),
    }
}

/// The media type of protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Parses a body as JSON, or as YAML or protobuf if it says so.
pub(crate) fn parse(context: &Context, types: &Types, body: &[u8]) -> Result<Parsed, ApiError> {
    match context.content_type() {
        PROTOBUF => parse_proto(types, body),
        "" | "application/json" => parse_json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" => parse_yaml(body),
        _ => Err(ApiError::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// Decodes protobuf to the tree that JSON would have been.
fn parse_proto(types: &Types, body: &[u8]) -> Result<Parsed, ApiError> {
    let bad = |error: proto::ProtoError| ApiError::bad_request(error.to_string());
    let envelope = proto::open(body).map_err(bad)?;
    let (group, version) = envelope
        .api_version
        .split_once('/')
        .unwrap_or(("", &envelope.api_version));
    let package = match group.split('.').next() {
        Some("") | None => "core",
        Some(first) => first,
    };
    let kind = &envelope.kind;
    let Some(id) = types
        .id(&format!("{package}/{version}.{kind}"))
        .or_else(|| types.id(&format!("meta/v1.{kind}")))
    else {
        return Err(ApiError::bad_request(format!(
            "no kind {kind:?} is registered for version {:?}",
            envelope.api_version
        )));
    };
    let mut value = proto::decode(types, &Shape::Struct(id), envelope.raw).map_err(bad)?;
    tree::set(&mut value, &["kind"], envelope.kind.as_str());
    tree::set(&mut value, &["apiVersion"], envelope.api_version.as_str());
    Ok(Parsed {
        value,
        duplicates: Vec::new(),
    })
}

pub(crate) fn parse_json(body: &[u8]) -> Result<Parsed, ApiError> {
    decode::parse(body).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// YAML that is JSON is read as JSON.
pub(crate) fn parse_yaml(body: &[u8]) -> Result<Parsed, ApiError> {
    if let Ok(parsed) = decode::parse(body) {
        return Ok(parsed);
    }
    match serde_saphyr::from_slice::<Value>(body) {
        Ok(value) => Ok(Parsed {
            value,
            duplicates: Vec::new(),
        }),
        Err(error) => Err(ApiError::bad_request(format!(
            "error converting YAML to JSON: {error}"
        ))),
    }
}

impl Api {
    /// Holds an object against its kind: right kind, known fields, right types.
    pub(crate) fn conform(
        &self,
        context: &Context,
        resource: &Resource,
        parsed: Parsed,
    ) -> Result<Value, ApiError> {
        let Parsed { value, duplicates } = parsed;
        self.check_kind(resource, &value)?;
        let bad = |what: String| {
            ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {what}",
                kind = resource.kind,
                version = resource.version,
            ))
        };
        let conformed = decode::conform(self.types, &resource.shape, value)
            .map_err(|mismatch| bad(mismatch.to_string()))?;
        let findings = conformed
            .unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""))
            .chain(
                duplicates
                    .iter()
                    .map(|path| format!("duplicate field \"{path}\"")),
            );
        match context.query.get("fieldValidation") {
            "Ignore" => {}
            "Strict" => {
                let all: Vec<String> = findings.collect();
                if !all.is_empty() {
                    return Err(bad(format!("strict decoding error: {}", all.join(", "))));
                }
            }
            "" | "Warn" => findings.for_each(|finding| context.warn(finding)),
            other => {
                return Err(ApiError::unprocessable(format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        }
        let mut value = conformed.value;
        tree::set(&mut value, &["kind"], resource.kind.clone());
        tree::set(&mut value, &["apiVersion"], resource.group_version());
        Ok(value)
    }

    fn check_kind(&self, resource: &Resource, value: &Value) -> Result<(), ApiError> {
        if !value.is_object() {
            return Err(ApiError::bad_request(
                "couldn't get version/kind; json parse error: the body is no object",
            ));
        }
        let kind = tree::text(value, &["kind"]);
        let version = tree::text(value, &["apiVersion"]);
        let expected = resource.group_version();
        if (kind.is_empty() || kind == resource.kind) && (version.is_empty() || version == expected)
        {
            return Ok(());
        }
        let describe = |version: &str, kind: &str| {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            if group.is_empty() {
                format!("{version}, Kind={kind}")
            } else {
                format!("{group}/{version}, Kind={kind}")
            }
        };
        Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; got {}, expected {}",
            resource.kind,
            describe(version, kind),
            describe(&expected, &resource.kind)
        )))
    }

    /// Holds the names in a body against those in the path.
    pub(crate) fn check_names(
        &self,
        context: &Context,
        resource: &Resource,
        value: &mut Value,
    ) -> Result<(), ApiError> {
        let target = &context.target;
        if resource.namespaced {
            let namespace = tree::text(value, &["metadata", "namespace"]);
            if namespace.is_empty() {
                tree::set(value, &["metadata", "namespace"], target.namespace.clone());
            } else if namespace != target.namespace {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        } else {
            tree::remove(value, &["metadata", "namespace"]);
        }
        let name = tree::text(value, &["metadata", "name"]);
        if !target.name.is_empty() {
            if name.is_empty() {
                tree::set(value, &["metadata", "name"], target.name.clone());
            } else if name != target.name {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    target.name
                )));
            }
        }
        Ok(())
    }
}
