//! What a loss of power leaves: the disk has what was written to it and nothing
//! else. Everybody is killed, the page cache is dropped on its way to the disk
//! (dm-flakey), and a daemon starts on what is there.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use dhow_testkit::{Chance, Daemon, Host, dhow};

use crate::{inspect, remove, within};

/// How long anything may take on a machine made by software.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where daemons look for the registry, and where it is.
const REGISTRY: &str = "127.0.0.1:5000";
const BEHIND: &str = "127.0.0.1:5001";
/// Bytes of manifests, heads and what is on its way.
const SLACK: u64 = 200 << 10;

#[track_caller]
fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}: it takes too long");
        std::thread::yield_now();
    }
}

/// One of the machine's disks, behind a device that can stop writing to it.
struct Disk {
    /// `xfs` or `ext4`.
    kind: &'static str,
    mounted: PathBuf,
    /// `/dev/vdb`.
    behind: String,
}

impl Disk {
    const NAME: &'static str = "power";
    const DEVICE: &'static str = "/dev/mapper/power";

    fn new(kind: &'static str) -> Self {
        let mounted = crate::mounted(kind);
        let mounts = std::fs::read_to_string("/proc/mounts").expect("proc is mounted");
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == mounted.to_str());
        let behind = line.expect("it is mounted").split(' ').next();
        let disk = Self {
            kind,
            behind: behind.expect("a device").to_owned(),
            mounted,
        };
        run("modprobe", &["dm-flakey"]);
        disk.unmount();
        let table = disk.table("180 0");
        disk.map(&["create", Self::NAME, "--table", &table]);
        // There may be nobody here who makes the node.
        disk.map(&["mknodes", Self::NAME]);
        disk.mount(Self::DEVICE);
        disk
    }

    /// What the device does: seconds it is up and seconds it is down, in turns.
    fn table(&self, turns: &str) -> String {
        let name = self.behind.rsplit('/').next().expect("a name");
        let size = std::fs::read_to_string(format!("/sys/class/block/{name}/size"));
        let size = size.expect("a disk has a size");
        format!("0 {} flakey {} 0 {turns}", size.trim(), self.behind)
    }

    #[track_caller]
    fn map(&self, words: &[&str]) {
        run("dmsetup", &[words, &["--noudevsync"]].concat());
    }

    fn change(&self, turns: &str) {
        // Unlike what is usual, neither files nor journal are written before.
        self.map(&["suspend", "--nolockfs", Self::NAME]);
        self.map(&["load", Self::NAME, "--table", &self.table(turns)]);
        self.map(&["resume", Self::NAME]);
    }

    fn mount(&self, device: &str) {
        let place = self.mounted.display().to_string();
        run(
            "mount",
            &["-t", self.kind, "-o", "prjquota", device, &place],
        );
    }

    fn unmount(&self) {
        run("umount", &[&self.mounted.display().to_string()]);
    }

    /// Nothing is written any more.
    fn cut(&self) {
        self.change("0 180 1 drop_writes");
    }

    /// Forgets what was not written.
    fn restore(&self) {
        self.unmount();
        self.change("180 0");
        self.mount(Self::DEVICE);
    }

    /// Has the journal written, and with it what happened to names and to inodes,
    /// but not what others wrote into files.
    fn write_journal(&self) {
        let file = std::fs::File::create(self.mounted.join("journal")).expect("a file");
        file.sync_all().expect("a sync");
    }

    fn sync(&self) {
        run("sync", &["-f", &self.mounted.display().to_string()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.mounted.join("journal"));
        let place = self.mounted.display().to_string();
        let _ = Command::new("umount").args([&place, BOOT]).status();
        let _ = std::fs::remove_file(OWN_BOOT);
        let remove = ["remove", "--force", Self::NAME, "--noudevsync"];
        let _ = Command::new("dmsetup").args(remove).status();
        self.mount(&self.behind);
    }
}

const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const OWN_BOOT: &str = "/tmp/power-boot-id";

/// By this the kernel says which start of the machine it is; each has another.
fn start_machine() {
    let _ = Command::new("umount")
        .arg(BOOT)
        .stderr(Stdio::null())
        .status();
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("proc is mounted");
    std::fs::write(OWN_BOOT, id).expect("a file");
    run("mount", &["--bind", OWN_BOOT, BOOT]);
}

/// The processes whose command line names a path.
fn processes(below: &Path) -> Vec<String> {
    let below = below.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("mounted").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&below) {
            found.push(pid);
        }
    }
    found
}

