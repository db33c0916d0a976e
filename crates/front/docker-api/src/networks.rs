//! `/networks`.

mod create;
mod view;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use dhow_engine::spec::EndpointSettings;
use dhow_engine::{Error, Moment, Network, NetworkError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::Document;
use crate::containers::{Parameters, blocking, strip_nulls};
use crate::error::{Answer, Failure};
use crate::filters::{Filters, parse_flag};
use crate::path::Path;
use crate::version::Version;
use crate::{Door, prune as pruning};

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

pub(crate) async fn list(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
) -> Answer {
    let known = [
        "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
    ];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    for kind in filters.get("type") {
        if !matches!(kind.as_str(), "builtin" | "custom") {
            return Err(Failure::bad(format!("invalid filter: 'type'='{kind}'")));
        }
    }
    let dangling = filters.flag("dangling").map_err(|_| {
        Failure::bad(
            "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")",
        )
    })?;
    let (ids, names) = (filters.patterns("id"), filters.patterns("name"));
    let fits = |one: Listed<'_>| {
        let is_built_in = is_predefined(one.name);
        filters.labels(one.labels)
            && ids.fit(one.id)
            && names.fit(one.name)
            && filters.any("driver", |wanted| one.driver == wanted)
            && filters.any("scope", |wanted| wanted == "local")
            && filters.any("type", |wanted| (wanted == "builtin") == is_built_in)
            && dangling.is_none_or(|wanted| {
                let is_used = !door.engine.networks().endpoints(one.id).is_empty();
                wanted != (is_built_in || is_used)
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
        .map(|network| view::network(&door, network, version.before(28)))
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
    shown.iter_mut().for_each(|one| by_version(one, version));
    Ok(Json(shown).into_response())
}

/// Takes away what a version did not know of.
fn by_version(shown: &mut Value, version: Version) {
    if version.before(48)
        && let Some(fields) = shown.as_object_mut()
    {
        fields.shift_remove("EnableIPv4");
    }
}

pub(crate) async fn inspect(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    // What more there would be to say is of services, which are not there.
    if let Some(text) = query.get("verbose").filter(|text| !text.is_empty())
        && parse_flag(text).is_none()
    {
        return Err(Failure::bad(format!("invalid value for verbose: {text}")));
    }
    let scope = query.get("scope").map_or("", String::as_str);
    if !matches!(scope, "" | "local") {
        return Err(NetworkError::NotFound(name).into());
    }
    let mut shown = if let Some((name, driver)) = find_built_in(&name) {
        view::built_in(&door, name, driver)
    } else {
        let network = door.engine.networks().get(&name)?;
        let mut shown = view::network(&door, &network, true);
        if version.since(52) {
            shown["Status"] = view::status(&door, &network);
        }
        shown
    };
    by_version(&mut shown, version);
    Ok(Json(shown).into_response())
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
                told.deleted(&network.spec.name).await;
                deleted.push(network.spec.name);
            }
        }
        let attributes = [("reclaimed".to_owned(), "0".to_owned())].into();
        let events = door.engine.events();
        events.announce("network", "prune", "", attributes);
        Ok(json!({ "NetworksDeleted": deleted }))
    })
    .await
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
    Document(body): Document,
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
    Document(body): Document,
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
