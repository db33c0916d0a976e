//! Requests that nobody should send, to a daemon that must take them: bodies with
//! values of every wrong kind, paths and queries of odd bytes, and what is no HTTP.
//! Each is answered, as the asker's mistake or done, and in the end nothing is left.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use dhow_testkit::{Chance, Daemon};
use serde_json::{Value, json};

/// Bodies of each request that are tried.
const BODIES: usize = 120;
/// Paths and queries that are tried.
const PATHS: usize = 3000;
/// Archives of each kind that are tried.
const ARCHIVES: usize = 30;
/// How long an answer may take, streams that go on left aside.
const PATIENCE: Duration = Duration::from_secs(20);

/// What others are to blame for, or is not there; dockerd answers with 500 and more, too.
const AS_DOCKERD: [&str; 5] = [
    "is not connected to network",
    "connection refused",
    "lookup registry-1.docker.io",
    "swarm is unavailable",
    "searching a registry is not supported",
];

/// What came of a request.
struct Answer {
    status: u16,
    body: String,
}

/// Sends bytes and reads what comes back, all of it or as much as comes at once of
/// what goes on. Nothing means that the connection was closed without an answer.
fn exchange(daemon: &Daemon, bytes: &[u8]) -> Option<Answer> {
    let mut stream = UnixStream::connect(daemon.socket()).expect("it serves");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // One that has been refused already need not read the rest.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut block = [0; 16 << 10];
    loop {
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&block[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}

/// Sends a request with a body. `target` is `METHOD /path`.
fn ask(daemon: &Daemon, target: &str, body: &[u8]) -> Option<Answer> {
    let head = format!(
        "{target} HTTP/1.1\r\nHost: daemon\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(daemon, &[head.as_bytes(), body].concat())
}

/// Something that is seldom what is wanted.
fn odd(chance: &mut Chance) -> Value {
    let all = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!(" "),
        json!("a\u{0}b"),
        json!("../../../etc/passwd"),
        json!("/"),
        json!("ä\u{202e}\u{1f980}"),
        json!("-1"),
        json!("18446744073709551616"),
        json!("x".repeat(70_000)),
        json!("a:b:c:d:e"),
        json!("%s%n\n\r\t"),
        json!([]),
        json!([null]),
        json!([[[[]]]]),
        json!({}),
        json!({ "": "" }),
        json!({ "80/tcp": null, "x/y/z": {}, "99999/udp": [] }),
    ];
    chance.of(&all).cloned().unwrap_or_default()
}

/// Changes something of a value, however deep it lies.
fn spoil(value: &mut Value, chance: &mut Chance) {
    let deeper = chance.below(8) != 0;
    match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let names: Vec<String> = fields.keys().cloned().collect();
            let name = chance.of(&names).expect("there is one").clone();
            match chance.below(12) {
                0 => {
                    fields.remove(&name);
                }
                1 => {
                    fields.insert("Unheard-of".into(), odd(chance));
                }
                _ => spoil(fields.get_mut(&name).expect("it is there"), chance),
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = chance.below(items.len() as u64) as usize;
            spoil(&mut items[at], chance);
        }
        other => *other = odd(chance),
    }
}

/// Requests with bodies, as they should be. They speak of `box`, which runs, of
/// `made`, which does not, of the network `net` and the volume `data`.
fn requests() -> Vec<(&'static str, Value)> {
    let resources = json!({
        "Memory": 67_108_864, "MemorySwap": 134_217_728, "MemoryReservation": 33_554_432,
        "CpuShares": 512, "CpuPeriod": 100_000, "CpuQuota": 50_000, "CpusetCpus": "0",
        "PidsLimit": 100, "BlkioWeight": 300,
        "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 },
    });
    let mut host = json!({
        "Binds": ["data:/data:ro"], "NetworkMode": "net", "AutoRemove": false,
        "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "0" }] },
        "Memory": 33_554_432, "NanoCpus": 500_000_000, "PidsLimit": 20, "ShmSize": 1_048_576,
        "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"],
        "Dns": ["192.0.2.1"], "ExtraHosts": ["a:192.0.2.2"], "GroupAdd": ["10"],
        "Sysctls": { "net.ipv4.ip_forward": "1" }, "Tmpfs": { "/scratch": "size=1m" },
        "Ulimits": [{ "Name": "nofile", "Soft": 100, "Hard": 200 }],
    });
    let more = json!({
        "Devices": [{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r" }],
        "DeviceCgroupRules": ["c 1:3 r"], "LogConfig": { "Type": "local", "Config": { "max-size": "1m" } },
        "Mounts": [{ "Type": "tmpfs", "Target": "/more", "TmpfsOptions": { "SizeBytes": 4096 } }],
        "IpcMode": "private", "PidMode": "", "CgroupnsMode": "private", "Init": true,
        "RestartPolicy": { "Name": "no" }, "OomScoreAdj": 10, "ReadonlyRootfs": true,
        "Annotations": { "x": "y" }, "MaskedPaths": ["/proc/keys"], "ConsoleSize": [24, 80],
        "BlkioDeviceReadBps": [{ "Path": "/dev/null", "Rate": 1024 }],
    });
    if let (Some(host), Value::Object(more)) = (host.as_object_mut(), more) {
        host.extend(more);
    }
    let container = json!({
        "Hostname": "host", "Domainname": "example", "User": "0:0", "Image": "busybox",
        "Cmd": ["true"], "Entrypoint": ["sh", "-c"], "Env": ["A=b", "C"],
        "WorkingDir": "/tmp", "Labels": { "a": "b" }, "ExposedPorts": { "80/tcp": {} },
        "Volumes": { "/anonymous": {} }, "StopSignal": "SIGTERM", "StopTimeout": 3,
        "Tty": false, "OpenStdin": true, "StdinOnce": true, "AttachStdout": true,
        "Healthcheck": { "Test": ["CMD", "true"], "Interval": 1_000_000_000, "Retries": 2 },
        "HostConfig": host,
        "NetworkingConfig": { "EndpointsConfig": { "net": {
            "Aliases": ["other"], "IPAMConfig": { "IPv4Address": "10.213.7.9" }, "DriverOpts": { "a": "b" },
        } } },
    });
    let network = json!({
        "Name": "more", "Driver": "bridge", "Internal": false, "EnableIPv6": false,
        "Options": { "com.docker.network.driver.mtu": "1400" }, "Labels": { "a": "b" },
        "IPAM": { "Driver": "default", "Config": [
            { "Subnet": "10.213.8.0/24", "Gateway": "10.213.8.1", "IPRange": "10.213.8.128/25",
              "AuxiliaryAddresses": { "x": "10.213.8.5" } },
        ] },
    });
    let endpoint = json!({ "Container": "made", "EndpointConfig": {
        "Aliases": ["x"], "IPAMConfig": { "IPv4Address": "10.213.7.77", "LinkLocalIPs": ["169.254.1.1"] },
        "MacAddress": "02:42:0a:d5:07:4d", "GwPriority": 1,
    } });
    let volume = json!({
        "Name": "extra", "Driver": "local", "Labels": { "a": "b" },
        "DriverOpts": { "type": "tmpfs", "device": "tmpfs", "o": "size=1m" },
    });
    let exec = json!({
        "Cmd": ["true"], "User": "0", "Env": ["A=b"], "WorkingDir": "/", "Tty": false,
        "AttachStdout": true, "Privileged": false, "DetachKeys": "ctrl-p,ctrl-q",
    });
    vec![
        ("POST /containers/create?name=new", container),
        ("POST /containers/box/update", resources),
        ("POST /containers/box/exec", exec),
        ("POST /networks/create", network),
        ("POST /networks/net/connect", endpoint.clone()),
        ("POST /networks/net/disconnect", endpoint),
        ("POST /volumes/create", volume),
        (
            "POST /commit?container=made&repo=kept",
            json!({ "Cmd": ["true"], "Labels": { "a": "b" } }),
        ),
        (
            "POST /auth",
            json!({ "username": "u", "password": "p", "serveraddress": "127.0.0.1:1" }),
        ),
    ]
}

/// Takes away what a request made that was good after all.
fn tidy(daemon: &Daemon, target: &str, answer: &Answer) {
    if answer.status >= 300 {
        return;
    }
    let made: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let gone = |target: String| {
        let gone = ask(daemon, &target, b"").expect("an answer");
        assert!(gone.status < 300, "{target}: {}", gone.body);
    };
    match (target, made["Id"].as_str(), made["Name"].as_str()) {
        (target, Some(id), _) if target.contains("/containers/create") => {
            gone(format!("DELETE /containers/{id}?force=1&v=1"));
        }
        (target, Some(id), _) if target.contains("/networks/create") => {
            gone(format!("DELETE /networks/{id}"));
        }
        (target, _, Some(name)) if target.contains("/volumes/create") => {
            gone(format!("DELETE /volumes/{name}"));
        }
        _ => {}
    }
}

/// What is to be said of answers: none but to the asker's mistakes, and JSON.
#[derive(Default)]
struct Verdict {
    wrong: BTreeMap<String, String>,
    count: BTreeMap<u16, usize>,
}

impl Verdict {
    fn judge(&mut self, request: &str, sent: &str, answer: Option<&Answer>) {
        let shown: String = sent.chars().take(400).collect();
        let Some(answer) = answer else {
            let key = format!("{request}: no answer");
            self.wrong.entry(key).or_insert(shown);
            return;
        };
        *self.count.entry(answer.status).or_default() += 1;
        let value: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let message = value["message"].as_str().unwrap_or_default();
        let says_why = answer.status < 400 || !message.is_empty();
        let is_ours = answer.status >= 500 && !AS_DOCKERD.iter().any(|part| message.contains(part));
        if is_ours || !says_why {
            let message: String = message.chars().take(120).collect();
            let key = format!("{request}: {} {message}", answer.status);
            self.wrong.entry(key).or_insert(shown);
        }
    }

    fn tell(self) {
        eprintln!("answers by status: {:?}", self.count);
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
    }
}

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.busybox();
    let subnet = ["network", "create", "--subnet=10.213.7.0/24", "net"];
    daemon.docker(&subnet).ok();
    daemon.docker(&["volume", "create", "data"]).ok();
    daemon.sleeper("box", &["--network=net"]);
    let made = ["create", "--name", "made", "--network=net", "busybox"];
    daemon.docker(&made).ok();
    daemon
}

fn finish(daemon: Daemon) {
    assert_eq!(daemon.inspect("box", "{{.State.Status}}"), "running");
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "net"]).ok();
    daemon.docker(&["volume", "prune", "-af"]).ok();
    daemon.finish();
}

