//! `dhow` beside `docker`: what they print by the same templates of the same
//! daemon, and how they reach one far away.

use std::process::Command;

use dhow_testkit::{Daemon, Ran, certificates};

/// Templates by command. What they print is the same to the letter.
const SAME: [(&[&str], &[&str]); 9] = [
    (
        &["ps", "-a", "--no-trunc", "--format"],
        &[
            "{{.ID}}\t{{.Names}}",
            "{{.Image}} {{.Command}} {{.CreatedAt}} {{.State}} {{.Ports}}",
            r#"{{.Label "kind"}}|{{.Labels}}|{{.Networks}}|{{.LocalVolumes}}|{{.Mounts}}"#,
            r"table {{.Names}}\t{{.Image}}\t{{.Ports}}",
            r#"table {{.Names}}\t{{.Label "of.kind"}}\t{{upper .State}}"#,
            "{{json .Names}} {{lower .State}} {{upper .State}} {{title .State}} {{truncate .ID 5}}",
            r#"{{if eq .State "running"}}up{{else}}down{{end}}"#,
            r#"{{range split .Image "s"}}<{{.}}>{{end}}"#,
            r#"{{join (split .Image "s") "-"}}{{println}}{{len .Names}}"#,
            r#"{{printf "%-12s|%q" .Names .State}}"#,
            r#"{{with .Ports}}{{.}}{{else}}no ports{{end}}"#,
            r#"{{pad .Names 2 1}}."#,
        ],
    ),
    (
        &["inspect", "--format"],
        &[
            "{{.Name}} {{.State.Status}} {{.State.Running}} {{.State.ExitCode}}",
            "{{.Config.Cmd}} {{.Config.Labels}} {{.Config.Entrypoint}}",
            "{{json .Config.Labels}} {{json .Config.Cmd}} {{json .State.Running}}",
            r#"{{index .Config.Labels "kind"}}{{index .Config.Labels "none"}}"#,
            "{{range .Mounts}}{{.Type}}:{{.Destination}}:{{.RW}} {{end}}",
            "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}={{$net.IPAddress}} {{end}}",
            r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostIp}}"#,
            "{{with .HostConfig}}{{.Memory}} {{.RestartPolicy.Name}}{{end}}",
            "{{$x := .Name}}{{slice $x 1}}",
            r#"{{if and .State.Running (not .State.Paused)}}runs{{end}}"#,
            r#"{{range $i, $word := .Config.Cmd}}{{if $i}} {{end}}{{$word}}{{end}}"#,
            "a\\tb{{/* nothing */}} {{- .State.Status -}} x",
            "{{join .Config.Cmd \" \"}} {{len .Config.Cmd}} {{gt .HostConfig.Memory 0}}",
        ],
    ),
    (
        &["image", "inspect", "busybox", "--format"],
        &["{{.Id}} {{.Os}}/{{.Architecture}} {{.RepoTags}} {{.Config.Cmd}} {{len .RootFS.Layers}}"],
    ),
    (
        &["images", "--no-trunc", "--format"],
        &[
            "{{.Repository}}:{{.Tag}} {{.ID}} {{.CreatedAt}} {{.Size}}",
            r"table {{.Repository}}\t{{.Tag}}\t{{.Size}}",
            "json",
        ],
    ),
    (
        &["volume", "ls", "--format"],
        &[
            "{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}} {{.Labels}}",
            r#"{{.Label "a"}}"#,
            "json",
            r"table {{.Name}}\t{{.Driver}}",
        ],
    ),
    (
        &["volume", "inspect", "data", "--format"],
        &["{{.Name}} {{.Driver}} {{json .Labels}}"],
    ),
    (
        &[
            "network",
            "ls",
            "--no-trunc",
            "--filter",
            "type=custom",
            "--format",
        ],
        &[
            "{{.ID}} {{.Name}} {{.Driver}} {{.IPv6}} {{.Internal}} {{.Labels}}",
            "json",
        ],
    ),
    (
        &["network", "inspect", "net", "--format"],
        &[
            "{{.Name}} {{.Driver}} {{range .IPAM.Config}}{{.Subnet}}{{end}} {{.Internal}} {{.Labels}}",
        ],
    ),
    (
        &["system", "df", "--format"],
        &[
            r"table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
            "json",
        ],
    ),
];

