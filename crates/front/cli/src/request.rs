//! The options of `run` and `create`, and the request that they make.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::limits::Limits;
use crate::networking::Networking;

/// How a container is made.
#[derive(Debug, Args)]
pub struct Options {
    /// Name of the container.
    #[arg(long)]
    pub name: Option<String>,
    /// Keep standard input open.
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable (NAME=VALUE, or NAME to pass yours on).
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read variables from a file.
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// Mount a folder or volume (SOURCE:TARGET[:ro]).
    #[arg(short, long, value_name = "MOUNT")]
    pub volume: Vec<String>,
    /// Mount something (type=bind|volume|tmpfs|image,source=…,target=…[,readonly]).
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<String>,
    /// Mount an in-memory filesystem (PATH[:OPTIONS]).
    #[arg(long, value_name = "PATH")]
    pub tmpfs: Vec<String>,
    /// Mount the volumes of another container.
    #[arg(long, value_name = "CONTAINER")]
    pub volumes_from: Vec<String>,
    /// Working directory.
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// User, or USER:GROUP, by name or number.
    #[arg(short, long)]
    pub user: Option<String>,
    /// Further group.
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Host name.
    #[arg(short = 'h', long)]
    pub hostname: Option<String>,
    /// Replace the image's entry point.
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Attach a label (NAME=VALUE).
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Limit of memory (such as 512m).
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Limit of memory and swap together (-1: no limit).
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Soft limit of memory.
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<String>,
    /// Number of processors (such as 1.5).
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<f64>,
    /// Relative weight of processor time.
    #[arg(short, long, value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// Processors it may use (such as 0-3).
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Limit of processes.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Resource limit (NAME=SOFT[:HARD]).
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Size of /dev/shm.
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// When it is started again (no, always, unless-stopped, on-failure[:N]).
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
    /// Remove it when it ends.
    #[arg(long)]
    pub rm: bool,
    /// Allow everything.
    #[arg(long)]
    pub privileged: bool,
    /// Reap orphans and hand signals on with a first process of ours.
    #[arg(long)]
    pub init: bool,
    /// Add a capability.
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Take a capability away.
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Make the root filesystem read-only.
    #[arg(long)]
    pub read_only: bool,
    /// Security option (seccomp=FILE|unconfined, no-new-privileges, …).
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Give it a device of the host (HOST[:CONTAINER[:rwm]]).
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Kernel parameter of its namespaces (NAME=VALUE).
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// PID namespace (host or container:NAME).
    #[arg(long, value_name = "MODE")]
    pub pid: Option<String>,
    /// IPC namespace (private, host, none or container:NAME).
    #[arg(long, value_name = "MODE")]
    pub ipc: Option<String>,
    /// UTS namespace (host).
    #[arg(long, value_name = "MODE")]
    pub uts: Option<String>,
    /// Signal that asks it to stop.
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and the kill.
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<i64>,
    /// Log driver: local, json-file, journald or none.
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Option of the log driver (NAME=VALUE).
    #[arg(long, value_name = "NAME=VALUE")]
    pub log_opt: Vec<String>,
    #[command(flatten)]
    pub limits: Limits,
    /// Write the container's id to a file, which must not be there.
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<std::path::PathBuf>,
    /// Platform of the image (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Print no progress of a fetch.
    #[arg(short, long)]
    pub quiet: bool,
    /// When to fetch the image (always, missing or never).
    #[arg(long, default_value = "missing", value_name = "WHEN")]
    pub pull: String,
    /// Networks, names and ports.
    #[command(flatten)]
    pub networking: Networking,
    /// Image to run.
    pub image: String,
    /// Program and arguments; none runs what the image says.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

impl Options {
    /// The body of the request. `attach` tells whether the client will attach.
    pub(crate) fn body(&self, attach: bool) -> Result<Value, Error> {
        let mut body = json!({
            "Image": self.image,
            "Tty": self.tty,
            "OpenStdin": self.interactive,
            "StdinOnce": self.interactive && attach,
            "AttachStdin": self.interactive && attach,
            "AttachStdout": attach,
            "AttachStderr": attach,
            "Env": self.variables()?,
            "Labels": pairs("label", &[self.limits.labels()?, self.label.clone()].concat())?,
            "HostConfig": self.host()?,
        });
        let fields = body.as_object_mut().expect("it was made an object");
        if !self.command.is_empty() {
            fields.insert("Cmd".into(), json!(self.command));
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
        let bytes = |option: &str, text: &Option<String>| match text {
            Some(text) => parse_bytes(option, text),
            None => Ok(0),
        };
        let mut tmpfs = Map::new();
        for entry in &self.tmpfs {
            let (path, options) = entry.split_once(':').unwrap_or((entry, ""));
            tmpfs.insert(path.into(), json!(options));
        }
        let restart = restart(self.restart.as_deref().unwrap_or("no"))?;
        let mut host = json!({
            "Binds": self.volume.iter().map(|bind| absolute(bind)).collect::<Vec<_>>(),
            "Mounts": self.mount.iter().map(|mount| parse_mount(mount)).collect::<Result<Vec<_>, _>>()?,
            "Tmpfs": tmpfs,
            "VolumesFrom": self.volumes_from,
            "RestartPolicy": restart,
            "AutoRemove": self.rm,
            "Memory": bytes("--memory", &self.memory)?,
            "MemorySwap": bytes("--memory-swap", &self.memory_swap)?,
            "MemoryReservation": bytes("--memory-reservation", &self.memory_reservation)?,
            "NanoCpus": self.cpus.map_or(0, |cpus| (cpus * 1e9) as i64),
            "CpuShares": self.cpu_shares.unwrap_or(0),
            "CpusetCpus": self.cpuset_cpus.as_deref().unwrap_or(""),
            "PidsLimit": self.pids_limit,
            "Ulimits": self.ulimit.iter().map(|limit| parse_ulimit(limit)).collect::<Result<Vec<_>, _>>()?,
            "ShmSize": bytes("--shm-size", &self.shm_size)?,
            "Privileged": self.privileged,
            "Init": self.init.then_some(true),
            "CapAdd": self.cap_add,
            "CapDrop": self.cap_drop,
            "GroupAdd": self.group_add,
            "ReadonlyRootfs": self.read_only,
            "SecurityOpt": self.security_opt.iter().map(|option| security_option(option)).collect::<Result<Vec<_>, _>>()?,
            "Devices": self.device.iter().map(|device| parse_device(device)).collect::<Vec<_>>(),
            "Sysctls": pairs("sysctl", &self.sysctl)?,
            "PidMode": self.pid.as_deref().unwrap_or(""),
            "IpcMode": self.ipc.as_deref().unwrap_or(""),
            "UTSMode": self.uts.as_deref().unwrap_or(""),
            "LogConfig": {
                "Type": self.log_driver.as_deref().unwrap_or(""),
                "Config": pairs("log-opt", &self.log_opt)?,
            },
            "ConsoleSize": crate::terminal::size().filter(|_| self.tty).map_or([0, 0], |(rows, columns)| [rows, columns]),
        });
        let fields = host.as_object_mut().expect("it was made an object");
        self.networking.add_to_host(fields)?;
        self.limits.add_to(fields)?;
        Ok(host)
    }

    fn variables(&self) -> Result<Vec<String>, Error> {
        let mut variables = Vec::new();
        for path in &self.env_file {
            variables.extend(read_variables(path)?);
        }
        variables.extend(self.env.iter().filter_map(|variable| own_value(variable)));
        Ok(variables)
    }
}

/// Variables from a file, a line each.
pub(crate) fn read_variables(path: &str) -> Result<Vec<String>, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::File(path.into(), error))?;
    let lines = text.lines().map(str::trim_start);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(own_value)
        .collect())
}