/// Cuts the power of a daemon whose data are on this disk, and starts the machine
/// and the daemon again. With `journal`, the disk has got the journal as it was at
/// the cut, though not what files should have in it.
fn cut(daemon: &mut Daemon, disk: &Disk, journal: bool) {
    daemon.kill();
    let unsynced = disk.mounted.join("unsynced");
    std::fs::write(&unsynced, "to be lost").expect("a file");
    if journal {
        disk.write_journal();
    }
    // Before anybody else ends: an overlay that is unmounted is written.
    disk.cut();
    let folder = daemon.host().folder().to_owned();
    let (run_folder, data) = (folder.join("run"), folder.join("data"));
    let version_2 = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => "/sys/fs/cgroup",
        false => "/sys/fs/cgroup/unified",
    };
    let group = Path::new(version_2).join(format!("dhow-{}", daemon.host().instance()));
    if group.exists() {
        std::fs::write(group.join("cgroup.kill"), "1").expect("they are killed");
        wait_until("the end of containers", || {
            let events = std::fs::read_to_string(group.join("cgroup.events"));
            events.expect("it is there").contains("populated 0")
        });
    }
    wait_until("the end of shims", || {
        let shims = processes(&run_folder);
        for shim in &shims {
            let _ = Command::new("kill").args(["-KILL", shim]).status();
        }
        shims.is_empty()
    });
    start_machine();
    // What is in memory is gone, and with it what it says is mounted.
    run("umount", &[&data.display().to_string()]);
    disk.restore();
    // The machine is one that loses.
    let found = std::fs::read(&unsynced);
    let expected = if journal { Some(vec![]) } else { None };
    assert_eq!(found.ok(), expected, "what was not synced");
    let _ = std::fs::remove_file(unsynced);
    let mounts = std::fs::read_to_string("/proc/mounts").expect("proc is mounted");
    let below = run_folder.display().to_string();
    for place in mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(1))
    {
        if place.starts_with(&below) {
            run("umount", &[place]);
        }
    }
    std::fs::remove_dir_all(&run_folder).expect("it was there");
    let on_disk = disk.mounted.join(daemon.host().instance());
    let bind = [
        "--bind",
        &on_disk.display().to_string(),
        &data.display().to_string(),
    ];
    run("mount", &bind);
    daemon.start_again();
}

/// Our registry, that holds its data elsewhere, and how much it may send.
struct Registry {
    process: Child,
    meter: Arc<Meter>,
}

/// Counts what passes, and holds it up.
#[derive(Default)]
struct Meter {
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Default)]
struct Count {
    passed: u64,
    limit: Option<u64>,
    is_held: bool,
    /// Connections on which something may still come.
    n_open: usize,
}

impl Meter {
    /// Lets no more pass than this from now on; returns how much has.
    fn limit(&self, limit: Option<u64>) -> u64 {
        let mut count = self.count.lock().expect("nobody panics with it");
        count.limit = limit;
        count.is_held = false;
        self.changed.notify_all();
        std::mem::take(&mut count.passed)
    }

    fn wait_until_held(&self) {
        let count = self.count.lock().expect("nobody panics with it");
        let (count, waited) = self
            .changed
            .wait_timeout_while(count, PATIENCE, |count| !count.is_held)
            .expect("nobody panics with it");
        assert!(!waited.timed_out(), "{} bytes passed", count.passed);
    }

    fn wait_until_idle(&self) {
        let count = self.count.lock().expect("nobody panics with it");
        let (count, waited) = self
            .changed
            .wait_timeout_while(count, PATIENCE, |count| count.n_open > 0)
            .expect("nobody panics with it");
        assert!(!waited.timed_out(), "{} connections", count.n_open);
    }

    fn open(&self, n_more: isize) {
        let mut count = self.count.lock().expect("nobody panics with it");
        count.n_open = count.n_open.saturating_add_signed(n_more);
        self.changed.notify_all();
    }

