//! `/images`: what is asked of images. Names contain slashes, so what follows
//! `/images/` is taken apart here.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use dhow_engine::{Progress, ProgressSender};
use dhow_image::{
    Commit, Image, Import, Listed, PruneScope, PullOptions, PushOptions, RegistryAuth, Removal,
    Removed,
};
use dhow_oci::{ContainerConfig, Platform, Reference};
use futures_util::{StreamExt, stream};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::Door;
use crate::containers::{Parameters, blocking, strip_nulls, tar_body};
use crate::error::{Answer, Failure};
use crate::filters::{Filters, is_true};

/// Lines of progress that wait for a slow client at most.
const AHEAD: usize = 256;

pub(crate) async fn list(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let known = [
        "before",
        "dangling",
        "label",
        "label!",
        "reference",
        "since",
        "until",
    ];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let created = |name: &String| {
        door.engine
            .images()
            .resolve(name)
            .map(|image| image.created)
    };
    let before = filters.get("before").first().map(created).transpose()?;
    let since = filters.get("since").first().map(created).transpose()?;
    let shown: Vec<Value> = door
        .engine
        .images()
        .list()
        .iter()
        .filter(|listed| {
            let tags: Vec<String> = listed.names.tags.iter().map(Reference::familiar).collect();
            filters.labels(&listed.image.config.config.labels)
                && filters.any("dangling", |wanted| {
                    tags.is_empty() == !matches!(wanted, "0" | "false" | "False")
                })
                && filters.any("reference", |pattern| {
                    tags.iter().any(|tag| {
                        glob(pattern, tag)
                            || tag
                                .rsplit_once(':')
                                .is_some_and(|(name, _)| glob(pattern, name))
                    })
                })
                && before.is_none_or(|moment| listed.image.created < moment)
                && since.is_none_or(|moment| listed.image.created > moment)
        })
        .map(|listed| summary(&door, listed))
        .collect();
    Ok(Json(shown).into_response())
}

fn summary(door: &Door, listed: &Listed) -> Value {
    let text = |names: &[Reference]| names.iter().map(Reference::familiar).collect::<Vec<_>>();
    json!({
        "Id": listed.image.id.to_string(),
        "ParentId": "",
        "RepoTags": text(&listed.names.tags),
        "RepoDigests": text(&listed.names.digests),
        "Created": listed.image.created,
        "Size": listed.image.size(),
        "SharedSize": -1,
        "Labels": listed.image.config.config.labels,
        "Containers": door.engine.image_users(&listed.image.id).len(),
    })
}

/// `*` for any text without a slash, `?` for any one character.
fn glob(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.chars();
    match pattern.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = pattern.as_str();
            let end = text.find('/').unwrap_or(text.len());
            (0..=end)
                .filter(|at| text.is_char_boundary(*at))
                .any(|at| glob(rest, &text[at..]))
        }
        Some(wanted) => {
            let mut text = text.chars();
            text.next().is_some_and(|found| {
                (found == wanted || (wanted == '?' && found != '/'))
                    && glob(pattern.as_str(), text.as_str())
            })
        }
    }
}

/// `POST /images/create`: a pull, or an import with `fromSrc`.
pub(crate) async fn create(
    State(door): State<Door>,
    Query(query): Parameters,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    if !get("fromSrc").is_empty() {
        return import(door, &query, &changes(&uri), body).await;
    }
    let (name, tag) = (get("fromImage"), get("tag"));
    let text = match (tag, tag.contains(':')) {
        ("", _) => name.to_owned(),
        (digest, true) => format!("{name}@{digest}"),
        (tag, false) => format!("{name}:{tag}"),
    };
    let reference = Reference::parse(&text)?.or_latest();
    let options = PullOptions {
        auth: registry_auth(&headers)?,
        platform: platform(get("platform"))?,
    };
    Ok(progress_body(move |progress, lines| async move {
        let tag = reference.tag().map_or_else(
            || {
                reference
                    .digest()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            },
            str::to_owned,
        );
        let from = reference.name();
        lines.send(json!({ "status": format!("Pulling from {}", from.strip_prefix("docker.io/").unwrap_or(&from)), "id": tag })).await;
        let pulled = door
            .engine
            .image_pull(&reference, options, progress)
            .await?;
        lines
            .send(json!({ "status": format!("Digest: {}", pulled.digest) }))
            .await;
        let status = if pulled.is_newer {
            "Downloaded newer image"
        } else {
            "Image is up to date"
        };
        lines
            .send(json!({ "status": format!("Status: {status} for {}", reference.familiar()) }))
            .await;
        Ok(())
    }))
}

/// The parameters `changes`, of which there may be several.
fn changes(uri: &Uri) -> Vec<String> {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(name, value)| name == "changes" && !value.is_empty())
        .map(|(_, value)| value.into_owned())
        .collect()
}

