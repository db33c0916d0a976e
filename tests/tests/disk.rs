//! A disk without room: what is asked for then fails with that reason, leaves
//! nothing, and works when there is room again.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dhow_testkit::{Daemon, Host, dhow};

/// What the kernel says of it.
const REASON: &str = "no space left on device";

/// All files below a folder.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
            all.insert(entry.path());
        }
    }
    all
}

/// Takes all that is free on the disk of a folder.
fn fill(folder: &Path) -> PathBuf {
    let filler = folder.join("filler");
    let disk = rustix::fs::statvfs(folder).expect("it is there");
    let file = std::fs::File::create(&filler).expect("a file");
    let free = disk.f_bavail * disk.f_frsize;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free).expect("it fits");
    assert_eq!(
        rustix::fs::statvfs(folder).expect("it is there").f_bavail,
        0
    );
    filler
}

/// A folder with a Dockerfile.
fn recipe(daemon: &Daemon, name: &str, text: &str) -> String {
    let folder = daemon.host().folder().join(name);
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("Dockerfile"), text).expect("written");
    folder.display().to_string()
}

/// What there is, by name.
fn listed(daemon: &Daemon) -> Vec<String> {
    let kinds = [
        "ps -aq --no-trunc --format {{.Names}}",
        "images -aq",
        "network ls -q",
        "volume ls -q",
    ];
    let list = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        daemon.docker(&words).ok()
    };
    kinds.map(list).into()
}

#[test]
fn data_find_no_room() {
    let daemon = Daemon::start_on_disk_of("24m");
    daemon.busybox();
    let data = daemon.host().folder().join("data");
    daemon.docker(&["network", "create", "more"]).ok();
    daemon.sleeper("box", &[]);
    daemon.sleeper("other", &["--network=none"]);
    daemon.within("box", "head -c 300000 /dev/urandom > /new");
    // One that has the files that a start makes.
    daemon
        .docker(&["run", "--name=idle", "busybox", "true"])
        .ok();
    // The first build makes the folder that all have.
    let first = recipe(&daemon, "first", "FROM busybox\n");
    daemon.docker(&["build", "-q", &first]).ok();
    let text = "FROM busybox\nRUN head -c 300000 /dev/urandom > /new\n";
    let step = recipe(&daemon, "step", text);
    let copy = recipe(&daemon, "copy", "FROM busybox\nCOPY large /large\n");
    std::fs::write(Path::new(&copy).join("large"), vec![7; 300_000]).expect("written");
    let out = daemon.host().folder().join("out.tar").display().to_string();
    daemon.docker(&["export", "-o", &out, "box"]).ok();
    let build = ["build", "-q", "--no-cache", "-t"];
    let step = [&build[..], &["stepped", &step]].concat();
    let copy = [&build[..], &["copied", &copy]].concat();
    let cases: [&[&str]; 14] = [
        &["create", "--name=made", "busybox"],
        &["start", "idle"],
        &["run", "--name=ran", "-v", "/anonymous", "busybox", "true"],
        &["commit", "box", "committed"],
        &["pause", "box"],
        &["network", "create", "made"],
        &["network", "connect", "more", "box"],
        &["volume", "create", "made"],
        &step,
        &copy,
        &["import", &out, "imported"],
        &["tag", "busybox", "tagged"],
        &["update", "--restart=always", "other"],
        &["rename", "other", "renamed"],
    ];
    let look = |daemon: &Daemon| {
        let state = "{{.Name}} {{.State.Status}} {{.State.Pid}} {{.HostConfig.RestartPolicy.Name}} \
            {{len .NetworkSettings.Networks}}";
        let words = ["inspect", "-f", state, "box", "other", "idle"];
        let inside = daemon.within("box", "ip -o -4 addr; cat /etc/hosts");
        (listed(daemon), daemon.docker(&words).ok(), inside)
    };
    let known = look(&daemon);
    let filler = fill(&data);
    let before = files(&data);
    for case in cases {
        let refused = daemon.docker(case);
        assert_ne!(refused.code, 0, "{refused:?}");
        let said = refused.stderr.to_lowercase();
        assert!(said.contains(REASON), "{refused:?}");
        let after = files(&data);
        let left: Vec<_> = after.symmetric_difference(&before).collect();
        assert!(left.is_empty(), "{case:?} leaves {left:#?}");
        assert_eq!(look(&daemon), known, "{case:?}");
    }
    // Who makes room needs none: another program, an end, a removal.
    daemon.docker(&["exec", "other", "true"]).ok();
    daemon.docker(&["stop", "-t", "0", "other"]).ok();
    assert_eq!(daemon.inspect("other", "{{.State.Status}}"), "exited");

    std::fs::remove_file(filler).expect("it is there");
    for case in cases {
        daemon.docker(case).ok();
        if case[0] == "pause" {
            daemon.docker(&["unpause", "box"]).ok();
        }
    }
    assert_eq!(daemon.inspect("renamed", "{{.State.ExitCode}}"), "137");
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "more", "made"]).ok();
    daemon.finish();
}

