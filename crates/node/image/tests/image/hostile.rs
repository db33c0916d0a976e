//! Archives that want out.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dhow_image::archive::{Devices, Ownership, Replace, UnpackOptions, Whiteouts, unpack};
use dhow_image::tar::{Archive, Entry, Kind, ReadLimits};
use dhow_image::{Error, Import, ProgressSender};
use proptest::prelude::*;

use crate::support::{Machine, Tar, gzip};

const OPTIONS: UnpackOptions = UnpackOptions {
    whiteouts: Whiteouts::Overlay,
    ownership: Ownership::Recorded,
    devices: Devices::Refuse,
    replace: Replace::Anything,
};

/// Unpacks into a directory that has a neighbour, and checks that the
/// neighbour stays as it was.
fn attempt(tar: &[u8]) -> (tempfile::TempDir, std::io::Result<()>) {
    attempt_at(|_| tar.to_owned())
}

/// The same of an archive that knows where it is unpacked: in `root` below the
/// path it is given, beside `neighbour`.
fn attempt_at(tar: impl FnOnce(&str) -> Vec<u8>) -> (tempfile::TempDir, std::io::Result<()>) {
    let directory = tempfile::tempdir().unwrap();
    let tar = tar(directory.path().to_str().unwrap());
    fs::create_dir(directory.path().join("root")).unwrap();
    fs::create_dir(directory.path().join("neighbour")).unwrap();
    fs::write(directory.path().join("neighbour/secret"), "untouched").unwrap();
    let before = look(directory.path());
    let root = fs::File::open(directory.path().join("root")).unwrap();
    let mut archive = Archive::new(
        &tar[..],
        ReadLimits {
            bytes: 1 << 20,
            entries: 100,
        },
    );
    let outcome = unpack(&mut archive, &root, OPTIONS).map(drop);
    assert_eq!(look(directory.path()), before);
    (directory, outcome)
}

fn look(directory: &Path) -> (Vec<String>, String, u32, u64) {
    let secret = directory.join("neighbour/secret");
    let metadata = fs::metadata(&secret).unwrap();
    (
        [
            crate::support::names_in(directory),
            crate::support::names_in(&directory.join("neighbour")),
        ]
        .concat(),
        fs::read_to_string(&secret).unwrap(),
        metadata.mode(),
        metadata.nlink(),
    )
}

#[test]
fn dots_do_not_lead_out() {
    for path in ["../evil", "a/../../evil", "../neighbour/secret", ".."] {
        let (_directory, outcome) = attempt(&Tar::new().file(path, b"evil").finish());
        assert!(outcome.is_err(), "{path}");
    }
}

#[test]
fn absolute_paths_stay_inside() {
    let (directory, outcome) = attempt(&Tar::new().file("/etc/evil", b"evil").finish());
    outcome.unwrap();
    assert!(directory.path().join("root/etc/evil").exists());
}

#[test]
fn symbolic_links_do_not_lead_out() {
    for target in [
        "../neighbour",
        "/neighbour",
        "@/neighbour",
        "../../../../../../..@/neighbour",
        "/",
    ] {
        let (directory, outcome) = attempt_at(|at| {
            Tar::new()
                .link(Kind::Symlink, "out", &target.replace('@', at))
                .file("out/secret", b"evil")
                .finish()
        });
        // A link leads into the root, if anywhere.
        match outcome {
            Ok(()) => {
                let inside = files_below(&directory.path().join("root"));
                let is_secret = |path: &std::path::PathBuf| path.ends_with("secret");
                assert!(inside.iter().any(is_secret), "{target}");
            }
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("dangling symbolic link"),
                    "{target}: {error}"
                );
            }
        }
    }
    // A file over a link replaces the link, not what it points to.
    let tar = Tar::new()
        .link(Kind::Symlink, "f", "../neighbour/secret")
        .file("f", b"evil")
        .finish();
    let (directory, outcome) = attempt(&tar);
    outcome.unwrap();
    assert!(
        fs::symlink_metadata(directory.path().join("root/f"))
            .unwrap()
            .is_file()
    );
}

