//! What the daemon's own options do: whom it trusts among registries, whom it asks
//! before Docker Hub, and which images go by themselves.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use dhow_testkit::{Daemon, Host, Registry, certificates};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

/// An address of the test's host that is not its loopback's, where much is allowed.
const OWN: &str = "10.98.0.1/32";
const PLAIN: &str = "10.98.0.1:5001";
const SECURE: &str = "10.98.0.1:5000";

fn address(host: &Host, verb: &str) {
    host.run("ip", &["addr", verb, OWN, "dev", "lo"]).ok();
}

#[test]
fn registries_are_trusted_as_told() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    address(daemon.host(), "add");
    let folder = daemon.host().folder().join("certificates");
    std::fs::create_dir(&folder).expect("a folder");
    certificates(&folder);
    let at = |name: &str| folder.join(name).display().to_string();
    let (certificate, key) = (at("server.pem"), at("server-key.pem"));
    let tls = format!("    tls: {{certificate: \"{certificate}\", key: \"{key}\"}}\n");
    let registries = [
        Registry::start(daemon.host(), SECURE, &tls, ""),
        Registry::start(daemon.host(), PLAIN, "", ""),
    ];
    let trusted = daemon.host().folder().join("trusted");
    let other = daemon.host().folder().join("other");
    for (place, authority) in [(&trusted, "ca.pem"), (&other, "other.pem")] {
        let place = place.join(SECURE);
        std::fs::create_dir_all(&place).expect("a folder");
        std::fs::copy(folder.join(authority), place.join("ca.crt")).expect("a file");
    }
    let (trusted, other) = (trusted.display().to_string(), other.display().to_string());
    let secure = format!("{SECURE}/library/tool:1");
    let plain = format!("{PLAIN}/library/tool:1");
    for name in [&secure, &plain] {
        daemon.docker(&["tag", "busybox", name]).ok();
    }
    // Options, and who is spoken to with them: by TLS, without it.
    let cases: [(&[&str], bool, bool); 6] = [
        (&[], false, false),
        (&["--certs-dir", &other], false, false),
        (&["--certs-dir", &trusted], true, false),
        (&["--insecure-registry", PLAIN], false, true),
        (&["--insecure-registry", SECURE], true, false),
        (&["--insecure-registry", "10.98.0.0/16"], true, true),
    ];
    for (options, by_tls, without) in cases {
        daemon.stop();
        daemon.start_again_with(options);
        for (name, may) in [(&secure, by_tls), (&plain, without)] {
            let pushed = daemon.docker(&["push", name]);
            assert_eq!(pushed.code == 0, may, "{options:?}: {pushed:?}");
            if !may {
                let said = pushed.stderr.to_lowercase();
                let reasons = ["certificate", "tls", "http response to https client"];
                let is_told = reasons.iter().any(|reason| said.contains(reason));
                assert!(is_told, "{options:?}: {said}");
            }
        }
    }
    // What is meant to be at Docker Hub is at the mirror, here and nowhere else.
    daemon.docker(&["rmi", &secure, &plain, "busybox"]).ok();
    daemon.docker(&["pull", "-q", "tool:1"]).fails(1);
    daemon.stop();
    let mirror = format!("http://{PLAIN}");
    daemon.start_again_with(&["--registry-mirror", &mirror]);
    let pulled = daemon.docker(&["pull", "-q", "tool:1"]).ok();
    assert_eq!(pulled, "docker.io/library/tool:1");
    assert_eq!(daemon.script_of("tool:1"), "here");
    let template = "{{.RegistryConfig.Mirrors}}";
    let info = daemon.docker(&["info", "-f", template]).ok();
    assert_eq!(info, format!("[{mirror}/]"));
    daemon.stop();
    let insecure = ["10.98.0.0/16", PLAIN].map(|one| format!("--insecure-registry={one}"));
    daemon.start_again_with(&[&insecure[0], &insecure[1]]);
    let info = daemon.docker(&["info"]).ok();
    for told in ["10.98.0.0/16", PLAIN, "127.0.0.0/8"] {
        assert!(info.lines().any(|line| line.trim() == told), "{info}");
    }
    drop(registries);
    address(daemon.host(), "del");
    daemon.finish();
}

/// What a container of an image says.
trait Says {
    fn script_of(&self, image: &str) -> String;
}

impl Says for Daemon {
    fn script_of(&self, image: &str) -> String {
        let words = ["run", "--rm", "--network=none", image, "echo", "here"];
        self.docker(&words).ok()
    }
}

