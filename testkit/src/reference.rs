//! A real dockerd, to hold the suites against: a check that the reference
//! fails is wrong.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dhow_sys::capability;

use crate::executables::require;
use crate::host::Host;

/// How often the daemon is asked whether it serves; the events it would tell
/// that by, Debian's does not send.
const ATTEMPTS: u32 = 300;

/// A dockerd on a host of its own.
#[derive(Debug)]
pub struct Reference {
    host: Host,
    process: Child,
}

impl Reference {
    /// Starts dockerd and waits until it serves.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn start() -> Self {
        Self::start_with(&[], "")
    }

    /// Starts one whose containers' users are others, 65536 from 100000 on.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    pub fn start_remapped() -> Self {
        // The account is any that the machine has; its ranges are of this dockerd's
        // mount namespace alone.
        let ranges =
            "mount --bind \"$RANGES\" /etc/subuid && mount --bind \"$RANGES\" /etc/subgid && ";
        Self::start_with(&["--userns-remap", "daemon"], ranges)
    }

    /// Starts dockerd with further options, after a shell's commands.
    fn start_with(options: &[&str], before: &str) -> Self {
        let host = Host::new();
        let dockerd = require("dockerd", "the Debian package docker.io");
        let folder = host.folder().to_owned();
        let ranges = folder.join("ranges");
        std::fs::write(&ranges, "daemon:100000:65536\n").expect("a file");
        let runtime = runtime(&folder).map(|path| path.display().to_string());
        let runtime = runtime.map(|path| {
            [
                format!("--add-runtime=possible={path}"),
                "--default-runtime=possible".to_owned(),
            ]
        });
        let log = std::fs::File::create(folder.join("dockerd.log")).expect("a file");
        // It wants shared mounts, and leaves some: both in a namespace of its own.
        let process = host
            .command("unshare")
            .args(["--mount", "--propagation", "shared", "--"])
            .args(["sh", "-c", &format!("{before}exec \"$@\""), "sh"])
            .env("RANGES", ranges)
            .arg(dockerd)
            .args(options)
            .args(runtime.iter().flatten())
            .arg("--data-root")
            .arg(folder.join("dockerd"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--cgroup-parent", &format!("/dhow-{}", host.instance())])
            .arg("--host")
            .arg(format!("unix://{}", folder.join("docker.sock").display()))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let reference = Self { host, process };
        for attempt in 0.. {
            if reference.docker(&["version"]).code == 0 {
                break;
            }
            assert!(
                attempt < ATTEMPTS,
                "dockerd does not serve:\n{}",
                reference.said()
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        reference
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.host.folder().join("dockerd.log")).unwrap_or_default()
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where it is reached.
    pub fn socket(&self) -> PathBuf {
        self.host.folder().join("docker.sock")
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let ids = self.docker(&["ps", "-aq"]).stdout;
        let mut arguments = vec!["rm", "-f", "-v"];
        arguments.extend(ids.lines());
        let _ = self.docker(&arguments);
        let pid = std::fs::read_to_string(self.host.folder().join("pid")).unwrap_or_default();
        let _ = Command::new("kill").arg(pid.trim()).status();
        let _ = self.process.wait();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::remove_dir(
                hierarchy
                    .path()
                    .join(format!("dhow-{}", self.host.instance())),
            );
        }
    }
}

/// Where this machine has not all capabilities to give: a runtime that asks runc for
/// those that it has, as ours does. Runc by itself makes no privileged container
/// there.
fn runtime(folder: &Path) -> Option<PathBuf> {
    let possible: Vec<&str> = capability::bounding().names().collect();
    let missing = capability::names()
        .iter()
        .filter(|name| !possible.contains(name));
    let edits: Vec<String> = missing.map(|name| format!("s/\"{name}\",//g")).collect();
    if edits.is_empty() {
        return None;
    }
    let script = format!(
        "#!/bin/sh\nfor word; do\n[ \"$last\" != --bundle ] || sed -i '{}' \"$word/config.json\"\nlast=$word\ndone\n\
         exec runc \"$@\"\n",
        edits.join(";")
    );
    let path = folder.join("runtime");
    std::fs::write(&path, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).expect("made executable");
    Some(path)
}
