//! `/build`: images from Dockerfiles.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Query, RawQuery, State};
use axum::http::HeaderMap;
use base64::Engine as _;
use bytes::Bytes;
use dhow_build::{BuildOptions, CacheUse, Context, Event, Output, PullUse, RunRequest, RunStep};
use dhow_engine::{Engine, Moment, Step};
use dhow_image::{Images, RegistryAuth, Removed, Step as Kept};
use dhow_oci::{Digest, Reference};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;

use crate::body::reader;
use crate::containers::{Parameters, blocking};
use crate::error::{Answer, Failure};
use crate::filters::{Filters, is_true};
use crate::images::{platform, query_values};
use crate::progress::{progress_body, progress_line};
use crate::version::Version;
use crate::{Door, prune as pruning};

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
    refuse_unsupported(&query)?;
    let quiet = is("q");
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
                    Event::Stream(_) | Event::Progress(_) if quiet => continue,
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
        if quiet {
            return Ok(vec![json!({ "stream": format!("{id}\n") })]);
        }
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

/// Refuses what the request asks for and would not get. Values that say
/// "not set" are no such wish, and neither is what cannot make a difference:
/// where to look for a cache, and whether containers of steps are kept.
fn refuse_unsupported(query: &str) -> Answer<()> {
    const LIMITS: [&str; 12] = [
        "memory",
        "memswap",
        "cpushares",
        "cpusetcpus",
        "cpusetmems",
        "cpuperiod",
        "cpuquota",
        "shmsize",
        "ulimits",
        "cgroupparent",
        "extrahosts",
        "securityopt",
    ];
    for name in LIMITS.into_iter().chain(["isolation", "outputs", "squash"]) {
        let value = query_values(query, name).pop().unwrap_or_default();
        if !matches!(
            value.as_str(),
            "" | "0" | "false" | "null" | "[]" | "{}" | "default"
        ) {
            return Err(Failure::bad(format!(
                "build option {name}={value} is not supported: leave it out"
            )));
        }
    }
    if query_values(query, "version")
        .last()
        .is_some_and(|text| text == "2")
    {
        return Err(Failure::bad(
            "BuildKit is not supported: build with DOCKER_BUILDKIT=0",
        ));
    }
    Ok(())
}

const PRUNE_FILTERS: [&str; 11] = [
    "description",
    "id",
    "inuse",
    "label",
    "label!",
    "parent",
    "private",
    "shared",
    "type",
    "until",
    "unused-for",
];

/// `POST /build/prune`: forgets steps of builds.
pub(crate) async fn prune(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
) -> Answer {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &PRUNE_FILTERS)?;
    // The word of old for the same.
    let until = match (filters.moment("until")?, filters.moment("unused-for")?) {
        (Some(_), Some(_)) => {
            return Err(Failure::bad(
                "conflicting filters: \"until\" and \"unused-for\" mean the same",
            ));
        }
        (until, unused_for) => until.or(unused_for),
    };
    // What images have as well goes only with all the rest.
    let all = is_true(query.get("all"));
    let (in_use, shared) = (filters.flag("inuse")?, filters.flag("shared")?);
    let private = filters.flag("private")?;
    let bytes = |name: &str| -> Answer<u64> {
        let text = query.get(name).map_or("", String::as_str);
        let parsed = if text.is_empty() { Ok(0) } else { text.parse() };
        parsed.map_err(|_| Failure::bad(format!("invalid {name} {text:?}: not a number of bytes")))
    };
    if bytes("min-free-space")? > 0 {
        return Err(Failure::bad(
            "min-free-space is not supported: give reserved-space",
        ));
    }
    // Whatever is the largest may stay.
    let kept = bytes("keep-storage")?
        .max(bytes("reserved-space")?)
        .max(bytes("max-used-space")?);
    let wanted = move |key: &Digest, step: &Kept, is_shared: bool| {
        let used = UNIX_EPOCH + Duration::from_secs(step.used.try_into().unwrap_or(0));
        until.is_none_or(|until| Moment::from(used) < until)
            && filters.any("id", |id| key.hex().starts_with(id))
            && filters.any("type", |kind| kind == "regular")
            && filters.any("description", |text| step.note == text)
            // Steps know neither parents nor labels, and nobody is using one now.
            && filters.get("parent").is_empty()
            && filters.labels(&BTreeMap::new())
            && (all || !is_shared)
            && in_use != Some(true)
            && shared.is_none_or(|wanted| wanted == is_shared)
            && private.is_none_or(|wanted| wanted != is_shared)
    };
    pruning::answer(version, &query, move |told| async move {
        let images = door.engine.images().clone();
        let pruned = blocking(move || {
            let forgotten = choose(&images, kept, &wanted);
            images.prune_steps(&|key, _| forgotten.contains(key))
        })
        .await??;
        let mut ids = Vec::new();
        for removed in &pruned.removed {
            if let Removed::Deleted(key) = removed {
                told.deleted(key.hex()).await;
                ids.push(key.hex().to_owned());
            }
        }
        let attributes = [("reclaimed".to_owned(), pruned.reclaimed.to_string())].into();
        let events = door.engine.events();
        events.announce("builder", "prune", "", attributes);
        Ok(json!({ "CachesDeleted": ids, "SpaceReclaimed": pruned.reclaimed }))
    })
    .await
}

/// The steps to forget: those that are wanted, the ones used last excepted as
/// long as all that stay take no more than `kept` bytes.
fn choose(
    images: &Images,
    kept: u64,
    wanted: &dyn Fn(&Digest, &Kept, bool) -> bool,
) -> HashSet<Digest> {
    let of_images: HashSet<_> = images
        .list()
        .iter()
        .flat_map(|listed| &listed.image.layers)
        .map(|layer| layer.chain_id.clone())
        .collect();
    let is_shared = |step: &Kept| {
        let layer = step.layer.as_ref();
        layer.is_some_and(|layer| of_images.contains(&layer.chain_id))
    };
    let mut steps: Vec<_> = images.steps().into_iter().collect();
    steps.sort_by_key(|(_, step)| std::cmp::Reverse(step.used));
    let mut size = 0;
    let mut forgotten = HashSet::new();
    for (key, step) in steps {
        let is_shared = is_shared(&step);
        // What an image has as well takes no room.
        if !is_shared {
            size += step.layer.as_ref().map_or(0, |layer| layer.size);
        }
        if (kept == 0 || size > kept) && wanted(&key, &step, is_shared) {
            forgotten.insert(key);
        }
    }
    forgotten
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
