//! The options of `run` and `create`, and the request that they make.

use std::path::{Path, PathBuf};

use clap::Args;
use dhow_docker::check_ulimit;
use serde_json::{Map, Value, json};

use crate::amounts::bytes;
use crate::device::{Device, gpus};
use crate::error::Error;
use crate::limits::Limits;
use crate::mount::{self, Volume};
use crate::networking::Networking;
use crate::resources::{Resources, restart};
use crate::trust::ContentTrust;

// How a container is made.
#[derive(Debug, Args)]
pub struct Options {
    /// Name of the container.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Attach to STDIN, STDOUT or STDERR only.
    #[arg(short, long, value_name = "STREAM", value_parser = Stream::parse)]
    pub(crate) attach: Vec<Stream>,
    /// Keep standard input open.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable (NAME=VALUE, or NAME to pass yours on).
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<String>,
    /// Read variables from a file.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Mount a folder or volume (SOURCE:TARGET[:ro]).
    #[arg(short, long, value_name = "MOUNT")]
    volume: Vec<String>,
    /// Mount something (type=bind|volume|tmpfs|image,source=…,target=…[,readonly]).
    #[arg(long, value_name = "MOUNT", value_parser = mount::parse)]
    mount: Vec<Value>,
    /// Mount an in-memory filesystem (PATH[:OPTIONS]).
    #[arg(long, value_name = "PATH")]
    tmpfs: Vec<String>,
    /// Mount the volumes of another container.
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Working directory.
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// User, or USER:GROUP, by name or number.
    #[arg(short, long)]
    user: Option<String>,
    /// Further group.
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Host name.
    #[arg(short = 'h', long)]
    hostname: Option<String>,
    /// Replace the image's entry point.
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Attach a label (NAME=VALUE).
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<String>,
    /// Resource limit (NAME=SOFT[:HARD]).
    #[arg(long, value_name = "LIMIT", value_parser = ulimit)]
    ulimit: Vec<Value>,
    /// Size of /dev/shm.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    shm_size: Option<i64>,
    /// When it is started again (no, always, unless-stopped, on-failure[:N]).
    #[arg(long, value_name = "POLICY", default_value = "no")]
    restart: String,
    /// Remove it when it ends.
    #[arg(long)]
    pub(crate) rm: bool,
    /// Allow everything.
    #[arg(long)]
    privileged: bool,
    /// Reap orphans and hand signals on with a first process of ours.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    init: Option<bool>,
    /// Add a capability.
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away.
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Make the root filesystem read-only.
    #[arg(long)]
    read_only: bool,
    /// Security option (seccomp=FILE|unconfined, no-new-privileges, …).
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Give it a device of the host (HOST[:CONTAINER][:rwm]).
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Give it graphics processors (all, or a number).
    #[arg(long, value_name = "REQUEST", value_parser = gpus)]
    gpus: Vec<Value>,
    /// Kernel parameter of its namespaces (NAME=VALUE).
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// PID namespace (host or container:NAME).
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// IPC namespace (private, host, none or container:NAME).
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// UTS namespace (host).
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// How it is kept apart; on Linux there is one way (default).
    #[arg(long, value_name = "WAY", hide = true)]
    isolation: Option<String>,
    /// Signal that asks it to stop.
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds between the stop signal and the kill.
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<i64>,
    /// Log driver: local, json-file, journald or none.
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of the log driver (NAME=VALUE).
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    #[command(flatten)]
    resources: Resources,
    #[command(flatten)]
    limits: Limits,
    /// Write the container's id to a file, which must not be there.
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Platform of the image (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Print no progress of a fetch.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// When to fetch the image (always, missing or never).
    #[arg(long, default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: String,
    /// What is not looked at.
    #[command(flatten)]
    trust: ContentTrust,
    /// Networks, names and ports.
    #[command(flatten)]
    networking: Networking,
    /// Image to run, then program and arguments; without any, what the image
    /// says is run. Every word behind the image is the program's.
    #[arg(
        required = true,
        trailing_var_arg = true,
        num_args = 1..,
        value_names = ["IMAGE", "COMMAND"]
    )]
    words: Vec<String>,
}

/// One of the streams that a client can attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

impl Stream {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "stdin" => Ok(Self::Stdin),
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            _ => Err("valid streams are STDIN, STDOUT and STDERR".into()),
        }
    }
}

