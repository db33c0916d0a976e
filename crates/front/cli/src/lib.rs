//! The command line: verbs, tables, progress.
//!
//! A client of the daemon's public API (the Docker Engine API on its socket)
//! like any other; it knows nothing that `docker` does not. [`Command`] is the
//! one definition that parses, helps and completes.
//!
//! Commands are defined when they are asked for, since there are more than a
//! hundred. What one does stands at its variant; its arguments have a plain comment,
//! since help would show a docstring of theirs instead.

mod amounts;
mod arguments;
mod build;
mod client;
mod cluster;
mod config;
mod connection;
mod containers;
mod contexts;
mod copy;
mod credentials;
mod device;
mod disk;
mod error;
mod filters;
mod groups;
mod images;
mod limits;
mod listing;
mod login;
mod mount;
mod networking;
mod networks;
mod packed;
mod platform;
mod progress;
mod prune;
mod ps;
mod request;
mod resources;
mod run;
mod show;
mod signals;
mod system;
mod template;
mod terminal;
mod trust;
mod usage;
mod volumes;

use std::process::ExitCode;

use clap::Subcommand;

pub use arguments::parse;
pub use connection::Connection;
pub use error::Error;

use client::Client;

/// What the daemon is asked for.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Create a container and run it.
    #[command(visible_alias = "r")]
    Run(Box<run::Run>),
    /// Create a container without starting it.
    Create(Box<run::Create>),
    /// Start containers that were created or stopped.
    Start(containers::Start),
    /// Stop running containers.
    Stop(containers::Stop),
    /// Stop and start containers.
    Restart(containers::Stop),
    /// Send a signal to running containers.
    Kill(containers::Kill),
    /// Freeze all processes of containers.
    Pause(containers::Names),
    /// Let frozen containers go on.
    Unpause(containers::Names),
    /// Wait until containers stop, then print their exit codes.
    Wait(containers::Names),
    /// Remove containers.
    Rm(containers::Remove),
    /// Give a container another name.
    Rename(containers::Rename),
    /// List containers.
    #[command(visible_alias = "ls")]
    Ps(ps::List),
    /// Show what a container printed.
    Logs(containers::Logs),
    /// Run a program in a running container.
    Exec(containers::Exec),
    /// Attach to a running container's streams.
    Attach(containers::Attach),
    /// Show everything about containers, images, networks or volumes, as JSON.
    Inspect(containers::Inspect),
    /// Copy files between a container and this machine.
    Cp(copy::Copy),
    /// Show the processes of a container.
    Top(usage::Top),
    /// Show what containers use, as it changes.
    Stats(usage::Stats),
    /// Change the limits of containers.
    Update(usage::Update),
    /// Show what a container changed in its filesystem.
    Diff(containers::Name),
    /// Write a container's filesystem to an archive.
    Export(containers::Export),
    /// Show where the ports of a container are published.
    Port(containers::Port),
    /// Manage containers.
    #[command(subcommand)]
    Container(groups::Container),
    /// Manage images.
    #[command(subcommand)]
    Image(groups::Image),
    /// What `container inspect` stands for.
    #[command(skip)]
    InspectContainers(containers::InspectContainer),
    /// What `image inspect` stands for.
    #[command(skip)]
    InspectImages(images::Inspect),
    /// What `container prune` stands for.
    #[command(skip)]
    PruneContainers(prune::Prune),
    /// What `image prune` stands for.
    #[command(skip)]
    PruneImages(prune::PruneAll),
    /// What `builder prune` stands for.
    #[command(skip)]
    PruneBuilds(prune::PruneBuilds),
    /// What `system prune` stands for.
    #[command(skip)]
    PruneSystem(prune::PruneSystem),
    /// What `system df` stands for.
    #[command(skip)]
    DiskUsage(disk::DiskUsage),
    /// What `system dial-stdio` stands for.
    #[command(skip)]
    DialStdio,
    /// Make an image of a container's filesystem.
    Commit(images::Commit),
    /// List images.
    Images(images::List),
    /// Build an image from a Dockerfile.
    Build(Box<build::Build>),
    /// Fetch an image from a registry.
    Pull(images::Pull),
    /// Send an image to a registry.
    Push(images::Push),
    /// Log in to a registry.
    Login(login::Login),
    /// Log out from a registry.
    Logout(login::Logout),
    /// Give an image another name.
    Tag(images::Tag),
    /// Remove images.
    Rmi(images::Remove),
    /// Show how an image came to be.
    History(images::History),
    /// Write images to an archive.
    Save(images::Save),
    /// Read images from an archive.
    Load(images::Load),
    /// Make an image of a plain archive of files.
    Import(images::Import),
    /// Manage contexts: daemons by name.
    #[command(subcommand)]
    Context(contexts::Command),
    /// Manage networks.
    #[command(subcommand)]
    Network(networks::Command),
    /// Manage volumes.
    #[command(subcommand)]
    Volume(volumes::Command),
    /// Bring a Kubernetes cluster up on this machine.
    Up(cluster::Up),
    /// End the cluster and its pods.
    Down(cluster::Down),
    /// Show and clean up what the daemon holds.
    #[command(subcommand)]
    System(groups::System),
    /// Manage builds.
    #[command(subcommand)]
    Builder(groups::Builder),
    /// Search a registry for images.
    Search(images::Search),
    /// Show what happens, as it happens.
    Events(system::Events),
    /// Show facts about the daemon and the machine.
    Info(system::Facts),
    /// Show the versions of client and daemon.
    Version(system::Facts),
}

