//! What a container uses of the machine, which processes it has, and changing
//! its limits while it runs.

use dhow_cgroup::Stats;

use crate::bundle;
use crate::create::Accepted;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::spec::{HostConfig, RestartPolicy};
use crate::start::told;
use crate::validate;

/// Bytes and packets of one link, as the container sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkUsage {
    /// Name of the link in the container.
    pub name: String,
    /// Received: bytes, packets, errors, dropped.
    pub received: [u64; 4],
    /// Sent: bytes, packets, errors, dropped.
    pub sent: [u64; 4],
}

/// Limits to change; `None` and zero leave what is.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Limits in the fields of a host configuration.
    pub limits: HostConfig,
    /// A new restart policy.
    pub restart_policy: Option<RestartPolicy>,
}

impl Engine {
    /// What a running container's control group says. Blocks for a few reads.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`]; [`Error::Runtime`] when the group cannot be
    /// read, as that of a container that does not run.
    pub fn usage(&self, name: &str) -> Result<Stats> {
        let record = self.get(name)?;
        // The group is where it was made, whoever would make it now.
        self.runtime()
            .open(&record.id)
            .and_then(|container| container.stats())
            .map_err(|error| Error::Runtime(dhow_runtime::chain(&error)))
    }

    /// What went through the links of a running container, its loopback link
    /// left out. Blocks for one read.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`].
    pub fn link_usage(&self, name: &str) -> Result<Vec<LinkUsage>> {
        let record = self.get(name)?;
        if !record.state.status.is_alive() || record.host.network_mode == "host" {
            return Ok(Vec::new());
        }
        let path = format!("/proc/{}/net/dev", record.state.pid);
        // A container that ends just now has none.
        Ok(links(&std::fs::read_to_string(path).unwrap_or_default()))
    }

    /// Process identifiers of everything in a running container.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it does not run.
    pub async fn processes(&self, name: &str) -> Result<Vec<i32>> {
        let container = self.find(name)?;
        let record = container.record();
        let shim = container.shim().filter(|_| record.state.status.is_alive());
        let shim =
            shim.ok_or_else(|| Error::Conflict(format!("container {} is not running", record.id)))?;
        shim.processes().await.map_err(told)
    }

    /// Changes the limits and the restart policy of a container, at once if it
    /// runs.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for limits that make no sense, [`Error::Runtime`] for
    /// those that the kernel refuses; the old ones are kept then.
    pub async fn update(&self, name: &str, mut update: Update) -> Result<Accepted> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        let warnings = Machine::here().adapt(&mut update.limits)?;
        validate::forms_of_processors(&update.limits)?;
        let host = merge(&record.host, &update);
        validate::host(&host, Machine::here())?;
        let resources = bundle::resources(&host)?;
        let has_limits = host != with_policy(&record.host, &update);
        let before = record.host.clone();
        let record = container.change(|record| record.host = host)?;
        if record.state.status.is_alive()
            && has_limits
            && let Some(shim) = container.shim()
        {
            let mut changed = resources;
            // Devices are what they were.
            changed.devices.clear();
            if let Err(error) = shim.update(changed).await {
                container.note(|record| record.host = before);
                return Err(told(error));
            }
        }
        self.announce(&record, "update");
        Ok(Accepted { record, warnings })
    }
}

fn with_policy(host: &HostConfig, update: &Update) -> HostConfig {
    let mut host = host.clone();
    if let Some(policy) = &update.restart_policy {
        host.restart_policy = policy.clone();
    }
    host
}

/// The configuration with what the update names.
fn merge(host: &HostConfig, update: &Update) -> HostConfig {
    let mut merged = with_policy(host, update);
    let (new, unset) = (&update.limits, HostConfig::default());
    macro_rules! take {
        ($($field:ident),*) => {
            $(if new.$field != unset.$field {
                merged.$field = new.$field.clone();
            })*
        };
    }
    take!(
        cpu_shares,
        memory,
        memory_reservation,
        memory_swap,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        cpuset_cpus,
        cpuset_mems,
        blkio_weight,
        pids_limit
    );
    if new.nano_cpus != 0 {
        merged.nano_cpus = new.nano_cpus;
        (merged.cpu_period, merged.cpu_quota) = (0, 0);
    }
    // More memory than memory and swap together makes no sense: swap grows
    // along unless it was said.
    if new.memory > 0 && new.memory_swap == 0 && merged.memory_swap > 0 {
        merged.memory_swap = merged.memory_swap.max(new.memory);
    }
    merged
}

/// The links in `/proc/PID/net/dev`.
fn links(text: &str) -> Vec<LinkUsage> {
    let link = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        let four =
            |from: usize| -> Option<[u64; 4]> { numbers.get(from..from + 4)?.try_into().ok() };
        Some(LinkUsage {
            name: name.trim().to_owned(),
            received: four(0)?,
            sent: four(8)?,
        })
    };
    text.lines()
        .filter_map(link)
        .filter(|link| link.name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_the_kernel_prints_them() {
        let text = "Inter-|   Receive                                                |  Transmit\n\
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:       9       9    0    0    0     0          0         0        9       9    0    0    0     0       0          0\n  \
             eth0:     100       2    3    4    0     0          0         0      500       6    7    8    0     0       0          0\n";
        assert_eq!(
            links(text),
            [LinkUsage {
                name: "eth0".into(),
                received: [100, 2, 3, 4],
                sent: [500, 6, 7, 8],
            }]
        );
    }

    #[test]
    fn an_update_changes_what_it_names_and_nothing_else() {
        let host = HostConfig {
            memory: 64 << 20,
            memory_swap: 128 << 20,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..HostConfig::default()
        };
        let mut update = Update::default();
        assert_eq!(merge(&host, &update), host);
        update.limits.memory = 256 << 20;
        update.limits.nano_cpus = 1_000_000_000;
        let merged = merge(&host, &update);
        assert_eq!((merged.memory, merged.memory_swap), (256 << 20, 256 << 20));
        assert_eq!((merged.cpu_quota, merged.cpu_period), (0, 0));
    }
}
