//! `/images`: what is asked of images. Names contain slashes, so what follows
//! `/images/` is taken apart here.

mod view;

use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use dhow_engine::Moment;
use dhow_image::{
    Commit, Image, Import, Listed, PruneScope, PullOptions, PushOptions, RegistryAuth, Removal,
    Removed,
};
use dhow_oci::{Platform, Reference};
use serde_json::{Value, json};

use crate::body::Document;
use crate::body::reader;
use crate::containers::{Parameters, blocking, strip_nulls, tar_body};
use crate::error::{Answer, Failure};
use crate::filters::{Filters, is_true};
use crate::path::Path;
use crate::progress::progress_body;
use crate::version::Version;
use crate::{Door, prune as pruning};

pub(crate) use view::summary;

/// What Docker says of numbers it was not asked for.
const NOT_COUNTED: i64 = -1;

const FILTERS: [&str; 7] = [
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];

pub(crate) async fn list(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
) -> Answer {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &FILTERS)?;
    let dangling = filters.flag("dangling")?;
    let until = filters.until()?;
    let is = |name: &str, since| version.since(since) && is_true(query.get(name));
    let with_manifests = is("manifests", 47);
    if is("identity", 54) && !with_manifests {
        return Err(Failure::bad(
            "conflicting options: identity requires manifests=1",
        ));
    }
    let created = |name: &String| {
        door.engine
            .images()
            .resolve(name)
            .map(|image| image.created)
    };
    let before = filters.get("before").first().map(created).transpose()?;
    let since = filters.get("since").first().map(created).transpose()?;
    let mut patterns = filters.get("reference").to_vec();
    // The word of old for the same.
    if version.before(41) && patterns.is_empty() {
        patterns.extend(query.get("filter").filter(|text| !text.is_empty()).cloned());
    }
    let shown: Vec<Value> = door
        .engine
        .images()
        .list()
        .into_iter()
        .filter_map(|mut listed| {
            if !patterns.is_empty() {
                // Names that do not fit are not shown, either.
                let fits = |name: &Reference| patterns.iter().any(|pattern| fits(pattern, name));
                listed.names.tags.retain(fits);
                listed.names.digests.retain(fits);
                if listed.names.tags.is_empty() && listed.names.digests.is_empty() {
                    return None;
                }
            }
            Some(listed)
        })
        .filter(|listed| {
            filters.labels(&listed.image.config.config.labels)
                && dangling.is_none_or(|wanted| listed.names.tags.is_empty() == wanted)
                && until.is_none_or(|until| made(listed) < until)
                && before.is_none_or(|moment| listed.image.created < moment)
                && since.is_none_or(|moment| listed.image.created > moment)
        })
        .map(|listed| {
            let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let shared = if is("shared-size", 42) {
                count(listed.shared_size)
            } else {
                NOT_COUNTED
            };
            let users = door.engine.image_users(&listed.image.id);
            let n_users = if version.since(51) {
                count(users.len() as u64)
            } else {
                NOT_COUNTED
            };
            let mut shown = summary(&listed, version, shared, n_users);
            if with_manifests {
                shown["Manifests"] = view::manifests(&listed.image, &users);
            }
            shown
        })
        .collect();
    Ok(Json(shown).into_response())
}

/// When an image was made.
fn made(listed: &Listed) -> Moment {
    let since = Duration::from_secs(listed.image.created.try_into().unwrap_or(0));
    (UNIX_EPOCH + since).into()
}

/// Whether a pattern fits a name, with its tag or without.
fn fits(pattern: &str, name: &Reference) -> bool {
    glob(pattern, &name.familiar()) || glob(pattern, &name.familiar_name())
}

/// `GET /images/search`: there is no index that could be asked.
pub(crate) async fn search() -> Failure {
    Failure::new(
        StatusCode::NOT_IMPLEMENTED,
        "searching a registry is not supported: name the image to pull it",
    )
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
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    if !get("fromSrc").is_empty() {
        let changes = query_values(raw.as_deref().unwrap_or_default(), "changes");
        return import(door, &query, &changes, body).await;
    }
    let (name, tag) = (get("fromImage"), get("tag"));
    let text = match (tag, tag.contains(':')) {
        ("", _) => name.to_owned(),
        (digest, true) => format!("{name}@{digest}"),
        (tag, false) => format!("{name}:{tag}"),
    };
    let reference = Reference::parse(&text)?;
    let options = PullOptions {
        auth: registry_auth(&headers)?,
        platform: platform(get("platform"))?,
    };
    progress_body(move |progress, _| async move {
        // A name alone means all that is under it.
        let all = match (reference.tag(), reference.digest()) {
            (None, None) => {
                let images = door.engine.images();
                images.tags(&reference, options.auth.clone()).await?
            }
            _ => vec![reference],
        };
        for reference in all {
            door.engine
                .image_pull(&reference, options.clone(), progress.clone())
                .await?;
        }
        Ok(Vec::new())
    })
    .await
}

