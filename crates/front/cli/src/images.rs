//! What is done with images.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::{Client, escape, query};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::filters::{filter, filters};
use crate::listing::{self, Row};
use crate::platform::platform;
use crate::progress::Place;
use crate::trust::ContentTrust;
use crate::{Outcome, progress, show, terminal};

const BLOCK: usize = 256 * 1024;

// `dhow images`.
#[derive(Debug, Args)]
pub struct List {
    /// Show images that are parts of others as well.
    #[arg(short, long)]
    all: bool,
    /// Show digests.
    #[arg(long)]
    digests: bool,
    /// Show the platforms of each image.
    #[arg(long)]
    tree: bool,
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Show only those that fit (NAME=VALUE).
    #[arg(short, long, value_parser = filter)]
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

// `dhow pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// Fetch all tags of the name.
    #[arg(short, long)]
    all_tags: bool,
    /// Platform of the image (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    platform: Option<String>,
    /// Print the image's name only.
    #[arg(short, long)]
    quiet: bool,
    /// What is not looked at.
    #[command(flatten)]
    trust: ContentTrust,
    /// Image.
    image: String,
}

// `dhow push`.
#[derive(Debug, Args)]
pub struct Push {
    /// Send all tags of the name.
    #[arg(short, long)]
    all_tags: bool,
    /// Send this platform only (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,
    /// Print the image's name only.
    #[arg(short, long)]
    quiet: bool,
    /// What is not looked at.
    #[command(flatten)]
    trust: ContentTrust,
    /// Image.
    image: String,
}

// `dhow tag`.
#[derive(Debug, Args)]
pub struct Tag {
    /// Image.
    source: String,
    /// Further name.
    target: String,
}

// `dhow rmi`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Remove it even if stopped containers use it.
    #[arg(short, long)]
    force: bool,
    /// Keep parents without a name.
    #[arg(long)]
    no_prune: bool,
    /// Remove these platforms only (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', value_parser = platform)]
    platform: Vec<String>,
    /// Images.
    #[arg(required = true)]
    images: Vec<String>,
}

// `dhow history`.
#[derive(Debug, Args)]
pub struct History {
    /// Print as json, by a template such as '{{.CreatedBy}}', or 'table TEMPLATE'.
    #[arg(long)]
    format: Option<String>,
    /// Print sizes and times for people.
    #[arg(
        short = 'H',
        long,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    human: bool,
    /// Print commands in full.
    #[arg(long)]
    no_trunc: bool,
    /// Show this platform (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Image.
    image: String,
}

// `dhow image inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print by a template such as '{{.Os}}'.
    #[arg(short, long)]
    format: Option<String>,
    /// Show this platform (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,
    /// Images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

// `dhow save`.
#[derive(Debug, Args)]
pub struct Save {
    /// Archive to write; standard output unless told otherwise.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// This platform only (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,
    /// Images.
    #[arg(required = true)]
    images: Vec<String>,
}

// `dhow load`.
#[derive(Debug, Args)]
pub struct Load {
    /// Archive to read; standard input unless told otherwise.
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// This platform only (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,
    /// Print nothing.
    #[arg(short, long)]
    quiet: bool,
}

// `dhow import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Instruction of a Dockerfile for the image's configuration.
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What is said about it.
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Platform of the image (such as linux/amd64).
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    platform: Option<String>,
    /// Archive of files, where it can be fetched, or - for standard input.
    #[arg(value_name = "FILE|URL|-")]
    file: String,
    /// Name of the image.
    name: Option<String>,
}

