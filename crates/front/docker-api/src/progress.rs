//! Answers that are written while the work goes on: JSON, one line each.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::IntoResponse;
use dhow_engine::{Progress, ProgressSender};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::{Answer, Failure};

/// Lines of progress that wait for a slow client at most.
const AHEAD: usize = 256;

/// Lines of JSON on their way to a client.
#[derive(Debug, Clone)]
pub(crate) struct LineSender(mpsc::Sender<Result<Value, Failure>>);

impl LineSender {
    pub(crate) async fn send(&self, line: Value) {
        // A client that is gone has stopped caring.
        let _ = self.0.send(Ok(line)).await;
    }
}

/// A body of JSON lines: the progress of `work`, then the lines it returns. An
/// error before the first line is the answer; later it can only be a line. A
/// client that hangs up ends the work.
pub(crate) async fn progress_body<F, W>(work: F) -> Answer
where
    F: FnOnce(ProgressSender, LineSender) -> W,
    W: Future<Output = Result<Vec<Value>, Failure>> + Send + 'static,
{
    let (lines, mut receiver) = mpsc::channel(AHEAD);
    let (progress, mut steps) = mpsc::channel::<Progress>(AHEAD);
    let forward = LineSender(lines.clone());
    let forwarding = tokio::spawn(async move {
        while let Some(step) = steps.recv().await {
            forward.send(progress_line(&step)).await;
        }
    });
    let working = work(ProgressSender::new(progress), LineSender(lines.clone()));
    tokio::spawn(async move {
        let mut working = Box::pin(working);
        let done = tokio::select! {
            done = &mut working => done,
            () = lines.closed() => return,
        };
        drop(working);
        // What it said comes before what became of it.
        let _ = forwarding.await;
        let last: Vec<Result<Value, Failure>> = match done {
            Ok(last) => last.into_iter().map(Ok).collect(),
            Err(failure) => vec![Err(failure)],
        };
        for line in last {
            let _ = lines.send(line).await;
        }
    });
    let first = receiver.recv().await.transpose()?;
    let body = stream::unfold(
        (first.map(Ok), receiver),
        |(first, mut receiver)| async move {
            let line = match first {
                Some(line) => line,
                None => receiver.recv().await?,
            };
            let line = line.unwrap_or_else(|failure| {
                let message = failure.message();
                json!({ "errorDetail": { "message": message }, "error": message })
            });
            let bytes = Bytes::from(format!("{line}\r\n"));
            Some((Ok::<_, Infallible>(bytes), (None, receiver)))
        },
    );
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(body),
    )
        .into_response())
}

/// A step as Docker shows it. Plain messages have no numbers, not even none.
pub(crate) fn progress_line(step: &Progress) -> Value {
    let mut line = json!({ "status": step.status });
    let is_message = step.id.is_empty() || step.status.starts_with("Pulling from ");
    if !is_message {
        line["progressDetail"] = match (step.current, step.total) {
            (0, 0) => json!({}),
            (current, 0) => json!({ "current": current }),
            (current, total) => json!({ "current": current, "total": total }),
        };
    }
    if !step.id.is_empty() {
        line["id"] = json!(step.id);
    }
    line
}
