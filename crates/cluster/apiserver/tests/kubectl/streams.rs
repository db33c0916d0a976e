//! Logs and exec through the server to a node agent: here, a small HTTP server
//! at the other end of a pipe.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use dhow_apiserver::{Connecting, NodeConnector, NodeStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::cluster::Cluster;

struct Nodes;

impl NodeConnector for Nodes {
    fn connect<'a>(&'a self, node: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            if node != "n1" {
                return Err(std::io::Error::other("no such node"));
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(agent);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(theirs), service)
                    .with_upgrades()
                    .await;
            });
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}

async fn agent(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri().to_string();
    if !uri.starts_with("/exec/") {
        return Ok(Response::new(Full::from(format!("asked for {uri}\n"))));
    }
    let header = |name: &str| request.headers().get(name).cloned();
    let (Some(key), Some(protocol)) = (
        header("sec-websocket-key"),
        header("sec-websocket-protocol"),
    ) else {
        let mut refusal = Response::new(Full::from("no websocket"));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(refusal);
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.expect("upgraded"));
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        // Channel 0 is standard input; what comes is said back on channel 1.
        while let Some(Ok(message)) = socket.next().await {
            let data = message.into_data();
            match data.first() {
                Some(0) if data.len() > 1 => {
                    let mut out = vec![1];
                    out.extend_from_slice(b"heard ");
                    out.extend_from_slice(&data[1..]);
                    socket.send(Message::binary(out)).await.expect("sent");
                    break;
                }
                _ => {}
            }
        }
        let mut status = vec![3];
        status.extend_from_slice(
            br#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","message":"exit 7","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#,
        );
        socket.send(Message::binary(status)).await.expect("sent");
        let goodbye = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = socket.close(Some(goodbye)).await;
    });
    let protocol = protocol
        .to_str()
        .expect("text")
        .split(',')
        .next()
        .unwrap_or("")
        .trim()
        .to_owned();
    Ok(Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .header("sec-websocket-protocol", protocol)
        .body(Full::default())
        .expect("a response"))
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  nodeName: NODE
  containers: [{name: main, image: i}, {name: side, image: i}]
";

#[tokio::test(flavor = "multi_thread")]
async fn streams_reach_the_node() {
    let cluster = Cluster::with(|config| config.nodes = Some(Arc::new(Nodes))).await;
    cluster
        .ok_with(&["create", "-f", "-"], &POD.replace("NODE", "n1"))
        .await;
    let error = cluster
        .fails(
            &["get", "--raw", "/api/v1/namespaces/default/pods/p/log"],
            "",
        )
        .await;
    assert!(
        error.contains("a container name must be specified for pod p, choose one of: [main side]"),
        "{error}"
    );
    let log = cluster.ok(&["logs", "p", "-c", "side", "--tail=3"]).await;
    assert_eq!(log, "asked for /containerLogs/default/p/side?tailLines=3\n");
    let said = cluster
        .run(&["exec", "-i", "p", "-c", "main", "--", "cat"], "words\n")
        .await;
    assert_eq!(said.out, "heard words\n");
    assert!(!said.ok && said.err.contains("exit code 7"), "{}", said.err);
    let elsewhere = POD.replace("NODE", "n2").replace("name: p}", "name: q}");
    cluster.ok_with(&["create", "-f", "-"], &elsewhere).await;
    let error = cluster.fails(&["logs", "q", "-c", "main"], "").await;
    assert!(error.contains("no such node"), "{error}");
    let error = cluster
        .fails(&["exec", "q", "-c", "nobody", "--", "ls"], "")
        .await;
    assert!(
        error.contains("container nobody is not valid for pod q") || error.contains("not found"),
        "{error}"
    );
    cluster.end().await;
}