async fn import(
    door: Door,
    query: &std::collections::HashMap<String, String>,
    changes: &[String],
    body: Body,
) -> Answer {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    if get("fromSrc") != "-" {
        return Err(Failure::bad(
            "importing from a URL is not supported: pipe the archive in and use -",
        ));
    }
    let name = match (get("repo"), get("tag")) {
        ("", _) => None,
        (repo, "") => Some(Reference::parse(repo)?.or_latest()),
        (repo, tag) => Some(Reference::parse(&format!("{repo}:{tag}"))?),
    };
    let mut config = ContainerConfig::default();
    dhow_build::change(&mut config, changes).map_err(Failure::bad)?;
    let import = Import {
        config,
        message: get("message").to_owned(),
        platform: platform(get("platform"))?,
        name,
    };
    let images = door.engine.images().clone();
    let mut input = reader(body);
    let image = blocking(move || images.import(&mut input, import)).await??;
    let line = format!("{}\n", json!({ "status": image.id.to_string() }));
    Ok(([(header::CONTENT_TYPE, "application/json")], line).into_response())
}

pub(crate) async fn load(State(door): State<Door>, body: Body) -> Answer {
    let images = door.engine.images().clone();
    let mut input = reader(body);
    Ok(progress_body(move |progress, lines| async move {
        let loaded = blocking(move || images.load(&mut input, &progress)).await??;
        for one in loaded {
            let names: Vec<String> = one.names.iter().map(Reference::familiar).collect();
            let text = if names.is_empty() {
                format!("Loaded image ID: {}\n", one.id)
            } else {
                names
                    .iter()
                    .map(|name| format!("Loaded image: {name}\n"))
                    .collect()
            };
            lines.send(json!({ "stream": text })).await;
        }
        Ok(())
    }))
}

pub(crate) async fn save(State(door): State<Door>, request: Request<Body>) -> Answer {
    let names: Vec<String> = query_values(request.uri().query().unwrap_or_default(), "names");
    if names.is_empty() {
        return Err(Failure::bad(
            "no image given: name at least one with names=",
        ));
    }
    save_names(&door, names)
}

fn save_names(door: &Door, names: Vec<String>) -> Answer {
    for name in &names {
        door.engine.images().resolve(name)?;
    }
    let images = door.engine.images().clone();
    Ok(tar_body(move |output| {
        images
            .save(&names, output)
            .map_err(|error| error.to_string())
    }))
}

/// All values of a repeated parameter.
pub(crate) fn query_values(query: &str, name: &str) -> Vec<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(found, _)| *found == name)
        .map(|(_, value)| percent_decode(&value.replace('+', " ")))
        .filter(|value| !value.is_empty())
        .collect()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| {
                tail.get(..2)
                    .and_then(|digits| std::str::from_utf8(digits).ok())
            })
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `GET /images/NAME/json`, `/history`, `/get`.
pub(crate) async fn get(State(door): State<Door>, Path(rest): Path<String>) -> Answer {
    let Some((name, what)) = rest.rsplit_once('/') else {
        return Err(crate::error::no_such_page(axum::http::Uri::default()).await);
    };
    match what {
        "json" => {
            let image = door.engine.images().resolve(name)?;
            Ok(Json(full(&door, &image)).into_response())
        }
        "history" => {
            let image = door.engine.images().resolve(name)?;
            let shown: Vec<Value> = door
                .engine
                .images()
                .history(&image)
                .iter()
                .map(|entry| {
                    let tags: Vec<String> = entry.tags.iter().map(Reference::familiar).collect();
                    json!({
                        "Id": entry.id.as_ref().map_or_else(|| "<missing>".to_owned(), ToString::to_string),
                        "Created": entry.created,
                        "CreatedBy": entry.created_by,
                        "Tags": if tags.is_empty() { Value::Null } else { json!(tags) },
                        "Size": entry.size,
                        "Comment": entry.comment,
                    })
                })
                .collect();
            Ok(Json(shown).into_response())
        }
        "get" => save_names(&door, vec![name.to_owned()]),
        _ => Err(crate::error::no_such_page(axum::http::Uri::default()).await),
    }
}

fn full(door: &Door, image: &Image) -> Value {
    let names = door.engine.images().names(&image.id);
    let text = |names: &[Reference]| names.iter().map(Reference::familiar).collect::<Vec<_>>();
    let config = &image.config;
    json!({
        "Id": image.id.to_string(),
        "RepoTags": text(&names.tags),
        "RepoDigests": text(&names.digests),
        "Parent": "",
        "Comment": config.comment,
        "Created": config.created,
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": config.config,
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": image.size(),
        "GraphDriver": { "Name": "overlay2", "Data": null },
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": dhow_engine::Moment::from(
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(image.tagged.try_into().unwrap_or(0))
        ).to_string() },
        "Descriptor": image.manifest,
    })
}

