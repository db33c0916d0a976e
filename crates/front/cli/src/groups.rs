//! The verbs once more, by what they are about: `dhow container ls`, `dhow
//! image rm`. Each is the command of its short form.

use clap::Subcommand;

use crate::{Command, build, containers, copy, disk, images, prune, ps, run, system, usage};

/// What is asked of containers.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
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
    Inspect(containers::InspectContainer),
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
    Prune(prune::Prune),
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
#[command(defer = true)]
pub enum Image {
    /// Build an image from a Dockerfile.
    Build(Box<build::Build>),
    /// Show how an image came to be.
    History(images::History),
    /// Make an image of a plain archive of files.
    Import(images::Import),
    /// Show everything about images, as JSON.
    Inspect(images::Inspect),
    /// Read images from an archive.
    Load(images::Load),
    /// List images.
    #[command(visible_alias = "list")]
    Ls(images::List),
    /// Remove images without a name, or all that no container uses.
    Prune(prune::PruneAll),
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

/// What is asked of builds.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Builder {
    /// Build an image from a Dockerfile.
    Build(Box<build::Build>),
    /// Remove what builds keep.
    Prune(prune::PruneBuilds),
}

/// What is asked about the daemon.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum System {
    /// Show how much disk is used.
    Df(disk::DiskUsage),
    /// Pass standard input and output to the daemon and back.
    #[command(hide = true)]
    DialStdio,
    /// Show what happens, as it happens.
    Events(system::Events),
    /// Show facts about the daemon and the machine.
    Info(system::Facts),
    /// Remove stopped containers, unused networks and dangling images.
    Prune(prune::PruneSystem),
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
            Container::Inspect(inspect) => Self::InspectContainers(inspect),
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
            Image::Inspect(inspect) => Self::InspectImages(inspect),
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

impl From<Builder> for Command {
    fn from(command: Builder) -> Self {
        match command {
            Builder::Build(build) => Self::Build(build),
            Builder::Prune(prune) => Self::PruneBuilds(prune),
        }
    }
}

impl From<System> for Command {
    fn from(command: System) -> Self {
        match command {
            System::Df(usage) => Self::DiskUsage(usage),
            System::DialStdio => Self::DialStdio,
            System::Events(events) => Self::Events(events),
            System::Info(facts) => Self::Info(facts),
            System::Prune(prune) => Self::PruneSystem(prune),
        }
    }
}
