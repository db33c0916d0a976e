//! A default container beside Docker's: one probe under both, and what differs is
//! what a newer Docker than the reference does, line by line. And what clients are
//! told of containers and the like, command by command.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dhow_testkit::{Daemon, Dockerd, Host, Ran, Reference, compile};

/// The probe, compiled.
fn probe(host: &Host) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/probe/probe.c");
    compile(host, Path::new(source))
}

/// What a container tells of itself besides; `host` is the folder of the host's
/// namespaces, by number.
const SCRIPT: &str = "/probe; \
    grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid|Speculation)' /proc/self/status; id; umask; pwd; \
    echo terminal; tty; \
    for kind in cgroup ipc mnt net pid pid_for_children time user uts; do \
        there=$(readlink /proc/self/ns/$kind); grep -qxF \"$there\" /namespaces && echo \"$kind is the host's\" || echo \"$kind is its own\"; done; \
    echo devices; cd /dev; for name in *; do stat -c '%n %F %a %u:%g %t:%T %N' $name; done; cd /; \
    for name in shm mqueue pts; do stat -f -c \"$name %T\" /dev/$name; done; \
    echo kernel; cd /proc/sys; for name in kernel/hostname kernel/domainname kernel/msgmax kernel/shmmax kernel/shm_rmid_forced \
        net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range net/ipv4/ip_forward net/core/somaxconn; do \
        echo $name $(cat $name); done; cd /; \
    for path in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi \
        /proc/timer_list /proc/timer_stats /sys/firmware /sys/devices/virtual/powercap /sys/kernel/security /sys/fs/selinux; do \
        if [ -d $path ]; then echo \"$path holds $(ls $path 2>/dev/null | wc -l)\"; elif [ -e $path ]; then echo \"$path has $(head -c 10 $path 2>/dev/null | wc -c)\"; else echo \"$path is not there\"; fi; done; \
    for path in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys /sys/fs/cgroup /proc/1/oom_score_adj; do \
        [ -e $path ] || continue; if [ -w $path ]; then echo \"$path can be written\"; else echo \"$path cannot be written\"; fi; done";

/// The mounts of a container, as they are seen there: place, options, kind; which
/// filesystem of the host the files in `/etc` lie on is left out.
const MOUNTS: &str = "while read number parent device root place options rest; do \
    kind=${rest#*- }; kind=${kind%% *}; case $place in /etc/*) kind=file;; esac; echo \"$place $options $kind\"; done < /proc/self/mountinfo";

fn lines(ran: Ran) -> Vec<String> {
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout.lines().map(str::to_owned).collect()
}

fn told(docker: &dyn Fn(&[&str]) -> Ran, host: &Host, options: &[&str]) -> Vec<String> {
    let probe = format!("{}:/probe:ro", probe(host).display());
    let mark = host.folder().join("mark");
    std::fs::write(&mark, "").expect("written");
    let mark = format!("{}:/in-a-container:ro", mark.display());
    let spaces = host.folder().join("namespaces");
    let mut list = String::new();
    for entry in std::fs::read_dir("/proc/self/ns")
        .expect("mounted")
        .flatten()
    {
        let space = std::fs::read_link(entry.path()).expect("a link");
        list.push_str(&format!("{}\n", space.display()));
    }
    std::fs::write(&spaces, list).expect("written");
    let spaces = format!("{}:/namespaces:ro", spaces.display());
    let run = [
        "run",
        "--rm",
        "--hostname=inside",
        "-v",
        &probe,
        "-v",
        &mark,
        "-v",
        &spaces,
    ];
    let all = [&run[..], options, &["busybox", "sh", "-c", SCRIPT]].concat();
    let mut told = lines(docker(&all));
    let run = ["run", "--rm", "--hostname=inside"];
    let mut mounts = lines(docker(
        &[&run[..], options, &["busybox", "sh", "-c", MOUNTS]].concat(),
    ));
    mounts.sort();
    told.extend(mounts.into_iter().map(|mount| format!("mount {mount}")));
    if ["--privileged", "--cap-add=ALL"]
        .iter()
        .any(|all| options.contains(all))
    {
        told = told.iter().map(|line| of_their_time(line)).collect();
    }
    told
}

