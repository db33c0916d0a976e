//! The Docker API as it is on the wire, field by field: beside dockerd, for the
//! version that it speaks, and by the documentation for those it does not.

use std::collections::BTreeMap;

use dhow_testkit::{Answered, Daemon, Dockerd, Reference};
use serde_json::{Value, json};

/// An engine, ours or the reference.
struct Engine<'a>(&'a dyn Dockerd);

impl Engine<'_> {
    fn ask(&self, request: &str, body: Option<&Value>) -> Answered {
        self.0.ask(request, body)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        let answered = self.ask(&format!("GET {path}"), None);
        assert_eq!(answered.status, 200, "{path}: {answered:?}");
        answered.json()
    }

    /// Makes one of everything, always the same.
    fn fill(&self) {
        let ok = |request: &str, body: Value| {
            let answered = self.ask(request, Some(&body));
            assert!(answered.status < 300, "{request}: {answered:?}");
        };
        ok(
            "POST /v1.41/networks/create",
            json!({ "Name": "shape-net", "Labels": { "a": "b" }, "IPAM": { "Config": [{ "Subnet": "10.213.5.0/24" }] } }),
        );
        ok(
            "POST /v1.41/volumes/create",
            json!({ "Name": "shape-data", "Labels": { "a": "b" } }),
        );
        let sleeper = json!({
            "Image": "busybox",
            "Cmd": ["sleep", "1000"],
            "Labels": { "a": "b" },
            "ExposedPorts": { "80/tcp": {} },
            "Healthcheck": { "Test": ["CMD", "true"], "Interval": 3_600_000_000_000_i64 },
            "HostConfig": {
                "Binds": ["shape-data:/data"],
                "NetworkMode": "shape-net",
                "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "18400" }] },
            },
            "NetworkingConfig": { "EndpointsConfig": { "shape-net": { "Aliases": ["other"] } } },
        });
        ok("POST /v1.41/containers/create?name=shape-up", sleeper);
        ok("POST /v1.41/containers/shape-up/start", json!({}));
        let plain = json!({ "Image": "busybox", "Cmd": ["true"] });
        ok("POST /v1.41/containers/create?name=shape-made", plain);
    }
}

/// The kinds of a value's fields, by path. Of a list the first item counts;
/// maps whose names are data are lists.
fn shape(value: &Value, path: &str, shapes: &mut BTreeMap<String, &'static str>) {
    let is_data = [
        "Labels",
        "Networks",
        "PortBindings",
        "Ports",
        "Containers",
        "Volumes",
        "ExposedPorts",
        "Attributes",
        "stats",
        "Runtimes",
        "IndexConfigs",
        "networks",
    ]
    .iter()
    .any(|name| path.ends_with(&format!(".{name}")));
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    };
    shapes.insert(path.to_owned(), kind);
    match value {
        Value::Array(items) => {
            if let Some(first) = items.first() {
                shape(first, &format!("{path}[]"), shapes);
            }
        }
        Value::Object(fields) if is_data => {
            if let Some(first) = fields.values().next() {
                shape(first, &format!("{path}[]"), shapes);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                shape(field, &format!("{path}.{name}"), shapes);
            }
        }
        _ => {}
    }
}

/// Fields that differ on purpose, by the end of their path; each with why. Below
/// them nothing is compared.
const ON_PURPOSE: [(&str, &str); 15] = [
    (".Networks[].Aliases", "lists have them as well"),
    (".DNSNames", "since 1.44"),
    (".GwPriority", "since 1.48"),
    (".IPAM.Config[].Gateway", "newer ones tell it always"),
    ("[].SizeRw", "also of one that wrote nothing"),
    (".RepoDigests", "an imported image has one"),
    (".BuildCache", "an empty list is none"),
    (".KernelMemory", "the machine's groups have none"),
    (".KernelMemoryTCP", "the machine's groups have none"),
    (".GraphDriver.Data", "other folders"),
    (".RegistryConfig", "other registries"),
    (".Components", "another engine"),
    (".ContainerConfig", "the container of a commit is not kept"),
    (".OomKillDisable", "left to the kernel unless told"),
    (".HostConfig.Runtime", "told if it was asked for"),
];