#[test]
fn attributes_are_not_set_through_links() {
    let mut entry = Entry::new(Kind::Directory, "d");
    entry.mode = 0o777;
    let tar = Tar::new()
        .link(Kind::Symlink, "d", "../neighbour")
        .entry(&entry, b"")
        .finish();
    let (directory, outcome) = attempt(&tar);
    outcome.unwrap();
    assert!(
        fs::symlink_metadata(directory.path().join("root/d"))
            .unwrap()
            .is_dir()
    );
}

#[test]
fn hard_links_do_not_lead_out() {
    for target in [
        "../neighbour/secret",
        "/neighbour/secret",
        "/etc/passwd",
        "out/secret",
    ] {
        let tar = Tar::new()
            .link(Kind::Symlink, "out", "../neighbour")
            .link(Kind::HardLink, "f", target)
            .file("f", b"evil")
            .finish();
        let (_directory, outcome) = attempt(&tar);
        assert!(outcome.is_err(), "{target}");
    }
}

#[test]
fn whiteouts_do_not_lead_out() {
    for path in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        let (_directory, outcome) = attempt(&Tar::new().file(path, b"").finish());
        assert!(outcome.is_err(), "{path}");
    }
}

#[test]
fn overlay_attributes_are_ours() {
    let mut entry = Entry::new(Kind::Directory, "d");
    entry.xattrs = vec![
        (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"user.mine".to_vec(), b"kept".to_vec()),
    ];
    let (directory, outcome) = attempt(&Tar::new().entry(&entry, b"").finish());
    outcome.unwrap();
    let made = directory.path().join("root/d");
    let mut value = [0; 16];
    for name in ["trusted.overlay.redirect", "trusted.overlay.opaque"] {
        let read = rustix::fs::getxattr(&made, name, &mut value[..]);
        assert_eq!(read, Err(rustix::io::Errno::NODATA), "{name}");
    }
    assert_eq!(
        rustix::fs::getxattr(&made, "user.mine", &mut value[..]),
        Ok(4)
    );
}

#[test]
fn devices_can_be_refused() {
    let mut entry = Entry::new(Kind::Block, "sda");
    entry.device = (8, 0);
    let (_directory, outcome) = attempt(&Tar::new().entry(&entry, b"").finish());
    assert!(outcome.is_err());
}

#[test]
fn set_id_bits_survive_the_change_of_owner() {
    let mut entry = Entry::new(Kind::File, "su");
    (entry.mode, entry.uid, entry.gid) = (0o4755, 12, 34);
    let (directory, outcome) = attempt(&Tar::new().entry(&entry, b"").finish());
    outcome.unwrap();
    let metadata = fs::metadata(directory.path().join("root/su")).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        (0o4755, 12, 34)
    );
}

#[test]
fn bombs_do_not_go_off() {
    let machine = Machine::new();
    // A gibibyte and a bit of zeros, in a megabyte.
    let mut entry = Entry::new(Kind::File, "zeros");
    entry.size = (1 << 30) + 1;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut writer = dhow_image::tar::Writer::new(&mut encoder);
    writer
        .append(&entry, &mut std::io::repeat(0).take(entry.size))
        .unwrap();
    writer.finish().unwrap();
    let bomb = encoder.finish().unwrap();
    let error = machine
        .images
        .import(&mut &bomb[..], Import::default())
        .unwrap_err();
    assert!(
        matches!(&error, Error::Archive(text) if text.contains("more than")),
        "{error}"
    );

    let mut many = Tar::new();
    for n in 0..10_001 {
        many = many.file(&format!("f{n}"), b"");
    }
    let many = gzip(&many.finish());
    let error = machine
        .images
        .import(&mut &many[..], Import::default())
        .unwrap_err();
    assert!(matches!(error, Error::Archive(_)), "{error}");
    machine.images.sweep().unwrap();
    assert_eq!((machine.n_blobs(), machine.n_snapshots()), (0, 0));
    machine.audit();
}

/// A zstd frame of literal bytes and then `n_zeros` zeros.
fn zstd_of(start: &[u8], n_zeros: u64) -> Vec<u8> {
    const BLOCK: u64 = 128 << 10;
    // Magic; neither size nor checksum; a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    let block = |kind: u32, size: u64, is_last: bool| {
        let header = u32::from(is_last) | kind << 1 | (size as u32) << 3;
        header.to_le_bytes()[..3].to_vec()
    };
    frame.extend(block(0, start.len() as u64, false));
    frame.extend(start);
    let mut left = n_zeros;
    while left > 0 {
        let size = left.min(BLOCK);
        left -= size;
        // One byte, repeated.
        frame.extend(block(1, size, left == 0));
        frame.push(0);
    }
    frame
}

