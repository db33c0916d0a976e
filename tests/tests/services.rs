//! Real servers, installed by apt in an image of ours: nginx, redis and
//! postgresql, run, published, limited, stopped, killed and restarted, with
//! their data in volumes.

use dhow_testkit::{Dockerd, Ran, at_dockerd, at_ours, cached};

#[test]
fn real_servers_run_in_an_image_of_ours() {
    at_ours(real_servers);
}

#[test]
fn dockerd_s_servers_are_the_same() {
    at_dockerd(&[real_servers]);
}

fn real_servers(daemon: &dyn Dockerd) {
    let archive = cached("services.tar").display().to_string();
    daemon.docker(&["import", &archive, "services"]).ok();
    // One after the other: the image takes longer to unpack than they to run.
    nginx_serves_what_a_volume_holds(daemon);
    redis_keeps_its_data_through_a_kill(daemon);
    postgresql_recovers_from_a_kill(daemon);
    several_servers_live_under_one_init(daemon);
    testcontainers_waits_for_them(daemon);
}

fn testcontainers_waits_for_them(daemon: &dyn Dockerd) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/testcontainers_py.py");
    let output = daemon
        .host()
        .command(cached("python/bin/python"))
        .args([program, "services"])
        .env("DOCKER_HOST", daemon.address())
        .env("HOME", daemon.host().folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python starts");
    let ran = Ran::new("testcontainers".into(), &output);
    let said = ran.ok();
    assert!(said.ends_with("3 of 3 checks passed"), "{said}");
}

fn page(daemon: &dyn Dockerd, container: &str) -> String {
    let address = daemon.docker(&["port", container, "80"]).ok();
    let url = format!("http://{address}/");
    // A server that was just started may not listen yet; curl waits for it.
    let patience = ["--retry", "50", "--retry-delay", "1", "--retry-all-errors"];
    let arguments = [&["-sS", "--max-time", "20"], &patience[..], &[&url]].concat();
    daemon.host().run("curl", &arguments).ok()
}

fn nginx_serves_what_a_volume_holds(daemon: &dyn Dockerd) {
    let write = "echo kept > /var/www/html/index.html";
    daemon
        .docker(&[
            "run",
            "--rm",
            "-v",
            "pages:/var/www/html",
            "services",
            "sh",
            "-c",
            write,
        ])
        .ok();
    let options = [
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1::80",
        "-m",
        "64m",
        "--pids-limit",
        "50",
    ];
    let nginx = [
        "-v",
        "pages:/var/www/html:ro",
        "services",
        "nginx",
        "-g",
        "daemon off;",
    ];
    daemon.docker(&[&options[..], &nginx].concat()).ok();
    assert_eq!(page(daemon, "web"), "kept");
    let limit = daemon.docker(&["exec", "web", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"]);
    assert_eq!(limit.ok(), (64 << 20).to_string());
    daemon.docker(&["restart", "web"]).ok();
    assert_eq!(page(daemon, "web"), "kept");
    daemon.docker(&["stop", "web"]).ok();
    let code = daemon
        .docker(&["inspect", "-f", "{{.State.ExitCode}}", "web"])
        .ok();
    assert_eq!(code, "0", "it was asked, and ended by itself");
    let log = daemon.docker(&["exec", "web", "true"]).fails(1);
    assert!(log.contains("is not running"), "{log}");
    daemon.remove_containers();
    daemon.docker(&["volume", "rm", "pages"]).ok();
}

fn redis_keeps_its_data_through_a_kill(daemon: &dyn Dockerd) {
    let redis = [
        "run",
        "-d",
        "--name",
        "store",
        "-v",
        "facts:/data",
        "services",
        "redis-server",
        "--dir",
        "/data",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--protected-mode",
        "no",
    ];
    daemon.docker(&redis).ok();
    let ask = |words: &[&str]| {
        let script = "until redis-cli ping >/dev/null 2>&1; do :; done; exec redis-cli \"$@\"";
        let arguments = [&["exec", "store", "sh", "-c", script, "redis-cli"], words].concat();
        daemon.docker(&arguments).ok()
    };
    assert_eq!(ask(&["set", "colour", "blue"]), "OK");
    daemon.docker(&["kill", "store"]).ok();
    daemon.docker(&["wait", "store"]).ok();
    daemon.docker(&["start", "store"]).ok();
    assert_eq!(ask(&["get", "colour"]), "blue");
    // Another container reaches it by its name.
    daemon.docker(&["network", "create", "back"]).ok();
    daemon.docker(&["network", "connect", "back", "store"]).ok();
    let asked = [
        "run",
        "--rm",
        "--network",
        "back",
        "services",
        "redis-cli",
        "-h",
        "store",
        "get",
        "colour",
    ];
    assert_eq!(daemon.docker(&asked).ok(), "blue");
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "back"]).ok();
    daemon.docker(&["volume", "rm", "facts"]).ok();
}

