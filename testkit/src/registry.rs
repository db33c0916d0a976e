//! Debian's registry on a throw-away host.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::executables::require;
use crate::host::Host;

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct Registry(Child);

impl Registry {
    /// Starts one at an address (`127.0.0.1:5000`) and waits until it listens; `more`
    /// goes to its configuration's end, and `tls`, indented by four, to its listener.
    ///
    /// # Panics
    ///
    /// When it does not listen.
    pub fn start(host: &Host, address: &str, tls: &str, more: &str) -> Self {
        let folder = host.folder().join(format!("registry-{address}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let data = folder.join("data").display().to_string();
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: \"{data}\"}}\n\
             http:\n    addr: \"{address}\"\n{tls}{more}"
        );
        std::fs::write(&config, text).expect("a file");
        let program = require("docker-registry", "the Debian package docker-registry");
        let mut process = host
            .command(program)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the registry starts");
        let mut lines = BufReader::new(process.stderr.take().expect("it was piped")).lines();
        let listens =
            |line: &Result<String, _>| matches!(line, Ok(line) if line.contains("listening on"));
        assert!(lines.any(|line| listens(&line)), "the registry ended");
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self(process)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
