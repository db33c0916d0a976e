//! What `dhow` asks its daemon for, beside what `docker` asks for with the same
//! words: flag by flag, first of a socket that only remembers, then of a real
//! daemon, by what comes of it.

use std::collections::BTreeMap;

use dhow_testkit::{Asked, Daemon, Recorder};
use serde_json::{Value, json};

/// Options of `create`, a row for each container. Files lie in the working
/// folder.
const CREATE: &str = r#"
--
-it
-i -a stdin -a STDERR
-a stdout
--name named
--name=first --name last
-e GIVEN -e NOWHERE -e A=1 -e B= --env=C=x=y
-e HTTP_PROXY=mine -e no_proxy
--env-file variables -e A=later
-l a=b -l c --label-file labels
-v /own -v ./here:/there -v ../up:/up:ro -v named:/n -v /h:/k:rw,z
--mount dst=/b
--mount type=bind,src=.,dst=/x,readonly=0,consistency=cached
--mount type=bind,src=/a,dst=/x,readonly=1,bind-nonrecursive
--mount type=bind,src=/a,dst=/b,bind-recursive=disabled
--mount type=bind,src=/a,dst=/b,bind-recursive=writable,readonly
--mount type=bind,src=/a,dst=/b,bind-recursive=readonly,readonly,bind-propagation=rprivate
--mount 'type=volume,src=v,dst=/x,"volume-opt=o=addr=1,rw",volume-opt=type=nfs,volume-label=a=b,volume-nocopy'
--mount type=volume,src=v,dst=/x,volume-driver=local,volume-subpath=s
--mount type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=1770
--mount type=image,src=busybox,dst=/x,image-subpath=bin
--tmpfs /t --tmpfs /u:size=1m,mode=700
--volumes-from other:ro --volume-driver local
-w /w -u 1:2 --group-add 3 --group-add 4
-h host --domainname domain
--entrypoint /bin/ls
--entrypoint ''
-m 64m --memory-swap -1 --memory-reservation 10m
-m 1.5g --memory-swap=2gb
--memory=6kib --memory 32M
--kernel-memory 4m
--memory-swappiness 0
--cpus 1.5 -c 5 --cpuset-cpus 0 --cpuset-mems 0
--cpu-period 100000 --cpu-quota 50000
--cpu-rt-period 3 --cpu-rt-runtime 4
--pids-limit -1
--pids-limit 50 --oom-kill-disable --oom-score-adj -5
--blkio-weight 100 --blkio-weight-device /dev/null:10
--device-read-bps /dev/null:1mb --device-write-bps /dev/null:2kb
--device-read-iops /dev/null:10 --device-write-iops /dev/null:20
--device-cgroup-rule 'c 1:3 mr'
--ulimit nofile=1:2 --ulimit core=-1 --ulimit nofile=3
--shm-size 1m
--restart on-failure:3
--restart always
--restart ''
--restart=always --restart no --rm
--rm=false --init=false --privileged=0 -t=false
--init --rm --privileged --read-only
--cap-add all --cap-drop net_raw --cap-drop CAP_CHOWN
--cap-add sys_time --cap-add NET_ADMIN
--security-opt no-new-privileges --security-opt seccomp=unconfined
--security-opt systempaths=unconfined
--security-opt seccomp=profile.json
--device /dev/null
--device /dev/null:r --device /dev/null:/dev/x:rw --device /dev/zero:/dev/y
--device vendor.com/class=name
--gpus all
--gpus 2
--gpus '"device=0,1",capabilities=utility'
--sysctl net.ipv4.ip_forward=1 --sysctl kernel.shmmax=70000
--pid host --ipc host --uts host --cgroupns host
--ipc none --cgroupns private --pid container:other
--userns host
--cgroup-parent /some
--isolation default
--runtime runc
--storage-opt size=1G
--annotation x=y --annotation z
--stop-signal INT --stop-timeout 0
--log-driver json-file --log-opt max-size=1m --log-opt tag=x
--log-driver none
--health-cmd x --health-interval 1s --health-retries 2 --health-timeout 1m30s --health-start-period 1.5s --health-start-interval 5ms
--no-healthcheck
--platform linux/amd64
--pull never --quiet
-p 8080:80 -p 127.0.0.1::82/udp -p [::1]:83:83 -p 84
-p 9000-9002:80-82 -p 9010-9020:90
-p published=8080,target=80,protocol=tcp
--expose 90-91 --expose 92/udp -P
--network host
--net none
--network net
--network container:other
--network net --network-alias al --net-alias am --ip 10.213.9.7 --mac-address 02:00:00:00:00:01
--network net --link-local-ip 169.254.1.1 --ip6 fd00::7
--network net --link other:o
--link other:o
--network name=net,alias=a,alias=b,ip=10.213.9.8,mac-address=02:00:00:00:00:02,driver-opt=a=b,gw-priority=-3
--network net --network name=net2,alias=x
--mac-address 02:00:00:00:00:03
--add-host a:1.2.3.4 --add-host b=host-gateway --add-host c=[::1]
--dns 1.1.1.1 --dns-opt ndots:1 --dns-option rotate --dns-search .
--cidfile cid
--disable-content-trust
"#;

