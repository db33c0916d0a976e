//! Checks of what a container is asked to be, before anything is made. Pure:
//! what the machine has is handed in.
//!
//! Wording follows Docker's where clients and people know it.

use dhow_docker::check_ulimit;

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::spec::{Config, HostConfig};

/// Lowest memory limit, in bytes.
const MIN_MEMORY: i64 = 6 << 20;
/// Microseconds of the shortest and the longest scheduling period.
const CPU_PERIOD: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// Microseconds of processor time in a period at least.
const MIN_QUOTA: i64 = 1_000;
/// Nanoseconds between probes of health at least.
pub(crate) const MIN_INTERVAL: i64 = 1_000_000;
/// Parameters of a container's IPC namespace; those of its network namespace
/// begin with `net.`, those of message queues with `fs.mqueue.`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses with a text.
fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(why.into()))
}

/// Variables that a request names, before they meet the image's.
///
/// # Errors
///
/// [`Error::Invalid`] for one without a name.
pub(crate) fn variables(variables: &[String]) -> Result<()> {
    let is_nameless = |variable: &&String| variable.is_empty() || variable.starts_with('=');
    match variables.iter().find(is_nameless) {
        Some(variable) => refuse(format!("invalid environment variable: {variable}")),
        None => Ok(()),
    }
}

/// How a process is to run.
///
/// # Errors
///
/// [`Error::Invalid`] names the field.
pub(crate) fn config(config: &Config) -> Result<()> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return refuse(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        ));
    }
    variables(&config.env)?;
    let texts = config.env.iter().chain(config.cmd.iter().flatten());
    if texts
        .chain(config.entrypoint.iter().flatten())
        .any(|text| text.contains('\0'))
    {
        return refuse("arguments and variables cannot hold NUL bytes");
    }
    if config.hostname.len() > 64 || config.domainname.len() > 64 {
        return refuse("invalid hostname or domainname: the kernel takes 64 bytes at most");
    }
    Ok(())
}

/// What a request says of ends and health, before it meets the image's: what an image
/// says of them that makes no sense is passed over, as in Docker.
///
/// # Errors
///
/// [`Error::Invalid`] names the field.
pub(crate) fn ends(config: &Config) -> Result<()> {
    if !config.stop_signal.is_empty() {
        crate::stop::parse_signal(&config.stop_signal)?;
    }
    if let Some(check) = &config.healthcheck {
        for (name, value) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ] {
            if value != 0 && value < MIN_INTERVAL {
                return refuse(format!("{name} in Healthcheck cannot be less than 1ms"));
            }
        }
        if check.retries < 0 {
            return refuse("Retries in Healthcheck cannot be negative");
        }
    }
    Ok(())
}

/// What a container is to get of its host.
///
/// # Errors
///
/// [`Error::Invalid`] names the field.
pub(crate) fn host(host: &HostConfig, machine: Machine) -> Result<()> {
    memory(host)?;
    processors(host, machine)?;
    devices(host)?;
    namespaces(host)?;
    if host.shm_size < 0 {
        return refuse("SHM size can not be less than 0");
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return refuse(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        ));
    }
    if !matches!(
        host.runtime.as_str(),
        "" | "dhow" | "runc" | "io.containerd.runc.v2"
    ) {
        return refuse(format!("unknown or invalid runtime name: {}", host.runtime));
    }
    if !matches!(host.volume_driver.as_str(), "" | "local") {
        return refuse(format!(
            "error looking up volume plugin {0}: plugin \"{0}\" not found; only the driver local is there",
            host.volume_driver
        ));
    }
    restart_policy(host)?;
    for limit in &host.ulimits {
        check_ulimit(&limit.name.to_ascii_lowercase(), limit.soft, limit.hard)
            .map_err(|error| Error::Invalid(error.to_string()))?;
    }
    if let Some(umask) = host.umask.filter(|umask| *umask > 0o777) {
        return refuse(format!(
            "invalid umask {umask:#o}: it has permission bits only, 0 to 0o777"
        ));
    }
    size(host)?;
    Ok(())
}

