//! Labels that the engine gives to containers, under a policy that keeps containers
//! from what is secret and from files of other categories (`scripts/vm/policy.cil`).

use std::path::{Path, PathBuf};

use dhow_testkit::{Daemon, Ran};

use crate::{inspect, remove, sleeper, within};

const NONE: [&str; 2] = ["--network", "none"];
const CURRENT: &str = "cat /proc/self/attr/current";

fn start() -> Daemon {
    let daemon = Daemon::start_with(|_| vec!["--selinux-enabled".to_owned()]);
    daemon.busybox_by_dhow();
    daemon
}

fn set_label(path: &Path, label: &str) {
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::setxattr(path, "security.selinux", label.as_bytes(), flags);
    set.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[track_caller]
fn label_of(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let mut label = [0; 200];
    let length = rustix::fs::getxattr(path, "security.selinux", &mut label[..])
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let label = String::from_utf8_lossy(&label[..length]);
    label.trim_end_matches('\0').to_owned()
}

/// The labels of a container's programs and files, as it is told.
#[track_caller]
fn labels(daemon: &Daemon, name: &str) -> (String, String) {
    let told = inspect(daemon, name, "{{.ProcessLabel}}|{{.MountLabel}}");
    let (program, files) = told.split_once('|').expect("two of them");
    (program.to_owned(), files.to_owned())
}

/// The label that a program in a container has.
#[track_caller]
fn current(daemon: &Daemon, name: &str) -> String {
    let said = within(daemon, name, CURRENT).ok();
    said.trim_end_matches('\0').to_owned()
}

fn run(daemon: &Daemon, options: &[&str], script: &str) -> Ran {
    let words = [
        &["run", "--rm"],
        &NONE[..],
        options,
        &["busybox", "sh", "-c", script],
    ];
    daemon.dhow(&words.concat())
}

#[test]
#[ignore = "needs SELinux: make vm-test"]
fn containers_have_labels_of_their_own() {
    let mut daemon = start();
    let info = daemon.dhow(&["info"]).ok();
    assert!(info.contains("selinux"), "{info}");
    for name in ["one", "two"] {
        sleeper(
            &daemon,
            name,
            &[&NONE[..], &["--ipc", "shareable"]].concat(),
        );
        let (program, files) = labels(&daemon, name);
        let level = program.strip_prefix("system_u:system_r:container_t:s0:c");
        let level = level.unwrap_or_else(|| panic!("{program}"));
        assert_eq!(
            files,
            format!("system_u:object_r:container_file_t:s0:c{level}")
        );
        assert_eq!(current(&daemon, name), program);
        let pid = inspect(&daemon, name, "{{.State.Pid}}");
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        within(&daemon, name, "echo own >/file").ok();
        for place in [
            "",
            "data/greeting",
            "file",
            "dev",
            "dev/shm",
            "dev/null",
            "etc/hosts",
        ] {
            assert_eq!(label_of(root.join(place)), files, "{place}");
        }
    }
    assert_ne!(labels(&daemon, "one"), labels(&daemon, "two"));

    // They stay what they are, whoever starts it again.
    let before = labels(&daemon, "one");
    daemon.kill();
    daemon.start_again_with(&["--selinux-enabled"]);
    daemon.dhow(&["restart", "-t", "0", "one"]).ok();
    assert_eq!(labels(&daemon, "one"), before);
    assert_eq!(current(&daemon, "one"), before.0);

    // Who joins another has its label.
    for (name, mode) in [("by-ipc", "--ipc"), ("by-pid", "--pid")] {
        sleeper(
            &daemon,
            name,
            &[&NONE[..], &[mode, "container:one"]].concat(),
        );
        assert_eq!(labels(&daemon, name).0, before.0, "{mode}");
        assert_eq!(current(&daemon, name), before.0, "{mode}");
    }
    within(&daemon, "one", "echo shared >/dev/shm/file").ok();
    assert_eq!(
        within(&daemon, "by-ipc", "cat /dev/shm/file").ok(),
        "shared"
    );
    let both = ["--ipc", "container:one", "--pid", "container:two"];
    let refused = run(&daemon, &both, "true");
    assert!(
        refused.stderr.contains("labels aren't the same"),
        "{refused:?}"
    );
    remove(&daemon, &["one", "two", "by-ipc", "by-pid"]);

    // Steps of builds are containers, too.
    let context = daemon.host().folder().join("context");
    std::fs::create_dir(&context).expect("a folder");
    let text = format!("FROM busybox\nRUN {CURRENT}; echo >/made\n");
    std::fs::write(context.join("Dockerfile"), text).expect("written");
    let context = context.display().to_string();
    let build = ["build", "--network", "none", "-t", "built", &context];
    let built = daemon.dhow(&build);
    let said = format!("{}{}", built.stdout, built.stderr);
    assert!(said.contains(":container_t:s0:c"), "{said}");
    built.ok();

    // Without the option nobody has any.
    daemon.stop();
    daemon.start_again();
    let info = daemon.dhow(&["info"]).ok();
    assert!(!info.contains("selinux"), "{info}");
    sleeper(&daemon, "plain", &NONE);
    assert_eq!(labels(&daemon, "plain"), (String::new(), String::new()));
    assert!(current(&daemon, "plain").contains(":host_t:"));
    remove(&daemon, &["plain"]);
    daemon.finish();
}

#[test]
#[ignore = "needs SELinux: make vm-test"]
fn options_choose_labels() {
    let daemon = start();
    for (option, part, value) in [
        ("label=type:other_t", 2, "other_t"),
        ("label=role:other_r", 1, "other_r"),
        ("label=user:other_u", 0, "other_u"),
        ("label=level:s0:c5,c6", 3, "s0:c5,c6"),
        ("label:type:other_t", 2, "other_t"),
    ] {
        let said = run(&daemon, &["--security-opt", option], CURRENT).ok();
        let label = said.trim_end_matches('\0');
        assert_eq!(
            label.splitn(4, ':').nth(part),
            Some(value),
            "{option}: {label}"
        );
    }
    let filetype = ["--security-opt", "label=filetype:other_file_t"];
    sleeper(&daemon, "typed", &[&NONE[..], &filetype].concat());
    assert!(labels(&daemon, "typed").1.contains(":other_file_t:"));
    remove(&daemon, &["typed"]);
    // Who is not kept from the host is not labelled.
    for options in [
        &["--security-opt", "label=disable"][..],
        &["--privileged"],
        &["--pid", "host"],
        &["--ipc", "host"],
    ] {
        let said = run(&daemon, options, CURRENT).ok();
        assert!(said.contains(":host_t:"), "{options:?}: {said}");
    }
    for (option, reason) in [
        ("label=type", "bad label option"),
        ("label=kind:other_t", "bad label option"),
        ("label=type:nobody_t", "knows no label"),
        ("label=filetype:nobody_t", "knows no label"),
    ] {
        let refused = run(&daemon, &["--security-opt", option], "true");
        assert_eq!(refused.code, 125, "{refused:?}");
        assert!(refused.stderr.contains(reason), "{refused:?}");
    }
    assert_eq!(daemon.dhow(&["ps", "-aq"]).ok(), "");
    daemon.finish();
}

#[test]
#[ignore = "needs SELinux: make vm-test"]
fn what_is_mounted_is_labelled_when_asked_for() {
    let daemon = start();
    let folder = daemon.host().folder().join("bound");
    let inner = folder.join("inner/file");
    std::fs::create_dir_all(inner.parent().expect("a folder")).expect("folders");
    std::fs::write(&inner, "bound\n").expect("written");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).expect("a link");
    let passwd = label_of("/etc/passwd");
    set_label(&inner, "system_u:object_r:secret_t:s0");
    let mount = |mode: &str| format!("{}:/bound{mode}", folder.display());
    let read = "cat /bound/inner/file";

    let refused = run(&daemon, &["-v", &mount("")], read);
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    assert_eq!(run(&daemon, &["-v", &mount(":z")], read).ok(), "bound");
    assert_eq!(label_of(&inner), "system_u:object_r:container_file_t:s0");
    // Shared means that others need not ask.
    assert_eq!(run(&daemon, &["-v", &mount("")], read).ok(), "bound");
    sleeper(
        &daemon,
        "owner",
        &[&NONE[..], &["-v", &mount(":Z,ro")]].concat(),
    );
    assert_eq!(label_of(&inner), labels(&daemon, "owner").1);
    assert_eq!(within(&daemon, "owner", read).ok(), "bound");
    let refused = run(&daemon, &["-v", &mount("")], read);
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    // Links are not followed.
    assert_eq!(label_of("/etc/passwd"), passwd);
    remove(&daemon, &["owner"]);

    // Volumes are for whoever has them.
    let write = "cat /volume/file; echo volume >/volume/file";
    for expected in ["", "volume"] {
        let ran = run(&daemon, &["-v", "volume:/volume"], write);
        assert_eq!((ran.code, ran.stdout.trim()), (0, expected), "{ran:?}");
    }
    let others = daemon
        .host()
        .folder()
        .join("data/volumes/volume/_data/file");
    assert_eq!(label_of(others), "system_u:object_r:container_file_t:s0");
    daemon.dhow(&["volume", "rm", "volume"]).ok();

    // What is the host's as a whole keeps its label, by whatever name.
    let link = daemon.host().folder().join("etc");
    std::os::unix::fs::symlink("/etc", &link).expect("a link");
    for source in ["/", "/etc", "/usr/", "/home", &link.display().to_string()] {
        if !Path::new(source).exists() {
            continue;
        }
        let refused = run(&daemon, &["-v", &format!("{source}:/bound:z")], "true");
        assert_eq!(refused.code, 125, "{refused:?}");
        let reason = "relabeling of";
        assert!(refused.stderr.contains(reason), "{source}: {refused:?}");
    }
    assert_eq!(label_of("/etc/passwd"), passwd);
    assert_eq!(daemon.dhow(&["ps", "-aq"]).ok(), "");
    daemon.finish();
}
