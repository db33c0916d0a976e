//! Labels of SELinux. They need a kernel that enforces the policy of
//! `scripts/vm/policy.cil`: one of the machines of `make vm-test`, where these tests are
//! not ignored.

use std::path::Path;
use std::process::Stdio;

use dhow_runtime::spec::Mount;

use crate::bundle::Bundle;

const PROGRAM: &str = "system_u:system_r:container_t:s0:c1,c2";
const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";

/// A bundle under these labels.
fn labelled(name: &str, script: &str) -> Bundle {
    let mut bundle = Bundle::new(name, script);
    bundle.process().selinux_label = PROGRAM.to_owned();
    bundle.linux().mount_label = FILES.to_owned();
    label(&bundle.rootfs(), FILES);
    bundle
}

/// Gives a label to a file or to everything below a directory.
fn label(path: &Path, label: &str) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(path, "security.selinux", label.as_bytes(), flags).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            self::label(&entry.unwrap().path(), label);
        }
    }
}

fn label_of(path: &Path) -> String {
    let mut label = [0; 200];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut label[..])
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = String::from_utf8(label[..length].to_vec()).unwrap();
    text.trim_end_matches('\0').to_owned()
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim_end_matches(['\0', '\n']).to_owned()
}

/// Runs it in the background and returns its program.
#[track_caller]
fn start(bundle: &Bundle) -> String {
    bundle.write();
    let pid_file = bundle.path().join("pid");
    let mut command = bundle.command(&["run", "--detach", "--pid-file"]);
    command.arg(&pid_file).arg("--bundle").arg(bundle.path());
    command.arg(&bundle.id);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let errors = std::fs::File::create(bundle.path().join("errors")).unwrap();
    let status = command.stderr(errors).status().unwrap();
    let errors = std::fs::read_to_string(bundle.path().join("errors")).unwrap();
    assert!(status.success(), "{errors}");
    std::fs::read_to_string(pid_file).unwrap()
}

#[track_caller]
fn end(bundle: &Bundle) {
    let delete = bundle.command(&["delete", "--force", &bundle.id]).status();
    assert!(delete.unwrap().success());
    bundle.audit();
}

fn exec(bundle: &Bundle, options: &[&str], script: &str) -> (Option<i32>, String, String) {
    let words = [&["exec"], options, &[&bundle.id, "sh", "-c", script]].concat();
    let output = bundle.command(&words).output().unwrap();
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .trim_end_matches(['\0', '\n'])
            .to_owned()
    };
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
#[ignore = "needs SELinux: make vm-test"]
fn programs_and_mounts_are_labelled() {
    let mut bundle = labelled("selinux-labels", "echo >/dev/shm/file; exec sleep 1000");
    for (destination, kind) in [("/dev/mqueue", "mqueue"), ("/run", "tmpfs")] {
        bundle.spec.mounts.push(Mount {
            destination: destination.into(),
            kind: Some(kind.to_owned()),
            source: Some(kind.to_owned()),
            ..Mount::default()
        });
    }
    bundle.linux().masked_paths = vec!["/proc/acpi".to_owned(), "/sys/kernel".to_owned()];
    let pid = start(&bundle);
    assert_eq!(read(&format!("/proc/{pid}/attr/current")), PROGRAM);
    let root = Path::new("/proc").join(&pid).join("root");
    for place in [
        "dev",
        "dev/null",
        "dev/shm",
        "dev/pts",
        "dev/mqueue",
        "run",
        "sys/kernel",
    ] {
        assert_eq!(label_of(&root.join(place)), FILES, "{place}");
    }
    let current = "cat /proc/self/attr/current";
    let other = "system_u:other_r:other_t:s0:c1,c2";
    assert_eq!(
        exec(&bundle, &[], current),
        (Some(0), PROGRAM.into(), String::new())
    );
    let own = ["--process-label", other];
    assert_eq!(
        exec(&bundle, &own, current),
        (Some(0), other.into(), String::new())
    );
    let unknown = ["--process-label", "system_u:system_r:nobody_t:s0"];
    let (code, _, errors) = exec(&bundle, &unknown, current);
    assert_eq!(code, Some(255));
    let told = "knows no label \"system_u:system_r:nobody_t:s0\"";
    assert!(errors.contains(told), "{errors}");
    end(&bundle);
}

/// Also of one that gains no privileges, whose filter is in force before the label.
#[test]
#[ignore = "needs SELinux: make vm-test"]
fn what_is_labelled_otherwise_is_out_of_reach() {
    let mut bundle = labelled("selinux-reach", "exec sleep 1000");
    bundle.process().no_new_privileges = true;
    let files = [
        ("own", FILES),
        ("shared", "system_u:object_r:container_file_t:s0"),
        ("others", "system_u:object_r:container_file_t:s0:c3,c4"),
        ("secret", "system_u:object_r:secret_t:s0"),
    ];
    for (name, is) in files {
        let path = bundle.rootfs().join("tmp").join(name);
        std::fs::write(&path, name).unwrap();
        label(&path, is);
    }
    start(&bundle);
    for (name, _) in files {
        let (code, out, errors) = exec(&bundle, &[], &format!("cat /tmp/{name}"));
        if matches!(name, "own" | "shared") {
            assert_eq!((code, out.as_str()), (Some(0), name), "{errors}");
        } else {
            assert!(
                errors.contains("Permission denied"),
                "{name}: {out}{errors}"
            );
        }
    }
    end(&bundle);
}

/// The keys of a container are its own, by their label as well.
#[test]
#[ignore = "needs SELinux: make vm-test"]
fn keyrings_are_labelled() {
    let mut bundle = labelled("selinux-keys", "cat /proc/keys | grep -c _ses.");
    bundle.linux().masked_paths.clear();
    // Whoever may not see a key is not shown it.
    assert_eq!(bundle.output(), "1\n");
    bundle.audit();
}

#[test]
#[ignore = "needs SELinux: make vm-test"]
fn labels_that_nobody_knows_are_refused() {
    type Change = fn(&mut Bundle);
    let changes: [(&str, Change); 2] = [
        ("process.selinuxLabel", |bundle| {
            bundle.process().selinux_label = "system_u:system_r:nobody_t:s0".to_owned();
        }),
        ("linux.mountLabel", |bundle| {
            bundle.linux().mount_label = "system_u:object_r:nobody_t:s0".to_owned();
        }),
    ];
    for (field, change) in changes {
        let mut bundle = labelled("selinux-unknown", "true");
        change(&mut bundle);
        let output = bundle.run();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(
            errors.contains(field) && errors.contains("knows no label"),
            "{errors}"
        );
        bundle.audit();
    }
    // One that the program may not have.
    let mut bundle = labelled("selinux-forbidden", "true");
    bundle.process().selinux_label = "system_u:object_r:container_file_t:s0".to_owned();
    let output = bundle.run();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("permission denied"),
        "{errors}"
    );
    bundle.audit();
}
