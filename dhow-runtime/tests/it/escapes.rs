//! The ways out of containers that other runtimes have had, one test each: what
//! was tried then is tried here, and must not work.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use dhow_runtime::spec::{Device, DeviceKind, Mount};

use crate::bundle::{Bundle, EXECUTABLE, words};

fn bind(source: &Path, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: Some("bind".to_owned()),
        source: Some(source.to_str().unwrap().to_owned()),
        options: vec!["rbind".to_owned()],
        ..Mount::default()
    }
}

/// Runs a bundle that must be refused; what was said about it.
#[track_caller]
fn refused(bundle: &Bundle) -> String {
    let output = bundle.run();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    bundle.audit();
    String::from_utf8(output.stderr).unwrap()
}

/// A container that sleeps, started detached.
fn sleeping(name: &str) -> Bundle {
    let bundle = Bundle::new(name, "exec sleep 1000");
    bundle.write();
    let status = bundle
        .command(&["run", "--detach", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    bundle
}

#[track_caller]
fn end(bundle: &Bundle) {
    let container = bundle.runtime().open(&bundle.id).unwrap();
    container.delete(dhow_runtime::Alive::Kill).unwrap();
    bundle.audit();
}

/// Takes the mount of `/dev` away, and what lies on it: the image's is used.
fn own_dev(bundle: &mut Bundle) {
    bundle
        .spec
        .mounts
        .retain(|mount| !mount.destination.starts_with("/dev"));
}

/// CVE-2019-5736: the runtime's executable was overwritten through
/// `/proc/PID/exe` of the process that enters the container.
#[test]
fn the_executable_of_an_exec_cannot_be_written_to() {
    let bundle = sleeping("cve-2019-5736");
    let before = std::fs::read(EXECUTABLE).unwrap();
    let container = bundle.runtime().open(&bundle.id).unwrap();
    // Paused, so that the process that enters stays the runtime.
    container.pause().unwrap();
    let mut entering = bundle
        .command(&["exec", "--ignore-paused", &bundle.id, "true"])
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let inside = loop {
        let mut inside = container.processes().unwrap();
        inside.retain(|pid| *pid != container.pid());
        if let Some(pid) = inside.first() {
            break *pid;
        }
        assert!(std::time::Instant::now() < deadline, "it does not come");
        std::thread::yield_now();
    };
    let executable = format!("/proc/{inside}/exe");
    let file = std::fs::File::open(&executable).unwrap();
    let flags = rustix::fs::fstatvfs(&file).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    container.resume().unwrap();
    assert!(entering.wait().unwrap().success());
    // Not only while it runs: a descriptor that was kept does not help either.
    let kept = dhow_sys::resolve::descriptor_path(file.as_fd());
    std::fs::File::options().write(true).open(kept).unwrap_err();
    assert_eq!(std::fs::read(EXECUTABLE).unwrap(), before);
    end(&bundle);
}

/// CVE-2019-5736 again: a script whose interpreter is the runtime under its
/// magic link.
#[test]
fn a_script_run_by_the_runtime_gets_nothing() {
    let mut bundle = Bundle::new("cve-2019-5736-script", "");
    let script = bundle.rootfs().join("bin/evil");
    std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    bundle.process().args = words("/bin/evil");
    let output = bundle.run();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("no command \"/bin/evil\""), "{errors}");
    bundle.audit();
}

/// CVE-2019-19921: a link in the place of `/proc`, or a volume that changes while
/// it is mounted, made masks fall beside what they were for.
#[test]
fn masks_fall_on_what_they_are_for() {
    let mut bundle = Bundle::new("cve-2019-19921", "true");
    std::fs::remove_dir(bundle.rootfs().join("proc")).unwrap();
    std::fs::create_dir(bundle.rootfs().join("evil")).unwrap();
    symlink("evil/level", bundle.rootfs().join("proc")).unwrap();
    let volume = bundle.path().join("volume");
    std::fs::create_dir_all(volume.join("level")).unwrap();
    bundle.spec.mounts.insert(0, bind(&volume, "/evil"));
    let errors = refused(&bundle);
    assert!(
        errors.contains("mount proc to /proc: Too many levels of symbolic links"),
        "{errors}"
    );
}

/// CVE-2024-21626: a working directory in a descriptor that had leaked.
#[test]
fn a_leaked_descriptor_is_no_working_directory() {
    for number in 3..16 {
        let mut bundle = Bundle::new("cve-2024-21626", "cat ../../../../etc/hostname");
        bundle.process().cwd = format!("/proc/self/fd/{number}");
        let errors = refused(&bundle);
        assert!(
            errors.contains("chdir to cwd") || errors.contains("make directory"),
            "{number}: {errors}"
        );
    }
    let bundle = sleeping("cve-2024-21626-exec");
    symlink("/proc/self/fd", bundle.rootfs().join("fds")).unwrap();
    for number in 3..16 {
        for cwd in ["/proc/self/fd", "/fds", "/proc/thread-self/fd"] {
            let cwd = format!("{cwd}/{number}");
            // One that leads to the container's own root leads nowhere else.
            let script =
                "[ . -ef / ] && pwd || cat etc/hostname ../etc/hostname ../../etc/hostname";
            let output = bundle
                .command(&["exec", "--cwd", &cwd, &bundle.id, "sh", "-c", script])
                .output()
                .unwrap();
            match output.status.code() {
                Some(0) => assert_eq!(output.stdout, b"/\n", "{cwd}"),
                code => assert_eq!((code, &output.stdout[..]), (Some(255), &b""[..]), "{cwd}"),
            }
        }
    }
    end(&bundle);
}

/// CVE-2025-31133: the image's `/dev/null` was a link, and what it led to covered
/// a masked path, writable.
#[test]
fn masks_are_the_null_device() {
    let mut bundle = Bundle::new("cve-2025-31133", "true");
    own_dev(&mut bundle);
    symlink(
        "/proc/sys/kernel/core_pattern",
        bundle.rootfs().join("dev/null"),
    )
    .unwrap();
    let errors = refused(&bundle);
    assert!(
        errors.contains("make device /dev/null: File exists"),
        "{errors}"
    );

    // A bind mount over the link is a link refused as well.
    let mut bundle = Bundle::new("cve-2025-31133-bind", "true");
    own_dev(&mut bundle);
    symlink("/tmp/null", bundle.rootfs().join("dev/null")).unwrap();
    bundle
        .spec
        .mounts
        .push(bind("/dev/null".as_ref(), "/dev/null"));
    let errors = refused(&bundle);
    assert!(
        errors.contains("bind mount to /dev/null: Too many levels"),
        "{errors}"
    );

    let script =
        "stat -c '%F %t:%T' /proc/keys /proc/timer_list; echo x > /proc/keys; cat /proc/keys";
    let bundle = Bundle::new("cve-2025-31133-mask", script);
    let expected = "character special file 1:3\n".repeat(2);
    assert_eq!(bundle.output(), expected);
    bundle.audit();
}

/// CVE-2025-52565: the terminal was bound to `/dev/console` through a link of the
/// image, before anything was masked.
#[test]
fn a_link_is_no_console() {
    let mut bundle = Bundle::new("cve-2025-52565", "true");
    // The image's /dev, with terminals of the container's own below it.
    bundle.spec.mounts.retain(|mount| {
        !mount.destination.starts_with("/dev") || mount.destination == Path::new("/dev/pts")
    });
    std::fs::write(bundle.rootfs().join("etc/target"), "kept\n").unwrap();
    symlink("/etc/target", bundle.rootfs().join("dev/console")).unwrap();
    bundle.process().terminal = true;
    bundle.write();
    let path = bundle.path().join("console.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let output = bundle
        .command(&["create", "--console-socket"])
        .arg(&path)
        .arg("--bundle")
        .arg(bundle.path())
        .arg(&bundle.id)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("open a terminal: Too many levels of symbolic links"),
        "{errors}"
    );
    let target = std::fs::read_to_string(bundle.rootfs().join("etc/target"));
    assert_eq!(target.unwrap(), "kept\n");
    bundle.audit();
}

/// CVE-2025-52565 again: what is no pseudoterminal is not taken for one.
#[test]
fn a_file_is_no_terminal() {
    let mut bundle = Bundle::new("cve-2025-52565-ptmx", "true");
    own_dev(&mut bundle);
    std::fs::create_dir(bundle.rootfs().join("dev/pts")).unwrap();
    std::fs::write(bundle.rootfs().join("dev/pts/ptmx"), "").unwrap();
    bundle.process().terminal = true;
    let errors = refused(&bundle);
    assert!(
        errors.contains("open a terminal: No such device"),
        "{errors}"
    );
}

/// CVE-2025-52881: what the runtime writes to procfs went somewhere else.
#[test]
fn procfs_is_written_to_or_nothing() {
    let mut bundle = Bundle::new("cve-2025-52881", "echo in");
    // One that has the same place in every namespace.
    let name = "kernel.domainname".to_owned();
    bundle.linux().sysctl.insert(name, "own".to_owned());
    bundle.write();
    let decoy = bundle.path().join("decoy");
    std::fs::write(&decoy, "kept").unwrap();
    let after = |change: &str| {
        let script = format!("{change} && exec \"$@\"");
        let output = Command::new("unshare")
            .args([
                "--mount",
                "--propagation=private",
                "sh",
                "-c",
                &script,
                "sh",
            ])
            .arg(EXECUTABLE)
            .arg("--root")
            .arg(bundle.runtime_root())
            .args(["run", "--bundle"])
            .arg(bundle.path())
            .arg(&bundle.id)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        bundle.audit();
        String::from_utf8(output.stderr).unwrap()
    };
    // A file over the one that is to be written.
    let target = "/proc/sys/kernel/domainname";
    let errors = after(&format!("mount --bind {} {target}", decoy.display()));
    assert!(errors.contains("Invalid cross-device link"), "{errors}");
    assert_eq!(std::fs::read_to_string(&decoy).unwrap(), "kept");
    // Something else, and another part of the true procfs, in its place.
    for change in [
        "mount -t tmpfs none /proc && mkdir /proc/self && ln -s $1 /proc/self/exe",
        "mount --bind /proc/sys /proc",
    ] {
        let errors = after(change);
        assert!(errors.contains("Invalid cross-device link"), "{errors}");
    }

    // Inside, no mount reaches procfs, whatever links say (see also `hostile`).
    let mut bundle = Bundle::new("cve-2025-52881-inside", "true");
    let attributes = bundle.path().join("attr");
    std::fs::create_dir(&attributes).unwrap();
    symlink("/proc/self/attr", bundle.rootfs().join("innocent")).unwrap();
    bundle.spec.mounts.push(bind(&attributes, "/innocent"));
    let errors = refused(&bundle);
    assert!(errors.contains("Operation not permitted"), "{errors}");
}

/// CVE-2026-41579: the image's `/dev` was a link to a volume, and devices and
/// links were made in a directory of the host's.
#[test]
fn a_link_is_no_dev() {
    type Change = fn(&mut Bundle);
    let cases: [(&str, Change); 4] = [
        ("make device /dev/null", own_dev),
        ("mount tmpfs to /dev", |_| {}),
        ("bind mount to /dev", |bundle| {
            own_dev(bundle);
            bundle.spec.mounts.push(bind("/dev".as_ref(), "/dev"));
        }),
        ("make device /dev/fuse", |bundle| {
            own_dev(bundle);
            // With a /dev of the host's, default devices are not made.
            bundle.linux().devices = ["null", "zero", "full", "random", "urandom", "tty", "fuse"]
                .map(|name| Device {
                    kind: DeviceKind::Character,
                    path: format!("/dev/{name}").into(),
                    major: 10,
                    minor: 229,
                    file_mode: None,
                    uid: None,
                    gid: None,
                })
                .into();
            bundle.linux().devices.rotate_right(1);
        }),
    ];
    for (expected, change) in cases {
        let mut bundle = Bundle::new("cve-2026-41579", "true");
        let volume = bundle.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("ptmx"), "kept").unwrap();
        std::fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
        symlink("/volume", bundle.rootfs().join("dev")).unwrap();
        bundle.spec.mounts.insert(0, bind(&volume, "/volume"));
        change(&mut bundle);
        let errors = refused(&bundle);
        let expected = format!("{expected}: Too many levels of symbolic links");
        assert!(errors.contains(&expected), "{expected}: {errors}");
        let left: Vec<_> = std::fs::read_dir(&volume).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(std::fs::read(volume.join("ptmx")).unwrap(), b"kept");
    }
}

