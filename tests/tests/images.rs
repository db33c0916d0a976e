//! Images on their way: a registry that wants to know who asks, with `docker`
//! and `dhow` as its clients; and what is done with images at home.

use std::io::Write;
use std::process::Stdio;

use dhow_oci::{Digest, media_type};
use dhow_testkit::{
    Daemon, Dockerd, Host, Ran, Reference, Registry, Shelf, TokenServer, at_dockerd, at_ours,
};

/// Where the registry is on the tests' own host.
const REGISTRY: &str = "127.0.0.1:5000";
/// `somebody` with the password below, as htpasswd files have it.
const ENTRY: &str = "somebody:$2b$04$GwKhRsqgiR0.qd.FaWM7gevZr0Uyaxcndpx.HPSHXm.J3wDOAf.bW\n";
const PASSWORD: &str = "a secret:word";

/// Debian's registry, which asks for a password.
fn registry(host: &Host) -> Registry {
    let users = host.folder().join("htpasswd");
    std::fs::write(&users, ENTRY).expect("a file");
    let users = users.display();
    let asks = format!("auth:\n  htpasswd: {{realm: tests, path: {users}}}\n");
    Registry::start(host, REGISTRY, "", &asks)
}

/// A client with a password on its standard input.
fn login(daemon: &Daemon, client: &str, password: &str) -> Ran {
    let words = ["login", "-u", "somebody", "--password-stdin", REGISTRY];
    let mut command = match client {
        "docker" => daemon.docker_command(&words),
        _ => dhow(daemon, &words),
    };
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut stdin = process.stdin.take().expect("it was piped");
    stdin.write_all(password.as_bytes()).expect("it reads");
    drop(stdin);
    let output = process.wait_with_output().expect("the client ends");
    Ran::new(format!("{client} login"), &output)
}

/// A `dhow` command with credentials of its own.
fn dhow(daemon: &Daemon, words: &[&str]) -> std::process::Command {
    let mut command = daemon.dhow_command(words);
    command.env("DOCKER_CONFIG", daemon.host().folder().join("dhow-config"));
    command
}

fn run(mut command: std::process::Command) -> Ran {
    let output = command.output().expect("the client starts");
    Ran::new(format!("{command:?}"), &output)
}

#[test]
fn images_go_to_a_registry_and_come_back() {
    let daemon = Daemon::start();
    daemon.busybox();
    let registry = registry(daemon.host());
    let name = format!("{REGISTRY}/team/tool:1");
    daemon.docker(&["tag", "busybox", &name]).ok();
    let error = daemon.docker(&["push", &name]).fails(1);
    assert!(error.contains("authentication required"), "{error}");
    login(&daemon, "docker", "wrong").fails(1);
    login(&daemon, "docker", PASSWORD).ok();
    let pushed = daemon.docker(&["push", &name]).ok();
    assert_eq!(pushed.matches("digest: sha256:").count(), 1, "{pushed}");
    daemon.docker(&["rmi", &name, "busybox"]).ok();
    assert_eq!(daemon.docker(&["images", "-q"]).ok(), "");

    // Our own client knows nobody yet.
    run(dhow(&daemon, &["pull", &name])).fails(1);
    login(&daemon, "dhow", "wrong").fails(1);
    login(&daemon, "dhow", PASSWORD).ok();
    run(dhow(&daemon, &["pull", &name])).ok();
    let error = run(dhow(&daemon, &["pull", &format!("{REGISTRY}/team/none:1")])).fails(1);
    assert!(error.contains("manifest unknown"), "{error}");
    let again = daemon.docker(&["pull", &name]).ok();
    assert!(again.contains("Image is up to date"), "{again}");
    let said = daemon
        .docker(&["run", "--rm", "--network", "none", &name, "echo", "hello"])
        .ok();
    assert_eq!(said, "hello");
    what_the_registry_has_is_told(&daemon, &name);
    run(dhow(&daemon, &["logout", REGISTRY])).ok();
    run(dhow(&daemon, &["pull", &name])).fails(1);
    drop(registry);
    daemon.finish();
}

