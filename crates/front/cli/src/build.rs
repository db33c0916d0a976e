//! `build`: a folder and a Dockerfile to an image.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::amounts::{bytes, bytes_or_all};
use crate::client::{Client, query};
use crate::error::Error;
use crate::images::blocks;
use crate::networking::extra_host;
use crate::progress::Place;
use crate::request::{label, last_of_each, pairs, ulimit};
use crate::trust::ContentTrust;
use crate::{Outcome, progress, show};

const BLOCK: usize = 256 * 1024;

// `dhow build`.
#[derive(Debug, Args)]
pub struct Build {
    /// Name of the image (NAME[:TAG]).
    #[arg(short, long)]
    tag: Vec<String>,
    /// Dockerfile; CONTEXT/Dockerfile unless told otherwise.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Set a build argument (NAME=VALUE, or NAME to pass yours on).
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Stop at this stage.
    #[arg(long)]
    target: Option<String>,
    /// Attach a label to the image (NAME=VALUE).
    #[arg(long, value_parser = label)]
    label: Vec<String>,
    /// Do every step anew.
    #[arg(long)]
    no_cache: bool,
    /// Fetch newer base images.
    #[arg(long)]
    pull: bool,
    /// Platform of the image (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    platform: Option<String>,
    /// Network of RUN steps.
    #[arg(long, value_name = "MODE")]
    network: Option<String>,
    /// Line of /etc/hosts in RUN steps (NAME:ADDRESS).
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = extra_host)]
    add_host: Vec<String>,
    /// Images whose steps may be taken over.
    #[arg(long, value_name = "IMAGE", value_delimiter = ',')]
    cache_from: Vec<String>,
    /// Print the image's id only.
    #[arg(short, long)]
    quiet: bool,
    /// Write the image's id to a file.
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Limits of RUN steps.
    #[command(flatten)]
    limits: Limits,
    /// Folder that the build sees, or - for a tar archive on standard input.
    context: PathBuf,
}

// What RUN steps may use. The daemon says what it does not know of.
#[derive(Debug, Args)]
struct Limits {
    /// Parent control group.
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Microseconds of a scheduling period.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Microseconds of processor time in a period.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,
    /// Relative weight of processor time.
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<i64>,
    /// Processors it may use (such as 0-3).
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use (such as 0-1).
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Limit of memory (such as 512m).
    #[arg(short, long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<i64>,
    /// Limit of memory and swap together (-1: no limit).
    #[arg(long, value_name = "BYTES", value_parser = bytes_or_all)]
    memory_swap: Option<i64>,
    /// Size of /dev/shm.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    shm_size: Option<i64>,
    /// Resource limit (NAME=SOFT[:HARD]).
    #[arg(long, value_name = "LIMIT", value_parser = ulimit)]
    ulimit: Vec<Value>,
    /// Security option.
    #[arg(long, value_name = "OPTION", value_delimiter = ',')]
    security_opt: Vec<String>,
    /// How steps are kept apart; on Linux there is one way (default).
    #[arg(long, value_name = "WAY", hide = true)]
    isolation: Option<String>,
    /// Make one layer of all.
    #[arg(long, hide = true)]
    squash: bool,
    /// Accepted for Docker's sake: the context goes a short way.
    #[arg(long, hide = true)]
    compress: bool,
    /// Accepted for Docker's sake: no container outlives its step.
    #[arg(long, hide = true)]
    force_rm: bool,
    /// Accepted for Docker's sake: no container outlives its step.
    #[arg(
        long,
        hide = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    rm: bool,
    /// What is not looked at.
    #[command(flatten)]
    trust: ContentTrust,
}

impl Limits {
    /// Their part of the query.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let number = |number: Option<i64>| number.map_or_else(String::new, |n| n.to_string());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut parameters = vec![
            ("cgroupparent", text(&self.cgroup_parent)),
            ("cpuperiod", number(self.cpu_period)),
            ("cpuquota", number(self.cpu_quota)),
            ("cpushares", number(self.cpu_shares)),
            ("cpusetcpus", text(&self.cpuset_cpus)),
            ("cpusetmems", text(&self.cpuset_mems)),
            ("memory", number(self.memory)),
            ("memswap", number(self.memory_swap)),
            ("shmsize", number(self.shm_size)),
            ("forcerm", flag(self.force_rm)),
            ("squash", flag(self.squash)),
            ("rm", if self.rm { "" } else { "0" }.to_owned()),
        ];
        if !self.ulimit.is_empty() {
            parameters.push(("ulimits", json!(last_of_each(&self.ulimit)).to_string()));
        }
        let options = self.security_opt.iter().cloned();
        parameters.extend(options.map(|option| ("securityopt", option)));
        parameters
    }
}