// `dhow commit`.
#[derive(Debug, Args)]
pub struct Commit {
    /// Who made it.
    #[arg(short, long)]
    author: Option<String>,
    /// Instruction of a Dockerfile for the image's configuration.
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Why.
    #[arg(short, long)]
    message: Option<String>,
    /// Freeze the container meanwhile.
    #[arg(
        short,
        long,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pause: bool,
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

/// A name in full: with its registry, and a tag or a digest.
fn full_name(image: &str) -> String {
    let (name, _) = split_tag(image);
    let has_registry = name
        .split_once('/')
        .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    let image = match image.len() > name.len() {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    };
    match name.contains('/') {
        _ if has_registry => image,
        true => format!("docker.io/{image}"),
        false => format!("docker.io/library/{image}"),
    }
}

/// Fetches an image, with progress.
pub(crate) async fn fetch(
    client: &Client,
    image: &str,
    platform: &str,
    place: Place,
) -> Result<(), Error> {
    let (name, tag) = split_tag(image);
    fetch_tag(client, image, (name, tag), platform, place).await
}

async fn fetch_tag(
    client: &Client,
    image: &str,
    (name, tag): (String, String),
    platform: &str,
    place: Place,
) -> Result<(), Error> {
    let platform = ("platform", platform.to_owned());
    let path = format!(
        "/images/create{}",
        query(&[("fromImage", name), ("tag", tag), platform])
    );
    let auth = Credentials::open(client.folder())?.header_for(image)?;
    let body = client.with_headers(&path, &[auth]).await?;
    progress::follow(body, place).await.map(|_| ())
}

pub(crate) async fn pull(client: &Client, pull: Pull) -> Outcome {
    let image = &pull.image;
    let platform = pull.platform.as_deref().unwrap_or_default();
    let place = Place::Output.unless(pull.quiet);
    let (name, tag) = split_tag(image);
    let has_tag = image.len() > name.len();
    if pull.all_tags {
        if has_tag {
            return Err(Error::Usage("tag can't be used with --all-tags/-a".into()));
        }
        fetch_tag(client, image, (name, String::new()), platform, place).await?;
        return Ok(0);
    }
    if !has_tag && !pull.quiet {
        show::line(format_args!("Using default tag: {tag}"));
    }
    fetch(client, image, platform, place).await?;
    show::line(full_name(image));
    Ok(0)
}

pub(crate) async fn push(client: &Client, push: Push) -> Outcome {
    let (name, tag) = split_tag(&push.image);
    let has_tag = push.image.len() > name.len();
    let tag = match (push.all_tags, has_tag) {
        (true, true) => {
            return Err(Error::Usage("tag can't be used with --all-tags/-a".into()));
        }
        (true, false) => String::new(),
        (false, false) if !push.quiet => {
            show::line(format_args!("Using default tag: {tag}"));
            tag
        }
        (false, _) => tag,
    };
    let query = query(&[
        ("tag", tag),
        ("platform", push.platform.unwrap_or_default()),
    ]);
    let path = format!("/images/{}/push{query}", escape(&name));
    let auth = Credentials::open(client.folder())?.header_for(&push.image)?;
    let body = client.with_headers(&path, &[auth]).await?;
    progress::follow(body, Place::Output.unless(push.quiet)).await?;
    if push.quiet {
        show::line(full_name(&push.image));
    }
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
    let flag = |is_set| if is_set { "1" } else { "" }.to_owned();
    let mut parameters = vec![
        ("force", flag(remove.force)),
        ("noprune", flag(remove.no_prune)),
    ];
    let platforms = remove.platform.iter().cloned();
    parameters.extend(platforms.map(|platform| ("platforms", platform)));
    let query = query(&parameters);
    for image in &remove.images {
        let path = format!("/images/{}{query}", escape(image));
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
            Err(error) if remove.force && error.status() == Some(404) => {
                error.report();
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
    let query = query(&[
        ("all", if list.all { "1" } else { "" }.into()),
        ("filters", filters(&wanted)),
        ("manifests", if list.tree { "1" } else { "" }.into()),
    ]);
    let images = client.get(&format!("/images/json{query}")).await?;
    if list.tree {
        tree(&images);
        return Ok(0);
    }
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
        show::lines(ids);
        return Ok(0);
    }
    let format = list.format.or_else(|| client.setting("imagesFormat"));
    let format = match format.as_deref().unwrap_or("table") {
        "table" if list.digests => {
            "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
        }
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

pub(crate) async fn inspect(client: &Client, inspect: Inspect) -> Outcome {
    let query = query(&[("platform", inspect.platform.unwrap_or_default())]);
    let path = |name: &str| format!("/images/{}/json{query}", escape(name));
    show::inspect_each(client, &inspect.images, inspect.format.as_deref(), path).await
}

/// Images with the platforms that are in them.
fn tree(images: &Value) {
    let size = |value: &Value| show::size(value.as_u64().unwrap_or_default());
    let mut rows = Vec::new();
    for image in images.as_array().into_iter().flatten() {
        let tags = image["RepoTags"].as_array().into_iter().flatten();
        let tags: Vec<&str> = tags.filter_map(Value::as_str).collect();
        let uses = image["Containers"].as_i64().unwrap_or_default();
        rows.push(vec![
            if tags.is_empty() {
                "<untagged>".into()
            } else {
                tags.join(",")
            },
            show::short(show::text(image, "Id")).to_owned(),
            size(&image["Size"]),
            String::new(),
            if uses > 0 { "U" } else { "" }.into(),
        ]);
        let manifests = image["Manifests"].as_array().into_iter().flatten();
        let manifests: Vec<&Value> = manifests.filter(|one| one["Kind"] == "image").collect();
        for (at, manifest) in manifests.iter().enumerate() {
            let data = &manifest["ImageData"];
            let platform = &data["Platform"];
            let words = ["os", "architecture", "variant"].map(|part| show::text(platform, part));
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let branch = if at + 1 == manifests.len() {
                "└─"
            } else {
                "├─"
            };
            rows.push(vec![
                format!("{branch} {}", words.join("/")),
                show::short(show::text(manifest, "ID")).to_owned(),
                size(&manifest["Size"]["Total"]),
                size(&manifest["Size"]["Content"]),
                String::new(),
            ]);
        }
    }
    show::table(
        &["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"],
        &rows,
    );
}

pub(crate) async fn history(client: &Client, history: History) -> Outcome {
    let query = query(&[("platform", history.platform.unwrap_or_default())]);
    let entries = client
        .get(&format!(
            "/images/{}/history{query}",
            escape(&history.image)
        ))
        .await?;
    let rows = entries.as_array().into_iter().flatten().map(|entry| {
        let mut by = show::text(entry, "CreatedBy").replace('\t', " ");
        if !history.no_trunc && by.chars().count() > 45 {
            by = by.chars().take(44).chain(['…']).collect();
        }
        let id = show::text(entry, "Id");
        let created = entry["Created"].as_i64().unwrap_or_default();
        let size = entry["Size"].as_u64().unwrap_or_default();
        let moment = jiff::Timestamp::from_second(created).unwrap_or_default();
        let moment = moment.to_zoned_datetime(jiff::tz::TimeZone::system());
        let moment = moment.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        let since = match history.human {
            true => show::ago(created),
            false => moment.clone(),
        };
        let size = match history.human {
            true => show::size(size),
            false => size.to_string(),
        };
        Row::new([
            ("Comment", show::text(entry, "Comment").into()),
            ("CreatedAt", moment.replace("+00:00", "Z").into()),
            ("CreatedBy", by.into()),
            ("CreatedSince", since.replace("+00:00", "Z").into()),
            (
                "ID",
                if history.no_trunc {
                    id
                } else {
                    show::short(id)
                }
                .into(),
            ),
            ("Size", size.into()),
        ])
    });
    let rows: Vec<Row> = rows.collect();
    if history.quiet {
        show::lines(rows.iter().map(|row| row.text("ID")));
        return Ok(0);
    }
    let format = match history.format.as_deref().unwrap_or("table") {
        "table" if history.human => {
            "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
        }
        "table" => "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
        format => format,
    };
    listing::print(format, &STEPS, &rows)?;
    Ok(0)
}

const STEPS: [(&str, &str); 6] = [
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("CreatedSince", "CREATED"),
    ("ID", "IMAGE"),
    ("Size", "SIZE"),
];

pub(crate) async fn save(client: &Client, save: Save) -> Outcome {
    let mut parameters: Vec<_> = save
        .images
        .iter()
        .map(|name| ("names", name.clone()))
        .collect();
    parameters.push(("platform", save.platform.unwrap_or_default()));
    let path = format!("/images/get{}", query(&parameters));
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
    if load.input.is_none() && terminal::is_interactive() {
        return Err(Error::Usage(
            "requested load from stdin, but stdin is empty".into(),
        ));
    }
    let chunks = blocks(input(load.input.as_deref())?);
    let query = query(&[
        ("quiet", if load.quiet { "1" } else { "" }.into()),
        ("platform", load.platform.unwrap_or_default()),
    ]);
    let path = format!("/images/load{query}");
    let body = client
        .upload(&path, chunks, "application/x-tar", &[])
        .await?;
    progress::follow(body, Place::Output.unless(load.quiet)).await?;
    Ok(0)
}

pub(crate) async fn import(client: &Client, import: Import) -> Outcome {
    let is_remote = import.file.contains("://") || import.file.starts_with("http");
    let is_remote = is_remote && !Path::new(&import.file).exists();
    let source = if is_remote { &import.file } else { "-" };
    let mut parameters = vec![
        ("fromSrc", source.to_owned()),
        ("repo", import.name.unwrap_or_default()),
        ("message", import.message),
        ("platform", import.platform.unwrap_or_default()),
    ];
    let changes = import.change.into_iter();
    parameters.extend(changes.map(|change| ("changes", change)));
    let path = format!("/images/create{}", query(&parameters));
    let body = if is_remote {
        client.stream(Method::POST, &path, None).await?
    } else {
        let chunks = blocks(input(Some(Path::new(&import.file)))?);
        client
            .upload(&path, chunks, "application/x-tar", &[])
            .await?
    };
    progress::follow(body, Place::Output).await?;
    Ok(0)
}

pub(crate) async fn commit(client: &Client, commit: Commit) -> Outcome {
    let (repo, tag) = commit.name.as_deref().map(split_tag).unwrap_or_default();
    let mut parameters = vec![
        ("container", commit.container),
        ("repo", repo),
        ("tag", tag),
        ("author", commit.author.unwrap_or_default()),
        ("comment", commit.message.unwrap_or_default()),
        ("pause", if commit.pause { "" } else { "0" }.to_owned()),
    ];
    let changes = commit.change.into_iter();
    parameters.extend(changes.map(|change| ("changes", change)));
    let path = format!("/commit{}", query(&parameters));
    let made = client.post(&path, None).await?;
    show::line(show::text(&made, "Id"));
    Ok(0)
}

// `dhow search`.
#[derive(Debug, Args)]
pub struct Search {
    /// Show only those that fit (stars=NUMBER, is-official=BOOL).
    #[arg(short, long, value_parser = filter)]
    filter: Vec<String>,
    /// Print by a template such as '{{.Name}}', or 'table TEMPLATE'.
    #[arg(long)]
    format: Option<String>,
    /// The most that are shown.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    limit: u64,
    /// Print descriptions in full.
    #[arg(long)]
    no_trunc: bool,
    /// What is looked for.
    term: String,
}

pub(crate) async fn search(client: &Client, search: Search) -> Outcome {
    let limit = if search.limit > 0 {
        search.limit.to_string()
    } else {
        String::new()
    };
    let query = query(&[
        ("term", search.term),
        ("limit", limit),
        ("filters", filters(&search.filter)),
    ]);
    let found = client.get(&format!("/images/search{query}")).await?;
    let rows = found.as_array().into_iter().flatten().map(|one| {
        let mut description = show::text(one, "description").replace(['\n', '\r'], " ");
        if !search.no_trunc && description.chars().count() > 45 {
            description = description.chars().take(44).chain(['…']).collect();
        }
        let is_official = one["is_official"].as_bool().unwrap_or_default();
        Row::new([
            ("Description", description.into()),
            ("IsOfficial", if is_official { "[OK]" } else { "" }.into()),
            ("Name", show::text(one, "name").into()),
            ("StarCount", one["star_count"].to_string().into()),
        ])
    });
    let rows: Vec<Row> = rows.collect();
    let format = match search.format.as_deref().unwrap_or("table") {
        "table" => "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
        format => format,
    };
    let titles = [
        ("Description", "DESCRIPTION"),
        ("IsOfficial", "OFFICIAL"),
        ("Name", "NAME"),
        ("StarCount", "STARS"),
    ];
    listing::print(format, &titles, &rows)?;
    Ok(0)
}