/// Bytes that may be written to a container's root filesystem; none is no limit.
///
/// # Errors
///
/// [`Error::Invalid`] for other options of the storage driver, and for what is
/// no size.
pub(crate) fn size(host: &HostConfig) -> Result<Option<u64>> {
    let mut size = None;
    for (name, text) in &host.storage_opt {
        if name != "size" {
            return refuse(format!(
                "Unknown option {name}: the storage driver has only size"
            ));
        }
        size = Some(bytes(text)?);
    }
    Ok(size.filter(|bytes| *bytes != 0))
}

/// A number of bytes, with or without a unit: `10G`, `512m`, `1.5gb`, `1048576`.
///
/// # Errors
///
/// [`Error::Invalid`].
pub fn bytes(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match lower[number.len()..]
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => Some(1_u64),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        "t" => Some(1 << 40),
        "p" => Some(1 << 50),
        _ => None,
    };
    let number: Option<f64> = number.trim().parse().ok();
    let bytes = unit
        .zip(number)
        .map(|(unit, number)| number * unit as f64)
        .filter(|bytes| bytes.is_finite() && (0.0..9e18).contains(bytes));
    match bytes {
        // The fraction of a byte is nobody's.
        Some(bytes) => Ok(bytes as u64),
        None => refuse(format!(
            "invalid size: '{text}'; use a number and a unit, such as 10G"
        )),
    }
}

fn memory(host: &HostConfig) -> Result<()> {
    if host.memory < 0 || host.memory_reservation < 0 || host.memory_swap < -1 {
        return refuse("memory limits cannot be negative; only MemorySwap may be -1");
    }
    if host.memory > 0 && host.memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if let Some(swappiness) = host.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return refuse(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        ));
    }
    if host.memory_reservation > 0 && host.memory_reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if host.memory > 0 && host.memory < host.memory_reservation {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    Ok(())
}

/// Refuses a share of the processors that is told in two forms.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(crate) fn forms_of_processors(host: &HostConfig) -> Result<()> {
    if host.nano_cpus != 0 && host.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if host.nano_cpus != 0 && host.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    Ok(())
}

