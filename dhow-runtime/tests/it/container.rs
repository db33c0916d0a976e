//! What a program sees and may do inside.

use dhow_runtime::spec::{
    Cpu, Device, DeviceKind, DeviceRule, IdMapping, Memory, Mount, Namespace, NamespaceKind, Pids,
    Resources, Rlimit, User,
};
use dhow_runtime::{Alive, Create, Gate, Groups, Keyring, Pivot, RootSource, Streams};

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

fn bind(source: &std::path::Path, destination: &str, options: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: Some("bind".to_owned()),
        source: Some(source.to_str().unwrap().to_owned()),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    }
}

#[test]
fn namespaces_are_its_own() {
    let script = "echo $$; hostname; ls /sys/class/net; cat /proc/self/cgroup | grep -c ':/$'; \
        for kind in mnt net uts pid ipc cgroup user; do readlink /proc/self/ns/$kind; done";
    let inside = lines("namespaces", script, |_| {});
    assert_eq!(inside[..3], ["1", "inside", "lo"]);
    let n_groups = std::fs::read_to_string("/proc/self/cgroup")
        .unwrap()
        .lines()
        .count();
    assert_eq!(inside[3], n_groups.to_string(), "{inside:?}");
    for (kind, inside) in words("mnt net uts pid ipc cgroup user")
        .iter()
        .zip(&inside[4..])
    {
        let outside = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(outside.to_str() == Some(inside), kind == "user", "{kind}");
    }
}

#[test]
fn loopback_is_up() {
    let flags = lines("loopback", "cat /sys/class/net/lo/flags", |_| {});
    assert_eq!(flags, ["0x9"]);
}

#[test]
fn identity_capabilities_and_limits_are_as_asked() {
    let script = "id -u; id -g; id -G; umask; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; ulimit -n; \
        echo $HOME; echo $PWD; cat /proc/self/oom_score_adj";
    let seen = lines("identity", script, |bundle| {
        let process = bundle.process();
        process.user = User {
            uid: 1234,
            gid: 567,
            umask: Some(0o27),
            additional_gids: vec![8, 9],
        };
        process.no_new_privileges = true;
        process.cwd = "/made/for/it".to_owned();
        process.oom_score_adj = Some(500);
        process.rlimits = vec![Rlimit {
            kind: "RLIMIT_NOFILE".to_owned(),
            hard: 300,
            soft: 200,
        }];
        let sets = process.capabilities.as_mut().unwrap();
        sets.bounding = words("CAP_CHOWN CAP_KILL CAP_SYS_RESOURCE");
        sets.permitted = words("CAP_CHOWN CAP_KILL");
        sets.effective = words("CAP_CHOWN");
        sets.inheritable = words("CAP_KILL");
        sets.ambient = words("CAP_KILL");
    });
    assert_eq!(seen[..4], ["1234", "567", "567 8 9", "0027"]);
    let status = |name: &str| {
        let line = seen.iter().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap()
    };
    let kill = 1 << 5;
    assert_eq!(status("CapInh"), kill);
    assert_eq!(
        (status("CapPrm"), status("CapEff"), status("CapAmb")),
        (kill, kill, kill)
    );
    // What this machine lacks is left out.
    let own = dhow_sys::capability::bounding();
    let resource = dhow_sys::capability::Set::named("CAP_SYS_RESOURCE").unwrap();
    let expected = if own.within(resource).is_empty() {
        0x21
    } else {
        0x21 | 1 << 24
    };
    assert_eq!(status("CapBnd"), expected);
    assert_eq!((status("NoNewPrivs"), status("Seccomp")), (1, 2));
    assert_eq!(seen[seen.len() - 4..], ["200", "/", "/made/for/it", "500"]);
}

