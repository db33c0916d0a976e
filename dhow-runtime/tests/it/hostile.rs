//! Bundles and roots that mean harm, and mistakes that look like it.

use std::os::unix::fs::symlink;

use dhow_runtime::spec::{Mount, Namespace, NamespaceKind};

use crate::bundle::{Bundle, words};

/// Runs a bundle that must be refused; what was said about it.
#[track_caller]
fn refused(name: &str, change: impl FnOnce(&mut Bundle)) -> String {
    let mut bundle = Bundle::new(name, "echo in");
    change(&mut bundle);
    let output = bundle.run();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    bundle.audit();
    String::from_utf8(output.stderr).unwrap()
}

fn bind(source: &std::path::Path, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: Some("bind".to_owned()),
        source: Some(source.to_str().unwrap().to_owned()),
        options: vec!["rbind".to_owned()],
        ..Mount::default()
    }
}

#[test]
fn configurations_that_cannot_be_are_explained() {
    type Change = fn(&mut Bundle);
    let cases: [(&str, Change); 13] = [
        ("process.args: is empty", |bundle| {
            bundle.process().args.clear();
        }),
        ("process.cwd: \"tmp\" is not absolute", |bundle| {
            bundle.process().cwd = "tmp".to_owned();
        }),
        ("ociVersion: \"2.0\" is not supported", |bundle| {
            bundle.spec.oci_version = "2.0".to_owned();
        }),
        (
            "vm.swappiness): is not in a separate kernel namespace",
            |bundle| {
                bundle
                    .linux()
                    .sysctl
                    .insert("vm.swappiness".to_owned(), "1".to_owned());
            },
        ),
        ("net.ipv4.ip_forward): is not in a separate", |bundle| {
            bundle
                .linux()
                .namespaces
                .retain(|one| one.kind != NamespaceKind::Network);
            bundle
                .linux()
                .sysctl
                .insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
        }),
        ("net is listed twice", |bundle| {
            let namespace = Namespace {
                kind: NamespaceKind::Network,
                path: None,
            };
            bundle.linux().namespaces.push(namespace);
        }),
        ("needs a new mount namespace", |bundle| {
            bundle
                .linux()
                .namespaces
                .retain(|one| one.kind != NamespaceKind::Mount);
        }),
        (
            "open namespace /proc/self/status: Invalid argument",
            |bundle| {
                bundle.linux().namespaces[1].path = Some("/proc/self/status".into());
            },
        ),
        (
            "open namespace /proc/self/ns/uts: Invalid argument",
            |bundle| {
                bundle.linux().namespaces[1].path = Some("/proc/self/ns/uts".into());
            },
        ),
        ("is no path of a control group", |bundle| {
            bundle.linux().cgroups_path = Some("/dhow/../..".to_owned());
        }),
        (
            "process.rlimits (RLIMIT_NONSENSE): is no resource limit",
            |bundle| {
                let kind = "RLIMIT_NONSENSE".to_owned();
                bundle.process().rlimits = vec![dhow_runtime::spec::Rlimit {
                    kind,
                    hard: 1,
                    soft: 1,
                }];
            },
        ),
        (
            "exec: \"nothing\": executable file not found in $PATH",
            |bundle| {
                bundle.process().args = words("nothing");
            },
        ),
        ("exec: \"/etc/passwd\": permission denied", |bundle| {
            bundle.process().args = words("/etc/passwd");
        }),
    ];
    for (expected, change) in cases {
        let errors = refused("config", change);
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
}

#[test]
fn links_in_the_root_do_not_lead_out() {
    let mut bundle = Bundle::new("links", "cat /escape/file; echo; cat /proc/self/comm");
    let outside = bundle.path().join("outside");
    let inside = bundle.path().join("inside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(inside.join("file"), "bound").unwrap();
    // Up and out, and absolute.
    symlink("../../../../../../../..", bundle.rootfs().join("up")).unwrap();
    symlink(&outside, bundle.rootfs().join("escape")).unwrap();
    bundle.spec.mounts.push(bind(&inside, "/escape"));
    bundle.spec.mounts.push(bind(&inside, "/up/made"));
    let output = bundle.output();
    assert_eq!(output, "bound\ncat\n");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/made").exists());
    assert!(bundle.rootfs().join("made").is_dir());
    bundle.audit();
}

/// Regression: a link in the place of `/proc` or `/sys` would leave the masked
/// paths where they are (CVE-2019-19921).
#[test]
fn a_link_is_no_place_for_proc() {
    for name in ["proc", "sys"] {
        let errors = refused("proc-link", |bundle| {
            std::fs::remove_dir(bundle.rootfs().join(name)).unwrap();
            symlink("/tmp", bundle.rootfs().join(name)).unwrap();
        });
        assert!(
            errors.contains("Too many levels of symbolic links"),
            "{errors}"
        );
    }
}

/// Regression: a mount inside of procfs could replace what protects processes
/// (CVE-2019-16884).
#[test]
fn nothing_is_mounted_over_proc() {
    let errors = refused("over-proc", |bundle| {
        let directory = bundle.path().join("fake");
        std::fs::create_dir(&directory).unwrap();
        bundle.spec.mounts.push(bind(&directory, "/proc/self/attr"));
    });
    assert!(errors.contains("bind mount to /proc/self/attr"), "{errors}");
    let errors = refused("over-proc-link", |bundle| {
        let directory = bundle.path().join("fake");
        std::fs::create_dir(&directory).unwrap();
        symlink("/proc/sys", bundle.rootfs().join("innocent")).unwrap();
        bundle.spec.mounts.push(bind(&directory, "/innocent"));
    });
    assert!(
        errors.contains("bind mount to /innocent: Operation not permitted"),
        "{errors}"
    );
}

/// Regression: descriptors and working directories of the runtime must not
/// reach the program (CVE-2024-21626).
#[test]
fn no_descriptor_leaks_in() {
    let bundle = Bundle::new(
        "leak",
        "ls -l /proc/self/fd | grep -v ' -> /proc/' | wc -l; ls /proc/self/fd",
    );
    let leak = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let output = bundle.output();
    // Three streams, and the directory that ls reads.
    assert_eq!(words(&output)[1..], ["0", "1", "2", "3"]);
    bundle.audit();

    for number in 3..12 {
        let errors = refused("cwd-leak", |bundle| {
            bundle.process().cwd = format!("/proc/self/fd/{number}");
        });
        assert!(
            errors.contains("chdir to cwd") || errors.contains("make directory"),
            "{number}: {errors}"
        );
    }
}

/// Regression: the program must not be able to overwrite the runtime through
/// its `/proc/PID/exe` (CVE-2019-5736).
#[test]
fn the_runtime_cannot_be_written_to() {
    // The program of the container is the runtime itself, under its magic link.
    let mut bundle = Bundle::new("exe", "");
    bundle.process().args = words("/proc/self/exe --version");
    bundle.spec.linux.as_mut().unwrap().seccomp = None;
    let output = bundle.output();
    assert!(output.starts_with("dhow-runtime version"), "{output}");
    bundle.audit();

    // While a created container waits, its process is still the runtime.
    let bundle = Bundle::new("exe-wait", "true");
    bundle.write();
    let status = bundle
        .command(&["create", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id)
        .status();
    assert!(status.unwrap().success());
    let container = bundle.runtime().open(&bundle.id).unwrap();
    let executable = format!("/proc/{}/exe", container.pid());
    std::fs::File::options()
        .write(true)
        .open(&executable)
        .unwrap_err();
    // Not only because it runs at this moment.
    let file = std::fs::File::open(&executable).unwrap();
    let flags = rustix::fs::fstatvfs(&file).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    container.delete(dhow_runtime::Alive::Refuse).unwrap();
    bundle.audit();
}

#[test]
fn devices_are_not_taken_for_what_they_are_not() {
    // A file in the place of a device, where /dev is the image's own.
    let errors = refused("fake-null", |bundle| {
        bundle
            .spec
            .mounts
            .retain(|mount| mount.destination != std::path::Path::new("/dev"));
        std::fs::write(bundle.rootfs().join("dev/null"), "").unwrap();
    });
    assert!(
        errors.contains("make device /dev/null: File exists"),
        "{errors}"
    );
}
