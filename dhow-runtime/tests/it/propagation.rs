//! Propagation of mounts between the host and a container, both ways.

use crate::bundle::{Bundle, EXECUTABLE};

#[test]
fn the_root_has_every_propagation() {
    // How the mount of the root, and one below it, are in a mount namespace whose
    // mounts are shared with others.
    for (name, root, below) in [
        ("", "", ""),
        ("shared", "shared master", "master"),
        ("rshared", "shared master", "shared master"),
        ("slave", "master", "master"),
        ("rslave", "master", "master"),
        ("private", "", ""),
        ("rprivate", "", ""),
        ("unbindable", "unbindable", ""),
        ("runbindable", "unbindable", "unbindable"),
    ] {
        let script = "for at in / /tmp; do \
            grep -E \"^[0-9]+ [0-9]+ [^ ]+ [^ ]+ $at \" /proc/self/mountinfo; done";
        let mut bundle = Bundle::new("propagation", script);
        bundle.linux().rootfs_propagation = name.to_owned();
        bundle.write();
        let output = bundle
            .shared("mount -t tmpfs none $1/rootfs/tmp")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        let lines = String::from_utf8(output.stdout).unwrap();
        let kinds = |line: &str| {
            let optional = line.split(' ').skip(6).take_while(|field| *field != "-");
            let kinds = optional.map(|field| field.split(':').next().unwrap());
            kinds.collect::<Vec<_>>().join(" ")
        };
        let seen: Vec<String> = lines.lines().map(kinds).collect();
        assert_eq!(seen, [root, below], "{name}: {lines}");
        bundle.audit();
    }
}

/// A bind mount of a tree of the host's with a mount in it: what of the host's later
/// mounts comes in, at the top and below, and what of the container's goes out.
#[test]
fn binds_take_and_give_what_is_asked_for() {
    // The host of the test is a mount namespace of its own, where all is shared.
    let script = "cd $1 && mkdir -p tree/before tree/after tree/inside && mount --bind $1 $1 && \
        mount --make-rshared / && mount -t tmpfs none $1/tree/before && \
        mkdir $1/tree/before/after $1/tree/before/inside || exit 1; \
        $2 --root $1/state run --detach --bundle $1 $3 </dev/null >/dev/null || exit 1; \
        mount -t tmpfs none $1/tree/after; mount -t tmpfs none $1/tree/before/after; \
        $2 --root $1/state exec --cap CAP_SYS_ADMIN $3 sh -c ' \
            grep -c \" /tree/before \" /proc/self/mountinfo; \
            grep -c \" /tree/after \" /proc/self/mountinfo; \
            grep -c \" /tree/before/after \" /proc/self/mountinfo; \
            mount -t tmpfs none /tree/inside && mount -t tmpfs none /tree/before/inside'; \
        grep -c \" $1/tree/inside \" /proc/self/mountinfo; \
        grep -c \" $1/tree/before/inside \" /proc/self/mountinfo; \
        $2 --root $1/state delete --force $3";
    for (options, expected) in [
        // What was there; what comes in, at the top and below; what goes out.
        ("rbind", [1, 0, 0, 0, 0]),
        ("rbind,rprivate", [1, 0, 0, 0, 0]),
        ("rbind,private", [1, 0, 1, 0, 0]),
        ("rbind,slave", [1, 1, 1, 0, 0]),
        ("rbind,rslave", [1, 1, 1, 0, 0]),
        ("rbind,shared", [1, 1, 1, 1, 1]),
        ("rbind,rshared", [1, 1, 1, 1, 1]),
        ("bind,rslave", [0, 1, 0, 0, 0]),
    ] {
        let mut bundle = Bundle::new("propagation-bind", "exec sleep 1000");
        bundle.linux().seccomp = None;
        let tree = bundle.path().join("tree");
        bundle.spec.mounts.push(dhow_runtime::spec::Mount {
            destination: "/tree".into(),
            kind: Some("bind".to_owned()),
            source: Some(tree.to_str().unwrap().to_owned()),
            options: options.split(',').map(str::to_owned).collect(),
            ..dhow_runtime::spec::Mount::default()
        });
        bundle.write();
        let output = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(bundle.path())
            .args([EXECUTABLE, &bundle.id])
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        let seen: Vec<u32> = out.lines().map(|line| line.parse().unwrap()).collect();
        let errors = String::from_utf8_lossy(&output.stderr);
        // Below a mount that did not come along there is nothing to mount on.
        assert_eq!(seen, expected, "{options}: {errors}");
        bundle.audit();
    }
}