/// What the engine says of an image that it asks the registry for.
fn what_the_registry_has_is_told(daemon: &Daemon, name: &str) {
    let socket = daemon.socket().display().to_string();
    let ask = |name: &str, headers: &[&str]| {
        let url = format!("http://dhow/v1.47/distribution/{name}/json");
        let words = ["-s", "--unix-socket", &socket, "-w", "\n%{http_code}", &url];
        daemon.host().run("curl", &[&words, headers].concat()).ok()
    };
    assert!(ask(name, &[]).ends_with("\n401"), "{}", ask(name, &[]));
    // base64url of {"username":"somebody","password":"a secret:word"}
    let known = [
        "-H",
        "X-Registry-Auth: eyJ1c2VybmFtZSI6InNvbWVib2R5IiwicGFzc3dvcmQiOiJhIHNlY3JldDp3b3JkIn0=",
    ];
    let missing = ask(&name.replace("/tool", "/none"), &known);
    assert!(missing.ends_with("\n404"), "{missing}");
    let told = ask(name, &known);
    let (told, code) = told.rsplit_once('\n').expect("two lines");
    assert_eq!(code, "200", "{told}");
    let told: serde_json::Value = serde_json::from_str(told).expect("JSON");
    let digests = daemon
        .docker(&["image", "inspect", "-f", "{{.RepoDigests}}", name])
        .ok();
    let digest = told["Descriptor"]["digest"].as_str().expect("a digest");
    assert!(digests.contains(&format!("@{digest}")), "{told} {digests}");
    assert_eq!(told["Platforms"][0]["os"], "linux");
}

