//! Archives of images whose configuration means harm: refused with a reason, or what
//! it says is what Docker makes of it. The daemon lives, and nothing is left.

use std::path::{Path, PathBuf};

use dhow_oci::media_type;
use dhow_testkit::{Daemon, Dockerd, Host, Ran, Reference, Shelf};
use serde_json::{Value, json};

/// A maker of archives, each with one image of one layer: that of busybox.
struct Maker {
    folder: PathBuf,
    arch: String,
    diff_id: String,
}

impl Maker {
    fn at(dockerd: &(impl Dockerd + ?Sized)) -> Self {
        let folder = dockerd.host().folder().join("hostile");
        std::fs::create_dir(&folder).expect("a folder");
        let layer = folder.join("layer.tar").display().to_string();
        let create = ["create", "--name=base", "--network=none", "busybox"];
        dockerd.docker(&create).ok();
        dockerd.docker(&["export", "-o", &layer, "base"]).ok();
        dockerd.docker(&["rm", "base"]).ok();
        let sum = dockerd.host().run("sha256sum", &[&layer]).ok();
        Self {
            folder,
            arch: dockerd.docker(&["version", "-f", "{{.Server.Arch}}"]).ok(),
            diff_id: format!("sha256:{}", sum.split(' ').next().expect("a sum")),
        }
    }

    /// The document of an image with this configuration.
    fn image(&self, config: &Value) -> Value {
        json!({
            "architecture": self.arch, "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [self.diff_id] },
        })
    }

    fn list() -> Value {
        json!([{ "Config": "config.json", "RepoTags": ["hostile:1"], "Layers": ["layer.tar"] }])
    }

    /// An archive with these documents beside the layer.
    fn archive(&self, host: &Host, image: &str, list: &str) -> String {
        let at = |name: &str| self.folder.join(name).display().to_string();
        std::fs::write(at("config.json"), image).expect("written");
        std::fs::write(at("manifest.json"), list).expect("written");
        let folder = self.folder.display().to_string();
        let out = at("image.tar");
        let words = ["config.json", "manifest.json", "layer.tar"];
        let tar = [&["-C", &folder, "-cf", &out][..], &words].concat();
        host.run("tar", &tar).ok();
        out
    }
}

