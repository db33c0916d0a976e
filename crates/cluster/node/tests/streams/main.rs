//! Streams of pods from outside: the real `kubectl` and kube's own client,
//! through an API server, to a runtime in memory.

mod cluster;
mod runtime;

use std::sync::Arc;

use dhow_node::StreamServer;
use futures_util::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, LogParams, TerminalSize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use cluster::{Cluster, PATIENCE, Speaks};

const BOTH: [Speaks; 2] = [Speaks::WebSocket, Speaks::Spdy];

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_and_followed() {
    let cluster = Cluster::new().await;
    let logs = |more: &[&'static str]| {
        let arguments = [&["logs", "p", "-c"], more].concat();
        let cluster = &cluster;
        async move { cluster.run(Speaks::WebSocket, &arguments, b"").await }
    };
    assert_eq!(logs(&["main"]).await.out, "main-1 1\nmain-1 2\nmain-1 3\n");
    assert_eq!(logs(&["main", "--tail=1"]).await.out, "main-1 3\n");
    assert_eq!(logs(&["main", "--limit-bytes=3"]).await.out, "mai");
    assert_eq!(
        logs(&["main", "--tail=1", "--timestamps"]).await.out,
        "2026-01-02T03:04:03.000000001Z main-1 3\n"
    );
    assert_eq!(logs(&["main", "-p", "--tail=1"]).await.out, "main-0 3\n");
    let error = logs(&["slow"]).await.err;
    let wanted = "container \"slow\" in pod \"p\" is waiting to start: ImagePullBackOff";
    assert!(
        error.contains(wanted) && error.contains("BadRequest"),
        "{error}"
    );
    let error = logs(&["slow", "-p"]).await.err;
    let wanted = "previous terminated container \"slow\" in pod \"p\" not found";
    assert!(error.contains(wanted), "{error}");

    // One that waits to be started again: what ended last is the previous one.
    for arguments in [&["crash", "--tail=1"][..], &["crash", "-p", "--tail=1"]] {
        assert_eq!(logs(arguments).await.out, "crash-0 3\n");
    }

    let mut child = cluster
        .command(
            Speaks::WebSocket,
            &["logs", "p", "-c", "main", "-f", "--tail=1"],
        )
        .spawn()
        .expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        line.expect("in time").expect("read").expect("a line")
    };
    assert_eq!(next().await, "main-1 3");
    for number in 1..=3 {
        cluster.memory.more.send_replace(number);
        assert_eq!(next().await, format!("more {number}"));
    }
    // Nobody follows for a client that is gone.
    child.kill().await.expect("killed");
    let ended = tokio::time::timeout(PATIENCE, cluster.memory.more.closed()).await;
    ended.expect("the runtime is let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_with_their_client() {
    let cluster = Cluster::new().await;
    for speaks in BOTH {
        let arguments = ["exec", "-i", "p", "-c", "main", "--", "cat"];
        let mut child = cluster
            .command(speaks, &arguments)
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        let mut stdout = child.stdout.take().expect("it is piped");
        stdin.write_all(b"x").await.expect("written");
        stdout.read_exact(&mut [0]).await.expect("it runs");
        assert_eq!(*cluster.memory.running.borrow(), 1, "{speaks:?}");
        child.kill().await.expect("killed");
        let mut running = cluster.memory.running.subscribe();
        let ended = tokio::time::timeout(PATIENCE, running.wait_for(|running| *running == 0));
        ended
            .await
            .expect("its input ends")
            .expect("the runtime is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_with_their_streams() {
    let cluster = Cluster::new().await;
    for speaks in BOTH {
        let exec =
            |flags: &'static [&'static str], command: &'static [&'static str], input: Vec<u8>| {
                let arguments = [&["exec", "p", "-c", "main"], flags, &["--"], command].concat();
                let cluster = &cluster;
                async move { cluster.run(speaks, &arguments, &input).await }
            };
        let said = exec(&[], &["streams"], Vec::new()).await;
        assert_eq!(
            said.out, "stdin false tty false\n",
            "{speaks:?} {}",
            said.err
        );
        assert_eq!(said.code, Some(0));

        let input: Vec<u8> = (0..300_000u32)
            .flat_map(|n| n.to_string().into_bytes())
            .collect();
        let said = exec(&["-i"], &["cat"], input.clone()).await;
        assert_eq!(said.out.len(), input.len(), "{speaks:?} {}", said.err);
        assert!(
            said.out.as_bytes() == input,
            "{speaks:?}: the same bytes come back"
        );
        assert_eq!(said.code, Some(0), "its end of input arrives");

        let said = exec(&[], &["fail", "7"], Vec::new()).await;
        assert_eq!((said.code, said.out.as_str()), (Some(7), ""), "{speaks:?}");
        assert!(said.err.starts_with("no luck\n"), "{speaks:?} {}", said.err);

        let said = exec(&[], &["flood", "100000"], Vec::new()).await;
        assert_eq!(said.out.lines().count(), 100_000, "{speaks:?} {}", said.err);
        assert!(said.out.ends_with("line 0099999\n"));

        let said = exec(&[], &["missing"], Vec::new()).await;
        assert_eq!(said.code, Some(1), "{speaks:?}");
        assert!(
            said.err
                .contains("error executing command in container: missing: no such file"),
            "{speaks:?} {}",
            said.err
        );
    }
    let said = cluster
        .run(Speaks::Spdy, &["exec", "p", "-c", "slow", "--", "cat"], b"")
        .await;
    assert!(
        said.err.contains("container not found (\"slow\")"),
        "{}",
        said.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_have_their_size() {
    let cluster = Cluster::new().await;
    for speaks in BOTH {
        let arguments = ["exec", "-it", "p", "-c", "main", "--", "size"];
        let said = cluster.on_terminal(speaks, &arguments).await;
        assert!(said.contains("90x30"), "{speaks:?} {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_attach_to_what_runs() {
    let cluster = Cluster::new().await;
    for speaks in BOTH {
        let arguments = ["attach", "p", "-c", "main", "-i"];
        let said = cluster.run(speaks, &arguments, b"hello\n").await;
        assert!(
            said.out.ends_with("hello\n"),
            "{speaks:?} {} {}",
            said.out,
            said.err
        );
        assert_eq!(said.code, Some(0), "{speaks:?} {}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded() {
    let cluster = Cluster::new().await;
    for speaks in BOTH {
        let forward = cluster.forward(speaks, "80").await;
        // Several at once, each with more than any buffer holds.
        let mut talks = tokio::task::JoinSet::new();
        for number in 0..4u8 {
            let stream = forward.connect().await;
            talks.spawn(async move {
                let sent: Vec<u8> = (0..500_000u32).map(|n| n as u8 ^ number).collect();
                let (mut reader, mut writer) = stream.into_split();
                let typed = sent.clone();
                let typing = tokio::spawn(async move {
                    writer.write_all(&typed).await.expect("written");
                    writer.shutdown().await.expect("shut down");
                });
                let mut heard = Vec::new();
                reader.read_to_end(&mut heard).await.expect("read");
                typing.await.expect("typed");
                assert_eq!(heard.len(), sent.len() + 3, "{speaks:?}");
                assert!(heard.starts_with(&sent) && heard.ends_with(b"end"));
            });
        }
        let all = tokio::time::timeout(PATIENCE, talks.join_all()).await;
        all.expect("they end");

        // A port where nobody listens: the client is told why.
        let mut forward = cluster.forward(speaks, "81").await;
        let mut stream = forward.connect().await;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        assert_eq!(heard, b"");
        let err = forward.child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(err).lines();
        let told = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("connection refused") {
                    return line;
                }
            }
            panic!("nothing was told");
        };
        let line = tokio::time::timeout(PATIENCE, told)
            .await
            .expect("it is told");
        assert!(line.contains("error forwarding port 81"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clients_are_served_too() {
    let cluster = Cluster::new().await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    let parameters = LogParams {
        container: Some("main".into()),
        tail_lines: Some(2),
        ..LogParams::default()
    };
    let log = pods.logs("p", &parameters).await.expect("a log");
    assert_eq!(log, "main-1 2\nmain-1 3\n");

    let parameters = AttachParams::interactive_tty().container("main");
    let mut running = pods
        .exec("p", ["size"], &parameters)
        .await
        .expect("it runs");
    let mut resize = running.terminal_size().expect("it has a terminal");
    let size = TerminalSize {
        width: 132,
        height: 43,
    };
    futures_util::SinkExt::send(&mut resize, size)
        .await
        .expect("sent");
    let mut said = String::new();
    let mut stdout = running.stdout().expect("it speaks");
    stdout.read_to_string(&mut said).await.expect("read");
    assert_eq!(said, "132x43\r\n");
    let status = running.take_status().expect("a status").await;
    assert_eq!(
        status.and_then(|status| status.status).as_deref(),
        Some("Success")
    );

    let mut forward = pods.portforward("p", &[80, 81]).await.expect("forwarded");
    let mut stream = forward.take_stream(80).expect("a stream");
    stream.write_all(b"hello").await.expect("written");
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.expect("read");
    assert_eq!(&heard, b"hello");
    let error = forward.take_error(81).expect("an error").await;
    assert!(error.is_some_and(|error| error.contains("connection refused")));
}

/// Over WebSocket without `kubectl`: all that a program says, by channel, until
/// the server closes.
async fn dialect(protocol: &str, command: &str, typed: Option<Message>) -> Vec<Message> {
    let server = StreamServer::new(Arc::new(runtime::Memory::new()));
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serving = tokio::spawn(async move { server.serve(theirs).await });
    let path = format!("ws://node/exec/default/p/main?output=1&error=1&input=1&{command}");
    let mut request = path.into_client_request().expect("a request");
    if !protocol.is_empty() {
        let value = protocol.parse().expect("a header");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", value);
    }
    let (mut socket, answer) = tokio_tungstenite::client_async(request, ours)
        .await
        .expect("upgraded");
    let chosen = answer.headers().get("sec-websocket-protocol");
    assert_eq!(
        chosen.map_or("", |value| value.to_str().expect("text")),
        protocol
    );
    if let Some(typed) = typed {
        socket.send(typed).await.expect("sent");
    }
    let mut said = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        said.push(message);
    }
    serving.await.expect("served");
    let farewell = said.pop().expect("a farewell");
    assert!(matches!(farewell, Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn all_versions_of_channels_are_spoken() {
    let fail = "command=fail&command=7";
    let status = br#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
    let framed = |channel: u8, bytes: &[u8]| Message::binary([&[channel], bytes].concat());
    let text = "command terminated with non-zero exit code: exit status 7";
    for (protocol, last) in [
        ("v5.channel.k8s.io", &status[..]),
        ("v4.channel.k8s.io", &status[..]),
        ("channel.k8s.io", text.as_bytes()),
        ("", text.as_bytes()),
    ] {
        let said = dialect(protocol, fail, None).await;
        let wanted = [framed(1, b""), framed(2, b"no luck\n"), framed(3, last)];
        assert_eq!(said, wanted, "{protocol}");
    }
    let said = dialect("base64.channel.k8s.io", "command=streams", None).await;
    let words = "1c3RkaW4gdHJ1ZSB0dHkgZmFsc2UK"; // "stdin true tty false\n"
    assert_eq!(said, ["1", words, "3"].map(Message::text));
    let said = dialect(
        "v4.base64.channel.k8s.io",
        "command=first",
        Some(Message::text("0aGVsbG8=")),
    )
    .await;
    assert_eq!(
        said[1],
        Message::text("1aGVsbG8="),
        "what was typed comes back"
    );
}
