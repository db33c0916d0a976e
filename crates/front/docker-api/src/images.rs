//! `/images`: what is asked of images. Names contain slashes, so what follows
//! `/images/` is taken apart here.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use dhow_image::{
    Commit, Image, Import, Listed, PruneScope, PullOptions, PushOptions, RegistryAuth, Removal,
    Removed,
};
use dhow_oci::{ContainerConfig, Platform, Reference};

use serde_json::{Value, json};

use crate::Door;
use crate::body::reader;
use crate::containers::{Parameters, blocking, strip_nulls, tar_body};
use crate::error::{Answer, Failure};
use crate::filters::{Filters, is_true};
use crate::progress::progress_body;

/// What Docker says of numbers it was not asked for.
const NOT_COUNTED: i64 = -1;

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
    let dangling = flag(&filters, "dangling")?;
    let until = until(&filters)?;
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
        .into_iter()
        .filter_map(|mut listed| {
            let patterns = filters.get("reference");
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
                && until.is_none_or(|moment| listed.image.created < moment)
                && before.is_none_or(|moment| listed.image.created < moment)
                && since.is_none_or(|moment| listed.image.created > moment)
        })
        .map(|listed| {
            let shared = match is_true(query.get("shared-size")) {
                true => i64::try_from(listed.shared_size).unwrap_or(i64::MAX),
                false => NOT_COUNTED,
            };
            summary(&listed, shared, NOT_COUNTED)
        })
        .collect();
    Ok(Json(shown).into_response())
}

/// Whether a pattern fits a name, with its tag or without.
fn fits(pattern: &str, name: &Reference) -> bool {
    glob(pattern, &name.familiar()) || glob(pattern, &name.familiar_name())
}

/// What Docker shows of an image in lists.
pub(crate) fn summary(listed: &Listed, shared_size: i64, n_containers: i64) -> Value {
    let text = |names: &[Reference]| names.iter().map(Reference::familiar).collect::<Vec<_>>();
    json!({
        "Id": listed.image.id.to_string(),
        "ParentId": "",
        "RepoTags": text(&listed.names.tags),
        "RepoDigests": text(&listed.names.digests),
        "Created": listed.image.created,
        "Size": listed.image.size(),
        "SharedSize": shared_size,
        "Labels": match &listed.image.config.config.labels {
            none if none.is_empty() => Value::Null,
            labels => json!(labels),
        },
        "Containers": n_containers,
    })
}

/// A filter that is yes or no; none if it is absent.
fn flag(filters: &Filters, name: &str) -> Answer<Option<bool>> {
    match filters.get(name) {
        [] => Ok(None),
        [value] => match value.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" => Ok(Some(true)),
            "0" | "f" | "false" => Ok(Some(false)),
            _ => Err(Failure::bad(format!("invalid filter '{name}=[{value}]'"))),
        },
        values => Err(Failure::bad(format!("invalid filter '{name}={values:?}'"))),
    }
}

/// The `until` filter, in seconds since the epoch: a moment, or how long ago.
fn until(filters: &Filters) -> Answer<Option<i64>> {
    let text = match filters.get("until") {
        [] => return Ok(None),
        [text] => text,
        _ => return Err(Failure::bad("more than one until filter specified")),
    };
    let moment = seconds_of(text, std::time::SystemTime::now());
    moment.map(Some).ok_or_else(|| {
        Failure::bad(format!(
            "failed to parse value as time or duration: {text:?}"
        ))
    })
}

/// Seconds since the epoch of `10m`, `1h30m`, `1700000000`, `2006-01-02`,
/// `2006-01-02T15:04:05` or RFC 3339.
fn seconds_of(text: &str, now: std::time::SystemTime) -> Option<i64> {
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return text.split('.').next()?.parse().ok();
    }
    let now = i64::try_from(
        now.duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    )
    .ok()?;
    if let Some(ago) = duration(text) {
        return now.checked_sub(ago);
    }
    let with_time = match text.contains('T') {
        true => text.to_owned(),
        false => format!("{text}T00:00:00"),
    };
    let zoned = |text: &str| {
        let moment = text.parse::<dhow_engine::Moment>().ok()?;
        let since = std::time::SystemTime::from(moment).duration_since(std::time::UNIX_EPOCH);
        i64::try_from(since.ok()?.as_secs()).ok()
    };
    if with_time.ends_with('Z') {
        return zoned(&with_time);
    }
    let (clock, offset) = match with_time.rfind(['+', '-']) {
        Some(sign) if sign > with_time.find('T')? => with_time.split_at(sign),
        _ => (&*with_time, ""),
    };
    Some(zoned(&format!("{clock}Z"))? - zone(offset)?)
}

/// Seconds of `+01:00`; none is UTC.
fn zone(offset: &str) -> Option<i64> {
    if offset.is_empty() {
        return Some(0);
    }
    let (hours, minutes) = offset[1..].split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some(if offset.starts_with('-') {
        -seconds
    } else {
        seconds
    })
}