/// A line about capabilities, without those that the reference does not know: all that
/// came with Linux 5.8 and later. It gives all others only.
fn of_their_time(line: &str) -> String {
    const N_KNOWN: u32 = 38;
    let number = |text: &str| text.trim().parse::<u32>().ok();
    if let Some((name, set)) = line
        .split_once(":\t")
        .filter(|(name, _)| name.starts_with("Cap"))
        && let Ok(set) = u64::from_str_radix(set, 16)
    {
        return format!("{name} {:x}", set & ((1 << N_KNOWN) - 1));
    }
    match line
        .strip_prefix("bounding ")
        .and_then(|rest| rest.split_once(':'))
    {
        Some((bit, _)) if number(bit) >= Some(N_KNOWN) => format!("bounding {bit}"),
        _ => line.to_owned(),
    }
}

/// What one says and the other does not.
fn difference(ours: &[String], theirs: &[String]) -> (Vec<String>, Vec<String>) {
    let set = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
    let only = |some: &[String], others: &[String]| {
        let others = set(others);
        let lines = some.iter().filter(|line| !others.contains(*line));
        lines.cloned().collect::<Vec<_>>()
    };
    (only(ours, theirs), only(theirs, ours))
}

/// What Docker does since the reference (20.10), and what we do besides: lines of
/// ours that it does not have.
const OURS: [&str; 43] = [
    // Refused since Docker 25, and 28.
    "io_uring_setup: EPERM",
    "call 425: EPERM",
    "call 426: EPERM",
    "call 427: EPERM",
    "socket AF_VSOCK: EPERM",
    // Granted since: process_vm_readv and its like, name_to_handle_at, pkey_*.
    "process_vm_readv: done",
    "call 303: EINVAL",
    "call 310: EINVAL",
    "call 311: EINVAL",
    "call 329: EINVAL",
    "call 330: EINVAL",
    "call 331: EINVAL",
    // Calls that its libseccomp does not know: granted or refused by name.
    "call 450: EPERM",
    "call 451: EBADF",
    "call 452: EINVAL",
    "call 454: EINVAL",
    "call 455: EINVAL",
    "call 456: EINVAL",
    "call 457: EPERM",
    "call 458: EPERM",
    "call 459: EPERM",
    "call 460: EPERM",
    "call 461: EPERM",
    "call 462: EINVAL",
    "call 463: EINVAL",
    "call 464: EINVAL",
    "call 465: EINVAL",
    "call 466: EINVAL",
    // A view of the control groups of its own on version 1, too.
    "cgroup is its own",
    // Masked since Docker 28.
    "/proc/interrupts has 0",
    "mount /proc/interrupts rw,relatime devtmpfs",
    // Masks are stricter, and do not lie on the container's own /dev.
    "mount /proc/acpi ro,nosuid,nodev,noexec,relatime tmpfs",
    "mount /proc/keys rw,relatime devtmpfs",
    "mount /proc/timer_list rw,relatime devtmpfs",
    "mount /sys/firmware ro,nosuid,nodev,noexec,relatime tmpfs",
    "mount /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tmpfs",
    // The same calls of those with the right to administer.
    "call 450: EINVAL",
    "call 457: EINVAL",
    "call 458: EINVAL",
    "call 459: EFAULT",
    "call 460: EINVAL",
    "call 461: EINVAL",
    "call 467: EINVAL",
];

/// What it has in their place.
const THEIRS: [&str; 36] = [
    "io_uring_setup: done",
    "call 425: EFAULT",
    "call 426: EINVAL",
    "call 427: EINVAL",
    "socket AF_VSOCK: done",
    "process_vm_readv: EPERM",
    "call 303: EPERM",
    "call 310: EPERM",
    "call 311: EPERM",
    "call 329: EPERM",
    "call 330: EPERM",
    "call 331: EPERM",
    "call 450: ENOSYS",
    "call 451: ENOSYS",
    "call 452: ENOSYS",
    "call 454: ENOSYS",
    "call 455: ENOSYS",
    "call 456: ENOSYS",
    "call 457: ENOSYS",
    "call 458: ENOSYS",
    "call 459: ENOSYS",
    "call 460: ENOSYS",
    "call 461: ENOSYS",
    "call 462: ENOSYS",
    "call 463: ENOSYS",
    "call 464: ENOSYS",
    "call 465: ENOSYS",
    "call 466: ENOSYS",
    "call 467: ENOSYS",
    "cgroup is the host's",
    "/proc/interrupts has 10",
    "mount /proc/acpi ro,relatime tmpfs",
    "mount /proc/keys rw,nosuid tmpfs",
    "mount /proc/timer_list rw,nosuid tmpfs",
    "mount /sys/firmware ro,relatime tmpfs",
    "mount /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime tmpfs",
];