/// Options of `network create`.
const NETWORKS: &str = r#"
--
--ipv6=false --subnet 10.213.20.0/24 --gateway 10.213.20.9 --ip-range 10.213.20.64/26
--ipv6=false --subnet 10.213.21.0/24 --aux-address printer=10.213.21.7
--ipv6 --subnet fd00:213::/64,10.213.22.0/24
--internal --attachable --label a=b --label c
-d bridge -o com.docker.network.bridge.enable_icc=false
--ipv6=false --internal=false
"#;

/// Options of `volume create`.
const VOLUMES: &str = r#"
--
-d local --label a=b --label c
-o type=tmpfs -o device=tmpfs -o o=size=1m
"#;

/// Words that both clients refuse, with the same exit code.
const REFUSED: &str = r#"
run
run --foo busybox
run -z busybox
run --memory
run -m x busybox
run --cpus x busybox
run --rm=maybe busybox
run -H x busybox
run -d -a stdout busybox
run -it busybox
run --rm --restart always busybox
run --pull sometimes busybox
create -e =x busybox
create -l =x busybox
create --attach x busybox
create --mount type=bind,src=/a busybox
create --mount dst=/a,tmpfs-size=1m busybox
create --mount dst=/a,x=y busybox
create --ulimit x busybox
create --pids-limit x busybox
create --blkio-weight 70000 busybox
create --gpus x=y busybox
create --device null busybox
create --device /dev/null:zz busybox
create --restart a:b busybox
create -p x busybox
create -p 80:81-82 busybox
create --expose 80:1 busybox
create --add-host x busybox
create --dns x busybox
create --mac-address x busybox
create --network a --network host busybox
create --network a --network a busybox
create --network-alias a busybox
create --pid bad busybox
create --uts bad busybox
create --userns bad busybox
create --cgroupns bad busybox
create --memory-swappiness 101 busybox
create --health-cmd x --no-healthcheck busybox
create --health-interval x busybox
create --env-file nowhere busybox
create --storage-opt a busybox
create --security-opt foo busybox
create --security-opt seccomp=nowhere busybox
create --log-driver none --log-opt a=b busybox
create --cidfile variables busybox
ps --foo
ps x
ps -n x
ps -f
images -f x
rm
rename a
stop -t x a
kill
exec a
exec -e =x a b
update
update x
start -a x y
inspect --type foo x
history
login -p x --password-stdin
login --password-stdin
volume create a b
volume prune -a --filter all=1 -f
network foo
network create --gateway 1.1.1.1 n
system prune -f --filter until=2h --volumes
foo
--foo ps
-H
ps -H unix:///nowhere
"#;