#[test]
fn bodies_of_every_wrong_kind_are_refused() {
    let daemon = daemon();
    let mut chance = Chance::new();
    let mut verdict = Verdict::default();
    for (target, good) in requests() {
        for _ in 0..BODIES {
            let mut body = good.clone();
            for _ in 0..=chance.below(3) {
                spoil(&mut body, &mut chance);
            }
            let mut text = body.to_string();
            // A few are no JSON at all.
            if chance.below(12) == 0 {
                let at = chance.below(text.len().max(1) as u64) as usize;
                let at = (0..=at).rev().find(|at| text.is_char_boundary(*at));
                text.truncate(at.unwrap_or_default());
            }
            let answer = ask(&daemon, target, text.as_bytes());
            verdict.judge(target, &text, answer.as_ref());
            if let Some(answer) = answer {
                tidy(&daemon, target, &answer);
            }
        }
    }
    // As it was, whatever an update has done.
    verdict.tell();
    finish(daemon);
}

#[test]
fn paths_and_queries_of_odd_bytes_are_refused() {
    const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "HEAD"];
    const PARTS: [&str; 30] = [
        "containers",
        "images",
        "networks",
        "volumes",
        "exec",
        "json",
        "create",
        "box",
        "made",
        "net",
        "data",
        "busybox",
        "busybox:latest",
        "archive",
        "history",
        "changes",
        "top",
        "rename",
        "tag",
        "search",
        "distribution",
        "v1.41",
        "v0.1",
        "v99.99",
        "..",
        "%2e%2e",
        "%00",
        "%ff",
        "%2f",
        "a%20b",
    ];
    const QUERIES: [&str; 18] = [
        "name=%ff",
        "filters=%ff",
        "path=../../etc/passwd",
        "path=%00",
        "filters=%7B",
        "filters=%7B%22label%22%3A1%7D",
        "filters=%7B%22x%22%3A%5B%22y%22%5D%7D",
        "limit=-1",
        "limit=x",
        "all=maybe",
        "name=%2e%2e",
        "repo=%20&tag=%20",
        "ps_args=%27%3B",
        "h=x&w=y",
        "signal=SIGNOTHING",
        "t=x",
        "since=x&until=y",
        "=&&==",
    ];
    let daemon = daemon();
    let mut chance = Chance::new();
    let mut verdict = Verdict::default();
    for _ in 0..PATHS {
        let method = chance.of(&METHODS).copied().expect("there is one");
        let mut target = format!("{method} ");
        for _ in 0..=chance.below(4) {
            target.push('/');
            target.push_str(chance.of(&PARTS).copied().expect("there is one"));
        }
        if chance.below(2) == 0 {
            target.push('?');
            target.push_str(chance.of(&QUERIES).copied().expect("there is one"));
        }
        // The two are for the end, and a shell's end is nothing odd.
        let ends_them = method == "DELETE" || target.contains("/rename");
        if ends_them
            && ["box", "made", "net", "data"]
                .iter()
                .any(|name| target.contains(name))
        {
            continue;
        }
        let answer = ask(&daemon, &target, b"{}");
        if method == "HEAD" {
            assert!(answer.is_some(), "{target}: no answer");
        } else {
            verdict.judge(&target, &target, answer.as_ref());
        }
    }
    verdict.tell();
    finish(daemon);
}

