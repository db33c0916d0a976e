//! What a request asks for: its path, verb, parameters and formats.

use std::collections::HashMap;

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// The parts of a resource path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    /// Everything after the name, without the slash.
    pub subresource: String,
    /// What follows the subresource: a proxied path.
    pub rest: String,
}

/// A path of the API, or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Resource(Target),
    Other(Vec<String>),
}

/// Takes a path apart.
pub(crate) fn route(path: &str) -> Route {
    let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let parts: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(decode)
        .collect();
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match &*words {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Route::Other(parts),
    };
    let mut target = Target {
        group: group.to_owned(),
        version: version.to_owned(),
        ..Target::default()
    };
    let rest = match rest {
        // A namespace is itself a resource; below it are others, but for its
        // own subresources.
        ["namespaces", namespace, resource, rest @ ..]
            if !matches!(*resource, "status" | "finalize") =>
        {
            target.namespace = (*namespace).to_owned();
            target.resource = (*resource).to_owned();
            rest
        }
        [resource, rest @ ..] => {
            target.resource = (*resource).to_owned();
            rest
        }
        [] => rest,
    };
    if target.resource == "namespaces"
        && let Some(name) = rest.first()
    {
        target.namespace = (*name).to_owned();
    }
    if let Some(name) = rest.first() {
        target.name = (*name).to_owned();
    }
    if let Some(subresource) = rest.get(1) {
        target.subresource = (*subresource).to_owned();
    }
    target.rest = rest.get(2..).unwrap_or_default().join("/");
    Route::Resource(target)
}

/// The query's parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    first: HashMap<String, String>,
}

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let mut first = HashMap::new();
        for pair in query
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| {
                percent_decode_str(&text.replace('+', " "))
                    .decode_utf8_lossy()
                    .into_owned()
            };
            first.entry(decode(key)).or_insert_with(|| decode(value));
        }
        Self { first }
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.first.get(name).map_or("", String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.first.contains_key(name)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name), "false" | "0")
    }

    /// A number; an error if there is another text.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("invalid value {text:?} of parameter {name}"))
            }),
        }
    }
}

/// The verb that authorization and the API speak of.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> Option<&'static str> {
    Some(match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD if !target.name.is_empty() => "get",
        Method::GET | Method::HEAD if query.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        _ => return None,
    })
}

/// How objects are to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Object,
    Table,
    /// PartialObjectMetadata.
    Metadata,
}

/// Picks the first format of an Accept header that we have.
pub(crate) fn format(headers: &HeaderMap) -> Result<Format, ApiError> {
    let mut any = false;
    for value in headers.get_all(http::header::ACCEPT) {
        for offer in value.to_str().unwrap_or("").split(',') {
            any = true;
            let mut parts = offer.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            if !matches!(media, "application/json" | "application/*" | "*/*" | "") {
                continue;
            }
            let mut kind = "";
            let mut version = "v1";
            for part in parts {
                match part.split_once('=') {
                    Some(("as", value)) => kind = value,
                    Some(("v", value)) => version = value,
                    _ => {}
                }
            }
            match (kind, version) {
                ("", _) => return Ok(Format::Object),
                ("Table", "v1") => return Ok(Format::Table),
                ("PartialObjectMetadata" | "PartialObjectMetadataList", "v1") => {
                    return Ok(Format::Metadata);
                }
                _ => {}
            }
        }
    }
    if any {
        Err(ApiError::not_acceptable("application/json"))
    } else {
        Ok(Format::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        match route(path) {
            Route::Resource(target) => target,
            Route::Other(_) => panic!("{path} is a resource"),
        }
    }

    #[test]
    fn paths_are_taken_apart() {
        let pod = target("/api/v1/namespaces/default/pods/a/log");
        assert_eq!(
            (
                &*pod.namespace,
                &*pod.resource,
                &*pod.name,
                &*pod.subresource
            ),
            ("default", "pods", "a", "log")
        );
        let namespace = target("/api/v1/namespaces/default/finalize");
        assert_eq!(
            (
                &*namespace.resource,
                &*namespace.name,
                &*namespace.subresource
            ),
            ("namespaces", "default", "finalize")
        );
        let all = target("/apis/apps/v1/deployments");
        assert_eq!(
            (&*all.group, &*all.resource, &*all.name),
            ("apps", "deployments", "")
        );
        let role = target("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!(role.name, "system:node");
        let proxied = target("/api/v1/namespaces/a/services/b:80/proxy/x/y");
        assert_eq!((&*proxied.subresource, &*proxied.rest), ("proxy", "x/y"));
        assert!(matches!(route("/apis/apps/v1"), Route::Other(_)));
        assert!(matches!(route("/healthz"), Route::Other(_)));
    }

    #[test]
    fn formats_are_negotiated() {
        let pick = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept", http::HeaderValue::from_static(accept));
            format(&headers)
        };
        assert_eq!(
            pick("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").expect("ok"),
            Format::Table
        );
        assert_eq!(
            pick("application/vnd.kubernetes.protobuf,application/json").expect("ok"),
            Format::Object
        );
        assert_eq!(
            pick("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").expect("ok"),
            Format::Metadata
        );
        assert_eq!(pick("*/*").expect("ok"), Format::Object);
        assert!(pick("text/html").is_err());
    }
}