#[test]
fn templates_print_what_docker_prints() {
    let daemon = Daemon::start();
    daemon.busybox();
    daemon
        .docker(&[
            "network",
            "create",
            "--subnet",
            "10.213.4.0/24",
            "--label",
            "n=m",
            "net",
        ])
        .ok();
    daemon
        .docker(&["volume", "create", "--label", "a=b", "data"])
        .ok();
    let options = [
        "--label",
        "kind=web",
        "--label",
        "of.kind=site",
        "--network",
        "net",
        "-v",
        "data:/data",
        "-m",
        "32m",
        "-p",
        "127.0.0.1:18500:80",
        "--restart",
        "on-failure:2",
    ];
    daemon.sleeper("one", &options);
    daemon
        .docker(&["create", "--name", "two", "busybox", "true"])
        .ok();
    let mut differences = Vec::new();
    for (words, templates) in SAME {
        for template in templates {
            let mut arguments = [words, &[*template]].concat();
            if words[0] == "inspect" {
                arguments.push("one");
            }
            let (theirs, ours) = (daemon.docker(&arguments), daemon.dhow(&arguments));
            if (theirs.code, &theirs.stdout) != (ours.code, &ours.stdout) {
                differences.push(format!(
                    "{arguments:?}\n  docker {}: {:?} {}\n  dhow   {}: {:?} {}",
                    theirs.code, theirs.stdout, theirs.stderr, ours.code, ours.stdout, ours.stderr
                ));
            }
        }
    }
    // What is wrong is wrong to both.
    for template in [
        "{{.None}}",
        "{{.Name",
        "{{nothing}}",
        "{{end}}",
        "{{index .Config.Cmd 9}}",
    ] {
        let arguments = ["inspect", "--format", template, "one"];
        for ran in [daemon.docker(&arguments), daemon.dhow(&arguments)] {
            if ran.code == 0 {
                differences.push(format!("{}: {:?}", ran.command, ran.stdout));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // The same fields, whatever is in them.
    let fields = |ran: Ran| -> Vec<String> {
        let line: serde_json::Value = serde_json::from_str(&ran.ok()).expect("JSON");
        line.as_object().expect("fields").keys().cloned().collect()
    };
    let one = ["ps", "--format", "json"];
    assert_eq!(fields(daemon.dhow(&one)), fields(daemon.docker(&one)));
    events_are_told_alike(&daemon);
    disk_usage_in_detail(&daemon);
    daemon.remove_containers();
    daemon.docker(&["network", "rm", "net"]).ok();
    daemon.docker(&["volume", "rm", "data"]).ok();
    daemon.finish();
}

fn events_are_told_alike(daemon: &Daemon) {
    let until = daemon.host().run("date", &["+%s"]).ok();
    for format in [
        "{{.Type}} {{.Action}} {{.Actor.ID}} {{.Time}} {{.TimeNano}} {{.Scope}}",
        "json",
        "{{json .Actor.Attributes}}",
    ] {
        let words = [
            "events",
            "--since",
            "1",
            "--until",
            &until,
            "--filter",
            "type=container",
            "--format",
            format,
        ];
        let (theirs, ours) = (daemon.docker(&words).ok(), daemon.dhow(&words).ok());
        assert!(!ours.is_empty());
        if format.starts_with("{{.") {
            assert_eq!(ours, theirs, "{format}");
        } else {
            // Of maps Go sorts the names.
            let values = |text: &str| -> Vec<serde_json::Value> {
                text.lines()
                    .map(|line| serde_json::from_str(line).expect("JSON"))
                    .collect()
            };
            assert_eq!(values(&ours), values(&theirs), "{format}");
        }
    }
    let words = [
        "events",
        "--since",
        "1",
        "--until",
        &until,
        "--filter",
        "event=start",
    ];
    assert_eq!(daemon.dhow(&words).ok(), daemon.docker(&words).ok());
}

fn disk_usage_in_detail(daemon: &Daemon) {
    let folder = daemon.host().folder().join("context");
    std::fs::create_dir_all(&folder).expect("a folder");
    let dockerfile = "FROM busybox\nRUN head -c 100000 /dev/zero > /zeros\n";
    std::fs::write(folder.join("Dockerfile"), dockerfile).expect("written");
    daemon
        .dhow(&["build", "-q", "-t", "built", &folder.display().to_string()])
        .ok();
    daemon.docker(&["rmi", "built"]).ok();
    let lines = |ran: Ran| ran.ok().lines().map(str::to_owned).collect::<Vec<_>>();
    let (ours, theirs) = (
        lines(daemon.dhow(&["system", "df"])),
        lines(daemon.docker(&["system", "df"])),
    );
    assert_eq!(ours, theirs);
    assert!(
        ours.iter()
            .any(|line| line.starts_with("Build Cache") && line.contains("kB")),
        "{ours:?}"
    );
    let detail = daemon.dhow(&["system", "df", "-v"]).ok();
    for part in [
        "Images space usage:",
        "busybox",
        "Containers space usage:",
        "one",
        "Local Volumes space usage:",
        "data",
        "Build cache usage:",
        "head -c 100000",
    ] {
        assert!(detail.contains(part), "{part} is not in {detail}");
    }
    daemon.dhow(&["system", "prune", "-f"]).ok();
    let after = daemon
        .dhow(&["system", "df", "--format", "{{.Type}}={{.Size}}"])
        .ok();
    assert!(after.contains("Build Cache=0B"), "{after}");
}

#[test]
fn a_daemon_far_away_is_reached_by_tls() {
    let mut daemon = Daemon::start();
    daemon.busybox();
    let folder = daemon.host().folder().join("certificates");
    std::fs::create_dir_all(&folder).expect("a folder");
    certificates(&folder);
    daemon.stop();
    let file = |name: &str| folder.join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.pem"), file("server.pem"), file("server-key.pem"));
    daemon.start_again_with(&[
        "--tcp",
        "127.0.0.1:2376",
        "--tlscacert",
        &ca,
        "--tlscert",
        &certificate,
        "--tlskey",
        &key,
    ]);
    // As Docker's clients have them: ca.pem, cert.pem and key.pem in one folder.
    for (from, to) in [("client.pem", "cert.pem"), ("client-key.pem", "key.pem")] {
        std::fs::copy(folder.join(from), folder.join(to)).expect("copied");
    }
    let dhow = |words: &[&str], environment: &[(&str, &str)]| -> Ran {
        let mut command: Command = daemon.host().command(dhow_testkit::dhow());
        command
            .args(words)
            .env_remove("DHOW_HOST")
            .env("HOME", daemon.host().folder())
            .env(
                "DOCKER_CONFIG",
                daemon.host().folder().join("docker-config"),
            )
            .envs(environment.iter().copied());
        let output = command.output().expect("dhow starts");
        Ran::new(format!("dhow {}", words.join(" ")), &output)
    };
    let certificates = folder.display().to_string();
    let far = [
        ("DOCKER_HOST", "tcp://127.0.0.1:2376"),
        ("DOCKER_TLS_VERIFY", "1"),
        ("DOCKER_CERT_PATH", &certificates),
    ];
    let version = ["version", "--format", "{{.Server.Os}}"];
    assert_eq!(dhow(&version, &far).ok(), "linux");
    // Streams go through as well: in, out, and an exit code.
    assert_eq!(
        dhow(
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "busybox",
                "sh",
                "-c",
                "echo hello; exit 3"
            ],
            &far
        )
        .code,
        3
    );
    let mut cat = daemon.host().command(dhow_testkit::dhow());
    let source = folder.join("ca.pem");
    cat.args(["run", "-i", "--rm", "--network", "none", "busybox", "cat"])
        .env_remove("DHOW_HOST")
        .envs(far)
        .stdin(std::fs::File::open(&source).expect("it is there"));
    let output = cat.output().expect("dhow starts");
    assert_eq!(output.stdout, std::fs::read(&source).expect("it is there"));

    // By options, by a context, and by what is wrong.
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let by_options = [
        "-H",
        "tcp://127.0.0.1:2376",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ];
    assert_eq!(
        dhow(&[&by_options[..], &version].concat(), &[]).ok(),
        "linux"
    );
    let endpoint = format!("host=tcp://127.0.0.1:2376,ca={ca},cert={cert},key={key}");
    daemon
        .docker(&["context", "create", "far", "--docker", &endpoint])
        .ok();
    assert_eq!(
        dhow(&[&["--context", "far"], &version[..]].concat(), &[]).ok(),
        "linux"
    );
    assert_eq!(dhow(&version, &[("DOCKER_CONTEXT", "far")]).ok(), "linux");
    let error = dhow(&["--context", "nowhere", "ps"], &[]).fails(1);
    assert!(error.contains("there is none of this name"), "{error}");
    let unverified = [
        ("DOCKER_HOST", "tcp://127.0.0.1:2376"),
        ("DOCKER_CERT_PATH", &certificates),
    ];
    assert_eq!(
        dhow(
            &["--tls", "version", "--format", "{{.Server.Os}}"],
            &unverified
        )
        .ok(),
        "linux"
    );
    let other = file("other.pem");
    let error = dhow(&["--tlsverify", "--tlscacert", &other, "ps"], &unverified).fails(1);
    assert!(error.contains("certificate"), "{error}");
    let (stranger, its_key) = (file("stranger.pem"), file("stranger-key.pem"));
    dhow(
        &[
            "--tlsverify",
            "--tlscert",
            &stranger,
            "--tlskey",
            &its_key,
            "ps",
        ],
        &unverified,
    )
    .fails(1);
    dhow(&["-H", "tcp://127.0.0.1:2376", "ps"], &[]).fails(1);
    let error = dhow(&["-H", "tcp://127.0.0.1:1", "ps"], &[]).fails(1);
    assert!(
        error.contains("cannot connect to the daemon at tcp://127.0.0.1:1"),
        "{error}"
    );
    let error = dhow(&["-H", "ssh://host", "ps"], &[]).fails(1);
    assert!(error.contains("is no address of a daemon"), "{error}");
    // A socket named by Docker's variable, of an older daemon's version too.
    let socket = format!("unix://{}", daemon.socket().display());
    assert_eq!(dhow(&version, &[("DOCKER_HOST", &socket)]).ok(), "linux");
    daemon.finish();
}
