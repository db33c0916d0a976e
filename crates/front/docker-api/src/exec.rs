//! `/exec`: further programs in running containers.

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use dhow_engine::{AttachOptions, Error, ExecOptions};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Door;
use crate::body::Document;
use crate::containers::{Parameters, strip_nulls, terminal_size};
use crate::error::{Answer, Failure};
use crate::hijack::{Carrying, Handover, Session, detach_keys};
use crate::path::Path;

/// Longest body of a start request, in bytes.
const MAX_BODY: usize = 64 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Create {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    env: Vec<String>,
    cmd: Vec<String>,
    privileged: bool,
    user: String,
    working_dir: String,
    detach_keys: String,
    console_size: Option<[u16; 2]>,
}

pub(crate) async fn create(
    State(door): State<Door>,
    Path(name): Path<String>,
    Document(body): Document,
) -> Answer {
    let create: Create = parse(&body)?;
    detach_keys(&create.detach_keys)?;
    let id = door.engine.exec_create(
        &name,
        ExecOptions {
            args: create.cmd,
            env: create.env,
            working_dir: create.working_dir,
            user: create.user,
            tty: create.tty,
            streams: AttachOptions {
                stdin: create.attach_stdin,
                stdout: create.attach_stdout,
                stderr: create.attach_stderr,
            },
            privileged: create.privileged,
            detach_keys: create.detach_keys,
            console_size: create.console_size.filter(|_| create.tty),
        },
    )?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Start {
    detach: bool,
    console_size: Option<[u16; 2]>,
}

pub(crate) async fn start(
    State(door): State<Door>,
    Path(id): Path<String>,
    mut request: Request<Body>,
) -> Answer {
    let handover = Handover::of(&mut request);
    let body = Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| Failure::bad(format!("request body: {error}")))?
        .to_bytes();
    let start: Start = parse(&body)?;
    let (_, container, options) = door.engine.exec_inspect(&id)?;
    let wanted = options.streams;
    let size = start.console_size.filter(|_| options.tty);
    if start.detach || !(wanted.stdin || wanted.stdout || wanted.stderr) {
        door.engine.exec_start(&id, start.detach, size).await?;
        return Ok(StatusCode::OK.into_response());
    }
    door.engine.exec_check(&id)?;
    // The connection is handed over before the program starts; what goes wrong
    // then is told in the stream, and by the exit code.
    let engine = door.engine.clone();
    let carrying = Carrying {
        terminal: options.tty,
        detach: (options.tty && wanted.stdin)
            .then(|| detach_keys(&options.detach_keys))
            .transpose()?,
        detached: Box::new(move || engine.tell(&container, "exec_detach")),
    };
    let starting = async move {
        let attached = door.engine.exec_start(&id, false, size).await?;
        let attached = attached.ok_or_else(|| Error::Conflict("no stream is attached".into()))?;
        Ok(Session {
            history: None,
            attached: Some(attached),
            ended: Box::pin(async move {
                let _ = door.engine.exec_wait(&id).await;
            }),
        })
    };
    Ok(handover.carry(carrying, starting))
}

pub(crate) async fn resize(
    State(door): State<Door>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let (rows, columns) = terminal_size(&query)?;
    door.engine.exec_resize(&id, rows, columns).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn inspect(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    let (state, container, options) = door.engine.exec_inspect(&id)?;
    let (program, arguments) = options
        .args
        .split_first()
        .map_or(("", &[][..]), |(first, rest)| (first, rest));
    Ok(Json(json!({
        "ID": id,
        "Running": state.running,
        "ExitCode": state.exit_code,
        "Pid": state.pid,
        "ContainerID": container,
        "OpenStdin": options.streams.stdin,
        "OpenStdout": options.streams.stdout,
        "OpenStderr": options.streams.stderr,
        "CanRemove": false,
        "DetachKeys": options.detach_keys,
        "ProcessConfig": {
            "tty": options.tty,
            "entrypoint": program,
            "arguments": arguments,
            "privileged": options.privileged,
            "user": options.user,
        },
    }))
    .into_response())
}

fn parse<T: Default + serde::de::DeserializeOwned>(body: &[u8]) -> Answer<T> {
    if body.is_empty() {
        return Ok(T::default());
    }
    let invalid = |error| Failure::bad(format!("invalid JSON: {error}"));
    let mut value: Value = serde_json::from_slice(body).map_err(invalid)?;
    strip_nulls(&mut value);
    serde_json::from_value(value).map_err(invalid)
}
