//! What is done with images.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::{Client, escape, query};
use crate::containers::filters;
use crate::credentials::Credentials;
use crate::error::Error;
use crate::listing::{self, Row};
use crate::request::pairs;
use crate::{Outcome, progress, show};

const BLOCK: usize = 256 * 1024;

/// `dhow images`.
#[derive(Debug, Args)]
pub struct List {
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Show only those that fit (NAME=VALUE).
    #[arg(short, long)]
    filter: Vec<String>,
    /// Print ids in full.
    #[arg(long)]
    no_trunc: bool,
    /// Print as JSON, or by a template such as '{{.Repository}}'.
    #[arg(long)]
    format: Option<String>,
    /// Only images of this name.
    name: Option<String>,
}

/// `dhow build`.
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
    #[arg(long)]
    label: Vec<String>,
    /// Do every step anew.
    #[arg(long)]
    no_cache: bool,
    /// Fetch newer base images.
    #[arg(long)]
    pull: bool,
    /// Network of RUN steps.
    #[arg(long, value_name = "MODE")]
    network: Option<String>,
    /// Print the image's id only.
    #[arg(short, long)]
    quiet: bool,
    /// Folder that the build sees, or - for a tar archive on standard input.
    context: PathBuf,
}

/// `dhow pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// Print the image's name only.
    #[arg(short, long)]
    quiet: bool,
    /// Image.
    image: String,
}

/// `dhow push`.
#[derive(Debug, Args)]
pub struct Push {
    /// Print nothing.
    #[arg(short, long)]
    quiet: bool,
    /// Image.
    image: String,
}

/// `dhow tag`.
#[derive(Debug, Args)]
pub struct Tag {
    /// Image.
    source: String,
    /// Further name.
    target: String,
}

/// `dhow rmi`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Remove it even if stopped containers use it.
    #[arg(short, long)]
    force: bool,
    /// Images.
    #[arg(required = true)]
    images: Vec<String>,
}

/// `dhow history`.
#[derive(Debug, Args)]
pub struct History {
    /// Print commands in full.
    #[arg(long)]
    no_trunc: bool,
    /// Image.
    image: String,
}

/// `dhow save`.
#[derive(Debug, Args)]
pub struct Save {
    /// Archive to write; standard output unless told otherwise.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Images.
    #[arg(required = true)]
    images: Vec<String>,
}

/// `dhow load`.
#[derive(Debug, Args)]
pub struct Load {
    /// Archive to read; standard input unless told otherwise.
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Print nothing.
    #[arg(short, long)]
    quiet: bool,
}

/// `dhow import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Archive of files, or - for standard input.
    file: PathBuf,
    /// Name of the image.
    name: Option<String>,
}

/// `dhow commit`.
#[derive(Debug, Args)]
pub struct Commit {
    /// Who made it.
    #[arg(short, long)]
    author: Option<String>,
    /// Why.
    #[arg(short, long)]
    message: Option<String>,
    /// Container.
    container: String,
    /// Name of the image.
    name: Option<String>,
}

/// Takes the tag off a name.
fn split_tag(name: &str) -> (String, String) {
    if let Some((name, digest)) = name.split_once('@') {
        return (name.into(), digest.into());
    }
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name.into(), tag.into()),
        _ => (name.into(), "latest".into()),
    }
}

/// Fetches an image, with progress.
pub(crate) async fn fetch(
    client: &Client,
    image: &str,
    platform: &str,
    quiet: bool,
) -> Result<(), Error> {
    let (name, tag) = split_tag(image);
    let platform = ("platform", platform.to_owned());
    let path = format!(
        "/images/create{}",
        query(&[("fromImage", name), ("tag", tag), platform])
    );
    let auth = Credentials::open()?.header_for(image)?;
    let body = client.with_headers(&path, &[auth]).await?;
    progress::follow(body, quiet).await.map(|_| ())
}

pub(crate) async fn pull(client: &Client, pull: Pull) -> Outcome {
    fetch(client, &pull.image, "", pull.quiet).await?;
    show::line(&pull.image);
    Ok(0)
}

pub(crate) async fn push(client: &Client, push: Push) -> Outcome {
    let (name, tag) = split_tag(&push.image);
    let path = format!("/images/{}/push{}", escape(&name), query(&[("tag", tag)]));
    let auth = Credentials::open()?.header_for(&push.image)?;
    let body = client.with_headers(&path, &[auth]).await?;
    progress::follow(body, push.quiet).await?;
    Ok(0)
}

