//! The OCI runtime configuration (`config.json`) as plain values.
//!
//! Only what the runtime acts on is kept; fields it does not know are ignored,
//! as the specification asks (config.md, "Extensibility"). The types serialize
//! to the same JSON, so that whoever composes a bundle can use them too.
//! Not here: checking, which is the business of [`crate::plan`].

mod linux;
mod process;
mod seccomp;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use linux::ranges;
pub use linux::{
    BlockIo, Cpu, Device, DeviceKind, DeviceRule, HugepageLimit, IdMapping, IntelRdt,
    InterfacePriority, Linux, Memory, MemoryPolicy, Namespace, NamespaceKind, NetDevice, Network,
    Personality, Pids, Rdma, Resources, ThrottleDevice, TimeOffset, WeightDevice,
};
pub use process::{
    Capabilities, ConsoleSize, CpuAffinity, IoPriority, Process, Rlimit, Scheduler, User,
};
pub use seccomp::{Action, Architecture, Argument, Comparison, Seccomp, SyscallRule};

/// The whole `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Version of the specification the bundle was written for.
    pub oci_version: String,
    /// The program to run; only `create` without `start` may lack it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Where the root filesystem lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Host name inside the UTS namespace; empty leaves it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// NIS domain name inside the UTS namespace; empty leaves it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// Mounts, in the order in which they are made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs to run at the steps of the lifecycle.
    #[serde(skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Free-form labels, kept in the state.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What is Linux's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// The root filesystem of the bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Directory, absolute or relative to the bundle.
    pub path: PathBuf,
    /// Whether the root is mounted read-only in the end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub readonly: bool,
}

/// One mount (config.md, "Mounts").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Absolute path inside the container.
    pub destination: PathBuf,
    /// Filesystem type; `bind` or absent for bind mounts.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Device, label, or path on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Options as `mount -o` knows them, and the specification's additions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Identity mapping of the mount for user identifiers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Identity mapping of the mount for group identifiers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// Programs run around the life of a container (config.md, "POSIX-platform Hooks").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Deprecated: in the runtime's namespaces, after the namespaces exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, after the namespaces exist, before the root is changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before the root is changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// In the container's namespaces, before the program is executed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the program was started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container was deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Whether there are hooks between the clone and the program.
    #[must_use]
    pub fn any_of_create(&self) -> bool {
        [
            &self.prestart,
            &self.create_runtime,
            &self.create_container,
            &self.start_container,
        ]
        .iter()
        .any(|hooks| !hooks.is_empty())
    }

    /// Whether there is nothing to run at any step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [
            &self.prestart,
            &self.create_runtime,
            &self.create_container,
            &self.start_container,
            &self.poststart,
            &self.poststop,
        ]
        .iter()
        .all(|hooks| hooks.is_empty())
    }
}

