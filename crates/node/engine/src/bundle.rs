//! From a container's record to the OCI configuration of its bundle.
//!
//! Pure: what must be looked up (identities, the paths of volumes, the network
//! namespace) is handed in. What a container may and sees by default is what
//! Docker gives it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dhow_runtime::spec::{
    BlockIo, Capabilities, ConsoleSize, Cpu, Linux, Memory, Mount, Namespace, NamespaceKind, Pids,
    Process, Resources, Rlimit, Root, Spec, ThrottleDevice, WeightDevice,
};
use dhow_sys::capability::NAMES as ALL_CAPABILITIES;

use crate::accounts::Identity;
use crate::devices;
use crate::error::{Error, Result};
use crate::groups::ControlGroups;
use crate::machine::Machine;
use crate::mounts::{MountKind, MountPoint};
use crate::record::Record;
use crate::security::SecurityOptions;
use crate::shm;
use crate::spec::{self, HostConfig};
use crate::users::Users;

/// What the kernel lets a default container do beyond an ordinary process.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Paths that a default container cannot read.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that a default container cannot write.
pub const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Where the program that reaps orphans is found in a container.
const INIT: &str = "/sbin/docker-init";

/// What a record does not say.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// Whom the process runs as.
    pub(crate) identity: &'a Identity,
    /// Where the network namespace is; none means the host's.
    pub(crate) network: Option<PathBuf>,
    /// The layers of the images that are mounted, topmost first, by image.
    pub(crate) images: BTreeMap<String, Vec<PathBuf>>,
    /// Its user namespace; none means the host's.
    pub(crate) users: Option<&'a Users>,
    /// `/proc/PID/ns/…` of a container whose namespaces are joined.
    pub(crate) joined: Vec<Namespace>,
    /// Host name; empty leaves the UTS namespace's.
    pub(crate) hostname: &'a str,
    /// Folder with `resolv.conf`, `hosts` and `hostname`; none mounts none.
    pub(crate) files: Option<&'a Path>,
    /// Where its control group is.
    pub(crate) groups: &'a ControlGroups,
    /// The AppArmor profile of containers that name none.
    pub(crate) apparmor: Option<&'a str>,
    /// Limits of open files where nothing is said of it.
    pub(crate) descriptors: (u64, u64),
    /// Shared memory that is not its own alone.
    pub(crate) memory: Option<&'a Path>,
    /// The runtime's executable, which reaps orphans when `Init` is set.
    pub(crate) init: Option<&'a Path>,
}