/// A restart policy as the API has it.
pub(crate) fn restart(text: &str) -> Result<Value, Error> {
    let (name, retries) = match text.split_once(':') {
        Some((name, count)) => {
            let count: i64 = count.parse().map_err(|_| {
                Error::Usage(format!("--restart {name}:{count}: {count:?} is no number"))
            })?;
            (name, count)
        }
        None => (text, 0),
    };
    Ok(json!({ "Name": name, "MaximumRetryCount": retries }))
}

/// `NAME` becomes `NAME=VALUE` with this process's value, if it has one.
fn own_value(variable: &str) -> Option<String> {
    if variable.contains('=') {
        return Some(variable.to_owned());
    }
    std::env::var(variable)
        .ok()
        .map(|value| format!("{variable}={value}"))
}

/// `NAME=VALUE` each.
pub(crate) fn pairs(option: &str, texts: &[String]) -> Result<Value, Error> {
    let mut map = Map::new();
    for text in texts {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(Error::Usage(format!(
                "--{option} {text:?}: the form is NAME=VALUE"
            )));
        }
        map.insert(name.into(), json!(value));
    }
    Ok(Value::Object(map))
}

/// A number of bytes: digits, and `b`, `k`, `m`, `g` or `t` behind.
pub(crate) fn parse_bytes(option: &str, text: &str) -> Result<i64, Error> {
    let usage = || {
        Error::Usage(format!(
            "{option} {text:?}: not a size; write 512m, 2g or bytes"
        ))
    };
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower
        .strip_suffix("ib")
        .or(lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let (number, unit) = match lower.char_indices().last() {
        Some((at, 'k')) => (&lower[..at], 1u64 << 10),
        Some((at, 'm')) => (&lower[..at], 1 << 20),
        Some((at, 'g')) => (&lower[..at], 1 << 30),
        Some((at, 't')) => (&lower[..at], 1 << 40),
        _ => (lower, 1),
    };
    let number: f64 = number.parse().map_err(|_| usage())?;
    let bytes = number * unit as f64;
    if !(0.0..9.2e18).contains(&bytes) {
        return Err(usage());
    }
    Ok(bytes as i64)
}

/// A relative folder (`./data`) becomes absolute, as the daemon wants it.
fn absolute(bind: &str) -> String {
    match bind.split_once(':') {
        Some((source, rest)) if source.starts_with('.') || source.starts_with('~') => {
            let path = match (source.strip_prefix("~/"), std::env::var("HOME")) {
                (Some(rest), Ok(home)) => format!("{home}/{rest}"),
                _ => source.to_owned(),
            };
            let path = std::path::absolute(&path).map_or(path, |path| path.display().to_string());
            format!("{path}:{rest}")
        }
        _ => bind.to_owned(),
    }
}

fn parse_mount(text: &str) -> Result<Value, Error> {
    let mut mount = json!({ "Type": "volume" });
    for option in text.split(',') {
        let (name, value) = option.split_once('=').unwrap_or((option, "true"));
        match name {
            "type" => mount["Type"] = json!(value),
            "source" | "src" => mount["Source"] = json!(value),
            "target" | "dst" | "destination" => mount["Target"] = json!(value),
            "readonly" | "ro" => mount["ReadOnly"] = json!(value != "false"),
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => mount["BindOptions"]["NonRecursive"] = json!(true),
                "writable" => mount["BindOptions"]["ReadOnlyNonRecursive"] = json!(true),
                "readonly" => mount["BindOptions"]["ReadOnlyForceRecursive"] = json!(true),
                _ => {
                    return Err(Error::Usage(format!(
                        "--mount {text:?}: bind-recursive is enabled, disabled, writable or readonly"
                    )));
                }
            },
            "bind-create-src" => mount["BindOptions"]["CreateMountpoint"] = json!(value != "false"),
            "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = json!(value),
            "volume-label" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                mount["VolumeOptions"]["Labels"][name] = json!(value);
            }
            "volume-opt" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                mount["VolumeOptions"]["DriverConfig"]["Options"][name] = json!(value);
            }
            "bind-propagation" => mount["BindOptions"]["Propagation"] = json!(value),
            "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = json!(value != "false"),
            "image-subpath" => mount["ImageOptions"]["Subpath"] = json!(value),
            "volume-subpath" => mount["VolumeOptions"]["Subpath"] = json!(value),
            "tmpfs-size" => {
                mount["TmpfsOptions"]["SizeBytes"] = json!(parse_bytes("tmpfs-size", value)?);
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8)
                    .map_err(|_| Error::Usage(format!("--mount {text:?}: {value:?} is no mode")))?;
                mount["TmpfsOptions"]["Mode"] = json!(mode);
            }
            _ => {
                return Err(Error::Usage(format!(
                    "--mount {text:?}: unknown option {name:?}"
                )));
            }
        }
    }
    Ok(mount)
}

