//! Images on their way: a registry that wants to know who asks, with `docker`
//! and `dhow` as its clients; and what is done with images at home.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use dhow_testkit::{Daemon, Host, Ran, Reference, require};

/// Where the registry is on the tests' own host.
const REGISTRY: &str = "127.0.0.1:5000";
/// `somebody` with the password below, as htpasswd files have it.
const ENTRY: &str = "somebody:$2b$04$GwKhRsqgiR0.qd.FaWM7gevZr0Uyaxcndpx.HPSHXm.J3wDOAf.bW\n";
const PASSWORD: &str = "a secret:word";

/// Debian's registry, which asks for a password.
struct Registry(Child);

impl Registry {
    fn start(host: &Host) -> Registry {
        let folder = host.folder().join("registry");
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let users = file("htpasswd", ENTRY);
        let data = folder.join("data").display().to_string();
        let config = file(
            "config.yml",
            &format!(
                "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {data}}}\n\
                 http: {{addr: \"{REGISTRY}\"}}\nauth:\n  htpasswd: {{realm: tests, path: {users}}}\n"
            ),
        );
        let program = require("docker-registry", "the Debian package docker-registry");
        let mut process = host
            .command(program)
            .args(["serve", &config])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the registry starts");
        let mut lines = BufReader::new(process.stderr.take().expect("it was piped")).lines();
        let listens =
            |line: &Result<String, _>| matches!(line, Ok(line) if line.contains("listening on"));
        assert!(lines.any(|line| listens(&line)), "the registry ended");
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Registry(process)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client with a password on its standard input.
fn login(daemon: &Daemon, client: &str, password: &str) -> Ran {
    let words = ["login", "-u", "somebody", "--password-stdin", REGISTRY];
    let mut command = match client {
        "docker" => daemon.docker_command(&words),
        _ => dhow(daemon, &words),
    };
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut stdin = process.stdin.take().expect("it was piped");
    stdin.write_all(password.as_bytes()).expect("it reads");
    drop(stdin);
    let output = process.wait_with_output().expect("the client ends");
    Ran::new(format!("{client} login"), &output)
}

/// A `dhow` command with credentials of its own.
fn dhow(daemon: &Daemon, words: &[&str]) -> std::process::Command {
    let mut command = daemon.dhow_command(words);
    command.env("DOCKER_CONFIG", daemon.host().folder().join("dhow-config"));
    command
}

fn run(mut command: std::process::Command) -> Ran {
    let output = command.output().expect("the client starts");
    Ran::new(format!("{command:?}"), &output)
}

#[test]
fn images_go_to_a_registry_and_come_back() {
    let daemon = Daemon::start();
    daemon.busybox();
    let registry = Registry::start(daemon.host());
    let name = format!("{REGISTRY}/team/tool:1");
    daemon.docker(&["tag", "busybox", &name]).ok();
    let error = daemon.docker(&["push", &name]).fails(1);
    assert!(error.contains("authentication required"), "{error}");
    login(&daemon, "docker", "wrong").fails(1);
    login(&daemon, "docker", PASSWORD).ok();
    let pushed = daemon.docker(&["push", &name]).ok();
    assert_eq!(pushed.matches("digest: sha256:").count(), 1, "{pushed}");
    daemon.docker(&["rmi", &name, "busybox"]).ok();
    assert_eq!(daemon.docker(&["images", "-q"]).ok(), "");

    // Our own client knows nobody yet.
    run(dhow(&daemon, &["pull", &name])).fails(1);
    login(&daemon, "dhow", "wrong").fails(1);
    login(&daemon, "dhow", PASSWORD).ok();
    run(dhow(&daemon, &["pull", &name])).ok();
    let error = run(dhow(&daemon, &["pull", &format!("{REGISTRY}/team/none:1")])).fails(1);
    assert!(error.contains("manifest unknown"), "{error}");
    let again = daemon.docker(&["pull", &name]).ok();
    assert!(again.contains("Image is up to date"), "{again}");
    let said = daemon
        .docker(&["run", "--rm", "--network", "none", &name, "echo", "hello"])
        .ok();
    assert_eq!(said, "hello");
    what_the_registry_has_is_told(&daemon, &name);
    run(dhow(&daemon, &["logout", REGISTRY])).ok();
    run(dhow(&daemon, &["pull", &name])).fails(1);
    drop(registry);
    daemon.finish();
}

/// What the engine says of an image that it asks the registry for.
fn what_the_registry_has_is_told(daemon: &Daemon, name: &str) {
    let socket = daemon.socket().display().to_string();
    let ask = |name: &str, headers: &[&str]| {
        let url = format!("http://dhow/v1.47/distribution/{name}/json");
        let words = ["-s", "--unix-socket", &socket, "-w", "\n%{http_code}", &url];
        daemon.host().run("curl", &[&words, headers].concat()).ok()
    };
    assert!(ask(name, &[]).ends_with("\n401"), "{}", ask(name, &[]));
    // base64url of {"username":"somebody","password":"a secret:word"}
    let known = [
        "-H",
        "X-Registry-Auth: eyJ1c2VybmFtZSI6InNvbWVib2R5IiwicGFzc3dvcmQiOiJhIHNlY3JldDp3b3JkIn0=",
    ];
    let missing = ask(&name.replace("/tool", "/none"), &known);
    assert!(missing.ends_with("\n404"), "{missing}");
    let told = ask(name, &known);
    let (told, code) = told.rsplit_once('\n').expect("two lines");
    assert_eq!(code, "200", "{told}");
    let told: serde_json::Value = serde_json::from_str(told).expect("JSON");
    let digests = daemon
        .docker(&["image", "inspect", "-f", "{{.RepoDigests}}", name])
        .ok();
    let digest = told["Descriptor"]["digest"].as_str().expect("a digest");
    assert!(digests.contains(&format!("@{digest}")), "{told} {digests}");
    assert_eq!(told["Platforms"][0]["os"], "linux");
}

#[test]
fn changes_prune_and_refusals() {
    let daemon = Daemon::start();
    daemon.busybox();
    let docker = |words: &[&str]| daemon.docker(words);
    change_prune_and_refuse(&docker, daemon.host());
    daemon.finish();
}

#[test]
fn dockerd_changes_prunes_and_refuses_alike() {
    let reference = Reference::start();
    reference.busybox();
    let docker = |words: &[&str]| reference.docker(words);
    change_prune_and_refuse(&docker, reference.host());
}

/// What is done with the image `busybox` and others made of it; none is left.
fn change_prune_and_refuse(docker: &dyn Fn(&[&str]) -> Ran, host: &Host) {
    let archive = host.folder().join("files.tar");
    let archive = archive.display().to_string();
    docker(&[
        "create",
        "--name",
        "one",
        "--network",
        "none",
        "busybox",
        "true",
    ])
    .ok();
    docker(&["export", "-o", &archive, "one"]).ok();
    let import = |words: &[&str]| docker(&[&["import"], words, &[&archive]].concat());
    import(&[
        "-c",
        "CMD [\"echo\", \"changed\"]",
        "-c",
        "LABEL kind=plain",
    ])
    .ok();
    let listed = docker(&["images", "-q", "--filter", "label=kind=plain"]).ok();
    let id = listed.trim();
    let said = docker(&["run", "--rm", "--network", "none", id]).ok();
    assert_eq!(said, "changed");
    docker(&["commit", "-c", "ENV A=b", "one", "committed"]).ok();
    let shown = docker(&["inspect", "-f", "{{.Config.Env}}", "committed"]).ok();
    assert!(shown.contains("A=b"), "{shown}");

    // Too young; then dangling; what has a name stays.
    let prune = |words: &[&str]| docker(&[&["image", "prune", "-f"], words].concat());
    let kept = prune(&["--filter", "until=1h"]).ok();
    assert!(!kept.contains(id), "{kept}");
    let gone = prune(&[]).ok();
    assert!(gone.contains(&format!("deleted: sha256:{id}")), "{gone}");
    let error = prune(&["--filter", "until=soon"]).fails(1);
    assert!(error.contains("soon"), "{error}");
    let error = docker(&["rmi", "busybox"]).fails(1);
    assert!(error.contains("must force"), "{error}");
    docker(&["rm", "one"]).ok();
    let gone = prune(&["-a"]).ok();
    assert!(gone.contains("untagged: busybox:latest"), "{gone}");
    assert_eq!(docker(&["images", "-q"]).ok(), "");
}

/// Who is still sending an archive that is not wanted hears why, rather than of a
/// connection that broke.
#[test]
fn archives_that_are_refused_are_told_why() {
    let daemon = Daemon::start();
    daemon.busybox();
    let archive = |name: &str, begin: &[u8], length: u64| {
        let path = daemon.host().folder().join(name);
        let mut file = std::fs::File::create(&path).expect("a file");
        file.write_all(begin).expect("written");
        file.set_len(length).expect("a length");
        path.display().to_string()
    };
    for (name, length) in [("small", 1 << 20), ("large", 48 << 20), ("huge", 400 << 20)] {
        let path = archive(name, b"", length);
        let words = ["import", "-c", "NONSENSE x", &path, "made"];
        let error = daemon.docker(&words).fails(1);
        assert!(error.contains("NONSENSE"), "{name}: {error}");
        let garbage = archive(name, &[b'x'; 2000], length);
        let error = daemon.docker(&["import", &garbage, "made"]).fails(1);
        assert!(error.contains("archive"), "{name}: {error}");
    }
    assert_eq!(daemon.docker(&["images", "-q"]).ok().lines().count(), 1);
    daemon.finish();
}
