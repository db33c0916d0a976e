//! The verbs once more, by what they are about: `dhow container ls`, `dhow
//! image rm`. Each is the command of its short form.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::client::{Client, query};
use crate::containers::filters;
use crate::{Command, Outcome, containers, copy, images, ps, run, show, terminal, usage};

/// What is asked of containers.
#[derive(Debug, Subcommand)]
pub enum Container {
    /// Attach to a running container's streams.
    Attach(containers::Attach),
    /// Make an image of a container's filesystem.
    Commit(images::Commit),
    /// Copy files between a container and this machine.
    Cp(copy::Copy),
    /// Create a container without starting it.
    Create(Box<run::Create>),
    /// Show what a container changed in its filesystem.
    Diff(containers::Name),
    /// Run a program in a running container.
    Exec(containers::Exec),
    /// Write a container's filesystem to an archive.
    Export(containers::Export),
    /// Show everything about containers, as JSON.
    Inspect(containers::Inspect),
    /// Send a signal to running containers.
    Kill(containers::Kill),
    /// Show what a container printed.
    Logs(containers::Logs),
    /// List containers.
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::List),
    /// Freeze all processes of containers.
    Pause(containers::Names),
    /// Show where the ports of a container are published.
    Port(containers::Port),
    /// Remove all stopped containers.
    Prune(Prune),
    /// Give a container another name.
    Rename(containers::Rename),
    /// Stop and start containers.
    Restart(containers::Stop),
    /// Remove containers.
    #[command(visible_alias = "remove")]
    Rm(containers::Remove),
    /// Create a container and run it.
    Run(Box<run::Run>),
    /// Start containers that were created or stopped.
    Start(containers::Start),
    /// Show what containers use, as it changes.
    Stats(usage::Stats),
    /// Stop running containers.
    Stop(containers::Stop),
    /// Show the processes of a container.
    Top(usage::Top),
    /// Let frozen containers go on.
    Unpause(containers::Names),
    /// Change the limits of containers.
    Update(usage::Update),
    /// Wait until containers stop, then print their exit codes.
    Wait(containers::Names),
}

/// What is asked of images.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build an image from a Dockerfile.
    Build(images::Build),
    /// Show how an image came to be.
    History(images::History),
    /// Make an image of a plain archive of files.
    Import(images::Import),
    /// Show everything about images, as JSON.
    Inspect(containers::Inspect),
    /// Read images from an archive.
    Load(images::Load),
    /// List images.
    #[command(visible_alias = "list")]
    Ls(images::List),
    /// Remove images without a name, or all that no container uses.
    Prune(PruneImages),
    /// Fetch an image from a registry.
    Pull(images::Pull),
    /// Send an image to a registry.
    Push(images::Push),
    /// Remove images.
    #[command(visible_alias = "remove")]
    Rm(images::Remove),
    /// Write images to an archive.
    Save(images::Save),
    /// Give an image another name.
    Tag(images::Tag),
}

/// What is removed.
#[derive(Debug, Args)]
pub struct Prune {
    /// Only those that fit (label=NAME[=VALUE], until=TIME).
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

/// Which images are removed.
#[derive(Debug, Args)]
pub struct PruneImages {
    /// Also those that have a name and no container.
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    prune: Prune,
}

impl From<Container> for Command {
    fn from(command: Container) -> Self {
        match command {
            Container::Attach(attach) => Self::Attach(attach),
            Container::Commit(commit) => Self::Commit(commit),
            Container::Cp(copy) => Self::Cp(copy),
            Container::Create(create) => Self::Create(create),
            Container::Diff(name) => Self::Diff(name),
            Container::Exec(exec) => Self::Exec(exec),
            Container::Export(export) => Self::Export(export),
            Container::Inspect(inspect) => Self::Inspect(inspect.of("container")),
            Container::Kill(kill) => Self::Kill(kill),
            Container::Logs(logs) => Self::Logs(logs),
            Container::Ls(list) => Self::Ps(list),
            Container::Pause(names) => Self::Pause(names),
            Container::Port(port) => Self::Port(port),
            Container::Prune(prune) => Self::PruneContainers(prune),
            Container::Rename(rename) => Self::Rename(rename),
            Container::Restart(stop) => Self::Restart(stop),
            Container::Rm(remove) => Self::Rm(remove),
            Container::Run(run) => Self::Run(run),
            Container::Start(start) => Self::Start(start),
            Container::Stats(stats) => Self::Stats(stats),
            Container::Stop(stop) => Self::Stop(stop),
            Container::Top(top) => Self::Top(top),
            Container::Unpause(names) => Self::Unpause(names),
            Container::Update(update) => Self::Update(update),
            Container::Wait(names) => Self::Wait(names),
        }
    }
}

impl From<Image> for Command {
    fn from(command: Image) -> Self {
        match command {
            Image::Build(build) => Self::Build(build),
            Image::History(history) => Self::History(history),
            Image::Import(import) => Self::Import(import),
            Image::Inspect(inspect) => Self::Inspect(inspect.of("image")),
            Image::Load(load) => Self::Load(load),
            Image::Ls(list) => Self::Images(list),
            Image::Prune(prune) => Self::PruneImages(prune),
            Image::Pull(pull) => Self::Pull(pull),
            Image::Push(push) => Self::Push(push),
            Image::Rm(remove) => Self::Rmi(remove),
            Image::Save(save) => Self::Save(save),
            Image::Tag(tag) => Self::Tag(tag),
        }
    }
}

pub(crate) async fn prune_containers(client: &Client, prune: Prune) -> Outcome {
    if !prune.force && !terminal::confirm("This removes all stopped containers.")? {
        return Ok(0);
    }
    let query = query(&[("filters", filters(&prune.filter)?)]);
    let path = format!("/containers/prune{query}");
    let pruned = client.post(&path, None).await?;
    report("Deleted Containers:", &pruned, |pruned| {
        texts(&pruned["ContainersDeleted"])
    });
    Ok(0)
}

pub(crate) async fn prune_images(client: &Client, prune: PruneImages) -> Outcome {
    let what = if prune.all {
        "This removes all images without a container."
    } else {
        "This removes all images without a name."
    };
    if !prune.prune.force && !terminal::confirm(what)? {
        return Ok(0);
    }
    let mut wanted = prune.prune.filter;
    wanted.push(format!("dangling={}", !prune.all));
    let path = format!("/images/prune{}", query(&[("filters", filters(&wanted)?)]));
    let pruned = client.post(&path, None).await?;
    report("Deleted Images:", &pruned, |pruned| {
        let removed = pruned["ImagesDeleted"].as_array().into_iter().flatten();
        removed
            .map(|one| match one["Untagged"].as_str() {
                Some(name) => format!("untagged: {name}"),
                None => format!("deleted: {}", show::text(one, "Deleted")),
            })
            .collect()
    });
    Ok(0)
}

fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn report(title: &str, pruned: &Value, lines: impl Fn(&Value) -> Vec<String>) {
    let lines = lines(pruned);
    if !lines.is_empty() {
        show::line(title);
        lines.iter().for_each(show::line);
        show::line("");
    }
    let bytes = pruned["SpaceReclaimed"].as_u64().unwrap_or_default();
    show::line(format_args!("Total reclaimed space: {}", show::size(bytes)));
}