fn parse_ulimit(text: &str) -> Result<Value, Error> {
    let usage = || Error::Usage(format!("--ulimit {text:?}: the form is NAME=SOFT[:HARD]"));
    let (name, limits) = text.split_once('=').ok_or_else(usage)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "unlimited" | "-1" => Ok(-1),
        text => text.parse::<i64>().map_err(|_| usage()),
    };
    Ok(json!({ "Name": name, "Soft": number(soft)?, "Hard": number(hard)? }))
}

fn parse_device(text: &str) -> Value {
    let mut parts = text.splitn(3, ':');
    let host = parts.next().unwrap_or_default();
    let inside = parts.next().unwrap_or(host);
    let access = parts.next().unwrap_or("rwm");
    json!({ "PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access })
}

/// A seccomp profile is sent, not named: the daemon may not see the file.
fn security_option(option: &str) -> Result<String, Error> {
    match option.strip_prefix("seccomp=") {
        None | Some("unconfined" | "builtin") => Ok(option.to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::File(path.to_owned(), error))?;
            Ok(format!("seccomp={text}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("10", 10),
            ("-1", -1),
        ] {
            assert_eq!(parse_bytes("--memory", text).expect(text), bytes);
        }
        for bad in ["", "m", "-2", "1x", "inf", "nan"] {
            assert!(parse_bytes("--memory", bad).is_err(), "{bad}");
        }
    }
}
