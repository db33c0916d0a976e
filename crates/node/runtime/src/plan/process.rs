//! The process section: identity, limits and the program, as steps.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use dhow_sys::capability::{self, Set};
use dhow_sys::child::{Identity, Numbers, Program, Step};
use dhow_sys::namespace::Kind;
use dhow_sys::resolve::{self, Links};
use rustix::fs::OFlags;

use super::namespaces::Namespaces;
use super::{attempt, labels, text};
use crate::error::{Result, RuntimeError};
use crate::spec::{Linux, Process, Scheduler};

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest `/etc/passwd` that is read.
const MAX_PASSWD: u64 = 4 << 20;
/// Mask of a process whose configuration names none.
const DEFAULT_UMASK: u32 = 0o022;

/// Identity and capabilities; what this process itself lacks is left out.
pub(super) fn identity(
    process: &Process,
    namespaces: &Namespaces,
    warnings: &mut Vec<String>,
) -> Result<Identity> {
    let user = &process.user;
    let spec = process.capabilities.clone().unwrap_or_default();
    let mut sets = [Set::NONE; 5];
    let lists = [
        &spec.bounding,
        &spec.effective,
        &spec.permitted,
        &spec.inheritable,
        &spec.ambient,
    ];
    for (set, names) in sets.iter_mut().zip(lists) {
        for name in names {
            match Set::named(name) {
                Some(one) => *set = set.with(one),
                // A newer configuration on an older runtime.
                None => warnings.push(format!("ignoring unknown capability {name:?}")),
            }
        }
    }
    // A new user namespace gives every capability over itself.
    if !namespaces.is_new(Kind::User) {
        let available = capability::bounding();
        let wanted = sets.iter().fold(Set::NONE, |all, set| all.with(*set));
        let missing: Vec<_> = wanted.without(available).names().collect();
        if !missing.is_empty() {
            warnings.push(format!(
                "this process lacks {}, so the container does too",
                missing.join(", ")
            ));
        }
        sets = sets.map(|set| set.within(available));
    }
    let [bounding, effective, permitted, inheritable, ambient] = sets;
    for (set, name, holds, why) in [
        (effective, "effective", permitted, "permitted"),
        (
            ambient,
            "ambient",
            permitted.within(inheritable),
            "both permitted and inheritable",
        ),
    ] {
        let missing: Vec<_> = set.without(holds).names().collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            warnings.push(format!(
                "{missing} cannot be {name} without being {why}, and is left out there"
            ));
        }
    }
    Ok(Identity {
        uid: user.uid,
        gid: user.gid,
        groups: user.additional_gids.clone(),
        umask: user.umask.unwrap_or(DEFAULT_UMASK),
        bounding,
        // The kernel refuses what is not permitted.
        effective: effective.within(permitted),
        permitted,
        inheritable,
        ambient: ambient.within(permitted).within(inheritable),
    })
}

/// The program with its environment; `HOME` is added from the container's user
/// table if it is not there.
pub(super) fn program(
    process: &Process,
    root: Option<&OwnedFd>,
    warnings: &mut Vec<String>,
) -> Result<Program> {
    let mut environment = Vec::with_capacity(process.env.len() + 1);
    for variable in &process.env {
        if variable.contains('=') {
            environment.push(text("process.env", variable)?);
        } else {
            warnings.push(format!(
                "ignoring environment variable without a value: {variable:?}"
            ));
        }
    }
    // An empty one is as good as none.
    let has_home = process.env.iter().any(|variable| {
        variable
            .strip_prefix("HOME=")
            .is_some_and(|value| !value.is_empty())
    });
    if !has_home {
        environment.retain(|variable| !variable.as_bytes().starts_with(b"HOME="));
        let home = root.and_then(|root| home(root, process.user.uid));
        let home = format!("HOME={}", home.as_deref().unwrap_or("/"));
        environment.push(text("process.env", home)?);
    }
    let arguments: Vec<CString> = process
        .args
        .iter()
        .map(|argument| text("process.args", argument))
        .collect::<Result<_>>()?;
    Ok(Program::new(candidates(process)?, arguments, environment))
}

/// Paths the program may be at.
fn candidates(process: &Process) -> Result<Vec<CString>> {
    let name = process.args.first().map_or("", String::as_str);
    if name.is_empty() {
        return Err(RuntimeError::spec(
            "process.args",
            "the program's name is empty",
        ));
    }
    if name.contains('/') {
        return Ok(vec![text("process.args", name)?]);
    }
    let path = process
        .env
        .iter()
        .find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        // Relative directories would depend on the working directory.
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| {
            text(
                "process.env",
                format!("{}/{name}", directory.trim_end_matches('/')),
            )
        })
        .collect()
}

