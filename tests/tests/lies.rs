//! Registries that lie and layers that mean harm, by pull: refused with a reason that
//! names the thing, or harmless; and in both cases nothing is left that nobody has
//! use for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use dhow_oci::{Digest, media_type};
use dhow_testkit::{Daemon, Dockerd, Shelf};
use serde_json::{Value, json};

/// The repository that everything is in.
const REPOSITORY: &str = "liar";

/// An entry of an archive: its kind as a digit, name, target of a link, and content.
struct Entry<'a> {
    kind: char,
    name: &'a str,
    link: &'a str,
    data: &'a [u8],
}

fn file<'a>(name: &'a str, data: &'a [u8]) -> Entry<'a> {
    Entry {
        kind: '0',
        name,
        link: "",
        data,
    }
}

fn linked<'a>(kind: char, name: &'a str, link: &'a str) -> Entry<'a> {
    Entry {
        kind,
        name,
        link,
        data: b"",
    }
}

/// A header as GNU tar writes it.
fn header(entry: &Entry<'_>, size: u64) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, entry.name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, &format!("        {}", entry.kind));
    put(157, entry.link);
    put(257, "ustar  \0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// An archive of these entries.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        tar.extend(header(entry, entry.data.len() as u64));
        tar.extend(entry.data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// An image configuration with layers of these digests.
fn config(arch: &str, diff_ids: &[Digest]) -> Value {
    let diff_ids: Vec<&str> = diff_ids.iter().map(Digest::as_str).collect();
    json!({
        "architecture": arch, "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// A registry and what makes it lie.
struct Liar {
    shelf: Shelf,
    arch: String,
    /// The layer of busybox.
    base: Vec<u8>,
    /// A folder of the host's with a `secret` in it.
    target: PathBuf,
}

impl Liar {
    fn beside(dockerd: &dyn Dockerd) -> Self {
        let target = dockerd.host().folder().join("target");
        std::fs::create_dir(&target).expect("a folder");
        std::fs::write(target.join("secret"), "untouched").expect("written");
        let layer = dockerd.host().folder().join("layer.tar");
        let out = layer.display().to_string();
        dockerd
            .docker(&["create", "--name=base", "--network=none", "busybox"])
            .ok();
        dockerd.docker(&["export", "-o", &out, "base"]).ok();
        dockerd.docker(&["rm", "base"]).ok();
        Self {
            shelf: Shelf::start(dockerd.host()),
            arch: dockerd.docker(&["version", "-f", "{{.Server.Arch}}"]).ok(),
            base: std::fs::read(layer).expect("it was exported"),
            target,
        }
    }

    /// An honest image of these layers: its configuration and its manifest.
    fn image(&self, layers: &[Vec<u8>]) -> (Value, Value) {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = config(&self.arch, &diff_ids);
        let manifest = self.shelf.image(REPOSITORY, &config.to_string(), layers);
        (config, manifest)
    }

    /// Serves a manifest under a tag.
    fn serve(&self, tag: &str, manifest: &Value) {
        let kind = manifest["mediaType"].as_str();
        let kind = kind.unwrap_or(media_type::OCI_MANIFEST).to_owned();
        self.shelf
            .manifest(REPOSITORY, tag, &kind, &manifest.to_string());
    }

    /// The name of an image.
    fn name(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}:{tag}", self.shelf.address())
    }

    fn blob_path(digest: &Value) -> String {
        let digest = digest.as_str().expect("a digest");
        format!("/v2/{REPOSITORY}/blobs/{digest}")
    }

    /// That nothing of the host was touched.
    fn is_outside_untouched(&self) -> bool {
        let names = std::fs::read_dir(&self.target)
            .expect("it is there")
            .count();
        let secret = std::fs::read_to_string(self.target.join("secret"));
        names == 1 && secret.is_ok_and(|text| text == "untouched")
    }
}

/// What comes of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is refused with these words.
    Refused(&'static str),
    /// It is pulled, and runs.
    Runs,
    /// It breaks off with these words, and what came is kept to go on from.
    Cut(&'static str),
}
use End::{Cut, Refused, Runs};

/// Layers on top of busybox's, and what comes of them. `@` is a folder of the host's.
fn layers(at: &str) -> Vec<(&'static str, Vec<Vec<u8>>, End)> {
    let evil = b"evil";
    let one = |entries: &[Entry<'_>]| vec![archive(entries)];
    let out = "leads out of the archive";
    let up = format!("../../../../../../../../../..{at}");
    let cut = archive(&[file("cut", &[7; 100_000])])[..50_000].to_vec();
    vec![
        ("dots", one(&[file("../evil", evil)]), Refused(out)),
        (
            "more dots",
            one(&[file("a/../../evil", evil)]),
            Refused(out),
        ),
        ("absolute", one(&[file(&format!("{at}/evil"), evil)]), Runs),
        (
            "through a link",
            one(&[linked('2', "out", at), file("out/secret", evil)]),
            Refused("dangling symbolic link"),
        ),
        (
            "through a relative link",
            one(&[linked('2', "out", &up), file("out/secret", evil)]),
            Refused("dangling symbolic link"),
        ),
        (
            "through a link of the layer below",
            vec![
                archive(&[linked('2', "out", at)]),
                archive(&[file("out/secret", evil)]),
            ],
            Runs,
        ),
        (
            "over a link",
            one(&[linked('2', "f", &format!("{at}/secret")), file("f", evil)]),
            Runs,
        ),
        (
            "hard link outside",
            one(&[linked('1', "f", &format!("{at}/secret")), file("f", evil)]),
            Refused("does not contain"),
        ),
        (
            "hard link up",
            one(&[linked('1', "f", "../../etc/passwd")]),
            Refused(out),
        ),
        (
            "hard link through a link",
            one(&[linked('2', "out", at), linked('1', "f", "out/secret")]),
            Refused("does not contain"),
        ),
        (
            "whiteout of the parent",
            one(&[file(".wh...", b"")]),
            Refused("whiteout"),
        ),
        (
            "whiteout of the root",
            one(&[file(".wh..", b"")]),
            Refused("whiteout"),
        ),
        (
            "no name",
            one(&[file("", evil)]),
            Refused("the root is a directory"),
        ),
        ("odd kind", one(&[linked('Z', "odd", "")]), Runs),
        ("cut off", vec![cut], Refused("cut off")),
        ("no archive", vec![vec![b'x'; 2000]], Refused("archive")),
        ("nothing at all", vec![Vec::new()], Runs),
    ]
}

/// Places of the manifest with other values, and why they are refused.
fn manifests() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let digest = format!("sha256:{}", "0".repeat(64));
    vec![
        ("size", "/layers/1/size", json!(-1), "malformed"),
        ("size", "/layers/1/size", json!(1e300), "malformed"),
        ("size", "/layers/1/size", json!("1"), "malformed"),
        ("size", "/layers/1/size", Value::Null, "malformed"),
        ("size", "/layers/1/size", json!(i64::MAX), "unexpected EOF"),
        ("size", "/layers/1/size", json!(u64::MAX), "unexpected EOF"),
        (
            "size",
            "/layers/1/size",
            json!(1),
            "larger than the 1 bytes announced",
        ),
        ("size", "/layers/1/size", json!(0), "expected sha256"),
        ("size", "/config/size", json!(-1), "malformed"),
        (
            "size",
            "/config/size",
            json!(i64::MAX),
            "configuration has more than",
        ),
        (
            "digest",
            "/layers/1/digest",
            json!("sha256:../../../etc/passwd"),
            "malformed",
        ),
        (
            "digest",
            "/layers/1/digest",
            json!("md5:d41d8cd98f00b204"),
            "malformed",
        ),
        ("digest", "/layers/1/digest", json!(digest), "000000000000"),
        ("digest", "/config/digest", json!(digest), "000000000000"),
        (
            "kind",
            "/layers/1/mediaType",
            json!("application/x-odd"),
            "application/x-odd",
        ),
        ("kind", "/layers/1/mediaType", Value::Null, "malformed"),
        (
            "kind",
            "/config/mediaType",
            json!("application/vnd.cncf.helm.config.v1+json"),
            "helm",
        ),
        ("kind", "/mediaType", json!("text/plain"), "text/plain"),
        (
            "kind",
            "/mediaType",
            json!(media_type::OCI_INDEX),
            "manifest",
        ),
        ("version", "/schemaVersion", json!(1), "schema version 1"),
        ("version", "/schemaVersion", json!(-2), "malformed"),
        ("layers", "/layers", json!(null), "malformed"),
        ("layers", "/layers", json!([]), "0 layers in its manifest"),
        ("layers", "/layers", json!({}), "malformed"),
        ("config", "/config", Value::Null, "malformed"),
    ]
}

/// All files and folders of a daemon's data but those inside of layers.
fn kept(daemon: &Daemon) -> BTreeSet<PathBuf> {
    let data = daemon.host().folder().join("data");
    let mut pending: Vec<PathBuf> = ["content", "image"].map(|name| data.join(name)).into();
    let mut all = BTreeSet::new();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "fs" {
                pending.push(entry.path());
            }
            all.insert(entry.path());
        }
    }
    all
}

/// A text's start.
fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

/// Whether a pull ends as it should; what is wrong with it otherwise.
fn pulled(daemon: &Daemon, liar: &Liar, what: &str, end: End) -> Option<String> {
    let name = liar.name("1");
    let before = kept(daemon);
    let ran = daemon.docker(&["pull", "-q", &name]);
    let wrong = |why: &str| Some(format!("{what}: {why}: {}", cut(&ran.stderr)));
    if !liar.is_outside_untouched() {
        return wrong("it escaped");
    }
    match end {
        Refused(reason) | Cut(reason) if ran.code != 1 || !ran.stderr.contains(reason) => {
            return wrong(&format!("expected {reason:?}"));
        }
        Runs if ran.code != 0 => return wrong("refused"),
        Refused(_) => {
            // Without anybody's asking for it.
            let after = kept(daemon);
            let left: Vec<_> = after.difference(&before).collect();
            return (!left.is_empty()).then(|| format!("{what} leaves {left:#?}"));
        }
        Cut(_) => return None,
        Runs => {}
    }
    let words = ["run", "--rm", "--network=none", &name];
    let script = ["sh", "-c", "cat /out/secret 2> /dev/null; echo fine"];
    let ran = daemon.docker(&[&words[..], &script].concat());
    if !ran.stdout.ends_with("fine\n") || ran.stdout.contains("untouched") {
        return Some(format!("{what}: {} {}", ran.stdout, cut(&ran.stderr)));
    }
    daemon.docker(&["rmi", &name]).ok();
    let after = kept(daemon);
    let left: Vec<_> = after.difference(&before).collect();
    (!left.is_empty()).then(|| format!("{what} leaves {left:#?}"))
}

/// A daemon, a liar, and what is wrong.
fn with_liar(check: impl FnOnce(&Daemon, &Liar, &mut Vec<String>)) {
    let daemon = Daemon::start();
    daemon.busybox();
    let liar = Liar::beside(&daemon);
    let mut wrong = Vec::new();
    check(&daemon, &liar, &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What is true is pulled from the same registry.
    let (_, manifest) = liar.image(std::slice::from_ref(&liar.base));
    liar.serve("1", &manifest);
    assert_eq!(pulled(&daemon, &liar, "the truth", Runs), None);
    daemon.finish();
}

#[test]
fn layers_stay_inside_or_are_refused() {
    with_liar(|daemon, liar, wrong| {
        let at = liar.target.display().to_string();
        for (what, more, end) in layers(&at) {
            let all = [vec![liar.base.clone()], more].concat();
            let (_, manifest) = liar.image(&all);
            liar.serve("1", &manifest);
            wrong.extend(pulled(daemon, liar, what, end));
        }
    });
}

#[test]
fn manifests_are_believed_within_reason() {
    with_liar(|daemon, liar, wrong| {
        let more = archive(&[file("more", b"more")]);
        let (_, manifest) = liar.image(&[liar.base.clone(), more]);
        for (what, place, value, reason) in manifests() {
            let mut manifest = manifest.clone();
            let what = format!("{what} {place} {value}");
            *manifest.pointer_mut(place).expect("it is there") = value;
            liar.serve("1", &manifest);
            // There may be more to come.
            let end = match reason {
                "unexpected EOF" => Cut(reason),
                reason => Refused(reason),
            };
            wrong.extend(pulled(daemon, liar, &what, end));
        }
        for (what, manifest, reason) in texts(&manifest) {
            let kind = media_type::OCI_MANIFEST;
            liar.shelf.manifest(REPOSITORY, "1", kind, &manifest);
            wrong.extend(pulled(daemon, liar, what, Refused(reason)));
        }
    });
}

/// Manifests that are none, and why.
fn texts(manifest: &Value) -> Vec<(&'static str, String, &'static str)> {
    let plain = manifest.to_string();
    let with = |name: &str, value: Value| {
        let mut manifest = manifest.clone();
        manifest[name] = value;
        manifest.to_string()
    };
    let layer = &manifest["layers"][1];
    let many = vec![layer.clone(); 1001];
    vec![
        ("cut", plain[..plain.len() - 1].to_owned(), "malformed"),
        ("deep", "[".repeat(100_000), "malformed"),
        (
            "deep inside",
            plain.replacen('{', &format!("{{\"x\":{},", "[".repeat(9999)), 1),
            "malformed",
        ),
        ("null", "null".to_owned(), "malformed"),
        ("nothing", String::new(), "malformed"),
        (
            "both",
            with("manifests", json!([])),
            "both layers and manifests",
        ),
        (
            "twice",
            plain.replacen('{', "{\"schemaVersion\":2,", 1),
            "malformed",
        ),
        ("many", with("layers", json!(many)), "1001"),
        ("huge", format!("{plain}{}", " ".repeat(5 << 20)), "bytes"),
    ]
}

#[test]
fn indexes_lead_nowhere_else() {
    with_liar(|daemon, liar, wrong| {
        let (_, manifest) = liar.image(std::slice::from_ref(&liar.base));
        let kind = media_type::OCI_MANIFEST;
        let entry = liar
            .shelf
            .manifest(REPOSITORY, "honest", kind, &manifest.to_string());
        let index = |entries: Value| json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
        let with = |name: &str, value: Value| {
            let mut entry = entry.clone();
            entry[name] = value;
            index(json!([entry]))
        };
        let zeros = format!("sha256:{}", "0".repeat(64));
        let of = |digest: &str| json!({ "mediaType": media_type::OCI_INDEX, "digest": digest, "size": 5 });
        // What claims to be itself is not what its digest says.
        let own = index(json!([of(&zeros)]));
        let path = format!("/v2/{REPOSITORY}/manifests/{zeros}");
        liar.shelf
            .keep(&path, media_type::OCI_INDEX, own.to_string());
        let mut deep = index(json!([entry.clone()]));
        for _ in 0..20 {
            let kind = media_type::OCI_INDEX;
            deep = index(json!([liar.shelf.manifest(
                REPOSITORY,
                "deep",
                kind,
                &deep.to_string()
            )]));
        }
        let elsewhere = json!({ "os": "linux", "architecture": "odd" });
        for (what, index, end) in [
            ("honest", index(json!([entry.clone()])), Runs),
            ("itself", own, Refused("000000000000")),
            ("deep", deep, Refused("index in an index")),
            (
                "empty",
                index(json!([])),
                Refused("no matching manifest for linux/"),
            ),
            ("null", index(Value::Null), Refused("malformed")),
            (
                "elsewhere",
                with("platform", elsewhere),
                Refused("no matching manifest for linux/"),
            ),
            (
                "odd platform",
                with("platform", json!("linux")),
                Refused("malformed"),
            ),
            ("size", with("size", json!(1)), Refused("wrong size")),
            (
                "negative size",
                with("size", json!(-1)),
                Refused("malformed"),
            ),
            (
                "huge size",
                with("size", json!(u64::MAX)),
                Refused("wrong size"),
            ),
            (
                "path",
                with("digest", json!("sha256:../../x")),
                Refused("malformed"),
            ),
            (
                "nobody",
                with("digest", json!(format!("sha256:{}", "1".repeat(64)))),
                Refused("1111111"),
            ),
            (
                "many",
                index(json!(vec![entry.clone(); 1001])),
                Refused("1001"),
            ),
        ] {
            liar.serve("1", &index);
            wrong.extend(pulled(daemon, liar, what, end));
        }
    });
}

/// A blob that is not what its name says, and the truth thereafter.
#[test]
fn blobs_are_what_their_digests_say() {
    with_liar(|daemon, liar, wrong| {
        let more = archive(&[file("more", b"more")]);
        let (config, manifest) = liar.image(&[liar.base.clone(), more.clone()]);
        liar.serve("1", &manifest);
        let layer = Liar::blob_path(&manifest["layers"][1]["digest"]);
        let document = Liar::blob_path(&manifest["config"]["digest"]);
        let other: Vec<u8> = more.iter().map(|byte| byte ^ 0x5a).collect();
        let longer = [&more[..], b"x"].concat();
        let text = config.to_string();
        let text = text.replace("linux", "LINUX");
        let kind = "application/octet-stream";
        let cut = more[..1000].to_vec();
        let spaces = vec![b' '; 9 << 20];
        let refused = Refused("asked for sha256");
        for (what, path, body, end) in [
            ("other layer", &layer, other, Refused("sha256")),
            ("longer layer", &layer, longer, Refused("larger than")),
            ("shorter layer", &layer, cut, Cut("unexpected EOF")),
            ("other text", &document, text.into_bytes(), refused),
            ("endless text", &document, spaces, Refused("more than")),
        ] {
            liar.shelf.keep(path, kind, body);
            wrong.extend(pulled(daemon, liar, what, end));
            liar.shelf.keep(&layer, kind, more.clone());
            liar.shelf.keep(&document, kind, config.to_string());
        }
        for to in ["file:///etc/passwd", "gopher://x/", "//", &layer] {
            liar.shelf.keep(&layer, &format!("Location: {to}"), "");
            wrong.extend(pulled(daemon, liar, to, Refused("violates the protocol")));
        }
        liar.shelf.keep(&layer, kind, more);
        wrong.extend(pulled(daemon, liar, "the truth", Runs));
    });
}

/// What a configuration says of its layers.
#[test]
fn configurations_name_the_layers_that_come() {
    with_liar(|daemon, liar, wrong| {
        let more = archive(&[file("more", b"more")]);
        let own = Digest::of(&more);
        let base = Digest::of(&liar.base);
        let odd = |ids: Value| {
            let mut config = config(&liar.arch, &[]);
            config["rootfs"]["diff_ids"] = ids;
            config.to_string()
        };
        let of = |ids: &[&Digest]| odd(json!(ids.iter().map(|id| id.as_str()).collect::<Vec<_>>()));
        let twice = of(&[&base, &own]).replacen('{', "{\"config\":{},", 1);
        for (what, config, end) in [
            (
                "fewer",
                of(&[&base]),
                Refused("2 layers in its manifest, 1 in its"),
            ),
            (
                "more",
                of(&[&base, &own, &own]),
                Refused("2 layers in its manifest, 3 in its"),
            ),
            (
                "others",
                of(&[&base, &base]),
                Refused("but the image promises"),
            ),
            (
                "exchanged",
                of(&[&own, &base]),
                Refused("but the image promises"),
            ),
            (
                "a path",
                odd(json!(["sha256:../../x", "x"])),
                Refused("malformed"),
            ),
            ("numbers", odd(json!([1, 2])), Refused("malformed")),
            ("null", "null".to_owned(), Refused("malformed")),
            (
                "cut",
                of(&[&base, &own])[1..].to_owned(),
                Refused("malformed"),
            ),
            ("deep", "[".repeat(100_000), Refused("malformed")),
            ("twice", twice, Refused("duplicate field")),
            ("honest", of(&[&base, &own]), Runs),
        ] {
            let layers = [liar.base.clone(), more.clone()];
            let manifest = liar.shelf.image(REPOSITORY, &config, &layers);
            liar.serve("1", &manifest);
            wrong.extend(pulled(daemon, liar, what, end));
        }
        // The same layer again and again, and more than the kernel mounts.
        for (n, end) in [(20, Runs), (600, Refused("601 layers"))] {
            let layers = [vec![liar.base.clone()], vec![more.clone(); n]].concat();
            let (_, manifest) = liar.image(&layers);
            liar.serve("1", &manifest);
            wrong.extend(pulled(daemon, liar, &n.to_string(), end));
        }
    });
}

/// A layer that is known is believed to be another one's only if it is.
#[test]
fn known_layers_are_not_taken_for_others() {
    with_liar(|daemon, liar, wrong| {
        let more = archive(&[file("more", b"more")]);
        let (config, manifest) = liar.image(&[liar.base.clone(), more.clone()]);
        liar.serve("honest", &manifest);
        let honest = liar.name("honest");
        daemon.docker(&["pull", "-q", &honest]).ok();
        // Both blobs are here, and so are both layers.
        let mut exchanged = manifest.clone();
        exchanged["layers"]
            .as_array_mut()
            .expect("layers")
            .reverse();
        let text = format!(" {config}");
        exchanged["config"] = liar
            .shelf
            .blob(REPOSITORY, media_type::OCI_CONFIG, text.as_bytes());
        liar.serve("1", &exchanged);
        let end = Refused("but the image promises");
        wrong.extend(pulled(daemon, liar, "exchanged", end));
        daemon.docker(&["rmi", &honest]).ok();
    });
}

/// Other places for a layer are not asked, whatever its kind.
#[test]
fn foreign_layers_come_from_the_registry_alone() {
    with_liar(|daemon, liar, wrong| {
        let elsewhere = Shelf::start(daemon.host());
        let more = archive(&[file("more", b"more")]);
        let (_, mut manifest) = liar.image(&[liar.base.clone(), more.clone()]);
        let path = Liar::blob_path(&manifest["layers"][1]["digest"]);
        elsewhere.keep("/layer", "application/octet-stream", more.clone());
        let url = format!("http://{}/layer", elsewhere.address());
        manifest["layers"][1]["urls"] = json!([url, "file:///etc/passwd"]);
        for kind in [
            media_type::OCI_LAYER,
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            manifest["layers"][1]["mediaType"] = json!(kind);
            liar.serve("1", &manifest);
            wrong.extend(pulled(daemon, liar, kind, Runs));
            liar.shelf.forget(&path);
            wrong.extend(pulled(daemon, liar, kind, Refused("manifest unknown")));
            liar.shelf
                .keep(&path, "application/octet-stream", more.clone());
        }
        assert_eq!(elsewhere.asked(), [""; 0]);
    });
}

/// A frame of zstd: literal bytes and then `n_zeros` zeros.
fn zstd(start: &[u8], n_zeros: u64) -> Vec<u8> {
    const BLOCK: u64 = 128 << 10;
    // Magic; neither size nor checksum; a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    let block = |kind: u32, size: usize, is_last: bool| {
        let size = u32::try_from(size).expect("it is small");
        let header = u32::from(is_last) | kind << 1 | size << 3;
        header.to_le_bytes()[..3].to_vec()
    };
    frame.extend(block(0, start.len(), false));
    frame.extend(start);
    let mut left = n_zeros;
    while left > 0 {
        let size = left.min(BLOCK);
        left -= size;
        // One byte, repeated.
        let size = usize::try_from(size).expect("it is small");
        frame.extend(block(1, size, left == 0));
        frame.push(0);
    }
    frame
}

/// Ten gigabytes out of next to nothing: what does not fit is refused, and gives back
/// what it took; what takes nothing is no harm.
#[test]
fn bombs_take_nothing_that_they_do_not_give_back() {
    let daemon = Daemon::start_on_disk_of("64m");
    daemon.busybox();
    let liar = Liar::beside(&daemon);
    let size: u64 = 10 << 30;
    let start = header(&file("zeros", b""), 0);
    let mut start = start;
    start[124..136].copy_from_slice(format!("{size:012o}").as_bytes());
    start[148..156].copy_from_slice(b"        ");
    let sum: u32 = start.iter().map(|byte| u32::from(*byte)).sum();
    start[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let bomb = zstd(&start, size + 1024);
    assert!(bomb.len() < 400_000);
    let (config, mut manifest) = liar.image(std::slice::from_ref(&liar.base));
    let mut config = config;
    let ids = config["rootfs"]["diff_ids"].as_array_mut().expect("ids");
    ids.push(json!(format!("sha256:{}", "0".repeat(64))));
    let kind = media_type::OCI_CONFIG;
    manifest["config"] = liar
        .shelf
        .blob(REPOSITORY, kind, config.to_string().as_bytes());
    let layer = liar
        .shelf
        .blob(REPOSITORY, media_type::OCI_LAYER_ZSTD, &bomb);
    manifest["layers"]
        .as_array_mut()
        .expect("layers")
        .push(layer);
    liar.serve("1", &manifest);
    let end = Refused("o space left on device");
    assert_eq!(pulled(&daemon, &liar, "zeros", end), None);
    let (_, manifest) = liar.image(std::slice::from_ref(&liar.base));
    liar.serve("1", &manifest);
    assert_eq!(pulled(&daemon, &liar, "the truth", Runs), None);
    daemon.finish();
}

/// What nobody came back for in a day is no longer kept.
#[test]
fn what_broke_off_is_kept_for_a_day() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    let liar = Liar::beside(&daemon);
    let before = kept(&daemon);
    let more = archive(&[file("more", b"more")]);
    let (_, manifest) = liar.image(&[liar.base.clone(), more.clone()]);
    liar.serve("1", &manifest);
    let path = Liar::blob_path(&manifest["layers"][1]["digest"]);
    let kind = "application/octet-stream";
    liar.shelf.keep(&path, kind, more[..700].to_vec());
    let name = liar.name("1");
    let error = daemon.docker(&["pull", "-q", &name]).fails(1);
    assert!(error.contains("unexpected EOF after 700"), "{error}");
    let broken = kept(&daemon);
    assert!(broken.len() > before.len(), "{broken:?}");
    // It is there after a restart, too.
    daemon.stop();
    daemon.start_again();
    assert_eq!(kept(&daemon), broken);
    daemon.stop();
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
    for path in broken.difference(&before) {
        let file = std::fs::File::open(path).expect("it is there");
        file.set_modified(yesterday).expect("it is ours");
    }
    daemon.start_again();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while kept(&daemon) != before {
        assert!(std::time::Instant::now() < end, "{:#?}", kept(&daemon));
        std::thread::yield_now();
    }
    daemon.finish();
}

/// A pull that ends with its daemon leaves nothing that is seen, and goes on where it
/// was with the next one.
#[test]
fn a_pull_that_was_cut_goes_on_under_the_next_daemon() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    let liar = Liar::beside(&daemon);
    let before = kept(&daemon);
    let more = archive(&[file("more", &vec![7; 3_000_000])]);
    let (_, manifest) = liar.image(&[liar.base.clone(), more]);
    liar.serve("1", &manifest);
    let digest = &manifest["layers"][1]["digest"];
    let path = Liar::blob_path(digest);
    let name = liar.name("1");
    let mut arrived = 0;
    for bytes in [1_000_000, 1_500_000] {
        let held = liar.shelf.hold(&path, bytes);
        let mut pull = daemon
            .docker_command(&["pull", "-q", &name])
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("docker starts");
        let patience = std::time::Duration::from_secs(20);
        held.recv_timeout(patience).expect("it is asked for");
        // What came is on its way to the disk.
        arrived += bytes as u64;
        let key = Digest::of(digest.as_str().expect("a digest").as_bytes());
        let ingests = daemon.host().folder().join("data/content/ingest");
        let ingest = ingests.join(key.hex());
        let end = std::time::Instant::now() + patience;
        while std::fs::metadata(&ingest).map_or(0, |file| file.len()) < arrived {
            assert!(
                std::time::Instant::now() < end,
                "{arrived} bytes do not come"
            );
            std::thread::yield_now();
        }
        daemon.kill();
        pull.wait().expect("it ends");
        daemon.start_again();
        daemon.docker(&["image", "inspect", &name]).fails(1);
        let words = ["run", "--rm", "--pull=never", &name, "true"];
        daemon.docker(&words).fails(125);
    }
    daemon.docker(&["pull", "-q", &name]).ok();
    let expected = ["", "bytes=1000000-", "bytes=2500000-"];
    assert_eq!(liar.shelf.ranges(&path), expected);
    let words = ["run", "--rm", "--network=none", &name, "wc", "-c", "/more"];
    assert_eq!(daemon.docker(&words).ok(), "3000000 /more");
    daemon.docker(&["rmi", &name]).ok();
    assert_eq!(kept(&daemon), before);
    daemon.finish();
}
