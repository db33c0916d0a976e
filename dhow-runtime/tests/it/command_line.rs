//! The command line, as those who drive runc use it.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::bundle::{Bundle, words};

fn text(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let string = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        string(output.stdout),
        string(output.stderr),
    )
}

#[test]
fn create_start_state_kill_delete() {
    let bundle = Bundle::new("life", "trap 'exit 3' TERM; while :; do sleep 1; done");
    bundle.write();
    let id = bundle.id.as_str();
    let pid_file = bundle.path().join("pid");
    let command = |words: &[&str]| text(&mut bundle.command(words));
    let (code, out, errors) = text(
        bundle
            .command(&["create", "--pid-file"])
            .arg(&pid_file)
            .arg("--bundle")
            .arg(bundle.path())
            .arg(id)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    assert_eq!((code, out, errors), (0, String::new(), String::new()));
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let state = |status: &str| {
        let (code, out, _) = command(&["state", id]);
        assert_eq!(code, 0);
        let state: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (state["status"].as_str(), state["id"].as_str()),
            (Some(status), Some(id))
        );
        state["pid"].as_i64().unwrap()
    };
    assert_eq!(state("created"), i64::from(pid));
    let (code, _, errors) = text(
        bundle
            .command(&["create", "--bundle"])
            .arg(bundle.path())
            .arg(id),
    );
    assert_eq!(code, 1);
    assert!(
        errors.contains("container with given ID already exists"),
        "{errors}"
    );

    assert_eq!(command(&["start", id]).0, 0);
    state("running");
    let (code, _, errors) = command(&["start", id]);
    assert_eq!(
        (code, errors.as_str()),
        (1, "cannot start a container that is running\n")
    );
    assert_eq!(command(&["pause", id]).0, 0);
    state("paused");
    assert_eq!(command(&["exec", id, "true"]).0, 255);
    assert_eq!(command(&["resume", id]).0, 0);
    let (code, _, errors) = command(&["delete", id]);
    assert_eq!(code, 1);
    assert!(errors.contains("that is not stopped: running"), "{errors}");
    assert_eq!(command(&["list", "-q"]).1, format!("{id}\n"));
    let (_, out, _) = command(&["ps", "--format", "json", id]);
    assert!(out.contains(&pid.to_string()), "{out}");

    assert_eq!(command(&["kill", id, "SIGKILL"]).0, 0);
    // Somebody else collects it; until then it is not deleted, but ended.
    let process = dhow_sys::process::Process::find(pid);
    if let Ok(process) = process {
        let mut wait = [rustix::event::PollFd::new(
            &process.pidfd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut wait, None).unwrap();
    }
    assert_eq!(state("stopped"), 0);
    let (code, _, errors) = command(&["kill", id, "TERM"]);
    assert_eq!((code, errors.as_str()), (1, "container not running\n"));
    assert_eq!(command(&["delete", id]).0, 0);
    let (code, _, errors) = command(&["state", id]);
    assert_eq!((code, errors.as_str()), (1, "container does not exist\n"));
    assert_eq!(command(&["delete", "--force", id]).0, 0);
    bundle.audit();
}

#[test]
fn exec_is_inside_with_the_same_rights() {
    let bundle = Bundle::new("exec", "exec sleep 1000");
    bundle.write();
    let id = bundle.id.as_str();
    let mut run = bundle
        .command(&["run", "--bundle"])
        .arg(bundle.path())
        .arg(id)
        .spawn()
        .unwrap();
    wait_for_status(&bundle, dhow_runtime::Status::Running);
    let script = "echo $$ $WORD; hostname; grep -E 'CapEff|Seccomp:' /proc/self/status /proc/1/status | wc -l; \
        cat /proc/self/cgroup | grep -c ':/$'; id -u; mount -t tmpfs none /tmp 2>&1; exit 9";
    let (code, out, _) = text(&mut bundle.command(&[
        "exec",
        "--env",
        "WORD=here",
        "--user",
        "42:43",
        "--cwd",
        "/tmp",
        id,
        "sh",
        "-c",
        script,
    ]));
    let seen: Vec<_> = out.lines().collect();
    assert_eq!(code, 9);
    assert!(
        seen[0].ends_with(" here") && !seen[0].starts_with("1 "),
        "{out}"
    );
    assert_eq!(seen[1..3], ["inside", "4"]);
    assert_ne!(seen[3], "0");
    assert_eq!(seen[4], "42");
    assert!(seen[5].contains("ermi"), "{out}");
    let (code, _, errors) = text(&mut bundle.command(&["exec", id, "nothing"]));
    assert_eq!(code, 255);
    assert!(errors.contains("exec failed: "), "{errors}");
    assert!(
        errors.contains("executable file not found in $PATH"),
        "{errors}"
    );
    assert_eq!(text(&mut bundle.command(&["delete", "--force", id])).0, 0);
    // Whoever ran it may find it gone already.
    run.wait().unwrap();
    bundle.audit();
}

fn wait_for_status(bundle: &Bundle, wanted: dhow_runtime::Status) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let status = bundle
            .runtime()
            .open(&bundle.id)
            .and_then(|container| container.status());
        if status.is_ok_and(|status| status == wanted) {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "it never was {wanted}"
        );
        std::thread::yield_now();
    }
}

