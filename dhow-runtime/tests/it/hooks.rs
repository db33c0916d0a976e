//! Hooks in all six places: order, namespaces, state, failures, timeouts.

use std::path::PathBuf;
use std::process::Output;

use dhow_runtime::spec::{Hook, Hooks};

use crate::bundle::{Bundle, words};

/// A hook that is a shell script, with busybox's programs where it runs inside.
fn hook(script: &str) -> Hook {
    Hook {
        path: "/bin/sh".into(),
        args: ["sh", "-c", script].map(str::to_owned).into(),
        env: vec!["PATH=/bin:/usr/bin".to_owned()],
        timeout: Some(30),
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A bundle, and the file its hooks write their names to.
fn traced(name: &str, script: &str) -> (Bundle, PathBuf) {
    let bundle = Bundle::new(name, script);
    let trace = bundle.path().join("trace");
    std::fs::write(&trace, "").unwrap();
    (bundle, trace)
}

/// What the hooks wrote.
fn order(trace: &PathBuf) -> Vec<String> {
    words(&std::fs::read_to_string(trace).unwrap())
}

#[test]
fn they_run_in_order_where_they_should() {
    let (mut bundle, trace) = traced("hooks", "cat /tmp/start");
    let at = trace.display();
    let traced = |name: &str, script: &str| vec![hook(&format!("echo {name} >> {at}; {script}"))];
    bundle.spec.hooks = Hooks {
        prestart: traced("prestart", ""),
        create_runtime: traced("createRuntime", "[ $(hostname) != inside ]"),
        create_container: traced("createContainer", "[ $(hostname) = inside ]"),
        // This one has the container's root and sees nothing of ours.
        start_container: vec![hook("[ ! -e /rootfs ] && echo startContainer > /tmp/start")],
        poststart: traced("poststart", ""),
        poststop: traced("poststop", ""),
    };
    assert_eq!(bundle.output(), "startContainer\n");
    assert_eq!(
        order(&trace),
        words("prestart createRuntime createContainer poststart poststop")
    );
    bundle.audit();
}

#[test]
fn each_is_told_the_state() {
    let mut bundle = Bundle::new("hooks-state", "true");
    bundle
        .spec
        .annotations
        .insert("org.example.word".to_owned(), "here".to_owned());
    let place = bundle.path().to_owned();
    let outside = |name: &str| vec![hook(&format!("cat > {}/{name}", place.display()))];
    bundle.spec.hooks = Hooks {
        prestart: outside("prestart"),
        create_runtime: outside("createRuntime"),
        create_container: outside("createContainer"),
        start_container: vec![hook("cat > /tmp/startContainer")],
        poststart: outside("poststart"),
        poststop: outside("poststop"),
    };
    bundle.output();
    for (path, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "created"),
        ("rootfs/tmp/startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        let text = std::fs::read_to_string(bundle.path().join(path)).unwrap();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(state["status"], status, "{path}: {state}");
        assert_eq!(state["id"], bundle.id, "{path}");
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap(), "{path}");
        assert_eq!(state["annotations"]["org.example.word"], "here", "{path}");
        assert!(state["ociVersion"].is_string(), "{path}");
        let has_process = state["pid"].as_i64().is_some_and(|pid| pid > 1);
        assert_eq!(has_process, status != "stopped", "{path}: {state}");
    }
    bundle.audit();
}

/// What fails on the way to the start undoes all, and the hooks that follow the end
/// of a container run; others of its kind do not.
#[test]
fn one_that_fails_before_the_start_undoes_all() {
    type Place = fn(&mut Hooks) -> &mut Vec<Hook>;
    let places: [(&str, Place); 4] = [
        ("prestart", |hooks| &mut hooks.prestart),
        ("createRuntime", |hooks| &mut hooks.create_runtime),
        ("createContainer", |hooks| &mut hooks.create_container),
        ("startContainer", |hooks| &mut hooks.start_container),
    ];
    for (name, place) in places {
        let (mut bundle, trace) = traced("hooks-fail", "echo ran");
        let at = trace.display();
        *place(&mut bundle.spec.hooks) = vec![
            hook("echo no such device >&2; exit 9"),
            hook(&format!("echo second >> {at}")),
        ];
        bundle.spec.hooks.poststop = vec![hook(&format!("echo poststop >> {at}"))];
        let output = bundle.run();
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(output.stdout.is_empty(), "{name}");
        assert!(errors.contains("no such device"), "{name}: {errors}");
        let told = match name {
            "prestart" | "createRuntime" => "error running hook /bin/sh: exit status: 9",
            _ => "run hooks sh, sh: Operation canceled",
        };
        assert!(errors.contains(told), "{name}: {errors}");
        assert_eq!(order(&trace), ["poststop"], "{name}");
        bundle.audit();
    }
}

/// A hook after the start that fails ends the container (runtime-spec, "Lifecycle",
/// 9), whichever way it was started.
#[test]
fn one_that_fails_after_the_start_ends_the_container() {
    for way in ["run", "run --detach", "start"] {
        let (mut bundle, trace) = traced("hooks-poststart", "exec sleep 1000");
        let at = trace.display();
        bundle.spec.hooks.poststart = vec![
            hook("echo no network >&2; exit 4"),
            hook(&format!("echo second >> {at}")),
        ];
        bundle.spec.hooks.poststop = vec![hook(&format!("echo poststop >> {at}"))];
        bundle.write();
        let path = bundle.path().to_str().unwrap();
        let mut command = match way {
            "start" => {
                let create = ["create", "--bundle", path, &bundle.id];
                let mut create = bundle.command(&create);
                create.stdout(std::process::Stdio::null());
                assert!(create.status().unwrap().success());
                bundle.command(&["start", &bundle.id])
            }
            way => {
                let mut run = bundle.command(&[]);
                run.args(words(way));
                run.args(["--bundle", path, &bundle.id]);
                run
            }
        };
        let output = command.output().unwrap();
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{way}: {errors}");
        let told = "error running hook /bin/sh: exit status: 4, stderr: no network";
        assert!(errors.contains(told), "{way}: {errors}");
        assert_eq!(order(&trace), ["poststop"], "{way}");
        bundle.audit();
    }
}

/// Hooks after the end that fail are told, and nothing else comes of it.
#[test]
fn one_that_fails_after_the_end_is_a_warning() {
    for way in ["run", "delete"] {
        let (mut bundle, trace) = traced("hooks-poststop", "exit 7");
        let at = trace.display();
        bundle.spec.hooks.poststop = vec![
            hook("echo still there >&2; exit 5"),
            hook(&format!("echo second >> {at}")),
            hook("exit 6"),
        ];
        bundle.write();
        let path = bundle.path().to_str().unwrap();
        let (output, code) = match way {
            "delete" => {
                let mut run = bundle.command(&["run", "--keep", "--bundle", path, &bundle.id]);
                assert_eq!(run.status().unwrap().code(), Some(7));
                (bundle.command(&["delete", &bundle.id]).output(), 0)
            }
            _ => {
                let run = ["run", "--bundle", path, &bundle.id];
                (bundle.command(&run).output(), 7)
            }
        };
        let output = output.unwrap();
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(code), "{way}: {errors}");
        for told in ["exit status: 5, stderr: still there", "exit status: 6"] {
            let told = format!("warning: error running hook /bin/sh: {told}");
            assert!(errors.contains(&told), "{way}: {errors}");
        }
        assert_eq!(order(&trace), ["second"], "{way}");
        bundle.audit();
    }
}

#[test]
fn one_that_takes_too_long_is_killed() {
    type Place = fn(&mut Hooks) -> &mut Vec<Hook>;
    let places: [(&str, Place, &str); 3] = [
        (
            "createRuntime",
            |hooks| &mut hooks.create_runtime,
            "error running hook /bin/sh: killed after 1 seconds",
        ),
        (
            "createContainer",
            |hooks| &mut hooks.create_container,
            "run hooks sh: Connection timed out",
        ),
        (
            "startContainer",
            |hooks| &mut hooks.start_container,
            "run hooks sh: Connection timed out",
        ),
    ];
    for (name, place, told) in places {
        let mut bundle = Bundle::new("hooks-late", "echo ran");
        *place(&mut bundle.spec.hooks) = vec![Hook {
            timeout: Some(1),
            ..hook("exec sleep 1000")
        }];
        let output = bundle.run();
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {errors}");
        assert!(errors.contains(told), "{name}: {errors}");
        assert!(output.stdout.is_empty(), "{name}");
        // It is gone, too.
        bundle.audit();
    }
}
