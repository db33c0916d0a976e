//! With registries: honest ones, and ones that are slow, broken or hostile.

use std::io::BufRead;
use std::process::{Command, Stdio};
use std::time::Duration;

use dhow_image::{
    Error, Images, Progress, ProgressSender, PullOptions, PushOptions, RegistryAuth, Removal,
};
use dhow_oci::{Digest, Platform, media_type};

use crate::registries::{Cut, Distribution, Door, Fault, Liar, PASSWORD, USER, blob_path, bounded};
use crate::support::{Machine, Tar, audit, base, gzip, name, names_in, options};

pub fn gz(tar: &[u8]) -> (&'static str, Vec<u8>) {
    (media_type::OCI_LAYER_GZIP, gzip(tar))
}

fn zst(tar: &[u8]) -> (&'static str, Vec<u8>) {
    (
        media_type::OCI_LAYER_ZSTD,
        zstd::encode_all(tar, 1).unwrap(),
    )
}

fn plain(tar: &[u8]) -> (&'static str, Vec<u8>) {
    (media_type::OCI_LAYER, tar.to_vec())
}

/// A layer that does not compress well, so that it can be cut anywhere.
fn noise() -> Vec<u8> {
    noise_of(2_000_000)
}

fn noise_of(n_bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let data: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(n_bytes)
    .collect();
    Tar::new().file("noise", &data).finish()
}

/// A machine that loses patience soon.
fn hasty() -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.registries.patience = Duration::from_millis(500);
    options.registries.attempts = 3;
    let images = Images::open(options).unwrap();
    Machine { directory, images }
}

pub async fn pull(machine: &Machine, text: &str) -> Result<dhow_image::Pulled, Error> {
    let reference = name(text);
    let options = PullOptions::default();
    bounded(
        machine
            .images
            .pull(&reference, options, ProgressSender::silent()),
    )
    .await
}

pub async fn pull_as_someone(machine: &Machine, text: &str) -> Result<dhow_image::Pulled, Error> {
    let reference = name(text);
    let options = PullOptions {
        auth: secret(),
        ..PullOptions::default()
    };
    bounded(
        machine
            .images
            .pull(&reference, options, ProgressSender::silent()),
    )
    .await
}

pub async fn push(machine: &Machine, text: &str) -> Result<Vec<dhow_image::Pushed>, Error> {
    let target = name(text);
    let options = PushOptions::default();
    bounded(
        machine
            .images
            .push(&target, options, ProgressSender::silent()),
    )
    .await
}

fn secret() -> Option<RegistryAuth> {
    Some(RegistryAuth {
        username: USER.into(),
        password: PASSWORD.into(),
        ..RegistryAuth::default()
    })
}

/// Waits for the threads of what was dropped, then looks for leftovers.
async fn settled(machine: &Machine, text: &str) {
    // Whoever pulls next has to wait for them as well.
    let _ = pull(machine, text).await;
    machine.audit();
}