#[test]
fn filters_answer_as_dockers_do() {
    let script = "mount -t tmpfs none /tmp 2>&1; hostname other 2>&1; mknod /tmp/x p && echo made; \
        unshare -U true 2>&1; true";
    let seen = lines("filter", script, |bundle| {
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/unshare")).unwrap();
        // The filter alone stands in the way.
        let sets = bundle.process().capabilities.as_mut().unwrap();
        for set in [&mut sets.bounding, &mut sets.permitted, &mut sets.effective] {
            set.push("CAP_SYS_ADMIN".to_owned());
        }
    });
    assert!(seen[0].contains("permission denied"), "{seen:?}");
    assert!(seen[1].contains("Operation not permitted"), "{seen:?}");
    assert_eq!(seen[2], "made");
    assert!(seen[3].contains("Operation not permitted"), "{seen:?}");
}

#[test]
fn masked_paths_are_empty_and_read_only_ones_are() {
    let script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; \
        echo 1 > /proc/sys/net/ipv4/ip_forward 2>/dev/null || echo refused; \
        echo x > /sys/x 2>/dev/null || echo refused; \
        stat -c %t:%T /proc/timer_list";
    let seen = lines("masks", script, |_| {});
    assert_eq!(seen, ["0", "0", "refused", "refused", "1:3"]);
}

