//! What fails half way takes back what it made, at once and while others live.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use dhow_testkit::{Daemon, Host};

/// How long links may take to be removed that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that a container may have of a host, line by line.
fn belongings(daemon: &Daemon) -> BTreeSet<String> {
    let host = daemon.host();
    let mut all = BTreeSet::new();
    let mut add = |kind: &str, text: String| {
        all.extend(text.lines().map(|line| format!("{kind}: {line}")));
    };
    // Names and addresses: whether a bridge has somebody on it is nobody's.
    let column = |text: String, number: usize| {
        let words = text.lines().map(|line| line.split_whitespace().nth(number));
        words.flatten().collect::<Vec<_>>().join("\n")
    };
    add("link", column(host.run("ip", &["-br", "link"]).ok(), 0));
    let addresses = host.run("ip", &["-o", "address", "show", "scope", "global"]);
    add("address", column(addresses.ok(), 3));
    add("rule", host.run("nft", &["list", "ruleset"]).ok());
    let folder = host.folder().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let ours = mounts.lines().filter(|line| line.contains(&folder));
    add("mount", ours.collect::<Vec<_>>().join("\n"));
    let groups = [
        "/sys/fs/cgroup",
        "-path",
        &format!("*dhow-{}*", host.instance()),
        "-type",
        "d",
    ];
    add("group", host.run("find", &groups).ok());
    for place in [
        "run/containers",
        "run/network",
        "run/runtime",
        "data/containers",
    ] {
        let place = host.folder().join(place);
        add("file", files(&place).join("\n"));
    }
    add(
        "container",
        daemon.docker(&["ps", "-aq", "--no-trunc"]).ok(),
    );
    add("volume", daemon.docker(&["volume", "ls", "-q"]).ok());
    all
}

