//! The cluster's place in the daemon's API: what Docker has no word for.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /dhow/cluster` with settings | brings it up; its status when the node is ready |
//! | `GET /dhow/cluster` | its status |
//! | `DELETE /dhow/cluster?forget=1` | ends it, with or without its objects |

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, json};

use super::settings::Settings;
use super::{Clusters, Objects, Refused, Status};

/// The routes, to be merged with the daemon's others.
pub(crate) fn routes(clusters: Arc<Clusters>) -> Router {
    Router::new()
        .route("/dhow/cluster", post(up).get(status).delete(down))
        .with_state(clusters)
}

/// An error as Docker's API words it.
struct Failure(StatusCode, anyhow::Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "message": format!("{:#}", self.1) });
        (self.0, Json(body)).into_response()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let status = if error.is::<Refused>() {
            StatusCode::CONFLICT
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self(status, error)
    }
}

async fn up(
    State(clusters): State<Arc<Clusters>>,
    body: axum::body::Bytes,
) -> Result<Json<Status>, Failure> {
    let changes = if body.is_empty() {
        Map::new()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Failure(StatusCode::BAD_REQUEST, error.into()))?
    };
    Settings::default()
        .with(changes.clone())
        .map_err(|error| Failure(StatusCode::BAD_REQUEST, error))?;
    // On a task of its own: a client that goes away does not leave it half up.
    let up = tokio::spawn(async move { clusters.up(changes).await });
    Ok(Json(up.await.map_err(anyhow::Error::from)??))
}

async fn status(State(clusters): State<Arc<Clusters>>) -> Result<Json<Status>, Failure> {
    Ok(Json(clusters.status().await?))
}

#[derive(Deserialize)]
struct Down {
    #[serde(default)]
    forget: String,
}

async fn down(
    State(clusters): State<Arc<Clusters>>,
    Query(query): Query<Down>,
) -> Result<StatusCode, Failure> {
    let objects = match query.forget.as_str() {
        "" | "0" | "false" => Objects::Keep,
        _ => Objects::Forget,
    };
    let down = tokio::spawn(async move { clusters.down(objects).await });
    down.await.map_err(anyhow::Error::from)??;
    Ok(StatusCode::NO_CONTENT)
}