pub(crate) async fn tag(client: &Client, tag: Tag) -> Outcome {
    let (repo, name) = split_tag(&tag.target);
    let query = query(&[("repo", repo), ("tag", name)]);
    client
        .post(&format!("/images/{}/tag{query}", escape(&tag.source)), None)
        .await?;
    Ok(0)
}

pub(crate) async fn remove(client: &Client, remove: Remove) -> Outcome {
    let mut failed = false;
    for image in &remove.images {
        let path = format!("/images/{}?force={}", escape(image), u8::from(remove.force));
        match client.delete(&path).await {
            Ok(removed) => {
                for line in removed
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_object)
                {
                    for (what, name) in line {
                        show::line(format_args!(
                            "{what}: {}",
                            name.as_str().unwrap_or_default()
                        ));
                    }
                }
            }
            Err(error) => {
                error.report();
                failed = true;
            }
        }
    }
    if failed { Err(Error::Told) } else { Ok(0) }
}

pub(crate) async fn list(client: &Client, list: List) -> Outcome {
    let mut wanted = list.filter.clone();
    wanted.extend(list.name.iter().map(|name| format!("reference={name}")));
    let images = client
        .get(&format!(
            "/images/json{}",
            query(&[("filters", filters(&wanted)?)])
        ))
        .await?;
    let mut rows = Vec::new();
    for image in images.as_array().into_iter().flatten() {
        let id = show::text(image, "Id");
        let id = if list.no_trunc { id } else { show::short(id) };
        let tags: Vec<&str> = image["RepoTags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let digests: Vec<&str> = image["RepoDigests"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let names = if tags.is_empty() {
            vec!["<none>:<none>"]
        } else {
            tags
        };
        for name in names {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
            let created = image["Created"].as_i64().unwrap_or_default();
            let bytes = image["Size"].as_u64().unwrap_or_default();
            let digest = digests
                .iter()
                .filter_map(|digest| digest.split_once('@'))
                .find(|(name, _)| *name == repository)
                .map_or("<none>", |(_, digest)| digest);
            rows.push(Row::new([
                ("Containers", "N/A".into()),
                ("CreatedAt", show::moment(created).into()),
                ("CreatedSince", show::ago(created).into()),
                ("Digest", digest.into()),
                ("ID", id.into()),
                ("Repository", repository.into()),
                ("SharedSize", "N/A".into()),
                ("Size", show::size(bytes).into()),
                ("Tag", tag.into()),
                ("UniqueSize", "N/A".into()),
                ("VirtualSize", show::fine_size(bytes).into()),
            ]));
        }
    }
    if list.quiet {
        let mut ids: Vec<&str> = rows.iter().map(|row| row.text("ID")).collect();
        ids.dedup();
        ids.into_iter().for_each(show::line);
        return Ok(0);
    }
    let format = match list.format.as_deref().unwrap_or("table") {
        "table" => "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        format => format,
    };
    listing::print(format, &TITLES, &rows)?;
    Ok(0)
}

const TITLES: [(&str, &str); 11] = [
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

pub(crate) async fn history(client: &Client, history: History) -> Outcome {
    let entries = client
        .get(&format!("/images/{}/history", escape(&history.image)))
        .await?;
    let rows: Vec<Vec<String>> = entries
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            let mut by = show::text(entry, "CreatedBy").to_owned();
            if !history.no_trunc && by.chars().count() > 45 {
                by = by.chars().take(44).chain(['…']).collect();
            }
            vec![
                show::short(show::text(entry, "Id")).to_owned(),
                show::ago(entry["Created"].as_i64().unwrap_or_default()),
                by,
                show::size(entry["Size"].as_u64().unwrap_or_default()),
                show::text(entry, "Comment").to_owned(),
            ]
        })
        .collect();
    show::table(
        &["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
        &rows,
    );
    Ok(0)
}

pub(crate) async fn save(client: &Client, save: Save) -> Outcome {
    let names: Vec<String> = save
        .images
        .iter()
        .map(|name| format!("names={}", escape(name)))
        .collect();
    let path = format!("/images/get?{}", names.join("&"));
    let body = client.stream(Method::GET, &path, None).await?;
    write_archive(body, save.output.as_deref()).await
}

