//! `GET /events`: what happened and what happens, as a stream of JSON.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use dhow_engine::{Event, Moment};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::Door;
use crate::containers::Parameters;
use crate::error::{Answer, Failure};
use crate::filters::Filters;
use crate::version::Version;

const FILTERS: [&str; 15] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "label!",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Filters that name the thing that events are about.
const ABOUT: [&str; 9] = [
    "config",
    "container",
    "daemon",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
];

pub(crate) async fn events(
    State(door): State<Door>,
    version: Version,
    Query(query): Parameters,
    headers: HeaderMap,
) -> Answer {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &FILTERS)?;
    let since = nanoseconds(&query, "since")?;
    // Zero is how clients say that there is no end.
    let until = nanoseconds(&query, "until")?.filter(|until| *until != 0);
    if let (Some(first), Some(last)) = (since, until)
        && last < first
    {
        let text = |name: &str| query.get(name).map_or("", String::as_str);
        return Err(Failure::bad(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            text("since"),
            text("until")
        )));
    }
    let form = Form::negotiated(version, &headers);
    // What is over is told without an end; else from now on.
    let (past, future) = door.engine.events().listen(since.or(until.map(|_| 0)));
    let deadline = until.map(|until| {
        let now = SystemTime::from(Moment::now())
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let until = Duration::from_nanos(until.try_into().unwrap_or(0));
        tokio::time::Instant::now() + until.saturating_sub(now)
    });
    let past = past
        .into_iter()
        .filter(move |event| until.is_none_or(|until| event.time <= until));
    let future = stream::unfold(future, move |mut receiver| async move {
        loop {
            let received = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, receiver.recv())
                    .await
                    .ok()?,
                None => receiver.recv().await,
            };
            match received {
                Ok(event) => return Some((event, receiver)),
                // A listener that fell behind goes on with what is left.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let body = stream::iter(past).chain(future).filter_map(move |event| {
        let line = wanted(&filters, &event, version).then(|| form.write(&view(&event, version)));
        std::future::ready(line.map(Ok::<_, Infallible>))
    });
    Ok((
        [(header::CONTENT_TYPE, form.media_type())],
        Body::from_stream(body),
    )
        .into_response())
}

fn nanoseconds(
    query: &std::collections::HashMap<String, String>,
    name: &str,
) -> Answer<Option<i64>> {
    let moment = crate::containers::moment(query, name)?;
    Ok(moment.map(|moment| {
        let since = SystemTime::from(moment)
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }))
}

/// How a stream of JSON is written, by what the client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One value a line, under the name that it always had.
    Json,
    /// The same, under its right name (from 1.53).
    Lines,
    /// The same, under its other name (from 1.52).
    Newlines,
    /// Values between record separators and line ends (RFC 7464; from 1.52).
    Sequence,
}

impl Form {
    fn media_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Lines => "application/jsonl",
            Form::Newlines => "application/x-ndjson",
            Form::Sequence => "application/json-seq",
        }
    }

    /// The form that fits `Accept` best (RFC 9110, section 12.5.1); of equals
    /// the first. One that accepts none of ours gets what there always was.
    fn negotiated(version: Version, headers: &HeaderMap) -> Self {
        let offers = [
            (Form::Lines, 53),
            (Form::Newlines, 52),
            (Form::Sequence, 52),
        ];
        let accepted: Vec<(&str, f32)> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .map(|range| {
                let (media_type, parameters) = range.split_once(';').unwrap_or((range, ""));
                let quality = parameters
                    .split(';')
                    .find_map(|parameter| parameter.trim().strip_prefix("q="))
                    .map_or(1.0, |text| text.trim().parse().unwrap_or(0.0));
                (media_type.trim(), quality)
            })
            .collect();
        let mut best = (Form::Json, 0.0, 0);
        for (form, _) in offers
            .into_iter()
            .filter(|(_, since)| version.since(*since))
        {
            for (range, quality) in &accepted {
                let precision = match *range {
                    "*/*" => 1,
                    "application/*" => 2,
                    range if range.eq_ignore_ascii_case(form.media_type()) => 3,
                    _ => continue,
                };
                if *quality > 0.0 && (*quality, precision) > (best.1, best.2) {
                    best = (form, *quality, precision);
                }
            }
        }
        best.0
    }

    fn write(self, value: &Value) -> Bytes {
        let mark = if self == Form::Sequence { "\u{1e}" } else { "" };
        Bytes::from(format!("{mark}{value}\n"))
    }
}

