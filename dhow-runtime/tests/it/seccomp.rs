//! Filters in a real kernel: every action, foreign architectures, flags, and the
//! listener that is asked for execs as well.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use dhow_runtime::spec::{Action, Architecture, SyscallRule};

use crate::bundle::{Bundle, words};

/// What a shell says of a program that `SIGSYS` ended.
const KILLED: i32 = 128 + libc::SIGSYS;

fn rule(names: &str, action: Action, errno_ret: Option<u32>) -> SyscallRule {
    SyscallRule {
        names: words(names),
        action,
        errno_ret,
        args: vec![],
    }
}

/// The program of [`each_action_is_the_kernels`]: a thread makes a directory, and
/// another waits for its end, whichever it is.
#[test]
#[ignore = "runs in a container of another test"]
fn inside() {
    // The harness has begun a line.
    println!();
    let n_threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = n_threads();
    std::thread::spawn(|| {
        let made = std::fs::create_dir("/tmp/dhow-inside");
        println!(
            "made {:?}",
            made.err().and_then(|error| error.raw_os_error())
        );
    });
    while n_threads() > before {
        std::thread::yield_now();
    }
    println!("lives");
    let _ = std::fs::remove_dir("/tmp/dhow-inside");
}

#[test]
fn each_action_is_the_kernels() {
    for (action, code, said) in [
        (Action::Allow, 0, "made None\nlives\n"),
        (Action::Log, 0, "made None\nlives\n"),
        (Action::Errno, 0, "made Some(74)\nlives\n"),
        // Nobody traces it, so the call is not there.
        (Action::Trace, 0, "made Some(38)\nlives\n"),
        (Action::KillThread, 0, "lives\n"),
        (Action::KillProcess, KILLED, ""),
        (Action::Trap, KILLED, ""),
    ] {
        let mut bundle = Bundle::new("seccomp-action", "");
        let program = bundle.rootfs().join("bin/it");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let arguments = "/bin/it --exact seccomp::inside --ignored --nocapture --test-threads 1";
        bundle.process().args = words(arguments);
        let errno = (action == Action::Errno).then_some(74);
        let seccomp = bundle.linux().seccomp.as_mut().unwrap();
        seccomp
            .syscalls
            .insert(0, rule("mkdir mkdirat", action, errno));
        let mut kernel = KernelLog::open();
        let output = bundle.run();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{action:?}: {errors}");
        let out = String::from_utf8_lossy(&output.stdout);
        let own = |line: &&str| line.starts_with("made ") || *line == "lives";
        let seen: String = out
            .lines()
            .filter(own)
            .map(|line| line.to_owned() + "\n")
            .collect();
        assert_eq!(seen, said, "{action:?}: {out}");
        if action == Action::Log && Path::new("/proc/self/loginuid").exists() {
            // SECCOMP_RET_LOG.
            assert!(kernel.has("code=0x7ffc0000"), "nothing is logged");
        }
        bundle.audit();
    }
}

/// What the kernel says from now on.
struct KernelLog(std::fs::File);

impl KernelLog {
    fn open() -> Self {
        use std::io::Seek;
        let mut options = std::fs::File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let mut file = options.open("/dev/kmsg").unwrap();
        file.seek(std::io::SeekFrom::End(0)).unwrap();
        Self(file)
    }

    fn has(&mut self, text: &str) -> bool {
        let mut record = [0; 8192];
        // One record a read, and an error where there is no more.
        while let Ok(length) = self.0.read(&mut record) {
            if String::from_utf8_lossy(&record[..length]).contains(text) {
                return true;
            }
        }
        false
    }
}

/// A 64-bit program that asks by the 32-bit door which process it is, and ends with
/// the answer.
#[cfg(target_arch = "x86_64")]
fn by_the_other_door() -> Vec<u8> {
    const CODE: &[u8] = &[
        0xb8, 20, 0, 0, 0, // mov eax, getpid (32-bit)
        0xcd, 0x80, // int 0x80
        0x89, 0xc7, // mov edi, eax
        0xb8, 60, 0, 0, 0, // mov eax, exit (64-bit)
        0x0f, 0x05, // syscall
    ];
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    elf.resize(16, 0);
    let half = |elf: &mut Vec<u8>, values: &[u16]| {
        values
            .iter()
            .for_each(|value| elf.extend(value.to_le_bytes()));
    };
    let word = |elf: &mut Vec<u8>, values: &[u64]| {
        values
            .iter()
            .for_each(|value| elf.extend(value.to_le_bytes()));
    };
    // An executable for this machine.
    half(&mut elf, &[2, 62, 1, 0]);
    word(&mut elf, &[BASE + HEADERS, 64, 0]);
    half(&mut elf, &[0, 0, 64, 56, 1, 0, 0, 0]);
    // All of it is one segment that is read and executed.
    half(&mut elf, &[1, 0, 5, 0]);
    let size = HEADERS + CODE.len() as u64;
    word(&mut elf, &[0, BASE, BASE, size, size, 4096]);
    elf.extend(CODE);
    elf
}