#[test]
fn terminals_go_over_the_console_socket() {
    let mut bundle = Bundle::new("console", "stty size; tty");
    bundle.process().terminal = true;
    bundle.process().console_size = Some(dhow_runtime::spec::ConsoleSize {
        height: 24,
        width: 77,
    });
    bundle.write();
    let path = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let status = bundle
        .command(&["create", "--console-socket"])
        .arg(&path)
        .arg("--bundle")
        .arg(bundle.path())
        .arg(&bundle.id)
        .status();
    assert!(status.unwrap().success());
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let (length, master) =
        dhow_sys::fdpass::receive(std::os::fd::AsFd::as_fd(&stream), &mut name).unwrap();
    assert_eq!(&name[..length], b"/dev/pts/ptmx");
    assert!(
        bundle
            .command(&["start", &bundle.id])
            .status()
            .unwrap()
            .success()
    );
    let mut written = Vec::new();
    // A terminal nobody has open any more answers with an error.
    let _ = std::fs::File::from(master).read_to_end(&mut written);
    let written = String::from_utf8(written).unwrap();
    assert!(written.starts_with("24 77\r\n/dev/"), "{written}");
    assert!(
        bundle
            .command(&["delete", "--force", &bundle.id])
            .status()
            .unwrap()
            .success()
    );
    bundle.audit();
}

#[test]
fn descriptors_are_kept_when_asked_for() {
    let bundle = Bundle::new("keep", "echo kept >&3");
    bundle.write();
    let script = format!(
        "exec {} --root {} run --preserve-fds 1 --bundle {} {} 3>&1 >/dev/null",
        crate::bundle::EXECUTABLE,
        bundle.runtime_root().display(),
        bundle.path().display(),
        bundle.id
    );
    let (code, out, errors) = text(Command::new("/bin/sh").args(["-c", &script]));
    assert_eq!((code, out.as_str(), errors.as_str()), (0, "kept\n", ""));
    bundle.audit();
}

#[test]
fn the_log_file_has_what_containerd_reads() {
    let mut bundle = Bundle::new("log", "");
    bundle.process().args = words("nothing");
    bundle.write();
    let log = bundle.path().join("log.json");
    let (code, _, _) = text(
        Command::new(crate::bundle::EXECUTABLE)
            .arg("--root")
            .arg(bundle.runtime_root())
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", "create", "--bundle"])
            .arg(bundle.path())
            .arg(&bundle.id),
    );
    assert_eq!(code, 1);
    let text = std::fs::read_to_string(&log).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"]
            .as_str()
            .unwrap()
            .contains("executable file not found"),
        "{text}"
    );
    bundle.audit();
}