fn postgresql_recovers_from_a_kill(daemon: &dyn Dockerd) {
    // The volume gets the folder's owner from the image.
    let volume = ["-v", "cluster:/var/lib/postgresql", "-u", "postgres"];
    let program = "/usr/lib/postgresql/15/bin/";
    let initdb = format!("{program}initdb");
    let make = [
        &["run", "--rm"],
        &volume[..],
        &["services", &initdb, "-D", "/var/lib/postgresql/data"],
    ]
    .concat();
    daemon.docker(&make).ok();
    let postgres = format!("{program}postgres");
    let data = ["-D", "/var/lib/postgresql/data", "-k", "/tmp"];
    let serve = [&["services", &postgres], &data[..]].concat();
    let options = [
        "run",
        "-d",
        "--name",
        "db",
        "--shm-size",
        "128m",
        "--stop-signal",
        "INT",
    ];
    daemon
        .docker(&[&options[..], &volume, &serve].concat())
        .ok();
    let ask = |query: &str| {
        let script = "until pg_isready -q -h /tmp; do :; done; exec psql -qAt -h /tmp -c \"$0\"";
        daemon
            .docker(&["exec", "db", "sh", "-c", script, query])
            .ok()
    };
    ask("create table facts (name text)");
    ask("insert into facts select 'fact ' || n from generate_series(1, 1000) n");
    daemon.docker(&["kill", "db"]).ok();
    daemon.docker(&["wait", "db"]).ok();
    daemon.docker(&["start", "db"]).ok();
    assert_eq!(ask("select count(*) from facts"), "1000");
    daemon.docker(&["stop", "db"]).ok();
    let code = daemon
        .docker(&["inspect", "-f", "{{.State.ExitCode}}", "db"])
        .ok();
    assert_eq!(code, "0", "a fast shutdown");
    daemon.remove_containers();
    daemon.docker(&["volume", "rm", "cluster"]).ok();
}

fn several_servers_live_under_one_init(daemon: &dyn Dockerd) {
    let script = "redis-server --save '' >/dev/null & nginx; (sleep 0 &) ; wait";
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "both",
            "--init",
            "-p",
            "127.0.0.1::80",
            "services",
            "sh",
            "-c",
            script,
        ])
        .ok();
    assert!(page(daemon, "both").contains("nginx"));
    let pong = "until redis-cli ping; do :; done 2>/dev/null";
    assert!(
        daemon
            .docker(&["exec", "both", "sh", "-c", pong])
            .ok()
            .ends_with("PONG")
    );
    let zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    assert_eq!(
        daemon.docker(&["exec", "both", "sh", "-c", zombies]).ok(),
        "0"
    );
    let first = daemon
        .docker(&["exec", "both", "cat", "/proc/1/cmdline"])
        .ok();
    assert!(first.contains("init"), "{first}");
    daemon.docker(&["stop", "-t", "20", "both"]).ok();
    let code = daemon
        .docker(&["inspect", "-f", "{{.State.ExitCode}}", "both"])
        .ok();
    assert_eq!(code, "143", "the signal went on to the shell");
    daemon.remove_containers();
}