#[test]
fn archives_of_noise_are_refused() {
    let daemon = daemon();
    let folder = daemon.host().folder().join("tree");
    std::fs::create_dir_all(folder.join("below")).expect("a folder");
    std::fs::write(folder.join("below/file"), "text".repeat(1000)).expect("written");
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY . /\n").expect("written");
    std::os::unix::fs::symlink("file", folder.join("below/link")).expect("a link");
    let tree = [
        "--create",
        "--directory",
        &folder.display().to_string(),
        ".",
    ]
    .map(str::to_owned);
    let tree = daemon.host().command("tar").args(tree).output();
    let image = daemon.docker_command(&["save", "busybox"]).output();
    let [tree, image] = [tree, image].map(|output| output.expect("it starts").stdout);
    let mut chance = Chance::new();
    let mut verdict = Verdict::default();
    for (target, good) in [
        ("PUT /containers/made/archive?path=/", &tree),
        ("PUT /containers/box/archive?path=/tmp", &tree),
        ("POST /build?t=noise", &tree),
        ("POST /images/load", &image),
        ("POST /images/create?fromSrc=-&repo=noise", &tree),
    ] {
        for round in 0..ARCHIVES {
            let mut bytes = good.clone();
            // What is spoiled is mostly what says what there is.
            for _ in 0..=chance.below(8) {
                let entry = chance.below(bytes.len() as u64 / 512) as usize * 512;
                let at = entry + chance.below(512) as usize;
                bytes[at] = chance.below(256) as u8;
            }
            if round % 3 == 0 {
                bytes.truncate(chance.below(bytes.len() as u64) as usize);
            }
            let answer = ask(&daemon, target, &bytes);
            verdict.judge(target, "an archive", answer.as_ref());
        }
    }
    verdict.tell();
    daemon.docker(&["image", "prune", "-f"]).ok();
    finish(daemon);
}