const DAY: i64 = 24 * 3600;

/// Makes images of a daemon that does not run so many days older, as if they had been
/// made and used then.
fn age(daemon: &Daemon, ages: &[(&str, i64)]) {
    const NAMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("names");
    const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
    const USED: TableDefinition<'_, &str, i64> = TableDefinition::new("used");
    let path = daemon.host().folder().join("data/image/images.redb");
    let database = Database::open(path).expect("it is there");
    let reading = database.begin_read().expect("it reads");
    let names = reading.open_table(NAMES).expect("a table");
    let mut images = Vec::new();
    for (name, days) in ages {
        let row = names.get(format!("docker.io/library/{name}:latest").as_str());
        let row = row.expect("it reads").expect("it is there");
        let row: serde_json::Value = serde_json::from_slice(row.value()).expect("JSON");
        images.push((row["image"].as_str().expect("text").to_owned(), *days));
    }
    let writing = database.begin_write().expect("it writes");
    {
        let mut rows = writing.open_table(IMAGES).expect("a table");
        let mut used = writing.open_table(USED).expect("a table");
        for (id, days) in &images {
            used.remove(id.as_str()).expect("it writes");
            let found = rows.get(id.as_str()).expect("it reads");
            let bytes = found.expect("it is there").value().to_owned();
            let mut row: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            let then = row["tagged"].as_i64().expect("a number") - days * DAY;
            row["tagged"] = then.into();
            let bytes = serde_json::to_vec(&row).expect("JSON");
            rows.insert(id.as_str(), &bytes[..]).expect("it writes");
        }
    }
    writing.commit().expect("it writes");
}

/// Waits until so many images were removed by the daemon itself.
fn until_removed(daemon: &Daemon, count: usize) {
    let words = [
        "events",
        "--since=0",
        "--filter=type=image",
        "--filter=event=delete",
    ];
    let mut events = daemon
        .docker_command(&words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker starts");
    let lines = BufReader::new(events.stdout.take().expect("it was piped")).lines();
    assert_eq!(lines.map_while(Result::ok).take(count).count(), count);
    events.kill().expect("it runs");
    events.wait().expect("it ends");
}

/// The names of images.
fn images(daemon: &Daemon) -> BTreeSet<String> {
    let told = daemon
        .docker(&["images", "--format", "{{.Repository}}"])
        .ok();
    told.lines().map(str::to_owned).collect()
}

/// Makes images of one megabyte each.
fn make(daemon: &Daemon, names: &[&str]) {
    let folder = daemon.host().folder();
    for name in names {
        std::fs::write(folder.join("file"), name.repeat((1 << 20) / name.len())).expect("written");
        let (at, out) = (folder.display().to_string(), folder.join("made.tar"));
        let out = out.display().to_string();
        daemon
            .host()
            .run("tar", &["-C", &at, "-cf", &out, "file"])
            .ok();
        daemon.docker(&["import", &out, name]).ok();
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn images_that_nobody_uses_go_by_themselves() {
    let mut daemon = Daemon::start_on_disk_of("32m");
    make(&daemon, &["old", "older", "used", "young", "new"]);
    daemon.docker(&["create", "--name=box", "used", "x"]).ok();
    daemon.stop();
    age(
        &daemon,
        &[("old", 3), ("older", 4), ("used", 9), ("young", 1)],
    );
    daemon.start_again();
    assert_eq!(
        images(&daemon),
        set(&["old", "older", "used", "young", "new"])
    );
    daemon.stop();
    daemon.start_again_with(&["--image-gc-days", "2"]);
    until_removed(&daemon, 2);
    assert_eq!(images(&daemon), set(&["used", "young", "new"]));

    // Where the disk is full, age alone does not count: those go that were used
    // longest ago, until there is room, and none that is new.
    make(&daemon, &["a", "b"]);
    daemon.stop();
    age(&daemon, &[("young", 1), ("a", 2), ("b", 3)]);
    daemon.start_again_with(&["--image-gc-disk", "99"]);
    assert_eq!(images(&daemon), set(&["a", "b", "used", "young", "new"]));
    daemon.stop();
    daemon.start_again_with(&["--image-gc-disk", "1"]);
    until_removed(&daemon, 3);
    assert_eq!(images(&daemon), set(&["used", "new"]));
    daemon.docker(&["rm", "box"]).ok();
    daemon.finish();
}
