//! `/volumes`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use dhow_engine::Volume;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::Document;
use crate::containers::{Parameters, blocking, strip_nulls};
use crate::error::{Answer, Failure};
use crate::filters::{Filters, is_true};
use crate::path::Path;
use crate::version::Version;
use crate::{Door, prune as pruning};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Create {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

pub(crate) async fn create(State(door): State<Door>, Document(body): Document) -> Answer {
    let invalid = |error| Failure::bad(format!("invalid JSON: {error}"));
    let mut value: Value = if body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(&body).map_err(invalid)?
    };
    strip_nulls(&mut value);
    let create: Create = serde_json::from_value(value).map_err(invalid)?;
    if !matches!(create.driver.as_str(), "" | "local" | "default") {
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!(
                "error looking up volume plugin {}: plugin {:?} not found; only the driver local is there",
                create.driver, create.driver
            ),
        ));
    }
    let volume = door
        .engine
        .volume_create(&create.name, create.labels, create.driver_opts)?;
    Ok((StatusCode::CREATED, Json(view(&door, &volume))).into_response())
}

pub(crate) async fn list(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let known = ["dangling", "driver", "label", "label!", "name"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let names = filters.patterns("name");
    let dangling = filters.flag("dangling")?;
    let shown: Vec<Value> = door
        .engine
        .volumes()
        .iter()
        .filter(|volume| {
            filters.labels(&volume.labels)
                && names.fit(&volume.name)
                && filters.any("driver", |driver| driver == "local")
                && dangling.is_none_or(|wanted| {
                    wanted == door.engine.volume_users(&volume.name).is_empty()
                })
        })
        .map(|volume| view(&door, volume))
        .collect();
    Ok(Json(json!({ "Volumes": shown, "Warnings": null })).into_response())
}

pub(crate) async fn inspect(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    let volume = door.engine.volume(&name)?;
    Ok(Json(view(&door, &volume)).into_response())
}

/// `PUT /volumes/NAME`: only volumes of a cluster can be changed.
pub(crate) async fn update() -> Failure {
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "volume update only valid for cluster volumes, but swarm is unavailable",
    )
}

pub(crate) async fn remove(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let force = is_true(query.get("force"));
    if force && door.engine.volume(&name).is_err() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    blocking(move || door.engine.volume_remove(&name)).await??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn prune(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
) -> Answer {
    let filters = Filters::parse(
        query.get("filters").map(String::as_str),
        &["all", "label", "label!"],
    )?;
    // Before 1.42 all that nobody used went, with names or without.
    let all = version.before(42) || filters.flag("all")?.unwrap_or_default();
    pruning::answer(version, &query, move |told| async move {
        let engine = door.engine.clone();
        let (deleted, reclaimed) = blocking(move || {
            let (mut deleted, mut reclaimed) = (Vec::new(), 0);
            for volume in door.engine.volumes() {
                let is_wanted = (all || volume.is_anonymous) && filters.labels(&volume.labels);
                if !is_wanted || !door.engine.volume_users(&volume.name).is_empty() {
                    continue;
                }
                let size = size_below(&door.engine.volume_path(&volume.name));
                if door.engine.volume_remove(&volume.name).is_ok() {
                    told.deleted_blocking(&volume.name);
                    deleted.push(volume.name);
                    reclaimed += size;
                }
            }
            (deleted, reclaimed)
        })
        .await?;
        let attributes = [("reclaimed".to_owned(), reclaimed.to_string())].into();
        engine.events().announce("volume", "prune", "", attributes);
        Ok(json!({ "VolumesDeleted": deleted, "SpaceReclaimed": reclaimed }))
    })
    .await
}

pub(crate) fn view(door: &Door, volume: &Volume) -> Value {
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": door.engine.volume_path(&volume.name).display().to_string(),
        "CreatedAt": volume.created,
        "Labels": volume.labels,
        "Options": if volume.options.is_empty() { Value::Null } else { json!(volume.options) },
        "Scope": "local",
    })
}

/// Bytes of all files below a folder, each once whatever it is called; folders
/// themselves, and what vanishes meanwhile, do not count.
pub(crate) fn size_below(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut pending = vec![folder.to_owned()];
    let mut seen = std::collections::HashSet::new();
    let mut size = 0;
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.nlink() < 2 || seen.insert((metadata.dev(), metadata.ino())) {
                size += metadata.len();
            }
        }
    }
    size
}
