//! Fields of the configuration, one by one: what is asked for is there, and
//! what cannot be is refused, never passed over.

use std::os::unix::net::UnixListener;

use dhow_runtime::spec::{
    Action, CpuAffinity, Device, DeviceKind, Hook, IdMapping, IntelRdt, IoPriority, Memory,
    MemoryPolicy, Mount, Namespace, NamespaceKind, NetDevice, Network, Personality, Rdma,
    Resources, Rlimit, Scheduler, SyscallRule, TimeOffset,
};

use crate::bundle::{Bundle, words};

/// Runs a script; what it wrote, line by line.
#[track_caller]
fn lines(name: &str, script: &str, change: impl FnOnce(&mut Bundle)) -> Vec<String> {
    let mut bundle = Bundle::new(name, script);
    change(&mut bundle);
    let lines = bundle.output().lines().map(str::to_owned).collect();
    bundle.audit();
    lines
}

fn mount(kind: &str, source: &std::path::Path, destination: &str, options: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: Some(kind.to_owned()),
        source: Some(source.to_str().unwrap().to_owned()),
        options: words(&options.replace(',', " ")),
        ..Mount::default()
    }
}

#[test]
fn clocks_have_offsets() {
    let script = "cat /proc/self/timens_offsets; cat /proc/uptime";
    let seen = lines("time", script, |bundle| {
        bundle.linux().namespaces.push(Namespace {
            kind: NamespaceKind::Time,
            path: None,
        });
        let offset = |secs| TimeOffset { secs, nanosecs: 7 };
        let offsets = &mut bundle.linux().time_offsets;
        offsets.insert("monotonic".to_owned(), offset(172_800));
        offsets.insert("boottime".to_owned(), offset(86_400_000));
    });
    assert_eq!(words(&seen[0]), ["monotonic", "172800", "7"]);
    assert_eq!(words(&seen[1]), ["boottime", "86400000", "7"]);
    let uptime: f64 = words(&seen[2])[0].parse().unwrap();
    assert!(uptime > 86_400_000.0, "{uptime}");
}

#[test]
fn user_namespaces_are_joined_and_own_what_is_new() {
    let mapping = IdMapping {
        container_id: 0,
        host_id: 200_000,
        size: 1000,
    };
    let mut first = Bundle::new("user-first", "exec sleep 1000");
    let user = |path| Namespace {
        kind: NamespaceKind::User,
        path,
    };
    first.linux().namespaces.push(user(None));
    first.linux().uid_mappings = vec![mapping];
    first.linux().gid_mappings = vec![mapping];
    first.write();
    let status = first
        .command(&["run", "--detach", "--bundle"])
        .arg(first.path())
        .arg(&first.id)
        .status();
    assert!(status.unwrap().success());
    let container = first.runtime().open(&first.id).unwrap();
    let path = format!("/proc/{}/ns/user", container.pid());

    // New namespaces of every other kind belong to it: its root may mount and
    // set the host name there.
    let script = "readlink /proc/self/ns/user; cat /proc/self/uid_map; echo $$; id -u; \
        mount -t tmpfs none /tmp && echo mounted; hostname own && hostname; cat /proc/self/cgroup | grep -vc ':/$'; true";
    let seen = lines("user-second", script, |bundle| {
        bundle.linux().namespaces.push(user(Some(path.into())));
        bundle.linux().seccomp = None;
        let sets = bundle.process().capabilities.as_mut().unwrap();
        for set in [&mut sets.bounding, &mut sets.permitted, &mut sets.effective] {
            set.push("CAP_SYS_ADMIN".to_owned());
        }
        std::os::unix::fs::chown(bundle.rootfs(), Some(200_000), Some(200_000)).unwrap();
    });
    let namespace = std::fs::read_link(format!("/proc/{}/ns/user", container.pid())).unwrap();
    assert_eq!(seen[0], namespace.to_str().unwrap());
    assert_eq!(words(&seen[1]), ["0", "200000", "1000"]);
    assert_eq!(seen[2..], ["1", "0", "mounted", "own", "0"]);
    container.delete(dhow_runtime::Alive::Kill).unwrap();
    first.audit();
}