async fn import(
    door: Door,
    query: &std::collections::HashMap<String, String>,
    changes: &[String],
    body: Body,
) -> Answer {
    let mut input = reader(body);
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
    let mut import = Import {
        message: match get("message") {
            "" => "Imported from -".to_owned(),
            message => message.to_owned(),
        },
        platform: platform(get("platform"))?,
        name,
        ..Import::default()
    };
    dhow_build::change(&mut import.config, changes).map_err(Failure::bad)?;
    let image = blocking(move || door.engine.image_import(&mut input, import)).await??;
    let line = format!("{}\n", json!({ "status": image.id.to_string() }));
    Ok(([(header::CONTENT_TYPE, "application/json")], line).into_response())
}

pub(crate) async fn load(
    State(door): State<Door>,
    version: Version,
    RawQuery(raw): RawQuery,
    body: Body,
) -> Answer {
    let mut input = reader(body);
    if version.since(48) {
        let wanted = platforms(&raw.unwrap_or_default(), "platform", version)?;
        if let Some(other) = wanted
            .iter()
            .find(|one| Platform::host().fitness(one).is_none())
        {
            return Err(Failure::bad(format!(
                "loading images for {other} is not supported: an archive's images for this machine ({}) are loaded",
                Platform::host()
            )));
        }
    }
    progress_body(move |progress, _| async move {
        let loaded = blocking(move || door.engine.image_load(&mut input, &progress)).await??;
        let mut last = Vec::new();
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
            last.push(json!({ "stream": text }));
        }
        Ok(last)
    })
    .await
}

pub(crate) async fn save(
    State(door): State<Door>,
    version: Version,
    RawQuery(raw): RawQuery,
) -> Answer {
    let query = raw.unwrap_or_default();
    let names: Vec<String> = query_values(&query, "names");
    if names.is_empty() {
        return Err(Failure::bad(
            "no image given: name at least one with names=",
        ));
    }
    if version.since(48) {
        let wanted = platforms(&query, "platform", version)?;
        for name in &names {
            let image = door.engine.images().resolve(name)?;
            with_platform(&image, name, wanted.first())?;
        }
    }
    save_names(&door, names)
}

fn save_names(door: &Door, names: Vec<String>) -> Answer {
    for name in &names {
        door.engine.images().resolve(name)?;
    }
    let engine = door.engine.clone();
    Ok(tar_body(move |output| {
        let saved = engine.image_save(&names, output);
        saved.map_err(|error| error.to_string())
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
/// `GET /distribution/{name}/json`: what a registry has under a name.
pub(crate) async fn distribution(
    State(door): State<Door>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let Some(name) = rest.strip_suffix("/json") else {
        return Err(crate::error::no_such_page(axum::http::Uri::default()).await);
    };
    let reference = Reference::parse(name)?;
    let auth = registry_auth(&headers)?;
    let offered = match door.engine.images().look_up(&reference, auth).await {
        Err(dhow_image::Error::Denied(message)) => {
            return Err(Failure::new(StatusCode::UNAUTHORIZED, message));
        }
        offered => offered?,
    };
    let shown = json!({ "Descriptor": offered.descriptor, "Platforms": offered.platforms });
    Ok(Json(shown).into_response())
}

pub(crate) async fn get(
    State(door): State<Door>,
    version: Version,
    Path(rest): Path<String>,
    RawQuery(raw): RawQuery,
) -> Answer {
    let Some((name, what)) = rest.rsplit_once('/') else {
        return Err(crate::error::no_such_page(axum::http::Uri::default()).await);
    };
    let query = raw.unwrap_or_default();
    let find = |since| -> Answer<_> {
        let image = door.engine.images().resolve(name)?;
        if version.since(since) {
            let wanted = platforms(&query, "platform", version)?;
            with_platform(&image, name, wanted.first())?;
        }
        Ok(image)
    };
    match what {
        "json" => {
            let with_manifests =
                version.since(48) && is_true(query_values(&query, "manifests").last());
            if with_manifests && !query_values(&query, "platform").is_empty() {
                return Err(Failure::bad(
                    "conflicting options: manifests and platform options cannot both be set",
                ));
            }
            let image = find(49)?;
            let mut shown = view::full(&door, &image, version)?;
            if with_manifests {
                let users = door.engine.image_users(&image.id);
                shown["Manifests"] = view::manifests(&image, &users);
            }
            Ok(Json(shown).into_response())
        }
        "history" => Ok(Json(view::history(&door, &*find(48)?)).into_response()),
        "get" => {
            find(48)?;
            save_names(&door, vec![name.to_owned()])
        }
        "attestations" if version.since(55) => {
            find(55)?;
            // Images here are single manifests, without any statement about them.
            Ok(Json(json!([])).into_response())
        }
        _ => Err(crate::error::no_such_page(axum::http::Uri::default()).await),
    }
}

/// The platforms that a parameter names, each as OCI's JSON has them.
fn platforms(query: &str, name: &str, version: Version) -> Answer<Vec<Platform>> {
    let texts = query_values(query, name);
    if texts.len() > 1 && version.before(52) {
        return Err(Failure::bad(
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later",
        ));
    }
    texts
        .iter()
        .map(|text| {
            let platform: Platform = serde_json::from_str(text).map_err(|error| {
                Failure::bad(format!("failed to parse platform {text:?}: {error}"))
            })?;
            if platform.os.is_empty() || platform.architecture.is_empty() {
                return Err(Failure::bad(format!(
                    "both OS and Architecture must be provided: {text}"
                )));
            }
            Ok(platform)
        })
        .collect()
}

/// Refuses an image that is of another platform than the one asked for.
pub(crate) fn with_platform(image: &Image, name: &str, wanted: Option<&Platform>) -> Answer<()> {
    let own = image.config.platform();
    match wanted {
        Some(wanted) if wanted.fitness(&own).is_none() => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!(
                "image with reference {name} was found but its platform ({own}) does not match the specified platform ({wanted})"
            ),
        )),
        _ => Ok(()),
    }
}

/// `POST /images/NAME/push` and `/tag`.
pub(crate) async fn post(
    State(door): State<Door>,
    version: Version,
    Path(rest): Path<String>,
    Query(query): Parameters,
    RawQuery(raw): RawQuery,
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
            // Without a tag, every tag is sent.
            let reference = match get("tag") {
                "" => Reference::parse(name)?,
                tag => with_tag(name, tag)?,
            };
            if version.since(46) {
                let wanted = platforms(&raw.unwrap_or_default(), "platform", version)?;
                if let Some(wanted) = wanted.first() {
                    let image = door.engine.images().resolve(&reference.familiar())?;
                    with_platform(&image, &reference.familiar(), Some(wanted))?;
                }
            }
            let options = PushOptions {
                auth: registry_auth(&headers)?,
            };
            progress_body(move |progress, _| async move {
                let pushed = door
                    .engine
                    .image_push(&reference, options, progress)
                    .await?;
                let aux = |pushed: dhow_image::Pushed| {
                    json!({ "progressDetail": {}, "aux": {
                        "Tag": pushed.tag, "Digest": pushed.digest.to_string(), "Size": pushed.size,
                    } })
                };
                Ok(pushed.into_iter().map(aux).collect())
            })
            .await
        }
        _ => Err(crate::error::no_such_page(axum::http::Uri::default()).await),
    }
}

