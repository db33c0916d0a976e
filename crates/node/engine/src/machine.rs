//! What the machine has for containers, and what becomes of limits it has not:
//! discarded with a warning where Docker does so, refused otherwise.

use std::path::Path;
use std::sync::OnceLock;

use dhow_cgroup::{CgroupError, Layout};

use crate::error::{Error, Result};
use crate::spec::HostConfig;
use crate::validate::last_of_list;

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Processors that containers can run on.
    pub n_cpus: usize,
    /// The highest number of a node of memory.
    pub last_memory_node: usize,
    /// Whether control groups are version 2's alone.
    pub has_pure_v2: bool,
    /// Whether memory can be limited.
    pub memory: bool,
    /// Whether swap can be limited.
    pub swap: bool,
    /// Whether how readily a group is swapped out can be set.
    pub swappiness: bool,
    /// Whether processes can wait for memory instead of being killed.
    pub oom_kill_disable: bool,
    /// Whether TCP buffers can be limited.
    pub kernel_tcp: bool,
    /// Whether groups can have real-time scheduling.
    pub cpu_realtime: bool,
    /// Whether processor time can be limited.
    pub cpu: bool,
    /// Whether processors can be chosen.
    pub cpuset: bool,
    /// Whether processes can be counted.
    pub pids: bool,
    /// Whether I/O can be weighed.
    pub io_weight: bool,
    /// Whether I/O can be throttled.
    pub io_throttle: bool,
    /// Whether the kernel confines by AppArmor profiles.
    pub apparmor: bool,
}

impl Machine {
    /// This one, looked at once.
    pub fn here() -> Self {
        static HERE: OnceLock<Machine> = OnceLock::new();
        *HERE.get_or_init(Self::look)
    }

    fn look() -> Self {
        // Without any, limits are refused by the runtime.
        let layout = Layout::detect().unwrap_or_else(|error| {
            if !matches!(error, CgroupError::None) {
                tracing::warn!(%error, "control groups cannot be looked at");
            }
            Layout::default()
        });
        let has = |old: &str, new: &str| layout.v1(old).is_some() || layout.has_v2(new);
        let has_file = |controller: &str, file: &str| {
            let hierarchy = layout.v1(controller);
            hierarchy.is_some_and(|hierarchy| hierarchy.mount.join(file).exists())
        };
        let nodes = std::fs::read_to_string("/sys/devices/system/node/online");
        let last_memory_node = nodes.ok().and_then(|nodes| last_of_list(nodes.trim()));
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
        Self {
            n_cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            // A kernel that knows of no nodes has one.
            last_memory_node: last_memory_node.unwrap_or(0),
            has_pure_v2: layout.is_pure_v2() && layout.v2.is_some(),
            memory: has("memory", "memory"),
            swap: has_file("memory", "memory.memsw.limit_in_bytes") || layout.has_v2("memory"),
            swappiness: has_file("memory", "memory.swappiness"),
            oom_kill_disable: has_file("memory", "memory.oom_control"),
            kernel_tcp: has_file("memory", "memory.kmem.tcp.limit_in_bytes"),
            cpu_realtime: has_file("cpu", "cpu.rt_runtime_us"),
            cpu: has("cpu", "cpu"),
            cpuset: has("cpuset", "cpuset"),
            pids: has("pids", "pids"),
            io_weight: has_file("blkio", "blkio.weight")
                || has_file("blkio", "blkio.bfq.weight")
                || layout.v2.as_deref().is_some_and(weighs_io),
            io_throttle: has("blkio", "io"),
            apparmor: enabled.is_ok_and(|text| text.starts_with(b"Y")),
        }
    }

