//! Asking over HTTP. Certificates are not checked, as upstream has it: a probe
//! asks whether somebody answers, not who.

use std::sync::Arc;

use dhow_tls::Anyone;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::check::{Target, port_number};

/// Sends the request; the status code of the answer. A redirection is an
/// answer like any other.
pub(crate) async fn get(target: &Target<'_>, action: &HTTPGetAction) -> Result<u16, String> {
    let host = action.host.clone().filter(|host| !host.is_empty());
    let host = host.or_else(|| target.address());
    let host = host.ok_or("the pod has no address")?;
    let port = port_number(target.spec, &action.port).ok_or("the port is not known")?;
    let is_tls = action.scheme.as_deref() == Some("HTTPS");
    let scheme = if is_tls { "https" } else { "http" };
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let shown = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let fails = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        format!("Get \"{scheme}://{shown}{slash}{path}\": {text}")
    };
    let request = request(action, &format!("{slash}{path}"), &shown)?;
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| fails(&error))?;
    if !is_tls {
        return send(stream, request).await.map_err(|error| fails(&error));
    }
    let name = ServerName::try_from(host.clone()).map_err(|error| fails(&error))?;
    let connector = TlsConnector::from(client_config()?);
    let stream = connector.connect(name, stream).await;
    let stream = stream.map_err(|error| fails(&error))?;
    send(stream, request).await.map_err(|error| fails(&error))
}

fn request(
    action: &HTTPGetAction,
    path: &str,
    host: &str,
) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(host).map_err(|error| error.to_string())?;
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static("kube-probe/1.37"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    // Those of the wish replace ours, an empty one takes ours away.
    let mut named = std::collections::HashSet::new();
    for header in action.http_headers.iter().flatten() {
        let name: HeaderName = header.name.parse().map_err(|_| "invalid header name")?;
        let value = HeaderValue::from_str(&header.value).map_err(|_| "invalid header value")?;
        if value.is_empty() && (name == USER_AGENT || name == ACCEPT) {
            headers.remove(name);
        } else if named.insert(name.clone()) {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(request)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<u16, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let sending = sender.send_request(request);
    tokio::pin!(sending);
    // However the connection ends, the answer may have come before that.
    let answer = tokio::select! {
        biased;
        answer = &mut sending => answer,
        _ = connection => sending.await,
    };
    answer.map(|answer| answer.status().as_u16())
}

fn client_config() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Anyone::new(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_of_the_wish_replace_ours() {
        let action = serde_json::from_value(json!({"port": 80, "httpHeaders": [
            {"name": "Host", "value": "example.test"}, {"name": "User-Agent", "value": ""},
            {"name": "X", "value": "1"}, {"name": "X", "value": "2"}]}))
        .expect("an action");
        let request = request(&action, "/x?y", "10.0.0.1:80").expect("a request");
        assert_eq!(request.headers()[HOST], "example.test");
        assert!(!request.headers().contains_key(USER_AGENT));
        assert_eq!(request.headers().get_all("X").iter().count(), 2);
    }

    #[tokio::test]
    async fn any_certificate_will_do() {
        let made = rcgen::generate_simple_self_signed(["elsewhere.test".to_owned()]);
        let made = made.expect("a certificate");
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a configuration");
        let (client, server) = tokio::io::duplex(64 << 10);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let serving = tokio::spawn(async move {
            let stream = acceptor.accept(server).await.expect("a handshake");
            let service = hyper::service::service_fn(|_| async {
                let mut answer = http::Response::new(Empty::<Bytes>::new());
                *answer.status_mut() = http::StatusCode::IM_A_TEAPOT;
                Ok::<_, std::convert::Infallible>(answer)
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .expect("served");
        });
        let name = ServerName::try_from("10.0.0.1").expect("a name");
        let connector = TlsConnector::from(client_config().expect("a configuration"));
        let stream = connector.connect(name, client).await.expect("connected");
        let action = serde_json::from_value(json!({"port": 443})).expect("an action");
        let request = request(&action, "/", "10.0.0.1:443").expect("a request");
        assert_eq!(send(stream, request).await.expect("an answer"), 418);
        serving.await.expect("served");
    }
}