/// Which streams a client attaches to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Streams {
    pub(crate) const NONE: Self = Self {
        stdin: false,
        stdout: false,
        stderr: false,
    };

    /// Whether anything is printed.
    pub(crate) fn has_output(self) -> bool {
        self.stdout || self.stderr
    }
}

impl Options {
    /// The image.
    pub(crate) fn image(&self) -> &str {
        &self.words[0]
    }

    /// The streams that a client attaches to unless it leaves it running.
    pub(crate) fn streams(&self) -> Streams {
        let is_all = self.attach.is_empty();
        let wants = |stream| self.attach.contains(&stream);
        Streams {
            stdin: self.interactive || wants(Stream::Stdin),
            stdout: is_all || wants(Stream::Stdout),
            stderr: is_all || wants(Stream::Stderr),
        }
    }

    /// The body of the request of a client that attaches to `streams`. What is
    /// known of proxies is added to the variables.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for what makes no sense, [`Error::File`] for files that
    /// cannot be read.
    pub(crate) fn body(
        &self,
        streams: Streams,
        proxies: &[(String, String)],
    ) -> Result<Value, Error> {
        let command = &self.words[1..];
        let mut volumes = Map::new();
        for volume in &self.volume {
            if let Volume::Own(path) = Volume::parse(volume) {
                volumes.insert(path, json!({}));
            }
        }
        let labels = [self.limits.labels()?, self.label.clone()].concat();
        let mut body = json!({
            "Image": self.image(),
            "Tty": self.tty,
            "OpenStdin": self.interactive,
            "StdinOnce": self.interactive && streams.stdin,
            "AttachStdin": streams.stdin,
            "AttachStdout": streams.stdout,
            "AttachStderr": streams.stderr,
            "Env": self.variables(proxies)?,
            "Labels": pairs(&labels),
            "Volumes": volumes,
            "HostConfig": self.host()?,
        });
        let fields = body.as_object_mut().expect("it was made an object");
        if !command.is_empty() {
            fields.insert("Cmd".into(), json!(command));
        }
        if let Some(entrypoint) = &self.entrypoint {
            fields.insert("Entrypoint".into(), json!([entrypoint]));
        }
        for (name, value) in [
            ("WorkingDir", &self.workdir),
            ("User", &self.user),
            ("Hostname", &self.hostname),
            ("StopSignal", &self.stop_signal),
        ] {
            if let Some(value) = value {
                fields.insert(name.into(), json!(value));
            }
        }
        if let Some(check) = self.limits.health()? {
            fields.insert("Healthcheck".into(), check);
        }
        if let Some(seconds) = self.stop_timeout {
            fields.insert("StopTimeout".into(), json!(seconds));
        }
        self.networking.add_to(fields)?;
        Ok(body)
    }

