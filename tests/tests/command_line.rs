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
            let ask = || (daemon.docker(&arguments), daemon.dhow(&arguments));
            let differ = |(theirs, ours): &(Ran, Ran)| {
                (theirs.code, &theirs.stdout) != (ours.code, &ours.stdout)
            };
            let mut answers = ask();
            if differ(&answers) {
                // A second had passed between the two, and ages are told in seconds?
                answers = ask();
            }
            if differ(&answers) {
                let (theirs, ours) = answers;
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

#[test]
fn words_behind_the_image_are_the_program_s() {
    let daemon = Daemon::start();
    daemon.busybox();
    let run = |options: &[&str], words: &[&str]| {
        let words = [&["run", "--rm", "--network", "none"], options, words].concat();
        daemon.dhow(&words).ok()
    };
    let echo = ["busybox", "sh", "-c", "echo \"$@\"", "sh"];
    let rest = [
        "-l", "-H", "x", "--host=y", "--rm", "--help", "-v", "--", "-d",
    ];
    assert_eq!(run(&[], &[&echo[..], &rest].concat()), rest.join(" "));
    let listed = run(&["--entrypoint", "ls"], &["busybox", "-l", "/"]);
    assert!(listed.contains("root"), "{listed}");
    let help = daemon.dhow(&["run", "--rm", "busybox", "ls", "--help"]);
    assert!(help.stderr.contains("BusyBox"), "{}", help.stderr);

    // Files of options, and the last of two.
    let folder = daemon.host().folder().join("files");
    std::fs::create_dir(&folder).expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let variables = file("variables", "# none\nA=1\nB=two words\n");
    let labels = file("labels", "one=1\n#two=2\n");
    let cid = folder.join("cid").display().to_string();
    let words = [
        "create",
        "--env-file",
        &variables,
        "-e",
        "A=2",
        "--label-file",
        &labels,
        "--cidfile",
        &cid,
        "--name",
        "first",
        "--name",
        "made",
        "--rm=true",
        "--rm=false",
        "busybox",
    ];
    let id = daemon.dhow(&words).ok();
    assert_eq!(std::fs::read_to_string(&cid).expect("it is there"), id);
    assert_eq!(
        daemon.inspect(
            "made",
            "{{.Config.Env}} {{.Config.Labels}} {{.HostConfig.AutoRemove}}"
        ),
        daemon.inspect(&id, "{{.Config.Env}} map[one:1] false")
    );
    let seen = daemon.inspect("made", "{{json .Config.Env}}");
    assert!(
        seen.contains("\"A=2\"") && seen.contains("\"B=two words\""),
        "{seen}"
    );
    // An id is not written over another.
    daemon
        .dhow(&["create", "--cidfile", &cid, "busybox"])
        .fails(1);
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn cleaning_up_asks_first() {
    let daemon = Daemon::start();
    daemon.busybox();
    let answer = |words: &[&str], answer: &str| -> Ran {
        let mut child = daemon
            .dhow_command(words)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("dhow starts");
        let mut stdin = child.stdin.take().expect("it was piped");
        std::io::Write::write_all(&mut stdin, answer.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        Ran::new(format!("dhow {}", words.join(" ")), &output)
    };
    daemon.docker(&["volume", "create", "kept"]).ok();
    daemon
        .docker(&["network", "create", "--subnet", "10.213.30.0/24", "unused"])
        .ok();
    daemon
        .docker(&["create", "--name", "old", "-v", "/anonymous", "busybox"])
        .ok();
    daemon.docker(&["rm", "old"]).ok();
    let volumes = || daemon.docker(&["volume", "ls", "-q"]).ok().lines().count();
    let has_network = || {
        daemon
            .docker(&["network", "ls", "-q", "-f", "name=unused"])
            .ok()
            != ""
    };
    assert_eq!(volumes(), 2);

    for no in ["n\n", "", "yes\n"] {
        let said = answer(&["volume", "prune"], no).ok();
        assert!(
            said.contains("anonymous local volumes") && said.contains("[y/N]"),
            "{said}"
        );
        answer(&["network", "prune"], no).ok();
        answer(&["system", "prune", "-a", "--volumes"], no).ok();
    }
    assert_eq!(volumes(), 2);
    assert!(has_network());
    let said = answer(&["volume", "prune"], "y\n").ok();
    assert!(
        said.contains("Deleted Volumes:") && said.contains("Total reclaimed space:"),
        "{said}"
    );
    assert_eq!(volumes(), 1);
    daemon
        .dhow(&["volume", "prune", "-f", "--filter", "label=none", "-a"])
        .ok();
    assert_eq!(volumes(), 1);
    assert_eq!(
        daemon.dhow(&["network", "prune", "-f"]).ok(),
        "Deleted Networks:\nunused"
    );
    daemon
        .docker(&["create", "--name", "old", "--label", "a=b", "busybox"])
        .ok();
    let id = daemon.inspect("old", "{{.Id}}");
    let said = daemon
        .dhow(&["system", "prune", "-f", "--filter", "label=a"])
        .ok();
    assert!(
        said.contains(&format!("Deleted Containers:\n{id}")),
        "{said}"
    );
    let said = daemon.dhow(&["volume", "prune", "-af"]).ok();
    assert!(said.contains("kept"), "{said}");
    assert_eq!(volumes(), 0);
    daemon.finish();
}

#[test]
fn contexts_are_those_of_docker() {
    let daemon = Daemon::start();
    let run = |mut command: Command, words: &[&str]| {
        let output = command
            .env_remove("DHOW_HOST")
            .env_remove("DOCKER_HOST")
            .env(
                "DOCKER_CONFIG",
                daemon.host().folder().join("docker-config"),
            )
            .output();
        Ran::new(words.join(" "), &output.expect("it starts"))
    };
    let ours = |words: &[&str]| run(daemon.dhow_command(words), words);
    let both = |words: &[&str]| (run(daemon.docker_command(words), words), ours(words));
    let endpoint = format!("host=unix://{}", daemon.socket().display());
    let create = [
        "context",
        "create",
        "--description",
        "near",
        "--docker",
        &endpoint,
    ];
    assert_eq!(ours(&[&create[..], &["near"]].concat()).ok(), "near");
    // What one writes the other reads.
    for words in [
        &["context", "inspect", "near"][..],
        &[
            "context",
            "inspect",
            "--format",
            "{{.Name}} {{.Endpoints.docker.Host}}",
            "near",
        ],
        &["context", "show"],
        &["context", "ls", "-q"],
    ] {
        let (theirs, ours) = both(words);
        assert_eq!(
            (ours.code, ours.stdout),
            (theirs.code, theirs.stdout),
            "{words:?}"
        );
    }
    ours(&[&create[..], &["near"]].concat()).fails(1);
    ours(&["context", "create", "a b", "--docker", &endpoint]).fails(1);
    ours(&["context", "use", "nowhere"]).fails(1);
    assert_eq!(ours(&["context", "use", "near"]).ok(), "near");
    let (theirs, own) = both(&["context", "show"]);
    assert_eq!((theirs.ok().as_str(), own.ok().as_str()), ("near", "near"));
    let (theirs, own) = both(&[
        "context",
        "ls",
        "--format",
        "{{.Name}} {{.Current}} {{.Description}}",
    ]);
    assert_eq!(own.ok(), theirs.ok());
    // The one in use is where the daemon is.
    assert_eq!(
        ours(&["version", "--format", "{{.Server.Os}}"]).ok(),
        "linux"
    );
    let (theirs, own) = both(&["context", "rm", "near"]);
    assert_eq!((theirs.code, own.code), (1, 1), "{}", own.stderr);
    assert_eq!(ours(&["context", "rm", "-f", "near"]).ok(), "near");
    assert_eq!(both(&["context", "show"]).0.ok(), "default");
    daemon.finish();
}

/// What one exports the other imports, certificates and all.
#[test]
fn contexts_travel_as_dockers_do() {
    let daemon = Daemon::start();
    let folder = daemon.host().folder();
    dhow_testkit::certificates(folder);
    let run = |mut command: Command, words: &[&str]| {
        command.env_remove("DHOW_HOST").env_remove("DOCKER_HOST");
        command.env("DOCKER_CONFIG", folder.join("docker-config"));
        let output = command.current_dir(folder).output();
        Ran::new(words.join(" "), &output.expect("it starts"))
    };
    let ours = |words: &[&str]| run(daemon.dhow_command(words), words);
    let theirs = |words: &[&str]| run(daemon.docker_command(words), words);
    let file = |name: &str| folder.join(name).display().to_string();
    let endpoint = format!(
        "host=tcp://far:2376,ca={},cert={},key={}",
        file("ca.pem"),
        file("client.pem"),
        file("client-key.pem")
    );
    let create = ["context", "create", "far", "--description", "far away"];
    ours(&[&create[..], &["--docker", &endpoint]].concat()).ok();
    let exported = ours(&["context", "export", "far"]);
    assert!(
        exported
            .stderr
            .contains("Written file \"far.dockercontext\""),
        "{exported:?}"
    );
    theirs(&["context", "export", "far", "theirs.tar"]).ok();
    // A file that is there is not written over.
    let taken = ours(&["context", "export", "far"]);
    assert!(taken.stderr.contains("exists"), "{taken:?}");
    taken.fails(1);
    theirs(&["context", "import", "by-docker", "far.dockercontext"]).ok();
    let import = ["context", "import", "by-dhow", "theirs.tar"];
    assert_eq!(ours(&import).ok(), "by-dhow");
    for name in ["by-docker", "by-dhow"] {
        for what in ["{{.Endpoints.docker.Host}}", "{{json .TLSMaterial}}"] {
            let shown = |name| theirs(&["context", "inspect", "--format", what, name]).ok();
            assert_eq!(shown(name), shown("far"), "{name}");
        }
        let list = ["context", "ls", "--format", "{{.Name}}: {{.Description}}"];
        let list = theirs(&list).ok();
        assert!(list.contains(&format!("{name}: far away")), "{list}");
    }
    let listed = |archive: &str| {
        // Docker's has not the end that tar asks for.
        let listed = daemon.host().run("tar", &["-tf", &file(archive)]).stdout;
        let names = listed.lines().map(|name| name.trim_end_matches('/'));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(listed("far.dockercontext"), listed("theirs.tar"));
    let again = ours(&import);
    assert!(
        again.stderr.contains("context \"by-dhow\" already exists"),
        "{again:?}"
    );
    let nothing = ours(&["context", "import", "other", "ca.pem"]);
    assert!(nothing.stderr.contains("invalid context"), "{nothing:?}");
    assert!(!ours(&["context", "ls", "-q"]).ok().contains("other"));
    ours(&["context", "export", "nowhere"]).fails(1);
    daemon.finish();
}

#[test]
fn small_things_docker_has() {
    let daemon = Daemon::start();
    daemon.busybox();
    // Formats that are settled.
    let folder = daemon.host().folder().join("docker-config");
    std::fs::create_dir_all(&folder).expect("a folder");
    let config = r#"{"psFormat":"<{{.Names}}>","imagesFormat":"[{{.Repository}}]","volumesFormat":"{{.Name}}!","networksFormat":"{{.Name}}?"}"#;
    std::fs::write(folder.join("config.json"), config).expect("written");
    daemon.docker(&["create", "--name", "one", "busybox"]).ok();
    daemon.docker(&["volume", "create", "vol"]).ok();
    let ours = |words: &[&str]| {
        let mut command = daemon.dhow_command(words);
        let output = command.env("DOCKER_CONFIG", &folder).output();
        Ran::new(words.join(" "), &output.expect("dhow starts"))
    };
    for words in [
        &["ps", "-a"][..],
        &["images"],
        &["volume", "ls"],
        &["network", "ls"],
    ] {
        assert_eq!(ours(words).ok(), daemon.docker(words).ok(), "{words:?}");
    }
    for words in [
        &[
            "images",
            "--digests",
            "--format",
            "{{.Repository}} {{.Digest}}",
        ][..],
        &[
            "history",
            "--format",
            "{{.ID}} {{.CreatedBy}} {{.Size}}",
            "busybox",
        ],
        &["history", "-q", "--no-trunc", "busybox"],
        &[
            "history",
            "-H=false",
            "--format",
            "{{.CreatedAt}} {{.Size}}",
            "busybox",
        ],
        &["inspect", "-s", "--format", "{{.SizeRw}}", "one"],
        &["container", "inspect", "one"],
    ] {
        assert_eq!(ours(words).ok(), daemon.docker(words).ok(), "{words:?}");
    }
    let volume = ["volume", "inspect", "vol"];
    let parsed = |ran: Ran| -> serde_json::Value { serde_json::from_str(&ran.ok()).expect("JSON") };
    assert_eq!(parsed(ours(&volume)), parsed(daemon.docker(&volume)));
    // All that docker tells of the daemon is told.
    let labels = |text: String| -> Vec<String> {
        let lines = text.lines().skip_while(|line| *line != "Server:");
        lines
            .filter_map(|line| line.split_once(':'))
            .map(|(label, _)| label.to_owned())
            .collect()
    };
    let (theirs, own) = (daemon.docker(&["info"]).ok(), ours(&["info"]).ok());
    assert_eq!(labels(own), labels(theirs));
    let own = ours(&["version"]).ok();
    for part in [
        "Client: ",
        " API version:",
        "Server:",
        "  OS/Arch:",
        "minimum version",
    ] {
        assert!(own.contains(part), "{part} is not in {own}");
    }
    let refused = ours(&["search", "busybox"]).fails(1);
    assert!(refused.contains("search"), "{refused}");

    // Links are followed where that is asked for.
    daemon.sleeper("two", &[]);
    daemon.within("two", "echo inside > /etc/inside; ln -s /etc/inside /link");
    let files = daemon.host().folder().join("files");
    std::fs::create_dir(&files).expect("a folder");
    let here = files.display().to_string();
    ours(&["cp", "-L", "two:/link", &here]).ok();
    let text = std::fs::read_to_string(files.join("link")).expect("a file");
    assert_eq!(text, "inside\n");
    std::fs::write(files.join("outside"), "outside").expect("written");
    std::os::unix::fs::symlink("outside", files.join("away")).expect("a link");
    let away = files.join("away").display().to_string();
    ours(&["cp", "-a", "-q", "-L", &away, "two:/tmp/"]).ok();
    assert_eq!(
        daemon.within("two", "readlink /tmp/away || cat /tmp/away"),
        "outside"
    );
    ours(&["cp", &away, "two:/tmp/"]).ok();
    assert_eq!(daemon.within("two", "readlink /tmp/away"), "outside");

    // One stream of two.
    let both = ["busybox", "sh", "-c", "echo out; echo err >&2; exit 4"];
    for (stream, out, err) in [("stdout", "out\n", ""), ("STDERR", "", "err\n")] {
        let ran = ours(&[&["run", "--rm", "-a", stream], &both[..]].concat());
        assert_eq!(
            (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
            (4, out, err)
        );
    }

    // A way through to the daemon's socket.
    let mut child = daemon
        .dhow_command(&["system", "dial-stdio"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("dhow starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    let request = "GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stdin, request.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    drop(stdin);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("OK"),
        "{text}"
    );
    daemon.remove_containers();
    daemon.docker(&["volume", "rm", "vol"]).ok();
    daemon.finish();
}

/// The verbs of Docker's client that are ours as well.
const VERBS: &str = "attach build commit cp create diff events exec export history images import info \
    inspect kill load login logout logs pause port ps pull push rename restart rm rmi run save \
    search start stats stop tag top unpause update version wait \
    container-ls container-prune container-inspect image-ls image-inspect image-prune image-rm \
    network-connect network-create network-disconnect network-inspect network-ls network-prune \
    network-rm volume-create volume-inspect volume-ls volume-prune volume-rm volume-update \
    system-df system-events system-info system-prune builder-build builder-prune context-create \
    context-inspect context-ls context-rm context-show context-update context-use";

#[test]
fn every_verb_is_completed_and_described() {
    let dhow = |words: &[&str]| {
        let output = Command::new(dhow_testkit::dhow()).args(words).output();
        Ran::new(words.join(" "), &output.expect("dhow starts"))
    };
    let folder = std::env::temp_dir().join(format!("dhow-test-man-{}", std::process::id()));
    dhow(&["man", folder.to_str().expect("a plain name")]).ok();
    let scripts: Vec<String> = ["bash", "zsh", "fish", "elvish", "powershell"]
        .map(|shell| dhow(&["completion", shell]).ok())
        .into();
    for verb in VERBS.split_whitespace() {
        let words: Vec<&str> = verb.split('-').collect();
        let help = dhow(&[&words[..], &["--help"]].concat()).ok();
        assert!(help.contains("Usage:"), "{verb}: {help}");
        let page = folder.join(format!("dhow-{verb}.1"));
        let text = std::fs::read_to_string(&page).expect(verb);
        assert!(text.contains(".SH SYNOPSIS"), "{verb}");
        let last = words.last().expect("a word");
        for script in &scripts {
            assert!(script.contains(last), "{verb}");
        }
    }
    std::fs::remove_dir_all(folder).expect("it is there");
}
