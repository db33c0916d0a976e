//! Images: pull, push and a cached build of a Debian with nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use dhow_testkit::Daemon;

use crate::peers::{self, Dockerd, Podman, Registry};
use crate::report::Report;
use crate::turns::{Contender, in_turns, run};

/// Rounds of measurements that take seconds.
const FEW: usize = 3;

pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    report.part("Images");
    let archive = debian_with_nginx()?;
    let archive = archive.display().to_string();
    let mut daemon = Daemon::start();
    let host = daemon.host();
    let registry = Registry::start(host)?;
    let dockerd = Dockerd::start(host)
        .inspect_err(|error| report.missing(&format!("dockerd ({error})")))
        .ok();
    let podman = Podman::find();

    let context = host.folder().join("context");
    std::fs::create_dir_all(&context)?;
    std::fs::write(
        context.join("Dockerfile"),
        "FROM debian-nginx\nCOPY index.html /var/www/html/\nRUN nginx -t\nCMD [\"nginx\", \"-g\", \"daemon off;\"]\n",
    )?;
    std::fs::write(context.join("index.html"), "hello\n")?;
    let context = context.display().to_string();

    type Client<'a> = (&'static str, Box<dyn Fn(&[&str]) -> Command + 'a>);
    let mut clients: Vec<Client<'_>> = vec![("dhow", Box::new(|words| daemon.dhow_command(words)))];
    if let Some(dockerd) = &dockerd {
        clients.push((
            "docker at dockerd",
            Box::new(|words| dockerd.docker(host, words)),
        ));
    }
    if let Some(podman) = &podman {
        clients.push(("podman", Box::new(|words| podman.command(host, words))));
    }
    let short = |name: &str| name.split(' ').next().unwrap_or(name).to_owned();
    let reference = |name: &str| format!("{}/{}:1", registry.address, short(name));
    for (name, client) in &clients {
        run(&mut client(&["import", &archive, "debian-nginx"])).context(*name)?;
        run(&mut client(&["tag", "debian-nginx", &reference(name)])).context(*name)?;
    }

    // The registry keeps what it has: each push goes to a name of its own.
    let insecure = |name: &str| name == "podman";
    let mut number = 0;
    let contenders = clients
        .iter()
        .map(|(name, client)| {
            let registry = &registry;
            Contender::new(name, move || {
                number += 1;
                let fresh = format!("{}/{}-{number}:1", registry.address, short(name));
                run(&mut client(&["tag", "debian-nginx", &fresh]))?;
                let mut words = vec!["push"];
                if insecure(name) {
                    words.push("--tls-verify=false");
                }
                words.push(&fresh);
                let took = run(&mut client(&words))?;
                run(&mut client(&["rmi", &fresh]))?;
                Ok(took)
            })
        })
        .collect();
    let rows = in_turns(FEW, contenders)?;
    report.times(
        "push to one more repository of the same registry, one layer",
        &rows,
    );

    for (name, client) in &clients {
        let reference = reference(name);
        let mut words = vec!["push"];
        if insecure(name) {
            words.push("--tls-verify=false");
        }
        words.push(&reference);
        run(&mut client(&words))?;
    }
    let contenders = clients
        .iter()
        .map(|(name, client)| {
            let reference = reference(name);
            Contender::new(name, move || {
                let _ = run(&mut client(&["rmi", "-f", "debian-nginx"]));
                let _ = run(&mut client(&["rmi", "-f", &reference]));
                let mut words = vec!["pull"];
                if insecure(name) {
                    words.push("--tls-verify=false");
                }
                words.push(&reference);
                run(&mut client(&words))
            })
        })
        .collect();
    let rows = in_turns(FEW, contenders)?;
    report.times("pull and unpack, one layer", &rows);

    for (name, client) in &clients {
        run(&mut client(&["tag", &reference(name), "debian-nginx"])).context(*name)?;
    }
    let contenders = clients
        .iter()
        .map(|(name, client)| {
            let context = &context;
            Contender::command(name, move || client(&["build", "-t", "site", context]))
        })
        .collect();
    let rows = in_turns(rounds, contenders)?;
    report.times("build, every step cached", &rows);
    drop(clients);
    drop(dockerd);
    if let Some(podman) = &podman {
        let _ = run(&mut podman.command(host, &["system", "reset", "--force"]));
    }
    drop(registry);
    daemon.remove_containers();
    // What a peer left on the throw-away host goes with it.
    daemon.stop();
    Ok(())
}

/// A root filesystem of Debian with nginx, made once.
fn debian_with_nginx() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    let path = folder.join("debian-nginx.tar");
    if !path.exists() {
        std::fs::create_dir_all(&folder)?;
        let program =
            peers::find("mmdebstrap").context("mmdebstrap is missing: run `make setup`")?;
        let new = folder.join("debian-nginx.tar.new");
        println!("  making a Debian root filesystem with nginx (once, then cached)");
        run(Command::new(program)
            .args(["--quiet", "--variant=minbase", "--format=tar"])
            .args(["--include=nginx-light", "bookworm"])
            .arg(&new))?;
        std::fs::rename(new, &path)?;
    }
    Ok(path)
}