/// Takes all files that may be made on the disk of a folder.
fn fill_inodes(folder: &Path) -> PathBuf {
    let filler = folder.join("filler");
    std::fs::create_dir(&filler).expect("a folder");
    let made = (0..).map(|n: u32| std::fs::File::create(filler.join(n.to_string())));
    assert!(
        made.take(100_000).any(|file| file.is_err()),
        "it is endless"
    );
    filler
}

#[test]
fn runs_find_no_room() {
    run_without("4m", fill);
}

#[test]
fn runs_find_no_inodes() {
    run_without("8m,nr_inodes=600", fill_inodes);
}

/// What becomes of containers whose daemon's run folder is full: those that run run
/// on, others are refused a start with the reason, and no end is lost.
fn run_without(room: &str, fill: fn(&Path) -> PathBuf) {
    let mut daemon = Daemon::start_to_run_on_disk_of(room);
    daemon.busybox();
    let run = daemon.host().folder().join("run");
    daemon.docker(&["network", "create", "more"]).ok();
    daemon.sleeper("box", &[]);
    daemon.sleeper("other", &["--network=none"]);
    daemon.sleeper("gone", &[]);
    daemon
        .docker(&["create", "--name=idle", "busybox", "true"])
        .ok();
    // They end when they are told to, one of them while there is no daemon.
    let ends = "trap 'echo ends; exit 7' TERM; echo begins; while :; do sleep 0.1; done";
    for name in ["first", "second"] {
        let words = ["run", "-d", "--name", name, "busybox", "sh", "-c", ends];
        daemon.docker(&words).ok();
    }
    let known = listed(&daemon);
    let filler = fill(&run);
    let before = files(&run);
    let unchanged = |daemon: &Daemon, what: &str| {
        let after = files(&run);
        let left: Vec<_> = after.symmetric_difference(&before).collect();
        assert!(left.is_empty(), "{what} leaves {left:#?}");
        assert_eq!(listed(daemon), known, "{what}");
    };
    for case in [
        &["start", "idle"][..],
        &["run", "--rm", "busybox", "true"],
        &["run", "--rm", "--network=none", "busybox", "true"],
        &["run", "--rm", "--ipc=shareable", "busybox", "true"],
        &["network", "connect", "more", "box"],
    ] {
        let refused = daemon.docker(case);
        assert_ne!(refused.code, 0, "{refused:?}");
        let said = refused.stderr.to_lowercase();
        assert!(said.contains(REASON), "{refused:?}");
        unchanged(&daemon, &case.join(" "));
    }
    // Whatever needs no room there.
    assert_eq!(daemon.within("box", "echo here"), "here");
    let (code, said) = (
        daemon.docker(&["exec", "box", "sh", "-c", "exit 3"]).code,
        daemon.docker(&["logs", "first"]).ok(),
    );
    assert_eq!((code, said.as_str()), (3, "begins"));
    daemon.docker(&["pause", "box"]).ok();
    daemon.docker(&["unpause", "box"]).ok();
    daemon.docker(&["stats", "--no-stream", "box"]).ok();
    daemon.docker(&["volume", "create", "made"]).ok();
    daemon.docker(&["volume", "rm", "made"]).ok();
    daemon
        .docker(&["create", "--name=made", "busybox", "true"])
        .ok();
    daemon.docker(&["rm", "made"]).ok();
    unchanged(&daemon, "the rest");

    daemon.docker(&["kill", "-s", "TERM", "first"]).ok();
    assert_eq!(daemon.docker(&["wait", "first"]).ok(), "7");
    let pid = daemon.inspect("second", "{{.State.Pid}}");
    daemon.kill();
    end_program(&pid);
    daemon.start_again();
    assert_eq!(daemon.docker(&["wait", "second"]).ok(), "7");
    for name in ["first", "second"] {
        assert_eq!(daemon.docker(&["logs", name]).ok(), "begins\nends");
        let state = "{{.State.Status}} {{.State.ExitCode}}";
        assert_eq!(daemon.inspect(name, state), "exited 7", "{name}");
    }
    assert_eq!(daemon.within("box", "echo here"), "here");
    daemon.docker(&["stop", "-t", "0", "other"]).ok();
    assert_eq!(daemon.inspect("other", "{{.State.ExitCode}}"), "137");
    daemon.docker(&["rm", "-f", "gone"]).ok();

    std::fs::remove_file(&filler)
        .or_else(|_| std::fs::remove_dir_all(&filler))
        .expect("it is there");
    for name in ["idle", "other", "first"] {
        daemon.docker(&["start", name]).ok();
    }
    daemon.docker(&["run", "--rm", "busybox", "true"]).ok();
    daemon.docker(&["network", "connect", "more", "box"]).ok();
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "more"]).ok();
    daemon.finish();
}