/// Credentials are kept by a helper that is found in `PATH`, and nowhere else.
#[test]
fn helpers_keep_credentials() {
    let daemon = Daemon::start();
    daemon.busybox();
    let registry = registry(daemon.host());
    let folder = daemon.host().folder().join("helper");
    std::fs::create_dir_all(&folder).expect("a folder");
    let kept = folder.join("kept");
    let script = format!(
        "#!/bin/sh\nkept={}\ncase $1 in\nstore) cat > $kept ;;\n\
         get) cat > /dev/null; cat $kept 2> /dev/null ||\n\
             {{ echo credentials not found in native keychain; exit 1; }} ;;\n\
         erase) cat > /dev/null; rm -f $kept ;;\nesac\n",
        kept.display()
    );
    let program = folder.join("docker-credential-house");
    std::fs::write(&program, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("made executable");
    let path = format!(
        "{}:{}",
        folder.display(),
        std::env::var("PATH").expect("there is one")
    );
    let name = format!("{REGISTRY}/team/kept:1");
    daemon.docker(&["tag", "busybox", &name]).ok();
    for client in ["docker", "dhow"] {
        let config = folder.join(client);
        std::fs::create_dir(&config).expect("a folder");
        let settings = config.join("config.json");
        std::fs::write(&settings, r#"{"credsStore":"house"}"#).expect("written");
        let command = |words: &[&str]| {
            let mut command = match client {
                "docker" => daemon.docker_command(words),
                _ => daemon.dhow_command(words),
            };
            command.env("PATH", &path).env("DOCKER_CONFIG", &config);
            command
        };
        run(command(&["push", &name])).fails(1);
        let words = ["login", "-u", "somebody", "-p", PASSWORD, REGISTRY];
        run(command(&words)).ok();
        let stored = std::fs::read_to_string(&kept).expect("the helper has it");
        assert!(stored.contains("somebody"), "{client}: {stored}");
        let settings = std::fs::read_to_string(&settings).expect("it was there");
        // Neither in the clear nor as base64 of it.
        for secret in [PASSWORD, "c29tZWJvZHk6"] {
            assert!(!settings.contains(secret), "{client}: {settings}");
        }
        run(command(&["push", &name])).ok();
        run(command(&["pull", &name])).ok();
        run(command(&["logout", REGISTRY])).ok();
        assert!(!kept.exists(), "{client}");
        run(command(&["push", &name])).fails(1);
    }
    drop(registry);
    daemon.finish();
}

/// Who may do what where the registry believes a token server.
fn policy(repository: &str, is_known: bool) -> &'static [&'static str] {
    match (repository, is_known) {
        ("team/open", false) | ("team/sealed", true) => &["pull"],
        (_, true) => &["pull", "push"],
        (_, false) => &[],
    }
}

#[test]
fn a_token_server_says_who_may_do_what() {
    let daemon = Daemon::start();
    daemon.busybox();
    tokens(&daemon, "docker");
    daemon.finish();
}

#[test]
fn our_client_shows_a_token_server_who_it_is() {
    let daemon = Daemon::start();
    daemon.busybox();
    tokens(&daemon, "dhow");
    daemon.finish();
}

#[test]
fn dockerd_believes_a_token_server_alike() {
    let reference = Reference::start();
    reference.busybox();
    tokens(&reference, "docker");
}

fn tokens(daemon: &dyn Dockerd, client: &str) {
    let host = daemon.host();
    let server = TokenServer::start(host, "127.0.0.1:5001", ("somebody", PASSWORD), policy);
    let registry = Registry::start(host, REGISTRY, "", &server.configuration());
    let config = host.folder().join(format!("{client}-tokens"));
    std::fs::create_dir(&config).expect("a folder");
    let command = |words: &[&str]| {
        let mut command = match client {
            "docker" => daemon.docker_command(words),
            _ => daemon.dhow_command(words),
        };
        command.env("DOCKER_CONFIG", &config);
        run(command)
    };
    let name = |repository: &str| format!("{REGISTRY}/team/{repository}:1");
    let [tool, other, open, sealed] = ["tool", "other", "open", "sealed"].map(name);
    for name in [&tool, &other, &open, &sealed] {
        command(&["tag", "busybox", name]).ok();
    }
    let denied = "denied: requested access to the resource is denied";
    let error = command(&["push", &tool]).fails(1);
    assert!(error.contains(denied), "{error}");
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.starts_with("nobody "))
    );
    let error = command(&["login", "-u", "somebody", "-p", "wrong", REGISTRY]).fails(1);
    let expected =
        format!("Error response from daemon: Get \"http://{REGISTRY}/v2/\": unauthorized: ");
    assert!(error.contains(&expected), "{error}");
    let said = command(&["login", "-u", "somebody", "-p", PASSWORD, REGISTRY]).ok();
    assert!(said.contains("Login Succeeded"), "{said}");
    // What is kept is what the server gave, and no password.
    let kept = std::fs::read_to_string(config.join("config.json")).expect("it is kept");
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    let kept = &kept["auths"][REGISTRY];
    assert_eq!(kept["identitytoken"], "an-identity", "{kept}");
    assert!(
        kept["auth"] == "c29tZWJvZHk6" || kept["auth"].is_null(),
        "{kept}"
    );
    server.asked();
    command(&["push", &tool]).ok();
    let asked = server.asked();
    let is_asked = |asked: &[String], how: &str, scope: &str| {
        let wanted = |one: &String| one.starts_with(how) && one.contains(scope);
        asked.iter().any(wanted)
    };
    assert!(
        is_asked(&asked, "identity ", "repository:team/tool:push,pull")
            || is_asked(&asked, "identity ", "repository:team/tool:pull,push"),
        "{asked:?}"
    );
    // What one repository has, another is given without its being sent again; that
    // wants the right to pull there.
    let pushed = command(&["push", &other]).ok();
    let asked = server.asked();
    assert!(pushed.contains("Mounted from team/tool"), "{pushed}");
    assert!(
        is_asked(&asked, "identity ", "repository:team/tool:pull"),
        "{asked:?}"
    );
    command(&["push", &open]).ok();
    let error = command(&["push", &sealed]).fails(1);
    assert!(error.contains(denied), "{error}");
    for name in [&tool, &other, &open, &sealed] {
        command(&["rmi", name]).ok();
    }
    command(&["pull", &tool]).ok();
    let error = command(&["pull", &name("none")]).fails(1);
    assert!(error.contains("manifest unknown"), "{error}");
    let said = command(&["logout", REGISTRY]).ok();
    assert!(said.contains("Removing login credentials for"), "{said}");
    command(&["rmi", &tool]).ok();
    let error = command(&["pull", &tool]).fails(1);
    let expected = format!(
        "pull access denied for {REGISTRY}/team/tool, repository does not exist or may require 'docker login': {denied}"
    );
    assert!(error.contains(&expected), "{error}");
    command(&["pull", &open]).ok();
    command(&["rmi", &open]).ok();
    // An identity that is taken back, kept by a helper under the name that says what
    // it is.
    let helper = config.join("docker-credential-token");
    let script = format!(
        "#!/bin/sh\ncat > /dev/null\n[ $1 = get ] && echo '{{\"ServerURL\":\"{REGISTRY}\",\"Username\":\"<token>\",\"Secret\":\"an-identity\"}}'\n"
    );
    std::fs::write(&helper, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&helper, mode).expect("made executable");
    std::fs::write(config.join("config.json"), r#"{"credsStore":"token"}"#).expect("written");
    let path = std::env::var("PATH").expect("there is one");
    let path = format!("{}:{path}", config.display());
    let helped = |words: &[&str]| {
        let mut command = match client {
            "docker" => daemon.docker_command(words),
            _ => daemon.dhow_command(words),
        };
        command.env("DOCKER_CONFIG", &config).env("PATH", &path);
        run(command)
    };
    helped(&["pull", &tool]).ok();
    server.revoke();
    let error = helped(&["push", &tool]).fails(1);
    assert!(error.contains("unauthorized"), "{error}");
    command(&["rmi", &tool]).ok();
    drop(registry);
}