/// A header as GNU tar writes it, with a map of one stretch for sparse files.
fn header(kind: char, name: &str, stored: u64, map: Option<(u64, u64)>) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |at: usize, text: String| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name.to_owned());
    put(100, "0000644\0".to_owned());
    put(108, "0000000\0".to_owned());
    put(116, "0000000\0".to_owned());
    put(124, format!("{stored:012o}"));
    put(136, "00000000000\0".to_owned());
    put(148, format!("        {kind}"));
    put(257, "ustar  \0".to_owned());
    if let Some((offset, size)) = map {
        put(386, format!("{offset:012o}{stored:012o}"));
        put(483, format!("{size:012o}"));
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A file with one stretch of data; without the end of the archive.
fn sparse(name: &str, size: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut tar = header('S', name, data.len() as u64, Some((offset, size)));
    tar.extend(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar
}

#[test]
fn ten_gigabytes_do_not_come_out_of_little() {
    let machine = Machine::new();
    let refused = |bomb: &[u8]| {
        let error = machine
            .images
            .import(&mut &bomb[..], Import::default())
            .unwrap_err();
        assert!(
            matches!(&error, Error::Archive(text) if text.contains("bytes allowed")),
            "{error}"
        );
    };
    let size: u64 = 10 << 30;
    // All of it said to be one file.
    let bomb = zstd_of(&header('0', "zeros", size, None), size);
    assert!(bomb.len() < 400_000);
    refused(&bomb);
    // Not even a header at the start: zeros all the way after an empty archive.
    refused(&zstd_of(&[0; 1024], size));
    // A file that is a hole.
    refused(&sparse("hole", size, 0, b""));
    machine.images.sweep().unwrap();
    assert_eq!((machine.n_blobs(), machine.n_snapshots()), (0, 0));
    machine.audit();
}

#[test]
fn memory_for_directories_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let root = fs::File::open(directory.path()).unwrap();
    // The same few directories again and again, under long names.
    let name = |n: usize| format!("{n}/{}", vec!["x".repeat(250); 15].join("/"));
    let mut tar = Tar::new();
    for n in 0..20_000 {
        tar = tar.directory(&name(n % 4));
    }
    let tar = tar.finish();
    let limits = ReadLimits {
        bytes: 1 << 30,
        entries: 10_000_000,
    };
    let error = unpack(&mut Archive::new(&tar[..], limits), &root, OPTIONS).unwrap_err();
    assert!(
        error.to_string().contains("too many directories"),
        "{error}"
    );
}

#[test]
fn capabilities_and_holes_are_kept() {
    let mut program = Entry::new(Kind::File, "ping");
    (program.mode, program.uid, program.size) = (0o755, 1000, 4);
    // Version 2, cap_net_raw, effective.
    let mut capability = vec![1, 0, 0, 2];
    capability.extend([0x00, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    program.xattrs = vec![(b"security.capability".to_vec(), capability.clone())];
    let mut tar = sparse("hole", 900_000, 500_000, b"data");
    tar.extend(Tar::new().entry(&program, b"\x7fELF").finish());
    let (directory, outcome) = attempt(&tar);
    outcome.unwrap();
    let mut value = [0; 64];
    let path = directory.path().join("root/ping");
    let length = rustix::fs::getxattr(&path, "security.capability", &mut value[..]).unwrap();
    assert_eq!(value[..length], capability);
    let path = directory.path().join("root/hole");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), 900_000);
    assert!(metadata.blocks() * 512 < 100_000, "{}", metadata.blocks());
    let bytes = fs::read(&path).unwrap();
    assert_eq!(&bytes[499_998..500_006], b"\0\0data\0\0");
}

#[test]
fn a_loaded_archive_cannot_lie() {
    let machine = Machine::new();
    let load = |tar: &[u8]| {
        machine
            .images
            .load(&mut &tar[..], &ProgressSender::silent())
    };
    let wrong = format!("blobs/sha256/{}", "0".repeat(64));
    let lying = Tar::new().file(&wrong, b"not what it says").finish();
    assert!(matches!(load(&lying), Err(Error::Archive(_))));
    assert!(matches!(
        load(&Tar::new().file("x", b"").finish()),
        Err(Error::Archive(_))
    ));
    assert!(matches!(
        load(b"no tar at all, but long enough"),
        Err(Error::Archive(_))
    ));
    let missing = br#"[{"Config":"c.json","RepoTags":["a:b"],"Layers":[]}]"#;
    let error = load(&Tar::new().file("manifest.json", missing).finish()).unwrap_err();
    assert!(error.to_string().contains("lacks \"c.json\""), "{error}");
    // A layer that is not the promised one.
    let promised = "0".repeat(64);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{promised}"]}}}}"#
    );
    let list = br#"[{"Config":"c.json","RepoTags":["a:b"],"Layers":["l.tar"]}]"#;
    let tar = Tar::new()
        .file("c.json", config.as_bytes())
        .file("l.tar", &Tar::new().file("x", b"").finish())
        .file("manifest.json", list)
        .finish();
    let error = load(&tar).unwrap_err();
    let told = error.to_string().contains("but the image promises");
    assert!(told && matches!(error, Error::Archive(_)), "{error:?}");
    assert!(machine.images.list().is_empty());
    machine.images.sweep().unwrap();
    assert_eq!((machine.n_blobs(), machine.n_snapshots()), (0, 0));
    machine.audit();
}