/// What comes of an image.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Its archive is refused.
    Unloaded(&'static str),
    /// A container of it is refused.
    Unmade(&'static str),
    /// It runs.
    Runs,
}
use End::{Runs, Unloaded, Unmade};

/// Configurations of programs, and what comes of each.
fn configurations() -> Vec<(Value, End)> {
    let long = "x".repeat(1 << 20);
    let absolute = Unmade("needs to be an absolute path");
    let root = Unmade("destination can't be '/'");
    vec![
        (json!({ "WorkingDir": "../../x" }), absolute),
        (
            json!({ "WorkingDir": "/etc/passwd" }),
            Unmade("not a directory"),
        ),
        (
            json!({ "WorkingDir": "/proc/self/fd/7" }),
            Unmade("symbolic links"),
        ),
        (
            json!({ "WorkingDir": format!("/{long}") }),
            Unmade("too long"),
        ),
        (json!({ "Env": ["A\u{0}B=1"] }), Unmade("NUL")),
        (
            json!({ "Env": ["=x"] }),
            Unmade("invalid environment variable: =x"),
        ),
        (
            json!({ "Env": [format!("A={long}")] }),
            Unmade("Argument list too long"),
        ),
        (json!({ "Env": [1] }), Unloaded("malformed")),
        (
            json!({ "User": "../../x" }),
            Unmade("unable to find user ../../x"),
        ),
        (json!({ "User": "-1" }), Unmade("unable to find user -1")),
        (
            json!({ "User": "4294967296" }),
            Unmade("must be in range 0-2147483647"),
        ),
        (
            json!({ "User": "0:0:0" }),
            Unmade("unable to find group 0:0"),
        ),
        (json!({ "User": "a\u{0}b" }), Unmade("unable to find user")),
        (
            json!({ "Volumes": { "..": {} } }),
            Unmade("must be absolute"),
        ),
        (json!({ "Volumes": { "": {} } }), Unmade("must be absolute")),
        (
            json!({ "Volumes": { "/a\u{0}b": {} } }),
            Unmade("Invalid argument"),
        ),
        (json!({ "Volumes": { "/": {} } }), root),
        (json!({ "Volumes": { "/a/..//": {} } }), root),
        (json!({ "Volumes": ["/data"] }), Unloaded("malformed")),
        (json!({ "ExposedPorts": { "65536/tcp": {} } }), Runs),
        (json!({ "ExposedPorts": { "80/tcp/udp": {} } }), Runs),
        (json!({ "ExposedPorts": { "1-65535/tcp": {} } }), Runs),
        (
            json!({ "Healthcheck": { "Test": ["CMD", "true"], "Interval": -1 } }),
            Runs,
        ),
        (
            json!({ "Healthcheck": { "Test": ["CMD", "true"], "Retries": -5 } }),
            Runs,
        ),
        (json!({ "Healthcheck": { "Test": ["ODD"] } }), Runs),
        (
            json!({ "Healthcheck": { "Interval": 1e300 } }),
            Unloaded("malformed"),
        ),
        (json!({ "StopSignal": "NONSENSE" }), Runs),
        (json!({ "StopSignal": "99999" }), Runs),
        (json!({ "StopTimeout": i64::MAX }), Runs),
        (json!({ "StopTimeout": 1e30 }), Unloaded("malformed")),
        (json!({ "Entrypoint": ["sh\u{0}x"] }), Unmade("NUL")),
        (json!({ "Entrypoint": [null] }), Unloaded("malformed")),
        (
            json!({ "Labels": { "": "x", "a\u{0}": long, "\n": "\u{1b}[2J" } }),
            Runs,
        ),
    ]
}

/// Documents of an archive, of the image and of the list, that are not what they seem,
/// and why they are refused.
fn documents(maker: &Maker) -> Vec<(String, String, End)> {
    let image = maker.image(&json!({}));
    let plain = image.to_string();
    let list = Maker::list();
    let with = |place: &str, value: Value| {
        let mut image = image.clone();
        *image.pointer_mut(place).expect("it is there") = value;
        image.to_string()
    };
    let listed = |name: &str, value: Value| {
        let mut list = list.clone();
        list[0][name] = value;
        list.to_string()
    };
    let first = |text: &str| (text.to_owned(), list.to_string());
    let second = |text: String| (plain.clone(), text);
    let deep = "[".repeat(100_000);
    let twice = plain.replacen('{', "{\"config\":{\"Cmd\":[\"sh\"]},", 1);
    let digest = maker.diff_id.as_str();
    let none = with("/rootfs/diff_ids", json!([]));
    let two = with("/rootfs/diff_ids", json!([digest, digest]));
    let odd = with("/rootfs/diff_ids", json!(["sha256:../../etc/passwd"]));
    let number = with("/rootfs/diff_ids", json!([-1e300]));
    let other = with(
        "/rootfs/diff_ids",
        json!([format!("sha256:{}", "0".repeat(64))]),
    );
    [
        (first(&none), Unloaded("0 layers, but the archive lists 1")),
        (first(&two), Unloaded("2 layers, but the archive lists 1")),
        (first(&odd), Unloaded("malformed")),
        (first(&number), Unloaded("malformed")),
        (first(&other), Unloaded("sha256:000000")),
        (first(&twice), Unloaded("duplicate field")),
        (first(&format!("{{\"x\":{deep}")), Unloaded("malformed")),
        (first(&plain[..plain.len() - 1]), Unloaded("malformed")),
        (first("null"), Unloaded("malformed")),
        (second("[]".into()), Unloaded("no image")),
        (second("null".into()), Unloaded("malformed")),
        (second(deep), Unloaded("malformed")),
        (
            second(listed("Config", json!("../../../etc/passwd"))),
            Unloaded("lacks"),
        ),
        (
            second(listed("Config", json!("/etc/passwd"))),
            Unloaded("lacks"),
        ),
        (
            second(listed("Layers", json!(["/etc/passwd"]))),
            Unloaded("lacks"),
        ),
        (second(listed("Layers", json!(-1))), Unloaded("malformed")),
        (
            second(listed("RepoTags", json!(["../x:1"]))),
            Unloaded("invalid reference"),
        ),
        (
            second(listed("RepoTags", json!(["a:\u{0}"]))),
            Unloaded("invalid reference"),
        ),
    ]
    .map(|((image, list), end)| (image, list, end))
    .into()
}

/// Archives that are no pairs of documents, and why they are refused. A text that
/// begins with `->` is a symbolic link.
fn shapes(maker: &Maker) -> Vec<(Vec<(&'static str, String)>, &'static str)> {
    let image = maker.image(&json!({})).to_string();
    let list = Maker::list().to_string();
    let index = |entry: Value| json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    let digest = format!("sha256:{}", "0".repeat(64));
    let link = |to: &str| format!("->{to}");
    vec![
        (
            vec![
                ("config.json", image.clone()),
                ("manifest.json", link("config.json")),
            ],
            "no image",
        ),
        (
            vec![
                ("config.json", image),
                ("layer.tar", link("/etc/passwd")),
                ("manifest.json", list.clone()),
            ],
            "lacks",
        ),
        (
            vec![
                ("config.json", link("config.json")),
                ("layer.tar", link("../../../etc/passwd")),
                ("manifest.json", list),
            ],
            "leads out of the archive",
        ),
        (
            vec![(
                "index.json",
                index(json!({ "mediaType": "x/y", "digest": digest, "size": -5 })),
            )],
            "malformed",
        ),
        (
            vec![(
                "index.json",
                index(json!({ "mediaType": "x/y", "digest": "md5:1", "size": 5 })),
            )],
            "malformed",
        ),
        (
            vec![(
                "index.json",
                index(json!({ "mediaType": "x/y", "digest": digest, "size": 5 })),
            )],
            "000000000000",
        ),
    ]
}

/// Files of a daemon below these folders of its data.
fn kept(daemon: &Daemon) -> Vec<PathBuf> {
    let data = daemon.host().folder().join("data");
    let mut pending: Vec<PathBuf> = ["content", "image/snapshots", "image/layers", "volumes"]
        .map(|name| data.join(name))
        .into();
    let mut all = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            // A snapshot's own files are what its archive says.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "fs" {
                pending.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort();
    all
}

/// An archive of these files and links, made in a folder.
fn shaped(host: &Host, folder: &Path, files: &[(&str, String)]) -> String {
    std::fs::create_dir(folder).expect("a folder");
    for (name, text) in files {
        let path = folder.join(name);
        match text.strip_prefix("->") {
            Some(to) => std::os::unix::fs::symlink(to, path).expect("a link"),
            None => std::fs::write(path, text).expect("written"),
        }
    }
    let (folder, out) = (
        folder.display().to_string(),
        format!("{}.tar", folder.display()),
    );
    host.run("tar", &["-C", &folder, "-cf", &out, "."]).ok();
    out
}

/// Brings an image with this configuration to a daemon, as `name`.
type Bring<'a> = &'a dyn Fn(&str) -> Ran;

/// What comes of the images with these configurations, where it is not what is said.
fn unlike(daemon: &Daemon, name: &str, bring: Bring<'_>, image: &str, end: &End) -> Option<String> {
    let before = kept(daemon);
    let brought = bring(image);
    if brought.code != 0 && kept(daemon) != before {
        return Some(format!("{brought:?} leaves something"));
    }
    let script = ["sh", "-c", "true"];
    let run = [&["run", "--rm", "-P", "--network=none", name][..], &script].concat();
    let (code, ran) = match (end, brought.code) {
        (Unloaded(_), _) => (1, brought),
        (Runs, 0) => (0, daemon.docker(&run)),
        (Unmade(_), 0) => {
            let ran = daemon.docker(&run);
            // How Docker's client reads why nothing was run.
            let code = match ran.stderr.contains("no such file or directory") {
                true => 127,
                false => 125,
            };
            (code, ran)
        }
        _ => (0, brought),
    };
    let reason = match end {
        Unloaded(reason) | Unmade(reason) => reason,
        Runs => "",
    };
    let cut = |text: &str| text.chars().take(300).collect::<String>();
    let said = ran.stderr.to_lowercase();
    (ran.code != code || !said.contains(&reason.to_lowercase()))
        .then(|| format!("{}: {} {}", cut(image), ran.code, cut(&ran.stderr)))
}

/// That nothing is there but what was there before.
fn nothing_is_left(daemon: &Daemon, name: &str, before: &[PathBuf]) {
    assert_eq!(daemon.docker(&["ps", "-aq"]).ok(), "");
    assert_eq!(daemon.docker(&["volume", "ls", "-q"]).ok(), "");
    daemon.docker(&["rmi", name]).ok();
    daemon.docker(&["image", "prune", "-f"]).ok();
    assert_eq!(daemon.docker(&["images", "-aq"]).ok().lines().count(), 1);
    assert_eq!(kept(daemon), before);
}

#[test]
fn what_images_say_is_believed_within_reason() {
    let daemon = Daemon::start();
    daemon.busybox();
    let maker = Maker::at(&daemon);
    let before = kept(&daemon);
    let name = "hostile:1";
    let load = |image: &str, list: &str| {
        let archive = maker.archive(daemon.host(), image, list);
        daemon.docker(&["load", "-q", "-i", &archive])
    };
    let mut wrong = Vec::new();
    for (config, end) in configurations() {
        let list = Maker::list().to_string();
        let image = maker.image(&config).to_string();
        let bring = |image: &str| load(image, &list);
        wrong.extend(unlike(&daemon, name, &bring, &image, &end));
    }
    for (image, list, end) in documents(&maker) {
        let bring = |image: &str| load(image, &list);
        wrong.extend(unlike(&daemon, name, &bring, &image, &end));
    }
    for (n, (files, reason)) in shapes(&maker).into_iter().enumerate() {
        let archive = shaped(daemon.host(), &maker.folder.join(n.to_string()), &files);
        let before = kept(&daemon);
        let refused = daemon.docker(&["load", "-q", "-i", &archive]);
        let is_clean = kept(&daemon) == before;
        if refused.code != 1 || !refused.stderr.contains(reason) || !is_clean {
            wrong.push(format!("{files:?}: {} {}", refused.code, refused.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_is_left(&daemon, name, &before);
    daemon.finish();
}

#[test]
fn what_pulled_images_say_is_believed_no_more() {
    let daemon = Daemon::start();
    daemon.busybox();
    let maker = Maker::at(&daemon);
    let before = kept(&daemon);
    let shelf = Shelf::start(daemon.host());
    let layer = std::fs::read(maker.folder.join("layer.tar")).expect("it was exported");
    let name = format!("{}/hostile:1", shelf.address());
    let pull = |image: &str| {
        let manifest = shelf.image("hostile", image, std::slice::from_ref(&layer));
        shelf.manifest(
            "hostile",
            "1",
            media_type::OCI_MANIFEST,
            &manifest.to_string(),
        );
        daemon.docker(&["pull", "-q", &name])
    };
    let mut wrong = Vec::new();
    for (config, end) in configurations() {
        let image = maker.image(&config).to_string();
        wrong.extend(unlike(&daemon, &name, &pull, &image, &end));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_is_left(&daemon, &name, &before);
    daemon.finish();
}

/// Configurations that ours takes for wrong and dockerd does not, and why.
const STRICTER: [(&str, &str); 2] = [
    ("0:0:0", "users and groups are read strictly"),
    ("\"Entrypoint\":[null]", "a word is a text"),
];

/// What comes of an image with a configuration: where it is refused, and why.
fn outcome(dockerd: &dyn Dockerd, maker: &Maker, config: &Value) -> (&'static str, String) {
    let (image, list) = (maker.image(config).to_string(), Maker::list().to_string());
    let archive = maker.archive(dockerd.host(), &image, &list);
    let loaded = dockerd.docker(&["load", "-q", "-i", &archive]);
    let cut = |ran: &Ran| ran.stderr.chars().take(300).collect();
    if loaded.code != 0 {
        return ("refused", cut(&loaded));
    }
    let ran = dockerd.docker(&["run", "--rm", "-P", "hostile:1", "sh", "-c", "true"]);
    match ran.code {
        0 => ("runs", String::new()),
        _ => ("does not run", cut(&ran)),
    }
}

#[test]
fn dockerd_believes_as_much() {
    let daemon = Daemon::start();
    let reference = Reference::start();
    daemon.busybox();
    reference.busybox();
    let (our_maker, their_maker) = (Maker::at(&daemon), Maker::at(&reference));
    let (mut differences, mut used) = (Vec::new(), Vec::new());
    for (config, _) in configurations() {
        let ours = outcome(&daemon, &our_maker, &config);
        let theirs = outcome(&reference, &their_maker, &config);
        if ours.0 == theirs.0 {
            continue;
        }
        let text = config.to_string();
        match STRICTER.iter().find(|(part, _)| text.contains(part)) {
            Some((part, _)) if theirs.0 == "runs" => used.push(*part),
            _ => differences.push(format!("{text:.100}\n  {ours:?}\n  {theirs:?}")),
        }
    }
    let unused = STRICTER.iter().filter(|(part, _)| !used.contains(part));
    differences.extend(unused.map(|(part, _)| format!("{part} does not differ")));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    daemon.finish();
}
