//! Registries as the machine is configured to reach them: mirrors, authorities,
//! client certificates. `*.localhost` is loopback, but not by name, so it
//! needs a certificate like any other host.

use std::path::{Path, PathBuf};

use dhow_image::{Error, Images, RegistryOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::registries::{Distribution, Door, Fault, Liar, blob_path};
use crate::remote::{gz, pull, push};
use crate::support::{Machine, base, gzip, options};

/// A machine with a `certs.d`.
fn configured(change: impl FnOnce(&mut RegistryOptions)) -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.registries.certificates = vec![directory.path().join("certs.d")];
    options.registries.attempts = 2;
    change(&mut options.registries);
    let images = Images::open(options).unwrap();
    Machine { directory, images }
}

fn write(machine: &Machine, registry: &str, name: &str, text: &str) -> PathBuf {
    let folder = machine.directory.path().join("certs.d").join(registry);
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// An authority, and certificates of it.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A registry that speaks TLS and wants to see a certificate.
fn strict(folder: &Path, authority: &Authority) -> Distribution {
    let (certificate, key) = authority.issue("registry.localhost");
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    Distribution::start(&format!(
        "  tls:\n    certificate: {}\n    key: {}\n    clientcas: [{}]\n",
        file("server.crt", &certificate),
        file("server.key", &key),
        file("ca.crt", &authority.pem()),
    ))
}

#[tokio::test]
async fn certificates_are_shown_and_checked() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let registry = strict(folder.path(), &authority);
    let port = registry.address.rsplit(':').next().unwrap();
    let place = format!("registry.localhost:{port}");
    let target = format!("{place}/app:1");
    let (certificate, key) = authority.issue("somebody");

    let stranger = configured(|_| {});
    stranger.import(&gzip(&base()), &target);
    let error = push(&stranger, &target).await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");

    // Docker's way.
    let docker = configured(|_| {});
    docker.import(&gzip(&base()), &target);
    write(&docker, &place, "any.crt", &authority.pem());
    let error = push(&docker, &target).await.unwrap_err();
    assert!(
        matches!(error, Error::Network { .. } | Error::Unreachable { .. }),
        "{error}"
    );
    write(&docker, &place, "client.cert", &certificate);
    write(&docker, &place, "client.key", &key);
    push(&docker, &target).await.unwrap();

    // containerd's, for a registry of another name.
    let containerd = configured(|_| {});
    let hosts =
        format!("[host.'https://{place}']\n  ca = 'ca.pem'\n  client = [['me.pem', 'me.key']]\n");
    write(&containerd, "elsewhere.invalid", "hosts.toml", &hosts);
    write(&containerd, "elsewhere.invalid", "ca.pem", &authority.pem());
    write(&containerd, "elsewhere.invalid", "me.pem", &certificate);
    write(&containerd, "elsewhere.invalid", "me.key", &key);
    pull(&containerd, "elsewhere.invalid/app:1").await.unwrap();
    // It is read again when it has changed.
    let other = Authority::new();
    write(&containerd, "elsewhere.invalid", "ca.pem", &other.pem());
    let error = pull(&containerd, "elsewhere.invalid/app:1")
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Unreachable { .. } | Error::Network { .. }),
        "{error}"
    );

    // Insecure means that nobody need vouch; we still show what we have.
    let careless = configured(|options| options.insecure = vec!["registry.localhost".into()]);
    write(&careless, &place, "client.cert", &certificate);
    write(&careless, &place, "client.key", &key);
    pull(&careless, &target).await.unwrap();
}

#[tokio::test]
async fn mirrors_are_asked_in_order() {
    let (first, second) = (Liar::start(Door::Open).await, Liar::start(Door::Open).await);
    let home = Liar::start(Door::Basic).await;
    let machine = configured(|_| {});
    let hosts = format!(
        "server = 'http://{}'\n[host.'http://{}']\n  capabilities = ['pull', 'resolve']\n  \
         [host.'http://{}'.header]\n    x-from = 'tests'\n\
         [host.'http://{}/mirrors/of/v2']\n  override_path = false\n  capabilities = ['pull']\n",
        home.address, first.address, first.address, second.address
    );
    write(&machine, "app.invalid", "hosts.toml", &hosts);
    // Nobody has it; the last to be asked says so.
    let error = pull(&machine, "app.invalid/app:1").await.unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error}");
    // The first one knows the name, but has no layers; the second one has.
    let (manifest, _) = first.image("app", "1", &[base()], gz);
    let layer = &manifest.layers[0].digest;
    first.fault(&blob_path("app", layer), &[Fault::Status(404)]);
    let theirs = format!("/mirrors/of{}", blob_path("app", layer));
    second.blob_at(&theirs, gz(&base()).1);
    pull(&machine, "app.invalid/app:1").await.unwrap();
    assert_eq!(second.n_requests(&theirs), 1);
    let heads = first.state.heads.lock().unwrap().clone();
    assert!(heads.iter().all(|head| head.contains("x-from: tests")));
    assert!(
        heads
            .iter()
            .all(|head| head.contains("ns=app.invalid") || head.starts_with("GET /v2/ "))
    );
    // What may not be asked is not asked.
    machine.import(&gzip(&base()), "app.invalid/mine:1");
    let error = push(&machine, "app.invalid/mine:1").await.unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error}");
    assert!(first.n_requests("/v2/mine/blobs/uploads/") == 0);
    machine.audit();
}

#[tokio::test]
async fn credentials_stay_at_home() {
    let (mirror, home) = (
        Liar::start(Door::Open).await,
        Liar::start(Door::Basic).await,
    );
    let elsewhere = Liar::start(Door::Open).await;
    let (manifest, _) = home.image("app", "1", &[base()], gz);
    let layer = &manifest.layers[0].digest;
    // The registry sends us to somebody else for the layer.
    elsewhere.blob("cdn", gz(&base()).1);
    let there = format!("http://{}{}", elsewhere.address, blob_path("cdn", layer));
    home.fault(&blob_path("app", layer), &[Fault::Redirect(there)]);
    let machine = configured(|_| {});
    let hosts = format!(
        "server = 'http://{}'\n[host.'http://{}']\n  capabilities = ['pull', 'resolve']\n",
        home.address, mirror.address
    );
    write(&machine, "app.invalid", "hosts.toml", &hosts);
    crate::remote::pull_as_someone(&machine, "app.invalid/app:1")
        .await
        .unwrap();
    assert_eq!(elsewhere.n_requests(&blob_path("cdn", layer)), 1);
    for (liar, may_know) in [(&mirror, false), (&elsewhere, false), (&home, true)] {
        let heads = liar.state.heads.lock().unwrap();
        assert!(!heads.is_empty());
        let knows = heads
            .iter()
            .any(|head| head.to_lowercase().contains("authorization:"));
        assert_eq!(knows, may_know, "{heads:?}");
    }
}
