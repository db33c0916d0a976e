//! The rarer options of `run` and `create`: devices' rates, namespaces, health,
//! storage.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::amounts::{bytes, nanoseconds};
use crate::error::Error;
use crate::request::{label, mode, pairs};

// What a container may use of its host, and how it is watched.
#[derive(Debug, Default, Args)]
pub struct Limits {
    /// Readiness to swap (0 to 100).
    #[arg(long, value_name = "PERCENT")]
    pub memory_swappiness: Option<i64>,
    /// Let its processes wait instead of killing them for want of memory.
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// Readiness to be killed for want of memory (-1000 to 1000).
    #[arg(long, value_name = "SCORE")]
    pub oom_score_adj: Option<i32>,
    /// Weight for a device (PATH:WEIGHT).
    #[arg(long, value_name = "DEVICE", value_parser = weight)]
    pub blkio_weight_device: Vec<Value>,
    /// Limit of bytes read per second from a device (PATH:RATE).
    #[arg(long, value_name = "DEVICE", value_parser = byte_rate)]
    pub device_read_bps: Vec<Value>,
    /// Limit of bytes written per second to a device (PATH:RATE).
    #[arg(long, value_name = "DEVICE", value_parser = byte_rate)]
    pub device_write_bps: Vec<Value>,
    /// Limit of reads per second from a device (PATH:RATE).
    #[arg(long, value_name = "DEVICE", value_parser = rate)]
    pub device_read_iops: Vec<Value>,
    /// Limit of writes per second to a device (PATH:RATE).
    #[arg(long, value_name = "DEVICE", value_parser = rate)]
    pub device_write_iops: Vec<Value>,
    /// Rule for devices it may make and use (such as 'c 1:3 mr').
    #[arg(long, value_name = "RULE")]
    pub device_cgroup_rule: Vec<String>,
    /// Parent control group.
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// Control group namespace (private or host).
    #[arg(long, value_name = "MODE")]
    pub cgroupns: Option<String>,
    /// User namespace (host).
    #[arg(long, value_name = "MODE")]
    pub userns: Option<String>,
    /// OCI runtime.
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// Option of the storage driver (NAME=VALUE).
    #[arg(long, value_name = "NAME=VALUE")]
    pub storage_opt: Vec<String>,
    /// Driver of volumes made for it.
    #[arg(long, value_name = "DRIVER")]
    pub volume_driver: Option<String>,
    /// Annotation for the runtime (NAME=VALUE).
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Read labels from a file, a line each.
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<String>,
    /// Command that probes its health.
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between probes (such as 30s).
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    pub health_interval: Option<i64>,
    /// Time after which a probe has failed.
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    pub health_timeout: Option<i64>,
    /// Time in which failures do not count.
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    pub health_start_period: Option<i64>,
    /// Time between probes in that time.
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    pub health_start_interval: Option<i64>,
    /// Failures in a row that make it unhealthy.
    #[arg(long, value_name = "NUMBER")]
    pub health_retries: Option<i64>,
    /// Leave the image's health check out.
    #[arg(long)]
    pub no_healthcheck: bool,
    /// Start it again when it is unhealthy.
    #[arg(long)]
    pub restart_unhealthy: bool,
}

/// The annotation by which the daemon knows whom to start again.
const RESTART_UNHEALTHY: &str = "dhow.restart-unhealthy";