/// What device nodes and links of an image's layers lead to: nothing of the host's.
#[test]
fn hostile_layers_reach_nothing_of_the_host() {
    let daemon = Daemon::start();
    daemon.busybox();
    let folder = daemon.host().folder().join("hostile");
    let (files, target) = (folder.join("files"), folder.join("target"));
    for folder in [&files, &target] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    std::fs::write(target.join("secret"), "untouched").expect("written");
    // A disk of the host's, if it has one, its memory and its log.
    let disks = std::fs::read_dir("/sys/block").into_iter().flatten();
    let disk = disks
        .flatten()
        .filter_map(|disk| std::fs::read_to_string(disk.path().join("dev")).ok())
        .max();
    let disk = disk.map_or("7 0".to_owned(), |disk| disk.trim().replace(':', " "));
    let at = |path: &std::path::Path| path.display().to_string();
    let sh = |script: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-euc", script]).current_dir(&folder);
        run(command).ok()
    };
    daemon
        .docker(&["create", "--name", "base", "--network", "none", "busybox"])
        .ok();
    let base = at(&files.join("base.tar"));
    daemon.docker(&["export", "-o", &base, "base"]).ok();
    daemon.docker(&["rm", "base"]).ok();
    // Layers: a root, a link out of it and devices, a file beyond the link.
    sh(&format!(
        "mkdir one two two/out && ln -s {} one/out && mknod one/disk b {disk} && \
         mknod one/mem c 1 1 && mknod one/kmsg c 1 11 && mknod one/null c 1 3 && \
         chmod 666 one/* && echo evil > two/out/secret && \
         tar -cf files/one.tar -C one . && tar -cf files/two.tar -C two out/secret",
        at(&target)
    ));
    let layers = ["base.tar", "one.tar", "two.tar"];
    let digests = layers.map(|layer| {
        let sum = sh(&format!("sha256sum files/{layer}"));
        format!("\"sha256:{}\"", sum.split(' ').next().expect("a sum"))
    });
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        daemon.docker(&["version", "-f", "{{.Server.Arch}}"]).ok(),
        digests.join(",")
    );
    std::fs::write(files.join("config.json"), config).expect("written");
    let list = r#"[{"Config":"config.json","RepoTags":["hostile:1"],
        "Layers":["base.tar","one.tar","two.tar"]}]"#;
    std::fs::write(files.join("manifest.json"), list).expect("written");
    sh("tar -cf image.tar -C files manifest.json config.json base.tar one.tar two.tar");
    daemon
        .docker(&["load", "-i", &at(&folder.join("image.tar"))])
        .ok();

    let script = "[ -b /disk ] && [ -c /mem ] && echo nodes; \
        for at in disk mem kmsg; do head -c 1 /$at 2>&1; (: > /$at) 2>&1; done; \
        echo through > /null && echo fine; [ -L /out ] && echo link; cat /out/secret";
    let words = [
        "run",
        "--rm",
        "--network",
        "none",
        "hostile:1",
        "sh",
        "-c",
        script,
    ];
    let seen = daemon.docker(&words).ok();
    let refusals = seen.matches("Operation not permitted").count();
    let others: Vec<&str> = seen
        .lines()
        .filter(|line| !line.contains("Operation not permitted"))
        .collect();
    assert_eq!(
        (refusals, &others[..]),
        (6, &["nodes", "fine", "evil"][..]),
        "{seen}"
    );
    let kept = std::fs::read_to_string(target.join("secret")).expect("it is there");
    assert_eq!(kept, "untouched");
    daemon.finish();
}

#[test]
fn changes_prune_and_refusals() {
    let daemon = Daemon::start();
    daemon.busybox();
    let docker = |words: &[&str]| daemon.docker(words);
    change_prune_and_refuse(&docker, daemon.host());
    daemon.finish();
}

#[test]
fn dockerd_changes_prunes_and_refuses_alike() {
    let reference = Reference::start();
    reference.busybox();
    let docker = |words: &[&str]| reference.docker(words);
    change_prune_and_refuse(&docker, reference.host());
}