/// Whole seconds of a duration as Go writes it.
fn duration(text: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |end| digits + end);
        total += number
            * match &rest[digits..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty() && total < 1e12).then_some(total as i64)
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
    let reference = Reference::parse(&text)?.or_latest();
    let options = PullOptions {
        auth: registry_auth(&headers)?,
        platform: platform(get("platform"))?,
    };
    progress_body(move |progress, _| async move {
        door.engine
            .image_pull(&reference, options, progress)
            .await?;
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
        message: get("message").to_owned(),
        platform: platform(get("platform"))?,
        name,
        ..Import::default()
    };
    dhow_build::change(&mut import.config, changes).map_err(Failure::bad)?;
    let image = blocking(move || door.engine.image_import(&mut input, import)).await??;
    let line = format!("{}\n", json!({ "status": image.id.to_string() }));
    Ok(([(header::CONTENT_TYPE, "application/json")], line).into_response())
}

pub(crate) async fn load(State(door): State<Door>, body: Body) -> Answer {
    let mut input = reader(body);
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
            Ok(Json(full(&door, &image)?).into_response())
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

fn full(door: &Door, image: &Image) -> Answer<Value> {
    let names = door.engine.images().names(&image.id);
    let text = |names: &[Reference]| names.iter().map(Reference::familiar).collect::<Vec<_>>();
    let config = &image.config;
    let paths = door.engine.images().layer_paths(image)?;
    let mut paths = paths.iter().map(|path| path.display().to_string());
    let mut data = json!({ "UpperDir": paths.next() });
    let lower: Vec<String> = paths.collect();
    if !lower.is_empty() {
        data["LowerDir"] = json!(lower.join(":"));
    }
    let tagged = match image.tagged {
        0 => "0001-01-01T00:00:00Z".to_owned(),
        seconds => dhow_engine::Moment::from(
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.try_into().unwrap_or(0)),
        )
        .to_string(),
    };
    Ok(json!({
        "Id": image.id.to_string(),
        "RepoTags": text(&names.tags),
        "RepoDigests": text(&names.digests),
        "Parent": "",
        "Comment": config.comment,
        "Created": config.created,
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": container_config(&config.config),
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": image.size(),
        "GraphDriver": { "Name": "overlay2", "Data": data },
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": tagged },
        "Descriptor": image.manifest,
    }))
}

/// A configuration with every field Docker shows, also those not set.
fn container_config(config: &ContainerConfig) -> Value {
    let mut shown = json!({
        "Hostname": "", "Domainname": "", "User": "",
        "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": false, "OpenStdin": false, "StdinOnce": false,
        "Env": null, "Cmd": null, "Image": "", "Volumes": null, "WorkingDir": "",
        "Entrypoint": null, "OnBuild": null, "Labels": null,
    });
    if let (Value::Object(shown), Ok(Value::Object(set))) =
        (&mut shown, serde_json::to_value(config))
    {
        shown.extend(set);
    }
    shown
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
            // Without a tag, every tag is sent.
            let reference = match get("tag") {
                "" => Reference::parse(name)?,
                tag => with_tag(name, tag)?,
            };
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
        Removed::Deleted(id) | Removed::Layer(id) => json!({ "Deleted": id.to_string() }),
    }
}

pub(crate) async fn prune(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let known = ["dangling", "label", "label!", "until"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let scope = match flag(&filters, "dangling")? {
        Some(false) => PruneScope::Unused,
        _ => PruneScope::Dangling,
    };
    let until = until(&filters)?;
    let pruned = blocking(move || {
        door.engine.image_prune(scope, &|listed| {
            filters.labels(&listed.image.config.config.labels)
                && until.is_none_or(|moment| listed.image.created < moment)
        })
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
    RawQuery(raw): RawQuery,
    body: Bytes,
) -> Answer {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let changes = query_values(raw.as_deref().unwrap_or_default(), "changes");
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
    fn moments_are_read() {
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        for (text, seconds) in [
            ("24h", Some(1_000_000 - 86_400)),
            ("1h30m", Some(1_000_000 - 5_400)),
            ("1.5s", Some(1_000_000 - 1)),
            ("0s", Some(1_000_000)),
            ("1700000000", Some(1_700_000_000)),
            ("1700000000.5", Some(1_700_000_000)),
            ("1970-01-02", Some(86_400)),
            ("1970-01-02T00:00:01", Some(86_401)),
            ("1970-01-02T00:00:01Z", Some(86_401)),
            ("1970-01-02T01:00:01+01:00", Some(86_401)),
            ("", None),
            ("bogus", None),
            ("5", Some(5)),
            ("5x", None),
            ("h", None),
        ] {
            assert_eq!(seconds_of(text, now), seconds, "{text}");
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