/// Home directory of a user, as the root's `/etc/passwd` has it.
fn home(root: &OwnedFd, uid: u32) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = resolve::open_with(root.as_fd(), c"/etc/passwd", flags, Links::Follow).ok()?;
    let mut table = Vec::new();
    std::fs::File::from(file)
        .take(MAX_PASSWD)
        .read_to_end(&mut table)
        .ok()?;
    let uid = uid.to_string();
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        if fields.nth(2) == Some(uid.as_bytes()) {
            let home = fields.nth(2)?;
            return String::from_utf8(home.to_vec())
                .ok()
                .filter(|home| home.starts_with('/'));
        }
    }
    None
}

/// The session keyring of a container's programs, made by the first of them, under
/// its label.
pub(super) fn keyring(id: &str, process: &Process, add: &mut impl FnMut(Step)) -> Result<()> {
    if let Some(value) = labels::of_process(process)? {
        add(attempt(Step::WriteProc {
            path: c"thread-self/attr/keycreate".into(),
            value,
        }));
    }
    let name = text("id", format!("_ses.{id}"))?;
    add(attempt(Step::SessionKeyring(name)));
    Ok(())
}

/// Labels the program is executed under.
pub(super) fn labels(process: &Process, add: &mut impl FnMut(Step)) -> Result<()> {
    if let Some(value) = labels::of_process(process)? {
        add(Step::WriteProc {
            path: c"thread-self/attr/exec".into(),
            value,
        });
    }
    if !process.apparmor_profile.is_empty() {
        let field = "process.apparmorProfile";
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.starts_with(b"Y")) {
            return Err(RuntimeError::spec(field, "this kernel has no AppArmor"));
        }
        // The file of its own came with kernel 5.1.
        let own = Path::new("/proc/thread-self/attr/apparmor/exec").exists();
        let path = if own {
            c"thread-self/attr/apparmor/exec"
        } else {
            c"thread-self/attr/exec"
        };
        add(Step::WriteProc {
            path: path.into(),
            value: text(field, format!("exec {}", process.apparmor_profile))?,
        });
    }
    Ok(())
}

/// Processors a further program may run on; an empty list leaves them.
pub(super) fn affinity(when: &str, list: &str, add: &mut impl FnMut(Step)) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let processors = Numbers::parse(list).filter(|numbers| !numbers.is_empty());
    add(Step::Affinity(processors.ok_or_else(|| {
        RuntimeError::spec(
            format!("process.execCPUAffinity.{when}"),
            format!("{list:?} is no list of processors, such as 0-3,6"),
        )
    })?));
    Ok(())
}

/// Execution domain and memory policy.
pub(super) fn domain(linux: &Linux, add: &mut impl FnMut(Step)) -> Result<()> {
    if let Some(personality) = &linux.personality {
        let field = "linux.personality";
        if let Some(flag) = personality.flags.first() {
            return Err(RuntimeError::spec(field, format!("no flag: {flag:?}")));
        }
        const PER_LINUX: u64 = 0;
        const PER_LINUX32: u64 = 8;
        add(Step::Personality(match personality.domain.as_str() {
            "LINUX" => PER_LINUX,
            "LINUX32" => PER_LINUX32,
            other => {
                let problem = format!("no domain: {other:?}; use LINUX or LINUX32");
                return Err(RuntimeError::spec(field, problem));
            }
        }));
    }
    if let Some(policy) = &linux.memory_policy {
        let field = "linux.memoryPolicy";
        let mode = match policy.mode.as_str() {
            "MPOL_DEFAULT" => 0,
            "MPOL_PREFERRED" => 1,
            "MPOL_BIND" => 2,
            "MPOL_INTERLEAVE" => 3,
            "MPOL_LOCAL" => 4,
            "MPOL_PREFERRED_MANY" => 5,
            "MPOL_WEIGHTED_INTERLEAVE" => 6,
            other => return Err(RuntimeError::spec(field, format!("no mode: {other:?}"))),
        };
        let flags = policy.flags.iter().try_fold(0, |flags, flag| {
            Ok(flags
                | match flag.as_str() {
                    "MPOL_F_STATIC_NODES" => 1 << 15,
                    "MPOL_F_RELATIVE_NODES" => 1 << 14,
                    "MPOL_F_NUMA_BALANCING" => 1 << 13,
                    other => return Err(RuntimeError::spec(field, format!("no flag: {other:?}"))),
                })
        })?;
        let nodes = Numbers::parse(&policy.nodes).ok_or_else(|| {
            RuntimeError::spec(field, format!("{:?} is no list of nodes", policy.nodes))
        })?;
        add(Step::MemoryPolicy {
            mode: mode | flags,
            nodes,
        });
    }
    Ok(())
}