#[test]
fn clocks_and_group_views_are_joined() {
    let mut first = Bundle::new("join-first", "exec sleep 1000");
    let time = |path| Namespace {
        kind: NamespaceKind::Time,
        path,
    };
    first.linux().namespaces.push(time(None));
    let offset = TimeOffset {
        secs: 86_400_000,
        nanosecs: 0,
    };
    let offsets = &mut first.linux().time_offsets;
    offsets.insert("boottime".to_owned(), offset);
    first.write();
    let status = first
        .command(&["run", "--detach", "--bundle"])
        .arg(first.path())
        .arg(&first.id)
        .status();
    assert!(status.unwrap().success());
    let container = first.runtime().open(&first.id).unwrap();
    let of_first = |name: &str| format!("/proc/{}/ns/{name}", container.pid());
    let script = "readlink /proc/self/ns/time; readlink /proc/self/ns/cgroup; cat /proc/uptime";
    let seen = lines("join-second", script, |bundle| {
        let namespaces = &mut bundle.linux().namespaces;
        namespaces.retain(|namespace| namespace.kind != NamespaceKind::Cgroup);
        namespaces.push(time(Some(of_first("time").into())));
        namespaces.push(Namespace {
            kind: NamespaceKind::Cgroup,
            path: Some(of_first("cgroup").into()),
        });
    });
    for (name, seen) in ["time", "cgroup"].iter().zip(&seen) {
        let namespace = std::fs::read_link(of_first(name)).unwrap();
        assert_eq!(seen, namespace.to_str().unwrap());
    }
    let uptime: f64 = words(&seen[2])[0].parse().unwrap();
    assert!(uptime > 86_400_000.0, "{uptime}");
    container.delete(dhow_runtime::Alive::Kill).unwrap();
    first.audit();
}

#[test]
fn mounts_map_identities() {
    let seen = lines("idmap", "stat -c %u:%g /mapped /mapped/own", |bundle| {
        let host = bundle.path().join("host");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("own"), "").unwrap();
        std::os::unix::fs::chown(host.join("own"), Some(5), Some(6)).unwrap();
        let map = |host_id| {
            vec![IdMapping {
                container_id: 0,
                host_id,
                size: 100,
            }]
        };
        bundle.spec.mounts.push(Mount {
            uid_mappings: map(1000),
            gid_mappings: map(2000),
            ..mount("bind", &host, "/mapped", "bind,idmap")
        });
    });
    assert_eq!(seen, ["1000:2000", "1005:2006"]);
}

#[test]
fn attributes_reach_the_whole_tree() {
    let script = "grep -o ' /all[^ ]* [^ ]*' /proc/self/mountinfo; echo; \
        grep -o ' /one[^ ]* [^ ]*' /proc/self/mountinfo; echo; grep -o ' /tmp [^ ]*' /proc/self/mountinfo";
    let seen = lines("tree", script, |bundle| {
        let dev = std::path::Path::new("/dev");
        bundle.spec.mounts.extend([
            mount("bind", dev, "/all", "rbind,rro,rnosuid,rnoexec,rnoatime"),
            mount("bind", dev, "/one", "rbind,ro"),
            mount("tmpfs", dev, "/tmp", "mode=1777"),
            // What is there already is changed.
            mount("none", dev, "/tmp", "remount,ro,noexec"),
        ]);
    });
    let parts: Vec<_> = seen.split(String::is_empty).collect();
    assert!(parts[0].len() > 1, "tests need mounts below /dev");
    for line in parts[0] {
        for attribute in ["ro,", "nosuid", "noexec", "noatime"] {
            assert!(line.contains(attribute), "{line}");
        }
    }
    assert!(parts[1][0].contains(" ro,"), "{:?}", parts[1]);
    assert!(
        parts[1][1..].iter().all(|line| line.contains(" rw,")),
        "{:?}",
        parts[1]
    );
    assert_eq!(parts[2], [" /tmp ro,noexec,relatime"]);
}

