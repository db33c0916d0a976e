//! Bundles with a root of busybox, and an audit of what is left of them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dhow_runtime::spec::{
    Capabilities, Linux, Mount, Namespace, NamespaceKind, Process, Root, Spec,
};
use dhow_runtime::{Runtime, seccomp};

/// The executable under test.
pub const EXECUTABLE: &str = env!("CARGO_BIN_EXE_dhow-runtime");

/// Programs of busybox that tests use.
const PROGRAMS: &str = "sh cat echo env false grep head hostname id kill ls mknod mount ps readlink \
    sleep sort stat stty tail tee test touch true tty uname wc yes";

/// What Docker gives a container.
pub const DOCKER: &str = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW \
    CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL \
    CAP_AUDIT_WRITE";

/// A directory with a bundle, a runtime root and room for more.
pub struct Bundle {
    pub directory: tempfile::TempDir,
    pub spec: Spec,
    pub id: String,
}

pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Bundle {
    /// A bundle whose program is a shell script.
    pub fn new(name: &str, script: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("dhow-it-")
            .tempdir()
            .unwrap();
        let root = directory.path().join("rootfs");
        for below in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            std::fs::create_dir_all(root.join(below)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox"))
            .expect("tests need busybox-static: apt-get install busybox-static");
        for program in words(PROGRAMS) {
            symlink("busybox", root.join("bin").join(program)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        // Users inside are others outside.
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), mode).unwrap();
        let id = format!("{name}-{}", std::process::id());
        Self {
            spec: spec(script),
            directory,
            id,
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub fn runtime_root(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn runtime(&self) -> Runtime {
        Runtime::new(self.runtime_root())
    }

    pub fn process(&mut self) -> &mut Process {
        self.spec.process.as_mut().unwrap()
    }

    pub fn linux(&mut self) -> &mut Linux {
        self.spec.linux.as_mut().unwrap()
    }

    pub fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.spec).unwrap();
        std::fs::write(self.path().join("config.json"), text).unwrap();
    }

    /// The executable with these words, its root and nothing else.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(EXECUTABLE);
        command
            .arg("--root")
            .arg(self.runtime_root())
            .args(words)
            .env_clear();
        command
    }

    /// `run` in a mount namespace of its own, where the bundle is a mount and all
    /// mounts are shared; `prepare` is a script that runs there before, with the
    /// bundle's path as `$1`.
    pub fn shared(&self, prepare: &str) -> Command {
        let script = format!(
            "mount --bind $1 $1 && mount --make-rshared / && {{ {prepare}; }} && \
             exec $2 --root $1/state run --bundle $1 $3"
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(self.path())
            .args([EXECUTABLE, &self.id]);
        command
    }

    /// `run`, to the end.
    pub fn run(&self) -> Output {
        self.write();
        self.command(&["run", "--bundle"])
            .arg(self.path())
            .arg(&self.id)
            .output()
            .unwrap()
    }

    /// `run`; what it wrote. Fails the test unless it succeeded.
    #[track_caller]
    pub fn output(&self) -> String {
        let output = self.run();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Nothing is left: no state, no control group, no mount, no process.
    #[track_caller]
    pub fn audit(&self) {
        let left = std::fs::read_dir(self.runtime_root()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "state is left");
        let layout = dhow_cgroup::Layout::detect().unwrap();
        let path = self.spec.linux.as_ref().unwrap().cgroups_path.clone();
        let path = path.unwrap_or_else(|| format!("/dhow-{}", self.id));
        // A path that is none was refused.
        if let Ok(group) = dhow_cgroup::Group::at(layout, path.as_ref()) {
            assert!(!group.exists(), "the control group is left");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.path().to_str().unwrap()),
            "a mount is left:\n{mounts}"
        );
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let root = std::fs::read_link(entry.path().join("root")).unwrap_or_default();
            assert!(
                !root.starts_with(self.path()),
                "process {:?} is left",
                entry.file_name()
            );
        }
    }
}

impl Drop for Bundle {
    /// Whatever a failed test left goes: shims of this directory, containers of
    /// this runtime.
    fn drop(&mut self) {
        let own = self.path().to_str().unwrap().as_bytes().to_vec();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let is_own = command.windows(own.len()).any(|window| window == own);
            if is_own && let Ok(process) = dhow_sys::process::Process::find(pid) {
                // It may end by itself at this moment.
                let _ = process.signal(9);
            }
        }
        for container in self.runtime().list().unwrap_or_default() {
            let _ = container.delete(dhow_runtime::Alive::Kill);
        }
    }
}

/// What Docker asks for, less what a test has no use for.
pub fn spec(script: &str) -> Spec {
    let mount = |destination: &str, kind: &str, options: &str| Mount {
        destination: destination.into(),
        kind: Some(kind.to_owned()),
        source: Some(kind.to_owned()),
        options: options
            .split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect(),
        ..Mount::default()
    };
    let capabilities = words(DOCKER);
    let kinds = [
        NamespaceKind::Mount,
        NamespaceKind::Network,
        NamespaceKind::Uts,
        NamespaceKind::Pid,
        NamespaceKind::Ipc,
        NamespaceKind::Cgroup,
    ];
    Spec {
        oci_version: "1.0.2".to_owned(),
        process: Some(Process {
            args: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            env: vec!["PATH=/usr/bin:/bin".to_owned()],
            capabilities: Some(Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities.clone(),
                ..Capabilities::default()
            }),
            ..Process::default()
        }),
        root: Some(Root {
            path: "rootfs".into(),
            readonly: false,
        }),
        hostname: "inside".to_owned(),
        mounts: vec![
            mount("/proc", "proc", "nosuid,noexec,nodev"),
            mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            mount(
                "/dev/pts",
                "devpts",
                "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
            ),
            mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
            mount("/sys/fs/cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
            mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
            mount(
                "/dev/shm",
                "tmpfs",
                "nosuid,noexec,nodev,mode=1777,size=65536k",
            ),
        ],
        linux: Some(Linux {
            namespaces: kinds.map(|kind| Namespace { kind, path: None }).into(),
            seccomp: Some(seccomp::docker_default(&capabilities)),
            masked_paths: words(
                "/proc/kcore /proc/keys /proc/timer_list /proc/acpi /sys/firmware /proc/none",
            ),
            readonly_paths: words("/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}