/// Composes the configuration.
///
/// # Errors
///
/// [`Error::Invalid`] names the field that makes no sense.
pub(crate) fn compose(record: &Record, around: &Surroundings<'_>) -> Result<Spec> {
    let host = &record.host;
    let capabilities = capabilities(host)?;
    let process = process(record, around, &capabilities)?;
    let mut namespaces = vec![Namespace {
        kind: NamespaceKind::Mount,
        path: None,
    }];
    let mut add = |kind, is_host: bool| {
        let joined = around
            .joined
            .iter()
            .find(|namespace| namespace.kind == kind);
        if let Some(joined) = joined {
            namespaces.push(joined.clone());
        } else if !is_host {
            namespaces.push(Namespace { kind, path: None });
        }
    };
    add(NamespaceKind::Pid, host.pid_mode == "host");
    add(NamespaceKind::Ipc, host.ipc_mode == "host");
    add(NamespaceKind::Uts, host.uts_mode == "host");
    add(
        NamespaceKind::Cgroup,
        host.cgroupns_mode == "host" || (host.privileged && host.cgroupns_mode.is_empty()),
    );
    if let Some(path) = &around.network {
        namespaces.push(Namespace {
            kind: NamespaceKind::Network,
            path: Some(path.clone()),
        });
    }

    if let Some(users) = around.users {
        namespaces.push(Namespace {
            kind: NamespaceKind::User,
            path: Some(users.pin.clone()),
        });
    }

    let options = SecurityOptions::parse(&host.security_opt)?;
    let unmasked = host.privileged || options.unconfined_paths;
    let list = |paths: &Option<Vec<String>>, default: &[&str]| -> Vec<String> {
        if unmasked {
            return Vec::new();
        }
        paths
            .clone()
            .unwrap_or_else(|| default.iter().map(|path| (*path).into()).collect())
    };
    let linux = Linux {
        namespaces,
        devices: devices::nodes(host)?,
        cgroups_path: Some(around.groups.of(&record.id, &record.host)),
        resources: Some(resources(host)?),
        // Of the root alone: each bind has its own.
        rootfs_propagation: "private".into(),
        seccomp: if host.privileged {
            None
        } else {
            options.seccomp(&capabilities)?
        },
        sysctl: sysctls(record, around),
        masked_paths: list(&host.masked_paths, &MASKED_PATHS),
        readonly_paths: list(&host.readonly_paths, &READONLY_PATHS),
        mount_label: record.mount_label.clone(),
        ..Linux::default()
    };
    Ok(Spec {
        oci_version: "1.2.0".into(),
        process: Some(Process {
            no_new_privileges: options.no_new_privileges,
            selinux_label: record.process_label.clone(),
            apparmor_profile: options.apparmor(host, around.apparmor, Machine::here()),
            ..process
        }),
        root: Some(Root {
            path: "rootfs".into(),
            readonly: host.readonly_rootfs,
        }),
        hostname: around.hostname.into(),
        domainname: record.config.domainname.clone(),
        mounts: mounts(record, around)?,
        annotations: host.annotations.clone(),
        linux: Some(linux),
        ..Spec::default()
    })
}

fn process(record: &Record, around: &Surroundings<'_>, capabilities: &[String]) -> Result<Process> {
    let config = &record.config;
    let mut args = record.args.clone();
    if around.init.is_some() {
        args.splice(0..0, [INIT, "--"].map(str::to_owned));
    }
    Ok(Process {
        terminal: config.tty,
        console_size: record
            .host
            .console_size
            .filter(|size| config.tty && *size != [0, 0])
            .map(|[height, width]| ConsoleSize { height, width }),
        user: around.identity.user.clone(),
        args,
        env: environment(record, around),
        cwd: if config.working_dir.is_empty() {
            "/".into()
        } else {
            config.working_dir.clone()
        },
        capabilities: Some(sets(capabilities)),
        rlimits: rlimits(&record.host, around.descriptors),
        oom_score_adj: Some(record.host.oom_score_adj),
        ..Process::default()
    })
}

/// The limits of a container's processes, those of its execs included;
/// `descriptors` is what holds for files that are open where nothing is said.
pub(crate) fn rlimits(host: &HostConfig, descriptors: (u64, u64)) -> Vec<Rlimit> {
    const FILES: &str = "RLIMIT_NOFILE";
    let limit = |limit: &spec::Ulimit| Rlimit {
        kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
        hard: limit.hard as u64,
        soft: limit.soft as u64,
    };
    let mut limits: Vec<Rlimit> = host.ulimits.iter().map(limit).collect();
    if !limits.iter().any(|limit| limit.kind == FILES) {
        let (soft, hard) = descriptors;
        limits.push(Rlimit {
            kind: FILES.into(),
            hard,
            soft,
        });
    }
    limits
}

/// Docker's defaults below what the image and the client set.
fn environment(record: &Record, around: &Surroundings<'_>) -> Vec<String> {
    let mut env = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!(
            "HOSTNAME={}",
            if around.hostname.is_empty() {
                record.hostname()
            } else {
                around.hostname
            }
        ),
    ];
    if record.config.tty {
        env.push("TERM=xterm".into());
    }
    replace_variables(&mut env, &record.config.env);
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", around.identity.home));
    }
    env
}

/// Sets the variables of `over` in `env`; one without `=` is removed.
pub(crate) fn replace_variables(env: &mut Vec<String>, over: &[String]) {
    for variable in over {
        let (name, value) = match variable.split_once('=') {
            Some((name, _)) => (name, Some(variable)),
            None => (variable.as_str(), None),
        };
        let is_same = |other: &String| other.split('=').next() == Some(name);
        match (env.iter().position(is_same), value) {
            (Some(at), Some(value)) => env[at].clone_from(value),
            (Some(at), None) => {
                env.remove(at);
            }
            (None, Some(value)) => env.push(value.clone()),
            (None, None) => {}
        }
    }
}

