//! What clients do at a throw-away daemon, ours or the reference: commands, and
//! containers made of the image `busybox`.

use std::path::{Path, PathBuf};
use std::process::Command;

use dhow_netlink::Namespace;
use serde_json::Value;

use crate::answered::{self, Answered};
use crate::busybox;
use crate::daemon::Daemon;
use crate::executables::{dhow, require};
use crate::host::Host;
use crate::output::Ran;
use crate::reference::Reference;

/// A daemon that `docker` speaks to, on a host of its own: ours, or the one that
/// says what is right.
pub trait Dockerd {
    /// The host it runs on.
    fn host(&self) -> &Host;

    /// Where it is reached.
    fn socket(&self) -> PathBuf;

    /// Whether it is the reference, which is older, and other on purpose here and
    /// there.
    fn is_reference(&self) -> bool;

    /// Its socket, as clients are told of it.
    fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A `docker` command at this daemon.
    ///
    /// # Panics
    ///
    /// Without Debian's docker.io.
    fn docker_command(&self, arguments: &[&str]) -> Command {
        let host = self.host();
        let mut command = host.command(require("docker", "the Debian package docker.io"));
        command
            .env("DOCKER_HOST", self.address())
            .env("DOCKER_CONFIG", host.folder().join("docker-config"))
            .env("DOCKER_BUILDKIT", "0")
            .args(arguments);
        command
    }

    /// A `dhow` command at this daemon.
    ///
    /// # Panics
    ///
    /// When it is not built.
    fn dhow_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host().command(dhow());
        command.env("DHOW_HOST", self.address()).args(arguments);
        command
    }

    /// Runs `docker` at it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    fn docker(&self, arguments: &[&str]) -> Ran {
        let output = self.docker_command(arguments).output();
        let output = output.expect("docker starts");
        Ran::new(format!("docker {}", arguments.join(" ")), &output)
    }

    /// Runs `dhow` at it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    fn dhow(&self, arguments: &[&str]) -> Ran {
        let output = self.dhow_command(arguments).output();
        let output = output.expect("dhow starts");
        Ran::new(format!("dhow {}", arguments.join(" ")), &output)
    }

    /// Sends `METHOD /path` of Docker's API to it, with a document.
    ///
    /// # Panics
    ///
    /// When it does not answer, and without curl.
    #[track_caller]
    fn ask(&self, request: &str, body: Option<&Value>) -> Answered {
        self.ask_with(request, body, &[])
    }

    /// The same with a body that may be no document.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    fn ask_text(&self, request: &str, body: Option<&str>) -> Answered {
        answered::ask(self, request, body, &[])
    }

    /// The same with headers.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    fn ask_with(&self, request: &str, body: Option<&Value>, headers: &[&str]) -> Answered {
        let body = body.map(Value::to_string);
        answered::ask(self, request, body.as_deref(), headers)
    }

    /// Makes the image `busybox` of the statically linked busybox.
    ///
    /// # Panics
    ///
    /// Without Debian's busybox-static.
    fn busybox(&self) {
        let archive = busybox::archive(self.host()).display().to_string();
        self.docker(&["import", "-c", r#"CMD ["sh"]"#, &archive, "busybox"])
            .ok();
    }

    /// Starts a container that sleeps, with options of `docker run`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    fn sleeper(&self, name: &str, options: &[&str]) {
        let words = [
            &["run", "-d", "--name", name][..],
            options,
            &["busybox", "sleep", "3600"],
        ];
        self.docker(&words.concat()).ok();
    }

    /// Runs a script in a container of its own, with options of `docker run`, and
    /// returns what it prints.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    fn script(&self, options: &[&str], script: &str) -> String {
        let words = [&["run", "--rm"], options, &["busybox", "sh", "-c", script]];
        self.docker(&words.concat()).ok()
    }

    /// Runs a script in a running container and returns what it prints.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    fn within(&self, name: &str, script: &str) -> String {
        self.docker(&["exec", name, "sh", "-c", script]).ok()
    }

    /// What `docker inspect` says, by a template.
    ///
    /// # Panics
    ///
    /// When there is no such container.
    #[track_caller]
    fn inspect(&self, name: &str, template: &str) -> String {
        self.docker(&["inspect", "-f", template, name]).ok()
    }

    /// The network namespace of a running container.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[track_caller]
    fn namespace(&self, name: &str) -> Namespace {
        let pid = self.inspect(name, "{{.State.Pid}}");
        Namespace::open(Path::new(&format!("/proc/{pid}/ns/net"))).expect("it runs")
    }

    /// Removes all containers, by force.
    ///
    /// # Panics
    ///
    /// When one cannot be removed.
    #[track_caller]
    fn remove_containers(&self) {
        let ids = self.docker(&["ps", "-aq", "--no-trunc"]).ok();
        let mut arguments = vec!["rm", "-f", "-v"];
        arguments.extend(ids.lines());
        if arguments.len() > 3 {
            self.docker(&arguments).ok();
        }
    }
}

