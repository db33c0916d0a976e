//! `/networks`.

mod create;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use dhow_engine::spec::EndpointSettings;
use dhow_engine::{Error, Moment, Network, NetworkError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Door;
use crate::containers::{Parameters, blocking, moment, strip_nulls};
use crate::error::{Answer, Failure};
use crate::filters::Filters;

pub(crate) use create::create;

/// Networks that every engine has, without anything in the kernel, and their
/// drivers.
const BUILT_IN: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

fn is_predefined(name: &str) -> bool {
    matches!(name, "bridge" | "host" | "none" | "default")
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Answer<T> {
    let invalid = |error| Failure::bad(format!("invalid JSON: {error}"));
    let mut value: Value = serde_json::from_slice(body).map_err(invalid)?;
    strip_nulls(&mut value);
    serde_json::from_value(value).map_err(invalid)
}

/// The built-in network of this name or id.
fn find_built_in(name: &str) -> Option<(&'static str, &'static str)> {
    let is = |(known, _): &&(&str, &str)| *known == name || view::built_in_id(known) == name;
    BUILT_IN.iter().find(is).copied()
}

/// What a list's filters look at.
struct Listed<'a> {
    id: &'a str,
    name: &'a str,
    driver: &'a str,
    labels: &'a BTreeMap<String, String>,
}

pub(crate) async fn list(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let known = [
        "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
    ];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    for kind in filters.get("type") {
        if !matches!(kind.as_str(), "builtin" | "custom") {
            return Err(Failure::bad(format!("invalid filter: 'type'='{kind}'")));
        }
    }
    for wanted in filters.get("dangling") {
        if !matches!(wanted.as_str(), "0" | "1" | "true" | "false") {
            return Err(Failure::bad(
                "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")",
            ));
        }
    }
    let fits = |one: Listed<'_>| {
        let is_built_in = is_predefined(one.name);
        filters.labels(one.labels)
            && filters.any("id", |wanted| one.id.starts_with(wanted))
            && filters.any("name", |wanted| one.name.contains(wanted))
            && filters.any("driver", |wanted| one.driver == wanted)
            && filters.any("scope", |wanted| wanted == "local")
            && filters.any("type", |wanted| (wanted == "builtin") == is_built_in)
            && filters.any("dangling", |wanted| {
                let dangling = !is_built_in && door.engine.networks().endpoints(one.id).is_empty();
                dangling == matches!(wanted, "1" | "true")
            })
    };
    let mut shown: Vec<Value> = door
        .engine
        .networks()
        .list()
        .iter()
        .filter(|network| {
            fits(Listed {
                id: &network.spec.id,
                name: &network.spec.name,
                driver: network.spec.driver.word(),
                labels: &network.spec.labels,
            })
        })
        .map(|network| view::network(&door, network, false))
        .collect();
    for (name, driver) in BUILT_IN {
        let id = view::built_in_id(name);
        let labels = BTreeMap::new();
        if fits(Listed {
            id: &id,
            name,
            driver,
            labels: &labels,
        }) {
            shown.push(view::built_in(&door, name, driver));
        }
    }
    Ok(Json(shown).into_response())
}

pub(crate) async fn inspect(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    if let Some((name, driver)) = find_built_in(&name) {
        return Ok(Json(view::built_in(&door, name, driver)).into_response());
    }
    let network = door.engine.networks().get(&name)?;
    Ok(Json(view::network(&door, &network, true)).into_response())
}

pub(crate) async fn remove(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    let found = door
        .engine
        .networks()
        .get(&name)
        .map(|network| network.spec.name);
    let built_in = find_built_in(&name).map(|(name, _)| name);
    let found = built_in.or(found.as_deref().ok()).unwrap_or(&name);
    if is_predefined(found) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            format!("{found} is a pre-defined network and cannot be removed"),
        ));
    }
    let networks = door.engine.networks().clone();
    let network = blocking(move || networks.remove(&name)).await??;
    announce(&door, &network, "destroy");
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn prune(State(door): State<Door>, Query(query): Parameters) -> Answer {
    let filters = Filters::parse(
        query.get("filters").map(String::as_str),
        &["label", "label!", "until"],
    )?;
    let until = match filters.get("until") {
        [] => None,
        [one] => Some(until_moment(one)?),
        _ => {
            return Err(Failure::bad(
                "more than one until filter specified: give one moment",
            ));
        }
    };
    let mut deleted = Vec::new();
    for network in door.engine.networks().list() {
        let wanted_by_stopped = door
            .engine
            .list()
            .iter()
            .any(|record| record.networks.contains_key(&network.spec.name));
        let is_old = match (until, network.spec.created.parse::<Moment>()) {
            (Some(until), Ok(created)) => created < until,
            _ => until.is_none(),
        };
        if is_predefined(&network.spec.name)
            || wanted_by_stopped
            || !is_old
            || !filters.labels(&network.spec.labels)
        {
            continue;
        }
        let networks = door.engine.networks().clone();
        let id = network.spec.id.clone();
        // One that is in use is not pruned.
        if blocking(move || networks.remove(&id)).await?.is_ok() {
            announce(&door, &network, "destroy");
            deleted.push(network.spec.name);
        }
    }
    Ok(Json(json!({ "NetworksDeleted": deleted })).into_response())
}

/// A moment, or how long ago it was (`1h30m`).
fn until_moment(text: &str) -> Answer<Moment> {
    if let Some(ago) = duration(text) {
        let now = std::time::SystemTime::now();
        return Ok(now.checked_sub(ago).unwrap_or(std::time::UNIX_EPOCH).into());
    }
    let query = HashMap::from([("until".to_owned(), text.to_owned())]);
    moment(&query, "until")?.ok_or_else(|| Failure::bad(format!("invalid until filter {text:?}")))
}

/// Numbers with units, as Go writes durations.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..unit_at].parse().ok()?;
        let after = &rest[unit_at..];
        let unit_end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let seconds = match &after[..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &after[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Connection {
    container: String,
    force: bool,
    endpoint_config: EndpointSettings,
}

/// Refuses the networks that nobody is joined to or taken off.
fn check_joinable(name: &str) -> Answer<()> {
    match find_built_in(name) {
        Some(("host", _)) => Err(Failure::bad(
            "container cannot be disconnected from host network or connected to host network",
        )),
        Some(_) => Err(Failure::bad(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        )),
        None => Ok(()),
    }
}

pub(crate) async fn connect(
    State(door): State<Door>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer {
    let connection: Connection = parse(&body)?;
    check_joinable(&name)?;
    door.engine
        .connect(&connection.container, &name, connection.endpoint_config)
        .await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn disconnect(
    State(door): State<Door>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer {
    let connection: Connection = parse(&body)?;
    check_joinable(&name)?;
    match door.engine.disconnect(&connection.container, &name).await {
        // By force, what is not there is what was asked for.
        Err(Error::NoSuchContainer(_) | Error::Network(NetworkError::NotJoined { .. }))
            if connection.force => {}
        other => other?,
    }
    Ok(StatusCode::OK.into_response())
}

fn announce(door: &Door, network: &Network, action: &str) {
    let attributes = BTreeMap::from([
        ("name".to_owned(), network.spec.name.clone()),
        ("type".to_owned(), network.spec.driver.word().to_owned()),
    ]);
    door.engine
        .events()
        .announce("network", action, &network.spec.id, attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, seconds) in [
            ("24h", 86_400.0),
            ("1h30m", 5400.0),
            ("1.5s", 1.5),
            ("10ms", 0.01),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
        for bad in ["", "h", "10", "1x", "2026-11-28T00:00:00Z", "-1h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