fn hostile_path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        "neighbour",
        "secret",
        ".wh.a",
        ".wh..wh..opq",
        ".wh...",
    ]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever a few entries with few names are combined to, nothing happens
    /// outside.
    #[test]
    fn nothing_leaves_the_root(
        entries in prop::collection::vec((0usize..7, hostile_path(), hostile_path()), 1..12)
    ) {
        let (directory, outcome) = attempt_at(|at| {
            let mut tar = Tar::new();
            for (kind, path, target) in &entries {
                // Absolute targets are the neighbour's, or the root's own.
                tar = match kind {
                    0 => tar.file(path, b"data"),
                    1 => tar.directory(path),
                    2 => tar.link(Kind::HardLink, path, target),
                    3 => tar.link(Kind::HardLink, path, &format!("{at}/{target}")),
                    4 => tar.link(Kind::Symlink, path, target),
                    5 => tar.link(Kind::Symlink, path, &format!("/{target}")),
                    _ => tar.link(Kind::Symlink, path, &format!("{at}/{target}")),
                };
            }
            tar.finish()
        });
        // Whatever became of it.
        drop(outcome);
        // What lies inside is no name for anything outside.
        let secret = fs::metadata(directory.path().join("neighbour/secret")).unwrap();
        for inside in files_below(&directory.path().join("root")) {
            prop_assert_ne!(fs::symlink_metadata(&inside).unwrap().ino(), secret.ino());
        }
    }
}

/// Everything below a directory, links not followed.
fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}

/// Ten million entries are allowed and not one more, in memory that does not grow
/// with them.
#[test]
fn ten_million_entries_are_the_end() {
    /// One header for ever.
    struct Headers {
        header: Vec<u8>,
        at: usize,
    }
    impl Read for Headers {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let rest = &self.header[self.at..];
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            self.at = (self.at + length) % self.header.len();
            Ok(length)
        }
    }
    let header = header('5', "d/", 0, None).repeat(256);
    let limits = dhow_image::Limits::default();
    assert_eq!(limits.entries, 10_000_000);
    // What is read of a twentieth of them shows the same.
    let limits = ReadLimits {
        bytes: limits.unpacked_bytes,
        entries: limits.entries / 20,
    };
    let mut archive = Archive::new(Headers { header, at: 0 }, limits);
    let memory = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.unwrap().split_whitespace().next().unwrap();
        kilobytes.parse::<u64>().unwrap()
    };
    assert_eq!(archive.next_entry().unwrap().unwrap().kind, Kind::Directory);
    let before = memory();
    let mut n_entries = 1_u64;
    let error = loop {
        match archive.next_entry() {
            Ok(entry) => {
                entry.expect("it has no end");
                n_entries += 1;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(n_entries, 500_000);
    assert!(
        error.to_string().contains("more than 500000 entries"),
        "{error}"
    );
    assert!(memory() - before < 1024, "{} KiB more", memory() - before);
}

/// Values that stand where others should.
fn strange() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "[./a-z:@]{0,12}".prop_map(Value::from),
        Just(json!("../../etc/passwd")),
        Just(json!("/etc/passwd")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, "x"])),
    ]
}