/// Commands whose requests are the same.
const OTHERS: &str = r#"
create busybox ls -l -H x --help --rm
create --entrypoint ls busybox -l /
create -- busybox -v
run -d busybox -d --name x
container create -i busybox
start x y
stop x
stop -t 3 -s INT x
stop --time 3 x
restart -t -1 x
kill x
kill -s HUP x
pause x
unpause x
rename a b
rm -fv a b
rm -l a/b
container rm a -f
wait x
top x
top x -o pid
diff x
inspect -s --type container x
container inspect -s x
logs -f -n 5 -t --details x
ps -a -s -n 3
ps -l -f status=running -f label=a --filter label=b
update --blkio-weight 10 --cpu-period 1 --cpu-quota 2 --cpu-rt-period 3 --cpu-rt-runtime 4 --cpuset-mems 0 --cpuset-cpus 1 --cpus 1 -c 2 -m 1g --memory-swap -1 --memory-reservation 1m --pids-limit 3 --restart always --kernel-memory 5m x y
exec -d -e GIVEN -e NOWHERE -e A=b --env-file variables -w /x -u 1 --privileged --detach-keys a x y -l
export x
commit -c 'CMD x' -c 'ENV a=b' -p=false -a me -m msg ct r.example/repo:tag
commit ct
import -c 'CMD x' -m hi --platform linux/arm64 http://x.example/y.tar repo:tag
import variables
import - r
load -i variables --platform linux/amd64 -q
save --platform linux/amd64 x y
images -a
images -f dangling=true x
images --tree
image inspect --platform linux/amd64 x
history --platform linux/arm64/v8 x
pull -q r.example/x
pull -a r.example/x
pull --platform linux/arm64 r.example/x:1
push r.example/x
push -a r.example/x
push --platform linux/amd64 r.example/x:y
rmi x
rmi --no-prune --platform linux/amd64,linux/arm64 -f x
tag a:1 r.example/b:2
build context
build -f context/Dockerfile -t a -t b:1 --target s --label a=b --network host --no-cache --pull -q --platform linux/amd64 context
build --build-arg A=b --build-arg GIVEN --build-arg NOWHERE --cache-from x,y --add-host a:1.2.3.4 context
build --cgroup-parent p --cpu-period 1 --cpu-quota 2 -c 3 --cpuset-cpus 0 --cpuset-mems 0 -m 1m --memory-swap -1 --shm-size 1m --ulimit nofile=1:2 --security-opt foo --force-rm --rm=false --isolation default context
builder build context
search --limit 3 --filter stars=3 x
network create n
network create --ipv4=false --ipv6 --scope local --ingress --config-only --config-from x --ipam-driver y --ipam-opt a=b -o c=d --label e -d q --attachable --internal n
network create --ipv6=false --internal=false n
network create --subnet 10.0.0.0/8,fd00::/8 --gateway 10.0.0.1 --ip-range 10.1.0.0/16 --aux-address x=10.0.0.5 n
network connect --link-local-ip 169.254.1.1,169.254.1.2 --alias a,b --ip 1.2.3.4 --ip6 fd00::1 --driver-opt x=y --gw-priority -3 --link a:b n c
network connect n c
network disconnect -f n c
network rm -f a b
network inspect -v a
network prune -f --filter until=3h --filter label=x
network ls -f driver=x
volume create
volume create -d x -o a=b -o c --label l=m name
volume prune -f
volume prune -af --filter label=x
volume rm -f x
volume ls -f dangling=true
volume inspect a
container prune -f --filter label=x
image prune -f
image prune -af --filter until=3h
builder prune -f
builder prune -af --filter until=3h --keep-storage 1g
system prune -f
system prune -af --filter until=3h
system prune -af --volumes
login -u a -p b r.example
"#;

/// The words of each row; in single quotes spaces are part of one.
fn rows(table: &str) -> impl Iterator<Item = Vec<String>> {
    table.trim().lines().map(|line| {
        let (mut words, mut word, mut is_quoted) = (Vec::new(), None, false);
        for letter in line.chars() {
            match letter {
                '\'' => {
                    is_quoted = !is_quoted;
                    word.get_or_insert_with(String::new);
                }
                ' ' if !is_quoted => words.extend(word.take()),
                letter => word.get_or_insert_with(String::new).push(letter),
            }
        }
        words.extend(word);
        words
    })
}