/// What is to be so at every daemon.
pub type Check = fn(&dyn Dockerd);

/// Holds ours to a check, after which nothing may be left.
///
/// # Panics
///
/// When the check fails, or something is left.
#[track_caller]
pub fn at_ours(check: Check) {
    let daemon = Daemon::start();
    daemon.busybox();
    check(&daemon);
    nothing_is_left(&daemon);
    daemon.finish();
}

/// Holds the reference to the same checks, one after the other: one that it fails
/// is wrong.
///
/// # Panics
///
/// When a check fails, or something is left.
#[track_caller]
pub fn at_dockerd(checks: &[Check]) {
    let reference = Reference::start();
    reference.busybox();
    for check in checks {
        check(&reference);
        nothing_is_left(&reference);
    }
}

/// Fails if there are containers, volumes, or networks that somebody made.
#[track_caller]
fn nothing_is_left(daemon: &dyn Dockerd) {
    for words in [
        &["ps", "-aq"][..],
        &["volume", "ls", "-q"],
        &["network", "ls", "-q", "--filter", "type=custom"],
    ] {
        assert_eq!(daemon.docker(words).ok(), "", "{words:?}");
    }
}

impl Dockerd for Daemon {
    fn host(&self) -> &Host {
        Daemon::host(self)
    }

    fn socket(&self) -> PathBuf {
        Daemon::socket(self)
    }

    fn is_reference(&self) -> bool {
        false
    }
}

impl Dockerd for Reference {
    fn host(&self) -> &Host {
        Reference::host(self)
    }

    fn socket(&self) -> PathBuf {
        Reference::socket(self)
    }

    fn is_reference(&self) -> bool {
        true
    }
}

/// The same for those who know whom they speak to.
impl Reference {
    /// As [`Dockerd::docker`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn docker(&self, arguments: &[&str]) -> Ran {
        Dockerd::docker(self, arguments)
    }

    /// As [`Dockerd::busybox`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn busybox(&self) {
        Dockerd::busybox(self);
    }
}

/// The same for those who know whom they speak to.
impl Daemon {
    /// As [`Dockerd::docker_command`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn docker_command(&self, arguments: &[&str]) -> Command {
        Dockerd::docker_command(self, arguments)
    }

    /// As [`Dockerd::dhow_command`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn dhow_command(&self, arguments: &[&str]) -> Command {
        Dockerd::dhow_command(self, arguments)
    }

    /// As [`Dockerd::docker`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn docker(&self, arguments: &[&str]) -> Ran {
        Dockerd::docker(self, arguments)
    }

    /// As [`Dockerd::dhow`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn dhow(&self, arguments: &[&str]) -> Ran {
        Dockerd::dhow(self, arguments)
    }

    /// As [`Dockerd::busybox`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn busybox(&self) {
        Dockerd::busybox(self);
    }

    /// As [`Dockerd::sleeper`].
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn sleeper(&self, name: &str, options: &[&str]) {
        Dockerd::sleeper(self, name, options);
    }

    /// As [`Dockerd::script`].
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn script(&self, options: &[&str], script: &str) -> String {
        Dockerd::script(self, options, script)
    }

    /// As [`Dockerd::within`].
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn within(&self, name: &str, script: &str) -> String {
        Dockerd::within(self, name, script)
    }

    /// As [`Dockerd::inspect`].
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        Dockerd::inspect(self, name, template)
    }

    /// As [`Dockerd::namespace`].
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn namespace(&self, name: &str) -> Namespace {
        Dockerd::namespace(self, name)
    }

    /// As [`Dockerd::remove_containers`].
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn remove_containers(&self) {
        Dockerd::remove_containers(self);
    }
}
