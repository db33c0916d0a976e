//! Without a registry: import, names, removal, root filesystems, commit, diff,
//! save and load.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use dhow_image::archive::open_in;
use dhow_image::tar::{Archive, ReadLimits};
use dhow_image::{
    ChangeKind, CollectPolicy, Commit, Error, Images, ProgressSender, PruneScope, Removal, Removed,
    Step, User,
};
use dhow_oci::{Compression, ContainerConfig, Digest};
use rustix::fs::{Mode, OFlags};

use crate::support::{Machine, Tar, base, gzip, name, options};

fn nobody(_: &Digest) -> Vec<User> {
    Vec::new()
}

/// Writes a file into a root filesystem as a container would.
fn write(machine: &Machine, container: &str, path: &str, data: &[u8]) {
    let root = machine.images.open_rootfs(container).unwrap();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = rustix::fs::openat(&root, path, flags, Mode::from_raw_mode(0o640)).unwrap();
    std::io::Write::write_all(&mut File::from(file), data).unwrap();
}

fn read(root: &impl std::os::fd::AsFd, path: &str) -> String {
    let file = open_in(root, path.as_bytes(), OFlags::RDONLY).unwrap();
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_imported_image_survives_a_restart() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let machine = Machine::new();
        let tar = match compression {
            Compression::None => base(),
            Compression::Gzip => gzip(&base()),
            Compression::Zstd => zstd::encode_all(&base()[..], 1).unwrap(),
        };
        let image = machine.import(&tar, "base");
        assert_eq!(image.size(), 6 + 22 + 10 + 100_000);
        let machine = machine.restart();
        assert_eq!(machine.images.resolve("base").unwrap(), image);
        assert_eq!(machine.images.list().len(), 1);
        let root = machine.images.open_image(&image).unwrap();
        assert_eq!(read(&root, "etc/motd"), "hello\n");
        assert_eq!(read(&root, "/sbin/alias"), "#!/bin/sh\n");
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let written = rustix::fs::openat(&root, "x", flags, Mode::RWXU);
        assert_eq!(written.unwrap_err(), rustix::io::Errno::ROFS);
        machine.audit();
    }
}

#[test]
fn images_are_found_as_docker_finds_them() {
    let machine = Machine::new();
    let image = machine.import(&base(), "base:1");
    machine.import(&Tar::new().file("x", b"").finish(), "other");
    let resolve = |text: &str| machine.images.resolve(text);
    let hex = image.id.hex();
    for text in [
        "base:1",
        "docker.io/library/base:1",
        image.id.as_str(),
        hex,
        &hex[..10],
    ] {
        assert_eq!(resolve(text).unwrap().id, image.id, "{text}");
    }
    assert_eq!(
        resolve(&format!("sha256:{}", &hex[..10])).unwrap().id,
        image.id
    );
    assert_eq!(
        resolve(image.manifest.digest.as_str()).unwrap().id,
        image.id
    );
    assert_eq!(
        resolve("base").unwrap_err().to_string(),
        "No such image: base:latest"
    );
    assert!(matches!(resolve("Base"), Err(Error::Reference(_))));
    // Some digit is shared by two of seventeen images.
    for n in 0..16 {
        machine.import(
            &Tar::new().file(&format!("f{n}"), b"").finish(),
            &format!("i{n}"),
        );
    }
    let ambiguous = "0123456789abcdef"
        .chars()
        .any(|digit| matches!(resolve(&digit.to_string()), Err(Error::Ambiguous { .. })));
    assert!(ambiguous);
}

#[test]
fn a_name_moves_and_the_image_stays() {
    let machine = Machine::new();
    let first = machine.import(&base(), "app");
    let second = machine.import(&Tar::new().file("x", b"").finish(), "app");
    assert_eq!(machine.images.resolve("app").unwrap().id, second.id);
    assert!(machine.images.names(&first.id).tags.is_empty());
    machine.images.tag(&first.id, &name("old:1")).unwrap();
    let machine = machine.restart();
    assert_eq!(machine.images.resolve("old:1").unwrap().id, first.id);
    let pinned = name("old").with_digest(first.id.clone());
    assert!(machine.images.tag(&first.id, &pinned).is_err());
}