#[test]
fn what_is_no_http_ends_its_connection_alone() {
    let daemon = daemon();
    let long = "x".repeat(1 << 20);
    let many: String = (0..5000)
        .map(|number| format!("X-{number}: y\r\n"))
        .collect();
    for (what, bytes, statuses) in [
        ("noise", "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(), &[400][..]),
        ("another protocol", "SSH-2.0-x\r\n\r\n".to_owned(), &[400]),
        ("a long target", format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), &[400, 414, 431]),
        ("a long header", format!("GET /_ping HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), &[400, 431]),
        ("many headers", format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{many}\r\n"), &[400, 431]),
        (
            "a length that is none",
            "POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".to_owned(),
            &[400],
        ),
        (
            "two lengths",
            "POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
                .to_owned(),
            &[400],
        ),
        (
            "chunks that are none",
            "POST /volumes/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"
                .to_owned(),
            &[400],
        ),
        (
            "a document without end",
            format!(
                "POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                64 << 20,
                " ".repeat(17 << 20)
            ),
            &[413],
        ),
        (
            "a document of nothing but depth",
            {
                let deep = "[".repeat(200_000);
                let length = deep.len();
                format!(
                    "POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                     Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{deep}"
                )
            },
            &[400],
        ),
    ] {
        let answer = exchange(&daemon, bytes.as_bytes());
        let status = answer.as_ref().map(|answer| answer.status);
        assert!(
            status.is_some_and(|status| statuses.contains(&status)),
            "{what}: {status:?}"
        );
    }
    // Half a request, from many at once, holds nobody else up.
    let halves: Vec<UnixStream> = (0..200)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.socket()).expect("it serves");
            let half = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Le";
            stream.write_all(half).expect("it reads");
            stream
        })
        .collect();
    let ping = ask(&daemon, "GET /_ping", b"").expect("an answer");
    assert_eq!((ping.status, ping.body.as_str()), (200, "OK"));
    drop(halves);
    finish(daemon);
}