pub(crate) async fn remove(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    if name.trim().is_empty() {
        return Err(Failure::bad("image name cannot be blank"));
    }
    if version.since(50) && query.get("platforms").is_some_and(|text| !text.is_empty()) {
        return Err(Failure::bad(
            "removing single platforms is not supported: an image here is for one platform; leave platforms out",
        ));
    }
    // There are no parents that noprune would keep.
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
        Removed::Deleted(id) | Removed::Layer(id) => json!({ "Deleted": id.to_string() }),
    }
}

pub(crate) async fn prune(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
) -> Answer {
    let known = ["dangling", "label", "label!", "until"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let scope = match filters.flag("dangling")? {
        Some(false) => PruneScope::Unused,
        _ => PruneScope::Dangling,
    };
    let until = filters.until()?;
    pruning::answer(version, &query, move |told| async move {
        let pruned = blocking(move || {
            door.engine.image_prune(scope, &|listed| {
                filters.labels(&listed.image.config.config.labels)
                    && until.is_none_or(|until| made(listed) < until)
            })
        })
        .await??;
        for removed in &pruned.removed {
            if let Removed::Deleted(id) | Removed::Layer(id) = removed {
                told.deleted(id.as_str()).await;
            }
        }
        let deleted: Vec<Value> = pruned.removed.iter().map(removed_line).collect();
        let deleted = if deleted.is_empty() {
            Value::Null
        } else {
            Value::Array(deleted)
        };
        Ok(json!({ "ImagesDeleted": deleted, "SpaceReclaimed": pruned.reclaimed }))
    })
    .await
}

/// `POST /commit`.
pub(crate) async fn commit(
    State(door): State<Door>,
    Query(query): Parameters,
    RawQuery(raw): RawQuery,
    Document(body): Document,
) -> Answer {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let changes = query_values(raw.as_deref().unwrap_or_default(), "changes");
    let record = door.engine.get(get("container"))?;
    let name = match (get("repo"), get("tag")) {
        ("", _) => None,
        (repo, "") => Some(Reference::parse(repo)?.or_latest()),
        (repo, tag) => Some(Reference::parse(&format!("{repo}:{tag}"))?),
    };
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
    dhow_build::change(&mut config, &changes).map_err(Failure::bad)?;
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
    let (engine, of) = (door.engine.clone(), record.clone());
    let committed = blocking(move || engine.image_commit(&of, commit)).await;
    if pauses {
        door.engine.unpause(&record.id).await?;
    }
    let image = committed??;
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
