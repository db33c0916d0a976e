//! Real clients, and our own.

use std::path::Path;
use std::process::{Command, Output};

use dhow_image::{ProgressSender, PullOptions, PushOptions, RegistryAuth};
use dhow_registry::{Access, Config, Tls};

use crate::support::{Server, bounded, images, import};

/// Runs a program that must succeed, without blocking the server beside it.
async fn program(name: &str, arguments: &[&str], home: &Path) -> Output {
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home);
    let shown = format!("{command:?}");
    let package = name.to_owned();
    let output = bounded(tokio::task::spawn_blocking(move || {
        command.output().unwrap_or_else(|error| {
            panic!("{package} is installed (Debian package {package}): {error}")
        })
    }))
    .await
    .unwrap();
    assert!(
        output.status.success(),
        "{shown}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_and_skopeo() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = Server::start(&path("registry")).await;
    let ours = images(&path("ours"));
    let text = format!("{}/team/app:1", server.address);
    import(&ours, &text, &vec![7; 3_000_000]);
    let reference = text.parse().unwrap();
    let pushed =
        bounded(ours.push(&reference, PushOptions::default(), ProgressSender::silent())).await;
    let pushed = pushed.unwrap();
    // From here to there and back, in both formats.
    for (n, format) in ["oci", "v2s2"].into_iter().enumerate() {
        let source = format!("docker://{text}");
        let target = format!("docker://{}/copy/{format}:{n}", server.address);
        let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        let arguments = [
            "copy", "--quiet", "--format", format, tls[0], tls[1], &source, &target,
        ];
        program("skopeo", &arguments, directory.path()).await;
    }
    let list = format!("docker://{}/copy/oci", server.address);
    let output = program(
        "skopeo",
        &["list-tags", "--tls-verify=false", &list],
        directory.path(),
    )
    .await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"0\""));
    let theirs = images(&path("theirs"));
    for name in ["copy/oci:0", "copy/v2s2:1", "team/app:1"] {
        let reference = format!("{}/{name}", server.address).parse().unwrap();
        let pulling = theirs.pull(&reference, PullOptions::default(), ProgressSender::silent());
        let pulled = bounded(pulling)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(pulled.image.config.rootfs.diff_ids.len(), 1, "{name}");
    }
    // Also by digest, after a restart.
    server.stop().await;
    let server = Server::start(&path("registry")).await;
    let reference = format!("{}/team/app@{}", server.address, pushed[0].digest)
        .parse()
        .unwrap();
    let pulling = theirs.pull(&reference, PullOptions::default(), ProgressSender::silent());
    bounded(pulling).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_with_tls_and_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), key.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), key.signing_key.serialize_pem()).unwrap();
    let file = path("htpasswd");
    let file = file.to_str().unwrap();
    program(
        "htpasswd",
        &["-Bbc", "-C", "5", file, "me", "secret"],
        directory.path(),
    )
    .await;
    let mut config = Config::new(path("registry"));
    config.tls = Some(Tls {
        certificate: path("cert.pem"),
        key: path("key.pem"),
    });
    config.access = Access::Users(file.into());
    let server = Server::with(config).await;
    let ours = images(&path("ours"));
    let text = format!("{}/app:1", server.address);
    import(&ours, &text, b"content");
    let reference = text.parse().unwrap();
    let auth = |password: &str| RegistryAuth {
        username: "me".into(),
        password: password.into(),
        ..RegistryAuth::default()
    };
    let login = |password: &'static str| {
        let (ours, address, auth) = (&ours, &server.address, auth(password));
        async move { bounded(ours.login(address, &auth)).await }
    };
    assert!(login("wrong").await.is_err());
    login("secret").await.unwrap();
    let options = PushOptions {
        auth: Some(auth("secret")),
    };
    bounded(ours.push(&reference, options, ProgressSender::silent()))
        .await
        .unwrap();
    let source = format!("docker://{text}");
    let target = format!("oci-archive:{}", path("out.tar").display());
    let arguments = [
        "copy",
        "--quiet",
        "--src-creds=me:secret",
        "--src-tls-verify=false",
        &source,
        &target,
    ];
    program("skopeo", &arguments, directory.path()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pushes_and_pulls() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = Server::start(&path("registry")).await;
    let ours = images(&path("ours"));
    import(&ours, "localhost/app:1", b"content");
    let archive = path("app.tar");
    let mut output = std::fs::File::create(&archive).unwrap();
    ours.save(&["localhost/app:1".into()], &mut output).unwrap();
    let root = path("podman");
    let (root, runroot) = (root.join("root"), root.join("run"));
    let globals = [
        "--root",
        root.to_str().unwrap(),
        "--runroot",
        runroot.to_str().unwrap(),
        "--storage-driver",
        "vfs",
    ];
    let podman = |arguments: Vec<String>| {
        let all: Vec<String> = globals
            .iter()
            .map(|word| (*word).to_owned())
            .chain(arguments)
            .collect();
        let home = directory.path().to_owned();
        async move {
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            program("podman", &all, &home).await
        }
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let target = format!("{}/p/app:2", server.address);
    podman(words(&format!(
        "load --quiet --input {}",
        archive.display()
    )))
    .await;
    podman(words(&format!(
        "push --quiet --tls-verify=false localhost/app:1 {target}"
    )))
    .await;
    podman(words("rmi --force localhost/app:1")).await;
    podman(words(&format!("pull --quiet --tls-verify=false {target}"))).await;
    podman(words("rmi --all --force")).await;
    let reference = target.parse().unwrap();
    let pulling = ours.pull(&reference, PullOptions::default(), ProgressSender::silent());
    bounded(pulling).await.unwrap();
    server.stop().await;
}