fn wanted(filters: &Filters, event: &Event, version: Version) -> bool {
    let known_as = |name: &str| {
        event
            .attributes
            .get("name")
            .is_some_and(|known| known == name)
    };
    let about = |kind: &str| {
        filters.any(kind, |name| {
            event.kind == kind && (event.id.starts_with(name) || known_as(name))
        })
    };
    // Built images were not told of before.
    let is_too_new = version.before(46) && event.kind == "image" && event.action == "create";
    !is_too_new
        && filters.any("type", |kind| event.kind == kind)
        && filters.any("scope", |scope| scope == "local")
        && filters.any("event", |action| {
            event.action == action || event.action.split(':').next() == Some(action)
        })
        && filters.any("image", |image| is_of_image(event, image))
        && ABOUT.into_iter().all(about)
        && filters.labels(&event.attributes)
}

/// Whether an event is of an image, or of a container that was made from it.
fn is_of_image(event: &Event, image: &str) -> bool {
    let name = match event.kind {
        "image" if event.id.starts_with(image) => return true,
        "image" => event.attributes.get("name"),
        "container" => event.attributes.get("image"),
        _ => None,
    };
    let without_tag = |name: &str| match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name == image,
        _ => false,
    };
    name.is_some_and(|name| name == image || without_tag(name))
}

fn view(event: &Event, version: Version) -> Value {
    let mut shown = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time / 1_000_000_000,
        "timeNano": event.time,
    });
    // Fields of old, for containers and images.
    if version.before(52) && matches!(event.kind, "container" | "image") {
        shown["status"] = json!(event.action);
        shown["id"] = json!(event.id);
        if let Some(image) = event.attributes.get("image") {
            shown["from"] = json!(image);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(path: &str, accept: &str) -> &'static str {
        let uri = path.parse().expect("a path");
        let (version, _) = Version::take_off(&uri).expect("it is spoken");
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
        }
        Form::negotiated(version, &headers).media_type()
    }

    #[test]
    fn the_form_is_the_one_that_is_accepted_best() {
        for (path, accept, expected) in [
            ("/v1.53/events", "", "application/json"),
            ("/v1.53/events", "text/html", "application/json"),
            ("/v1.53/events", "application/json", "application/json"),
            ("/v1.53/events", "*/*", "application/jsonl"),
            ("/v1.52/events", "*/*", "application/x-ndjson"),
            ("/v1.51/events", "application/x-ndjson", "application/json"),
            ("/v1.52/events", "application/jsonl", "application/json"),
            (
                "/v1.53/events",
                "application/json-seq",
                "application/json-seq",
            ),
            (
                "/v1.53/events",
                "application/jsonl;q=0.5, application/x-ndjson",
                "application/x-ndjson",
            ),
            (
                "/v1.53/events",
                "*/*, application/json-seq",
                "application/json-seq",
            ),
            ("/v1.53/events", "application/jsonl;q=0", "application/json"),
        ] {
            assert_eq!(negotiated(path, accept), expected, "{path} {accept}");
        }
    }

    #[test]
    fn sequences_have_their_marks() {
        let value = json!({ "a": 1 });
        assert_eq!(Form::Sequence.write(&value), "\u{1e}{\"a\":1}\n");
        assert_eq!(Form::Lines.write(&value), "{\"a\":1}\n");
    }
}