#[test]
fn removal_follows_dockers_rules() {
    let machine = Machine::new();
    let images = &machine.images;
    let image = machine.import(&base(), "a");
    images.tag(&image.id, &name("b")).unwrap();
    let stopped = |_: &Digest| {
        vec![User {
            container: "c".repeat(64),
            running: false,
        }]
    };
    let running = |_: &Digest| {
        vec![User {
            container: "c".repeat(64),
            running: true,
        }]
    };

    let error = images
        .remove(image.id.short(), Removal::Careful, &nobody)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple \
             repositories",
            image.id.short()
        )
    );
    // One name of two: nobody is harmed.
    let removed = images.remove("b", Removal::Careful, &stopped).unwrap();
    assert_eq!(removed, [Removed::Untagged(name("b"))]);

    let error = images.remove("a", Removal::Careful, &stopped).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to remove repository reference \"a:latest\" (must force) - container \
             cccccccccccc is using its referenced image {}",
            image.id.short()
        )
    );
    let error = images
        .remove(image.id.as_str(), Removal::Forced, &running)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("(cannot be forced) - image is being used by running")
    );
    // By force the name goes, the image stays for its container.
    let removed = images.remove("a", Removal::Forced, &running).unwrap();
    assert_eq!(removed, [Removed::Untagged(name("a"))]);
    assert!(images.get(&image.id).is_some());

    let removed = images
        .remove(image.id.short(), Removal::Careful, &nobody)
        .unwrap();
    // Docker names the layers that go, too.
    let layer = Removed::Layer(image.layers[0].chain_id.clone());
    assert_eq!(removed, [Removed::Deleted(image.id.clone()), layer]);
    assert_eq!((machine.n_blobs(), machine.n_snapshots()), (0, 0));
    assert!(matches!(
        images.remove("a", Removal::Careful, &nobody),
        Err(Error::NoSuchImage(_))
    ));
    machine.audit();
}

#[test]
fn pruning_takes_what_nobody_names_or_uses() {
    let machine = Machine::new();
    let first = machine.import(&base(), "app");
    let second = machine.import(&Tar::new().file("x", b"abc").finish(), "app");
    let images = &machine.images;
    let used = |id: &Digest| {
        let user = User {
            container: "c".into(),
            running: false,
        };
        if *id == first.id { vec![user] } else { vec![] }
    };
    assert!(
        images
            .prune(PruneScope::Dangling, &|_| true, &used)
            .unwrap()
            .removed
            .is_empty()
    );
    let pruned = images
        .prune(PruneScope::Dangling, &|_| true, &nobody)
        .unwrap();
    let layer = Removed::Layer(first.layers[0].chain_id.clone());
    assert_eq!(pruned.removed, [Removed::Deleted(first.id.clone()), layer]);
    assert!(pruned.reclaimed > 100_000);
    let pruned = images
        .prune(PruneScope::Unused, &|_| true, &nobody)
        .unwrap();
    let gone = [
        Removed::Untagged(name("app")),
        Removed::Deleted(second.id.clone()),
        Removed::Layer(second.layers[0].chain_id.clone()),
    ];
    assert_eq!(pruned.removed, gone);
    assert_eq!(machine.n_blobs(), 0);
}

