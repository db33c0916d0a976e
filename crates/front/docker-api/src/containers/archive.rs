//! `/containers/{id}/archive`: files in and out of containers.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use dhow_engine::{CopyIn, CopyOwner, Moment, PathStat, Replace};
use serde_json::json;

use crate::Door;
use crate::body::reader;
use crate::error::{Answer, Failure};
use crate::filters::is_true;
use crate::path::Path;

use super::Parameters;
use super::streams::{blocking, tar_body};

const STAT: &str = "x-docker-container-path-stat";

/// `GET` and `HEAD`: what is at a path, and for `GET` the thing itself.
pub(crate) async fn get(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
    method: Method,
) -> Answer {
    let path = path(&query)?;
    let engine = door.engine.clone();
    let (container, wanted) = (name.clone(), path.clone());
    let stat = blocking(move || engine.copy_stat(&container, &wanted)).await??;
    let mut response = if method == Method::HEAD {
        Response::new(Body::empty())
    } else {
        let engine = door.engine.clone();
        engine.tell(&name, "archive-path");
        tar_body(move |output| {
            let copied = engine.copy_out(&name, &path, output);
            copied.map_err(|error| error.to_string())
        })
    };
    let shown = base64::engine::general_purpose::STANDARD.encode(show(&stat).to_string());
    if let Ok(value) = HeaderValue::from_str(&shown) {
        response.headers_mut().insert(STAT, value);
    }
    let kind = HeaderValue::from_static("application/x-tar");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// `PUT`: unpacks an archive.
pub(crate) async fn put(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
    body: Body,
) -> Answer {
    let path = path(&query)?;
    let how = CopyIn {
        replace: if is_true(query.get("noOverwriteDirNonDir")) {
            Replace::SameKind
        } else {
            Replace::Anything
        },
        owner: if is_true(query.get("copyUIDGID")) {
            CopyOwner::User
        } else {
            CopyOwner::Recorded
        },
    };
    let engine = door.engine.clone();
    let input = reader(body);
    engine.tell(&name, "extract-to-dir");
    blocking(move || engine.copy_in(&name, &path, input, how)).await??;
    Ok(StatusCode::OK.into_response())
}

fn path(query: &std::collections::HashMap<String, String>) -> Answer<String> {
    match query.get("path").filter(|path| !path.is_empty()) {
        Some(path) if path.contains('\0') => Err(Failure::bad("bad parameter: path")),
        Some(path) => Ok(path.clone()),
        None => Err(Failure::bad("bad parameter: path cannot be empty")),
    }
}

fn show(stat: &PathStat) -> serde_json::Value {
    json!({
        "name": stat.name,
        "size": stat.size,
        "mode": go_mode(stat.mode),
        "mtime": Moment::from(stat.modified).to_string(),
        "linkTarget": stat.link_target,
    })
}

/// Type and permission bits as Go's `os.FileMode` has them.
fn go_mode(mode: u32) -> u32 {
    const KINDS: [(u32, u32); 6] = [
        (0o040_000, 1 << 31),
        (0o120_000, 1 << 27),
        (0o060_000, 1 << 26),
        (0o020_000, 1 << 26 | 1 << 21),
        (0o010_000, 1 << 25),
        (0o140_000, 1 << 24),
    ];
    const BITS: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let kind = KINDS
        .iter()
        .find(|(kind, _)| mode & 0o170_000 == *kind)
        .map_or(0, |(_, bits)| *bits);
    let special: u32 = BITS
        .iter()
        .filter(|(bit, _)| mode & bit != 0)
        .map(|(_, bits)| bits)
        .sum();
    kind | special | (mode & 0o777)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn modes_are_go_s() {
        let temporary = std::fs::metadata("/tmp").expect("there is one").mode();
        assert_eq!(go_mode(temporary | 0o1777), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o120_777), 1 << 27 | 0o777);
        assert_eq!(go_mode(0o020_666), 1 << 26 | 1 << 21 | 0o666);
        assert_eq!(go_mode(0o104_755), 1 << 23 | 0o755);
    }
}
