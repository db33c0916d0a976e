//! The distribution specification, request by request.

use dhow_oci::{Descriptor, Digest, Index, Manifest, media_type};
use dhow_registry::{Access, Config};

use crate::support::Server;

async fn upload(server: &Server, name: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
    let answer = server.ask_with("POST", &path, &[], bytes).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    digest
}

async fn put_manifest(server: &Server, name: &str, tag: &str, manifest: &Manifest) -> Digest {
    let bytes = serde_json::to_vec(manifest).unwrap();
    let path = format!("/v2/{name}/manifests/{tag}");
    let answer = server
        .ask_with(
            "PUT",
            &path,
            &[("Content-Type", media_type::OCI_MANIFEST)],
            &bytes,
        )
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let digest = Digest::of(&bytes);
    assert_eq!(answer.header("docker-content-digest"), digest.as_str());
    digest
}

async fn image(server: &Server, name: &str, content: &[u8]) -> Manifest {
    let layer = upload(server, name, content).await;
    let config = upload(server, name, b"{}").await;
    Manifest::new(
        Descriptor::new(media_type::OCI_CONFIG, config, 2),
        vec![Descriptor::new(
            media_type::OCI_LAYER,
            layer,
            content.len() as u64,
        )],
    )
}

#[tokio::test]
async fn blobs_are_read_in_whole_and_in_part() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    assert_eq!(server.ask("GET", "/v2/").await.status, 200);
    let digest = upload(&server, "a/b", b"0123456789").await;
    let path = format!("/v2/a/b/blobs/{digest}");
    let answer = server.ask("GET", &path).await;
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, &b"0123456789"[..])
    );
    assert_eq!(answer.header("docker-content-digest"), digest.as_str());
    let answer = server.ask("HEAD", &path).await;
    assert_eq!(
        (
            answer.status,
            answer.header("content-length"),
            answer.body.len()
        ),
        (200, "10", 0)
    );
    let answer = server
        .ask_with("GET", &path, &[("Range", "bytes=3-5")], b"")
        .await;
    assert_eq!((answer.status, answer.body.as_slice()), (206, &b"345"[..]));
    assert_eq!(answer.header("content-range"), "bytes 3-5/10");
    let answer = server
        .ask_with("GET", &path, &[("Range", "bytes=10-")], b"")
        .await;
    answer.refused(416, "RANGE_INVALID");
    let etag = format!("\"{digest}\"");
    assert_eq!(
        server
            .ask_with("GET", &path, &[("If-None-Match", &etag)], b"")
            .await
            .status,
        304
    );
    // Another repository does not have it, until it is mounted there.
    let other = format!("/v2/other/blobs/{digest}");
    server.ask("GET", &other).await.refused(404, "BLOB_UNKNOWN");
    let mount = format!("/v2/other/blobs/uploads/?mount={digest}&from=a/b");
    assert_eq!(server.ask("POST", &mount).await.status, 201);
    assert_eq!(server.ask("HEAD", &other).await.status, 200);
    let missing = format!(
        "/v2/other/blobs/uploads/?mount={}&from=a/b",
        Digest::of(b"x")
    );
    assert_eq!(server.ask("POST", &missing).await.status, 202);
    // One lets go of it, the other keeps it.
    assert_eq!(server.ask("DELETE", &path).await.status, 202);
    server.ask("GET", &path).await.refused(404, "BLOB_UNKNOWN");
    assert_eq!(server.ask("GET", &other).await.status, 200);
    server
        .ask("GET", "/v2/a/blobs/sha256:12")
        .await
        .refused(400, "DIGEST_INVALID");
    server
        .ask("GET", "/v2/A/tags/list")
        .await
        .refused(400, "NAME_INVALID");
    server.ask("PUT", &path).await.refused(405, "UNSUPPORTED");
    server
        .ask("GET", "/nothing")
        .await
        .refused(404, "UNSUPPORTED");
    server.stop().await;
}