/// The capabilities that a container has.
pub(crate) fn capabilities(host: &HostConfig) -> Result<Vec<String>> {
    let canonical = |list: &str, name: &String| -> Result<String> {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        if full == "CAP_ALL" || ALL_CAPABILITIES.contains(&full.as_str()) {
            Ok(full)
        } else {
            Err(Error::Invalid(format!(
                "invalid {list}: unknown capability: {full:?}"
            )))
        }
    };
    let all_of = |list: &str, names: &[String]| -> Result<Vec<String>> {
        names.iter().map(|name| canonical(list, name)).collect()
    };
    let add = all_of("CapAdd", &host.cap_add)?;
    let drop = all_of("CapDrop", &host.cap_drop)?;
    let all = |names: &[String]| names.iter().any(|name| name == "CAP_ALL");
    let has = |name: &str| {
        let named = |names: &[String]| names.iter().any(|other| other == name);
        if host.privileged || (all(&add) && !named(&drop)) {
            return true;
        }
        let is_default = DEFAULT_CAPABILITIES.contains(&name) && !all(&drop) && !named(&drop);
        is_default || named(&add)
    };
    Ok(ALL_CAPABILITIES
        .into_iter()
        .filter(|name| has(name))
        .map(str::to_owned)
        .collect())
}

/// The sets that a process starts with: nothing is inheritable, so that a
/// program with file capabilities gets no more than the others.
pub(crate) fn sets(capabilities: &[String]) -> Capabilities {
    Capabilities {
        bounding: capabilities.to_vec(),
        effective: capabilities.to_vec(),
        permitted: capabilities.to_vec(),
        ..Capabilities::default()
    }
}

fn sysctls(record: &Record, around: &Surroundings<'_>) -> BTreeMap<String, String> {
    let mut sysctls = record.host.sysctls.clone();
    if around.network.is_some() {
        // Who is alone in a network namespace may use its low ports and ping; a
        // group that is nobody's cannot be named.
        let groups = match around.users {
            Some(users) => format!(
                "0 {}",
                users.n_groups.saturating_sub(1).min(i32::MAX as u32)
            ),
            None => format!("0 {}", i32::MAX),
        };
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ping_group_range", groups.as_str()),
        ] {
            sysctls.entry(name.into()).or_insert_with(|| value.into());
        }
    }
    sysctls
}

