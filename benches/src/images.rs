//! Images: pull, push and a cached build of a Debian with nginx.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dhow_testkit::{Daemon, Host};

use crate::peers::{self, Dockerd, Podman, Registry};
use crate::report::Report;
use crate::turns::{Contender, in_turns, median, ratio, run};

/// The sender of blobs that pushes are held against.
const CURL: &str = "curl, its blobs one after another";
/// Rounds of measurements that take seconds.
const FEW: usize = 3;

pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    report.part("Images");
    let archive = debian_with_nginx()?;
    let archive = archive.display().to_string();
    let mut daemon = Daemon::start_as_installed();
    let host = daemon.host();
    let registry = Registry::start(host, 5000)?;
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

    let transfer = |client: &Client<'_>, verb: &str, reference: &str| {
        let (name, client) = client;
        let mut words = vec![verb];
        if insecure(name) {
            words.push("--tls-verify=false");
        }
        words.push(reference);
        run(&mut client(&words))
    };
    for client in &clients {
        transfer(client, "push", &reference(client.0))?;
    }
    let pull_anew = |report: &mut Report, title: &str, reference: &dyn Fn(&str) -> String| {
        let contenders = clients
            .iter()
            .map(|client| {
                let (reference, transfer, daemon) = (reference(client.0), &transfer, &daemon);
                Contender::new(client.0, move || {
                    let _ = run(&mut client.1(&["rmi", "-f", "debian-nginx"]));
                    let _ = run(&mut client.1(&["rmi", "-f", &reference]));
                    if client.0 == "dhow" {
                        // Steps of builds hold layers as well.
                        run(&mut daemon.docker_command(&["builder", "prune", "-a", "-f"]))?;
                        let left = daemon.docker(&["images", "-q"]).ok();
                        ensure!(left.is_empty(), "images are left: {left}");
                    }
                    transfer(client, "pull", &reference)
                })
            })
            .collect();
        let rows = in_turns(FEW, contenders)?;
        report.times(title, &rows);
        median(&rows, "dhow")
    };
    let took = pull_anew(report, "pull and unpack, one layer", &reference)?;
    report.target("pull of one layer", took, 2200.0, "ms");

    // The same files once more, in layers that are about as large.
    let layered = format!("{}/layers:1", registry.address);
    let recipe = Path::new(&context).join("Dockerfile.layers");
    std::fs::write(&recipe, LAYERS)?;
    let file = recipe.display().to_string();
    run(&mut daemon.dhow_command(&["pull", &reference("dhow")]))?;
    run(&mut daemon.dhow_command(&["tag", &reference("dhow"), "debian-nginx"]))?;
    run(&mut daemon.dhow_command(&["build", "-t", &layered, "-f", &file, &context]))?;
    run(&mut daemon.dhow_command(&["push", &layered]))?;
    run(&mut daemon.dhow_command(&["rmi", "-f", &reference("dhow")]))?;
    let took = pull_anew(report, "pull and unpack, five layers", &|_| layered.clone())?;
    report.target("pull of five layers", took, 1600.0, "ms");

    // To a registry that has nothing of it.
    for client in &clients {
        transfer(client, "pull", &reference(client.0))?;
    }
    let blobs = Blobs::of(host, &registry, "dhow", "1")?;
    let (packed, unpacked) = (blobs.size()?, std::fs::metadata(&archive)?.len());
    report.figure("the image, packed", packed as f64 / 1e6, "MB");
    report.figure("the image, as an archive", unpacked as f64 / 1e6, "MB");
    let layer = blobs.largest()?;
    let baselines = in_turns(
        FEW,
        vec![
            Contender::new(CURL, || blobs.fetch(host, &registry, "dhow")),
            Contender::new("tar -xz of its layer, one thread", || {
                let there = host.folder().join("unpacked");
                std::fs::create_dir_all(&there)?;
                let took = run(Command::new("tar")
                    .arg("-xzf")
                    .arg(&layer)
                    .arg("-C")
                    .arg(&there))?;
                std::fs::remove_dir_all(there)?;
                Ok(took)
            }),
        ],
    )?;
    report.times("what is the least of a pull", &baselines);
    let mut contenders: Vec<Contender<'_>> = clients
        .iter()
        .map(|client| {
            let (reference, transfer) = (reference(client.0), &transfer);
            Contender::new(client.0, move || {
                let fresh = Registry::start(host, 5001)?;
                let there = format!("{}/image:1", fresh.address);
                run(&mut client.1(&["tag", &reference, &there]))?;
                let took = transfer(client, "push", &there)?;
                run(&mut client.1(&["rmi", &there]))?;
                Ok(took)
            })
        })
        .collect();
    contenders.push(Contender::new(CURL, || {
        let fresh = Registry::start(host, 5001)?;
        blobs.send(host, &fresh)
    }));
    let rows = in_turns(FEW, contenders)?;
    report.times("push of a pulled image, one layer", &rows);
    let of_curl = ratio(&rows, "dhow", CURL)?;
    report.target("push of a pulled image, of curl's time", of_curl, 1.5, "×");

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