/// Writes what the daemon sends to a file, or to standard output.
pub(crate) async fn write_archive(mut body: Incoming, file: Option<&Path>) -> Outcome {
    let mut output: Box<dyn Write> = match file {
        Some(path) => Box::new(
            std::fs::File::create(path)
                .map_err(|error| Error::File(path.display().to_string(), error))?,
        ),
        None if std::io::IsTerminal::is_terminal(&std::io::stdout()) => {
            return Err(Error::Usage(
                "refusing to write an archive to a terminal: use -o FILE or redirect".into(),
            ));
        }
        None => Box::new(std::io::stdout()),
    };
    let written = |error| Error::File("the archive".into(), error);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            output.write_all(&data).map_err(written)?;
        }
    }
    output.flush().map_err(written)?;
    Ok(0)
}

/// Sends what `read` gives, block by block, from a thread that may block.
pub(crate) fn blocks(
    mut read: impl Read + Send + 'static,
) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut block = vec![0; BLOCK];
            let chunk = match read.read(&mut block) {
                Ok(0) => return,
                Ok(length) => {
                    block.truncate(length);
                    Ok(Bytes::from(block))
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

fn input(path: Option<&Path>) -> Result<Box<dyn Read + Send>, Error> {
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            Ok(Box::new(std::fs::File::open(path).map_err(|error| {
                Error::File(path.display().to_string(), error)
            })?))
        }
        None => Ok(Box::new(std::io::stdin())),
    }
}

pub(crate) async fn load(client: &Client, load: Load) -> Outcome {
    let chunks = blocks(input(load.input.as_deref())?);
    let body = client
        .upload("/images/load", chunks, "application/x-tar", &[])
        .await?;
    progress::follow(body, load.quiet).await?;
    Ok(0)
}

pub(crate) async fn import(client: &Client, import: Import) -> Outcome {
    let (repo, tag) = import.name.as_deref().map(split_tag).unwrap_or_default();
    let query = query(&[("fromSrc", "-".into()), ("repo", repo), ("tag", tag)]);
    let chunks = blocks(input(Some(&import.file))?);
    let path = format!("/images/create{query}");
    let body = client
        .upload(&path, chunks, "application/x-tar", &[])
        .await?;
    progress::follow(body, false).await?;
    Ok(0)
}

pub(crate) async fn commit(client: &Client, commit: Commit) -> Outcome {
    let (repo, tag) = commit.name.as_deref().map(split_tag).unwrap_or_default();
    let query = query(&[
        ("container", commit.container),
        ("repo", repo),
        ("tag", tag),
        ("author", commit.author.unwrap_or_default()),
        ("comment", commit.message.unwrap_or_default()),
    ]);
    let made = client
        .post(&format!("/commit{query}"), Some(&json!({})))
        .await?;
    show::line(show::text(&made, "Id"));
    Ok(0)
}

pub(crate) async fn build(client: &Client, build: Build) -> Outcome {
    let mut arguments = serde_json::Map::new();
    for argument in &build.build_arg {
        match argument.split_once('=') {
            Some((name, value)) => {
                arguments.insert(name.into(), json!(value));
            }
            None => {
                if let Ok(value) = std::env::var(argument) {
                    arguments.insert(argument.clone(), json!(value));
                }
            }
        }
    }
    let is_stdin = build.context == Path::new("-");
    let (dockerfile, outside) = dockerfile(&build)?;
    let mut pairs = vec![
        ("dockerfile", dockerfile),
        ("buildargs", Value::Object(arguments).to_string()),
        ("labels", pairs("label", &build.label)?.to_string()),
        ("target", build.target.clone().unwrap_or_default()),
        ("networkmode", build.network.clone().unwrap_or_default()),
        ("nocache", u8::from(build.no_cache).to_string()),
        ("pull", u8::from(build.pull).to_string()),
        ("rm", "1".into()),
    ];
    pairs.extend(build.tag.iter().map(|tag| ("t", tag.clone())));
    let chunks = if is_stdin {
        blocks(std::io::stdin())
    } else {
        archive(build.context.clone(), outside)?
    };
    let path = format!("/build{}", query(&pairs));
    let body = client
        .upload(&path, chunks, "application/x-tar", &[])
        .await?;
    let aux = progress::follow(body, build.quiet).await?;
    if build.quiet
        && let Some(id) = aux.iter().rev().find_map(|aux| aux["ID"].as_str())
    {
        show::line(id);
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
