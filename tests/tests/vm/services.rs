//! Services of the host that containers use: a file server, the journal.

use std::path::Path;
use std::process::{Child, Stdio};

use dhow_testkit::{Daemon, Host};
use serde_json::Value;

use crate::{inspect, remove};

/// A server of NFSv4 on a host, at its loopback address. What it serves it is asked
/// for by the kernel, so it ends with the host's namespace.
struct FileServer<'h> {
    host: &'h Host,
    folder: &'h Path,
    mountd: Child,
}

impl<'h> FileServer<'h> {
    fn start(host: &'h Host, folder: &'h Path) -> Self {
        std::fs::create_dir(folder).expect("a folder");
        let control = ["-t", "nfsd", "nfsd", "/proc/fs/nfsd"];
        host.run("mount", &control).ok();
        let export = format!("127.0.0.1:{}", folder.display());
        let how = ["-o", "rw,insecure,no_root_squash,no_subtree_check,fsid=0"];
        host.run("exportfs", &[&how[..], &[&export]].concat()).ok();
        let mountd = host
            .command("rpc.mountd")
            .args(["--foreground", "-N", "2", "-N", "3"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rpc.mountd starts");
        // A new server waits for clients of the one before; ten seconds is the least.
        let grace = "cd /proc/fs/nfsd && echo 10 >nfsv4leasetime && echo 10 >nfsv4gracetime";
        host.run("sh", &["-c", grace]).ok();
        let threads = [
            "-N",
            "3",
            "--no-udp",
            "--host",
            "127.0.0.1",
            "--port",
            "2049",
            "2",
        ];
        host.run("rpc.nfsd", &threads).ok();
        Self {
            host,
            folder,
            mountd,
        }
    }

    fn stop(mut self) {
        self.host.run("rpc.nfsd", &["0"]).ok();
        self.mountd.kill().expect("it runs");
        self.mountd.wait().expect("it ended");
        self.host.run("exportfs", &["-au"]).ok();
        self.host.run("umount", &["/proc/fs/nfsd"]).ok();
        std::fs::remove_dir_all(self.folder).expect("it is there");
    }
}

fn is_mounted(kind: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("proc is mounted");
    mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some(kind))
}

#[test]
#[ignore = "needs a file server: make vm-test"]
fn volumes_lie_on_a_file_server() {
    let daemon = Daemon::start();
    daemon.busybox_by_dhow();
    let folder = Path::new("/mnt/ext4/share");
    let server = FileServer::start(daemon.host(), folder);
    std::fs::write(folder.join("greeting"), "hello\n").expect("written");
    let create = |name: &str, device: &str| {
        let options = ["-o", "type=nfs", "-o", device];
        let how = ["-o", "o=addr=127.0.0.1,nfsvers=4.2,rw"];
        let words = [&["volume", "create", "-d", "local"], &options[..], &how].concat();
        daemon.dhow(&[&words[..], &[name]].concat()).ok();
    };
    let run = |volume: &str, script: &str| {
        let mount = format!("{volume}:/data");
        let words = ["run", "--rm", "--network", "none", "-v", &mount];
        daemon.dhow(&[&words[..], &["busybox", "sh", "-c", script]].concat())
    };
    create("share", "device=:/");
    let script = "cat /data/greeting && echo back >/data/answer && stat -f -c %T /data";
    assert_eq!(run("share", script).ok(), "hello\nnfs");
    let answer = std::fs::read_to_string(folder.join("answer"));
    assert_eq!(answer.expect("it was written"), "back\n");
    // Mounted while somebody uses it.
    assert!(!is_mounted("nfs4"), "it stays mounted");

    create("absent", "device=:/absent");
    let refused = run("absent", "true");
    assert_eq!(refused.code, 125, "{refused:?}");
    let told =
        refused.stderr.contains("/absent") && refused.stderr.contains("no such file or directory");
    assert!(told, "{refused:?}");
    assert_eq!(daemon.dhow(&["ps", "-aq"]).ok(), "");
    daemon.dhow(&["volume", "rm", "share", "absent"]).ok();
    server.stop();
    daemon.finish();
}

#[test]
#[ignore = "needs systemd's journal: make vm-test"]
fn lines_reach_the_journal() {
    let daemon = Daemon::start();
    daemon.busybox_by_dhow();
    let options = [
        "run",
        "--name",
        "talker",
        "--network",
        "none",
        "--log-driver",
        "journald",
        "--log-opt",
        "tag=said-{{.Name}}",
        "--log-opt",
        "labels=team",
        "--label",
        "team=red",
    ];
    let script = "echo to say; echo to complain >&2; printf 'no end'";
    let words = [&options[..], &["busybox", "sh", "-c", script]].concat();
    daemon.dhow(&words).ok();
    daemon.host().run("journalctl", &["--sync"]).ok();
    let id = inspect(&daemon, "talker", "{{.Id}}");
    let of_it = format!("CONTAINER_ID_FULL={id}");
    let lines = ["-o", "json", "--no-pager", &of_it];
    let found = daemon.host().run("journalctl", &lines).ok();
    let mut entries: Vec<Value> = found
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    entries.sort_by_key(|entry| entry["MESSAGE"].to_string());
    let said = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        (text("MESSAGE"), text("PRIORITY"))
    };
    let expected = [("no end", "6"), ("to complain", "3"), ("to say", "6")];
    let expected = expected.map(|(line, priority)| (line.to_owned(), priority.to_owned()));
    assert_eq!(entries.iter().map(said).collect::<Vec<_>>(), expected);
    for (field, value) in [
        ("CONTAINER_NAME", "talker"),
        ("CONTAINER_ID", &id[..12]),
        ("CONTAINER_TAG", "said-talker"),
        ("SYSLOG_IDENTIFIER", "said-talker"),
        ("IMAGE_NAME", "busybox"),
        ("TEAM", "red"),
    ] {
        assert!(
            entries.iter().all(|entry| entry[field] == value),
            "{field}: {entries:#?}"
        );
    }
    // What is asked of the daemon is kept beside it.
    let logs = daemon.dhow(&["logs", "talker"]);
    assert_eq!(logs.code, 0, "{logs:?}");
    assert!(logs.stdout.contains("to say"), "{logs:?}");
    remove(&daemon, &["talker"]);
    daemon.finish();
}
