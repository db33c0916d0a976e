//! Streams of containers: attach, logs, wait, archives.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Query, State};
use axum::http::{Request, header};
use axum::response::{IntoResponse, Response};
use dhow_engine::{AttachOptions, LogLine, LogOptions, LogStream, Logs, Moment, Record, WaitFor};
use dhow_image::ChangeKind;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Door;
use crate::error::{Answer, Failure};
use crate::filters::is_true;
use crate::hijack::{Carrying, Handover, Session, detach_keys};
use crate::path::Path;
use crate::version::Version;
use crate::{moments, websocket};

use super::Parameters;

pub(crate) async fn attach(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
    mut request: Request<Body>,
) -> Answer {
    let record = door.engine.get(&name)?;
    let options = attach_options(&record, &query);
    let terminal = record.config.tty;
    let keys = query.get("detachKeys").map_or("", String::as_str);
    let (engine, detached) = (door.engine.clone(), record.id.clone());
    let carrying = Carrying {
        terminal,
        detach: (terminal && options.stdin)
            .then(|| detach_keys(keys))
            .transpose()?,
        detached: Box::new(move || engine.tell(&detached, "detach")),
    };
    let session = session(&door, &name, &record, &query, options)?;
    Ok(Handover::of(&mut request).carry(carrying, session))
}

fn attach_options(record: &Record, query: &HashMap<String, String>) -> AttachOptions {
    AttachOptions {
        stdin: is_true(query.get("stdin")) && record.config.open_stdin,
        stdout: is_true(query.get("stdout")),
        stderr: is_true(query.get("stderr")),
    }
}

/// The log so far where `logs` is asked for, and the streams where `stream` is.
fn session(
    door: &Door,
    name: &str,
    record: &Record,
    query: &HashMap<String, String>,
    options: AttachOptions,
) -> Answer<impl Future<Output = dhow_engine::Result<Session>> + Send + use<>> {
    let wants_logs = is_true(query.get("logs"));
    // Old clients leave it out and mean it.
    let wants_stream = is_true(query.get("stream")) || !wants_logs;
    let history = LogOptions {
        stdout: options.stdout,
        stderr: options.stderr,
        ..LogOptions::default()
    };
    let attaching = wants_stream
        .then(|| door.engine.attach(name, options))
        .transpose()?;
    let (engine, id) = (door.engine.clone(), record.id.clone());
    let (terminal, is_alive) = (record.config.tty, record.state.status.is_alive());
    Ok(async move {
        let read = |until| -> dhow_engine::Result<_> {
            if !wants_logs {
                return Ok(None);
            }
            let logs = engine.logs(
                &id,
                LogOptions {
                    until,
                    ..history.clone()
                },
            )?;
            Ok(Some(framed(logs, Shown::default(), terminal).boxed()))
        };
        let Some(attaching) = attaching else {
            return Ok(Session {
                history: read(None)?,
                attached: None,
                ended: Box::pin(std::future::ready(())),
            });
        };
        // Of one that does not run yet, all there is was before.
        let before = if is_alive { None } else { read(None)? };
        let attached = attaching.await?;
        let history = match (before, &attached) {
            (None, Some(attached)) if is_alive => read(attached.since)?,
            (before, _) => before,
        };
        Ok(Session {
            history,
            attached,
            ended: Box::pin(std::future::ready(())),
        })
    })
}

/// `GET /containers/{id}/attach/ws`: the streams as messages, unframed.
pub(crate) async fn attach_websocket(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Query(query): Parameters,
    upgrade: WebSocketUpgrade,
) -> Answer {
    let record = door.engine.get(&name)?;
    let mut options = attach_options(&record, &query);
    if version.before(42) {
        // All of them, whatever is asked for.
        options = AttachOptions {
            stdin: record.config.open_stdin,
            stdout: true,
            stderr: true,
        };
    }
    let terminal = record.config.tty;
    let session = session(&door, &name, &record, &query, options)?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        match session.await {
            Ok(session) => websocket::carry(socket, session, terminal).await,
            Err(error) => websocket::refuse(socket, &error.to_string()).await,
        }
    }))
}

pub(crate) async fn wait(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let condition = match query.get("condition").map_or("", String::as_str) {
        "" | "not-running" => WaitFor::NotRunning,
        "next-exit" => WaitFor::NextExit,
        "removed" => WaitFor::Removed,
        other => return Err(Failure::bad(format!("invalid condition: {other:?}"))),
    };
    let waiting = door.engine.waiter(&name, condition)?;
    // The headers go out at once: they tell the client that the wait has begun.
    let body = stream::once(async move {
        let answer = match waiting.await {
            Ok(ended) if ended.error.is_empty() => json!({ "StatusCode": ended.exit_code }),
            Ok(ended) => {
                json!({ "StatusCode": ended.exit_code, "Error": { "Message": ended.error } })
            }
            Err(error) => json!({ "StatusCode": -1, "Error": { "Message": error.to_string() } }),
        };
        Ok::<_, Infallible>(Bytes::from(format!("{answer}\n")))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(body),
    )
        .into_response())
}