/// The folders and files at a place and one level below it, which is where names of
/// containers are.
fn files(place: &Path) -> Vec<String> {
    let list = |folder: &Path| {
        let entries = folder.read_dir().into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut all = list(place);
    all.extend(all.clone().iter().flat_map(|folder| list(folder)));
    all.iter().map(|path| path.display().to_string()).collect()
}

fn file(host: &Host, name: &str, text: &str) -> String {
    let path = host.folder().join(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// What differs from before, and still does when links that are removed when nobody
/// waits had their time.
fn left_in_the_end(daemon: &Daemon, before: &BTreeSet<String>) -> Option<Vec<String>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let after = belongings(daemon);
        let left: Vec<String> = after.symmetric_difference(before).cloned().collect();
        if left.is_empty() {
            return None;
        }
        let soon = left.iter().all(|line| line.starts_with("link: "));
        if !soon || Instant::now() > end {
            return Some(left);
        }
    }
}

#[test]
fn a_run_that_fails_leaves_nothing() {
    let daemon = Daemon::start();
    daemon.busybox();
    daemon
        .docker(&["network", "create", "--subnet=10.213.9.0/24", "net"])
        .ok();
    // A neighbour, which is to be left alone.
    let neighbour = [
        "--network=net",
        "--ip=10.213.9.9",
        "-p",
        "18080:80",
        "-v",
        "kept:/data",
    ];
    daemon.sleeper("neighbour", &neighbour);
    let taken = daemon
        .host()
        .inside(|| std::net::TcpListener::bind("0.0.0.0:18081"))
        .expect("a port");
    let missing = daemon.host().folder().join("missing").display().to_string();
    let odd = file(
        daemon.host(),
        "seccomp.json",
        r#"{"defaultAction": "SCMP_ACT_ODD"}"#,
    );
    let bind = format!("--mount=type=bind,source={missing},target=/data");
    let seccomp = format!("--security-opt=seccomp={odd}");
    let pid = daemon.inspect("neighbour", "{{.State.Pid}}");
    let before = belongings(&daemon);
    let cases: &[(&[&str], &[&str], i32)] = &[
        (&["-p", "18080:80"], &["true"], 125),
        (&["-p", "18082:80", "-p", "18081:80"], &["true"], 125),
        (&[&bind], &["true"], 125),
        (&["-v", "new:/data", &bind], &["true"], 125),
        (&["--network=net", "--ip=10.213.9.9"], &["true"], 125),
        (&["--network=net", "--ip=10.99.9.9"], &["true"], 125),
        (&["--network=none-such"], &["true"], 125),
        (&["--network=container:none-such"], &["true"], 125),
        (&["--cpuset-cpus=4000"], &["true"], 125),
        (&["--device=/dev/none-such"], &["true"], 127),
        (&["--user=nobody-at-all"], &["true"], 125),
        (&["--group-add=nobody-at-all"], &["true"], 125),
        (&["--sysctl=net.none.such=1"], &["true"], 127),
        (&["--sysctl=kernel.panic=1"], &["true"], 125),
        (&["--ulimit=nofile=200:100"], &["true"], 125),
        (&[&seccomp], &["true"], 125),
        (&["--security-opt=apparmor="], &["true"], 125),
        (&["--ipc=container:neighbour"], &["true"], 125),
        (&["--pid=container:none-such"], &["true"], 125),
        (&["--workdir=/bin/busybox/below"], &["true"], 125),
        (&["-v", "/data/../..:/"], &["true"], 125),
        (&["--memory=1k"], &["true"], 125),
        (&["--log-driver=odd"], &["true"], 125),
        (&["--gpus=all"], &["true"], 125),
        (&["--runtime=odd"], &["true"], 125),
        (&["--health-interval=1ns"], &["true"], 125),
        (
            &["-v", "new:/data", "-p", "18083:80", "--network=net"],
            &["none-such"],
            127,
        ),
        (
            &["-v", "new:/data", "-p", "18083:80", "--tmpfs=/t"],
            &["/etc/passwd"],
            126,
        ),
        (&["--init", "-it=false", "--entrypoint=/data"], &[], 126),
        (&["-v", "new:/data:rshared"], &["true"], 125),
    ];
    let mut wrong = Vec::new();
    for (options, program, code) in cases {
        // Once by itself, once with --rm; what it made is removed by hand or goes.
        for rm in [true, false] {
            let mut words = vec!["run", "--name=failing"];
            words.extend(rm.then_some("--rm"));
            words.extend(*options);
            words.push("busybox");
            words.extend(*program);
            let ran = daemon.docker(&words);
            if ran.code != *code || ran.stderr.trim().is_empty() {
                wrong.push(format!(
                    "{options:?} {program:?}: {} {}",
                    ran.code, ran.stderr
                ));
            }
            if !rm {
                // A container that could not start stays to be looked at.
                daemon.docker(&["rm", "-v", "failing"]);
            }
            daemon.docker(&["volume", "rm", "new"]);
            if let Some(left) = left_in_the_end(&daemon, &before) {
                wrong.push(format!(
                    "{options:?} {program:?} --rm={rm} leaves {left:#?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(daemon.inspect("neighbour", "{{.State.Pid}}"), pid);
    drop(taken);
    // What it was refused for is free again: nobody holds it.
    daemon.script(&["-p", "18081:80", "-p", "18083:80"], "true");
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "net"]).ok();
    daemon.docker(&["volume", "rm", "kept"]).ok();
    daemon.finish();
}

#[test]
fn what_a_container_swaps_leads_a_copy_nowhere() {
    let daemon = Daemon::start();
    daemon.busybox();
    let outside = daemon.host().folder().join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("secret"), "of the host").expect("a file");
    let planted = file(daemon.host(), "planted", "by a copy");
    let place = outside.display().to_string();
    // A folder, and a link out of it, in turns, as fast as it can.
    let swap = format!(
        "mkdir -p /a; while :; do
           mkdir /a/new; echo inside > /a/new/secret; rm -rf /a/b; mv /a/new /a/b
           ln -s {place} /a/new; rm -rf /a/b; mv /a/new /a/b
         done"
    );
    let words = [
        "run",
        "-d",
        "--name=swapper",
        "--stop-signal=KILL",
        "busybox",
        "sh",
        "-c",
    ];
    daemon.docker(&[&words[..], &[&swap]].concat()).ok();
    let out = daemon.host().folder().join("copied").display().to_string();
    let mut n_inside = 0;
    for _ in 0..60 {
        daemon.docker(&["cp", "swapper:/a/b/secret", &out]);
        if let Ok(text) = std::fs::read_to_string(&out) {
            assert_eq!(text, "inside\n", "the host's file was read");
            n_inside += 1;
            std::fs::remove_file(&out).expect("it is there");
        }
        daemon.docker(&["cp", &planted, "swapper:/a/b/"]);
        daemon.docker(&["cp", &planted, "swapper:/a/b/planted"]);
    }
    assert!(n_inside > 0, "no copy ever found the folder");
    let found = files(&outside);
    assert_eq!(found, [outside.join("secret").display().to_string()]);
    daemon.remove_containers();
    daemon.finish();
}