#[tokio::test]
async fn uploads_come_in_pieces_and_go_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let opened = server.ask("POST", "/v2/a/blobs/uploads/").await;
    assert_eq!(opened.status, 202);
    let location = opened.header("location").to_owned();
    let range = ("Content-Range", "0-4");
    let answer = server
        .ask_with("PATCH", &location, &[range], b"hello")
        .await;
    assert_eq!((answer.status, answer.header("range")), (202, "0-4"));
    // Where it does not go on, it is refused, and told where it would.
    for wrong in ["0-4", "7-9", "5-99", "x"] {
        let range = ("Content-Range", wrong);
        let answer = server
            .ask_with("PATCH", &location, &[range], b" worl")
            .await;
        answer.refused(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(answer.header("range"), "0-4", "{wrong}");
    }
    // What breaks off is kept.
    server.break_off("PATCH", &location, 1000, b" wo").await;
    let status = server.ask("GET", &location).await;
    assert_eq!((status.status, status.header("range")), (204, "0-7"));
    server.stop().await;

    let server = Server::start(directory.path()).await;
    let status = server.ask("GET", &location).await;
    assert_eq!((status.status, status.header("range")), (204, "0-7"));
    let digest = Digest::of(b"hello world");
    let put = format!("{location}?digest={digest}");
    let answer = server.ask_with("PUT", &put, &[], b"rld").await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (201, &*format!("/v2/a/blobs/{digest}"))
    );
    assert_eq!(
        server
            .ask("GET", &format!("/v2/a/blobs/{digest}"))
            .await
            .body,
        b"hello world"
    );
    server
        .ask("GET", &location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");

    // A lie is refused, and the upload is over.
    let opened = server.ask("POST", "/v2/a/blobs/uploads/").await;
    let location = opened.header("location").to_owned();
    let put = format!("{location}?digest={digest}");
    server
        .ask_with("PUT", &put, &[], b"something else")
        .await
        .refused(400, "DIGEST_INVALID");
    server
        .ask("GET", &location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    // One that is given up is over, too.
    let opened = server.ask("POST", "/v2/a/blobs/uploads/").await;
    let location = opened.header("location").to_owned();
    assert_eq!(
        server.ask_with("PATCH", &location, &[], b"x").await.status,
        202
    );
    assert_eq!(server.ask("DELETE", &location).await.status, 204);
    server
        .ask_with("PATCH", &location, &[], b"x")
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    // Nobody else's.
    let opened = server.ask("POST", "/v2/a/blobs/uploads/").await;
    let theirs = opened.header("location").replace("/a/", "/b/");
    server
        .ask("GET", &theirs)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    let sha512 = {
        let mut digester = dhow_oci::Algorithm::Sha512.digester();
        digester.update(b"long");
        digester.finish()
    };
    let path = format!("/v2/a/blobs/uploads/?digest={sha512}");
    assert_eq!(
        server.ask_with("POST", &path, &[], b"long").await.status,
        201
    );
    assert_eq!(
        server
            .ask("GET", &format!("/v2/a/blobs/{sha512}"))
            .await
            .body,
        b"long"
    );
    server.stop().await;
}

#[tokio::test]
async fn blobs_have_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::new(directory.path().to_owned());
    config.max_blob = 1000;
    let server = Server::with(config).await;
    let bytes = vec![0; 1001];
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::of(&bytes));
    server
        .ask_with("POST", &path, &[], &bytes)
        .await
        .refused(413, "SIZE_INVALID");
    let manifest = vec![b' '; dhow_oci::MAX_DOCUMENT + 1];
    let answer = server
        .ask_with("PUT", "/v2/a/manifests/x", &[], &manifest)
        .await;
    answer.refused(413, "SIZE_INVALID");
    server.stop().await;
}