fn mounts(record: &Record, around: &Surroundings<'_>) -> Result<Vec<Mount>> {
    let host = &record.host;
    let shm_size = if host.shm_size > 0 {
        host.shm_size
    } else {
        shm::SIZE
    };
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(source.into()),
        options: options.iter().map(|option| (*option).into()).collect(),
        ..Mount::default()
    };
    let sys_access = if host.privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", sys_access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &[sys_access, "nosuid", "noexec", "nodev"],
        ),
    ];
    // Who is root in a user namespace mounts no queues of the host's.
    if host.ipc_mode == "host" && around.users.is_some() {
        if Path::new("/dev/mqueue").exists() {
            all.push(mount(
                "/dev/mqueue",
                "bind",
                "/dev/mqueue",
                &["rbind", "nosuid", "noexec", "nodev"],
            ));
        }
    } else {
        all.push(mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ));
    }
    if host.ipc_mode == "host" {
        // As the host has it.
        all.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind"]));
    } else if let Some(shared) = around.memory {
        all.push(mount(
            "/dev/shm",
            "bind",
            &shared.display().to_string(),
            &["rbind", "nosuid", "noexec", "nodev"],
        ));
    } else if host.ipc_mode != "none" {
        let size = format!("size={shm_size}");
        all.push(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &size],
        ));
    }
    if let Some(files) = around.files {
        for name in ["resolv.conf", "hostname", "hosts"] {
            let destination = format!("/etc/{name}");
            if !record
                .mounts
                .iter()
                .any(|mount| mount.destination == destination)
            {
                let source = files.join(name).display().to_string();
                let mut options = vec!["rbind", "rprivate"];
                options.extend(around.users.map(|_| "idmap"));
                options.extend(host.readonly_rootfs.then_some("ro"));
                all.push(mount(&destination, "bind", &source, &options));
            }
        }
    }
    if let Some(init) = around.init {
        let source = init.display().to_string();
        all.push(mount(
            INIT,
            "bind",
            &source,
            &["bind", "ro", "nosuid", "nodev"],
        ));
    }
    // A mount that lies in another's folder comes after it.
    let mut wanted: Vec<&MountPoint> = record.mounts.iter().collect();
    wanted.sort_by_key(|mount| Path::new(&mount.destination).components().count());
    for point in wanted {
        all.retain(|other| other.destination != Path::new(&point.destination));
        let mut mount = mount_point(point, &around.images)?;
        let is_ours = |users: &Users| match point.kind {
            MountKind::Volume => users.volumes.contains(&point.name),
            MountKind::Image => true,
            MountKind::Bind | MountKind::Tmpfs => false,
        };
        if around.users.is_some_and(is_ours) {
            mount.options.push("idmap".into());
        }
        all.push(mount);
    }
    Ok(all)
}

fn mount_point(point: &MountPoint, images: &BTreeMap<String, Vec<PathBuf>>) -> Result<Mount> {
    let (kind, source, mut options) = match point.kind {
        MountKind::Tmpfs => {
            let mut options = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
            options.extend(point.tmpfs_options.iter().cloned());
            ("tmpfs", "tmpfs".to_owned(), options)
        }
        MountKind::Image => {
            let layers = images.get(&point.source).map_or(&[][..], Vec::as_slice);
            let layers: Vec<String> = layers
                .iter()
                .map(|layer| layer.display().to_string().replace('\\', "\\\\"))
                .map(|layer| layer.replace(':', "\\:"))
                .collect();
            let mut options = vec![format!("lowerdir={}", layers.join(":"))];
            if !point.subpath.is_empty() {
                options.push(format!("X-mount.subdir={}", point.subpath));
            }
            ("overlay", "overlay".to_owned(), options)
        }
        MountKind::Bind | MountKind::Volume => {
            let reach = if point.non_recursive { "bind" } else { "rbind" };
            let propagation = if point.propagation.is_empty() {
                "rprivate"
            } else {
                &point.propagation
            };
            let mut source = PathBuf::from(&point.source);
            if !point.subpath.is_empty() {
                source.push(&point.subpath);
            }
            (
                "bind",
                source.display().to_string(),
                vec![reach.to_owned(), propagation.to_owned()],
            )
        }
    };
    if !point.writable && point.kind != MountKind::Tmpfs {
        options.push(if point.shallow_read_only { "ro" } else { "rro" }.into());
    }
    Ok(Mount {
        destination: PathBuf::from(&point.destination),
        kind: Some(kind.into()),
        source: Some(source),
        options,
        ..Mount::default()
    })
}

/// The limits; zero in the API means none.
pub(crate) fn resources(host: &HostConfig) -> Result<Resources> {
    let positive = |value: i64| (value > 0).then_some(value);
    let natural = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let swap = match (host.memory, host.memory_swap) {
        (memory, 0) if memory > 0 => Some(memory.saturating_mul(2)),
        (_, 0) => None,
        (_, swap) => Some(swap),
    };
    let memory = Memory {
        limit: positive(host.memory),
        reservation: positive(host.memory_reservation),
        swap,
        swappiness: host
            .memory_swappiness
            .and_then(|value| u64::try_from(value).ok()),
        disable_oom_killer: host.oom_kill_disable,
        kernel_tcp: positive(host.kernel_memory_tcp),
        ..Memory::default()
    };
    let cpu = Cpu {
        shares: natural(host.cpu_shares),
        quota: positive(host.cpu_quota).or(positive(host.nano_cpus / 10_000)),
        period: if host.nano_cpus > 0 {
            Some(100_000)
        } else {
            natural(host.cpu_period)
        },
        realtime_period: natural(host.cpu_realtime_period),
        realtime_runtime: positive(host.cpu_realtime_runtime),
        cpus: some(&host.cpuset_cpus),
        mems: some(&host.cpuset_mems),
        ..Cpu::default()
    };
    Ok(Resources {
        devices: devices::rules(host)?,
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: host
            .pids_limit
            .filter(|limit| *limit > 0)
            .map(|limit| Pids { limit }),
        block_io: block_io(host)?,
        ..Resources::default()
    })
}

