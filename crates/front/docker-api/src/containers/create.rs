//! `POST /containers/create`.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use dhow_engine::Creation;
use dhow_engine::spec::{Config, EndpointSettings, HostConfig};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Door;
use crate::error::{Answer, Failure};

use super::Parameters;
use super::view::strip_nulls;

/// The request's body: the configuration with two more fields in it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Body {
    #[serde(flatten)]
    config: Config,
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NetworkingConfig {
    endpoints_config: BTreeMap<String, EndpointSettings>,
}

pub(crate) async fn create(
    State(door): State<Door>,
    Query(query): Parameters,
    body: Bytes,
) -> Answer {
    let mut value: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad(format!("invalid JSON: {error}")))?;
    strip_nulls(&mut value);
    let body: Body = serde_json::from_value(value)
        .map_err(|error| Failure::bad(format!("invalid JSON: {error}")))?;
    if body.config.image.is_empty() {
        return Err(Failure::bad(
            "config cannot be empty in order to create a container",
        ));
    }
    let created = door
        .engine
        .create(Creation {
            name: query.get("name").filter(|name| !name.is_empty()).cloned(),
            config: body.config,
            host: body.host_config,
            networks: body.networking_config.endpoints_config,
            sandbox: None,
        })
        .await?;
    let answer = json!({ "Id": created.record.id, "Warnings": created.warnings });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}