#[test]
fn execution_is_as_asked() {
    let script = "uname -m; cut -d' ' -f19 /proc/self/stat; grep -o -m 1 'bind=static:0' /proc/self/numa_maps; \
        ionice; cat /proc/sys/kernel/domainname; cut -d ' ' -f 41 /proc/self/stat";
    let seen = lines("execution", script, |bundle| {
        for program in ["cut", "ionice"] {
            std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin").join(program))
                .unwrap();
        }
        bundle.spec.domainname = "own.domain".to_owned();
        bundle.process().scheduler = Some(Scheduler {
            policy: "SCHED_BATCH".to_owned(),
            nice: Some(7),
            ..Scheduler::default()
        });
        bundle.process().io_priority = Some(IoPriority {
            class: "IOPRIO_CLASS_BE".to_owned(),
            priority: 6,
        });
        bundle.linux().personality = Some(Personality {
            domain: "LINUX32".to_owned(),
            flags: vec![],
        });
        bundle.linux().memory_policy = Some(MemoryPolicy {
            mode: "MPOL_BIND".to_owned(),
            nodes: "0".to_owned(),
            flags: vec!["MPOL_F_STATIC_NODES".to_owned()],
        });
    });
    assert!(["i686", "armv8l"].contains(&seen[0].as_str()), "{seen:?}");
    assert_eq!(
        seen[1..],
        [
            "7",
            "bind=static:0",
            "best-effort: prio 6",
            "own.domain",
            "3"
        ]
    );
}

#[test]
fn nodes_are_what_was_asked_for() {
    let script =
        "stat -c '%F %a %u:%g' /dev/pipe /dev/deep/full; ls -l /dev/full >/dev/null && echo there";
    let seen = lines("nodes", script, |bundle| {
        let device = |kind, path: &str, minor| Device {
            kind,
            path: path.into(),
            major: 1,
            minor,
            file_mode: Some(0o640),
            uid: Some(3),
            gid: Some(4),
        };
        bundle.linux().devices = vec![
            device(DeviceKind::Fifo, "/dev/pipe", 0),
            device(DeviceKind::Character, "/dev/deep/full", 7),
        ];
    });
    assert_eq!(
        seen,
        ["fifo 640 3:4", "character special file 640 3:4", "there"]
    );
}

#[test]
fn a_listener_is_asked_for_the_filter() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("notify", "mkdir /tmp/x 2>&1; echo done");
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/mkdir")).unwrap();
        bundle.process().no_new_privileges = no_new_privileges;
        let path = bundle.path().join("agent.sock");
        let agent = UnixListener::bind(&path).unwrap();
        let seccomp = bundle.linux().seccomp.as_mut().unwrap();
        seccomp.listener_path = path.to_str().unwrap().to_owned();
        seccomp.listener_metadata = "my agent".to_owned();
        seccomp.flags = vec!["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV".to_owned()];
        seccomp.syscalls.insert(
            0,
            SyscallRule {
                names: words("mkdir mkdirat"),
                action: Action::Notify,
                errno_ret: None,
                args: vec![],
            },
        );
        let id = bundle.id.clone();
        let answering = std::thread::spawn(move || {
            let (stream, _) = agent.accept().unwrap();
            let mut text = vec![0; 64 << 10];
            let (length, asking) =
                dhow_sys::fdpass::receive(std::os::fd::AsFd::as_fd(&stream), &mut text).unwrap();
            let state: serde_json::Value = serde_json::from_slice(&text[..length]).unwrap();
            assert_eq!(state["fds"], serde_json::json!(["seccompFd"]));
            assert_eq!(state["metadata"], "my agent");
            assert_eq!(state["state"]["id"], id);
            assert_eq!(state["state"]["status"], "creating");
            assert!(state["pid"].as_i64().unwrap() > 1);
            // Somebody asks; without an answer, the call is not there.
            let mut wait = [rustix::event::PollFd::new(
                &asking,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut wait, None).unwrap();
        });
        let output = bundle.output();
        answering.join().unwrap();
        assert!(output.contains("not implemented"), "{output}");
        assert!(output.ends_with("done\n"), "{output}");
        bundle.audit();
    }
}