#[tokio::test]
async fn manifests_need_what_they_name() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let manifest = image(&server, "a", b"layer").await;
    let digest = put_manifest(&server, "a", "1", &manifest).await;
    let path = "/v2/a/manifests/1";
    let answer = server.ask("GET", path).await;
    assert_eq!(answer.header("content-type"), media_type::OCI_MANIFEST);
    assert_eq!(Digest::of(&answer.body), digest);
    let head = server.ask("HEAD", path).await;
    assert_eq!(head.header("content-length"), answer.body.len().to_string());
    // Elsewhere its blobs are missing.
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let kind = [("Content-Type", media_type::OCI_MANIFEST)];
    let put = |path: &'static str| server.ask_with("PUT", path, &kind, &bytes);
    put("/v2/b/manifests/1")
        .await
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
    let wrong = format!("/v2/a/manifests/{}", Digest::of(b"x"));
    server
        .ask_with("PUT", &wrong, &kind, &bytes)
        .await
        .refused(400, "DIGEST_INVALID");
    for nonsense in [
        "",
        "{}",
        "[]",
        r#"{"schemaVersion":1}"#,
        r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#,
    ] {
        let answer = server
            .ask_with("PUT", path, &kind, nonsense.as_bytes())
            .await;
        answer.refused(400, "MANIFEST_INVALID");
    }
    server
        .ask("GET", "/v2/a/manifests/none")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    // Tags in pages.
    for tag in ["2", "3", "latest"] {
        put_manifest(&server, "a", tag, &manifest).await;
    }
    let first = server.ask("GET", "/v2/a/tags/list?n=2").await;
    assert_eq!(first.text(), r#"{"name":"a","tags":["1","2"]}"#);
    assert_eq!(
        first.header("link"),
        "</v2/a/tags/list?n=2&last=2>; rel=\"next\""
    );
    let second = server.ask("GET", "/v2/a/tags/list?n=2&last=2").await;
    assert_eq!(
        (second.text().as_str(), second.header("link")),
        (r#"{"name":"a","tags":["3","latest"]}"#, "")
    );
    server
        .ask("GET", "/v2/nobody/tags/list")
        .await
        .refused(404, "NAME_UNKNOWN");
    server
        .ask("GET", "/v2/a/tags/list?n=x")
        .await
        .refused(400, "PAGINATION_NUMBER_INVALID");
    assert_eq!(
        server.ask("GET", "/v2/_catalog").await.text(),
        r#"{"repositories":["a"]}"#
    );
    // A tag goes alone, a manifest takes its tags along.
    assert_eq!(server.ask("DELETE", "/v2/a/manifests/1").await.status, 202);
    server
        .ask("DELETE", "/v2/a/manifests/1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    let path = format!("/v2/a/manifests/{digest}");
    assert_eq!(server.ask("GET", &path).await.status, 200);
    assert_eq!(server.ask("DELETE", &path).await.status, 202);
    server
        .ask("GET", "/v2/a/manifests/latest")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    server.stop().await;
}

#[tokio::test]
async fn referrers_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let subject = image(&server, "a", b"layer").await;
    let bytes = serde_json::to_vec(&subject).unwrap();
    let target = Descriptor::new(
        media_type::OCI_MANIFEST,
        Digest::of(&bytes),
        bytes.len() as u64,
    );
    let mut expected = Vec::new();
    for kind in ["test/signature", "test/sbom"] {
        let mut artifact = image(&server, "a", kind.as_bytes()).await;
        artifact.artifact_type = Some(kind.to_owned());
        artifact.annotations.insert("k".into(), kind.into());
        artifact.subject = Some(target.clone());
        // Also before the subject is there.
        expected.push(
            put_manifest(
                &server,
                "a",
                Digest::of(&serde_json::to_vec(&artifact).unwrap()).as_str(),
                &artifact,
            )
            .await,
        );
    }
    put_manifest(&server, "a", "1", &subject).await;
    let path = format!("/v2/a/referrers/{}", target.digest);
    let answer = server.ask("GET", &path).await;
    assert_eq!(answer.header("content-type"), media_type::OCI_INDEX);
    let index: Index = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(index.manifests.len(), 2);
    assert!(
        index
            .manifests
            .iter()
            .all(|entry| expected.contains(&entry.digest))
    );
    let answer = server
        .ask("GET", &format!("{path}?artifactType=test/sbom"))
        .await;
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    let index: Index = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(index.manifests.len(), 1);
    assert_eq!(
        index.manifests[0].artifact_type.as_deref(),
        Some("test/sbom")
    );
    assert_eq!(index.manifests[0].annotations["k"], "test/sbom");
    let nothing = server
        .ask("GET", &format!("/v2/a/referrers/{}", Digest::of(b"x")))
        .await;
    assert_eq!(nothing.status, 200);
    // Indexes need their manifests.
    let lonely = serde_json::to_vec(&Index::new(vec![Descriptor::new(
        media_type::OCI_MANIFEST,
        Digest::of(b"x"),
        1,
    )]))
    .unwrap();
    let kind = [("Content-Type", media_type::OCI_INDEX)];
    server
        .ask_with("PUT", "/v2/a/manifests/i", &kind, &lonely)
        .await
        .refused(400, "MANIFEST_UNKNOWN");
    let index = serde_json::to_vec(&Index::new(vec![target])).unwrap();
    assert_eq!(
        server
            .ask_with("PUT", "/v2/a/manifests/i", &kind, &index)
            .await
            .status,
        201
    );
    server.stop().await;
}

#[tokio::test]
async fn doors_can_be_locked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("htpasswd");
    let status = std::process::Command::new("htpasswd")
        .args(["-Bbc", "-C", "5"])
        .args([file.as_os_str(), "me".as_ref(), "secret".as_ref()])
        .stderr(std::process::Stdio::null())
        .status()
        .expect("htpasswd is installed (Debian package apache2-utils)");
    assert!(status.success());
    let me = [("Authorization", "Basic bWU6c2VjcmV0")];
    let wrong = [("Authorization", "Basic bWU6d3Jvbmc=")];
    for access in [Access::Users(file.clone()), Access::ReadOpen(file)] {
        let reads = matches!(access, Access::ReadOpen(_));
        let mut config = Config::new(directory.path().join(if reads { "r" } else { "u" }));
        config.access = access;
        let server = Server::with(config).await;
        let answer = server.ask("GET", "/v2/").await;
        answer.refused(401, "UNAUTHORIZED");
        assert!(
            answer
                .header("www-authenticate")
                .starts_with("Basic realm=")
        );
        server
            .ask_with("GET", "/v2/", &wrong, b"")
            .await
            .refused(401, "UNAUTHORIZED");
        assert_eq!(server.ask_with("GET", "/v2/", &me, b"").await.status, 200);
        server
            .ask("POST", "/v2/a/blobs/uploads/")
            .await
            .refused(401, "UNAUTHORIZED");
        let list = server.ask("GET", "/v2/_catalog").await;
        assert_eq!(list.status, if reads { 200 } else { 401 });
        assert_eq!(
            server
                .ask_with("POST", "/v2/a/blobs/uploads/", &me, b"")
                .await
                .status,
            202
        );
        server.stop().await;
    }
}