#[tokio::test]
async fn what_is_pushed_is_pulled_elsewhere() {
    let registry = Distribution::start("");
    let machine = Machine::new();
    // One layer plain, which is compressed to be sent, and one on top of it.
    let image = machine.import(&base(), &format!("{}/team/app:1", registry.address));
    let target = name(&format!("{}/team/app:1", registry.address));
    let (sender, mut progress) = tokio::sync::mpsc::channel(1000);
    let pushing = machine
        .images
        .push(&target, PushOptions::default(), ProgressSender::new(sender));
    let pushed = bounded(pushing).await.unwrap();
    let mut lines = Vec::new();
    while let Some(line) = progress.recv().await {
        lines.push(line);
    }
    let statuses: Vec<&str> = lines.iter().map(|line| line.status.as_str()).collect();
    assert_eq!(
        statuses[0],
        format!(
            "The push refers to repository [{}/team/app]",
            registry.address
        )
    );
    assert!(
        statuses.contains(&"Preparing") && statuses.contains(&"Pushed"),
        "{statuses:?}"
    );
    let last = format!("1: digest: {} size: {}", pushed[0].digest, pushed[0].size);
    assert_eq!(*statuses.last().unwrap(), last);
    assert_eq!(machine.images.names(&image.id).digests.len(), 1);

    let elsewhere = Machine::new();
    let (sender, mut progress) = tokio::sync::mpsc::channel(1000);
    let pulling =
        elsewhere
            .images
            .pull(&target, PullOptions::default(), ProgressSender::new(sender));
    let pulled = bounded(pulling).await.unwrap();
    assert_eq!(
        (&pulled.image.id, &pulled.digest),
        (&image.id, &pushed[0].digest)
    );
    assert!(pulled.is_newer);
    let mut statuses: Vec<Progress> = Vec::new();
    while let Some(line) = progress.recv().await {
        statuses.push(line);
    }
    let statuses: Vec<&str> = statuses.iter().map(|line| line.status.as_str()).collect();
    for expected in [
        "Pulling from team/app",
        "Pulling fs layer",
        "Downloading",
        "Verifying Checksum",
        "Download complete",
        "Extracting",
        "Pull complete",
    ] {
        assert!(statuses.contains(&expected), "{expected}: {statuses:?}");
    }
    let last = format!(
        "Status: Downloaded newer image for {}/team/app:1",
        registry.address
    );
    assert_eq!(*statuses.last().unwrap(), last);
    // Again: nothing is newer; the same layers are not sent twice.
    assert!(
        !pull(&elsewhere, &target.to_string())
            .await
            .unwrap()
            .is_newer
    );
    // To another repository the layer is mounted, also when the name under
    // which the registry has it is forgotten here.
    let other = name(&format!("{}/team/other", registry.address));
    elsewhere.images.tag(&image.id, &other).unwrap();
    elsewhere
        .images
        .remove(&target.to_string(), Removal::Careful, &|_| Vec::new())
        .unwrap();
    let (sender, mut progress) = tokio::sync::mpsc::channel(1000);
    let pushing =
        elsewhere
            .images
            .push(&other, PushOptions::default(), ProgressSender::new(sender));
    bounded(pushing).await.unwrap();
    let mut is_mounted = false;
    while let Some(line) = progress.recv().await {
        is_mounted |= line.status == "Mounted from team/app";
    }
    assert!(is_mounted);
    // By digest, and then all of it goes.
    let by_digest = format!("{}/team/app@{}", registry.address, pushed[0].digest);
    assert_eq!(
        pull(&elsewhere, &by_digest).await.unwrap().image.id,
        image.id
    );
    elsewhere
        .images
        .remove(image.id.as_str(), Removal::Forced, &|_| Vec::new())
        .unwrap();
    assert_eq!((elsewhere.n_blobs(), elsewhere.n_snapshots()), (0, 0));
    elsewhere.audit();
}

#[tokio::test]
async fn skopeo_and_we_understand_each_other() {
    let registry = Distribution::start("");
    let machine = Machine::new();
    let text = format!("{}/app:1", registry.address);
    let image = machine.import(&gzip(&base()), &text);
    let target = name(&text);
    let pushing = machine
        .images
        .push(&target, PushOptions::default(), ProgressSender::silent());
    bounded(pushing).await.unwrap();
    // There and back again, in Docker's own manifest format.
    let status = Command::new("skopeo")
        .args(["copy", "--quiet", "--format", "v2s2"])
        .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
        .arg(format!("docker://{text}"))
        .arg(format!("docker://{}/copy:2", registry.address))
        .status()
        .expect("skopeo is installed (Debian package skopeo)");
    assert!(status.success());
    let elsewhere = Machine::new();
    let pulled = pull(&elsewhere, &format!("{}/copy:2", registry.address))
        .await
        .unwrap();
    assert_eq!(
        pulled.image.manifest.media_type,
        media_type::DOCKER_MANIFEST
    );
    assert_eq!(pulled.image.config.rootfs, image.config.rootfs);
    // What we save, it reads; what it saves, we load.
    for (transport, file) in [("docker-archive", "d.tar"), ("oci-archive", "o.tar")] {
        let ours = machine.directory.path().join(format!("ours-{file}"));
        let mut output = std::fs::File::create(&ours).unwrap();
        machine
            .images
            .save(std::slice::from_ref(&text), &mut output)
            .unwrap();
        let theirs = machine.directory.path().join(format!("theirs-{file}"));
        let status = Command::new("skopeo")
            .args(["copy", "--quiet"])
            .arg(format!("{transport}:{}", ours.display()))
            .arg(format!("{transport}:{}:back:3", theirs.display()))
            .status()
            .unwrap();
        assert!(status.success(), "{transport}");
        let back = Machine::new();
        let mut input = std::fs::File::open(&theirs).unwrap();
        let loaded = back
            .images
            .load(&mut input, &ProgressSender::silent())
            .unwrap();
        let loaded = back.images.get(&loaded[0].id).unwrap();
        assert_eq!(loaded.config.rootfs, image.config.rootfs, "{transport}");
        back.audit();
    }
}

