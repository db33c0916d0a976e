//! `/containers`: what is asked of containers.

mod archive;
mod create;
mod streams;
mod summary;
mod usage;
mod view;

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use dhow_engine::{Record, Status};
use serde_json::{Value, json};

use crate::Door;
use crate::error::{Answer, Failure};
use crate::filters::{Filters, is_true};

pub(crate) use archive::{get as archive_get, put as archive_put};
pub(crate) use create::create;
pub(crate) use streams::{
    attach, attach_websocket, blocking, changes, export, logs, moment, tar_body, wait,
};
pub(crate) use summary::Listing;
pub(crate) use usage::{stats, top, update};
pub(crate) use view::strip_nulls;

/// Parameters of a request's query.
pub(crate) type Parameters = Query<HashMap<String, String>>;

const FILTERS: [&str; 14] = [
    "ancestor", "before", "expose", "exited", "health", "id", "is-task", "label", "name",
    "network", "publish", "since", "status", "volume",
];

pub(crate) async fn list(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &FILTERS)?;
    let limit: i64 = match query.get("limit").map_or("", String::as_str) {
        "" => 0,
        text => text
            .parse()
            .map_err(|_| Failure::bad(format!("invalid limit {text}")))?,
    };
    // Zero and less are no limit.
    let limit = usize::try_from(limit).unwrap_or(0);
    let with_size = is_true(query.get("size"));
    let all = is_true(query.get("all"))
        || limit > 0
        || !filters.get("status").is_empty()
        || !filters.get("exited").is_empty();
    let records = door.engine.list();
    let created_of = |name: &String| door.engine.get(name).map(|record| record.created);
    let before = filters.get("before").first().map(created_of).transpose()?;
    let since = filters.get("since").first().map(created_of).transpose()?;
    // Written one by one: a thousand trees of values at once cost more than
    // what is in them.
    let (mut body, mut n_shown) = (vec![b'['], 0_usize);
    let mut listing = Listing::new(&door);
    for record in &records {
        let fits = (all || record.state.status.is_alive())
            && before.is_none_or(|moment| record.created < moment)
            && since.is_none_or(|moment| record.created > moment)
            && matches(&door, record, &filters);
        if fits {
            if n_shown > 0 {
                body.push(b',');
            }
            n_shown += 1;
            serde_json::to_writer(&mut body, &listing.entry(record, with_size))
                .expect("values are written to memory");
        }
        if limit > 0 && n_shown == limit {
            break;
        }
    }
    body.push(b']');
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn matches(door: &Door, record: &Record, filters: &Filters) -> bool {
    let state = &record.state;
    filters.labels(&record.config.labels)
        && filters.any("id", |id| record.id.starts_with(id))
        && filters.any("name", |name| {
            let bare = name.trim_start_matches(['^', '/']).trim_end_matches('$');
            match (name.starts_with('^'), name.ends_with('$')) {
                (true, true) => record.name == bare,
                (true, false) => record.name.starts_with(bare),
                (false, true) => record.name.ends_with(bare),
                (false, false) => record.name.contains(bare),
            }
        })
        && filters.any("status", |status| state.status.word() == status)
        && filters.any("exited", |code| {
            state.status == Status::Exited && code.parse() == Ok(state.exit_code)
        })
        && filters.any("health", |health| {
            state
                .health
                .as_ref()
                .map_or("none", |known| known.status.as_str())
                == health
        })
        && filters.any("network", |network| {
            record.networks.contains_key(network)
                || door
                    .engine
                    .networks()
                    .get(network)
                    .is_ok_and(|found| record.networks.contains_key(&found.spec.name))
        })
        && filters.any("volume", |volume| {
            record
                .mounts
                .iter()
                .any(|mount| mount.name == volume || mount.destination == volume)
        })
        && filters.any("ancestor", |image| {
            record.config.image == image
                || door
                    .engine
                    .images()
                    .resolve(image)
                    .is_ok_and(|found| found.id.as_str() == record.image)
        })
        && filters.any("expose", |port| {
            record
                .config
                .exposed_ports
                .keys()
                .any(|exposed| exposed == port || exposed.split('/').next() == Some(port))
        })
        && filters.any("publish", |port| {
            record
                .host
                .port_bindings
                .keys()
                .any(|bound| bound == port || bound.split('/').next() == Some(port))
        })
}

pub(crate) async fn inspect(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let record = door.engine.get(&name)?;
    Ok(Json(view::full(&door, &record, is_true(query.get("size")))?).into_response())
}

pub(crate) async fn start(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    door.engine.start(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn stop(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let signal = query.get("signal").map(String::as_str);
    door.engine.stop(&name, signal, seconds(&query)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn restart(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let signal = query.get("signal").map(String::as_str);
    door.engine.restart(&name, signal, seconds(&query)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn seconds(query: &HashMap<String, String>) -> Answer<Option<i64>> {
    match query.get("t") {
        Some(text) => text.parse().map(Some).map_err(|_| {
            Failure::bad(format!("invalid timeout {text:?}: not a number of seconds"))
        }),
        None => Ok(None),
    }
}

pub(crate) async fn kill(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    door.engine
        .kill(&name, query.get("signal").map_or("", String::as_str))
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn pause(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    door.engine.pause(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn unpause(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    door.engine.unpause(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn rename(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let new = query.get("name").map_or("", String::as_str);
    if new.is_empty() {
        return Err(Failure::bad("Neither old nor new names may be empty"));
    }
    door.engine.rename(&name, new)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn resize(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let (rows, columns) = terminal_size(&query)?;
    door.engine.resize(&name, rows, columns).await?;
    door.engine.tell(&name, "resize");
    Ok(StatusCode::OK.into_response())
}

/// The parameters `h` and `w`.
pub(crate) fn terminal_size(query: &HashMap<String, String>) -> Answer<(u16, u16)> {
    let number = |name: &str| -> Answer<u16> {
        let text = query.get(name).map_or("", String::as_str);
        text.parse()
            .map_err(|_| Failure::bad(format!("invalid terminal size {name}={text:?}")))
    };
    Ok((number("h")?, number("w")?))
}

pub(crate) async fn remove(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    if is_true(query.get("link")) {
        return Err(Failure::bad(
            "links between containers are names; nothing to remove",
        ));
    }
    let force = is_true(query.get("force"));
    door.engine
        .remove(&name, force, is_true(query.get("v")))
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn prune(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let filters = Filters::parse(
        query.get("filters").map(String::as_str),
        &["label", "label!", "until"],
    )?;
    let mut deleted = Vec::new();
    let mut reclaimed = 0;
    for record in door.engine.list() {
        let is_stopped = matches!(
            record.state.status,
            Status::Created | Status::Exited | Status::Dead
        );
        let fits = filters.labels(&record.config.labels) && filters.is_before(record.created)?;
        if !is_stopped || !fits {
            continue;
        }
        let size = door.engine.images().written(&record.id).unwrap_or_default();
        if door.engine.remove(&record.id, false, false).await.is_ok() {
            reclaimed += size;
            deleted.push(Value::String(record.id.clone()));
        }
    }
    let attributes = [("reclaimed".to_owned(), reclaimed.to_string())].into();
    let events = door.engine.events();
    events.announce("container", "prune", "", attributes);
    let deleted = if deleted.is_empty() {
        Value::Null
    } else {
        Value::Array(deleted)
    };
    Ok(Json(json!({ "ContainersDeleted": deleted, "SpaceReclaimed": reclaimed })).into_response())
}
