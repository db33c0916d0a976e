//! `/containers`: what is asked of containers.

mod archive;
mod create;
mod streams;
mod summary;
mod usage;
mod view;

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use dhow_engine::{Error, Record, Status};
use serde_json::{Value, json};

use crate::body::Document;
use crate::error::{Answer, Failure};
use crate::filters::{Filters, Patterns, is_true};
use crate::path::Path;
use crate::version::Version;
use crate::{Door, prune as pruning};

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

const FILTERS: [&str; 16] = [
    "ancestor",
    "annotation",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

const STATES: [&str; 7] = [
    "created",
    "dead",
    "exited",
    "paused",
    "removing",
    "restarting",
    "running",
];
const HEALTH: [&str; 4] = ["healthy", "none", "starting", "unhealthy"];

pub(crate) async fn list(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
) -> Answer {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &FILTERS)?;
    if version.before(56) && !filters.get("annotation").is_empty() {
        return Err(Failure::bad("invalid filter 'annotation'"));
    }
    let wanted = Wanted {
        is_task: filters.flag("is-task")?,
        exposed: PortRange::all(&filters, "expose")?,
        published: PortRange::all(&filters, "publish")?,
        names: filters.patterns("name"),
        ids: filters.patterns("id"),
        filters,
    };
    wanted.check()?;
    let filters = &wanted.filters;
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
    let mut listing = Listing::new(&door, version);
    for record in &records {
        let fits = (all || record.state.status.is_alive())
            && before.is_none_or(|moment| record.created < moment)
            && since.is_none_or(|moment| record.created > moment)
            && wanted.matches(&door, record);
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

/// What a list is to show.
struct Wanted {
    filters: Filters,
    /// Ports of containers, and of the host; one of either is enough.
    exposed: Vec<PortRange>,
    published: Vec<PortRange>,
    /// Patterns of names, with their slash or without.
    names: Patterns,
    ids: Patterns,
    is_task: Option<bool>,
}

impl Wanted {
    /// Refuses what nothing could ever fit.
    fn check(&self) -> Answer<()> {
        let refuse = |name: &str, value: &str, known: &str| {
            Err(Failure::bad(format!(
                "invalid filter '{name}={value}': {known}"
            )))
        };
        for status in self.filters.get("status") {
            if !STATES.contains(&status.as_str()) {
                return refuse("status", status, &format!("use {}", STATES.join(", ")));
            }
        }
        for code in self.filters.get("exited") {
            if code.parse::<i32>().is_err() {
                return refuse("exited", code, "use an exit code");
            }
        }
        for health in self.filters.get("health") {
            if !HEALTH.contains(&health.as_str()) {
                return refuse("health", health, &format!("use {}", HEALTH.join(", ")));
            }
        }
        Ok(())
    }

    fn matches(&self, door: &Door, record: &Record) -> bool {
        let filters = &self.filters;
        self.ids.fit(&record.id)
            && (self.names.fit(&record.name) || self.names.fit(&format!("/{}", record.name)))
            && self.is_task != Some(true)
            && matches(door, record, filters)
            && self.has_port(door, record)
    }

    /// Whether no port is asked for, or one that the list shows of the container.
    fn has_port(&self, door: &Door, record: &Record) -> bool {
        if self.exposed.is_empty() && self.published.is_empty() {
            return true;
        }
        let endpoints = door.engine.networks().sandbox_endpoints(&record.id);
        summary::ports(record, &endpoints).iter().any(|port| {
            let fits = |ranges: &[PortRange], number: Option<u16>| {
                let has = |number| ranges.iter().any(|range| range.has(number, &port.protocol));
                number.is_some_and(has)
            };
            fits(&self.published, port.public_port) || fits(&self.exposed, Some(port.private_port))
        })
    }
}

fn matches(door: &Door, record: &Record, filters: &Filters) -> bool {
    let state = &record.state;
    filters.labels(&record.config.labels)
        && filters.all_of("annotation", &record.host.annotations)
        // Windows' word; here there is only one kind.
        && filters.any("isolation", |wanted| wanted == "default")
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
}

/// Ports that a filter names: `port`, `first-last`, either with `/protocol`.
struct PortRange {
    ports: std::ops::RangeInclusive<u16>,
    protocol: String,
}

impl PortRange {
    /// Reads a value of the filter `name`.
    fn parse(name: &str, value: &str) -> Answer<Self> {
        if value.contains(':') {
            return Err(Failure::bad(format!(
                "filter for '{name}' should not contain ':': {value}"
            )));
        }
        let (ports, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let refused =
            |why: &str| Failure::bad(format!("error while looking up for {name} {value}: {why}"));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self {
                ports: first..=last,
                protocol: protocol.to_ascii_lowercase(),
            }),
            (Ok(_), Ok(_)) => Err(refused(&format!(
                "Invalid range specified for the Port: {ports}"
            ))),
            _ => Err(refused("use a port or a range of ports such as 8000-8010")),
        }
    }

    fn all(filters: &Filters, name: &str) -> Answer<Vec<Self>> {
        let values = filters.get(name).iter();
        values.map(|value| Self::parse(name, value)).collect()
    }

    fn has(&self, port: u16, protocol: &str) -> bool {
        self.ports.contains(&port) && self.protocol == protocol
    }
}

pub(crate) async fn inspect(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let record = door.engine.get(&name)?;
    let with_size = is_true(query.get("size"));
    Ok(Json(view::full(&door, &record, version, with_size)?).into_response())
}

/// Longest body of a start request that may still mean none, in bytes.
const NO_BODY: usize = 7;

pub(crate) async fn start(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
    Document(body): Document,
) -> Answer {
    if body.len() > NO_BODY {
        return Err(Failure::bad(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if query.get("checkpoint").is_some_and(|name| !name.is_empty()) {
        return Err(Failure::bad(
            "checkpoints are not supported: leave checkpoint out",
        ));
    }
    door.engine.start(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn stop(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let signal = signal(version, &query);
    door.engine.stop(&name, signal, seconds(&query)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn restart(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let signal = signal(version, &query);
    door.engine.restart(&name, signal, seconds(&query)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The signal that a stop begins with, if it is not the container's own.
fn signal(version: Version, query: &HashMap<String, String>) -> Option<&str> {
    let signal = query.get("signal").filter(|_| version.since(42));
    signal.map(String::as_str).filter(|text| !text.is_empty())
}

fn seconds(query: &HashMap<String, String>) -> Answer<Option<i64>> {
    match query.get("t").filter(|text| !text.is_empty()) {
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
    let signal = query.get("signal").map_or("", String::as_str);
    let killed = door.engine.kill(&name, signal).await;
    killed.map_err(|error| match error {
        Error::NoSuchContainer(_) => Failure::new(
            StatusCode::NOT_FOUND,
            format!("cannot kill container: {name}: {error}"),
        ),
        other => other.into(),
    })?;
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
        return Err(Failure::new(
            StatusCode::CONFLICT,
            format!("invalid link {name}: the form is CONTAINER/ALIAS"),
        ));
    }
    let force = is_true(query.get("force"));
    door.engine
        .remove(&name, force, is_true(query.get("v")))
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /containers/CONTAINER/ALIAS?link=1`: the link, not the container.
pub(crate) async fn unlink(
    State(door): State<Door>,
    Path((name, alias)): Path<(String, String)>,
    Query(query): Parameters,
) -> Answer {
    if !is_true(query.get("link")) {
        return Err(Error::NoSuchContainer(format!("{name}/{alias}")).into());
    }
    door.engine.unlink(&name, &alias)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn prune(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
) -> Answer {
    let filters = Filters::parse(
        query.get("filters").map(String::as_str),
        &["label", "label!", "until"],
    )?;
    let until = filters.until()?;
    pruning::answer(version, &query, |told| async move {
        let mut deleted = Vec::new();
        let mut reclaimed = 0;
        for record in door.engine.list() {
            let is_stopped = matches!(
                record.state.status,
                Status::Created | Status::Exited | Status::Dead
            );
            let fits = filters.labels(&record.config.labels)
                && until.is_none_or(|until| record.created < until);
            if !is_stopped || !fits {
                continue;
            }
            let size = door.engine.images().written(&record.id).unwrap_or_default();
            if door.engine.remove(&record.id, false, false).await.is_ok() {
                told.deleted(&record.id).await;
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
        Ok(json!({ "ContainersDeleted": deleted, "SpaceReclaimed": reclaimed }))
    })
    .await
}