pub(crate) async fn logs(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let options = LogOptions {
        stdout: is_true(query.get("stdout")),
        stderr: is_true(query.get("stderr")),
        since: moment(&query, "since")?,
        // Zero is how clients say that there is no end.
        until: moment(&query, "until")?.filter(|until| *until != Moment::EPOCH),
        tail: match query.get("tail").map_or("all", String::as_str) {
            "" | "all" => None,
            // As Docker has it, what is no number means all.
            text => text.parse().ok(),
        },
        follow: is_true(query.get("follow")),
    };
    if !options.stdout && !options.stderr {
        return Err(Failure::bad(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let shown = Shown {
        timestamps: is_true(query.get("timestamps")),
        details: is_true(query.get("details")),
    };
    let terminal = door.engine.get(&name)?.config.tty;
    let logs = door.engine.logs(&name, options)?;
    let body = stream::unfold(logs, move |mut logs| async move {
        let line = logs.next().await?;
        Some((Ok::<_, Infallible>(frame(&line, shown, terminal)), logs))
    });
    let kind = if terminal || version.before(42) {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(body)).into_response())
}

/// A log as it is sent, line by line.
fn framed(
    logs: Logs,
    shown: Shown,
    terminal: bool,
) -> impl stream::Stream<Item = Bytes> + Send + 'static {
    stream::unfold(logs, move |mut logs| async move {
        let line = logs.next().await?;
        Some((frame(&line, shown, terminal), logs))
    })
}

/// What stands before a line.
#[derive(Debug, Default, Clone, Copy)]
struct Shown {
    timestamps: bool,
    /// The attributes of its log options.
    details: bool,
}

/// A line as it is sent: framed, unless it is a terminal's.
fn frame(line: &LogLine, shown: Shown, terminal: bool) -> Bytes {
    let mut text = String::new();
    if shown.timestamps {
        text.push_str(&line.time.to_string());
        text.push(' ');
    }
    if shown.details {
        let attributes: Vec<String> = line
            .attributes
            .iter()
            .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
            .collect();
        text.push_str(&attributes.join(","));
        text.push(' ');
    }
    let length = text.len() + line.text.len();
    let mut bytes = Vec::with_capacity(8 + length);
    if !terminal {
        let stream = if line.stream == LogStream::Stdout {
            1
        } else {
            2
        };
        bytes.extend_from_slice(&[stream, 0, 0, 0]);
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(&line.text);
    bytes.into()
}

/// A name or value as it stands in a query, so that what it holds ends neither.
fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Seconds since the epoch, with a fraction or without, or RFC 3339.
pub(crate) fn moment(query: &HashMap<String, String>, name: &str) -> Answer<Option<Moment>> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    moments::moment(text)
        .map(Some)
        .ok_or_else(|| Failure::bad(format!("invalid value for {name:?}: {text:?}")))
}

pub(crate) async fn changes(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    let record = door.engine.get(&name)?;
    let images = door.engine.images().clone();
    let changes = blocking(move || images.changes(&record.id)).await??;
    let shown: Vec<Value> = changes
        .iter()
        .map(|change| {
            let kind = match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            };
            json!({ "Path": change.path, "Kind": kind })
        })
        .collect();
    Ok(Json(if shown.is_empty() {
        Value::Null
    } else {
        Value::Array(shown)
    })
    .into_response())
}

pub(crate) async fn export(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    let record = door.engine.get(&name)?;
    let images = door.engine.images().clone();
    door.engine.tell(&record.id, "export");
    Ok(tar_body(move |output| {
        images
            .export(&record.id, output)
            .map_err(|error| error.to_string())
    }))
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Answer<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        Failure::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            "the operation ended unexpectedly; the daemon's log says why",
        )
    })
}

/// A body that `write` writes, on a thread that may block.
pub(crate) fn tar_body(
    write: impl FnOnce(&mut dyn Write) -> Result<(), String> + Send + 'static,
) -> Response {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut output = std::io::BufWriter::with_capacity(256 << 10, ToBody(sender.clone()));
        let written =
            write(&mut output).and_then(|()| output.flush().map_err(|error| error.to_string()));
        if let Err(error) = written {
            // The connection is cut, so that nobody takes a part for the whole.
            let _ = sender.blocking_send(Err(std::io::Error::other(error)));
        }
    });
    let body = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
        Some((receiver.recv().await?, receiver))
    });
    (
        [(header::CONTENT_TYPE, "application/x-tar")],
        Body::from_stream(body),
    )
        .into_response()
}

struct ToBody(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for ToBody {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
