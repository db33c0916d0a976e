//! Containers of a throw-away daemon, made of the image `busybox`.

use std::path::Path;

use dhow_netlink::Namespace;

use crate::daemon::Daemon;

impl Daemon {
    /// Starts a container that sleeps, with options of `docker run`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn sleeper(&self, name: &str, options: &[&str]) {
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
    pub fn script(&self, options: &[&str], script: &str) -> String {
        let words = [&["run", "--rm"], options, &["busybox", "sh", "-c", script]];
        self.docker(&words.concat()).ok()
    }

    /// Runs a script in a running container and returns what it prints.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn within(&self, name: &str, script: &str) -> String {
        self.docker(&["exec", name, "sh", "-c", script]).ok()
    }

    /// What `docker inspect` says, by a template.
    ///
    /// # Panics
    ///
    /// When there is no such container.
    #[track_caller]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.docker(&["inspect", "-f", template, name]).ok()
    }

    /// The network namespace of a running container.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[track_caller]
    pub fn namespace(&self, name: &str) -> Namespace {
        let pid = self.inspect(name, "{{.State.Pid}}");
        Namespace::open(Path::new(&format!("/proc/{pid}/ns/net"))).expect("it runs")
    }
}