#[test]
fn what_was_not_used_for_long_is_collected() {
    /// The tests' clock, in seconds since the epoch.
    static CLOCK: AtomicU64 = AtomicU64::new(1_000_000);
    let at = |seconds| CLOCK.store(seconds, Ordering::Relaxed);
    let directory = tempfile::tempdir().unwrap();
    let opened = || {
        let mut options = options(directory.path());
        options.now = || UNIX_EPOCH + Duration::from_secs(CLOCK.load(Ordering::Relaxed));
        Machine {
            images: Images::open(options).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    };
    let policy = CollectPolicy {
        min_age: Duration::from_secs(100),
        max_age: Some(Duration::from_secs(1000)),
        pressure: None,
    };
    let machine = opened();
    let idle = machine.import(&base(), "idle");
    let used = machine.import(&Tar::new().file("x", b"abc").finish(), "used");
    at(1_000_900);
    // Somebody runs a container of one of them, and removes it.
    machine.images.prepare(&used, "c").unwrap();
    machine.images.release("c").unwrap();
    let collected = machine.images.collect(&policy, &nobody).unwrap();
    assert_eq!(collected.removed, []);
    drop(machine);
    // That it was used is known after a restart.
    let machine = opened();
    at(1_001_500);
    let collected = machine.images.collect(&policy, &nobody).unwrap();
    assert!(
        collected
            .removed
            .contains(&Removed::Deleted(idle.id.clone()))
    );
    assert!(machine.images.get(&used.id).is_some());
    // Whoever uses it keeps it, however old it is.
    at(1_009_000);
    let busy = |_: &Digest| {
        vec![User {
            container: "c".into(),
            running: false,
        }]
    };
    let collected = machine.images.collect(&policy, &busy).unwrap();
    assert_eq!(collected.removed, []);
    let collected = machine.images.collect(&policy, &nobody).unwrap();
    assert!(
        collected
            .removed
            .contains(&Removed::Deleted(used.id.clone()))
    );
    assert!(machine.images.list().is_empty());
    drop(machine);
    crate::support::audit(directory.path());
}

#[test]
fn a_root_filesystem_is_written_compared_and_committed() {
    let machine = Machine::new();
    let image = machine.import(&base(), "base");
    let rootfs = machine.images.prepare(&image, "c1").unwrap();
    assert_eq!(rootfs.lower.len(), 1);
    assert!(matches!(
        machine.images.prepare(&image, "c1"),
        Err(Error::RootfsExists(_))
    ));
    assert!(machine.images.prepare(&image, "../c1").is_err());

    write(&machine, "c1", "etc/motd", b"changed");
    write(&machine, "c1", "etc/new", b"new");
    let root = machine.images.open_rootfs("c1").unwrap();
    rustix::fs::unlinkat(&root, "bin/tool", rustix::fs::AtFlags::empty()).unwrap();
    rustix::fs::unlinkat(&root, "var/lib/data", rustix::fs::AtFlags::empty()).unwrap();
    rustix::fs::unlinkat(&root, "var/lib", rustix::fs::AtFlags::REMOVEDIR).unwrap();
    rustix::fs::mkdirat(&root, "var/lib", Mode::from_raw_mode(0o755)).unwrap();
    rustix::fs::mkdirat(&root, "srv", Mode::from_raw_mode(0o755)).unwrap();
    drop(root);

    let machine = machine.restart();
    assert_eq!(machine.images.rootfs("c1").unwrap(), rootfs);
    assert_eq!(machine.images.rootfs_names().unwrap(), ["c1"]);
    let changes: Vec<(String, ChangeKind)> = machine
        .images
        .changes("c1")
        .unwrap()
        .into_iter()
        .map(|change| (change.path.to_str().unwrap().to_owned(), change.kind))
        .collect();
    use ChangeKind::{Added, Deleted, Modified};
    let expected = [
        ("/bin", Modified),
        ("/bin/tool", Deleted),
        ("/etc", Modified),
        ("/etc/motd", Modified),
        ("/etc/new", Added),
        ("/srv", Added),
        ("/var", Modified),
        ("/var/lib", Modified),
        ("/var/lib/data", Deleted),
    ];
    let expected: Vec<_> = expected.map(|(path, kind)| (path.to_owned(), kind)).into();
    assert_eq!(changes, expected);
    assert_eq!(machine.images.written("c1").unwrap(), 10);

    let mut exported = Vec::new();
    machine.images.export("c1", &mut exported).unwrap();
    let paths = paths(&exported);
    assert!(paths.contains(&"etc/new".to_owned()) && paths.contains(&"bin/alias".to_owned()));
    assert!(!paths.contains(&"var/lib/data".to_owned()), "{paths:?}");

    let commit = Commit {
        config: ContainerConfig {
            cmd: Some(vec!["sh".into()]),
            ..ContainerConfig::default()
        },
        author: "me".into(),
        comment: "why".into(),
        name: Some(name("committed")),
        ..Commit::default()
    };
    let committed = machine.images.commit(&image, "c1", commit).unwrap();
    assert_eq!(committed.layers.len(), 2);
    let history = machine.images.history(&committed);
    assert_eq!(
        (history.len(), history[0].comment.as_str(), history[0].size),
        (2, "why", 10)
    );
    machine.images.release("c1").unwrap();
    machine.images.release("c1").unwrap();
    assert!(matches!(
        machine.images.rootfs("c1"),
        Err(Error::NoSuchRootfs(_))
    ));

    // The layer says by whiteouts what is gone.
    let root = machine.images.open_image(&committed).unwrap();
    assert_eq!(read(&root, "etc/motd"), "changed");
    assert!(open_in(&root, b"bin/tool", OFlags::PATH).is_err());
    assert!(open_in(&root, b"var/lib", OFlags::PATH).is_ok());
    assert!(open_in(&root, b"var/lib/data", OFlags::PATH).is_err());
    machine.audit();
}

#[test]
fn a_build_step_becomes_a_layer_without_a_second_copy() {
    let machine = Machine::new();
    let images = &machine.images;
    let image = machine.import(&base(), "base");
    images.prepare_on(&image.layers, "step").unwrap();
    assert_eq!(images.commit_layer(&image.layers, "step").unwrap(), None);
    let rootfs = images.prepare_on(&image.layers, "step").unwrap();
    write(&machine, "step", "made", b"by a step");
    let inode = std::fs::metadata(rootfs.upper.join("made")).unwrap().ino();
    let layer = images.commit_layer(&image.layers, "step").unwrap().unwrap();
    assert!(images.rootfs_names().unwrap().is_empty());
    let snapshot = machine
        .root()
        .join("snapshots")
        .join(layer.chain_id.hex())
        .join("fs/made");
    assert_eq!(std::fs::metadata(snapshot).unwrap().ino(), inode);

    // Fresh layers survive a sweep; a remembered one survives a restart.
    images.sweep().unwrap();
    let key = Digest::of(b"key");
    let step = Step {
        layer: Some(layer.clone()),
        note: "n".into(),
        created: 1,
        used: 1,
    };
    images
        .remember_steps(&[(key.clone(), step.clone())])
        .unwrap();
    let machine = machine.restart();
    machine.images.sweep().unwrap();
    assert_eq!(machine.images.step(&key).unwrap(), step);
    assert_eq!(machine.n_snapshots(), 2);
    assert_eq!(machine.images.disk_usage().build_cache, 9);
    // The same files make the same layer.
    machine.images.prepare_on(&image.layers, "again").unwrap();
    let mut layers = image.layers.clone();
    layers.push(layer);
    let mut config = image.config.clone();
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let built = machine
        .images
        .create(&config, &layers, Some(&name("built")))
        .unwrap();
    assert_eq!(
        read(&machine.images.open_image(&built).unwrap(), "made"),
        "by a step"
    );
    machine.images.prune_steps(&|_, _| true).unwrap();
    assert_eq!(machine.n_snapshots(), 2);
    // Used by a root filesystem, a snapshot outlives its images.
    machine
        .images
        .remove("built", Removal::Careful, &nobody)
        .unwrap();
    machine
        .images
        .remove("base", Removal::Careful, &nobody)
        .unwrap();
    assert_eq!(machine.n_snapshots(), 1);
    machine.images.release("again").unwrap();
    machine.images.sweep().unwrap();
    assert_eq!((machine.n_snapshots(), machine.n_blobs()), (0, 0));
    machine.audit();
}

#[test]
fn saved_images_are_loaded_elsewhere() {
    let machine = Machine::new();
    let image = machine.import(&gzip(&base()), "app:1");
    machine.images.tag(&image.id, &name("app:2")).unwrap();
    let other = machine.import(&Tar::new().file("x", b"").finish(), "other");
    let mut archive = Vec::new();
    machine
        .images
        .save(&["app".into(), other.id.short().into()], &mut archive)
        .unwrap();
    assert!(
        machine
            .images
            .save(&["nothing".into()], &mut Vec::new())
            .is_err()
    );

    for archive in [archive.clone(), gzip(&archive)] {
        let elsewhere = Machine::new();
        let loaded = elsewhere
            .images
            .load(&mut &archive[..], &ProgressSender::silent())
            .unwrap();
        let mut names: Vec<String> = loaded
            .iter()
            .flat_map(|loaded| &loaded.names)
            .map(dhow_oci::Reference::familiar)
            .collect();
        names.sort();
        assert_eq!(
            (loaded.len(), names),
            (2, vec!["app:1".into(), "app:2".into()])
        );
        let again = elsewhere.images.resolve("app:2").unwrap();
        // The very same: configuration, manifest and compressed layers.
        assert_eq!((&again.id, &again.manifest), (&image.id, &image.manifest));
        assert_eq!(
            read(&elsewhere.images.open_image(&again).unwrap(), "etc/motd"),
            "hello\n"
        );
        elsewhere.audit();
    }
    machine.audit();
}

#[test]
fn a_lost_snapshot_is_unpacked_again() {
    let machine = Machine::new();
    let image = machine.import(&base(), "base");
    let snapshots = machine.root().join("snapshots");
    std::fs::remove_dir_all(snapshots.join(image.layers[0].chain_id.hex())).unwrap();
    let machine = machine.restart();
    machine.images.prepare(&image, "c").unwrap();
    assert_eq!(
        read(&machine.images.open_rootfs("c").unwrap(), "etc/motd"),
        "hello\n"
    );
    machine.audit();
}

#[test]
fn whiteouts_become_overlays() {
    let machine = Machine::new();
    let tar = Tar::new()
        .file("etc/.wh.motd", b"")
        .directory("var")
        .file("var/.wh..wh..opq", b"")
        .file(".wh.sbin", b"")
        .file(".wh..wh.plnk", b"")
        .finish();
    let image = machine.import(&tar, "w");
    let files = machine
        .root()
        .join("snapshots")
        .join(image.layers[0].chain_id.hex())
        .join("fs");
    for path in ["etc/motd", "sbin"] {
        let metadata = std::fs::symlink_metadata(files.join(path)).unwrap();
        assert!(
            metadata.file_type().is_char_device() && metadata.rdev() == 0,
            "{path}"
        );
    }
    let mut value = [0; 2];
    let opaque = rustix::fs::getxattr(files.join("var"), "trusted.overlay.opaque", &mut value[..]);
    assert_eq!((opaque, value[0]), (Ok(1), b'y'));
    assert!(!files.join(".wh.plnk").exists());
}

fn paths(tar: &[u8]) -> Vec<String> {
    let mut archive = Archive::new(
        tar,
        ReadLimits {
            bytes: 1 << 30,
            entries: 1000,
        },
    );
    let mut paths = Vec::new();
    while let Some(entry) = archive.next_entry().unwrap() {
        paths.push(String::from_utf8(entry.path).unwrap());
    }
    paths
}