/// Asks a process to end, and waits until it has.
fn end_program(pid: &str) {
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.expect("a process");
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    let process = process.expect("it runs");
    rustix::process::pidfd_send_signal(&process, rustix::process::Signal::TERM)
        .expect("it is there");
    let mut ended = [rustix::event::PollFd::new(
        &process,
        rustix::event::PollFlags::IN,
    )];
    let patience = rustix::event::Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let n = rustix::event::poll(&mut ended, Some(&patience)).expect("the kernel tells");
    assert_eq!(n, 1, "it does not end");
}

/// Who starts a daemon may keep what it says on a disk that is full.
#[test]
fn nobody_hears_what_a_daemon_says() {
    let host = Host::new();
    let folder = host.folder();
    let told = folder.join("notify");
    let ready = std::os::unix::net::UnixDatagram::bind(&told).expect("a socket");
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut daemon = host
        .command(dhow())
        .args(["daemon", "--instance", host.instance(), "--data-root"])
        .arg(folder.join("data"))
        .arg("--run-root")
        .arg(folder.join("run"))
        .env("NOTIFY_SOCKET", &told)
        .stderr(full.expect("every Linux has it"))
        .spawn()
        .expect("it starts");
    let patience = std::time::Duration::from_secs(20);
    ready.set_read_timeout(Some(patience)).expect("a timeout");
    let mut text = [0; 64];
    let said = ready.recv(&mut text);
    if said.is_err() {
        daemon.kill().expect("it is ours");
    }
    let n = said.expect("it says that it is ready");
    assert!(String::from_utf8_lossy(&text[..n]).contains("READY=1"));
    let pid = daemon.id().to_string();
    host.run("kill", &[&pid]).ok();
    let status = daemon.wait().expect("it ends");
    assert!(status.success(), "{status}");
    host.audit();
}

#[test]
fn a_registry_finds_no_room() {
    let host = Host::new();
    let root = host.folder().join("registry");
    std::fs::create_dir(&root).expect("a folder");
    let place = root.display().to_string();
    let mount = ["-t", "tmpfs", "-o", "size=8m,mode=755", "dhow-test", &place];
    host.run("mount", &mount).ok();
    let mut registry = host
        .command(dhow())
        .args(["registry", "--root", &place, "--listen=127.0.0.1:5000"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = BufReader::new(registry.stderr.take().expect("it was piped")).lines();
    let serves = |line: &Result<String, _>| matches!(line, Ok(line) if line.contains("5000"));
    assert!(said.any(|line| serves(&line)), "it ended");
    let rest = std::thread::spawn(move || said.map_while(Result::ok).for_each(drop));
    // An upload that begins is written down.
    let url = "http://127.0.0.1:5000/v2/some/blobs/uploads/";
    let words = [
        "-s",
        "-X",
        "POST",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        url,
    ];
    let begin = || host.run("curl", &words).ok();
    assert_eq!(begin(), "202");
    let filler = fill(&root);
    for _ in 0..2 {
        assert_eq!(begin(), "500");
    }
    std::fs::remove_file(filler).expect("it is there");
    assert_eq!(begin(), "202");
    registry.kill().expect("it runs");
    registry.wait().expect("it ends");
    rest.join().expect("it read");
    host.run("umount", &[&place]).ok();
    host.audit();
}