/// CVE-2026-30892: an identity that was misread ran as root. (What is refused is
/// tried in `command_line`.)
#[test]
fn an_identity_is_what_it_says() {
    let bundle = sleeping("cve-2026-30892");
    for (user, expected) in [
        ("1", "1 0"),
        ("1000", "1000 0"),
        ("01", "1 0"),
        ("5:6", "5 6"),
    ] {
        let output = bundle
            .command(&["exec", "-u", user, &bundle.id, "sh", "-c"])
            .arg("echo $(id -u) $(id -g)")
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(out.trim(), expected, "{user}");
    }
    end(&bundle);
}

/// Whoever enters early must not see the host: a container is not found before
/// its root is its own.
#[test]
fn nobody_enters_before_the_root_is_changed() {
    let mut bundle = Bundle::new("early", "exec sleep 1000");
    // A hook holds it up before the root is changed.
    let (reached, go) = (bundle.path().join("reached"), bundle.path().join("go"));
    for fifo in [&reached, &go] {
        let made = Command::new("mkfifo").arg(fifo).status();
        assert!(made.unwrap().success());
    }
    bundle.spec.hooks.create_runtime = vec![dhow_runtime::spec::Hook {
        path: "/bin/sh".into(),
        args: ["sh", "-c", "echo > $0; read line < $1"]
            .map(str::to_owned)
            .into_iter()
            .chain([&reached, &go].map(|path| path.to_str().unwrap().to_owned()))
            .collect(),
        ..dhow_runtime::spec::Hook::default()
    }];
    bundle.write();
    let mut run = bundle
        .command(&["run", "--detach", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::fs::read(&reached).unwrap();
    let exec = bundle.command(&["exec", &bundle.id, "true"]).output();
    let exec = exec.unwrap();
    assert_eq!(exec.status.code(), Some(255));
    let errors = String::from_utf8_lossy(&exec.stderr);
    assert!(errors.contains("container does not exist"), "{errors}");
    std::fs::write(&go, "\n").unwrap();
    assert!(run.wait().unwrap().success());
    let exec = bundle.command(&["exec", &bundle.id, "true"]).status();
    assert!(exec.unwrap().success());
    end(&bundle);
}

/// A default container cannot reach what is not its own: other processes, keys,
/// devices, the kernel's parameters.
#[test]
fn a_default_container_is_shut_in() {
    let outside = std::process::id();
    let kill = format!("kill -0 {outside}");
    let requests = match Path::new("/proc/sysrq-trigger").exists() {
        true => "Read-only file system",
        // A kernel without them.
        false => "nonexistent directory",
    };
    // Nothing here that would hurt if it worked.
    let tries = [
        (kill.as_str(), "No such process"),
        (
            "echo harmless > /proc/sys/kernel/core_pattern",
            "Read-only file system",
        ),
        ("echo h > /proc/sysrq-trigger", requests),
        ("wc -c < /proc/timer_list", "0"),
        ("wc -c < /proc/keys", "0"),
        (
            "mknod /tmp/disk b 7 0 && cat /tmp/disk",
            "'/tmp/disk': Operation not permitted",
        ),
        ("mount -t proc none /tmp", "ermission denied"),
        ("ls /sys/kernel/debug | wc -l", "0"),
        // The shell, those in brackets, ls and wc.
        ("[ $(ls -d /proc/[0-9]* | wc -l) -le 6 ] && echo few", "few"),
    ];
    let script: String = tries
        .iter()
        .map(|(command, _)| format!("({command}) 2>&1; echo ---; "))
        .collect();
    let mut bundle = Bundle::new("shut-in", &script);
    let resources = bundle.linux().resources.get_or_insert_default();
    resources.devices = vec![dhow_runtime::spec::DeviceRule {
        allow: false,
        kind: None,
        major: None,
        minor: None,
        access: None,
    }];
    let pattern = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    let output = bundle.output();
    let seen: Vec<&str> = output.split("---\n").map(str::trim_end).collect();
    assert_eq!(seen.len(), tries.len() + 1, "{output}");
    for ((command, expected), seen) in tries.iter().zip(seen) {
        // A number is all that is said, an error is said among other things.
        let is_number = expected.parse::<u32>().is_ok();
        assert!(
            seen == *expected || (!is_number && seen.contains(expected)),
            "{command}: {seen}"
        );
    }
    assert_eq!(pattern(), before);
    bundle.audit();
}
