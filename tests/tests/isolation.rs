//! What a hostile program in a container can reach: the kernel, other processes,
//! other people's keys. One intruder under our daemon and Docker's: what both grant
//! is written down here, and so is where they differ.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};

use dhow_testkit::{Daemon, Dockerd, Host, Reference, compile, runtime};

/// The intruder at a daemon, and what every container of its own has mounted.
struct Intruder<'a> {
    dockerd: &'a dyn Dockerd,
    program: String,
    mounts: [String; 2],
}

impl<'a> Intruder<'a> {
    fn at(dockerd: &'a dyn Dockerd) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/probe/intruder.c");
        let program = compile(dockerd.host(), Path::new(source));
        let mark = dockerd.host().folder().join("mark");
        std::fs::write(&mark, "").expect("written");
        let mounts = [
            format!("{}:/intruder:ro", program.display()),
            format!("{}:/in-a-container:ro", mark.display()),
        ];
        Self {
            dockerd,
            program: program.display().to_string(),
            mounts,
        }
    }

    /// `docker run` of it with these options, to these words.
    fn words<'b>(&'b self, options: &[&'b str], words: &[&'b str]) -> Vec<&'b str> {
        let [program, mark] = &self.mounts;
        let run = ["run", "-v", program.as_str(), "-v", mark.as_str()];
        [&run[..], options, &["busybox", "/intruder"], words].concat()
    }

    /// What came of its attempts, one a line.
    #[track_caller]
    fn tries(&self, options: &[&str], words: &[&str]) -> Vec<String> {
        let options = [&["--rm", "--network=none"], options].concat();
        let told = self.dockerd.docker(&self.words(&options, words)).ok();
        let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
        assert_eq!(lines.pop().as_deref(), Some("the end"), "{told}");
        lines
    }
}

/// What was granted.
fn granted(lines: &[String]) -> Vec<&str> {
    let granted = lines.iter().filter_map(|line| line.strip_suffix(": done"));
    granted.collect()
}

/// Fails unless both say the same, but for these lines of ours and what the reference
/// has in their place.
#[track_caller]
fn are_alike(ours: &[String], theirs: &[String], but: &[(&str, &str)]) {
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(theirs).filter(|(one, other)| one != other);
    let pairs: Vec<(&str, &str)> = pairs
        .map(|(one, other)| (one.as_str(), other.as_str()))
        .collect();
    assert_eq!(pairs, but);
}

/// Both daemons, each with the image.
fn both() -> (Daemon, Reference) {
    let daemon = Daemon::start();
    daemon.busybox();
    let reference = Reference::start();
    reference.busybox();
    (daemon, reference)
}