/// Carries out a command; what goes wrong is told on standard error.
pub async fn run(connection: &Connection, command: Command) -> ExitCode {
    if let Command::Context(command) = command {
        // It is about daemons, but asks none.
        return ended(contexts::run(connection, command));
    }
    let client = match Client::connect(connection).await {
        Ok(client) => client,
        Err(error) => return error.report(),
    };
    let command = match command {
        Command::Container(command) => command.into(),
        Command::Image(command) => command.into(),
        Command::System(command) => command.into(),
        Command::Builder(command) => command.into(),
        other => other,
    };
    let result = match command {
        // What they stand for is above.
        Command::Container(_)
        | Command::Image(_)
        | Command::System(_)
        | Command::Builder(_)
        | Command::Context(_) => Ok(0),
        Command::InspectContainers(inspect) => {
            containers::inspect_containers(&client, inspect).await
        }
        Command::InspectImages(inspect) => images::inspect(&client, inspect).await,
        Command::PruneContainers(prune) => prune::containers(&client, prune).await,
        Command::PruneImages(prune) => prune::images(&client, prune).await,
        Command::PruneBuilds(prune) => prune::builds(&client, prune).await,
        Command::PruneSystem(prune) => prune::system(&client, prune).await,
        Command::DiskUsage(usage) => disk::disk_usage(&client, usage).await,
        Command::DialStdio => system::dial(&client).await,
        Command::Search(search) => images::search(&client, search).await,
        Command::Export(export) => containers::export(&client, export).await,
        Command::Port(port) => containers::port(&client, port).await,
        Command::Run(run) => run::run(&client, *run).await,
        Command::Create(create) => run::create(&client, *create).await,
        Command::Start(start) => containers::start(&client, start).await,
        Command::Stop(stop) => containers::stop(&client, stop, "stop").await,
        Command::Restart(stop) => containers::stop(&client, stop, "restart").await,
        Command::Kill(kill) => containers::kill(&client, kill).await,
        Command::Pause(names) => containers::each(&client, &names, "pause").await,
        Command::Unpause(names) => containers::each(&client, &names, "unpause").await,
        Command::Wait(names) => containers::wait(&client, &names).await,
        Command::Rm(remove) => containers::remove(&client, remove).await,
        Command::Rename(rename) => containers::rename(&client, rename).await,
        Command::Ps(list) => ps::list(&client, list).await,
        Command::Logs(logs) => containers::logs(&client, logs).await,
        Command::Exec(exec) => containers::exec(&client, exec).await,
        Command::Attach(attach) => containers::attach(&client, attach).await,
        Command::Inspect(inspect) => containers::inspect(&client, inspect).await,
        Command::Cp(copy) => copy::copy(&client, copy).await,
        Command::Top(top) => usage::top(&client, top).await,
        Command::Stats(stats) => usage::stats(&client, stats).await,
        Command::Update(update) => usage::update(&client, update).await,
        Command::Diff(name) => containers::diff(&client, name).await,
        Command::Commit(commit) => images::commit(&client, commit).await,
        Command::Images(list) => images::list(&client, list).await,
        Command::Build(build) => build::build(&client, *build).await,
        Command::Pull(pull) => images::pull(&client, pull).await,
        Command::Push(push) => images::push(&client, push).await,
        Command::Login(login) => login::login(&client, login).await,
        Command::Logout(logout) => login::logout(&client, &logout),
        Command::Tag(tag) => images::tag(&client, tag).await,
        Command::Rmi(remove) => images::remove(&client, remove).await,
        Command::History(history) => images::history(&client, history).await,
        Command::Save(save) => images::save(&client, save).await,
        Command::Load(load) => images::load(&client, load).await,
        Command::Import(import) => images::import(&client, import).await,
        Command::Network(command) => networks::run(&client, command).await,
        Command::Volume(command) => volumes::run(&client, command).await,
        Command::Up(up) => cluster::up(&client, up).await,
        Command::Down(down) => cluster::down(&client, down).await,
        Command::Events(events) => system::events(&client, events).await,
        Command::Info(facts) => system::info(&client, facts).await,
        Command::Version(facts) => system::version(&client, facts).await,
    };
    ended(result)
}

fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.report(),
    }
}

/// What a command ends with: the exit code, or what went wrong.
type Outcome = Result<u8, Error>;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a docstring of arguments would be shown for.
    #[test]
    fn every_command_says_what_it_does() {
        let all = Command::augment_subcommands(clap::Command::new("dhow"));
        for command in all.get_subcommands() {
            let mut built = command.clone();
            built.build();
            let (before, after) = (command.get_about(), built.get_about());
            assert_eq!(
                before.map(ToString::to_string),
                after.map(ToString::to_string),
                "{}",
                command.get_name()
            );
            let mut seen = BTreeSet::new();
            for verb in built.get_subcommands() {
                let about = verb.get_about().map(ToString::to_string);
                let name = format!("{} {}", command.get_name(), verb.get_name());
                assert!(about.is_some(), "{name} says nothing");
                assert!(
                    seen.insert(about.clone()),
                    "{name}: {about:?}, like another"
                );
            }
        }
    }
}
