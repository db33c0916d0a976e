//! Images for several platforms, in a registry and here: the right one is taken, and
//! said if there is none.

use std::path::Path;

use dhow_oci::{Digest, Platform, media_type};
use dhow_testkit::{Dockerd, Ran, Registry, at_dockerd, at_ours};
use serde_json::{Value, json};

/// Where the registry is on the tests' own host.
const REGISTRY: &str = "127.0.0.1:5000";
/// A platform that this machine is not.
const OTHER: &str = "linux/s390x";
/// One that nobody has an image for.
const NOBODY: &str = "linux/riscv64";

/// A command of a client at a daemon.
type Client = fn(&dyn Dockerd, &[&str]) -> Ran;
const CLIENTS: [Client; 2] = [
    |daemon, words| daemon.docker(words),
    |daemon, words| daemon.dhow(words),
];

fn architecture(platform: &str) -> &str {
    platform.split_once('/').expect("two words").1
}

/// Runs curl at the registry.
fn curl(dockerd: &dyn Dockerd, words: &[&str]) -> Ran {
    dockerd.host().run("curl", &[&["-sSf"], words].concat())
}

/// Loads an image with the files of busybox and a label, for any platform.
fn load(dockerd: &dyn Dockerd, folder: &Path, platform: &str, name: &str) {
    let layer = folder.join("layer.tar");
    if !layer.exists() {
        let out = layer.display().to_string();
        let create = ["create", "--name=base", "--network=none", "busybox"];
        dockerd.docker(&create).ok();
        dockerd.docker(&["export", "-o", &out, "base"]).ok();
        dockerd.docker(&["rm", "base"]).ok();
    }
    let diff_id = Digest::of(&std::fs::read(&layer).expect("it was exported"));
    let config = json!({
        "architecture": architecture(platform), "os": "linux",
        "config": { "Cmd": ["sh"], "Env": [format!("MADE_FOR={platform}")] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id.as_str()] },
    });
    let list = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    for (file, text) in [("config.json", config), ("manifest.json", list)] {
        std::fs::write(folder.join(file), text.to_string()).expect("written");
    }
    let (at, out) = (folder.display().to_string(), folder.join("image.tar"));
    let out = out.display().to_string();
    let files = ["config.json", "manifest.json", "layer.tar"];
    let tar = [&["-C", &at, "-cf", &out][..], &files].concat();
    dockerd.host().run("tar", &tar).ok();
    dockerd.docker(&["load", "-q", "-i", &out]).ok();
}

/// Puts an image for each platform into the registry, and all of them under one name,
/// which is returned.
fn publish(dockerd: &dyn Dockerd, platforms: &[&str]) -> String {
    let folder = dockerd.host().folder().join("images");
    std::fs::create_dir(&folder).expect("a folder");
    let base = format!("http://{REGISTRY}/v2/multi/manifests");
    let mut entries = Vec::new();
    for platform in platforms {
        let tag = architecture(platform);
        let name = format!("{REGISTRY}/multi:{tag}");
        load(dockerd, &folder, platform, &name);
        dockerd.docker(&["push", "-q", &name]).ok();
        dockerd.docker(&["rmi", &name]).ok();
        let kinds = [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST];
        let accept = format!("Accept: {}", kinds.join(", "));
        let file = folder.join(format!("{tag}.json"));
        let (out, url) = (file.display().to_string(), format!("{base}/{tag}"));
        curl(dockerd, &["-H", &accept, "-o", &out, &url]).ok();
        let bytes = std::fs::read(&file).expect("it was fetched");
        let manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
        entries.push(json!({
            "mediaType": manifest["mediaType"], "digest": Digest::of(&bytes).as_str(),
            "size": bytes.len(), "platform": { "os": "linux", "architecture": tag },
        }));
    }
    let kind = media_type::DOCKER_LIST;
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries });
    let (header, url) = (format!("Content-Type: {kind}"), format!("{base}/all"));
    let put = ["-X", "PUT", "-H", &header, "-d", &index.to_string(), &url];
    curl(dockerd, &put).ok();
    format!("{REGISTRY}/multi:all")
}

fn host_platform() -> String {
    let host = Platform::host();
    format!("{}/{}", host.os, host.architecture)
}

#[test]
fn the_right_image_is_taken() {
    at_ours(images_of_platforms);
}

#[test]
fn dockerd_takes_the_same() {
    at_dockerd(&[images_of_platforms]);
}