#[test]
fn execs_run_on_their_processors() {
    let mut bundle = Bundle::new("affinity", "exec sleep 1000");
    bundle.linux().seccomp = None;
    bundle.write();
    let id = bundle.id.as_str();
    let status = bundle
        .command(&["run", "--detach", "--bundle"])
        .arg(bundle.path())
        .arg(id)
        .status();
    assert!(status.unwrap().success());
    let mut process = bundle.spec.process.clone().unwrap();
    process.args = words("grep Cpus_allowed_list /proc/self/status");
    process.exec_cpu_affinity = Some(CpuAffinity {
        initial: "0-1".to_owned(),
        lasting: "0".to_owned(),
    });
    let file = bundle.path().join("process.json");
    let exec = |process: &dhow_runtime::spec::Process| {
        std::fs::write(&file, serde_json::to_vec(process).unwrap()).unwrap();
        let output = bundle
            .command(&["exec", "--process"])
            .arg(&file)
            .arg(id)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    assert_eq!(words(&exec(&process).0), ["Cpus_allowed_list:", "0"]);
    process.exec_cpu_affinity = Some(CpuAffinity {
        initial: String::new(),
        lasting: "zero".to_owned(),
    });
    let (_, errors) = exec(&process);
    assert!(
        errors.contains("execCPUAffinity.final: \"zero\""),
        "{errors}"
    );
    let container = bundle.runtime().open(id).unwrap();
    container.delete(dhow_runtime::Alive::Kill).unwrap();
    bundle.audit();
}

/// Regression: fields that were passed over.
#[test]
fn what_cannot_be_is_refused() {
    type Change = fn(&mut Bundle);
    let cases: [(&str, Change); 18] = [
        ("linux.intelRdt: is not supported", |bundle| {
            bundle.linux().intel_rdt = Some(IntelRdt {});
        }),
        (
            "linux.netDevices (none9): there is no such device",
            |bundle| {
                let devices = &mut bundle.linux().net_devices;
                devices.insert("none9".to_owned(), NetDevice::default());
            },
        ),
        (
            "linux.netDevices (b9): there are two called \"a9\"",
            |bundle| {
                let name = "a9".to_owned();
                let devices = &mut bundle.linux().net_devices;
                devices.insert(name.clone(), NetDevice::default());
                devices.insert("b9".to_owned(), NetDevice { name });
            },
        ),
        ("\"../eth0\" is no name of a device", |bundle| {
            let name = "../eth0".to_owned();
            let devices = &mut bundle.linux().net_devices;
            devices.insert("eth9".to_owned(), NetDevice { name });
        }),
        ("linux.netDevices: needs a network namespace", |bundle| {
            let devices = &mut bundle.linux().net_devices;
            devices.insert("eth9".to_owned(), NetDevice::default());
            bundle
                .linux()
                .namespaces
                .retain(|one| one.kind != NamespaceKind::Network);
        }),
        ("linux.personality: no domain", |bundle| {
            bundle.linux().personality = Some(Personality::default());
        }),
        ("linux.memoryPolicy: no mode", |bundle| {
            bundle.linux().memory_policy = Some(MemoryPolicy::default());
        }),
        ("linux.mountLabel: this kernel has no SELinux", |bundle| {
            bundle.linux().mount_label = "system_u:object_r:container_file_t:s0".to_owned();
        }),
        (
            "process.selinuxLabel: this kernel has no SELinux",
            |bundle| bundle.process().selinux_label = "system_u:system_r:container_t".to_owned(),
        ),
        ("process.oomScoreAdj: 1001 is not between", |bundle| {
            bundle.process().oom_score_adj = Some(1001);
        }),
        ("process.rlimits (RLIMIT_CORE): is listed twice", |bundle| {
            let limit = Rlimit {
                kind: "RLIMIT_CORE".to_owned(),
                hard: 0,
                soft: 0,
            };
            bundle.process().rlimits = vec![limit.clone(), limit];
        }),
        ("linux.timeOffsets: no clock: \"realtime\"", |bundle| {
            let offsets = &mut bundle.linux().time_offsets;
            offsets.insert("realtime".to_owned(), TimeOffset::default());
        }),
        (
            "hooks.poststop (/bin/true): the timeout must be above zero",
            |bundle| {
                bundle.spec.hooks.poststop = vec![Hook {
                    path: "/bin/true".into(),
                    timeout: Some(0),
                    ..Hook::default()
                }];
            },
        ),
        (
            "hooks.prestart (true): the path is not absolute",
            |bundle| {
                bundle.spec.hooks.prestart = vec![Hook {
                    path: "true".into(),
                    ..Hook::default()
                }];
            },
        ),
        (
            "identities are mapped for bind mounts and read-only overlays only",
            |bundle| {
                let none = std::path::Path::new("none");
                let mount = mount("tmpfs", none, "/tmp", "idmap");
                bundle.spec.mounts.push(mount);
            },
        ),
        ("remount changes attributes of the mount only", |bundle| {
            let none = std::path::Path::new("none");
            let mount = mount("tmpfs", none, "/dev", "remount,size=1m");
            bundle.spec.mounts.push(mount);
        }),
        ("which a class of packets needs", |bundle| {
            bundle.linux().resources = Some(Resources {
                network: Some(Network {
                    class_id: Some(1),
                    ..Network::default()
                }),
                ..Resources::default()
            });
        }),
        (
            "seccomp: listenerPath and listenerMetadata need",
            |bundle| {
                let seccomp = bundle.linux().seccomp.as_mut().unwrap();
                seccomp.listener_path = "/run/agent.sock".to_owned();
            },
        ),
    ];
    for (expected, change) in cases {
        let mut bundle = Bundle::new("refused", "echo in");
        change(&mut bundle);
        let output = bundle.run();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{expected}");
        assert!(errors.contains(expected), "{expected}: {errors}");
        assert!(output.stdout.is_empty());
        bundle.audit();
    }
}

#[test]
fn what_is_left_out_is_told() {
    let mut bundle = Bundle::new("told", "grep CapAmb /proc/self/status");
    let file = bundle.path().join("file");
    std::fs::write(&file, "").unwrap();
    bundle
        .spec
        .mounts
        .push(mount("bind", &file, "/file", "bind,size=4m,sync"));
    let sets = bundle.process().capabilities.as_mut().unwrap();
    sets.ambient = words("CAP_KILL");
    sets.effective = words("CAP_SYS_ADMIN");
    sets.bounding.push("CAP_FROM_THE_FUTURE".to_owned());
    let output = bundle.run();
    assert!(output.status.success());
    assert_eq!(
        words(&String::from_utf8_lossy(&output.stdout)),
        ["CapAmb:", "0000000000000000"]
    );
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    for expected in [
        "CAP_KILL cannot be ambient",
        "CAP_SYS_ADMIN cannot be effective",
        "unknown capability \"CAP_FROM_THE_FUTURE\"",
        "ignoring size=4m,sync",
    ] {
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
    bundle.audit();
}

/// What this process may not set is left out, with a warning.
#[test]
fn what_may_not_be_set_is_left_out() {
    use rustix::process::{Resource, getrlimit};
    let script =
        "ulimit -Hn; ulimit -Hc; cat /proc/self/oom_score_adj; grep CapBnd /proc/self/status";
    let mut bundle = Bundle::new("reduced", script);
    let most = getrlimit(Resource::Nofile).maximum.expect("it is bounded");
    let limit = |kind: &str, value| Rlimit {
        kind: kind.to_owned(),
        hard: value,
        soft: value,
    };
    let process = bundle.process();
    process.rlimits = vec![limit("RLIMIT_NOFILE", most + 1), limit("RLIMIT_CORE", 0)];
    process.oom_score_adj = Some(-900);
    let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    bundle.write();
    let output = std::process::Command::new("setpriv")
        .args(["--bounding-set", "-sys_resource,-audit_write"])
        .args([crate::bundle::EXECUTABLE, "--root"])
        .arg(bundle.runtime_root())
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id)
        .output()
        .expect("tests need setpriv: apt-get install util-linux");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let out = String::from_utf8_lossy(&output.stdout);
    let seen: Vec<_> = out.lines().collect();
    assert_eq!(
        seen[..3],
        [&most.to_string(), "0", before.trim()],
        "{errors}"
    );
    let docker = 0xa804_25fb_u64;
    let audit_write = 1_u64 << 29;
    assert_eq!(words(seen[3])[1], format!("{:016x}", docker & !audit_write));
    for expected in [
        format!(
            "set RLIMIT_NOFILE to {0}:{0}: Operation not permitted",
            most + 1
        ),
        "oom_score_adj".to_owned(),
        "CAP_AUDIT_WRITE".to_owned(),
    ] {
        assert!(errors.contains(&expected), "{expected}: {errors}");
    }
    bundle.audit();
}

#[test]
fn a_limit_below_the_use_is_refused_when_asked() {
    let mut bundle = Bundle::new("before", "exec sleep 1000");
    bundle.linux().seccomp = None;
    bundle.write();
    let id = bundle.id.as_str();
    let status = bundle
        .command(&["run", "--detach", "--bundle"])
        .arg(bundle.path())
        .arg(id)
        .status();
    assert!(status.unwrap().success());
    let container = bundle.runtime().open(id).unwrap();
    let update = |check| {
        container.update(&Resources {
            memory: Some(Memory {
                limit: Some(4096),
                check_before_update: Some(check),
                ..Memory::default()
            }),
            ..Resources::default()
        })
    };
    let error = dhow_runtime::chain(&update(true).unwrap_err());
    assert!(error.contains("4096 bytes are below the "), "{error}");
    container.delete(dhow_runtime::Alive::Kill).unwrap();
    bundle.audit();
}

#[test]
fn limits_of_remote_memory_access_reach_the_kernel() {
    let mut bundle = Bundle::new("rdma", "true");
    let limit = Rdma {
        hca_handles: Some(3),
        hca_objects: None,
    };
    bundle.linux().resources = Some(Resources {
        rdma: [("mlx5_9".to_owned(), limit)].into(),
        ..Resources::default()
    });
    let output = bundle.run();
    let errors = String::from_utf8_lossy(&output.stderr);
    // There is no such device, and maybe not even a controller.
    let layout = dhow_cgroup::Layout::detect().unwrap();
    let expected = if layout.v1("rdma").is_some() || layout.has_v2("rdma") {
        "rdma.max to \"mlx5_9 hca_handle=3\": No such device"
    } else {
        "no rdma controller, which a limit of remote memory access needs"
    };
    assert!(errors.contains(expected), "{errors}");
    assert_eq!(output.status.code(), Some(1));
    bundle.audit();
}

#[test]
fn network_devices_are_moved_in() {
    let script = "ip -o addr show dev inside | grep -v fe80 | while read a b c d rest; do echo $c $d; done; \
        ip -o link show dev inside | grep -o '[<,]UP[,>]'; cat /proc/sys/net/ipv4/conf/inside/rp_filter";
    let mut bundle = Bundle::new("devices", script);
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/ip")).unwrap();
    let name = "inside".to_owned();
    let devices = &mut bundle.linux().net_devices;
    devices.insert("outside".to_owned(), NetDevice { name });
    // Parameters of a device need the device.
    let parameter = "net.ipv4.conf.inside.rp_filter".to_owned();
    bundle.linux().sysctl.insert(parameter, "2".to_owned());
    bundle.write();
    // The host is a network namespace of the test's own.
    let script = "ip link add outside type veth peer name far && ip link set outside up && ip addr add 10.9.8.7/24 dev outside && \
        ip addr add fd00:9::7/64 dev outside nodad && exec \"$@\"";
    let output = std::process::Command::new("unshare")
        .args(["--net", "sh", "-c", script, "sh", crate::bundle::EXECUTABLE])
        .arg("--root")
        .arg(bundle.runtime_root())
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{errors}");
    let seen: Vec<_> = out.lines().collect();
    let expected = ["inet 10.9.8.7/24", "inet6 fd00:9::7/64"];
    assert_eq!(seen[..2], expected, "{out}");
    // What was up is up again.
    assert_eq!(seen[2].trim_matches(['<', ',', '>']), "UP", "{out}");
    assert_eq!(seen[3..], ["2"], "{out}");
    bundle.audit();
}