#[test]
fn the_kernel_is_out_of_reach() {
    let (daemon, reference) = both();
    let ours = Intruder::at(&daemon).tries(&[], &["kernel"]);
    let theirs = Intruder::at(&reference).tries(&[], &["kernel"]);
    // What Docker has closed since the reference (20.10).
    let closed = [
        ("open device tunnel: EPERM", "open device tunnel: done"),
        ("a ring of requests: EPERM", "a ring of requests: done"),
        ("a socket to machines: EPERM", "a socket to machines: done"),
    ];
    are_alike(&ours, &theirs, &closed);
    // Nodes can be made, and not used but for those that every container has. Files
    // that are masked are the null device, and the kernel says of the others at the
    // first byte that it takes none.
    let mut granted = granted(&ours);
    granted.retain(|attempt| !attempt.starts_with("make device "));
    let harmless = [
        "open /proc/keys",
        "open /proc/timer_list",
        "open /proc/self/uid_map",
        "open /proc/1/oom_score_adj",
        "open device console",
        "open device null",
        "take memory of its own kind",
        "a socket that is the kernel's log of audits",
    ];
    granted.retain(|attempt| !harmless.contains(attempt));
    assert_eq!(granted, [] as [&str; 0]);
    // Neither does a script whose interpreter is the runtime that starts it run
    // (CVE-2019-5736): that is this program by the name it is asked for.
    let script = "echo '#!/proc/self/exe' > /script && chmod +x /script";
    daemon.sleeper("box", &["--network=none"]);
    daemon.within("box", script);
    let before = std::fs::read(runtime()).expect("it is there");
    let refused = daemon.docker(&["exec", "box", "/script", "--version"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(!refused.stdout.contains("runtime"), "{refused:?}");
    assert!(before == std::fs::read(runtime()).expect("it is there"));
    daemon.remove_containers();
    daemon.finish();
}

/// A process of the host that sleeps, with all rights of root.
struct Sleeper(Child);

impl Sleeper {
    fn at(host: &Host) -> Self {
        let mut command = host.command("sleep");
        Self(command.arg("3600").spawn().expect("sleep starts"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().expect("it can be asked").is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What an intruder is told of other processes: of a neighbour and one of the host's
/// from a namespace of its own, of the host's from the host's namespace, and of the
/// neighbour from his.
fn at_processes(dockerd: &dyn Dockerd) -> [Vec<String>; 4] {
    let intruder = Intruder::at(dockerd);
    dockerd.sleeper("neighbour", &["--network=none"]);
    let neighbour = dockerd.inspect("neighbour", "{{.State.Pid}}");
    let mut sleeper = Sleeper::at(dockerd.host());
    let own = sleeper.pid();
    let told = [
        intruder.tries(&[], &["process", &neighbour]),
        intruder.tries(&[], &["process", &own]),
        intruder.tries(&["--pid=host"], &["process", &own]),
        intruder.tries(&["--pid=container:neighbour"], &["process", "1"]),
    ];
    assert!(sleeper.lives());
    assert_eq!(dockerd.inspect("neighbour", "{{.State.Pid}}"), neighbour);
    dockerd.remove_containers();
    told
}

#[test]
fn other_processes_are_out_of_reach() {
    let (daemon, reference) = both();
    let (ours, theirs) = (at_processes(&daemon), at_processes(&reference));
    // Granted since Docker 24, where the kernel lets who may trace: nobody there.
    let since = |read: &'static str, write: &'static str| {
        [
            (read, "read its memory: EPERM"),
            (write, "write its memory: EPERM"),
        ]
    };
    let nobody = since("read its memory: ESRCH", "write its memory: ESRCH");
    let [neighbour, host, with_host, shared] = &ours;
    are_alike(neighbour, &theirs[0], &nobody);
    are_alike(host, &theirs[1], &nobody);
    are_alike(with_host, &theirs[2], &[]);
    // The page that is tried is the program's text.
    let text = since("read its memory: done", "write its memory: EFAULT");
    are_alike(shared, &theirs[3], &text);
    for unseen in [neighbour, host] {
        assert_eq!(granted(unseen), [] as [&str; 0]);
    }
    // A process of the same user is seen and signalled, and gives nothing away. Files
    // that open say EACCES or EPERM at the first byte.
    let seen = [
        "see it",
        "signal it",
        "hold it",
        "signal it by descriptor",
        "read its cmdline",
        "read its status",
        "open its comm",
        "open its clear_refs",
        "open its coredump_filter",
        "open its timerslack_ns",
        "list its fd",
        "list its map_files",
        "change its limits",
    ];
    assert_eq!(granted(with_host), seen);
    daemon.finish();
}

/// A process that keeps a key: what it tells of its session keyring, and the numbers
/// of both.
struct Keeper {
    process: Child,
    /// It ends with it.
    input: Option<ChildStdin>,
    told: String,
    ring: String,
    key: String,
}

impl Keeper {
    fn begin(mut command: std::process::Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(process.stdout.take().expect("it was piped")).lines();
        let mut line = || lines.next().expect("a line").expect("text");
        let (told, key) = (line(), line());
        let number = |line: &str| line.split(' ').nth(1).expect("a number").to_owned();
        Self {
            ring: number(&told),
            key: number(&key),
            told,
            input: process.stdin.take(),
            process,
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

/// Without the filter of system calls: whose keys they are is the kernel's to say.
const UNFILTERED: &str = "--security-opt=seccomp=unconfined";

/// What an intruder is told of the keys of the host and of a neighbour, with and
/// without the filter; and the session keyrings of two containers, of a second
/// program in the first, and of the host.
fn at_keys(dockerd: &dyn Dockerd) -> ([Vec<String>; 4], [String; 4]) {
    let intruder = Intruder::at(dockerd);
    let mut keeper = dockerd.host().command(&intruder.program);
    keeper.args(["keeper", "of-the-host"]);
    let host = Keeper::begin(keeper);
    let options = ["-i", "--rm", "--name=keeper", "--network=none", UNFILTERED];
    let neighbour = Keeper::begin(dockerd.docker_command(&intruder.words(&options, &["keeper"])));
    let tries = |options: &[&str], keeper: &Keeper| {
        intruder.tries(options, &["keys", &keeper.ring, &keeper.key])
    };
    let told = [
        tries(&[], &host),
        tries(&[], &neighbour),
        tries(&[UNFILTERED], &host),
        tries(&[UNFILTERED], &neighbour),
    ];
    let options = ["--rm", "--network=none", UNFILTERED];
    let rings = [
        neighbour.told.clone(),
        dockerd
            .docker(&["exec", "keeper", "/intruder", "ring"])
            .ok(),
        dockerd.docker(&intruder.words(&options, &["ring"])).ok(),
        host.told.clone(),
    ];
    (told, rings)
}

#[test]
fn keys_of_others_are_out_of_reach() {
    let (daemon, reference) = both();
    let (ours, theirs) = (at_keys(&daemon), at_keys(&reference));
    for (ours, theirs) in ours.0.iter().zip(&theirs.0) {
        are_alike(ours, theirs, &[]);
    }
    for filtered in &ours.0[..2] {
        let refused = filtered.iter().all(|line| line.ends_with(": EPERM"));
        assert!(refused, "{filtered:#?}");
    }
    for rings in [ours.1, theirs.1] {
        // Every container has one, of its own name; so has what joins it later.
        let [first, second, other, host] = rings;
        assert_eq!(first, second);
        assert!(first.contains(" keyring;0;0;3f1b0000;_ses."), "{first}");
        assert!(other.contains(" keyring;0;0;3f1b0000;_ses."), "{other}");
        assert_ne!(first, other);
        assert!(host.ends_with(";of-the-host"), "{host}");
    }
    daemon.finish();
}
