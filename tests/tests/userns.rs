//! A daemon whose containers' users are others on the host (`--userns-remap`):
//! inside all is as ever, outside nobody is root, on disk everybody is themselves.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dhow_testkit::{Daemon, Host, Mirror, Reference, ask};

/// Who root is outside.
const ROOT: u32 = 100_000;

/// Files of accounts with an account of 65536 subordinate identifiers.
fn accounts(host: &Host) -> PathBuf {
    let root = host.folder().join("accounts");
    let write = |name: &str, text: &str| {
        let path = root.join("etc").join(name);
        std::fs::write(path, text).expect("written");
    };
    std::fs::create_dir_all(root.join("etc")).expect("a folder");
    write(
        "passwd",
        "root:x:0:0::/root:/bin/sh\nremap:x:900:900::/:/bin/false\n",
    );
    write("group", "root:x:0:\nremap:x:900:\n");
    for file in ["subuid", "subgid"] {
        write(file, "remap:100000:65536\n");
    }
    root
}

fn options(host: &Host, wanted: &str) -> Vec<String> {
    vec![
        format!("--userns-remap={wanted}"),
        format!("--accounts-root={}", accounts(host).display()),
    ]
}

fn daemon() -> Daemon {
    let daemon = Daemon::start_with(|host| options(host, "remap"));
    daemon.busybox();
    // Whoever may enter the folder does not get into the daemon's.
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(daemon.host().folder(), open).expect("ours");
    daemon
}

fn folder(daemon: &Daemon, name: &str) -> PathBuf {
    let folder = daemon.host().folder().join(name);
    std::fs::create_dir(&folder).expect("a folder");
    folder
}

/// A line of `/proc/PID/status` of a container's program.
fn status(daemon: &Daemon, name: &str, field: &str) -> Vec<String> {
    let pid = daemon.inspect(name, "{{.State.Pid}}");
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let words = line.expect("the kernel tells").split_whitespace();
    words.map(str::to_owned).collect()
}

/// The one file of this name below the daemon's data.
fn on_disk(daemon: &Daemon, name: &str) -> PathBuf {
    let data = daemon.host().folder().join("data").display().to_string();
    let found = daemon.host().run("find", &[&data, "-name", name]).ok();
    assert_eq!(found.lines().count(), 1, "{name}: {found}");
    found.into()
}

fn owner(path: &Path) -> (u32, u32) {
    let stat = std::fs::symlink_metadata(path).expect("it is there");
    (stat.uid(), stat.gid())
}

