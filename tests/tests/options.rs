//! What options of containers do inside, at ours and at a real dockerd: each is
//! shown by its effect, not by what `inspect` repeats.

use std::path::Path;

use dhow_testkit::{Daemon, Host, Ran, Reference};

/// An engine: its `docker`, and the host that it runs on.
struct Engine<'a> {
    docker: &'a dyn Fn(&[&str]) -> Ran,
    host: &'a Host,
}

impl Engine<'_> {
    fn docker(&self, words: &[&str]) -> Ran {
        (self.docker)(words)
    }

    /// What a script prints in a container with these options.
    #[track_caller]
    fn script(&self, options: &[&str], script: &str) -> String {
        let words = [&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat();
        self.docker(&words).ok()
    }

    /// A container that stays, which is to be removed.
    #[track_caller]
    fn sleeper(&self, name: &str, options: &[&str]) {
        let words = [
            &["run", "-d", "--name", name, "--stop-signal=KILL"],
            options,
            &["busybox", "sleep", "3600"],
        ];
        self.docker(&words.concat()).ok();
    }

    #[track_caller]
    fn within(&self, name: &str, script: &str) -> String {
        self.docker(&["exec", name, "sh", "-c", script]).ok()
    }

    fn remove(&self, names: &[&str]) {
        self.docker(&[&["rm", "-f", "-v"], names].concat()).ok();
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.host.folder().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

fn at_ours(check: impl Fn(&Engine<'_>)) {
    let daemon = Daemon::start();
    daemon.busybox();
    check(&Engine {
        docker: &|words| daemon.docker(words),
        host: daemon.host(),
    });
    daemon.finish();
}

fn at_dockerd(check: impl Fn(&Engine<'_>)) {
    let reference = Reference::start();
    reference.busybox();
    check(&Engine {
        docker: &|words| reference.docker(words),
        host: reference.host(),
    });
}

/// Options that a script can see, what it does to see them, and what it prints.
const SEEN: &[(&[&str], &str, &str)] = &[
    (
        &["--shm-size=2m"],
        "df -k /dev/shm | awk 'END { print $2 }'",
        "2048",
    ),
    (
        &["--oom-score-adj=321"],
        "cat /proc/self/oom_score_adj",
        "321",
    ),
    (
        &["--ulimit=nofile=100:200"],
        "ulimit -n; ulimit -Hn",
        "100\n200",
    ),
    (
        &["--sysctl=net.ipv4.ip_default_ttl=77"],
        "cat /proc/sys/net/ipv4/ip_default_ttl",
        "77",
    ),
    (
        &["--user=5:6", "--group-add=1234"],
        "id -u; id -G",
        "5\n6 1234",
    ),
    (
        &["--hostname=somewhere", "--domainname=example"],
        "hostname; cat /proc/sys/kernel/domainname",
        "somewhere\nexample",
    ),
    (&["--workdir=/made/here"], "pwd", "/made/here"),
    (
        &["--read-only"],
        "touch /file 2> /dev/null || echo refused; touch /dev/shm/file && echo taken",
        "refused\ntaken",
    ),
    (
        &["--tmpfs=/t:size=1m,mode=700,uid=5"],
        "df -k /t | awk 'END { print $2 }'; stat -c '%a %u' /t",
        "1024\n700 5",
    ),
    (
        &["--cap-drop=ALL"],
        "grep -c '^CapEff:.0000000000000000$' /proc/self/status",
        "1",
    ),
    (
        &["--cap-drop=ALL", "--cap-add=CHOWN"],
        "grep -c '^CapEff:.0000000000000001$' /proc/self/status",
        "1",
    ),
    (
        &["--security-opt=no-new-privileges"],
        "grep -c '^NoNewPrivs:.1$' /proc/self/status",
        "1",
    ),
    (&[], "grep -c '^Seccomp:.2$' /proc/self/status", "1"),
    (
        &["--security-opt=seccomp=unconfined"],
        "grep -c '^Seccomp:.0$' /proc/self/status",
        "1",
    ),
    (
        &["--security-opt=systempaths=unconfined"],
        "grep -c ' /proc/' /proc/self/mountinfo; true",
        "0",
    ),
    (
        &[
            "--security-opt=label=type:anything_t",
            "--security-opt=label=level:s0",
        ],
        "echo runs",
        "runs",
    ),
    (
        &["--device=/dev/loop-control:/dev/thing:r"],
        ": < /dev/thing && echo opened; (: > /dev/thing) 2> /dev/null || echo refused",
        "opened\nrefused",
    ),
    (
        &[
            "--add-host=there:192.0.2.7",
            "--dns=192.0.2.8",
            "--dns-search=example",
            "--dns-option=ndots:3",
        ],
        "grep -c '192.0.2.7.there' /etc/hosts; grep -v '^#' /etc/resolv.conf | sort",
        "1\nnameserver 192.0.2.8\noptions ndots:3\nsearch example",
    ),
    (&["--network=none"], "ls /sys/class/net", "lo"),
    (
        &["--cgroupns=private"],
        "grep -v ':/$' /proc/self/cgroup | wc -l",
        "0",
    ),
    (&["--entrypoint=echo"], "not run", "-c not run"),
];

/// What only ours can show where the machine itself has not all capabilities.
const PRIVILEGED: &[(&[&str], &str, &str)] = &[(
    &["--privileged"],
    "grep -c ' /proc/\\| /sys/firmware' /proc/self/mountinfo; grep -c '^Seccomp:.0$' /proc/self/status; mknod /node c 1 3 && echo > /node && echo made; grep -c ' /sys rw' /proc/self/mountinfo",
    "0\n1\nmade\n1",
)];

/// Limits: an option, the file of version 1 and of version 2, and what is in each.
/// A file that this kernel does not have is none that is looked at.
const LIMITS: &[(&[&str], [&str; 2], [&str; 2])] = &[
    (
        &["--memory=64m"],
        ["memory/memory.limit_in_bytes", "memory.max"],
        ["67108864", "67108864"],
    ),
    (
        &["--memory=64m", "--memory-reservation=32m"],
        ["memory/memory.soft_limit_in_bytes", "memory.low"],
        ["33554432", "33554432"],
    ),
    (
        &["--cpus=0.5"],
        ["cpu/cpu.cfs_quota_us", "cpu.max"],
        ["50000", "50000 100000"],
    ),
    (
        &["--cpu-period=50000", "--cpu-quota=25000"],
        ["cpu/cpu.cfs_quota_us", "cpu.max"],
        ["25000", "25000 50000"],
    ),
    (
        &["--cpu-period=50000"],
        ["cpu/cpu.cfs_period_us", "cpu.max"],
        ["50000", "max 50000"],
    ),
    (
        &["--cpu-shares=512"],
        ["cpu/cpu.shares", "cpu.weight"],
        ["512", "*"],
    ),
    (
        &["--cpuset-cpus=0", "--cpuset-mems=0"],
        ["cpuset/cpuset.cpus", "cpuset.cpus"],
        ["0", "0"],
    ),
    (
        &["--cpuset-mems=0"],
        ["cpuset/cpuset.mems", "cpuset.mems"],
        ["0", "0"],
    ),
    (
        &["--pids-limit=23"],
        ["pids/pids.max", "pids.max"],
        ["23", "23"],
    ),
];

fn options_have_their_effects(engine: &Engine<'_>) {
    for (options, script, expected) in SEEN {
        let script = match options.contains(&"--entrypoint=echo") {
            true => engine
                .docker(&[&["run", "--rm"], *options, &["busybox", "-c", script]].concat())
                .ok(),
            false => engine.script(options, script),
        };
        assert_eq!(script, *expected, "{options:?}");
    }
    for (options, [first, second], [of_first, of_second]) in LIMITS {
        let script = format!(
            "cd /sys/fs/cgroup; if [ -e {second} ]; then echo {of_second}; cat {second}; else echo {of_first}; cat {first}; fi"
        );
        let seen = engine.script(options, &script);
        let (expected, found) = seen.split_once('\n').expect("two lines");
        assert!(
            expected == "*" || expected == found,
            "{options:?}: {found} for {expected}"
        );
    }
    limits_of_devices(engine);
    let error = engine
        .docker(&["run", "--rm", "--gpus=all", "busybox", "true"])
        .fails(125);
    let expected = "could not select device driver \"\" with capabilities: [[gpu]]";
    assert!(error.contains(expected), "{error}");
    engine.docker(&["container", "prune", "-f"]).ok();
}

fn surroundings_are_as_asked_for(engine: &Engine<'_>) {
    files_of_options(engine);
    namespaces_are_shared(engine);
    volumes_are_as_asked_for(engine);
    labels_are_told(engine);
    logs_have_a_beginning_and_an_end(engine);
    events_are_chosen(engine);
}

/// What would be done about labels of SELinux is told where there are none, too.
fn labels_are_told(engine: &Engine<'_>) {
    let told = |options: &[&str], template: &str| {
        let create = [&["create", "--name", "labelled"], options, &["busybox"]].concat();
        engine.docker(&create).ok();
        let told = engine.docker(&["inspect", "-f", template, "labelled"]).ok();
        engine.remove(&["labelled"]);
        told
    };
    for (options, expected) in [
        (&[][..], "[]"),
        (&["--privileged"], "[label=disable]"),
        (&["--pid=host"], "[label=disable]"),
        (&["--ipc=host"], "[label=disable]"),
        (&["--network=host"], "[]"),
        (
            &["--privileged", "--security-opt=label=type:x"],
            "[label=type:x]",
        ),
        (
            &["--privileged", "--security-opt=systempaths=unconfined"],
            "[label=disable]",
        ),
        (
            &["--privileged", "--security-opt=seccomp=unconfined"],
            "[seccomp=unconfined label=disable]",
        ),
    ] {
        let seen = told(options, "{{.HostConfig.SecurityOpt}}");
        assert_eq!(seen, expected, "{options:?}");
    }
    for (volume, expected) in [
        ("/anonymous", ""),
        ("named:/named", "z"),
        ("named:/named:ro", "ro"),
        ("/tmp:/bound", ""),
        ("/tmp:/bound:Z", "Z"),
    ] {
        let seen = told(&["-v", volume], "{{range .Mounts}}{{.Mode}}{{end}}");
        assert_eq!(seen, expected, "{volume}");
    }
    let mount = "--mount=type=volume,src=named,dst=/named";
    assert_eq!(told(&[mount], "{{range .Mounts}}{{.Mode}}{{end}}"), "z");
    engine.docker(&["volume", "rm", "named"]).ok();
}

/// Throttles of a disk of the machine's, which nothing is read from or written to.
fn limits_of_devices(engine: &Engine<'_>) {
    let disks = std::fs::read_dir("/sys/block").expect("sysfs").flatten();
    let named = |name: &String| name.starts_with("vd") || name.starts_with("sd");
    let names = disks.filter_map(|entry| entry.file_name().into_string().ok());
    let Some(disk) = names.into_iter().find(|name| named(name)) else {
        panic!("a disk is needed, vdX or sdX");
    };
    let numbers = std::fs::read_to_string(format!("/sys/block/{disk}/dev")).expect("sysfs");
    let numbers = numbers.trim();
    for (option, file, of_second) in [
        ("--device-read-bps", "read_bps", "rbps"),
        ("--device-write-bps", "write_bps", "wbps"),
        ("--device-read-iops", "read_iops", "riops"),
        ("--device-write-iops", "write_iops", "wiops"),
    ] {
        let option = format!("{option}=/dev/{disk}:1048576");
        let script = format!(
            "cd /sys/fs/cgroup; if [ -e io.max ]; then cat io.max; else cat blkio/blkio.throttle.{file}_device; fi"
        );
        let seen = engine.script(&[&option], &script);
        let first = format!("{numbers} 1048576");
        let second = format!("{of_second}=1048576");
        assert!(seen == first || seen.contains(&second), "{option}: {seen}");
    }
}

fn files_of_options(engine: &Engine<'_>) {
    let variables = engine.file(
        "variables",
        "# no variable\nONE=1 and more\n\nTWO=\"kept\"\n",
    );
    let labels = engine.file("labels", "tier=front\nodd=x=y\n");
    let options = [&format!("--env-file={variables}")[..], "--env=ONE=2"];
    let seen = engine.script(&options, "echo \"$ONE\"; echo \"$TWO\"");
    assert_eq!(seen, "2\n\"kept\"");
    let id = engine.host.folder().join("id").display().to_string();
    let options = [
        "create",
        &format!("--label-file={labels}"),
        &format!("--cidfile={id}"),
        "--name=labelled",
        "busybox",
    ];
    let made = engine.docker(&options).ok();
    assert_eq!(std::fs::read_to_string(id).expect("it was written"), made);
    let template = "{{index .Config.Labels \"tier\"}} {{index .Config.Labels \"odd\"}}";
    let seen = engine.docker(&["inspect", "-f", template, "labelled"]).ok();
    assert_eq!(seen, "front x=y");
    engine.remove(&["labelled"]);
}

fn namespaces_are_shared(engine: &Engine<'_>) {
    engine.sleeper("owner", &["--ipc=shareable", "--hostname=owners"]);
    engine.within("owner", "echo shared > /dev/shm/file");
    let seen = engine.script(&["--ipc=container:owner"], "cat /dev/shm/file");
    assert_eq!(seen, "shared");
    let seen = engine.script(&["--ipc=private"], "ls /dev/shm");
    assert_eq!(seen, "");
    let seen = engine.script(&["--pid=container:owner"], "tr '\\0' ' ' < /proc/1/cmdline");
    assert_eq!(seen.trim(), "sleep 3600");
    let seen = engine.script(
        &["--network=container:owner"],
        "hostname; readlink /proc/self/ns/net",
    );
    let theirs = engine.within("owner", "readlink /proc/self/ns/net");
    assert_eq!(seen, format!("owners\n{theirs}"));
    let here = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
        link.display().to_string()
    };
    for (option, kind) in [
        ("--pid=host", "pid"),
        ("--ipc=host", "ipc"),
        ("--uts=host", "uts"),
        ("--cgroupns=host", "cgroup"),
    ] {
        let look = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(engine.script(&[option], &look), here(kind), "{option}");
        let of_another = ["--cgroupns=private"];
        assert_ne!(
            engine.script(&of_another, &look),
            here(kind),
            "without {option}"
        );
    }
    let error = engine
        .docker(&["run", "--rm", "--ipc=container:nobody", "busybox", "true"])
        .fails(125);
    assert!(error.contains("No such container: nobody"), "{error}");
    engine.remove(&["owner"]);
}

fn volumes_are_as_asked_for(engine: &Engine<'_>) {
    let context = engine.host.folder().join("context");
    std::fs::create_dir_all(&context).expect("a folder");
    let dockerfile =
        "FROM busybox\nRUN mkdir -m 750 /stuff && echo image > /stuff/file\nVOLUME /stuff\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
    let context = context.display().to_string();
    engine
        .docker(&["build", "-q", "-t", "filled", &context])
        .ok();
    let run = |options: &[&str], script: &str| {
        let words = [&["run", "--rm"], options, &["filled", "sh", "-c", script]].concat();
        engine.docker(&words).ok()
    };
    let look = "ls /stuff; stat -c %a /stuff";
    assert_eq!(run(&["-v", "copied:/stuff"], look), "file\n750");
    assert_eq!(run(&["-v", "bare:/stuff:nocopy"], "ls /stuff"), "");
    let mount = "--mount=type=volume,source=other,target=/stuff,volume-nocopy";
    assert_eq!(run(&[mount], "ls /stuff"), "");
    let refused = run(
        &["-v", "copied:/stuff:ro"],
        "(: > /stuff/x) 2> /dev/null || echo refused",
    );
    assert_eq!(refused, "refused");
    let names = || {
        let listed = engine.docker(&["volume", "ls", "-q"]).ok();
        let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["bare", "copied", "other"]);

    // One that only the image asks for has no name, and goes with its container.
    let words = [
        "run",
        "-d",
        "--name=holder",
        "--stop-signal=KILL",
        "filled",
        "sleep",
        "3600",
    ];
    engine.docker(&words).ok();
    assert_eq!(names().len(), 4);
    engine.within("holder", "echo kept > /stuff/new");
    let seen = engine.script(
        &["--volumes-from=holder:ro"],
        "cat /stuff/new; (: > /stuff/x) 2> /dev/null || echo refused",
    );
    assert_eq!(seen, "kept\nrefused");
    engine.docker(&["rm", "-f", "holder"]).ok();
    assert_eq!(names().len(), 4, "rm without -v keeps it");
    engine.docker(&words).ok();
    assert_eq!(names().len(), 5);
    engine.remove(&["holder"]);
    assert_eq!(names().len(), 4, "rm -v does not");
    let names = names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    engine
        .docker(&[&["volume", "rm"], &names[..]].concat())
        .ok();
    engine.docker(&["rmi", "filled"]).ok();
}

/// Binds with propagation: mounts that are made later, on either side.
fn mounts_go_both_ways(engine: &Engine<'_>) {
    let tree = engine.host.folder().join("tree");
    std::fs::create_dir_all(&tree).expect("a folder");
    let mount = |words: &[&str]| engine.host.run("mount", words).ok();
    let place = tree.display().to_string();
    mount(&["-t", "tmpfs", "-o", "size=1m", "tree", &place]);
    mount(&["--make-private", &place]);
    for propagation in ["rshared", "slave"] {
        let bind = format!("{place}:/tree:{propagation}");
        let error = engine
            .docker(&["run", "--rm", "-v", &bind, "busybox"])
            .fails(125);
        let expected = format!("path {place} is mounted on {place} but it is not a shared");
        assert!(error.contains(&expected), "{error}");
    }
    mount(&["--make-shared", &place]);
    for folder in ["late-rshared", "late-rslave", "late-rprivate", "inside"] {
        std::fs::create_dir(tree.join(folder)).expect("a folder");
    }
    for (propagation, sees, shows) in [
        ("rshared", true, true),
        ("rslave", true, false),
        ("rprivate", false, false),
    ] {
        let bind = format!("{place}:/tree:{propagation}");
        let mounts = ["--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined"];
        engine.sleeper("mounter", &[&mounts[..], &["-v", &bind]].concat());
        let late = tree
            .join(format!("late-{propagation}"))
            .display()
            .to_string();
        mount(&["-t", "tmpfs", "-o", "size=1m", "late", &late]);
        std::fs::write(Path::new(&late).join("file"), "late").expect("a file");
        let look = format!("cat /tree/late-{propagation}/file 2> /dev/null; true");
        assert_eq!(
            engine.within("mounter", &look) == "late",
            sees,
            "{propagation}"
        );
        engine.within(
            "mounter",
            "mount -t tmpfs -o size=1m inside /tree/inside && touch /tree/inside/file",
        );
        assert_eq!(tree.join("inside/file").exists(), shows, "{propagation}");
        engine.within("mounter", "umount /tree/inside");
        engine.remove(&["mounter"]);
        engine.host.run("umount", &[&late]).ok();
    }
    engine.host.run("umount", &[&place]).ok();
}

fn logs_have_a_beginning_and_an_end(engine: &Engine<'_>) {
    let words = ["run", "--name=talker", "busybox", "sh", "-c"];
    let program = "for word in one two three four; do echo $word; usleep 50000; done";
    engine.docker(&[&words[..], &[program]].concat()).ok();
    let told = engine.docker(&["logs", "-t", "talker"]).ok();
    let moments: Vec<&str> = told
        .lines()
        .map(|line| line.split_once(' ').expect("a moment and a word").0)
        .collect();
    let logs = |options: &[&str]| {
        let ran = engine
            .docker(&[&["logs"], options, &["talker"]].concat())
            .ok();
        ran.lines().collect::<Vec<_>>().join(" ")
    };
    let (second, third) = (moments[1], moments[2]);
    assert_eq!(logs(&["--since", second]), "two three four");
    assert_eq!(logs(&["--until", third]), "one two three");
    assert_eq!(logs(&["--since", second, "--until", third]), "two three");
    assert_eq!(logs(&["--since", second, "--tail=1"]), "four");
    assert_eq!(logs(&["--since=1h"]), "one two three four");
    assert_eq!(logs(&["--until=1h"]), "");
    engine.remove(&["talker"]);
}

fn events_are_chosen(engine: &Engine<'_>) {
    let options = ["--label=tier=front", "-v", "chosen:/data", "--network=none"];
    engine.sleeper("told", &options);
    engine.sleeper("untold", &["--network=none"]);
    engine.remove(&["told", "untold"]);
    engine.docker(&["volume", "rm", "chosen"]).ok();
    let events = |filters: &[&str]| {
        let until = now();
        let mut words = vec!["events", "--since=1", "--until", &until, "--format"];
        words.push("{{.Type}} {{.Action}} {{.Actor.Attributes.name}}");
        for filter in filters {
            words.extend(["--filter", filter]);
        }
        engine.docker(&words).ok()
    };
    let started = "container start told";
    for filter in ["container=told", "label=tier=front", "label=tier"] {
        let told = events(&[filter, "event=start"]);
        assert_eq!(told, started, "{filter}");
    }
    let both = "container start told\ncontainer start untold";
    let ends = |told: &str| {
        told.lines()
            .filter(|line| line.ends_with("told"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(
        ends(&events(&["image=busybox", "event=start"])),
        ends(&events(&["event=start"]))
    );
    assert!(ends(&events(&["event=start"])).ends_with(both));
    assert_eq!(
        events(&["container=told", "container=untold", "event=start"]),
        both
    );
    assert_eq!(events(&["event=start", "scope=swarm"]), "");
    let of_volume = events(&["volume=chosen", "event=destroy"]);
    assert!(of_volume.starts_with("volume destroy"), "{of_volume}");
    assert!(
        events(&["type=volume"])
            .lines()
            .all(|line| line.starts_with("volume "))
    );
    let died = events(&["container=told", "event=die", "event=destroy"]);
    assert_eq!(died, "container die told\ncontainer destroy told");
}

/// Now, as the clients of events say it.
fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("it is later");
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

#[test]
fn options_do_what_they_say() {
    at_ours(|engine| {
        for (options, script, expected) in PRIVILEGED {
            assert_eq!(engine.script(options, script), *expected, "{options:?}");
        }
        options_have_their_effects(engine);
    });
}

#[test]
fn dockerd_s_options_do_the_same() {
    at_dockerd(options_have_their_effects);
}

#[test]
fn surroundings_are_what_was_asked_for() {
    at_ours(|engine| {
        surroundings_are_as_asked_for(engine);
        // The reference is in a mount namespace of its own.
        mounts_go_both_ways(engine);
    });
}

#[test]
fn dockerd_s_surroundings_are_the_same() {
    at_dockerd(surroundings_are_as_asked_for);
}

#[test]
fn the_socket_is_its_owner_s_and_its_group_s() {
    let daemon = Daemon::start();
    let socket = daemon.socket().display().to_string();
    let seen = daemon.host().run("stat", &["-c", "%F %a %U", &socket]).ok();
    assert_eq!(seen, "socket 660 root");
    let group = daemon.host().run("stat", &["-c", "%G", &socket]).ok();
    let has_group = daemon.host().run("getent", &["group", "docker"]).code == 0;
    assert_eq!(group, if has_group { "docker" } else { "root" });
    daemon.finish();
}

#[test]
fn the_end_of_memory_is_told() {
    let daemon = Daemon::start();
    daemon.busybox();
    // What it keeps in its memory grows until there is no more.
    let grow = "x=x; while :; do x=$x$x; done";
    let words = [
        "run",
        "--name=hog",
        "--memory=16m",
        "--memory-swap=16m",
        "busybox",
    ];
    daemon
        .docker(&[&words[..], &["sh", "-c", grow]].concat())
        .fails(137);
    assert_eq!(daemon.inspect("hog", "{{.State.OOMKilled}}"), "true");
    let until = now();
    let words = [
        "events",
        "--since=1",
        "--until",
        &until,
        "--filter=container=hog",
    ];
    let told = daemon
        .docker(&[&words[..], &["--format={{.Action}}"]].concat())
        .ok();
    let told: Vec<&str> = told.lines().collect();
    let place = |action: &str| told.iter().position(|one| *one == action);
    assert!(place("oom") > place("start"), "{told:?}");
    assert!(place("oom") < place("die"), "{told:?}");
    daemon.remove_containers();
    daemon.finish();
}
