//! Asking over gRPC: `grpc.health.v1.Health/Check` in one request of HTTP/2,
//! its two messages written and read by hand.

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::check::Answer;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;
/// Largest answer, in bytes.
const LARGEST: usize = 64 << 10;

/// Asks once.
pub(super) async fn check(host: &str, port: u16, service: &str) -> Answer {
    match call(host, port, service).await {
        Ok(SERVING) => Answer::Success,
        Ok(status) => Answer::Failure(format!(
            "service unhealthy (responded with \"{}\")",
            match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                _ => "SERVICE_UNKNOWN",
            }
        )),
        Err(why) => Answer::Failure(why),
    }
}

async fn call(host: &str, port: u16, service: &str) -> Result<u64, String> {
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|error| {
        format!("timeout: failed to connect service \"{host}:{port}\": {error}")
    })?;
    let failed = |error: hyper::Error| format!("error: health rpc failed: {error}");
    let executor = TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let authority = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(message(service)))
        .map_err(|error| error.to_string())?;
    let asking = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let in_headers = answer.headers().get("grpc-status").cloned();
        let collected = Limited::new(answer.into_body(), LARGEST).collect().await;
        let collected = collected.map_err(|error| format!("error: health rpc failed: {error}"))?;
        let trailers = collected.trailers();
        let code = trailers.and_then(|trailers| trailers.get("grpc-status").cloned());
        let code = code.or(in_headers);
        let code = code.as_ref().and_then(|code| code.to_str().ok());
        match code {
            Some("0") => status(&collected.to_bytes()),
            Some("12") => Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .to_owned(),
            ),
            other => Err(format!(
                "error: health rpc failed with status {}",
                other.unwrap_or("unknown")
            )),
        }
    };
    tokio::pin!(asking);
    // However the connection ends, the answer may have come before that.
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        _ = connection => asking.await,
    }
}

/// A framed `HealthCheckRequest`: field 1 is the service's name.
fn message(service: &str) -> Bytes {
    let mut body = BytesMut::new();
    if !service.is_empty() {
        body.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            body.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        body.put_u8(length as u8);
        body.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    framed.put_slice(&body);
    framed.freeze()
}

/// The status in a framed `HealthCheckResponse`: field 1, a varint; 0 when it
/// is not there.
fn status(framed: &[u8]) -> Result<u64, String> {
    let malformed = || "error: health rpc failed: malformed answer".to_owned();
    let (head, rest) = framed.split_at_checked(5).ok_or_else(malformed)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let length = usize::try_from(length).map_err(|_| malformed())?;
    let mut body = rest.get(..length).ok_or_else(malformed)?;
    if head[0] != 0 {
        return Err(malformed());
    }
    let mut found = 0;
    while !body.is_empty() {
        let key = varint(&mut body).ok_or_else(malformed)?;
        match (key >> 3, key & 7) {
            (1, 0) => found = varint(&mut body).ok_or_else(malformed)?,
            (_, 0) => drop(varint(&mut body).ok_or_else(malformed)?),
            (_, 1) => body = body.get(8..).ok_or_else(malformed)?,
            (_, 5) => body = body.get(4..).ok_or_else(malformed)?,
            (_, 2) => {
                let length = varint(&mut body).ok_or_else(malformed)?;
                let length = usize::try_from(length).map_err(|_| malformed())?;
                body = body.get(length..).ok_or_else(malformed)?;
            }
            _ => return Err(malformed()),
        }
    }
    Ok(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn messages_are_as_the_protocol_has_them() {
        assert_eq!(message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Ok(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Ok(0));
        assert!(status(&[0, 0, 0, 0, 9, 8]).is_err());
    }

    /// A server that knows one service.
    async fn serve(listener: TcpListener) {
        let answer = |request: Request<Incoming>| async {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let asked = request.into_body().collect().await.expect("a request");
            let is_known = asked.to_bytes() == message("known");
            let code = if is_known { "0" } else { "5" };
            let bytes: &[u8] = if is_known {
                &[0, 0, 0, 0, 2, 8, 1]
            } else {
                &[]
            };
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(code));
            let body = Full::new(Bytes::from_static(bytes))
                .with_trailers(std::future::ready(Some(Ok(trailers))));
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        };
        while let Ok((stream, _)) = listener.accept().await {
            // A client that has its answer goes away without a word.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        }
    }

    #[tokio::test]
    async fn a_server_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(serve(listener));
        assert_eq!(check("127.0.0.1", port, "known").await, Answer::Success);
        let unknown = check("127.0.0.1", port, "other").await;
        assert!(matches!(unknown, Answer::Failure(_)), "{unknown:?}");
        server.abort();
        assert!(server.await.is_err(), "nobody listens any more");
        let refused = check("127.0.0.1", port, "known").await;
        assert!(matches!(refused, Answer::Failure(_)), "{refused:?}");
    }

    proptest! {
        /// A stranger's bytes end in an answer or an error.
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = status(&bytes);
        }
    }
}