fn images_of_platforms(daemon: &dyn Dockerd) {
    let registry = Registry::start(daemon.host(), REGISTRY, "", "");
    let here = host_platform();
    let name = publish(daemon, &[OTHER, &here]);
    let other = format!("--platform={OTHER}");
    let own = format!("--platform={here}");
    let nobody = format!("--platform={NOBODY}");
    let is = || {
        daemon
            .docker(&["image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", &name])
            .ok()
    };
    let run = ["run", "--rm", "--network=none"];
    let print = [&name, "sh", "-c", "echo $MADE_FOR"];
    // The reference does not know our client.
    let clients = match daemon.is_reference() {
        true => &CLIENTS[..1],
        false => &CLIENTS,
    };
    for client in clients {
        let ask = |words: &[&str]| client(daemon, words);
        let missing = |words: &[&str]| {
            let ran = ask(words);
            let expected =
                format!("no matching manifest for {NOBODY} in the manifest list entries");
            assert!(ran.code != 0 && ran.stderr.contains(&expected), "{ran:?}");
        };
        ask(&["pull", "-q", &name]).ok();
        assert_eq!(is(), here);
        missing(&["pull", &nobody, &name]);
        assert_eq!(is(), here);
        ask(&["pull", "-q", &other, &name]).ok();
        assert_eq!(is(), OTHER);
        // It is told that this is not what the machine is; here it runs all the same.
        let ran = ask(&[&run[..], &print].concat());
        let part = format!(
            "The requested image's platform ({OTHER}) does not match the detected host platform ({here}"
        );
        assert!(ran.stderr.contains(&part), "{ran:?}");
        assert!(
            ran.stderr
                .contains("and no specific platform was requested"),
            "{ran:?}"
        );
        assert_eq!(ran.ok(), OTHER);
        let ran = ask(&[&run[..], &[&other], &print].concat());
        assert!(!ran.stderr.contains("does not match"), "{ran:?}");
        assert_eq!(ran.ok(), OTHER);
        // Another one is pulled for it.
        let ran = ask(&[&run[..], &[&own], &print].concat());
        assert!(!ran.stderr.contains("does not match"), "{ran:?}");
        assert_eq!(ran.ok(), here);
        assert_eq!(is(), here);
        ask(&["create", "--name=made", &other, &name]).ok();
        assert_eq!(is(), OTHER);
        ask(&["rm", "made"]).ok();
        missing(&["create", &nobody, &name]);
        missing(&[&run[..], &[&nobody], &print].concat());
        for bad in [
            "--platform=linux/a/b/c",
            "--platform=li nux",
            "--platform=/",
        ] {
            let ran = ask(&["pull", bad, &name]);
            assert_ne!(ran.code, 0, "{ran:?}");
            let ran = ask(&["create", bad, &name]);
            assert_ne!(ran.code, 0, "{ran:?}");
        }
        // An image of another platform, in an index of its own, is not taken.
        ask(&[
            "pull",
            "-q",
            &other,
            &format!("{REGISTRY}/multi:{}", architecture(OTHER)),
        ])
        .ok();
        ask(&["rmi", "-f", &is_id(daemon, &name)]).ok();
    }
    drop(registry);
}

fn is_id(daemon: &dyn Dockerd, name: &str) -> String {
    daemon
        .docker(&["image", "inspect", "-f", "{{.Id}}", name])
        .ok()
}

/// What newer versions of the API ask of one platform.
#[test]
fn one_platform_is_asked_for() {
    at_ours(single);
}

fn single(daemon: &dyn Dockerd) {
    let registry = Registry::start(daemon.host(), REGISTRY, "", "");
    let here = host_platform();
    let name = publish(daemon, &[OTHER, &here]);
    daemon.docker(&["pull", "-q", &name]).ok();
    let out = daemon
        .host()
        .folder()
        .join("saved.tar")
        .display()
        .to_string();
    for client in CLIENTS {
        let ask = |words: &[&str]| client(daemon, words);
        let cases: [&[&str]; 4] = [
            &["image", "inspect"],
            &["history"],
            &["save", "-o", &out],
            &["push"],
        ];
        for words in cases {
            let with = |platform: &str| ask(&[words, &["--platform", platform, &name]].concat());
            with(&here).ok();
            let ran = with(OTHER);
            let part = format!("does not match the specified platform ({OTHER})");
            assert!(ran.code != 0 && ran.stderr.contains(&part), "{ran:?}");
            let ran = with("odd//");
            assert!(ran.code != 0 && ran.stderr.contains("odd//"), "{ran:?}");
        }
        ask(&["load", "-q", "--platform", &here, "-i", &out]).ok();
        let ran = ask(&["load", "-q", "--platform", OTHER, "-i", &out]);
        assert!(ran.code != 0 && ran.stderr.contains(OTHER), "{ran:?}");
        let shown = ask(&["image", "ls", "--tree"]).ok();
        assert!(shown.contains(&here), "{shown}");
    }
    let listed = daemon
        .ask("GET /v1.47/images/json?manifests=1", None)
        .json();
    let listed = listed.as_array().expect("a list");
    let has_name = |image: &&Value| image["RepoTags"] == json!([name]);
    let manifests = &listed.iter().find(has_name).expect("it is there")["Manifests"];
    assert_eq!(manifests[0]["Kind"], "image", "{manifests}");
    let data = &manifests[0]["ImageData"]["Platform"];
    assert_eq!(data["architecture"], architecture(&here), "{manifests}");
    assert_eq!(manifests[0]["Available"], true, "{manifests}");
    daemon.docker(&["rmi", "-f", &is_id(daemon, &name)]).ok();
    drop(registry);
}