/// One hook: a program that gets the container's state on its standard input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Arguments, the program's name first; empty means the path alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment, `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds after which the hook is killed and counts as failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Every field that is known, with something in it.
    fn full() -> Value {
        let range = json!([{ "containerID": 0, "hostID": 1, "size": 2 }]);
        let hooks = json!([{ "path": "/h", "args": ["h"], "env": ["A=b"], "timeout": 3 }]);
        json!({
            "ociVersion": "1.3.0",
            "process": {
                "terminal": true,
                "consoleSize": { "height": 1, "width": 2 },
                "user": { "uid": 1, "gid": 2, "umask": 18, "additionalGids": [3] },
                "args": ["a"], "env": ["A=b"], "cwd": "/",
                "capabilities": {
                    "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                    "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]
                },
                "rlimits": [{ "type": "RLIMIT_CORE", "hard": 2, "soft": 1 }],
                "noNewPrivileges": true, "apparmorProfile": "p", "selinuxLabel": "l",
                "oomScoreAdj": 7,
                "scheduler": {
                    "policy": "SCHED_DEADLINE", "nice": 1, "priority": 2, "runtime": 3,
                    "deadline": 4, "period": 5, "flags": ["SCHED_FLAG_RECLAIM"]
                },
                "ioPriority": { "class": "IOPRIO_CLASS_BE", "priority": 4 },
                "execCPUAffinity": { "initial": "0", "final": "1" }
            },
            "root": { "path": "rootfs", "readonly": true },
            "hostname": "h", "domainname": "d",
            "mounts": [{
                "destination": "/m", "type": "bind", "source": "/s", "options": ["ro"],
                "uidMappings": range, "gidMappings": range
            }],
            "hooks": {
                "prestart": hooks, "createRuntime": hooks, "createContainer": hooks,
                "startContainer": hooks, "poststart": hooks, "poststop": hooks
            },
            "annotations": { "a": "b" },
            "linux": {
                "namespaces": [{ "type": "network", "path": "/n" }, { "type": "time" }],
                "uidMappings": range, "gidMappings": range,
                "timeOffsets": { "boottime": { "secs": -1, "nanosecs": 2 } },
                "devices": [{
                    "type": "c", "path": "/dev/d", "major": 1, "minor": 2, "fileMode": 438,
                    "uid": 3, "gid": 4
                }],
                "cgroupsPath": "/c",
                "resources": {
                    "devices": [{ "allow": true, "type": "b", "major": 1, "minor": 2, "access": "r" }],
                    "memory": {
                        "limit": 1, "reservation": 2, "swap": 3, "kernel": 4, "kernelTCP": 5,
                        "swappiness": 6, "disableOOMKiller": true, "checkBeforeUpdate": true
                    },
                    "cpu": {
                        "shares": 1, "quota": 2, "burst": 3, "period": 4, "realtimeRuntime": 5,
                        "realtimePeriod": 6, "cpus": "0", "mems": "0", "idle": 1
                    },
                    "pids": { "limit": 5 },
                    "blockIO": {
                        "weight": 10, "leafWeight": 11,
                        "weightDevice": [{ "major": 1, "minor": 2, "weight": 3, "leafWeight": 4 }],
                        "throttleReadBpsDevice": [{ "major": 1, "minor": 2, "rate": 3 }],
                        "throttleWriteBpsDevice": [{ "major": 1, "minor": 2, "rate": 3 }],
                        "throttleReadIOPSDevice": [{ "major": 1, "minor": 2, "rate": 3 }],
                        "throttleWriteIOPSDevice": [{ "major": 1, "minor": 2, "rate": 3 }]
                    },
                    "hugepageLimits": [{ "pageSize": "2MB", "limit": 1 }],
                    "network": { "classID": 1, "priorities": [{ "name": "eth0", "priority": 2 }] },
                    "rdma": { "mlx5_0": { "hcaHandles": 1, "hcaObjects": 2 } },
                    "unified": { "memory.high": "1" }
                },
                "rootfsPropagation": "rslave",
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
                    "architectures": ["SCMP_ARCH_X86_64"],
                    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                    "listenerPath": "/l", "listenerMetadata": "m",
                    "syscalls": [{
                        "names": ["read"], "action": "SCMP_ACT_NOTIFY", "errnoRet": 1,
                        "args": [{ "index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ" }]
                    }]
                },
                "sysctl": { "kernel.msgmax": "1" },
                "maskedPaths": ["/a"], "readonlyPaths": ["/b"], "mountLabel": "l",
                "personality": { "domain": "LINUX", "flags": ["f"] },
                "memoryPolicy": { "mode": "MPOL_BIND", "nodes": "0", "flags": ["f"] },
                "netDevices": { "eth0": { "name": "e" } },
                "intelRdt": {}
            }
        })
    }

    /// Regression: a field without a place here is passed over in silence.
    #[test]
    fn every_field_has_its_place() {
        let spec: Spec = serde_json::from_value(full()).unwrap();
        assert_eq!(serde_json::to_value(spec).unwrap(), full());
    }

    /// Every place in a document, as a path of steps.
    fn places(value: &Value) -> Vec<String> {
        let mut places = vec![String::new()];
        let below: Vec<(String, &Value)> = match value {
            Value::Object(members) => members
                .iter()
                .map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value))
                .collect(),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, value)| (index.to_string(), value))
                .collect(),
            _ => Vec::new(),
        };
        for (name, value) in below {
            places.extend(places_of(&name, value));
        }
        places
    }

    fn places_of(name: &str, value: &Value) -> impl Iterator<Item = String> {
        let below = places(value).into_iter();
        below.map(move |place| format!("/{name}{place}"))
    }

    fn strange() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(json!([])),
            Just(json!({})),
            Just(json!([null])),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = serde_json::from_slice::<Spec>(&bytes);
        }

        /// One thing that is not as it should be: refused while it is parsed or
        /// kept as it is, and what is made of the rest never panics.
        #[test]
        fn strange_values_are_refused_or_kept(
            at in any::<prop::sample::Index>(),
            value in strange(),
        ) {
            let mut document = full();
            let places = places(&document);
            *document.pointer_mut(at.get::<String>(&places)).unwrap() = value;
            if let Ok(spec) = serde_json::from_value::<Spec>(document) {
                let again: Result<Spec, _> = serde_json::from_value(serde_json::to_value(&spec).unwrap());
                prop_assert_eq!(&again.unwrap(), &spec);
                let linux = spec.linux.unwrap_or_default();
                if let Some(seccomp) = &linux.seccomp {
                    let _ = crate::seccomp::compile(seccomp);
                }
                if let Some(resources) = &linux.resources {
                    let _ = crate::limits::of(resources);
                }
            }
        }
    }
}