/// Regression: a number means another call by another door, so a filter for one
/// door says nothing of the other.
#[cfg(target_arch = "x86_64")]
#[test]
fn another_door_is_no_way_around() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("door");
    std::fs::write(&program, by_the_other_door()).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let outside = Command::new(&program).status().unwrap();
    // Kernels may be built without that door.
    let has_door = outside.code().is_some();
    let none = 128 + libc::SIGSEGV;
    let errno = |number: i32| 256 - number;
    for (architectures, names, expected) in [
        // The first process of a PID namespace.
        (&[Architecture::X86_64, Architecture::X86][..], "", 1),
        (
            &[Architecture::X86_64, Architecture::X86],
            "getpid",
            errno(74),
        ),
        // The rules are not for that architecture: there are no calls by it.
        (&[Architecture::X86_64], "", errno(libc::ENOSYS)),
        (&[], "", errno(libc::ENOSYS)),
    ] {
        let mut bundle = Bundle::new("seccomp-door", "");
        std::fs::copy(&program, bundle.rootfs().join("bin/door")).unwrap();
        bundle.process().args = words("/bin/door");
        let seccomp = bundle.linux().seccomp.as_mut().unwrap();
        seccomp.architectures = architectures.to_vec();
        if !names.is_empty() {
            seccomp
                .syscalls
                .insert(0, rule(names, Action::Errno, Some(74)));
        }
        let code = bundle.run().status.code();
        let expected = if has_door { expected } else { none };
        assert_eq!(code, Some(expected), "{architectures:?} {names}");
        bundle.audit();
    }
}

#[test]
fn flags_are_the_kernels_or_refused() {
    for (flags, is_known) in [
        ("SECCOMP_FILTER_FLAG_TSYNC", true),
        ("SECCOMP_FILTER_FLAG_LOG", true),
        ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", true),
        (
            "SECCOMP_FILTER_FLAG_LOG SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            true,
        ),
        ("SECCOMP_FILTER_FLAG_NONSENSE", false),
    ] {
        for no_new_privileges in [true, false] {
            let mut bundle = Bundle::new("seccomp-flags", "grep Seccomp: /proc/self/status");
            bundle.process().no_new_privileges = no_new_privileges;
            bundle.linux().seccomp.as_mut().unwrap().flags = words(flags);
            let output = bundle.run();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), is_known, "{flags}: {errors}");
            let out = String::from_utf8_lossy(&output.stdout);
            assert_eq!(out.contains("Seccomp:\t2"), is_known, "{flags}: {out}");
            assert!(is_known || errors.contains(flags), "{errors}");
            bundle.audit();
        }
    }
}

#[test]
fn the_listener_is_asked_for_execs() {
    let mut bundle = Bundle::new("seccomp-exec", "exec sleep 1000");
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/mkdir")).unwrap();
    let path = bundle.path().join("agent.sock");
    let agent = UnixListener::bind(&path).unwrap();
    let seccomp = bundle.linux().seccomp.as_mut().unwrap();
    seccomp.listener_path = path.to_str().unwrap().to_owned();
    seccomp
        .syscalls
        .insert(0, rule("mkdir mkdirat", Action::Notify, None));
    bundle.write();
    let id = bundle.id.as_str();
    let receive = |agent: &UnixListener| {
        let (stream, _) = agent.accept().unwrap();
        let mut text = vec![0; 64 << 10];
        let (length, asking) = dhow_sys::fdpass::receive(stream.as_fd(), &mut text).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&text[..length]).unwrap();
        (state, asking)
    };
    let mut run = bundle
        .command(&["run", "--detach", "--bundle"])
        .arg(bundle.path())
        .arg(id)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (first, _asked) = receive(&agent);
    assert!(run.wait().unwrap().success());
    let exec = bundle
        .command(&["exec", id, "mkdir", "/tmp/x"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (second, asking) = receive(&agent);
    assert_eq!(second["state"]["id"], id);
    assert_eq!(second["state"]["status"], "running");
    assert_eq!(second["fds"], serde_json::json!(["seccompFd"]));
    assert_ne!(second["pid"], first["pid"]);
    // It asks; without an answer the call is not there.
    let mut wait = [rustix::event::PollFd::new(
        &asking,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut wait, None).unwrap();
    drop(asking);
    let output = exec.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("not implemented"), "{errors}");
    let container = bundle.runtime().open(id).unwrap();
    container.delete(dhow_runtime::Alive::Kill).unwrap();
    bundle.audit();
}