/// Words around a row.
fn line<'w>(before: &[&'w str], row: &'w [String], behind: &[&'w str]) -> Vec<&'w str> {
    let row = row.iter().map(String::as_str);
    let before = before.iter().copied();
    before.chain(row).chain(behind.iter().copied()).collect()
}

/// What the daemon that only remembers answers.
fn answers(method: &str, path: &str) -> String {
    let lists = [
        "/containers/json",
        "/images/json",
        "/networks",
        "/images/search",
    ];
    let is_list = lists.contains(&path)
        || path.ends_with("/changes")
        || path.ends_with("/history")
        || (method == "DELETE" && path.starts_with("/images/"));
    let id = "a".repeat(64);
    if is_list {
        return "[]".into();
    }
    match path {
        "/_ping" => "OK".into(),
        "/volumes" => r#"{"Volumes":[]}"#.into(),
        _ if path.starts_with("/containers/") && path.ends_with("/json") => json!({
            "Id": id,
            "Name": "/x",
            "Config": { "Tty": false },
            "HostConfig": {},
            "State": { "Running": true },
            "NetworkSettings": { "Ports": {} },
        })
        .to_string(),
        _ if path.ends_with("/create") || path.ends_with("/exec") || path == "/commit" => {
            json!({ "Id": id, "Name": "x", "Warnings": [] }).to_string()
        }
        _ => "{}".into(),
    }
}

/// A request as it is compared: what says nothing is left out.
fn comparable(asked: &Asked) -> Value {
    let mut query: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for pair in asked.query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = unescaped(value);
        if value.is_empty() || (value == "0" && !["pause", "rm", "t"].contains(&name)) {
            continue;
        }
        let value = match serde_json::from_str::<Value>(&value) {
            Ok(Value::Object(map)) if name == "filters" => filters(&map),
            Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
            _ => {
                // Truth has several words.
                let word = if value == "1" { "true" } else { &value };
                word.into()
            }
        };
        query.entry(name.to_owned()).or_default().push(value);
    }
    let body = match serde_json::from_str(&asked.body) {
        // An archive is packed by each in its own way.
        _ if asked.path == "/build" => Value::Null,
        Ok(body) => without_empty(body),
        Err(_) => asked.body.as_str().into(),
    };
    json!({
        "request": format!("{} {}", asked.method, asked.path),
        "query": query,
        "body": body,
    })
}

/// Filters are a map of lists, or of maps whose values are true.
fn filters(map: &serde_json::Map<String, Value>) -> Value {
    let lists = map.iter().map(|(name, values)| {
        let mut values: Vec<Value> = match values {
            Value::Object(values) => values.keys().map(|key| key.as_str().into()).collect(),
            Value::Array(values) => values.clone(),
            other => panic!("{other} is no filter"),
        };
        values.sort_by_key(ToString::to_string);
        (name.clone(), Value::from(values))
    });
    lists
        .collect::<BTreeMap<String, Value>>()
        .into_iter()
        .collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                let digits = str::from_utf8(&digits).expect("digits");
                u8::from_str_radix(digits, 16).expect("digits")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("text")
}

/// Fields whose order is that of a Go map.
const UNORDERED: [&str; 3] = ["Binds", "Config", "Env"];
/// Fields of which false, zero and nothing say something.
const MEANT: [&str; 6] = [
    "EnableIPv4",
    "EnableIPv6",
    "Init",
    "MaskedPaths",
    "MemorySwappiness",
    "StopTimeout",
];
/// Maps whose names are the user's.
const OWN_NAMES: [&str; 8] = [
    "Annotations",
    "ExposedPorts",
    "Labels",
    "LogConfig",
    "PortBindings",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// A value without what is empty, zero or false.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields: BTreeMap<String, Value> = map
                .into_iter()
                .map(|(name, value)| {
                    let is_a_set = UNORDERED.contains(&name.as_str());
                    let mut value = match OWN_NAMES.contains(&name.as_str()) {
                        true => value,
                        false => without_empty(value),
                    };
                    if let (true, Value::Array(items)) = (is_a_set, &mut value) {
                        items.sort_by_key(ToString::to_string);
                    }
                    (name, value)
                })
                .filter(|(name, value)| {
                    let is_told = MEANT.contains(&name.as_str()) && !value.is_null();
                    says_something(value) || is_told
                })
                .collect();
            fields.into_iter().collect()
        }
        Value::Array(items) => items.into_iter().map(without_empty).collect(),
        other => other,
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(says_something),
        Value::Object(map) => !map.is_empty(),
    }
}