/// `POST /images/NAME/push` and `/tag`.
pub(crate) async fn post(
    State(door): State<Door>,
    Path(rest): Path<String>,
    Query(query): Parameters,
    headers: HeaderMap,
) -> Answer {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let with_tag = |name: &str, tag: &str| {
        let text = if tag.is_empty() {
            name.to_owned()
        } else {
            format!("{name}:{tag}")
        };
        Reference::parse(&text).map(Reference::or_latest)
    };
    match rest.rsplit_once('/') {
        Some((name, "tag")) => {
            let target = with_tag(get("repo"), get("tag"))?;
            door.engine.image_tag(name, &target)?;
            Ok(StatusCode::CREATED.into_response())
        }
        Some((name, "push")) => {
            let reference = with_tag(name, get("tag"))?;
            let options = PushOptions {
                auth: registry_auth(&headers)?,
            };
            door.engine
                .images()
                .resolve(&reference.familiar())
                .map_err(|error| match error {
                    dhow_image::Error::NoSuchImage(_) => Failure::new(
                        StatusCode::NOT_FOUND,
                        format!(
                            "An image does not exist locally with the tag: {}",
                            reference.familiar_name()
                        ),
                    ),
                    error => error.into(),
                })?;
            Ok(progress_body(move |progress, lines| async move {
                lines
                    .send(json!({ "status": format!("The push refers to repository [{}]", reference.name()) }))
                    .await;
                for pushed in door
                    .engine
                    .image_push(&reference, options, progress)
                    .await?
                {
                    lines
                        .send(json!({ "status": format!("{}: digest: {} size: {}", pushed.tag, pushed.digest, pushed.size) }))
                        .await;
                    lines
                        .send(json!({ "progressDetail": {}, "aux": {
                            "Tag": pushed.tag, "Digest": pushed.digest.to_string(), "Size": pushed.size,
                        } }))
                        .await;
                }
                Ok(())
            }))
        }
        _ => Err(crate::error::no_such_page(axum::http::Uri::default()).await),
    }
}

pub(crate) async fn remove(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let how = if is_true(query.get("force")) {
        Removal::Forced
    } else {
        Removal::Careful
    };
    let removed = blocking(move || door.engine.image_remove(&name, how)).await??;
    Ok(Json(removed.iter().map(removed_line).collect::<Vec<_>>()).into_response())
}

fn removed_line(removed: &Removed) -> Value {
    match removed {
        Removed::Untagged(name) => json!({ "Untagged": name.familiar() }),
        Removed::Deleted(id) => json!({ "Deleted": id.to_string() }),
    }
}

pub(crate) async fn prune(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let known = ["dangling", "label", "label!", "until"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let dangling = filters.any("dangling", |wanted| !matches!(wanted, "0" | "false"));
    let scope = if dangling {
        PruneScope::Dangling
    } else {
        PruneScope::Unused
    };
    let pruned = blocking(move || {
        door.engine.images().prune(
            scope,
            &|listed| filters.labels(&listed.image.config.config.labels),
            &|id| door.engine.image_users(id),
        )
    })
    .await??;
    let deleted: Vec<Value> = pruned.removed.iter().map(removed_line).collect();
    let deleted = if deleted.is_empty() {
        Value::Null
    } else {
        Value::Array(deleted)
    };
    Ok(
        Json(json!({ "ImagesDeleted": deleted, "SpaceReclaimed": pruned.reclaimed }))
            .into_response(),
    )
}

/// `POST /commit`.
pub(crate) async fn commit(
    State(door): State<Door>,
    Query(query): Parameters,
    uri: Uri,
    body: Bytes,
) -> Answer {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let record = door.engine.get(get("container"))?;
    let name = match (get("repo"), get("tag")) {
        ("", _) => None,
        (repo, "") => Some(Reference::parse(repo)?.or_latest()),
        (repo, tag) => Some(Reference::parse(&format!("{repo}:{tag}"))?),
    };
    let base = door.engine.images().resolve(&record.image)?;
    let mut config = serde_json::to_value(&record.config).unwrap_or_default();
    if !body.is_empty() {
        let mut over: Value = serde_json::from_slice(&body)
            .map_err(|error| Failure::bad(format!("invalid JSON: {error}")))?;
        strip_nulls(&mut over);
        if let (Value::Object(config), Value::Object(over)) = (&mut config, over) {
            config.extend(over.into_iter().filter(|(_, value)| !is_empty(value)));
        }
    }
    let mut config = serde_json::from_value(config)
        .map_err(|error| Failure::bad(format!("invalid configuration: {error}")))?;
    dhow_build::change(&mut config, &changes(&uri)).map_err(Failure::bad)?;
    let commit = Commit {
        config,
        author: get("author").to_owned(),
        comment: get("comment").to_owned(),
        created_by: record.args.join(" "),
        name,
    };
    let pauses = query.get("pause").is_none_or(|text| is_true(Some(text)))
        && record.state.status == dhow_engine::Status::Running;
    if pauses {
        door.engine.pause(&record.id).await?;
    }
    let images = door.engine.images().clone();
    let id = record.id.clone();
    let committed = blocking(move || images.commit(&base, &id, commit)).await;
    if pauses {
        door.engine.unpause(&record.id).await?;
    }
    let image = committed??;
    door.engine
        .events()
        .announce("container", "commit", &record.id, BTreeMap::new());
    Ok((
        StatusCode::CREATED,
        Json(json!({ "Id": image.id.to_string() })),
    )
        .into_response())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(_) => false,
    }
}