/// What is done with the image `busybox` and others made of it; none is left.
fn change_prune_and_refuse(docker: &dyn Fn(&[&str]) -> Ran, host: &Host) {
    let archive = host.folder().join("files.tar");
    let archive = archive.display().to_string();
    docker(&[
        "create",
        "--name",
        "one",
        "--network",
        "none",
        "busybox",
        "true",
    ])
    .ok();
    docker(&["export", "-o", &archive, "one"]).ok();
    let import = |words: &[&str]| docker(&[&["import"], words, &[&archive]].concat());
    import(&[
        "-c",
        "CMD [\"echo\", \"changed\"]",
        "-c",
        "LABEL kind=plain",
    ])
    .ok();
    let listed = docker(&["images", "-q", "--filter", "label=kind=plain"]).ok();
    let id = listed.trim();
    let said = docker(&["run", "--rm", "--network", "none", id]).ok();
    assert_eq!(said, "changed");
    docker(&["commit", "-c", "ENV A=b", "one", "committed"]).ok();
    let shown = docker(&["inspect", "-f", "{{.Config.Env}}", "committed"]).ok();
    assert!(shown.contains("A=b"), "{shown}");

    // Too young; then dangling; what has a name stays.
    let prune = |words: &[&str]| docker(&[&["image", "prune", "-f"], words].concat());
    let kept = prune(&["--filter", "until=1h"]).ok();
    assert!(!kept.contains(id), "{kept}");
    let gone = prune(&[]).ok();
    assert!(gone.contains(&format!("deleted: sha256:{id}")), "{gone}");
    let error = prune(&["--filter", "until=soon"]).fails(1);
    assert!(error.contains("soon"), "{error}");
    let error = docker(&["rmi", "busybox"]).fails(1);
    assert!(error.contains("must force"), "{error}");
    docker(&["rm", "one"]).ok();
    let gone = prune(&["-a"]).ok();
    assert!(gone.contains("untagged: busybox:latest"), "{gone}");
    assert_eq!(docker(&["images", "-q"]).ok(), "");
}

/// Who is still sending an archive that is not wanted hears why, rather than of a
/// connection that broke.
#[test]
fn archives_that_are_refused_are_told_why() {
    let daemon = Daemon::start();
    daemon.busybox();
    let archive = |name: &str, begin: &[u8], length: u64| {
        let path = daemon.host().folder().join(name);
        let mut file = std::fs::File::create(&path).expect("a file");
        file.write_all(begin).expect("written");
        file.set_len(length).expect("a length");
        path.display().to_string()
    };
    for (name, length) in [("small", 1 << 20), ("large", 48 << 20), ("huge", 400 << 20)] {
        let path = archive(name, b"", length);
        let words = ["import", "-c", "NONSENSE x", &path, "made"];
        let error = daemon.docker(&words).fails(1);
        assert!(error.contains("NONSENSE"), "{name}: {error}");
        let garbage = archive(name, &[b'x'; 2000], length);
        let error = daemon.docker(&["import", &garbage, "made"]).fails(1);
        assert!(error.contains("archive"), "{name}: {error}");
    }
    assert_eq!(daemon.docker(&["images", "-q"]).ok().lines().count(), 1);
    daemon.finish();
}