#[tokio::test]
async fn every_compression_is_pulled() {
    let liar = Liar::start(Door::Open).await;
    let layers = [
        base(),
        noise(),
        Tar::new().file("etc/.wh.motd", b"").finish(),
        noise(),
    ];
    for (tag, compress) in [
        ("gzip", gz as fn(&[u8]) -> _),
        ("zstd", zst),
        ("plain", plain),
    ] {
        liar.image("app", tag, &layers, compress);
        let machine = Machine::new();
        let pulled = pull(&machine, &format!("{}/app:{tag}", liar.address))
            .await
            .unwrap();
        assert_eq!(pulled.image.layers.len(), 4);
        let root = machine.images.open_image(&pulled.image).unwrap();
        let look = |path: &str| rustix::fs::statat(&root, path, rustix::fs::AtFlags::empty());
        assert!(look("noise").is_ok() && look("etc/motd").is_err() && look("etc/passwd").is_ok());
        machine.audit();
    }
}

#[tokio::test]
async fn doors_open_to_those_who_knock() {
    for door in [Door::Basic, Door::Bearer] {
        let liar = Liar::start(door.clone()).await;
        liar.image("app", "1", &[base()], gz);
        let machine = Machine::new();
        let reference = name(&format!("{}/app:1", liar.address));
        let knock = |auth| {
            let options = PullOptions {
                auth,
                ..PullOptions::default()
            };
            bounded(
                machine
                    .images
                    .pull(&reference, options, ProgressSender::silent()),
            )
        };
        assert!(
            matches!(knock(None).await, Err(Error::Denied(_))),
            "{door:?}"
        );
        let mut wrong = secret();
        wrong.as_mut().unwrap().password = "wrong".into();
        let error = knock(wrong.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{door:?}: {error}");
        knock(secret()).await.unwrap();

        let login = |auth: Option<RegistryAuth>| {
            let images = &machine.images;
            let address = &liar.address;
            async move { bounded(images.login(address, &auth.unwrap())).await }
        };
        login(secret()).await.unwrap();
        let error = login(wrong).await.unwrap_err();
        let why = match door {
            Door::Basic => "login attempt to ",
            _ => "unauthorized: incorrect username or password",
        };
        assert!(error.to_string().contains(why), "{door:?}: {error}");
    }
}

#[tokio::test]
async fn a_transfer_is_taken_up_where_it_broke_off() {
    let liar = Liar::start(Door::Open).await;
    let (manifest, _) = liar.image("app", "1", &[noise()], gz);
    let path = blob_path("app", &manifest.layers[0].digest);
    use Fault::{IgnoreRange, Stall, Status, Truncate};
    let faults = [
        Truncate(1000),
        Status(503),
        Truncate(50_000),
        IgnoreRange,
        Stall(0),
    ];
    for faults in [
        &faults[..],
        &[Truncate(100_000), IgnoreRange],
        &[Stall(200_000)],
    ] {
        liar.fault(&path, faults);
        let machine = hasty();
        let pulled = pull(&machine, &format!("{}/app:1", liar.address)).await;
        pulled.unwrap_or_else(|error| panic!("{faults:?}: {error}"));
        machine.audit();
    }
    let ranges: Vec<String> = liar
        .state
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|(_, _, range)| range.clone())
        .collect();
    assert!(ranges.contains(&"bytes=1000-".to_owned()), "{ranges:?}");
    assert!(ranges.contains(&"bytes=51000-".to_owned()), "{ranges:?}");
}

