//! Other people's clients of the Docker API, as they are: the SDK for Python,
//! testcontainers and Compose. What they check, they check against dockerd as
//! well.

use std::path::Path;
use std::process::Command;

use dhow_testkit::{Daemon, Host, Reference, cached};

/// Runs the checks of a program in `clients` on a host, against a socket.
fn checks(host: &Host, socket: &Path, program: &str, words: &[&str]) {
    let config = host.folder().join("docker-config");
    let plugins = config.join("cli-plugins");
    std::fs::create_dir_all(&plugins).expect("a folder");
    let plugin = cached("cli-plugins/docker-compose");
    std::os::unix::fs::symlink(plugin, plugins.join("docker-compose")).expect("a link");
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let output = host
        .command(cached("python/bin/python"))
        .arg(clients.join(program))
        .args(words)
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("DOCKER_CONFIG", config)
        .env("DOCKER_BUILDKIT", "0")
        .env("HOME", host.folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("checks passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn docker_py_finds_what_it_expects() {
    let daemon = Daemon::start();
    daemon.busybox();
    checks(daemon.host(), &daemon.socket(), "docker_py.py", &[]);
    assert_eq!(daemon.docker(&["ps", "-aq"]).ok(), "");
    daemon.finish();
}

#[test]
fn dockerd_gives_docker_py_the_same() {
    let reference = Reference::start();
    reference.busybox();
    checks(reference.host(), &reference.socket(), "docker_py.py", &[]);
}

#[test]
fn testcontainers_finds_what_it_expects() {
    let daemon = Daemon::start();
    daemon.busybox();
    let words = ["all"];
    checks(
        daemon.host(),
        &daemon.socket(),
        "testcontainers_py.py",
        &words,
    );
    assert_eq!(daemon.docker(&["ps", "-aq"]).ok(), "");
    daemon.finish();
}

#[test]
fn dockerd_gives_testcontainers_the_same() {
    let reference = Reference::start();
    reference.busybox();
    let words = ["all"];
    checks(
        reference.host(),
        &reference.socket(),
        "testcontainers_py.py",
        &words,
    );
}

/// A stack of two services, one of which is built, waits for the other's
/// health and speaks to it by an alias.
const STACK: &str = r#"
services:
  web:
    image: busybox
    command: sh -c 'mkdir -p /www; echo hello > /www/index.html; exec httpd -f -h /www'
    ports: ["127.0.0.1::80"]
    healthcheck:
      test: ["CMD", "true"]
      interval: 1s
      start_interval: 100ms
      start_period: 5s
    networks: {front: {aliases: [www]}}
    volumes:
      - data:/data
      - {type: tmpfs, target: /scratch}
    labels: {tier: front}
    deploy: {resources: {limits: {memory: 64M, cpus: "0.5"}}}
  client:
    build: ./client
    depends_on: {web: {condition: service_healthy}}
    networks: [front, back]
    secrets: [word]
    configs: [greeting]
    environment: {WHO: compose}
    healthcheck:
      test: ["CMD", "test", "-e", "/done"]
      interval: 1s
      start_interval: 100ms
      start_period: 20s
    stop_grace_period: 0s
networks:
  front: {}
  back: {internal: true}
volumes:
  data: {labels: {kept: "yes"}}
secrets:
  word: {file: ./word.txt}
configs:
  greeting: {content: "good day"}
"#;

const CLIENT: &str = "FROM busybox\nRUN echo built > /built\n\
    CMD [\"sh\", \"-c\", \"wget -qO- http://www/ && touch /done; exec sleep 1000\"]\n";

#[test]
fn compose_brings_a_stack_up_and_down() {
    let daemon = Daemon::start();
    daemon.busybox();
    let project = daemon.host().folder().join("stack");
    std::fs::create_dir_all(project.join("client")).expect("folders");
    let write = |name: &str, text: &str| {
        std::fs::write(project.join(name), text).expect("written");
    };
    write("compose.yaml", STACK);
    write("client/Dockerfile", CLIENT);
    write("word.txt", "secret\n");
    let config = daemon.host().folder().join("docker-config");
    let plugins = config.join("cli-plugins");
    std::fs::create_dir_all(&plugins).expect("a folder");
    let plugin = cached("cli-plugins/docker-compose");
    std::os::unix::fs::symlink(plugin, plugins.join("docker-compose")).expect("a link");

    let compose = |arguments: &[&str]| {
        let mut command = daemon.docker_command(&["compose", "--project-name", "stack"]);
        command.args(arguments).current_dir(&project);
        said(command)
    };
    compose(&["up", "--wait", "--build", "--quiet-pull"]);
    let services = compose(&["ps", "--format", "{{.Service}} {{.State}} {{.Health}}"]);
    assert!(services.contains("web running healthy"), "{services}");
    assert!(services.contains("client running"), "{services}");
    let seen = compose(&[
        "exec",
        "-T",
        "client",
        "sh",
        "-c",
        "cat /run/secrets/word /greeting /built; echo $WHO",
    ]);
    assert_eq!(
        seen.split_whitespace().collect::<Vec<_>>(),
        ["secret", "good", "daybuilt", "compose"]
    );
    let logs = compose(&["logs", "--no-log-prefix", "client"]);
    assert!(logs.contains("hello"), "{logs}");
    let port = compose(&["port", "web", "80"]);
    assert!(port.starts_with("127.0.0.1:"), "{port}");
    assert!(compose(&["top"]).contains("httpd"));
    assert!(compose(&["images"]).contains("busybox"));

    // A change makes one container anew and leaves the other.
    let id = |service: &str| compose(&["ps", "--quiet", service]);
    let (web, client) = (id("web"), id("client"));
    write(
        "compose.yaml",
        &STACK.replace("WHO: compose", "WHO: changed"),
    );
    compose(&["up", "--detach"]);
    assert_eq!(id("web"), web);
    assert_ne!(id("client"), client);
    compose(&["up", "--detach", "--scale", "client=2", "--no-recreate"]);
    assert_eq!(compose(&["ps", "--quiet", "client"]).lines().count(), 2);
    let once = compose(&["run", "--rm", "-T", "--no-deps", "client", "cat", "/built"]);
    assert_eq!(once, "built");
    compose(&["stop", "--timeout", "0"]);
    compose(&["start"]);
    compose(&["restart", "--timeout", "0", "client"]);
    compose(&["down", "--volumes", "--timeout", "0"]);
    assert_eq!(daemon.docker(&["ps", "-aq"]).ok(), "");
    assert_eq!(daemon.docker(&["volume", "ls", "-q"]).ok(), "");
    let networks = daemon
        .docker(&["network", "ls", "--format", "{{.Name}}"])
        .ok();
    assert!(!networks.contains("stack"), "{networks}");
    daemon.finish();
}

/// What a command printed, trimmed; it must end well.
#[track_caller]
fn said(mut command: Command) -> String {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