    /// Takes away what the machine has not; says what, in Docker's words.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what makes no sense without it.
    pub(crate) fn adapt(&self, host: &mut HostConfig) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let mut discard = |what: &str, outcome: &str| {
            warnings.push(format!(
                "Your kernel does not support {what} capabilities or the cgroup is not mounted. {outcome}"
            ));
        };
        if host.kernel_memory != 0 {
            // No kernel since 5.16 has it.
            host.kernel_memory = 0;
            discard("kernel memory limit", "Limitation discarded.");
        }
        if host.kernel_memory_tcp != 0 && !self.kernel_tcp {
            host.kernel_memory_tcp = 0;
            discard("kernel memory TCP limit", "Limitation discarded.");
        }
        if host.memory > 0 && !self.memory {
            (host.memory, host.memory_swap) = (0, 0);
            discard("memory limit", "Limitation discarded.");
        }
        if host.memory > 0 && host.memory_swap != -1 && !self.swap {
            host.memory_swap = -1;
            discard("swap limit", "Memory limited without swap.");
        }
        if host.memory_reservation > 0 && !self.memory {
            host.memory_reservation = 0;
            discard("memory soft limit", "Limitation discarded.");
        }
        if host.memory_swappiness.is_some_and(|value| value >= 0) && !self.swappiness {
            host.memory_swappiness = None;
            discard("memory swappiness", "Memory swappiness discarded.");
        }
        if host.pids_limit.is_some_and(|limit| limit > 0) && !self.pids {
            host.pids_limit = None;
            discard("PIDs limit", "PIDs limit discarded.");
        }
        let mut discard = |what: &str, outcome: &str| {
            warnings.push(format!(
                "Your kernel does not support {what} or the cgroup is not mounted. {outcome}"
            ));
        };
        if (host.cpu_quota != 0 || host.cpu_period != 0 || host.nano_cpus != 0) && !self.cpu {
            (host.cpu_quota, host.cpu_period, host.nano_cpus) = (0, 0, 0);
            discard("CPU CFS scheduler", "CPU period/quota discarded.");
        }
        if host.cpu_shares != 0 && !self.cpu {
            host.cpu_shares = 0;
            discard("CPU shares", "Shares discarded.");
        }
        if (!host.cpuset_cpus.is_empty() || !host.cpuset_mems.is_empty()) && !self.cpuset {
            host.cpuset_cpus.clear();
            host.cpuset_mems.clear();
            discard("cpuset", "Cpuset discarded.");
        }
        if host.blkio_weight != 0 && !self.io_weight {
            host.blkio_weight = 0;
            discard("Block I/O weight", "Weight discarded.");
        }
        if !host.blkio_weight_device.is_empty() && !self.io_weight {
            host.blkio_weight_device.clear();
            discard("Block I/O weight_device", "Weight-device discarded.");
        }
        for (list, what) in [
            (&mut host.blkio_device_read_bps, "BPS Block I/O read limit"),
            (
                &mut host.blkio_device_write_bps,
                "BPS Block I/O write limit",
            ),
            (
                &mut host.blkio_device_read_iops,
                "IOPS Block I/O read limit",
            ),
            (
                &mut host.blkio_device_write_iops,
                "IOPS Block I/O write limit",
            ),
        ] {
            if !list.is_empty() && !self.io_throttle {
                list.clear();
                discard(what, "Block I/O limit discarded.");
            }
        }
        if host.oom_kill_disable == Some(true) {
            if !self.oom_kill_disable {
                host.oom_kill_disable = None;
                warnings.push(
                    "Your kernel does not support OomKillDisable. OomKillDisable discarded."
                        .to_owned(),
                );
            } else if host.memory == 0 {
                warnings.push(
                    "OOM killer is disabled for the container, but no memory limit is set, \
                     this can result in the system running out of resources."
                        .to_owned(),
                );
            }
        }
        let wants_realtime = host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0;
        if wants_realtime && !self.cpu_realtime {
            return Err(Error::Invalid(
                "Your kernel does not support CPU real-time scheduler".to_owned(),
            ));
        }
        Ok(warnings)
    }
}

/// Whether groups of a version 2 hierarchy have a file for weights of I/O. The
/// root has none; where no group has the controller yet, it is not known.
fn weighs_io(root: &Path) -> bool {
    let mut is_known = false;
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let group = entry.path();
        if group.join("io.weight").exists() || group.join("io.bfq.weight").exists() {
            return true;
        }
        is_known |= group.join("io.max").exists() || group.join("io.stat").exists();
    }
    !is_known
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine with version 1 of everything.
    pub(crate) const OLD: Machine = Machine {
        n_cpus: 2,
        last_memory_node: 0,
        has_pure_v2: false,
        memory: true,
        swap: true,
        swappiness: true,
        oom_kill_disable: true,
        kernel_tcp: true,
        cpu_realtime: true,
        cpu: true,
        cpuset: true,
        pids: true,
        io_weight: true,
        io_throttle: true,
        apparmor: false,
    };

    #[test]
    fn what_version_2_has_no_word_for_is_discarded() {
        let new = Machine {
            has_pure_v2: true,
            swappiness: false,
            oom_kill_disable: false,
            kernel_tcp: false,
            cpu_realtime: false,
            io_weight: false,
            ..OLD
        };
        let asked = HostConfig {
            memory: 64 << 20,
            memory_swappiness: Some(10),
            oom_kill_disable: Some(true),
            kernel_memory: 8 << 20,
            kernel_memory_tcp: 8 << 20,
            blkio_weight: 100,
            ..HostConfig::default()
        };
        let mut adapted = asked.clone();
        let warnings = new.adapt(&mut adapted).expect("nothing is refused");
        assert_eq!(
            adapted,
            HostConfig {
                memory: 64 << 20,
                ..HostConfig::default()
            }
        );
        for (part, n_expected) in [
            ("kernel memory limit", 1),
            ("kernel memory TCP limit", 1),
            ("Memory swappiness discarded.", 1),
            ("OomKillDisable discarded.", 1),
            ("Weight discarded.", 1),
            ("swap limit", 0),
        ] {
            let n = warnings.iter().filter(|one| one.contains(part)).count();
            assert_eq!(n, n_expected, "{part}: {warnings:?}");
        }
        // Where there are words for it, it stays.
        let mut kept = asked.clone();
        let warnings = OLD.adapt(&mut kept).expect("nothing is refused");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!((kept.kernel_memory, kept.blkio_weight), (0, 100));
        let mut real_time = HostConfig {
            cpu_realtime_runtime: 1000,
            ..HostConfig::default()
        };
        let error = new.adapt(&mut real_time).expect_err("no word for it");
        assert!(error.to_string().contains("real-time scheduler"));
    }
}