impl Limits {
    /// Adds what was said to the host's part of a request.
    pub(crate) fn add_to(&self, host: &mut Map<String, Value>) -> Result<(), Error> {
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                host.insert(name.into(), value);
            }
        };
        let swappiness = self.memory_swappiness.unwrap_or(-1);
        if !(-1..=100).contains(&swappiness) {
            return Err(Error::Usage(format!(
                "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
            )));
        }
        set("MemorySwappiness", Some(swappiness.into()));
        set("OomKillDisable", Some(self.oom_kill_disable.into()));
        set("OomScoreAdj", self.oom_score_adj.map(Value::from));
        set("CgroupParent", self.cgroup_parent.clone().map(Value::from));
        let cgroup = mode(
            "--cgroupns",
            "CGROUP",
            self.cgroupns.as_deref(),
            &["private", "host"],
        )?;
        set("CgroupnsMode", Some(cgroup.into()));
        let user = mode("--userns", "USER", self.userns.as_deref(), &["host"])?;
        set("UsernsMode", Some(user.into()));
        set("Runtime", self.runtime.clone().map(Value::from));
        set("VolumeDriver", self.volume_driver.clone().map(Value::from));
        for (name, rates) in [
            ("BlkioWeightDevice", &self.blkio_weight_device),
            ("BlkioDeviceReadBps", &self.device_read_bps),
            ("BlkioDeviceWriteBps", &self.device_write_bps),
            ("BlkioDeviceReadIOps", &self.device_read_iops),
            ("BlkioDeviceWriteIOps", &self.device_write_iops),
        ] {
            set(name, (!rates.is_empty()).then(|| json!(rates)));
        }
        if !self.device_cgroup_rule.is_empty() {
            set("DeviceCgroupRules", Some(json!(self.device_cgroup_rule)));
        }
        if !self.storage_opt.is_empty() {
            if !self.storage_opt.iter().all(|option| option.contains('=')) {
                return Err(Error::Usage("invalid storage option".into()));
            }
            set("StorageOpt", Some(pairs(&self.storage_opt)));
        }
        let mut annotations = pairs(&self.annotation);
        if self.restart_unhealthy {
            annotations[RESTART_UNHEALTHY] = json!("true");
        }
        set("Annotations", Some(annotations));
        Ok(())
    }

    /// The health check that was said, if anything was.
    pub(crate) fn health(&self) -> Result<Option<Value>, Error> {
        let times = [
            ("Interval", self.health_interval),
            ("Timeout", self.health_timeout),
            ("StartPeriod", self.health_start_period),
            ("StartInterval", self.health_start_interval),
        ];
        if self.no_healthcheck {
            let says_more = self.health_cmd.is_some()
                || self.health_retries.is_some()
                || times.iter().any(|(_, time)| time.is_some());
            if says_more {
                return Err(Error::Usage(
                    "--no-healthcheck conflicts with --health-* options".into(),
                ));
            }
            return Ok(Some(json!({ "Test": ["NONE"] })));
        }
        let mut check = Map::new();
        if let Some(command) = &self.health_cmd {
            check.insert("Test".into(), json!(["CMD-SHELL", command]));
        }
        for (name, time) in times {
            let Some(time) = time else { continue };
            if time < 0 {
                return Err(Error::Usage(format!(
                    "health check: {name} cannot be negative"
                )));
            }
            check.insert(name.into(), time.into());
        }
        if let Some(retries) = self.health_retries {
            check.insert("Retries".into(), retries.into());
        }
        Ok((!check.is_empty()).then_some(Value::Object(check)))
    }

    /// Labels from files.
    pub(crate) fn labels(&self) -> Result<Vec<String>, Error> {
        let mut labels = Vec::new();
        for path in &self.label_file {
            let text =
                std::fs::read_to_string(path).map_err(|error| Error::File(path.clone(), error))?;
            let lines = text.lines().map(str::trim_start);
            // A name alone is none here, as Docker has it.
            let lines = lines.filter(|line| line.contains('=') && !line.starts_with('#'));
            for line in lines {
                labels.push(label(line).map_err(Error::Usage)?);
            }
        }
        Ok(labels)
    }
}

/// `PATH:BYTES`.
fn byte_rate(text: &str) -> Result<Value, String> {
    let (path, number) = of_device(text)?;
    let rate = bytes(number).map_err(|_| {
        format!("invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb")
    })?;
    Ok(json!({ "Path": path, "Rate": rate }))
}

/// `PATH:NUMBER`.
fn rate(text: &str) -> Result<Value, String> {
    let (path, number) = of_device(text)?;
    let rate: u64 = number.parse().map_err(|_| {
        format!("invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer")
    })?;
    Ok(json!({ "Path": path, "Rate": rate }))
}

/// `PATH:WEIGHT`.
fn weight(text: &str) -> Result<Value, String> {
    let (path, number) = of_device(text)?;
    match number.parse::<u16>() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => {
            Ok(json!({ "Path": path, "Weight": weight }))
        }
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

fn of_device(text: &str) -> Result<(&str, &str), String> {
    let parts = text.split_once(':').filter(|(path, _)| !path.is_empty());
    let (path, number) = parts.ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_devices() {
        let expected = json!({ "Path": "/dev/vda", "Rate": 1 << 20 });
        assert_eq!(byte_rate("/dev/vda:1m"), Ok(expected));
        assert_eq!(
            rate("/dev/vda:10"),
            Ok(json!({ "Path": "/dev/vda", "Rate": 10 }))
        );
        assert_eq!(
            weight("/dev/vda:10"),
            Ok(json!({ "Path": "/dev/vda", "Weight": 10 }))
        );
        for bad in ["/dev/vda", "vda:1", ":1", "/dev/vda:x"] {
            assert!(byte_rate(bad).is_err() && rate(bad).is_err(), "{bad}");
        }
        assert!(rate("/dev/vda:1m").is_err());
        assert!(weight("/dev/vda:5").is_err());
    }
}