#[test]
fn devices_and_links_are_there() {
    let script = "for d in null zero full random urandom tty; do stat -c '%n %F %a %t:%T' /dev/$d; done; \
        for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; \
        stat -c '%F %a %t:%T %u:%g' /dev/deep/own; echo x > /dev/null && echo fine; \
        head -c 4 /dev/zero | wc -c";
    let seen = lines("devices", script, |bundle| {
        bundle.linux().devices = vec![Device {
            kind: DeviceKind::Character,
            path: "/dev/deep/own".into(),
            major: 1,
            minor: 5,
            file_mode: Some(0o640),
            uid: Some(3),
            gid: Some(4),
        }];
    });
    let expected = [
        "/dev/null character special file 666 1:3",
        "/dev/zero character special file 666 1:5",
        "/dev/full character special file 666 1:7",
        "/dev/random character special file 666 1:8",
        "/dev/urandom character special file 666 1:9",
        "/dev/tty character special file 666 5:0",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
        "character special file 640 1:5 3:4",
        "fine",
        "4",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn device_rules_hold() {
    let script = "cat /dev/null && echo null; head -c 1 /dev/kmsg 2>&1; mknod /tmp/d b 7 0 && echo node; \
        cat /tmp/d 2>&1; true";
    let seen = lines("device-rules", script, |bundle| {
        bundle.linux().devices = vec![Device {
            kind: DeviceKind::Character,
            path: "/dev/kmsg".into(),
            major: 1,
            minor: 11,
            file_mode: None,
            uid: None,
            gid: None,
        }];
        let deny = DeviceRule {
            allow: false,
            kind: None,
            major: None,
            minor: None,
            access: None,
        };
        bundle.linux().resources = Some(Resources {
            devices: vec![deny],
            ..Resources::default()
        });
    });
    assert_eq!(seen[0], "null");
    assert!(seen[1].contains("Operation not permitted"), "{seen:?}");
    assert_eq!(seen[2], "node");
    assert!(seen[3].contains("Operation not permitted"), "{seen:?}");
}

#[test]
fn limits_are_in_the_control_groups() {
    // The same limits in the words of version 1 and of version 2.
    let version_1 = "memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us \
        cpu/cpu.cfs_period_us cpuset/cpuset.cpus pids/pids.max";
    let version_2 = "memory.max memory.swap.max cpu.weight cpu.max cpuset.cpus pids.max";
    let (files, expected) = if dhow_cgroup::Layout::detect().unwrap().is_pure_v2() {
        (
            version_2,
            ["67108864", "0", "59", "50000 100000", "0", "42"],
        )
    } else {
        (version_1, ["67108864", "512", "50000", "100000", "0", "42"])
    };
    let script = format!("cd /sys/fs/cgroup; cat {files}");
    let seen = lines("limits", &script, |bundle| {
        bundle.linux().resources = Some(Resources {
            memory: Some(Memory {
                limit: Some(64 << 20),
                swap: Some(64 << 20),
                ..Memory::default()
            }),
            cpu: Some(Cpu {
                shares: Some(512),
                quota: Some(50_000),
                period: Some(100_000),
                cpus: Some("0".to_owned()),
                ..Cpu::default()
            }),
            pids: Some(Pids { limit: 42 }),
            ..Resources::default()
        });
    });
    assert_eq!(seen, expected);
}

#[test]
fn binds_keep_their_options() {
    let script = "cat /file /dir/sub/file; touch /dir/x 2>/dev/null || echo refused; \
        touch /rw/x && echo written; grep -o ' /dir [^ ]*' /proc/self/mountinfo; \
        grep -c 'shared:\\|master:' /proc/self/mountinfo; cat /etc/resolv.conf";
    let seen = lines("binds", script, |bundle| {
        let host = bundle.path().join("host");
        std::fs::create_dir_all(host.join("sub")).unwrap();
        std::fs::create_dir_all(bundle.path().join("rw")).unwrap();
        std::fs::write(host.join("sub/file"), "below\n").unwrap();
        std::fs::write(bundle.path().join("file"), "file\n").unwrap();
        // A dangling link is made good inside.
        std::os::unix::fs::symlink("/run/there/stub", bundle.rootfs().join("etc/resolv.conf"))
            .unwrap();
        let file = bundle.path().join("file");
        bundle.spec.mounts.extend([
            bind(&file, "/file", "bind,ro"),
            bind(&host, "/dir", "rbind,ro,nosuid,nodev,noexec"),
            bind(&bundle.path().join("rw"), "/rw", "rbind"),
            bind(&file, "/etc/resolv.conf", "bind"),
        ]);
    });
    assert_eq!(seen[..4], ["file", "below", "refused", "written"]);
    assert_eq!(seen[4], " /dir ro,nosuid,nodev,noexec,relatime");
    assert_eq!(seen[5..], ["0", "file"]);
}

#[test]
fn the_root_can_be_read_only() {
    let seen = lines(
        "readonly",
        "touch /x 2>&1; touch /tmp/x && echo fine",
        |bundle| {
            bundle.spec.root.as_mut().unwrap().readonly = true;
            bundle.spec.mounts.push(Mount {
                destination: "/tmp".into(),
                kind: Some("tmpfs".to_owned()),
                source: Some("tmpfs".to_owned()),
                options: vec!["mode=1777".to_owned(), "tmpcopyup".to_owned()],
                ..Mount::default()
            });
        },
    );
    assert!(seen[0].contains("Read-only file system"), "{seen:?}");
    assert_eq!(seen[1], "fine");
}

#[test]
fn tmpfs_takes_over_what_it_should() {
    let script = "stat -c %a /plain /moded /absent; cat /copied/deep/file; stat -c %a:%u /copied";
    let seen = lines("tmpfs", script, |bundle| {
        use std::os::unix::fs::{PermissionsExt, chown};
        for (name, mode) in [("plain", 0o710), ("moded", 0o700), ("copied", 0o750)] {
            let path = bundle.rootfs().join(name);
            std::fs::create_dir_all(path.join("deep")).unwrap();
            std::fs::write(path.join("deep/file"), "copied\n").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        chown(bundle.rootfs().join("copied"), Some(7), Some(7)).unwrap();
        let mut tmpfs = |destination: &str, options: &str| {
            bundle.spec.mounts.push(Mount {
                destination: destination.into(),
                kind: Some("tmpfs".to_owned()),
                options: words(options),
                ..Mount::default()
            });
        };
        tmpfs("/plain", "nosuid");
        tmpfs("/moded", "mode=1755");
        tmpfs("/absent", "nosuid");
        tmpfs("/copied", "tmpcopyup");
    });
    assert_eq!(seen, ["710", "1755", "1777", "copied", "750:7"]);
}

#[test]
fn kernel_parameters_are_the_namespaces() {
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    let seen = lines("sysctl", script, |bundle| {
        let sysctl = &mut bundle.linux().sysctl;
        sysctl.insert(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "0".to_owned(),
        );
        sysctl.insert("kernel.msgmax".to_owned(), "4321".to_owned());
    });
    assert_eq!(seen, ["0", "4321"]);
}

#[test]
fn users_are_mapped() {
    let script = "id -u; cat /proc/self/uid_map; touch /tmp/x; stat -c %u /dev/null; echo x > /dev/null && echo fine; \
        hostname; chown 5 /tmp/x && echo owned";
    let mut bundle = Bundle::new("users", script);
    let mapping = IdMapping {
        container_id: 0,
        host_id: 100_000,
        size: 65_536,
    };
    let linux = bundle.linux();
    linux.namespaces.push(Namespace {
        kind: NamespaceKind::User,
        path: None,
    });
    linux.uid_mappings = vec![mapping];
    linux.gid_mappings = vec![mapping];
    std::os::unix::fs::chown(bundle.rootfs().join("tmp"), Some(100_000), Some(100_000)).unwrap();
    std::os::unix::fs::chown(bundle.rootfs(), Some(100_000), Some(100_000)).unwrap();
    let output = bundle.output();
    let seen: Vec<_> = output.lines().collect();
    assert_eq!(seen[0], "0");
    assert_eq!(words(seen[1]), ["0", "100000", "65536"]);
    assert_eq!(seen[3..], ["fine", "inside", "owned"]);
    let owner =
        std::os::unix::fs::MetadataExt::uid(&bundle.rootfs().join("tmp/x").metadata().unwrap());
    assert_eq!(owner, 100_005);
    bundle.audit();
}

#[test]
fn namespaces_are_joined_by_path() {
    use dhow_sys::namespace::{Kind, pin_new, unpin};
    let pins = tempfile::tempdir().unwrap();
    let path = |name: &str| pins.path().join(name);
    let pinned = [Kind::Network, Kind::Ipc, Kind::Uts];
    let paths: Vec<_> = pinned.iter().map(|kind| path(kind.name())).collect();
    let list: Vec<_> = pinned
        .iter()
        .copied()
        .zip(paths.iter().map(std::path::PathBuf::as_path))
        .collect();
    pin_new(&list).unwrap();
    let inode =
        |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let script = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done";
    for round in ["first", "second"] {
        let seen = lines(&format!("joined-{round}"), script, |bundle| {
            for namespace in &mut bundle.linux().namespaces {
                namespace.path = match namespace.kind {
                    NamespaceKind::Network => Some(path("net")),
                    NamespaceKind::Ipc => Some(path("ipc")),
                    NamespaceKind::Uts => Some(path("uts")),
                    _ => None,
                };
            }
        });
        for ((kind, seen), path) in pinned.iter().zip(&seen).zip(&paths) {
            assert_eq!(*seen, format!("{}:[{}]", kind.name(), inode(path)));
        }
    }
    paths.iter().for_each(|path| unpin(path).unwrap());
}

/// Directories for an overlay, beside the bundle's root.
fn layer(bundle: &Bundle, name: &str) -> std::path::PathBuf {
    let path = bundle.path().join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Runs the bundle on an overlay to its end; its code as a shell has it.
fn run_on(bundle: &mut Bundle, root: &RootSource) -> i32 {
    bundle.spec.root = None;
    bundle.write();
    let runtime = bundle.runtime();
    let mut created = runtime
        .create(Create {
            id: &bundle.id,
            bundle: &dhow_runtime::Bundle::open(bundle.path()).unwrap(),
            root,
            streams: Streams::inherited(),
            n_preserved: 0,
            pivot: Pivot::Change,
            gate: Gate::Anyone,
            keyring: Keyring::New,
            groups: Groups::Files,
        })
        .unwrap();
    created.start().unwrap();
    let code = created.process.wait().unwrap().shell_code();
    created.container.delete(Alive::Refuse).unwrap();
    code
}

#[test]
fn an_overlay_is_nowhere_but_inside() {
    let mut bundle = Bundle::new("overlay", "echo new > /etc/new; rm /etc/passwd; exit 4");
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/rm")).unwrap();
    // Colons and commas are no separators here.
    let top = layer(&bundle, "top:layer,x");
    std::fs::create_dir(top.join("etc")).unwrap();
    // More than one parameter of a mount holds.
    let mut lower: Vec<_> = (0..60)
        .map(|number| layer(&bundle, &format!("layer-{number}")))
        .collect();
    lower.insert(0, top);
    lower.push(bundle.rootfs());
    let root = RootSource::Overlay {
        lower,
        upper: layer(&bundle, "upper"),
        work: layer(&bundle, "work"),
        mapped: false,
    };
    assert_eq!(run_on(&mut bundle, &root), 4);
    assert_eq!(
        std::fs::read_to_string(bundle.path().join("upper/etc/new")).unwrap(),
        "new\n"
    );
    assert!(bundle.rootfs().join("etc/passwd").exists());
    bundle.audit();
}

/// Nobody on disk is given to anybody else, whether the user namespace is new or
/// there already, and nobody but root may enter what the layers lie in.
#[test]
fn mounts_map_identities_of_layers() {
    use dhow_sys::holder::{Holder, Owner};
    use dhow_sys::idmap::{IdMaps, Range};
    use dhow_sys::namespace::{Kind, pin_open, unpin};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let script = "set -e; [ $(stat -c %u:%g /etc/passwd) = 0:0 ]; [ $(stat -c %u:%g /etc/own) = 5:6 ]; \
        echo more >> /etc/own; echo new > /etc/new; chown 7:8 /etc/new; rm /etc/passwd; \
        ! mknod /etc/null c 1 3; cat /part/deep; ! touch /part/new; exit 4";
    let maps = {
        let range = vec![Range {
            inside: 0,
            outside: 100_000,
            count: 1000,
        }];
        IdMaps {
            users: range.clone(),
            groups: range,
        }
    };
    for joined in [false, true] {
        let mut bundle = Bundle::new("mapped", script);
        for program in ["rm", "mknod", "touch"] {
            let link = bundle.rootfs().join("bin").join(program);
            let _ = std::os::unix::fs::symlink("busybox", link);
        }
        std::fs::write(bundle.rootfs().join("etc/own"), "text\n").unwrap();
        chown(bundle.rootfs().join("etc/own"), Some(5), Some(6)).unwrap();
        let (shown, empty) = (layer(&bundle, "shown:x"), layer(&bundle, "empty"));
        std::fs::create_dir_all(shown.join("part")).unwrap();
        std::fs::write(shown.join("part/deep"), "").unwrap();
        let root = RootSource::Overlay {
            lower: vec![bundle.rootfs()],
            upper: layer(&bundle, "upper"),
            work: layer(&bundle, "work"),
            mapped: true,
        };
        let escaped = shown.display().to_string().replace(':', "\\:");
        bundle.spec.mounts.push(Mount {
            destination: "/part".into(),
            kind: Some("overlay".into()),
            source: Some("overlay".into()),
            options: vec![
                format!("lowerdir={escaped}:{}", empty.display()),
                "X-mount.subdir=part".into(),
                "idmap".into(),
            ],
            ..Mount::default()
        });
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(bundle.path(), closed).unwrap();
        let pin = bundle.path().join("user");
        let path = joined.then(|| {
            let holder = Holder::start(Owner::New(&maps), &[]).unwrap();
            pin_open(holder.open(Kind::User).unwrap().as_fd(), &pin).unwrap();
            pin.clone()
        });
        if !joined {
            let mapping = IdMapping {
                container_id: 0,
                host_id: 100_000,
                size: 1000,
            };
            bundle.linux().uid_mappings = vec![mapping];
            bundle.linux().gid_mappings = vec![mapping];
        }
        bundle.linux().namespaces.push(Namespace {
            kind: NamespaceKind::User,
            path,
        });
        let code = run_on(&mut bundle, &root);
        unpin(&pin).unwrap();
        assert_eq!(code, 4, "joined: {joined}");
        let owner = |name: &str| {
            let stat = std::fs::metadata(bundle.path().join("upper/etc").join(name)).unwrap();
            (stat.uid(), stat.gid())
        };
        assert_eq!((owner("own"), owner("new")), ((5, 6), (7, 8)));
        bundle.audit();
    }
}
