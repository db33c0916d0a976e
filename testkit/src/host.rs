//! A throw-away host: a network namespace and a folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use dhow_netlink::{Batch, Namespace, Socket};

use crate::audit::{self, Network, Traces};
use crate::output::Ran;

/// A host made for one test.
#[derive(Debug)]
pub struct Host {
    folder: Option<tempfile::TempDir>,
    namespace: Namespace,
    instance: String,
    /// Its network before anybody changed it.
    before: Network,
}

impl Host {
    /// Makes a host whose only link is its loopback.
    ///
    /// # Panics
    ///
    /// Without the right to make network namespaces (root).
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new()
            .prefix("dhow-test-")
            .tempdir()
            .expect("a folder");
        let namespace = Namespace::create_pinned(&folder.path().join("host"))
            .expect("tests need root, to make network namespaces");
        let before = namespace
            .run(|| {
                let socket = Socket::route().expect("a socket");
                let mut batch = Batch::new();
                batch.set_up(1);
                socket.run(&mut batch).expect("loopback is up");
                Network::read()
            })
            .expect("enter");
        let instance = format!("t{}-{number}", std::process::id());
        Self {
            folder: Some(folder),
            namespace,
            instance,
            before,
        }
    }

    /// The host's folder.
    pub fn folder(&self) -> &Path {
        self.folder
            .as_ref()
            .expect("it lives as long as self")
            .path()
    }

    /// A name that no other host has.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    fn pin(&self) -> PathBuf {
        self.folder().join("host")
    }

    /// The host's network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A command that runs on this host.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.pin().display()))
            .arg("--")
            .arg(program.as_ref());
        command.stdin(Stdio::null());
        command
    }

    /// Runs `body` on this host, on a thread of its own.
    ///
    /// # Panics
    ///
    /// When `body` does.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(body).expect("the host is there")
    }

    /// Names of the host's links of a kind, such as `bridge` or `veth`.
    ///
    /// # Panics
    ///
    /// When the kernel does not tell.
    pub fn links_of(&self, kind: &str) -> Vec<String> {
        let links = self.inside(|| Socket::route().expect("a socket").links());
        let links = links.expect("the kernel tells its links").into_iter();
        links
            .filter(|link| link.kind == kind)
            .map(|link| link.name)
            .collect()
    }

    /// Runs a program on this host to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Ran {
        let mut command = self.command(&program);
        command.args(arguments);
        let shown = format!("{} {}", program.as_ref().display(), arguments.join(" "));
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        Ran::new(shown, &output)
    }

    /// Fails if anything is left: processes, mounts, control groups, files of
    /// containers, links, rules; and unless addresses, routes and settings are what
    /// they were.
    ///
    /// # Panics
    ///
    /// With a list of what is left.
    #[track_caller]
    pub fn audit(&self) {
        let left = self.left();
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }

    pub(crate) fn left(&self) -> Vec<String> {
        let pin = self.pin();
        let traces = Traces {
            folder: self.folder(),
            instance: self.instance(),
            pin: &pin,
        };
        let mut left = traces.find();
        left.extend(self.inside(|| {
            let mut left = audit::links_and_tables();
            left.extend(Network::read().differences(&self.before));
            left
        }));
        left
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Namespace::remove_pinned(&self.pin());
        let folder = self.folder.take().expect("it lives as long as self");
        // Whatever a failed test left mounted there goes first.
        let below = folder.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mount in mounts
            .lines()
            .rev()
            .filter_map(|mount| mount.split_whitespace().nth(4))
        {
            if mount.starts_with(&below) {
                let _ = Command::new("umount").args(["--lazy", mount]).status();
            }
        }
    }
}
