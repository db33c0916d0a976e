//! Projects of Docker Compose.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::containers::Dockerd;
use crate::executables::cached;
use crate::output::Ran;

/// A folder with the files of a project, and Compose to work on them.
pub struct Project<'a> {
    daemon: &'a dyn Dockerd,
    name: String,
    folder: PathBuf,
}

impl<'a> Project<'a> {
    /// Makes a project whose `compose.yaml` is `text`.
    ///
    /// # Panics
    ///
    /// Without Compose.
    pub fn new(daemon: &'a dyn Dockerd, name: &str, text: &str) -> Self {
        let project = Self {
            daemon,
            name: name.to_owned(),
            folder: daemon.host().folder().join(format!("project-{name}")),
        };
        project.write("compose.yaml", text);
        project
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file of the project, with the folders above it.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the project")).expect("folders");
        std::fs::write(path, text).expect("written");
    }

    /// Compose, about to work on the project.
    ///
    /// # Panics
    ///
    /// Without Compose.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self
            .daemon
            .host()
            .command(cached("cli-plugins/docker-compose"));
        command
            .args(["--ansi", "never", "--progress", "plain"])
            // With a name alone it would not always read the file.
            .args(["--project-name", &self.name, "--file", "compose.yaml"])
            .args(words)
            .current_dir(&self.folder)
            .env("DOCKER_HOST", self.daemon.address())
            .env(
                "DOCKER_CONFIG",
                self.daemon.host().folder().join("docker-config"),
            )
            .env("DOCKER_BUILDKIT", "0")
            .env("HOME", self.daemon.host().folder());
        command
    }

    /// Runs Compose with these words.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn run(&self, words: &[&str]) -> Ran {
        let output = self.command(words).output().expect("Compose starts");
        Ran::new(format!("docker compose {}", words.join(" ")), &output)
    }

    /// Runs Compose with the words of a line, and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.run(&line.split_whitespace().collect::<Vec<_>>()).ok()
    }

    /// Runs a script in a service's container, and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn within(&self, service: &str, script: &str) -> String {
        self.run(&["exec", "-T", service, "sh", "-c", script]).ok()
    }

    /// The container of a service.
    ///
    /// # Panics
    ///
    /// When Compose fails.
    #[track_caller]
    pub fn id(&self, service: &str) -> String {
        self.ok(&format!("ps --all --quiet {service}"))
    }

    /// What a service's container is, by a template of `docker inspect`.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn inspect(&self, service: &str, template: &str) -> String {
        self.daemon.inspect(&self.id(service), template)
    }

    /// Starts Compose with the words of a line, does `work` once it has printed
    /// `begun` (at once if that is empty), and reads what it prints until a line
    /// has `wanted` in it; then it is ended. Returns the lines read.
    ///
    /// # Panics
    ///
    /// When it ends before it printed that.
    pub fn follow(
        &self,
        line: &str,
        begun: &str,
        wanted: &str,
        work: impl FnOnce(),
    ) -> Vec<String> {
        let (output, input) = std::io::pipe().expect("a pipe");
        let mut command = self.command(&line.split_whitespace().collect::<Vec<_>>());
        command
            .stdout(input.try_clone().expect("a further end"))
            .stderr(input);
        let mut child = command.spawn().expect("Compose starts");
        // Its ends of the pipe are the last ones now.
        drop(command);
        let mut work = Some(work);
        let mut seen: Vec<String> = Vec::new();
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        loop {
            let has_begun = begun.is_empty() || seen.iter().any(|line| line.contains(begun));
            if has_begun && let Some(work) = work.take() {
                work();
            }
            let Some(line) = lines.next() else { break };
            seen.push(line);
            if work.is_none() && seen.last().is_some_and(|line| line.contains(wanted)) {
                break;
            }
        }
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().expect("it ended");
        let found = seen.last().is_some_and(|line| line.contains(wanted));
        assert!(found, "{line}: {wanted:?} did not come: {seen:#?}");
        seen
    }
}
