//! Mounts that are not of the host: the files of other images.

use dhow_testkit::Daemon;

fn daemon(options: &[&str]) -> Daemon {
    let daemon = Daemon::start_with(|host| {
        let etc = host.folder().join("accounts/etc");
        std::fs::create_dir_all(&etc).expect("a folder");
        for (name, text) in [
            ("passwd", "remap:x:900:900::/:/bin/false\n"),
            ("group", "remap:x:900:\n"),
            ("subuid", "remap:100000:65536\n"),
            ("subgid", "remap:100000:65536\n"),
        ] {
            std::fs::write(etc.join(name), text).expect("written");
        }
        let root = format!(
            "--accounts-root={}",
            host.folder().join("accounts").display()
        );
        let options = options.iter().map(|option| (*option).to_owned());
        options.chain([root]).collect()
    });
    daemon.busybox();
    let recipe = daemon.host().folder().join("recipe");
    std::fs::create_dir(&recipe).expect("a folder");
    std::fs::write(
        recipe.join("Dockerfile"),
        "FROM busybox\nRUN mkdir -p /opt/tools/deep && echo one > /opt/tools/deep/file\n\
         RUN echo two > /opt/tools/deep/file && chown 33:44 /opt/tools/deep/file && ln -s /etc /opt/tools/out\n\
         RUN rm /data/greeting\n",
    )
    .expect("written");
    let context = recipe.display().to_string();
    daemon.docker(&["build", "-t", "tools:1", &context]).ok();
    daemon
}

fn images_are_mounted(daemon: &Daemon) {
    let mount = "type=image,source=tools:1,target=/x";
    let script = "cat /x/opt/tools/deep/file; stat -c %u:%g /x /x/opt/tools/deep/file; ls /x/data; \
        touch /x/new; mount -o remount,rw /x; grep -c ' /x ' /proc/self/mountinfo";
    let ran = daemon.docker(&[
        "run", "--rm", "--mount", mount, "busybox", "sh", "-c", script,
    ]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "two\n0:0\n33:44\n1\n"),
        "{ran:?}"
    );
    assert!(
        ran.stderr.contains("touch: /x/new: Read-only file system"),
        "{ran:?}"
    );
    // A part of it; a link in it leads nowhere but into the image.
    let part = |path: &str| format!("type=image,source=tools:1,target=/x,image-subpath={path}");
    assert_eq!(
        daemon.script(&["--mount", &part("opt/tools/deep")], "ls /x"),
        "file"
    );
    let seen = daemon.script(
        &["--mount", &part("opt/tools/out")],
        "ls /x | grep -c passwd; echo own > /etc/own; ls /x | grep -c own; true",
    );
    assert_eq!(seen, "1\n0");
    for (path, code, part) in [
        ("nothing", 127, "nothing: no such file or directory"),
        (
            "../etc",
            125,
            "subpath must be a relative path within the image",
        ),
        (
            "/etc",
            125,
            "subpath must be a relative path within the image",
        ),
    ] {
        let mount = format!("type=image,source=tools:1,target=/x,image-subpath={path}");
        let ran = daemon.docker(&["run", "--rm", "--mount", &mount, "busybox", "true"]);
        assert!(
            ran.code == code && ran.stderr.contains(part),
            "{path}: {ran:?}"
        );
    }
    let missing = "type=image,source=none,target=/x";
    let ran = daemon.docker(&["create", "--mount", missing, "busybox", "true"]);
    assert!(
        ran.code != 0 && ran.stderr.contains("No such image: none"),
        "{ran:?}"
    );
    // Ours asks for it with the same words.
    let words = [
        "run",
        "--rm",
        "--mount",
        mount,
        "busybox",
        "cat",
        "/x/opt/tools/deep/file",
    ];
    assert_eq!(daemon.dhow(&words).ok(), "two");

    // While a container has it, it stays; the container finds it again.
    let id = daemon
        .docker(&["images", "-q", "--no-trunc", "tools:1"])
        .ok();
    daemon.sleeper("box", &["--mount", mount]);
    let shown = daemon.inspect(
        "box",
        "{{range .Mounts}}{{.Type}} {{.Name}} {{.Source}} {{.Destination}} {{.RW}}{{end}}",
    );
    assert_eq!(shown, format!("image tools:1 {id} /x false"));
    let asked = daemon.inspect(
        "box",
        "{{range .HostConfig.Mounts}}{{.Type}} {{.Source}} {{.Target}}{{end}}",
    );
    assert_eq!(asked, "image tools:1 /x");
    let error = daemon.docker(&["rmi", "tools:1"]).fails(1);
    assert!(error.contains("conflict: unable to"), "{error}");
    let error = daemon.docker(&["rmi", "-f", &id]).fails(1);
    assert!(error.contains("being used by running container"), "{error}");
    daemon.docker(&["image", "prune", "-af"]).ok();
    daemon.docker(&["restart", "-t0", "box"]).ok();
    assert_eq!(daemon.within("box", "cat /x/opt/tools/deep/file"), "two");
    let copied = daemon.host().folder().join("copied").display().to_string();
    daemon
        .docker(&["cp", "box:/x/opt/tools/deep/file", &copied])
        .ok();
    assert_eq!(
        daemon.script(&["--volumes-from", "box"], "cat /x/opt/tools/deep/file"),
        "two"
    );
    daemon.docker(&["rm", "-f", "box"]).ok();
    daemon.docker(&["rmi", "tools:1"]).ok();
}

#[test]
fn images_are_mounted_to_be_read() {
    let daemon = daemon(&[]);
    images_are_mounted(&daemon);
    daemon.remove_containers();
    daemon.finish();
}

#[test]
fn images_are_mounted_where_users_are_others() {
    let daemon = daemon(&["--userns-remap=remap"]);
    images_are_mounted(&daemon);
    daemon.remove_containers();
    daemon.finish();
}