    fn host(&self) -> Result<Value, Error> {
        let mut tmpfs = Map::new();
        for entry in &self.tmpfs {
            let (path, options) = entry.split_once(':').unwrap_or((entry, ""));
            tmpfs.insert(path.into(), json!(options));
        }
        let binds = self.volume.iter().map(|volume| Volume::parse(volume));
        let binds: Vec<String> = binds
            .filter_map(|volume| match volume {
                Volume::Bound(bind) => Some(bind),
                Volume::Own(_) => None,
            })
            .collect();
        let restart = restart(&self.restart).map_err(Error::Usage)?;
        if self.rm && !matches!(restart["Name"].as_str(), Some("" | "no")) {
            return Err(Error::Usage(
                "conflicting options: cannot specify both --restart and --rm".into(),
            ));
        }
        let (mut nodes, mut requests) = (Vec::new(), self.gpus.clone());
        let mut named = Vec::new();
        for device in &self.device {
            match Device::parse(device).map_err(Error::Usage)? {
                Device::Node(node) => nodes.push(node),
                Device::Named(name) => named.push(name),
            }
        }
        if !named.is_empty() {
            requests.push(json!({ "Driver": "cdi", "DeviceIDs": named }));
        }
        if self.log_driver.as_deref() == Some("none") && !self.log_opt.is_empty() {
            return Err(Error::Usage("invalid logging opts for driver none".into()));
        }
        let security = Security::read(&self.security_opt)?;
        let mut host = json!({
            "Binds": binds,
            "Mounts": self.mount,
            "Tmpfs": tmpfs,
            "VolumesFrom": self.volumes_from,
            "RestartPolicy": restart,
            "AutoRemove": self.rm,
            "ContainerIDFile": self.cidfile.as_deref().unwrap_or(Path::new("")).display().to_string(),
            "Ulimits": last_of_each(&self.ulimit),
            "ShmSize": self.shm_size.unwrap_or(0),
            "Privileged": self.privileged,
            "Init": self.init,
            "CapAdd": capabilities(&self.cap_add),
            "CapDrop": capabilities(&self.cap_drop),
            "GroupAdd": self.group_add,
            "ReadonlyRootfs": self.read_only,
            "SecurityOpt": security.options,
            "Devices": nodes,
            "DeviceRequests": requests,
            "Sysctls": pairs(&self.sysctl),
            "PidMode": mode("--pid", "PID", self.pid.as_deref(), &["host", "container:"])?,
            "IpcMode": self.ipc.as_deref().unwrap_or(""),
            "UTSMode": mode("--uts", "UTS", self.uts.as_deref(), &["host"])?,
            "Isolation": self.isolation.as_deref().unwrap_or(""),
            "LogConfig": {
                "Type": self.log_driver.as_deref().unwrap_or(""),
                "Config": pairs(&self.log_opt),
            },
            "ConsoleSize": crate::terminal::size().filter(|_| self.tty).map_or([0, 0], |(rows, columns)| [rows, columns]),
        });
        let fields = host.as_object_mut().expect("it was made an object");
        if security.shows_all {
            for name in ["MaskedPaths", "ReadonlyPaths"] {
                fields.insert(name.into(), json!([]));
            }
        }
        fields.insert("PidsLimit".into(), json!(0));
        fields.extend(self.resources.fields());
        self.networking.add_to_host(fields)?;
        self.limits.add_to(fields)?;
        Ok(host)
    }

    fn variables(&self, proxies: &[(String, String)]) -> Result<Vec<String>, Error> {
        let mut variables = read_variables(&self.env_file)?;
        variables.extend(self.env.iter().cloned());
        let is_given = |name: &str| {
            let names = self.env.iter().map(|text| text.split('=').next());
            names.flatten().any(|given| given == name)
        };
        let proxies = proxies.iter().filter(|(name, _)| !is_given(name));
        variables.extend(proxies.map(|(name, value)| format!("{name}={value}")));
        Ok(variables)
    }
}

/// A mode of a namespace: none, or one of `known`; what ends with a colon has
/// a name behind it.
pub(crate) fn mode<'m>(
    option: &str,
    kind: &str,
    text: Option<&'m str>,
    known: &[&str],
) -> Result<&'m str, Error> {
    let text = text.unwrap_or("");
    let fits = |known: &&str| match known.ends_with(':') {
        true => text.len() > known.len() && text.starts_with(*known),
        false => text == *known,
    };
    if text.is_empty() || known.iter().any(fits) {
        return Ok(text);
    }
    Err(Error::Usage(format!("{option}: invalid {kind} mode")))
}

/// Capabilities in full names, each once, in order.
fn capabilities(texts: &[String]) -> Vec<String> {
    let mut names: Vec<String> = texts
        .iter()
        .map(|text| text.trim().to_ascii_uppercase())
        .map(|name| match name.as_str() {
            "ALL" | "RESET" => name,
            known if known.starts_with("CAP_") => name,
            _ => format!("CAP_{name}"),
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Variables from files, a line each: `NAME=VALUE`, or `NAME` to pass ours on.
///
/// # Errors
///
/// [`Error::File`] for a file that cannot be read, [`Error::Usage`] for a name
/// with a space.
pub(crate) fn read_variables(paths: &[PathBuf]) -> Result<Vec<String>, Error> {
    let mut variables = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::File(path.display().to_string(), error))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = text.lines().map(str::trim_start);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() {
                return Err(Error::Usage(format!("no variable name on line '{line}'")));
            }
            if name.contains(char::is_whitespace) {
                return Err(Error::Usage(format!(
                    "variable '{name}' contains whitespaces"
                )));
            }
            if line.contains('=') {
                variables.push(line.to_owned());
            } else if let Ok(value) = std::env::var(name) {
                variables.push(format!("{name}={value}"));
            }
        }
    }
    Ok(variables)
}

