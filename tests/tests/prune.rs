//! What is pruned, and what stays: by label, by age, and by who else has it.

use dhow_testkit::{Daemon, Dockerd, at_dockerd, at_ours};
use serde_json::json;

/// A folder with a Dockerfile.
fn recipe(daemon: &dyn Dockerd, name: &str, text: &str) -> String {
    let folder = daemon.host().folder().join(name);
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("Dockerfile"), text).expect("written");
    folder.display().to_string()
}

#[test]
fn labels_choose_what_is_pruned() {
    at_ours(labels);
}

#[test]
fn dockerd_prunes_as_much() {
    at_dockerd(&[labels]);
}

/// Things with the label `kind=a` and with `kind=b`; those that are asked for go.
fn labels(daemon: &dyn Dockerd) {
    let docker = |words: &[&str]| daemon.docker(words).ok();
    let make = |kind: &str| {
        let label = format!("--label=kind={kind}");
        let name = |what: &str| format!("{what}-{kind}");
        let create = ["create", "--network=none", &label, "--name"];
        docker(&[&create[..], &[&name("box"), "busybox"]].concat());
        docker(&["network", "create", &label, &name("net")]);
        docker(&["volume", "create", &label, &name("data")]);
        let change = format!("LABEL kind={kind}");
        // Two images, one of which has no name.
        docker(&["commit", "-c", &change, &name("box"), &name("image")]);
        docker(&["commit", "-c", &change, &name("box")]);
    };
    let left = || {
        let kinds: [(&str, &[&str]); 4] = [
            ("box", &["ps", "-a", "--format={{.Names}}"]),
            (
                "net",
                &[
                    "network",
                    "ls",
                    "--filter=type=custom",
                    "--format={{.Name}}",
                ],
            ),
            ("data", &["volume", "ls", "--format={{.Name}}"]),
            ("image", &["images", "-f=dangling=true", "-q"]),
        ];
        kinds.map(|(what, words)| {
            let mut names: Vec<String> = docker(words).lines().map(str::to_owned).collect();
            names.sort();
            match what {
                "image" => names.len().to_string(),
                _ => names.join(" "),
            }
        })
    };
    make("a");
    make("b");
    let all = left();
    assert_eq!(all, ["box-a box-b", "net-a net-b", "data-a data-b", "2"]);
    for filter in ["label=kind=c", "label=none", "label!=kind", "until=24h"] {
        docker(&["system", "prune", "-f", "--filter", filter]);
        assert_eq!(left(), all, "{filter}");
    }
    // Two labels are both wanted.
    let both = ["--filter=label=kind", "--filter=label=kind=c"];
    docker(&[&["system", "prune", "-f"], &both[..]].concat());
    assert_eq!(left(), all);

    docker(&["image", "prune", "-f", "--filter=label!=kind=b"]);
    assert_eq!(left()[3], "1");
    docker(&["container", "prune", "-f", "--filter=label=kind=a"]);
    docker(&["network", "prune", "-f", "--filter=label!=kind=b"]);
    // Older ones prune what has a name, too.
    let prune = ["volume", "prune", "-f", "--filter=label=kind=a"];
    docker(&prune);
    if !daemon.is_reference() {
        assert_eq!(left()[2], "data-a data-b");
        docker(&[&prune[..], &["-a"]].concat());
    }
    assert_eq!(left(), ["box-b", "net-b", "data-b", "1"]);
    // What has a name is asked for by `-a` alone.
    docker(&["system", "prune", "-f", "--filter=label=kind"]);
    assert_eq!(left(), ["", "", "data-b", "0"]);
    let named = || docker(&["images", "--filter=label=kind", "--format={{.Repository}}"]);
    assert_eq!(named().lines().count(), 2);
    docker(&["system", "prune", "-af", "--filter=label=kind=a"]);
    assert_eq!(named(), "image-b");
    docker(&[
        "image",
        "prune",
        "-af",
        "--filter=label!=none",
        "--filter=label=kind",
    ]);
    assert_eq!(named(), "");
    docker(&["volume", "rm", "data-b"]);
    for words in [
        &["image", "prune", "-f", "--filter=odd=1"][..],
        &["image", "prune", "-f", "--filter=until=soon"],
        &["network", "prune", "-f", "--filter=odd=1"],
        &["volume", "prune", "-f", "--filter=odd=1"],
        &["container", "prune", "-f", "--filter=odd=1"],
    ] {
        daemon.docker(words).fails(1);
    }
}

/// Steps of builds: those of images stay unless all are asked for.
#[test]
fn caches_are_pruned_by_who_has_them() {
    let daemon = Daemon::start();
    daemon.busybox();
    let docker = |words: &[&str]| daemon.docker(words).ok();
    let text = "FROM busybox\nRUN echo one > /one\nRUN echo two > /two\n";
    let folder = recipe(&daemon, "recipe", text);
    let build = || docker(&["build", "-t", "built", &folder]);
    let n_cached = || build().matches("Using cache").count();
    let usage = || {
        let df = daemon.ask("GET /v1.47/system/df?type=build-cache", None);
        df.json()["BuildCache"].as_array().map_or(0, Vec::len)
    };
    build();
    assert_eq!((n_cached(), usage()), (2, 2));
    for words in [
        &["builder", "prune", "-f"][..],
        &["builder", "prune", "-f", "--filter=until=24h"],
        &["builder", "prune", "-af", "--filter=until=24h"],
        &["builder", "prune", "-af", "--filter=unused-for=24h"],
        &["builder", "prune", "-af", "--filter=private=true"],
        &["builder", "prune", "-af", "--filter=inuse=true"],
        &["builder", "prune", "-af", "--filter=id=nobody"],
        &["builder", "prune", "-af", "--keep-storage=1g"],
        &["system", "prune", "-f"],
    ] {
        docker(words);
        assert_eq!((n_cached(), usage()), (2, 2), "{words:?}");
    }
    let client = |words: &[&str]| daemon.dhow(words).ok();
    client(&["builder", "prune", "-f"]);
    client(&["system", "prune", "-f"]);
    assert_eq!(n_cached(), 2);
    // Without their image they take room of their own.
    docker(&["rmi", "built"]);
    assert_eq!(usage(), 2);
    docker(&["builder", "prune", "-f"]);
    assert_eq!(usage(), 0);
    assert_eq!(n_cached(), 0);
    client(&["builder", "prune", "-af", "--filter", "shared=true"]);
    assert_eq!(usage(), 0);
    for (filters, status) in [
        (json!({ "odd": ["1"] }), 400),
        (json!({ "until": ["soon"] }), 400),
        (json!({ "until": ["1h"], "unused-for": ["2h"] }), 400),
        (json!({ "inuse": ["perhaps"] }), 400),
    ] {
        let request = format!("POST /v1.47/build/prune?filters={filters}");
        assert_eq!(daemon.ask(&request, None).status, status, "{filters}");
    }
    for bad in ["keep-storage=x", "keep-storage=-1"] {
        let request = format!("POST /v1.47/build/prune?{bad}");
        assert_eq!(daemon.ask(&request, None).status, 400, "{bad}");
    }
    docker(&["rmi", "built"]);
    daemon.finish();
}
