//! `/build`: images from Dockerfiles.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use base64::Engine as _;
use bytes::Bytes;
use dhow_build::{BuildOptions, CacheUse, Context, Event, Output, PullUse, RunRequest, RunStep};
use dhow_engine::{Engine, Step};
use dhow_image::RegistryAuth;
use dhow_oci::Reference;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;

use crate::Door;
use crate::body::reader;
use crate::containers::blocking;
use crate::error::{Answer, Failure};
use crate::filters::is_true;
use crate::images::{platform, query_values};
use crate::progress::{progress_body, progress_line};

/// Events that wait for a slow client at most.
const AHEAD: usize = 256;

/// Runs the steps of builds in containers of the engine.
pub(crate) struct Steps(pub(crate) Engine);

#[async_trait::async_trait]
impl RunStep for Steps {
    async fn run(&self, request: RunRequest, output: mpsc::Sender<Bytes>) -> Result<i32, String> {
        let (sender, mut texts) = mpsc::channel::<Vec<u8>>(AHEAD);
        let forwarding = async {
            while let Some(text) = texts.recv().await {
                if output.send(text.into()).await.is_err() {
                    break;
                }
            }
        };
        let step = Step {
            name: request.name,
            rootfs: request.rootfs,
            args: request.args,
            env: request.env,
            cwd: request.cwd,
            user: request.user,
            network: request.network,
            stdin: request.stdin.map(|bytes| bytes.to_vec()),
        };
        let (ended, ()) = tokio::join!(self.0.run_step(step, sender), forwarding);
        ended.map_err(|error| Failure::from(error).message().to_owned())
    }
}

pub(crate) async fn build(
    State(door): State<Door>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let query = query.unwrap_or_default();
    let one = |name: &str| query_values(&query, name).pop().unwrap_or_default();
    let is = |name: &str| is_true(Some(&one(name)));
    if !one("remote").is_empty() {
        return Err(Failure::bad(
            "building from a remote context is not supported: send the context with the request",
        ));
    }
    let tags = query_values(&query, "t")
        .iter()
        .map(|text| Reference::parse(text).map(Reference::or_latest))
        .collect::<Result<Vec<_>, _>>()?;
    let options = BuildOptions {
        id: dhow_engine::identifier()[..12].to_owned(),
        dockerfile: one("dockerfile"),
        dockerfile_text: None,
        tags: tags.clone(),
        build_args: parse::<BTreeMap<String, Option<String>>>("buildargs", &one("buildargs"))?,
        labels: parse("labels", &one("labels"))?,
        target: Some(one("target")).filter(|target| !target.is_empty()),
        platform: platform(&one("platform"))?,
        cache: if is("nocache") {
            CacheUse::Ignore
        } else {
            CacheUse::Use
        },
        pull: if is("pull") {
            PullUse::Always
        } else {
            PullUse::Missing
        },
        network: one("networkmode"),
        auths: registry_auths(&headers)?,
    };
    let context = Context::Tar(Box::new(reader(body)));
    let builder = door.builder.clone();
    progress_body(move |_, lines| async move {
        let (sender, mut events) = mpsc::channel(AHEAD);
        let saying = async {
            while let Some(event) = events.recv().await {
                let line = match event {
                    Event::Stream(text) => json!({ "stream": text }),
                    Event::Progress(step) => progress_line(&step),
                    Event::Image(id) => json!({ "aux": { "ID": id.to_string() } }),
                };
                lines.send(line).await;
            }
        };
        let (built, ()) =
            tokio::join!(builder.build(context, options, Output::new(sender)), saying);
        let id = built.map_err(failure)?;
        lines
            .send(json!({ "stream": format!("Successfully built {}\n", id.short()) }))
            .await;
        for tag in tags {
            lines
                .send(json!({ "stream": format!("Successfully tagged {}\n", tag.familiar()) }))
                .await;
        }
        Ok(Vec::new())
    })
    .await
}

fn failure(error: dhow_build::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Failure::bad(text)
}

/// `POST /build/prune`.
pub(crate) async fn prune(State(door): State<Door>) -> Answer {
    let images = door.engine.images().clone();
    let pruned = blocking(move || images.prune_steps(&|_, _| true)).await??;
    Ok(Json(json!({ "CachesDeleted": [], "SpaceReclaimed": pruned.reclaimed })).into_response())
}

fn parse<T: Default + DeserializeOwned>(name: &str, text: &str) -> Answer<T> {
    if text.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_str(text)
        .map_err(|error| Failure::bad(format!("invalid {name} {text:?}: {error}")))
}

/// Who the client is to registries: `X-Registry-Config`, base64 of a JSON
/// object by registry.
fn registry_auths(headers: &HeaderMap) -> Answer<HashMap<String, RegistryAuth>> {
    let Some(text) = headers
        .get("x-registry-config")
        .and_then(|value| value.to_str().ok())
    else {
        return Ok(HashMap::new());
    };
    let bytes = base64::engine::general_purpose::URL_SAFE
        .decode(text)
        .map_err(|error| Failure::bad(format!("invalid X-Registry-Config header: {error}")))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::bad(format!("invalid X-Registry-Config header: {error}")))
}