/// What a command is about: what it changes, or else what it looks up last.
fn essence(asked: &[Asked]) -> Vec<Value> {
    let mut changes: Vec<Value> = asked
        .iter()
        .filter(|asked| !matches!(asked.method.as_str(), "GET" | "HEAD"))
        // Waiting changes nothing.
        .filter(|asked| asked.path == "/containers/x/wait" || !asked.path.ends_with("/wait"))
        .map(comparable)
        .collect();
    // Several are asked for at a time.
    changes.sort_by_key(ToString::to_string);
    if changes.is_empty() {
        return asked.last().map(comparable).into_iter().collect();
    }
    changes
}

fn recorder() -> Recorder {
    let recorder = Recorder::start(answers);
    write_files(&recorder.folder());
    recorder
}

fn write_files(folder: &std::path::Path) {
    for name in ["context", "config"] {
        std::fs::create_dir(folder.join(name)).expect("a folder");
    }
    for (name, text) in [
        (
            "variables",
            "# a comment\nA=1\n  B=two words\n\nGIVEN\nNOWHERE\n",
        ),
        ("labels", "one=1\n# no label\ntwo\n"),
        ("context/Dockerfile", "FROM x\n"),
        (
            "config/config.json",
            r#"{"proxies":{"default":{"httpProxy":"http://p.example:1","noProxy":"x"}}}"#,
        ),
        (
            "profile.json",
            "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n",
        ),
    ] {
        std::fs::write(folder.join(name), text).expect("written");
    }
}

