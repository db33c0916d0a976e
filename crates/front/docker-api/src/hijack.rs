//! Connections that become the streams of a container.

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use dhow_engine::{Attached, Result};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Media type of a terminal's output.
const RAW: &str = "application/vnd.docker.raw-stream";
/// Media type of framed output.
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
const BLOCK: usize = 32 * 1024;

/// Takes the connection out of a request that asks for it.
pub(crate) fn take(request: &mut Request<Body>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

/// The answer that hands the connection over.
pub(crate) fn switch(headers: &HeaderMap, terminal: bool) -> Response<Body> {
    let kind = if terminal { RAW } else { MULTIPLEXED };
    let wants_upgrade = headers.contains_key(header::UPGRADE);
    let mut response = Response::builder().header(header::CONTENT_TYPE, kind);
    if wants_upgrade {
        response = response
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp");
    }
    response
        .body(Body::empty())
        .expect("the headers are constants")
}

/// Joins the connection and the streams, once there are both. What keeps the
/// streams from coming is told in their place.
pub(crate) fn join(
    upgrade: OnUpgrade,
    terminal: bool,
    attached: impl Future<Output = Result<Attached>> + Send + 'static,
) {
    tokio::spawn(async move {
        let client = match upgrade.await {
            Ok(client) => TokioIo::new(client),
            Err(error) => {
                tracing::debug!(%error, "client did not take the connection over");
                return;
            }
        };
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let attached = match attached.await {
            Ok(attached) => attached,
            Err(error) => {
                // The answer has gone out already, so the stream tells it.
                let text = format!("{error}\r\n");
                let told = if terminal {
                    text.into_bytes()
                } else {
                    framed(&text)
                };
                let _ = to_client.write_all(&told).await;
                let _ = to_client.shutdown().await;
                return;
            }
        };
        let (mut output, mut input) = attached.stream.into_split();
        let feeding = async {
            let _ = copy(&mut from_client, &mut input).await;
            // The end of the client's side is the end of the input.
            let _ = input.shutdown().await;
            std::future::pending::<()>().await;
        };
        let draining = async {
            let _ = copy(&mut output, &mut to_client).await;
            let _ = to_client.shutdown().await;
        };
        tokio::select! { () = feeding => {}, () = draining => {} }
    });
}

/// A text as standard output in Docker's framing.
fn framed(text: &str) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0];
    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

async fn copy(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}
