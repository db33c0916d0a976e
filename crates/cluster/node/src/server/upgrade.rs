//! From a request to a connection of another protocol.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::status::Refusal;
use super::{Body, full};

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What a client wants to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    WebSocket,
    Spdy,
}

pub(super) fn wants(headers: &HeaderMap) -> Result<Wants, Refusal> {
    let upgrade = headers
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if upgrade.eq_ignore_ascii_case("websocket") {
        Ok(Wants::WebSocket)
    } else if upgrade.to_ascii_lowercase().starts_with("spdy/3.1") {
        Ok(Wants::Spdy)
    } else {
        Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "Upgrade request required",
        ))
    }
}

/// The first protocol of `ours` that the client offers under `header`.
pub(super) fn choose<'a>(
    headers: &HeaderMap,
    header: &HeaderName,
    ours: &[&'a str],
) -> Result<Option<&'a str>, Refusal> {
    let offered: Vec<&str> = headers
        .get_all(header)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|offer| !offer.is_empty())
        .collect();
    if offered.is_empty() {
        return Ok(None);
    }
    let chosen = ours.iter().find(|own| offered.contains(own));
    chosen.copied().map(Some).ok_or_else(|| {
        Refusal::new(
            StatusCode::FORBIDDEN,
            format!("unable to upgrade: none of the protocols {offered:?} is spoken here"),
        )
    })
}

/// The answer that switches to WebSocket, and the connection to come.
pub(super) fn to_websocket(
    request: Request<Incoming>,
    protocols: &[&'static str],
) -> Result<(Response<Body>, Option<&'static str>, Switching), Refusal> {
    let headers = request.headers();
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "a WebSocket request has a key",
        ));
    };
    let accept = derive_accept_key(key.as_bytes());
    let protocol = choose(headers, &SEC_WEBSOCKET_PROTOCOL, protocols)?;
    let mut response = switch("websocket");
    let answer = response.headers_mut();
    let accept = HeaderValue::from_str(&accept).expect("it is base64");
    answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((response, protocol, Switching(request)))
}

/// The answer that switches to SPDY, and the connection to come.
pub(super) fn to_spdy(
    request: Request<Incoming>,
    protocols: &[&'static str],
) -> Result<(Response<Body>, Option<&'static str>, Switching), Refusal> {
    let protocol = choose(request.headers(), &STREAM_PROTOCOL, protocols)?;
    let mut response = switch("SPDY/3.1");
    if let Some(protocol) = protocol {
        let value = HeaderValue::from_static(protocol);
        response.headers_mut().insert(STREAM_PROTOCOL, value);
    }
    Ok((response, protocol, Switching(request)))
}

fn switch(to: &'static str) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// A connection that changes hands once the answer was sent.
pub(super) struct Switching(Request<Incoming>);

impl Switching {
    pub(super) async fn done(self) -> Result<TokioIo<Upgraded>, hyper::Error> {
        hyper::upgrade::on(self.0).await.map(TokioIo::new)
    }
}