#[test]
fn root_inside_is_nobody_outside() {
    let daemon = daemon();
    let security = daemon.docker(&["info", "-f", "{{.SecurityOptions}}"]).ok();
    assert!(security.contains("name=userns"), "{security}");
    daemon.sleeper("root", &[]);
    daemon.sleeper("web", &["-u", "web"]);
    daemon.sleeper("host", &["--userns=host"]);
    assert_eq!(status(&daemon, "root", "Uid:"), ["100000"; 4]);
    assert_eq!(status(&daemon, "root", "Gid:"), ["100000"; 4]);
    assert_eq!(status(&daemon, "web", "Uid:"), ["100033"; 4]);
    assert_eq!(status(&daemon, "host", "Uid:"), ["0"; 4]);
    let script = "id -u; stat -c %u:%g /bin/busybox /etc/passwd /; cat /proc/self/uid_map";
    let seen = daemon.within("root", script);
    let words: Vec<&str> = seen.split_whitespace().collect();
    assert_eq!(words, ["0", "0:0", "0:0", "0:0", "0", "100000", "65536"]);
    assert_eq!(
        daemon
            .docker(&["exec", "-u", "web", "root", "id", "-u"])
            .ok(),
        "33"
    );
    assert_eq!(daemon.inspect("host", "{{.HostConfig.UsernsMode}}"), "host");
    // Each is in a namespace of its own.
    let space = |name: &str| {
        let pid = daemon.inspect(name, "{{.State.Pid}}");
        std::fs::read_link(format!("/proc/{pid}/ns/user")).expect("it runs")
    };
    let own = std::fs::read_link("/proc/self/ns/user").expect("ours");
    assert_eq!(space("host"), own);
    assert!(space("root") != own && space("web") != own && space("root") != space("web"));
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn what_is_on_disk_is_as_in_the_image() {
    let daemon = daemon();
    daemon.sleeper("box", &[]);
    let script = "echo one > /tmp/mine; echo two > /tmp/theirs; chown 33:44 /tmp/theirs; \
        rm /data/greeting; mkdir -m 2770 /data/sub; chown 7:8 /data/sub; echo x >> /etc/group; \
        chown 65536 /tmp/mine 2>/dev/null || echo unmapped";
    assert_eq!(daemon.within("box", script), "unmapped");
    assert_eq!(owner(&on_disk(&daemon, "mine")), (0, 0));
    assert_eq!(owner(&on_disk(&daemon, "theirs")), (33, 44));
    let difference = daemon.docker(&["diff", "box"]).ok();
    for line in [
        "A /tmp/mine",
        "A /tmp/theirs",
        "D /data/greeting",
        "A /data/sub",
        "C /etc/group",
    ] {
        assert!(
            difference.lines().any(|found| found == line),
            "{line}: {difference}"
        );
    }
    daemon.docker(&["commit", "box", "made"]).ok();
    let script = "stat -c %u:%g:%a /tmp/mine /tmp/theirs /data/sub; ls /data";
    let expected = "0:0:644\n33:44:644\n7:8:2770\nsub";
    for options in [&["run", "--rm"][..], &["run", "--rm", "--userns=host"]] {
        let words = [options, &["made", "sh", "-c", script]].concat();
        assert_eq!(daemon.docker(&words).ok(), expected, "{options:?}");
    }
    let archive = daemon.host().folder().join("box.tar").display().to_string();
    daemon.docker(&["export", "-o", &archive, "box"]).ok();
    let list = [
        "--numeric-owner",
        "-tvf",
        &archive,
        "tmp/theirs",
        "data/sub/",
    ];
    let listed = daemon.host().run("tar", &list).ok();
    assert!(
        listed.contains(" 33/44 ") && listed.contains(" 7/8 "),
        "{listed}"
    );
    let used = daemon.docker(&["system", "df", "-v"]).ok();
    assert!(used.contains("made"), "{used}");
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn files_are_copied_both_ways() {
    let daemon = daemon();
    daemon.sleeper("box", &["-v", "vol:/vol", "--tmpfs", "/mem"]);
    let from = folder(&daemon, "from");
    std::fs::write(from.join("file"), "text").expect("written");
    std::os::unix::fs::chown(from.join("file"), Some(33), Some(44)).expect("root");
    let shown = |path: &Path| path.display().to_string();
    for place in ["/tmp", "/vol", "/mem"] {
        let to = format!("box:{place}/");
        daemon
            .docker(&["cp", "-a", &shown(&from.join("file")), &to])
            .ok();
        let seen = daemon.within(
            "box",
            &format!("stat -c %u:%g {place}/file; cat {place}/file"),
        );
        assert_eq!(seen, "33:44\ntext", "{place}");
        daemon.docker(&["cp", &shown(&from), &to]).ok();
        let seen = daemon.within(
            "box",
            &format!("stat -c %u:%g {place}/from {place}/from/file"),
        );
        assert_eq!(seen, "0:0\n33:44", "{place}");
        let words = ["cp", &format!("box:{place}/file"), "-"];
        let mut out = daemon.docker_command(&words);
        let archive = std::fs::File::create(daemon.host().folder().join("out.tar"));
        let status = out.stdout(archive.expect("a file")).status();
        assert!(status.expect("docker starts").success());
        let archive = shown(&daemon.host().folder().join("out.tar"));
        let listed = daemon
            .host()
            .run("tar", &["--numeric-owner", "-tvf", &archive])
            .ok();
        assert!(listed.contains(" 33/44 "), "{place}: {listed}");
    }
    // Nobody inside has this number.
    std::os::unix::fs::chown(from.join("file"), Some(70_000), Some(0)).expect("root");
    let error = daemon
        .docker(&["cp", "-a", &shown(&from.join("file")), "box:/tmp/"])
        .fails(1);
    assert!(error.contains("cannot be mapped"), "{error}");
    // The same at rest.
    daemon.docker(&["stop", "-t0", "box"]).ok();
    std::os::unix::fs::chown(from.join("file"), Some(5), Some(6)).expect("root");
    daemon
        .docker(&["cp", "-a", &shown(&from.join("file")), "box:/tmp/rest"])
        .ok();
    daemon.docker(&["start", "box"]).ok();
    assert_eq!(daemon.within("box", "stat -c %u:%g /tmp/rest"), "5:6");
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn the_hosts_files_are_out_of_reach() {
    let daemon = daemon();
    let bind = folder(&daemon, "bind");
    std::fs::set_permissions(&bind, std::fs::Permissions::from_mode(0o777)).expect("ours");
    for (name, owner) in [("roots", 0), ("mapped", ROOT)] {
        let path = bind.join(name);
        std::fs::write(&path, "text\n").expect("written");
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).expect("root");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    }
    let mount = format!("{}:/bind", bind.display());
    daemon.sleeper("box", &["-v", &mount, "-v", "vol:/vol"]);
    let script = "cd /bind; stat -c %u roots mapped; cat roots; echo x >> roots; chmod 666 roots; \
        chown 0 roots; echo more >> mapped && cat mapped; \
        for at in /bind /vol /tmp; do cp /bin/busybox $at/busybox; chmod 4755 $at/busybox; done; \
        mknod /tmp/null c 1 3; mknod /tmp/disk b 8 0; mount -t tmpfs none /tmp; \
        echo 1 > /proc/sys/kernel/panic; ls /proc/1/fd > /dev/null && echo own; true";
    let ran = daemon.docker(&["exec", "box", "sh", "-c", script]);
    assert_eq!(ran.stdout, "65534\n0\ntext\nmore\nown\n", "{}", ran.stderr);
    for part in [
        "can't open 'roots': Permission denied",
        "can't create roots: Permission denied",
        "chmod: roots: Operation not permitted",
        "chown: roots: Operation not permitted",
        "mknod: /tmp/null: Operation not permitted",
        "mknod: /tmp/disk: Operation not permitted",
        "permission denied",
        "can't create /proc/sys/kernel/panic: Read-only file system",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert_eq!(
        std::fs::read_to_string(bind.join("roots")).expect("ours"),
        "text\n"
    );
    // Of the host's folder it is root's of the container; of ours nobody else gets
    // to it.
    assert_eq!(owner(&bind.join("busybox")), (ROOT, ROOT));
    let data = daemon.host().folder().join("data").display().to_string();
    let found = daemon
        .host()
        .run("find", &[&data, "-name", "busybox", "-perm", "-4000"])
        .ok();
    assert_eq!(found.lines().count(), 2, "{found}");
    let as_other = |path: &str| {
        let script = format!("{path} id -u");
        let run = [
            "--reuid=1000",
            "--regid=1000",
            "--clear-groups",
            "sh",
            "-c",
            &script,
        ];
        daemon.host().run("setpriv", &run)
    };
    for path in found.lines() {
        let ran = as_other(path);
        assert!(
            ran.code != 0 && ran.stderr.contains("Permission denied"),
            "{path}: {ran:?}"
        );
    }
    let set = std::fs::metadata(bind.join("busybox")).expect("it is there");
    assert_eq!(set.mode() & 0o7777, 0o4755);
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn volumes_hold_what_is_in_the_image() {
    let daemon = daemon();
    let recipe = folder(&daemon, "recipe");
    std::fs::write(
        recipe.join("Dockerfile"),
        "FROM busybox\nRUN mkdir /home && echo x > /home/file && chown -R 33:44 /home && id -u > /uid\n\
         COPY --chown=5:6 Dockerfile /copied\nVOLUME /home\n",
    )
    .expect("written");
    let context = recipe.display().to_string();
    daemon.docker(&["build", "-t", "built", &context]).ok();
    let stat = "cat /uid; stat -c %u:%g /copied /home /home/file";
    let run = |options: &[&str], script: &str| {
        let words = [&["run", "--rm"], options, &["built", "sh", "-c", script]].concat();
        daemon.docker(&words).ok()
    };
    let expected = "0\n5:6\n33:44\n33:44";
    assert_eq!(run(&[], stat), expected);
    assert_eq!(
        run(
            &["-v", "home:/home", "-u", "web"],
            &format!("{stat}; echo y > /home/new")
        ),
        expected
    );
    let path = daemon
        .docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", "home"])
        .ok();
    assert_eq!(owner(&Path::new(&path).join("new")), (33, 33));
    // The same to a container whose users are the host's, and to those who share it.
    let both = "stat -c %u:%g /home/file /home/new";
    assert_eq!(
        run(&["-v", "home:/home", "--userns=host"], both),
        "33:44\n33:33"
    );
    let words = [
        "run",
        "-d",
        "--name",
        "first",
        "-v",
        "home:/home",
        "built",
        "sleep",
        "3600",
    ];
    daemon.docker(&words).ok();
    assert_eq!(run(&["--volumes-from", "first"], both), "33:44\n33:33");
    let ran = daemon.docker(&[
        "run",
        "--rm",
        "--volumes-from",
        "first:ro",
        "built",
        "touch",
        "/home/new",
    ]);
    assert!(
        ran.stderr.contains("Read-only file system"),
        "{}",
        ran.stderr
    );
    // A volume that stands for something of the host is as the host has it.
    let shared = folder(&daemon, "shared").display().to_string();
    let device = format!("device={shared}");
    let create = [
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "o=bind",
        "-o",
        &device,
        "stands",
    ];
    daemon.docker(&create).ok();
    assert_eq!(run(&["-v", "stands:/s"], "stat -c %u /s"), "65534");
    let error = daemon
        .docker(&["build", "--network", "host", "--no-cache", &context])
        .fails(1);
    assert!(
        error
            .contains("cannot share the host's network namespace when user namespaces are enabled"),
        "{error}"
    );
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn inside_all_is_as_ever() {
    let daemon = daemon();
    let script = "echo 10.9.8.7 name >> /etc/hosts && grep -c name /etc/hosts; \
        echo nameserver 10.9.8.7 > /etc/resolv.conf && cat /etc/resolv.conf; echo own > /etc/hostname; \
        stat -c %u:%g /etc/hosts /etc/resolv.conf /etc/hostname; hostname";
    let seen = daemon.script(&["--hostname=inside"], script);
    assert_eq!(seen, "1\nnameserver 10.9.8.7\n0:0\n0:0\n0:0\ninside");
    // Standard streams by path, as an ordinary user, from the start and by exec.
    let script =
        "echo out > /dev/stdout; echo err > /dev/stderr; cat < /dev/null; echo > /dev/null";
    let ran = daemon.docker(&["run", "--rm", "-u", "web", "busybox", "sh", "-c", script]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (0, "out\n", "err\n")
    );
    daemon.sleeper(
        "box",
        &[
            "--sysctl=net.core.somaxconn=77",
            "--sysctl=kernel.msgmax=4096",
            "--init",
            "-m",
            "64m",
        ],
    );
    for user in ["web", "root", "1234"] {
        let ran = daemon.docker(&["exec", "-u", user, "box", "sh", "-c", script]);
        assert_eq!(
            (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
            (0, "out\n", "err\n"),
            "{user}"
        );
    }
    // A terminal belongs to whoever has it.
    let script = "tty; stat -c %u $(tty); echo typed > /dev/tty; echo err >&2";
    let expected = "/dev/pts/0\r\n33\r\ntyped\r\nerr\r\n";
    let ran = daemon.docker(&[
        "run", "--rm", "-t", "-u", "web", "busybox", "sh", "-c", script,
    ]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, expected));
    let ran = daemon.docker(&["exec", "-t", "-u", "web", "box", "sh", "-c", script]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, expected));
    let script = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax \
        /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range; \
        cat /sys/fs/cgroup/memory/memory.limit_in_bytes; ls /dev; stat -c %u /proc/1; \
        cat /proc/1/comm; df -k /dev/shm | tail -n1; ulimit -n > /dev/null; ls /sys/class/net";
    let seen = daemon.within("box", script);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..5], ["77", "4096", "0", "0\t65535", "67108864"]);
    for device in [
        "console", "full", "null", "ptmx", "random", "tty", "urandom", "zero", "shm", "mqueue",
    ] {
        assert!(
            lines.contains(&device) || device == "console",
            "{device}: {seen}"
        );
    }
    assert!(
        lines.contains(&"docker-init") && lines.contains(&"eth0"),
        "{seen}"
    );
    // What is masked and read-only is so here, too.
    let ran = daemon.docker(&[
        "exec",
        "box",
        "sh",
        "-c",
        "cat /proc/keys; ls /sys/firmware; echo 1 > /proc/sys/kernel/panic",
    ]);
    assert_eq!(ran.stdout, "");
    assert!(
        ran.stderr.contains("Read-only file system"),
        "{}",
        ran.stderr
    );
    // Control groups, pause, limits that change.
    daemon.docker(&["pause", "box"]).ok();
    daemon.docker(&["unpause", "box"]).ok();
    daemon
        .docker(&["update", "-m", "96m", "--memory-swap", "-1", "box"])
        .ok();
    assert_eq!(
        daemon.within("box", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"),
        "100663296"
    );
    assert!(daemon.docker(&["top", "box"]).ok().contains("sleep 3600"));
    assert!(
        daemon
            .docker(&["stats", "--no-stream", "--format", "{{.Name}}", "box"])
            .ok()
            .contains("box")
    );
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn networks_reach_each_other() {
    let daemon = daemon();
    daemon.docker(&["network", "create", "net"]).ok();
    daemon.sleeper("one", &["--network=net", "-p", "8080:80"]);
    daemon.sleeper("two", &["--network=net"]);
    daemon.within("two", "ping -c1 -W5 one");
    let mirror = Mirror::at(daemon.namespace("one"), 80);
    assert!(ask(daemon.host().namespace(), "127.0.0.1:8080").is_some());
    drop(mirror);
    daemon.docker(&["network", "connect", "bridge", "two"]).ok();
    assert!(daemon.within("two", "ls /sys/class/net").contains("eth1"));
    daemon
        .docker(&["network", "disconnect", "bridge", "two"])
        .ok();
    daemon.sleeper("none", &["--network=none"]);
    assert_eq!(daemon.within("none", "ls /sys/class/net"), "lo");
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "net"]).ok();
    daemon.finish();
}

#[test]
fn containers_share_namespaces_and_users() {
    let daemon = daemon();
    daemon.sleeper("first", &["--ipc=shareable"]);
    daemon.sleeper("other", &["--ipc=shareable"]);
    daemon.sleeper("host", &["--userns=host", "--ipc=shareable"]);
    let spaces = "for kind in user net ipc; do readlink /proc/self/ns/$kind; done";
    let of_first = daemon.within("first", spaces);
    let shared = ["--network=container:first", "--ipc=container:first"];
    let seen = daemon.script(
        &shared,
        &format!("{spaces}; ping -c1 -W5 127.0.0.1 > /dev/null && id -u"),
    );
    assert_eq!(seen, format!("{of_first}\n0"));
    let seen = daemon.script(&["--network=container:first"], spaces);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (seen, first) = (lines(&seen), lines(&of_first));
    assert!(
        seen[0] == first[0] && seen[1] == first[1] && seen[2] != first[2],
        "{seen:?}"
    );
    // Its own network belongs to the users that it shares.
    let script = "ps | grep -c 'sleep 3600'; ping -c1 -W5 127.0.0.1 > /dev/null && readlink /proc/self/ns/user";
    let seen = daemon.script(&["--pid=container:first"], script);
    assert!(seen.ends_with(&first[0]), "{seen}");
    for (options, part) in [
        (
            ["--network=container:first", "--ipc=container:other"],
            "cannot share namespaces of both container first and container other",
        ),
        (
            ["--network=container:host", "--ipc=private"],
            "cannot share namespaces of container host, whose users are the host's",
        ),
    ] {
        let words = [&["run", "--rm"][..], &options, &["busybox", "true"]].concat();
        let error = daemon.docker(&words).fails(125);
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(
        daemon.script(&["--userns=host", "--network=container:first"], "id -u"),
        "0"
    );
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn what_needs_the_hosts_users_is_refused() {
    let daemon = daemon();
    for (option, part) in [
        (
            "--privileged",
            "privileged mode is incompatible with user namespaces",
        ),
        (
            "--network=host",
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (
            "--pid=host",
            "cannot share the host PID namespace when user namespaces are enabled",
        ),
        ("--userns=private", "invalid USER mode"),
    ] {
        let error = daemon
            .docker(&["run", "--rm", option, "busybox", "true"])
            .fails(125);
        assert!(error.contains(part), "{option}: {error}");
        if !option.starts_with("--userns") {
            daemon
                .docker(&["run", "--rm", "--userns=host", option, "busybox", "true"])
                .ok();
        }
    }
    for option in [
        "--ipc=host",
        "--uts=host",
        "--cgroupns=host",
        "--read-only",
        "--cap-add=ALL",
    ] {
        daemon
            .docker(&["run", "--rm", option, "busybox", "true"])
            .ok();
    }
    // All rights there are, over what is its own.
    let script = "hostname other && mount -t tmpfs none /mnt 2>&1; mkdir /m && mount -t tmpfs none /m && echo mounted; \
        date -s 2000-01-01 > /dev/null; mknod /x c 1 3 || echo no device";
    let ran = daemon.docker(&[
        "run",
        "--rm",
        "--cap-add=ALL",
        "--security-opt=seccomp=unconfined",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert!(ran.stdout.ends_with("mounted\nno device\n"), "{ran:?}");
    assert!(ran.stderr.contains("can't set date"), "{ran:?}");
    // A failure leaves nothing; the audit looks.
    daemon.docker(&["run", "busybox", "/nothing"]).fails(127);
    daemon
        .docker(&["run", "-u", "70000", "busybox", "true"])
        .fails(125);
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn a_daemon_finds_them_again() {
    let mut daemon = daemon();
    daemon.sleeper("box", &["--restart=always", "-v", "vol:/vol"]);
    daemon.within("box", "echo kept > /vol/file; echo kept > /root/file");
    daemon.kill();
    let options = options(daemon.host(), "remap");
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    daemon.start_again_with(&options);
    assert_eq!(daemon.within("box", "id -u; cat /vol/file"), "0\nkept");
    daemon.docker(&["restart", "-t0", "box"]).ok();
    assert_eq!(status(&daemon, "box", "Uid:"), ["100000"; 4]);
    // A daemon that maps nobody goes on with one that runs, and starts it as any.
    daemon.stop();
    daemon.start_again();
    assert_eq!(daemon.within("box", "stat -c %u /root/file"), "0");
    let copied = daemon.host().folder().join("copied").display().to_string();
    daemon.docker(&["cp", "box:/root/file", &copied]).ok();
    daemon.docker(&["restart", "-t0", "box"]).ok();
    assert_eq!(status(&daemon, "box", "Uid:"), ["0"; 4]);
    assert_eq!(
        daemon.within("box", "stat -c %u /root/file /vol/file"),
        "0\n0"
    );
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn the_default_account_is_made() {
    let daemon = Daemon::start_with(|host| {
        let root = accounts(host);
        vec![
            "--userns-remap=default".into(),
            format!("--accounts-root={}", root.display()),
        ]
    });
    daemon.busybox();
    let read = |name: &str| {
        let path = daemon.host().folder().join("accounts/etc").join(name);
        std::fs::read_to_string(path).expect("it is there")
    };
    assert!(
        read("passwd").contains("\ndockremap:"),
        "{}",
        read("passwd")
    );
    for file in ["subuid", "subgid"] {
        assert!(
            read(file).contains("dockremap:165536:65536"),
            "{}",
            read(file)
        );
    }
    let map = daemon.script(&[], "cat /proc/self/gid_map");
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "165536", "65536"]
    );
    daemon.finish();
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let host = Host::new();
    let root = accounts(&host);
    std::fs::write(root.join("etc/subgid"), "remap:5:65536:7\n").expect("written");
    for (wanted, part) in [
        ("nobody", "there is no user \"nobody\""),
        ("root", "root cannot stand for root"),
        ("remap:", "is not default, USER"),
        (
            "remap",
            "/etc/subgid, line 1: is not of the form NAME:FIRST:COUNT",
        ),
        ("12:12", "/etc/subuid has no range for \"12\""),
    ] {
        let folder = host.folder();
        let output = host
            .command(dhow_testkit::dhow())
            .args(["daemon", "--instance", host.instance()])
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--run-root")
            .arg(folder.join("run"))
            .arg(format!("--userns-remap={wanted}"))
            .arg(format!("--accounts-root={}", root.display()))
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(part),
            "{wanted}: {said}"
        );
    }
    host.audit();
}

/// What a container says of itself; names of devices and mounts differ between
/// machines' filesystems, what they mean does not.
const PROBE: &str = "id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; \
    grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status; \
    for file in / /bin/busybox /etc/hosts /etc/resolv.conf /etc/hostname /dev/null /dev/zero /dev/tty \
        /dev/pts /dev/shm /proc/1 /sys/kernel /vol /bind /bind/file; do stat -c '%n %u:%g:%a' $file; done; \
    mknod /tmp/null c 1 3; mount -t tmpfs none /tmp; hostname x; echo 1 > /proc/sys/kernel/panic; \
    echo x > /bind/file; chown 0:0 /bind/file; touch /vol/new; stat -c %u:%g /vol/new; \
    readlink /proc/self/ns/user > /dev/null; true";

#[test]
fn it_looks_as_docker_has_it() {
    let daemon = daemon();
    let reference = Reference::start_remapped();
    reference.busybox();
    let probe = |docker: &dyn Fn(&[&str]) -> dhow_testkit::Ran, host: &Host| {
        let bind = host.folder().join("probed");
        std::fs::create_dir(&bind).expect("a folder");
        std::fs::write(bind.join("file"), "x").expect("written");
        let mount = format!("{}:/bind", bind.display());
        let ran = docker(&[
            "run", "--rm", "-v", "vol:/vol", "-v", &mount, "busybox", "sh", "-c", PROBE,
        ]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let said = format!("{}{}", ran.stdout, ran.stderr);
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let ours = probe(&|words| daemon.docker(words), daemon.host());
    let theirs = probe(&|words| reference.docker(words), reference.host());
    assert_eq!(ours, theirs);
    daemon.finish();
}
