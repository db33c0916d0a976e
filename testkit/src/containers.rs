//! Containers of a throw-away daemon, made of the image `busybox`.

use std::path::Path;
use std::process::Command;

use dhow_netlink::Namespace;

use crate::daemon::Daemon;
use crate::host::Host;
use crate::output::Ran;
use crate::reference::Reference;

/// A daemon that `docker` speaks to, on a host of its own: ours, or the one that
/// says what is right.
pub trait Dockerd {
    /// The host it runs on.
    fn host(&self) -> &Host;

    /// A `docker` command at it.
    fn docker_command(&self, arguments: &[&str]) -> Command;

    /// Runs `docker` at it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    fn docker(&self, arguments: &[&str]) -> Ran;

    /// Whether it is the reference, which is older, and other on purpose here and
    /// there.
    fn is_reference(&self) -> bool;

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

impl Dockerd for Daemon {
    fn host(&self) -> &Host {
        Daemon::host(self)
    }

    fn docker_command(&self, arguments: &[&str]) -> Command {
        Daemon::docker_command(self, arguments)
    }

    fn docker(&self, arguments: &[&str]) -> Ran {
        Daemon::docker(self, arguments)
    }

    fn is_reference(&self) -> bool {
        false
    }
}

impl Dockerd for Reference {
    fn host(&self) -> &Host {
        Reference::host(self)
    }

    fn docker_command(&self, arguments: &[&str]) -> Command {
        Reference::docker_command(self, arguments)
    }

    fn docker(&self, arguments: &[&str]) -> Ran {
        Reference::docker(self, arguments)
    }

    fn is_reference(&self) -> bool {
        true
    }
}

/// The same for those who know whom they speak to.
impl Daemon {
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