/// Who the client is to the registry: `X-Registry-Auth`, base64 of JSON in the
/// URL-safe alphabet, padded or not.
pub(crate) fn registry_auth(headers: &HeaderMap) -> Answer<Option<RegistryAuth>> {
    let Some(text) = headers
        .get("x-registry-auth")
        .and_then(|value| value.to_str().ok())
    else {
        return Ok(None);
    };
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    let bytes = alphabet
        .decode(text)
        .map_err(|error| Failure::bad(format!("invalid X-Registry-Auth header: {error}")))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let auth: RegistryAuth = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::bad(format!("invalid X-Registry-Auth header: {error}")))?;
    Ok(Some(auth))
}

pub(crate) fn platform(text: &str) -> Answer<Option<Platform>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error| Failure::bad(format!("invalid platform {text:?}: {error}")))
}

/// Reads a body from a thread that may block.
pub(crate) fn reader(body: Body) -> SyncIoBridge<impl tokio::io::AsyncRead + Unpin + Send> {
    let stream = body
        .into_data_stream()
        .map(|chunk| chunk.map_err(io::Error::other));
    SyncIoBridge::new(StreamReader::new(Box::pin(stream)))
}

/// Lines of JSON on their way to a client.
#[derive(Debug, Clone)]
pub(crate) struct LineSender(mpsc::Sender<Value>);

impl LineSender {
    pub(crate) async fn send(&self, line: Value) {
        // A client that is gone has stopped caring.
        let _ = self.0.send(line).await;
    }
}

/// A body of JSON lines: the progress of `work`, and its error if it fails,
/// which by then can only be a line.
pub(crate) fn progress_body<F, W>(work: F) -> Response
where
    F: FnOnce(ProgressSender, LineSender) -> W,
    W: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (lines, receiver) = mpsc::channel(AHEAD);
    let (progress, mut steps) = mpsc::channel::<Progress>(AHEAD);
    let forward = LineSender(lines.clone());
    let forwarding = tokio::spawn(async move {
        while let Some(step) = steps.recv().await {
            forward.send(progress_line(&step)).await;
        }
    });
    let sender = LineSender(lines.clone());
    let working = work(ProgressSender::new(progress), sender.clone());
    tokio::spawn(async move {
        let mut working = Box::pin(working);
        // A client that hangs up ends the work.
        let done = tokio::select! {
            done = &mut working => done,
            () = lines.closed() => return,
        };
        drop(working);
        let _ = forwarding.await;
        if let Err(failure) = done {
            let message = failure.message();
            sender
                .send(json!({ "errorDetail": { "message": message }, "error": message }))
                .await;
        }
    });
    let body = stream::unfold(receiver, |mut receiver| async move {
        let line: Value = receiver.recv().await?;
        Some((
            Ok::<_, Infallible>(Bytes::from(format!("{line}\r\n"))),
            receiver,
        ))
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(body),
    )
        .into_response()
}

pub(crate) fn progress_line(step: &Progress) -> Value {
    let mut line = json!({ "status": step.status });
    if !step.id.is_empty() {
        line["id"] = json!(step.id);
    }
    let mut detail = json!({});
    if step.current > 0 || step.total > 0 {
        detail["current"] = json!(step.current);
        if step.total > 0 {
            detail["total"] = json!(step.total);
        }
    }
    line["progressDetail"] = detail;
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("nginx", "nginx", true),
            ("ngin*", "nginx", true),
            ("*", "a/b", false),
            ("*/b", "a/b", true),
            ("n?inx", "nginx", true),
            ("nginx", "nginx2", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn repeated_parameters() {
        assert_eq!(
            query_values("names=a%3A1&x=y&names=b%2Fc", "names"),
            ["a:1", "b/c"]
        );
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
    }
}