#[tokio::test]
async fn large_layers_come_in_stretches() {
    use Fault::{IgnoreRange, Longer, Stall, Status, Truncate, WrongRange};
    let liar = Liar::start(Door::Bearer).await;
    let (manifest, _) = liar.image("app", "1", &[noise_of(34 << 20)], plain);
    let path = blob_path("app", &manifest.layers[0].digest);
    let ranges = || -> Vec<String> {
        let mut seen = liar.state.seen.lock().unwrap();
        seen.drain(..)
            .filter(|(_, seen, _)| *seen == path)
            .map(|(_, _, range)| range)
            .collect()
    };
    // Whether the rest is asked for at once in the end; after a cut there may be
    // little left.
    for (faults, ends_at_once) in [
        (&[][..], Some(false)),
        (&[Stall(1000)][..], None),
        (&[Truncate(1000), Status(503)][..], None),
        (&[IgnoreRange, IgnoreRange, IgnoreRange][..], Some(true)),
        (&[Status(416), Status(416), Status(416)][..], Some(true)),
        (&[Longer][..], Some(true)),
        (&[WrongRange][..], Some(true)),
    ] {
        liar.fault(&path, faults);
        let machine = hasty();
        pull_as_someone(&machine, &format!("{}/app:1", liar.address))
            .await
            .unwrap_or_else(|error| panic!("{faults:?}: {error}"));
        let ranges = ranges();
        assert!(
            ranges.contains(&"bytes=4194304-8388607".to_owned()),
            "{faults:?}: {ranges:?}"
        );
        let asked_for_rest = ranges
            .iter()
            .any(|range| range.is_empty() || range.ends_with('-'));
        if let Some(ends_at_once) = ends_at_once {
            assert_eq!(asked_for_rest, ends_at_once, "{faults:?}: {ranges:?}");
        }
        machine.audit();
    }
}

#[tokio::test]
async fn an_upload_is_taken_up_where_it_broke_off() {
    use Cut::{After, Forgetting, Spoiling, Status};
    let liar = Liar::start(Door::Open).await;
    // Whether bytes that arrived are not sent again.
    for (n, (cuts, is_resumed)) in [
        (&[][..], false),
        (&[After(300_000), After(700_000), Status(503)][..], true),
        (&[After(0)][..], false),
        (&[Forgetting(400_000)][..], false),
        (&[Spoiling(400_000)][..], true),
        (&[Status(413), After(5_000)][..], true),
    ]
    .into_iter()
    .enumerate()
    {
        liar.cut(cuts);
        let machine = hasty();
        let target = format!("{}/app{n}:1", liar.address);
        let image = machine.import(&gzip(&noise()), &target);
        push(&machine, &target)
            .await
            .unwrap_or_else(|error| panic!("{cuts:?}: {error}"));
        let repository = format!("app{n}");
        assert!(
            liar.has(&repository, &image.layers[0].blob.digest),
            "{cuts:?}"
        );
        let seen = liar.state.seen.lock().unwrap();
        let was_resumed = seen.iter().any(|(method, path, _)| {
            method == "PATCH" && path.contains(&format!("/{repository}/"))
        });
        assert_eq!(was_resumed, is_resumed, "{cuts:?}");
        drop(seen);
        machine.audit();
    }
    // A registry that takes nothing is given up.
    liar.cut(&[After(0); 50]);
    let machine = hasty();
    let target = format!("{}/never:1", liar.address);
    machine.import(&gzip(&noise()), &target);
    let error = push(&machine, &target).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error:?}");
}

#[tokio::test]
async fn patience_ends() {
    let liar = Liar::start(Door::Open).await;
    let (manifest, _) = liar.image("app", "1", &[noise()], gz);
    let path = blob_path("app", &manifest.layers[0].digest);
    for fault in [Fault::Truncate(0), Fault::Stall(0), Fault::Status(500)] {
        liar.fault(&path, &vec![fault.clone(); 50]);
        let machine = hasty();
        let before = liar.n_requests(&path);
        let error = pull(&machine, &format!("{}/app:1", liar.address))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Network { .. } | Error::Registry { .. }),
            "{fault:?}"
        );
        assert_eq!(liar.n_requests(&path) - before, 3, "{fault:?}");
        assert!(machine.images.list().is_empty());
        machine.images.sweep().unwrap();
        machine.audit();
    }
}

