//! What is refused, and in which words: beside dockerd, request by request. Where
//! ours says something else, the reason is on a list.

use std::collections::BTreeSet;

use dhow_testkit::{Daemon, Dockerd, Reference};

/// Requests of Docker's API that are refused: a method, a path and a body. They
/// speak of containers that run (`up`), are paused (`held`), were made (`made`), of
/// the network and the volume of the first one, and of what is not there (`nobody`).
/// Drivers that nobody has are left out: the reference looks for each for a quarter
/// of a minute.
const REQUESTS: &str = r#"
GET /containers/nobody/json
GET /containers/json?filters={
GET /containers/json?filters={"nonsense":["x"]}
GET /containers/json?filters={"status":["odd"]}
GET /containers/json?filters={"exited":["odd"]}
GET /containers/json?filters={"health":["odd"]}
GET /containers/json?filters={"before":["nobody"]}
GET /containers/json?filters={"publish":["odd"]}
GET /containers/json?filters={"publish":["80:80"]}
GET /containers/json?filters={"publish":["90-80"]}
GET /containers/json?filters={"expose":["odd"]}
GET /containers/json?filters={"expose":["70000"]}
GET /containers/json?filters={"is-task":["odd"]}
GET /containers/json?filters={"since":["nobody"]}
GET /containers/json?filters={"exited":["1","odd"]}
GET /containers/json?limit=x
POST /containers/nobody/start
POST /containers/nobody/stop
POST /containers/up/stop?t=x
POST /containers/nobody/restart
POST /containers/nobody/kill
POST /containers/made/kill
POST /containers/up/kill?signal=ODD
POST /containers/up/kill?signal=99
POST /containers/nobody/pause
POST /containers/made/pause
POST /containers/held/pause
POST /containers/up/unpause
POST /containers/held/exec {"Cmd":["true"]}
POST /containers/nobody/exec {"Cmd":["true"]}
POST /containers/made/exec {"Cmd":["true"]}
POST /containers/up/exec {"Cmd":[]}
POST /containers/up/exec {
POST /exec/nobody/start {}
GET /exec/nobody/json
POST /containers/up/rename?name=made
POST /containers/up/rename?name=a%20b
POST /containers/up/rename?name=up
POST /containers/up/rename
POST /containers/nobody/wait
GET /containers/up/logs
GET /containers/nobody/logs?stdout=1
GET /containers/up/logs?stdout=1&since=odd
GET /containers/made/top
GET /containers/nobody/stats?stream=0
GET /containers/nobody/export
POST /containers/nobody/attach?stream=1
POST /containers/held/attach?stream=1
POST /containers/made/resize?h=1&w=1
GET /containers/up/archive?path=/nobody
GET /containers/up/archive
PUT /containers/up/archive?path=/nobody
PUT /containers/up/archive?path=/etc/passwd
GET /containers/nobody/archive?path=/
DELETE /containers/nobody
DELETE /containers/up
DELETE /containers/held
POST /containers/create?name=up {"Image":"busybox"}
POST /containers/create?name=/bad%20name {"Image":"busybox"}
POST /containers/create?name=a {"Image":"busybox"}
POST /containers/create {
POST /containers/create {"Image":1}
POST /containers/create {}
POST /containers/create {"image":"busybox","hostconfig":{"memory":1000}}
POST /containers/create {"Image":"busybox","HostConfig":{"NanoCPUs":-1}}
POST /containers/create {"Image":"busybox","HostConfig":{"NetworkMode":"container:"}}
POST /containers/create {"Image":"nobody:1"}
POST /containers/create {"Image":"BAD"}
POST /containers/create {"Image":"busybox","WorkingDir":"relative"}
POST /containers/create {"Image":"busybox","Env":["=x"]}
POST /containers/create {"Image":"busybox","Env":[""]}
POST /containers/create {"Image":"busybox","StopSignal":"ODD"}
POST /containers/create {"Image":"busybox","Healthcheck":{"Test":["CMD","x"],"Interval":1}}
POST /containers/create {"Image":"busybox","Healthcheck":{"Test":["CMD","x"],"Retries":-1}}
POST /containers/create {"Image":"busybox","HostConfig":{"Memory":1000}}
POST /containers/create {"Image":"busybox","HostConfig":{"Memory":"x"}}
POST /containers/create {"Image":"busybox","HostConfig":{"Memory":67108864,"MemorySwap":33554432}}
POST /containers/create {"Image":"busybox","HostConfig":{"MemorySwap":33554432}}
POST /containers/create {"Image":"busybox","HostConfig":{"Memory":33554432,"MemoryReservation":67108864}}
POST /containers/create {"Image":"busybox","HostConfig":{"MemorySwappiness":101}}
POST /containers/create {"Image":"busybox","HostConfig":{"NanoCpus":1000000000000}}
POST /containers/create {"Image":"busybox","HostConfig":{"NanoCpus":1000000000,"CpuQuota":100000}}
POST /containers/create {"Image":"busybox","HostConfig":{"CpuPeriod":10}}
POST /containers/create {"Image":"busybox","HostConfig":{"CpuShares":"x"}}
POST /containers/create {"Image":"busybox","HostConfig":{"CpuPeriod":-1}}
POST /containers/create {"Image":"busybox","HostConfig":{"CpusetCpus":"odd"}}
POST /containers/create {"Image":"busybox","HostConfig":{"CpusetCpus":"900"}}
POST /containers/create {"Image":"busybox","HostConfig":{"CpusetMems":"900"}}
POST /containers/create {"Image":"busybox","HostConfig":{"OomScoreAdj":2000}}
POST /containers/create {"Image":"busybox","HostConfig":{"ShmSize":-1}}
POST /containers/create {"Image":"busybox","HostConfig":{"CgroupnsMode":"odd"}}
POST /containers/create {"Image":"busybox","HostConfig":{"Isolation":"odd"}}
POST /containers/create {"Image":"busybox","HostConfig":{"Runtime":"odd"}}
POST /containers/create {"Image":"busybox","HostConfig":{"NetworkMode":"container:nobody","PortBindings":{"80/tcp":[{}]}}}
POST /containers/create {"Image":"busybox","HostConfig":{"NetworkMode":"host","Links":["up"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Links":["nobody:x"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Links":["a:b:c"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"odd"}}}
POST /containers/create {"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"always","MaximumRetryCount":3}}}
POST /containers/create {"Image":"busybox","HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}
POST /containers/create {"Image":"busybox","HostConfig":{"Binds":["/nobody:relative"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Binds":["/tmp:/x:odd"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Binds":["/tmp:/"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Binds":["bad%name:/x"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Binds":["a:/x"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Binds":["/tmp:/x","/usr:/x"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/nobody","Target":"/x"}]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"relative","Target":"/x"}]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Target":"/x"}]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/tmp"}]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Mounts":[{"Type":"odd","Target":"/x"}]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Mounts":[{"Type":"tmpfs","Source":"/a","Target":"/x"}]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Mounts":[{"Type":"volume","Source":"data","Target":"/x","BindOptions":{"Propagation":"shared"}}]}}
POST /containers/create {"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/tmp","Target":"/x","BindOptions":{"Propagation":"odd"}}]}}
POST /containers/create {"Image":"busybox","HostConfig":{"VolumesFrom":["nobody"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"VolumesFrom":["up:odd"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"LogConfig":{"Type":"json-file","Config":{"odd":"1"}}}}
POST /containers/create {"Image":"busybox","HostConfig":{"LogConfig":{"Type":"json-file","Config":{"mode":"odd"}}}}
POST /containers/create {"Image":"busybox","HostConfig":{"PortBindings":{"odd":[{}]}}}
POST /containers/create {"Image":"busybox","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"odd"}]}}}
POST /containers/create {"Image":"busybox","HostConfig":{"CapAdd":["odd"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"CapDrop":["odd"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"SecurityOpt":["odd"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"ExtraHosts":["odd"]}}
POST /containers/create {"Image":"busybox","HostConfig":{"StorageOpt":{"odd":"1"}}}
POST /containers/up/update {"Memory":1000}
POST /containers/up/update {"CpusetCpus":"99"}
POST /containers/up/update {"RestartPolicy":{"Name":"odd"}}
POST /containers/nobody/update {}
GET /images/nobody/json
GET /images/nobody/history
GET /images/json?filters={"nonsense":["x"]}
GET /images/json?filters={"dangling":["odd"]}
POST /images/nobody/tag?repo=a&tag=b
POST /images/busybox/tag?repo=BAD&tag=b
DELETE /images/nobody
DELETE /images/busybox
POST /images/create?fromImage=BAD
GET /networks/nobody
GET /networks?filters={"nonsense":["x"]}
GET /networks?filters={"type":["odd"]}
POST /networks/create {"Name":"bridge"}
POST /networks/create {"Name":""}
POST /networks/create {"Name":"net","CheckDuplicate":true}
POST /networks/create {
POST /networks/create {"Name":"n","Driver":"host"}
POST /networks/create {"Name":"n","IPAM":{"Config":[{"Subnet":"odd"}]}}
POST /networks/create {"Name":"n","IPAM":{"Config":[{"Subnet":"10.213.5.0/25"}]}}
POST /networks/create {"Name":"n","IPAM":{"Config":[{"Subnet":"10.9.0.0/24","Gateway":"odd"}]}}
POST /networks/create {"Name":"n","ConfigFrom":{"Network":"nobody"}}
POST /networks/nobody/connect {"Container":"up"}
POST /networks/net/connect {"Container":"nobody"}
POST /networks/net/connect {"Container":"up"}
POST /networks/net/connect {"Container":"held","EndpointConfig":{"IPAMConfig":{"IPv4Address":"10.213.5.1"}}}
POST /networks/host/connect {"Container":"up"}
POST /networks/net/disconnect {"Container":"made"}
POST /networks/bridge/disconnect {"Container":"up"}
DELETE /networks/nobody
DELETE /networks/bridge
DELETE /networks/net
GET /volumes/nobody
GET /volumes?filters={"nonsense":["x"]}
GET /volumes?filters={"dangling":["odd"]}
POST /volumes/create {"Name":"bad/name"}
POST /volumes/create {"Name":"v"}
POST /volumes/create {"Name":"odd","DriverOpts":{"odd":"x"}}
POST /volumes/create {
DELETE /volumes/nobody
DELETE /volumes/data
POST /containers/prune?filters={"nonsense":["x"]}
POST /containers/prune?filters={"until":["odd"]}
GET /events?since=20&until=10
GET /events?since=odd&until=10
GET /nonsense
GET /containers/up/top?ps_args=-o%20odd
GET /swarm
POST /commit
POST /commit?container=nobody
POST /commit?container=up&repo=BAD
POST /build?dockerfile=/nobody
POST /build?t=BAD
"#;

/// Command lines that fail.
const COMMANDS: &str = "
run --rm busybox /nobody
run --rm busybox /data
run --rm -u nobody busybox true
run --rm --cpu-shares -1 busybox true
run --rm -u web:nobody busybox true
run --rm --device /dev/nobody busybox true
run --rm --device-read-bps /dev/nobody:1mb busybox true
run --rm --tmpfs /x:odd busybox true
run --rm --sysctl net.nobody=1 busybox true
run --rm --name port -p 127.0.0.1:18500:80 busybox true
run --rm --network nobody busybox true
run --rm --network container:nobody busybox true
run --rm --pid container:nobody busybox true
run --name up busybox
cp made:/nobody /tmp/x
cp nobody:/x /tmp/x
cp made:/etc/passwd /nobody/at/all
exec made true
exec -w relative up true
exec -u nobody up true
attach made
attach held
start nobody
logs nobody
wait nobody
port up 81
diff nobody
inspect nobody
save nobody
history nobody
image rm busybox
volume rm data
volume inspect nobody
network rm net
network inspect nobody
update --memory 1k up
update --cpus 1 --cpu-quota 50000 up
run --rm --mount type=volume,dst=/x,readonly busybox true
run --rm --pid container:made busybox true
run --rm --ipc container:made busybox true
run --rm --network container:made busybox true
exec -w /nobody up true
";

/// Where the reference's words are others than ours on purpose: a part of them, and
/// why.
const ON_PURPOSE: [(&str, &str); 25] = [
    (
        "cannot join network of a non running",
        "newer ones say of what",
    ),
    ("strconv.", "ours says which value is wrong"),
    (
        "JSON",
        "ours says that the request's document is wrong, and where",
    ),
    ("json: ", "the same"),
    ("unexpected EOF", "the same"),
    ("Unrecognised filter value", "one form for all filters"),
    ("no such container nobody", "one form for all of them"),
    ("does not support signal", "one form for all signals"),
    ("pathcannot be empty", "a slip of the pen"),
    ("You cannot remove a", "newer ones tell name and state"),
    (
        "repository name must be lowercase",
        "newer ones show the name",
    ),
    ("Unknown runtime specified", "newer ones have other words"),
    (
        "invalid restart policy 'odd'",
        "newer ones say which there are",
    ),
    (
        "invalid --security-opt",
        "the reference numbers its own lines",
    ),
    ("no such image: nobody:", "newer ones say it once"),
    (
        "unable to remove repository reference",
        "ours tells the tag",
    ),
    ("invalid name:", "ours says the name of what"),
    ("invalid CIDR address", "ours says which form is wanted"),
    ("in Ipam configuration", "the request has no such word"),
    (
        "is not connected to the network",
        "the reference's words for one that runs",
    ),
    ("has active endpoints", "newer ones tell who is there"),
    (
        "shares: invalid argument",
        "newer ones say which, and when it is made",
    ),
    ("swarm", "there are none"),
    ("OCI runtime exec failed", "no other runtime is in between"),
    (
        "failed to create shim task",
        "no other runtime is in between",
    ),
];

/// What came of a request: a status or an exit code, and what was said, without what
/// is each engine's own.
#[derive(Debug, PartialEq)]
struct Outcome {
    code: i32,
    said: String,
    /// Whether something was said as if a program had printed it.
    is_output: bool,
}

impl Outcome {
    fn of_request(daemon: &dyn Dockerd, row: &str) -> Self {
        let (method, rest) = row.split_once(' ').expect("a method");
        let (path, body) = match rest.split_once(' ') {
            Some((path, body)) => (path, Some(body)),
            None => (rest, None),
        };
        let answered = daemon.ask_text(&format!("{method} /v1.41{path}"), body);
        // A connection that would have been handed over is answered in bare words.
        let said = match answered.kind.starts_with("application/json") {
            true => answered.message(),
            false => answered.body,
        };
        Self {
            code: i32::from(answered.status),
            said: plain(said.trim()),
            is_output: false,
        }
    }

    fn of_command(daemon: &dyn Dockerd, row: &str) -> Self {
        let words: Vec<&str> = row.split(' ').collect();
        let ran = daemon.docker(&words);
        // Why a program of `exec` did not start comes as if it had printed that.
        let said = match ran.stderr.trim() {
            "" => ran.stdout.trim(),
            said => said,
        };
        let said = said.split("\n\nRun 'docker ").next().unwrap_or_default();
        let said = said.strip_prefix("docker: ").unwrap_or(said);
        let bare = said.strip_prefix("Error response from daemon: ");
        Self {
            code: ran.code,
            said: plain(bare.unwrap_or(said)),
            is_output: !ran.stdout.is_empty(),
        }
    }

    /// Whether something was refused, and a reason given.
    fn is_refusal(&self) -> bool {
        let is_failure = self.code != 0 && !(200..400).contains(&self.code);
        is_failure && !self.said.is_empty()
    }

    /// Whether it ends as the reference's, and says it as often: where that takes a
    /// request's fault for its own, ours does not.
    fn ends_as(&self, reference: &Self) -> bool {
        let is_known = self.code == reference.code || (reference.code == 500 && self.code < 500);
        is_known
            && self.is_output == reference.is_output
            && self.said.lines().count() == reference.said.lines().count()
    }

    /// Whether it has the reference's words, and more if need be. Capitals came and
    /// went.
    fn says_what(&self, reference: &Self) -> bool {
        let (ours, theirs) = (self.said.to_lowercase(), reference.said.to_lowercase());
        ours.contains(&theirs)
    }
}

/// A text with `ID` for whatever is one.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let is_digit = |letter: char| letter.is_ascii_digit() || ('a'..='f').contains(&letter);
    for word in text.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let bare = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        match matches!(bare.len(), 12 | 64) && bare.chars().all(is_digit) {
            true => plain.push_str(&word.replacen(bare, "ID", 1)),
            false => plain.push_str(word),
        }
    }
    plain
}

/// Makes what the tables speak of.
fn fill(daemon: &dyn Dockerd) {
    daemon.busybox();
    let subnet = "--subnet=10.213.5.0/24";
    daemon.docker(&["network", "create", subnet, "net"]).ok();
    daemon.docker(&["volume", "create", "data"]).ok();
    let options = ["--network=net", "-p=127.0.0.1:18500:80", "-v=data:/data"];
    daemon.sleeper("up", &options);
    daemon.sleeper("held", &[]);
    daemon.docker(&["pause", "held"]).ok();
    daemon
        .docker(&["create", "--name=made", "busybox", "true"])
        .ok();
}

#[test]
fn refusals_are_told_as_dockerd_tells_them() {
    let daemon = Daemon::start();
    let reference = Reference::start();
    fill(&daemon);
    fill(&reference);
    let requests = REQUESTS.trim().lines();
    let mut outcomes: Vec<(&str, Outcome, Outcome)> = requests
        .map(|row| {
            let of = |daemon: &dyn Dockerd| Outcome::of_request(daemon, row);
            (row, of(&daemon), of(&reference))
        })
        .collect();
    outcomes.extend(COMMANDS.trim().lines().map(|row| {
        let of = |daemon: &dyn Dockerd| Outcome::of_command(daemon, row);
        (row, of(&daemon), of(&reference))
    }));
    let mut used = BTreeSet::new();
    let mut differences = Vec::new();
    for (row, ours, theirs) in &outcomes {
        let are_alike = ours.is_refusal() && theirs.is_refusal() && ours.ends_as(theirs);
        if are_alike && ours.says_what(theirs) {
            continue;
        }
        let is_meant = |(part, _): &&(&str, &str)| theirs.said.contains(part);
        match ON_PURPOSE.iter().find(is_meant) {
            Some((part, _)) if are_alike => {
                used.insert(*part);
            }
            _ => differences.push(format!("{row}\n  {ours:?}\n  {theirs:?}")),
        }
    }
    let unused = ON_PURPOSE.iter().filter(|(part, _)| !used.contains(part));
    differences
        .extend(unused.map(|(part, why)| format!("{part} does not differ any more ({why})")));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "net"]).ok();
    daemon.docker(&["volume", "rm", "data"]).ok();
    daemon.finish();
}