fn processors(host: &HostConfig, machine: Machine) -> Result<()> {
    if host.cpu_shares < 0 {
        return refuse(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        ));
    }
    if host.cpu_realtime_period < 0 || host.cpu_realtime_runtime < 0 {
        return refuse("CPU real-time period and runtime cannot be negative");
    }
    forms_of_processors(host)?;
    if host.nano_cpus != 0 {
        let all = machine.n_cpus as i64 * 1_000_000_000;
        if !(0..=all).contains(&host.nano_cpus) {
            return refuse(format!(
                "range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available",
                machine.n_cpus
            ));
        }
    }
    if host.cpu_period != 0 && !CPU_PERIOD.contains(&host.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < MIN_QUOTA {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if !host.cpuset_cpus.is_empty() {
        let Some(last) = last_of_list(&host.cpuset_cpus) else {
            return refuse(format!(
                "Invalid value {0} for cpuset cpus: invalid format: {0}",
                host.cpuset_cpus
            ));
        };
        if last >= machine.n_cpus {
            return refuse(format!(
                "Requested CPUs are not available - requested {}, available: 0-{}",
                host.cpuset_cpus,
                machine.n_cpus - 1
            ));
        }
    }
    if !host.cpuset_mems.is_empty() {
        let Some(last) = last_of_list(&host.cpuset_mems) else {
            return refuse(format!(
                "Invalid value {0} for cpuset mems: invalid format: {0}",
                host.cpuset_mems
            ));
        };
        if last > machine.last_memory_node {
            let available = match machine.last_memory_node {
                0 => "0".to_owned(),
                last => format!("0-{last}"),
            };
            return refuse(format!(
                "Requested memory nodes are not available - requested {}, available: {available}",
                host.cpuset_mems
            ));
        }
    }
    Ok(())
}

/// The highest number of a list such as `0-3,6`; none when it is no list.
pub(crate) fn last_of_list(text: &str) -> Option<usize> {
    let mut last = 0;
    for part in text.split(',') {
        let (first, end) = part.trim().split_once('-').unwrap_or((part, part));
        let (first, end): (usize, usize) = (first.trim().parse().ok()?, end.trim().parse().ok()?);
        if first > end || end > 8192 {
            return None;
        }
        last = last.max(end);
    }
    Some(last)
}

fn devices(host: &HostConfig) -> Result<()> {
    let weights = std::iter::once(host.blkio_weight)
        .chain(host.blkio_weight_device.iter().map(|device| device.weight));
    for weight in weights {
        if weight != 0 && !(10..=1000).contains(&weight) {
            return refuse("Range of blkio weight is from 10 to 1000");
        }
    }
    if !host.device_requests.is_empty() {
        return refuse(format!(
            "could not select device driver {} with capabilities: {}",
            host.device_requests[0]
                .get("Driver")
                .map_or("\"\"".to_owned(), ToString::to_string),
            host.device_requests[0]
                .get("Capabilities")
                .map_or("[[gpu]]".to_owned(), ToString::to_string)
                .replace(['"', ','], " ")
                .replace("[ ", "[")
                .replace(" ]", "]"),
        ));
    }
    Ok(())
}

fn namespaces(host: &HostConfig) -> Result<()> {
    let one_of = |name: &str, mode: &str, known: &[&str]| {
        let is_container = |word: &&str| *word == "container:" && mode.starts_with("container:");
        if known.iter().any(|word| word == &mode || is_container(word)) {
            Ok(())
        } else {
            refuse(format!("invalid {name} mode: {mode}"))
        }
    };
    one_of(
        "IPC",
        &host.ipc_mode,
        &["", "none", "private", "shareable", "host", "container:"],
    )?;
    one_of("PID", &host.pid_mode, &["", "host", "container:"])?;
    one_of("UTS", &host.uts_mode, &["", "host"])?;
    one_of("USER", &host.userns_mode, &["", "host"])?;
    one_of(
        "cgroup namespace",
        &host.cgroupns_mode,
        &["", "private", "host"],
    )?;
    if !matches!(host.isolation.as_str(), "" | "default") {
        return refuse(format!(
            "invalid isolation: {:?} - linux only supports 'default'",
            host.isolation
        ));
    }
    for name in host.sysctls.keys() {
        let name = name.replace('/', ".");
        if name.starts_with("net.") {
            if host.network_mode == "host" {
                return refuse(format!(
                    "sysctl '{name}' not allowed in host network namespace"
                ));
            }
        } else if IPC_SYSCTLS.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            if host.ipc_mode == "host" {
                return refuse(format!("sysctl '{name}' not allowed in host ipc namespace"));
            }
        } else if name != "kernel.domainname" {
            return refuse(format!("sysctl '{name}' is not allowed"));
        }
    }
    Ok(())
}

/// When a container is to be started again.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(crate) fn restart_policy(host: &HostConfig) -> Result<()> {
    let policy = &host.restart_policy;
    if !matches!(
        policy.name.as_str(),
        "" | "no" | "always" | "unless-stopped" | "on-failure"
    ) {
        return refuse(format!(
            "invalid restart policy: unknown policy '{}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            policy.name
        ));
    }
    if policy.maximum_retry_count < 0 {
        return refuse("invalid restart policy: maximum retry count cannot be negative");
    }
    if policy.maximum_retry_count != 0 && policy.name != "on-failure" {
        return refuse(format!(
            "invalid restart policy: maximum retry count cannot be used with restart policy '{}'",
            policy.name
        ));
    }
    if host.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
        return refuse("can't create 'AutoRemove' container with restart policy");
    }
    Ok(())
}

