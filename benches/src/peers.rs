//! The peers: where they are, and daemons of theirs on our hosts.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use dhow_testkit::Host;

/// Finds a program; also where only root looks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.exists())
}

/// A `dockerd` of our own.
pub struct Dockerd {
    process: Child,
    socket: PathBuf,
}

impl Dockerd {
    /// Starts it on a host, in a folder of its own there; returns when it serves.
    ///
    /// # Errors
    ///
    /// When it is not installed, or ends; what it said is in the error.
    pub fn start(host: &Host) -> Result<Self> {
        let program = find("dockerd").context("dockerd is missing: install docker.io")?;
        let folder = host.folder().join("dockerd");
        std::fs::create_dir_all(&folder)?;
        let socket = folder.join("docker.sock");
        let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
        // Its mounts must be shared, and are nobody else's.
        let mut process = host
            .command("unshare")
            .args(["-m", "--propagation", "shared"])
            .arg(program)
            .arg(option("data-root", &folder.join("data")))
            .arg(option("exec-root", &host.folder().join("run/dockerd")))
            .arg(option("pidfile", &folder.join("pid")))
            .arg(format!("--host=unix://{}", socket.display()))
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--storage-driver", "overlay2", "--iptables=true"])
            .args(["--bip", "10.66.0.1/16", "--insecure-registry=127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start dockerd")?;
        let mut lines = BufReader::new(process.stderr.take().context("it is piped")?).lines();
        let mut said = String::new();
        while let Some(Ok(line)) = lines.next() {
            if line.contains("API listen on") {
                // What it says later is nobody's business, but must be read.
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                return Ok(Self { process, socket });
            }
            said.push_str(&line);
            said.push('\n');
        }
        let _ = process.wait();
        bail!("dockerd ended before it served:\n{said}");
    }

    /// A `docker` command at it.
    pub fn docker(&self, host: &Host, arguments: &[&str]) -> Command {
        let mut command = host.command(find("docker").unwrap_or_else(|| "docker".into()));
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", host.folder().join("docker-config"))
            .env("DOCKER_BUILDKIT", "0")
            .args(arguments);
        command
    }

    /// The process identifiers of it and of its containerd.
    pub fn pids(&self) -> Vec<u32> {
        let mut all = vec![self.process.id()];
        let mut next = 0;
        while next < all.len() {
            let path = format!("/proc/{0}/task/{0}/children", all[next]);
            let children = std::fs::read_to_string(path).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            next += 1;
        }
        all
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.process.wait();
        remove_empty_groups("docker");
    }
}

/// Podman with storage of its own.
pub struct Podman {
    program: PathBuf,
}

impl Drop for Podman {
    fn drop(&mut self) {
        remove_empty_groups("libpod_parent");
    }
}

/// Removes control groups of a name with those below, where nothing is in them
/// any more.
fn remove_empty_groups(name: &str) {
    for hierarchy in folders(Path::new("/sys/fs/cgroup")) {
        remove_empty(&hierarchy.join(name));
    }
}

fn remove_empty(group: &Path) {
    for below in folders(group) {
        remove_empty(&below);
    }
    // One that is in use is somebody's.
    let _ = std::fs::remove_dir(group);
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

impl Podman {
    /// Podman, where it is installed.
    pub fn find() -> Option<Self> {
        find("podman").map(|program| Self { program })
    }

    /// A command of it. It needs runc: crun refuses the hybrid of control
    /// group versions.
    pub fn command(&self, host: &Host, arguments: &[&str]) -> Command {
        let folder = host.folder().join("podman");
        let mut command = host.command(&self.program);
        // Raising hard limits is not everywhere allowed, and podman insists.
        let config = folder.join("containers.conf");
        if !config.exists() {
            let limits = "default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]";
            let written = std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(&config, format!("[containers]\n{limits}\n")));
            written.expect("a folder of our own can be written");
        }
        command.env("CONTAINERS_CONF", config);
        command
            .arg("--root")
            .arg(folder.join("root"))
            .arg("--runroot")
            .arg(host.folder().join("run/podman"))
            .arg("--tmpdir")
            .arg(host.folder().join("run/libpod"))
            .args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"])
            .args(["--log-level", "error"])
            .args(arguments);
        command
    }
}

/// Debian's registry, on the loopback address of a host.
pub struct Registry {
    process: Child,
    folder: PathBuf,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// Starts one that has nothing, at a port; returns when it serves.
    ///
    /// # Errors
    ///
    /// When it is not installed, or ends.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let program =
            find("docker-registry").context("docker-registry is missing: run `make setup`")?;
        let folder = host.folder().join(format!("registry-{port}"));
        std::fs::create_dir_all(&folder)?;
        let address = format!("127.0.0.1:{port}");
        let config = folder.join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
                folder.join("data").display()
            ),
        )?;
        let mut process = host
            .command(program)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start docker-registry")?;
        let mut lines = BufReader::new(process.stderr.take().context("it is piped")?).lines();
        while let Some(Ok(line)) = lines.next() {
            if line.contains("listening on") {
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                return Ok(Self {
                    process,
                    folder,
                    address,
                });
            }
        }
        bail!("docker-registry ended before it served");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