#[tokio::test]
async fn what_nothing_needs_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = Config::new(directory.path().to_owned());
        // What is a second old is old.
        config.keep = std::time::Duration::ZERO;
        config
    };
    let server = Server::start(directory.path()).await;
    let manifest = image(&server, "a", b"kept").await;
    put_manifest(&server, "a", "1", &manifest).await;
    let lost = upload(&server, "a", b"lost").await;
    server.stop().await;
    let blobs = directory.path().join("content/blobs/sha256");
    let backdated = std::time::Instant::now();
    // The clock's grain is a second: wait for the next by starting anew.
    while blobs.join(lost.hex()).exists() {
        assert!(
            backdated.elapsed() < std::time::Duration::from_secs(30),
            "never swept"
        );
        let server = Server::with(config()).await;
        server.ask("GET", "/v2/").await;
        server.stop().await;
    }
    let server = Server::start(directory.path()).await;
    assert_eq!(server.ask("GET", "/v2/a/manifests/1").await.status, 200);
    let layer = format!("/v2/a/blobs/{}", manifest.layers[0].digest);
    assert_eq!(server.ask("GET", &layer).await.body, b"kept");
    server
        .ask("GET", &format!("/v2/a/blobs/{lost}"))
        .await
        .refused(404, "BLOB_UNKNOWN");
    server.stop().await;
}