/// The same bundle, run by runc: what the program sees is the same. Needs
/// Debian's `runc`.
#[test]
fn runc_shows_the_same() {
    let script = "cat /proc/self/mountinfo | while read a b c d where how rest; do echo $where $how; done | sort; \
        ls -ln /dev | while read mode links user group rest; do echo $mode $user $group; done | sort; \
        grep -E '^(Cap|NoNew|Seccomp:|Uid|Gid|Groups)' /proc/self/status; env | sort; id; \
        ulimit -n; cat /proc/self/oom_score_adj; ls /proc/self/fd; hostname; echo $$";
    let mut bundle = Bundle::new("peer", script);
    bundle.linux().cgroups_path = Some(format!("/dhow-peer-{}", std::process::id()));
    bundle.process().env.push("HOME=/root".to_owned());
    // Which of the control groups are shown is this runtime's own choice.
    bundle
        .spec
        .mounts
        .retain(|mount| !mount.destination.ends_with("cgroup"));
    // What covers masked paths has stricter options here.
    bundle.linux().masked_paths.clear();
    let ours = bundle.output();
    let theirs = Command::new("runc")
        .arg("--root")
        .arg(bundle.path().join("runc"))
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id)
        .output()
        .expect("tests need runc: apt-get install runc");
    assert!(
        theirs.status.success(),
        "{}",
        String::from_utf8_lossy(&theirs.stderr)
    );
    let theirs = String::from_utf8(theirs.stdout).unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&ours), lines(&theirs));
    bundle.audit();
}

