//! The rarer options of `run` and `create`: limits, namespaces, health, storage.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::request::{pairs, parse_bytes};

/// What a container may use of its host, and how it is watched.
#[derive(Debug, Default, Args)]
pub struct Limits {
    /// Microseconds of a scheduling period.
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in a period.
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Microseconds of a real-time period.
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_period: Option<u64>,
    /// Microseconds of real-time scheduling in a period.
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_runtime: Option<i64>,
    /// Memory nodes it may use (such as 0-1).
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Readiness to swap (0 to 100).
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub memory_swappiness: Option<i64>,
    /// Let its processes wait instead of killing them for want of memory.
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// Readiness to be killed for want of memory (-1000 to 1000).
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
    /// Relative weight of block I/O (10 to 1000).
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Weight for a device (PATH:WEIGHT).
    #[arg(long, value_name = "DEVICE")]
    pub blkio_weight_device: Vec<String>,
    /// Limit of bytes read per second from a device (PATH:RATE).
    #[arg(long, value_name = "DEVICE")]
    pub device_read_bps: Vec<String>,
    /// Limit of bytes written per second to a device (PATH:RATE).
    #[arg(long, value_name = "DEVICE")]
    pub device_write_bps: Vec<String>,
    /// Limit of reads per second from a device (PATH:RATE).
    #[arg(long, value_name = "DEVICE")]
    pub device_read_iops: Vec<String>,
    /// Limit of writes per second to a device (PATH:RATE).
    #[arg(long, value_name = "DEVICE")]
    pub device_write_iops: Vec<String>,
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
    #[arg(long, value_name = "TIME")]
    pub health_interval: Option<String>,
    /// Time after which a probe has failed.
    #[arg(long, value_name = "TIME")]
    pub health_timeout: Option<String>,
    /// Time in which failures do not count.
    #[arg(long, value_name = "TIME")]
    pub health_start_period: Option<String>,
    /// Time between probes in that time.
    #[arg(long, value_name = "TIME")]
    pub health_start_interval: Option<String>,
    /// Failures in a row that make it unhealthy.
    #[arg(long, value_name = "NUMBER")]
    pub health_retries: Option<i64>,
    /// Leave the image's health check out.
    #[arg(long, conflicts_with = "health_cmd")]
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
        set("CpuPeriod", self.cpu_period.map(Value::from));
        set("CpuQuota", self.cpu_quota.map(Value::from));
        set("CpuRealtimePeriod", self.cpu_rt_period.map(Value::from));
        set("CpuRealtimeRuntime", self.cpu_rt_runtime.map(Value::from));
        set("CpusetMems", self.cpuset_mems.clone().map(Value::from));
        set("MemorySwappiness", self.memory_swappiness.map(Value::from));
        set(
            "OomKillDisable",
            self.oom_kill_disable.then_some(true.into()),
        );
        set("OomScoreAdj", self.oom_score_adj.map(Value::from));
        set("BlkioWeight", self.blkio_weight.map(Value::from));
        set("CgroupParent", self.cgroup_parent.clone().map(Value::from));
        set("CgroupnsMode", self.cgroupns.clone().map(Value::from));
        set("UsernsMode", self.userns.clone().map(Value::from));
        set("Runtime", self.runtime.clone().map(Value::from));
        set("VolumeDriver", self.volume_driver.clone().map(Value::from));
        let list = |texts: &[String], option: &str, field: &str| -> Result<Option<Value>, Error> {
            let rates = texts.iter().map(|text| rate(option, field, text));
            let rates: Vec<Value> = rates.collect::<Result<_, _>>()?;
            Ok((!rates.is_empty()).then(|| rates.into()))
        };
        for (name, texts, option, field) in [
            (
                "BlkioWeightDevice",
                &self.blkio_weight_device,
                "--blkio-weight-device",
                "Weight",
            ),
            (
                "BlkioDeviceReadBps",
                &self.device_read_bps,
                "--device-read-bps",
                "Rate",
            ),
            (
                "BlkioDeviceWriteBps",
                &self.device_write_bps,
                "--device-write-bps",
                "Rate",
            ),
            (
                "BlkioDeviceReadIOps",
                &self.device_read_iops,
                "--device-read-iops",
                "Rate",
            ),
            (
                "BlkioDeviceWriteIOps",
                &self.device_write_iops,
                "--device-write-iops",
                "Rate",
            ),
        ] {
            set(name, list(texts, option, field)?);
        }
        if !self.device_cgroup_rule.is_empty() {
            set("DeviceCgroupRules", Some(json!(self.device_cgroup_rule)));
        }
        if !self.storage_opt.is_empty() {
            set("StorageOpt", Some(pairs("storage-opt", &self.storage_opt)?));
        }
        let mut annotations = pairs("annotation", &self.annotation)?;
        if self.restart_unhealthy {
            annotations[RESTART_UNHEALTHY] = json!("true");
        }
        set("Annotations", Some(annotations));
        Ok(())
    }

    /// The health check that was said, if anything was.
    pub(crate) fn health(&self) -> Result<Option<Value>, Error> {
        if self.no_healthcheck {
            return Ok(Some(json!({ "Test": ["NONE"] })));
        }
        let mut check = Map::new();
        if let Some(command) = &self.health_cmd {
            check.insert("Test".into(), json!(["CMD-SHELL", command]));
        }
        for (name, option, text) in [
            ("Interval", "--health-interval", &self.health_interval),
            ("Timeout", "--health-timeout", &self.health_timeout),
            (
                "StartPeriod",
                "--health-start-period",
                &self.health_start_period,
            ),
            (
                "StartInterval",
                "--health-start-interval",
                &self.health_start_interval,
            ),
        ] {
            if let Some(text) = text {
                check.insert(name.into(), nanoseconds(option, text)?.into());
            }
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
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            labels.extend(lines.map(str::to_owned));
        }
        Ok(labels)
    }
}

/// `PATH:NUMBER`.
fn rate(option: &str, field: &str, text: &str) -> Result<Value, Error> {
    let (path, number) = text
        .rsplit_once(':')
        .ok_or_else(|| Error::Usage(format!("{option} {text:?}: the form is PATH:NUMBER")))?;
    Ok(json!({ "Path": path, field: parse_bytes(option, number)? }))
}

/// A time such as `1m30s`, as Docker's flags have it.
pub(crate) fn nanoseconds(option: &str, text: &str) -> Result<i64, Error> {
    let usage = || {
        Error::Usage(format!(
            "{option} {text:?}: not a time; write 30s, 1m30s or 500ms"
        ))
    };
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .ok_or_else(usage)?;
        let number: f64 = rest[..end].parse().map_err(|_| usage())?;
        rest = &rest[end..];
        let end = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(usage()),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    if text.is_empty() {
        return Err(usage());
    }
    Ok(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5ms", 1_500_000),
        ] {
            assert_eq!(nanoseconds("--x", text).expect(text), expected);
        }
        for bad in ["", "30", "s", "1x", "-1s"] {
            assert!(nanoseconds("--x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_of_devices() {
        assert_eq!(
            rate("--x", "Rate", "/dev/vda:1m").expect("good"),
            json!({ "Path": "/dev/vda", "Rate": 1 << 20 })
        );
        assert!(rate("--x", "Rate", "/dev/vda").is_err());
    }
}