fn block_io(host: &HostConfig) -> Result<Option<BlockIo>> {
    let number = |path: &str| -> Result<(i64, i64)> {
        let stat = rustix::fs::stat(path)
            .map_err(|error| Error::Invalid(format!("stat {path}: {error}")))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::BlockDevice {
            return Err(Error::Invalid(format!("{path} is not a block device")));
        }
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        Ok((major.into(), minor.into()))
    };
    let throttle = |devices: &[spec::ThrottleDevice]| -> Result<Vec<ThrottleDevice>> {
        let limit = |device: &spec::ThrottleDevice| {
            let (major, minor) = number(&device.path)?;
            Ok(ThrottleDevice {
                major,
                minor,
                rate: device.rate,
            })
        };
        devices.iter().map(limit).collect()
    };
    let weigh = |device: &spec::WeightDevice| -> Result<WeightDevice> {
        let (major, minor) = number(&device.path)?;
        Ok(WeightDevice {
            major,
            minor,
            weight: Some(device.weight),
            leaf_weight: None,
        })
    };
    let limits = BlockIo {
        weight: (host.blkio_weight > 0).then_some(host.blkio_weight),
        weight_device: host
            .blkio_weight_device
            .iter()
            .map(weigh)
            .collect::<Result<_>>()?,
        throttle_read_bps_device: throttle(&host.blkio_device_read_bps)?,
        throttle_write_bps_device: throttle(&host.blkio_device_write_bps)?,
        throttle_read_iops_device: throttle(&host.blkio_device_read_iops)?,
        throttle_write_iops_device: throttle(&host.blkio_device_write_iops)?,
        ..BlockIo::default()
    };
    Ok((limits != BlockIo::default()).then_some(limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(add: &[&str], drop: &[&str]) -> Result<Vec<String>> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        capabilities(&HostConfig {
            cap_add: own(add),
            cap_drop: own(drop),
            ..HostConfig::default()
        })
    }

    #[test]
    fn capabilities_add_and_drop_as_docker_does() {
        assert_eq!(
            names(&[], &[]).expect("default").len(),
            DEFAULT_CAPABILITIES.len()
        );
        assert_eq!(
            names(&["net_admin"], &["ALL"]).expect("one"),
            ["CAP_NET_ADMIN"]
        );
        assert_eq!(
            names(&["ALL"], &["CAP_MKNOD"]).expect("all but one").len(),
            40
        );
        assert_eq!(names(&["MKNOD"], &["MKNOD"]).expect("added wins").len(), 14);
        let error = names(&["CAP_WHAT"], &[]).expect_err("unknown").to_string();
        assert_eq!(error, "invalid CapAdd: unknown capability: \"CAP_WHAT\"");
    }

    #[test]
    fn variables_replace_and_unset() {
        let mut env = vec!["A=1".to_owned(), "B=2".into()];
        replace_variables(
            &mut env,
            &["B=3".into(), "A".into(), "C=4".into(), "D".into()],
        );
        assert_eq!(env, ["B=3", "C=4"]);
    }

    #[test]
    fn processors_become_a_quota() {
        let host = HostConfig {
            nano_cpus: 1_500_000_000,
            ..HostConfig::default()
        };
        let cpu = resources(&host).expect("good").cpu.expect("limited");
        assert_eq!((cpu.quota, cpu.period), (Some(150_000), Some(100_000)));
    }
}