/// A container that sleeps, started detached.
fn sleeping(name: &str) -> Bundle {
    let bundle = Bundle::new(name, "exec sleep 1000");
    bundle.write();
    let status = bundle
        .command(&["run", "--detach", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    bundle
}

#[track_caller]
fn end(bundle: &Bundle) {
    let (code, _, errors) = text(&mut bundle.command(&["delete", "--force", &bundle.id]));
    assert_eq!((code, errors.as_str()), (0, ""));
    bundle.audit();
}

#[test]
fn events_tell_use_and_kills() {
    let bundle = sleeping("events");
    let id = bundle.id.as_str();
    let (code, out, errors) = text(&mut bundle.command(&["events", "--stats", id]));
    assert_eq!((code, errors.as_str()), (0, ""));
    let event: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&event["type"], &event["id"]),
        (&"stats".into(), &id.into())
    );
    assert_eq!(event["data"]["pids"]["current"], 1);
    for number in ["/memory/usage/usage", "/cpu/usage/total"] {
        let number = event["data"].pointer(number).unwrap();
        assert!(number.as_u64().unwrap() > 0, "{event}");
    }
    let (code, _, errors) = text(&mut bundle.command(&["events", "--interval", "5", id]));
    assert_eq!(code, 1);
    assert!(errors.contains("use 500ms, 5s or 1m"), "{errors}");

    let limit = text(&mut bundle.command(&["update", "--memory", "8388608", id]));
    assert_eq!((limit.0, limit.2.as_str()), (0, ""));
    let mut following = bundle
        .command(&["events", "--interval", "20ms", id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(following.stdout.take().unwrap());
    let mut told = std::io::BufRead::lines(out)
        .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    // Whoever tells the use watches for kills too.
    assert_eq!(told.next().unwrap()["type"], "stats");
    let hog = bundle.command(&["exec", id, "tail", "/dev/zero"]).status();
    assert_eq!(hog.unwrap().code(), Some(137));
    let kill = told.find(|event| event["type"] != "stats").unwrap();
    assert_eq!(kill, serde_json::json!({ "type": "oom", "id": id }));
    end(&bundle);
    assert!(following.wait().unwrap().success());
}

#[test]
fn users_of_execs_are_numbers() {
    let bundle = sleeping("exec-user");
    let id = bundle.id.as_str();
    let exec = |user: &str| text(&mut bundle.command(&["exec", "--user", user, id, "id"]));
    // Regression: one that is only like a number must not become root
    // (CVE-2026-30892).
    assert_eq!(exec("1").1, "uid=1 gid=0\n");
    assert_eq!(exec("1:2").1, "uid=1 gid=2\n");
    for user in [
        "",
        ":",
        "1:",
        ":1",
        "+1",
        "-1",
        "1 ",
        "root",
        "4294967295",
        "4294967296",
        "1:2:3",
    ] {
        let (code, out, errors) = exec(user);
        assert_eq!((code, out.as_str()), (255, ""), "{user:?}");
        assert!(
            errors.contains("is no numeric identity"),
            "{user:?}: {errors}"
        );
    }
    let mut process = bundle.spec.process.clone().unwrap();
    process.args = words("id");
    process.user.gid = u32::MAX;
    let file = bundle.path().join("process.json");
    std::fs::write(&file, serde_json::to_vec(&process).unwrap()).unwrap();
    let (code, out, errors) = text(bundle.command(&["exec", "--process"]).arg(&file).arg(id));
    assert_eq!((code, out.as_str()), (255, ""));
    assert!(errors.contains("4294967295 is nobody's number"), "{errors}");
    end(&bundle);
}

#[test]
fn execs_have_groups_of_their_own_and_wait_for_the_paused() {
    let bundle = sleeping("exec-group");
    let id = bundle.id.as_str();
    let container = bundle.runtime().open(id).unwrap();
    let group = container.group().unwrap().unwrap();
    group.below("sub".as_ref()).unwrap().create().unwrap();
    let exec = ["exec", "--cgroup", "sub", id, "cat", "/proc/self/cgroup"];
    let (code, out, errors) = text(&mut bundle.command(&exec));
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(out.lines().all(|line| line.ends_with(":/sub")), "{out}");
    let exec = ["exec", "--cgroup", "none", id, "true"];
    let (code, _, errors) = text(&mut bundle.command(&exec));
    assert_eq!(code, 255);
    assert!(errors.contains("No such file or directory"), "{errors}");
    let (code, _, errors) = text(&mut bundle.command(&["exec", "--cgroup", "../x", id, "true"]));
    assert_eq!(code, 255);
    assert!(errors.contains("is no path of a control group"), "{errors}");

    container.pause().unwrap();
    let mut waiting = bundle
        .command(&["exec", "--ignore-paused", id, "true"])
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while container.processes().unwrap().len() < 2 {
        assert!(std::time::Instant::now() < deadline, "it does not come");
        std::thread::yield_now();
    }
    assert!(waiting.try_wait().unwrap().is_none());
    container.resume().unwrap();
    assert!(waiting.wait().unwrap().success());
    end(&bundle);
}

#[test]
fn labels_are_refused_where_there_are_none() {
    let bundle = sleeping("exec-labels");
    let mut apparmor = "this kernel has no AppArmor";
    if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        apparmor = "apply AppArmor profile \"label\", which must be loaded";
        let exec = ["exec", "--apparmor", "unconfined", &bundle.id, "true"];
        let (code, _, errors) = text(&mut bundle.command(&exec));
        assert_eq!((code, errors.as_str()), (0, ""));
    }
    for (option, expected) in [
        ("--apparmor", apparmor),
        ("--process-label", "this kernel has no SELinux"),
    ] {
        let exec = ["exec", option, "label", &bundle.id, "true"];
        let (code, _, errors) = text(&mut bundle.command(&exec));
        assert_eq!(code, 255);
        assert!(errors.contains(expected), "{errors}");
    }
    end(&bundle);
}

#[test]
fn keyrings_are_kept_when_asked_for() {
    for (name, options, expected) in [
        ("keyring-own", &["run"][..], "1\n"),
        ("keyring-kept", &["run", "--no-new-keyring"], "0\n"),
    ] {
        let mut bundle = Bundle::new(name, "cat /proc/keys | grep -c _ses.$(hostname)");
        bundle.spec.hostname = bundle.id.clone();
        bundle.linux().masked_paths.clear();
        bundle.write();
        let (_, out, errors) = text(
            bundle
                .command(options)
                .arg("--bundle")
                .arg(bundle.path())
                .arg(&bundle.id),
        );
        assert_eq!((out.as_str(), errors.as_str()), (expected, ""));
        bundle.audit();
    }
}

#[test]
fn containers_are_listed() {
    let bundle = sleeping("list");
    let (_, table, _) = text(&mut bundle.command(&["list"]));
    let mut lines = table.lines().map(words);
    assert_eq!(
        lines.next().unwrap(),
        words("ID PID STATUS BUNDLE CREATED OWNER")
    );
    let line = lines.next().unwrap();
    let path = bundle.path().to_str().unwrap();
    assert_eq!(
        [&line[0], &line[2], &line[3], &line[5]],
        [&bundle.id, "running", path, "root"]
    );
    let (_, json, _) = text(&mut bundle.command(&["list", "--format=json"]));
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(list[0]["status"], "running");
    assert_eq!(list[0]["owner"], "root");
    end(&bundle);
}

/// Regression: a runtime that was killed left groups, a directory and sometimes a
/// process nobody could name.
#[test]
fn what_a_killed_runtime_leaves_is_removed() {
    let bundle = Bundle::new("killed", "exec sleep 1000");
    bundle.write();
    let create = || {
        let mut command = bundle.command(&["create", "--bundle"]);
        command.arg(bundle.path()).arg(&bundle.id);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let delete = || {
        let (code, _, errors) = text(&mut bundle.command(&["delete", "--force", &bundle.id]));
        assert_eq!((code, errors.as_str()), (0, ""));
        bundle.audit();
    };
    let begin = std::time::Instant::now();
    assert!(create().status().unwrap().success());
    let whole = begin.elapsed();
    delete();
    const ROUNDS: u32 = 60;
    let mut n_unfinished = 0;
    for round in 0..ROUNDS {
        let mut process = create().spawn().unwrap();
        // The moments are spread over the whole of it, and some more.
        let moment = std::time::Instant::now() + whole * round / (ROUNDS * 3 / 4);
        while std::time::Instant::now() < moment {
            std::hint::spin_loop();
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let state = bundle.runtime_root().join(&bundle.id);
        let is_unfinished = state.exists() && bundle.runtime().open(&bundle.id).is_err();
        n_unfinished += u32::from(is_unfinished);
        // What is left is in nobody's way, and goes.
        if round % 2 == 0 && is_unfinished {
            // The process that was being made may take a moment to go.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
            while !create().status().unwrap().success() {
                assert!(std::time::Instant::now() < deadline, "it does not go");
            }
        }
        delete();
    }
    assert!(n_unfinished > 0, "the moments hit nothing");
}

/// In the foreground the program's terminal has the size of ours from its first
/// moment on, and what is written to ours reaches it.
#[test]
fn the_foreground_has_our_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let mut bundle = Bundle::new("foreground", "stty size; read line; echo got $line; exit 7");
    bundle.process().terminal = true;
    bundle.write();
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let size = rustix::termios::Winsize {
        ws_row: 33,
        ws_col: 77,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&ours, size).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = || {
        let name = std::path::Path::new(name.to_str().unwrap());
        let file = std::fs::File::options().read(true).write(true).open(name);
        Stdio::from(file.unwrap())
    };
    let mut run = bundle
        .command(&["run", "--bundle"])
        .arg(bundle.path())
        .arg(&bundle.id)
        .stdin(theirs())
        .stdout(theirs())
        .stderr(theirs())
        .spawn()
        .unwrap();
    let mut ours = std::fs::File::from(ours);
    std::io::Write::write_all(&mut ours, b"word\n").unwrap();
    let code = run.wait().unwrap().code();
    let mut seen = vec![0; 4096];
    let length = ours.read(&mut seen).unwrap();
    let seen = String::from_utf8_lossy(&seen[..length]);
    assert_eq!(code, Some(7), "{seen}");
    assert!(seen.contains("33 77\r\n"), "{seen}");
    assert!(seen.contains("got word\r\n"), "{seen}");
    bundle.audit();
}