#[test]
fn answers_have_the_fields_of_dockerd_s() {
    let daemon = Daemon::start();
    daemon.busybox();
    let reference = Reference::start();
    reference.busybox();
    let ours = Engine(&daemon);
    let theirs = Engine(&reference);
    ours.fill();
    theirs.fill();
    let mut differences = Vec::new();
    let used = std::cell::RefCell::new(std::collections::BTreeSet::new());
    for path in [
        "/containers/json?all=1&size=1",
        "/containers/json?filters={\"name\":[\"shape-up\"]}",
        "/containers/shape-up/json?size=1",
        "/containers/shape-made/json",
        "/containers/shape-up/top",
        "/containers/shape-up/stats?stream=0&one-shot=1",
        "/images/json",
        "/images/busybox/json",
        "/images/busybox/history",
        "/networks?filters={\"name\":[\"shape-net\"]}",
        "/networks/shape-net",
        "/networks/host",
        "/volumes",
        "/volumes/shape-data",
        "/info",
        "/version",
        "/system/df",
        "/events?since=1&until=2000000000&filters={\"type\":[\"network\"]}",
    ] {
        // The past only: the events end with the moment that is asked for.
        let path = path.replace("until=2000000000", &format!("until={}", moment()));
        let shape_of = |engine: &Engine<'_>| {
            let answered = engine.ask(&format!("GET /v1.41{path}"), None);
            assert_eq!(answered.status, 200, "{path}: {answered:?}");
            let first = answered.body.lines().next().unwrap_or_default();
            let value =
                serde_json::from_str(first).unwrap_or_else(|error| panic!("{path}: {error}"));
            let mut shapes = BTreeMap::new();
            shape(&value, "", &mut shapes);
            // Whether anything was read from a disk so far is chance.
            shapes.retain(|field, _| !field.contains(".blkio_stats."));
            (answered.kind, shapes)
        };
        let ((our_kind, ours), (their_kind, theirs)) = (shape_of(&ours), shape_of(&theirs));
        if our_kind != their_kind {
            differences.push(format!("{path}: {our_kind}, not {their_kind}"));
        }
        let is_meant = |field: &str| {
            let found = ON_PURPOSE.iter().find(|(end, _)| {
                let below = |mark: &str| field.contains(&format!("{end}{mark}"));
                field.ends_with(end) || below(".") || below("[")
            });
            found.is_some_and(|(end, _)| {
                used.borrow_mut().insert(*end);
                true
            })
        };
        for (field, kind) in &theirs {
            match ours.get(field) {
                Some(same) if same == kind => {}
                _ if is_meant(field) => {}
                None => differences.push(format!("{path}: {field} ({kind}) is missing")),
                Some(other) => {
                    differences.push(format!("{path}: {field} is {other}, not {kind}"));
                }
            }
        }
        for field in ours.keys().filter(|field| !theirs.contains_key(*field)) {
            if !is_meant(field) {
                differences.push(format!("{path}: {field} is only ours"));
            }
        }
    }
    for (end, why) in ON_PURPOSE {
        if !used.borrow().contains(end) {
            differences.push(format!("{end} does not differ any more ({why})"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "shape-net"]).ok();
    daemon.docker(&["volume", "rm", "shape-data"]).ok();
    daemon.finish();
}

fn since_epoch() -> std::time::Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after the epoch")
}

fn now() -> u64 {
    since_epoch().as_secs()
}