fn flag(is_set: bool) -> String {
    if is_set { "1" } else { "" }.to_owned()
}

pub(crate) async fn build(client: &Client, build: Build) -> Outcome {
    let mut arguments = serde_json::Map::new();
    for argument in &build.build_arg {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, json!(value)),
            // One that is not there takes the Dockerfile's default.
            None => (argument.as_str(), json!(std::env::var(argument).ok())),
        };
        arguments.insert(name.into(), value);
    }
    for (name, value) in client.proxies() {
        arguments.entry(name).or_insert(json!(value));
    }
    let is_stdin = build.context == Path::new("-");
    let (dockerfile, outside) = dockerfile(&build)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let unless_empty = |is_empty: bool, value: Value| match is_empty {
        true => String::new(),
        false => value.to_string(),
    };
    let labels = pairs(&build.label);
    let mut parameters = vec![
        ("dockerfile", dockerfile),
        (
            "buildargs",
            unless_empty(arguments.is_empty(), arguments.into()),
        ),
        ("labels", unless_empty(build.label.is_empty(), labels)),
        (
            "cachefrom",
            unless_empty(build.cache_from.is_empty(), json!(build.cache_from)),
        ),
        ("target", text(&build.target)),
        ("networkmode", text(&build.network)),
        ("platform", text(&build.platform)),
        ("nocache", flag(build.no_cache)),
        ("pull", flag(build.pull)),
        ("q", flag(build.quiet)),
        ("version", "1".into()),
    ];
    parameters.extend(build.limits.parameters());
    parameters.extend(build.tag.iter().map(|tag| ("t", tag.clone())));
    let hosts = build.add_host.iter().cloned();
    parameters.extend(hosts.map(|host| ("extrahosts", host)));
    let chunks = if is_stdin {
        blocks(std::io::stdin())
    } else {
        archive(build.context.clone(), outside)?
    };
    let path = format!("/build{}", query(&parameters));
    let body = client
        .upload(&path, chunks, "application/x-tar", &[])
        .await?;
    let aux = progress::follow(body, Place::Output.unless(build.quiet)).await?;
    let id = aux.iter().rev().find_map(|aux| aux["ID"].as_str());
    if let Some(id) = id.filter(|_| build.quiet) {
        show::line(id);
    }
    if let Some(file) = &build.iidfile {
        std::fs::write(file, id.unwrap_or_default())
            .map_err(|error| Error::File(file.display().to_string(), error))?;
    }
    Ok(0)
}

/// The Dockerfile's path in the context, and its text when it lies outside.
fn dockerfile(build: &Build) -> Result<(String, Option<Vec<u8>>), Error> {
    let Some(file) = &build.file else {
        return Ok(("Dockerfile".into(), None));
    };
    if build.context == Path::new("-") {
        return Ok((file.display().to_string(), None));
    }
    let real = |path: &Path| {
        std::fs::canonicalize(path).map_err(|error| Error::File(path.display().to_string(), error))
    };
    let (file, context) = (real(file)?, real(&build.context)?);
    match file.strip_prefix(&context) {
        Ok(inside) => Ok((inside.display().to_string(), None)),
        Err(_) => {
            let text = std::fs::read(&file)
                .map_err(|error| Error::File(file.display().to_string(), error))?;
            Ok((OUTSIDE.into(), Some(text)))
        }
    }
}

/// Name under which a Dockerfile from outside the context is sent along.
const OUTSIDE: &str = ".dockerfile.outside";

/// The context as a tar archive. What `.dockerignore` names is left out by the
/// daemon, which reads it with the rest.
fn archive(
    context: PathBuf,
    outside: Option<Vec<u8>>,
) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, Error> {
    if !context.is_dir() {
        return Err(Error::Usage(format!(
            "unable to prepare context: {} is not a folder; name the folder that holds the Dockerfile",
            context.display()
        )));
    }
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let output = std::io::BufWriter::with_capacity(BLOCK, ToChannel(sender.clone()));
        let written = (|| {
            let mut archive = tar::Builder::new(output);
            archive.follow_symlinks(false);
            archive.append_dir_all(".", &context)?;
            if let Some(text) = outside {
                let mut header = tar::Header::new_gnu();
                header.set_size(text.len() as u64);
                header.set_mode(0o644);
                archive.append_data(&mut header, OUTSIDE, text.as_slice())?;
            }
            archive.into_inner()?.flush()
        })();
        if let Err(error) = written {
            let _ = sender.blocking_send(Err(error));
        }
    });
    Ok(receiver)
}

/// Writes into a channel, from a thread that may block.
pub(crate) struct ToChannel(pub(crate) mpsc::Sender<std::io::Result<Bytes>>);

impl Write for ToChannel {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