/// `NAME=VALUE`; a `NAME` alone gets this process's value, and stays alone if
/// there is none, which takes the image's away.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn variable(text: &str) -> Result<String, String> {
    let (name, has_value) = match text.split_once('=') {
        Some((name, _)) => (name, true),
        None => (text, false),
    };
    if name.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    match std::env::var(name) {
        Ok(value) if !has_value => Ok(format!("{name}={value}")),
        _ => Ok(text.to_owned()),
    }
}

/// `NAME=VALUE` or `NAME`.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn label(text: &str) -> Result<String, String> {
    if text.starts_with('=') {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok(text.to_owned())
}

/// A map of `NAME=VALUE` each; a name alone has no value.
pub(crate) fn pairs(texts: &[String]) -> Value {
    let pairs = texts
        .iter()
        .map(|text| text.split_once('=').unwrap_or((text, "")));
    Value::Object(
        pairs
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect(),
    )
}

/// `NAME=SOFT[:HARD]`.
pub(crate) fn ulimit(text: &str) -> Result<Value, String> {
    let wrong = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "unlimited" | "-1" => Ok(-1),
        text => text.parse::<i64>().map_err(|_| wrong()),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    check_ulimit(name, soft, hard).map_err(|error| error.to_string())?;
    Ok(json!({ "Name": name, "Soft": soft, "Hard": hard }))
}

/// Of limits of one name the last, in order of their names.
pub(crate) fn last_of_each(limits: &[Value]) -> Vec<&Value> {
    let by_name: std::collections::BTreeMap<&str, &Value> = limits
        .iter()
        .map(|limit| (limit["Name"].as_str().unwrap_or_default(), limit))
        .collect();
    by_name.into_values().collect()
}

/// What `--security-opt` says.
#[derive(Debug, Default)]
struct Security {
    options: Vec<String>,
    /// Whether nothing of the system's paths is hidden.
    shows_all: bool,
}

impl Security {
    fn read(texts: &[String]) -> Result<Self, Error> {
        let mut security = Self::default();
        for text in texts {
            if text == "systempaths=unconfined" {
                security.shows_all = true;
                continue;
            }
            if text != "no-new-privileges" && !text.contains(['=', ':']) {
                return Err(Error::Usage(format!("Invalid --security-opt: {text:?}")));
            }
            security.options.push(match text.strip_prefix("seccomp=") {
                None | Some("unconfined" | "builtin") => text.clone(),
                // A profile is sent, not named: the daemon may not see the file.
                Some(path) => format!("seccomp={}", profile(path)?),
            });
        }
        Ok(security)
    }
}

/// A seccomp profile on one line.
fn profile(path: &str) -> Result<String, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::File(format!("seccomp profile {path}"), error))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Usage(format!("seccomp profile {path} is no JSON: {error}")))?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_full_names() {
        let given = ["net_raw", "CAP_SYS_ADMIN", "all", "NET_RAW"].map(str::to_owned);
        assert_eq!(
            capabilities(&given),
            ["ALL", "CAP_NET_RAW", "CAP_SYS_ADMIN"]
        );
    }

    #[test]
    fn limits_of_resources() {
        let expected = json!({ "Name": "nofile", "Soft": 1, "Hard": 2 });
        assert_eq!(ulimit("nofile=1:2"), Ok(expected));
        for bad in ["nofile", "x=1", "nofile=x", "nofile=2:1", "nofile=-1:1"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
        let limits = ["nofile=1", "core=0", "nofile=2"].map(|text| ulimit(text).expect("good"));
        let names: Vec<&str> = last_of_each(&limits)
            .iter()
            .map(|limit| limit["Name"].as_str().expect("a name"))
            .collect();
        assert_eq!(names, ["core", "nofile"]);
    }

    #[test]
    fn modes_of_namespaces() {
        let known = ["host", "container:"];
        for good in ["", "host", "container:a"] {
            assert_eq!(mode("--pid", "PID", Some(good), &known).expect(good), good);
        }
        for bad in ["hosts", "container:", "private"] {
            assert!(mode("--pid", "PID", Some(bad), &known).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_of_restarts() {
        let expected = json!({ "Name": "on-failure", "MaximumRetryCount": 3 });
        assert_eq!(restart("on-failure:3"), Ok(expected));
        assert!(restart("a:b").is_err() && restart(":1").is_err());
    }
}
