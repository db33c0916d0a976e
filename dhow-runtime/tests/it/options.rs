//! Options of the command line, each beside runc: the same words do the same. Needs
//! Debian's `runc`, `bsdutils` (script) and `procps` (ps).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::{Bundle, EXECUTABLE, words};

/// A runtime, and a bundle for it.
struct Peer<'a> {
    program: &'a str,
    root: PathBuf,
    bundle: &'a Bundle,
}

impl Peer<'_> {
    fn command(&self, before: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command
            .arg("--root")
            .arg(&self.root)
            .args(before)
            .args(words);
        command
    }

    /// What a command says, and how it ends.
    fn said(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = self.command(&[], words).output();
        let output = output.expect("tests need runc: apt-get install runc");
        if !output.status.success() {
            eprintln!(
                "{}: {}",
                self.program,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    }

    fn id(&self) -> &str {
        &self.bundle.id
    }

    fn path(&self) -> &str {
        self.bundle.path().to_str().unwrap()
    }

    #[track_caller]
    fn start(&self) {
        let run = ["run", "--detach", "--bundle", self.path(), self.id()];
        let mut run = self.command(&[], &run);
        run.stdin(Stdio::null()).stdout(Stdio::null());
        assert!(run.status().unwrap().success(), "{}", self.program);
    }

    fn state(&self) -> Value {
        let (_, text) = self.said(&["state", self.id()]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn exec(&self, options: &[&str], script: &str) -> String {
        let words = [&["exec"], options, &[self.id(), "sh", "-c", script]].concat();
        let (code, out) = self.said(&words);
        format!("{code:?} {out}")
    }

    #[track_caller]
    fn await_end(&self, is_over: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_over() {
            assert!(Instant::now() < deadline, "{}: it goes on", self.program);
            std::thread::yield_now();
        }
    }
}

/// What is to be the same: a program, and what is done to it and said about it.
type Case = (&'static str, &'static str, fn(&Peer<'_>) -> Vec<String>);

const SLEEPS: &str = "exec sleep 1000";

const CASES: &[Case] = &[
    ("no-pivot", "echo in $(ls / | wc -l); exit 3", |peer| {
        let run = ["run", "--no-pivot", "--bundle", peer.path(), peer.id()];
        vec![format!("{:?}", peer.said(&run))]
    }),
    ("keep", "exit 4", |peer| {
        let run = ["run", "--keep", "--bundle", peer.path(), peer.id()];
        let run = peer.said(&run);
        let kept = peer.state()["status"].to_string();
        let delete = peer.said(&["delete", peer.id()]);
        let gone = peer.said(&["state", peer.id()]);
        vec![format!("{run:?} {kept} {delete:?} {gone:?}")]
    }),
    ("annotations", SLEEPS, |peer| {
        peer.start();
        vec![peer.state()["annotations"].to_string()]
    }),
    ("update", SLEEPS, |peer| {
        peer.start();
        let limits = || {
            peer.exec(
                &[],
                "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.shares",
            )
        };
        let file = peer.bundle.path().join("resources.json");
        let resources = r#"{"memory":{"limit":67108864},"cpu":{"shares":512},"pids":{"limit":33}}"#;
        std::fs::write(&file, resources).unwrap();
        let file = file.to_str().unwrap();
        let mut seen = vec![format!(
            "{:?}",
            peer.said(&["update", "--resources", file, peer.id()])
        )];
        seen.push(limits());
        for options in [
            "--memory 32m --memory-swap 64M --pids-limit 44",
            "--memory 0.5g --memory-swap 1GiB",
            "--memory 33554432 --cpu-share 256",
            "--memory lots",
        ] {
            let options = words(options);
            let mut update = vec!["update"];
            update.extend(options.iter().map(String::as_str));
            update.push(peer.id());
            seen.push(format!("{:?}", peer.said(&update)));
            seen.push(limits());
        }
        seen
    }),
    ("kill-all", SLEEPS, |peer| {
        peer.start();
        let pid_file = peer.bundle.path().join("pid");
        let file = pid_file.to_str().unwrap();
        let exec = [
            "exec",
            "--detach",
            "--pid-file",
            file,
            peer.id(),
            "sleep",
            "2000",
        ];
        let mut exec = peer.command(&[], &exec);
        exec.stdin(Stdio::null()).stdout(Stdio::null());
        assert!(exec.status().unwrap().success());
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let process = Path::new("/proc").join(pid.trim());
        let command = || std::fs::read(process.join("cmdline")).unwrap();
        // runc's is told of before it is the program.
        peer.await_end(|| command().starts_with(b"sleep"));
        let command = command();
        let kill = peer.said(&["kill", "--all", peer.id(), "KILL"]);
        peer.await_end(|| peer.state()["status"] == "stopped" && !is_alive(&process));
        vec![format!("{:?} {kill:?}", String::from_utf8_lossy(&command))]
    }),
    ("ps", SLEEPS, |peer| {
        peer.start();
        let process = Path::new("/proc").join(peer.state()["pid"].to_string());
        let command = || std::fs::read(process.join("cmdline")).unwrap_or_default();
        peer.await_end(|| command().starts_with(b"sleep"));
        let table = |options: &[&str]| {
            let (code, out) = peer.said(&[&["ps", peer.id()], options].concat());
            let rows = out.lines().map(|line| {
                let words = words(line);
                // Numbers and times differ from run to run.
                let is_lasting =
                    |word: &&String| !word.contains(|letter: char| letter.is_ascii_digit());
                words
                    .iter()
                    .filter(is_lasting)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            format!("{code:?} {:?}", rows.collect::<Vec<_>>())
        };
        vec![
            table(&[]),
            table(&["-o", "pid,args"]),
            table(&["-o", "args"]).chars().take(7).collect(),
        ]
    }),
    ("exec", SLEEPS, |peer| {
        peer.start();
        let status =
            "grep -E '^(Uid|Gid|Groups|CapBnd|CapPrm|CapEff|NoNewPrivs)' /proc/self/status";
        vec![
            peer.exec(&[], status),
            peer.exec(&["--cap", "CAP_NET_ADMIN", "--cap", "CAP_SYS_TIME"], status),
            peer.exec(
                &["--additional-gids", "7", "--additional-gids", "8"],
                status,
            ),
            peer.exec(&["--no-new-privs"], status),
            peer.exec(
                &["--user", "5:6", "--cwd", "/tmp", "--env", "A=b"],
                "id; pwd; echo $A",
            ),
            peer.exec(&[], "exit 9"),
        ]
    }),
    ("exec-tty", SLEEPS, |peer| {
        peer.start();
        let root = peer.root.display();
        let exec = format!(
            "{} --root {root} exec --tty {} tty",
            peer.program,
            peer.id()
        );
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &exec, "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .expect("tests need script: apt-get install bsdutils");
        let out = String::from_utf8_lossy(&output.stdout);
        // Around it is what the terminal adds.
        let is_there = out.contains("/dev/pts/0");
        vec![format!("{:?} {is_there}", output.status.code())]
    }),
    ("log", SLEEPS, |peer| {
        let log = peer.bundle.path().join("log");
        let options = ["--log", log.to_str().unwrap(), "--log-format", "text"];
        let status = peer
            .command(&options, &["state", "nothing-here"])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        let (time, rest) = text.split_once(" level=").unwrap();
        assert!(time.starts_with("time=\"2"), "{text}");
        std::fs::remove_file(log).unwrap();
        vec![format!("{:?} {rest}", status.code())]
    }),
];

fn is_alive(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    // Somebody collects it, sooner or later.
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn runc_takes_the_same_options() {
    for (name, script, steps) in CASES {
        let mut bundle = Bundle::new(&format!("options-{name}"), script);
        bundle.linux().seccomp = None;
        bundle
            .spec
            .annotations
            .insert("org.example.a".to_owned(), "b".to_owned());
        bundle.write();
        let [theirs, ours] = ["runc", EXECUTABLE].map(|program| {
            let root = match program {
                EXECUTABLE => bundle.runtime_root(),
                _ => bundle.path().join("runc"),
            };
            let peer = Peer {
                program,
                root,
                bundle: &bundle,
            };
            let seen = steps(&peer);
            // Those that ran to their end are gone already.
            peer.command(&[], &["delete", "--force", peer.id()])
                .stderr(Stdio::null())
                .status()
                .unwrap();
            seen
        });
        assert_eq!(ours, theirs, "{name}");
        bundle.audit();
    }
}

fn parsed(command: &mut Command) -> Value {
    let output = command
        .output()
        .expect("tests need runc: apt-get install runc");
    assert!(output.status.success(), "{command:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What runc can do, this can.
#[test]
fn runc_has_no_more_features() {
    let theirs = parsed(Command::new("runc").arg("features"));
    let ours = parsed(Command::new(EXECUTABLE).arg("features"));
    for list in [
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
        "/linux/seccomp/operators",
    ] {
        let names = |features: &Value| features.pointer(list).unwrap().as_array().unwrap().clone();
        let known = names(&ours);
        let missing: Vec<_> = names(&theirs)
            .into_iter()
            .filter(|name| !known.contains(name))
            .collect();
        // The calls that make mounts from descriptors have no words for these.
        let wordless: &[&str] = match list {
            "/mountOptions" => &["acl", "iversion", "loud", "noacl", "noiversion", "silent"],
            _ => &[],
        };
        assert_eq!(missing, wordless, "{list}");
    }
    for switch in [
        "cgroup/v1",
        "cgroup/v2",
        "cgroup/systemd",
        "seccomp/enabled",
    ] {
        assert_eq!(
            ours.pointer(&format!("/linux/{switch}")),
            Some(&json!(true))
        );
    }
}

/// A configuration to start from, and what matters of it.
fn template(program: &str, options: &[&str]) -> (tempfile::TempDir, Value) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command
        .arg("spec")
        .args(options)
        .arg("--bundle")
        .arg(directory.path());
    assert!(command.status().unwrap().success());
    let text = std::fs::read(directory.path().join("config.json")).unwrap();
    (directory, serde_json::from_slice(&text).unwrap())
}

#[test]
fn runc_begins_with_the_same_template() {
    for options in [&[][..], &["--rootless"]] {
        let facts = |program| {
            let (_directory, spec) = template(program, options);
            let mut namespaces: Vec<_> = spec["linux"]["namespaces"]
                .as_array()
                .unwrap()
                .iter()
                .map(|namespace| namespace["type"].to_string())
                // runc asks for one with version 2 alone.
                .filter(|kind| kind != "\"cgroup\"")
                .collect();
            namespaces.sort();
            let mounts: BTreeMap<_, _> = spec["mounts"]
                .as_array()
                .unwrap()
                .iter()
                .map(|mount| {
                    let options = mount["options"].as_array().cloned().unwrap_or_default();
                    let mut options: Vec<_> = options.iter().map(Value::to_string).collect();
                    options.sort();
                    (mount["destination"].to_string(), options)
                })
                .collect();
            let maps = ["uidMappings", "gidMappings"].map(|map| spec["linux"][map].clone());
            (namespaces, mounts, maps, spec["linux"]["resources"].clone())
        };
        assert_eq!(facts(EXECUTABLE), facts("runc"), "{options:?}");
    }
}

#[test]
fn the_template_runs() {
    for (options, users) in [(&[][..], "0 0 4294967295"), (&["--rootless"], "0 0 1")] {
        let (_directory, mut spec) = template(EXECUTABLE, options);
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["sh", "-c", "id -u; cat /proc/self/uid_map; hostname"]);
        let bundle = Bundle::new("template", "");
        let text = serde_json::to_vec(&spec).unwrap();
        std::fs::write(bundle.path().join("config.json"), text).unwrap();
        let output = bundle
            .command(&["run", "--bundle"])
            .arg(bundle.path())
            .arg(&bundle.id)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{options:?}: {errors}");
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(words(&out).join(" "), format!("0 {users} dhow"));
        bundle.audit();
    }
}

#[test]
fn bundles_of_every_version_run() {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.0", "1.2.1", "1.3.0"] {
        let mut bundle = Bundle::new("version", "echo in");
        bundle.spec.oci_version = version.to_owned();
        assert_eq!(bundle.output(), "in\n", "{version}");
        bundle.audit();
    }
}

#[test]
fn what_is_not_limited_is_refused() {
    let bundle = Bundle::new("rdt", "");
    for option in ["--l3-cache-schema", "--mem-bw-schema"] {
        let output = bundle
            .command(&["update", option, "MB:0=20", "nothing-here"])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(errors.contains("Intel RDT is not supported"), "{errors}");
    }
}