/// Resource limits, scheduling and I/O priority.
pub(super) fn limits(process: &Process, add: &mut impl FnMut(Step)) -> Result<()> {
    for (index, limit) in process.rlimits.iter().enumerate() {
        let field = format!("process.rlimits ({})", limit.kind);
        let earlier = &process.rlimits[..index];
        if earlier.iter().any(|earlier| earlier.kind == limit.kind) {
            return Err(RuntimeError::spec(field, "is listed twice"));
        }
        let (name, resource) = resource(&limit.kind)
            .ok_or_else(|| RuntimeError::spec(&field, "is no resource limit"))?;
        if limit.soft > limit.hard {
            return Err(RuntimeError::spec(
                field,
                "the soft limit is above the hard one",
            ));
        }
        let (soft, hard) = (limit.soft, limit.hard);
        add(attempt(Step::ResourceLimit {
            name,
            resource,
            soft,
            hard,
        }));
    }
    if let Some(scheduler) = &process.scheduler {
        add(Step::Scheduler(attributes(scheduler)?));
    }
    if let Some(priority) = &process.io_priority {
        let class = match priority.class.as_str() {
            "IOPRIO_CLASS_RT" => 1,
            "IOPRIO_CLASS_BE" => 2,
            "IOPRIO_CLASS_IDLE" => 3,
            other => {
                return Err(RuntimeError::spec(
                    "process.ioPriority",
                    format!("no class: {other:?}"),
                ));
            }
        };
        add(Step::IoPriority(class << 13 | priority.priority & 7));
    }
    Ok(())
}

/// Number of a resource limit, and its name as one that lasts.
fn resource(name: &str) -> Option<(&'static str, u32)> {
    Some(match name {
        "RLIMIT_AS" => ("RLIMIT_AS", libc::RLIMIT_AS),
        "RLIMIT_CORE" => ("RLIMIT_CORE", libc::RLIMIT_CORE),
        "RLIMIT_CPU" => ("RLIMIT_CPU", libc::RLIMIT_CPU),
        "RLIMIT_DATA" => ("RLIMIT_DATA", libc::RLIMIT_DATA),
        "RLIMIT_FSIZE" => ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
        "RLIMIT_LOCKS" => ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
        "RLIMIT_MEMLOCK" => ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
        "RLIMIT_MSGQUEUE" => ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        "RLIMIT_NICE" => ("RLIMIT_NICE", libc::RLIMIT_NICE),
        "RLIMIT_NOFILE" => ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
        "RLIMIT_NPROC" => ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
        "RLIMIT_RSS" => ("RLIMIT_RSS", libc::RLIMIT_RSS),
        "RLIMIT_RTPRIO" => ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
        "RLIMIT_RTTIME" => ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
        "RLIMIT_SIGPENDING" => ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
        "RLIMIT_STACK" => ("RLIMIT_STACK", libc::RLIMIT_STACK),
        _ => return None,
    })
}

/// The kernel's `struct sched_attr`, version 0.
fn attributes(scheduler: &Scheduler) -> Result<Box<[u8; 48]>> {
    let field = "process.scheduler";
    let policy: u32 = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(RuntimeError::spec(field, format!("no policy: {other:?}"))),
    };
    let mut flags: u64 = 0;
    for flag in &scheduler.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(RuntimeError::spec(field, format!("no flag: {other:?}"))),
        };
    }
    let mut bytes = Box::new([0; 48]);
    bytes[0..4].copy_from_slice(&48_u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&policy.to_ne_bytes());
    bytes[8..16].copy_from_slice(&flags.to_ne_bytes());
    bytes[16..20].copy_from_slice(&scheduler.nice.unwrap_or(0).to_ne_bytes());
    bytes[20..24].copy_from_slice(&scheduler.priority.unwrap_or(0).to_ne_bytes());
    for (at, value) in [
        (24, scheduler.runtime),
        (32, scheduler.deadline),
        (40, scheduler.period),
    ] {
        bytes[at..at + 8].copy_from_slice(&value.unwrap_or(0).to_ne_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_path() {
        let process = |name: &str, env: &[&str]| Process {
            args: vec![name.to_owned()],
            env: env.iter().map(|variable| (*variable).to_owned()).collect(),
            ..Process::default()
        };
        let found = |name, env: &[&str]| candidates(&process(name, env)).unwrap();
        assert_eq!(
            found("sh", &["PATH=/a/:b:/c"]),
            [c"/a/sh".to_owned(), c"/c/sh".to_owned()]
        );
        assert_eq!(found("./sh", &["PATH=/a"]), [c"./sh".to_owned()]);
        assert_eq!(found("sh", &[]).len(), 6);
        assert!(candidates(&process("", &[])).is_err());
    }

    #[test]
    fn home_is_the_users() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        let table =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nu:x:1000:7:,,:/home/u:/bin/sh\nw:x:5:5:::\n";
        std::fs::write(directory.path().join("etc/passwd"), table).unwrap();
        let root: OwnedFd = std::fs::File::open(directory.path()).unwrap().into();
        assert_eq!(home(&root, 0).as_deref(), Some("/root"));
        assert_eq!(home(&root, 1000).as_deref(), Some("/home/u"));
        assert_eq!(home(&root, 5), None);
        assert_eq!(home(&root, 42), None);
    }
}