/// Every place in a document, as a JSON pointer.
fn places(value: &serde_json::Value) -> Vec<String> {
    use serde_json::Value;
    let below: Vec<(String, &Value)> = match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.replace('/', "~1"), value))
            .collect(),
        Value::Array(items) => (0..items.len())
            .map(|index| (index.to_string(), &items[index]))
            .collect(),
        _ => Vec::new(),
    };
    let below = below.into_iter().flat_map(|(name, value)| {
        let places = places(value).into_iter();
        places.map(move |place| format!("/{name}{place}"))
    });
    [String::new()].into_iter().chain(below).collect()
}

/// An archive with one image, in Docker's form and in OCI's, with one value of its
/// documents changed.
fn archive(
    form: usize,
    change: impl Fn(serde_json::Value) -> serde_json::Value,
    document: usize,
) -> Vec<u8> {
    use serde_json::json;
    let changed = |which: usize, value| {
        let value = if which == document {
            change(value)
        } else {
            value
        };
        serde_json::to_vec(&value).unwrap()
    };
    let digest = |bytes: &[u8]| dhow_oci::Digest::of(bytes);
    let layer = Tar::new().file("x", b"y").finish();
    let config = changed(
        0,
        json!({
            "architecture": dhow_oci::Platform::host().architecture, "os": "linux",
            "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer).to_string()] },
            "history": [{ "created_by": "x" }]
        }),
    );
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digest(bytes).hex());
    if form == 0 {
        let list = json!([{ "Config": "c.json", "RepoTags": ["a:b"], "Layers": ["l.tar"] }]);
        return Tar::new()
            .file("c.json", &config)
            .file("l.tar", &layer)
            .file("manifest.json", &changed(1, list))
            .finish();
    }
    let describe = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest(bytes).to_string(), "size": bytes.len()
        })
    };
    let manifest = changed(
        1,
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("config.v1+json", &config),
            "layers": [describe("layer.v1.tar", &layer)]
        }),
    );
    let mut entry = describe("manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "a:b" });
    let index = changed(2, json!({ "schemaVersion": 2, "manifests": [entry] }));
    let layout = changed(3, json!({ "imageLayoutVersion": "1.0.0" }));
    Tar::new()
        .file("oci-layout", &layout)
        .file(&blob(&layer), &layer)
        .file(&blob(&config), &config)
        .file(&blob(&manifest), &manifest)
        .file("index.json", &index)
        .finish()
}

#[test]
fn both_forms_of_archives_are_loaded() {
    for form in 0..2 {
        let machine = Machine::new();
        let tar = archive(form, |value| value, usize::MAX);
        let loaded = machine
            .images
            .load(&mut &tar[..], &ProgressSender::silent());
        loaded.unwrap_or_else(|error| panic!("form {form}: {error}"));
        assert_eq!(machine.images.list().len(), 1, "form {form}");
        machine.audit();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// Whatever one value of an archive's documents is: the archive is loaded, or
    /// refused, and nothing of it is left then.
    #[test]
    fn archives_with_strange_values_are_loaded_or_leave_nothing(
        form in 0_usize..2,
        document in 0_usize..4,
        at in any::<prop::sample::Index>(),
        value in strange(),
    ) {
        let machine = Machine::new();
        let change = |mut document: serde_json::Value| {
            let places = places(&document);
            *document.pointer_mut(at.get::<String>(&places)).unwrap() = value.clone();
            document
        };
        let tar = archive(form, change, document);
        let loaded = machine.images.load(&mut &tar[..], &ProgressSender::silent());
        if loaded.is_err() {
            prop_assert!(machine.images.list().is_empty());
            machine.images.sweep().unwrap();
            prop_assert_eq!((machine.n_blobs(), machine.n_snapshots()), (0, 0));
        }
        machine.audit();
    }
}
