//! Dockerfiles and what becomes of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use dhow_build::{BuildOptions, CacheUse, Context, Error};
use dhow_image::tar::{Entry, Kind, Writer};
use dhow_oci::Reference;

use crate::support::Machine;

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_dockerfile() {
    let machine = Machine::new();
    let dockerfile = r#"
# An application
ARG BASE=busybox
FROM ${BASE}
LABEL a=1 b="two words"
ENV NAME=world GREETING="hello $NAME"
ARG VERSION=1
WORKDIR /app
COPY --chown=app:staff --chmod=750 src/ .
RUN echo "$GREETING $VERSION" > greeting && \
    # a comment
    mkdir data
USER app
EXPOSE 80 53/udp
VOLUME /app/data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD cat greeting
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["cat"]
CMD greeting
"#;
    let options = BuildOptions {
        tags: vec![
            "app:1".parse().unwrap(),
            "localhost:5000/app".parse().unwrap(),
        ],
        build_args: BTreeMap::from([("VERSION".into(), Some("2".into()))]),
        labels: BTreeMap::from([("c".into(), "3".into())]),
        ..BuildOptions::default()
    };
    let files = [("Dockerfile", dockerfile), ("src/a", "A"), ("src/d/b", "B")];
    let built = machine
        .build_with(&files, options)
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(built.content("app/greeting"), "hello  2\n");
    let found = built.files();
    assert_eq!(found["app/a"], (0o750, 1000, 50, "A".into()));
    assert_eq!(found["app/d/b"], (0o750, 1000, 50, "B".into()));
    let config = &built.image.config.config;
    assert_eq!(config.labels.len(), 3);
    assert_eq!(config.env, ["PATH=/bin", "NAME=world", "GREETING=hello "]);
    assert_eq!(
        (config.user.as_str(), config.working_dir.as_str()),
        ("app", "/app")
    );
    assert_eq!(
        config.exposed_ports.keys().collect::<Vec<_>>(),
        ["53/udp", "80/tcp"]
    );
    assert!(config.volumes.contains_key("/app/data"));
    assert_eq!(config.entrypoint.as_deref(), Some(&["cat".to_owned()][..]));
    let cmd: Vec<&str> = config.cmd.iter().flatten().map(String::as_str).collect();
    assert_eq!(cmd, ["/bin/sh", "-ec", "greeting"]);
    assert_eq!(config.healthcheck.as_ref().unwrap().interval, 5_000_000_000);
    // Base, WORKDIR, COPY, RUN.
    assert_eq!(built.image.layers.len(), 4);
    assert_eq!(built.image.config.history.len(), 1 + 14 + 1);
    for text in ["Step 1/16 : FROM ${BASE}\n", " ---> Running in "] {
        assert!(built.said.contains(text), "{text} in {}", built.said);
    }
    let name: Reference = "localhost:5000/app".parse().unwrap();
    assert_eq!(
        machine.images.resolve(&name.to_string()).unwrap().id,
        built.image.id
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_found_again() {
    let machine = Machine::new();
    let dockerfile = "FROM busybox\nCOPY a /a\nRUN cat /a > /b\nENV x=1\nRUN cat /b > /c\n";
    let first = machine
        .build(&[("Dockerfile", dockerfile), ("a", "1")])
        .await
        .unwrap();
    assert_eq!(machine.n_runs(), 2);
    // The same, also after a restart, is the same image.
    let id = first.image.id.clone();
    drop(first);
    let machine = machine.restart();
    let again = machine
        .build(&[("Dockerfile", dockerfile), ("a", "1")])
        .await
        .unwrap();
    assert_eq!((machine.n_runs(), &again.image.id), (0, &id));
    assert_eq!(again.said.matches(" ---> Using cache\n").count(), 3);
    // Another content, and everything after it is another.
    let other = machine
        .build(&[("Dockerfile", dockerfile), ("a", "2")])
        .await
        .unwrap();
    assert_eq!((machine.n_runs(), other.content("c").as_str()), (2, "2"));
    // A later statement keeps the earlier.
    let longer = dockerfile.replace("/b > /c", "/b > /d");
    let later = machine
        .build(&[("Dockerfile", &longer), ("a", "1")])
        .await
        .unwrap();
    assert_eq!((machine.n_runs(), later.content("d").as_str()), (3, "1"));
    // An argument that is used is part of the key; a mode, too.
    let with_arg = "FROM busybox\nARG v\nRUN echo $v > /v\n";
    for (value, n_runs) in [("1", 4), ("2", 5), ("1", 5)] {
        let options = BuildOptions {
            build_args: BTreeMap::from([("v".into(), Some(value.into()))]),
            ..BuildOptions::default()
        };
        let built = machine
            .build_with(&[("Dockerfile", with_arg)], options)
            .await
            .unwrap();
        assert_eq!(
            (machine.n_runs(), built.content("v")),
            (n_runs, format!("{value}\n"))
        );
    }
    let options = BuildOptions {
        cache: CacheUse::Ignore,
        ..BuildOptions::default()
    };
    machine
        .build_with(&[("Dockerfile", with_arg)], options)
        .await
        .unwrap();
    assert_eq!(machine.n_runs(), 6);
    // Without the cache, nothing of it is left.
    for listed in machine.images.list() {
        let removal = dhow_image::Removal::Forced;
        machine
            .images
            .remove(listed.image.id.as_str(), removal, &|_| Vec::new())
            .unwrap();
    }
    assert!(machine.images.disk_usage().build_cache > 0);
    machine.images.prune_steps(&|_, _| true).unwrap();
    assert_eq!(machine.images.disk_usage().build_cache, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_needed_stages_are_built() {
    let machine = Machine::new();
    let dockerfile = r"
FROM busybox AS compile
RUN echo binary > /out && mkdir /d && echo x > /d/x
FROM busybox AS unneeded
RUN exit 1
FROM compile AS more
RUN echo more >> /out
FROM scratch AS final
COPY --from=more /out /bin/program
COPY --from=compile /d /d
COPY --from=busybox /etc/group /
COPY --from=0 /out /zero
FROM final
";
    let built = machine.build(&[("Dockerfile", dockerfile)]).await.unwrap();
    assert_eq!(machine.n_runs(), 2);
    assert_eq!(built.content("bin/program"), "binary\nmore\n");
    assert_eq!(built.content("zero"), "binary\n");
    assert!(built.has("d/x") && built.has("group") && !built.has("bin/busybox"));
    let options = |target: &str| BuildOptions {
        target: Some(target.to_owned()),
        ..BuildOptions::default()
    };
    let files = [("Dockerfile", dockerfile)];
    let built = machine
        .build_with(&files, options("Compile"))
        .await
        .unwrap();
    assert!(built.has("out") && machine.n_runs() == 2);
    let error = machine
        .build_with(&files, options("finel"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("did you mean final?"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_where_docker_puts_them() {
    let machine = Machine::new();
    let dockerfile = r#"
FROM busybox
WORKDIR /w
COPY one /file
COPY one /dir/
COPY one two /both/
COPY dir /content
COPY dir/ .
COPY *.txt /texts/
COPY d*/n* /deep/
COPY ["with space", "/sp ace"]
RUN mkdir /real && busybox ln -s /real /link && busybox ln -s /etc/group /target
COPY one /link/
COPY two /link/sub/
COPY one /etc
COPY <<EOF <<"RAW" /docs/
w=$PATH
EOF
w=$PATH
RAW
"#;
    let files = [
        ("Dockerfile", dockerfile),
        (".dockerignore", "*.secret\ndir/skip\n!dir/skip/not\n"),
        ("one", "1"),
        ("two", "2"),
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("dir/name", "n"),
        ("dir/x.secret", "kept: the pattern is not deep"),
        ("y.secret", "hidden"),
        ("dir/skip/gone", "hidden"),
        ("dir/skip/not", "kept"),
        ("with space", "s"),
    ];
    let built = machine
        .build(&files)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    for (path, content) in [
        ("file", "1"),
        ("dir/one", "1"),
        ("both/one", "1"),
        ("both/two", "2"),
        ("content/name", "n"),
        ("content/skip/not", "kept"),
        ("w/name", "n"),
        ("texts/a.txt", "a"),
        ("texts/b.txt", "b"),
        ("deep/name", "n"),
        ("sp ace", "s"),
        ("real/one", "1"),
        ("real/sub/two", "2"),
        ("etc/one", "1"),
        ("docs/EOF", "w=/bin\n"),
        ("docs/RAW", "w=$PATH\n"),
    ] {
        assert_eq!(built.content(path), content, "{path}");
    }
    assert!(!built.has("content/skip/gone"));
    assert_eq!(built.content("link"), "/real");
    for (line, expected) in [
        (
            "COPY y.secret /",
            "file not found in build context or excluded by .dockerignore",
        ),
        ("COPY nothing /", "file not found in build context"),
        ("COPY ../../etc/passwd /", "leads out"),
        ("COPY one two /both", "must be a directory and end with a /"),
        ("COPY --chown=nobody one /", "unable to find user nobody"),
        (
            "COPY --from=localhost:1/none one /",
            "invalid from flag value localhost:1/none",
        ),
        ("COPY one /file/x", "Not a directory"),
    ] {
        let dockerfile = format!("FROM busybox\nCOPY one /file\n{line}\n");
        let files = [
            ("Dockerfile", dockerfile.as_str()),
            files[1],
            ("one", "1"),
            ("two", "2"),
            files[8],
        ];
        let error = machine.build(&files).await.expect_err(line).to_string();
        assert!(error.contains(expected), "{line}: {error}");
        assert!(
            error.contains(&format!("Dockerfile:3\n  3 | {line}")),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_context_stays_in_the_context() {
    let machine = Machine::new();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("Dockerfile"), "FROM busybox\nCOPY out /got\n").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", path("out")).unwrap();
    let options = || BuildOptions {
        id: "t".into(),
        ..BuildOptions::default()
    };
    let context = || Context::Directory(directory.path().to_owned());
    let error = machine.build_in(context(), options()).await.unwrap_err();
    assert!(error.to_string().contains("file not found"), "{error}");
    std::fs::create_dir(path("etc")).unwrap();
    std::fs::write(path("etc/hostname"), "inside").unwrap();
    let built = machine.build_in(context(), options()).await.unwrap();
    assert_eq!(built.content("got"), "inside");
    // In a directory, a link is copied as it is.
    std::fs::create_dir(path("dir")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", path("dir/link")).unwrap();
    std::fs::write(path("Dockerfile"), "FROM busybox\nCOPY dir /got/\n").unwrap();
    let built = machine.build_in(context(), options()).await.unwrap();
    assert_eq!(built.content("got/link"), "/etc/hostname");
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, content) in files {
        let mut entry = Entry::new(Kind::File, *path);
        (entry.size, entry.uid) = (content.len() as u64, 77);
        writer.append(&entry, &mut content.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_come_as_archives_and_archives_are_added() {
    let machine = Machine::new();
    let options = || BuildOptions {
        id: "t".into(),
        dockerfile: "sub/My.Dockerfile".into(),
        ..BuildOptions::default()
    };
    let inner = String::from_utf8(tar(&[("in/ner", "x")])).unwrap();
    let context = tar(&[
        (
            "sub/My.Dockerfile",
            "FROM busybox\nADD a.tar /added\nADD plain /plain\nCOPY a.tar /c.tar\n",
        ),
        ("a.tar", &inner),
        ("plain", "just text, long enough or not"),
    ]);
    for bytes in [context.clone(), gzip(&context)] {
        let built = machine
            .build_in(
                Context::Tar(Box::new(std::io::Cursor::new(bytes))),
                options(),
            )
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let files = built.files();
        // Added archives keep their owners, everything else is root's.
        assert_eq!(files["added/in/ner"], (0o644, 77, 0, "x".into()));
        assert_eq!(files["plain"].1, 0);
        assert_eq!(files["c.tar"].3, inner);
    }
    for (bytes, expected) in [
        (
            b"no archive, but more than five hundred and twelve bytes".repeat(20),
            "not a tar archive",
        ),
        (tar(&[("../out", "x")]), "leads out"),
        (context[..700].to_vec(), "cut off"),
        (
            tar(&[("x", "y")]),
            "Cannot locate specified Dockerfile: sub/My.Dockerfile",
        ),
    ] {
        let context = Context::Tar(Box::new(std::io::Cursor::new(bytes)));
        let error = machine.build_in(context, options()).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_come_in_many_forms() {
    let machine = Machine::new();
    let dockerfile = "FROM busybox\n\
        RUN [\"/bin/sh\", \"-c\", \"echo exec > /exec\"]\n\
        RUN <<EOF\necho one > /doc\necho two >> /doc\nEOF\n\
        RUN cat <<A > /piped\npiped $PATH\nA\n\
        ONBUILD RUN echo triggered > /onbuild\n\
        ONBUILD COPY late /late\n";
    let options = BuildOptions {
        tags: vec!["parent".parse().unwrap()],
        ..BuildOptions::default()
    };
    let built = machine
        .build_with(&[("Dockerfile", dockerfile)], options)
        .await
        .unwrap();
    assert_eq!(built.content("exec"), "exec\n");
    assert_eq!(built.content("doc"), "one\ntwo\n");
    assert_eq!(built.content("piped"), "piped /bin\n");
    assert_eq!(built.image.config.config.on_build.len(), 2);
    let files = [
        ("Dockerfile", "FROM parent\nRUN cat /onbuild\n"),
        ("late", "l"),
    ];
    let child = machine
        .build(&files)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (child.content("onbuild"), child.content("late")),
        ("triggered\n".into(), "l".into())
    );
    assert!(child.image.config.config.on_build.is_empty());
    assert!(child.said.contains("triggered\n"), "{}", child.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_reach_the_image() {
    let machine = Machine::new();
    let dockerfile = "FROM busybox\nRUN mkdir /d && echo x > /d/x && echo y > /y\n\
        RUN rm -r /d /y && mkdir /d && echo z > /d/z\n";
    let built = machine.build(&[("Dockerfile", dockerfile)]).await.unwrap();
    assert!(built.has("d/z") && !built.has("d/x") && !built.has("y"));
    // As a blob, too: what is saved and loaded elsewhere is the same.
    let mut archive = Vec::new();
    machine
        .images
        .save(&[built.image.id.to_string()], &mut archive)
        .unwrap();
    let elsewhere = Machine::new();
    let silent = dhow_image::ProgressSender::silent();
    elsewhere.images.load(&mut &archive[..], &silent).unwrap();
    let image = elsewhere.images.get(&built.image.id).unwrap();
    let root = elsewhere.images.open_image(&image).unwrap();
    let look = |path: &str| rustix::fs::statat(&root, path, rustix::fs::AtFlags::empty());
    assert!(look("d/z").is_ok() && look("d/x").is_err() && look("y").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_and_leave_nothing() {
    let machine = Machine::new();
    for (dockerfile, expected) in [
        (
            "FROM busybox\nRUN exit 3\n",
            "The command '/bin/sh -c exit 3' returned a non-zero code: 3",
        ),
        ("FORM x\n", "did you mean FROM?"),
        ("RUN x\n", "no build stage in current context"),
        ("ARG a\n", "no FROM"),
        ("FROM Busybox\n", "must be lowercase"),
        ("FROM busybox\nCOPY --form=a b c\n", "did you mean --from?"),
        (
            "FROM busybox\nENV a=${b!}\n",
            "unsupported modifier (!) in substitution of b",
        ),
        (
            "FROM busybox\nEXPOSE 99999\n",
            "invalid containerPort: 99999",
        ),
        (
            "FROM busybox\nRUN --mount=type=cache,target=/x true\n",
            "BuildKit",
        ),
        ("FROM busybox\nWORKDIR /etc/passwd\n", "not a directory"),
    ] {
        let error = machine
            .build(&[("Dockerfile", dockerfile)])
            .await
            .expect_err(dockerfile);
        assert!(
            error.to_string().contains(expected),
            "{dockerfile}: {error}"
        );
    }
    // What a failed command wrote is not in any image, nor anywhere else.
    assert_eq!(machine.images.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_nobody_watches_stops() {
    let machine = Machine::new();
    let directory = tempfile::tempdir().unwrap();
    let dockerfile = "FROM busybox\nRUN echo started; while :; do :; done\n";
    std::fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (sender, mut events) = tokio::sync::mpsc::channel(100);
    let context = Context::Directory(directory.path().to_owned());
    let options = BuildOptions {
        id: "t".into(),
        ..BuildOptions::default()
    };
    let building = machine
        .builder
        .build(context, options, dhow_build::Output::new(sender));
    let watching = async {
        while let Some(event) = events.recv().await {
            if event == dhow_build::Event::Stream("started\n".into()) {
                break;
            }
        }
        drop(events);
    };
    let both = async { tokio::join!(building, watching) };
    let (outcome, ()) = tokio::time::timeout(std::time::Duration::from_secs(30), both)
        .await
        .unwrap();
    assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
    assert!(machine.images.rootfs_names().unwrap().is_empty());
}

/// Answers one request with a file, the other with its absence.
async fn serve(listener: tokio::net::TcpListener) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
        let answer = match head.starts_with(b"GET /dir/file.tar?x=y ") {
            true => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbytes",
            false => "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_added_from_addresses() {
    let machine = Machine::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener));
    let dockerfile = format!(
        "FROM busybox\nADD http://{address}/dir/file.tar?x=y /into/\nADD http://{address}/dir/file.tar?x=y /named\n"
    );
    let built = machine.build(&[("Dockerfile", &dockerfile)]).await.unwrap();
    assert_eq!(
        (built.content("into/file.tar"), built.content("named")),
        ("bytes".into(), "bytes".into())
    );
    assert_eq!(built.files()["named"].0, 0o600);
    for (bad, expected) in [
        ("/none", "answered 404"),
        ("/", "cannot determine filename"),
    ] {
        let dockerfile = format!("FROM busybox\nADD http://{address}{bad} /x\n");
        let error = machine
            .build(&[("Dockerfile", &dockerfile)])
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    serving.abort();
}