/// Whether the network's mode leaves room for what else is asked for.
///
/// # Errors
///
/// [`Error::Invalid`] names both.
pub(crate) fn network_mode(config: &Config, host: &HostConfig) -> Result<()> {
    let conflict =
        |what: &str, with: &str| refuse(format!("conflicting options: {what} and the {with}"));
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return conflict("hostname", "UTS mode");
    }
    if !host.network_mode.starts_with("container:") {
        return Ok(());
    }
    if host.network_mode == "container:" {
        return refuse("invalid network mode: invalid container format container:<name|id>");
    }
    let with = "container type network mode";
    if !config.hostname.is_empty() {
        return conflict("hostname", "network mode");
    }
    if !host.links.is_empty() {
        return conflict("links", with);
    }
    if !host.dns.is_empty() {
        return conflict("dns", "network mode");
    }
    if !host.extra_hosts.is_empty() {
        return conflict("custom host-to-IP mapping", "network mode");
    }
    if !host.port_bindings.is_empty() || host.publish_all_ports {
        return conflict("port publishing", with);
    }
    if !config.exposed_ports.is_empty() {
        return conflict("port exposing", with);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Ulimit;

    use crate::machine::tests::OLD as MACHINE;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut HostConfig), part: &str) {
        let mut asked = HostConfig::default();
        change(&mut asked);
        let error = host(&asked, MACHINE).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        host(&HostConfig::default(), MACHINE).expect("nothing asked for");
        refused(|host| host.memory = 1 << 20, "Minimum memory limit");
        refused(
            |host| host.memory_swap = 64 << 20,
            "always set the Memory limit",
        );
        refused(
            |host| (host.memory, host.memory_swap) = (64 << 20, 32 << 20),
            "Minimum memoryswap limit",
        );
        refused(
            |host| (host.memory, host.memory_reservation) = (64 << 20, 128 << 20),
            "memory reservation limit",
        );
        refused(
            |host| host.memory_swappiness = Some(101),
            "swappiness range is 0-100",
        );
        refused(|host| host.nano_cpus = 3_000_000_000, "from 0.01 to 2.00");
        refused(|host| host.cpu_period = 10, "cfs period");
        refused(|host| host.cpu_period = -1, "cfs period");
        refused(|host| host.cpu_shares = -1, "CPU shares (-1)");
        refused(|host| host.cpu_realtime_period = -1, "real-time");
        refused(|host| host.cpu_quota = 10, "cfs quota");
        refused(
            |host| host.cpuset_cpus = "0-7".into(),
            "requested 0-7, available: 0-1",
        );
        refused(
            |host| host.cpuset_cpus = "x".into(),
            "Invalid value x for cpuset cpus",
        );
        refused(|host| host.cpuset_mems = "2-1".into(), "for cpuset mems");
        refused(
            |host| host.cpuset_mems = "0,9".into(),
            "requested 0,9, available: 0",
        );
        refused(|host| host.blkio_weight = 5, "10 to 1000");
        refused(|host| host.shm_size = -1, "SHM size");
        refused(|host| host.oom_score_adj = 1001, "oom score adj");
        refused(|host| host.runtime = "kata".into(), "runtime name: kata");
        refused(|host| host.ipc_mode = "odd".into(), "invalid IPC mode: odd");
        refused(
            |host| host.sysctls = [("kernel.panic".into(), "1".into())].into(),
            "'kernel.panic' is not allowed",
        );
        refused(
            |host| {
                host.ulimits = vec![Ulimit {
                    name: "nofile".into(),
                    soft: 10,
                    hard: 5,
                }];
            },
            "less than or equal to hard limit: 10 > 5",
        );
        refused(
            |host| {
                host.auto_remove = true;
                host.restart_policy.name = "always".into();
            },
            "'AutoRemove' container with restart policy",
        );
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("10G", 10 << 30),
            ("512m", 512 << 20),
            ("1.5gb", 3 << 29),
            ("4KiB", 4096),
            ("7", 7),
            ("0", 0),
        ] {
            assert_eq!(bytes(text).expect(text), expected, "{text}");
        }
        for bad in ["", "G", "-1", "10X", "nan", "inf", "1e40", "10 G x"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        refused(
            |host| host.storage_opt = [("dm.size".into(), "1".into())].into(),
            "Unknown option dm.size",
        );
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(last_of_list("0-3,6"), Some(6));
        assert_eq!(last_of_list("1"), Some(1));
        for bad in ["", "a", "3-1", "1,", "-1", "1-", "0-99999"] {
            assert_eq!(last_of_list(bad), None, "{bad}");
        }
    }
}
