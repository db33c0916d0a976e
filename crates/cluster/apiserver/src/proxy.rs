//! Requests that are the node agent's to answer: logs, exec, attach,
//! port-forward. Streams are passed through byte for byte.

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;

use crate::api::{Api, Body, Context};
use crate::error::ApiError;
use crate::resource::{Resource, Subresource};
use crate::tree;

/// Characters of a path segment that must be written as bytes.
const SEGMENT: &AsciiSet = &CONTROLS.add(b' ').add(b'/').add(b'?').add(b'#').add(b'%');

/// Headers of a request that the node agent needs.
const PASSED: [&str; 6] = [
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "x-stream-protocol-version",
    "accept",
];

impl Api {
    /// Hands a request to the agent of the pod's node.
    pub(crate) async fn to_node(
        &self,
        context: &Context,
        resource: &Resource,
        method: &Method,
        query: Option<&str>,
        upgrade: Option<OnUpgrade>,
    ) -> Result<Response<Body>, ApiError> {
        let Some(&subresource) = resource
            .subresources
            .iter()
            .find(|subresource| subresource.name() == context.target.subresource)
        else {
            return Err(ApiError::no_such_path());
        };
        if resource.prefix != "pods" || subresource == Subresource::Proxy {
            return Err(ApiError::unavailable(
                "this server does not proxy to Services, nodes or pods; use port-forward",
            ));
        }
        let streams = subresource != Subresource::Log;
        if streams && upgrade.is_none() {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        if !streams && *method != Method::GET {
            return Err(ApiError::method_not_allowed());
        }
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let Some(pod) = self.find(resource, namespace, name).await? else {
            return Err(ApiError::not_found(resource, name));
        };
        let pod = pod.tree();
        let node = tree::text(&pod, &["spec", "nodeName"]);
        if node.is_empty() {
            return Err(ApiError::bad_request(format!(
                "pod {name} does not have a host assigned"
            )));
        }
        let segment = |text: &str| utf8_percent_encode(text, SEGMENT).to_string();
        let base = format!("{}/{}", segment(namespace), segment(name));
        let query = query.unwrap_or("");
        let path = match subresource {
            Subresource::PortForward => format!("/portForward/{base}?{query}"),
            Subresource::Log => {
                let container = container(context, &pod)?;
                let query = without(query, &["container"]);
                format!("/containerLogs/{base}/{}?{query}", segment(&container))
            }
            _ => {
                let container = container(context, &pod)?;
                let verb = if subresource == Subresource::Exec {
                    "exec"
                } else {
                    "attach"
                };
                format!(
                    "/{verb}/{base}/{}?{}",
                    segment(&container),
                    streams_of(query)
                )
            }
        };
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::HOST, node)
            .body(Empty::<Bytes>::new())
            .map_err(ApiError::internal)?;
        pass_headers(&context.headers, request.headers_mut(), streams);
        self.forward(node, request, upgrade.filter(|_| streams))
            .await
    }

    async fn forward(
        &self,
        node: &str,
        request: Request<Empty<Bytes>>,
        upgrade: Option<OnUpgrade>,
    ) -> Result<Response<Body>, ApiError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            ApiError::internal(format!("error dialing backend of node {node}: {error}"))
        };
        let Some(nodes) = &self.config.nodes else {
            return Err(unreachable(&"this server has no way to nodes"));
        };
        let stream = nodes
            .connect(node)
            .await
            .map_err(|error| unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a node ended");
            }
        });
        let mut answer = sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = answer.into_parts();
            let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
            *response.status_mut() = parts.status;
            if let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE) {
                response
                    .headers_mut()
                    .insert(http::header::CONTENT_TYPE, kind.clone());
            }
            return Ok(response);
        }
        let Some(client) = upgrade else {
            return Err(unreachable(&"the node switched protocols unasked"));
        };
        let node_side = hyper::upgrade::on(&mut answer);
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            let (Ok(client), Ok(node_side)) = tokio::join!(client, node_side) else {
                return;
            };
            let (mut client, mut node_side) = (TokioIo::new(client), TokioIo::new(node_side));
            tokio::select! {
                // Either end may break off; there is nobody left to tell.
                _ = tokio::io::copy_bidirectional(&mut client, &mut node_side) => {}
                _ = closing.changed() => {}
            }
        });
        let mut response = Response::new(crate::api::full(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}

fn pass_headers(from: &HeaderMap, to: &mut HeaderMap, streams: bool) {
    for name in PASSED {
        let name = HeaderName::from_static(name);
        for value in from.get_all(&name) {
            to.append(name.clone(), value.clone());
        }
    }
    if streams {
        for name in [CONNECTION, UPGRADE] {
            if let Some(value) = from.get(&name) {
                to.insert(name, value.clone());
            }
        }
    }
}

/// The container a request is about.
fn container(context: &Context, pod: &Value) -> Result<String, ApiError> {
    let pod_name = tree::text(pod, &["metadata", "name"]);
    let names = |field: &str| -> Vec<&str> {
        tree::list(pod, &["spec", field])
            .iter()
            .map(|container| tree::text(container, &["name"]))
            .collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let asked = context.query.get("container");
    if !asked.is_empty() {
        let known = main
            .iter()
            .chain(&init)
            .chain(&names("ephemeralContainers"))
            .any(|name| *name == asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(ApiError::bad_request(format!(
                "container {asked} is not valid for pod {pod_name}"
            )))
        };
    }
    let preferred = tree::text(
        pod,
        &[
            "metadata",
            "annotations",
            "kubectl.kubernetes.io/default-container",
        ],
    );
    match &*main {
        [only] => Ok((*only).to_owned()),
        many if many.contains(&preferred) => Ok(preferred.to_owned()),
        many => {
            let mut message = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                many.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(
                    " or one of the init containers: [{}]",
                    init.join(" ")
                ));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

/// A query without some parameters.
fn without(query: &str, names: &[&str]) -> String {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !names.contains(&pair.split('=').next().unwrap_or("")))
        .filter(|pair| !pair.is_empty())
        .collect();
    kept.join("&")
}

/// The API's stream parameters in the node agent's words.
fn streams_of(query: &str) -> String {
    let mut words = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let on = matches!(value, "true" | "1");
        match name {
            "command" => words.push(pair.to_owned()),
            "stdin" if on => words.push("input=1".to_owned()),
            "stdout" if on => words.push("output=1".to_owned()),
            "stderr" if on => words.push("error=1".to_owned()),
            "tty" if on => words.push("tty=1".to_owned()),
            _ => {}
        }
    }
    words.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_translated() {
        assert_eq!(
            streams_of("command=sh&command=-c&container=a&stdin=true&stdout=true&tty=false"),
            "command=sh&command=-c&input=1&output=1"
        );
        assert_eq!(
            without("container=a&follow=true&tailLines=1", &["container"]),
            "follow=true&tailLines=1"
        );
    }
}
