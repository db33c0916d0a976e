//! The ways out that need somebody who changes the root while it is made the root:
//! two names are exchanged without end, and whatever moment a step meets, it either
//! refuses or does what it was for.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::bundle::Bundle;

const ROUNDS: u32 = 100;

/// Exchanges two names until its end.
struct Race {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Race {
    fn between(first: PathBuf, second: PathBuf) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut n_exchanges = 0;
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &first, CWD, &second, RenameFlags::EXCHANGE).unwrap();
                n_exchanges += 1;
            }
            n_exchanges
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Makes containers while two names of the root are exchanged; `judge` looks at what
/// those said that ran, and the host's parameters must stay as they are.
#[track_caller]
fn raced(bundle: &Bundle, names: [&str; 2], judge: impl Fn(&str)) {
    let parameters = || {
        ["kernel/core_pattern", "net/ipv4/ip_unprivileged_port_start"]
            .map(|name| std::fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap())
    };
    let before = parameters();
    bundle.write();
    let [first, second] = names.map(|name| bundle.rootfs().join(name));
    let race = Race::between(first, second);
    let mut n_ran = 0;
    for round in 0..ROUNDS {
        let Output {
            status,
            stdout,
            stderr,
        } = bundle
            .command(&["run", "--bundle"])
            .arg(bundle.path())
            .arg(&bundle.id)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (out, errors) = (
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        );
        match status.code() {
            Some(0) => {
                n_ran += 1;
                judge(&out);
            }
            // Refused, and the program did not run.
            Some(1) => assert!(out.is_empty(), "round {round}: {out} {errors}"),
            code => panic!("round {round}: {code:?}: {out} {errors}"),
        }
        assert_eq!(parameters(), before, "round {round}: {out} {errors}");
    }
    let n_exchanges = race.end();
    assert!(n_exchanges > u64::from(ROUNDS), "{n_exchanges} exchanges");
    eprintln!("{n_ran} of {ROUNDS} ran, {n_exchanges} exchanges");
    bundle.audit();
}

/// CVE-2019-19921: `/proc` was a link at the moment of the masks, and was none after.
#[test]
fn masks_are_where_proc_is() {
    // Wherever it has come to be, it is masked, and its parameters are read-only.
    let script = "for at in /proc /aside; do [ -e $at/keys ] || continue; \
             stat -c %F $at/keys; \
             (: > $at/sys/kernel/core_pattern) 2>/dev/null && echo writable; done; true";
    let bundle = Bundle::new("race-2019-19921", script);
    let root = bundle.rootfs();
    std::fs::create_dir_all(root.join("evil/sys")).unwrap();
    symlink("evil", root.join("aside")).unwrap();
    raced(&bundle, ["proc", "aside"], |out| {
        for line in out.lines() {
            assert_eq!(line, "character special file", "{out}");
        }
    });
}

/// CVE-2025-31133: the null device that masks was another file at that moment.
#[test]
fn masks_are_the_null_device() {
    let script = "stat -c '%F %t:%T' /proc/keys /proc/timer_list; \
        grep -c core_pattern /proc/self/mountinfo; true";
    let mut bundle = Bundle::new("race-2025-31133", script);
    // The image's /dev.
    bundle
        .spec
        .mounts
        .retain(|mount| !mount.destination.starts_with("/dev"));
    let dev = bundle.rootfs().join("dev");
    symlink("/proc/sys/kernel/core_pattern", dev.join("aside")).unwrap();
    let kind = rustix::fs::FileType::CharacterDevice;
    let null = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::from(0o666);
    rustix::fs::mknodat(CWD, dev.join("null"), kind, mode, null).unwrap();
    raced(&bundle, ["dev/null", "dev/aside"], |out| {
        let device = "character special file 1:3\n";
        assert_eq!(out, format!("{device}{device}0\n"));
    });
}

/// CVE-2025-52565: the place of the console was a link at that moment.
#[test]
fn the_console_is_put_nowhere_else() {
    let script = "grep -c core_pattern /proc/self/mountinfo; true";
    let mut bundle = Bundle::new("race-2025-52565", script);
    bundle.spec.mounts.retain(|mount| {
        !mount.destination.starts_with("/dev") || mount.destination == Path::new("/dev/pts")
    });
    bundle.process().terminal = true;
    let dev = bundle.rootfs().join("dev");
    std::fs::write(dev.join("console"), "").unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.join("aside")).unwrap();
    raced(&bundle, ["dev/console", "dev/aside"], |out| {
        assert_eq!(out.trim(), "0");
    });
}

/// CVE-2025-52881: what the runtime writes to procfs went where the container's
/// `/proc` led.
#[test]
fn parameters_are_written_to_the_real_procfs() {
    let script =
        "[ ! -e /proc/sys/net ] || cat /proc/sys/net/ipv4/ip_unprivileged_port_start; true";
    let mut bundle = Bundle::new("race-2025-52881", script);
    let parameter = "net.ipv4.ip_unprivileged_port_start".to_owned();
    bundle.linux().sysctl.insert(parameter, "7".to_owned());
    let root = bundle.rootfs();
    std::fs::create_dir_all(root.join("evil/sys/net/ipv4")).unwrap();
    let trap = root.join("evil/sys/net/ipv4/ip_unprivileged_port_start");
    std::fs::write(&trap, "kept\n").unwrap();
    symlink("evil", root.join("aside")).unwrap();
    raced(&bundle, ["proc", "aside"], |out| {
        assert!(["7\n", "kept\n", ""].contains(&out), "{out}");
    });
    assert_eq!(std::fs::read(&trap).unwrap(), b"kept\n");
}