#[test]
fn a_default_container_is_as_dockers() {
    let daemon = Daemon::start();
    daemon.busybox();
    let reference = Reference::start();
    reference.busybox();
    let mut wrong = Vec::new();
    for options in [
        &[][..],
        &["--cap-add=SYS_ADMIN"],
        &["--cap-drop=ALL", "--read-only"],
        &["--security-opt=no-new-privileges", "-u", "web"],
        &["--privileged"],
        &["--cap-add=ALL"],
        &["--security-opt=seccomp=unconfined"],
        &["--user=1000"],
        &["--read-only"],
        &["--pid=host"],
        &["--ipc=host"],
    ] {
        let ours = told(&|words| daemon.docker(words), daemon.host(), options);
        let theirs = told(&|words| reference.docker(words), reference.host(), options);
        // The probe has come to its end.
        assert!(
            ours.iter().any(|line| line.starts_with("call 479: ")),
            "{ours:#?}"
        );
        let (mut ours, mut theirs) = difference(&ours, &theirs);
        ours.retain(|line| !OURS.contains(&line.as_str()));
        theirs.retain(|line| !THEIRS.contains(&line.as_str()));
        if !ours.is_empty() || !theirs.is_empty() {
            wrong.push((options, ours, theirs));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    daemon.finish();
}

/// Command lines, of which each is told the same at both. They speak of containers
/// that run (`up`, whose port is published, `db` and `web`, which links to it, `odd`,
/// which wrote), were made (`made`) or have ended (`gone`), and of a volume (`data`).
const TOLD: &str = r#"
ps -a --format {{.Names}}|{{.Image}}|{{.Command}}|{{.Ports}}|{{.Networks}}|{{.Mounts}}|{{.LocalVolumes}}|{{.Labels}}|{{.State}}
ps -a --no-trunc --format {{.ID}}|{{.Names}}|{{.Command}}
ps -a --filter publish=18600 --format {{.Names}}
ps -a --filter publish=80 --format {{.Names}}
ps -a --filter publish=18000-19000 --format {{.Names}}
ps -a --filter publish=18600/udp --format {{.Names}}
ps -a --filter publish=81 --format {{.Names}}
ps -a --filter expose=80 --format {{.Names}}
ps -a --filter expose=80-90/tcp --format {{.Names}}
ps -a --filter expose=5432 --format {{.Names}}
ps -a --filter expose=80/udp --format {{.Names}}
ps -a --filter volume=data --filter volume=nobody --format {{.Names}}
ps -a --filter volume=/data --format {{.Names}}
ps -a --filter network=net --format {{.Names}}
ps -a --filter ancestor=busybox --filter label=x --format {{.Names}}
ps -a --filter before=odd --filter since=up --format {{.Names}}
ps -a --filter exited=3 --format {{.Names}}
ps -a --filter status=created --filter status=exited --format {{.Names}}
ps -n 2 --format {{.Names}}
port up
port up 80/udp
top odd -o odd
top made
diff made
logs odd
logs --tail 1 odd
wait gone made
inspect --format {{json .HostConfig.Links}} web
inspect --format {{.Path}}|{{json .Args}}|{{json .NetworkSettings.Ports}} up
inspect --format {{json .State.Health}}|{{.State.ExitCode}}|{{.State.Error}} gone
inspect --type volume --format {{.Name}}|{{.Driver}}|{{.Scope}}|{{json .Options}} data
history --format {{.CreatedBy}}|{{.Comment}} busybox
history --format {{.Comment}} note
inspect --type image --format {{.Comment}}|{{.Author}}|{{json .Config.Cmd}} note
system df --format {{.Type}}|{{.TotalCount}}|{{.Active}}
system df -v --format {{range .Volumes}}{{.Name}}|{{.Links}}|{{.Size}}{{end}}
volume ls --filter dangling=false --format {{.Name}}|{{.Driver}}|{{.Scope}}
network ls --filter type=custom --format {{.Name}}|{{.Driver}}|{{.Scope}}|{{.Internal}}|{{.Labels}}
exec web cat /etc/hosts
system prune -f --filter label=nobody
create --network host -p 80:80 --name on-host busybox
rename db store
inspect --format {{json .HostConfig.Links}} web
restart -t 0 web
exec web sh -c env
rm --link web/nobody
rm --link web/store
inspect --format {{json .HostConfig.Links}} web
exec web cat /etc/hosts
"#;

/// A text with `ID` for identifiers, and `ADDRESS` for addresses.
fn without_chance(text: &str) -> String {
    let mut plain = String::new();
    for word in
        text.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.')
    {
        let bare = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let is_id =
            matches!(bare.len(), 12 | 64) && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_address = bare.parse::<std::net::Ipv4Addr>().is_ok();
        match (is_id, is_address && bare.starts_with("172.")) {
            (true, _) => plain.push_str(&word.replacen(bare, "ID", 1)),
            (_, true) => plain.push_str(&word.replacen(bare, "ADDRESS", 1)),
            _ => plain.push_str(word),
        }
    }
    plain
}

fn make_what_is_told(daemon: &dyn Dockerd) {
    daemon.busybox();
    daemon
        .docker(&["network", "create", "--label=a=b", "net"])
        .ok();
    daemon.sleeper(
        "up",
        &[
            "-p=127.0.0.1:18600:80",
            "--network=net",
            "-v=data:/data",
            "-l=x=y",
        ],
    );
    daemon
        .docker(&[
            "create",
            "--name=made",
            "-p=81:81",
            "--expose=80",
            "busybox",
            "sh",
            "-c",
            "echo a b",
        ])
        .ok();
    daemon.sleeper("db", &["--expose=5432"]);
    daemon.sleeper("web", &["--link=db:store"]);
    let script = "echo one; echo two; exec sleep 3600";
    daemon
        .docker(&["run", "-d", "--name=odd", "busybox", "sh", "-c", script])
        .ok();
    let gone = daemon.docker(&["run", "--name=gone", "busybox", "sh", "-c", "exit 3"]);
    assert_eq!(gone.code, 3);
    let words = [
        "commit",
        "-m=a note",
        "-a=somebody",
        "-c=CMD x",
        "gone",
        "note",
    ];
    daemon.docker(&words).ok();
}

#[test]
fn what_is_there_is_told_as_dockerd_tells_it() {
    let (daemon, reference) = (Daemon::start(), Reference::start());
    make_what_is_told(&daemon);
    make_what_is_told(&reference);
    let mut differences = Vec::new();
    for row in TOLD.trim().lines() {
        // A template may have spaces.
        let (words, template) = match row.split_once("--format ") {
            Some((before, rest)) => match rest.rfind("}} ") {
                Some(end) => (
                    format!("{before}{}", &rest[end + 3..]),
                    Some(&rest[..end + 2]),
                ),
                None => (before.to_owned(), Some(rest)),
            },
            None => (row.to_owned(), None),
        };
        let mut words: Vec<&str> = words.split_whitespace().collect();
        let template = template.map(|text| format!("--format={text}"));
        words.extend(template.as_deref());
        let told = |daemon: &dyn Dockerd| {
            let ran = daemon.docker(&words);
            let text = format!("{}: {}{}", ran.code, ran.stdout, ran.stderr);
            let mut lines: Vec<String> = without_chance(&text).lines().map(str::to_owned).collect();
            if row.starts_with("exec") {
                // Lines of files and variables are in no order that matters.
                lines.retain(|line| !line.contains("::"));
                lines.sort();
            }
            lines.join("\n")
        };
        let (ours, theirs) = (told(&daemon), told(&reference));
        // Capitals came and went.
        if ours.to_lowercase() != theirs.to_lowercase() {
            differences.push(format!("{row}\n  ours: {ours}\n  theirs: {theirs}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "net"]).ok();
    daemon.docker(&["volume", "rm", "data"]).ok();
    daemon.docker(&["rmi", "note"]).ok();
    daemon.finish();
}