#[tokio::test]
async fn lies_are_not_believed() {
    let liar = Liar::start(Door::Open).await;
    let (manifest, descriptor) = liar.image("app", "1", &[noise()], gz);
    let layer = blob_path("app", &manifest.layers[0].digest);
    let config = blob_path("app", &manifest.config.digest);
    let by_digest = format!("/v2/app/manifests/{}", descriptor.digest);
    let by_tag = "/v2/app/manifests/1".to_owned();
    let named = format!("{}/app:1", liar.address);
    let pinned = format!("{}/app@{}", liar.address, descriptor.digest);
    use Fault::{Endless, Lie, Longer, Redirect, Status, Truncate, WrongRange};
    for (path, faults, text) in [
        (&layer, vec![Lie], &named),
        (&layer, vec![Longer], &named),
        (&layer, vec![Endless], &named),
        (&layer, vec![Truncate(1000), WrongRange], &named),
        (&layer, vec![Truncate(1000), Lie], &named),
        (&layer, vec![Status(404)], &named),
        (&layer, vec![Redirect("file:///etc/passwd".into())], &named),
        (&layer, vec![Redirect(layer.clone()); 20], &named),
        (&config, vec![Lie], &named),
        (&config, vec![Endless], &named),
        (&by_digest, vec![Lie], &pinned),
        (&by_tag, vec![Lie], &named),
        (&by_tag, vec![Endless], &named),
    ] {
        liar.fault(path, &faults);
        let machine = hasty();
        let error = pull(&machine, text)
            .await
            .expect_err(&format!("{path} {faults:?}"));
        assert!(
            !matches!(error, Error::Network { .. } | Error::Table(_)),
            "{path} {faults:?}: {error:?}"
        );
        assert!(machine.images.list().is_empty());
        // Nothing of it stands in the way of the truth.
        liar.fault(path, &[]);
        pull(&machine, text)
            .await
            .unwrap_or_else(|error| panic!("{path} {faults:?}: {error:?}"));
        machine.audit();
    }
    // A layer that is what the manifest says, but not what the image says.
    let (mut manifest, _) = liar.image("app", "2", &[base()], gz);
    manifest.layers[0].digest = liar.blob("app", gzip(&noise()));
    manifest.layers[0].size = gzip(&noise()).len() as u64;
    let bytes = serde_json::to_vec(&manifest).unwrap();
    liar.manifest("app", "2", media_type::OCI_MANIFEST, bytes);
    let machine = hasty();
    let error = pull(&machine, &format!("{}/app:2", liar.address))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }), "{error:?}");
    machine.images.sweep().unwrap();
    assert_eq!((machine.n_blobs(), machine.n_snapshots()), (0, 0));
    machine.audit();
}