#[test]
fn what_is_asked_is_what_docker_asks() {
    let recorder = recorder();
    let create = rows(CREATE).map(|row| line(&["create"], &row, &["busybox", "true"]).join("\0"));
    let others = rows(OTHERS).map(|row| row.join("\0"));
    let mut differences = Vec::new();
    for words in create.chain(others) {
        let words: Vec<&str> = words.split('\0').collect();
        let cid = recorder.folder().join("cid");
        let (theirs, their_requests) = recorder.docker(&words);
        let _ = std::fs::remove_file(&cid);
        let (ours, our_requests) = recorder.dhow(&words);
        let _ = std::fs::remove_file(&cid);
        let (expected, found) = (essence(&their_requests), essence(&our_requests));
        if expected != found || expected.is_empty() {
            differences.push(format!(
                "{words:?}\n  docker {}: {}{}\n  dhow   {}: {}{}",
                theirs.code,
                Value::from(expected),
                theirs.stderr,
                ours.code,
                Value::from(found),
                ours.stderr,
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn what_is_refused_is_what_docker_refuses() {
    let recorder = recorder();
    let mut differences = Vec::new();
    for row in rows(REFUSED) {
        let words = line(&[], &row, &[]);
        let ((theirs, _), (ours, asked)) = (recorder.docker(&words), recorder.dhow(&words));
        let asked = essence(&asked);
        let changes = asked
            .iter()
            .any(|one| !one["request"].to_string().contains("GET"));
        if theirs.code == 0 || theirs.code != ours.code || changes || ours.stderr.is_empty() {
            differences.push(format!(
                "{words:?}\n  docker {}: {}\n  dhow   {}: {}",
                theirs.code, theirs.stderr, ours.code, ours.stderr
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// What `inspect` says of a container, but for what is each one's own.
fn inspected(daemon: &Daemon, id: &str) -> Value {
    let text = daemon.docker(&["inspect", "--type", "container", id]).ok();
    let text = text.replace(id, "ID").replace(&id[..12], "ID");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    let own = value[0]["Name"].as_str().unwrap_or_default().to_owned();
    for link in value[0]["HostConfig"]["Links"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        // What it calls others begins with its own name.
        *link = link
            .as_str()
            .unwrap_or_default()
            .replace(&own, "/OWN")
            .into();
    }
    for field in ["Name", "Created"] {
        value[0][field] = Value::Null;
    }
    for mount in value[0]["Mounts"].as_array_mut().into_iter().flatten() {
        // A volume that only this container has.
        let name = mount["Name"].as_str().unwrap_or_default().to_owned();
        if name.len() == 64 {
            mount["Name"] = Value::Null;
            mount["Source"] = Value::Null;
        }
    }
    for (part, field) in [("HostConfig", "Binds"), ("Config", "Env"), ("", "Mounts")] {
        let own = &mut value[0];
        let list = match part {
            "" => &mut own[field],
            part => &mut own[part][field],
        };
        if let Some(items) = list.as_array_mut() {
            items.sort_by_key(ToString::to_string);
        }
    }
    value
}

#[test]
fn what_comes_of_it_is_what_comes_of_docker() {
    let daemon = Daemon::start();
    daemon.busybox();
    let folder = daemon.host().folder().join("work");
    std::fs::create_dir(&folder).expect("a folder");
    write_files(&folder);
    for (name, subnet) in [("net", "10.213.9.0/24"), ("net2", "10.213.10.0/24")] {
        daemon
            .docker(&["network", "create", "--subnet", subnet, name])
            .ok();
    }
    daemon
        .docker(&["create", "--name", "other", "-v", "/of-other", "busybox"])
        .ok();
    let make = |mut command: std::process::Command| {
        let output = command.current_dir(&folder).env("GIVEN", "ours").output();
        let _ = std::fs::remove_file(folder.join("cid"));
        dhow_testkit::Ran::new(String::new(), &output.expect("it starts"))
    };
    let (mut differences, mut n_made) = (Vec::new(), 0);
    for options in rows(CREATE) {
        let words = line(&["create"], &options, &["busybox", "true"]);
        let mut seen = Vec::new();
        for command in [daemon.docker_command(&words), daemon.dhow_command(&words)] {
            let ran = make(command);
            let id = ran.stdout.trim().to_owned();
            seen.push(if ran.code == 0 {
                n_made += 1;
                let seen = inspected(&daemon, &id);
                daemon.docker(&["rm", "-fv", &id]).ok();
                seen
            } else {
                // Why it was refused is said once in the same words.
                json!({ "code": ran.code, "why": ran.stderr.lines().next() })
            });
        }
        if seen[0] != seen[1] {
            differences.push(format!(
                "{options:?}\n  docker: {}\n  dhow:   {}",
                seen[0], seen[1]
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(
        n_made > CREATE.lines().count(),
        "most can be made: {n_made}"
    );
    for (kind, table) in [("network", NETWORKS), ("volume", VOLUMES)] {
        for options in rows(table) {
            let words = line(&[kind, "create"], &options, &["made"]);
            let mut seen = Vec::new();
            for command in [daemon.docker_command(&words), daemon.dhow_command(&words)] {
                make(command).ok();
                let text = daemon.docker(&[kind, "inspect", "made"]).ok();
                let mut value: Value = serde_json::from_str(&text).expect("JSON");
                for field in ["Id", "Created", "CreatedAt"] {
                    value[0][field] = Value::Null;
                }
                if kind == "network" && !words.contains(&"--subnet") {
                    // Of addresses that nobody asked for, some are by chance.
                    value[0]["IPAM"]["Config"] = Value::Null;
                }
                daemon.docker(&[kind, "rm", "made"]).ok();
                seen.push(value);
            }
            assert_eq!(seen[1], seen[0], "{words:?}");
        }
    }
    daemon.remove_containers();
    daemon.docker(&["volume", "prune", "-af"]).ok();
    daemon.docker(&["network", "rm", "net", "net2"]).ok();
    daemon.finish();
}