/// Layers that were pulled are pushed byte by byte as they came: nothing is compressed
/// again, and the manifest is the same.
#[test]
fn what_was_pulled_is_pushed_as_it_came() {
    let daemon = Daemon::start();
    daemon.busybox();
    let shelf = Shelf::start(daemon.host());
    let out = daemon.host().folder().join("layer.tar");
    let out = out.display().to_string();
    daemon
        .docker(&["create", "--name=one", "--network=none", "busybox"])
        .ok();
    daemon.docker(&["export", "-o", &out, "one"]).ok();
    daemon.docker(&["rm", "one"]).ok();
    let layer = std::fs::read(&out).expect("it was exported");
    // As nobody here would compress it.
    daemon.host().run("gzip", &["-1", "--no-name", &out]).ok();
    let packed = std::fs::read(format!("{out}.gz")).expect("it was packed");
    let config = serde_json::json!({
        "architecture": daemon.docker(&["version", "-f", "{{.Server.Arch}}"]).ok(),
        "os": "linux", "odd": { "kept": [1, 2.50, null] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).as_str()] },
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": shelf.blob("team/tool", media_type::OCI_CONFIG, config.to_string().as_bytes()),
        "layers": [shelf.blob("team/tool", media_type::OCI_LAYER_GZIP, &packed)],
        "annotations": { "odd": "kept" },
    });
    let text = format!("{manifest:#}");
    let described = shelf.manifest("team/tool", "1", media_type::OCI_MANIFEST, &text);
    let digest = described["digest"].as_str().expect("a digest");
    let from = format!("{}/team/tool:1", shelf.address());
    daemon.docker(&["pull", "-q", &from]).ok();

    let registry = Registry::start(daemon.host(), REGISTRY, "", "");
    let to = format!("{REGISTRY}/other/tool:2");
    daemon.docker(&["tag", &from, &to]).ok();
    let pushed = daemon.docker(&["push", &to]).ok();
    assert!(pushed.contains(&format!("2: digest: {digest}")), "{pushed}");
    daemon.docker(&["rmi", &from, &to]).ok();
    run(dhow(&daemon, &["pull", &to])).ok();
    let digests = ["image", "inspect", "-f", "{{.RepoDigests}}", &to];
    let digests = daemon.docker(&digests).ok();
    assert!(digests.contains(&format!("@{digest}")), "{digests}");
    drop(registry);
    daemon.finish();
}

/// A name without a tag means all that is under it.
#[test]
fn all_tags_are_pulled() {
    at_ours(all_tags);
}

#[test]
fn dockerd_pulls_all_tags() {
    at_dockerd(&[all_tags]);
}

fn all_tags(daemon: &dyn Dockerd) {
    let registry = Registry::start(daemon.host(), REGISTRY, "", "");
    let repository = format!("{REGISTRY}/team/tool");
    let names = ["1", "2", "latest"].map(|tag| format!("{repository}:{tag}"));
    for name in &names {
        daemon.docker(&["tag", "busybox", name]).ok();
        daemon.docker(&["push", "-q", name]).ok();
    }
    let remove = [&["rmi"], &names.each_ref().map(String::as_str)[..]].concat();
    let list = ["images", "--format={{.Repository}}:{{.Tag}}", &repository];
    let listed = || {
        let mut listed: Vec<String> = daemon
            .docker(&list)
            .ok()
            .lines()
            .map(str::to_owned)
            .collect();
        listed.sort();
        listed
    };
    daemon.docker(&remove).ok();
    daemon.docker(&["pull", &repository]).ok();
    assert_eq!(listed(), names[2..]);
    daemon.docker(&["pull", "-a", &repository]).ok();
    assert_eq!(listed(), names);
    let nobody = format!("{REGISTRY}/team/nobody");
    let error = daemon.docker(&["pull", "-a", &nobody]).fails(1);
    assert!(error.contains("nobody"), "{error}");
    daemon.docker(&remove).ok();
    if !daemon.is_reference() {
        daemon.dhow(&["pull", "-a", &repository]).ok();
        assert_eq!(listed(), names);
        daemon.docker(&remove).ok();
    }
    drop(registry);
}

/// Tags come page by page, and no page is somewhere else.
#[test]
fn tags_come_in_pages() {
    let daemon = Daemon::start();
    let shelf = Shelf::start(daemon.host());
    let path = "/v2/many/tags/list";
    let page = |next: &str| format!("application/json\r\nLink: <{next}>; rel=\"next\"");
    let name = format!("{}/many", shelf.address());
    let pull = || daemon.docker(&["pull", "-a", &name]).fails(1);
    // There is no second page, nor are there manifests.
    shelf.keep(path, &page("/v2/many/tags/more?n=1"), r#"{"tags":["a"]}"#);
    assert!(pull().contains("manifest for"));
    shelf.keep(
        "/v2/many/tags/more",
        "application/json",
        r#"{"tags":["b","../c"]}"#,
    );
    assert!(pull().contains("invalid reference format"));
    for next in [
        "http://127.0.0.1:1/v2/many/tags/list",
        "file:///etc/passwd",
        path,
        "//",
    ] {
        shelf.keep(path, &page(next), r#"{"tags":["a"]}"#);
        let error = pull();
        assert!(error.contains("violates the protocol"), "{next}: {error}");
    }
    for text in ["", "null", r#"{"tags":[1]}"#, "["] {
        shelf.keep(path, "application/json", text);
        let error = pull();
        assert!(error.contains("list of tags"), "{text:?}: {error}");
    }
    daemon.finish();
}