    /// Takes bytes through, when they may.
    fn pass(&self, n_bytes: usize) {
        let mut count = self.count.lock().expect("nobody panics with it");
        while count.limit.is_some_and(|limit| count.passed >= limit) {
            count.is_held = true;
            self.changed.notify_all();
            count = self.changed.wait(count).expect("nobody panics with it");
        }
        count.passed += n_bytes as u64;
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, is_counted: bool) {
        let mut buffer = [0; 16 << 10];
        while let Ok(n_read @ 1..) = from.read(&mut buffer) {
            if is_counted {
                self.pass(n_read);
            }
            if to.write_all(&buffer[..n_read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
        // Nobody reads what could not be written.
        let _ = from.shutdown(std::net::Shutdown::Read);
        if is_counted {
            self.open(-1);
        }
    }
}

impl Registry {
    fn start(host: &Host) -> Self {
        let root = host.folder().join("registry");
        let mut process = host
            .command(dhow())
            .arg("registry")
            .arg("--root")
            .arg(root)
            .args(["--listen", BEHIND])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the registry starts");
        let mut lines = BufReader::new(process.stderr.take().expect("it was piped")).lines();
        let is_ready =
            |line: std::io::Result<String>| line.is_ok_and(|line| line.contains("ready"));
        assert!(lines.any(is_ready), "the registry ended");
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let meter = Arc::new(Meter::default());
        let counting = Arc::clone(&meter);
        // Threads are where those are who start them.
        host.inside(move || {
            let listener = TcpListener::bind(REGISTRY).expect("it is free");
            std::thread::spawn(move || {
                for near in listener.incoming().map_while(Result::ok) {
                    let Ok(far) = TcpStream::connect(BEHIND) else {
                        continue;
                    };
                    counting.open(1);
                    let twice = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                    for (from, to, is_counted) in
                        [(twice(&near), twice(&far), false), (far, near, true)]
                    {
                        let meter = Arc::clone(&counting);
                        std::thread::spawn(move || meter.pump(from, to, is_counted));
                    }
                }
            });
        });
        Self { process, meter }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.meter.limit(None);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const IMAGE: &str = "127.0.0.1:5000/team/tool:1";

/// Makes an image of five layers, pushes and removes it.
fn push_image(daemon: &Daemon) {
    let context = daemon.host().folder().join("context");
    let script = "mkdir -p $1/one $1/two $1/many && cd $1 &&
        head -c 900000 /dev/urandom >one/large && head -c 400000 /dev/urandom >two/other &&
        i=0; while [ $i -lt 60 ]; do head -c 4000 /dev/urandom >many/$i; i=$((i+1)); done
        ln many/1 many/hard; ln -s 1 many/soft; : >many/empty
        sha256sum one/* two/* many/* >sums && tar -cf many.tar many
        printf '%s\\n' 'FROM busybox' 'COPY one /files/one/' 'COPY two /files/two/' \
            'ADD many.tar /files/' 'COPY sums /files/' >Dockerfile";
    let context = context.display().to_string();
    run("sh", &["-ec", script, "sh", &context]);
    daemon.busybox_by_dhow();
    daemon
        .dhow(&["build", "--network", "none", "-t", IMAGE, &context])
        .ok();
    daemon.dhow(&["push", IMAGE]).ok();
    forget_images(daemon);
}

fn forget_images(daemon: &Daemon) {
    daemon.dhow(&["image", "prune", "-af"]).ok();
    daemon.dhow(&["builder", "prune", "-af"]).ok();
}

fn names_in(folder: PathBuf) -> BTreeSet<String> {
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let names = entries.map(|entry| entry.expect("it is readable").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// Bytes of blobs, whole and not.
fn stored(data: &Path) -> u64 {
    ["content/ingest", "content/blobs/sha256"]
        .map(|folder| {
            let entries = std::fs::read_dir(data.join(folder)).expect("it is there");
            let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
            sizes.map(|metadata| metadata.len()).sum::<u64>()
        })
        .iter()
        .sum()
}

/// Fails unless everything on the disk is what its name says.
#[track_caller]
fn nothing_is_half(daemon: &Daemon) {
    let data = daemon.host().folder().join("data");
    for folder in ["layers", "drafts", "doomed"] {
        let left = names_in(data.join("image").join(folder));
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    let blobs = data.join("content/blobs/sha256");
    for name in names_in(blobs.clone()) {
        let path = blobs.join(&name).display().to_string();
        let sum = daemon.host().run("sha256sum", &[&path]).ok();
        assert!(sum.starts_with(&name), "{sum}");
    }
}

/// Fails unless a container of the image has every file as it was made.
#[track_caller]
fn is_whole(daemon: &Daemon, image: &str) {
    let script = "cd /files && sha256sum -c sums >/dev/null && ls many | wc -l &&
        readlink many/soft && stat -c %h many/hard && cat /data/greeting";
    let words = [
        "run",
        "--rm",
        "--network",
        "none",
        image,
        "sh",
        "-c",
        script,
    ];
    assert_eq!(daemon.dhow(&words).ok(), "63\n1\n2\nfrom the image");
}

/// When the power goes in a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// After some bytes.
    Early,
    /// After many, some of which the kernel has written to the disk by itself.
    Late,
    /// When one layer is said to be complete.
    Layer,
    /// When the client has been told of success.
    Answered,
}

/// Pulls until the moment; returns how many bytes the disk has got for sure.
fn pull_until(
    moment: Moment,
    daemon: &Daemon,
    disk: &Disk,
    meter: &Meter,
    total: u64,
    chance: &mut Chance,
) -> u64 {
    let limit = match moment {
        Moment::Early => Some(chance.below(total / 2) + 1),
        Moment::Late => Some(total / 4 + chance.below(total / 4)),
        Moment::Layer | Moment::Answered => None,
    };
    meter.limit(limit);
    let mut client = daemon
        .dhow_command(&["pull", IMAGE])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the client starts");
    let mut lines = BufReader::new(client.stdout.take().expect("it was piped")).lines();
    let mut on_disk = 0;
    match moment {
        Moment::Early => meter.wait_until_held(),
        Moment::Late => {
            let data = daemon.host().folder().join("data");
            meter.wait_until_held();
            let passed = limit.unwrap_or_default();
            on_disk = passed.saturating_sub(SLACK);
            wait_until("what came is stored", || stored(&data) >= on_disk);
            disk.sync();
            meter.limit(Some(total / 4));
            meter.wait_until_held();
        }
        Moment::Layer => {
            let is_complete = |line: std::io::Result<String>| {
                line.is_ok_and(|line| line.contains("Pull complete"))
            };
            assert!(lines.any(is_complete), "no layer was complete");
        }
        Moment::Answered => {
            let said: Vec<String> = lines.by_ref().map_while(Result::ok).collect();
            assert!(client.wait().expect("it ends").success(), "{said:?}");
            on_disk = meter.limit(None);
        }
    }
    std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(drop);
        client.wait()
    });
    on_disk
}

/// Cuts in pulls, on one kind of filesystem.
fn pulls(kind: &'static str) {
    let disk = Disk::new(kind);
    let mut daemon = Daemon::start_on(&disk.mounted);
    let data = daemon.host().folder().join("data");
    let registry = Registry::start(daemon.host());
    // In the first moment of all.
    cut(&mut daemon, &disk, true);
    push_image(&daemon);
    let mut chance = Chance::new();
    let (mut id, mut total) = (String::new(), 0);
    for moment in [Moment::Answered, Moment::Early, Moment::Late, Moment::Layer] {
        let journal = chance.below(2) == 0;
        let on_disk = pull_until(moment, &daemon, &disk, &registry.meter, total, &mut chance);
        if moment == Moment::Answered {
            total = on_disk;
            id = daemon.dhow(&["images", "-q", "--no-trunc"]).ok();
            assert!(
                id.starts_with("sha256:") && total > 1 << 20,
                "{id}, {total}"
            );
        }
        cut(&mut daemon, &disk, journal);
        registry.meter.limit(None);
        let round = format!("{kind}, {moment:?}, journal {journal}, {on_disk} of {total}");
        eprintln!("cut: {round}");
        nothing_is_half(&daemon);
        let there = daemon.dhow(&["images", "-q", "--no-trunc"]).ok();
        if moment == Moment::Answered {
            assert_eq!(there, id, "{round}");
        } else {
            assert!(there.is_empty() || there == id, "{round}: {there}");
        }
        if !there.is_empty() {
            is_whole(&daemon, IMAGE);
        }
        // What is there is not asked for again.
        registry.meter.wait_until_idle();
        registry.meter.limit(None);
        let pulled = daemon.dhow(&["pull", IMAGE]).ok();
        let again = registry.meter.limit(None);
        assert!(
            again <= total - on_disk + SLACK,
            "{round}: {again} bytes were asked for again:\n{pulled}"
        );
        is_whole(&daemon, IMAGE);
        // Without images nothing is left of all that.
        forget_images(&daemon);
        for folder in ["content/blobs/sha256", "content/ingest", "image/snapshots"] {
            let left = names_in(data.join(folder));
            assert!(left.is_empty(), "{round}: {folder}: {left:?}");
        }
    }
    drop(registry);
    daemon.finish();
}

#[test]
#[ignore = "needs dm-flakey and XFS: make vm-test"]
fn pulls_lose_power_on_xfs() {
    pulls("xfs");
}

#[test]
#[ignore = "needs dm-flakey and ext4: make vm-test"]
fn pulls_lose_power_on_ext4() {
    pulls("ext4");
}

/// Containers, volumes, networks and images made at home, on one kind of filesystem;
/// each cut is with or without the journal.
fn containers(kind: &'static str, cuts: &[bool]) {
    let disk = Disk::new(kind);
    let mut daemon = Daemon::start_on(&disk.mounted);
    daemon.busybox_by_dhow();
    let archive = daemon
        .host()
        .folder()
        .join("saved.tar")
        .display()
        .to_string();
    daemon.dhow(&["tag", "busybox", "loaded"]).ok();
    daemon.dhow(&["save", "-o", &archive, "loaded"]).ok();
    daemon.dhow(&["rmi", "loaded"]).ok();
    let always = "run -d --name box --restart always --network none -v data:/data busybox sh -c";
    let always: Vec<&str> = always.split(' ').collect();
    let script = "echo started >>/starts; exec sleep 3600";
    daemon.dhow(&[&always[..], &[script]].concat()).ok();
    within(&daemon, "box", "echo kept >/file; echo kept >/data/file").ok();
    disk.sync();
    for &journal in cuts {
        // All of it has been answered.
        daemon.dhow(&["restart", "-t", "0", "box"]).ok();
        daemon.dhow(&["update", "--pids-limit", "77", "box"]).ok();
        daemon.dhow(&["commit", "box", "kept"]).ok();
        daemon.dhow(&["load", "-i", &archive]).ok();
        daemon.dhow(&["volume", "create", "late"]).ok();
        daemon
            .dhow(&["network", "create", "--internal", "late"])
            .ok();
        let late =
            "run -d --name late --network late -v late:/data -v more:/etc busybox sleep 3600";
        let late: Vec<&str> = late.split(' ').collect();
        daemon.dhow(&late).ok();
        daemon
            .dhow(&["create", "--name", "never", "busybox", "true"])
            .ok();
        daemon.dhow(&["volume", "create", "last"]).ok();
        cut(&mut daemon, &disk, journal);
        let round = format!("{kind}, journal {journal}");
        eprintln!("cut: {round}");
        nothing_is_half(&daemon);
        // What was there long ago, and what runs always.
        wait_until("the container runs again", || {
            inspect(&daemon, "box", "{{.State.Running}}") == "true"
        });
        assert_eq!(inspect(&daemon, "box", "{{.HostConfig.PidsLimit}}"), "77");
        let files = within(&daemon, "box", "cat /file /data/file").ok();
        assert_eq!(files, "kept\nkept", "{round}");
        // What was answered is there and can be used, and a container that was started.
        for image in ["kept", "loaded"] {
            let words = [
                "run",
                "--rm",
                "--network",
                "none",
                image,
                "cat",
                "/data/greeting",
            ];
            assert_eq!(daemon.dhow(&words).ok(), "from the image", "{round}");
        }
        let words = ["run", "--rm", "--network", "none", "kept", "cat", "/file"];
        assert_eq!(daemon.dhow(&words).ok(), "kept", "{round}");
        daemon.dhow(&["volume", "inspect", "late", "last"]).ok();
        daemon.dhow(&["network", "inspect", "late"]).ok();
        assert_eq!(inspect(&daemon, "late", "{{.State.Status}}"), "exited");
        daemon.dhow(&["start", "late"]).ok();
        // A volume that was filled by its container is full, or is filled again.
        let words = [
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "more:/etc",
            "busybox",
            "cat",
            "/etc/group",
        ];
        let group = daemon.dhow(&words).ok();
        assert_eq!(group, "root:x:0:\nweb:x:33:\nlog:x:44:web", "{round}");
        // One that was only created is there or not.
        let names = daemon.dhow(&["ps", "-a", "--format", "{{.Names}}"]).ok();
        let names: BTreeSet<&str> = names.lines().collect();
        assert!(
            names.is_subset(&["box", "late", "never"].into()),
            "{names:?}"
        );
        if names.contains("never") {
            daemon.dhow(&["start", "-a", "never"]).ok();
            remove(&daemon, &["never"]);
        }
        remove(&daemon, &["late"]);
        daemon.dhow(&["volume", "rm", "late", "more", "last"]).ok();
        daemon.dhow(&["network", "rm", "late"]).ok();
        daemon.dhow(&["rmi", "kept", "loaded"]).ok();
    }
    remove(&daemon, &["box"]);
    daemon.dhow(&["volume", "rm", "data"]).ok();
    daemon.finish();
}

#[test]
#[ignore = "needs dm-flakey and XFS: make vm-test"]
fn containers_lose_power_on_xfs() {
    containers("xfs", &[true, false]);
}

#[test]
#[ignore = "needs dm-flakey and ext4: make vm-test"]
fn containers_lose_power_on_ext4() {
    containers("ext4", &[Chance::new().below(2) == 0]);
}