#[tokio::test]
async fn indexes_offer_a_choice() {
    let liar = Liar::start(Door::Open).await;
    let mut entries = Vec::new();
    for (n, platform) in ["linux/s390x", "linux/amd64", "linux/arm64"]
        .into_iter()
        .enumerate()
    {
        let layer = Tar::new().file(&format!("f{n}"), b"").finish();
        let (_, mut entry) = liar.image("app", &format!("x{n}"), &[layer], gz);
        entry.platform = Some(platform.parse().unwrap());
        entries.push(entry);
    }
    let index = liar.index("app", "all", entries.clone());
    // The same in Docker's words, and another platform than this machine's.
    let bytes = serde_json::to_vec(&dhow_oci::Index {
        media_type: Some(media_type::DOCKER_LIST.to_owned()),
        ..dhow_oci::Index::new(entries.clone())
    })
    .unwrap();
    let list = liar.manifest("app", "list", media_type::DOCKER_LIST, bytes);
    for entry in &entries {
        let machine = hasty();
        let reference = name(&format!("{}/app:list", liar.address));
        let options = PullOptions {
            platform: entry.platform.clone(),
            ..PullOptions::default()
        };
        let images = &machine.images;
        let pulled = bounded(images.pull(&reference, options, ProgressSender::silent()));
        match pulled.await {
            Ok(pulled) => {
                assert_eq!(pulled.digest, list);
                assert_eq!(pulled.image.manifest.digest, entry.digest);
                assert_eq!(entry.platform.as_ref().unwrap().architecture, "amd64");
            }
            // A list that lies: what all of them are for is another one.
            Err(error) => {
                assert_ne!(entry.platform.as_ref().unwrap().architecture, "amd64");
                let expected = "does not provide the specified platform";
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
        machine.audit();
    }
    liar.index("app", "some", entries[..1].to_vec());
    let machine = hasty();
    let pulled = pull(&machine, &format!("{}/app:all", liar.address))
        .await
        .unwrap();
    assert_eq!(pulled.digest, index);
    let host = Platform::host();
    let expected = host.choose(&entries).unwrap();
    assert_eq!(pulled.image.manifest.digest, expected.digest);
    let error = pull(&machine, &format!("{}/app:some", liar.address))
        .await
        .unwrap_err();
    let text = format!(
        "no matching manifest for {host} in the manifest list entries of {}/app:some",
        liar.address
    );
    assert_eq!(error.to_string(), text);
    let error = pull(&machine, &format!("{}/app:none", liar.address))
        .await
        .unwrap_err();
    let text = format!(
        "manifest for {}/app:none not found: manifest unknown: manifest unknown",
        liar.address
    );
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn a_dropped_pull_is_resumed() {
    let liar = Liar::start(Door::Open).await;
    let (manifest, _) = liar.image("app", "1", &[noise(), base()], gz);
    let layer = &manifest.layers[0];
    let path = blob_path("app", &layer.digest);
    liar.fault(&path, &[Fault::Stall(1_500_000)]);
    let machine = Machine::new();
    let text = format!("{}/app:1", liar.address);
    let reference = name(&text);
    let (sender, mut progress) = tokio::sync::mpsc::channel::<Progress>(1000);
    let some_came = async {
        while let Some(line) = progress.recv().await {
            if line.id == layer.digest.short() && line.current > 0 {
                break;
            }
        }
    };
    {
        let pulling = machine.images.pull(
            &reference,
            PullOptions::default(),
            ProgressSender::new(sender),
        );
        tokio::select! {
            outcome = pulling => panic!("it should hang: {outcome:?}"),
            () = some_came => {}
        }
    }
    settled(&machine, &text).await;
    assert!(machine.images.resolve(&text).is_ok());
    let ranges = liar.state.seen.lock().unwrap();
    let resumed = ranges
        .iter()
        .any(|(_, seen, range)| *seen == path && !range.is_empty());
    assert!(resumed, "{ranges:?}");
}

#[tokio::test]
async fn two_pulls_share_the_work() {
    let liar = Liar::start(Door::Open).await;
    let (manifest, _) = liar.image("app", "1", &[noise(), base(), noise()], gz);
    let machine = Machine::new();
    let text = format!("{}/app:1", liar.address);
    let (one, two) = tokio::join!(pull(&machine, &text), pull(&machine, &text));
    assert_eq!(one.unwrap().image.id, two.unwrap().image.id);
    for layer in &manifest.layers {
        assert_eq!(liar.n_requests(&blob_path("app", &layer.digest)), 1);
    }
    machine.audit();
}

/// Not a test of its own: the child of `a_killed_pull_leaves_no_harm`.
#[tokio::test]
async fn child_that_pulls() {
    let Ok(job) = std::env::var("DHOW_IMAGE_CHILD") else {
        return;
    };
    let (root, text) = job.split_once('|').unwrap();
    let images = Images::open(options(std::path::Path::new(root))).unwrap();
    println!("pulling");
    let reference = name(text);
    let pulling = images.pull(&reference, PullOptions::default(), ProgressSender::silent());
    bounded(pulling).await.unwrap();
    println!("pulled");
}

#[tokio::test]
async fn a_killed_pull_leaves_no_harm() {
    let liar = Liar::start(Door::Open).await;
    let (manifest, _) = liar.image("app", "1", &[noise(), base()], gz);
    let path = blob_path("app", &manifest.layers[0].digest);
    let directory = tempfile::tempdir().unwrap();
    let text = format!("{}/app:1", liar.address);
    let mut kept = 0;
    // What is asked for next begins where the killed one had come to.
    let mut expected = vec![String::new()];
    for at in [0, 10_000, 1_000_000, 400_000] {
        liar.fault(&path, &[Fault::Stall(at)]);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "remote::child_that_pulls", "--nocapture"])
            .env(
                "DHOW_IMAGE_CHILD",
                format!("{}|{text}", directory.path().display()),
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        bounded(liar.state.stalled.notified()).await;
        kept += at as u64;
        until_written(&directory.path().join("content/ingest"), kept);
        if kept > 0 {
            expected.push(format!("bytes={kept}-"));
        } else {
            expected.push(String::new());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let lines: Vec<String> = output.lines().map(Result::unwrap).collect();
        assert!(
            lines.iter().any(|line| line.contains("pulling")),
            "{lines:?}"
        );

        let images = Images::open(options(directory.path())).unwrap();
        assert!(images.list().is_empty());
        audit(directory.path());
        images.sweep().unwrap();
        audit(directory.path());
    }
    let images = Images::open(options(directory.path())).unwrap();
    let machine = Machine { directory, images };
    let pulled = pull(&machine, &text).await.unwrap();
    assert_eq!(
        pulled.image.manifest.digest,
        Digest::of(&serde_json::to_vec(&manifest).unwrap())
    );
    let seen = liar.state.seen.lock().unwrap().clone();
    let asked = seen.iter().filter(|(_, asked, _)| *asked == path);
    let ranges: Vec<&str> = asked.map(|(_, _, range)| range.as_str()).collect();
    assert_eq!(ranges, expected);
    machine.audit();
}

/// Waits until the files of a folder have so many bytes.
fn until_written(folder: &std::path::Path, bytes: u64) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let sizes = files.filter_map(|file| file.metadata().ok());
        let written: u64 = sizes.map(|metadata| metadata.len()).sum();
        if written >= bytes {
            return;
        }
        assert!(
            std::time::Instant::now() < end,
            "{written} of {bytes} bytes"
        );
        std::thread::yield_now();
    }
}

/// Not a test of its own: the child of `a_full_disk_is_told_and_left_clean`.
#[tokio::test]
async fn child_on_a_small_disk() {
    let Ok(job) = std::env::var("DHOW_IMAGE_SMALL_DISK") else {
        return;
    };
    let (root, text) = job.split_once('|').unwrap();
    let root = std::path::Path::new(root);
    let images = Images::open(options(root)).unwrap();
    let reference = name(text);
    let pull = || {
        let options = PullOptions::default();
        bounded(images.pull(&reference, options, ProgressSender::silent()))
    };
    let outcome = pull().await;
    audit(root);
    if let Err(error) = outcome {
        println!("error: {}", told(&error));
        assert!(images.list().is_empty());
        // Not even to be resumed: it would keep the disk full.
        assert_eq!(names_in(&root.join("content/ingest")), [""; 0]);
        images.sweep().unwrap();
        let grown = Command::new("mount")
            .args(["-o", "remount,size=64m"])
            .arg(root)
            .status()
            .unwrap();
        assert!(grown.success());
        pull().await.unwrap();
        audit(root);
    }
    println!("pulled");
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", told(source)),
        None => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_left_clean() {
    let liar = Liar::start(Door::Open).await;
    liar.image("app", "1", &[base(), noise(), base()], gz);
    let text = format!("{}/app:1", liar.address);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().display().to_string();
    let (mut n_full, mut n_enough) = (0, 0);
    for kilobytes in (3000..9000).step_by(500) {
        // A small file system that nobody else sees, and that ends with it.
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount -t tmpfs -o size=$1k tmpfs \"$2\" && shift 2 && exec \"$@\"")
            .args(["sh", &kilobytes.to_string(), &root])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "remote::child_on_a_small_disk", "--nocapture"])
            .env("DHOW_IMAGE_SMALL_DISK", format!("{root}|{text}"))
            .output()
            .expect("unshare is installed (Debian package util-linux)");
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("pulled"),
            "{kilobytes}: {said}{complained}"
        );
        match said.split_once("error: ") {
            Some((_, error)) => {
                n_full += 1;
                let error = error.lines().next().unwrap();
                assert!(
                    error.contains("No space left on device"),
                    "{kilobytes}: {error}"
                );
            }
            None => n_enough += 1,
        }
    }
    assert!(n_full > 2 && n_enough > 2, "{n_full} {n_enough}");
}

/// Keeps the futures usable from spawned tasks.
#[test]
fn futures_can_be_sent() {
    fn sendable<T: Send>(_: T) {}
    let machine = Machine::new();
    let (images, reference) = (machine.images.clone(), name("app"));
    let images = &images;
    sendable(images.pull(&reference, PullOptions::default(), ProgressSender::silent()));
    sendable(images.push(&reference, PushOptions::default(), ProgressSender::silent()));
    let auth = RegistryAuth::default();
    sendable(images.login("localhost", &auth));
}
