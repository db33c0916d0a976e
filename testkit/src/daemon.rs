//! A throw-away daemon and its clients.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::busybox;
use crate::executables::{dhow, require, runtime};
use crate::host::Host;
use crate::output::Ran;

/// A daemon on a host of its own.
#[derive(Debug)]
pub struct Daemon {
    host: Host,
    process: Option<Child>,
    /// Where a disk of its own is mounted.
    disk: Option<PathBuf>,
}

impl Daemon {
    /// Starts a daemon and waits until it serves.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// Starts a daemon whose run folder is in memory, as `/run` is where it is
    /// installed. The folder is `run` below the host's.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    pub fn start_as_installed() -> Self {
        let mut daemon = Self::new();
        daemon.mount_disk("run", "256m");
        daemon.start_again();
        daemon
    }

    /// Starts a daemon whose run folder has this much room (`2m`, `2m,nr_inodes=400`).
    ///
    /// # Panics
    ///
    /// When it does not serve.
    pub fn start_to_run_on_disk_of(size: &str) -> Self {
        let mut daemon = Self::new();
        daemon.mount_disk("run", size);
        daemon.start_again();
        daemon
    }

    /// Starts a daemon with further options, which may name things of its host.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    pub fn start_with(options: impl FnOnce(&Host) -> Vec<String>) -> Self {
        let mut daemon = Self::new();
        let options = options(&daemon.host);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        daemon.start_again_with(&options);
        daemon
    }

    /// Starts a daemon whose data lie on a disk of this size (`24m`).
    ///
    /// # Panics
    ///
    /// When it does not serve.
    pub fn start_on_disk_of(size: &str) -> Self {
        let mut daemon = Self::new();
        daemon.mount_disk("data", size);
        daemon.start_again();
        daemon
    }

    fn new() -> Self {
        Self {
            host: Host::new(),
            process: None,
            disk: None,
        }
    }

    fn mount_disk(&mut self, folder: &str, size: &str) {
        let folder = self.host.folder().join(folder);
        std::fs::create_dir(&folder).expect("a folder");
        let option = format!("size={size},mode=755");
        let place = folder.display().to_string();
        let mount = ["-t", "tmpfs", "-o", &option, "dhow-test", &place];
        self.host.run("mount", &mount).ok();
        self.disk = Some(folder);
    }

    /// Starts a daemon whose data lie on the disk that is mounted there.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    pub fn start_on(mounted: &Path) -> Self {
        let mut daemon = Self {
            host: Host::new(),
            process: None,
            disk: None,
        };
        let data = daemon.host.folder().join("data");
        std::fs::create_dir(&data).expect("a folder");
        let below = mounted.join(daemon.host.instance());
        std::fs::create_dir(&below).expect("a folder");
        let bind = ["--bind", text(&below), text(&data)];
        daemon.host.run("mount", &bind).ok();
        daemon.disk = Some(data);
        daemon.start_again();
        daemon
    }

    /// Starts the daemon that was stopped or killed.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    pub fn start_again(&mut self) {
        self.start_again_with(&[]);
    }

    /// Starts it again with further options.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    pub fn start_again_with(&mut self, options: &[&str]) {
        runtime();
        let folder = self.host.folder();
        let mut process = self
            .host
            .command(dhow())
            .arg("daemon")
            .args(["--instance", self.host.instance()])
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--run-root")
            .arg(folder.join("run"))
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let mut lines = BufReader::new(process.stderr.take().expect("it was piped")).lines();
        let mut said = String::new();
        loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("the daemon ended before it was ready:\n{said}");
            };
            said.push_str(&line);
            said.push('\n');
            if line.contains(" ready ") {
                break;
            }
        }
        // What it says later goes where the test's output goes.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("daemon: {line}");
            }
        });
        self.process = Some(process);
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its process identifier.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "the daemon is there to be signalled");
    }

    /// Kills it without warning.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.process
            .take()
            .expect("it runs")
            .wait()
            .expect("it ends");
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end well.
    pub fn stop(&mut self) {
        self.signal("-TERM");
        let status = self
            .process
            .take()
            .expect("it runs")
            .wait()
            .expect("it ends");
        assert!(status.success(), "{status}");
    }

    /// Stops it and fails if anything is left. Containers must be gone.
    ///
    /// # Panics
    ///
    /// With a list of what is left.
    #[track_caller]
    pub fn finish(mut self) {
        self.stop();
        self.remove_disk();
        self.host.audit();
    }

    fn remove_disk(&mut self) {
        if let Some(disk) = self.disk.take() {
            let place = disk.display().to_string();
            self.host.run("umount", &[&place]).ok();
        }
    }

    /// Where it is reached.
    pub fn socket(&self) -> PathBuf {
        self.host.folder().join("run/dhow.sock")
    }

    /// Brings the cluster up and returns where its kubeconfig is.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn up(&self) -> PathBuf {
        self.dhow(&["up", "--quiet", "--node-name", "node"])
            .ok()
            .into()
    }

    /// A `kubectl` command at the cluster.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let kubectl = require("kubectl", "kubectl, see scripts/setup");
        let mut command = self.host.command(kubectl);
        let data = self.host.folder().join("data");
        command
            .env("KUBECONFIG", data.join("cluster/kubeconfig"))
            .env("HOME", self.host.folder())
            .args(arguments);
        command
    }

    /// Runs `kubectl` at the cluster, with `input` as its standard input.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self
            .kubectl_command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("it was piped");
        // A kubectl that reads nothing closes it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl ends");
        Ran::new(format!("kubectl {}", arguments.join(" ")), &output)
    }

    /// Runs `kubectl` at the cluster.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn kubectl(&self, arguments: &[&str]) -> Ran {
        self.kubectl_with(arguments, "")
    }

    /// Makes the image `busybox` by `dhow` alone, where there is no `docker`.
    ///
    /// # Panics
    ///
    /// Without Debian's busybox-static.
    pub fn busybox_by_dhow(&self) {
        let archive = busybox::archive(&self.host);
        self.dhow(&["import", text(&archive), "busybox"]).ok();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            // A failed test cleans up as well as it can.
            let _ = self.dhow(&["down", "--forget"]);
            let ids = self.dhow(&["ps", "-aq", "--no-trunc"]);
            let mut arguments = vec!["rm", "-f", "-v"];
            arguments.extend(ids.stdout.lines());
            let _ = self.dhow(&arguments);
            let mut process = self.process.take().expect("it was just there");
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
        self.remove_disk();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test folders have plain names")
}