/// An image's files in five layers.
const LAYERS: &str = "FROM debian-nginx AS all
FROM scratch
COPY --from=all /usr/lib /usr/lib
COPY --from=all /usr/bin /usr/bin
COPY --from=all /usr/share /usr/share
COPY --from=all /var /var
COPY --from=all /etc /etc
";

/// The blobs of an image in files, to be sent by curl.
struct Blobs(Vec<(String, PathBuf)>);

impl Blobs {
    fn of(host: &Host, registry: &Registry, name: &str, tag: &str) -> Result<Self> {
        let base = format!("http://{}/v2/{name}", registry.address);
        let manifest = host.run(
            "curl",
            &[
                "-sf",
                "-H",
                "Accept: application/vnd.oci.image.manifest.v1+json",
                &format!("{base}/manifests/{tag}"),
            ],
        );
        let manifest: serde_json::Value = serde_json::from_str(&manifest.ok())?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let mut blobs = Vec::new();
        for blob in layers.chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().context("a blob has a digest")?;
            let path = host.folder().join(digest.replace(':', "-"));
            let (url, file) = (format!("{base}/blobs/{digest}"), path.display().to_string());
            host.run("curl", &["-sf", "-o", &file, &url]).ok();
            blobs.push((digest.to_owned(), path));
        }
        Ok(Self(blobs))
    }

    /// Bytes of all.
    fn size(&self) -> Result<u64> {
        let sizes = self.0.iter().map(|(_, path)| Ok(path.metadata()?.len()));
        sizes.sum()
    }

    /// The file of the largest.
    fn largest(&self) -> Result<PathBuf> {
        let sizes = self
            .0
            .iter()
            .map(|(_, path)| Ok((path.metadata()?.len(), path)));
        let sizes: Vec<_> = sizes.collect::<std::io::Result<_>>()?;
        let largest = sizes.into_iter().max_by_key(|(size, _)| *size);
        Ok(largest.context("there is one")?.1.clone())
    }

    fn fetch(&self, host: &Host, registry: &Registry, name: &str) -> Result<Duration> {
        let mut took = Duration::ZERO;
        for (digest, _) in &self.0 {
            let mut command = host.command("curl");
            command.args(["-sf", "-o", "/dev/null"]);
            command.arg(format!(
                "http://{}/v2/{name}/blobs/{digest}",
                registry.address
            ));
            took += run(&mut command)?;
        }
        Ok(took)
    }

    fn send(&self, host: &Host, registry: &Registry) -> Result<Duration> {
        let url = format!("http://{}/v2/image/blobs/uploads/", registry.address);
        let mut took = Duration::ZERO;
        for (digest, path) in &self.0 {
            let mut command = host.command("sh");
            let script = "place=$(curl -sf -X POST -o /dev/null -w '%header{location}' \"$1\") && exec curl -sf -H Expect: -T \"$2\" \"$place&digest=$3\"";
            command
                .args(["-c", script, "sh", &url])
                .arg(path)
                .arg(digest);
            took += run(&mut command)?;
        }
        Ok(took)
    }
}

/// A root filesystem of Debian with nginx and what makes it as large as images are
/// that people use, made once.
fn debian_with_nginx() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    let path = folder.join("debian-large.tar");
    if !path.exists() {
        std::fs::create_dir_all(&folder)?;
        let program =
            peers::find("mmdebstrap").context("mmdebstrap is missing: run `make setup`")?;
        let new = folder.join("debian-large.tar.new");
        println!("  making a Debian root filesystem with nginx (once, then cached)");
        run(Command::new(program)
            .args(["--quiet", "--variant=minbase", "--format=tar"])
            .args(["--include=nginx-light,git,python3", "bookworm"])
            .arg(&new))?;
        std::fs::rename(new, &path)?;
    }
    Ok(path)
}
