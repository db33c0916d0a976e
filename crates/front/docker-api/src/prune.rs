//! Answers to a prune: one report at the end, or with `stream` (from 1.56) a
//! line for each thing as it goes, and the report in the last.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::IntoResponse;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::Answer;
use crate::filters::is_true;
use crate::version::Version;

/// Lines that wait for a slow client at most.
const AHEAD: usize = 64;

/// Is told what went.
#[derive(Debug, Clone)]
pub(crate) struct Told(Option<mpsc::Sender<Value>>);

impl Told {
    /// Something is gone.
    pub(crate) async fn deleted(&self, id: &str) {
        if let Some(lines) = &self.0 {
            // A client that is gone has stopped caring.
            let _ = lines.send(line(id)).await;
        }
    }

    /// Something is gone; for threads that may block.
    pub(crate) fn deleted_blocking(&self, id: &str) {
        if let Some(lines) = &self.0 {
            let _ = lines.blocking_send(line(id));
        }
    }
}

fn line(id: &str) -> Value {
    json!({ "id": id, "status": "Deleted" })
}

/// Answers with the report that `work` returns.
///
/// # Errors
///
/// Those of `work`; while it streams they are lines.
pub(crate) async fn answer<W>(
    version: Version,
    query: &HashMap<String, String>,
    work: impl FnOnce(Told) -> W,
) -> Answer
where
    W: Future<Output = Answer<Value>> + Send + 'static,
{
    if !(version.since(56) && is_true(query.get("stream"))) {
        return Ok(Json(work(Told(None)).await?).into_response());
    }
    let (lines, receiver) = mpsc::channel(AHEAD);
    let working = work(Told(Some(lines.clone())));
    // What has begun comes to its end, whether the client stays or not.
    tokio::spawn(async move {
        let last = match working.await {
            Ok(report) => json!({ "aux": report }),
            Err(failure) => json!({ "errorDetail": { "message": failure.message() } }),
        };
        let _ = lines.send(last).await;
    });
    let body = stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        let bytes = Bytes::from(format!("{line}\n"));
        Some((Ok::<_, Infallible>(bytes), receiver))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/jsonl")],
        Body::from_stream(body),
    )
        .into_response())
}