/// This moment as parameters have it, to the nanosecond: what has just happened is
/// before it.
fn moment() -> String {
    let now = since_epoch();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

#[test]
fn each_version_has_what_it_says() {
    let daemon = Daemon::start();
    daemon.busybox();
    let engine = Engine(&daemon);
    engine.fill();
    let has = |path: &str, pointer: &str| engine.get(path).pointer(pointer).is_some();
    // From which version on a field is there, and from which on it is not.
    for (path, pointer, since, until) in [
        ("/images/busybox/json", "/VirtualSize", 24, 44),
        ("/images/busybox/json", "/ContainerConfig", 24, 45),
        ("/images/busybox/json", "/Config/Hostname", 24, 50),
        ("/images/busybox/json", "/Config/Env", 24, 52),
        ("/images/busybox/json", "/Parent", 24, 52),
        ("/images/busybox/json", "/Descriptor", 48, 99),
        ("/images/json", "/0/VirtualSize", 24, 44),
        ("/images/json?manifests=1", "/0/Manifests/0/ID", 47, 99),
        (
            "/containers/shape-up/json",
            "/NetworkSettings/IPAddress",
            24,
            52,
        ),
        (
            "/containers/shape-up/json",
            "/NetworkSettings/Bridge",
            24,
            52,
        ),
        ("/containers/shape-up/json", "/Config/OnBuild", 24, 52),
        (
            "/containers/shape-up/json",
            "/ImageManifestDescriptor",
            48,
            99,
        ),
        ("/containers/json", "/0/Health/Status", 52, 99),
        (
            "/networks/shape-net",
            "/Status/IPAM/Subnets/10.213.5.0~124/IPsInUse",
            52,
            99,
        ),
        ("/networks/shape-net", "/EnableIPv4", 48, 99),
        ("/system/df", "/ImageUsage/TotalCount", 52, 99),
        ("/system/df?verbose=1", "/Images", 24, 52),
        ("/system/df?verbose=1", "/ImageUsage/Items/0/Id", 52, 99),
        ("/system/df", "/LayersSize", 24, 99),
        ("/info", "/RuncCommit/Expected", 24, 49),
        ("/info", "/FirewallBackend/Driver", 49, 99),
        ("/info", "/BridgeNfIptables", 24, 50),
    ] {
        for version in [24, since - 1, since, until - 1, until] {
            if (24..=56).contains(&version) {
                let found = has(&format!("/v1.{version}{path}"), pointer);
                let expected = version >= since && version < until;
                assert_eq!(found, expected, "{pointer} of {path} in 1.{version}");
            }
        }
    }
    let aliases = |version: u32| {
        let path = format!("/v1.{version}/containers/shape-up/json");
        let shown = engine.get(&path);
        let aliases = shown["NetworkSettings"]["Networks"]["shape-net"]["Aliases"]
            .as_array()
            .cloned();
        aliases.unwrap_or_default().len()
    };
    assert_eq!((aliases(44), aliases(45)), (2, 1));
    let status = engine.get("/v1.56/networks/shape-net");
    assert_eq!(
        status["Status"]["IPAM"]["Subnets"]["10.213.5.0/24"],
        json!({ "IPsInUse": 4, "DynamicIPsAvailable": 252 })
    );
    events_have_their_forms(&engine);
    requests_mean_what_their_version_means(&engine);
    daemon.remove_containers();
    prunes_stream(&engine);
    daemon.docker(&["network", "prune", "-f"]).ok();
    daemon.docker(&["volume", "rm", "shape-data"]).ok();
    daemon.finish();
}

fn events_have_their_forms(engine: &Engine<'_>) {
    let path = |version: u32| {
        format!(
            "GET /v1.{version}/events?since=1&until={}&filters={{\"event\":[\"start\"]}}",
            now() + 1
        )
    };
    for (version, accept, kind) in [
        (51, "*/*", "application/json"),
        (52, "application/x-ndjson", "application/x-ndjson"),
        (52, "application/json-seq", "application/json-seq"),
        (53, "application/jsonl", "application/jsonl"),
        (56, "application/json", "application/json"),
    ] {
        let header = format!("Accept: {accept}");
        let answered = engine.0.ask_with(&path(version), None, &[&header]);
        assert_eq!(
            (answered.status, answered.kind.as_str()),
            (200, kind),
            "{version} {accept}"
        );
        let line = answered.body.lines().next().expect("one started");
        assert_eq!(
            line.starts_with('\u{1e}'),
            kind.ends_with("seq"),
            "{line:?}"
        );
        let event: Value = serde_json::from_str(line.trim_start_matches('\u{1e}')).expect("JSON");
        assert_eq!(event["Action"], "start");
        assert_eq!(event["status"].is_string(), version < 52, "{event}");
    }
}

fn requests_mean_what_their_version_means(engine: &Engine<'_>) {
    let create = |version: u32, host: Value| {
        let body = json!({ "Image": "busybox", "Cmd": ["true"], "HostConfig": host });
        engine.ask(
            &format!("POST /v1.{version}/containers/create"),
            Some(&body),
        )
    };
    let shown = |answered: &Answered| {
        assert_eq!(answered.status, 201, "{answered:?}");
        let id = answered.json()["Id"].as_str().expect("an id").to_owned();
        engine.get(&format!("/containers/{id}/json"))
    };
    let tmpfs = json!({ "Mounts": [{ "Type": "tmpfs", "Target": "/t", "VolumeOptions": {} }] });
    assert_eq!(create(41, tmpfs.clone()).status, 201);
    let refused = create(42, tmpfs);
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .message()
            .contains("VolumeOptions must not be specified")
    );
    let subpath = json!({ "Mounts": [{ "Type": "volume", "Source": "shape-data", "Target": "/t", "VolumeOptions": { "Subpath": "x" } }] });
    assert!(create(44, subpath).message().contains("needs API v1.45"));
    for (version, mode) in [(39, "shareable"), (40, "private")] {
        assert_eq!(
            shown(&create(version, json!({})))["HostConfig"]["IpcMode"],
            mode
        );
    }
    let bindings = json!({ "PortBindings": { "80/tcp": [] } });
    let bound = |version| create(version, bindings.clone());
    assert!(
        bound(51).json()["Warnings"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    assert!(bound(52).body.contains("will be discarded"));
    assert_eq!(shown(&bound(53))["HostConfig"]["PortBindings"], Value::Null);
    for (version, umask) in [(55, Value::Null), (56, json!(0o027))] {
        let made = shown(&create(version, json!({ "Umask": 0o027 })));
        assert_eq!(made["HostConfig"]["Umask"], umask);
    }
    assert_eq!(create(56, json!({ "Umask": 0o1000 })).status, 400);
    // A platform that the image is not of.
    let body = json!({ "Image": "busybox", "Cmd": ["true"] });
    let other = engine.ask(
        "POST /v1.41/containers/create?platform=linux/s390x",
        Some(&body),
    );
    assert_eq!(other.status, 404, "{other:?}");
    assert!(
        other
            .message()
            .contains("does not match the specified platform")
    );
    let of = |annotation: &str| {
        let annotated = json!({ "Annotations": { "note": "here" } });
        create(56, annotated);
        engine
            .get(&format!(
                "/v1.56/containers/json?all=1&filters={{\"annotation\":[\"{annotation}\"]}}"
            ))
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!((of("note"), of("note=here"), of("note=there")), (1, 2, 0));
    let early = engine.ask(
        "GET /v1.55/containers/json?filters={\"annotation\":[\"a\"]}",
        None,
    );
    assert_eq!(early.status, 400);
}

fn prunes_stream(engine: &Engine<'_>) {
    let create = json!({ "Image": "busybox", "Cmd": ["true"] });
    engine.ask("POST /containers/create?name=pruned", Some(&create));
    let whole = engine.ask(
        "POST /v1.55/containers/prune?stream=1&filters={\"label\":[\"none\"]}",
        None,
    );
    assert_eq!(whole.kind, "application/json");
    let streamed = engine.ask("POST /v1.56/containers/prune?stream=1", None);
    assert_eq!(streamed.kind, "application/jsonl");
    let lines: Vec<Value> = streamed
        .body
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{streamed:?}");
    assert_eq!(lines[0]["id"], lines[1]["aux"]["ContainersDeleted"][0]);
}
